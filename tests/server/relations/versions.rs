//! What `/versions` says of this module is served, and nothing beyond.

use serde_json::{Value, json};

use super::{relate, relations};
use crate::harness::escape;
use crate::rooms::{of_room, two_users};

#[tokio::test]
async fn what_is_named_is_served() {
    let (server, alice, _) = two_users().await;
    let answer = server.api().get("/_matrix/client/versions").await.ok();
    let named = |version: &str| {
        let versions = answer["versions"].as_array().unwrap();
        versions.contains(&json!(version))
    };
    let room = alice.create_room(json!({})).await;
    let root = alice.send_text(&room, "root").await;
    let reply = relate(&alice, &room, "m.thread", &root, "reply").await;
    let of_version = |path: &str| format!("/_matrix/client/v1/rooms/{}/{path}", escape(&room));

    // 1.4: threads, and receipts and counts by thread.
    assert!(named("v1.4"));
    let threads = alice.get(&of_version("threads")).await.ok();
    assert_eq!(threads["chunk"][0]["event_id"], *root);
    let receipt = of_room(&room, &format!("receipt/m.read/{}", escape(&reply)));
    let in_thread = json!({ "thread_id": root });
    alice.post(&receipt, in_thread).await.ok();
    let filter = json!({ "room": { "timeline": { "unread_thread_notifications": true } } });
    let filter = escape(&filter.to_string());
    let synced = alice.sync(&format!("filter={filter}")).await;
    assert!(synced["rooms"]["join"][&room]["unread_notifications"].is_object());
    // 1.5: references. 1.6: events by time.
    assert!(named("v1.5") && named("v1.6"));
    let nearest = of_version("timestamp_to_event?ts=0&dir=f");
    assert!(alice.get(&nearest).await.ok()["event_id"].is_string());
    // 1.10, by the name of its own.
    assert_eq!(answer["unstable_features"]["org.matrix.msc3981"], true);
    let recursive = alice
        .get(&relations(&room, &root, "?recurse=true"))
        .await
        .ok();
    assert_eq!(recursive["recursion_depth"], 3);

    // Clients of 1.7 and 1.11 upload and get media in ways that are not served.
    let create = "/_matrix/media/v1/create";
    assert!(!named("v1.7"));
    alice
        .post(create, json!({}))
        .await
        .refused(404, "M_UNRECOGNIZED");
    assert!(!named("v1.11"));
    let config = alice.get("/_matrix/client/v1/media/config").await;
    config.refused(404, "M_UNRECOGNIZED");
    assert_eq!(
        answer["unstable_features"].get("org.matrix.msc4306"),
        None::<&Value>
    );
}
