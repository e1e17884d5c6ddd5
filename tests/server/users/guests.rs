//! Guests: what they may do, where they may join, how they go and how they stay.

use serde_json::json;

use super::{guest, set_state};
use crate::harness::{Api, Server, escape};
use crate::rooms::{act, membership, of_room};

const REGISTER: &str = "/_matrix/client/v3/register";

async fn with_guests() -> (Server, Api) {
    let server = Server::builder()
        .set("REGISTRATION__GUESTS", true)
        .start()
        .await;
    let alice = server.register("alice").await;
    (server, alice)
}

async fn wait_until_left(seen_by: &Api, room: &str, user: &Api) {
    for _ in 0..1_000 {
        if membership(seen_by, room, user).await == "leave" {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{} is still in the room", user.user_id);
}

#[tokio::test]
async fn guests_are_off_unless_configured() {
    let server = Server::builder().start().await;
    let refused = server
        .api()
        .post(&format!("{REGISTER}?kind=guest"), json!({}))
        .await;
    refused.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn guests_do_what_is_listed_and_nothing_else() {
    let (server, alice) = with_guests().await;
    // All but the display name of the device is ignored.
    let body = json!({
        "username": "alice", "password": "x", "device_id": "MINE",
        "initial_device_display_name": "Kiosk",
    });
    let asked = format!("{REGISTER}?kind=guest");
    let answer = server.api().post(&asked, body).await.ok();
    assert_ne!(answer["user_id"], alice.user_id.as_str());
    assert_ne!(answer["device_id"], "MINE");
    let mut guest = server.api();
    guest.token = answer["access_token"].as_str().map(str::to_owned);
    guest.user_id = answer["user_id"].as_str().unwrap().to_owned();
    let who = guest.get("/_matrix/client/v3/account/whoami").await.ok();
    assert_eq!(who["is_guest"], true);
    let devices = guest.get("/_matrix/client/v3/devices").await.ok();
    assert_eq!(devices["devices"][0]["display_name"], "Kiosk");
    guest.sync("timeout=0").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let own = |rest: &str| format!("/_matrix/client/v3/{rest}");
    let closed = [
        guest.post(&own("createRoom"), json!({})).await,
        guest.get(&own("joined_rooms")).await,
        guest.get(&own("voip/turnServer")).await,
        act(&guest, &room, "invite", Some(&alice)).await,
        guest
            .post(
                &own("account/password"),
                json!({ "new_password": "long enough" }),
            )
            .await,
        guest.get(&own("pushrules/")).await,
    ];
    for refused in closed {
        refused.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    }
    let profile = |key: &str| own(&format!("profile/{}/{key}", escape(&guest.user_id)));
    guest
        .put(&profile("displayname"), json!({ "displayname": "Visitor" }))
        .await
        .ok();
    let avatar = json!({ "avatar_url": "mxc://hs.test/a" });
    let refused = guest.put(&profile("avatar_url"), avatar).await;
    refused.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    let refused = guest.delete(&profile("avatar_url")).await;
    refused.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    guest.delete(&profile("displayname")).await.ok();
    guest.post(&own("logout"), json!({})).await.ok();
}

#[tokio::test]
async fn guests_join_where_they_may_and_leave_when_they_may_not() {
    let (server, alice) = with_guests().await;
    let guest = guest(&server).await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let refused = guest.join(&room).await;
    refused.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    // Nor by setting their membership as state.
    let own = of_room(
        &room,
        &format!("state/m.room.member/{}", escape(&guest.user_id)),
    );
    let refused = guest.put(&own, json!({ "membership": "join" })).await;
    refused.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    // An invite does not help.
    act(&alice, &room, "invite", Some(&guest)).await.ok();
    let refused = act(&guest, &room, "join", None).await;
    refused.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    let refused = guest.put(&own, json!({ "membership": "join" })).await;
    refused.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    set_state(
        &alice,
        &room,
        "m.room.guest_access",
        json!({ "guest_access": "can_join" }),
    )
    .await;
    guest.join(&room).await.ok();
    guest.send_text(&room, "sup").await;
    let other = server.register("bob").await;
    other.join(&room).await.ok();
    set_state(
        &alice,
        &room,
        "m.room.guest_access",
        json!({ "guest_access": "forbidden" }),
    )
    .await;
    wait_until_left(&alice, &room, &guest).await;
    assert_eq!(membership(&alice, &room, &other).await, "join");
    assert_eq!(membership(&alice, &room, &alice).await, "join");
    let sent = of_room(&room, "send/m.room.message/1");
    let refused = guest
        .put(&sent, json!({ "body": "x", "msgtype": "m.text" }))
        .await;
    refused.refused(403, "M_FORBIDDEN");
}

/// The server died between the change and the guests' leaving.
#[tokio::test]
async fn guests_leave_after_a_crash_too() {
    let (mut server, alice) = with_guests().await;
    let guest = guest(&server).await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    set_state(
        &alice,
        &room,
        "m.room.guest_access",
        json!({ "guest_access": "can_join" }),
    )
    .await;
    guest.join(&room).await.ok();
    set_state(
        &alice,
        &room,
        "m.room.guest_access",
        json!({ "guest_access": "x" }),
    )
    .await;
    server.kill();
    server.start().await;
    let mut again = server.api();
    (again.token, again.user_id) = (alice.token.clone(), alice.user_id.clone());
    wait_until_left(&again, &room, &guest).await;
}

#[tokio::test]
async fn guests_read_rooms_that_the_world_may_read() {
    let (server, alice) = with_guests().await;
    let guest = guest(&server).await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let event = alice.send_text(&room, "hello").await;
    let reads = ["state", "messages?dir=b", "members", "state/m.room.create/"];
    for read in reads {
        let refused = guest.get(&of_room(&room, read)).await;
        refused.refused(403, "M_FORBIDDEN");
    }
    let open = json!({ "history_visibility": "world_readable" });
    set_state(&alice, &room, "m.room.history_visibility", open).await;
    for read in reads {
        guest.get(&of_room(&room, read)).await.ok();
    }
    let event = of_room(&room, &format!("event/{}", escape(&event)));
    guest.get(&event).await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn a_guest_becomes_a_user_and_keeps_name_and_rooms() {
    let (server, alice) = with_guests().await;
    let (mut first, second) = (guest(&server).await, guest(&server).await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    set_state(
        &alice,
        &room,
        "m.room.guest_access",
        json!({ "guest_access": "can_join" }),
    )
    .await;
    first.join(&room).await.ok();
    let name = first.user_id[1..].split(':').next().unwrap().to_owned();
    let body = |token: &Api, auth: bool| {
        let mut body = json!({
            "username": name, "password": "SIR_Arthur_David",
            "guest_access_token": token.token,
        });
        if auth {
            body["auth"] = json!({ "type": "m.login.dummy" });
        }
        body
    };
    let nobody = server.api();
    // Another guest's token, a user's, none.
    let refused = nobody.post(REGISTER, body(&second, true)).await;
    refused.refused(403, "M_FORBIDDEN");
    let refused = nobody.post(REGISTER, body(&alice, true)).await;
    refused.refused(403, "M_FORBIDDEN");
    let mut without = body(&first, true);
    without
        .as_object_mut()
        .unwrap()
        .remove("guest_access_token");
    let refused = nobody.post(REGISTER, without).await;
    refused.refused(400, "M_USER_IN_USE");
    let challenge = nobody.post(REGISTER, body(&first, false)).await;
    assert_eq!(challenge.status.as_u16(), 401);
    let answer = nobody.post(REGISTER, body(&first, true)).await.ok();
    assert_eq!(answer["user_id"], first.user_id.as_str());
    // The guest's session is over, the user's is no guest's.
    let whoami = "/_matrix/client/v3/account/whoami";
    first.get(whoami).await.refused(401, "M_UNKNOWN_TOKEN");
    first.token = answer["access_token"].as_str().map(str::to_owned);
    assert_eq!(first.get(whoami).await.ok()["is_guest"], false);
    assert_eq!(membership(&first, &room, &first).await, "join");
    first.create_room(json!({})).await;
    // Who is no guest stays where guests may not be.
    set_state(
        &alice,
        &room,
        "m.room.guest_access",
        json!({ "guest_access": "forbidden" }),
    )
    .await;
    let login = json!({
        "type": "m.login.password", "password": "SIR_Arthur_David",
        "identifier": { "type": "m.id.user", "user": name },
    });
    nobody.post("/_matrix/client/v3/login", login).await.ok();
    assert_eq!(membership(&first, &room, &first).await, "join");
}
