//! Typing and presence in answers, by the real projection of *ephemeral*.

use std::sync::Arc;
use std::time::Duration;

use log_format::codec;
use log_format::record::ephemeral::{EphemeralPresence, EphemeralTyping, PresenceState};
use log_format::record::output::Visibility;
use log_format::record::{Kind, NewEnvelope, Source};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::{Value, json};

use super::world::{FakeLog, World, request, user};
use crate::projectors::ephemeral::EphemeralProjection;
use crate::query::relations::fake::NoRelations;
use crate::query::tokens::Epoch;
use crate::readers::client_sync::{ClientSync, Ports, SyncRequest};
use crate::readers::store::memory::MemoryStore;

/// A world with an *ephemeral* log.
struct Stage {
    world: World,
    log: Arc<FakeLog>,
    projection: Arc<EphemeralProjection>,
}

impl Stage {
    fn new() -> Stage {
        let log = Arc::new(FakeLog::new(1));
        let mut stage = Stage {
            world: World::new(2),
            projection: Arc::new(EphemeralProjection::open(log.clone(), true)),
            log,
        };
        stage.begin(1);
        stage
    }

    /// Begins a process of this boot id.
    fn begin(&mut self, boot: u32) {
        self.projection = Arc::new(EphemeralProjection::open(self.log.clone(), true));
        let world = &mut self.world;
        let ports = Ports {
            store: Arc::new(MemoryStore::default()),
            rooms: world.rooms.clone(),
            users: world.users.clone(),
            relations: Arc::new(NoRelations),
            receipts: world.receipts.clone(),
            ephemeral: self.projection.clone(),
            output: world.log.clone(),
        };
        let server = ruma::server_name!("here").to_owned();
        let opened = ClientSync::open(ports, server, Epoch(1), boot);
        world.sync = Arc::new(opened.expect("tables open"));
        world.fold();
    }

    /// A room with these members.
    fn room(&mut self, name: &str, members: &[&OwnedUserId]) -> OwnedRoomId {
        let room = self.world.create(name, members[0], Visibility::Shared);
        for member in &members[1..] {
            self.world.member(&room, member, member, "join");
        }
        self.world.fold();
        room
    }

    fn append(&self, kind: Kind, new: &NewEnvelope<'_>) {
        self.log.append(0, kind, Source::Client, new);
        self.projection.catch_up().expect("in memory");
    }

    fn types(&self, room: &RoomId, user: &UserId, typing: bool) {
        let body = codec::encode(&EphemeralTyping { typing });
        let new = NewEnvelope {
            key: room.as_str(),
            sender: Some(user.as_str()),
            body: &body,
            ..NewEnvelope::default()
        };
        self.append(Kind::EphemeralTyping, &new);
    }

    fn is(&self, user: &UserId, presence: PresenceState) {
        let body = codec::encode(&EphemeralPresence {
            presence,
            last_active_ms: None,
            currently_active: false,
        });
        let new = NewEnvelope {
            key: user.as_str(),
            body: &body,
            ..NewEnvelope::default()
        };
        self.append(Kind::EphemeralPresence, &new);
    }

    async fn sync(&self, user: &UserId, token: &mut Option<String>) -> Value {
        let answer = self.world.synced(user, token.as_deref(), json!({})).await;
        *token = answer["next_batch"].as_str().map(str::to_owned);
        answer
    }
}

/// `user state` of each presence told, in order.
fn present(answer: &Value) -> Vec<String> {
    let events = answer["presence"]["events"].as_array();
    let mut told: Vec<_> = events
        .into_iter()
        .flatten()
        .map(|event| {
            let word = event["content"]["presence"].as_str().unwrap_or_default();
            format!("{} {word}", event["sender"].as_str().unwrap_or_default())
        })
        .collect();
    told.sort();
    told
}

fn typists(answer: &Value, room: &RoomId) -> Option<Value> {
    let events = &answer["rooms"]["join"][room.as_str()]["ephemeral"]["events"];
    let event = events.as_array()?.first()?;
    Some(event["content"]["user_ids"].clone())
}

