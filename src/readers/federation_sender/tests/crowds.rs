//! Many servers, most of them gone.

use std::time::Duration;

use super::super::time::Time as _;
use super::world::{Mood, Said, World};

const ROOM: &str = "!r:a.test";

fn crowd(world: &mut World, servers: usize, is_gone: impl Fn(usize) -> bool) {
    for number in 0..servers {
        let server = format!("s{number}.test");
        world.say(&Said::theirs(ROOM, &format!("@u:{server}"), true));
        if is_gone(number) {
            world.mood(&server, Mood::Silent);
        }
    }
}

#[tokio::test]
async fn servers_that_are_gone_do_not_delay_those_that_are_there() {
    let mut world = World::new();
    let is_gone = |number: usize| !number.is_multiple_of(4);
    crowd(&mut world, 200, is_gone);
    *world.outside.takes.lock() = Duration::from_millis(20);
    for round in 0..20 {
        let began = world.hours.now_ms();
        let event = world.say(&Said::message(ROOM));
        world.pass(Duration::from_secs(2)).await;
        for number in (0..200).filter(|number| !is_gone(*number)) {
            let arrived = world.arrived(&format!("s{number}.test"));
            let last = arrived.last().unwrap();
            assert_eq!(last.pdus, std::slice::from_ref(&event));
            // Nobody waited for a server that does not answer.
            assert!(last.at - began < 20, "round {round}");
        }
    }
}

#[tokio::test]
async fn thousands_that_are_gone_wait_on_the_disk() {
    let mut world = World::new();
    let (gone, there) = (1_000, 50);
    crowd(&mut world, gone + there, |number| number < gone);
    world.say(&Said::message(ROOM));
    world.pass(Duration::from_secs(600)).await;
    for _ in 0..120 {
        world.say(&Said::message(ROOM));
    }
    world.pass(Duration::from_secs(5)).await;
    let (waiting, failing) = world.sender.counts();
    assert_eq!(failing, gone as u64);
    // Thinned out: what is tried, and the newest of the one room.
    assert!(waiting <= gone as u64 * 101, "{waiting}");
    for number in gone..gone + there {
        assert_eq!(world.has(&format!("s{number}.test")).len(), 121);
    }
    // What is in memory of each is a name and some counters.
    let each = size_of::<super::super::destination::Destination>();
    assert!(each < 512, "{each}");
}
