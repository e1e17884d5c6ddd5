//! Counts against a slow model that looks at every event each time, and what a
//! random history would not come by.

use std::sync::Arc;

use log_format::record::input::ReceiptType;
use log_format::record::output::Visibility;
use proptest::prelude::*;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, UserId};
use serde_json::{Value, json};

use super::look::EVENTS_MAX;
use crate::query::receipts::ReceiptThread;
use crate::query::rooms::Rooms;
use crate::query::threads::THREAD_HOPS_MAX;
use crate::readers::client_sync::tests::fake_rooms::How;
use crate::readers::client_sync::tests::world::{World, request, user};

/// An event as the model knows it.
#[derive(Clone, Debug)]
struct Said {
    id: OwnedEventId,
    sender: OwnedUserId,
    /// Root of its thread.
    thread: Option<OwnedEventId>,
    /// Relations to follow from the event until one tells its thread.
    hops: usize,
    notifies: bool,
    highlights: bool,
    redacted: bool,
    /// Something relates to it.
    related: bool,
}

/// A receipt in the model: type, thread, how many events it reads.
type Read = (bool, ReceiptThread, usize);

/// One user, two who talk to them, one room.
struct Story {
    world: World,
    room: OwnedRoomId,
    me: OwnedUserId,
    said: Vec<Said>,
    receipts: Vec<Read>,
}

impl Story {
    fn begin() -> Story {
        let mut world = World::new(1);
        let (me, ben) = (user("me"), user("ben"));
        let room = world.create("room", &ben, Visibility::Shared);
        world.say(&room, &ben, "before my time");
        world.member(&room, &me, &me, "join");
        Story {
            world,
            room,
            me,
            said: Vec::new(),
            receipts: Vec::new(),
        }
    }

    fn send(&mut self, sender: &str, kind: &str, content: &Value, thread: Option<OwnedEventId>) {
        let sender = user(sender);
        let how = How::default();
        let id = self
            .world
            .send(&self.room, &sender, kind, None, content.clone(), how);
        let mentions = content["m.mentions"]["user_ids"].as_array();
        let is_edit = content["m.relates_to"]["rel_type"] == "m.replace";
        let highlights = mentions.is_some_and(|ids| ids.iter().any(|id| *id == self.me.as_str()));
        let quiet = kind != "m.room.message" || content["msgtype"] == "m.notice";
        self.said.push(Said {
            id,
            notifies: sender != self.me && (highlights || !(quiet || is_edit)),
            sender,
            hops: usize::from(thread.is_some()),
            thread,
            highlights,
            redacted: false,
            related: false,
        });
    }

    fn message(&mut self, sender: &str, detail: u8, relates_to: Option<Value>) -> Value {
        let mut content = json!({ "msgtype": "m.text", "body": "x" });
        if detail.is_multiple_of(5) {
            content["msgtype"] = json!("m.notice");
        }
        if detail.is_multiple_of(4) && sender != "me" && content["msgtype"] != "m.notice" {
            content["m.mentions"] = json!({ "user_ids": [self.me] });
        }
        if let Some(relates_to) = relates_to {
            content["m.relates_to"] = relates_to;
        }
        content
    }

    /// An event to relate to or to read, by a random number.
    fn pick(&self, number: u8) -> Option<usize> {
        let newest = self.said.len().checked_sub(1)?;
        Some(newest.saturating_sub(number as usize % 12))
    }

    fn relate(&mut self, at: usize, rel_type: &str) -> Value {
        self.said[at].related = true;
        json!({ "rel_type": rel_type, "event_id": self.said[at].id })
    }

