//! Every membership transition, by who may and by who may not.

use serde_json::json;

use super::{act, membership, of_room, state, two_users};
use crate::harness::escape;

#[tokio::test]
async fn an_invited_user_joins_leaves_and_comes_back_only_by_invitation() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "private_chat" })).await;
    bob.join(&room).await.refused(403, "M_FORBIDDEN");
    act(&bob, &room, "leave", None)
        .await
        .refused(403, "M_FORBIDDEN");
    act(&alice, &room, "invite", Some(&bob)).await.ok();
    assert_eq!(membership(&alice, &room, &bob).await, "invite");
    // Again is no error.
    act(&alice, &room, "invite", Some(&bob)).await.ok();
    let joined = act(&bob, &room, "join", None).await.ok();
    assert_eq!(joined["room_id"], room.as_str());
    let before = alice
        .get(&of_room(&room, "messages?dir=b&limit=1"))
        .await
        .ok();
    bob.join(&room).await.ok();
    let after = alice
        .get(&of_room(&room, "messages?dir=b&limit=1"))
        .await
        .ok();
    assert_eq!(
        before["chunk"][0]["event_id"],
        after["chunk"][0]["event_id"]
    );
    act(&alice, &room, "invite", Some(&bob))
        .await
        .refused(403, "M_FORBIDDEN");
    act(&bob, &room, "leave", None).await.ok();
    assert_eq!(membership(&alice, &room, &bob).await, "leave");
    act(&bob, &room, "leave", None).await.ok();
    bob.join(&room).await.refused(403, "M_FORBIDDEN");
    // A rejected invite is a leave.
    act(&alice, &room, "invite", Some(&bob)).await.ok();
    act(&bob, &room, "leave", None).await.ok();
    bob.join(&room).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn kick_ban_and_unban_take_power() {
    let (server, alice, bob) = two_users().await;
    let carol = server.register("carol").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    for verb in ["kick", "ban", "unban", "invite"] {
        act(&carol, &room, verb, Some(&bob))
            .await
            .refused(403, "M_FORBIDDEN");
    }
    bob.join(&room).await.ok();
    carol.join(&room).await.ok();
    for verb in ["kick", "ban", "unban"] {
        act(&carol, &room, verb, Some(&bob))
            .await
            .refused(403, "M_FORBIDDEN");
    }
    act(&alice, &room, "kick", Some(&bob)).await.ok();
    let path = format!("m.room.member/{}", escape(&bob.user_id));
    let kicked = state(&alice, &room, &path).await;
    assert_eq!(
        kicked,
        json!({ "membership": "leave", "reason": "because" })
    );
    act(&alice, &room, "kick", Some(&bob))
        .await
        .refused(403, "M_FORBIDDEN");
    act(&alice, &room, "unban", Some(&bob))
        .await
        .refused(403, "M_FORBIDDEN");
    bob.join(&room).await.ok();
    act(&alice, &room, "ban", Some(&bob)).await.ok();
    assert_eq!(membership(&carol, &room, &bob).await, "ban");
    bob.join(&room).await.refused(403, "M_FORBIDDEN");
    act(&bob, &room, "leave", None)
        .await
        .refused(403, "M_FORBIDDEN");
    act(&alice, &room, "invite", Some(&bob))
        .await
        .refused(403, "M_FORBIDDEN");
    act(&alice, &room, "kick", Some(&bob))
        .await
        .refused(403, "M_FORBIDDEN");
    act(&alice, &room, "unban", Some(&bob)).await.ok();
    assert_eq!(membership(&carol, &room, &bob).await, "leave");
    bob.join(&room).await.ok();
    // Nobody kicks the creator.
    act(&bob, &room, "kick", Some(&alice))
        .await
        .refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_join_holds_what_the_client_adds_but_not_what_servers_state() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let body = json!({
        "foo": "bar", "reason": "why not", "membership": "ban", "displayname": "Alice",
        "join_authorised_via_users_server": alice.user_id,
    });
    bob.post(&of_room(&room, "join"), body).await.ok();
    let path = format!("m.room.member/{}", escape(&bob.user_id));
    assert_eq!(
        state(&alice, &room, &path).await,
        json!({
            "membership": "join", "displayname": "bob", "foo": "bar", "reason": "why not",
        })
    );
    act(&bob, &room, "leave", None).await.ok();
    for wrong in [json!({ "reason": 1 }), json!({ "foo": 0.5 }), json!([])] {
        bob.post(&of_room(&room, "join"), wrong)
            .await
            .refused(400, "M_BAD_JSON");
    }
}

