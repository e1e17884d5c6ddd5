//! What can be asked: keys, filters, order, groups, context, pages, bad input.

use serde_json::{Value, json};

use super::{ask, finds, ids, results};
use crate::harness::{Api, Server, escape};
use crate::rooms::{of_room, two_users};

#[tokio::test]
async fn results_tell_event_rank_count_and_highlights() {
    let (_server, alice, _) = two_users().await;
    let body = json!({ "name": "Martians", "topic": "All about martians" });
    let room = alice.create_room(body).await;
    let said = alice.send_text(&room, "Martians, and MEN from 火星").await;
    alice.send_text(&room, "and nobody else").await;
    finds(&alice, "men martians", &[&said]).await;
    finds(&alice, "星", &[&said]).await;
    finds(&alice, "\"and men\"", &[&said]).await;
    finds(&alice, "\"men and\"", &[]).await;
    let found = results(&alice, json!({ "search_term": "Martians Men" })).await;
    assert_eq!(found["count"], 1);
    assert_eq!(found["highlights"], json!(["martians", "men"]));
    let result = &found["results"][0];
    assert!(result["rank"].as_f64().unwrap() > 0.0);
    assert_eq!(result["result"]["room_id"], *room);
    assert_eq!(result["result"]["sender"], *alice.user_id);
    assert_eq!(
        result["result"]["content"]["body"],
        "Martians, and MEN from 火星"
    );
    assert!(result.get("context").is_none());
    for absent in ["groups", "state", "next_batch"] {
        assert!(found.get(absent).is_none(), "{absent}");
    }
    for (key, types) in [
        ("content.body", vec!["m.room.message"]),
        ("content.name", vec!["m.room.name"]),
        ("content.topic", vec!["m.room.topic"]),
    ] {
        let found = results(&alice, json!({ "search_term": "martians", "keys": [key] })).await;
        let found = found["results"].as_array().unwrap().iter();
        let found: Vec<_> = found.map(|result| &result["result"]["type"]).collect();
        assert_eq!(found, types, "{key}");
    }
    // No category, no answer of one.
    let path = "/_matrix/client/v3/search";
    let nothing = alice.post(path, json!({ "search_categories": {} })).await;
    assert_eq!(nothing.ok(), json!({ "search_categories": {} }));
}

#[tokio::test]
async fn edits_are_found_by_their_newest_text_under_their_message() {
    let (_server, alice, _) = two_users().await;
    let room = alice.create_room(json!({})).await;
    let message = alice.send_text(&room, "an apple").await;
    let edit = json!({
        "msgtype": "m.text",
        "body": "* a pear",
        "m.new_content": { "msgtype": "m.text", "body": "a pear" },
        "m.relates_to": { "rel_type": "m.replace", "event_id": message },
    });
    let edit = alice.send(&room, "edit", edit).await;
    finds(&alice, "pear", &[&message]).await;
    finds(&alice, "apple", &[]).await;
    // The content of the original is left intact (*Event replacements*).
    let found = results(&alice, json!({ "search_term": "pear" })).await;
    let shown = &found["results"][0]["result"];
    assert_eq!(shown["content"]["body"], "an apple");
    let bundled = &shown["unsigned"]["m.relations"]["m.replace"];
    assert_eq!(bundled["event_id"], *edit);
    let redact = of_room(&room, &format!("redact/{edit}/1"));
    alice.put(&redact, json!({})).await.ok();
    finds(&alice, "apple", &[&message]).await;
    finds(&alice, "pear", &[]).await;
}

#[tokio::test]
async fn pages_and_groups_lead_through_all_results() {
    let (_server, alice, bob) = two_users().await;
    let mut rooms = Vec::new();
    for _ in 0..3 {
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await.ok();
        rooms.push(room);
    }
    let mut all = Vec::new();
    for index in 0..24 {
        let sender = if index % 4 == 0 { &bob } else { &alice };
        let sent = sender
            .send_text(&rooms[index % 3], &format!("word {index}"))
            .await;
        all.push(sent);
    }
    let expected: Vec<&str> = all.iter().map(String::as_str).collect();
    let criteria = |limit: usize| {
        json!({
            "search_term": "word",
            "order_by": "recent",
            "filter": { "limit": limit },
            "groupings": { "group_by": [{ "key": "room_id" }, { "key": "sender" }] },
        })
    };
    // Wait with pages that hold all of them.
    let mut whole = Value::Null;
    while whole["count"] != 24 {
        whole = results(&alice, criteria(50)).await;
    }
    let newest_first: Vec<&str> = expected.iter().rev().copied().collect();
    assert_eq!(ids(&whole), newest_first);
    assert!(whole.get("next_batch").is_none());
    let mut pages = Vec::new();
    let mut next: Option<String> = None;
    loop {
        let page = ask(&alice, criteria(5), next.as_deref()).await.ok();
        let page = page["search_categories"]["room_events"].clone();
        pages.extend(ids(&page));
        match page["next_batch"].as_str() {
            Some(token) => next = Some(token.to_owned()),
            None => break,
        }
    }
    assert_eq!(pages, newest_first);

    let first = results(&alice, criteria(6)).await;
    let first_ids = ids(&first);
    let groups = first["groups"]["room_id"].as_object().unwrap();
    assert_eq!(groups.len(), 3);
    for (room, group) in groups {
        let index = rooms.iter().position(|known| known == room).unwrap();
        let of_room: Vec<&str> = (0..24)
            .rev()
            .filter(|at| at % 3 == index)
            .map(|at| expected[at])
            .collect();
        let mut found: Vec<String> = serde_json::from_value(group["results"].clone()).unwrap();
        let order = group["order"].as_u64().unwrap() as usize;
        assert_eq!(first_ids[order], found[0]);
        let mut next = group["next_batch"].as_str().map(str::to_owned);
        while let Some(token) = next {
            let page = ask(&alice, criteria(4), Some(&token)).await.ok();
            let page = &page["search_categories"]["room_events"];
            found.extend(ids(page));
            next = page["next_batch"].as_str().map(str::to_owned);
        }
        assert_eq!(found, of_room);
    }
    let senders = first["groups"]["sender"].as_object().unwrap();
    assert_eq!(senders.len(), 2);
    // A token is of the request, and of the user, that it was made for.
    let token = first["next_batch"].as_str().unwrap();
    let other = json!({ "search_term": "other" });
    ask(&alice, other, Some(token))
        .await
        .refused(400, "M_INVALID_PARAM");
    ask(&bob, criteria(6), Some(token))
        .await
        .refused(400, "M_INVALID_PARAM");
    ask(&alice, criteria(6), Some("r1_AAAA"))
        .await
        .refused(400, "M_INVALID_PARAM");
}

