//! A room is purged: the operator wants nothing of it kept.
//!
//! The first record says so, and the room is as it was while its local users
//! leave. At the second it is gone: not known, not listed, its head forgotten.
//! Its rows go with that record and those that follow, a bounded number with
//! each, so that a room of millions of rows holds up nobody; how far they have
//! come is itself a row, so a crash or a replay goes on where it was. Until the
//! last of them is gone the room cannot come to be again.
//!
//! What stays is a tombstone, and what the log holds. Whoever makes or joins the
//! room later on finds a new one, with a number of its own.

use log_format::codec;
use log_format::record::input::{InputRoomPurged, PurgeStep};
use log_format::record::output::{Decision, OutputRoomPurged, Reason};
use ruma::{OwnedRoomId, RoomId};
use tokio::sync::watch;

use super::annotate;
use super::answers::RoomTables;
use super::fold::RoomServer;
use super::rows;
use super::turn::room_id_of;
use crate::logs::log::partition_of;
use crate::projectors::fold::{FoldError, FoldInput, FoldOutcome, Folded};
use crate::projectors::receiptserver;
use crate::query::ids::{EventSn, InputOffset, RoomSn};
use crate::query::purges::{Purge, PurgeStage, RoomPurges};
use crate::query::rooms::QueryError;
use crate::storage::columns::{
    AUTH_EDGES, EARLY_REDACTIONS, EVENT_IDS, EVENTS, GIVEN_STATES, IDEMPOTENCY, OUTSIDE,
    OUTSIDE_USERS, PARKED, PARKED_RECORDS, PUBLISHED, PURGES, RECEIPTS, ROOM_IDS, ROOMS,
    STATE_BRANCHES, STATE_DIGESTS, STATE_HISTORY, STATE_KEYS, STATE_NODES, STATES_BEFORE, TIMELINE,
    Table, USER_ROOMS, WAITING,
};
use crate::storage::keys::{Key, RowReader, RowWriter};
use crate::storage::overlay::{Overlay, Read, StoreError};

/// Tables whose rows go page by page, in this order: first what others wait for,
/// then what is found by user. Positions in it are in the tables, so a change of
/// the order is a new version of the projector.
///
/// With the rows of [`EVENT_IDS`] go those of [`EVENTS`], with the members'
/// among [`STATE_KEYS`] those of [`USER_ROOMS`], and with those of [`OUTSIDE_USERS`]
/// those of [`OUTSIDE`], all of which have other keys. No row of another room is
/// looked at: another lane may be writing it.
pub(super) const BY_PAGES: [Table; 16] = [
    PARKED_RECORDS,
    STATE_KEYS,
    EVENT_IDS,
    TIMELINE,
    GIVEN_STATES,
    STATES_BEFORE,
    IDEMPOTENCY,
    EARLY_REDACTIONS,
    WAITING,
    STATE_NODES,
    STATE_DIGESTS,
    STATE_HISTORY,
    STATE_BRANCHES,
    AUTH_EDGES,
    // Of the receipt server, with the same partition key.
    RECEIPTS,
    OUTSIDE_USERS,
];

const MEMBER: &str = "m.room.member";

/// First byte of a key of [`PURGES`] behind the partition.
const GOING_ON: u8 = 0;
const COMPLETE: u8 = 1;

fn key(partition: u32, state: u8, room_id: &str) -> Key {
    Key::of(partition).bytes(&[state]).bytes(room_id.as_bytes())
}

/// How far the purge of a room has come.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Progress {
    room: RoomSn,
    /// None while the room is still there.
    dropping: Option<Position>,
}

/// What is to be dropped next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Position {
    /// Index in [`BY_PAGES`].
    table: usize,
    /// None: from the table's first row of the room.
    from: Option<Vec<u8>>,
}

impl Progress {
    fn load(
        tables: &dyn Read,
        partition: u32,
        room_id: &str,
    ) -> Result<Option<Progress>, StoreError> {
        let row = tables.get(PURGES, key(partition, GOING_ON, room_id).as_ref())?;
        row.map(|row| Progress::decode(&row)).transpose()
    }