#[tokio::test]
async fn a_room_is_forgotten_after_it_was_left() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    act(&bob, &room, "forget", None)
        .await
        .refused(400, "M_UNKNOWN");
    act(&bob, &room, "leave", None).await.ok();
    bob.get(&of_room(&room, "messages?dir=b")).await.ok();
    act(&bob, &room, "forget", None).await.ok();
    act(&bob, &room, "forget", None).await.ok();
    bob.get(&of_room(&room, "messages?dir=b"))
        .await
        .refused(403, "M_FORBIDDEN");
    act(&bob, "!unknown:hs.test", "forget", None)
        .await
        .refused(404, "M_NOT_FOUND");
    // It stays forgotten until they are asked in again, or come by themselves.
    let since = bob.sync("timeout=0").await["next_batch"].clone();
    let left = async || {
        let since = escape(since.as_str().unwrap());
        let filter = escape(r#"{"room":{"include_leave":true}}"#);
        for query in [format!("since={since}"), format!("filter={filter}")] {
            let synced = bob.sync(&format!("timeout=0&{query}")).await;
            assert_eq!(synced["rooms"]["leave"], json!({}), "{query}");
        }
    };
    act(&alice, &room, "ban", Some(&bob)).await.ok();
    left().await;
    act(&alice, &room, "unban", Some(&bob)).await.ok();
    left().await;
    act(&alice, &room, "invite", Some(&bob)).await.ok();
    act(&bob, &room, "leave", None).await.ok();
    let filter = escape(r#"{"room":{"include_leave":true}}"#);
    let synced = bob.sync(&format!("timeout=0&filter={filter}")).await;
    assert!(synced["rooms"]["leave"][&room].is_object(), "{synced}");
    bob.join(&room).await.ok();
    bob.get(&of_room(&room, "messages?dir=b")).await.ok();
}

#[tokio::test]
async fn a_knock_can_be_answered_or_taken_back() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "private_chat" })).await;
    let knock = format!("/_matrix/client/v3/knock/{}", escape(&room));
    bob.post(&knock, json!({}))
        .await
        .refused(403, "M_FORBIDDEN");
    let rules = of_room(&room, "state/m.room.join_rules");
    alice
        .put(&rules, json!({ "join_rule": "knock" }))
        .await
        .ok();
    bob.post(&knock, json!({ "reason": "let me in" }))
        .await
        .ok();
    assert_eq!(membership(&alice, &room, &bob).await, "knock");
    bob.join(&room).await.refused(403, "M_FORBIDDEN");
    act(&bob, &room, "leave", None).await.ok();
    bob.post(&knock, json!({})).await.ok();
    act(&alice, &room, "invite", Some(&bob)).await.ok();
    bob.join(&room).await.ok();
}

#[tokio::test]
async fn members_of_an_allowed_room_join_a_restricted_one() {
    let (server, alice, bob) = two_users().await;
    let carol = server.register("carol").await;
    let club = alice.create_room(json!({ "preset": "public_chat" })).await;
    let allow = json!([{ "type": "m.room_membership", "room_id": club }]);
    let room = alice
        .create_room(json!({
            "initial_state": [{ "type": "m.room.join_rules", "content": {
                "join_rule": "restricted", "allow": allow,
            } }],
        }))
        .await;
    bob.join(&club).await.ok();
    bob.join(&room).await.ok();
    let member = state(
        &bob,
        &room,
        &format!("m.room.member/{}", escape(&bob.user_id)),
    )
    .await;
    assert_eq!(
        member["join_authorised_via_users_server"],
        alice.user_id.as_str()
    );
    carol.join(&room).await.refused(403, "M_FORBIDDEN");
}

/// A join of a restricted room is authorised by a member of this server, whose
/// consent the server signs. A client that set its own member event could name
/// one itself, and walked in.
#[tokio::test]
async fn nobody_authorises_their_own_join() {
    let (server, alice, bob) = two_users().await;
    let carol = server.register("carol").await;
    let club = alice.create_room(json!({ "preset": "public_chat" })).await;
    let allow = json!([{ "type": "m.room_membership", "room_id": club }]);
    for rule in ["restricted", "knock_restricted"] {
        let room = alice
            .create_room(json!({ "initial_state": [{
                "type": "m.room.join_rules",
                "content": { "join_rule": rule, "allow": allow },
            }] }))
            .await;
        let own = |user: &str| of_room(&room, &format!("state/m.room.member/{}", escape(user)));
        let forged = json!({
            "membership": "join", "join_authorised_via_users_server": alice.user_id,
        });
        carol
            .put(&own(&carol.user_id), forged.clone())
            .await
            .refused(403, "M_FORBIDDEN");
        assert_eq!(membership(&alice, &room, &carol).await, "none");
        // Who fulfils a condition may join by this way as well, and then show
        // another name; the one who let them in stays the same.
        bob.join(&club).await.ok();
        for name in ["Bob", "Bobby"] {
            let content = json!({
                "membership": "join", "displayname": name,
                "join_authorised_via_users_server": bob.user_id,
            });
            bob.put(&own(&bob.user_id), content).await.ok();
            let member = alice.get(&own(&bob.user_id)).await.ok();
            assert_eq!(member["displayname"], name);
            assert_eq!(
                member["join_authorised_via_users_server"],
                alice.user_id.as_str()
            );
        }
        act(&bob, &club, "leave", None).await.ok();
    }
}

