//! Folds the changes of one room's current state out of *output*.

use std::collections::{BTreeMap, HashMap};

use log_format::codec;
use log_format::record::input::PurgeStep;
use log_format::record::output::{
    Decision, Membership, Origin, OutputRoomEvent, OutputRoomPurged, OutputRoomState, StateChange,
    StateChangeCause,
};
use log_format::record::{Envelope, Kind};
use log_format::{PartitionReader, StoredRecord};

use super::RoomLog;
use crate::error::ToolError;
use crate::open::for_each;

/// Type of the events that hold who is in a room.
pub const MEMBER: &str = "m.room.member";

/// Type and state key.
pub type Key = (Box<str>, Box<str>);

/// What holds a key of current state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub event_id: Box<str>,
    /// *Output* offset of the decision that put it there.
    pub since: u64,
    pub cause: StateChangeCause,
    /// Of member events.
    pub membership: Option<Membership>,
}

/// How a key of current state changed between two moments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// What held the key at the first moment.
    pub before: Option<Entry>,
    /// The last decision that changed it, and why.
    pub last: u64,
    pub cause: StateChangeCause,
    /// How often it changed in between.
    pub times: u64,
}

/// The last decision about the room that was folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    pub output_offset: u64,
    pub input_offset: u64,
    pub time_us: u64,
}

/// A room's current state as of some moment.
#[derive(Default)]
pub struct RoomFold {
    pub state: BTreeMap<Key, Entry>,
    /// Forward extremities.
    pub extremities: Vec<String>,
    /// *Output* offset of the room's first record.
    pub first: Option<u64>,
    pub last: Option<Last>,
    /// *Output* offset at which the operator had the room purged; none where it
    /// came to be again since.
    pub purged_at: Option<u64>,
    /// How many records of the room did not fit what came before them.
    pub misfits: u64,
    /// Offset from which on the next records are folded.
    next: u64,
    /// Parts of a change whose last record has not come yet, and their origin.
    parts: Vec<OutputRoomState>,
    /// Set while changes are noted: see [`RoomFold::note_changes`].
    noted: Option<BTreeMap<Key, KeyChange>>,
}

impl RoomFold {
    /// Folds the room's records below an *output* offset. May be called again
    /// with a later one.
    pub fn fold_below(&mut self, log: &RoomLog, below: u64) -> Result<(), ToolError> {
        let from = self.next.max(log.reader.begin());
        each_of_room(&log.reader, &log.room_id, from, below, |found, envelope| {
            self.fold(found, envelope, log.reader.begin())
        })?;
        self.next = self.next.max(below);
        Ok(())
    }

    /// From here on remembers which keys change; [`RoomFold::changes`] gives them.
    pub fn note_changes(&mut self) {
        self.noted = Some(BTreeMap::new());
    }

    /// The keys that changed since [`RoomFold::note_changes`] and did not change back.
    pub fn changes(&mut self) -> BTreeMap<Key, KeyChange> {
        let mut changes = self.noted.take().unwrap_or_default();
        changes.retain(|key, change| {
            let id = |entry: Option<&Entry>| entry.map(|entry| entry.event_id.clone());
            id(change.before.as_ref()) != id(self.state.get(key))
        });
        changes
    }

    fn fold(&mut self, found: &StoredRecord, envelope: &Envelope<'_>, begin: u64) {
        self.first.get_or_insert(found.offset);
        match envelope.kind {
            Kind::OutputRoomState => match codec::decode::<OutputRoomState>(envelope.body) {
                Ok(part) => self.parts.push(part),
                Err(_) => self.misfits += 1,
            },
            Kind::OutputRoomEvent => match codec::decode::<OutputRoomEvent>(envelope.body) {
                Ok(decision) => self.apply(found, decision, begin),
                Err(_) => self.misfits += 1,
            },
            Kind::OutputRoomPurged => match codec::decode::<OutputRoomPurged>(envelope.body) {
                Ok(purged) => self.purge(found, &purged, begin),
                Err(_) => self.misfits += 1,
            },
            _ => {}
        }
    }

