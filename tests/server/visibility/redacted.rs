//! Synapse PR 6553: `/context` gave the original of a redacted event. What was
//! redacted is nowhere to be read any more, by whichever endpoint, in whatever
//! field.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cell::search_in;
use super::{SEARCH, SEARCH_MAX, table};
use crate::harness::{Api, Server, escape};
use crate::rooms::of_room;

const SLIDING: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
/// Begins every word that is redacted.
const SECRET: &str = "secret";

/// A room with secrets of every kind in it, and the ids of their events.
struct Told {
    room: String,
    alias: String,
    secrets: Vec<String>,
}

async fn tell(alice: &Api, bob: &Api) -> Told {
    let body = json!({
        "preset": "public_chat", "visibility": "public", "room_alias_name": "told",
        "name": "Told",
    });
    let room = alice.create_room(body).await;
    let mut secrets = Vec::new();
    let mut say = async |name: &str, relation: Option<Value>| -> String {
        let mut content = json!({
            "msgtype": "m.text", "body": format!("{SECRET} {name}"),
            "m.mentions": { "user_ids": [bob.user_id] },
        });
        if let Some(relation) = relation {
            content["m.new_content"] = json!({ "msgtype": "m.text", "body": SECRET });
            content["m.relates_to"] = relation;
        }
        let event = alice.send(&room, name, content).await;
        secrets.push(event.clone());
        event
    };
    let join = json!({ "reason": format!("{SECRET} reason") });
    bob.post(&of_room(&room, "join"), join).await.ok();
    let root = alice.send_text(&room, "the root stays").await;
    say("message", None).await;
    let thread = json!({ "rel_type": "m.thread", "event_id": root });
    say("reply", Some(thread)).await;
    let edit = json!({ "rel_type": "m.replace", "event_id": root });
    say("edit", Some(edit)).await;
    for (kind, content) in [
        (
            "m.room.topic",
            json!({ "topic": format!("{SECRET} topic") }),
        ),
        ("m.room.name", json!({ "name": format!("{SECRET} name") })),
        ("org.example.list", json!({ "list": [SECRET] })),
    ] {
        let path = of_room(&room, &format!("state/{kind}"));
        let sent = alice.put(&path, content).await.ok();
        secrets.push(sent["event_id"].as_str().expect("an id").to_owned());
    }
    let member = of_room(
        &room,
        &format!("state/m.room.member/{}?format=event", escape(&bob.user_id)),
    );
    let member = alice.get(&member).await.ok();
    secrets.push(member["event_id"].as_str().expect("an id").to_owned());
    Told {
        room,
        alias: "#told:hs.test".to_owned(),
        secrets,
    }
}

async fn redact_all(alice: &Api, told: &Told) {
    for event in &told.secrets {
        let path = of_room(&told.room, &format!("redact/{}/t", escape(event)));
        alice.put(&path, json!({})).await.ok();
    }
    // What replaces a redacted piece of state tells what it replaced.
    for (kind, content) in [
        ("m.room.topic", json!({ "topic": "clean" })),
        ("org.example.list", json!({ "list": [] })),
    ] {
        let path = of_room(&told.room, &format!("state/{kind}"));
        alice.put(&path, content).await.ok();
    }
}

