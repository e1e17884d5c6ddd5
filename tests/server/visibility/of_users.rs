//! The endpoints that are asked about a user, and tell of all their rooms.

use serde_json::{Value, json};

use super::cell::{Cell, STRIPPED, folded, open_to};
use super::model::Standing;
use super::story::Cast;
use crate::harness::{Api, escape};

const UNSTABLE: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
const ACCEPTED: &str = "/_matrix/client/v4/sync";
/// What both kinds of sync tell of a room at most: more than the rooms have.
const TIMELINE_LIMIT: usize = 100;

/// Where a user's clients stood before there were any rooms.
pub struct Before {
    sync: String,
    sliding: Option<String>,
}

impl Before {
    pub async fn of(actor: &str, api: &Api) -> Before {
        let answer = api.sync("timeout=0").await;
        let path = format!("{UNSTABLE}?timeout=0");
        let sliding = open_to(actor, api.post(&path, all_rooms(&[])).await);
        Before {
            sync: answer["next_batch"].as_str().expect("a token").to_owned(),
            sliding: sliding.map(|answer| {
                let body = answer.ok();
                body["pos"].as_str().expect("a position").to_owned()
            }),
        }
    }
}

/// A user in front of all rooms, one cell for each.
pub struct User<'u, 'c> {
    pub cells: &'u mut [Cell<'c>],
    pub actor: &'static str,
    pub api: &'c Api,
    pub before: &'c Before,
    pub cast: &'c Cast,
}

/// Runs one check of the table. False if there is none of that name.
pub async fn check(name: &str, user: &mut User<'_, '_>) -> bool {
    match name {
        "sync" => sync(user).await,
        "sliding_sync" => {
            sliding_sync(user, UNSTABLE, false).await;
            sliding_sync(user, UNSTABLE, true).await;
        }
        "sliding_sync_accepted" => sliding_sync(user, ACCEPTED, false).await,
        "initial_sync" => initial_sync(user).await,
        "events" => events(user).await,
        "joined_rooms" => joined_rooms(user).await,
        "mutual_rooms" => mutual_rooms(user).await,
        "notifications" => notifications(user).await,
        "user_directory" => user_directory(user).await,
        "presence" => presence(user).await,
        "public_rooms" => public_rooms(user).await,
        _ => return false,
    }
    true
}

impl User<'_, '_> {
    fn fault(&mut self, what: String) {
        self.cells[0].fault(what);
    }

    fn expect(&mut self, holds: bool, what: impl std::fmt::Display) {
        if !holds {
            self.fault(what.to_string());
        }
    }

    /// Room ids in which the model has the user joined.
    fn joined(&self) -> Vec<String> {
        let cells = self.cells.iter();
        let mut joined: Vec<String> = cells
            .filter(|cell| cell.sight.standing == Standing::Joined)
            .map(|cell| cell.room.id.clone())
            .collect();
        joined.sort_unstable();
        joined
    }

    /// Reports whatever an answer names of any room.
    fn names_nothing(&mut self, what: &str, body: &Value) {
        let named = self.cells[0].words.named_in(body);
        self.expect(named.is_empty(), format!("{what} names {named:?}"));
    }
}

async fn sync(user: &mut User<'_, '_>) {
    let filter = json!({ "room": {
        "include_leave": true, "timeline": { "limit": TIMELINE_LIMIT },
    } });
    let filter = escape(&filter.to_string());
    let since = format!("&since={}", user.before.sync);
    for (what, query, state_after) in [
        ("sync", String::new(), false),
        (
            "sync with state_after",
            "&use_state_after=true".into(),
            true,
        ),
        ("sync of full state", "&full_state=true".into(), false),
        ("sync since", since, false),
    ] {
        let answer = user
            .api
            .sync(&format!("timeout=0&filter={filter}{query}"))
            .await;
        let mut rest = answer.clone();
        for cell in user.cells.iter_mut() {
            told_by_sync(cell, what, &answer["rooms"], state_after);
            for section in ["join", "leave", "invite", "knock"] {
                if let Some(rooms) = rest["rooms"][section].as_object_mut() {
                    rooms.remove(&cell.room.id);
                }
            }
        }
        user.names_nothing(what, &rest);
    }
}

