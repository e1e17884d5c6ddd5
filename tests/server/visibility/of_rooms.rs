//! The endpoints that are asked about one room.

use serde_json::{Value, json};

use super::cell::{Cell, open_to, search_in};
use super::model::{Event, Standing};
use super::story::COMMON_WORD;
use crate::harness::{Answer, escape};

/// Whoever may not read a room is told so, or that there is none.
const REFUSALS: [u16; 2] = [403, 404];

/// Runs one check of the table. False if there is none of that name.
pub async fn check(name: &str, cell: &mut Cell<'_>) -> bool {
    match name {
        "event" => event(cell).await,
        "event_by_id" => event_by_id(cell).await,
        "context" => context(cell).await,
        "messages" => messages(cell).await,
        "state" => state(cell).await,
        "state_entry" => state_entry(cell).await,
        "members" => members(cell).await,
        "joined_members" => joined_members(cell).await,
        "aliases" => aliases(cell).await,
        "relations" => relations(cell, "").await,
        "relations_of_type" => relations(cell, "/m.thread").await,
        "relations_of_event_type" => relations(cell, "/m.thread/m.room.message").await,
        "threads" => threads(cell).await,
        "timestamp_to_event" => timestamp_to_event(cell).await,
        "hierarchy" => hierarchy(cell).await,
        "summary" => summary(cell, "v1/room_summary/{}").await,
        "unstable_summary" => {
            summary(cell, "unstable/im.nheko.summary/summary/{}").await;
            summary(cell, "unstable/im.nheko.summary/rooms/{}/summary").await;
        }
        "room_initial_sync" => room_initial_sync(cell).await,
        "search" => search(cell).await,
        _ => return false,
    }
    true
}

/// An event that the user may not see looks like one that does not exist.
async fn event(cell: &mut Cell<'_>) {
    single_event(cell, |id| format!("event/{}", escape(id))).await;
}

async fn single_event(cell: &mut Cell<'_>, path: impl Fn(&str) -> String) {
    let Some(unknown) = cell.get(&path("$unknown")).await else {
        return;
    };
    for index in 0..cell.room.history.events.len() {
        let id = cell.room.history.events[index].id.clone();
        let Some(answer) = cell.get(&path(&id)).await else {
            continue;
        };
        is_seen_or_unknown(cell, index, answer, &unknown);
    }
}

fn is_seen_or_unknown(cell: &mut Cell<'_>, index: usize, answer: Answer, unknown: &Answer) {
    let what = format!("event {index}");
    if !cell.sight.seen[index] {
        let same = answer.status == unknown.status && answer.text == unknown.text;
        cell.expect(
            same,
            format!("{what} is not like an unknown one: {}", answer.text),
        );
        return;
    }
    if let Some(body) = cell.told(&what, Some(answer), true, &[]) {
        let event = &cell.room.history.events[index];
        let same = body["event_id"] == event.id.as_str() && body["content"] == event.content;
        cell.expect(same, format!("{what} is told as {body}"));
    }
}

/// The deprecated endpoint that finds events by their id alone.
async fn event_by_id(cell: &mut Cell<'_>) {
    let path = |id: &str| format!("/_matrix/client/v3/events/{}", escape(id));
    let Some(unknown) = cell.at(&path("$unknown")).await else {
        return;
    };
    for index in 0..cell.room.history.events.len() {
        let id = cell.room.history.events[index].id.clone();
        let Some(answer) = cell.at(&path(&id)).await else {
            continue;
        };
        // It looks only through the rooms that a user is or was in.
        let is_unknown = answer.status == unknown.status && answer.text == unknown.text;
        if cell.sight.standing != Standing::Outside || !is_unknown {
            is_seen_or_unknown(cell, index, answer, &unknown);
        }
    }
}

