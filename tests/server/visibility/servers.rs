//! The same for servers: what the server-server API tells another server of
//! rooms in which its user comes and goes. A server sees what its users see; what
//! else the graph needs it gets without the content.

use std::collections::BTreeSet;
use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::model::{Event, History};
use super::story::MARK;
use super::table;
use crate::federation::Neighbourhood;
use crate::federation::fake::object;
use crate::federation::visitor::{CAROL, Visitor};
use crate::harness::{Api, escape};
use crate::rooms::of_room;

const V1: &str = "/_matrix/federation/v1";

/// Begins the names of checks that servers make.
pub const PREFIX: &str = "federation_";

/// What becomes of the server's user. Their names tell.
const STORIES: [&str; 7] = [
    "never",
    "joined",
    "joined_late",
    "left",
    "left_late",
    "rejoined",
    "banned",
];

/// Visibilities at first, and from the middle on.
const VISIBILITIES: [(&str, Option<&str>); 9] = [
    ("org.example.secret", None),
    ("world_readable", None),
    ("shared", None),
    ("invited", None),
    ("joined", None),
    ("world_readable", Some("joined")),
    ("joined", Some("shared")),
    ("shared", Some("invited")),
    ("invited", Some("world_readable")),
];

struct Teller<'a> {
    alice: &'a Api,
    c: &'a Visitor,
    room: String,
    number: usize,
    marks: usize,
}

impl Teller<'_> {
    fn mark(&mut self) -> String {
        self.marks += 1;
        format!("{MARK}{}-{}.", self.number, self.marks)
    }

    async fn sets(&self, kind: &str, content: Value) {
        let path = of_room(&self.room, &format!("state/{kind}"));
        self.alice.put(&path, content).await.ok();
    }

    async fn time_passes(&mut self) {
        let mark = self.mark();
        self.alice.send_text(&self.room, &mark).await;
        let topic = json!({ "topic": self.mark() });
        self.sets("m.room.topic", topic).await;
    }

    async fn bans(&mut self) {
        let body = json!({ "user_id": CAROL, "reason": self.mark() });
        let path = of_room(&self.room, "ban");
        self.alice.post(&path, body).await.ok();
    }
}

/// Tells the story of one room, and what its creator then reads of it.
async fn tell(
    alice: &Api,
    c: &Visitor,
    number: usize,
    story: &str,
    (at_first, later): (&str, Option<&str>),
) -> (String, History) {
    let visibility = |value: &str| json!({ "history_visibility": value });
    let body = json!({ "preset": "public_chat", "initial_state": [{
        "type": "m.room.history_visibility", "content": visibility(at_first),
    }] });
    let room = alice.create_room(body).await;
    let mut teller = Teller {
        alice,
        c,
        room,
        number,
        marks: 0,
    };
    let room = teller.room.clone();
    teller.time_passes().await;
    if ["joined", "left", "left_late", "rejoined", "banned"].contains(&story) {
        teller.c.join(&room, CAROL).await;
    }
    teller.time_passes().await;
    match story {
        "left" | "rejoined" => teller.c.leave(&room, CAROL).await,
        "banned" => teller.bans().await,
        _ => {}
    }
    teller.time_passes().await;
    if let Some(later) = later {
        teller
            .sets("m.room.history_visibility", visibility(later))
            .await;
    }
    teller.time_passes().await;
    match story {
        "joined_late" | "rejoined" => drop(teller.c.join(&room, CAROL).await),
        "left_late" => teller.c.leave(&room, CAROL).await,
        _ => {}
    }
    teller.time_passes().await;
    // From here on nobody knows of the room just because they could enter it.
    teller
        .sets("m.room.join_rules", json!({ "join_rule": "invite" }))
        .await;
    teller.time_passes().await;
    let page = alice
        .get(&of_room(&room, "messages?dir=f&limit=500"))
        .await
        .ok();
    let chunk = page["chunk"].as_array().expect("a chunk");
    let events: Vec<Event> = chunk.iter().map(Event::read).collect();
    (room, History { events })
}