fn told_by_sync(cell: &mut Cell<'_>, what: &str, rooms: &Value, state_after: bool) {
    let sections = ["join", "invite", "knock", "leave"];
    let told: Vec<(&str, &Value)> = sections
        .into_iter()
        .filter_map(|section| Some((section, rooms[section].get(&cell.room.id)?)))
        .collect();
    let wanted: &[&str] = match (&*cell.sight.membership, cell.sight.standing) {
        ("join", _) => &["join"],
        ("invite", _) => &["invite"],
        ("knock", _) => &["knock"],
        (_, Standing::Left(_)) => &["leave"],
        // Whoever was invited or banned and never in may be told that much.
        ("leave" | "ban", _) => match told.is_empty() {
            true => &[],
            false => &["leave"],
        },
        _ => &[],
    };
    let found: Vec<&str> = told.iter().map(|(section, _)| *section).collect();
    cell.expect(
        found == wanted,
        format!("{what} has it in {found:?} and not in {wanted:?}"),
    );
    for (section, room) in told {
        match section {
            "invite" => is_stripped(cell, what, &room["invite_state"]["events"]),
            "knock" => is_stripped(cell, what, &room["knock_state"]["events"]),
            _ => told_room(cell, what, section, room, state_after),
        }
    }
}

fn told_room(cell: &mut Cell<'_>, what: &str, section: &str, room: &Value, state_after: bool) {
    let timeline = cell.indices(what, &room["timeline"]["events"]);
    if cell.sight.standing == Standing::Outside && timeline == own_end(cell) {
        // Whoever is not invited any more is told that, and nothing else.
        let state = cell.indices(what, &room["state"]["events"]);
        cell.expect(state.is_empty(), format!("{what} tells {state:?}"));
        return;
    }
    cell.leaks(what, room);
    cell.is_end_of_visible(&format!("{what}, timeline"), &timeline, true);
    let key = match state_after {
        true => "state_after",
        false => "state",
    };
    let mut told = cell.indices(what, &room[key]["events"]);
    if !state_after {
        told.extend(timeline);
    }
    // Whoever never was in sees no more than the end of it.
    if let Some(current) = cell.sight.current {
        let state = folded(cell.room, &told);
        cell.is_state(&format!("{what}, state"), state, current);
    }
    if section == "leave" {
        for inside in ["ephemeral", "summary", "unread_notifications"] {
            cell.expect(
                room.get(inside).is_none_or(|told| told == &json!({})),
                format!("{what} tells {inside} of a room that was left"),
            );
        }
    }
}

/// The user's current membership event.
fn own_end(cell: &Cell<'_>) -> Vec<usize> {
    let history = &cell.room.history;
    let current = history.held(history.events.len(), "m.room.member", &cell.api.user_id);
    let current = current.and_then(|event| cell.index_of(&event.id));
    current.into_iter().collect()
}

/// Stripped state holds what the room looks like from outside.
fn is_stripped(cell: &mut Cell<'_>, what: &str, events: &Value) {
    for event in events.as_array().into_iter().flatten() {
        let kind = event["type"].as_str().unwrap_or_default();
        cell.expect(
            STRIPPED.contains(&kind) && event.get("event_id").is_none(),
            format!("{what} strips to {event}"),
        );
        for named in cell.words.named_in(event) {
            let is_this_kind = cell.room.history.events[named.event].kind == kind;
            cell.expect(
                named.room == cell.room_index && is_this_kind,
                format!("{what} strips to {event}"),
            );
        }
    }
    let is_told = events.as_array().is_some_and(|events| !events.is_empty());
    cell.expect(is_told, format!("{what} has no stripped state"));
}

/// A list of all rooms, and all rooms by name, with everything of them.
fn all_rooms(rooms: &[String]) -> Value {
    let rule = json!({ "required_state": [["*", "*"]], "timeline_limit": TIMELINE_LIMIT });
    let mut list = rule.clone();
    list["ranges"] = json!([[0, 999]]);
    let subscriptions: serde_json::Map<String, Value> = rooms
        .iter()
        .map(|room| (room.clone(), rule.clone()))
        .collect();
    json!({
        "conn_id": "matrix",
        "lists": { "all": list },
        "room_subscriptions": subscriptions,
        "extensions": {
            "account_data": { "enabled": true }, "receipts": { "enabled": true },
            "typing": { "enabled": true },
        },
    })
}

async fn sliding_sync(user: &mut User<'_, '_>, path: &str, goes_on: bool) {
    let what = format!("sliding sync{}", if goes_on { " from before" } else { "" });
    let rooms: Vec<String> = user.cells.iter().map(|cell| cell.room.id.clone()).collect();
    let mut body = all_rooms(&rooms);
    let mut query = "?timeout=0".to_owned();
    match (goes_on, &user.before.sliding) {
        (true, None) => return,
        (true, Some(pos)) => query.push_str(&format!("&pos={}", escape(pos))),
        (false, _) => body["conn_id"] = json!("anew"),
    }
    let answer = user.api.post(&format!("{path}{query}"), body).await;
    let Some(answer) = open_to(user.actor, answer) else {
        return;
    };
    let mut rest = answer.ok();
    for cell in user.cells.iter_mut() {
        let told = rest["rooms"].as_object_mut();
        let told = told.and_then(|rooms| rooms.remove(&cell.room.id));
        told_by_sliding_sync(cell, &what, told);
    }
    user.names_nothing(&what, &rest);
}

