//! Room states: interned ids, a tree of changes, and the history of each key.
//!
//! A state is its parent and what changed. States along a branch have rising
//! ids, so that the entry of a key at an old state is the newest one at or
//! before it: one reverse seek on that branch, then one on the branch that it
//! left, and so on. A linear room has one branch. Equal states have equal ids,
//! found by a digest: a sum (mod 2^128) over the entries of a keyed hash of
//! each, so that one change updates it in constant time. The key comes from
//! the log's random id; who does not know it cannot make two states collide.
//!
//! Ids are made from the offset of the record whose fold made the state
//! ([`StateIds`]), so they rise with the log. A key is interned as the event
//! that set it first.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use log_format::record::output::Membership;
use smallvec::SmallVec;

use super::rows::{self, HistoryEntry};
use crate::query::ids::{EventSn, RoomSn, StateId};
use crate::query::rooms::{StateKey, StateMap};
use crate::storage::columns::{
    STATE_BRANCHES, STATE_DIGESTS, STATE_HISTORY, STATE_KEYS, STATE_NODES,
};
use crate::storage::keys::{Key, RowReader, RowWriter};
use crate::storage::overlay::{Overlay, Read, StoreError};

/// Rows read at a time when a whole state is loaded: bounds the memory that
/// the walk holds beside the state itself.
const PAGE_ROWS: usize = 4096;
/// Changes of a key that are read at once when one entry is looked up: more than
/// most members ever make.
const FEW_ROWS: usize = 8;
/// So much of a digest is the key of its index; the rest is compared in the node.
const DIGEST_KEY_BYTES: usize = 8;

/// States that the fold of one record can make: a record may release others
/// that waited, and each may need a resolved state before it, the one after it
/// and a resolved current one.
const STATES_PER_RECORD: u64 = 1024;
/// A fork goes on from the tip of a branch nearer to the room's first one
/// rather than lie this deep: each branch costs a look-up a seek.
const BRANCH_DEPTH_MAX: u64 = 8;

/// The ids of the states that the fold of one record makes, in rising order.
#[derive(Clone, Debug)]
pub struct StateIds {
    next: u64,
    end: u64,
}

impl StateIds {
    /// The ids that belong to the record at this *input* offset.
    pub fn of(offset: u64) -> StateIds {
        StateIds::after(offset, 0)
    }

    /// The same behind the first `used`.
    pub fn after(offset: u64, used: u64) -> StateIds {
        let first = offset.saturating_mul(STATES_PER_RECORD);
        StateIds {
            // 0 is the empty state.
            next: first + 1 + used,
            end: first + STATES_PER_RECORD,
        }
    }

    /// How many were taken.
    pub fn used(&self) -> u64 {
        self.next - 1 - (self.end - STATES_PER_RECORD)
    }

    /// Whether a record's fold may go on: there are ids for one more event.
    pub fn suffice(&self) -> bool {
        self.next + 8 <= self.end
    }

    fn take(&mut self) -> StateId {
        let id = self.next;
        self.next += 1;
        StateId(id)
    }
}

/// The offset of the record whose fold made a state.
fn offset_of(state: StateId) -> u64 {
    state.0 / STATES_PER_RECORD
}

/// The digest of a room's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest(u128);

/// The secret of one log's digests.
#[derive(Clone)]
pub struct DigestKey([u8; 32]);

impl DigestKey {
    /// Derives the key from the log's id.
    pub fn of_log(log_id: &[u8; 16]) -> DigestKey {
        DigestKey(blake3::derive_key("engram room state digest v1", log_id))
    }

    fn entry(&self, room: RoomSn, key: u64, event: EventSn) -> u128 {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&room.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&key.to_le_bytes());
        bytes[16..].copy_from_slice(&event.0.to_le_bytes());
        let hash = blake3::keyed_hash(&self.0, &bytes);
        let mut first = [0; 16];
        first.copy_from_slice(&hash.as_bytes()[..16]);
        u128::from_le_bytes(first)
    }

    fn changed(&self, digest: Digest, room: RoomSn, change: &Change) -> Digest {
        let entry =
            |event: Option<EventSn>| event.map_or(0, |event| self.entry(room, change.key, event));
        let sum = digest.0.wrapping_sub(entry(change.from));
        Digest(sum.wrapping_add(entry(change.to)))
    }
}

