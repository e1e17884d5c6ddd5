//! One event to many servers, most of which are gone: from when the sender reads
//! it until it is at those that are there, over TLS on the loopback, signed, with
//! a real store and a real *input* for the acknowledgements.
//!
//! A server that is gone takes the connection and says nothing on it, which is
//! the worst of what it can do. Ratios are of one run on one machine.
//! `cargo bench --bench federation [-- EVENTS]`

mod support;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum_server::tls_rustls::RustlsConfig;
use engram::crypto::ServerKey;
use engram::logs::log::{Log, LogRecord, PartitionId, ReadError, Waiting};
use engram::logs::{InputLog, LogSettings};
use engram::outbound::addresses::AddressFilter;
use engram::outbound::dns::SystemDns;
use engram::outbound::federation::{FederationClient, Settings};
use engram::projectors::deliveryserver::DeliveryAnswers;
use engram::query::ephemeral::{self, Changes, Ephemeral, Presence, Since, TypingRoom};
use engram::query::ids::{EphemeralOffset, EventSn, Place, RoomSn, StateId};
use engram::query::rooms::{
    Direction, QueryError, RoomHead, RoomMembership, Rooms, StateKey, StateMap, StoredEvent,
};
use engram::query::tokens::Epoch;
use engram::readers::federation_sender::time::WallClock;
use engram::readers::federation_sender::{FederationSender, Ports};
use engram::readers::run::Reader;
use engram::storage::open::{Store, StoreOptions};
use log_format::codec;
use log_format::record::output::{
    Decision, Membership, MembershipChange, Origin, OutputRoomEvent, Reason, Timeline, Visibility,
};
use log_format::record::{Kind, NewEnvelope, Source};
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, UserId, user_id};
use support::Latencies;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

const THERE: usize = 50;
const GONE: usize = 150;
const EVENTS: usize = 200;
const ROOM: &str = "!room:bench.test";
const SEGMENT_BYTES: u64 = 64 << 20;

fn main() {
    let arguments = std::env::args().skip(1);
    let mut numbers = arguments.filter_map(|argument| argument.parse().ok());
    let events: usize = numbers.next().unwrap_or(EVENTS);
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
}

/// Delays at the servers that are there, of all events but the first.
async fn fan_out(events: usize, gone: usize) -> Latencies {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (arrives, mut arrived) = unbounded_channel();
    let mut servers = Vec::new();
    for _ in 0..THERE {
        servers.push(start(arrives.clone()).await);
    }
    let silent: Vec<TcpListener> = (0..gone)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("binds"))
        .collect();
    servers.extend(silent.iter().map(|one| one.local_addr().expect("bound")));
    let sender = open(folder.path());
    let carrying = tokio::spawn(sender.clone().run());
    let mut offset = 0;
    for server in &servers {
        let user = format!("@user:{server}");
        let joins = MembershipChange {
            user_id: user,
            from: None,
            to: Membership::Join,
        };
        say(&sender, &mut offset, Source::Federation, vec![joins]);
    }
    let mut first = Vec::new();
    let mut others = Vec::new();
    for number in 0..events {
        let begun = Instant::now();
        say(&sender, &mut offset, Source::Client, vec![]);
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
    let tls = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/server/tls");
    let config =
        RustlsConfig::from_pem_file(tls.join("test_cert.pem"), tls.join("test_key.pem")).await;
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

fn open(folder: &Path) -> Arc<FederationSender> {
    let settings = LogSettings::new(&folder.join("log"), 1, SEGMENT_BYTES, 0);
    let (input, _) = InputLog::open(&settings, &[]).expect("input");
    let store = Store::open(&folder.join("store"), &StoreOptions::default());
    let store = Arc::new(store.expect("store"));
    let tls = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/server/tls");
    let client = FederationClient::new(Settings {
        origin: "bench.test".try_into().expect("a name"),
        key: Arc::new(ServerKey::generate()),
        static_hosts: BTreeMap::new(),
        filter: AddressFilter::default(),
        extra_ca: Some(std::fs::read(tls.join("test_ca.pem")).expect("the test authority")),
        dns: Arc::new(SystemDns::new()),
    });
    let sender = FederationSender::open(Ports {
        store: store.clone(),
        rooms: Arc::new(OneBody(body())),
        deliveries: Arc::new(DeliveryAnswers::new(store, 1)),
        ephemeral: Arc::new(Silence),
        output: Arc::new(Empty),
        input: Arc::new(input),
        carrier: Arc::new(client.expect("a client")),
        server_name: "bench.test".try_into().expect("a name"),
        epoch: Epoch(1),
        time: Arc::new(WallClock),
    });
    Arc::new(sender.expect("opens"))
}

/// An event enters *output*, and the sender reads it.
fn say(
    sender: &FederationSender,
    offset: &mut u64,
    source: Source,
    memberships: Vec<MembershipChange>,
) {
    let event_id = format!("$event{offset}");
    let body = codec::encode(&OutputRoomEvent {
        origin: Origin {
            src_offset: *offset,
            about: *offset,
            src_sub: 0,
            src_last: true,
            projector_version: 1,
        },
        decision: Decision::Accepted,
        reason: Reason::None,
        room_sn: 1,
        event_sn: *offset,
        place: Place(u128::from(*offset)).to_bytes(),
        state_before: 0,
        state_after: 0,
        current_state: 0,
        state_delta: vec![],
        memberships,
        extremities: vec![event_id.clone()],
        visibility: Visibility::Shared,
        timeline: Timeline::Live,
        redacts: None,
        thread: None,
        transaction: None,
    });
    let envelope = NewEnvelope {
        key: ROOM,
        room_id: Some(ROOM),
        event_id: Some(&event_id),
        sender: Some("@alice:bench.test"),
        event_type: Some("m.room.message"),
        body: &body,
        ..NewEnvelope::default()
    };
    let record = LogRecord {
        offset: *offset,
        time_us: *offset,
        payload: envelope.encode(Kind::OutputRoomEvent, source).into(),
    };
    sender.fold(0, &[record]).expect("folds");
    *offset += 1;
}

/// The body of every event: a message of the usual size.
fn body() -> Arc<StoredEvent> {
    let json = format!(
        r#"{{"auth_events":["$a","$b","$c"],"content":{{"body":"{}","msgtype":"m.text"}},"depth":7,"hashes":{{"sha256":"{}"}},"origin_server_ts":1700000000000,"prev_events":["$d"],"room_id":"{ROOM}","sender":"@alice:bench.test","signatures":{{"bench.test":{{"ed25519:1":"{}"}}}},"type":"m.room.message"}}"#,
        "x".repeat(200),
        "h".repeat(43),
        "s".repeat(86),
    );
    Arc::new(StoredEvent {
        room: RoomSn(1),
        event: EventSn(1),
        event_id: OwnedEventId::try_from("$event").expect("an id"),
        sender: user_id!("@alice:bench.test").to_owned(),
        kind: "m.room.message".into(),
        state_key: None,
        origin_server_ts: 1,
        place: Place(1),
        decision: Decision::Accepted,
        state_before: StateId::EMPTY,
        state_after: StateId::EMPTY,
        visibility: Visibility::Shared,
        replaces: None,
        redacted_by: None,
        transaction: None,
        json: json.into_bytes().into(),
    })
}

/// *Output* without records: the bench hands them to the sender itself.
struct Empty;

impl Log for Empty {
    fn partitions(&self) -> u32 {
        1
    }
    fn end(&self, _: PartitionId) -> u64 {
        0
    }
    fn begin(&self, _: PartitionId) -> u64 {
        0
    }
    fn read(&self, _: PartitionId, _: u64, _: usize) -> Result<Vec<LogRecord>, ReadError> {
        Ok(vec![])
    }
    fn link_before(&self, _: PartitionId, _: u64) -> Result<[u8; 32], ReadError> {
        Ok([0; 32])
    }
    fn wait_beyond(&self, _: PartitionId, _: u64) -> Waiting<'_> {
        Box::pin(std::future::pending())
    }
    fn trim(&self, _: PartitionId, _: u64) -> Result<(), ReadError> {
        Ok(())
    }
}