/// The server in front of a room.
struct Cell<'a> {
    c: &'a Visitor,
    room: String,
    history: History,
    name: String,
    faults: Vec<String>,
}

impl Cell<'_> {
    fn expect(&mut self, holds: bool, what: impl std::fmt::Display) {
        if !holds {
            let name = &self.name;
            self.faults.push(format!("{name}: {what}"));
        }
    }

    fn count(&self) -> usize {
        self.history.events.len()
    }

    fn is_resident(&self) -> bool {
        self.history.membership(self.count(), CAROL) == "join"
    }

    fn is_seen(&self, index: usize) -> bool {
        self.history.may_see(CAROL, index)
    }

    /// Whether the server may have an event whole, wherever it is asked for. It
    /// knows current state from its join.
    fn is_whole(&self, index: usize) -> bool {
        let current = self.history.state(self.count());
        self.is_seen(index) || (self.is_resident() && current.contains(&index))
    }

    fn id(&self, index: usize) -> String {
        self.history.events[index].id.clone()
    }

    fn of_room(&self, what: &str) -> String {
        format!("{V1}/{what}/{}", escape(&self.room))
    }

    async fn missing_before(&self, index: usize) -> (u16, Value) {
        let body = json!({
            "earliest_events": [], "latest_events": [self.id(index)], "limit": 100,
        });
        let (uri, body) = (self.of_room("get_missing_events"), object(&body));
        let sent = self.c.fake.send("a.test", Method::POST, &uri, &body);
        sent.await
    }

    /// That the answer is given to who is in the room, and else refused without a word.
    fn is_answered(&mut self, what: &str, (status, body): &(u16, Value)) -> bool {
        let is_resident = self.is_resident();
        let wanted = if is_resident { 200 } else { 403 };
        self.expect(*status == wanted, format!("{what} answers {status} {body}"));
        let told = body.to_string();
        let is_silent = is_resident || !told.contains(MARK);
        self.expect(is_silent, format!("{what} tells {told}"));
        is_resident && *status == 200
    }

    /// Holds one event as it is given against the model.
    fn is_given(&mut self, what: &str, index: usize, pdu: &Value, whole: bool) {
        let is_same = pdu["content"] == self.history.events[index].content;
        let fault = match whole {
            true => !is_same,
            false => pdu.to_string().contains(MARK),
        };
        let how = if whole { "whole" } else { "redacted" };
        self.expect(
            !fault,
            format!("{what} gives event {index} not {how}: {pdu}"),
        );
    }

    /// Which events an array holds. PDUs of these rooms have no id in them, so the
    /// server's own is computed.
    fn indices(&mut self, what: &str, pdus: &Value) -> Vec<(usize, Value)> {
        let mut found = Vec::new();
        for pdu in pdus.as_array().into_iter().flatten() {
            let version = engram::matrix::RoomVersion::DEFAULT;
            let parsed = engram::matrix::event::Pdu::from_object(version, object(pdu));
            let id = parsed.map(|parsed| parsed.event_id.to_string());
            let mut events = self.history.events.iter();
            match id
                .ok()
                .and_then(|id| events.position(|event| event.id == id))
            {
                Some(index) => found.push((index, pdu.clone())),
                None => self.expect(false, format!("{what} gives an unknown event {pdu}")),
            }
        }
        found
    }
}

/// Runs one check of the table. False if there is none of that name.
async fn check(name: &str, cell: &mut Cell<'_>) -> bool {
    match name {
        "federation_event" => event(cell).await,
        "federation_event_auth" => event_auth(cell).await,
        "federation_state" => state(cell).await,
        "federation_state_ids" => state_ids(cell).await,
        "federation_backfill" => backfill(cell).await,
        "federation_missing_events" => missing_events(cell).await,
        "federation_timestamp_to_event" => timestamp_to_event(cell).await,
        "federation_public_rooms" => public_rooms(cell).await,
        "federation_hierarchy" => hierarchy(cell).await,
        _ => return false,
    }
    true
}

