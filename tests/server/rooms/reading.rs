//! Reading: pages in both directions, context, members, and who may see what.

use serde_json::{Value, json};

use super::{act, of_room, two_users};
use crate::harness::{Api, escape};

/// Event ids of a page.
fn ids(events: &Value) -> Vec<String> {
    let events = events.as_array().unwrap().iter();
    events
        .map(|event| event["event_id"].as_str().unwrap().to_owned())
        .collect()
}

/// Walks a whole room with pages of the sizes given, over and over.
async fn walk(api: &Api, room: &str, dir: &str, sizes: &[usize]) -> Vec<String> {
    let mut all = Vec::new();
    let mut from = String::new();
    for size in sizes.iter().cycle() {
        let path = of_room(room, &format!("messages?dir={dir}&limit={size}{from}"));
        let page = api.get(&path).await.ok();
        let found = ids(&page["chunk"]);
        assert!(found.len() <= *size);
        all.extend(found);
        match page["end"].as_str() {
            Some(end) => from = format!("&from={end}"),
            None => return all,
        }
    }
    all
}

#[tokio::test]
async fn pages_of_any_size_give_the_whole_room_both_ways() {
    let (_server, alice, _) = two_users().await;
    let room = alice.create_room(json!({})).await;
    for index in 0..40 {
        alice.send_text(&room, &index.to_string()).await;
    }
    let whole = walk(&alice, &room, "f", &[500]).await;
    assert_eq!(whole.len(), 46);
    let mut backward = whole.clone();
    backward.reverse();
    for sizes in [&[1][..], &[7], &[2, 11, 3], &[45], &[46], &[47]] {
        assert_eq!(walk(&alice, &room, "f", sizes).await, whole, "{sizes:?}");
        assert_eq!(walk(&alice, &room, "b", sizes).await, backward, "{sizes:?}");
    }
    // There and back: a page's end is where the other direction begins.
    let page = alice
        .get(&of_room(&room, "messages?dir=b&limit=10"))
        .await
        .ok();
    let end = page["end"].as_str().unwrap();
    let back = of_room(&room, &format!("messages?dir=f&limit=50&from={end}"));
    let mut again = ids(&alice.get(&back).await.ok()["chunk"]);
    again.reverse();
    assert_eq!(again, ids(&page["chunk"]));
    // `to` ends a page.
    let start = page["start"].as_str().unwrap();
    let between = of_room(
        &room,
        &format!("messages?dir=f&limit=50&from={end}&to={start}"),
    );
    assert_eq!(
        alice.get(&between).await.ok()["chunk"]
            .as_array()
            .unwrap()
            .len(),
        10
    );
    let none = of_room(
        &room,
        &format!("messages?dir=b&limit=50&from={end}&to={end}"),
    );
    assert_eq!(alice.get(&none).await.ok()["chunk"], json!([]));
}