/// Nobody types.
struct Silence;

impl Ephemeral for Silence {
    fn changes(&self, _: Since) -> Changes {
        Changes::default()
    }
    fn typing_in(&self, _: &RoomId) -> Option<Arc<TypingRoom>> {
        None
    }
    fn presence_of(&self, _: &UserId) -> Option<Arc<Presence>> {
        None
    }
    fn keeps_presence(&self) -> bool {
        false
    }
    fn statuses_before(&self, _: EphemeralOffset) -> Vec<Arc<Presence>> {
        vec![]
    }
    fn wait_beyond(&self, _: EphemeralOffset) -> ephemeral::Waiting<'_> {
        Box::pin(std::future::pending())
    }
}

/// Knows the body of events, and nothing else of rooms.
struct OneBody(Arc<StoredEvent>);

impl Rooms for OneBody {
    fn head(&self, _: &RoomId) -> Result<Option<Arc<RoomHead>>, QueryError> {
        Ok(None)
    }
    fn head_by_sn(&self, _: u32, _: RoomSn) -> Result<Option<Arc<RoomHead>>, QueryError> {
        Ok(None)
    }
    fn event(&self, _: &RoomId, _: &EventId) -> Result<Option<Arc<StoredEvent>>, QueryError> {
        Ok(Some(self.0.clone()))
    }
    fn events(&self, _: &RoomId, _: &[EventSn]) -> Result<Vec<Arc<StoredEvent>>, QueryError> {
        Ok(vec![])
    }
    fn state(&self, _: &RoomId, _: StateId) -> Result<StateMap, QueryError> {
        Ok(StateMap::new())
    }
    fn state_entry(
        &self,
        _: &RoomId,
        _: StateId,
        _: &StateKey,
    ) -> Result<Option<EventSn>, QueryError> {
        Ok(None)
    }
    fn timeline(
        &self,
        _: &RoomId,
        _: Place,
        _: Direction,
        _: usize,
    ) -> Result<Vec<(Place, EventSn)>, QueryError> {
        Ok(vec![])
    }
    fn transaction(&self, _: &RoomId, _: &[u8; 16]) -> Result<Option<OwnedEventId>, QueryError> {
        Ok(None)
    }
    fn rooms_of(&self, _: &UserId) -> Result<Vec<RoomMembership>, QueryError> {
        Ok(vec![])
    }
    fn membership(&self, _: &RoomId, _: &UserId) -> Result<Option<Membership>, QueryError> {
        Ok(None)
    }
    fn published(&self) -> Result<Vec<OwnedRoomId>, QueryError> {
        Ok(vec![])
    }
}
