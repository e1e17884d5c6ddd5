//! Events of other servers, from their requests until the answers say that they
//! are taken in: signed transactions of 50, each server in a room of its own and
//! one transaction after the other, as the specification has it.
//!
//! Beside it, in the same run and over the same events, nothing but verifying
//! their signatures on as many threads as there are processors: the ratio tells
//! what the rest of the road costs. It is told of events per second, and of time
//! on the processor, since the bench and whatever else runs share the machine.
//! `cargo bench --bench inbound [-- TRANSACTIONS]`

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use axum::Router;
use axum_server::tls_rustls::RustlsConfig;
use ed25519_dalek::{Signature, VerifyingKey};
use engram::clock::now_ms;
use engram::crypto::ServerKey;
use engram::crypto::signing_key::BASE64;
use engram::matrix::RoomVersion;
use engram::matrix::build::{EventRef, ProtoEvent, build_and_sign};
use engram::matrix::canonical_json::{
    CanonicalJsonObject, parse_object, to_bytes, to_bytes_without,
};
use engram::matrix::redaction::redact;
use engram::matrix::server_keys::published;
use engram::matrix::x_matrix::SignedRequest;
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, ServerName};
use serde_json::{Value, json};
use support::{Client, Latencies, Server, cpu_of};

const ORIGINS: usize = 8;
/// Of each server, in one scenario.
const TRANSACTIONS: usize = 40;
/// How often the signatures are verified beside it.
const BARE: u32 = 5;
const EVENTS_PER_TRANSACTION: usize = 50;
const VERSIONS: [RoomVersion; 3] = [RoomVersion::V10, RoomVersion::V11, RoomVersion::V12];

fn main() {
    let arguments = std::env::args().skip(1);
    let mut numbers = arguments.filter_map(|argument| argument.parse().ok());
    let transactions: usize = numbers.next().unwrap_or(TRANSACTIONS);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let origins: Vec<Origin> = (0..ORIGINS)
        .map(|_| runtime.block_on(Origin::start()))
        .collect();
    let authority = tls().join("test_ca.pem");
    let server = Server::start_with(&[
        (
            "ENGRAM__FEDERATION__EXTRA_CA",
            authority.to_str().expect("a path"),
        ),
        // The other servers are on the loopback.
        ("ENGRAM__FEDERATION__DENY_ADDRESSES", "192.0.2.0/24"),
    ]);
    let local = server.register("alice");
    println!("{transactions} transactions of {EVENTS_PER_TRANSACTION} events from each server");
    println!(
        "| version | servers | events/s | transaction: p50 ms | p99 ms | bare verify/s | ratio | server's us/event | bare us/event | ratio |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for version in VERSIONS {
        for count in [1, ORIGINS] {
            let senders = origins.iter().take(count);
            let guests = senders.map(|origin| Guest::enter(origin, &server, &local, version));
            let mut guests: Vec<Guest<'_>> = guests.collect();
            for guest in &mut guests {
                guest.prepare(transactions);
            }
            let measured = run(&server, &guests);
            report(version, &guests, &measured);
        }
    }
}

fn tls() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/server/tls")
}

/// Another server, which says of itself what its key is.
struct Origin {
    name: OwnedServerName,
    key: ServerKey,
}

impl Origin {
    async fn start() -> Origin {
        let (certificate, key) = (tls().join("test_cert.pem"), tls().join("test_key.pem"));
        let config = RustlsConfig::from_pem_file(certificate, key).await;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        listener.set_nonblocking(true).expect("a socket");
        let address: SocketAddr = listener.local_addr().expect("bound");
        let name = OwnedServerName::try_from(address.to_string()).expect("a name");
        let key = ServerKey::generate();
        let keys = to_bytes(&published(&name, &key, &[], now_ms() + 86_400_000));
        let router = Router::new().fallback(move || std::future::ready(keys));
        let server = axum_server::from_tcp_rustls(listener, config.expect("the test certificate"));
        let server = server.expect("a listener");
        tokio::spawn(server.serve(router.into_make_service()));
        Origin { name, key }
    }
}

/// A transaction that is ready to be sent.
struct Prepared {
    uri: String,
    authorization: String,
    body: Vec<u8>,
}

/// A signature, and what it is over.
struct Signed {
    bytes: Vec<u8>,
    signature: Signature,
}

