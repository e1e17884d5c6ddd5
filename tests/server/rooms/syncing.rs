//! `/sync` over HTTP: each section and parameter, as the specification has it.

use serde_json::{Value, json};

use super::{act, of_room, two_users};
use crate::harness::{Api, escape};
use crate::users::{of_user, set_state};

/// One answer: what is new since a token, with further parameters.
async fn since(api: &Api, token: &Value, rest: &str) -> Value {
    let token = escape(token.as_str().unwrap());
    api.sync(&format!("timeout=0&since={token}{rest}")).await
}

async fn filtered(api: &Api, filter: Value) -> Value {
    let filter = escape(&filter.to_string());
    api.sync(&format!("timeout=0&filter={filter}")).await
}

/// A field of each event of a section.
fn each(section: &Value, field: &str) -> Vec<Value> {
    let events = section["events"].as_array().unwrap().iter();
    events.map(|event| event[field].clone()).collect()
}

/// The same of a field of their content.
fn content(section: &Value, field: &str) -> Vec<Value> {
    let contents = each(section, "content").into_iter();
    contents.map(|content| content[field].clone()).collect()
}

#[tokio::test]
async fn a_gap_is_bridged_by_state_and_filled_by_messages() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let first = alice.sync("timeout=0").await;
    let known = &first["next_batch"];
    let mut sent = Vec::new();
    for number in 0..6 {
        sent.push(bob.send_text(&room, &number.to_string()).await);
    }
    let bobby = json!({ "membership": "join", "displayname": "Bobby" });
    let bobs = format!("m.room.member/{}", escape(&bob.user_id));
    set_state(&bob, &room, &bobs, bobby).await;
    set_state(&alice, &room, "m.room.topic", json!({ "topic": "gone" })).await;
    set_state(&alice, &room, "m.room.topic", json!({ "topic": "here" })).await;
    for number in 6..18 {
        sent.push(bob.send_text(&room, &number.to_string()).await);
    }

    for lazy in [false, true] {
        let filter = json!({ "room": { "state": { "lazy_load_members": lazy } } });
        let filter = escape(&filter.to_string());
        let told = since(&alice, known, &format!("&filter={filter}")).await;
        let told = &told["rooms"]["join"][&room];
        let timeline = &told["timeline"];
        assert_eq!(timeline["limited"], true);
        assert_eq!(each(timeline, "event_id"), sent[8..]);
        // What changed in the gap: lazy loading hides no change.
        let state = &told["state"];
        assert_eq!(each(state, "type"), ["m.room.member", "m.room.topic"]);
        assert_eq!(state["events"][0]["content"]["displayname"], "Bobby");
        assert_eq!(state["events"][1]["content"]["topic"], "here");
        // From the one token to the other lies exactly what was left out.
        let page = format!(
            "messages?dir=f&limit=100&from={}&to={}",
            escape(known.as_str().unwrap()),
            escape(timeline["prev_batch"].as_str().unwrap())
        );
        let page = alice.get(&of_room(&room, &page)).await.ok();
        let gap = json!({ "events": page["chunk"] });
        let messages = each(&gap, "type").into_iter().zip(each(&gap, "event_id"));
        let messages = messages.filter(|(kind, _)| kind == "m.room.message");
        assert!(messages.map(|(_, id)| id).eq(sent[..8].iter().cloned()));
        assert!(page.get("end").is_none(), "there is nothing behind `to`");
    }

    // All state, whatever the client knows, and no waiting for it.
    let query = format!(
        "since={}&full_state=true&timeout=60000",
        escape(known.as_str().unwrap())
    );
    let all = alice.sync(&query).await;
    let state = &all["rooms"]["join"][&room]["state"];
    assert!(each(state, "type").contains(&json!("m.room.create")));
    assert!(content(state, "topic").contains(&json!("here")));
    // Or only what changed, up to the end of the timeline.
    let after = since(&alice, known, "&use_state_after=true").await;
    let told = &after["rooms"]["join"][&room];
    assert!(told.get("state").is_none());
    assert_eq!(
        each(&told["state_after"], "type"),
        ["m.room.member", "m.room.topic"]
    );
    let nothing = since(&alice, &after["next_batch"], "").await;
    assert_eq!(nothing["rooms"]["join"], json!({}));
}