/// None of the rooms is in the directory.
async fn public_rooms(cell: &mut Cell<'_>) {
    let (status, body) = cell.c.get(&format!("{V1}/publicRooms")).await;
    let told = body.to_string();
    let is_hidden = !told.contains(&cell.room) && !told.contains(MARK);
    cell.expect(
        status == 200 && is_hidden,
        format!("publicRooms tells {told}"),
    );
}

/// Who may know that the room exists and what it is called.
async fn hierarchy(cell: &mut Cell<'_>) {
    let (status, body) = cell.c.get(&cell.of_room("hierarchy")).await;
    if !cell.is_resident() && !cell.history.is_world_readable() {
        let is_silent = !body.to_string().contains(MARK);
        let refused = status == 404 && is_silent;
        cell.expect(refused, format!("hierarchy answers {status} {body}"));
        return;
    }
    let topic = cell.history.held(cell.count(), "m.room.topic", "");
    let same = topic.is_some_and(|topic| body["room"]["topic"] == topic.content["topic"]);
    cell.expect(
        status == 200 && same,
        format!("hierarchy answers {status} {body}"),
    );
}

async fn event(cell: &mut Cell<'_>) {
    for index in 0..cell.count() {
        let what = format!("event {index}");
        let (status, body) = cell
            .c
            .get(&format!("{V1}/event/{}", escape(&cell.id(index))))
            .await;
        let whole = cell.is_whole(index);
        if !whole && !cell.is_resident() {
            cell.expect(status == 403, format!("{what} answers {status} {body}"));
            continue;
        }
        cell.expect(status == 200, format!("{what} answers {status} {body}"));
        cell.is_given(&what, index, &body["pdus"][0], whole);
    }
}

async fn event_auth(cell: &mut Cell<'_>) {
    for index in (0..cell.count()).rev().step_by(3) {
        let what = format!("event_auth of {index}");
        let uri = format!("{}/{}", cell.of_room("event_auth"), escape(&cell.id(index)));
        let answer = cell.c.get(&uri).await;
        if !cell.is_answered(&what, &answer) {
            continue;
        }
        for (cited, pdu) in cell.indices(&what, &answer.1["auth_chain"]) {
            let whole = cell.is_seen(index) || cell.is_whole(cited);
            cell.is_given(&what, cited, &pdu, whole);
        }
    }
}

async fn state(cell: &mut Cell<'_>) {
    for index in (0..cell.count()).rev().step_by(3) {
        let what = format!("state at {index}");
        let uri = format!(
            "{}?event_id={}",
            cell.of_room("state"),
            escape(&cell.id(index))
        );
        let answer = cell.c.get(&uri).await;
        if !cell.is_answered(&what, &answer) {
            continue;
        }
        let held = cell.indices(&what, &answer.1["pdus"]);
        let found: BTreeSet<usize> = held.iter().map(|(index, _)| *index).collect();
        let wanted: BTreeSet<usize> = cell.history.state(index).into_iter().collect();
        cell.expect(
            found == wanted,
            format!("{what} is {found:?}, not {wanted:?}"),
        );
        let chain = cell.indices(&what, &answer.1["auth_chain"]);
        for (held, pdu) in held.into_iter().chain(chain) {
            let whole = cell.is_seen(index) || cell.is_whole(held);
            cell.is_given(&what, held, &pdu, whole);
        }
    }
}

async fn state_ids(cell: &mut Cell<'_>) {
    for index in (0..cell.count()).rev().step_by(3) {
        let what = format!("state_ids at {index}");
        let uri = format!(
            "{}?event_id={}",
            cell.of_room("state_ids"),
            escape(&cell.id(index))
        );
        let answer = cell.c.get(&uri).await;
        if !cell.is_answered(&what, &answer) {
            continue;
        }
        let ids = answer.1["pdu_ids"].as_array().cloned().unwrap_or_default();
        let found: BTreeSet<&str> = ids.iter().filter_map(Value::as_str).collect();
        let wanted = cell.history.state(index);
        let events = &cell.history.events;
        let wanted: BTreeSet<&str> = wanted.iter().map(|index| &*events[*index].id).collect();
        let same = found == wanted;
        cell.expect(same, format!("{what} is {ids:?}"));
    }
}

