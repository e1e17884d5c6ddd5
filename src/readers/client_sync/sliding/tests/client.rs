//! A client that asks and believes what it is told.

use std::collections::BTreeMap;

use ruma::{OwnedUserId, UserId};
use serde_json::{Value, json};

use crate::readers::client_sync::SyncError;
use crate::readers::client_sync::sliding::request::{Body, Dialect, SlidingRequest};
use crate::readers::client_sync::tests::world::World;

/// One connection of a user.
pub struct Client {
    pub user: OwnedUserId,
    pub device: &'static str,
    pub dialect: Dialect,
    pub pos: Option<String>,
    pub rooms: BTreeMap<String, View>,
}

/// What the client knows of a room.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    pub membership: String,
    pub name: Value,
    /// Type and state key to event id.
    pub state: BTreeMap<(String, String), String>,
    pub timeline: Vec<String>,
    pub gap: bool,
    pub is_dm: bool,
    pub bump_stamp: u64,
    pub joined_count: Value,
}

impl Client {
    pub fn new(user: &UserId) -> Client {
        Client {
            user: user.to_owned(),
            device: "DEVICE",
            dialect: Dialect::Unstable,
            pos: None,
            rooms: BTreeMap::new(),
        }
    }

    /// A request from the client's position.
    pub fn request(&self, body: Value) -> SlidingRequest {
        let mut body = body;
        body["pos"] = json!(self.pos);
        let body: Body = serde_json::from_value(body).expect("a body");
        SlidingRequest::new(&self.user, self.device.into(), self.dialect, body).expect("fine")
    }

    /// Asks, and neither believes nor goes on: the answer is lost.
    pub async fn ask(&self, world: &World, body: Value) -> Result<Value, SyncError> {
        world.fold();
        let answer = world.sync.sliding_sync(self.request(body)).await?;
        Ok(serde_json::from_str(&answer).expect("the answer is JSON"))
    }

    /// Asks and goes on with the answer.
    pub async fn sync(&mut self, world: &World, body: Value) -> Value {
        let answer = self.ask(world, body).await.expect("an answer");
        self.believe(&answer);
        answer
    }

    pub fn believe(&mut self, answer: &Value) {
        self.pos = Some(answer["pos"].as_str().expect("a position").to_owned());
        for (room, told) in answer["rooms"].as_object().into_iter().flatten() {
            let view = self.rooms.entry(room.clone()).or_default();
            if told["initial"] == true {
                *view = View::default();
            }
            apply(view, told);
        }
    }
}

fn apply(view: &mut View, told: &Value) {
    view.membership = told["membership"]
        .as_str()
        .expect("a membership")
        .to_owned();
    view.bump_stamp = told["bump_stamp"].as_u64().expect("a stamp");
    if let Some(name) = told.get("name") {
        view.name = name.clone();
    }
    if let Some(count) = told.get("joined_count") {
        view.joined_count = count.clone();
    }
    if let Some(is_dm) = told["is_dm"].as_bool() {
        view.is_dm = is_dm;
    }
    for event in told["required_state"].as_array().into_iter().flatten() {
        let text = |field: &str| event[field].as_str().expect("a text").to_owned();
        let key = (text("type"), text("state_key"));
        match event.get("content") {
            Some(_) => drop(view.state.insert(key, text("event_id"))),
            None => drop(view.state.remove(&key)),
        }
    }
    let shown: Vec<String> = told["timeline"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|event| event["event_id"].as_str().expect("an id").to_owned())
        .collect();
    let expanded = told["unstable_expanded_timeline"] == true || told["expanded_timeline"] == true;
    if expanded || told["limited"] == true {
        // What was there before may be told again, or lies behind a gap.
        view.timeline.retain(|id| !shown.contains(id));
    }
    let limited = told["limited"] == true;
    view.gap = limited || (view.gap && !expanded);
    view.timeline.extend(shown);
}

/// A list of all rooms, with all state and so many events.
pub fn everything(limit: u64) -> Value {
    json!({"lists": {"all": {
        "ranges": [[0, 99]], "timeline_limit": limit, "required_state": [["*", "*"]],
    }}})
}

/// Event ids of a section's events.
pub fn ids(events: &Value) -> Vec<&str> {
    let events = events.as_array().into_iter().flatten();
    events
        .filter_map(|event| event["event_id"].as_str())
        .collect()
}
