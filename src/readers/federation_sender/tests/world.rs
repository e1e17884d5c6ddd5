//! A sender, the logs it stands on, and the servers it sends to. Time passes
//! when a test says so: what would take days takes a moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use log_format::codec;
use log_format::record::envelope::Part;
use log_format::record::output::{
    Decision, Membership, MembershipChange, Origin, OutputRoomEvent, OutputRoomState, Reason,
    Timeline, Visibility,
};
use log_format::record::{Envelope, Kind, NewEnvelope, Source};
use parking_lot::{Mutex, RwLock};
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName};
use tokio::task::JoinHandle;

use super::super::time::Time;
use super::super::{Carried, Carrier, FederationSender, Ports};
use super::hours::Hours;
use crate::logs::log::{
    Append, AppendError, AppendTicket, Appended, Log, LogRecord, NewRecord, PartitionId, ReadError,
    Waiting, partition_of,
};
use crate::matrix::canonical_json::CanonicalJsonValue;
use crate::outbound::answer::{Refusal, RequestError};
use crate::outbound::federation::transactions::Transaction;
use crate::projectors::deliveryserver::{DeliveryAnswers, DeliveryProjector};
use crate::projectors::fold::{FoldInput, Projector};
use crate::query::ephemeral::fake::Silence;
use crate::query::ids::{EventSn, Place, RoomSn, StateId};
use crate::query::rooms::{QueryError, StoredEvent};
use crate::query::testing::FewRooms;
use crate::query::tokens::Epoch;
use crate::readers::run::Reader;
use crate::readers::store::Write;
use crate::readers::store::memory::MemoryStore;
use crate::storage::overlay::Overlay;

pub const PARTITIONS: u32 = 2;
pub const OURS: &str = "a.test";
/// How a server behaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Up,
    /// Nobody listens.
    Refuses,
    /// Packets vanish.
    Silent,
    /// Answers everything with this status.
    Status(u16),
    /// Refuses every transaction with this event in it.
    Chokes(OwnedEventId),
}

/// What arrived somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    pub id: String,
    /// Ids of the events.
    pub pdus: Vec<String>,
    pub transaction: Transaction,
    pub answered: bool,
    /// In milliseconds since the epoch.
    pub at: u64,
}

/// All other servers.
pub struct Outside {
    hours: Arc<Hours>,
    pub moods: Mutex<BTreeMap<OwnedServerName, Mood>>,
    pub arrived: Mutex<BTreeMap<OwnedServerName, Vec<Arrived>>>,
    /// How long an answer takes.
    pub takes: Mutex<Duration>,
    /// Transactions that are on their way now, and how many were so at most.
    pub under_way: Mutex<(usize, usize)>,
}

/// Counts a transaction until its answer is there.
struct OnItsWay<'a>(&'a Outside);

impl Outside {
    fn set_out(&self) -> OnItsWay<'_> {
        let mut under_way = self.under_way.lock();
        under_way.0 += 1;
        under_way.1 = under_way.1.max(under_way.0);
        OnItsWay(self)
    }
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.lock().0 -= 1;
    }
}