async fn call(user: &Api, name: &str) {
    let id = escape(&user.user_id);
    let path = format!("/_matrix/client/v3/profile/{id}/displayname");
    user.put(&path, json!({ "displayname": name })).await.ok();
}

#[tokio::test]
async fn context_profiles_and_state_come_when_asked_for() {
    let (_server, alice, bob) = two_users().await;
    let users = [(&alice, "Alice"), (&bob, "Bob")];
    for (user, name) in users {
        call(user, name).await;
    }
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let mut around = Vec::new();
    for index in 0..12 {
        let text = if index == 6 { "needle" } else { "hay" };
        let sender = if index % 2 == 0 { &alice } else { &bob };
        around.push(sender.send_text(&room, text).await);
    }
    // What they were called then counts, not what they are called now.
    call(&alice, "Alicia").await;
    finds(&alice, "needle", &[&around[6]]).await;
    let criteria = json!({
        "search_term": "needle",
        "event_context": { "before_limit": 2, "include_profile": true },
        "include_state": true,
    });
    let found = results(&alice, criteria).await;
    let context = &found["results"][0]["context"];
    let sides = |side: &str| -> Vec<String> {
        let events = context[side].as_array().unwrap().iter();
        events
            .map(|event| event["event_id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        sides("events_before"),
        [around[5].clone(), around[4].clone()]
    );
    assert_eq!(sides("events_after"), around[7..12]);
    for (user, name) in users {
        let profile = json!({ "displayname": name });
        assert_eq!(context["profile_info"][&user.user_id], profile);
    }
    // The tokens lead on from the edges of the context.
    let end = context["start"].as_str().unwrap();
    let older = of_room(&room, &format!("messages?dir=b&limit=1&from={end}"));
    let older = alice.get(&older).await.ok();
    assert_eq!(older["chunk"][0]["event_id"], *around[3]);
    let state = found["state"][&room].as_array().unwrap();
    let members = state
        .iter()
        .filter(|event| event["type"] == "m.room.member");
    assert_eq!(members.count(), 2);
}

#[tokio::test]
async fn bad_input_is_told() {
    let (_server, alice, _) = two_users().await;
    let refused = async |criteria: Value, code: &str| {
        let answer = ask(&alice, criteria.clone(), None).await;
        answer.refused(400, code);
    };
    refused(json!({}), "M_MISSING_PARAM").await;
    refused(json!({ "search_term": 1 }), "M_BAD_JSON").await;
    refused(
        json!({ "search_term": "a", "keys": ["content.x"] }),
        "M_INVALID_PARAM",
    )
    .await;
    refused(
        json!({ "search_term": "a", "order_by": "odd" }),
        "M_BAD_JSON",
    )
    .await;
    refused(
        json!({ "search_term": "a", "filter": { "rooms": 1 } }),
        "M_INVALID_PARAM",
    )
    .await;
    refused(
        json!({ "search_term": "x".repeat(5000) }),
        "M_INVALID_PARAM",
    )
    .await;
    refused(
        json!({ "search_term": "x ".repeat(500) }),
        "M_INVALID_PARAM",
    )
    .await;
    let group = json!({ "group_by": [{ "key": "type" }] });
    refused(
        json!({ "search_term": "a", "groupings": group }),
        "M_BAD_JSON",
    )
    .await;
    let nothing = results(&alice, json!({ "search_term": "" })).await;
    assert_eq!(
        (&nothing["count"], &nothing["results"]),
        (&json!(0), &json!([]))
    );
}

#[tokio::test]
async fn a_server_may_do_without_search() {
    let server = Server::builder()
        .set("SEARCH__ENABLED", false)
        .start()
        .await;
    let alice = server.register("alice").await;
    ask(&alice, json!({ "search_term": "a" }), None)
        .await
        .refused(404, "M_UNRECOGNIZED");
    assert!(!server.data_dir.join("search").exists());
}
