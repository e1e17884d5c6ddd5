//! Random rooms against a plain list: the same answers, and the same rows
//! however the records were grouped and whenever the reader began.

use std::collections::BTreeMap;

use log_format::record::output::Timeline;
use proptest::prelude::*;
use serde_json::json;

use super::world::{Event, World, id, room};
use crate::query::ids::Place;
use crate::query::relations::{Relations, Summary, Thread, ThreadSummary};
use crate::query::rooms::Direction;

const SENDERS: [&str; 3] = ["@a:hs", "@b:hs", "@c:hs"];
const REL_TYPES: [&str; 5] = [
    "m.thread",
    "m.replace",
    "m.reference",
    "m.annotation",
    "x.y",
];
const KINDS: [&str; 3] = ["m.room.message", "m.room.encrypted", "m.reaction"];
/// Few, so that they relate to one another often.
const EVENTS: u64 = 24;

#[derive(Clone, Debug)]
enum Step {
    /// An event with this number, if it did not come yet.
    Event(Event),
    Redaction {
        target: u64,
    },
    Fold {
        group: usize,
    },
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    let parent = prop::option::weighted(0.85, 0..EVENTS);
    let shape = (
        0..REL_TYPES.len(),
        0..SENDERS.len(),
        0..KINDS.len(),
        any::<[bool; 2]>(),
    );
    let stand = (prop::sample::select(vec![0, 0, 0, 1, 2]), 0..6u64);
    (0..EVENTS, parent, shape, stand).prop_map(|(sn, parent, shape, (fate, ts))| {
        let (rel_type, sender, kind, [is_state, has_content]) = shape;
        let mut content = json!({ "m.relates_to": {
            "rel_type": REL_TYPES[rel_type],
            "event_id": parent.map_or("nothing".to_owned(), |parent| id(parent).to_string()),
            "key": "k",
        } });
        if has_content {
            content["m.new_content"] = json!({});
        }
        let (place, timeline) = match fate {
            0 => (1_000 + u128::from(sn), Timeline::Live),
            1 => (1_000 - u128::from(sn), Timeline::History),
            _ => (0, Timeline::Outside),
        };
        Event {
            place,
            ts,
            timeline,
            sender: SENDERS[sender],
            kind: KINDS[kind],
            state_key: (is_state && has_content).then_some(""),
            ..Event::new(sn, content)
        }
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => event().prop_map(Step::Event),
        2 => (0..EVENTS).prop_map(|target| Step::Redaction { target }),
        2 => (1..5usize).prop_map(|group| Step::Fold { group }),
        1 => Just(Step::Restart),
    ]
}

/// What is known of the events, as a list.
#[derive(Default)]
struct Model {
    events: BTreeMap<u64, Event>,
    redacted: Vec<u64>,
}

impl Model {
    /// Events that relate to one, in the order of the room.
    fn children(&self, parent: u64) -> Vec<&Event> {
        let parent = id(parent);
        let mut children: Vec<&Event> = self
            .events
            .values()
            .filter(|event| {
                event.content["m.relates_to"]["event_id"] == parent.as_str()
                    && event.timeline != Timeline::Outside
                    && !self.redacted.contains(&event.sn)
            })
            .collect();
        children.sort_by_key(|event| event.place);
        children
    }

    fn related(&self, parent: u64, rel_type: &str) -> Vec<&Event> {
        let children = self.children(parent).into_iter();
        children
            .filter(|event| event.content["m.relates_to"]["rel_type"] == rel_type)
            .collect()
    }

    fn is_edit(event: &Event) -> bool {
        event.state_key.is_none()
            && (event.content["m.new_content"].is_object() || event.kind == "m.room.encrypted")
    }

    fn summary(&self, parent: u64) -> Summary {
        let replies = self.related(parent, "m.thread");
        let mut senders: Vec<_> = replies.iter().map(|reply| reply.sender).collect();
        senders.sort_unstable();
        senders.dedup();
        let edits = self.related(parent, "m.replace").into_iter();
        Summary {
            children: self.children(parent).len() as u64,
            edits: edits.filter(|event| Model::is_edit(event)).count() as u64,
            references: self.related(parent, "m.reference").len() as u64,
            thread: ThreadSummary {
                replies: replies.len() as u64,
                senders: senders.len() as u64,
                latest: replies
                    .last()
                    .map_or(Place::START, |reply| Place(reply.place)),
            },
        }
    }

    fn edits(&self, original: &Event) -> Vec<u64> {
        let mut edits: Vec<&Event> = self
            .related(original.sn, "m.replace")
            .into_iter()
            .filter(|edit| {
                Model::is_edit(edit) && edit.sender == original.sender && edit.kind == original.kind
            })
            .collect();
        edits.sort_by_key(|edit| (edit.ts, id(edit.sn)));
        edits.iter().rev().map(|edit| edit.sn).collect()
    }

    fn threads(&self) -> Vec<Thread> {
        let roots = (0..EVENTS).filter_map(|root| {
            let replies = self.related(root, "m.thread");
            replies.last().map(|newest| Thread {
                latest: Place(newest.place),
                root: id(root),
            })
        });
        let mut threads: Vec<Thread> = roots.collect();
        threads.sort_by_key(|thread| std::cmp::Reverse(thread.latest));
        threads
    }
}

fn numbers(events: &[&Event]) -> Vec<u64> {
    events.iter().map(|event| event.sn).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_rooms_are_answered_as_a_list_would(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::default();
        let mut model = Model::default();
        let mut next_redaction = 1_000;
        for step in steps {
            match step {
                Step::Event(event) => {
                    model.events.entry(event.sn).or_insert_with(|| {
                        world.put(&event);
                        event
                    });
                }
                Step::Redaction { target } => {
                    world.redact(next_redaction, target);
                    next_redaction += 1;
                    model.redacted.push(target);
                }
                Step::Fold { group } => world.fold(group),
                Step::Restart => world.restart(false),
            }
        }
        world.fold(3);
        for parent in 0..EVENTS {
            let summary = world.reader.summary(room(), &id(parent)).unwrap();
            let expected = model.summary(parent);
            prop_assert_eq!(summary, expected);
            let bundled = world.reader.bundled(room(), &[&id(parent)]).unwrap();
            if expected.is_bundled() {
                prop_assert_eq!(&bundled, &[expected]);
            }
            let children = model.children(parent);
            prop_assert_eq!(world.children(parent, None, Direction::Forward), numbers(&children));
            for rel_type in REL_TYPES {
                let mut related = numbers(&model.related(parent, rel_type));
                related.reverse();
                let found = world.children(parent, Some(rel_type), Direction::Backward);
                prop_assert_eq!(found, related);
            }
            if let Some(original) = model.events.get(&parent) {
                prop_assert_eq!(world.edits(original), model.edits(original));
            }
        }
        prop_assert_eq!(world.threads(), model.threads());
        let lived = world.store.clone();
        world.restart(true);
        world.fold(usize::MAX);
        prop_assert!(lived.same_rows(&world.store), "a rebuild gives other rows");
    }
}