#[tokio::test]
async fn presence_goes_to_who_shares_a_room() {
    let mut stage = Stage::new();
    let [ann, ben, cat, dan] = ["ann", "ben", "cat", "dan"].map(user);
    stage.room("one", &[&ann, &ben]);
    let two = stage.room("two", &[&cat, &dan]);
    stage.is(&ben, PresenceState::Online);
    stage.is(&dan, PresenceState::Online);
    let mut token = None;
    let answer = stage.sync(&ann, &mut token).await;
    assert_eq!(present(&answer), ["@ben:here online"]);
    for state in [PresenceState::Unavailable, PresenceState::Offline] {
        stage.is(&ben, state);
        stage.is(&dan, PresenceState::Unavailable);
    }
    stage.is(&ann, PresenceState::Online);
    let answer = stage.sync(&ann, &mut token).await;
    assert_eq!(present(&answer), ["@ann:here online", "@ben:here offline"]);
    assert_eq!(present(&stage.sync(&ann, &mut token).await), [""; 0]);
    // Who comes to a room is told of those in it, and they of them.
    let mut of_dan = None;
    stage.sync(&dan, &mut of_dan).await;
    stage.world.member(&two, &ann, &ann, "join");
    let answer = stage.sync(&ann, &mut token).await;
    let there = ["@cat:here offline", "@dan:here unavailable"];
    assert_eq!(present(&answer), there);
    let answer = stage.sync(&dan, &mut of_dan).await;
    assert_eq!(present(&answer), ["@ann:here online"]);
    assert_eq!(present(&stage.sync(&dan, &mut of_dan).await), [""; 0]);
    // Nothing more of it after they left.
    stage.world.member(&two, &ann, &ann, "leave");
    stage.world.fold();
    stage.is(&dan, PresenceState::Online);
    assert_eq!(present(&stage.sync(&ann, &mut token).await), [""; 0]);
}

/// Who joins while a client is away is told what changed meanwhile, also that
/// nobody types any more.
#[tokio::test]
async fn who_comes_to_a_room_is_told_who_types() {
    let mut stage = Stage::new();
    let (ann, ben) = (user("ann"), user("ben"));
    let room = stage.room("one", &[&ann]);
    let mut token = None;
    stage.sync(&ben, &mut token).await;
    let before = token.clone();
    stage.world.member(&room, &ben, &ben, "join");
    stage.world.fold();
    let typing = |answer: &Value| {
        let ephemeral = &answer["rooms"]["join"][room.as_str()]["ephemeral"]["events"];
        let events = ephemeral.as_array().into_iter().flatten();
        let typing = events.filter(|event| event["type"] == "m.typing");
        typing
            .map(|event| event["content"]["user_ids"].clone())
            .collect::<Vec<_>>()
    };
    let quiet = stage.sync(&ben, &mut before.clone()).await;
    assert_eq!(typing(&quiet), [Value::Null; 0]);
    stage.types(&room, &ann, true);
    let typed = stage.sync(&ben, &mut before.clone()).await;
    assert_eq!(typing(&typed), [json!([ann])]);
    stage.types(&room, &ann, false);
    let stopped = stage.sync(&ben, &mut before.clone()).await;
    assert_eq!(typing(&stopped), [json!([])]);
    // Of a client without a past nobody need take anything back.
    assert_eq!(typing(&stage.sync(&ben, &mut None).await), [Value::Null; 0]);
}

#[tokio::test]
async fn who_is_in_no_room_is_told_of_themselves() {
    let stage = Stage::new();
    let (ann, ben) = (user("ann"), user("ben"));
    stage.is(&ann, PresenceState::Online);
    stage.is(&ben, PresenceState::Online);
    let mut token = None;
    let answer = stage.sync(&ann, &mut token).await;
    assert_eq!(present(&answer), ["@ann:here online"]);
    stage.is(&ann, PresenceState::Unavailable);
    let answer = stage.sync(&ann, &mut token).await;
    assert_eq!(present(&answer), ["@ann:here unavailable"]);
}

