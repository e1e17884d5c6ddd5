//! Servers that are away, behind, or do not want what they are sent.

use std::time::Duration;

use super::world::{Mood, Said, World, name, room_in};

const ROOM: &str = "!r:a.test";
const BOB: &str = "@bob:b.test";
const SOON: Duration = Duration::from_millis(100);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn with_bob() -> World {
    let mut world = World::new();
    world.say(&Said::theirs(ROOM, BOB, true));
    world
}

#[tokio::test]
async fn what_waits_meanwhile_goes_together_and_in_order() {
    let mut world = with_bob();
    *world.outside.takes.lock() = Duration::from_secs(1);
    let sent: Vec<String> = (0..120).map(|_| world.say(&Said::message(ROOM))).collect();
    world.pass(Duration::from_secs(10)).await;
    assert_eq!(world.has("b.test"), sent);
    let arrived = world.arrived("b.test");
    let sizes: Vec<usize> = arrived.iter().map(|one| one.pdus.len()).collect();
    // The first by itself, since nothing else waited; one at a time after that.
    assert_eq!(sizes, [1, 50, 50, 19]);
    let gaps = arrived.windows(2).map(|two| two[1].at - two[0].at);
    assert!(gaps.min() >= Some(1_000));
    // One record for each transaction.
    assert_eq!(*world.input.records.lock(), 4);
    let unsigned = arrived[0].transaction.body["pdus"].as_array().unwrap();
    assert!(!unsigned[0].as_object().unwrap().contains_key("unsigned"));
}

#[tokio::test]
async fn pauses_grow_while_a_server_is_away_and_end_when_it_speaks() {
    let mut world = with_bob();
    world.mood("b.test", Mood::Status(503));
    let first = world.say(&Said::message(ROOM));
    world.pass(10 * DAY).await;
    let tries = world.arrived("b.test");
    let pauses: Vec<u64> = tries
        .windows(2)
        .map(|two| (two[1].at - two[0].at) / 1000)
        .collect();
    assert!((3..=7).contains(&pauses[0]), "{pauses:?}");
    assert!(pauses.len() < 30, "{pauses:?}");
    assert!(pauses.iter().all(|pause| *pause < 31 * 3600), "{pauses:?}");
    // A repeat is the same, to the last byte.
    assert!(
        tries
            .iter()
            .all(|one| one.transaction == tries[0].transaction)
    );
    // Not forgotten over a restart.
    world.flush();
    world.crash(false);
    world.pass(Duration::from_secs(3600)).await;
    let before = world.arrived("b.test").len();
    assert!(before <= tries.len() + 1);
    world.mood("b.test", Mood::Up);
    // One that we never had to do with changes nothing.
    world.sender.ears().heard_from(&name("z.test"));
    world.pass(SOON).await;
    assert_eq!(world.arrived("b.test").len(), before);
    world.sender.ears().heard_from(&name("b.test"));
    world.pass(SOON).await;
    assert_eq!(world.has("b.test"), [first]);
    assert_eq!(world.counts(), (0, 0));
}

#[tokio::test]
async fn a_server_that_speaks_and_is_not_reached_is_not_tried_each_time() {
    let mut world = with_bob();
    world.mood("b.test", Mood::Status(502));
    world.say(&Said::message(ROOM));
    for _ in 0..3600 {
        world.pass(Duration::from_secs(1)).await;
        world.sender.ears().heard_from(&name("b.test"));
    }
    let tries = world.arrived("b.test").len();
    assert!((10..40).contains(&tries), "{tries}");
}

