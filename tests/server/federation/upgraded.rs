//! Rooms that are upgraded elsewhere: what this server keeps about them moves when
//! the first of its users comes to the successor.

use serde_json::{Value, json};

use super::elsewhere::{Pair, act, becomes, join, pair};
use crate::harness::{Api, escape};

const ALIAS: &str = "#far:b.test";

fn alias_path() -> String {
    format!("/_matrix/client/v3/directory/room/{}", escape(ALIAS))
}

async fn leads_to(api: &Api) -> Value {
    api.get(&alias_path()).await.ok()["room_id"].clone()
}

async fn listed(api: &Api) -> Vec<Value> {
    let listed = api.get("/_matrix/client/v3/publicRooms").await.ok();
    let rooms = listed["chunk"].as_array().unwrap().iter();
    rooms.map(|room| room["room_id"].clone()).collect()
}

/// A room of alice's server with bob in it, which his server has an alias of and
/// lists in its directory.
async fn known_at_both(alice: &Api, bob: &Api) -> String {
    let levels = json!({ "users": { alice.user_id.as_str(): 100, bob.user_id.as_str(): 100 } });
    let body = json!({
        "room_version": "10", "preset": "public_chat", "power_level_content_override": levels,
    });
    let room = alice.create_room(body).await;
    join(bob, &room).await;
    let body = json!({ "room_id": room });
    bob.put(&alias_path(), body).await.ok();
    let path = format!("/_matrix/client/v3/directory/list/room/{}", escape(&room));
    bob.put(&path, json!({ "visibility": "public" })).await.ok();
    room
}

#[tokio::test(flavor = "multi_thread")]
async fn aliases_and_the_place_in_the_directory_follow_an_upgrade_elsewhere() {
    let Pair { alice, bob, a, b } = &pair().await;
    let _running = (a, b);
    let old = known_at_both(alice, bob).await;
    let answer = act(alice, &old, "upgrade", json!({ "new_version": "11" })).await;
    let new = answer.ok()["replacement_room"].as_str().unwrap().to_owned();
    // bob's server has to have the tombstone before he follows it.
    let tombstone = format!(
        "/_matrix/client/v3/rooms/{}/state/m.room.tombstone",
        escape(&old)
    );
    while bob.get(&tombstone).await.status != 200 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(leads_to(bob).await, json!(old));
    join(bob, &new).await;
    assert_eq!(leads_to(bob).await, json!(new));
    assert_eq!(listed(bob).await, [json!(new)]);
    // The other server finds it there, too.
    assert_eq!(leads_to(alice).await, json!(new));
}

/// Anybody can say of their room that it succeeds another.
#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_only_claims_to_succeed_another_gets_nothing() {
    let Pair { alice, bob, a, b } = &pair().await;
    let _running = (a, b);
    let old = known_at_both(alice, bob).await;
    let predecessor = json!({ "room_id": old, "event_id": "$tombstone" });
    let body = json!({
        "preset": "public_chat", "creation_content": { "predecessor": predecessor },
    });
    let claims = alice.create_room(body).await;
    join(bob, &claims).await;
    becomes(alice, &claims, super::elsewhere::BOB, "join").await;
    assert_eq!(leads_to(bob).await, json!(old));
    assert_eq!(listed(bob).await, [json!(old)]);
}