    /// The room is gone: nothing holds any key of its state.
    fn purge(&mut self, found: &StoredRecord, purged: &OutputRoomPurged, begin: u64) {
        let goes = purged.decision == Decision::Accepted && purged.step == PurgeStep::Drop;
        if !goes || self.purged_at.is_some() {
            return;
        }
        let removed = self.state.iter().map(|(key, entry)| StateChange {
            kind: key.0.to_string(),
            state_key: key.1.to_string(),
            from: Some(entry.event_id.to_string()),
            to: None,
            cause: StateChangeCause::Event,
        });
        let removed: Vec<StateChange> = removed.collect();
        for change in &removed {
            self.change(found.offset, change, &HashMap::new(), begin);
        }
        self.parts.clear();
        self.extremities.clear();
        self.purged_at = Some(found.offset);
        self.last = Some(Last {
            output_offset: found.offset,
            input_offset: purged.origin.src_offset,
            time_us: found.time_us,
        });
    }

    fn apply(&mut self, found: &StoredRecord, decision: OutputRoomEvent, begin: u64) {
        let source = |origin: &Origin| (origin.src_offset, origin.about);
        // Parts belong to the next decision about the same record.
        let (parts, strays): (Vec<_>, Vec<_>) = std::mem::take(&mut self.parts)
            .into_iter()
            .partition(|part| source(&part.origin) == source(&decision.origin));
        // A membership may stand in another part than the event that gave it.
        let told = parts.iter().flat_map(|part| &part.memberships);
        let words: HashMap<&str, Membership> = told
            .chain(&decision.memberships)
            .map(|member| (&*member.user_id, member.to))
            .collect();
        let deltas = parts.iter().map(|part| &part.state_delta);
        let mut fits = strays.is_empty();
        for change in deltas.chain([&decision.state_delta]).flatten() {
            fits &= self.change(found.offset, change, &words, begin);
        }
        self.misfits += u64::from(!fits);
        if !decision.extremities.is_empty() {
            self.purged_at = None;
        }
        // A room is never without one: a decision that names none left them as they are.
        if !decision.extremities.is_empty() {
            self.extremities = decision.extremities;
        }
        self.last = Some(Last {
            output_offset: found.offset,
            input_offset: decision.origin.src_offset,
            time_us: found.time_us,
        });
    }

    /// Changes a key. Returns whether that fits what held it before.
    fn change(
        &mut self,
        offset: u64,
        change: &StateChange,
        memberships: &HashMap<&str, Membership>,
        begin: u64,
    ) -> bool {
        let key: Key = (
            change.kind.as_str().into(),
            change.state_key.as_str().into(),
        );
        let before = self.state.remove(&key);
        if let Some(event_id) = &change.to {
            // A new profile in a member event changes no membership.
            let membership = memberships
                .get(&*key.1)
                .copied()
                .or_else(|| before.as_ref().and_then(|entry| entry.membership))
                .filter(|_| &*key.0 == MEMBER);
            let entry = Entry {
                event_id: event_id.as_str().into(),
                since: offset,
                cause: change.cause,
                membership,
            };
            self.state.insert(key.clone(), entry);
        }
        // What was before the log's first record cannot be known.
        let known = before.as_ref().map(|entry| &*entry.event_id);
        let fits = known == change.from.as_deref() || (known.is_none() && begin > 0);
        if let Some(noted) = &mut self.noted {
            let noted = noted.entry(key).or_insert(KeyChange {
                before,
                last: offset,
                cause: change.cause,
                times: 0,
            });
            noted.last = offset;
            noted.cause = change.cause;
            noted.times += 1;
        }
        fits
    }
}

/// Calls `each` for the records of a room's events and state in a range of *output*.
pub fn each_of_room(
    reader: &PartitionReader,
    room_id: &str,
    from: u64,
    below: u64,
    mut each: impl FnMut(&StoredRecord, &Envelope<'_>),
) -> Result<(), ToolError> {
    for_each(reader, from, below, |found| {
        if !matches!(
            found.kind(),
            Some(Kind::OutputRoomEvent | Kind::OutputRoomState | Kind::OutputRoomPurged)
        ) {
            return Ok(true);
        }
        if let Ok(envelope) = found.envelope()
            && envelope.room_id == Some(room_id)
        {
            each(&found, &envelope);
        }
        Ok(true)
    })
}
