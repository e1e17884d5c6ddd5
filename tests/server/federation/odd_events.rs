//! Events that other homeservers stumbled over, from one end to the other: what
//! is taken in is passed on as it came, and what a room does not allow it does
//! not get (docs/security-tests.md).

use engram::matrix::RoomVersion;
use engram::matrix::canonical_json::{CanonicalJsonObject, to_bytes};
use engram::matrix::event::Pdu;
use engram::matrix::signing::hash_and_sign_event;
use reqwest::Method;
use serde_json::{Value, json};

use super::Neighbourhood;
use super::fake::{Fake, object};
use super::guest::{Guest, edu, transaction};
use super::library::Library;
use super::receiving::{public_room, texts};
use super::visitor::{CAROL, Scene, scene};
use crate::harness::{Api, escape};

const V1: &str = "/_matrix/federation/v1";

/// An event as its server would send it if it had been made so: hashed and signed
/// again, with the id that it has now.
fn resigned(guest: &Guest<'_>, version: RoomVersion, json: &Value) -> (String, Value) {
    let mut event = object(json);
    event.remove("signatures");
    event.remove("hashes");
    hash_and_sign_event(version, &mut event, &guest.fake.name, &guest.fake.key);
    let pdu = Pdu::from_object(version, event.clone()).expect("an event");
    (pdu.event_id.to_string(), value(&event))
}

fn value(event: &CanonicalJsonObject) -> Value {
    serde_json::from_slice(&to_bytes(event)).expect("JSON")
}

/// Sends one event, and what is said of it.
async fn result(fake: &Fake, id: &str, event: &Value) -> Value {
    let (status, answer) = transaction(fake, json!([event]), json!([])).await;
    assert_eq!(status, 200, "{answer}");
    answer["pdus"][id].clone()
}

/// What the server gives of an event to another one, without what it adds.
async fn given(fake: &Fake, id: &str) -> (u16, Value) {
    let uri = format!("{V1}/event/{}", escape(id));
    let (status, answer) = fake.get("a.test", &uri).await;
    let mut event = answer["pdus"][0].clone();
    if let Some(event) = event.as_object_mut() {
        event.remove("unsigned");
    }
    (status, event)
}

/// Server-server API, *Checks performed on receipt of a PDU*: keys that nobody
/// here knows stay, since the hash is over them.
#[tokio::test(flavor = "multi_thread")]
async fn spec_checks_on_receipt_what_nobody_knows_is_kept_and_sent_on() {
    let Scene { alice, c, .. } = &scene().await;
    for version in RoomVersion::all() {
        let room = public_room(alice, version.as_str()).await;
        let guest = Guest::enter(&c.fake, alice, &room, "carol").await;
        let mut odd = guest.aside("org.example.odd", None, json!({}));
        odd.json["content"] = json!({
            "": { "b": [null, true, -9_007_199_254_740_991_i64], "a": "\u{7f}\u{2028}\\" },
            "\u{10ffff}": [], "membership": 7, "m.relates_to": { "event_id": [] },
        });
        odd.json["org.example.more"] = json!({ "z": 1, "a": [{}] });
        odd.json["origin"] = json!("elsewhere.test");
        odd.json["state_hash"] = json!([1]);
        let (id, event) = resigned(&guest, version, &odd.json);
        assert_eq!(result(&c.fake, &id, &event).await, json!({}), "{version}");
        assert_eq!(given(&c.fake, &id).await, (200, event.clone()), "{version}");
        let uri = format!("{V1}/backfill/{}?v={}&limit=1", escape(&room), escape(&id));
        let (status, mut filled) = c.get(&uri).await;
        assert_eq!(status, 200, "{version} {filled}");
        filled["pdus"][0]
            .as_object_mut()
            .unwrap()
            .remove("unsigned");
        assert_eq!(filled["pdus"][0], event, "{version}");
    }
}