    fn step(&mut self, what: u8, number: u8, detail: u8) {
        let sender = ["ben", "cid", "ben", "me"][detail as usize % 4];
        match what % 12 {
            0..=3 => {
                let content = self.message(sender, number, None);
                self.send(sender, "m.room.message", &content, None);
            }
            4 | 5 => {
                // Into a thread: of a root in the main timeline.
                let root = self
                    .pick(number)
                    .filter(|at| self.said[*at].thread.is_none());
                let Some(root) = root.filter(|at| !self.said[*at].redacted) else {
                    return;
                };
                let relation = self.relate(root, "m.thread");
                let content = self.message(sender, detail, Some(relation));
                let root = self.said[root].id.clone();
                self.send(sender, "m.room.message", &content, Some(root));
            }
            6 => {
                // A reaction or an edit is in the thread of what it is about, if
                // that can be told by few relations.
                let Some(at) = self.pick(number).filter(|at| !self.said[*at].redacted) else {
                    return;
                };
                let hops = self.said[at].hops + 1;
                let thread = self.said[at].thread.clone();
                let thread = thread.filter(|_| hops <= THREAD_HOPS_MAX);
                if detail.is_multiple_of(2) {
                    let content = json!({ "m.relates_to": self.relate(at, "m.annotation") });
                    self.send(sender, "m.reaction", &content, thread);
                } else {
                    let relation = self.relate(at, "m.replace");
                    let content = self.message(sender, 1, Some(relation));
                    self.send(sender, "m.room.message", &content, thread);
                }
                if let Some(said) = self.said.last_mut() {
                    said.hops = hops;
                }
            }
            7 => {
                // What the user said reads what was before, and what is related to
                // says where things belong: redacting either is not told here.
                let Some(at) = self.pick(number) else { return };
                let said = &mut self.said[at];
                if said.sender == self.me || said.related || said.redacted {
                    return;
                }
                said.redacted = true;
                let target = said.id.clone();
                self.world.redact(&self.room, &user("ben"), &target);
            }
            8 | 9 => {
                let Some(at) = self.pick(number) else { return };
                let thread = match detail % 3 {
                    0 => ReceiptThread::Unthreaded,
                    _ => match self.said[at].thread.clone() {
                        None => ReceiptThread::Main,
                        Some(root) => ReceiptThread::Root(root),
                    },
                };
                let private = detail.is_multiple_of(2);
                let receipt_type = match private {
                    true => ReceiptType::ReadPrivate,
                    false => ReceiptType::Read,
                };
                let (room, me) = (&self.room, &self.me);
                self.world.read(
                    room,
                    me,
                    &self.said[at].id,
                    receipt_type,
                    thread.as_thread_id(),
                );
                self.receipts.push((private, thread, at));
            }
            10 => {
                // Others read, too.
                if let Some(said) = self.said.last() {
                    let (ben, kind) = (user("ben"), ReceiptType::Read);
                    self.world.read(&self.room, &ben, &said.id, kind, None);
                }
            }
            _ => match detail % 4 {
                0 => self.world.restart(true),
                1 => self.world.restart(false),
                _ => {
                    self.world.sync.unread.save_all().expect("in memory");
                    self.world.restart(false);
                }
            },
        }
    }

    /// The counts by looking at everything: of the main timeline, and of threads.
    fn expected(&self) -> Value {
        let is_read = |index: usize, said: &Said| {
            let by_receipt = self.receipts.iter().any(|(_, thread, at)| {
                let covers = match thread {
                    ReceiptThread::Unthreaded => true,
                    ReceiptThread::Main => said.thread.is_none(),
                    ReceiptThread::Root(root) => said.thread.as_ref() == Some(root),
                };
                covers && *at >= index
            });
            let mut later = self.said[index..].iter();
            by_receipt || later.any(|later| later.sender == self.me && later.thread == said.thread)
        };
        let unread = self.said.iter().enumerate();
        let unread =
            unread.filter(|(at, said)| said.notifies && !said.redacted && !is_read(*at, said));
        let mut main = (0, 0);
        let mut threads: std::collections::BTreeMap<String, (u64, u64)> = Default::default();
        for (_, said) in unread {
            let counts = match &said.thread {
                None => &mut main,
                Some(root) => threads.entry(root.to_string()).or_default(),
            };
            counts.0 += 1;
            counts.1 += u64::from(said.highlights);
        }
        let told = |counts: &(u64, u64)| json!({ "notification_count": counts.0, "highlight_count": counts.1 });
        let threads: serde_json::Map<String, Value> = threads
            .iter()
            .map(|(root, counts)| (root.clone(), told(counts)))
            .collect();
        json!([told(&main), threads])
    }

    async fn told(&self) -> Value {
        let timeline = json!({ "unread_thread_notifications": true, "limit": 1 });
        let filter = json!({ "room": { "timeline": timeline } });
        let answer = self.world.synced(&self.me, None, filter).await;
        let room = &answer["rooms"]["join"][self.room.as_str()];
        let threads = room.get("unread_thread_notifications");
        json!([
            room["unread_notifications"],
            threads.cloned().unwrap_or_else(|| json!({}))
        ])
    }
}

async fn run(steps: &[(u8, u8, u8, bool)]) {
    let mut story = Story::begin();
    for (index, (what, number, detail, look)) in steps.iter().enumerate() {
        story.step(*what, *number, *detail);
        if *look {
            assert_eq!(story.told().await, story.expected(), "after step {index}");
        }
    }
    assert_eq!(story.told().await, story.expected());
    // From the beginning it is the same.
    story.world.restart(true);
    assert_eq!(story.told().await, story.expected());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn counts_are_what_looking_at_everything_gives(
        steps in proptest::collection::vec(any::<(u8, u8, u8, bool)>(), 1..150),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(run(&steps));
    }
}

async fn counts(world: &World, of: &UserId, room: &OwnedRoomId) -> (u64, u64) {
    world.fold();
    let answer = world
        .ask(request(of, None, json!({})))
        .await
        .expect("an answer");
    let counts = &answer["rooms"]["join"][room.as_str()]["unread_notifications"];
    let count = |name: &str| counts[name].as_u64().expect("a number");
    (count("notification_count"), count("highlight_count"))
}