fn told_by_sliding_sync(cell: &mut Cell<'_>, what: &str, told: Option<Value>) {
    let membership = cell.sight.membership.clone();
    let is_in = ["join", "invite", "knock"].contains(&&*membership);
    let Some(mut told) = told else {
        cell.expect(!is_in, format!("{what} lacks a room of {membership}"));
        return;
    };
    for stripped in ["invite_state", "stripped_state"] {
        let events = told.as_object_mut().and_then(|told| told.remove(stripped));
        if let Some(events) = events.filter(|events| !events.is_null()) {
            is_stripped(cell, what, &events);
        }
    }
    if ["invite", "knock"].contains(&&*membership) {
        // Its name is that of the stripped state, if it is told twice.
        let told = told.as_object_mut();
        let name = told.and_then(|told| told.remove("name"));
        let current = cell.room.history.events.len();
        let named = cell.room.history.held(current, "m.room.name", "");
        let named = named.map(|event| event.content["name"].clone());
        cell.expect(
            name.is_none() || name == named,
            format!("{what} names it {name:?}"),
        );
    }
    cell.leaks(what, &told);
    let timeline = cell.indices(what, &told["timeline"]);
    let state = cell.indices(what, &told["required_state"]);
    match cell.sight.standing {
        Standing::Joined => {
            cell.is_end_of_visible(&format!("{what}, timeline"), &timeline, true);
            let count = cell.room.history.events.len();
            cell.is_state(&format!("{what}, state"), state, count);
        }
        Standing::Left(_) if membership != "invite" => {
            cell.is_end_of_visible(&format!("{what}, timeline"), &timeline, false);
        }
        _ => {
            let nothing = timeline.is_empty() && state.is_empty();
            cell.expect(nothing, format!("{what} tells {timeline:?} and {state:?}"));
        }
    }
}

/// The deprecated first sync, which tells of all rooms at once.
async fn initial_sync(user: &mut User<'_, '_>) {
    let what = "initialSync";
    let path = format!("/_matrix/client/v3/initialSync?limit={TIMELINE_LIMIT}&archived=true");
    let Some(answer) = open_to(user.actor, user.api.get(&path).await) else {
        return;
    };
    let mut rest = answer.ok();
    let rooms = rest["rooms"].as_array().cloned().unwrap_or_default();
    for cell in user.cells.iter_mut() {
        let told = rooms
            .iter()
            .find(|room| room["room_id"] == cell.room.id.as_str());
        let Some(mut told) = told.cloned() else {
            let is_in = ["join", "invite"].contains(&&*cell.sight.membership);
            cell.expect(!is_in, format!("{what} lacks a room"));
            continue;
        };
        let invite = told.as_object_mut().and_then(|told| told.remove("invite"));
        if let Some(invite) = invite {
            is_stripped(cell, what, &json!([without_id(invite)]));
        }
        cell.leaks(what, &told);
        let timeline = cell.indices(what, &told["messages"]["chunk"]);
        cell.is_end_of_visible(what, &timeline, false);
        let state = cell.indices(what, &told["state"]);
        // Of an invite no more is told than that, and of a room that they never
        // were in what anybody may read.
        let is_in = cell.sight.standing != Standing::Outside;
        if let Some(current) = cell.sight.current
            && is_in
            && cell.sight.membership != "invite"
        {
            cell.is_state(what, state, current);
        }
    }
    rest["rooms"] = Value::Null;
    user.names_nothing(what, &rest);
}

/// An invite is told as a whole event there, of the invited user's membership.
fn without_id(mut event: Value) -> Value {
    if let Some(fields) = event.as_object_mut() {
        fields.remove("event_id");
        fields.remove("unsigned");
    }
    event
}

/// The deprecated stream, which also looks into rooms from outside.
async fn events(user: &mut User<'_, '_>) {
    let from = user.before.sync.clone();
    for cell in user.cells.iter_mut() {
        let room = escape(&cell.room.id);
        let path = format!("/_matrix/client/v3/events?timeout=0&from={from}&room_id={room}");
        let Some(answer) = cell.at(&path).await else {
            continue;
        };
        let status = answer.status.as_u16();
        cell.expect(
            status == 200 || cell.sight.current.is_none() && [403, 404].contains(&status),
            format!("events answers {status} {}", answer.text),
        );
        let chunk = answer.body["chunk"].as_array().cloned().unwrap_or_default();
        for event in chunk {
            if event["room_id"] != cell.room.id.as_str() {
                continue;
            }
            cell.leaks("events", &event);
            if cell.sight.current.is_none() {
                cell.fault(format!("events tells {event}"));
            }
        }
    }
    let path = format!("/_matrix/client/v3/events?timeout=0&from={from}");
    let Some(answer) = open_to(user.actor, user.api.get(&path).await) else {
        return;
    };
    for event in answer.ok()["chunk"].as_array().into_iter().flatten() {
        let cells = user.cells.iter_mut();
        let mut cells = cells.filter(|cell| event["room_id"] == cell.room.id.as_str());
        if let Some(cell) = cells.next() {
            cell.leaks("events of all rooms", event);
        }
    }
}

