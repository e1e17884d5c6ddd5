//! A room whose events are put into *output* by hand, and a room server that
//! knows which of them are redacted.

use std::collections::BTreeMap;
use std::sync::Arc;

use log_format::codec;
use log_format::record::output::{Decision, Origin, OutputRoomEvent, Reason, Timeline, Visibility};
use log_format::record::{Kind, NewEnvelope, Part, Source};
use parking_lot::RwLock;
use ruma::{EventId, OwnedEventId, OwnedUserId, RoomId, UserId};
use serde_json::{Value, json};

use crate::logs::log::{Log, LogRecord, PartitionId, ReadError, Waiting};
use crate::query::ids::{EventSn, Place, RoomSn, StateId};
use crate::query::relations::{Children, InRoom, Relations, Thread};
use crate::query::rooms::{Direction, QueryError, StoredEvent};
use crate::query::testing::FewRooms;
use crate::query::tokens::Epoch;
use crate::readers::relations::EventRelations;
use crate::readers::run::Reader;
use crate::readers::store::memory::MemoryStore;

/// *Output* in memory, of one partition.
#[derive(Default)]
pub struct FakeLog(RwLock<Vec<LogRecord>>);

impl Log for FakeLog {
    fn partitions(&self) -> u32 {
        1
    }
    fn end(&self, _: PartitionId) -> u64 {
        self.0.read().len() as u64
    }
    fn begin(&self, _: PartitionId) -> u64 {
        0
    }
    fn read(&self, _: PartitionId, from: u64, _: usize) -> Result<Vec<LogRecord>, ReadError> {
        Ok(self.0.read().iter().skip(from as usize).cloned().collect())
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

/// Knows events by their ids.
#[derive(Default)]
pub struct FakeRooms(RwLock<BTreeMap<OwnedEventId, Arc<StoredEvent>>>);

impl FewRooms for FakeRooms {
    fn event(&self, _: &RoomId, id: &EventId) -> Result<Option<Arc<StoredEvent>>, QueryError> {
        Ok(self.0.read().get(id).cloned())
    }
}

/// An event that enters the room.
#[derive(Clone, Debug)]
pub struct Event {
    pub sn: u64,
    pub place: u128,
    pub ts: u64,
    pub sender: &'static str,
    pub kind: &'static str,
    pub state_key: Option<&'static str>,
    pub content: Value,
    pub timeline: Timeline,
}

impl Event {
    /// A message at the end of the room.
    pub fn new(sn: u64, content: Value) -> Event {
        Event {
            sn,
            place: u128::from(sn),
            ts: sn,
            sender: "@a:hs",
            kind: "m.room.message",
            state_key: None,
            content,
            timeline: Timeline::Live,
        }
    }

    /// One that relates to another.
    pub fn relating(sn: u64, rel_type: &str, parent: u64) -> Event {
        let relates_to = json!({ "rel_type": rel_type, "event_id": id(parent) });
        let content = json!({ "m.relates_to": relates_to, "m.new_content": {} });
        Event::new(sn, content)
    }

    pub fn by(self, sender: &'static str) -> Event {
        Event { sender, ..self }
    }
}

/// The id of the event with this number.
pub fn id(sn: u64) -> OwnedEventId {
    EventId::parse(format!("$e{sn}")).expect("a plain id")
}

pub fn user(name: &str) -> OwnedUserId {
    UserId::parse(name).expect("a plain id")
}

pub struct World {
    log: Arc<FakeLog>,
    rooms: Arc<FakeRooms>,
    pub store: Arc<MemoryStore>,
    pub reader: EventRelations,
}

const ROOM: &str = "!r:hs";

pub fn room() -> InRoom<'static> {
    InRoom {
        room_id: ROOM.try_into().expect("a plain id"),
        room: RoomSn(1),
    }
}

impl Default for World {
    fn default() -> World {
        let (log, rooms, store) = Default::default();
        World {
            reader: World::open(&log, &rooms, &store),
            log,
            rooms,
            store,
        }
    }
}

impl World {
    fn open(
        log: &Arc<FakeLog>,
        rooms: &Arc<FakeRooms>,
        store: &Arc<MemoryStore>,
    ) -> EventRelations {
        let opened = EventRelations::open(store.clone(), rooms.clone(), log.clone(), Epoch(1));
        opened.expect("tables open")
    }

    /// Begins the reader anew: with the rows it left, or from nothing.
    pub fn restart(&mut self, rebuild: bool) {
        if rebuild {
            self.store = Arc::default();
        }
        self.reader = World::open(&self.log, &self.rooms, &self.store);
    }

    /// The room server knows an event, and *output* tells of it.
    pub fn put(&self, event: &Event) {
        let event_id = id(event.sn);
        let redacted_by = self
            .rooms
            .0
            .read()
            .get(&event_id)
            .and_then(|known| known.redacted_by);
        let stored = StoredEvent {
            room: room().room,
            event: EventSn(event.sn),
            event_id: event_id.clone(),
            sender: user(event.sender),
            kind: event.kind.into(),
            state_key: event.state_key.map(Into::into),
            origin_server_ts: event.ts,
            place: Place(event.place),
            decision: Decision::Accepted,
            state_before: StateId::EMPTY,
            state_after: StateId::EMPTY,
            visibility: Visibility::Shared,
            replaces: None,
            redacted_by,
            transaction: None,
            json: pdu(event).into(),
        };
        self.rooms.0.write().insert(event_id, Arc::new(stored));
        self.append(event, None);
    }

