//! `GET /notifications`.

use serde_json::{Value, json};

use super::{mention, put_rule, read};
use crate::harness::{Api, Server, escape};
use crate::rooms::{act, of_room, two_users};

async fn page(api: &Api, query: &str) -> Value {
    let path = format!("/_matrix/client/v3/notifications?{query}");
    api.get(&path).await.ok()
}

/// Room, event and whether it was read, of each notification of a page.
fn listed(page: &Value) -> Vec<(String, String, bool)> {
    let listed = page["notifications"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    listed
        .map(|one| {
            let event = text(&one["event"]["event_id"]);
            (text(&one["room_id"]), event, one["read"] == true)
        })
        .collect()
}

#[tokio::test]
async fn notifications_of_all_rooms_are_listed_the_newest_first() {
    for partitions in [1, 3] {
        let server = Server::builder()
            .set("LOG__PARTITIONS", partitions)
            .start()
            .await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let mut rooms = Vec::new();
        for _ in 0..4 {
            let room = alice.create_room(json!({ "preset": "public_chat" })).await;
            bob.join(&room).await.ok();
            rooms.push(room);
        }
        alice.send_text(&rooms[0], "not for me").await;
        let mut sent = Vec::new();
        for number in 0..12 {
            let room = &rooms[number % 4];
            let event = bob.send_text(room, &number.to_string()).await;
            sent.insert(0, (room.clone(), event, false));
        }
        let all = page(&alice, "").await;
        let mut found = listed(&all);
        assert_eq!(all.get("next_token"), None, "{all}");
        let first = &all["notifications"][0];
        assert_eq!(first["actions"][0], "notify");
        assert_eq!(first["event"]["content"]["body"], "11");
        assert_eq!(first["ts"], first["event"]["origin_server_ts"]);
        assert_eq!(first["event"].get("room_id"), None);
        // Events of different partitions may say the same millisecond.
        if partitions > 1 {
            found.sort();
            sent.sort();
        }
        assert_eq!(found, sent);
        // Pages tell the same, whatever comes in between.
        let (mut paged, mut query) = (Vec::new(), "limit=5".to_owned());
        loop {
            let page = page(&alice, &query).await;
            bob.send_text(&rooms[0], "later").await;
            paged.extend(listed(&page));
            match page["next_token"].as_str() {
                Some(token) => query = format!("limit=5&from={token}"),
                None => break,
            }
        }
        if partitions > 1 {
            paged.sort();
        }
        assert_eq!(paged, sent);
        let path = "/_matrix/client/v3/notifications?from=nonsense";
        alice.get(path).await.refused(400, "M_INVALID_PARAM");
    }
}

#[tokio::test]
async fn what_was_read_and_what_highlights_is_told() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let one = bob.send_text(&room, "one").await;
    let two = mention(&bob, &room, "m1", &alice).await;
    let gone = bob.send_text(&room, "gone").await;
    let path = of_room(&room, &format!("redact/{}/r1", escape(&gone)));
    bob.put(&path, json!({})).await.ok();
    read(&alice, &room, "m.read", &one, json!({})).await;
    let events = |page: &Value| {
        let listed = listed(page).into_iter();
        listed
            .map(|(_, event, read)| (event, read))
            .collect::<Vec<_>>()
    };
    let all = page(&alice, "").await;
    assert_eq!(events(&all), [(two.clone(), false), (one.clone(), true)]);
    let highlights = page(&alice, "only=highlight").await;
    assert_eq!(events(&highlights), [(two.clone(), false)]);
    let sound = json!({ "set_tweak": "sound", "value": "default" });
    let actions = json!(["notify", sound, { "set_tweak": "highlight" }]);
    assert_eq!(highlights["notifications"][0]["actions"], actions);
    // Own rules count as they are now.
    put_rule(&alice, "room", &room, json!({ "actions": [] })).await;
    assert_eq!(events(&page(&alice, "").await), [(two, false)]);
    // The sender is notified of nothing.
    assert_eq!(events(&page(&bob, "").await), []);
}

#[tokio::test]
async fn invites_are_notifications() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({})).await;
    alice.send_text(&room, "not for bob yet").await;
    act(&alice, &room, "invite", Some(&bob)).await.ok();
    alice.send_text(&room, "nor this").await;
    let listed = page(&bob, "").await;
    let listed = listed["notifications"].as_array().unwrap();
    let [invite] = &listed[..] else {
        panic!("one: {listed:?}");
    };
    assert_eq!(invite["event"]["content"]["membership"], "invite");
    assert_eq!(invite["event"]["state_key"], bob.user_id.as_str());
    assert_eq!(invite["read"], false);
    // Not of those whom the user ignores.
    let user = escape(&bob.user_id);
    let path = format!("/_matrix/client/v3/user/{user}/account_data/m.ignored_user_list");
    let ignored = json!({ "ignored_users": { alice.user_id.clone(): {} } });
    bob.put(&path, ignored).await.ok();
    assert_eq!(page(&bob, "").await["notifications"], json!([]));
}
