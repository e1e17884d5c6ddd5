//! Other servers join rooms through us and leave them, and what they get when
//! they try more than that.

use engram::matrix::RoomVersion;
use engram::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use serde_json::{Value, json};

use super::Neighbourhood;
use super::fake::object;
use super::visitor::{CAROL, Scene, Signed, Visitor, errcode, events, membership, scene, with};
use crate::harness::{Api, escape};

async fn public_room(alice: &Api, version: &str) -> String {
    let body = json!({ "room_version": version, "preset": "public_chat", "name": "Public" });
    alice.create_room(body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_joins_and_leaves_rooms_of_every_version() {
    let Scene { alice, c, .. } = &scene().await;
    for version in RoomVersion::all() {
        let room = public_room(alice, version.as_str()).await;
        alice.send_text(&room, "before").await;
        let answer = c.join(&room, CAROL).await;
        let state = events(version, &answer["state"]);
        let chain = events(version, &answer["auth_chain"]);
        for kind in ["m.room.create", "m.room.join_rules", "m.room.name"] {
            let of_kind = |pdu: &&engram::matrix::event::Pdu| &*pdu.kind == kind;
            assert_eq!(state.iter().filter(of_kind).count(), 1, "{version} {kind}");
        }
        // The state is that before the join, and everything that authorises it
        // is there, whatever it cites in turn.
        assert!(state.iter().all(|pdu| pdu.sender != CAROL), "{version}");
        let known = |id: &ruma::OwnedEventId| chain.iter().any(|pdu| pdu.event_id == *id);
        for pdu in state.iter().chain(&chain) {
            assert!(pdu.auth_events.iter().all(known), "{version} {pdu:?}");
        }
        assert_eq!(answer["members_omitted"], false);
        assert_eq!(answer["servers_in_room"], json!(["a.test"]));
        assert_eq!(membership(alice, &room, CAROL).await.unwrap(), "join");
        // Again, after a lost answer: the same event gets the same answer.
        let again = c.make("join", &room, CAROL).await.1;
        let again = c.complete(&again);
        let (first, second) = (
            c.hand("v2/send_join", &room, &again).await,
            c.hand("v2/send_join", &room, &again).await,
        );
        assert_eq!((first.0, &first), (200, &second), "{version}");

        c.leave(&room, CAROL).await;
        assert_eq!(membership(alice, &room, CAROL).await.unwrap(), "leave");
        let gone = c.make("leave", &room, CAROL).await;
        assert_eq!(errcode(&gone), (403, "M_FORBIDDEN"), "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_not_asked_in_has_nothing_to_leave() {
    let Scene { alice, c, .. } = &scene().await;
    let room = alice.create_room(json!({ "preset": "private_chat" })).await;
    let refused = c.make("join", &room, CAROL).await;
    assert_eq!(errcode(&refused), (403, "M_FORBIDDEN"));
    let nothing = c.make("leave", &room, CAROL).await;
    assert_eq!(errcode(&nothing), (403, "M_FORBIDDEN"));
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_left_out_where_the_other_server_can_do_without() {
    let Scene { alice, c, .. } = &scene().await;
    let version = RoomVersion::V11;
    let named = public_room(alice, "11").await;
    let body = json!({ "room_version": "11", "preset": "public_chat" });
    let nameless = alice.create_room(body).await;
    for (room, members) in [(named, 0), (nameless, 1)] {
        c.join(&room, "@first:c.test").await;
        c.leave(&room, "@first:c.test").await;
        let template = c.make("join", &room, CAROL).await.1;
        let signed = c.complete(&template);
        let (room_part, event) = (escape(&room), escape(&signed.event_id));
        let uri = format!("/_matrix/federation/v2/send_join/{room_part}/{event}?omit_members=true");
        let sent = c
            .fake
            .send("a.test", reqwest::Method::PUT, &uri, &signed.event);
        let (status, answer) = sent.await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["members_omitted"], true);
        assert_eq!(answer["servers_in_room"], json!(["a.test"]));
        let state = events(version, &answer["state"]);
        let of_members = state.iter().filter(|pdu| &*pdu.kind == "m.room.member");
        assert_eq!(of_members.count(), members);
        // No event is given twice, and none is missing.
        let chain = events(version, &answer["auth_chain"]);
        let both: Vec<_> = state.iter().chain(&chain).collect();
        for pdu in &both {
            let same = both.iter().filter(|other| other.event_id == pdu.event_id);
            assert_eq!(same.count(), 1);
            let known = |id: &ruma::OwnedEventId| both.iter().any(|pdu| pdu.event_id == *id);
            assert!(pdu.auth_events.iter().all(known));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_agreed_on_before_a_room_is_joined() {
    let Scene { alice, c, .. } = &scene().await;
    let (old, new) = (
        public_room(alice, "1").await,
        public_room(alice, "12").await,
    );
    let make = |what: &str, room: &str, versions: &str| {
        let (room, user) = (escape(room), escape(CAROL));
        format!("/_matrix/federation/v1/make_{what}/{room}/{user}{versions}")
    };
    // Without `ver` a server supports version 1.
    assert_eq!(c.get(&make("join", &old, "")).await.0, 200);
    for versions in ["", "?ver=11", "?ver=10&ver=org.example.12"] {
        let refused = c.get(&make("join", &new, versions)).await;
        assert_eq!(errcode(&refused), (400, "M_INCOMPATIBLE_ROOM_VERSION"));
        assert_eq!(refused.1["room_version"], "12");
    }
    let refused = c.get(&make("knock", &new, "?ver=7")).await;
    assert_eq!(errcode(&refused), (400, "M_INCOMPATIBLE_ROOM_VERSION"));
    let (status, template) = c.get(&make("join", &new, "?ver=11&ver=12")).await;
    assert_eq!((status, &template["room_version"]), (200, &json!("12")));
    // Rooms that nobody here is in, and users that are not the server's.
    let unknown = c.get(&make("join", "!unknown:a.test", "?ver=12")).await;
    assert_eq!(errcode(&unknown), (404, "M_NOT_FOUND"));
    for what in ["join", "leave", "knock"] {
        let theirs = c.make(what, &new, "@alice:a.test").await;
        assert_eq!(errcode(&theirs), (403, "M_FORBIDDEN"));
    }
}

/// Events that are not what the endpoint is for, each well signed by c.test.
fn other_events(template: &CanonicalJsonObject) -> Vec<(&'static str, CanonicalJsonObject)> {
    let member = |membership: &str| json!({ "membership": membership });
    vec![
        ("leave", with(template, "content", member("leave"))),
        ("invite", with(template, "content", member("invite"))),
        ("ban", with(template, "content", member("ban"))),
        ("knock", with(template, "content", member("knock"))),
        ("other", with(template, "content", member("org.example"))),
        ("no membership", with(template, "content", json!({}))),
        (
            "another's",
            with(template, "state_key", json!("@dave:c.test")),
        ),
        ("ours", with(template, "state_key", json!("@alice:a.test"))),
        (
            "power",
            with(template, "type", json!("m.room.power_levels")),
        ),
        ("message", with(template, "type", json!("m.room.message"))),
    ]
}

/// Which server signed an event, and what: synapse#6262.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2019_18835_only_own_joins_that_are_well_signed_are_taken_in() {
    let Scene { alice, c, .. } = &scene().await;
    for version in [RoomVersion::V2, RoomVersion::V10, RoomVersion::V12] {
        let room = public_room(alice, version.as_str()).await;
        let template = object(&c.make("join", &room, CAROL).await.1["event"]);
        let mut hostile: Vec<(&str, Signed)> = other_events(&template)
            .into_iter()
            .map(|(what, event)| (what, c.sign(version, event)))
            .collect();
        let good = c.sign(version, template.clone());
        let broken = |what, change: &dyn Fn(&mut Signed)| {
            let mut signed = good.clone();
            change(&mut signed);
            (what, signed)
        };
        hostile.push(broken("unsigned", &|signed| {
            let none = CanonicalJsonValue::Object(CanonicalJsonObject::new());
            signed.event.insert("signatures".to_owned(), none);
        }));
        hostile.push(broken("signed by another", &|signed| {
            let signatures = signed.event["signatures"].as_object().unwrap();
            let mut renamed = CanonicalJsonObject::new();
            renamed.insert("b.test".to_owned(), signatures["c.test"].clone());
            let renamed = CanonicalJsonValue::Object(renamed);
            signed.event.insert("signatures".to_owned(), renamed);
        }));
        hostile.push(broken("changed content", &|signed| {
            let content = json!({ "membership": "join", "displayname": "Forged" });
            signed.event = with(&signed.event, "content", content);
        }));
        hostile.push(broken("no hash", &|signed| {
            signed.event = with(&signed.event, "hashes", json!({}));
        }));
        hostile.push(broken("float", &|signed| {
            let content = engram::matrix::canonical_json::parse_stored_object(
                br#"{"membership":"join","n":1.5}"#,
            );
            let content = CanonicalJsonValue::Object(content.unwrap());
            signed.event.insert("content".to_owned(), content);
        }));
        // Another's name, with a signature of c.test alone.
        let mut forged = with(&template, "sender", json!("@bob:b.test"));
        forged = with(&forged, "state_key", json!("@bob:b.test"));
        hostile.push(("another server's", c.sign(version, forged)));
        for (what, signed) in hostile {
            let answer = c.hand("v2/send_join", &room, &signed).await;
            // A form that is wrong, or a signature.
            assert!(
                matches!(
                    errcode(&answer),
                    (400, "M_INVALID_PARAM" | "M_BAD_JSON") | (403, "M_FORBIDDEN")
                ),
                "{version} {what}: {answer:?}"
            );
        }
        assert_eq!(membership(alice, &room, CAROL).await, None, "{version}");
        // The honest one is taken in all the same.
        assert_eq!(c.hand("v2/send_join", &room, &good).await.0, 200);
    }
}

/// The same of leaves and knocks: no other event comes in by these doors.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2019_18835_only_own_leaves_and_knocks_are_taken_in() {
    let Scene { alice, c, .. } = &scene().await;
    let version = RoomVersion::V11;
    for (what, path) in [("leave", "v2/send_leave"), ("knock", "v1/send_knock")] {
        let room = match what {
            "leave" => public_room(alice, "11").await,
            _ => {
                let rule =
                    json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
                let body = json!({ "room_version": "11", "initial_state": [rule] });
                alice.create_room(body).await
            }
        };
        if what == "leave" {
            c.join(&room, CAROL).await;
        }
        let before = membership(alice, &room, CAROL).await;
        let template = object(&c.make(what, &room, CAROL).await.1["event"]);
        let good = c.sign(version, template.clone());
        let others = other_events(&template).into_iter();
        let others = others.filter(|(other, _)| *other != what);
        let joins = (
            "join",
            with(&template, "content", json!({ "membership": "join" })),
        );
        let mut hostile: Vec<(&str, Signed)> = others
            .chain([joins])
            .map(|(other, event)| (other, c.sign(version, event)))
            .collect();
        let mut unsigned = good.clone();
        unsigned.event = with(&unsigned.event, "signatures", json!({}));
        hostile.push(("unsigned", unsigned));
        let misnamed = Signed {
            event_id: "$another".to_owned(),
            ..good.clone()
        };
        hostile.push(("another id", misnamed));
        for (other, signed) in hostile {
            let answer = c.hand(path, &room, &signed).await;
            assert!(matches!(answer.0, 400 | 403), "{what} {other}: {answer:?}");
            assert_eq!(
                membership(alice, &room, CAROL).await,
                before,
                "{what} {other}"
            );
        }
        let other = public_room(alice, "11").await;
        let answer = c.hand(path, &other, &good).await;
        assert_eq!(errcode(&answer), (400, "M_INVALID_PARAM"), "{what}");
        assert_eq!(c.hand(path, &room, &good).await.0, 200, "{what}");
    }
}

/// What is said of an event with several faults: that it is unsigned comes first,
/// then its form, then where it was sent to.
#[tokio::test(flavor = "multi_thread")]
async fn of_several_faults_the_gravest_is_told() {
    let Scene { alice, c, .. } = &scene().await;
    for version in [RoomVersion::V1, RoomVersion::V6, RoomVersion::V11] {
        let room = public_room(alice, version.as_str()).await;
        let template = object(&c.make("join", &room, CAROL).await.1["event"]);
        let good = c.sign(version, template.clone());
        for path in ["v1/send_join", "v2/send_join"] {
            let mut unsigned = good.clone();
            unsigned.event = template.clone();
            let answer = c.hand(path, &room, &unsigned).await;
            assert_eq!(errcode(&answer), (403, "M_FORBIDDEN"), "{version} {path}");
            let mut astray = good.clone();
            astray.event_id = "xxx".to_owned();
            let answer = c.hand(path, &room, &astray).await;
            let told = errcode(&answer);
            assert_eq!(told, (400, "M_INVALID_PARAM"), "{version} {path}");
            if version.rules().authorization.strict_canonical_json {
                let half = engram::matrix::canonical_json::parse_stored_object(b"{\"n\":1.5}");
                astray.event.extend(half.unwrap());
                let answer = c.hand(path, &room, &astray).await;
                assert_eq!(errcode(&answer), (400, "M_BAD_JSON"), "{version} {path}");
            }
        }
        assert_eq!(membership(alice, &room, CAROL).await, None, "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2020_26257_the_path_names_what_the_body_holds() {
    let Scene { alice, c, .. } = &scene().await;
    for version in [RoomVersion::V1, RoomVersion::V6, RoomVersion::V12] {
        let (room, other) = (
            public_room(alice, version.as_str()).await,
            public_room(alice, version.as_str()).await,
        );
        for (what, path) in [("join", "v2/send_join"), ("leave", "v2/send_leave")] {
            let signed = c.complete(&c.make(what, &room, CAROL).await.1);
            let answer = c.hand(path, &other, &signed).await;
            assert_eq!(
                errcode(&answer),
                (400, "M_INVALID_PARAM"),
                "{version} {what}"
            );
            let misnamed = Signed {
                event_id: "$another:c.test".to_owned(),
                ..signed.clone()
            };
            let answer = c.hand(path, &room, &misnamed).await;
            assert_eq!(
                errcode(&answer),
                (400, "M_INVALID_PARAM"),
                "{version} {what}"
            );
            assert_eq!(
                c.hand(path, &room, &signed).await.0,
                200,
                "{version} {what}"
            );
        }
        assert_eq!(membership(alice, &other, CAROL).await, None);
    }
}

/// An event that the room refuses is kept nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_join_leaves_no_trace() {
    let Scene { alice, c, .. } = &scene().await;
    for version in RoomVersion::all() {
        let room = public_room(alice, version.as_str()).await;
        let signed = c.complete(&c.make("join", &room, CAROL).await.1);
        let path = format!("/_matrix/client/v3/rooms/{}/ban", escape(&room));
        alice.post(&path, json!({ "user_id": CAROL })).await.ok();
        // It builds on a time before the ban, but the room is beyond that.
        let answer = c.hand("v2/send_join", &room, &signed).await;
        assert_eq!(errcode(&answer), (403, "M_FORBIDDEN"), "{version}");
        let refused = c.make("join", &room, CAROL).await;
        assert_eq!(errcode(&refused), (403, "M_FORBIDDEN"), "{version}");
        // Nor does it come in once the ban is lifted: nobody remembers it.
        let path = format!("/_matrix/client/v3/rooms/{}/unban", escape(&room));
        alice.post(&path, json!({ "user_id": CAROL })).await.ok();
        assert_eq!(membership(alice, &room, CAROL).await.unwrap(), "leave");
        c.join(&room, CAROL).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_build_on_the_unknown_are_not_taken_in() {
    let Scene { alice, c, .. } = &scene().await;
    let room = public_room(alice, "11").await;
    let template = object(&c.make("join", &room, CAROL).await.1["event"]);
    for field in ["prev_events", "auth_events"] {
        let nowhere = json!(["$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]);
        let signed = c.sign(RoomVersion::V11, with(&template, field, nowhere));
        let answer = c.hand("v2/send_join", &room, &signed).await;
        assert_eq!(answer.0, 400, "{field}: {answer:?}");
    }
    assert_eq!(membership(alice, &room, CAROL).await, None);
}

/// A room that is not federated has no other servers.
#[tokio::test(flavor = "multi_thread")]
async fn rooms_that_are_not_federated_are_closed() {
    let Scene { alice, c, .. } = &scene().await;
    let body = json!({ "preset": "public_chat", "creation_content": { "m.federate": false } });
    let room = alice.create_room(body).await;
    let refused = c.make("join", &room, CAROL).await;
    assert_eq!(errcode(&refused), (403, "M_FORBIDDEN"));
}

async fn set_acl(alice: &Api, room: &str, content: Value) {
    let path = format!(
        "/_matrix/client/v3/rooms/{}/state/m.room.server_acl/",
        escape(room)
    );
    alice.put(&path, content).await.ok();
}

/// security.md 1.5, rows on server ACLs: every handshake, forms of names, and a
/// list that is missing or redacted.
#[tokio::test(flavor = "multi_thread")]
async fn pr_406_server_acls_close_every_handshake() {
    let Scene { alice, c, .. } = &scene().await;
    let room = public_room(alice, "11").await;
    let signed = c.complete(&c.make("join", &room, CAROL).await.1);
    let closed = [
        json!({ "allow": ["*"], "deny": ["C.TEST"] }),
        json!({ "allow": ["*"], "deny": ["c.?est"] }),
        json!({ "allow": ["a.test"] }),
        json!({ "allow": ["a.test"], "deny": "nobody" }),
    ];
    for content in closed {
        set_acl(alice, &room, content.clone()).await;
        for what in ["join", "leave", "knock"] {
            let refused = c.make(what, &room, CAROL).await;
            assert_eq!(errcode(&refused), (403, "M_FORBIDDEN"), "{what} {content}");
        }
        for path in ["v2/send_join", "v2/send_leave", "v1/send_knock"] {
            let refused = c.hand(path, &room, &signed).await;
            assert_eq!(errcode(&refused), (403, "M_FORBIDDEN"), "{path} {content}");
        }
    }
    set_acl(
        alice,
        &room,
        json!({ "allow": ["*.test"], "deny": ["c.test:8448"] }),
    )
    .await;
    c.join(&room, CAROL).await;
}

/// A list that keeps out our own server could not be taken back by anybody here.
#[tokio::test(flavor = "multi_thread")]
async fn continuwuity_4f882c3bd_nobody_locks_their_own_server_out() {
    let Scene { alice, c, .. } = &scene().await;
    let room = public_room(alice, "11").await;
    let path = format!(
        "/_matrix/client/v3/rooms/{}/state/m.room.server_acl",
        escape(&room)
    );
    let locked = [
        json!({}),
        json!({ "allow": ["c.test"] }),
        json!({ "allow": ["*"], "deny": ["A.TEST"] }),
        json!({ "allow": ["*"], "deny": ["?.test"] }),
        json!({ "allow": "*" }),
    ];
    for list in &locked {
        let refused = alice.put(&path, list.clone()).await;
        refused.refused(400, "M_INVALID_PARAM");
        let state = json!({ "type": "m.room.server_acl", "content": list });
        let body = json!({ "initial_state": [state] });
        let refused = alice.post("/_matrix/client/v3/createRoom", body).await;
        refused.refused(400, "M_INVALID_PARAM");
    }
    c.join(&room, CAROL).await;
    // What is no list of the room, and a good one, is theirs to set.
    alice.put(&format!("{path}/x"), json!({})).await.ok();
    set_acl(alice, &room, json!({ "allow": ["a.test"] })).await;
    let refused = c.make("leave", &room, CAROL).await;
    assert_eq!(errcode(&refused), (403, "M_FORBIDDEN"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_vouches_for_whom_nobody_need_vouch_for() {
    let Scene { alice, c, .. } = &scene().await;
    let room = public_room(alice, "11").await;
    let template = object(&c.make("join", &room, CAROL).await.1["event"]);
    // Whoever asks us to vouch for a join of a room that is open to all gets no
    // signature of ours.
    let content = json!({
        "membership": "join", "join_authorised_via_users_server": "@alice:a.test",
    });
    let signed = c.sign(RoomVersion::V11, with(&template, "content", content));
    let answer = c.hand("v2/send_join", &room, &signed).await;
    assert_eq!(errcode(&answer), (403, "M_FORBIDDEN"));
    assert_eq!(membership(alice, &room, CAROL).await, None);
}

/// The first version of the endpoints, which old servers still ask.
#[tokio::test(flavor = "multi_thread")]
async fn the_old_endpoints_answer_in_their_own_way() {
    let Scene { alice, c, .. } = &scene().await;
    let room = public_room(alice, "1").await;
    let good = c.complete(&c.make("join", &room, CAROL).await.1);
    let mut unsigned = good.clone();
    unsigned.event = with(&unsigned.event, "signatures", json!({}));
    let answer = c.hand("v1/send_join", &room, &unsigned).await;
    assert_eq!(errcode(&answer), (403, "M_FORBIDDEN"));
    let (status, answer) = c.hand("v1/send_join", &room, &good).await;
    assert_eq!((status, &answer[0]), (200, &json!(200)));
    let state = events(RoomVersion::V1, &answer[1]["state"]);
    assert!(state.iter().any(|pdu| &*pdu.kind == "m.room.create"));
    let leave = c.complete(&c.make("leave", &room, CAROL).await.1);
    let mut unsigned = leave.clone();
    unsigned.event = with(&unsigned.event, "signatures", json!({}));
    let answer = c.hand("v1/send_leave", &room, &unsigned).await;
    assert_eq!(errcode(&answer), (403, "M_FORBIDDEN"));
    let answer = c.hand("v1/send_leave", &room, &leave).await;
    assert_eq!(answer, (200, json!([200, {}])));
}

/// security.md 1.5, *Join/invite floods*.
#[tokio::test(flavor = "multi_thread")]
async fn joins_of_one_room_are_limited() {
    let neighbourhood = Neighbourhood::new();
    let limited = neighbourhood.builder("a.test");
    let a = limited.set("RATE_LIMITS__ENABLED", true).start().await;
    let alice = a.register("alice").await;
    let c = Visitor::start(&neighbourhood).await;
    let room = public_room(&alice, "11").await;
    let mut refused = 0;
    for number in 0..14 {
        let user = format!("@user{number}:c.test");
        let signed = c.complete(&c.make("join", &room, &user).await.1);
        let answer = c.hand("v2/send_join", &room, &signed).await;
        if answer.0 != 200 {
            assert_eq!(errcode(&answer), (429, "M_LIMIT_EXCEEDED"));
            refused += 1;
        }
    }
    assert!((1..=4).contains(&refused), "{refused}");
}