async fn backfill(cell: &mut Cell<'_>) {
    let last = escape(&cell.id(cell.count() - 1));
    let uri = format!("{}?v={last}&limit=100", cell.of_room("backfill"));
    let answer = cell.c.get(&uri).await;
    if !cell.is_answered("backfill", &answer) {
        return;
    }
    let given = cell.indices("backfill", &answer.1["pdus"]);
    let order: Vec<usize> = given.iter().map(|(index, _)| *index).collect();
    let wanted: Vec<usize> = (0..cell.count()).rev().collect();
    cell.expect(order == wanted, format!("backfill gives {order:?}"));
    for (index, pdu) in given {
        let whole = cell.is_whole(index);
        cell.is_given("backfill", index, &pdu, whole);
    }
}

async fn missing_events(cell: &mut Cell<'_>) {
    for latest in [cell.count() - 1, cell.count() / 2] {
        let what = format!("missing events before {latest}");
        let answer = cell.missing_before(latest).await;
        if !cell.is_answered(&what, &answer) {
            continue;
        }
        let given = cell.indices(&what, &answer.1["events"]);
        let order: Vec<usize> = given.iter().map(|(index, _)| *index).collect();
        let wanted: Vec<usize> = (latest.saturating_sub(20)..latest).collect();
        cell.expect(order == wanted, format!("{what} are {order:?}"));
        for (index, pdu) in given {
            let whole = cell.is_whole(index);
            cell.is_given(&what, index, &pdu, whole);
        }
    }
}

/// Events of one moment are in no order, so any that is seen will do.
async fn timestamp_to_event(cell: &mut Cell<'_>) {
    for direction in ["ts=0&dir=f", "ts=9999999999999&dir=b"] {
        let uri = format!("{}?{direction}", cell.of_room("timestamp_to_event"));
        let answer = cell.c.get(&uri).await;
        if !cell.is_answered("timestamp_to_event", &answer) {
            continue;
        }
        let found = answer.1["event_id"].as_str().unwrap_or_default();
        let mut events = cell.history.events.iter();
        let index = events.position(|event| event.id == found);
        let is_seen = index.is_some_and(|index| cell.is_seen(index));
        cell.expect(is_seen, format!("timestamp_to_event finds {index:?}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_servers_are_told_what_the_rules_let_their_users_see() {
    let neighbourhood = Neighbourhood::new();
    let a = neighbourhood.builder("a.test").start().await;
    let alice = Arc::new(a.register("alice").await);
    let c = Arc::new(Visitor::start(&neighbourhood).await);
    let rooms = VISIBILITIES
        .into_iter()
        .flat_map(|visibilities| STORIES.into_iter().map(move |story| (visibilities, story)));
    let told: Vec<_> = rooms
        .enumerate()
        .map(|(number, (visibilities, story))| {
            let (alice, c) = (alice.clone(), c.clone());
            tokio::spawn(async move {
                let (room, history) = tell(&alice, &c, number, story, visibilities).await;
                let mut cell = Cell {
                    c: &c,
                    room,
                    history,
                    name: format!("{story} in a room of {visibilities:?}"),
                    faults: Vec::new(),
                };
                let checks = table::checks();
                for name in checks.iter().filter(|name| name.starts_with(PREFIX)) {
                    let exists = check(name, &mut cell).await;
                    assert!(exists, "endpoints.tsv names the check {name}");
                }
                cell.faults
            })
        })
        .collect();
    let mut faults = Vec::new();
    for room in told {
        faults.extend(room.await.expect("the story is told"));
    }
    assert!(faults.is_empty(), "{}", super::summary(&faults));
}
