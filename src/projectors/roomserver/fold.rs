//! One lane's room server: takes records in log order, keeps the heads of the
//! rooms that the group touched, and shows them when the group is written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use log_format::codec;
use log_format::record::Kind;
use log_format::record::input::{InputRoomEvent, InputRoomPublished};
use log_format::record::output::{Decision, OutputRoomPublished, Reason};
use quick_cache::unsync::Cache;
use ruma::{OwnedRoomId, RoomId};

use super::annotate::{self, Annotation};
use super::answers::RoomTables;
use super::auth_chain::AuthGraphs;
use super::events::EventError;
use super::heads::{self, Head};
use super::{rows, turn};
use crate::projectors::fold::{FoldError, FoldInput, Folded, Projector};
use crate::query::ids::{EventSn, RoomSn};
use crate::query::rooms::StoredEvent;
use crate::storage::columns::PUBLISHED;
use crate::storage::overlay::{Overlay, StoreError};

/// Event ids that a lane remembers, so that the auth and previous events of the
/// next message cost no look-up.
const KNOWN_IDS: usize = 16_384;

/// See the module. Lanes share the [`RoomTables`]; a room always folds in the
/// same lane, and a lane publishes a group before it folds the next.
pub struct RoomServer {
    pub(super) shared: Arc<RoomTables>,
    pub(super) group: Group,
    /// Accepted events by id. Cleared when a batch is taken back.
    pub(super) known: KnownIds,
    /// Auth graphs of rooms that resolved lately.
    pub(super) graphs: AuthGraphs,
}

/// What a group of folds left to be published.
#[derive(Default)]
pub(super) struct Group {
    pub heads: BTreeMap<OwnedRoomId, Head>,
    pub fresh: Vec<(u32, Arc<StoredEvent>)>,
    /// Events whose rows changed after their own fold: they were redacted, or purged.
    pub changed: Vec<(u32, EventSn)>,
    /// Rooms that were purged: what the window shows of them is not there.
    pub gone: BTreeSet<OwnedRoomId>,
    pub purge_begun: bool,
}

pub(super) type KnownIds = Cache<Box<str>, (u32, RoomSn, EventSn)>;

impl From<EventError> for FoldError {
    fn from(error: EventError) -> FoldError {
        match error {
            EventError::Store(error) => FoldError::Store(error),
            EventError::Log(error) => FoldError::Log(error),
            EventError::NotAnEvent(offset) => FoldError::Store(StoreError::Row {
                table: "events",
                why: format!("input offset {offset} holds no room event"),
            }),
        }
    }
}

impl RoomServer {
    /// A lane over shared tables.
    pub fn new(shared: Arc<RoomTables>) -> RoomServer {
        RoomServer {
            shared,
            group: Group::default(),
            known: Cache::new(KNOWN_IDS),
            graphs: AuthGraphs::default(),
        }
    }

    /// Brings a room's head into the group; whether there is such a room.
    pub(super) fn bring_head(
        &mut self,
        partition: u32,
        room_id: &RoomId,
        tables: &Overlay<'_>,
    ) -> Result<bool, FoldError> {
        if self.group.heads.contains_key(room_id) {
            return Ok(true);
        }
        let shown = match self.group.gone.contains(room_id) {
            true => None,
            false => self.shared.heads.get(room_id).ok(),
        };
        let head = match shown {
            Some((head, _)) => Some((*head).clone()),
            None => match heads::find_room(tables, partition, room_id)? {
                None => None,
                Some(room) => heads::load(tables, &self.shared.events, partition, room)?,
            },
        };
        let Some(head) = head else {
            return Ok(false);
        };
        self.group.heads.insert(room_id.to_owned(), head);
        Ok(true)
    }

    /// Folds a record of a room's graph: now, or when the room goes on.
    fn fold_graph(
        &mut self,
        record: &FoldInput<'_>,
        tables: &mut Overlay<'_>,
    ) -> Result<Folded, FoldError> {
        let Some(room_id) = turn::room_id_of(record.envelope) else {
            let body = codec::decode(record.envelope.body).unwrap_or_else(|_| no_body());
            return Ok(malformed(record, body));
        };
        let is_known = self.bring_head(record.partition, &room_id, tables)?;
        let head = self.group.heads.get(&room_id);
        let waits = is_known && head.is_some_and(|head| head.parked.is_some());
        match (record.envelope.kind, waits) {
            (Kind::InputRoomResumed, _) => self.resume(record, &room_id, tables),
            (_, true) => Ok(self.queue(record, &room_id, tables)),
            (_, false) => self.take_turn(record, &room_id, tables),
        }
    }

