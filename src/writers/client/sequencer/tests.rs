//! The sequencer over a fold that takes its time and sometimes refuses.
//!
//! What is held here: however many send at once, the accepted events form one
//! line; a transaction gives one event; nobody is refused for another's fault.

mod slow_room;

use std::collections::HashSet;
use std::sync::Arc;

use ruma::{OwnedEventId, RoomId, room_id, user_id};

use self::slow_room::SlowRoom;
use super::*;
use crate::crypto::ServerKey;
use crate::query::ids::EventSn;
use crate::query::rooms::Extremity;
use crate::writers::client::room_presets::text;
use crate::writers::federation::keyring::Keyring;

fn the_room() -> &'static RoomId {
    room_id!("!r:hs")
}

fn sequencer(room: &Arc<SlowRoom>) -> Sequencer {
    let key = Arc::new(ServerKey::from_seed([3; 32], "a_1"));
    let builder = EventBuilder::new(ruma::owned_server_name!("hs"), key);
    let submitter = Submitter::new(room.clone(), room.clone());
    let (_, client) = Keyring::without_others(submitter.clone());
    let policies = PolicyServers::new(room.clone(), client);
    Sequencer::new(submitter, room.clone(), Arc::new(builder), policies)
}

fn message(body: &str) -> Draft {
    Draft::message(user_id!("@a:hs"), "m.room.message", text("body", body))
}

fn topic(topic: &str) -> StateChoice {
    let draft = Draft::state(user_id!("@a:hs"), "m.room.topic", "", text("topic", topic));
    Box::new(move |_| Ok(Some(draft.clone())))
}

fn transaction(key: u8) -> ClientTransaction {
    ClientTransaction {
        idempotency: [key; 16],
        echo: Transaction {
            device_id: "D".into(),
            txn_id: key.to_string(),
        },
    }
}

