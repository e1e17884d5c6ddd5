//! States that another server told us: begun, given in chunks, complete.
//!
//! Nothing of a given state counts before its *commit*: then it becomes the
//! state before the event that it was asked for, which is folded afterwards.

use std::collections::BTreeMap;

use log_format::codec;
use log_format::record::input::{
    GivenState, InputStateAbandoned, InputStateBegin, InputStateChunk, InputStateCommit,
};
use log_format::record::output::{Decision, Reason};
use log_format::record::{Envelope, Kind};

use super::annotate::Gap;
use super::heads::Head;
use super::judge::Event;
use super::rows;
use super::scope::{Prior, Scope, Stop};
use super::state::{self, Change, StateNode};
use crate::query::ids::{EventSn, StateId};
use crate::storage::columns::{GIVEN_STATES, STATES_BEFORE};
use crate::storage::keys::{Key, RowReader};

/// Rows read at a time.
const PAGE_ROWS: usize = 1024;
/// Events that a gap names.
const GAP_EVENTS_MAX: usize = 1_000;

/// What became of a record about a given state.
pub(super) struct GivenOutcome {
    pub reason: Reason,
    /// Events of the state that are not known.
    pub gap: Option<Gap>,
}

impl GivenOutcome {
    fn of(reason: Reason) -> GivenOutcome {
        GivenOutcome { reason, gap: None }
    }
}

fn key(scope: &Scope<'_, '_>, given: &GivenState) -> Key {
    rows::room_key(scope.partition, scope.room).bytes(given)
}

/// Folds a record about a given state. Errors: as [`Event::judge`].
pub(super) fn fold(
    head: &mut Head,
    offset: u64,
    envelope: &Envelope<'_>,
    scope: &mut Scope<'_, '_>,
) -> Result<GivenOutcome, Stop> {
    let malformed = |_| Stop::Refuse(Reason::Malformed);
    match envelope.kind {
        Kind::InputStateBegin => {
            let body: InputStateBegin = codec::decode(envelope.body).map_err(malformed)?;
            let key = key(scope, &body.given);
            if scope.tables.get(GIVEN_STATES, key.as_ref())?.is_some() {
                return Ok(GivenOutcome::of(Reason::Taken));
            }
            let event_id = body.event_id.into_bytes();
            scope.tables.put(GIVEN_STATES, key.as_ref(), event_id);
            Ok(GivenOutcome::of(Reason::None))
        }
        Kind::InputStateChunk => {
            let body: InputStateChunk = codec::decode(envelope.body).map_err(malformed)?;
            let key = key(scope, &body.given);
            if scope.tables.get(GIVEN_STATES, key.as_ref())?.is_none() {
                return Ok(GivenOutcome::of(Reason::NotFound));
            }
            let chunk = key.number(offset);
            scope.tables.put(GIVEN_STATES, chunk.as_ref(), vec![]);
            Ok(GivenOutcome::of(Reason::None))
        }
        Kind::InputStateCommit => {
            let body: InputStateCommit = codec::decode(envelope.body).map_err(malformed)?;
            commit(head, &body.given, scope)
        }
        _ => {
            let body: InputStateAbandoned = codec::decode(envelope.body).map_err(malformed)?;
            match take(&body.given, scope)? {
                Some(_) => Ok(GivenOutcome::of(Reason::None)),
                None => Ok(GivenOutcome::of(Reason::NotFound)),
            }
        }
    }
}

/// Removes a given state: the event that it is for, and the offsets of its chunks.
fn take(given: &GivenState, scope: &mut Scope<'_, '_>) -> Result<Option<(String, Vec<u64>)>, Stop> {
    let prefix = key(scope, given);
    let Some(event_id) = scope.tables.get(GIVEN_STATES, prefix.as_ref())? else {
        return Ok(None);
    };
    let event_id = String::from_utf8_lossy(&event_id).into_owned();
    let prefix = prefix.as_ref();
    let mut chunks = vec![];
    loop {
        let page = scope
            .tables
            .range(GIVEN_STATES, prefix, None, false, PAGE_ROWS)?;
        for (key, _) in &page {
            let rest = key.get(prefix.len()..).unwrap_or_default();
            if !rest.is_empty() {
                chunks.push(RowReader::new(GIVEN_STATES, rest).number()?);
            }
            scope.tables.delete(GIVEN_STATES, key);
        }
        if page.len() < PAGE_ROWS {
            return Ok(Some((event_id, chunks)));
        }
    }
}