/// One entry that changed, its key interned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: u64,
    pub from: Option<EventSn>,
    pub to: Option<EventSn>,
    /// Of `to`, if it is a member event.
    pub membership: Option<Membership>,
}

impl Change {
    /// The entry as it is after the change.
    pub fn entry(&self) -> HistoryEntry {
        HistoryEntry {
            event: self.to,
            membership: self.membership,
        }
    }
}

/// A state as the tables hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateNode {
    pub id: StateId,
    pub parent: StateId,
    /// Id of the state that began the branch, 0 for a room's first.
    pub branch: u64,
    pub digest: Digest,
}

impl StateNode {
    /// The state before anything happened.
    pub const EMPTY: StateNode = StateNode {
        id: StateId::EMPTY,
        parent: StateId::EMPTY,
        branch: 0,
        digest: Digest(0),
    };
}

/// The states of one room, over any tables.
#[derive(Clone, Copy)]
pub struct RoomStates<'a> {
    pub tables: &'a dyn Read,
    pub partition: u32,
    pub room: RoomSn,
}

/// States whose ids rise, each changing the one before it.
#[derive(Clone, Copy)]
struct Branch {
    /// Its newest state.
    tip: StateId,
    /// The branch that it left, and the state there at which it did.
    left: u64,
    until: StateId,
    /// Branches between it and the room's first.
    depth: u64,
}

impl Branch {
    fn encode(&self) -> Vec<u8> {
        let mut row = RowWriter::with_capacity(20);
        row.varint(self.tip.0)
            .varint(self.left)
            .varint(self.until.0)
            .varint(self.depth);
        row.finish()
    }
}

/// A branch as far as it belongs to a state: entries up to `until`.
struct Reach {
    branch: u64,
    until: StateId,
}

impl Reach {
    /// Of the branch that a state is on.
    fn of(node: &StateNode) -> Reach {
        Reach {
            branch: node.branch,
            until: node.id,
        }
    }
}

