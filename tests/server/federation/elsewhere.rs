//! What users do in rooms of other servers: join, leave and come back. Two
//! servers of ours, or one and a server of the test's own that lies.

use std::time::{Duration, Instant};

use engram::matrix::RoomVersion;
use serde_json::{Value, json};

use super::Neighbourhood;
use super::visitor::membership;
use crate::harness::{Answer, Api, Server, escape};

/// Two servers with a user each.
pub struct Pair {
    pub a: Server,
    pub b: Server,
    pub alice: Api,
    pub bob: Api,
}

pub const ALICE: &str = "@alice:a.test";
pub const BOB: &str = "@bob:b.test";

pub async fn pair() -> Pair {
    let neighbourhood = Neighbourhood::new();
    let (a, b) = tokio::join!(
        neighbourhood.builder("a.test").start(),
        neighbourhood.builder("b.test").start()
    );
    let (alice, bob) = tokio::join!(a.register("alice"), b.register("bob"));
    Pair { a, b, alice, bob }
}

/// Joins through a server.
pub async fn join_by(api: &Api, room: &str, via: &str) -> Answer {
    let path = format!("/_matrix/client/v3/join/{}?via={via}", escape(room));
    api.post(&path, json!({})).await
}

/// Joins through `a.test`, which must work.
pub async fn join(api: &Api, room: &str) {
    let answer = join_by(api, room, "a.test").await.ok();
    assert_eq!(answer["room_id"], room);
}

pub async fn act(api: &Api, room: &str, what: &str, body: Value) -> Answer {
    let path = format!("/_matrix/client/v3/rooms/{}/{what}", escape(room));
    api.post(&path, body).await
}