impl Carrier for Outside {
    fn carry<'a>(
        &'a self,
        destination: &'a ServerName,
        transaction: &'a Transaction,
    ) -> Carried<'a> {
        Box::pin(async move {
            let _on_its_way = self.set_out();
            let mood = self.moods.lock().get(destination).cloned();
            let events = transaction.body.get("pdus");
            let events = events.and_then(CanonicalJsonValue::as_array).unwrap();
            assert!(events.len() <= 50);
            let ids = events.iter().map(|event| {
                let id = event.as_object().unwrap()["event_id"].as_str();
                id.unwrap().to_owned()
            });
            let mut arrived = Arrived {
                id: transaction.id.clone(),
                pdus: ids.collect(),
                transaction: transaction.clone(),
                answered: false,
                at: self.hours.now_ms(),
            };
            let refused = |status| {
                Err(RequestError::Refused(Refusal {
                    status,
                    errcode: String::new(),
                    error: String::new(),
                    room_version: None,
                }))
            };
            let answer = match mood.unwrap_or_default() {
                Mood::Up => Ok(vec![]),
                Mood::Refuses => return Err(RequestError::Connection("refused".into())),
                Mood::Silent => {
                    self.hours.sleep(Duration::from_secs(10)).await;
                    return Err(RequestError::Timeout(Duration::from_secs(10)));
                }
                Mood::Status(status) => refused(status),
                Mood::Chokes(on) if arrived.pdus.contains(&on.to_string()) => refused(400),
                Mood::Chokes(_) => Ok(vec![]),
            };
            let keep = |arrived: Arrived| {
                let mut all = self.arrived.lock();
                all.entry(destination.to_owned()).or_default().push(arrived);
            };
            // It is there before the answer is back: a crash may come in between.
            keep(arrived.clone());
            let takes = *self.takes.lock();
            self.hours.sleep(takes).await;
            if answer.is_ok() {
                arrived.answered = true;
                let mut all = self.arrived.lock();
                if let Some(last) = all.get_mut(destination).and_then(|all| all.last_mut()) {
                    last.answered = true;
                }
            }
            answer
        })
    }
}

/// The bodies of events, and nothing else of rooms.
#[derive(Default)]
pub struct Bodies(RwLock<BTreeMap<OwnedEventId, Arc<StoredEvent>>>);

impl FewRooms for Bodies {
    fn event(&self, _: &RoomId, event: &EventId) -> Result<Option<Arc<StoredEvent>>, QueryError> {
        Ok(self.0.read().get(event).cloned())
    }
}

/// *Output*, as far as it was made.
#[derive(Default)]
pub struct FakeOutput(RwLock<BTreeMap<PartitionId, Vec<LogRecord>>>);