async fn context(cell: &mut Cell<'_>) {
    let visible = cell.sight.visible.clone();
    for index in 0..cell.room.history.events.len() {
        let what = format!("context of {index}");
        let id = escape(&cell.room.history.events[index].id);
        let answer = cell.get(&format!("context/{id}?limit=6")).await;
        let may = cell.sight.seen[index] && cell.sight.current.is_some();
        let Some(body) = cell.told(&what, answer, may, &REFUSALS) else {
            continue;
        };
        let found = cell.indices(&what, &json!([body["event"]]));
        cell.same(&what, &found, &[index]);
        let mut before = visible.clone();
        before.retain(|other| *other < index);
        before.reverse();
        before.truncate(3);
        let found = cell.indices(&what, &body["events_before"]);
        cell.same(&format!("{what}, before"), &found, &before);
        let following = |visible: &[usize]| -> Vec<usize> {
            let visible = visible.iter().copied();
            visible.filter(|other| *other > index).take(3).collect()
        };
        let beyond = following(&cell.sight.visible_beyond);
        let after = cell.indices(&what, &body["events_after"]);
        let until = following(&visible);
        if after.len() < until.len() || !beyond.starts_with(&after) {
            cell.same(&format!("{what}, after"), &after, &until);
        }
        let last = after.last().copied().unwrap_or(index);
        let found = cell.indices(&what, &body["state"]);
        cell.is_state(&format!("{what}, state"), found, last + 1);
    }
}

async fn messages(cell: &mut Cell<'_>) {
    let filter = escape(&json!({ "lazy_load_members": true }).to_string());
    for direction in ["f", "b"] {
        let what = format!("messages {direction}");
        let (mut found, mut from) = (Vec::new(), String::new());
        loop {
            let query = format!("messages?dir={direction}&limit=9&filter={filter}{from}");
            let answer = cell.get(&query).await;
            let may = cell.sight.current.is_some();
            let Some(page) = cell.told(&what, answer, may, &[403]) else {
                return;
            };
            found.extend(cell.indices(&what, &page["chunk"]));
            match page["end"].as_str() {
                Some(end) => from = format!("&from={end}"),
                None => break,
            }
        }
        if direction == "b" {
            found.reverse();
        }
        cell.is_visible(&what, &found);
    }
}

async fn state(cell: &mut Cell<'_>) {
    let current = cell.sight.current;
    let answer = cell.get("state").await;
    if let Some(body) = cell.told("state", answer, current.is_some(), &[403]) {
        let found = cell.indices("state", &body);
        cell.is_state("state", found, current.unwrap_or_default());
    }
}

async fn state_entry(cell: &mut Cell<'_>) {
    let current = cell.sight.current;
    let joined = cell.api.user_id.clone();
    for (kind, state_key) in [
        ("m.room.topic", ""),
        ("m.room.history_visibility", ""),
        ("m.room.create", ""),
        ("m.room.member", &*joined),
        ("org.example.nothing", ""),
    ] {
        let what = format!("state of {kind}");
        let path = format!("state/{kind}/{}", escape(state_key));
        let wanted = current.and_then(|count| cell.room.history.held(count, kind, state_key));
        let wanted = wanted.map(|event| event.content.clone());
        let answer = cell.get(&path).await;
        let status: &[u16] = match current {
            Some(_) => &[404],
            None => &[403],
        };
        if let Some(body) = cell.told(&what, answer, wanted.is_some(), status) {
            cell.expect(Some(&body) == wanted.as_ref(), format!("{what} is {body}"));
        }
        let answer = cell.get(&format!("{path}?format=event")).await;
        cell.told(&what, answer, wanted.is_some(), status);
    }
}

async fn members(cell: &mut Cell<'_>) {
    let current = cell.sight.current;
    let answer = cell.get("members").await;
    if let Some(body) = cell.told("members", answer, current.is_some(), &[403]) {
        is_members(cell, "members", &body, current.unwrap_or_default());
    }
    for (token, count) in &cell.room.tokens {
        let what = format!("members at {count}");
        let answer = cell.get(&format!("members?at={token}")).await;
        let Some(body) = cell.told(&what, answer, current.is_some(), &[403]) else {
            continue;
        };
        let count = current.unwrap_or_default().min(*count);
        match cell.sight.seen[count - 1] {
            true => is_members(cell, &what, &body, count),
            false => cell.expect(body["chunk"] == json!([]), format!("{what} tells {body}")),
        }
    }
}

fn is_members(cell: &mut Cell<'_>, what: &str, body: &Value, count: usize) {
    let mut found = cell.indices(what, &body["chunk"]);
    found.sort_unstable();
    let history = &cell.room.history;
    let mut wanted = history.state(count);
    wanted.retain(|index| history.events[*index].kind == "m.room.member");
    cell.same(what, &found, &wanted);
}