/// 24 tasks of ten messages each, and four that set state in between.
async fn crowd(room: &Arc<SlowRoom>) -> Vec<OwnedEventId> {
    let sequencer = sequencer(room);
    let mut tasks = Vec::new();
    for task in 0..24 {
        let sequencer = sequencer.clone();
        tasks.push(tokio::spawn(async move {
            let mut sent = Vec::new();
            for index in 0..10 {
                let draft = message(&format!("{task} {index}"));
                sent.push(
                    sequencer
                        .send(the_room(), &draft, None)
                        .await
                        .expect("sends"),
                );
            }
            sent
        }));
    }
    for task in 0..4 {
        let sequencer = sequencer.clone();
        tasks.push(tokio::spawn(async move {
            let mut sent = Vec::new();
            for index in 0..5 {
                let topic = topic(&format!("{task} {index}"));
                let written = sequencer
                    .set_state(the_room(), topic)
                    .await
                    .expect("writes");
                sent.push(written.expect("is not there yet"));
            }
            sent
        }));
    }
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.expect("ends"));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crowd_writes_one_line() {
    let room = SlowRoom::start();
    let sent: HashSet<OwnedEventId> = crowd(&room).await.into_iter().collect();
    assert_eq!(sent.len(), 260);
    assert_eq!(room.assert_one_line(), 260);
    assert_eq!(room.refused(), 0);
    // Without pipelining each event would wait for the fold before it.
    assert!(room.deepest_queue() > 4, "{}", room.deepest_queue());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_built_on_a_refused_event_is_built_again() {
    let room = SlowRoom::start();
    room.refuse_every(41);
    let sent: HashSet<OwnedEventId> = crowd(&room).await.into_iter().collect();
    assert_eq!(sent.len(), 260);
    assert_eq!(room.assert_one_line(), 260);
    assert!(room.refused() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_transaction_makes_one_event_however_often_it_is_sent() {
    let room = SlowRoom::start();
    let sequencer = sequencer(&room);
    let mut tasks = Vec::new();
    for repeat in 0..40u8 {
        let sequencer = sequencer.clone();
        tasks.push(tokio::spawn(async move {
            let transaction = transaction(repeat % 4 + 1);
            let draft = message("m");
            let sent = sequencer.send(the_room(), &draft, Some(&transaction));
            (repeat % 4, sent.await.expect("sends"))
        }));
    }
    let mut answers = HashSet::new();
    for task in tasks {
        answers.insert(task.await.expect("ends"));
    }
    assert_eq!(answers.len(), 4);
    assert_eq!(room.assert_one_line(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_client_that_goes_away_does_not_disturb_the_line() {
    let room = SlowRoom::start();
    let sequencer = sequencer(&room);
    for round in 0..30 {
        let draft = message("gone");
        let sent = sequencer.send(the_room(), &draft, None);
        // Long enough to append, too short for the fold.
        let _ = tokio::time::timeout(std::time::Duration::from_micros(300), sent).await;
        if round % 5 == 0 {
            let topic = topic(&round.to_string());
            let written = sequencer.set_state(the_room(), topic);
            let _ = tokio::time::timeout(std::time::Duration::from_micros(300), written).await;
        }
    }
    sequencer
        .send(the_room(), &message("last"), None)
        .await
        .expect("sends");
    assert!(room.assert_one_line() > 1);
    assert_eq!(room.refused(), 0);
}

#[tokio::test]
async fn what_the_room_does_not_allow_leaves_no_record() {
    let room = SlowRoom::start();
    let sequencer = sequencer(&room);
    let stranger = Draft::message(user_id!("@b:hs"), "m.room.message", text("body", "x"));
    let refused = sequencer.send(the_room(), &stranger, None).await;
    assert!(matches!(refused, Err(RoomWriteError::Forbidden(_))));
    let elsewhere = sequencer
        .send(room_id!("!other:hs"), &message("x"), None)
        .await;
    assert!(matches!(elsewhere, Err(RoomWriteError::UnknownRoom)));
    let large = message(&"x".repeat(65_536));
    let large = sequencer.send(the_room(), &large, None).await;
    assert!(matches!(large, Err(RoomWriteError::TooLarge(_))));
    let long = Draft::message(user_id!("@a:hs"), &"t".repeat(256), text("body", "x"));
    let long = sequencer.send(the_room(), &long, None).await;
    assert!(matches!(long, Err(RoomWriteError::TooLarge(_))));
    assert_eq!(room.assert_one_line(), 0);
    assert_eq!(room.refused(), 0);
}

#[tokio::test]
async fn idle_lines_are_dropped() {
    let room = SlowRoom::start();
    let sequencer = sequencer(&room);
    for index in 0..LINES_MAX + 10 {
        let unknown = RoomId::parse(format!("!{index}:hs")).expect("valid");
        drop(sequencer.shared.line(&unknown));
    }
    assert!(sequencer.shared.lines.len() <= LINES_MAX);
    sequencer
        .send(the_room(), &message("x"), None)
        .await
        .expect("sends");
}

#[tokio::test]
async fn an_event_builds_on_the_deepest_ends_and_its_depth_has_a_bound() {
    let mut head = slow_room::first_head();
    let state = head.state_id;
    let end = |number: u64| Extremity {
        event_id: OwnedEventId::try_from(format!("$end{number:02}")).expect("valid"),
        event: EventSn(number),
        depth: number,
        state_after: state,
    };
    head.extremities = (1..=25).map(end).collect();
    let room = SlowRoom::start();
    let parents = parents_of(&*room, &head).expect("known");
    let deepest: Vec<_> = (6..=25)
        .rev()
        .map(|number| EventRef::from(end(number).event_id))
        .collect();
    assert_eq!(parents.prev_events, deepest);
    assert_eq!(parents.depth, 26);
    let greatest = INTEGER_MAX.unsigned_abs();
    let deep = Extremity {
        depth: greatest,
        ..end(1)
    };
    head.extremities = Arc::new([deep]);
    assert_eq!(parents_of(&*room, &head).expect("known").depth, greatest);
}
