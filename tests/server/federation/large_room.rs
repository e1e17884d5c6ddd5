//! A room of many members, joined through us: the answer is written piece by
//! piece, whatever its size.

use std::time::Instant;

use engram::clock::now_ms;
use engram::matrix::RoomVersion;
use engram::matrix::build::{ProtoEvent, build_and_sign};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde_json::{Value, json};

use super::fake::object;
use super::guest::transaction;
use super::visitor::{CAROL, Scene, events, scene};
use crate::harness::{Api, escape};

/// Several times what is written at once.
const MEMBERS: usize = 400;

/// Fills a public room of version 11 with users of `c.test`, by transactions.
async fn fill(scene: &Scene, room: &str) {
    let c = &scene.c.fake;
    let path = format!("/_matrix/client/v3/rooms/{}", escape(room));
    let state = scene.alice.get(&format!("{path}/state")).await.ok();
    let state = state.as_array().expect("a list");
    let of_kind = |kind: &str| {
        let event = state.iter().find(|event| event["type"] == kind).unwrap();
        OwnedEventId::try_from(event["event_id"].as_str().unwrap()).unwrap()
    };
    let kinds = ["m.room.create", "m.room.power_levels", "m.room.join_rules"];
    let cited: Vec<_> = kinds.map(|kind| of_kind(kind).into()).to_vec();
    let mut tip = last_event(&scene.alice, room).await;
    let users: Vec<usize> = (0..MEMBERS).collect();
    for (transaction_index, users) in users.chunks(50).enumerate() {
        let mut pdus = Vec::new();
        for number in users {
            let user = format!("@user{number}:c.test");
            let proto = ProtoEvent {
                room_id: Some(OwnedRoomId::try_from(room).unwrap()),
                sender: OwnedUserId::try_from(&*user).unwrap(),
                kind: "m.room.member".into(),
                state_key: Some(user.into()),
                content: object(&json!({ "membership": "join", "displayname": "Somebody" })),
                redacts: None,
                prev_events: vec![tip.into()],
                auth_events: cited.clone(),
                depth: 100 + (50 * transaction_index + number) as u64,
                origin_server_ts: now_ms(),
                event_localpart: None,
            };
            let built = build_and_sign(RoomVersion::V11, proto, &c.name, &c.key).unwrap();
            tip = built.event_id.clone();
            pdus.push(serde_json::from_slice::<Value>(&built.json).unwrap());
        }
        let (status, answer) = transaction(c, json!(pdus), json!([])).await;
        assert_eq!(status, 200, "{answer}");
    }
}

async fn last_event(alice: &Api, room: &str) -> OwnedEventId {
    let path = format!(
        "/_matrix/client/v3/rooms/{}/messages?dir=b&limit=1",
        escape(room)
    );
    let page = alice.get(&path).await.ok();
    OwnedEventId::try_from(page["chunk"][0]["event_id"].as_str().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_of_many_members_is_joined() {
    let scene = scene().await;
    let body = json!({ "preset": "public_chat", "room_version": "11", "name": "Large" });
    let room = scene.alice.create_room(body).await;
    fill(&scene, &room).await;
    let begun = Instant::now();
    let answer = scene.c.join(&room, CAROL).await;
    println!("joined a room of {MEMBERS} in {:?}", begun.elapsed());
    let state = events(RoomVersion::V11, &answer["state"]);
    let members = state.iter().filter(|pdu| &*pdu.kind == "m.room.member");
    assert_eq!(members.count(), MEMBERS + 1);
    let chain = events(RoomVersion::V11, &answer["auth_chain"]);
    let known = |id: &OwnedEventId| chain.iter().any(|pdu| pdu.event_id == *id);
    assert!(state.iter().all(|pdu| pdu.auth_events.iter().all(known)));
    // The same of `/state`, as of the last event, and by ids.
    let last = escape(last_event(&scene.alice, &room).await.as_str());
    let room = escape(&room);
    let uri = format!("/_matrix/federation/v1/state/{room}?event_id={last}");
    let (status, at_last) = scene.c.get(&uri).await;
    assert_eq!(status, 200);
    assert_eq!(
        events(RoomVersion::V11, &at_last["pdus"]).len(),
        state.len()
    );
    let uri = format!("/_matrix/federation/v1/state_ids/{room}?event_id={last}");
    let begun = Instant::now();
    let (status, ids) = scene.c.get(&uri).await;
    println!("state_ids in {:?}", begun.elapsed());
    assert_eq!(status, 200);
    assert_eq!(ids["pdu_ids"].as_array().unwrap().len(), state.len());
}