#[tokio::test]
async fn a_server_that_was_away_for_long_gets_the_newest_of_each_room() {
    let mut world = World::new();
    let rooms: Vec<_> = (0..4)
        .map(|number| room_in(number % 2, number as usize))
        .collect();
    for room in &rooms {
        world.say(&Said::theirs(room.as_str(), BOB, true));
        world.say(&Said::theirs(room.as_str(), "@carol:c.test", true));
    }
    world.mood("b.test", Mood::Refuses);
    let mut newest = vec![String::new(); rooms.len()];
    let mut beside = String::new();
    for number in 0..1_000 {
        // In the last room two of our events stand side by side at the end.
        let which = number % rooms.len();
        let fork = number == 995;
        let said = Said {
            beside: match number == 999 {
                true => vec![beside.clone()],
                false => vec![],
            },
            ..Said::message(rooms[which].as_str())
        };
        newest[which] = world.say(&said);
        if fork {
            beside = newest[which].clone();
        }
        if number % 100 == 0 {
            world.pass(Duration::from_secs(60)).await;
        }
    }
    world.pass(DAY).await;
    let (waiting, _) = world.counts();
    assert!(waiting < 110, "{waiting}");
    world.mood("b.test", Mood::Up);
    world.sender.ears().heard_from(&name("b.test"));
    world.pass(Duration::from_secs(1)).await;
    let has = world.has("b.test");
    for id in newest.iter().chain([&beside]) {
        assert!(has.contains(id), "{id} is not in {has:?}");
    }
    // The first of each partition had been tried already.
    assert!(has.len() <= 7, "{has:?}");
    // Who was there all the time has all.
    assert_eq!(world.has("c.test").len(), 1_000);
    // From here on everything again.
    let next: Vec<String> = (0..5)
        .map(|_| world.say(&Said::message(rooms[0].as_str())))
        .collect();
    world.pass(SOON).await;
    assert!(world.has("b.test").ends_with(&next));
}

#[tokio::test]
async fn cve_2025_30355_an_event_that_a_server_chokes_on_is_given_up_and_nothing_else() {
    let mut world = with_bob();
    *world.outside.takes.lock() = Duration::from_millis(10);
    let sent: Vec<String> = (0..60).map(|_| world.say(&Said::message(ROOM))).collect();
    let bad = sent[33].clone();
    world.mood("b.test", Mood::Chokes(bad.as_str().try_into().unwrap()));
    world.pass(DAY).await;
    let others: Vec<&String> = sent.iter().filter(|id| **id != bad).collect();
    assert_eq!(world.has("b.test").iter().collect::<Vec<_>>(), others);
    assert_eq!(world.counts(), (0, 0));
    let last = world.say(&Said::message(ROOM));
    world.pass(SOON).await;
    assert_eq!(world.has("b.test").last(), Some(&last));
}

#[tokio::test]
async fn what_is_about_us_and_not_about_the_events_gives_nothing_up() {
    for status in [401, 403, 404, 429, 500, 502] {
        let mut world = with_bob();
        world.mood("b.test", Mood::Status(status));
        let sent: Vec<String> = (0..3).map(|_| world.say(&Said::message(ROOM))).collect();
        world.pass(DAY).await;
        world.mood("b.test", Mood::Up);
        world.sender.ears().heard_from(&name("b.test"));
        world.pass(DAY).await;
        assert_eq!(world.has("b.test"), sent, "{status}");
    }
}

#[tokio::test]
async fn what_was_purged_meanwhile_is_passed_over() {
    let mut world = with_bob();
    world.mood("b.test", Mood::Refuses);
    let sent: Vec<String> = (0..4).map(|_| world.say(&Said::message(ROOM))).collect();
    world.pass(SOON).await;
    world.purge(&sent[0]);
    world.purge(&sent[2]);
    world.mood("b.test", Mood::Up);
    world.pass(DAY).await;
    assert_eq!(world.has("b.test"), [sent[1].clone(), sent[3].clone()]);
    assert_eq!(world.counts().0, 0);
}

#[tokio::test]
async fn a_clock_that_jumps_keeps_nobody_waiting() {
    for years in [0, 10] {
        let mut world = with_bob();
        world.hours.set_ahead(DAY * 365 * years + DAY);
        world.mood("b.test", Mood::Status(503));
        let event = world.say(&Said::message(ROOM));
        world.pass(Duration::from_secs(600)).await;
        let before = world.arrived("b.test").len();
        assert!(before > 3);
        // Back to its time.
        world.hours.set_ahead(Duration::ZERO);
        world.mood("b.test", Mood::Up);
        world.pass(Duration::from_secs(600)).await;
        assert_eq!(world.has("b.test"), [event], "{years}");
    }
}
