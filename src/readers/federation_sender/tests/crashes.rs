//! Random histories with crashes in them: nothing that was acknowledged is sent
//! again but the one transaction that was under way, nothing is missing, and
//! each room's order is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use log_format::record::output::Membership;
use proptest::prelude::*;

use super::world::{Arrived, Mood, Said, World, name, room_in};

const SERVERS: [&str; 3] = ["b.test", "c.test", "d.test"];
const ROOMS: usize = 4;

#[derive(Clone, Debug)]
enum Step {
    Message(usize),
    Join(usize, usize),
    Leave(usize, usize),
    Kick(usize, usize),
    Mood(usize, usize),
    Hear(usize),
    Pass(u64),
    Flush,
    Crash(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let (room, server) = (0..ROOMS, 0..SERVERS.len());
    prop_oneof![
        12 => room.clone().prop_map(Step::Message),
        2 => (room.clone(), server.clone()).prop_map(|(room, server)| Step::Join(room, server)),
        1 => (room.clone(), server.clone()).prop_map(|(room, server)| Step::Leave(room, server)),
        1 => (room, server.clone()).prop_map(|(room, server)| Step::Kick(room, server)),
        2 => (server.clone(), 0usize..4).prop_map(|(server, mood)| Step::Mood(server, mood)),
        1 => server.prop_map(Step::Hear),
        6 => prop_oneof![Just(1), Just(7), Just(60), Just(5_000), Just(100_000), Just(5_000_000)]
            .prop_map(Step::Pass),
        2 => Just(Step::Flush),
        2 => any::<bool>().prop_map(Step::Crash),
    ]
}

/// What each server is to get, by room.
#[derive(Default)]
struct Expected {
    joined: BTreeSet<(usize, usize)>,
    sent: BTreeMap<(usize, usize), Vec<String>>,
}

impl Expected {
    fn sent(&mut self, room: usize, event: &str, also: Option<usize>) {
        for server in 0..SERVERS.len() {
            if self.joined.contains(&(room, server)) || also == Some(server) {
                let events = self.sent.entry((room, server)).or_default();
                events.push(event.to_owned());
            }
        }
    }
}

async fn play(steps: Vec<Step>) {
    let mut world = World::new();
    let mut expected = Expected::default();
    *world.outside.takes.lock() = Duration::from_millis(5);
    *world.input.takes.lock() = Duration::from_millis(2);
    let rooms: Vec<_> = (0..ROOMS)
        .map(|number| room_in(number as u32 % 2, number))
        .collect();
    let users = SERVERS.map(|server| format!("@u:{server}"));
    for step in steps {
        match step {
            Step::Message(room) => {
                let event = world.say(&Said::message(rooms[room].as_str()));
                expected.sent(room, &event, None);
            }
            Step::Join(room, server) => {
                if expected.joined.insert((room, server)) {
                    world.say(&Said::theirs(rooms[room].as_str(), &users[server], true));
                }
            }
            Step::Leave(room, server) => {
                if expected.joined.remove(&(room, server)) {
                    world.say(&Said::theirs(rooms[room].as_str(), &users[server], false));
                }
            }
            Step::Kick(room, server) => {
                if expected.joined.remove(&(room, server)) {
                    let user = users[server].as_str();
                    let change = (user, Some(Membership::Join), Membership::Leave);
                    let event = world.say(&Said {
                        memberships: vec![change],
                        is_member: true,
                        ..Said::message(rooms[room].as_str())
                    });
                    expected.sent(room, &event, Some(server));
                }
            }
            Step::Mood(server, mood) => {
                let moods = [Mood::Up, Mood::Refuses, Mood::Silent, Mood::Status(500)];
                world.mood(SERVERS[server], moods[mood].clone());
            }
            Step::Hear(server) => world.sender.ears().heard_from(&name(SERVERS[server])),
            Step::Pass(ms) => world.pass(Duration::from_millis(ms)).await,
            Step::Flush => world.flush(),
            Step::Crash(rebuilt) => world.crash(rebuilt),
        }
    }
    for server in SERVERS {
        world.mood(server, Mood::Up);
    }
    world.pass(Duration::from_secs(3 * 24 * 60 * 60)).await;
    assert_eq!(world.counts(), (0, 0));
    for (number, server) in SERVERS.iter().enumerate() {
        let has = world.has(server);
        for room in 0..ROOMS {
            let sent = expected.sent.get(&(room, number)).cloned();
            let sent = sent.unwrap_or_default();
            let of_room: Vec<String> = has.iter().filter(|id| sent.contains(id)).cloned().collect();
            assert_eq!(of_room, sent, "{server}, room {room}");
        }
        let all: usize = (0..ROOMS)
            .filter_map(|room| expected.sent.get(&(room, number)))
            .map(Vec::len)
            .sum();
        assert_eq!(has.len(), all, "{server}");
        repeats_only_what_was_under_way(&world.arrived(server));
    }
}

/// What a server has once acknowledged comes again only in the same transaction,
/// and only before any other that it acknowledges.
fn repeats_only_what_was_under_way(arrived: &[Arrived]) {
    let mut acknowledged: BTreeSet<&String> = BTreeSet::new();
    let mut last: Option<&Arrived> = None;
    for one in arrived {
        if one.pdus.iter().any(|id| acknowledged.contains(id)) {
            let last = last.expect("something was acknowledged");
            assert_eq!(one.transaction, last.transaction, "not what came last");
        }
        if one.answered {
            acknowledged.extend(&one.pdus);
            last = Some(one);
        }
    }
}

/// More came in while the transaction was under way, and is no part of it when
/// it is repeated: the peer sees the id that it knows.
#[tokio::test]
async fn a_crash_repeats_the_transaction_as_it_was() {
    let room = room_in(0, 0);
    for rebuilt in [false, true] {
        let mut world = World::new();
        *world.outside.takes.lock() = Duration::from_millis(10);
        *world.input.takes.lock() = Duration::from_millis(10);
        world.say(&Said::theirs(room.as_str(), "@u:b.test", true));
        let say = |world: &mut World, count: usize| {
            for _ in 0..count {
                world.say(&Said::message(room.as_str()));
            }
        };
        say(&mut world, 1);
        world.pass(Duration::from_millis(5)).await;
        say(&mut world, 30);
        // The first is acknowledged, that is recorded, and the next goes out.
        world.pass(Duration::from_millis(20)).await;
        say(&mut world, 40);
        // That is acknowledged too, but not recorded.
        world.pass(Duration::from_millis(8)).await;
        world.crash(rebuilt);
        world.pass(Duration::from_secs(1)).await;
        let arrived = world.arrived("b.test");
        let sizes: Vec<usize> = arrived.iter().map(|one| one.pdus.len()).collect();
        assert_eq!(sizes, [1, 30, 30, 40], "rebuilt: {rebuilt}");
        assert!(arrived[1].answered);
        assert_eq!(arrived[1].transaction, arrived[2].transaction);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    #[test]
    fn nothing_is_lost_doubled_or_out_of_order(steps in prop::collection::vec(step(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(play(steps));
    }
}
