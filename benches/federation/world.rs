//! A sender on what it stands on, without the rest of a server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use engram::crypto::ServerKey;
use engram::logs::log::{
    Append, AppendError, AppendTicket, Log, LogRecord, NewRecord, PartitionId, ReadError, Waiting,
};
use engram::logs::{InputLog, LogSettings};
use engram::outbound::addresses::AddressFilter;
use engram::outbound::dns::SystemDns;
use engram::outbound::federation::transactions::Transaction;
use engram::outbound::federation::{FederationClient, Settings};
use engram::projectors::deliveryserver::{DeliveryAnswers, DeliveryProjector};
use engram::projectors::fold::{FoldInput, Projector};
use engram::query::ephemeral::{self, Changes, Ephemeral, Presence, Since, TypingRoom};
use engram::query::ids::{EphemeralOffset, EventSn, Place, RoomSn, StateId};
use engram::query::rooms::{
    Direction, QueryError, RoomHead, RoomMembership, Rooms, StateKey, StateMap, StoredEvent,
};
use engram::query::tokens::Epoch;
use engram::readers::federation_sender::time::{Sleep, Time, WallClock};
use engram::readers::federation_sender::{Carried, Carrier, FederationSender, Ports};
use engram::readers::run::Reader;
use engram::readers::store::Write;
use engram::storage::open::{Store, StoreOptions};
use engram::storage::overlay::Overlay;
use log_format::codec;
use log_format::record::input::ReceiptType;
use log_format::record::output::{
    Decision, Membership, MembershipChange, Origin, OutputReceipt, OutputRoomEvent, Reason,
    Timeline, Visibility,
};
use log_format::record::{Envelope, Kind, NewEnvelope, Source};
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, ServerName, UserId, user_id};

const ROOM: &str = "!room:bench.test";
const SEGMENT_BYTES: u64 = 64 << 20;

/// A file of the test certificate.
pub fn tls(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/server/tls")
        .join(name)
}

/// A user of a server joins the room.
pub fn joins(server: &str) -> Vec<MembershipChange> {
    vec![MembershipChange {
        user_id: format!("@user:{server}"),
        from: None,
        to: Membership::Join,
    }]
}

pub struct World {
    pub sender: Arc<FederationSender>,
    pub store: Arc<Store>,
    pub carrier: Arc<Counting>,
    pub time: Arc<Clock>,
    input: Arc<FoldedInput>,
    /// Of the next record of *output*.
    offset: u64,
    _folder: tempfile::TempDir,
}

impl World {
    pub fn new() -> World {
        let folder = tempfile::tempdir().expect("temporary folder");
        let settings = LogSettings::new(&folder.path().join("log"), 1, SEGMENT_BYTES, 0);
        let (log, _) = InputLog::open(&settings, &[]).expect("input");
        let store = Store::open(&folder.path().join("store"), &StoreOptions::default());
        let store = Arc::new(store.expect("store"));
        let client = FederationClient::new(Settings {
            origin: "bench.test".try_into().expect("a name"),
            key: Arc::new(ServerKey::generate()),
            static_hosts: BTreeMap::new(),
            filter: AddressFilter::default(),
            extra_ca: Some(std::fs::read(tls("test_ca.pem")).expect("the test authority")),
            dns: Arc::new(SystemDns::new()),
            patience: Default::default(),
        });
        let carrier = Arc::new(Counting {
            client: client.expect("a client"),
            under_way: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            asked: AtomicUsize::new(0),
        });
        let input = Arc::new(FoldedInput {
            log,
            store: store.clone(),
            offset: AtomicU64::new(0),
        });
        let time = Arc::new(Clock::default());
        World {
            sender: open(&store, &input, &carrier, &time, 0),
            store,
            carrier,
            time,
            input,
            offset: 0,
            _folder: folder,
        }
    }

    /// Another process on the same tables.
    pub fn open_again(&mut self) {
        let (input, carrier) = (&self.input, &self.carrier);
        self.sender = open(&self.store, input, carrier, &self.time, self.offset);
    }