#[tokio::test]
async fn of_a_crowd_nobody_is_told_to_be_offline() {
    let mut stage = Stage::new();
    let ann = user("ann");
    stage.room("one", &[&ann]);
    let mut token = None;
    stage.sync(&ann, &mut token).await;
    let others: Vec<_> = (0..60).map(|n| user(&format!("u{n:02}"))).collect();
    let crowd: Vec<_> = others.iter().collect();
    let room = stage.room("two", &crowd);
    stage.is(&others[7], PresenceState::Online);
    stage.world.member(&room, &ann, &ann, "join");
    let answer = stage.sync(&ann, &mut token).await;
    assert_eq!(present(&answer), ["@u07:here online"]);
}

#[tokio::test]
async fn many_newcomers_are_found_as_well() {
    let mut stage = Stage::new();
    let ann = user("ann");
    let room = stage.room("one", &[&ann]);
    let mut token = None;
    stage.sync(&ann, &mut token).await;
    let others: Vec<_> = (0..80).map(|n| user(&format!("u{n:02}"))).collect();
    for other in &others {
        stage.is(other, PresenceState::Online);
        stage.world.member(&room, other, other, "join");
    }
    let gone = &others[79];
    stage.world.member(&room, gone, gone, "leave");
    let answer = stage.sync(&ann, &mut token).await;
    assert_eq!(present(&answer).len(), 79);
    // A few of them later on, from the short list.
    stage.world.member(&room, gone, gone, "join");
    let answer = stage.sync(&ann, &mut token).await;
    assert_eq!(present(&answer), ["@u79:here online"]);
}

#[tokio::test]
async fn another_process_tells_what_is_current() {
    let mut stage = Stage::new();
    let (ann, ben) = (user("ann"), user("ben"));
    let one = stage.room("one", &[&ann, &ben]);
    let two = stage.room("two", &[&ann, &ben]);
    let three = stage.room("three", &[&ann, &ben]);
    for room in [&one, &two, &three] {
        stage.types(room, &ben, true);
    }
    stage.types(&three, &ben, false);
    stage.is(&ben, PresenceState::Online);
    let mut token = None;
    let answer = stage.sync(&ann, &mut token).await;
    assert_eq!(typists(&answer, &one), Some(json!([ben])));
    assert_eq!(typists(&answer, &three), None);
    assert_eq!(typists(&stage.sync(&ann, &mut token).await, &one), None);

    stage.begin(2);
    stage.types(&two, &ben, false);
    let answer = stage.sync(&ann, &mut token).await;
    assert_eq!(typists(&answer, &one), Some(json!([ben])));
    assert_eq!(typists(&answer, &two), Some(json!([])), "ended since");
    assert_eq!(typists(&answer, &three), None);
    assert_eq!(present(&answer), ["@ben:here online"]);
    let answer = stage.sync(&ann, &mut token).await;
    assert_eq!(answer["rooms"]["join"], json!({}));
    assert_eq!(present(&answer), [""; 0]);
}

/// A request that waits is answered by what concerns it.
#[tokio::test]
async fn who_waits_is_told() {
    let mut stage = Stage::new();
    let (ann, ben) = (user("ann"), user("ben"));
    let one = stage.room("one", &[&ann, &ben]);
    let sync = stage.world.sync.clone();
    let follow = tokio::spawn(sync.clone().follow_ephemeral());
    let mut token = None;
    stage.sync(&ann, &mut token).await;
    let waiting = |token: &Option<String>| SyncRequest {
        timeout: Duration::from_secs(60),
        ..request(&ann, token.as_deref(), json!({}))
    };
    let asked = tokio::spawn(sync.clone().ask(waiting(&token)));
    while sync.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    stage.is(&ben, PresenceState::Online);
    let told = asked.await.expect("an answer");
    assert_eq!(present(&told), ["@ben:here online"]);
    token = told["next_batch"].as_str().map(str::to_owned);

    let asked = tokio::spawn(sync.clone().ask(waiting(&token)));
    while sync.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    stage.types(&one, &ben, true);
    let told = asked.await.expect("an answer");
    assert_eq!(typists(&told, &one), Some(json!([ben])));
    follow.abort();
}

impl ClientSync {
    /// One request, from a task of its own.
    async fn ask(self: Arc<Self>, request: SyncRequest) -> Value {
        let answer = self.sync(request).await.expect("an answer");
        serde_json::from_str(&answer).expect("the answer is JSON")
    }
}