/// What got into a room of an old version, numbers that later ones refuse among
/// it, is given to whoever joins, and no obstacle to what follows.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2025_30355_what_is_taken_can_be_sent() {
    let Scene { alice, c, .. } = &scene().await;
    for version in [RoomVersion::V1, RoomVersion::V5] {
        let body = json!({
            "preset": "public_chat", "room_version": version.as_str(),
            "power_level_content_override": { "state_default": 0, "users_default": 1 },
        });
        let room = alice.create_room(body).await;
        let guest = Guest::enter(&c.fake, alice, &room, "carol").await;
        let mut odd = guest.aside("org.example.odd", Some(""), json!({}));
        odd.json["content"] =
            serde_json::from_str(r#"{"n":[1.5,-0.0,1e300,9007199254740993,-1e-300],"body":"x"}"#)
                .unwrap();
        let (id, event) = resigned(&guest, version, &odd.json);
        assert_eq!(result(&c.fake, &id, &event).await, json!({}), "{version}");
        assert_eq!(given(&c.fake, &id).await, (200, event.clone()), "{version}");
        // Whoever joins now is given it, and can build on what is there.
        let answer = c.join(&room, "@dave:c.test").await;
        let state = answer["state"].as_array().unwrap().iter();
        let told: Vec<&Value> = state
            .filter(|told| told["type"] == "org.example.odd")
            .collect();
        assert_eq!(told.len(), 1, "{version}");
        assert_eq!(told[0]["content"], event["content"], "{version}");
        alice.send_text(&room, "goes on").await;
        c.leave(&room, "@dave:c.test").await;
        assert_eq!(texts(alice, &room).await.last().unwrap(), "goes on");
    }
}

/// A redaction that came from elsewhere, by who has no power for it.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2024_6302_a_redaction_without_power_takes_nothing_away() {
    let Scene { alice, c, .. } = &scene().await;
    for version in RoomVersion::all() {
        let room = public_room(alice, version.as_str()).await;
        let said = alice.send_text(&room, "here to stay").await;
        let guest = Guest::enter(&c.fake, alice, &room, "carol").await;
        let mut redaction = guest.aside("m.room.redaction", None, json!({}));
        match version >= RoomVersion::V11 {
            true => redaction.json["content"]["redacts"] = json!(said),
            false => redaction.json["redacts"] = json!(said),
        }
        let (id, event) = resigned(&guest, version, &redaction.json);
        // Up to version 2 the rules refuse it, later it has no effect.
        assert_eq!(result(&c.fake, &id, &event).await, json!({}), "{version}");
        let given = given(&c.fake, &said).await.1;
        assert_eq!(given["content"]["body"], "here to stay", "{version}");
        assert_eq!(texts(alice, &room).await, ["here to stay"], "{version}");
    }
}

/// The version is the room's, whatever an event says or looks like.
#[tokio::test(flavor = "multi_thread")]
async fn continuwuity_2106_an_event_is_of_its_rooms_version() {
    let Scene { alice, c, .. } = &scene().await;
    let forms = [RoomVersion::V2, RoomVersion::V6, RoomVersion::V12];
    for version in forms {
        let room = public_room(alice, version.as_str()).await;
        let guest = Guest::enter(&c.fake, alice, &room, "carol").await;
        for other in forms.into_iter().filter(|other| *other != version) {
            let elsewhere = public_room(alice, other.as_str()).await;
            let mut stranger = Guest::enter(&c.fake, alice, &elsewhere, "carol").await;
            stranger.room = room.clone();
            stranger.tips = guest.tips.clone();
            let said = json!({ "body": "of another version", "room_version": other.as_str() });
            let event = stranger.text("in the form of another version");
            let (status, answer) = transaction(&c.fake, json!([event.json]), json!([])).await;
            assert_eq!(status, 200, "{answer}");
            // Whatever it is called there, it is no event of this room.
            assert_eq!(given(&c.fake, &event.id).await.0, 404, "{version} {other}");
            let own = guest.aside("m.room.message", None, said);
            guest.sent(&[&own]).await;
        }
        let seen = texts(alice, &room).await;
        assert_eq!(seen, ["of another version"; 2], "{version}");
    }
}