async fn joined_members(cell: &mut Cell<'_>) {
    let is_joined = cell.sight.standing == Standing::Joined;
    let answer = cell.get("joined_members").await;
    let Some(body) = cell.told("joined_members", answer, is_joined, &[403]) else {
        return;
    };
    let history = &cell.room.history;
    let state = history.state(history.events.len()).into_iter();
    let users = state.filter_map(|index| history.events[index].state_key.as_deref());
    let mut wanted: Vec<&str> = users
        .filter(|user| history.membership(history.events.len(), user) == "join")
        .collect();
    wanted.sort_unstable();
    let found = body["joined"].as_object().into_iter().flatten();
    let found: Vec<&str> = found.map(|(user, _)| user.as_str()).collect();
    cell.expect(found == wanted, format!("joined_members are {found:?}"));
}

/// "This endpoint can be called by users who are in the room […]. If the room's
/// `m.room.history_visibility` maps to `world_readable`, any user can call this
/// endpoint."
async fn aliases(cell: &mut Cell<'_>) {
    let may = cell.sight.standing == Standing::Joined || cell.room.history.is_world_readable();
    let answer = cell.get("aliases").await;
    if let Some(body) = cell.told("aliases", answer, may, &[403]) {
        let wanted = json!({ "aliases": [cell.room.alias] });
        cell.expect(body == wanted, format!("aliases are {body}"));
    }
}

/// Whether an event is a reply to the room's first message.
fn is_reply(event: &Event, root: &str) -> bool {
    event.content["m.relates_to"]["event_id"] == root
}

fn sees_root(cell: &Cell<'_>) -> bool {
    let root = cell.index_of(&cell.room.root);
    root.is_some_and(|root| cell.sight.seen[root])
}

async fn relations(cell: &mut Cell<'_>, narrowed: &str) {
    let what = format!("relations{narrowed}");
    let root = escape(&cell.room.root);
    let (mut found, mut from) = (Vec::new(), String::new());
    loop {
        let path = format!("relations/{root}{narrowed}?limit=3{from}");
        let answer = cell.get_v1(&path).await;
        // Who sees the one event and nothing of the room now may be refused.
        let refused = answer.as_ref().is_some_and(|answer| answer.status != 200);
        let may = sees_root(cell) && (cell.sight.current.is_some() || !refused);
        let Some(page) = cell.told(&what, answer, may, &REFUSALS) else {
            return;
        };
        found.extend(cell.indices(&what, &page["chunk"]));
        match page["next_batch"].as_str() {
            Some(next) => from = format!("&from={}", escape(next)),
            None => break,
        }
    }
    found.reverse();
    let root = &cell.room.root;
    cell.is_selection(&what, &found, |event| is_reply(event, root));
}

async fn threads(cell: &mut Cell<'_>) {
    let may = cell.sight.current.is_some();
    let answer = cell.get_v1("threads").await;
    let Some(body) = cell.told("threads", answer, may, &REFUSALS) else {
        return;
    };
    let found = cell.indices("threads", &body["chunk"]);
    let (events, root) = (&cell.room.history.events, &cell.room.root);
    let replies = |visible: &[usize]| -> Vec<usize> {
        let visible = visible.iter().copied();
        visible
            .filter(|index| is_reply(&events[*index], root))
            .collect()
    };
    let (until, beyond) = (
        replies(&cell.sight.visible),
        replies(&cell.sight.visible_beyond),
    );
    let root = cell.index_of(root).unwrap_or_default();
    let wanted = match sees_root(cell) && !beyond.is_empty() {
        true => vec![root],
        false => vec![],
    };
    if !(found.is_empty() && until.is_empty()) {
        cell.same("threads", &found, &wanted);
    }
    if let Some(thread) = body["chunk"].get(0) {
        let bundle = &thread["unsigned"]["m.relations"]["m.thread"];
        let latest = cell.indices("latest of thread", &json!([bundle["latest_event"]]));
        if latest.first() != beyond.last() {
            let newest: Vec<usize> = until.last().copied().into_iter().collect();
            cell.same("latest of thread", &latest, &newest);
        }
    }
}

