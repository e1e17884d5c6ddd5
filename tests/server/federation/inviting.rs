//! Other servers invite our users: what we sign, and what the user is told.

use base64::Engine;
use engram::crypto::signing_key::BASE64;
use engram::matrix::RoomVersion;
use engram::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue, parse_object};
use engram::matrix::event::Pdu;
use engram::matrix::redaction::redact;
use engram::matrix::signing::{hash_and_sign_event, verify_json};
use reqwest::Method;
use serde_json::{Value, json};

use super::Neighbourhood;
use super::fake::object;
use super::visitor::{CAROL, Scene, Signed, Visitor, errcode, events, membership, scene, with};
use crate::harness::{Api, escape};

/// A room of `c.test` that nobody else is in.
struct TheirRoom {
    version: RoomVersion,
    id: String,
    create: CanonicalJsonObject,
}

fn their_room(c: &Visitor, version: RoomVersion) -> TheirRoom {
    let mut create = json!({
        "type": "m.room.create", "state_key": "", "sender": CAROL, "depth": 1,
        "content": { "creator": CAROL, "room_version": version.as_str() },
        "origin_server_ts": 1, "prev_events": [], "auth_events": [],
    });
    if !version.room_id_is_create_hash() {
        create["room_id"] = json!(format!("!theirs{version}:c.test"));
    }
    let create = c.sign(version, object(&create)).event;
    let pdu = Pdu::from_object(version, create.clone()).unwrap();
    TheirRoom {
        version,
        id: pdu.room_id.to_string(),
        create,
    }
}

impl TheirRoom {
    /// An invite, not yet signed.
    fn invite(&self, user: &str) -> CanonicalJsonObject {
        let create = Pdu::from_object(self.version, self.create.clone()).unwrap();
        let cited = match self.version.has_event_id_field() {
            true => json!([[create.event_id, { "sha256": "x" }]]),
            false => json!([create.event_id]),
        };
        object(&json!({
            "type": "m.room.member", "state_key": user, "sender": CAROL, "depth": 2,
            "room_id": self.id, "content": { "membership": "invite" },
            "origin_server_ts": 2, "prev_events": cited, "auth_events": cited,
        }))
    }

    fn state(&self) -> Vec<Value> {
        let name = json!({
            "type": "m.room.name", "state_key": "", "sender": CAROL,
            "content": { "name": "Theirs" },
        });
        vec![json!(self.create), name]
    }
}

async fn hand(c: &Visitor, room: &TheirRoom, signed: &Signed, state: &[Value]) -> (u16, Value) {
    hand_to(c, &room.id, room.version, signed, state).await
}

async fn hand_to(
    c: &Visitor,
    room: &str,
    version: RoomVersion,
    signed: &Signed,
    state: &[Value],
) -> (u16, Value) {
    let uri = format!(
        "/_matrix/federation/v2/invite/{}/{}",
        escape(room),
        escape(&signed.event_id)
    );
    let body = object(&json!({ "room_version": version.as_str(), "invite_room_state": state }));
    let mut body = body;
    let event = CanonicalJsonValue::Object(signed.event.clone());
    body.insert("event".to_owned(), event);
    c.fake.send("a.test", Method::PUT, &uri, &body).await
}

/// Whether an answer holds the event with our signature, and nothing else changed.
async fn is_signed(c: &Visitor, version: RoomVersion, sent: &Signed, answer: &Value) -> bool {
    let mut event = object(answer);
    let redacted = redact(&version.rules().redaction, &event);
    let keys = c.get("/_matrix/key/v2/server").await.1;
    let (key_id, key) = keys["verify_keys"]
        .as_object()
        .unwrap()
        .iter()
        .next()
        .unwrap();
    let key = BASE64.decode(key["key"].as_str().unwrap()).unwrap();
    let signatures = event
        .get_mut("signatures")
        .unwrap()
        .as_object_mut()
        .unwrap();
    signatures.remove("a.test");
    verify_json(&redacted, "a.test", key_id, &key) && event == sent.event
}

