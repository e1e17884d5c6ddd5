//! Records in, answers out.

mod model;
mod world;

use std::collections::BTreeSet;

use log_format::record::output::Timeline;
use serde_json::json;

use self::world::{Event, World, id, room, user};
use crate::query::ids::{EventSn, Place};
use crate::query::relations::{Annotation, Relations, SentAt, Summary, Thread};
use crate::query::rooms::Direction;

fn summary(world: &World, parent: u64) -> Summary {
    world.reader.summary(room(), &id(parent)).unwrap()
}

#[test]
fn children_stand_in_the_order_of_the_room_whatever_came_first() {
    let world = World::default();
    // A reply before its root, and one that is found later in the past.
    world.put(&Event::relating(5, "m.thread", 4));
    world.put(&Event::new(4, json!({})));
    world.put(&Event::relating(6, "m.annotation", 4));
    world.put(&Event {
        place: 2,
        timeline: Timeline::History,
        ..Event::relating(7, "m.thread", 4)
    });
    world.fold(1);
    assert_eq!(world.children(4, None, Direction::Forward), [7, 5, 6]);
    assert_eq!(world.children(4, None, Direction::Backward), [6, 5, 7]);
    let thread = Some("m.thread");
    assert_eq!(world.children(4, thread, Direction::Backward), [5, 7]);
    assert_eq!(world.children(5, None, Direction::Forward), [0; 0]);
    let (latest, root) = (Place(5), id(4));
    assert_eq!(world.threads(), [Thread { latest, root }]);
}

#[test]
fn what_is_in_no_timeline_relates_to_nothing() {
    let world = World::default();
    world.put(&Event {
        timeline: Timeline::Outside,
        ..Event::relating(2, "m.thread", 1)
    });
    world.fold(9);
    assert_eq!(summary(&world, 1), Summary::default());
    assert_eq!(world.threads(), []);
    let sent = world
        .reader
        .sent_about(room(), 0, Direction::Forward, None, 9);
    assert_eq!(sent.unwrap(), []);
}

#[test]
fn a_redaction_ends_a_relation_before_and_after_it_came() {
    let world = World::default();
    for sn in 2..5 {
        world.put(&Event::relating(sn, "m.thread", 1).by("@b:hs"));
    }
    world.fold(9);
    assert!(
        world
            .reader
            .has_replied(room(), &id(1), &user("@b:hs"))
            .unwrap()
    );
    world.redact(10, 4);
    world.redact(11, 6);
    world.put(&Event::relating(6, "m.thread", 1));
    world.fold(1);
    assert_eq!(world.children(1, None, Direction::Forward), [2, 3]);
    assert_eq!(world.threads()[0].latest, Place(3));
    world.redact(12, 2);
    world.redact(13, 3);
    // The root keeps what relates to it, but for what was redacted itself.
    world.redact(14, 1);
    world.fold(1);
    assert_eq!(summary(&world, 1), Summary::default());
    assert_eq!(world.threads(), []);
    assert!(
        !world
            .reader
            .has_replied(room(), &id(1), &user("@b:hs"))
            .unwrap()
    );
}

#[test]
fn the_latest_edit_is_the_latest_by_its_own_time() {
    let world = World::default();
    let original = Event::new(1, json!({}));
    world.put(&original);
    let edit = |sn, ts| Event {
        ts,
        ..Event::relating(sn, "m.replace", 1)
    };
    for (sn, ts) in [(2, 500), (3, 900), (4, 7), (6, 900), (5, 900)] {
        world.put(&edit(sn, ts));
    }
    // Of another sender, of another type, of state, and without new content.
    world.put(&edit(7, 1000).by("@b:hs"));
    world.put(&Event {
        kind: "m.sticker",
        ..edit(8, 1000)
    });
    world.put(&Event {
        state_key: Some(""),
        ..edit(9, 1000)
    });
    let bare = json!({ "m.relates_to": { "rel_type": "m.replace", "event_id": id(1) } });
    world.put(&Event {
        ts: 1000,
        ..Event::new(10, bare)
    });
    world.fold(3);
    assert_eq!(world.edits(&original), [6, 5, 3, 2, 4]);
    world.redact(20, 6);
    world.fold(3);
    assert_eq!(world.edits(&original), [5, 3, 2, 4]);
    assert_eq!(
        world
            .children(1, Some("m.replace"), Direction::Forward)
            .len(),
        8
    );
}

#[test]
fn annotations_are_known_by_sender_type_and_key() {
    let world = World::default();
    let reaction = |sn, key: &str| Event {
        kind: "m.reaction",
        ..Event::new(
            sn,
            json!({ "m.relates_to": {
            "rel_type": "m.annotation", "event_id": id(1), "key": key } }),
        )
    };
    world.put(&reaction(2, "x"));
    // Another server let it through.
    world.put(&reaction(3, "x"));
    world.fold(9);
    let known = |sender, kind, key| {
        let annotation = Annotation { sender, kind, key };
        world
            .reader
            .is_annotated(room(), &id(1), annotation)
            .unwrap()
    };
    assert!(known("@a:hs", "m.reaction", "x"));
    for (sender, kind, key) in [
        ("@b:hs", "m.reaction", "x"),
        ("@a:hs", "m.room.message", "x"),
        ("@a:hs", "m.reaction", "y"),
    ] {
        assert!(!known(sender, kind, key));
    }
    world.redact(10, 2);
    world.fold(9);
    assert!(known("@a:hs", "m.reaction", "x"));
    world.redact(11, 3);
    world.fold(9);
    assert!(!known("@a:hs", "m.reaction", "x"));
}