    fn encode(&self) -> Vec<u8> {
        let mut row = RowWriter::with_capacity(32);
        row.varint(self.room.0);
        match &self.dropping {
            None => row.u8(0),
            Some(at) => row
                .u8(1)
                .varint(at.table as u64)
                .bytes(at.from.as_deref().unwrap_or_default()),
        };
        row.finish()
    }

    fn decode(bytes: &[u8]) -> Result<Progress, StoreError> {
        let mut row = RowReader::new(PURGES, bytes);
        let room = RoomSn(row.varint()?);
        let is_dropping = row.u8()? != 0;
        if !is_dropping {
            row.finish()?;
            return Ok(Progress {
                room,
                dropping: None,
            });
        }
        let table = usize::try_from(row.varint()?).map_err(|_| row.error("no such table"))?;
        let from = row.rest();
        let from = (!from.is_empty()).then(|| from.to_vec());
        let dropping = Some(Position { table, from });
        Ok(Progress { room, dropping })
    }

    fn stage(&self) -> PurgeStage {
        match self.dropping {
            None => PurgeStage::Leaving,
            Some(_) => PurgeStage::Dropping,
        }
    }
}

/// Whether rows of a room that is gone are still being dropped.
pub(super) fn is_going_on(
    tables: &dyn Read,
    partition: u32,
    room_id: &RoomId,
) -> Result<bool, StoreError> {
    Ok(Progress::load(tables, partition, room_id.as_str())?.is_some())
}

/// Whether a room was purged and is not there again: what comes late for it is
/// to leave no trace.
pub fn is_gone(tables: &dyn Read, partition: u32, room_id: &str) -> Result<bool, StoreError> {
    let states = [GOING_ON, COMPLETE];
    for state in states {
        let purge = tables.get(PURGES, key(partition, state, room_id).as_ref())?;
        if purge.is_some() {
            let known = rows::room_id_key(partition, room_id);
            return Ok(tables.get(ROOM_IDS, known.as_ref())?.is_none());
        }
    }
    Ok(false)
}

/// What a record of a purge leads to.
struct Step {
    decision: Decision,
    reason: Reason,
    room: RoomSn,
    users: Vec<String>,
    finished: bool,
    settled: Vec<(u64, FoldOutcome)>,
}

impl Step {
    fn of(decision: Decision, reason: Reason) -> Step {
        Step {
            decision,
            reason,
            room: RoomSn(0),
            users: vec![],
            finished: false,
            settled: vec![],
        }
    }

    fn accepted(room: RoomSn) -> Step {
        Step {
            room,
            ..Step::of(Decision::Accepted, Reason::None)
        }
    }
}

/// A room whose rows are dropped.
struct Dropped<'a> {
    partition: u32,
    room: RoomSn,
    room_id: &'a RoomId,
}

impl Dropped<'_> {
    /// What the keys of the room's rows begin with.
    fn prefix(&self, table: Table) -> Key {
        match table {
            RECEIPTS => receiptserver::keys_of_room(self.partition, self.room_id),
            OUTSIDE_USERS => rows::outside_users_prefix(self.partition, self.room_id.as_str()),
            _ => rows::room_key(self.partition, self.room),
        }
    }
}

impl RoomServer {
    /// Folds a record of a purge, also of a room that waits for work done aside:
    /// what waits with it is refused.
    pub(super) fn fold_purged(
        &mut self,
        record: &FoldInput<'_>,
        tables: &mut Overlay<'_>,
    ) -> Result<Folded, FoldError> {
        let body = codec::decode::<InputRoomPurged>(record.envelope.body).ok();
        let step = match (&body, room_id_of(record.envelope)) {
            (Some(body), Some(room_id)) => match body.step {
                PurgeStep::Begin => self.begin_purge(record, &room_id, tables)?,
                PurgeStep::Drop => self.drop_some(record, &room_id, tables)?,
            },
            _ => Step::of(Decision::Rejected, Reason::Malformed),
        };
        let said = OutputRoomPurged {
            origin: record.origin(),
            decision: step.decision,
            reason: step.reason,
            step: body.map_or(PurgeStep::Begin, |body| body.step),
            room_sn: step.room.0,
            users: step.users,
            finished: step.finished,
        };
        Ok(Folded {
            output: vec![annotate::purged(record.envelope, &said)],
            outcome: Some(FoldOutcome::of(step.decision, step.reason)),
            settled: step.settled,
        })
    }