/// Receipts of who is not in the room, and of a server that the room keeps out.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2023_42453_receipts_are_by_members_of_the_room() {
    let Scene { alice, c, .. } = &scene().await;
    let room = public_room(alice, "11").await;
    let other = public_room(alice, "11").await;
    Guest::enter(&c.fake, alice, &room, "carol").await;
    let said = alice.send_text(&room, "read me").await;
    let elsewhere = alice.send_text(&other, "elsewhere").await;
    let receipt = |room: &str, user: &str, event: &str| {
        let receipt = json!({ "event_ids": [event], "data": { "ts": 1_700_000_000_000_u64 } });
        edu(
            "m.receipt",
            json!({ room: { "m.read": { user: receipt } } }),
        )
    };
    let bad = json!([
        receipt(&room, "@dave:c.test", &said),
        receipt(&room, &alice.user_id, &said),
        receipt(&other, CAROL, &elsewhere),
    ]);
    assert_eq!(transaction(&c.fake, json!([]), bad).await.0, 200);
    for room in [&room, &other] {
        let told = receipts(alice, room).await;
        assert!(!told.contains("c.test"), "{told}");
    }
    // One for what is not in the room (yet) is her own affair: it may come before
    // its event. A good one is told, until the room keeps its server out.
    let early = json!([receipt(&room, CAROL, &elsewhere)]);
    assert_eq!(transaction(&c.fake, json!([]), early).await.0, 200);
    let good = json!([receipt(&room, CAROL, &said)]);
    assert_eq!(transaction(&c.fake, json!([]), good).await.0, 200);
    assert!(receipts(alice, &room).await.contains(CAROL));
    let acl = format!(
        "/_matrix/client/v3/rooms/{}/state/m.room.server_acl/",
        escape(&room)
    );
    alice.put(&acl, json!({ "allow": ["a.test"] })).await.ok();
    let later = alice.send_text(&room, "and me").await;
    let denied = json!([receipt(&room, CAROL, &later)]);
    assert_eq!(transaction(&c.fake, json!([]), denied).await.0, 200);
    assert!(!receipts(alice, &room).await.contains(&later));
}

/// The receipts of a room as a fresh sync tells them.
async fn receipts(alice: &Api, room: &str) -> String {
    let sync = alice.sync("").await;
    let events = sync["rooms"]["join"][room]["ephemeral"]["events"].clone();
    let events = events.as_array().cloned().unwrap_or_default();
    let found = events.iter().filter(|event| event["type"] == "m.receipt");
    found.map(|event| event["content"].to_string()).collect()
}

/// What is known but has no place in the room (yet) is shown to nobody: nobody
/// can say who may see it.
#[tokio::test(flavor = "multi_thread")]
async fn continuwuity_26_7_3_what_has_no_place_in_the_room_is_shown_to_nobody() {
    let neighbourhood = Neighbourhood::new();
    let a = neighbourhood.builder("a.test").start().await;
    let alice = a.register("alice").await;
    let library = Library::default();
    let b = library.serve(&neighbourhood, "b.test").await;
    let c = Fake::with_keys(&neighbourhood, "c.test").await;
    let room = public_room(&alice, "11").await;
    let mut bob = Guest::look(&b, &alice, &room, "bob").await;
    bob.library = library.clone();
    let join = bob.member("join");
    bob.sent(&[&join]).await;
    // A new name that nobody sent, and that authorises what is sent: fetched, and
    // known without a place.
    let before = bob.tips.clone();
    let user = bob.user.clone();
    let secret = json!({ "membership": "join", "displayname": "Secret" });
    let secret = bob.event("m.room.member", Some(&user), secret);
    bob.tips = before;
    let said = bob.text("authorised elsewhere");
    bob.sent(&[&said]).await;
    assert_eq!(library.asked("/event_auth/"), 1);
    let path = format!("/_matrix/client/v3/rooms/{}", escape(&room));
    let by_client = |id: &str| {
        [
            format!("{path}/event/{}", escape(id)),
            format!("{path}/context/{}", escape(id)),
        ]
    };
    for path in by_client(&secret.id) {
        alice.get(&path).await.refused(404, "M_NOT_FOUND");
    }
    let sync = alice.sync("").await.to_string();
    assert!(!sync.contains("Secret"), "{sync}");
    // Servers in the room get of it what the graph is made of, others nothing.
    assert_eq!(given(&c, &secret.id).await.0, 403);
    Guest::enter(&c, &alice, &room, "carol").await;
    let (status, told) = given(&c, &secret.id).await;
    assert_eq!(status, 200);
    assert_eq!(told["content"], json!({ "membership": "join" }));
    // Once it is sent, it is an event as any other.
    bob.sent(&[&secret]).await;
    for path in by_client(&secret.id) {
        alice.get(&path).await.ok();
    }
    let (status, told) = given(&c, &secret.id).await;
    assert_eq!(
        (status, &told["content"]["displayname"]),
        (200, &json!("Secret"))
    );
}