#[tokio::test]
async fn a_page_goes_on_from_a_token_of_sync() {
    let (_server, alice, _) = two_users().await;
    let room = alice.create_room(json!({})).await;
    for index in 0..5 {
        alice.send_text(&room, &index.to_string()).await;
    }
    let synced = alice.sync("timeout=0").await;
    let token = synced["next_batch"].as_str().unwrap();
    let later = alice.send_text(&room, "later").await;
    let forward = of_room(&room, &format!("messages?dir=f&from={token}"));
    let page = alice.get(&forward).await.ok();
    assert_eq!(ids(&page["chunk"]), [later]);
    // What comes later still is found from the page's end; a page that is empty has none.
    let end = page["end"].as_str().unwrap();
    let forward = of_room(&room, &format!("messages?dir=f&from={end}"));
    let nothing = alice.get(&forward).await.ok();
    assert_eq!(
        (&nothing["chunk"], &nothing["end"]),
        (&json!([]), &Value::Null)
    );
    let last = alice.send_text(&room, "last").await;
    let page = alice.get(&forward).await.ok();
    assert_eq!(ids(&page["chunk"]), [last]);
    let whole = walk(&alice, &room, "f", &[500]).await;
    let backward = of_room(&room, &format!("messages?dir=b&limit=500&from={token}"));
    let mut before = ids(&alice.get(&backward).await.ok()["chunk"]);
    before.reverse();
    assert_eq!(before, whole[..whole.len() - 2]);
    // Where a timeline was cut, `prev_batch` gives what lies before.
    let filter = escape(r#"{"room":{"timeline":{"limit":3}}}"#);
    let synced = alice.sync(&format!("timeout=0&filter={filter}")).await;
    let timeline = &synced["rooms"]["join"][&room]["timeline"];
    let shown = ids(&timeline["events"]);
    let prev = timeline["prev_batch"].as_str().unwrap();
    let older = of_room(&room, &format!("messages?dir=b&limit=500&from={prev}"));
    let mut all = ids(&alice.get(&older).await.ok()["chunk"]);
    all.reverse();
    all.extend(shown);
    assert_eq!(all, whole);
}

#[tokio::test]
async fn context_splits_its_limit_around_the_event() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let mut sent = Vec::new();
    for index in 0..11 {
        sent.push(alice.send_text(&room, &index.to_string()).await);
    }
    let path =
        |event: &str, query: &str| of_room(&room, &format!("context/{}?{query}", escape(event)));
    let found = alice.get(&path(&sent[5], "limit=5")).await.ok();
    assert_eq!(found["event"]["event_id"], sent[5].as_str());
    assert_eq!(ids(&found["events_before"]), [&*sent[4], &*sent[3]]);
    assert_eq!(
        ids(&found["events_after"]),
        [&*sent[6], &*sent[7], &*sent[8]]
    );
    assert!(found["state"].as_array().unwrap().len() >= 6);
    let start = found["start"].as_str().unwrap();
    let older = of_room(&room, &format!("messages?dir=b&limit=1&from={start}"));
    assert_eq!(ids(&alice.get(&older).await.ok()["chunk"]), [&*sent[2]]);
    let end = found["end"].as_str().unwrap();
    let newer = of_room(&room, &format!("messages?dir=f&limit=1&from={end}"));
    assert_eq!(ids(&alice.get(&newer).await.ok()["chunk"]), [&*sent[9]]);
    let alone = alice.get(&path(&sent[5], "limit=0")).await.ok();
    assert_eq!(alone["events_before"], json!([]));
    assert_eq!(alone["events_after"], json!([]));
    assert_eq!(alone["event"]["event_id"], sent[5].as_str());
    let lazy = escape(r#"{"lazy_load_members":true}"#);
    let lazy = alice
        .get(&path(&sent[5], &format!("filter={lazy}")))
        .await
        .ok();
    // Of members those alone who are shown; of the rest everything.
    let kinds = |kind: &str| {
        let state = lazy["state"].as_array().unwrap().iter();
        let found: Vec<_> = state.filter(|event| event["type"] == kind).collect();
        found
    };
    let members = kinds("m.room.member");
    assert_eq!(members.len(), 1);
    assert_eq!(members[0]["state_key"], alice.user_id.as_str());
    assert_eq!(kinds("m.room.create").len(), 1);
    alice
        .get(&path("$unknown", ""))
        .await
        .refused(404, "M_NOT_FOUND");
    bob.get(&path(&sent[5], ""))
        .await
        .refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn filters_choose_events_and_lazy_members() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let of_alice = alice.send_text(&room, "a").await;
    let of_bob = bob.send_text(&room, "b").await;
    let page = |filter: Value| {
        of_room(
            &room,
            &format!("messages?dir=b&filter={}", escape(&filter.to_string())),
        )
    };
    let messages = alice
        .get(&page(json!({ "types": ["m.room.mess*"] })))
        .await
        .ok();
    assert_eq!(ids(&messages["chunk"]), [&*of_bob, &*of_alice]);
    let filter = json!({
        "types": ["m.room.message"], "senders": [bob.user_id], "lazy_load_members": true,
    });
    let bobs = alice.get(&page(filter)).await.ok();
    assert_eq!(ids(&bobs["chunk"]), [&*of_bob]);
    assert_eq!(bobs["state"][0]["state_key"], bob.user_id.as_str());
    assert_eq!(bobs["state"].as_array().unwrap().len(), 1);
    let nothing = alice.get(&page(json!({ "not_rooms": [room] }))).await.ok();
    assert_eq!(nothing["chunk"], json!([]));
}

#[tokio::test]
async fn members_are_listed_by_membership_and_time() {
    let (server, alice, bob) = two_users().await;
    let carol = server.register("carol").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let page = alice
        .get(&of_room(&room, "messages?dir=b&limit=1"))
        .await
        .ok();
    let then = page["start"].as_str().unwrap().to_owned();
    let synced = alice.sync("timeout=0").await;
    let by_sync = synced["next_batch"].as_str().unwrap().to_owned();
    act(&bob, &room, "leave", None).await.ok();
    act(&alice, &room, "invite", Some(&carol)).await.ok();
    let members = async |query: &str| -> Vec<(String, String)> {
        let answer = alice
            .get(&of_room(&room, &format!("members{query}")))
            .await
            .ok();
        let mut members: Vec<(String, String)> = answer["chunk"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| {
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                (
                    text(&event["state_key"]),
                    text(&event["content"]["membership"]),
                )
            })
            .collect();
        members.sort();
        members
    };
    let is = |api: &Api, membership: &str| (api.user_id.clone(), membership.to_owned());
    let all = vec![is(&alice, "join"), is(&bob, "leave"), is(&carol, "invite")];
    assert_eq!(members("").await, all);
    assert_eq!(members("?membership=join").await, [is(&alice, "join")]);
    assert_eq!(
        members("?not_membership=leave").await,
        [is(&alice, "join"), is(&carol, "invite")]
    );
    let either = members("?membership=leave&not_membership=join").await;
    assert_eq!(either, [is(&bob, "leave"), is(&carol, "invite")]);
    for at in [&then, &by_sync] {
        assert_eq!(
            members(&format!("?at={at}")).await,
            [is(&alice, "join"), is(&bob, "join")]
        );
    }
    let joined = alice.get(&of_room(&room, "joined_members")).await.ok();
    let joined: Vec<&String> = joined["joined"].as_object().unwrap().keys().collect();
    assert_eq!(joined, [&alice.user_id]);
    bob.get(&of_room(&room, "joined_members"))
        .await
        .refused(403, "M_FORBIDDEN");
    carol
        .get(&of_room(&room, "members"))
        .await
        .refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn who_left_reads_up_to_where_they_left() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let before = alice.send_text(&room, "before bob").await;
    bob.join(&room).await.ok();
    let during = alice.send_text(&room, "with bob").await;
    act(&bob, &room, "leave", None).await.ok();
    let after = alice.send_text(&room, "without bob").await;
    let topic = of_room(&room, "state/m.room.topic");
    alice.put(&topic, json!({ "topic": "later" })).await.ok();
    for dir in ["f", "b"] {
        let seen = walk(&bob, &room, dir, &[4]).await;
        assert!(seen.contains(&before) && seen.contains(&during), "{dir}");
        assert!(!seen.contains(&after), "{dir}");
    }
    let event = |id: &str| of_room(&room, &format!("event/{}", escape(id)));
    bob.get(&event(&during)).await.ok();
    bob.get(&event(&after)).await.refused(404, "M_NOT_FOUND");
    bob.get(&topic).await.refused(404, "M_NOT_FOUND");
    alice.get(&topic).await.ok();
}

#[tokio::test]
async fn history_visibility_decides_what_newcomers_and_strangers_see() {
    let (server, alice, bob) = two_users().await;
    let carol = server.register("carol").await;
    for (visibility, newcomer, stranger) in [
        ("world_readable", true, true),
        ("shared", true, false),
        ("invited", false, false),
        ("joined", false, false),
    ] {
        let content = json!({ "history_visibility": visibility });
        let room = alice
            .create_room(json!({
                "preset": "public_chat",
                "initial_state": [{ "type": "m.room.history_visibility", "content": content }],
            }))
            .await;
        let early = alice.send_text(&room, "early").await;
        act(&alice, &room, "invite", Some(&bob)).await.ok();
        let invited = alice.send_text(&room, "invited").await;
        // Who is invited sees single events, where the visibility is for them.
        let of_invited = of_room(&room, &format!("event/{}", escape(&invited)));
        let while_invited = bob.get(&of_invited).await;
        match visibility {
            "invited" | "world_readable" => drop(while_invited.ok()),
            _ => drop(while_invited.refused(404, "M_NOT_FOUND")),
        }
        bob.join(&room).await.ok();
        let late = alice.send_text(&room, "late").await;
        let seen = walk(&bob, &room, "b", &[3]).await;
        assert_eq!(seen.contains(&early), newcomer, "{visibility}");
        assert_eq!(
            seen.contains(&invited),
            newcomer || visibility == "invited",
            "{visibility}"
        );
        assert!(seen.contains(&late), "{visibility}");
        let event = of_room(&room, &format!("event/{}", escape(&early)));
        let peeked = carol.get(&event).await;
        let page = carol.get(&of_room(&room, "messages?dir=b")).await;
        if stranger {
            peeked.ok();
            assert!(ids(&page.ok()["chunk"]).contains(&late));
            carol.get(&of_room(&room, "state")).await.ok();
        } else {
            peeked.refused(404, "M_NOT_FOUND");
            page.refused(403, "M_FORBIDDEN");
            carol
                .get(&of_room(&room, "state"))
                .await
                .refused(403, "M_FORBIDDEN");
        }
    }
}