    fn begin_purge(
        &mut self,
        record: &FoldInput<'_>,
        room_id: &RoomId,
        tables: &mut Overlay<'_>,
    ) -> Result<Step, FoldError> {
        let partition = record.partition;
        if is_going_on(&*tables, partition, room_id)? {
            return Ok(Step::of(Decision::Duplicate, Reason::None));
        }
        let is_known = self.bring_head(partition, room_id, tables)?;
        let head = self.group.heads.get(room_id).filter(|_| is_known);
        let Some(room) = head.map(|head| head.shown.room) else {
            return Ok(Step::of(Decision::Rejected, Reason::UnknownRoom));
        };
        // Of an earlier one: the room came to be again since.
        tables.delete(PURGES, key(partition, COMPLETE, room_id.as_str()).as_ref());
        let progress = Progress {
            room,
            dropping: None,
        };
        let going_on = key(partition, GOING_ON, room_id.as_str());
        tables.put(PURGES, going_on.as_ref(), progress.encode());
        self.group.purge_begun = true;
        Ok(Step::accepted(room))
    }

    fn drop_some(
        &mut self,
        record: &FoldInput<'_>,
        room_id: &RoomId,
        tables: &mut Overlay<'_>,
    ) -> Result<Step, FoldError> {
        let partition = record.partition;
        let complete = key(partition, COMPLETE, room_id.as_str());
        let Some(progress) = Progress::load(&*tables, partition, room_id.as_str())? else {
            return Ok(match tables.get(PURGES, complete.as_ref())? {
                Some(_) => Step::of(Decision::Duplicate, Reason::None),
                None => Step::of(Decision::Rejected, Reason::NotFound),
            });
        };
        let dropped = Dropped {
            partition,
            room: progress.room,
            room_id,
        };
        let mut at = match progress.dropping {
            Some(at) => at,
            None => {
                self.remove_room(&dropped, tables);
                Position::default()
            }
        };
        let mut step = Step::accepted(progress.room);
        step.finished = self.drop_rows(&dropped, &mut at, &mut step, tables)?;
        let going_on = key(partition, GOING_ON, room_id.as_str());
        if step.finished {
            tables.delete(PURGES, going_on.as_ref());
            tables.put(PURGES, complete.as_ref(), rows::number(record.offset));
        } else {
            let progress = Progress {
                room: progress.room,
                dropping: Some(at),
            };
            tables.put(PURGES, going_on.as_ref(), progress.encode());
        }
        Ok(step)
    }

    /// From here on nobody knows the room.
    fn remove_room(&mut self, dropped: &Dropped<'_>, tables: &mut Overlay<'_>) {
        let by_id = rows::room_id_key(dropped.partition, dropped.room_id.as_str());
        tables.delete(ROOM_IDS, by_id.as_ref());
        tables.delete(PUBLISHED, by_id.as_ref());
        let by_sn = rows::room_key(dropped.partition, dropped.room);
        tables.delete(ROOMS, by_sn.as_ref());
        // Nobody is to work aside for it any more.
        tables.delete(PARKED, by_sn.as_ref());
        self.group.heads.remove(dropped.room_id);
        self.group.gone.insert(dropped.room_id.to_owned());
        self.graphs.forget(dropped.room);
    }

