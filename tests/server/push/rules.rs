//! Changing rules.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{ids, put_rule, rules, unread};
use crate::harness::{Api, Server, escape};
use crate::rooms::two_users;

/// The rules that an answer of sync tells of.
fn told(answer: &Value) -> Option<Value> {
    let events = answer["account_data"]["events"].as_array()?.iter();
    let mut told = events.filter(|event| event["type"] == "m.push_rules");
    told.next().map(|event| event["content"].clone())
}

#[tokio::test]
async fn rules_are_put_changed_and_deleted() {
    let (mut server, alice, bob) = two_users().await;
    put_rule(
        &alice,
        "content",
        "first",
        json!({ "pattern": "cake", "actions": ["notify"] }),
    )
    .await;
    put_rule(
        &alice,
        "content",
        "second",
        json!({ "pattern": "tea", "actions": [] }),
    )
    .await;
    assert_eq!(ids(&alice, "content").await, ["second", "first"]);
    let beside = |query: &str| rules(&format!("content/third?{query}"));
    let third = json!({ "pattern": "pie", "actions": ["dont_notify"] });
    alice.put(&beside("after=second"), third.clone()).await.ok();
    assert_eq!(ids(&alice, "content").await, ["second", "third", "first"]);
    alice
        .put(&beside("before=second&after=first"), third)
        .await
        .ok();
    assert_eq!(ids(&alice, "content").await, ["third", "second", "first"]);
    let expected = json!({
        "rule_id": "third", "pattern": "pie", "actions": ["dont_notify"],
        "default": false, "enabled": true,
    });
    assert_eq!(alice.get(&rules("content/third")).await.ok(), expected);
    let of_kind = alice.get(&rules("content/")).await.ok();
    assert_eq!(of_kind[0], expected);
    alice
        .get(&rules("shout/"))
        .await
        .refused(400, "M_INVALID_PARAM");

    // Enabled and actions have endpoints of their own, for predefined rules too.
    for path in ["content/third", "override/.m.rule.master"] {
        let path = rules(path);
        for enabled in [false, true, false] {
            let body = json!({ "enabled": enabled });
            alice
                .put(&format!("{path}/enabled"), body.clone())
                .await
                .ok();
            assert_eq!(alice.get(&format!("{path}/enabled")).await.ok(), body);
        }
        let body = json!({ "actions": ["notify", { "set_tweak": "sound", "value": "bing" }] });
        alice
            .put(&format!("{path}/actions"), body.clone())
            .await
            .ok();
        assert_eq!(alice.get(&format!("{path}/actions")).await.ok(), body);
    }

    // Rules outlive a crash, and nobody else has them.
    let token = alice.token.clone();
    server.kill();
    server.start().await;
    let mut alice = server.api();
    alice.token = token;
    assert_eq!(ids(&alice, "content").await, ["third", "second", "first"]);
    let third = alice.get(&rules("content/third")).await.ok();
    assert_eq!(third["enabled"], false);
    let mut other = server.api();
    other.token = bob.token.clone();
    assert_eq!(ids(&other, "content").await, Vec::<String>::new());

    let path = rules("content/second");
    assert_eq!(alice.delete(&path).await.ok(), json!({}));
    alice.get(&path).await.refused(404, "M_NOT_FOUND");
    alice.delete(&path).await.refused(404, "M_NOT_FOUND");
    assert_eq!(ids(&alice, "content").await, ["third", "first"]);
}

#[tokio::test]
async fn every_device_hears_of_changes() {
    let server = Server::builder().start().await;
    let alice = server.register("alice").await;
    let first = alice.sync("").await;
    let content = told(&first).expect("valid rules come with the first answer");
    for kind in ["override", "content", "room", "sender", "underride"] {
        assert!(content["global"][kind].is_array(), "{kind}");
    }
    let mut token = first["next_batch"].as_str().unwrap().to_owned();
    let room = json!({ "actions": [] });
    let changes = [
        ("room/!room:hs.test", room),
        ("room/!room:hs.test/enabled", json!({ "enabled": false })),
        (
            "room/!room:hs.test/actions",
            json!({ "actions": ["notify"] }),
        ),
    ];
    for (path, body) in changes {
        let waiting = {
            let (alice, token) = (alice.clone(), token.clone());
            tokio::spawn(async move { alice.sync(&format!("since={token}&timeout=30000")).await })
        };
        alice.put(&rules(path), body).await.ok();
        let answer = waiting.await.unwrap();
        token = answer["next_batch"].as_str().unwrap().to_owned();
        let all = alice.get("/_matrix/client/v3/pushrules/").await.ok();
        assert_eq!(told(&answer).as_ref(), Some(&all), "{path}");
        let user = escape(&alice.user_id);
        let datum = format!("/_matrix/client/v3/user/{user}/account_data/m.push_rules");
        assert_eq!(alice.get(&datum).await.ok(), all);
    }
    // What changes nothing tells nobody.
    let same = json!({ "enabled": false });
    alice
        .put(&rules("room/!room:hs.test/enabled"), same)
        .await
        .ok();
    let answer = alice.sync(&format!("since={token}&timeout=0")).await;
    assert_eq!(told(&answer), None);
}

#[tokio::test]
async fn changes_at_once_do_not_lose_one_another() {
    let server = Server::builder().start().await;
    let alice = server.register("alice").await;
    let changes = (0..20).map(|number| {
        let alice = alice.clone();
        tokio::spawn(async move {
            let rule = json!({ "pattern": "x", "actions": ["notify"] });
            put_rule(&alice, "content", &format!("rule{number}"), rule).await;
        })
    });
    for change in changes.collect::<Vec<_>>() {
        change.await.unwrap();
    }
    let known: BTreeSet<String> = ids(&alice, "content").await.into_iter().collect();
    let expected = (0..20).map(|number| format!("rule{number}"));
    assert_eq!(known, expected.collect());
}