#[tokio::test]
async fn filters_choose_what_is_told() {
    let (_server, alice, bob) = two_users().await;
    let room = alice
        .create_room(json!({ "preset": "public_chat", "name": "Tea" }))
        .await;
    let other = alice.create_room(json!({})).await;
    bob.join(&room).await.ok();
    alice.send_text(&room, "one").await;
    let image = json!({ "msgtype": "m.image", "body": "i", "url": "mxc://hs.test/a" });
    alice.send(&room, "image", image).await;
    let last = bob.send_text(&room, "last").await;
    for kind in ["org.example.a", "org.example.b"] {
        let global = of_user(&alice, &format!("account_data/{kind}"));
        alice.put(&global, json!({})).await.ok();
        let path = format!("rooms/{}/account_data/{kind}", escape(&room));
        alice.put(&of_user(&alice, &path), json!({})).await.ok();
    }

    // Rooms, also those of one section alone.
    for filter in [
        json!({ "rooms": [] }),
        json!({ "not_rooms": [room, other] }),
    ] {
        let told = filtered(&alice, json!({ "room": filter })).await;
        assert_eq!(told["rooms"]["join"], json!({}));
        assert!(each(&told["account_data"], "type").contains(&json!("org.example.a")));
    }
    let only = json!({ "room": { "rooms": [room, other], "not_rooms": [other] } });
    let told = filtered(&alice, only).await;
    assert!(
        told["rooms"]["join"]
            .as_object()
            .unwrap()
            .keys()
            .eq([&room])
    );

    let timeline = async |filter: Value| {
        let told = filtered(&alice, json!({ "room": { "timeline": filter } })).await;
        told["rooms"]["join"][&room]["timeline"].clone()
    };
    let elsewhere = timeline(json!({ "rooms": [other] })).await;
    assert_eq!(elsewhere["events"], json!([]));
    let messages = timeline(json!({ "types": ["m.room.mess*"] })).await;
    assert_eq!(content(&messages, "body"), ["one", "i", "last"]);
    assert_eq!(messages["limited"], false);
    let none = timeline(json!({ "types": [] })).await;
    assert_eq!(none["events"], json!([]));
    let state = timeline(json!({ "not_types": ["m.room.message", "m.room.member"] })).await;
    assert!(!each(&state, "type").contains(&json!("m.room.member")));
    let bobs = timeline(json!({ "senders": [bob.user_id] })).await;
    assert_eq!(each(&bobs, "type"), ["m.room.member", "m.room.message"]);
    let alices = timeline(json!({ "not_senders": [bob.user_id], "limit": 2 })).await;
    assert_eq!(content(&alices, "body"), ["one", "i"]);
    assert_eq!(alices["limited"], true);
    let with_url = timeline(json!({ "contains_url": true })).await;
    assert_eq!(content(&with_url, "body"), ["i"]);
    let without = timeline(json!({ "contains_url": false, "limit": 2 })).await;
    assert_eq!(content(&without, "body"), ["one", "last"]);

    let named = json!({ "room": {
        "timeline": { "limit": 1 }, "state": { "types": ["m.room.name"] },
        "account_data": { "not_types": ["org.example.a"] },
    }, "account_data": { "types": ["org.example.b"] } });
    let told = filtered(&alice, named).await;
    assert_eq!(each(&told["account_data"], "type"), ["org.example.b"]);
    let told = &told["rooms"]["join"][&room];
    assert_eq!(content(&told["state"], "name"), ["Tea"]);
    assert_eq!(each(&told["account_data"], "type"), ["org.example.b"]);
    assert_eq!(each(&told["timeline"], "event_id"), [json!(last)]);

    // The form of events.
    let fields = json!({
        "event_fields": ["content.body", "sender"], "room": { "timeline": { "limit": 1 } },
    });
    let told = filtered(&alice, fields).await;
    let events = &told["rooms"]["join"][&room]["timeline"]["events"];
    let expected = json!([{ "content": { "body": "last" }, "sender": bob.user_id }]);
    assert_eq!(*events, expected);
    let raw = json!({ "event_format": "federation", "room": { "timeline": { "limit": 1 } } });
    let told = filtered(&alice, raw).await;
    let event = &told["rooms"]["join"][&room]["timeline"]["events"][0];
    for field in [
        "auth_events",
        "prev_events",
        "depth",
        "hashes",
        "signatures",
    ] {
        assert!(event.get(field).is_some(), "{field}");
    }

    // The same by the id of a stored filter.
    let stored = json!({ "room": { "rooms": [] } });
    let path = of_user(&alice, "filter");
    let id = alice.post(&path, stored).await.ok()["filter_id"].clone();
    let query = format!("timeout=0&filter={}", escape(id.as_str().unwrap()));
    assert_eq!(alice.sync(&query).await["rooms"]["join"], json!({}));
    for wrong in [
        "filter=unknown",
        "filter=%7B",
        "filter=%7B%22room%22%3A1%7D",
        "since=unknown",
        "timeout=-1",
        "timeout=soon",
        "full_state=maybe",
        "set_presence=busy",
    ] {
        let path = format!("/_matrix/client/v3/sync?{wrong}");
        alice.get(&path).await.refused(400, "M_INVALID_PARAM");
    }
}