async fn invites_of(user: &Api) -> Value {
    user.sync("timeout=0").await["rooms"]["invite"].clone()
}

async fn is_invited(user: &Api, room: &str) -> bool {
    invites_of(user).await[room].is_object()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_to_a_room_of_any_version_reaches_the_user() {
    let Scene { alice, c, .. } = &scene().await;
    for version in RoomVersion::all() {
        let room = their_room(c, version);
        let signed = c.sign(version, room.invite(&alice.user_id));
        let (status, answer) = hand(c, &room, &signed, &room.state()).await;
        assert_eq!(status, 200, "{version} {answer}");
        assert!(
            is_signed(c, version, &signed, &answer["event"]).await,
            "{version}"
        );
        let told = invites_of(alice).await[&room.id]["invite_state"]["events"].clone();
        let named = |kind: &str| {
            let events = told.as_array().unwrap().iter();
            events.filter(|event| event["type"] == kind).count()
        };
        assert_eq!(named("m.room.create"), 1, "{version} {told}");
        assert_eq!(named("m.room.name"), 1, "{version} {told}");
        assert_eq!(named("m.room.member"), 1, "{version} {told}");
        // The same again changes nothing.
        assert_eq!(hand(c, &room, &signed, &room.state()).await.0, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_endpoint_is_for_the_old_versions() {
    let Scene { alice, c, .. } = &scene().await;
    let room = their_room(c, RoomVersion::V2);
    let mut invite = room.invite(&alice.user_id);
    let unsigned = object(&json!({ "invite_room_state": room.state() }));
    invite.insert("unsigned".to_owned(), CanonicalJsonValue::Object(unsigned));
    let signed = c.sign(RoomVersion::V2, invite);
    let (status, answer) = c.hand("v1/invite", &room.id, &signed).await;
    assert_eq!((status, &answer[0]), (200, &json!(200)), "{answer}");
    assert!(is_signed(c, RoomVersion::V2, &signed, &answer[1]["event"]).await);
    assert!(is_invited(alice, &room.id).await);
    // An event of a later version has no id of its own.
    let room = their_room(c, RoomVersion::V11);
    let signed = c.sign(RoomVersion::V11, room.invite(&alice.user_id));
    let answer = c.hand("v1/invite", &room.id, &signed).await;
    assert_eq!(errcode(&answer), (400, "M_INVALID_PARAM"));
}

/// GHSA-22fw-4jq7-g8r8, and CVE-2019-18835 and CVE-2020-26257 for this endpoint:
/// whatever is handed to us, our key signs nothing but an invite of our user.
#[tokio::test(flavor = "multi_thread")]
async fn ghsa_22fw_4jq7_g8r8_nothing_but_an_invite_is_signed() {
    let Scene { alice, c, .. } = &scene().await;
    for version in [RoomVersion::V1, RoomVersion::V6, RoomVersion::V12] {
        let room = their_room(c, version);
        let invite = room.invite(&alice.user_id);
        let member = |membership: &str| json!({ "membership": membership });
        let mut hostile = vec![
            ("leave", with(&invite, "content", member("leave"))),
            ("join", with(&invite, "content", member("join"))),
            ("ban", with(&invite, "content", member("ban"))),
            ("knock", with(&invite, "content", member("knock"))),
            ("nothing", with(&invite, "content", json!({}))),
            ("message", with(&invite, "type", json!("m.room.message"))),
            ("power", with(&invite, "type", json!("m.room.power_levels"))),
            ("from us", with(&invite, "sender", json!("@alice:a.test"))),
            ("from others", with(&invite, "sender", json!("@bob:b.test"))),
            (
                "to others",
                with(&invite, "state_key", json!("@bob:b.test")),
            ),
            (
                "to nobody",
                with(&invite, "state_key", json!("@nobody:a.test")),
            ),
            ("to no user", with(&invite, "state_key", json!("alice"))),
        ];
        let mut no_key = invite.clone();
        no_key.remove("state_key");
        hostile.push(("no state", no_key));
        for (what, event) in hostile {
            let signed = c.sign(version, event);
            let answer = hand(c, &room, &signed, &room.state()).await;
            assert_eq!(
                errcode(&answer),
                (400, "M_INVALID_PARAM"),
                "{version} {what}"
            );
            assert!(!answer.1.to_string().contains("signatures"), "{what}");
        }
        let good = c.sign(version, invite.clone());
        // Another id or room in the path.
        let misnamed = Signed {
            event_id: "$another:c.test".to_owned(),
            ..good.clone()
        };
        let answer = hand(c, &room, &misnamed, &room.state()).await;
        assert_eq!(errcode(&answer), (400, "M_INVALID_PARAM"), "{version}");
        let answer = hand_to(c, "!other:c.test", version, &good, &room.state()).await;
        assert_eq!(errcode(&answer), (400, "M_INVALID_PARAM"), "{version}");
        // A signature that is missing, another's, or of other content.
        let mut unsigned = good.clone();
        unsigned.event = with(&unsigned.event, "signatures", json!({}));
        let mut changed = good.clone();
        changed.event = with(&changed.event, "origin_server_ts", json!(3));
        let mut content = good.clone();
        content.event = with(
            &content.event,
            "content",
            json!({ "membership": "invite", "reason": "forged" }),
        );
        for signed in [unsigned, changed, content] {
            let answer = hand(c, &room, &signed, &room.state()).await;
            // In later versions what is changed has another id than the path.
            assert!(
                matches!(
                    errcode(&answer),
                    (400, "M_INVALID_PARAM") | (403, "M_FORBIDDEN")
                ),
                "{version}: {answer:?}"
            );
        }
        assert!(!is_invited(alice, &room.id).await, "{version}");
    }
}

/// MSC4311: from version 12 on, the room that the user is shown is the one that
/// its create event makes. What else came, of whatever shape, is shown or not.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2024_52815_no_state_of_an_invite_breaks_a_sync() {
    let Scene { alice, c, .. } = &scene().await;
    let (room, other) = (their_room(c, RoomVersion::V12), {
        let mut other = their_room(c, RoomVersion::V12);
        other.create = with(&other.create, "origin_server_ts", json!(7));
        let mut event = other.create.clone();
        event.remove("signatures");
        hash_and_sign_event(RoomVersion::V12, &mut event, &c.fake.name, &c.fake.key);
        other.create = event;
        other
    });
    let signed = c.sign(RoomVersion::V12, room.invite(&alice.user_id));
    let stripped = json!({
        "type": "m.room.create", "state_key": "", "sender": CAROL, "content": {},
    });
    for state in [vec![], vec![json!(other.create)], vec![stripped]] {
        let answer = hand(c, &room, &signed, &state).await;
        assert_eq!(errcode(&answer), (400, "M_INVALID_PARAM"), "{state:?}");
    }
    assert!(!is_invited(alice, &room.id).await);
    let mut odd = room.state();
    odd.extend([
        json!(1),
        json!(null),
        json!([[]]),
        json!({ "type": 5, "content": [] }),
    ]);
    odd.extend((0..1_000).map(|n| json!({ "type": "m.room.topic", "state_key": n })));
    let (status, answer) = hand(c, &room, &signed, &odd).await;
    assert_eq!(status, 200, "{answer}");
    let told = invites_of(alice).await[&room.id]["invite_state"]["events"].clone();
    assert!(told.as_array().unwrap().len() >= 3, "{told}");
    // Before that version a create event is welcome, not demanded.
    let old = their_room(c, RoomVersion::V11);
    let signed = c.sign(RoomVersion::V11, old.invite(&alice.user_id));
    assert_eq!(hand(c, &old, &signed, &[]).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_we_do_not_know_are_refused() {
    let Scene { alice, c, .. } = &scene().await;
    let room = their_room(c, RoomVersion::V11);
    let signed = c.sign(RoomVersion::V11, room.invite(&alice.user_id));
    let uri = format!(
        "/_matrix/federation/v2/invite/{}/{}",
        escape(&room.id),
        escape(&signed.event_id)
    );
    let mut body = object(&json!({ "room_version": "org.example.99" }));
    body.insert("event".to_owned(), CanonicalJsonValue::Object(signed.event));
    let answer = c.fake.send("a.test", Method::PUT, &uri, &body).await;
    assert_eq!(errcode(&answer), (400, "M_INCOMPATIBLE_ROOM_VERSION"));
    assert_eq!(answer.1["room_version"], "org.example.99");
    body.remove("room_version");
    let answer = c.fake.send("a.test", Method::PUT, &uri, &body).await;
    assert_eq!(errcode(&answer), (400, "M_MISSING_PARAM"));
}

/// security.md 1.4, *Ignored users, knock, invite*.
#[tokio::test(flavor = "multi_thread")]
async fn users_are_not_told_of_invites_that_they_do_not_want() {
    let Scene { alice, c, .. } = &scene().await;
    let room = their_room(c, RoomVersion::V11);
    let signed = c.sign(RoomVersion::V11, room.invite(&alice.user_id));
    let data = |kind: &str| {
        let user = escape(&alice.user_id);
        format!("/_matrix/client/v3/user/{user}/account_data/{kind}")
    };
    let block = json!({ "default_action": "block" });
    alice
        .put(&data("m.invite_permission_config"), block)
        .await
        .ok();
    let answer = hand(c, &room, &signed, &room.state()).await;
    assert_eq!(errcode(&answer), (403, "M_INVITE_BLOCKED"));
    alice
        .put(&data("m.invite_permission_config"), json!({}))
        .await
        .ok();
    // Whom the user ignores is not told that they are ignored.
    let ignored = json!({ "ignored_users": { CAROL: {} } });
    alice.put(&data("m.ignored_user_list"), ignored).await.ok();
    assert_eq!(hand(c, &room, &signed, &room.state()).await.0, 200);
    assert!(!is_invited(alice, &room.id).await);
}

/// security.md 1.5, *Synapse rate limits*.
#[tokio::test(flavor = "multi_thread")]
async fn invites_of_one_server_are_limited() {
    let neighbourhood = Neighbourhood::new();
    let limited = neighbourhood.builder("a.test");
    let a = limited.set("RATE_LIMITS__ENABLED", true).start().await;
    let alice = a.register("alice").await;
    let c = &Visitor::start(&neighbourhood).await;
    let invite = async |change: &dyn Fn(CanonicalJsonObject) -> CanonicalJsonObject| {
        let room = their_room(c, RoomVersion::V11);
        let signed = c.sign(RoomVersion::V11, change(room.invite(&alice.user_id)));
        hand(c, &room, &signed, &room.state()).await
    };
    // What a server says in another's name is refused, and counts for nobody.
    for _ in 0..20 {
        let forged = invite(&|event| with(&event, "sender", json!("@bob:b.test"))).await;
        assert_eq!(errcode(&forged), (400, "M_INVALID_PARAM"));
    }
    let mut taken = 0;
    let refused = loop {
        let answer = invite(&|event| with(&event, "depth", json!(2 + taken))).await;
        match answer.0 {
            200 => taken += 1,
            _ => break answer,
        }
        assert!(taken < 20, "nobody counts them");
    };
    assert_eq!(errcode(&refused), (429, "M_LIMIT_EXCEEDED"));
    assert!(refused.1["retry_after_ms"].is_u64(), "{refused:?}");
    assert!(taken >= 5, "{taken}");
}

/// In a room that we are in, the room has a say, and its members see the invite.
#[tokio::test(flavor = "multi_thread")]
async fn an_invite_to_a_room_that_we_are_in_is_judged_by_the_room() {
    let Scene { a, alice, c } = &scene().await;
    let bob = a.register("bob").await;
    for version in RoomVersion::all() {
        let body = json!({
            "room_version": version.as_str(), "preset": "public_chat",
            "power_level_content_override": { "invite": 0 },
        });
        let room = alice.create_room(body).await;
        let template = c.make("join", &room, CAROL).await.1;
        let join = c.complete(&template);
        let (_, answer) = c.hand("v2/send_join", &room, &join).await;
        let state = events(version, &answer["state"]);
        let reference = |pdu: &Pdu| match version.has_event_id_field() {
            true => {
                let reference = pdu.reference();
                json!([reference.event_id, { "sha256": reference.hash }])
            }
            false => json!(pdu.event_id),
        };
        let join = Pdu::from_object(version, join.event).unwrap();
        let mut cited: Vec<Value> = state
            .iter()
            .filter(|pdu| match &*pdu.kind {
                "m.room.create" => !version.room_id_is_create_hash(),
                "m.room.power_levels" | "m.room.join_rules" => true,
                _ => false,
            })
            .map(reference)
            .collect();
        cited.push(reference(&join));
        let invite = object(&json!({
            "type": "m.room.member", "state_key": bob.user_id, "sender": CAROL,
            "depth": join.depth + 1, "room_id": room, "origin_server_ts": 2,
            "content": { "membership": "invite" },
            "prev_events": [reference(&join)], "auth_events": cited,
        }));
        let signed = c.sign(version, invite.clone());
        let (status, answer) = hand_to(c, &room, version, &signed, &[]).await;
        assert_eq!(status, 200, "{version} {answer}");
        assert_eq!(
            membership(alice, &room, &bob.user_id).await.unwrap(),
            "invite"
        );
        assert!(is_invited(&bob, &room).await, "{version}");
        // Another version than the room's, and what the room does not allow.
        let other = match version {
            RoomVersion::V11 => RoomVersion::V10,
            _ => RoomVersion::V11,
        };
        if !version.has_event_id_field() && !version.room_id_is_create_hash() {
            let answer = hand_to(c, &room, other, &signed, &[]).await;
            assert_eq!(answer.0, 400, "{version} {answer:?}");
        }
        let ban = format!("/_matrix/client/v3/rooms/{}/ban", escape(&room));
        alice
            .post(&ban, json!({ "user_id": bob.user_id }))
            .await
            .ok();
        let later = c.sign(version, with(&invite, "origin_server_ts", json!(3)));
        let answer = hand_to(c, &room, version, &later, &[]).await;
        assert_eq!(errcode(&answer), (403, "M_FORBIDDEN"), "{version}");
        let acl = format!(
            "/_matrix/client/v3/rooms/{}/state/m.room.server_acl/",
            escape(&room)
        );
        alice.put(&acl, json!({ "allow": ["a.test"] })).await.ok();
        let answer = hand_to(c, &room, version, &later, &[]).await;
        assert_eq!(errcode(&answer), (403, "M_FORBIDDEN"), "{version}");
    }
}

/// Numbers that only old versions have do not get into an invite of later ones.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2020_26890_numbers_of_an_invite_are_those_of_its_version() {
    let Scene { alice, c, .. } = &scene().await;
    let room = their_room(c, RoomVersion::V11);
    let mut signed = c.sign(RoomVersion::V11, room.invite(&alice.user_id));
    let content = engram::matrix::canonical_json::parse_stored_object(
        br#"{"membership":"invite","n":1e400000}"#,
    );
    assert!(content.is_err());
    let content =
        engram::matrix::canonical_json::parse_stored_object(br#"{"membership":"invite","n":0.5}"#);
    let content = CanonicalJsonValue::Object(content.unwrap());
    signed.event.insert("content".to_owned(), content);
    hash_and_sign_event(
        RoomVersion::V11,
        &mut signed.event,
        &c.fake.name,
        &c.fake.key,
    );
    let answer = hand(c, &room, &signed, &room.state()).await;
    assert_eq!(errcode(&answer), (400, "M_BAD_JSON"));
    assert!(parse_object(br#"{"n":0.5}"#).is_err());
}
