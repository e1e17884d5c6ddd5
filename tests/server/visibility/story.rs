//! Rooms in which everybody whom the matrix knows comes and goes. Each step is
//! followed by a message and a new topic, so that each stretch of time has
//! events of its own.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::model::{Event, History};
use crate::harness::{Api, Server, escape};
use crate::rooms::of_room;

/// Whom the rooms are seen by. Their names tell what becomes of them.
pub const ACTORS: [&str; 15] = [
    "creator",
    "never",
    "guest",
    "invited",
    "uninvited",
    "invited_joined",
    "joined",
    "joined_late",
    "left",
    "left_invited",
    "left_forgot",
    "banned",
    "banned_outside",
    "rejoined",
    "knocked",
];

/// The visibilities of a room: at its creation, and from the middle on.
pub struct Visibilities {
    pub at_first: Value,
    pub later: Option<&'static str>,
}

/// A word for each event, by which it is known again wherever it turns up. It
/// begins with this and ends with a full stop.
pub const MARK: &str = "mark-";
/// A word that all messages have in common.
pub const COMMON_WORD: &str = "engram";

pub type Cast = BTreeMap<&'static str, Api>;

/// A room after its story.
pub struct Room {
    /// For messages of the test.
    pub name: String,
    pub id: String,
    pub alias: String,
    pub history: History,
    /// What all messages are replies to.
    pub root: String,
    /// Tokens of `/messages`, and of how many events the room was made then.
    pub tokens: Vec<(String, usize)>,
}

/// Registers everybody.
pub async fn cast(server: &Server) -> Cast {
    let mut cast = Cast::new();
    for name in ACTORS {
        let api = match name {
            "guest" => guest(server).await,
            _ => server.register(name).await,
        };
        cast.insert(name, api);
    }
    cast
}

async fn guest(server: &Server) -> Api {
    let path = "/_matrix/client/v3/register?kind=guest";
    let answer = server.api().post(path, json!({})).await.ok();
    let mut api = server.api();
    api.token = answer["access_token"].as_str().map(str::to_owned);
    api.user_id = answer["user_id"].as_str().expect("a user id").to_owned();
    api
}

impl Visibilities {
    fn name(&self) -> String {
        let at_first = self.at_first["history_visibility"].as_str();
        let at_first = at_first.unwrap_or("no visibility");
        match self.later {
            Some(later) => format!("a room of {at_first}, then {later}"),
            None => format!("a room of {at_first}"),
        }
    }
}

/// Tells the story of one room; `number` keeps its words apart from others'.
pub async fn tell(cast: &Cast, number: usize, visibilities: &Visibilities) -> Room {
    let mut teller = Teller::begin(cast, number, &visibilities.at_first).await;
    teller.enters("joined").await;
    teller.enters("left").await;
    teller.enters("left_invited").await;
    teller.enters("left_forgot").await;
    teller.enters("banned").await;
    teller.enters("rejoined").await;
    teller.time_passes().await;

    teller.does("invite", "invited").await;
    teller.does("invite", "uninvited").await;
    teller.does("invite", "invited_joined").await;
    teller.leaves("rejoined").await;
    teller.time_passes().await;

    teller.enters("invited_joined").await;
    teller.leaves("left_invited").await;
    teller.time_passes().await;

    teller.leaves("left").await;
    teller.leaves("left_forgot").await;
    teller.does("kick", "uninvited").await;
    teller.does("ban", "banned").await;
    teller.does("ban", "banned_outside").await;
    teller.time_passes().await;

    if let Some(later) = visibilities.later {
        let content = json!({ "history_visibility": later });
        teller.sets("m.room.history_visibility", content).await;
        teller.time_passes().await;
    }
    teller.enters("rejoined").await;
    teller.enters("joined_late").await;
    teller.time_passes().await;

    teller
        .sets("m.room.join_rules", json!({ "join_rule": "knock" }))
        .await;
    teller.knocks("knocked").await;
    teller.does("invite", "left_invited").await;
    teller.time_passes().await;

    // From here on nobody knows of the room just because they could enter it.
    teller
        .sets("m.room.join_rules", json!({ "join_rule": "invite" }))
        .await;
    teller.time_passes().await;
    teller.forgets("left_forgot").await;
    teller.end(visibilities.name()).await
}