async fn joined_rooms(user: &mut User<'_, '_>) {
    let answer = user.api.get("/_matrix/client/v3/joined_rooms").await;
    let Some(answer) = open_to(user.actor, answer) else {
        return;
    };
    let found = sorted(&answer.ok()["joined_rooms"]);
    let wanted = user.joined();
    user.expect(found == wanted, format!("joined_rooms are {found:?}"));
}

async fn mutual_rooms(user: &mut User<'_, '_>) {
    // The creator is in all rooms, and who joined without an invite as well.
    let other = match user.actor {
        "creator" => "joined",
        _ => "creator",
    };
    let other = escape(&user.cast[other].user_id);
    let path = format!("/_matrix/client/v1/mutual_rooms?user_id={other}");
    let Some(answer) = open_to(user.actor, user.api.get(&path).await) else {
        return;
    };
    let found = sorted(&answer.ok()["joined"]);
    let wanted = user.joined();
    user.expect(found == wanted, format!("mutual_rooms are {found:?}"));
}

fn sorted(rooms: &Value) -> Vec<String> {
    let rooms = rooms.as_array().into_iter().flatten();
    let mut rooms: Vec<String> = rooms
        .filter_map(|room| room.as_str().map(str::to_owned))
        .collect();
    rooms.sort_unstable();
    rooms
}

/// Everybody is mentioned in every message: only those are told of it who were
/// there, and may still see it.
async fn notifications(user: &mut User<'_, '_>) {
    let (mut from, mut told) = (String::new(), Vec::new());
    loop {
        let path = format!("/_matrix/client/v3/notifications?limit=50{from}");
        let Some(answer) = open_to(user.actor, user.api.get(&path).await) else {
            return;
        };
        let page = answer.ok();
        told.extend(
            page["notifications"]
                .as_array()
                .into_iter()
                .flatten()
                .cloned(),
        );
        match page["next_token"].as_str() {
            Some(next) => from = format!("&from={}", escape(next)),
            None => break,
        }
    }
    for cell in user.cells.iter_mut() {
        let here = told.iter();
        let here = here.filter(|told| told["room_id"] == cell.room.id.as_str());
        for notification in here {
            let event = &notification["event"];
            // An invite tells of itself before the room does.
            if event["type"] != "m.room.member" {
                cell.leaks("notifications", event);
            }
        }
    }
    if user.actor == "joined" {
        user.expect(!told.is_empty(), "nothing notified who is joined");
    }
}

/// "Users who are joined to rooms […] that have a `world_readable` history
/// visibility" are found by all; who is joined to no room is found by nobody.
async fn user_directory(user: &mut User<'_, '_>) {
    let path = "/_matrix/client/v3/user_directory/search";
    for (term, is_found) in [("creator", true), ("banned", false)] {
        let body = json!({ "search_term": term });
        let Some(answer) = open_to(user.actor, user.api.post(path, body).await) else {
            return;
        };
        if user.actor.starts_with(term) {
            continue;
        }
        let body = answer.ok();
        let results = body["results"].as_array().into_iter().flatten();
        let found: Vec<&Value> = results.map(|result| &result["user_id"]).collect();
        let wanted = json!(user.cast[term].user_id);
        let what = format!("the directory finds {found:?}");
        user.expect(found.contains(&&wanted) == is_found, what);
    }
}

/// Presence is for those who share a room.
async fn presence(user: &mut User<'_, '_>) {
    let creator = escape(&user.cast["creator"].user_id);
    let path = format!("/_matrix/client/v3/presence/{creator}/status");
    let Some(answer) = open_to(user.actor, user.api.get(&path).await) else {
        return;
    };
    if user.joined().is_empty() {
        let status = answer.status.as_u16();
        user.expect(
            [403, 404].contains(&status),
            format!("presence answers {status} {}", answer.text),
        );
    } else {
        answer.ok();
    }
}

/// None of the rooms is published.
async fn public_rooms(user: &mut User<'_, '_>) {
    let path = "/_matrix/client/v3/publicRooms";
    let asked = [
        user.api.get(path).await,
        user.api.post(path, json!({})).await,
    ];
    for answer in asked {
        let Some(answer) = open_to(user.actor, answer) else {
            continue;
        };
        let body = answer.ok();
        let is_empty = body["chunk"].as_array().is_some_and(Vec::is_empty);
        user.expect(is_empty, format!("publicRooms lists {body}"));
    }
}
