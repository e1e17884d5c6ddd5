//! A room with thousands of members is joined in seconds, and is whole then.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::Request;
use axum::response::Response;
use engram::crypto::ServerKey;
use engram::matrix::RoomVersion;
use engram::matrix::canonical_json::{parse_object, to_bytes};
use engram::matrix::event::Pdu;
use engram::matrix::signing::hash_and_sign_event;
use http::StatusCode;
use serde_json::{Value, json};

use super::Neighbourhood;
use super::elsewhere::join_by;
use super::fake::{FAR, Fake, answer, object, own_keys};
use crate::harness::escape;

const ROOM: &str = "!large:c.test";
const BOB: &str = "@bob:b.test";

/// More than one fold takes on at a time: the room waits for work done aside.
/// Another number is for who measures.
fn members() -> usize {
    let set = std::env::var("ENGRAM_LARGE_MEMBERS").ok();
    set.and_then(|set| set.parse().ok()).unwrap_or(10_000)
}

/// The most memory that a process had, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let value = line.unwrap().split_whitespace().nth(1);
    value.unwrap().parse().unwrap()
}

/// A room that was made up: its state, and what the next event cites.
struct Room {
    /// The answer to a join, as it is sent.
    joined: String,
    template: Value,
}

fn room() -> Room {
    let key = ServerKey::from_seed([3; 32], "fake");
    let version = RoomVersion::V11;
    let mut last: Vec<String> = Vec::new();
    let mut depth = 0;
    let mut made = |kind: &str, key_of: &str, sender: &str, content: Value, auth: &[&String]| {
        depth += 1;
        let mut event = object(&json!({
            "type": kind, "state_key": key_of, "sender": sender, "room_id": ROOM,
            "content": content, "prev_events": last, "auth_events": auth, "depth": depth,
            "origin_server_ts": 1_700_000_000_000_u64 + depth,
        }));
        let server = ruma::server_name!("c.test");
        hash_and_sign_event(version, &mut event, server, &key);
        let id = Pdu::from_object(version, event.clone())
            .unwrap()
            .event_id
            .to_string();
        last = vec![id.clone()];
        (id, String::from_utf8(to_bytes(&event)).unwrap())
    };
    let carol = "@carol:c.test";
    let member = |who: &str| (who.to_owned(), json!({ "membership": "join" }));
    let create = json!({ "room_version": "11" });
    let (create, first) = made("m.room.create", "", carol, create, &[]);
    let mut state = vec![first];
    let (_, joins) = member(carol);
    let (own, event) = made("m.room.member", carol, carol, joins, &[&create]);
    state.push(event);
    let levels = json!({ "users": { carol: 100 } });
    let (levels, event) = made("m.room.power_levels", "", carol, levels, &[&create, &own]);
    state.push(event);
    let rule = json!({ "join_rule": "public" });
    let (rule, event) = made(
        "m.room.join_rules",
        "",
        carol,
        rule,
        &[&create, &levels, &own],
    );
    state.push(event);
    for number in 0..members() {
        let (who, content) = member(&format!("@member{number}:c.test"));
        let cited = [&create, &levels, &rule];
        state.push(made("m.room.member", &who, &who, content, &cited).1);
    }
    let template = json!({ "room_version": "11", "event": {
        "type": "m.room.member", "room_id": ROOM, "sender": BOB, "state_key": BOB,
        "content": { "membership": "join" }, "depth": depth + 1,
        "prev_events": last, "auth_events": [create, levels, rule],
    }});
    let chain = state[..4].join(",");
    Room {
        joined: format!(
            r#"{{"state":[{}],"auth_chain":[{chain}]}}"#,
            state.join(",")
        ),
        template,
    }
}

fn told(room: &Room, request: &Request) -> Response {
    let ok = |body: Vec<u8>| answer(StatusCode::OK, body);
    let path = request.uri().path();
    if path == "/_matrix/key/v2/server" {
        let keys = own_keys("c.test", &ServerKey::from_seed([3; 32], "fake"), FAR);
        return ok(to_bytes(&keys));
    }
    if path.contains("/make_join/") {
        return ok(room.template.to_string().into_bytes());
    }
    if path.contains("/send_join/") {
        return ok(room.joined.clone().into_bytes());
    }
    answer(
        StatusCode::NOT_FOUND,
        br#"{"errcode":"M_NOT_FOUND"}"#.to_vec(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_of_thousands_is_joined_in_seconds() {
    let room = Arc::new(room());
    assert!(parse_object(room.joined.as_bytes()).is_ok());
    let neighbourhood = Neighbourhood::new();
    let b = neighbourhood.builder("b.test").start().await;
    let bob = b.register("bob").await;
    let c = Fake::start(&neighbourhood, "c.test", move |request: Request| {
        std::future::ready(told(&room, &request))
    });
    let _c = c.await;
    let (began, peak) = (Instant::now(), peak_kib(b.pid()));
    // Whoever asks for the same join waits for it.
    let joins = [join_by(&bob, ROOM, "c.test"), join_by(&bob, ROOM, "c.test")];
    for answer in futures_util::future::join_all(joins).await {
        answer.ok();
    }
    let took = began.elapsed();
    let members = members();
    let peak = (peak / 1024, peak_kib(b.pid()) / 1024);
    println!("{members} members: joined in {took:?}, most memory {peak:?} MiB");
    assert!(took.as_secs() < 60, "{took:?}");
    let path = format!("/_matrix/client/v3/rooms/{}/joined_members", escape(ROOM));
    let joined = bob.get(&path).await.ok();
    assert_eq!(joined["joined"].as_object().unwrap().len(), members + 2);
    let synced = bob.sync("").await;
    let summary = &synced["rooms"]["join"][ROOM]["summary"];
    assert_eq!(summary["m.joined_member_count"], members + 2, "{summary}");
    assert_eq!(
        b.output()
            .matches("joining a room of other servers")
            .count(),
        1
    );
    bob.send_text(ROOM, "hello").await;
}
