//! Many servers, most of them gone.

use std::sync::Arc;
use std::time::Duration;

use log_format::record::ephemeral::PresenceState;

use super::super::edus::{About, Said as Told};
use super::super::time::Time as _;
use super::world::{Mood, Said, World, name};

const ROOM: &str = "!r:a.test";
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

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
    let (waiting, failing) = world.counts();
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

fn in_memory(world: &World) -> u64 {
    world.sender.counts().in_memory
}

#[tokio::test]
async fn destinations_that_nothing_is_done_for_leave_memory_and_come_back() {
    let mut world = World::new();
    crowd(&mut world, 100, |number| number < 80);
    let first = world.say(&Said::message(ROOM));
    world.pass(MINUTE).await;
    assert_eq!(in_memory(&world), 100);
    world.pass(12 * HOUR).await;
    // Those whose time is near are there, and nobody else.
    assert!(in_memory(&world) < 30, "{}", in_memory(&world));
    assert_eq!(world.counts(), (80, 80));
    // An event brings all of them back, and counts each once.
    let second = world.say(&Said::message(ROOM));
    assert_eq!(in_memory(&world), 100);
    world.pass(MINUTE).await;
    assert_eq!(world.counts(), (160, 80));
    world.pass(12 * HOUR).await;
    assert!(in_memory(&world) < 30, "{}", in_memory(&world));
    // One comes back by speaking, one because its time comes.
    let both = [first, second];
    for server in ["s5.test", "s7.test"] {
        world.mood(server, Mood::Up);
    }
    world.sender.ears().heard_from(&name("s5.test"));
    world.pass(MINUTE).await;
    assert_eq!(world.has("s5.test"), both);
    assert_eq!(world.has("s7.test"), [""; 0]);
    world.pass(30 * HOUR).await;
    assert_eq!(world.has("s7.test"), both);
    assert_eq!(world.counts(), (156, 78));
    // In the transactions in which they were tried before.
    let sizes: Vec<usize> = world
        .arrived("s7.test")
        .iter()
        .map(|one| one.pdus.len())
        .collect();
    assert_eq!(sizes, [1, 1]);
}

#[tokio::test]
async fn who_spoke_and_gets_nothing_leaves_memory_too() {
    let world = World::new();
    let server = name("b.test");
    world.mood("b.test", Mood::Refuses);
    let destination = world.sender.destinations.of(&server).unwrap();
    let about = About::Presence {
        user_id: "@alice:a.test".try_into().unwrap(),
    };
    let said = Told::Presence {
        state: PresenceState::Online,
        status_msg: None,
        last_active_ms: None,
        currently_active: true,
    };
    world
        .sender
        .tell(&destination, Arc::new(about), Arc::new(said));
    drop(destination);
    // Told for as long as it is tried at least each hour.
    world.pass(MINUTE).await;
    assert_eq!(in_memory(&world), 1);
    world.pass(12 * HOUR).await;
    assert_eq!(in_memory(&world), 0);
    world.sender.ears().heard_from(&server);
    world.pass(MINUTE).await;
    assert_eq!(in_memory(&world), 1);
    world.pass(30 * MINUTE).await;
    assert_eq!(in_memory(&world), 0);
}

#[tokio::test]
async fn a_start_with_thousands_that_are_due_is_quick_and_asks_some_at_a_time() {
    let mut world = World::new();
    crowd(&mut world, 800, |_| true);
    world.say(&Said::message(ROOM));
    world.pass(HOUR).await;
    world.flush();
    world.stop_for(72 * HOUR).await;
    *world.outside.under_way.lock() = (0, 0);
    world.crash(false);
    assert_eq!(in_memory(&world), 0);
    assert_eq!(world.counts(), (800, 800));
    world.pass(MINUTE / 10).await;
    assert!(in_memory(&world) < 650, "{}", in_memory(&world));
    world.mood("s799.test", Mood::Up);
    world.pass(10 * MINUTE).await;
    let most = world.outside.under_way.lock().1;
    assert!((64..=128).contains(&most), "{most}");
    assert_eq!(world.has("s799.test").len(), 1);
    assert_eq!(world.counts(), (799, 799));
}
