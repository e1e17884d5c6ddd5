//! A room whose fold runs behind its log: it accepts what builds on the end of
//! the room, refuses the rest with `Rebase`, and can be told to refuse more.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use log_format::codec;
use log_format::record::Envelope;
use log_format::record::input::InputRoomEvent;
use log_format::record::output::{Membership, Visibility};
use parking_lot::Mutex;
use ruma::{OwnedEventId, RoomId, RoomVersionId, owned_user_id};
use tokio::sync::Notify;

use crate::logs::log::*;
use crate::matrix::RoomVersion;
use crate::matrix::auth_rules::CreateInfo;
use crate::query::authority::{Authority, Member};
use crate::query::ids::{EventSn, OutputOffset, Place, RoomSn};
use crate::query::outcome::{Outcome, OutcomeFuture, Outcomes};
use crate::query::rooms::*;
use crate::query::testing::FewRooms;

use super::super::{Decision, Reason, StateId};
use super::the_room;

/// How long a fold takes.
const FOLD: Duration = Duration::from_micros(500);

pub struct SlowRoom {
    tables: Mutex<Tables>,
    appended: Notify,
    folded: Notify,
    refuse_every: AtomicU64,
}

struct Tables {
    head: Arc<RoomHead>,
    queue: VecDeque<(u64, Vec<u8>)>,
    next_offset: u64,
    outcomes: HashMap<u64, Outcome>,
    transactions: HashMap<[u8; 16], OwnedEventId>,
    /// Accepted events with what each built on.
    line: Vec<(OwnedEventId, Vec<String>)>,
    refused: u64,
    deepest_queue: usize,
}

impl SlowRoom {
    /// A room of `@a:hs`, and the task that folds it.
    pub fn start() -> Arc<SlowRoom> {
        let room = Arc::new(SlowRoom {
            tables: Mutex::new(Tables {
                head: Arc::new(first_head()),
                queue: VecDeque::new(),
                next_offset: 100,
                outcomes: HashMap::new(),
                transactions: HashMap::new(),
                line: Vec::new(),
                refused: 0,
                deepest_queue: 0,
            }),
            appended: Notify::new(),
            folded: Notify::new(),
            refuse_every: AtomicU64::new(u64::MAX),
        });
        tokio::spawn(fold_all(room.clone()));
        room
    }

    /// Refuses every n-th record as if others had been faster.
    pub fn refuse_every(&self, n: u64) {
        self.refuse_every.store(n, Ordering::Relaxed);
    }

    pub fn refused(&self) -> u64 {
        self.tables.lock().refused
    }

    pub fn deepest_queue(&self) -> usize {
        self.tables.lock().deepest_queue
    }

    /// Asserts that each accepted event builds on the one before it and on
    /// nothing else; gives their number.
    pub fn assert_one_line(&self) -> usize {
        let tables = self.tables.lock();
        let mut last = "$member".to_owned();
        for (event_id, parents) in &tables.line {
            assert_eq!(*parents, [last]);
            last = event_id.to_string();
        }
        tables.line.len()
    }

    fn fold(&self, offset: u64, payload: &[u8]) {
        let envelope = Envelope::parse(payload).expect("an envelope");
        let body: InputRoomEvent = codec::decode(envelope.body).expect("a body");
        let event_id = OwnedEventId::try_from(envelope.event_id.expect("named")).expect("valid");
        let mut tables = self.tables.lock();
        let known = tables.transactions.get(&envelope.idempotency).cloned();
        let head = &tables.head;
        let builds_on_end = head.extremities.len() == body.prev_events.len()
            && body.prev_events[0] == head.extremities[0].event_id.as_str();
        let refuse = offset.is_multiple_of(self.refuse_every.load(Ordering::Relaxed));
        let (decision, reason) = match (&known, builds_on_end && !refuse) {
            (Some(_), _) => (Decision::Duplicate, Reason::None),
            (None, true) => (Decision::Accepted, Reason::None),
            (None, false) => (Decision::Rejected, Reason::Rebase),
        };
        match decision {
            Decision::Accepted => {
                let mut head = RoomHead::clone(&tables.head);
                head.extremities = Arc::new([Extremity {
                    event_id: event_id.clone(),
                    event: EventSn(offset),
                    depth: body.depth,
                    state_after: StateId(offset),
                }]);
                head.last_place = head.last_place.next();
                if let Some(state_key) = envelope.state_key {
                    let kind = envelope.event_type.expect("typed");
                    head.state_id = StateId(offset);
                    head.state = head
                        .state
                        .update(Arc::new(StateKey::new(kind, state_key)), EventSn(offset));
                }
                tables.head = Arc::new(head);
                tables.line.push((event_id.clone(), body.prev_events));
                if envelope.idempotency != [0; 16] {
                    tables.transactions.insert(envelope.idempotency, event_id);
                }
            }
            _ => tables.refused += u64::from(decision == Decision::Rejected),
        }
        let outcome = Outcome {
            decision,
            reason,
            duplicate_of: known,
            visible_at: OutputOffset(offset + 1),
        };
        tables.outcomes.insert(offset, outcome);
    }
}

