//! A room with thousands of members is joined in seconds, and is whole then.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::Request;
use axum::response::Response;
use engram::crypto::ServerKey;
use engram::matrix::canonical_json::{parse_object, to_bytes};
use http::StatusCode;

use super::Neighbourhood;
use super::elsewhere::join_by;
use super::fake::{FAR, Fake, answer, own_keys};
use super::made_up::{MadeUp, ROOM};
use crate::harness::escape;

/// More than one fold takes on at a time: the room waits for work done aside.
/// Another number is for who measures.
fn members() -> usize {
    let set = std::env::var("ENGRAM_LARGE_MEMBERS").ok();
    set.and_then(|set| set.parse().ok()).unwrap_or(10_000)
}

/// The most memory that a process had, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let value = line.unwrap().split_whitespace().nth(1);
    value.unwrap().parse().unwrap()
}

fn told((template, joined): &(String, String), request: &Request) -> Response {
    let ok = |body: Vec<u8>| answer(StatusCode::OK, body);
    let path = request.uri().path();
    if path == "/_matrix/key/v2/server" {
        let keys = own_keys("c.test", &ServerKey::from_seed([3; 32], "fake"), FAR);
        return ok(to_bytes(&keys));
    }
    if path.contains("/make_join/") {
        return ok(template.clone().into_bytes());
    }
    if path.contains("/send_join/") {
        return ok(joined.clone().into_bytes());
    }
    answer(
        StatusCode::NOT_FOUND,
        br#"{"errcode":"M_NOT_FOUND"}"#.to_vec(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_of_thousands_is_joined_in_seconds() {
    let room = MadeUp::with_members(members());
    let room = Arc::new((room.template().to_string(), room.joined()));
    assert!(parse_object(room.1.as_bytes()).is_ok());
    let neighbourhood = Neighbourhood::new();
    let b = neighbourhood.builder("b.test").start().await;
    let bob = b.register("bob").await;
    let c = Fake::start(&neighbourhood, "c.test", move |request: Request| {
        std::future::ready(told(&room, &request))
    });
    let _c = c.await;
    let (began, peak) = (Instant::now(), peak_kib(b.pid()));
    // Whoever asks for the same join waits for it.
    let joins = [join_by(&bob, ROOM, "c.test"), join_by(&bob, ROOM, "c.test")];
    for answer in futures_util::future::join_all(joins).await {
        answer.ok();
    }
    let took = began.elapsed();
    let members = members();
    let peak = (peak / 1024, peak_kib(b.pid()) / 1024);
    println!("{members} members: joined in {took:?}, most memory {peak:?} MiB");
    assert!(took.as_secs() < 60, "{took:?}");
    let path = format!("/_matrix/client/v3/rooms/{}/joined_members", escape(ROOM));
    let joined = bob.get(&path).await.ok();
    assert_eq!(joined["joined"].as_object().unwrap().len(), members + 2);
    let synced = bob.sync("").await;
    let summary = &synced["rooms"]["join"][ROOM]["summary"];
    assert_eq!(summary["m.joined_member_count"], members + 2, "{summary}");
    assert_eq!(
        b.output()
            .matches("joining a room of other servers")
            .count(),
        1
    );
    bob.send_text(ROOM, "hello").await;
}