/// Every path that can be asked with GET, about every one of the events.
fn questions(told: &Told, user: &str) -> Vec<String> {
    let mut questions = Vec::new();
    for path in table::all_paths() {
        let path = path
            .replace("{userId}", &escape(user))
            .replace("{roomId}", &escape(&told.room))
            .replace("{roomIdOrAlias}", &escape(&told.room))
            .replace("{roomAlias}", &escape(&told.alias))
            .replace("{stateKey}", "")
            .replace("{type}", "m.direct")
            .replace("{relType}", "m.thread")
            .replace("{keyName}", "displayname");
        let query = match path.rsplit('/').next() {
            Some("messages") => "?dir=f&limit=100",
            Some("sync" | "events") => "?timeout=0",
            Some("timestamp_to_event") => "?ts=1&dir=f",
            Some("mutual_rooms") => "?user_id=%40bob%3Ahs.test",
            _ => "",
        };
        if path.contains("{eventId}") {
            let events = told.secrets.iter();
            let paths = events.map(|event| path.replace("{eventId}", &escape(event)));
            questions.extend(paths.map(|path| path.replace("{eventType}", "m.room.message")));
        } else if path.contains("{eventType}") {
            for kind in ["m.room.topic", "m.room.name", "org.example.list"] {
                questions.push(path.replace("{eventType}", kind));
            }
        } else {
            questions.push(format!("{path}{query}"));
        }
    }
    questions
}

fn holds_no_secret(what: &str, answer: &str) {
    assert!(!answer.contains(SECRET), "{what} tells {answer}");
}

async fn slide(api: &Api, room: &str, pos: Option<&str>) -> Value {
    let pos = pos.map_or(String::new(), |pos| format!("&pos={}", escape(pos)));
    let rule = json!({ "required_state": [["*", "*"]], "timeline_limit": 50 });
    let body = json!({ "room_subscriptions": { room: rule } });
    let path = format!("{SLIDING}?timeout=0{pos}");
    api.post(&path, body).await.ok()
}

/// Waits until search has come to the end of the room, and asks for the secrets.
async fn searches_in_vain(api: &Api, room: &str) {
    let last = "ultimate";
    api.send_text(room, last).await;
    let begun = Instant::now();
    loop {
        let answer = api.post(SEARCH, search_in(room, last)).await.ok();
        let found = &answer["search_categories"]["room_events"]["results"];
        if found.as_array().is_some_and(|found| !found.is_empty()) {
            break;
        }
        assert!(begun.elapsed() < SEARCH_MAX, "search does not follow");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let answer = api.post(SEARCH, search_in(room, SECRET)).await.ok();
    let found = &answer["search_categories"]["room_events"];
    assert_eq!(found["results"], json!([]), "{answer}");
    assert_eq!(found["count"], 0, "{answer}");
}

#[tokio::test]
async fn synapse_pr_6553_what_was_redacted_is_nowhere_to_be_read() {
    let server = Server::builder().start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let before = alice.sync("timeout=0").await;
    let before = before["next_batch"].as_str().expect("a token");
    let told = tell(&alice, &bob).await;
    let between = alice.sync("timeout=0").await;
    assert!(between.to_string().contains(SECRET));
    let between = between["next_batch"].as_str().expect("a token");
    let slid = slide(&alice, &told.room, None).await;
    assert!(slid.to_string().contains(SECRET));
    redact_all(&alice, &told).await;

    for since in [before, between] {
        for more in ["", "&full_state=true", "&use_state_after=true"] {
            let query = format!("timeout=0&since={since}{more}");
            let answer = alice.sync(&query).await;
            holds_no_secret(&format!("sync?{query}"), &answer.to_string());
        }
    }
    // A connection goes on before it begins anew.
    for pos in [slid["pos"].as_str(), None] {
        let answer = slide(&alice, &told.room, pos).await;
        holds_no_secret("sliding sync", &answer.to_string());
    }
    for api in [&alice, &bob] {
        for question in questions(&told, &api.user_id) {
            let answer = api.get(&question).await;
            let is_there = answer.status.as_u16() < 500;
            assert!(is_there, "{question} answers {}", answer.text);
            holds_no_secret(&question, &answer.text);
        }
    }
    for event in &told.secrets {
        let path = of_room(&told.room, &format!("event/{}", escape(event)));
        let shown = bob.get(&path).await.ok();
        let why = &shown["unsigned"]["redacted_because"];
        assert_eq!(why["type"], "m.room.redaction", "{shown}");
    }
    if table::has_path(SEARCH) {
        searches_in_vain(&alice, &told.room).await;
    }
}