async fn fold_all(room: Arc<SlowRoom>) {
    loop {
        let appended = room.appended.notified();
        let next = room.tables.lock().queue.pop_front();
        match next {
            None => appended.await,
            Some((offset, payload)) => {
                tokio::time::sleep(FOLD).await;
                room.fold(offset, &payload);
                room.folded.notify_waiters();
            }
        }
    }
}

pub fn first_head() -> RoomHead {
    let creator = owned_user_id!("@a:hs");
    let id = |id: &str| OwnedEventId::try_from(id).expect("valid");
    let entry = |kind: &str, key: &str, sn| (Arc::new(StateKey::new(kind, key)), EventSn(sn));
    let member = Member {
        membership: Membership::Join,
        event: EventSn(2),
    };
    let create = CreateInfo {
        event_id: id("$create"),
        room_id: the_room().to_owned(),
        version: RoomVersion::V11,
        sender: creator.clone(),
        creators: vec![creator.clone()],
        federate: true,
    };
    RoomHead {
        room_id: the_room().to_owned(),
        room: RoomSn(1),
        version: RoomVersionId::V11,
        extremities: Arc::new([Extremity {
            event_id: id("$member"),
            event: EventSn(2),
            depth: 2,
            state_after: StateId(2),
        }]),
        last_place: Place::FIRST,
        state_id: StateId(2),
        state: StateMap::from_iter([
            entry("m.room.create", "", 1),
            entry("m.room.member", "@a:hs", 2),
        ]),
        authority: Arc::new(Authority {
            members: imbl::OrdMap::unit(creator, member),
            ..Authority::of_create(EventSn(1), create)
        }),
        visibility: Visibility::Shared,
        joined_members: 1,
        invited_members: 0,
        servers: imbl::OrdMap::unit(ruma::server_name!("hs").to_owned(), 1),
    }
}

impl Log for SlowRoom {
    fn partitions(&self) -> u32 {
        1
    }

    fn end(&self, _: PartitionId) -> u64 {
        self.tables.lock().next_offset
    }

    fn begin(&self, _: PartitionId) -> u64 {
        0
    }

    fn read(&self, _: PartitionId, _: u64, _: usize) -> Result<Vec<LogRecord>, ReadError> {
        Ok(Vec::new())
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

impl Append for SlowRoom {
    fn enqueue(
        &self,
        partition: PartitionId,
        batch: Vec<NewRecord>,
    ) -> Result<AppendTicket, AppendError> {
        let mut tables = self.tables.lock();
        let (first, count) = (tables.next_offset, batch.len() as u32);
        for record in batch {
            let offset = tables.next_offset;
            tables.queue.push_back((offset, record.payload));
            tables.next_offset += 1;
        }
        tables.deepest_queue = tables.deepest_queue.max(tables.queue.len());
        self.appended.notify_waiters();
        Ok(Box::pin(std::future::ready(Ok(Appended {
            partition,
            first,
            count,
        }))))
    }
}

impl Outcomes for SlowRoom {
    fn outcome(&self, batch: Appended) -> OutcomeFuture<'_> {
        Box::pin(async move {
            loop {
                let folded = self.folded.notified();
                if let Some(outcome) = self.tables.lock().outcomes.get(&batch.last()) {
                    return Ok(outcome.clone());
                }
                folded.await;
            }
        })
    }
}

impl FewRooms for SlowRoom {
    fn head(&self, room: &RoomId) -> Result<Option<Arc<RoomHead>>, QueryError> {
        Ok((room == the_room()).then(|| self.tables.lock().head.clone()))
    }

    /// The create event and the first membership; whatever else is in state is a
    /// topic that no test sets.
    fn events(&self, _: &RoomId, events: &[EventSn]) -> Result<Vec<Arc<StoredEvent>>, QueryError> {
        let stored = |event: &EventSn| {
            let (id, kind, state_key, content) = match event.0 {
                1 => ("$create", "m.room.create", "", r#"{"room_version":"11"}"#),
                2 => (
                    "$member",
                    "m.room.member",
                    "@a:hs",
                    r#"{"membership":"join"}"#,
                ),
                _ => ("$topic", "m.room.topic", "", r#"{"topic":"another"}"#),
            };
            Arc::new(StoredEvent {
                room: RoomSn(1),
                event: *event,
                event_id: OwnedEventId::try_from(id).expect("valid"),
                sender: owned_user_id!("@a:hs"),
                kind: kind.into(),
                state_key: Some(state_key.into()),
                origin_server_ts: 1,
                place: Place::FIRST,
                decision: Decision::Accepted,
                state_before: StateId::EMPTY,
                state_after: StateId(2),
                visibility: Visibility::Shared,
                replaces: None,
                redacted_by: None,
                transaction: None,
                json: format!(r#"{{"content":{content}}}"#).into(),
            })
        };
        Ok(events.iter().map(stored).collect())
    }

    fn transaction(
        &self,
        _: &RoomId,
        idempotency: &[u8; 16],
    ) -> Result<Option<OwnedEventId>, QueryError> {
        Ok(self.tables.lock().transactions.get(idempotency).cloned())
    }
}
