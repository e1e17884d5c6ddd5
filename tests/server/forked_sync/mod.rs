//! Forked rooms from records to answers: random events on old branches go
//! through the real room server, and what sync told each client is held against
//! the room server's own current state after every answer.

mod client;
mod house;
mod maker;

use std::collections::BTreeMap;

use ruma::{RoomId, UserId};
use serde_json::{Value, json};

use self::client::Client;
use self::house::House;
use self::maker::Maker;
use crate::records::Random;

const ROOM: &str = "!room:there";
const LOCAL: [&str; 4] = ["@a:here", "@b:here", "@c:here", "@d:here"];

fn room_id() -> &'static RoomId {
    ROOM.try_into().unwrap()
}

/// The event ids of all sections, in their order.
fn ids(answer: &Value) -> Vec<Value> {
    let mut ids = Vec::new();
    for section in ["join", "invite", "leave"] {
        let told = &answer["rooms"][section][ROOM];
        for part in ["state", "state_after", "timeline", "invite_state"] {
            let events = told[part]["events"].as_array().into_iter().flatten();
            ids.extend(events.map(|event| event.get("event_id").cloned().unwrap_or(json!(part))));
        }
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_forked_rooms_end_with_the_rooms_state() {
    let mut decided: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 0..10 {
        let house = House::new();
        let sync = house.reader("sync");
        let mut maker = Maker {
            house: &house,
            random: Random(seed),
            known: Vec::new(),
            messages: Vec::new(),
            decided: BTreeMap::new(),
        };
        maker.create().await;
        let mut clients: Vec<Client> = LOCAL
            .iter()
            .enumerate()
            .map(|(index, name)| Client {
                user: <&UserId>::try_from(*name).unwrap().to_owned(),
                after: index % 2 == 0,
                limit: [2, 50][index / 2],
                since: None,
                state: BTreeMap::new(),
                section: None,
            })
            .collect();
        for _ in 0..150 {
            match maker.random.below(4) {
                0 => {
                    let who = maker.random.below(4) as usize;
                    clients[who].sync(&house, &sync).await;
                }
                _ => maker.next().await,
            }
        }
        let rebuilt = house.reader("rebuilt");
        house.follow(&rebuilt);
        for client in &mut clients {
            client.sync(&house, &sync).await;
            // A reader that begins anew tells the same.
            let anew = client.ask(&rebuilt, None).await;
            assert_eq!(ids(&client.ask(&sync, None).await), ids(&anew));
        }
        *decided.entry("resolution").or_default() += house.resolutions();
        for (decision, count) in maker.decided {
            *decided.entry(decision).or_default() += count;
        }
        let projection = house.projection;
        let stopped = tokio::task::spawn_blocking(move || projection.stop(false)).await;
        stopped.unwrap().unwrap();
    }
    // The rooms were worth it.
    for (what, least) in [
        ("accepted", 100),
        ("soft-failed", 5),
        ("rejected", 50),
        ("resolution", 10),
    ] {
        let count = decided.get(what).copied().unwrap_or(0);
        assert!(count > least, "{decided:?}");
    }
}