impl RoomStates<'_> {
    fn key(&self) -> Key {
        rows::room_key(self.partition, self.room)
    }

    fn history_key(&self, key: u64, branch: u64) -> Key {
        self.key().number(key).number(branch)
    }

    /// The node of a state; none if the room has no such state.
    pub fn node(&self, state: StateId) -> Result<Option<StateNode>, StoreError> {
        if state == StateId::EMPTY {
            return Ok(Some(StateNode::EMPTY));
        }
        let key = self.key().number(state.0);
        let Some(bytes) = self.tables.get(STATE_NODES, key.as_ref())? else {
            return Ok(None);
        };
        read_node(state, &mut RowReader::new(STATE_NODES, &bytes)).map(Some)
    }

    /// The interned key; none if no state of the room ever had it.
    pub fn find_key(&self, kind: &str, state_key: &str) -> Result<Option<u64>, StoreError> {
        let key = self.key().text(kind).bytes(state_key.as_bytes());
        rows::find_number(self.tables, STATE_KEYS, &key)
    }

    fn branch(&self, branch: u64) -> Result<Option<Branch>, StoreError> {
        let key = self.key().number(branch);
        let Some(bytes) = self.tables.get(STATE_BRANCHES, key.as_ref())? else {
            return Ok(None);
        };
        let mut row = RowReader::new(STATE_BRANCHES, &bytes);
        Ok(Some(Branch {
            tip: StateId(row.varint()?),
            left: row.varint()?,
            until: StateId(row.varint()?),
            depth: row.varint()?,
        }))
    }

    /// How many branches lie between a state and the room's first one.
    pub fn depth(&self, node: &StateNode) -> Result<u64, StoreError> {
        Ok(self.branch(node.branch)?.map_or(0, |branch| branch.depth))
    }

    /// A state's node, and what it changed of its parent: key and entry. One
    /// look-up, which is what a walk over many states costs.
    pub fn node_and_changes(
        &self,
        state: StateId,
    ) -> Result<(StateNode, Vec<(u64, HistoryEntry)>), StoreError> {
        let key = self.key().number(state.0);
        let Some(bytes) = self.tables.get(STATE_NODES, key.as_ref())? else {
            return Ok((StateNode::EMPTY, vec![]));
        };
        let mut row = RowReader::new(STATE_NODES, &bytes);
        let node = read_node(state, &mut row)?;
        let by = offset_of(state);
        let mut changes = vec![];
        while !row.is_empty() {
            let key = by.wrapping_sub(row.varint()?);
            let event = row.optional_varint()?;
            let event = event.map(|back| EventSn(by.wrapping_sub(back)));
            let membership = rows::read_membership(&mut row)?;
            changes.push((key, HistoryEntry { event, membership }));
        }
        Ok((node, changes))
    }

    /// The branches that a state's entries lie on, newest first.
    fn reaches(&self, state: &StateNode) -> Result<Vec<Reach>, StoreError> {
        let mut reaches = vec![];
        let mut next = Some(Reach::of(state));
        while let Some(reach) = next {
            next = self.next_reach(reach.branch)?;
            reaches.push(reach);
        }
        Ok(reaches)
    }

    /// The branch that another left, as far as it did; none for a room's first.
    fn next_reach(&self, branch: u64) -> Result<Option<Reach>, StoreError> {
        if branch == 0 {
            return Ok(None);
        }
        let Some(Branch { left, until, .. }) = self.branch(branch)? else {
            let why = format!("branch {branch} of room {} is missing", self.room.0);
            let table = STATE_BRANCHES.name;
            return Err(StoreError::Row { table, why });
        };
        Ok(Some(Reach {
            branch: left,
            until,
        }))
    }

    /// One entry of a state: one seek, or one for each branch that it lies on.
    pub fn entry(
        &self,
        state: StateId,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<HistoryEntry>, StoreError> {
        let Some(key) = self.find_key(kind, state_key)? else {
            return Ok(None);
        };
        let Some(node) = self.node(state)? else {
            return Ok(None);
        };
        self.entry_of_key(&node, key)
    }

    /// [`RoomStates::entry`] of an interned key.
    pub fn entry_of_key(
        &self,
        node: &StateNode,
        key: u64,
    ) -> Result<Option<HistoryEntry>, StoreError> {
        // Most keys changed but a few times: then one seek finds all of that,
        // however many branches the state lies on.
        let prefix = self.key().number(key);
        let rows = self
            .tables
            .range(STATE_HISTORY, prefix.as_ref(), None, false, FEW_ROWS)?;
        if rows.len() == FEW_ROWS {
            return self.entry_on_branches(node, key);
        }
        let mut changes: SmallVec<[(u64, u64, &[u8]); FEW_ROWS]> = SmallVec::new();
        for (key, value) in &rows {
            let rest = key.get(prefix.as_ref().len()..).unwrap_or_default();
            let mut row = RowReader::new(STATE_HISTORY, rest);
            changes.push((row.number()?, row.number()?, value));
        }
        let mut reach = Some(Reach::of(node));
        // Where there is nothing, no branch need be looked at.
        while let Some(Reach { branch, until }) = reach.filter(|_| !changes.is_empty()) {
            let of_branch = changes
                .iter()
                .filter(|(on, state, _)| *on == branch && *state <= until.0);
            if let Some((_, _, entry)) = of_branch.max_by_key(|(_, state, _)| *state) {
                return HistoryEntry::decode(entry).map(Some);
            }
            reach = self.next_reach(branch)?;
        }
        Ok(None)
    }

    /// [`RoomStates::entry_of_key`] of a key that changed often.
    fn entry_on_branches(
        &self,
        node: &StateNode,
        key: u64,
    ) -> Result<Option<HistoryEntry>, StoreError> {
        for reach in self.reaches(node)? {
            let prefix = self.history_key(key, reach.branch);
            let until = prefix.clone().number(reach.until.0);
            let found = self.tables.range(
                STATE_HISTORY,
                prefix.as_ref(),
                Some(until.as_ref()),
                true,
                1,
            )?;
            if let Some((_, entry)) = found.first() {
                return HistoryEntry::decode(entry).map(Some);
            }
        }
        Ok(None)
    }

    /// A whole state, with the membership of each member entry. Reads the
    /// history of all keys of the room once; memory is that of the state.
    pub fn load(
        &self,
        state: StateId,
        mut each: impl FnMut(Arc<StateKey>, EventSn, Option<Membership>),
    ) -> Result<(), StoreError> {
        let Some(node) = self.node(state)? else {
            return Ok(());
        };
        let reaches = self.reaches(&node)?;
        let entries = self.entries(&reaches)?;
        let prefix = self.key();
        self.pages(STATE_KEYS, &prefix, |mut key, value| {
            let interned = rows::read_number(STATE_KEYS, value)?;
            let Some((_, _, entry)) = entries.get(&interned) else {
                return Ok(());
            };
            if let Some(event) = entry.event {
                let kind = key.key_text()?;
                let state_key = key.rest_text()?;
                each(
                    Arc::new(StateKey::new(kind, state_key)),
                    event,
                    entry.membership,
                );
            }
            Ok(())
        })
    }

    /// [`RoomStates::load`] into a map.
    pub fn map(&self, state: StateId) -> Result<StateMap, StoreError> {
        let mut map = StateMap::new();
        self.load(state, |key, event, _| {
            map.insert(key, event);
        })?;
        Ok(map)
    }

    /// The newest entry of each key within the reaches: by key, then (how near
    /// the branch is, state).
    fn entries(
        &self,
        reaches: &[Reach],
    ) -> Result<BTreeMap<u64, (usize, u64, HistoryEntry)>, StoreError> {
        let mut entries: BTreeMap<u64, (usize, u64, HistoryEntry)> = BTreeMap::new();
        self.pages(STATE_HISTORY, &self.key(), |mut row, value| {
            let (key, branch, state) = (row.number()?, row.number()?, row.number()?);
            let near = reaches.iter().position(|reach| reach.branch == branch);
            let Some(near) = near.filter(|near| state <= reaches[*near].until.0) else {
                return Ok(());
            };
            let known = entries.get(&key);
            let newer = known.is_none_or(|(other, since, _)| {
                near < *other || (near == *other && state > *since)
            });
            if newer {
                entries.insert(key, (near, state, HistoryEntry::decode(value)?));
            }
            Ok(())
        })?;
        Ok(entries)
    }

    /// Calls `each` with what follows `prefix` in each key, and the value.
    fn pages(
        &self,
        table: crate::storage::columns::Table,
        prefix: &Key,
        mut each: impl FnMut(RowReader<'_>, &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut from: Option<Vec<u8>> = None;
        loop {
            let page =
                self.tables
                    .range(table, prefix.as_ref(), from.as_deref(), false, PAGE_ROWS)?;
            for (key, value) in &page {
                let rest = key.get(prefix.as_ref().len()..).unwrap_or_default();
                each(RowReader::new(table, rest), value)?;
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE_ROWS => {
                    // The least key behind the last one.
                    from = Some([last.as_ref(), &[0]].concat());
                }
                _ => return Ok(()),
            }
        }
    }
}

fn read_node(state: StateId, row: &mut RowReader<'_>) -> Result<StateNode, StoreError> {
    Ok(StateNode {
        id: state,
        parent: StateId(state.0.wrapping_sub(row.varint()?)),
        branch: row.varint()?,
        digest: Digest(u128::from_le_bytes(row.array()?)),
    })
}

/// Interns a key; `by` is the event that sets it, and its id if it is new.
pub fn intern_key(
    tables: &mut Overlay<'_>,
    partition: u32,
    room: RoomSn,
    (kind, state_key): (&str, &str),
    by: EventSn,
) -> Result<u64, StoreError> {
    let states = RoomStates {
        tables,
        partition,
        room,
    };
    if let Some(key) = states.find_key(kind, state_key)? {
        return Ok(key);
    }
    let key = states.key().text(kind).bytes(state_key.as_bytes());
    tables.put(STATE_KEYS, key.as_ref(), rows::number(by.0));
    Ok(by.0)
}

/// The state that `changes` make of `parent`: a known one if there is an equal
/// one, else a new one. Each change's `from` is what `parent` has.
pub fn apply(
    tables: &mut Overlay<'_>,
    partition: u32,
    room: RoomSn,
    digest_key: &DigestKey,
    parent: &StateNode,
    changes: &[Change],
    ids: &mut StateIds,
) -> Result<StateNode, StoreError> {
    let mut digest = parent.digest;
    for change in changes {
        digest = digest_key.changed(digest, room, change);
    }
    for known in [parent, &StateNode::EMPTY] {
        if digest == known.digest {
            return Ok(*known);
        }
    }
    let states = RoomStates {
        tables,
        partition,
        room,
    };
    let room_key = states.key();
    let bytes = digest.0.to_le_bytes();
    let index = room_key.clone().bytes(&bytes[..DIGEST_KEY_BYTES]);
    let known = rows::find_number(tables, STATE_DIGESTS, &index)?;
    if let Some(known) = known
        && let Some(node) = states.node(StateId(known))?
        && node.digest == digest
    {
        return Ok(node);
    }
    let mut parent = *parent;
    let mut gathered = Cow::Borrowed(changes);
    let mut fork = states.branch(parent.branch)?;
    while let Some(branch) = fork
        && branch.tip != parent.id
        && branch.depth >= BRANCH_DEPTH_MAX
    {
        // Says the same from the tip of the branch that this one left.
        let left = states.branch(branch.left)?;
        let tip = left.map_or(StateId::EMPTY, |left| left.tip);
        let tip = states.node(tip)?.unwrap_or(StateNode::EMPTY);
        gathered = Cow::Owned(states.moved(&tip, &parent, &gathered)?);
        (parent, fork) = (tip, left);
    }
    let new = ids.take();
    let row = match fork {
        None => Branch {
            tip: new,
            left: 0,
            until: StateId::EMPTY,
            depth: 0,
        },
        Some(branch) if branch.tip == parent.id => Branch { tip: new, ..branch },
        Some(branch) => Branch {
            tip: new,
            left: parent.branch,
            until: parent.id,
            depth: branch.depth + 1,
        },
    };
    let extends = fork.is_none_or(|branch| branch.tip == parent.id);
    let node = StateNode {
        id: new,
        parent: parent.id,
        branch: match extends {
            true => parent.branch,
            false => new.0,
        },
        digest,
    };
    put_node(tables, &room_key, &node, &gathered);
    if known.is_none() {
        tables.put(STATE_DIGESTS, index.as_ref(), rows::number(new.0));
    }
    let key = room_key.number(node.branch);
    tables.put(STATE_BRANCHES, key.as_ref(), row.encode());
    Ok(node)
}

fn put_node(tables: &mut Overlay<'_>, room_key: &Key, node: &StateNode, changes: &[Change]) {
    let mut row = RowWriter::with_capacity(32);
    row.varint(node.id.0 - node.parent.0)
        .varint(node.branch)
        .bytes(&node.digest.0.to_le_bytes());
    let by = offset_of(node.id);
    for change in changes {
        // Interned keys and events are offsets up to that of the fold that
        // makes the state: the differences are shorter than the numbers.
        row.varint(by.wrapping_sub(change.key))
            .optional_varint(change.to.map(|event| by.wrapping_sub(event.0)))
            .u8(rows::membership_byte(change.membership));
        let key = room_key
            .clone()
            .number(change.key)
            .number(node.branch)
            .number(node.id.0);
        tables.put(STATE_HISTORY, key.as_ref(), change.entry().encode());
    }
    let key = room_key.clone().number(node.id.0);
    tables.put(STATE_NODES, key.as_ref(), row.finish());
}