    /// An event enters *output*, and the sender reads it.
    pub fn say(&mut self, source: Source, memberships: Vec<MembershipChange>) {
        let offset = self.offset;
        let event_id = format!("$event{offset}");
        let body = codec::encode(&OutputRoomEvent {
            origin: Origin {
                src_offset: offset,
                about: offset,
                src_sub: 0,
                src_last: true,
                projector_version: 1,
            },
            decision: Decision::Accepted,
            reason: Reason::None,
            room_sn: 1,
            event_sn: offset,
            place: Place(u128::from(offset)).to_bytes(),
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
        self.enters(envelope.encode(Kind::OutputRoomEvent, source));
    }

    /// A receipt of a user of ours enters *output*.
    pub fn read(&mut self, number: usize) {
        let user = format!("@reader{number}:bench.test");
        let body = codec::encode(&OutputReceipt {
            origin: Origin {
                src_offset: self.offset,
                about: self.offset,
                src_sub: 0,
                src_last: true,
                projector_version: 1,
            },
            decision: Decision::Accepted,
            reason: Reason::None,
            receipt_type: ReceiptType::Read,
            thread: None,
            place: None,
        });
        let envelope = NewEnvelope {
            key: ROOM,
            room_id: Some(ROOM),
            event_id: Some("$event-that-was-read:bench.test"),
            sender: Some(&user),
            body: &body,
            ..NewEnvelope::default()
        };
        self.enters(envelope.encode(Kind::OutputReceipt, Source::Client));
    }

    fn enters(&mut self, payload: Vec<u8>) {
        let record = LogRecord {
            offset: self.offset,
            time_us: self.offset,
            payload: payload.into(),
        };
        self.sender.fold(0, &[record]).expect("folds");
        self.offset += 1;
    }
}

fn open(
    store: &Arc<Store>,
    input: &Arc<FoldedInput>,
    carrier: &Arc<Counting>,
    time: &Arc<Clock>,
    end: u64,
) -> Arc<FederationSender> {
    let sender = FederationSender::open(Ports {
        store: store.clone(),
        rooms: Arc::new(OneBody(body())),
        deliveries: Arc::new(DeliveryAnswers::new(store.clone(), 1)),
        ephemeral: Arc::new(Silence),
        output: Arc::new(HandedOver { end }),
        input: input.clone(),
        carrier: carrier.clone(),
        server_name: "bench.test".try_into().expect("a name"),
        epoch: Epoch(1),
        time: time.clone(),
    });
    Arc::new(sender.expect("opens"))
}

/// The wall clock, or what it will be.
#[derive(Default)]
pub struct Clock {
    ahead_ms: AtomicU64,
}

impl Clock {
    pub fn go_ahead(&self, by: Duration) {
        self.ahead_ms
            .fetch_add(by.as_millis() as u64, Ordering::Relaxed);
    }
}

impl Time for Clock {
    fn now_ms(&self) -> u64 {
        WallClock.now_ms() + self.ahead_ms.load(Ordering::Relaxed)
    }

    fn sleep(&self, time: Duration) -> Sleep {
        WallClock.sleep(time)
    }
}

/// The way out, and how many are on it at a time.
pub struct Counting {
    client: FederationClient,
    under_way: AtomicUsize,
    pub most: AtomicUsize,
    /// All there ever were.
    pub asked: AtomicUsize,
}

impl Carrier for Counting {
    fn carry<'a>(
        &'a self,
        destination: &'a ServerName,
        transaction: &'a Transaction,
    ) -> Carried<'a> {
        Box::pin(async move {
            let under_way = self.under_way.fetch_add(1, Ordering::Relaxed) + 1;
            self.most.fetch_max(under_way, Ordering::Relaxed);
            self.asked.fetch_add(1, Ordering::Relaxed);
            let carried = self.client.carry(destination, transaction).await;
            self.under_way.fetch_sub(1, Ordering::Relaxed);
            carried
        })
    }
}

/// *Input* with its projector: what is handed over is folded at once.
struct FoldedInput {
    log: InputLog,
    store: Arc<Store>,
    offset: AtomicU64,
}

impl Log for FoldedInput {
    fn partitions(&self) -> u32 {
        self.log.partitions()
    }
    fn end(&self, partition: PartitionId) -> u64 {
        self.log.end(partition)
    }
    fn begin(&self, partition: PartitionId) -> u64 {
        self.log.begin(partition)
    }
    fn read(&self, at: PartitionId, from: u64, max: usize) -> Result<Vec<LogRecord>, ReadError> {
        self.log.read(at, from, max)
    }
    fn link_before(&self, partition: PartitionId, at: u64) -> Result<[u8; 32], ReadError> {
        self.log.link_before(partition, at)
    }
    fn wait_beyond(&self, partition: PartitionId, at: u64) -> Waiting<'_> {
        self.log.wait_beyond(partition, at)
    }
    fn trim(&self, partition: PartitionId, before: u64) -> Result<(), ReadError> {
        self.log.trim(partition, before)
    }
}

impl Append for FoldedInput {
    fn enqueue(
        &self,
        partition: PartitionId,
        batch: Vec<NewRecord>,
    ) -> Result<AppendTicket, AppendError> {
        for record in &batch {
            let envelope = Envelope::parse(&record.payload).expect("an envelope");
            let mut tables = Overlay::new(&*self.store);
            let input = FoldInput {
                partition,
                offset: self.offset.fetch_add(1, Ordering::Relaxed),
                time_us: 0,
                envelope: &envelope,
            };
            DeliveryProjector.fold(&input, &mut tables).expect("folds");
            Write::write(&*self.store, tables.into_writes()).expect("is written");
        }
        self.log.enqueue(partition, batch)
    }
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

/// *Output* without records: the bench hands them to the sender itself. It ends
/// where these do, for a sender that is opened.
struct HandedOver {
    end: u64,
}

impl Log for HandedOver {
    fn partitions(&self) -> u32 {
        1
    }
    fn end(&self, _: PartitionId) -> u64 {
        self.end
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