/// The state is complete: every event of it must be known and not rejected.
fn commit(
    head: &mut Head,
    given: &GivenState,
    scope: &mut Scope<'_, '_>,
) -> Result<GivenOutcome, Stop> {
    let Some((event_id, chunks)) = take(given, scope)? else {
        return Ok(GivenOutcome::of(Reason::NotFound));
    };
    // Nobody would use it up, and every later event would look for its own.
    if let Prior::Accepted(_) = scope.prior(&event_id)? {
        return Ok(GivenOutcome::of(Reason::Taken));
    }
    let mut entries: BTreeMap<u64, Change> = BTreeMap::new();
    let mut missing = vec![];
    for chunk in chunks {
        let ids = chunk_ids(scope, chunk)?;
        scope.effort.charge(ids.len() as u64)?;
        for id in ids {
            let sn = match scope.prior(&id)? {
                Prior::Accepted(sn) => sn,
                Prior::Other(sn, row) if row.decision != Decision::Rejected => sn,
                // What the rules refuse is in no state of ours.
                Prior::Other(..) => continue,
                Prior::Unknown => {
                    missing.push(id);
                    continue;
                }
            };
            let Some(change) = entry(scope, sn)? else {
                return Ok(GivenOutcome::of(Reason::Malformed));
            };
            if entries.insert(change.key, change).is_some() {
                return Ok(GivenOutcome::of(Reason::Malformed));
            }
        }
    }
    if !missing.is_empty() {
        missing.truncate(GAP_EVENTS_MAX);
        return Ok(GivenOutcome {
            reason: Reason::MissingEvents,
            gap: Some(Gap {
                prev_events: vec![],
                auth_events: missing,
            }),
        });
    }
    let create = scope.states().find_key("m.room.create", "")?;
    let create = create.and_then(|key| entries.get(&key));
    if create.and_then(|entry| entry.to) != Some(head.shown.authority.create) {
        return Ok(GivenOutcome::of(Reason::Malformed));
    }
    let node = store(head, entries, scope)?;
    let key = rows::room_text_key(scope.partition, scope.room, &event_id);
    let known = scope.tables.get(STATES_BEFORE, key.as_ref())?;
    head.given_states += u64::from(known.is_none());
    scope
        .tables
        .put(STATES_BEFORE, key.as_ref(), rows::number(node.id.0));
    head.store(scope.tables, scope.partition);
    Ok(GivenOutcome::of(Reason::None))
}

/// The ids that a chunk names. It was a chunk when it was folded.
fn chunk_ids(scope: &Scope<'_, '_>, offset: u64) -> Result<Vec<String>, Stop> {
    let records = scope.shared.events.records_from(scope.partition, offset)?;
    let record = records.first().filter(|record| record.offset == offset);
    let envelope = record.and_then(|record| record.envelope().ok());
    let body = envelope.and_then(|envelope| codec::decode::<InputStateChunk>(envelope.body).ok());
    let body = body.ok_or(super::events::EventError::NotAnEvent(offset))?;
    Ok(body.event_ids)
}

/// What an event sets in a state that was empty; none if it is no state event.
fn entry(scope: &mut Scope<'_, '_>, sn: EventSn) -> Result<Option<Change>, Stop> {
    let named = scope.read(sn, |envelope| {
        Some((
            envelope.event_type?.to_owned(),
            envelope.state_key.map(str::to_owned),
        ))
    })?;
    let (kind, Some(state_key)) = named else {
        return Ok(None);
    };
    let membership = scope.shared.events.membership(scope.partition, sn)?;
    let (partition, room) = (scope.partition, scope.room);
    let key = state::intern_key(scope.tables, partition, room, (&kind, &state_key), sn)?;
    Ok(Some(Change {
        key,
        from: None,
        to: Some(sn),
        membership,
    }))
}

/// Stores a whole state as what it changes of the current one.
fn store(
    head: &Head,
    mut entries: BTreeMap<u64, Change>,
    scope: &mut Scope<'_, '_>,
) -> Result<StateNode, Stop> {
    let parent = head.node;
    if parent.id != StateId::EMPTY {
        scope.effort.charge(head.shown.state.len() as u64)?;
        for (key, held) in &head.shown.state {
            let key = scope.states().find_key(&key.kind, &key.state_key)?;
            let Some(key) = key else { continue };
            let absent = Change {
                key,
                from: None,
                to: None,
                membership: None,
            };
            entries.entry(key).or_insert(absent).from = Some(*held);
        }
    }
    let changes: Vec<Change> = entries
        .into_values()
        .filter(|change| change.from != change.to)
        .collect();
    let (partition, room) = (scope.partition, scope.room);
    let node = state::apply(
        scope.tables,
        partition,
        room,
        &scope.shared.digest_key,
        &parent,
        &changes,
        scope.ids,
    )?;
    Ok(node)
}

impl Event<'_> {
    /// The state that was given for before this event. It is given once.
    pub(super) fn given_state(
        &self,
        head: &Head,
        scope: &mut Scope<'_, '_>,
    ) -> Result<Option<StateNode>, Stop> {
        if head.given_states == 0 {
            return Ok(None);
        }
        let key = rows::room_text_key(self.partition, scope.room, self.event_id.as_str());
        let Some(state) = rows::find_number(&*scope.tables, STATES_BEFORE, &key)? else {
            return Ok(None);
        };
        Ok(scope.states().node(StateId(state))?)
    }

    /// The event is decided: the state that was given for it has served.
    pub(super) fn forget_given(&self, head: &mut Head, scope: &mut Scope<'_, '_>) {
        let key = rows::room_text_key(self.partition, scope.room, self.event_id.as_str());
        scope.tables.delete(STATES_BEFORE, key.as_ref());
        head.given_states = head.given_states.saturating_sub(1);
    }
}