#[tokio::test]
async fn members_are_set_as_state_by_the_same_rules() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({})).await;
    let bobs = of_room(
        &room,
        &format!("state/m.room.member/{}", escape(&bob.user_id)),
    );
    let set = |word: &str| json!({ "membership": word, "reason": "because" });
    bob.put(&bobs, set("join"))
        .await
        .refused(403, "M_FORBIDDEN");
    alice.put(&bobs, set("invite")).await.ok();
    alice
        .put(&bobs, set("join"))
        .await
        .refused(403, "M_FORBIDDEN");
    bob.put(&bobs, set("join")).await.ok();
    let alices = of_room(
        &room,
        &format!("state/m.room.member/{}", escape(&alice.user_id)),
    );
    bob.put(&alices, set("leave"))
        .await
        .refused(403, "M_FORBIDDEN");
    alice.put(&bobs, set("ban")).await.ok();
    bob.put(&bobs, set("leave"))
        .await
        .refused(403, "M_FORBIDDEN");
    let banned = alice.get(&bobs).await.ok();
    assert_eq!(banned, set("ban"));
    alice.put(&bobs, set("leave")).await.ok();
    assert_eq!(membership(&alice, &room, &bob).await, "leave");
    for content in [json!({}), json!({ "membership": 7 }), set("dance")] {
        let refused = alice.put(&bobs, content).await;
        assert!(refused.status.is_client_error(), "{}", refused.body);
    }
    let nobody = of_room(&room, "state/m.room.member/nobody");
    alice
        .put(&nobody, set("invite"))
        .await
        .refused(403, "M_FORBIDDEN");
}

/// Whoever is invited must be there, before a room is made for them, too.
#[tokio::test]
async fn who_is_not_there_cannot_be_invited() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "room_alias_name": "a" })).await;
    let nobody = json!({ "user_id": "@nobody:hs.test" });
    let invite = of_room(&room, "invite");
    let refused = alice.post(&invite, nobody.clone()).await;
    refused.refused(404, "M_NOT_FOUND");
    // Who is not in the room is not told who is here.
    bob.post(&invite, nobody).await.refused(403, "M_FORBIDDEN");
    let member = of_room(&room, "state/m.room.member/@nobody:hs.test");
    let by_state = json!({ "membership": "invite" });
    alice
        .put(&member, by_state)
        .await
        .refused(404, "M_NOT_FOUND");
    let create = "/_matrix/client/v3/createRoom";
    let made = json!({
        "invite": [bob.user_id, "@nobody:hs.test"], "room_alias_name": "b",
    });
    alice.post(create, made).await.refused(404, "M_NOT_FOUND");
    let alias = "/_matrix/client/v3/directory/room/%23b%3Ahs.test";
    alice.get(alias).await.refused(404, "M_NOT_FOUND");
    let rooms = alice.get("/_matrix/client/v3/joined_rooms").await.ok();
    assert_eq!(rooms["joined_rooms"], json!([room]));
}

#[tokio::test]
async fn what_is_not_there_cannot_be_joined() {
    let (_server, alice, bob) = two_users().await;
    alice
        .join("!unknown:hs.test")
        .await
        .refused(404, "M_NOT_FOUND");
    alice
        .join("#unknown:hs.test")
        .await
        .refused(404, "M_NOT_FOUND");
    alice.join("nonsense").await.refused(400, "M_INVALID_PARAM");
    act(&alice, "!unknown:hs.test", "invite", Some(&bob))
        .await
        .refused(403, "M_FORBIDDEN");
    let room = alice.create_room(json!({})).await;
    let invite = of_room(&room, "invite");
    alice
        .post(
            &invite,
            json!({ "id_server": "x", "medium": "email", "address": "a@b" }),
        )
        .await
        .refused(403, "M_FORBIDDEN");
    alice
        .post(&invite, json!({}))
        .await
        .refused(400, "M_MISSING_PARAM");
    // A server that cannot be asked signs nothing.
    alice
        .post(&invite, json!({ "user_id": "@x:elsewhere.test" }))
        .await
        .refused(502, "M_UNKNOWN");
}
