//! One lane's room server: takes records in log order, keeps the heads of the
//! rooms that the group touched, and shows them when the group is written.

use std::collections::BTreeMap;
use std::sync::Arc;

use log_format::codec;
use log_format::record::Kind;
use log_format::record::input::{InputRoomEvent, InputRoomPublished};
use log_format::record::output::{Decision, Origin, OutputRoomPublished, Reason};
use quick_cache::unsync::Cache;
use ruma::{OwnedEventId, OwnedRoomId, RoomId};

use super::annotate::{self, Annotation};
use super::answers::RoomTables;
use super::events::EventError;
use super::heads::{self, Head};
use super::judge::{Event, Judged};
use super::rows;
use crate::logs::log::NewRecord;
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
}

/// What a group of folds left to be published.
#[derive(Default)]
pub(super) struct Group {
    pub heads: BTreeMap<OwnedRoomId, Head>,
    pub fresh: Vec<(u32, Arc<StoredEvent>)>,
    /// Events whose rows changed after their own fold: they were redacted.
    pub changed: Vec<(u32, EventSn)>,
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
        let head = match self.shared.heads.get(room_id) {
            Ok((head, _)) => Some((*head).clone()),
            Err(_) => match heads::find_room(tables, partition, room_id)? {
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

    /// Judges an event and keeps for [`Projector::publish`] what it changed.
    pub(super) fn judge(
        &mut self,
        event: &Event<'_>,
        tables: &mut Overlay<'_>,
    ) -> Result<Judged, FoldError> {
        if !self.bring_head(event.partition, event.room_id, tables)? {
            let (judged, head) = event.create_room(&self.shared, tables)?;
            if let Some(head) = head {
                self.group.heads.insert(event.room_id.to_owned(), head);
            }
            self.keep(event.partition, &judged);
            return Ok(judged);
        }
        let Some(head) = self.group.heads.get_mut(event.room_id) else {
            return Ok(Judged::rejected(event, Reason::UnknownRoom));
        };
        let judged = event.judge(&self.shared, head, &mut self.known, tables)?;
        self.keep(event.partition, &judged);
        Ok(judged)
    }

    fn keep(&mut self, partition: u32, judged: &Judged) {
        if let Some(fresh) = &judged.fresh {
            self.group.fresh.push((partition, fresh.clone()));
        }
        let changed = judged.changed.iter().map(|event| (partition, *event));
        self.group.changed.extend(changed);
    }

    fn fold_event(
        &mut self,
        record: &FoldInput<'_>,
        tables: &mut Overlay<'_>,
    ) -> Result<Folded, FoldError> {
        let Ok(body) = codec::decode::<InputRoomEvent>(record.envelope.body) else {
            return Ok(malformed(record, no_body()));
        };
        if body.batch_count > 1 {
            return self.fold_batch(record, body, tables);
        }
        let event = Event::read(record.partition, record.offset, record.envelope, &body);
        let Some(event) = event else {
            return Ok(malformed(record, body));
        };
        let judged = self.judge(&event, tables)?;
        Ok(folded(judged, record, body))
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
        Ok(Folded {
            output: vec![annotate::published(record.envelope, &output)],
            decision,
            reason,
            duplicate_of: None,
        })
    }
}

/// Stands in for the body of a record that has none that decodes.
fn no_body() -> InputRoomEvent {
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
pub(super) fn malformed(record: &FoldInput<'_>, body: InputRoomEvent) -> Folded {
    refused(record, body, Reason::Malformed, record.origin())
}

/// The decision about a record that is refused whatever it says.
pub(super) fn refused(
    record: &FoldInput<'_>,
    body: InputRoomEvent,
    reason: Reason,
    origin: Origin,
) -> Folded {
    let event = EventSn(record.offset);
    let annotation = Annotation::unplaced(Decision::Rejected, reason, RoomSn(0), event);
    Folded {
        output: vec![annotation.record(record.envelope, body, origin)],
        decision: Decision::Rejected,
        reason,
        duplicate_of: None,
    }
}

fn folded(judged: Judged, record: &FoldInput<'_>, body: InputRoomEvent) -> Folded {
    let (decision, reason) = (judged.annotation.decision, judged.annotation.reason);
    let output: Vec<NewRecord> =
        vec![
            judged
                .annotation
                .record(record.envelope, body, record.origin()),
        ];
    let duplicate_of: Option<OwnedEventId> = judged.duplicate_of;
    Folded {
        output,
        decision,
        reason,
        duplicate_of,
    }
}

impl Projector for RoomServer {
    fn fold(
        &mut self,
        record: &FoldInput<'_>,
        tables: &mut Overlay<'_>,
    ) -> Result<Folded, FoldError> {
        match record.envelope.kind {
            Kind::InputRoomEvent => self.fold_event(record, tables),
            Kind::InputRoomPublished => self.fold_published(record, tables),
            // The runner hands each projector its own kinds.
            _ => Ok(Folded {
                output: vec![],
                decision: Decision::Rejected,
                reason: Reason::Malformed,
                duplicate_of: None,
            }),
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
        self.shared.heads.publish(group.heads.into_values());
    }
}
