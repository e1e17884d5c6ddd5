//! What a resident answers to who joins: refusals that our users are told, rooms
//! of other versions, and answers that lack something or break off.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::response::Response;
use engram::crypto::ServerKey;
use engram::matrix::canonical_json::to_bytes;
use http::StatusCode;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Neighbourhood;
use super::elsewhere::join_by;
use super::fake::{FAR, Fake, answer, own_keys};
use super::made_up::{Made, MadeUp, ROOM};
use crate::harness::{Answer, Api, Server, escape};

/// What a resident answers, by a part of the path; else that it does not know.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<Vec<(String, u16, String)>>>);

impl Script {
    fn set(&self, path: &str, status: u16, body: impl ToString) {
        let mut lines = self.0.lock();
        lines.retain(|(known, ..)| known != path);
        lines.push((path.to_owned(), status, body.to_string()));
    }

    fn clear(&self) {
        self.0.lock().clear();
    }

    fn answer(&self, name: &'static str, path: &str) -> Response {
        if path == "/_matrix/key/v2/server" {
            let keys = own_keys(name, &ServerKey::from_seed([3; 32], "fake"), FAR);
            return answer(StatusCode::OK, to_bytes(&keys));
        }
        let lines = self.0.lock();
        let found = lines.iter().find(|(known, ..)| path.contains(known));
        let (status, body) = found.map_or((404, r#"{"errcode":"M_NOT_FOUND"}"#), |found| {
            (found.1, found.2.as_str())
        });
        let status = StatusCode::from_u16(status).unwrap();
        answer(status, body.as_bytes().to_vec())
    }

    async fn play(&self, neighbourhood: &Neighbourhood, name: &'static str) -> Fake {
        let script = self.clone();
        Fake::start(neighbourhood, name, move |request: Request| {
            std::future::ready(script.answer(name, request.uri().path()))
        })
        .await
    }
}

struct Scene {
    b: Server,
    bob: Api,
    /// Of `a.test` and `c.test`.
    other: Script,
    script: Script,
    _fakes: [Fake; 2],
}

async fn scene() -> Scene {
    let neighbourhood = Neighbourhood::new();
    let b = neighbourhood.builder("b.test").start().await;
    let bob = b.register("bob").await;
    let (other, script) = (Script::default(), Script::default());
    let fakes = [
        other.play(&neighbourhood, "a.test").await,
        script.play(&neighbourhood, "c.test").await,
    ];
    Scene {
        b,
        bob,
        other,
        script,
        _fakes: fakes,
    }
}

async fn knock_by(api: &Api, via: &str) -> Answer {
    let path = format!("/_matrix/client/v3/knock/{}?via={via}", escape(ROOM));
    api.post(&path, json!({})).await
}