/// An answer or a request that says it is compressed is what its bytes are.
#[tokio::test(flavor = "multi_thread")]
async fn continuwuity_0_5_6_no_body_is_decompressed() {
    let Scene { c, .. } = &scene().await;
    // `{}` by gzip.
    let body = [
        0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0, 2, 3, 0xab, 0xae, 0x05, 0, 0x43, 0xbf, 0xa6, 0xa3, 0x02,
        0, 0, 0,
    ];
    let http = c.fake.http();
    let uri = format!("{V1}/send/compressed");
    let header = c
        .fake
        .authorization("a.test", &Method::PUT, &uri, Some(&object(&json!({}))));
    for (kind, content) in [
        ("gzip", "application/json"),
        ("identity", "multipart/form-data; boundary=x"),
    ] {
        let request = http.request(Method::PUT, format!("https://a.test:8448{uri}"));
        let request = request
            .header("Authorization", &header)
            .header("Content-Encoding", kind)
            .header("Content-Type", content)
            .body(match kind {
                "gzip" => body.to_vec(),
                _ => {
                    b"--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n{}\r\n--x--".to_vec()
                }
            });
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 400, "{kind}");
    }
}

/// Server-server API, *Transactions*: a repeated id is a repeat for its own server.
#[tokio::test(flavor = "multi_thread")]
async fn spec_x_matrix_an_id_of_a_transaction_is_its_servers_own() {
    let neighbourhood = Neighbourhood::new();
    let a = neighbourhood.builder("a.test").start().await;
    let alice = a.register("alice").await;
    let b = Fake::with_keys(&neighbourhood, "b.test").await;
    let c = Fake::with_keys(&neighbourhood, "c.test").await;
    let room = public_room(&alice, "11").await;
    let mut bob = Guest::enter(&b, &alice, &room, "bob").await;
    let mut carol = Guest::enter(&c, &alice, &room, "carol").await;
    let (of_bob, of_carol) = (bob.text("of bob"), carol.text("of carol"));
    let uri = format!("{V1}/send/the-same");
    for (fake, event) in [(&b, &of_bob), (&c, &of_carol)] {
        let body = json!({ "origin": fake.name, "origin_server_ts": 1, "pdus": [event.json] });
        let sent = fake.send("a.test", Method::PUT, &uri, &object(&body)).await;
        assert_eq!(sent, (200, json!({ "pdus": { &event.id: {} } })));
    }
    let mut both = texts(&alice, &room).await;
    both.sort();
    assert_eq!(both, ["of bob", "of carol"]);
    // Two headers: nobody could say which of them counts.
    let uri = format!("{V1}/query/profile?user_id=%40alice%3Aa.test");
    let header = c.authorization("a.test", &Method::GET, &uri, None);
    let request = c.http().get(format!("https://a.test:8448{uri}"));
    let request = request.header("Authorization", &header);
    let twice = request.header("Authorization", &header).send().await;
    assert_eq!(twice.unwrap().status().as_u16(), 401);
}