impl Log for FakeOutput {
    fn partitions(&self) -> u32 {
        PARTITIONS
    }
    fn end(&self, partition: PartitionId) -> u64 {
        self.0.read().get(&partition).map_or(0, Vec::len) as u64
    }
    fn begin(&self, _: PartitionId) -> u64 {
        0
    }
    fn read(
        &self,
        partition: PartitionId,
        from: u64,
        _: usize,
    ) -> Result<Vec<LogRecord>, ReadError> {
        let all = self.0.read();
        let all = all.get(&partition).map_or(&[][..], |all| all);
        Ok(all.get(from as usize..).unwrap_or_default().to_vec())
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

/// *Input*, and its projector behind it: what is durable is folded.
pub struct FakeInput {
    hours: Arc<Hours>,
    pub folded: Arc<MemoryStore>,
    /// Records so far.
    pub records: Mutex<u64>,
    /// What is handed over is made durable after so long.
    pub takes: Mutex<Duration>,
}

impl Log for FakeInput {
    fn partitions(&self) -> u32 {
        PARTITIONS
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

/// Shared, so that what is under way can be made durable later.
pub struct Input(pub Arc<FakeInput>);

impl Log for Input {
    fn partitions(&self) -> u32 {
        self.0.partitions()
    }
    fn end(&self, partition: PartitionId) -> u64 {
        self.0.end(partition)
    }
    fn begin(&self, partition: PartitionId) -> u64 {
        self.0.begin(partition)
    }
    fn read(&self, at: PartitionId, from: u64, max: usize) -> Result<Vec<LogRecord>, ReadError> {
        self.0.read(at, from, max)
    }
    fn link_before(&self, partition: PartitionId, at: u64) -> Result<[u8; 32], ReadError> {
        self.0.link_before(partition, at)
    }
    fn wait_beyond(&self, partition: PartitionId, at: u64) -> Waiting<'_> {
        self.0.wait_beyond(partition, at)
    }
    fn trim(&self, partition: PartitionId, before: u64) -> Result<(), ReadError> {
        self.0.trim(partition, before)
    }
}

impl Append for Input {
    fn enqueue(
        &self,
        partition: PartitionId,
        batch: Vec<NewRecord>,
    ) -> Result<AppendTicket, AppendError> {
        let takes = *self.0.takes.lock();
        let input = self.0.clone();
        let durable = move || {
            for record in batch {
                input.make_durable(partition, &record);
            }
            Ok(Appended {
                partition,
                first: 0,
                count: 1,
            })
        };
        if takes.is_zero() {
            let done = durable();
            return Ok(Box::pin(std::future::ready(done)));
        }
        let sleep = self.0.hours.sleep(takes);
        // Dropped with the process that it was handed to.
        Ok(Box::pin(async move {
            sleep.await;
            durable()
        }))
    }
}

impl FakeInput {
    fn make_durable(&self, partition: PartitionId, record: &NewRecord) {
        let envelope = Envelope::parse(&record.payload).expect("an envelope");
        let mut tables = Overlay::new(&*self.folded);
        let mut records = self.records.lock();
        let input = FoldInput {
            partition,
            offset: *records,
            time_us: 0,
            envelope: &envelope,
        };
        let folded = DeliveryProjector.fold(&input, &mut tables).expect("folds");
        assert_eq!(
            folded.outcome.expect("decided").decision,
            Decision::Accepted
        );
        self.folded.write(tables.into_writes()).expect("memory");
        *records += 1;
    }
}

/// What is said of an event in *output*.
#[derive(Clone)]
pub struct Said<'a> {
    pub room: &'a str,
    pub source: Source,
    pub origin: Option<&'a str>,
    pub decision: Decision,
    pub timeline: Timeline,
    pub memberships: Vec<(&'a str, Option<Membership>, Membership)>,
    /// The event is the member event of the first of them.
    pub is_member: bool,
    /// Extremities beside the event.
    pub beside: Vec<String>,
}

impl<'a> Said<'a> {
    pub fn message(room: &'a str) -> Said<'a> {
        Said {
            room,
            source: Source::Client,
            origin: None,
            decision: Decision::Accepted,
            timeline: Timeline::Live,
            memberships: vec![],
            is_member: false,
            beside: vec![],
        }
    }

    /// A user of another server joins or leaves by itself.
    pub fn theirs(room: &'a str, user: &'a str, joins: bool) -> Said<'a> {
        let change = match joins {
            true => (user, None, Membership::Join),
            false => (user, Some(Membership::Join), Membership::Leave),
        };
        Said {
            source: Source::Federation,
            memberships: vec![change],
            is_member: true,
            ..Said::message(room)
        }
    }
}

pub struct World {
    pub outside: Arc<Outside>,
    pub output: Arc<FakeOutput>,
    pub bodies: Arc<Bodies>,
    pub input: Arc<FakeInput>,
    pub store: Arc<MemoryStore>,
    /// As it was last flushed.
    flushed: MemoryStore,
    pub sender: Arc<FederationSender>,
    running: JoinHandle<()>,
    pub hours: Arc<Hours>,
    number: u64,
}

impl World {
    pub fn new() -> World {
        let hours = Arc::new(Hours::default());
        let outside = Arc::new(Outside {
            hours: hours.clone(),
            moods: Mutex::default(),
            arrived: Mutex::default(),
            takes: Mutex::default(),
            under_way: Mutex::default(),
        });
        let input = Arc::new(FakeInput {
            hours: hours.clone(),
            folded: Arc::default(),
            records: Mutex::default(),
            takes: Mutex::default(),
        });
        let (output, bodies, store) = Default::default();
        let sender = World::open(&outside, &output, &bodies, &input, &store, &hours);
        let running = tokio::spawn(sender.clone().carry());
        World {
            outside,
            output,
            bodies,
            input,
            store,
            flushed: MemoryStore::default(),
            sender,
            running,
            hours,
            number: 0,
        }
    }

    fn open(
        outside: &Arc<Outside>,
        output: &Arc<FakeOutput>,
        bodies: &Arc<Bodies>,
        input: &Arc<FakeInput>,
        store: &Arc<MemoryStore>,
        hours: &Arc<Hours>,
    ) -> Arc<FederationSender> {
        let sender = FederationSender::open(Ports {
            store: store.clone(),
            rooms: bodies.clone(),
            deliveries: Arc::new(DeliveryAnswers::new(input.folded.clone(), PARTITIONS)),
            ephemeral: Arc::new(Silence),
            output: output.clone(),
            input: Arc::new(Input(input.clone())),
            carrier: outside.clone(),
            server_name: OURS.try_into().unwrap(),
            epoch: Epoch(1),
            time: hours.clone(),
        });
        let sender = Arc::new(sender.expect("tables open"));
        for partition in 0..PARTITIONS {
            let records = output.read(partition, sender.cursor(partition), 0).unwrap();
            sender.fold(partition, &records).expect("folds");
        }
        sender
    }

    /// The rows of now are on the disk.
    pub fn flush(&mut self) {
        self.flushed = self.store.copy();
    }

    /// Ends the process without a word, and nobody starts another one for a while.
    pub async fn stop_for(&mut self, time: Duration) {
        self.running.abort();
        self.pass(time).await;
    }

    /// Ends the process without a word, and begins another one. Rows that were
    /// not flushed are gone, and all of them if the tables are `rebuilt`.
    pub fn crash(&mut self, rebuilt: bool) {
        self.running.abort();
        self.store = Arc::new(match rebuilt {
            true => MemoryStore::default(),
            false => self.flushed.copy(),
        });
        self.sender = World::open(
            &self.outside,
            &self.output,
            &self.bodies,
            &self.input,
            &self.store,
            &self.hours,
        );
        self.running = tokio::spawn(self.sender.clone().carry());
    }

    /// An event enters *output*, and the sender reads it. Returns its id.
    pub fn say(&mut self, said: &Said<'_>) -> String {
        self.number += 1;
        let number = self.number;
        let event_id = format!("$event{number}");
        let partition = partition_of(said.room, PARTITIONS);
        self.know(&event_id, said, number);
        let mut extremities = said.beside.clone();
        extremities.push(event_id.clone());
        let memberships = said.memberships.iter();
        let memberships = memberships.map(|(user, from, to)| MembershipChange {
            user_id: (*user).to_owned(),
            from: *from,
            to: *to,
        });
        let body = codec::encode(&OutputRoomEvent {
            origin: Origin {
                // Several at one offset now and then, as where a room was parked.
                src_offset: number / 3,
                about: number,
                src_sub: (number % 3) as u32,
                src_last: true,
                projector_version: 1,
            },
            decision: said.decision,
            reason: Reason::None,
            room_sn: 1,
            event_sn: number,
            place: Place(u128::from(number)).to_bytes(),
            state_before: 0,
            state_after: 0,
            current_state: 0,
            state_delta: vec![],
            memberships: memberships.collect(),
            extremities,
            visibility: Visibility::Shared,
            timeline: said.timeline,
            redacts: None,
            thread: None,
            transaction: None,
        });
        let first = said.memberships.first().map(|(user, ..)| *user);
        let envelope = NewEnvelope {
            key: said.room,
            room_id: Some(said.room),
            event_id: Some(&event_id),
            sender: Some("@alice:a.test"),
            event_type: Some(match said.is_member {
                true => "m.room.member",
                false => "m.room.message",
            }),
            state_key: first.filter(|_| said.is_member),
            origin: said.origin,
            body: &body,
            skeleton: Part::Present(b"{}"),
            ..NewEnvelope::default()
        };
        let payload = envelope.encode(Kind::OutputRoomEvent, said.source);
        self.enters(partition, payload);
        event_id
    }

    /// A part of a change of state that the next event's record completes.
    pub fn part(&mut self, room: &str, memberships: &[(&str, Option<Membership>, Membership)]) {
        let memberships = memberships.iter();
        let memberships = memberships.map(|(user, from, to)| MembershipChange {
            user_id: (*user).to_owned(),
            from: *from,
            to: *to,
        });
        let body = codec::encode(&OutputRoomState {
            origin: Origin {
                src_offset: (self.number + 1) / 3,
                about: self.number + 1,
                src_sub: 0,
                src_last: false,
                projector_version: 1,
            },
            room_sn: 1,
            state_delta: vec![],
            memberships: memberships.collect(),
        });
        let envelope = NewEnvelope {
            key: room,
            room_id: Some(room),
            body: &body,
            ..NewEnvelope::default()
        };
        let payload = envelope.encode(Kind::OutputRoomState, Source::Client);
        self.enters(partition_of(room, PARTITIONS), payload);
    }

    /// A record enters *output*, and the sender reads it.
    fn enters(&self, partition: PartitionId, payload: Vec<u8>) {
        let mut all = self.output.0.write();
        let records = all.entry(partition).or_default();
        let record = LogRecord {
            offset: records.len() as u64,
            time_us: (self.hours.now_ms() + self.number) * 1000,
            payload: payload.into(),
        };
        records.push(record.clone());
        drop(all);
        self.sender.fold(partition, &[record]).expect("folds");
    }

    fn know(&self, event_id: &str, said: &Said<'_>, number: u64) {
        let id = OwnedEventId::try_from(event_id).unwrap();
        let json = format!(r#"{{"event_id":"{event_id}","unsigned":{{"age":1}}}}"#);
        let stored = StoredEvent {
            room: RoomSn(1),
            event: EventSn(number),
            event_id: id.clone(),
            sender: "@alice:a.test".try_into().unwrap(),
            kind: "m.room.message".into(),
            state_key: None,
            origin_server_ts: number,
            place: Place(u128::from(number)),
            decision: said.decision,
            state_before: StateId::EMPTY,
            state_after: StateId::EMPTY,
            visibility: Visibility::Shared,
            replaces: None,
            redacted_by: None,
            transaction: None,
            json: json.into_bytes().into(),
        };
        self.bodies.0.write().insert(id, Arc::new(stored));
    }

    /// The operator purged an event.
    pub fn purge(&self, event_id: &str) {
        let id = OwnedEventId::try_from(event_id).unwrap();
        self.bodies.0.write().remove(&id);
    }

    /// Events that wait, and servers that fail.
    pub fn counts(&self) -> (u64, u64) {
        let counts = self.sender.counts();
        (counts.waiting, counts.failing)
    }

    pub fn mood(&self, server: &str, mood: Mood) {
        self.outside.moods.lock().insert(name(server), mood);
    }

    /// Lets time pass.
    pub async fn pass(&self, time: Duration) {
        self.hours.pass(time).await;
    }

    /// What arrived at a server, transaction by transaction.
    pub fn arrived(&self, server: &str) -> Vec<Arrived> {
        let all = self.outside.arrived.lock();
        all.get(&name(server)).cloned().unwrap_or_default()
    }

    /// Ids of the events that a server has, in the order of their first arrival.
    pub fn has(&self, server: &str) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let all = self.arrived(server).into_iter();
        let events = all.filter(|one| one.answered).flat_map(|one| one.pdus);
        events.filter(|id| seen.insert(id.clone())).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.running.abort();
    }
}

pub fn name(server: &str) -> OwnedServerName {
    ServerName::parse(server).expect("a name")
}

/// A room whose records go to this partition.
pub fn room_in(partition: PartitionId, number: usize) -> OwnedRoomId {
    let rooms = (0..).map(|salt| format!("!room{number}x{salt}:a.test"));
    let mut rooms = rooms.filter(|room| partition_of(room, PARTITIONS) == partition);
    OwnedRoomId::try_from(rooms.next().unwrap()).unwrap()
}