async fn timestamp_to_event(cell: &mut Cell<'_>) {
    let may = cell.sight.current.is_some() && !cell.sight.visible.is_empty();
    for query in ["dir=f&ts=1", "dir=b&ts=99999999999999"] {
        let answer = cell.get_v1(&format!("timestamp_to_event?{query}")).await;
        let Some(body) = cell.told("timestamp_to_event", answer, may, &REFUSALS) else {
            continue;
        };
        let found = cell.indices("timestamp_to_event", &json!([body]));
        for index in found {
            let sees = cell.sight.seen[index];
            cell.expect(sees, format!("timestamp_to_event gives {index}"));
        }
    }
}

async fn hierarchy(cell: &mut Cell<'_>) {
    let may = cell.sight.knows_of_room(cell.room);
    let answer = cell.get_v1("hierarchy").await;
    if let Some(body) = told_from_outside(cell, "hierarchy", answer, may) {
        is_described(cell, "hierarchy", &body["rooms"][0]);
    }
}

async fn summary(cell: &mut Cell<'_>, path: &str) {
    let may = cell.sight.knows_of_room(cell.room);
    for name in [&cell.room.id, &cell.room.alias] {
        let path = path.replace("{}", &escape(name));
        let answer = cell.at(&format!("/_matrix/client/{path}")).await;
        if let Some(body) = told_from_outside(cell, "summary", answer, may) {
            is_described(cell, "summary", &body);
        }
    }
}

/// As [`Cell::told`], of what the room's name and topic are now.
fn told_from_outside(
    cell: &mut Cell<'_>,
    what: &str,
    answer: Option<Answer>,
    may: bool,
) -> Option<Value> {
    let answer = answer?;
    let status = answer.status.as_u16();
    let asked = match may {
        true => status == 200,
        false => REFUSALS.contains(&status),
    };
    cell.expect(asked, format!("{what} answers {status} {}", answer.text));
    let history = &cell.room.history;
    let current = history.state(history.events.len());
    for named in cell.words.named_in(&answer.body) {
        let kind = &*history.events[named.event].kind;
        let is_shown = ["m.room.name", "m.room.topic"].contains(&kind);
        let is_current = named.room == cell.room_index && current.contains(&named.event);
        cell.expect(
            may && is_shown && is_current,
            format!("{what} leaks event {} ({kind})", named.event),
        );
    }
    (may && status == 200).then_some(answer.body)
}

fn is_described(cell: &mut Cell<'_>, what: &str, told: &Value) {
    let history = &cell.room.history;
    let topic = history.held(history.events.len(), "m.room.topic", "");
    let topic = topic.map(|event| event.content["topic"].clone());
    let same = told["room_id"] == cell.room.id.as_str() && Some(&told["topic"]) == topic.as_ref();
    cell.expect(same, format!("{what} tells {told}"));
}

async fn room_initial_sync(cell: &mut Cell<'_>) {
    let current = cell.sight.current;
    let what = "initialSync of the room";
    let answer = cell.get("initialSync?limit=100").await;
    let Some(body) = cell.told(what, answer, current.is_some(), &[403]) else {
        return;
    };
    let found = cell.indices(what, &body["messages"]["chunk"]);
    cell.is_end_of_visible(what, &found, false);
    let found = cell.indices(what, &body["state"]);
    cell.is_state(what, found, current.unwrap_or_default());
}

async fn search(cell: &mut Cell<'_>) {
    let body = search_in(&cell.room.id, COMMON_WORD);
    let answer = cell.api.post("/_matrix/client/v3/search", body).await;
    let Some(answer) = open_to(cell.actor, answer) else {
        return;
    };
    // Only rooms that the user has been in are searched.
    let was_in = cell.sight.standing != Standing::Outside;
    if answer.status == 403 && !was_in {
        return;
    }
    let Some(body) = cell.told("search", Some(answer), true, &[]) else {
        return;
    };
    let results = &body["search_categories"]["room_events"]["results"];
    let results = results.as_array().into_iter().flatten();
    let results: Vec<Value> = results.map(|result| result["result"].clone()).collect();
    let mut found = cell.indices("search", &json!(results));
    found.sort_unstable();
    cell.is_selection("search", &found, |event| {
        was_in && event.kind == "m.room.message"
    });
}
