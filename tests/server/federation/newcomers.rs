//! Who is there, told to a server that comes to a room, and of one who comes to it.

use std::time::Duration;

use serde_json::{Value, json};

use super::Neighbourhood;
use super::sending::{Inbox, edus};
use super::visitor::CAROL;
use crate::harness::{Api, escape};

const PATIENCE: Duration = Duration::from_secs(30);

async fn set_status(api: &Api, message: &str) {
    let path = format!(
        "/_matrix/client/v3/presence/{}/status",
        escape(&api.user_id)
    );
    let status = json!({ "presence": "unavailable", "status_msg": message });
    api.put(&path, status).await.ok();
}

/// Syncs on until a user's status is told, and gives how often anything was told
/// of the user.
async fn wait_for_status(api: &Api, since: &str, user: &str, message: &str) {
    let mut since = since.to_owned();
    let told = tokio::time::timeout(PATIENCE, async {
        loop {
            let answer = api.sync(&format!("timeout=1000&since={since}")).await;
            let events = answer["presence"]["events"].as_array().cloned();
            let mut events = events.unwrap_or_default().into_iter();
            if events
                .any(|event| event["sender"] == user && event["content"]["status_msg"] == message)
            {
                return;
            }
            since = answer["next_batch"].as_str().unwrap().to_owned();
        }
    });
    assert!(told.await.is_ok(), "{user} is not told of");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_joins_learns_who_is_there_and_is_known_to_be() {
    let neighbourhood = Neighbourhood::new();
    let start = async |name: &str| {
        let builder = neighbourhood.builder(name).set("PRESENCE__ENABLED", true);
        builder.start().await
    };
    let (a, b) = (start("a.test").await, start("b.test").await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    // Before the servers have anything to do with one another.
    set_status(&alice, "at lunch").await;
    set_status(&bob, "in the garden").await;
    let token = async |api: &Api| {
        let answer = api.sync("timeout=0").await;
        answer["next_batch"].as_str().unwrap().to_owned()
    };
    let (alice_since, bob_since) = (token(&alice).await, token(&bob).await);
    let room = bob
        .create_room(json!({ "preset": "public_chat", "name": "garden" }))
        .await;
    let path = format!("/_matrix/client/v3/join/{}?via=b.test", escape(&room));
    alice.post(&path, json!({})).await.ok();
    tokio::join!(
        wait_for_status(&alice, &alice_since, &bob.user_id, "in the garden"),
        wait_for_status(&bob, &bob_since, &alice.user_id, "at lunch")
    );
}

/// The updates of presence that arrived of a user.
fn updates(inbox: &Inbox, user: &str) -> Vec<Value> {
    let told = edus(&inbox.arrived(), "m.presence");
    let updates = told
        .iter()
        .flat_map(|content| content["push"].as_array().unwrap().clone());
    updates.filter(|update| update["user_id"] == user).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_in_the_room_is_told_nothing_anew() {
    let neighbourhood = Neighbourhood::new();
    let builder = neighbourhood.builder("a.test");
    let a = builder.set("PRESENCE__ENABLED", true).start().await;
    let alice = a.register("alice").await;
    let dora = a.register("dora").await;
    set_status(&alice, "at lunch").await;
    set_status(&dora, "elsewhere").await;
    let inbox = Inbox::default();
    let c = inbox.open(&neighbourhood).await;
    let body = json!({ "preset": "public_chat" });
    let room = alice.create_room(body).await;
    c.join(&room, CAROL).await;
    let is_told = |_: &[_]| !updates(&inbox, &alice.user_id).is_empty();
    inbox.wait("alice's presence", is_told).await;
    // Another of its users comes, and then one of ours: only that is news.
    c.join(&room, "@carl:c.test").await;
    assert!(updates(&inbox, &dora.user_id).is_empty());
    dora.join(&room).await.ok();
    let is_told = |_: &[_]| !updates(&inbox, &dora.user_id).is_empty();
    inbox.wait("dora's presence", is_told).await;
    assert_eq!(updates(&inbox, &alice.user_id).len(), 1);
    assert_eq!(updates(&inbox, &dora.user_id).len(), 1);
    assert_eq!(updates(&inbox, &dora.user_id)[0]["status_msg"], "elsewhere");
}