    /// A redaction that takes effect, whether its target is known or not.
    pub fn redact(&self, sn: u64, target: u64) {
        let redaction = Event {
            kind: "m.room.redaction",
            ..Event::new(sn, json!({ "redacts": id(target) }))
        };
        let mut known = self.rooms.0.write();
        let event = known.entry(id(target)).or_insert_with(|| unknown(target));
        let mut redacted = (**event).clone();
        redacted.redacted_by = Some(EventSn(sn));
        *event = Arc::new(redacted);
        drop(known);
        self.append(&redaction, Some(target));
    }

    fn append(&self, event: &Event, redacts: Option<u64>) {
        let accepted = event.timeline != Timeline::Outside;
        let body = codec::encode(&OutputRoomEvent {
            origin: Origin {
                src_offset: event.sn,
                about: event.sn,
                src_sub: 0,
                src_last: true,
                projector_version: 1,
            },
            decision: match accepted {
                true => Decision::Accepted,
                false => Decision::SoftFailed,
            },
            reason: Reason::None,
            room_sn: room().room.0,
            event_sn: event.sn,
            place: Place(event.place).to_bytes(),
            state_before: 0,
            state_after: 0,
            current_state: 0,
            state_delta: Vec::new(),
            memberships: Vec::new(),
            extremities: Vec::new(),
            visibility: Visibility::Shared,
            timeline: event.timeline,
            redacts: redacts.map(|target| id(target).to_string()),
            thread: None,
            transaction: None,
        });
        let (event_id, pdu) = (id(event.sn), pdu(event));
        let envelope = NewEnvelope {
            key: ROOM,
            room_id: Some(ROOM),
            event_id: Some(event_id.as_str()),
            sender: Some(event.sender),
            event_type: Some(event.kind),
            state_key: event.state_key,
            origin_ts_ms: event.ts,
            body: &body,
            body_part: Part::Present(&pdu),
            ..NewEnvelope::default()
        };
        let mut records = self.log.0.write();
        let offset = records.len() as u64;
        records.push(LogRecord {
            offset,
            time_us: offset,
            payload: envelope
                .encode(Kind::OutputRoomEvent, Source::Client)
                .into(),
        });
    }

    /// Folds what the log holds, so many records at a time.
    pub fn fold(&self, group: usize) {
        loop {
            let next = self.reader.cursor(0);
            let mut records = self.log.read(0, next, 0).expect("in memory");
            records.truncate(group);
            if records.is_empty() {
                return;
            }
            self.reader.fold(0, &records).expect("folds");
        }
    }

    /// Numbers of the children of an event, in the order of the walk.
    pub fn children(&self, parent: u64, rel_type: Option<&str>, direction: Direction) -> Vec<u64> {
        let parent = id(parent);
        let mut from = match direction {
            Direction::Forward => Place::START,
            Direction::Backward => Place::END,
        };
        let mut found = Vec::new();
        loop {
            // Two at a time, so that every walk goes over several pages.
            let wanted = Children {
                parent: &parent,
                rel_type,
                from,
                direction,
                limit: 2,
            };
            let page = self.reader.children(room(), wanted).expect("reads");
            let Some(last) = page.last() else {
                return found;
            };
            from = last.place;
            found.extend(page.iter().map(|child| child.event.0));
        }
    }

    /// All threads of the room, the newest first.
    pub fn threads(&self) -> Vec<Thread> {
        let threads = self.reader.threads(room(), Place::END, 1_000);
        threads.expect("reads")
    }

    /// Numbers of the edits of an event, the most recent first.
    pub fn edits(&self, original: &Event) -> Vec<u64> {
        let stored = self.rooms.0.read().get(&id(original.sn)).cloned();
        let stored = stored.expect("a known event");
        let edits = self.reader.edits(room(), &stored, 100).expect("reads");
        edits.into_iter().map(|edit| edit.0).collect()
    }
}

fn pdu(event: &Event) -> Vec<u8> {
    let pdu = json!({ "type": event.kind, "sender": event.sender, "content": event.content });
    serde_json::to_vec(&pdu).expect("JSON")
}

/// What the room server keeps of an event that it was told to redact only.
fn unknown(sn: u64) -> Arc<StoredEvent> {
    Arc::new(StoredEvent {
        room: room().room,
        event: EventSn(sn),
        event_id: id(sn),
        sender: user("@nobody:hs"),
        kind: "m.unknown".into(),
        state_key: None,
        origin_server_ts: 0,
        place: Place::START,
        decision: Decision::Outlier,
        state_before: StateId::EMPTY,
        state_after: StateId::EMPTY,
        visibility: Visibility::Shared,
        replaces: None,
        redacted_by: None,
        transaction: None,
        json: b"{}".as_slice().into(),
    })
}
