//! Many servers that are slow on purpose, and one that is not: its events come
//! in, with a gap before them or without (security, 1.3).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use futures_util::future::join_all;
use futures_util::stream;
use serde_json::json;
use tokio::task::JoinSet;

use super::Neighbourhood;
use super::fake::Fake;
use super::guest::{Guest, transaction};
use super::library::Library;
use super::receiving::{public_room, texts};

const CROWD: usize = 20;
/// Transactions that each of the crowd has on its way.
const AT_A_TIME: usize = 3;
/// Events of one of them, which are as large as they may be.
const EVENTS: usize = 40;
/// In which the events of a server that is not slow are in, on a machine with much
/// to do: those without a gap, and those for which somebody of the crowd has to
/// give its turn back, which nobody needs to for ten seconds.
const SOON: Duration = Duration::from_secs(5);
const IN_TURN: Duration = Duration::from_secs(20);

/// Answers a byte now and then, and never ends.
fn drip(asked: &Arc<AtomicUsize>, request: &Request) -> Response {
    if request.uri().path().contains("get_missing_events") {
        asked.fetch_add(1, Ordering::Relaxed);
    }
    let bytes = stream::unfold(true, async |first| {
        if !first {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let piece = if first { "{\"events\":[" } else { " " };
        Some((Ok::<_, std::io::Error>(piece), false))
    });
    Response::new(Body::from_stream(Box::pin(bytes)))
}

/// Sends events behind one that is told to nobody, over and over.
async fn pester(fake: &Fake, guests: &mut [Guest<'_>]) {
    loop {
        for guest in guests.iter_mut() {
            let transactions = (0..AT_A_TIME).map(|_| {
                guest.text("never told");
                let filling = "x".repeat(60_000);
                let events: Vec<_> = (0..EVENTS).map(|_| guest.text(&filling).json).collect();
                transaction(fake, json!(events), json!([]))
            });
            let transactions: Vec<_> = transactions.collect();
            for (status, answer) in join_all(transactions).await {
                assert!(status == 200 || status == 429, "{answer}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_slow_servers_holds_up_nobody() {
    let neighbourhood = Neighbourhood::new();
    let a = neighbourhood
        .builder("a.test")
        // The crowd is on the loopback.
        .set("FEDERATION__DENY_ADDRESSES", "192.0.2.0/24")
        .start()
        .await;
    let alice = a.register("alice").await;
    let library = Library::default();
    let b = library.serve(&neighbourhood, "b.test").await;
    let shared = public_room(&alice, "11").await;
    let asked = Arc::new(AtomicUsize::new(0));
    let mut crowd = JoinSet::new();
    for number in 0..CROWD {
        let counts = asked.clone();
        let fake = Fake::numbered(&neighbourhood, move |request| {
            std::future::ready(drip(&counts, &request))
        });
        let fake = fake.await;
        let own = public_room(&alice, "11").await;
        let mut rooms = vec![own];
        if number == 0 {
            rooms.push(shared.clone());
        }
        let mut api = a.api();
        (api.token, api.user_id) = (alice.token.clone(), alice.user_id.clone());
        crowd.spawn(async move {
            let mut guests = Vec::new();
            for room in &rooms {
                guests.push(Guest::enter(&fake, &api, room, "mallory").await);
            }
            pester(&fake, &mut guests).await;
        });
    }
    let mut bob = Guest::look(&b, &alice, &shared, "bob").await;
    bob.library = library.clone();
    let join = bob.member("join");
    bob.sent(&[&join]).await;
    // Until as many are asked as may be.
    while asked.load(Ordering::Relaxed) < 16 {
        assert!(crowd.try_join_next().is_none(), "nobody of the crowd ends");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut sent = Vec::new();
    for round in 0..5 {
        let begun = Instant::now();
        let plain = bob.text(&format!("{round}: plain"));
        bob.sent(&[&plain]).await;
        let plain = begun.elapsed();
        let begun = Instant::now();
        bob.text(&format!("{round}: between"));
        let behind = bob.text(&format!("{round}: behind a gap"));
        bob.sent(&[&behind]).await;
        let behind = begun.elapsed();
        eprintln!("round {round}: {plain:?}, {behind:?} behind a gap");
        assert!(plain < SOON && behind < IN_TURN, "{plain:?} {behind:?}");
        let told = ["plain", "between", "behind a gap"];
        sent.extend(told.map(|what| format!("{round}: {what}")));
        assert_eq!(texts(&alice, &shared).await, sent);
    }
    assert!(crowd.try_join_next().is_none(), "nobody of the crowd ends");
}
