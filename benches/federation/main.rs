//! One event to many servers, most of which are gone, and what servers that are
//! gone cost: the sender with a real store, a real *input* for the
//! acknowledgements, and signed requests over TLS on the loopback.
//!
//! Ratios are of one run on one machine.
//! `cargo bench --bench federation [-- EVENTS [GONE [EVENTS_TO_GONE]]]`

mod gone;
#[path = "../support/mod.rs"]
mod support;
mod world;

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use axum::Router;
use axum_server::tls_rustls::RustlsConfig;
use log_format::record::Source;
use support::Latencies;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use world::{World, joins, tls};

const THERE: usize = 50;
const GONE: usize = 150;
const EVENTS: usize = 200;

fn main() {
    let arguments = std::env::args().skip(1);
    let mut numbers = arguments.filter_map(|argument| argument.parse().ok());
    let events: usize = numbers.next().unwrap_or(EVENTS);
    let thousands = numbers.next().unwrap_or(gone::SERVERS);
    let to_thousands = numbers.next().unwrap_or(gone::EVENTS);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    println!("{events} events, each to {THERE} servers that are there; delay in ms");
    println!("| gone | first event: p50 | max | others: p50 | p99 | max |");
    println!("|---|---|---|---|---|---|");
    let without = runtime.block_on(fan_out(events, 0));
    let with = runtime.block_on(fan_out(events, GONE));
    let ratio = |percent| with.percentile_ms(percent) / without.percentile_ms(percent);
    println!(
        "with {GONE} that are gone to without: p50 {:.2}, p99 {:.2}",
        ratio(50.0),
        ratio(99.0)
    );
    runtime.block_on(gone::cost(thousands, to_thousands));
}

/// Delays at the servers that are there, of all events but the first. A server
/// that is gone takes the connection and says nothing on it, which is the worst of
/// what it can do.
async fn fan_out(events: usize, gone: usize) -> Latencies {
    let (arrives, mut arrived) = unbounded_channel();
    let mut servers = Vec::new();
    for _ in 0..THERE {
        servers.push(start(arrives.clone()).await);
    }
    let silent: Vec<TcpListener> = (0..gone)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("binds"))
        .collect();
    servers.extend(silent.iter().map(|one| one.local_addr().expect("bound")));
    let mut world = World::new();
    let carrying = tokio::spawn(world.sender.clone().run());
    for server in &servers {
        world.say(Source::Federation, joins(&server.to_string()));
    }
    let mut first = Vec::new();
    let mut others = Vec::new();
    for number in 0..events {
        let begun = Instant::now();
        world.say(Source::Client, vec![]);
        let delays = match number {
            0 => &mut first,
            _ => &mut others,
        };
        let due = delays.len() + THERE;
        wait(&mut arrived, begun, delays, due).await;
        // Acknowledgements are on their way back.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    carrying.abort();
    let (first, others) = (Latencies::new(first), Latencies::new(others));
    println!(
        "| {gone} | {:.1} | {:.1} | {:.2} | {:.2} | {:.2} |",
        first.percentile_ms(50.0),
        first.percentile_ms(100.0),
        others.percentile_ms(50.0),
        others.percentile_ms(99.0),
        others.percentile_ms(100.0)
    );
    others
}

async fn wait(
    arrived: &mut UnboundedReceiver<Instant>,
    begun: Instant,
    delays: &mut Vec<Duration>,
    due: usize,
) {
    while delays.len() < due {
        let one = tokio::time::timeout(Duration::from_secs(30), arrived.recv());
        let at = one
            .await
            .expect("arrives in time")
            .expect("a server is there");
        delays.push(at - begun);
    }
}

/// A server that takes whatever it is sent.
async fn start(arrives: UnboundedSender<Instant>) -> SocketAddr {
    let config = RustlsConfig::from_pem_file(tls("test_cert.pem"), tls("test_key.pem")).await;
    let router = Router::new().fallback(move || {
        // The bench is over before its servers are.
        let _ = arrives.send(Instant::now());
        std::future::ready(r#"{"pdus":{}}"#)
    });
    let handle = axum_server::Handle::new();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = axum_server::bind_rustls(any, config.expect("the test certificate"));
    let server = server.handle(handle.clone());
    tokio::spawn(server.serve(router.into_make_service()));
    handle.listening().await.expect("listens")
}
