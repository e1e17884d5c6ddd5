//! Lies of other servers, in one table: each request that we make against each lie
//! that can be told about it (security test S3).
//!
//! Whatever is told: who made us ask is answered in time, what the lie says has not
//! come to be, a healthy room goes on, memory is bounded, and our key signed nothing
//! but what it always signs.

mod cells;
mod fetches;
mod front;
mod peer;
mod raw;
mod rooms;
mod served;
mod stage;
mod transport;
mod twists;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use self::cells::How;
use self::fetches::Fetch;
use self::front::Way;
use self::peer::Lie;
use self::stage::Stage;
use self::transport::Transport;

/// Lies that are told at the same time.
const AT_ONCE: usize = 24;
/// Memory that the server under test may have at any time, in MiB.
const MEMORY_MIB_MAX: u64 = 640;

/// The lies that can be told about a request.
fn lies_about(fetch: Fetch) -> Vec<How> {
    let told = Transport::ALL.map(|lie| How::Told(Lie::Transport(lie)));
    let mut lies = told.to_vec();
    lies.extend(twists::about(fetch).into_iter().map(How::Told));
    if fetch.is_first() {
        lies.extend(Way::LIES.map(How::Connection));
    }
    // Where nothing has to work before it is asked.
    if matches!(
        fetch,
        Fetch::Keys
            | Fetch::Version
            | Fetch::MakeJoin
            | Fetch::MakeKnock
            | Fetch::Invite
            | Fetch::Profile
            | Fetch::Directory
            | Fetch::PublicRooms
            | Fetch::Hierarchy
    ) {
        lies.push(How::Impostor);
    }
    lies
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_no_lie_about_a_request_of_ours_does_harm() {
    let stage = Arc::new(Stage::set_up().await);
    let (begun, before) = (Instant::now(), stage.peak_mib());
    let mut told: BTreeMap<Fetch, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for fetch in Fetch::ALL {
        let row = Instant::now();
        let mut lies = lies_about(fetch);
        told.insert(fetch, lies.len());
        lies.push(How::Truth);
        wrong.extend(tell_all(&stage, fetch, lies).await);
        let peak = stage.peak_mib();
        let seconds = row.elapsed().as_secs_f32();
        println!(
            "{fetch:?}: {} lies, {seconds:.1} s, {peak} MiB",
            told[&fetch]
        );
        assert!(peak < MEMORY_MIB_MAX, "{fetch:?}: {peak} MiB");
    }
    let lies: usize = told.values().sum();
    println!(
        "{lies} lies about {} requests in {:?}",
        told.len(),
        begun.elapsed()
    );
    println!(
        "at most {before} MiB before; signed: {:?}",
        stage.common.watch.report()
    );
    assert!(wrong.is_empty(), "{} cells: {wrong:#?}", wrong.len());
    assert_eq!(stage.led_inside(), 0, "a redirect was followed");
    let metrics = stage.a.metrics().get("/metrics").await.text;
    let panics = metrics
        .lines()
        .filter(|line| line.starts_with("engram_http_panics_total"));
    assert!(
        panics.clone().all(|line| line.ends_with(" 0")),
        "{:?}",
        panics.collect::<Vec<_>>()
    );
}

/// Tells them all; what went wrong with each.
async fn tell_all(stage: &Arc<Stage>, fetch: Fetch, lies: Vec<How>) -> Vec<String> {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut cells = JoinSet::new();
    for (number, how) in lies.into_iter().enumerate() {
        let (stage, turns) = (stage.clone(), turns.clone());
        cells.spawn(async move {
            let _turn = turns.acquire().await;
            cells::tell(&stage, fetch, how, number).await;
        });
    }
    let mut wrong = Vec::new();
    while let Some(ended) = cells.join_next().await {
        if let Err(error) = ended {
            let why = error.into_panic();
            let text = why.downcast_ref::<String>().cloned();
            let text = text.or_else(|| why.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            wrong.push(text.unwrap_or_default());
        }
    }
    wrong
}