#[test]
fn threads_are_sorted_by_their_newest_reply() {
    let world = World::default();
    for (sn, root) in [(10, 1), (11, 2), (12, 3), (13, 1)] {
        world.put(&Event::relating(sn, "m.thread", root));
    }
    world.fold(9);
    let roots = |before: u128| -> Vec<String> {
        let threads = world.reader.threads(room(), Place(before), 9).unwrap();
        threads
            .iter()
            .map(|thread| thread.root.to_string())
            .collect()
    };
    assert_eq!(roots(u128::MAX), ["$e1", "$e3", "$e2"]);
    assert_eq!(roots(13), ["$e3", "$e2"]);
    assert_eq!(roots(11), [""; 0]);
    world.redact(20, 13);
    world.fold(9);
    assert_eq!(roots(u128::MAX), ["$e3", "$e2", "$e1"]);
}

#[test]
fn replies_are_counted_by_sender_however_many_are_asked_about() {
    let world = World::default();
    for (sn, sender) in [(2, "@a:hs"), (3, "@b:hs"), (4, "@b:hs"), (5, "@c:hs")] {
        world.put(&Event::relating(sn, "m.thread", 1).by(sender));
    }
    world.fold(9);
    let thread = summary(&world, 1).thread;
    assert_eq!((thread.replies, thread.senders), (4, 3));
    let mut asked = BTreeSet::from([user("@b:hs"), user("@x:hs")]);
    let count = |asked: &BTreeSet<_>| world.reader.replies_by(room(), &id(1), asked).unwrap();
    assert_eq!(count(&asked), 2);
    asked.extend((0..100).map(|number| user(&format!("@u{number}:hs"))));
    assert_eq!(count(&asked), 2);
}

#[test]
fn events_are_found_by_time_where_places_disagree() {
    let world = World::default();
    for (sn, ts) in [(1, 100), (2, 300), (3, 200), (4, 200), (5, 0)] {
        world.put(&Event {
            ts,
            ..Event::new(sn, json!({}))
        });
    }
    world.fold(9);
    let walk = |ts, direction| -> Vec<u64> {
        let mut found: Vec<u64> = Vec::new();
        let mut after: Option<SentAt> = None;
        loop {
            let page = world.reader.sent_about(room(), ts, direction, after, 1);
            let Some(sent) = page.unwrap().pop() else {
                return found;
            };
            after = Some(sent);
            found.push(sent.event.0);
        }
    };
    assert_eq!(walk(0, Direction::Forward), [5, 1, 3, 4, 2]);
    assert_eq!(walk(200, Direction::Forward), [3, 4, 2]);
    assert_eq!(walk(201, Direction::Forward), [2]);
    assert_eq!(walk(301, Direction::Forward), [0; 0]);
    assert_eq!(walk(200, Direction::Backward), [4, 3, 1, 5]);
    assert_eq!(walk(u64::MAX, Direction::Backward), [2, 4, 3, 1, 5]);
    assert_eq!(walk(50, Direction::Backward), [5]);
}

#[test]
fn what_has_nothing_to_bundle_is_not_looked_up_but_told_when_asked() {
    let mut world = World::default();
    world.put(&Event::relating(2, "m.annotation", 1));
    world.put(&Event::relating(4, "m.reference", 3));
    world.fold(9);
    for _ in 0..2 {
        let (one, three) = (id(1), id(3));
        let bundled = world.reader.bundled(room(), &[&one, &three]).unwrap();
        assert_eq!(bundled[0], Summary::default());
        assert_eq!(bundled[1].references, 1);
        assert_eq!(summary(&world, 1).children, 1);
        // The rows say the same to the next process.
        world.restart(false);
    }
}

#[test]
fn a_repeated_record_counts_once() {
    let world = World::default();
    let reply = Event::relating(2, "m.thread", 1);
    world.put(&reply);
    world.put(&reply);
    world.fold(1);
    assert_eq!(summary(&world, 1).thread.replies, 1);
    assert_eq!(summary(&world, 1).children, 1);
    assert_eq!(world.children(1, None, Direction::Forward), [2]);
    let sent = world
        .reader
        .sent_about(room(), 0, Direction::Forward, None, 9);
    let only = SentAt {
        ts: 2,
        place: Place(2),
        event: EventSn(2),
    };
    assert_eq!(sent.unwrap(), [only]);
}

#[tokio::test]
async fn an_answer_waits_for_what_was_decided_and_not_for_ever() {
    let world = std::sync::Arc::new(World::default());
    world.reader.passed(None).await;
    world.put(&Event::relating(2, "m.thread", 1));
    let waiting = {
        let world = world.clone();
        tokio::spawn(async move {
            world.reader.passed(Some(room().room_id)).await;
            world.children(1, None, Direction::Forward)
        })
    };
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    world.fold(9);
    assert_eq!(waiting.await.unwrap(), [2]);
    world.put(&Event::relating(3, "m.thread", 1));
    world.reader.passed(None).await;
    assert_eq!(world.children(1, None, Direction::Forward), [2]);
}