    /// Drops the next rows, as many as one record may; whether none are left.
    fn drop_rows(
        &mut self,
        dropped: &Dropped<'_>,
        at: &mut Position,
        step: &mut Step,
        tables: &mut Overlay<'_>,
    ) -> Result<bool, FoldError> {
        let mut left = self.shared.purged_rows;
        while let Some(table) = BY_PAGES.get(at.table).copied() {
            let prefix = dropped.prefix(table);
            let from = at.from.as_deref();
            let page = Overlay::range(tables, table, prefix.as_ref(), from, false, left)?;
            for (key, value) in &page {
                let rest = key.get(prefix.as_ref().len()..).unwrap_or_default();
                self.drop_beside(dropped, table, (rest, value), step, tables)?;
                tables.delete(table, key);
            }
            left = left.saturating_sub(page.len());
            if let (0, Some((last, _))) = (left, page.last()) {
                // The smallest key behind the last one.
                at.from = Some([last.as_ref(), &[0]].concat());
                return Ok(false);
            }
            at.table += 1;
            at.from = None;
        }
        Ok(true)
    }

    /// What goes with a row: rows of the same thing under other keys, and the
    /// writers who wait for a record that will not be decided.
    fn drop_beside(
        &mut self,
        dropped: &Dropped<'_>,
        table: Table,
        (rest, value): (&[u8], &[u8]),
        step: &mut Step,
        tables: &mut Overlay<'_>,
    ) -> Result<(), FoldError> {
        match table {
            PARKED_RECORDS => {
                let offset = rows::read_number(PARKED_RECORDS, value)?;
                let outcome = FoldOutcome::of(Decision::Rejected, Reason::UnknownRoom);
                step.settled.push((offset, outcome));
            }
            STATE_KEYS => {
                let mut key = RowReader::new(STATE_KEYS, rest);
                if key.key_text()? == MEMBER {
                    let user = key.rest_text()?;
                    let room_id = dropped.room_id.as_str();
                    let of_user = rows::user_room_key(dropped.partition, user, room_id);
                    tables.delete(USER_ROOMS, of_user.as_ref());
                    step.users.push(user.to_owned());
                }
            }
            OUTSIDE_USERS => {
                let user = RowReader::new(OUTSIDE_USERS, rest).rest_text()?;
                let room_id = dropped.room_id.as_str();
                let of_user = rows::user_room_key(dropped.partition, user, room_id);
                tables.delete(OUTSIDE, of_user.as_ref());
                step.users.push(user.to_owned());
            }
            EVENT_IDS => {
                let event = EventSn(rows::read_number(EVENT_IDS, value)?);
                let key = rows::event_key(dropped.partition, event);
                tables.delete(EVENTS, key.as_ref());
                self.group.changed.push((dropped.partition, event));
            }
            _ => {}
        }
        Ok(())
    }
}

impl RoomTables {
    /// Whether a room is gone whose rows are still being dropped.
    pub(super) fn is_being_dropped(&self, room: &RoomId) -> Result<bool, StoreError> {
        let partition = partition_of(room.as_str(), self.partitions());
        let progress = Progress::load(self.store(), partition, room.as_str())?;
        Ok(progress.is_some_and(|progress| progress.dropping.is_some()))
    }
}

impl RoomPurges for RoomTables {
    fn purges(&self) -> Result<Vec<Purge>, QueryError> {
        let mut found = vec![];
        for partition in 0..self.partitions() {
            let prefix = Key::of(partition).bytes(&[GOING_ON]);
            self.each_row(PURGES, &prefix, |rest, value| {
                let room_id = std::str::from_utf8(rest).ok();
                let room_id = room_id.and_then(|id| OwnedRoomId::try_from(id).ok());
                found.push(Purge {
                    room_id: room_id.ok_or_else(|| {
                        QueryError::Store("the key of a purge holds no room id".to_owned())
                    })?,
                    stage: Progress::decode(value)?.stage(),
                });
                Ok(())
            })?;
        }
        Ok(found)
    }

    fn purge_of(&self, room: &RoomId) -> Result<Option<PurgeStage>, QueryError> {
        let partition = partition_of(room.as_str(), self.partitions());
        if let Some(progress) = Progress::load(self.store(), partition, room.as_str())? {
            return Ok(Some(progress.stage()));
        }
        let complete = key(partition, COMPLETE, room.as_str());
        let at = rows::find_number(self.store(), PURGES, &complete)?;
        Ok(at.map(|at| PurgeStage::Complete(InputOffset(at))))
    }

    fn purges_changed(&self) -> watch::Receiver<()> {
        self.purge_begun.subscribe()
    }
}
