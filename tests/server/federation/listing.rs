//! What other servers are told of rooms without being in them: the directory, and
//! spaces.

use engram::matrix::canonical_json::CanonicalJsonObject;
use reqwest::Method;
use serde_json::{Value, json};

use super::Neighbourhood;
use super::fake::{Fake, object};
use super::visitor::{CAROL, Scene, errcode, scene};
use crate::harness::{Api, escape};

const PUBLIC_ROOMS: &str = "/_matrix/federation/v1/publicRooms";

async fn search(fake: &Fake, body: Value) -> (u16, Value) {
    let body: CanonicalJsonObject = object(&body);
    fake.send("a.test", Method::POST, PUBLIC_ROOMS, &body).await
}

fn names(answer: &(u16, Value)) -> Vec<&str> {
    assert_eq!(answer.0, 200, "{answer:?}");
    let chunk = answer.1["chunk"].as_array().expect("a chunk");
    let names = chunk.iter().map(|room| room["name"].as_str().unwrap());
    names.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn other_servers_read_the_directory_page_by_page() {
    let Scene { alice, c, .. } = &scene().await;
    for (name, federates) in [("one", true), ("two", true), ("ours", false)] {
        let body = json!({
            "name": name, "visibility": "public", "preset": "public_chat",
            "creation_content": { "m.federate": federates },
        });
        alice.create_room(body).await;
    }
    alice.create_room(json!({ "name": "secret" })).await;
    let all = c.get(PUBLIC_ROOMS).await;
    let mut listed = names(&all);
    listed.sort_unstable();
    assert_eq!(listed, ["one", "two"]);
    assert_eq!(all.1["total_room_count_estimate"], 2);
    // Zero is no limit here.
    assert_eq!(
        names(&c.get(&format!("{PUBLIC_ROOMS}?limit=0")).await).len(),
        2
    );
    let first = c.get(&format!("{PUBLIC_ROOMS}?limit=1")).await;
    let next = first.1["next_batch"].as_str().expect("more");
    let second = c.get(&format!("{PUBLIC_ROOMS}?limit=1&since={next}")).await;
    let mut both = [names(&first), names(&second)].concat();
    both.sort_unstable();
    assert_eq!(both, listed);
    assert_eq!(second.1["next_batch"], Value::Null);
    let filter = json!({ "filter": { "generic_search_term": "TWO" } });
    assert_eq!(names(&search(&c.fake, filter).await), ["two"]);
    let network = json!({ "third_party_instance_id": "irc" });
    assert!(names(&search(&c.fake, network).await).is_empty());
    let broken = search(&c.fake, json!({ "limit": "many" })).await;
    assert_eq!(errcode(&broken), (400, "M_BAD_JSON"));
}

/// The default: who is not asked to does not serve a list of rooms to everybody.
#[tokio::test(flavor = "multi_thread")]
async fn the_directory_is_closed_unless_it_is_opened() {
    let neighbourhood = Neighbourhood::new();
    let closed = neighbourhood.builder("a.test");
    let _a = closed.set("FEDERATION__PUBLIC_ROOMS", false).start().await;
    let c = Fake::with_keys(&neighbourhood, "c.test").await;
    for answer in [
        c.get("a.test", PUBLIC_ROOMS).await,
        search(&c, json!({})).await,
    ] {
        assert_eq!(errcode(&answer), (403, "M_FORBIDDEN"));
    }
}

async fn add_child(alice: &Api, space: &str, child: &str, suggested: bool) {
    let path = format!(
        "/_matrix/client/v3/rooms/{}/state/m.space.child/{}",
        escape(space),
        escape(child)
    );
    let content = json!({ "via": ["a.test"], "suggested": suggested });
    alice.put(&path, content).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2021_39164_a_space_is_described_as_far_as_the_server_may_know_it() {
    let Scene { alice, c, .. } = &scene().await;
    let room = async |name: &str, preset: &str| {
        let body = json!({ "name": name, "preset": preset });
        alice.create_room(body).await
    };
    let space = alice
        .create_room(json!({
            "name": "Space", "preset": "public_chat", "creation_content": { "type": "m.space" },
        }))
        .await;
    let (open, secret) = (
        room("Open", "public_chat").await,
        room("Secret", "private_chat").await,
    );
    let restricted = alice
        .create_room(json!({ "name": "Restricted", "initial_state": [{
            "type": "m.room.join_rules", "content": {
                "join_rule": "restricted",
                "allow": [{ "type": "m.room_membership", "room_id": open }],
            },
        }] }))
        .await;
    add_child(alice, &space, &open, true).await;
    add_child(alice, &space, &secret, true).await;
    add_child(alice, &space, &restricted, false).await;
    add_child(alice, &space, "!elsewhere:b.test", true).await;
    let uri = format!("/_matrix/federation/v1/hierarchy/{}", escape(&space));
    let (status, told) = c.get(&uri).await;
    assert_eq!(status, 200, "{told}");
    assert_eq!(told["room"]["name"], "Space");
    assert_eq!(told["room"]["room_type"], "m.space");
    assert_eq!(told["room"]["children_state"].as_array().unwrap().len(), 4);
    let named = |told: &Value| {
        let children = told["children"].as_array().unwrap().iter();
        let names = children.map(|child| child["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(named(&told), ["Open"]);
    let hidden = told["inaccessible_children"].as_array().unwrap();
    assert_eq!(hidden.len(), 2, "{hidden:?}");
    assert!(!told.to_string().contains("Secret"));
    // Members of a room whose members may join know of more.
    c.join(&open, CAROL).await;
    let (_, told) = c.get(&uri).await;
    assert_eq!(named(&told), ["Open", "Restricted"]);
    assert_eq!(told["children"][1]["allowed_room_ids"], json!([open]));
    let (_, told) = c.get(&format!("{uri}?suggested_only=true")).await;
    assert_eq!(named(&told), ["Open"]);
    assert_eq!(told["inaccessible_children"], json!([secret]));
    for room in [&*secret, "!unknown:a.test"] {
        let uri = format!("/_matrix/federation/v1/hierarchy/{}", escape(room));
        assert_eq!(errcode(&c.get(&uri).await), (404, "M_NOT_FOUND"));
    }
}
