//! A stop in the middle of transactions: one that is asked for lets them end, and
//! what a kill leaves is told at once by the next process.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Neighbourhood;
use super::sending::{Inbox, again, room, speak, start, texts};
use super::visitor::CAROL;
use crate::commands::run;
use crate::harness::Server;

/// How long the other server takes: longer than a stop without anything to wait for.
const SLOW: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_is_asked_for_repeats_nothing() {
    let neighbourhood = Neighbourhood::new();
    let (mut a, alice) = start(&neighbourhood).await;
    let inbox = Inbox::default();
    let c = inbox.open(&neighbourhood).await;
    let room = room(&alice, "11").await;
    c.join(&room, CAROL).await;
    alice.send_text(&room, "first").await;
    inbox.wait_for("first").await;
    inbox.answer_after(SLOW);
    alice.send_text(&room, "slow").await;
    inbox.wait_for("slow").await;
    // On its way now; what comes behind it waits for the next process.
    alice.send_text(&room, "behind").await;
    assert!(a.terminate().await.success());
    inbox.answer_after(Duration::ZERO);
    a.start().await;
    inbox.wait_for("behind").await;
    assert_eq!(texts(&inbox.arrived()), ["first", "slow", "behind"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_no_server_for_long() {
    let neighbourhood = Neighbourhood::new();
    let (mut a, alice) = start(&neighbourhood).await;
    let inbox = Inbox::default();
    let c = inbox.open(&neighbourhood).await;
    let room = room(&alice, "11").await;
    c.join(&room, CAROL).await;
    inbox.answer_after(Duration::from_secs(50));
    alice.send_text(&room, "endless").await;
    inbox.wait_for("endless").await;
    let begun = Instant::now();
    assert!(a.terminate().await.success());
    assert!(
        begun.elapsed() < Duration::from_secs(25),
        "{:?}",
        begun.elapsed()
    );
    inbox.answer_after(Duration::ZERO);
    a.start().await;
    again(&a, &alice).send_text(&room, "next").await;
    inbox.wait_for("next").await;
    // Not known to have arrived, so it comes again, and is the same.
    let mut arrived = inbox.arrived();
    arrived.retain(|one| !texts(std::slice::from_ref(one)).is_empty());
    assert_eq!(texts(&arrived), ["endless", "endless", "next"]);
    assert_eq!(arrived[0], arrived[1]);
}

/// The one line of `engram federation queues`.
fn queue(a: &Server) -> Value {
    let listed = run(a, &["federation", "queues", "--json"], "");
    assert_eq!(listed.status.code(), Some(0));
    let queues: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(queues.as_array().unwrap().len(), 1, "{queues}");
    queues[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_told_right_after_a_start_and_leaves_when_the_server_speaks() {
    let neighbourhood = Neighbourhood::new();
    let (mut a, alice) = start(&neighbourhood).await;
    let inbox = Inbox::default();
    let c = inbox.open(&neighbourhood).await;
    let room = room(&alice, "11").await;
    c.join(&room, CAROL).await;
    inbox.answer_with(503);
    alice.send_text(&room, "one").await;
    inbox.wait_for("one").await;
    alice.send_text(&room, "two").await;
    for kill in [true, false] {
        // Until the answer is there, and recorded.
        for _ in 0..100 {
            if queue(&a)["failures"].as_u64() > Some(0) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let before = queue(&a);
        match kill {
            true => a.kill(),
            false => assert!(a.terminate().await.success()),
        }
        a.start().await;
        let after = queue(&a);
        assert_eq!(after["destination"], "c.test");
        assert_eq!(after["waiting"], json!(2), "killed: {kill}");
        assert!(after["failures"].as_u64() >= before["failures"].as_u64());
        assert!(after["next_try_ms"].as_u64() >= before["next_try_ms"].as_u64());
    }
    inbox.answer_with(0);
    // Nobody has to wait for the next attempt.
    let begun = Instant::now();
    speak(&c).await;
    inbox.wait_for("two").await;
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
}