fn refusal(errcode: &str) -> Value {
    json!({ "errcode": errcode, "error": "No", "room_version": "org.example.9" })
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_a_resident_are_passed_on() {
    let Scene { bob, script, .. } = &scene().await;
    let refusals = [
        (403, "M_FORBIDDEN", 403, "M_FORBIDDEN"),
        (403, "ORG.EXAMPLE", 403, "M_FORBIDDEN"),
        (404, "M_NOT_FOUND", 404, "M_NOT_FOUND"),
        (
            400,
            "M_INCOMPATIBLE_ROOM_VERSION",
            400,
            "M_INCOMPATIBLE_ROOM_VERSION",
        ),
        (
            400,
            "M_UNABLE_TO_AUTHORISE_JOIN",
            400,
            "M_UNABLE_TO_AUTHORISE_JOIN",
        ),
        (400, "M_UNABLE_TO_GRANT_JOIN", 400, "M_UNABLE_TO_GRANT_JOIN"),
        (400, "M_ITS_OWN_CODE", 400, "M_ITS_OWN_CODE"),
        (429, "M_LIMIT_EXCEEDED", 429, "M_LIMIT_EXCEEDED"),
        // Between the servers, or no code at all.
        (400, "M_INVALID_PARAM", 502, "M_UNKNOWN"),
        (400, "M_BAD_JSON", 502, "M_UNKNOWN"),
        (400, "not a code", 502, "M_UNKNOWN"),
        (500, "M_UNKNOWN", 502, "M_UNKNOWN"),
        (302, "M_FORBIDDEN", 502, "M_UNKNOWN"),
        // They would log our user out.
        (401, "M_UNKNOWN_TOKEN", 502, "M_UNKNOWN"),
        (400, "M_UNKNOWN_TOKEN", 502, "M_UNKNOWN"),
        (400, "M_USER_DEACTIVATED", 502, "M_UNKNOWN"),
        (400, "M_CONSENT_NOT_GIVEN", 502, "M_UNKNOWN"),
    ];
    let room = MadeUp::new();
    let mut knock = room.template();
    knock["event"]["content"]["membership"] = json!("knock");
    for (status, code, told, told_code) in refusals {
        // In the first step, and in the second.
        for step in ["make_", "send_"] {
            script.clear();
            script.set("make_join", 200, room.template());
            script.set("make_knock", 200, &knock);
            script.set(&format!("{step}join"), status, refusal(code));
            script.set(&format!("{step}knock"), status, refusal(code));
            let answers = [
                join_by(bob, ROOM, "c.test").await,
                knock_by(bob, "c.test").await,
            ];
            for refused in answers {
                let body = refused.refused(told, told_code);
                let version =
                    (told_code == "M_INCOMPATIBLE_ROOM_VERSION").then(|| json!("org.example.9"));
                assert_eq!(body.get("room_version"), version.as_ref(), "{step} {code}");
            }
        }
    }
    let rooms = bob.get("/_matrix/client/v3/joined_rooms").await.ok();
    assert_eq!(rooms["joined_rooms"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_may_not_let_anybody_in_is_passed_over() {
    let Scene {
        b,
        bob,
        other,
        script,
        ..
    } = &scene().await;
    let room = MadeUp::new();
    for code in ["M_UNABLE_TO_AUTHORISE_JOIN", "M_UNABLE_TO_GRANT_JOIN"] {
        other.set("make_join", 400, refusal(code));
        script.set("make_join", 200, room.template());
        script.set("send_join", 200, room.joined());
        let path = format!(
            "/_matrix/client/v3/join/{}?via=a.test&via=c.test",
            escape(ROOM)
        );
        bob.post(&path, json!({})).await.ok();
        assert!(b.output().contains(code));
        let path = format!("/_matrix/client/v3/rooms/{}/leave", escape(ROOM));
        bob.post(&path, json!({})).await.ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_of_an_unknown_version_is_refused_at_once() {
    let Scene { bob, script, .. } = &scene().await;
    let incompatible = |refused: Answer| {
        let body = refused.refused(400, "M_INCOMPATIBLE_ROOM_VERSION");
        assert_eq!(body["room_version"], "org.example.9");
    };
    let began = Instant::now();
    let mut template = MadeUp::new().template();
    template["room_version"] = json!("org.example.9");
    script.set("make_join", 200, &template);
    incompatible(join_by(bob, ROOM, "c.test").await);
    // The template is silent about it, and the state is not.
    for named in [None, Some("11")] {
        let mut room = MadeUp::new();
        room.state.clear();
        let create = json!({ "room_version": "org.example.9" });
        room.made("m.room.create", "", create, &[]);
        let mut template = room.template();
        template["room_version"] = json!(named);
        if named.is_none() {
            let pairs = |ids: &Value| -> Value {
                let ids = ids.as_array().unwrap().iter();
                ids.map(|_| json!(["$e:c.test", { "sha256": "x" }]))
                    .take(1)
                    .collect()
            };
            template["event"]["auth_events"] = pairs(&template["event"]["auth_events"]);
            template["event"]["prev_events"] = pairs(&template["event"]["prev_events"]);
        }
        script.set("make_join", 200, &template);
        let joined = match named {
            Some(_) => room.joined(),
            // Events of version 1 have ids.
            None => room.joined().replace(
                r#""type":"m.room.create""#,
                r#""event_id":"$e:c.test","type":"m.room.create""#,
            ),
        };
        script.set("send_join", 200, joined);
        incompatible(join_by(bob, ROOM, "c.test").await);
    }
    // Another version that we know is a lie.
    let mut room = MadeUp::new();
    room.state.clear();
    room.made("m.room.create", "", json!({ "room_version": "10" }), &[]);
    script.set("make_join", 200, room.template());
    script.set("send_join", 200, room.joined());
    join_by(bob, ROOM, "c.test").await.refused(502, "M_UNKNOWN");
    assert!(began.elapsed() < Duration::from_secs(15));
}

/// Whether a user is joined as bob's server has it.
async fn is_joined(bob: &Api, user: &str) -> bool {
    let path = format!("/_matrix/client/v3/rooms/{}/joined_members", escape(ROOM));
    let members = bob.get(&path).await.ok();
    members["joined"].get(user).is_some()
}

/// A room whose first members were let in by power levels that are no more: their
/// event stands in the auth chain alone.
fn changed_room() -> (MadeUp, Made) {
    let mut room = MadeUp::new();
    room.join("@early:c.test");
    let old = room.cited[1].clone();
    let cites = [room.cited[0].clone(), old.clone(), room.state[1].id.clone()];
    let levels = json!({ "users": { "@carol:c.test": 100 }, "invite": 5 });
    let new = room.made("m.room.power_levels", "", levels, &cites);
    let old = room.take(&old);
    room.cited[1] = new;
    room.join("@late:c.test");
    (room, old)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_answer_lacks_is_asked_for() {
    let (room, old) = changed_room();
    let chain = |events: &[&str]| {
        let state: Vec<&str> = room.state.iter().map(|made| &*made.json).collect();
        let (state, chain) = (state.join(","), events.join(","));
        format!(r#"{{"state":[{state}],"auth_chain":[{chain}]}}"#)
    };
    let told = |event: &str| format!(r#"{{"origin":"c.test","pdus":[{event}]}}"#);
    // The path of its request ends with it, however the sigil is written.
    let event = old.id.trim_start_matches('$').to_owned();
    // Whether it is in the answer, and who has it beside.
    for (in_answer, of_resident, of_other, is_whole) in [
        (true, false, false, true),
        (false, true, false, true),
        (false, false, true, true),
        (false, false, false, false),
    ] {
        let Scene {
            bob,
            other,
            script,
            b,
            ..
        } = &scene().await;
        // It knows the room's past, and is in no state to let anybody in.
        other.set("make_join", 500, "");
        script.set("make_join", 200, room.template());
        script.set(
            "send_join",
            200,
            match in_answer {
                true => chain(&[&old.json]),
                false => chain(&[]),
            },
        );
        if of_resident {
            script.set(&event, 200, told(&old.json));
        } else {
            // Another event is not what was asked for.
            script.set(&event, 200, told(&room.state[0].json));
        }
        if of_other {
            other.set(&event, 200, told(&old.json));
        }
        let path = format!(
            "/_matrix/client/v3/join/{}?via=c.test&via=a.test",
            escape(ROOM)
        );
        let joined = bob.post(&path, json!({})).await;
        if !is_whole {
            // Nothing authorises the join rules, and so nothing the join.
            joined.refused(502, "M_UNKNOWN");
            continue;
        }
        joined.ok();
        for user in ["@early:c.test", "@late:c.test"] {
            let what = (in_answer, of_resident, of_other);
            assert!(is_joined(bob, user).await, "{what:?}: {}", b.output());
        }
        bob.send_text(ROOM, "hello").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_broken_lead_to_the_next_server() {
    let Scene {
        bob, other, script, ..
    } = &scene().await;
    let room = MadeUp::with_members(300);
    let whole = room.joined();
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    let broken = [
        whole[..whole.len() / 2].to_owned(),
        whole[..whole.len() - 1].to_owned(),
        format!("{whole}x"),
        format!("{whole}{whole}"),
        format!("[200,{whole}]"),
        whole.replace(r#""auth_chain":"#, r#""state":"#),
        whole.replace(r#"{"state":"#, r#"{"state":[],"state":"#),
        whole.replace(r#"{"state":"#, &format!(r#"{{"x":{deep},"state":"#)),
        whole.replace(r#"{"state":[{"#, r#"{"state":[{,"#),
        "null".to_owned(),
        String::new(),
    ];
    other.set("make_join", 200, room.template());
    // The room's maker is asked as well, and cannot help at first.
    script.set("make_join", 500, "");
    for body in broken {
        let shown: String = body.chars().take(60).collect();
        other.set("send_join", 200, body);
        let refused = join_by(bob, ROOM, "a.test").await;
        assert_eq!(refused.status, 502, "{shown} {}", refused.text);
    }
    script.set("make_join", 200, room.template());
    // What nobody asked for is passed over, and an event that is too large is
    // none, like those that are no events.
    let large = format!(r#"{{"type":"{}"}}"#, "x".repeat(300_000));
    let more = format!(r#"{{"more":[{large},[1e9]],"state":[{large},7,{{"#);
    script.set("send_join", 200, whole.replace(r#"{"state":[{"#, &more));
    let path = format!(
        "/_matrix/client/v3/join/{}?via=a.test&via=c.test",
        escape(ROOM)
    );
    bob.post(&path, json!({})).await.ok();
    assert!(is_joined(bob, "@member299:c.test").await);
}