#[tokio::test]
async fn own_rules_decide_and_ignored_users_do_not_notify() {
    let mut world = World::new(1);
    let (me, ben, cid) = (user("me"), user("ben"), user("cid"));
    let room = world.create("room", &ben, Visibility::Shared);
    world.member(&room, &me, &me, "join");
    world.member(&room, &cid, &cid, "join");
    world.say(&room, &ben, "some cake");
    world.say(&room, &cid, "some tea");
    assert_eq!(counts(&world, &me, &room).await, (2, 0));
    // What was counted stays; what comes is judged by the new rules.
    let cake = json!({
        "rule_id": "cake", "pattern": "cake", "default": false, "enabled": true,
        "actions": ["notify", { "set_tweak": "highlight" }],
    });
    let mute = json!({ "rule_id": "!room:here", "default": false, "enabled": true, "actions": [] });
    let rules = json!({ "global": { "content": [cake], "room": [mute] } });
    world.set_data(&me, None, "m.push_rules", rules);
    world.say(&room, &ben, "more cake");
    world.say(&room, &ben, "more tea");
    assert_eq!(counts(&world, &me, &room).await, (3, 1));
    // What an ignored user said is not counted any more.
    world.set_data(&me, None, "m.push_rules", json!({ "global": {} }));
    let ignored = json!({ "ignored_users": { "@cid:here": {} } });
    world.set_data(&me, None, "m.ignored_user_list", ignored);
    world.say(&room, &cid, "and biscuits");
    assert_eq!(counts(&world, &me, &room).await, (3, 0));
}

#[tokio::test]
async fn what_is_hidden_or_before_a_stay_does_not_count() {
    let mut world = World::new(1);
    let (me, ben) = (user("me"), user("ben"));
    let room = world.create("room", &ben, Visibility::Shared);
    world.member(&room, &me, &me, "join");
    world.say(&room, &ben, "one");
    assert_eq!(counts(&world, &me, &room).await, (1, 0));
    world.member(&room, &me, &me, "leave");
    world.say(&room, &ben, "two");
    world.member(&room, &me, &me, "join");
    assert_eq!(counts(&world, &me, &room).await, (0, 0));
    world.say(&room, &ben, "three");
    assert_eq!(counts(&world, &me, &room).await, (1, 0));
}

#[tokio::test]
async fn a_long_absence_counts_what_is_newest() {
    let mut world = World::new(1);
    let (me, ben) = (user("me"), user("ben"));
    let room = world.create("room", &ben, Visibility::Shared);
    world.member(&room, &me, &me, "join");
    let of_me = json!({ "msgtype": "m.text", "body": "x", "m.mentions": { "user_ids": [me] } });
    let kind = "m.room.message";
    world.send(&room, &ben, kind, None, of_me, How::default());
    assert_eq!(counts(&world, &me, &room).await, (1, 1));
    let more = EVENTS_MAX + 100;
    for _ in 0..more {
        world.say(&room, &ben, "x");
    }
    // Whole pages are looked at; what was counted before stays.
    let (notifications, highlights) = counts(&world, &me, &room).await;
    assert_eq!(highlights, 1);
    let newest = EVENTS_MAX as u64 + 1;
    assert!(
        (newest..newest + 128).contains(&notifications),
        "{notifications}"
    );
    // The row is there after a crash: nothing is looked at twice.
    world.restart(false);
    assert_eq!(
        counts(&world, &me, &room).await,
        (notifications, highlights)
    );
    // Read half-way.
    let last = world.say(&room, &ben, "last but one");
    world.say(&room, &ben, "last");
    world.read(&room, &me, &last, ReceiptType::ReadPrivate, None);
    assert_eq!(counts(&world, &me, &room).await, (1, 0));
}

#[tokio::test]
async fn users_with_the_same_rules_are_judged_together() {
    let mut world = World::new(1);
    let (me, ben) = (user("me"), user("ben"));
    let shared = |world: &World| {
        let notified = world.sync.notified();
        Arc::ptr_eq(&notified.rules(&me), &notified.rules(&ben))
    };
    assert!(shared(&world));
    let quiet = json!({ "rule_id": "tea", "pattern": "tea", "default": false, "enabled": true, "actions": [] });
    let rules = json!({ "global": { "content": [quiet] } });
    world.set_data(&me, None, "m.push_rules", rules.clone());
    assert!(!shared(&world));
    world.set_data(&ben, None, "m.push_rules", rules);
    assert!(shared(&world));
    // An event is parsed once, until it is redacted.
    let room = world.create("room", &ben, Visibility::Shared);
    let said = world.say(&room, &ben, "some tea");
    let judged = |world: &World| {
        let event = world.rooms.event(&room, &said).expect("in memory");
        let event = event.expect("is there");
        let judged = world.sync.notified().judged(&room, &event);
        judged.expect("in memory")
    };
    let (once, again) = (judged(&world), judged(&world));
    assert!(Arc::ptr_eq(&once.expect("judged"), &again.expect("judged")));
    world.redact(&room, &ben, &said);
    assert!(judged(&world).is_none());
}