/// A user of another server in a room of ours.
struct Guest<'a> {
    origin: &'a Origin,
    version: RoomVersion,
    user: OwnedUserId,
    room: OwnedRoomId,
    /// What authorises its messages.
    authority: Vec<EventRef>,
    tip: EventRef,
    depth: u64,
    prepared: Vec<Prepared>,
    signed: Vec<Signed>,
}

impl<'a> Guest<'a> {
    fn enter(origin: &'a Origin, server: &Server, local: &str, version: RoomVersion) -> Guest<'a> {
        let mut client = server.client();
        let room = json!({ "preset": "public_chat", "room_version": version.as_str() });
        let path = "/_matrix/client/v3/createRoom";
        let room = client.call("POST", path, Some(local), &room)["room_id"].clone();
        let room = OwnedRoomId::try_from(room.as_str().expect("a room")).expect("an id");
        let path = format!("/_matrix/client/v3/rooms/{room}/state");
        let state = client.call("GET", &path, Some(local), &Value::Null);
        let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=1");
        let last = client.call("GET", &path, Some(local), &Value::Null);
        let id = |event: &Value| {
            let id = event["event_id"].as_str().expect("an event");
            EventRef::from(OwnedEventId::try_from(id).expect("an id"))
        };
        let of = |kind: &str| {
            let mut events = state.as_array().expect("a list").iter();
            id(events
                .find(|event| event["type"] == kind)
                .expect("is there"))
        };
        let mut guest = Guest {
            origin,
            version,
            user: OwnedUserId::try_from(format!("@guest:{}", origin.name)).expect("a user"),
            room,
            authority: vec![of("m.room.power_levels")],
            tip: id(&last["chunk"][0]),
            depth: 100,
            prepared: Vec::new(),
            signed: Vec::new(),
        };
        if !version.room_id_is_create_hash() {
            guest.authority.push(of("m.room.create"));
        }
        let messages = guest.authority.clone();
        guest.authority.push(of("m.room.join_rules"));
        let user = guest.user.to_string();
        let join = guest.event("m.room.member", Some(&user), r#"{"membership":"join"}"#);
        guest.authority = messages;
        guest.authority.push(guest.tip.clone());
        let join = guest.transaction(&[join]);
        send(&mut client, &join);
        guest.signed.clear();
        guest
    }

    /// The next event, as JSON.
    fn event(&mut self, kind: &str, state_key: Option<&str>, content: &str) -> Vec<u8> {
        let proto = ProtoEvent {
            room_id: Some(self.room.clone()),
            sender: self.user.clone(),
            kind: kind.into(),
            state_key: state_key.map(Into::into),
            content: parse_object(content.as_bytes()).expect("is an object"),
            redacts: None,
            prev_events: vec![self.tip.clone()],
            auth_events: self.authority.clone(),
            depth: self.depth,
            origin_server_ts: now_ms(),
            event_localpart: None,
        };
        let built = build_and_sign(self.version, proto, &self.origin.name, &self.origin.key);
        let built = built.expect("is built");
        self.tip = built.reference();
        self.depth += 1;
        let event = parse_object(&built.json).expect("is an object");
        self.signed.push(self.signature_of(&event));
        built.json
    }

    fn signature_of(&self, event: &CanonicalJsonObject) -> Signed {
        use base64::Engine;
        let signatures = event["signatures"].as_object().expect("is signed");
        let of_origin = signatures[self.origin.name.as_str()].as_object();
        let signature = of_origin.expect("by its server")[self.origin.key.key_id()].as_str();
        let signature = BASE64
            .decode(signature.expect("a text"))
            .expect("is base64");
        let redacted = redact(&self.version.rules().redaction, event);
        Signed {
            bytes: to_bytes_without(&redacted, &["signatures", "unsigned"]),
            signature: Signature::from_slice(&signature).expect("a signature"),
        }
    }

    fn transaction(&self, events: &[Vec<u8>]) -> Prepared {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let uri = format!("/_matrix/federation/v1/send/{id}");
        let mut body = format!(
            r#"{{"origin":"{}","origin_server_ts":{},"pdus":["#,
            self.origin.name,
            now_ms()
        )
        .into_bytes();
        body.extend(events.join(&b','));
        body.extend(b"]}");
        let content = parse_object(&body).expect("is an object");
        let request = SignedRequest {
            method: "PUT",
            uri: &uri,
            origin: &self.origin.name,
            destination: <&ServerName>::try_from("bench.test").expect("a name"),
            content: Some(&content),
        };
        Prepared {
            authorization: request.authorization(&self.origin.key),
            uri,
            body,
        }
    }

    fn prepare(&mut self, transactions: usize) {
        for _ in 0..transactions {
            let events: Vec<Vec<u8>> = (0..EVENTS_PER_TRANSACTION)
                .map(|event| {
                    let said = "what somebody says in a room ".repeat(1 + event % 5);
                    let content = format!(r#"{{"body":"{said}","msgtype":"m.text"}}"#);
                    self.event("m.room.message", None, &content)
                })
                .collect();
            let prepared = self.transaction(&events);
            self.prepared.push(prepared);
        }
    }
}

/// Sends a transaction, of which every event must be taken in.
fn send(client: &mut Client, transaction: &Prepared) {
    let Prepared {
        uri,
        authorization,
        body,
    } = transaction;
    let status = client.request("PUT", uri, Some(authorization), body);
    let answer = client.body();
    assert_eq!(status, 200, "{answer}");
    let results = answer["pdus"].as_object().expect("results");
    assert!(!results.is_empty());
    for (event, result) in results {
        assert_eq!(*result, json!({}), "{event}");
    }
}

/// One transaction after the other; how long each took.
fn send_all(server: &Server, guest: &Guest<'_>, barrier: &Barrier) -> Vec<Duration> {
    let mut client = server.client();
    barrier.wait();
    let transactions = guest.prepared.iter().map(|transaction| {
        let begun = Instant::now();
        send(&mut client, transaction);
        begun.elapsed()
    });
    transactions.collect()
}

struct Measured {
    took: Duration,
    cpu: Duration,
    transactions: Latencies,
}

fn run(server: &Server, guests: &[Guest<'_>]) -> Measured {
    server.await_quiet();
    let barrier = Barrier::new(guests.len() + 1);
    let cpu = server.cpu();
    let (took, all) = std::thread::scope(|scope| {
        let barrier = &barrier;
        let threads: Vec<_> = guests
            .iter()
            .map(|guest| scope.spawn(move || send_all(server, guest, barrier)))
            .collect();
        barrier.wait();
        let begun = Instant::now();
        let all: Vec<Duration> = threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("sends"))
            .collect();
        (begun.elapsed(), all)
    });
    Measured {
        took,
        cpu: server.cpu() - cpu,
        transactions: Latencies::new(all),
    }
}

/// Verifies all signatures on as many threads as there are processors.
fn bare(guests: &[Guest<'_>]) -> Duration {
    let all: Vec<(&Signed, VerifyingKey)> = guests
        .iter()
        .flat_map(|guest| {
            let key = guest.origin.key.verifying_key();
            guest.signed.iter().map(move |signed| (signed, key))
        })
        .collect();
    let threads = available_parallelism().map_or(1, usize::from);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for part in all.chunks(all.len().div_ceil(threads)) {
            scope.spawn(move || {
                for (signed, key) in part {
                    let verified = key.verify_strict(&signed.bytes, &signed.signature);
                    verified.expect("is signed");
                }
            });
        }
    });
    begun.elapsed()
}

fn report(version: RoomVersion, guests: &[Guest<'_>], measured: &Measured) {
    let events: usize = guests.iter().map(|guest| guest.signed.len()).sum();
    // The best of a few: whatever else runs on the machine only slows it down.
    let before = cpu_of("self");
    let bare = (0..BARE).map(|_| bare(guests)).min().unwrap_or_default();
    let bare_cpu = (cpu_of("self") - before) / BARE;
    let rate = |took: Duration| events as f64 / took.as_secs_f64();
    let us = |took: Duration| took.as_secs_f64() * 1e6 / events as f64;
    println!(
        "| {version} | {} | {:.0} | {:.1} | {:.1} | {:.0} | {:.2} | {:.0} | {:.0} | {:.1} |",
        guests.len(),
        rate(measured.took),
        measured.transactions.percentile_ms(50.0),
        measured.transactions.percentile_ms(99.0),
        rate(bare),
        rate(measured.took) / rate(bare),
        us(measured.cpu),
        us(bare_cpu),
        us(measured.cpu) / us(bare_cpu)
    );
}
