//! `GET /timestamp_to_event`.

use serde_json::{Value, json};

use crate::harness::{Answer, Api, escape};
use crate::rooms::{act, of_room, two_users};

async fn nearest(api: &Api, room: &str, ts: impl ToString, dir: &str) -> Answer {
    let (room, ts) = (escape(room), ts.to_string());
    let path = format!("/_matrix/client/v1/rooms/{room}/timestamp_to_event?ts={ts}&dir={dir}");
    api.get(&path).await
}

/// `origin_server_ts` of every event that a user sees, with its id.
async fn times(api: &Api, room: &str) -> Vec<(u64, String)> {
    let page = api.get(&of_room(room, "messages?dir=f&limit=500")).await;
    let page: Value = page.ok();
    let events = page["chunk"].as_array().unwrap().iter();
    events
        .map(|event| {
            let id = event["event_id"].as_str().unwrap().to_owned();
            (event["origin_server_ts"].as_u64().unwrap(), id)
        })
        .collect()
}

/// What the answer should be, found by looking at all events.
fn expected(times: &[(u64, String)], ts: u64, dir: &str) -> Option<(u64, String)> {
    let mut of_side = times.iter().enumerate().filter(|(_, (at, _))| match dir {
        "f" => *at >= ts,
        _ => *at <= ts,
    });
    let found = match dir {
        "f" => of_side.min_by_key(|(place, (at, _))| (*at, *place)),
        _ => of_side
            .by_ref()
            .max_by_key(|(place, (at, _))| (*at, *place)),
    };
    found.map(|(_, event)| event.clone())
}

#[tokio::test]
async fn the_nearest_event_that_one_may_see_is_found_on_either_side() {
    let (_server, alice, bob) = two_users().await;
    let joined = json!({ "history_visibility": "joined" });
    let room = alice
        .create_room(json!({
            "preset": "public_chat",
            "initial_state": [{ "type": "m.room.history_visibility", "content": joined }],
        }))
        .await;
    for index in 0..10 {
        alice.send_text(&room, &index.to_string()).await;
    }
    bob.join(&room).await.ok();
    for index in 0..10 {
        alice.send_text(&room, &index.to_string()).await;
    }
    act(&bob, &room, "leave", None).await.ok();
    let last = alice.send_text(&room, "last").await;
    for api in [&alice, &bob] {
        let times = times(api, &room).await;
        let (first, end) = (times[0].0, times[times.len() - 1].0);
        let mut asked: Vec<u64> = times.iter().map(|(at, _)| *at).collect();
        asked.extend([0, first - 1, first + 1, end - 1, end + 1, end + 1_000_000]);
        for ts in asked {
            for dir in ["f", "b"] {
                let answer = nearest(api, &room, ts, dir).await;
                match expected(&times, ts, dir) {
                    None => drop(answer.refused(404, "M_NOT_FOUND")),
                    Some((at, id)) => {
                        let found = json!({ "event_id": id, "origin_server_ts": at });
                        assert_eq!(answer.ok(), found, "{ts} {dir}");
                    }
                }
            }
        }
    }
    let found = nearest(&alice, &room, i64::MAX, "b").await.ok();
    assert_eq!(found["event_id"], *last);
    nearest(&alice, &room, -5, "f").await.ok();
    nearest(&alice, &room, -5, "b")
        .await
        .refused(404, "M_NOT_FOUND");
    for (ts, dir) in [("x", "f"), ("1", "x")] {
        let answer = nearest(&alice, &room, ts, dir).await;
        answer.refused(400, "M_INVALID_PARAM");
    }
    let bare = format!(
        "/_matrix/client/v1/rooms/{}/timestamp_to_event",
        escape(&room)
    );
    alice.get(&bare).await.refused(400, "M_MISSING_PARAM");
    let answer = nearest(&alice, "!none:hs.test", 1, "f").await;
    answer.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn stretches_that_are_hidden_are_passed_over() {
    let (server, alice, bob) = two_users().await;
    let carol = server.register("carol").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    // Through all visibilities, with people who come and go in each.
    for visibility in ["shared", "joined", "invited", "world_readable", "joined"] {
        let content = json!({ "history_visibility": visibility });
        let path = of_room(&room, "state/m.room.history_visibility");
        alice.put(&path, content).await.ok();
        alice.send_text(&room, "before").await;
        act(&alice, &room, "invite", Some(&bob)).await.ok();
        alice.send_text(&room, "invited").await;
        bob.join(&room).await.ok();
        alice.send_text(&room, "joined").await;
        act(&bob, &room, "leave", None).await.ok();
        alice.send_text(&room, "left").await;
    }
    carol.join(&room).await.ok();
    alice.send_text(&room, "last").await;
    for api in [&alice, &bob, &carol] {
        let seen = times(api, &room).await;
        for (at, _) in times(&alice, &room).await {
            for dir in ["f", "b"] {
                let answer = nearest(api, &room, at, dir).await;
                match expected(&seen, at, dir) {
                    None => drop(answer.refused(404, "M_NOT_FOUND")),
                    Some((at, id)) => {
                        let found = json!({ "event_id": id, "origin_server_ts": at });
                        assert_eq!(answer.ok(), found, "{} {at} {dir}", api.user_id);
                    }
                }
            }
        }
    }
}
