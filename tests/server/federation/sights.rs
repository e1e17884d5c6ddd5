//! Rooms of other servers as our users see them from outside: directories,
//! summaries, spaces.

use serde_json::{Value, json};

use super::elsewhere::{Pair, join, pair};
use crate::harness::{Api, escape};

async fn published(api: &Api, name: &str) -> String {
    let body = json!({ "preset": "public_chat", "visibility": "public", "name": name });
    api.create_room(body).await
}

async fn space(api: &Api, version: &str, children: &[&str]) -> String {
    let children = children.iter().map(|child| {
        json!({ "type": "m.space.child", "state_key": child, "content": { "via": ["a.test"] } })
    });
    let body = json!({
        "preset": "public_chat", "room_version": version, "name": "Space",
        "creation_content": { "type": "m.space" },
        "initial_state": children.collect::<Vec<_>>(),
    });
    api.create_room(body).await
}

async fn hierarchy(api: &Api, room: &str) -> Vec<Value> {
    let path = format!("/_matrix/client/v1/rooms/{}/hierarchy", escape(room));
    let found = api.get(&path).await.ok();
    found["rooms"].as_array().unwrap().clone()
}

fn ids(rooms: &[Value]) -> Vec<&str> {
    rooms
        .iter()
        .map(|room| room["room_id"].as_str().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_of_another_server_is_read() {
    let Pair { alice, bob, a, b } = &pair().await;
    let room = published(alice, "Gardens").await;
    let other = published(alice, "Trains").await;
    let _running = a;
    let path = "/_matrix/client/v3/publicRooms?server=a.test";
    let all = bob.get(path).await.ok();
    let mut found = ids(all["chunk"].as_array().unwrap());
    found.sort_unstable();
    let mut wanted = [room.as_str(), other.as_str()];
    wanted.sort_unstable();
    assert_eq!(found, wanted);
    let search = json!({ "filter": { "generic_search_term": "garden" }, "limit": 5 });
    let some = bob.post(path, search).await.ok();
    assert_eq!(ids(some["chunk"].as_array().unwrap()), [room.as_str()]);
    assert_eq!(some["chunk"][0]["name"], "Gardens");
    let page = bob.post(path, json!({ "limit": 1 })).await.ok();
    let next = page["next_batch"].as_str().unwrap();
    let rest = bob
        .post(path, json!({ "limit": 1, "since": next }))
        .await
        .ok();
    assert_ne!(page["chunk"], rest["chunk"]);
    // Strangers do not have us ask others, and who is away has no answer.
    b.api().get(path).await.refused(401, "M_MISSING_TOKEN");
    let away = "/_matrix/client/v3/publicRooms?server=c.test";
    bob.get(away).await.refused(502, "M_UNKNOWN");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_elsewhere_is_described() {
    let Pair { alice, bob, a, b } = &pair().await;
    let _running = (a, b);
    let room = published(alice, "Gardens").await;
    let closed = alice.create_room(json!({ "preset": "private_chat" })).await;
    let path = |room: &str| {
        format!(
            "/_matrix/client/v1/room_summary/{}?via=a.test",
            escape(room)
        )
    };
    let found = bob.get(&path(&room)).await.ok();
    assert_eq!(found["name"], "Gardens");
    assert_eq!(found["membership"], "leave");
    assert_eq!(found["room_version"], "12");
    bob.get(&path(&closed)).await.refused(404, "M_NOT_FOUND");
    b.api().get(&path(&room)).await.refused(404, "M_NOT_FOUND");
    join(bob, &room).await;
    let found = bob.get(&path(&room)).await.ok();
    assert_eq!(found["membership"], "join");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_space_goes_on_elsewhere() {
    let Pair { alice, bob, a, b } = &pair().await;
    let _running = (a, b);
    let open = published(alice, "Open").await;
    let closed = alice.create_room(json!({ "preset": "private_chat" })).await;
    let below = space(alice, "12", &[&open, &closed]).await;
    // A space of ours with a space of theirs in it.
    let ours = space(bob, "12", &[&below]).await;
    let found = hierarchy(bob, &ours).await;
    assert_eq!(ids(&found), [&ours, &below, &open]);
    assert_eq!(found[1]["name"], "Space");
    assert_eq!(found[1]["room_type"], "m.space");
    assert_eq!(found[1]["children_state"].as_array().unwrap().len(), 2);
    // A space of theirs, whose id says where it is.
    let theirs = space(alice, "11", &[&open]).await;
    assert_eq!(ids(&hierarchy(bob, &theirs).await), [&theirs, &open]);
}