#[tokio::test]
async fn what_is_no_rule_is_refused() {
    let server = Server::builder().start().await;
    let alice = server.register("alice").await;
    let before = alice.get(&rules("")).await.ok();
    let quiet = json!({ "actions": [] });
    let put = async |path: &str, body: Value, status: u16, code: &str| {
        alice.put(&rules(path), body).await.refused(status, code);
    };
    put(
        "override/.m.rule.mine",
        quiet.clone(),
        400,
        "M_INVALID_PARAM",
    )
    .await;
    put("override/a%2Fb", quiet.clone(), 400, "M_INVALID_PARAM").await;
    put("override/a%5Cb", quiet.clone(), 400, "M_INVALID_PARAM").await;
    put("shout/a", quiet.clone(), 400, "M_INVALID_PARAM").await;
    put("room/nowhere", quiet.clone(), 400, "M_INVALID_PARAM").await;
    put("sender/nobody", quiet.clone(), 400, "M_INVALID_PARAM").await;
    put("override/a", json!({}), 400, "M_MISSING_PARAM").await;
    put("content/a", quiet.clone(), 400, "M_MISSING_PARAM").await;
    put(
        "override/a",
        json!({ "actions": "notify" }),
        400,
        "M_BAD_JSON",
    )
    .await;
    put(
        "override/a",
        json!({ "actions": ["shout"] }),
        400,
        "M_BAD_JSON",
    )
    .await;
    let half = json!({ "actions": [], "conditions": [{ "kind": "event_match", "key": "type" }] });
    put("override/a", half, 400, "M_BAD_JSON").await;
    let long = json!({ "actions": [], "pattern": "x".repeat(1_024) });
    put("content/a", long, 413, "M_TOO_LARGE").await;
    for beside in [
        "before=none",
        "after=none",
        "after=.m.rule.master",
        "before=a",
    ] {
        let path = format!("override/a?{beside}");
        put(&path, quiet.clone(), 400, "M_UNKNOWN").await;
    }
    put(
        "override/none/enabled",
        json!({ "enabled": true }),
        404,
        "M_NOT_FOUND",
    )
    .await;
    put("override/none/actions", quiet.clone(), 404, "M_NOT_FOUND").await;
    put(
        "override/.m.rule.master/enabled",
        json!({}),
        400,
        "M_MISSING_PARAM",
    )
    .await;
    put(
        "override/.m.rule.master/enabled",
        json!({ "enabled": "no" }),
        400,
        "M_BAD_JSON",
    )
    .await;
    put(
        "override/.m.rule.master/actions",
        json!({}),
        400,
        "M_MISSING_PARAM",
    )
    .await;
    let path = rules("override/.m.rule.master");
    alice.delete(&path).await.refused(400, "M_INVALID_PARAM");
    let nobody = server.api();
    nobody.get(&rules("")).await.refused(401, "M_MISSING_TOKEN");
    assert_eq!(alice.get(&rules("")).await.ok(), before);
}

/// A user's own rules decide what counts, at once.
#[tokio::test]
async fn own_rules_are_obeyed() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let since = alice.sync("").await["next_batch"].clone();
    let mut since = since.as_str().unwrap().to_owned();
    let next = async |api: &Api, since: &mut String| {
        let answer = api.sync(&format!("since={since}")).await;
        *since = answer["next_batch"].as_str().unwrap().to_owned();
        unread(&answer, &room)
    };
    let cake = json!({ "pattern": "ca?e", "actions": ["notify", { "set_tweak": "highlight" }] });
    put_rule(&alice, "content", "cake", cake).await;
    put_rule(&alice, "room", &room, json!({ "actions": [] })).await;
    bob.send_text(&room, "there is Cake!").await;
    bob.send_text(&room, "and nothing else").await;
    assert_eq!(next(&alice, &mut since).await, (1, 1));
    // Muted by one who is more important: who sends it.
    let path = rules(&format!("room/{}", escape(&room)));
    alice.delete(&path).await.ok();
    put_rule(&alice, "sender", &bob.user_id, json!({ "actions": [] })).await;
    bob.send_text(&room, "never mind").await;
    assert_eq!(next(&alice, &mut since).await, (1, 1));
    let master = json!({ "enabled": true });
    alice
        .put(&rules("override/.m.rule.master/enabled"), master)
        .await
        .ok();
    bob.send_text(&room, "cake again").await;
    assert_eq!(next(&alice, &mut since).await, (1, 1));
}

#[tokio::test]
async fn the_rule_about_a_room_follows_its_upgrade() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    for user in [&alice, &bob] {
        put_rule(user, "room", &room, json!({ "actions": [] })).await;
    }
    let path = crate::rooms::of_room(&room, "upgrade");
    let answer = alice.post(&path, json!({ "new_version": "11" })).await.ok();
    let next = answer["replacement_room"].as_str().unwrap().to_owned();
    bob.join(&next).await.ok();
    for user in [&alice, &bob] {
        let path = rules(&format!("room/{}", escape(&next)));
        let rule = user.get(&path).await.ok();
        assert_eq!(
            (&rule["actions"], &rule["enabled"]),
            (&json!([]), &json!(true))
        );
        let path = rules(&format!("room/{}", escape(&room)));
        user.get(&path).await.ok();
    }
    let first = bob.sync("").await;
    assert_eq!(unread(&first, &next), (0, 0));
    alice.send_text(&next, "not for bob").await;
    assert_eq!(unread(&bob.sync("").await, &next), (0, 0));
}