/// The state that a client has of a room: content by type and key.
async fn state(api: &Api, room: &str) -> Vec<(String, String, String)> {
    let path = format!("/_matrix/client/v3/rooms/{}/state", escape(room));
    let events = api.get(&path).await.ok();
    let text = |event: &Value, field: &str| event[field].as_str().unwrap().to_owned();
    let mut state: Vec<_> = events
        .as_array()
        .unwrap()
        .iter()
        .map(|event| {
            (
                text(event, "type"),
                text(event, "state_key"),
                text(event, "event_id"),
            )
        })
        .collect();
    state.sort();
    state
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_of_every_version_are_joined_and_shown() {
    let Pair {
        alice, bob, a, b, ..
    } = &pair().await;
    let _running = (a, b);
    for version in RoomVersion::all() {
        let body = json!({
            "room_version": version.as_str(), "preset": "public_chat", "name": "Far away",
        });
        let room = alice.create_room(body).await;
        alice.send_text(&room, "before").await;
        join(bob, &room).await;
        assert_eq!(
            membership(alice, &room, BOB).await.unwrap(),
            "join",
            "{version}"
        );
        assert_eq!(
            state(bob, &room).await,
            state(alice, &room).await,
            "{version}"
        );
        // Again: there is nothing to do.
        join(bob, &room).await;

        let synced = bob.sync("").await;
        let joined = &synced["rooms"]["join"][&room];
        let timeline = joined["timeline"]["events"].as_array().unwrap();
        assert_eq!(timeline.last().unwrap()["state_key"], BOB, "{version}");
        assert_eq!(joined["timeline"]["limited"], true, "{version}: {joined}");
        assert!(joined["timeline"]["prev_batch"].is_string(), "{version}");
        let kinds: Vec<_> = joined["state"]["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["type"].as_str().unwrap())
            .collect();
        for kind in [
            "m.room.create",
            "m.room.power_levels",
            "m.room.name",
            "m.room.member",
        ] {
            assert!(kinds.contains(&kind), "{version}: {kinds:?}");
        }
        let members = format!("/_matrix/client/v3/rooms/{}/joined_members", escape(&room));
        let members = bob.get(&members).await.ok();
        assert_eq!(members["joined"].as_object().unwrap().len(), 2, "{version}");
        let rooms = bob.get("/_matrix/client/v3/joined_rooms").await.ok();
        assert!(
            rooms["joined_rooms"]
                .as_array()
                .unwrap()
                .contains(&json!(room))
        );
        bob.send_text(&room, "hello").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_is_found_by_its_alias() {
    let Pair {
        alice, bob, a, b, ..
    } = &pair().await;
    let _running = (a, b);
    let body = json!({ "preset": "public_chat", "room_alias_name": "far" });
    let room = alice.create_room(body).await;
    let path = format!("/_matrix/client/v3/join/{}", escape("#far:a.test"));
    let answer = bob.post(&path, json!({ "reason": "curious" })).await.ok();
    assert_eq!(answer["room_id"], room.as_str());
    let path = format!(
        "/_matrix/client/v3/rooms/{}/state/m.room.member/{}",
        escape(&room),
        escape(BOB)
    );
    let member = alice.get(&path).await.ok();
    assert_eq!(member["reason"], "curious");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_joined_is_said_so() {
    let Pair {
        alice, bob, a, b, ..
    } = &pair().await;
    let _running = (a, b);
    let closed = alice.create_room(json!({ "preset": "private_chat" })).await;
    join_by(bob, &closed, "a.test")
        .await
        .refused(403, "M_FORBIDDEN");
    join_by(bob, "!unknown:a.test", "a.test")
        .await
        .refused(404, "M_NOT_FOUND");
    // Of a version 12 room nobody can tell where it is.
    let path = format!("/_matrix/client/v3/rooms/{}/join", escape(&closed));
    bob.post(&path, json!({})).await.refused(404, "M_NOT_FOUND");
    // Nobody is at home.
    join_by(bob, &closed, "c.test")
        .await
        .refused(502, "M_UNKNOWN");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_goes_through_who_knows_the_room() {
    let Pair {
        alice, bob, a, b, ..
    } = &pair().await;
    let _running = (a, b);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let path = format!(
        "/_matrix/client/v3/join/{}?via=c.test&server_name=a.test",
        escape(&room)
    );
    bob.post(&path, json!({})).await.ok();
    assert_eq!(membership(alice, &room, BOB).await.unwrap(), "join");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_who_join_at_once_are_all_in() {
    let Pair {
        alice, bob, a, b, ..
    } = &pair().await;
    let _running = a;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let others = [b.register("bea").await, b.register("ben").await];
    let all = [bob, &others[0], &others[1], bob];
    let joins = all.map(|api| join_by(api, &room, "a.test"));
    for answer in futures_util::future::join_all(joins).await {
        answer.ok();
    }
    let members = format!("/_matrix/client/v3/rooms/{}/joined_members", escape(&room));
    let members = bob.get(&members).await.ok();
    assert_eq!(members["joined"].as_object().unwrap().len(), 4);
}

/// A join that was acknowledged is there after a kill.
#[tokio::test(flavor = "multi_thread")]
async fn a_joined_room_survives_a_kill() {
    let Pair {
        alice,
        bob,
        a,
        mut b,
        ..
    } = pair().await;
    let _running = a;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    join(&bob, &room).await;
    b.kill();
    b.start().await;
    let mut bob_again = b.api();
    bob_again.token = bob.token.clone();
    let bob = bob_again;
    assert_eq!(state(&bob, &room).await, state(&alice, &room).await);
    bob.send_text(&room, "still here").await;
}

async fn invite(api: &Api, room: &str, user: &str) -> Answer {
    act(api, room, "invite", json!({ "user_id": user })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_reaches_a_user_elsewhere_and_leads_in() {
    let Pair {
        alice, bob, a, b, ..
    } = &pair().await;
    let _running = (a, b);
    for version in RoomVersion::all() {
        let body = json!({
            "room_version": version.as_str(), "preset": "private_chat", "name": "Secret",
        });
        let room = alice.create_room(body).await;
        let since = bob.sync("").await["next_batch"]
            .as_str()
            .unwrap()
            .to_owned();
        invite(alice, &room, BOB).await.ok();
        assert_eq!(
            membership(alice, &room, BOB).await.unwrap(),
            "invite",
            "{version}"
        );
        let synced = bob.sync(&format!("since={since}&timeout=5000")).await;
        let invited = &synced["rooms"]["invite"][&room]["invite_state"]["events"];
        let shown = |kind: &str, key: &str| {
            let events = invited.as_array().unwrap();
            let found = events
                .iter()
                .find(|event| event["type"] == kind && event["state_key"] == key);
            found
                .unwrap_or_else(|| panic!("{version}: no {kind} in {synced}"))
                .clone()
        };
        assert_eq!(shown("m.room.name", "")["content"]["name"], "Secret");
        assert!(
            shown("m.room.create", "").get("event_id").is_none(),
            "{version}"
        );
        let own = shown("m.room.member", BOB);
        assert_eq!(own["content"]["membership"], "invite", "{version}");
        assert_eq!(own["sender"], ALICE, "{version}");
        assert_eq!(
            shown("m.room.member", ALICE)["content"]["membership"],
            "join"
        );
        // It is no room that the user is in.
        let rooms = bob.get("/_matrix/client/v3/joined_rooms").await.ok();
        assert!(
            !rooms["joined_rooms"]
                .as_array()
                .unwrap()
                .contains(&json!(room))
        );

        // The inviter's server is known: no `via` is needed.
        act(bob, &room, "join", json!({})).await.ok();
        assert_eq!(
            membership(alice, &room, BOB).await.unwrap(),
            "join",
            "{version}"
        );
        let next = synced["next_batch"].as_str().unwrap();
        let synced = bob.sync(&format!("since={next}")).await;
        assert!(
            synced["rooms"]["join"][&room].is_object(),
            "{version}: {synced}"
        );
        assert!(synced["rooms"]["invite"].get(&room).is_none(), "{version}");
        let all = bob.sync("").await;
        assert!(all["rooms"]["invite"].get(&room).is_none(), "{version}");
        assert!(all["rooms"]["join"].get(&room).is_some(), "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_is_rejected() {
    let Pair {
        alice, bob, a, b, ..
    } = &pair().await;
    let _running = (a, b);
    let room = alice.create_room(json!({ "preset": "private_chat" })).await;
    invite(alice, &room, BOB).await.ok();
    let first = bob.sync("").await;
    assert!(first["rooms"]["invite"].get(&room).is_some());
    act(bob, &room, "leave", json!({ "reason": "no" }))
        .await
        .ok();
    assert_eq!(membership(alice, &room, BOB).await.unwrap(), "leave");
    let since = first["next_batch"].as_str().unwrap();
    let synced = bob.sync(&format!("since={since}")).await;
    let left = &synced["rooms"]["leave"][&room]["timeline"]["events"];
    assert_eq!(left[0]["content"]["membership"], "leave", "{synced}");
    assert_eq!(left[0]["content"]["reason"], "no");
    let all = bob.sync("").await;
    assert!(all["rooms"]["invite"].get(&room).is_none());
    act(bob, &room, "forget", json!({})).await.ok();
    // And once more, from the start.
    invite(alice, &room, BOB).await.ok();
    act(bob, &room, "join", json!({})).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_is_rejected_also_when_its_server_is_away() {
    let Pair {
        alice,
        bob,
        mut a,
        b,
        ..
    } = pair().await;
    let _running = &b;
    let room = alice.create_room(json!({ "preset": "private_chat" })).await;
    invite(&alice, &room, BOB).await.ok();
    let since = bob.sync("").await["next_batch"].clone();
    a.kill();
    act(&bob, &room, "leave", json!({ "reason": "no" }))
        .await
        .ok();
    let all = bob.sync("").await;
    assert!(all["rooms"]["invite"].get(&room).is_none(), "{all}");
    // The user is shown how it ended.
    let news = bob
        .sync(&format!("since={}&timeout=0", since.as_str().unwrap()))
        .await;
    let end = &news["rooms"]["leave"][&room]["timeline"]["events"][0];
    assert_eq!(
        (&end["sender"], &end["state_key"]),
        (&json!(BOB), &json!(BOB))
    );
    let content = json!({ "membership": "leave", "reason": "no" });
    assert_eq!(end["content"], content, "{news}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_room_invites_users_elsewhere() {
    let Pair {
        alice, bob, a, b, ..
    } = &pair().await;
    let _running = (a, b);
    let body = json!({
        "preset": "trusted_private_chat", "is_direct": true,
        "invite": [BOB, "@nobody:c.test"],
    });
    let room = alice.create_room(body).await;
    assert_eq!(membership(alice, &room, BOB).await.unwrap(), "invite");
    assert_eq!(membership(alice, &room, "@nobody:c.test").await, None);
    let invited = bob.sync("").await;
    let events = &invited["rooms"]["invite"][&room]["invite_state"]["events"];
    let own = events
        .as_array()
        .unwrap()
        .iter()
        .find(|event| event["state_key"] == BOB);
    assert_eq!(own.unwrap()["content"]["is_direct"], true);
}

/// Row *Ignored users, knock, invite* of the security page.
#[tokio::test(flavor = "multi_thread")]
async fn invites_of_ignored_users_elsewhere_are_hidden() {
    let Pair {
        alice, bob, a, b, ..
    } = &pair().await;
    let _running = (a, b);
    let path = format!(
        "/_matrix/client/v3/user/{}/account_data/m.ignored_user_list",
        escape(BOB)
    );
    bob.put(&path, json!({ "ignored_users": { ALICE: {} } }))
        .await
        .ok();
    let room = alice.create_room(json!({ "preset": "private_chat" })).await;
    invite(alice, &room, BOB).await.ok();
    let all = bob.sync("").await;
    assert!(all["rooms"]["invite"].get(&room).is_none(), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_knock_is_let_in_or_taken_back() {
    let Pair {
        alice, bob, a, b, ..
    } = &pair().await;
    let _running = (a, b);
    for version in ["7", "10", "12"] {
        let rule = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
        let body = json!({ "room_version": version, "initial_state": [rule], "name": "Door" });
        let room = alice.create_room(body).await;
        let knock = format!("/_matrix/client/v3/knock/{}?via=a.test", escape(&room));
        bob.post(&knock, json!({ "reason": "please" })).await.ok();
        assert_eq!(
            membership(alice, &room, BOB).await.unwrap(),
            "knock",
            "{version}"
        );
        let synced = bob.sync("").await;
        let knocked = &synced["rooms"]["knock"][&room]["knock_state"]["events"];
        let kinds: Vec<_> = knocked
            .as_array()
            .unwrap()
            .iter()
            .map(|event| &event["type"])
            .collect();
        assert!(kinds.contains(&&json!("m.room.name")), "{version} {synced}");
        act(bob, &room, "leave", json!({})).await.ok();
        assert_eq!(
            membership(alice, &room, BOB).await.unwrap(),
            "leave",
            "{version}"
        );
        assert!(bob.sync("").await["rooms"]["knock"].get(&room).is_none());
        bob.post(&knock, json!({})).await.ok();
        invite(alice, &room, BOB).await.ok();
        act(bob, &room, "join", json!({})).await.ok();
        assert_eq!(
            membership(alice, &room, BOB).await.unwrap(),
            "join",
            "{version}"
        );
    }
    let closed = alice.create_room(json!({ "preset": "private_chat" })).await;
    let knock = format!("/_matrix/client/v3/knock/{}?via=a.test", escape(&closed));
    bob.post(&knock, json!({}))
        .await
        .refused(403, "M_FORBIDDEN");
}

/// Waits until a user's membership is what it should become.
pub async fn becomes(api: &Api, room: &str, user: &str, wanted: &str) {
    let until = Instant::now() + Duration::from_secs(20);
    while membership(api, room, user).await.as_deref() != Some(wanted) {
        assert!(Instant::now() < until, "{user} does not become {wanted}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_left_as_the_last_comes_back_to_the_room_as_it_is() {
    let Pair {
        alice,
        bob,
        a,
        mut b,
        ..
    } = pair().await;
    let _running = a;
    for version in ["1", "6", "10", "11", "12"] {
        let body = json!({ "room_version": version, "preset": "public_chat", "name": "Old" });
        let room = alice.create_room(body).await;
        join(&bob, &room).await;
        act(&bob, &room, "leave", json!({})).await.ok();
        becomes(&alice, &room, BOB, "leave").await;
        let since = bob.sync("").await["next_batch"]
            .as_str()
            .unwrap()
            .to_owned();
        let path = format!(
            "/_matrix/client/v3/rooms/{}/state/m.room.name",
            escape(&room)
        );
        alice.put(&path, json!({ "name": "New" })).await.ok();
        let missed = alice.send_text(&room, "missed").await;
        // Nothing of it is known here.
        let event = format!(
            "/_matrix/client/v3/rooms/{}/event/{}",
            escape(&room),
            escape(&missed)
        );
        assert_eq!(bob.get(&event).await.status, 404, "{version}");
        let name = bob.get(&path).await.ok();
        assert_eq!(name["name"], "Old", "{version}");

        join(&bob, &room).await;
        assert_eq!(
            state(&bob, &room).await,
            state(&alice, &room).await,
            "{version}"
        );
        let synced = bob.sync(&format!("since={since}")).await;
        let joined = &synced["rooms"]["join"][&room];
        assert_eq!(joined["timeline"]["limited"], true, "{version}: {synced}");
        bob.send_text(&room, "back").await;
    }
    b.kill();
    b.start().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_kicked_and_banned_across_servers() {
    let Pair {
        alice, bob, a, b, ..
    } = &pair().await;
    let _running = (a, b);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    join(bob, &room).await;
    act(alice, &room, "kick", json!({ "user_id": BOB }))
        .await
        .ok();
    becomes(bob, &room, BOB, "leave").await;
    join(bob, &room).await;
    act(alice, &room, "ban", json!({ "user_id": BOB }))
        .await
        .ok();
    becomes(bob, &room, BOB, "ban").await;
    join_by(bob, &room, "a.test")
        .await
        .refused(403, "M_FORBIDDEN");
    act(alice, &room, "unban", json!({ "user_id": BOB }))
        .await
        .ok();
    join(bob, &room).await;
    assert_eq!(membership(alice, &room, BOB).await.unwrap(), "join");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restricted_room_is_joined_through_who_can_vouch() {
    let Pair {
        alice, bob, a, b, ..
    } = &pair().await;
    let _running = (a, b);
    for version in ["8", "10", "11", "12"] {
        let open = alice.create_room(json!({ "preset": "public_chat" })).await;
        let rule = json!({ "type": "m.room.join_rules", "content": {
            "join_rule": "restricted",
            "allow": [{ "type": "m.room_membership", "room_id": open }],
        }});
        let body = json!({ "room_version": version, "initial_state": [rule] });
        let room = alice.create_room(body).await;
        join_by(bob, &room, "a.test")
            .await
            .refused(403, "M_FORBIDDEN");
        join(bob, &open).await;
        let path = format!(
            "/_matrix/client/v3/join/{}?via=c.test&via=a.test",
            escape(&room)
        );
        bob.post(&path, json!({})).await.ok();
        let member = format!(
            "/_matrix/client/v3/rooms/{}/state/m.room.member/{}",
            escape(&room),
            escape(BOB)
        );
        let member = bob.get(&member).await.ok();
        assert_eq!(
            member["join_authorised_via_users_server"], ALICE,
            "{version}"
        );
        assert_eq!(
            state(bob, &room).await,
            state(alice, &room).await,
            "{version}"
        );
    }
}

/// Server-server API, *Restricted rooms*: we are in the room, and may not let
/// anybody in.
#[tokio::test(flavor = "multi_thread")]
async fn another_resident_vouches_where_we_may_not() {
    let Pair { alice, bob, a, b } = &pair().await;
    let _running = a;
    let bea = &b.register("bea").await;
    let open = alice.create_room(json!({ "preset": "public_chat" })).await;
    let rule = json!({ "type": "m.room.join_rules", "content": {
        "join_rule": "restricted",
        "allow": [{ "type": "m.room_membership", "room_id": open }],
    }});
    let body = json!({
        "room_version": "11", "initial_state": [rule],
        "power_level_content_override": { "invite": 50 },
    });
    let room = alice.create_room(body).await;
    join(bea, &open).await;
    join(bea, &room).await;
    // Bob is in no room whose members may join.
    join_by(bob, &room, "a.test")
        .await
        .refused(403, "M_FORBIDDEN");
    join(bob, &open).await;
    // Whoever vouches has to know of it first.
    becomes(alice, &open, BOB, "join").await;
    join(bob, &room).await;
    assert_eq!(membership(alice, &room, BOB).await.unwrap(), "join");
    assert_eq!(membership(bea, &room, BOB).await.unwrap(), "join");
    assert_eq!(state(bea, &room).await, state(alice, &room).await);
    bob.send_text(&room, "hello").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_is_withdrawn_by_who_sent_it() {
    let Pair { alice, bob, a, b } = &pair().await;
    let _running = (a, b);
    for version in ["1", "6", "11", "12"] {
        let body = json!({ "preset": "private_chat", "room_version": version });
        let room = alice.create_room(body).await;
        invite(alice, &room, BOB).await.ok();
        assert!(bob.sync("").await["rooms"]["invite"].get(&room).is_some());
        act(alice, &room, "kick", json!({ "user_id": BOB }))
            .await
            .ok();
        let until = Instant::now() + Duration::from_secs(20);
        while bob.sync("").await["rooms"]["invite"].get(&room).is_some() {
            assert!(Instant::now() < until, "{version}: the invite stays");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        act(bob, &room, "join", json!({}))
            .await
            .refused(403, "M_FORBIDDEN");
    }
}