    fn fold_published(
        &mut self,
        record: &FoldInput<'_>,
        tables: &mut Overlay<'_>,
    ) -> Result<Folded, FoldError> {
        let body = codec::decode::<InputRoomPublished>(record.envelope.body).ok();
        let room_id = record.envelope.room_id;
        let room_id = room_id.and_then(|id| <&RoomId>::try_from(id).ok());
        let reason = match (&body, room_id) {
            (Some(body), Some(room_id)) => {
                if self.bring_head(record.partition, room_id, tables)? {
                    let key = rows::room_id_key(record.partition, room_id.as_str());
                    match body.published {
                        true => tables.put(PUBLISHED, key.as_ref(), bytes::Bytes::new()),
                        false => tables.delete(PUBLISHED, key.as_ref()),
                    }
                    Reason::None
                } else {
                    Reason::UnknownRoom
                }
            }
            _ => Reason::Malformed,
        };
        let decision = match reason {
            Reason::None => Decision::Accepted,
            _ => Decision::Rejected,
        };
        let output = OutputRoomPublished {
            origin: record.origin(),
            decision,
            reason,
            published: body.is_some_and(|body| body.published),
        };
        let output = vec![annotate::published(record.envelope, &output)];
        Ok(Folded::decided(output, decision, reason))
    }
}

/// Stands in for the body of a record that has none that decodes.
pub(super) fn no_body() -> InputRoomEvent {
    InputRoomEvent {
        placement: log_format::record::input::Placement::New,
        depth: 0,
        prev_events: vec![],
        auth_events: vec![],
        redacts: None,
        relation: None,
        membership: None,
        transaction: None,
        verified_with: vec![],
        batch_index: 0,
        batch_count: 1,
    }
}

/// The decision about a record that no correct writer makes.
fn malformed(record: &FoldInput<'_>, body: InputRoomEvent) -> Folded {
    let (decision, reason) = (Decision::Rejected, Reason::Malformed);
    let event = EventSn(record.offset);
    let annotation = Annotation::unplaced(decision, reason, RoomSn(0), event);
    let output = match record.envelope.kind {
        Kind::InputRoomEvent => annotation.records(record.envelope, body, None, || record.origin()),
        _ => vec![],
    };
    Folded::decided(output, decision, reason)
}

impl Projector for RoomServer {
    fn fold(
        &mut self,
        record: &FoldInput<'_>,
        tables: &mut Overlay<'_>,
    ) -> Result<Folded, FoldError> {
        match record.envelope.kind {
            Kind::InputRoomEvent
            | Kind::InputStateBegin
            | Kind::InputStateChunk
            | Kind::InputStateCommit
            | Kind::InputStateAbandoned
            | Kind::InputRoomResumed => self.fold_graph(record, tables),
            Kind::InputRoomPublished => self.fold_published(record, tables),
            Kind::InputOutsideMembership => self.fold_outside(record, tables),
            Kind::InputRoomPurged => self.fold_purged(record, tables),
            // The runner hands each projector its own kinds.
            _ => Ok(Folded::decided(
                vec![],
                Decision::Rejected,
                Reason::Malformed,
            )),
        }
    }

    fn publish(&mut self) {
        let group = std::mem::take(&mut self.group);
        for (partition, event) in group.fresh {
            self.shared.events.keep(partition, event);
        }
        // Also what is fresh and was redacted within the group.
        for (partition, event) in group.changed {
            self.shared.events.forget(partition, event);
        }
        for head in group.heads.values() {
            self.shared.show_parked(head);
        }
        for room_id in &group.gone {
            self.shared.parked.forget(room_id);
        }
        self.shared
            .heads
            .publish(&group.gone, group.heads.into_values());
        if group.purge_begun {
            self.shared.purge_begun.send_replace(());
        }
    }
}