struct Teller<'a> {
    cast: &'a Cast,
    number: usize,
    marks: usize,
    room: String,
    alias: String,
    root: Option<String>,
    tokens: Vec<String>,
}

impl<'a> Teller<'a> {
    async fn begin(cast: &'a Cast, number: usize, visibility: &Value) -> Teller<'a> {
        let alias = format!("matrix{number}");
        let mut teller = Teller {
            cast,
            number,
            marks: 0,
            room: String::new(),
            alias: format!("#{alias}:hs.test"),
            root: None,
            tokens: Vec::new(),
        };
        let body = json!({
            "preset": "public_chat",
            "name": teller.mark(),
            "topic": teller.mark(),
            "room_alias_name": alias,
            "initial_state": [{ "type": "m.room.history_visibility", "content": visibility }],
        });
        teller.room = teller.creator().create_room(body).await;
        teller.time_passes().await;
        teller
    }

    fn creator(&self) -> &'a Api {
        &self.cast["creator"]
    }

    fn mark(&mut self) -> String {
        self.marks += 1;
        format!("{MARK}{}-{}.", self.number, self.marks)
    }

    async fn post(&mut self, who: &'a Api, act: &str, mut body: Value) {
        body["reason"] = json!(self.mark());
        who.post(&of_room(&self.room, act), body).await.ok();
    }

    async fn enters(&mut self, name: &str) {
        self.post(&self.cast[name], "join", json!({})).await;
    }

    async fn leaves(&mut self, name: &str) {
        self.post(&self.cast[name], "leave", json!({})).await;
    }

    async fn forgets(&mut self, name: &str) {
        self.post(&self.cast[name], "forget", json!({})).await;
    }

    async fn knocks(&mut self, name: &str) {
        let body = json!({ "reason": self.mark() });
        let path = format!("/_matrix/client/v3/knock/{}", escape(&self.room));
        self.cast[name].post(&path, body).await.ok();
    }

    /// The creator does something about another user.
    async fn does(&mut self, act: &str, to: &str) {
        let body = json!({ "user_id": self.cast[to].user_id });
        self.post(self.creator(), act, body).await;
    }

    async fn sets(&mut self, kind: &str, content: Value) {
        let path = of_room(&self.room, &format!("state/{kind}"));
        self.creator().put(&path, content).await.ok();
    }

    async fn time_passes(&mut self) {
        let mark = self.mark();
        let everybody: Vec<_> = self.cast.values().map(|api| &api.user_id).collect();
        let mut content = json!({
            "msgtype": "m.text",
            "body": format!("{COMMON_WORD} {mark}"),
            "m.mentions": { "user_ids": everybody },
        });
        if let Some(root) = &self.root {
            content["m.relates_to"] = json!({ "rel_type": "m.thread", "event_id": root });
        }
        let sent = self.creator().send(&self.room, &mark, content).await;
        self.root.get_or_insert(sent);
        let topic = json!({ "topic": self.mark() });
        self.sets("m.room.topic", topic).await;
        let path = of_room(&self.room, "messages?dir=b&limit=1");
        let page = self.creator().get(&path).await.ok();
        let token = page["start"].as_str().expect("a token").to_owned();
        self.tokens.push(token);
    }

    /// Reads the whole room as its creator.
    async fn end(self, name: String) -> Room {
        let path = of_room(&self.room, "messages?dir=f&limit=500");
        let page = self.creator().get(&path).await.ok();
        let chunk = page["chunk"].as_array().expect("a chunk");
        let events: Vec<Event> = chunk.iter().map(Event::read).collect();
        let topics = events.iter().enumerate();
        // Each stretch of time ends with a topic, but the first of all has one
        // from the room's creation before.
        let ends = topics.filter(|(_, event)| event.kind == "m.room.topic");
        let ends: Vec<usize> = ends.map(|(index, _)| index + 1).skip(1).collect();
        assert_eq!(ends.len(), self.tokens.len(), "the creator misses events");
        Room {
            name,
            id: self.room,
            alias: self.alias,
            history: History { events },
            root: self.root.expect("something was said"),
            tokens: self.tokens.into_iter().zip(ends).collect(),
        }
    }
}
