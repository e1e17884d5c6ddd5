//! A client that comes back after a long absence: its answer costs what it tells
//! of, not what it missed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use log_format::record::output::Visibility;
use serde_json::{Value, json};

use super::world::{World, ids, user};
use crate::readers::store::Write;
use crate::readers::store::memory::MemoryStore;
use crate::storage::batch::Writes;
use crate::storage::columns::Table;
use crate::storage::overlay::{Read, StoreError};

/// A store that counts the rows that it hands out.
#[derive(Default)]
struct Counting {
    store: MemoryStore,
    rows: AtomicU64,
}

impl Read for Counting {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.rows.fetch_add(1, Ordering::Relaxed);
        self.store.get(table, key)
    }

    fn range(
        &self,
        table: Table,
        prefix: &[u8],
        from: Option<&[u8]>,
        reverse: bool,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let found = self.store.range(table, prefix, from, reverse, limit)?;
        // A range that finds nothing was looked at too.
        self.rows
            .fetch_add(found.len() as u64 + 1, Ordering::Relaxed);
        Ok(found)
    }
}

impl Write for Counting {
    fn write(&self, writes: Writes) -> Result<(), StoreError> {
        self.store.write(writes)
    }

    fn remove(&self, prefixes: &[(Table, Vec<u8>)]) -> Result<(), StoreError> {
        self.store.remove(prefixes)
    }
}

/// An answer over a gap, and the rows that it took.
struct Told {
    answer: Value,
    rows: u64,
}

/// Ann syncs, so much is said and so many change the topic, and she syncs again.
async fn after(messages: usize, topics: usize, filter: Value) -> Told {
    let store = Arc::new(Counting::default());
    let mut world = World::over(1, store.clone());
    let (ann, ben) = (user("ann"), user("ben"));
    let room = world.create("room", &ann, Visibility::Shared);
    world.member(&room, &ben, &ben, "join");
    let known = world.synced(&ann, None, filter.clone()).await;
    for number in 0..topics {
        let topic = json!({ "topic": number });
        world.state(&room, &ben, "m.room.topic", "", topic);
    }
    for number in 0..messages {
        world.say(&room, &ben, &number.to_string());
    }
    world.fold();
    let before = store.rows.load(Ordering::Relaxed);
    let since = known["next_batch"].as_str();
    let answer = world.synced(&ann, since, filter).await;
    Told {
        rows: store.rows.load(Ordering::Relaxed) - before,
        answer: answer["rooms"]["join"][room.as_str()].clone(),
    }
}

#[tokio::test]
async fn a_long_gap_takes_no_more_rows_than_a_short_one() {
    for filter in [
        json!({}),
        json!({ "room": { "timeline": { "limit": 100 } } }),
        json!({ "room": { "state": { "lazy_load_members": true } } }),
        // Nothing passes: the search for what might gives up.
        json!({ "room": { "timeline": { "types": ["org.example.never"] } } }),
    ] {
        let short = after(2_200, 1, filter.clone()).await;
        let long = after(4_000, 1, filter.clone()).await;
        assert_eq!(long.rows, short.rows, "{filter}");
        assert!(long.rows < 4_000, "{} rows for {filter}", long.rows);
        let told = &long.answer;
        assert_eq!(told["timeline"]["limited"], true);
        assert!(told["timeline"]["prev_batch"].is_string());
        let topic = &told["state"]["events"][0];
        assert_eq!(topic["content"]["topic"], 0, "{filter}");
        assert!(ids(&told["timeline"]["events"]).len() <= 100);
    }
}

#[tokio::test]
async fn a_gap_of_many_changes_is_told_by_comparing_states() {
    let few = after(20, 2_050, json!({})).await;
    let many = after(20, 2_500, json!({})).await;
    assert_eq!(many.rows, few.rows);
    let topic = &many.answer["state"]["events"];
    assert_eq!(topic.as_array().map(Vec::len), Some(1));
    assert_eq!(topic[0]["content"]["topic"], 2_499);
}