#[tokio::test]
async fn rooms_move_between_sections() {
    let (_server, alice, bob) = two_users().await;
    let rules = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
    let room = alice
        .create_room(json!({ "name": "Club", "initial_state": [rules] }))
        .await;
    let sections = |answer: &Value| -> Vec<String> {
        let rooms = answer["rooms"].as_object().unwrap().iter();
        let holding = rooms.filter(|(_, rooms)| rooms.get(&room).is_some());
        holding.map(|(section, _)| section.clone()).collect()
    };
    let first = bob.sync("timeout=0").await;
    assert!(sections(&first).is_empty());

    let knock = format!("/_matrix/client/v3/knock/{}", escape(&room));
    bob.post(&knock, json!({ "reason": "please" })).await.ok();
    let knocked = since(&bob, &first["next_batch"], "").await;
    assert_eq!(sections(&knocked), ["knock"]);
    let state = &knocked["rooms"]["knock"][&room]["knock_state"];
    let kinds = each(state, "type");
    for kind in ["m.room.create", "m.room.name", "m.room.join_rules"] {
        assert!(kinds.contains(&json!(kind)), "{kind}");
    }
    assert!(content(state, "reason").contains(&json!("please")));
    for field in ["event_id", "origin_server_ts", "unsigned"] {
        assert!(each(state, field).iter().all(Value::is_null), "{field}");
    }

    act(&alice, &room, "invite", Some(&bob)).await.ok();
    let invited = since(&bob, &knocked["next_batch"], "").await;
    assert_eq!(sections(&invited), ["invite"]);
    let state = &invited["rooms"]["invite"][&room]["invite_state"];
    assert!(each(state, "type").contains(&json!("m.room.create")));
    assert!(content(state, "reason").contains(&json!("because")));

    bob.join(&room).await.ok();
    let joined = since(&bob, &invited["next_batch"], "").await;
    assert_eq!(sections(&joined), ["join"]);
    let told = &joined["rooms"]["join"][&room];
    assert_eq!(told["summary"]["m.joined_member_count"], 2);
    assert_eq!(told["summary"]["m.invited_member_count"], 0);
    let own = told["timeline"]["events"].as_array().unwrap().last();
    assert_eq!(own.unwrap()["content"]["membership"], "join");

    act(&alice, &room, "ban", Some(&bob)).await.ok();
    alice.send_text(&room, "without Bob").await;
    let banned = since(&bob, &joined["next_batch"], "").await;
    assert_eq!(sections(&banned), ["leave"]);
    let timeline = &banned["rooms"]["leave"][&room]["timeline"];
    assert_eq!(content(timeline, "membership"), ["ban"]);
    assert_eq!(
        timeline["events"][0]["unsigned"]["prev_content"]["membership"],
        "join"
    );
    // Told once; in a first sync only to who asks.
    assert!(sections(&since(&bob, &banned["next_batch"], "").await).is_empty());
    assert!(sections(&bob.sync("timeout=0").await).is_empty());
    let archived = filtered(&bob, json!({ "room": { "include_leave": true } })).await;
    assert_eq!(sections(&archived), ["leave"]);
    assert!(!archived.to_string().contains("without Bob"));
    act(&bob, &room, "forget", None).await.ok();
    let archived = filtered(&bob, json!({ "room": { "include_leave": true } })).await;
    assert!(sections(&archived).is_empty());
}

#[tokio::test]
async fn each_device_is_told_its_own_transactions() {
    let (server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let mut phone = server.api();
    let login = json!({
        "type": "m.login.password", "password": crate::harness::password("alice"),
        "identifier": { "type": "m.id.user", "user": "alice" },
    });
    let answer = phone.post("/_matrix/client/v3/login", login).await.ok();
    phone.token = answer["access_token"].as_str().map(str::to_owned);
    let content = json!({ "msgtype": "m.text", "body": "hello" });
    let sent = alice.send(&room, "txn 1", content).await;
    for (api, txn) in [
        (&alice, json!("txn 1")),
        (&phone, Value::Null),
        (&bob, Value::Null),
    ] {
        let synced = api.sync("timeout=0").await;
        let events = &synced["rooms"]["join"][&room]["timeline"]["events"];
        let event = events.as_array().unwrap().last().unwrap();
        assert_eq!(event["event_id"], sent.as_str());
        assert_eq!(event["unsigned"]["transaction_id"], txn);
        assert_eq!(event["unsigned"]["membership"], "join");
        assert!(event["unsigned"]["age"].is_u64());
        let path = of_room(&room, &format!("event/{}", escape(&sent)));
        let alone = api.get(&path).await.ok();
        assert_eq!(alone["unsigned"]["transaction_id"], txn);
    }
}
