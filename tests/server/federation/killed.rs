//! The receiver's process is killed in the middle of transactions, over and over:
//! what another server sends comes to clients once, in its order, and all of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::Neighbourhood;
use super::fake::{Fake, object};
use super::guest::Guest;
use super::library::Library;
use super::receiving::public_room;
use crate::harness::{Api, Server, escape};
use crate::records::Random;

const KILLS: usize = 25;
const EVENTS_PER_TRANSACTION: usize = 20;
/// Transactions of one round, which has one kill: no more events than a sync gives.
const ROUND: usize = 4;
/// A kill hits within so long of a round's begin: it takes about as long.
const HIT_WITHIN_MS: u64 = 300;

/// What takes longer does not come. Debug builds on a busy machine are slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// How far the sender is.
#[derive(Default)]
struct Progress {
    /// Transactions that may be sent.
    allowed: AtomicUsize,
    begun: AtomicUsize,
    answered: AtomicUsize,
}

impl Progress {
    async fn until(&self, holds: impl Fn(&Progress) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < PATIENCE, "the sender goes on");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Sends numbered texts, as many as it is allowed to.
struct Sender<'a> {
    bob: Guest<'a>,
    progress: Arc<Progress>,
}

impl Sender<'_> {
    async fn send(mut self) {
        for transaction in 0..KILLS * ROUND {
            let allowed =
                |progress: &Progress| transaction < progress.allowed.load(Ordering::Relaxed);
            self.progress.until(allowed).await;
            let first = transaction * EVENTS_PER_TRANSACTION;
            let events: Vec<Value> = (first..first + EVENTS_PER_TRANSACTION)
                .map(|number| self.bob.text(&number.to_string()).json)
                .collect();
            // Of every third the first half has to be fetched.
            let left_out = match transaction % 3 {
                2 => EVENTS_PER_TRANSACTION / 2,
                _ => 0,
            };
            let body = json!({
                "origin": "b.test", "origin_server_ts": 1, "pdus": &events[left_out..],
            });
            self.progress.begun.fetch_add(1, Ordering::Relaxed);
            self.repeat_until_answered(transaction, &body).await;
            self.progress.answered.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn repeat_until_answered(&self, transaction: usize, body: &Value) {
        let uri = format!("/_matrix/federation/v1/send/{transaction}");
        let body = object(body);
        loop {
            let answer = self.bob.fake.try_send("a.test", Method::PUT, &uri, &body);
            if let Some((200, answer)) = answer.await {
                let results = answer["pdus"].as_object().expect("results");
                for (event, result) in results {
                    assert_eq!(*result, json!({}), "{event}");
                }
                return;
            }
            // It is on its way up again.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A client that goes on where it was.
struct Follower {
    api: Api,
    room: String,
    since: String,
    told: Vec<String>,
}

impl Follower {
    async fn new(api: Api, room: &str) -> Follower {
        let since = api.sync("").await["next_batch"].clone();
        Follower {
            api,
            room: room.to_owned(),
            since: since.as_str().expect("a token").to_owned(),
            told: Vec::new(),
        }
    }

    /// The same client after a restart, which gave the server another port.
    fn find_again(&mut self, a: &Server) {
        let mut api = a.api();
        (api.token, api.user_id) = (self.api.token.take(), self.api.user_id.clone());
        self.api = api;
    }

    async fn follow(&mut self) {
        let filter = json!({ "room": { "timeline": { "limit": 100 } } }).to_string();
        let filter = escape(&filter);
        let query = format!("filter={filter}&timeout=0&since={}", self.since);
        let sync = self.api.sync(&query).await;
        let timeline = &sync["rooms"]["join"][&self.room]["timeline"];
        assert_ne!(timeline["limited"], true, "{timeline}");
        let events = timeline["events"].as_array().into_iter().flatten();
        let bodies = events.filter_map(|event| event["content"]["body"].as_str());
        self.told.extend(bodies.map(str::to_owned));
        self.since = sync["next_batch"].as_str().expect("a token").to_owned();
    }
}

async fn killed_over_and_over(version: &str, seed: u64) {
    eprintln!("version {version}, seed {seed}");
    let mut random = Random(seed);
    let neighbourhood = Neighbourhood::new();
    let mut a = neighbourhood.builder("a.test").start().await;
    let alice = a.register("alice").await;
    let library = Library::default();
    let b = Arc::new(library.serve(&neighbourhood, "b.test").await);
    let room = public_room(&alice, version).await;
    let progress = Arc::<Progress>::default();
    let mut follower = Follower::new(alice.clone(), &room).await;
    let (in_room, shared) = (room.clone(), progress.clone());
    let sending = tokio::spawn(async move {
        let fake: &Fake = &b;
        let mut bob = Guest::look(fake, &alice, &in_room, "bob").await;
        bob.library = library;
        let join = bob.member("join");
        bob.sent(&[&join]).await;
        let progress = shared;
        Sender { bob, progress }.send().await;
    });
    for round in 0..KILLS {
        let (before, all) = (round * ROUND, (round + 1) * ROUND);
        progress.allowed.store(all, Ordering::Relaxed);
        progress
            .until(|progress| progress.begun.load(Ordering::Relaxed) > before)
            .await;
        let moment = Duration::from_millis(random.below(HIT_WITHIN_MS));
        tokio::time::sleep(moment).await;
        follower.follow().await;
        a.kill();
        a.start().await;
        follower.find_again(&a);
        progress
            .until(|progress| progress.answered.load(Ordering::Relaxed) == all)
            .await;
        follower.follow().await;
    }
    sending.await.expect("sends");
    let all: Vec<String> = (0..KILLS * ROUND * EVENTS_PER_TRANSACTION)
        .map(|number| number.to_string())
        .collect();
    assert_eq!(follower.told, all);
    // The room's own order is the same.
    let mut back = Vec::new();
    let mut from = String::new();
    loop {
        let path = format!(
            "/_matrix/client/v3/rooms/{}/messages?dir=b&limit=500{from}",
            escape(&room)
        );
        let page = follower.api.get(&path).await.ok();
        let events = page["chunk"].as_array().expect("a list").iter();
        let bodies = events.filter_map(|event| event["content"]["body"].as_str());
        back.extend(bodies.map(str::to_owned));
        match page["end"].as_str() {
            Some(end) => from = format!("&from={}", escape(end)),
            None => break,
        }
    }
    back.reverse();
    assert_eq!(back, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_while_the_receiver_is_killed_comes_once_and_whole() {
    let seed = u64::from_le_bytes(engram::crypto::random::bytes());
    killed_over_and_over("11", seed).await;
}
