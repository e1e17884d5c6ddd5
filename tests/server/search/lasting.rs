//! Restarts, crashes, a lost index, and searching while much is being said.

use serde_json::json;

use super::{finds, ids, now, results};
use crate::harness::{Api, Server};
use crate::rooms::of_room;

fn as_before(server: &Server, before: &Api) -> Api {
    let mut api = server.api();
    api.token = before.token.clone();
    api.user_id = before.user_id.clone();
    api
}

#[tokio::test]
async fn an_index_outlives_restarts_crashes_and_its_own_loss() {
    let mut server = Server::builder().start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let first = alice.send_text(&room, "pebble one").await;
    let gone = alice.send_text(&room, "pebble gone").await;
    finds(&alice, "pebble", &[&first, &gone]).await;
    let redact = of_room(&room, &format!("redact/{gone}/1"));
    alice.put(&redact, json!({})).await.ok();
    assert!(server.terminate().await.success());

    // What was found before is found by the first request after a clean stop.
    server.start().await;
    let alice = as_before(&server, &alice);
    assert_eq!(now(&alice, "pebble").await, std::slice::from_ref(&first));
    let second = alice.send_text(&room, "pebble two").await;
    server.kill();

    server.start().await;
    let alice = as_before(&server, &alice);
    finds(&alice, "pebble", &[&first, &second]).await;
    server.kill();

    std::fs::remove_dir_all(server.data_dir.join("search")).unwrap();
    server.start().await;
    let alice = as_before(&server, &alice);
    finds(&alice, "pebble", &[&first, &second]).await;
    assert!(now(&alice, "gone").await.is_empty());
}

#[tokio::test]
async fn searches_go_on_while_much_is_said() {
    let server = Server::builder().set("LOG__PARTITIONS", 2).start().await;
    let alice = server.register("alice").await;
    let mut rooms = Vec::new();
    for _ in 0..4 {
        rooms.push(alice.create_room(json!({})).await);
    }
    let writers = rooms.iter().map(|room| {
        let (alice, room) = (alice.clone(), room.clone());
        tokio::spawn(async move {
            let mut sent = Vec::new();
            for index in 0..60 {
                sent.push(alice.send_text(&room, &format!("grain {index}")).await);
            }
            sent
        })
    });
    let writers: Vec<_> = writers.collect();
    let criteria = json!({ "search_term": "grain", "filter": { "limit": 500 } });
    let mut last = 0;
    while writers.iter().any(|writer| !writer.is_finished()) {
        let found = ids(&results(&alice, criteria.clone()).await);
        let mut once = found.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), found.len(), "nothing twice");
        assert!(found.len() >= last, "nothing is lost again");
        last = found.len();
    }
    let mut all = Vec::new();
    for writer in writers {
        all.extend(writer.await.unwrap());
    }
    all.sort();
    let mut found = Vec::new();
    while found.len() < all.len() {
        found = ids(&results(&alice, criteria.clone()).await);
    }
    found.sort();
    assert_eq!(found, all);
    // How far behind the index is, is told.
    let metrics = server.metrics().get("/metrics").await.text;
    assert!(metrics.contains("engram_search_lag_records"), "{metrics}");
}
