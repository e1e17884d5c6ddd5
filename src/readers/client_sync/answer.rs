//! One answer: which rooms have news for the user, and the body around them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use log_format::record::output::Membership;
use ruma::{OwnedRoomId, RoomId, UserId};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::history::{Newest, RoomHistory};
use super::lazy::KnownMembers;
use super::left::LeftRoom;
use super::memory::{Memory, RoomIx, RoomSlot, UserSlot};
use super::purged::stretches_of;
use super::room::{Candidate, Events, JoinedRoom};
use super::rows::{self, AccountDataRow, Key};
use super::stripped::stripped_state;
use super::typing::TypingChanges;
use super::{ClientSync, SyncError, SyncRequest};
use crate::clock;
use crate::logs::log::{PartitionId, partition_of};
use crate::matrix::push_rules::Ruleset;
use crate::query::ephemeral::Presence;
use crate::query::ids::{EphemeralOffset, OutputOffset};
use crate::query::notified::PUSH_RULES;
use crate::query::tokens::SyncToken;
use crate::query::unwanted::Unwanted;
use crate::query::users::AccountDatum;
use crate::storage::columns::SYNC_DATA;

/// Rows of account data that one range read takes.
const PAGE_ROWS: usize = 256;

/// The body of an answer (client-server API, `GET /sync`).
#[derive(Debug, Default, Serialize)]
struct Body {
    next_batch: String,
    #[serde(skip_serializing_if = "Events::is_empty")]
    account_data: Events,
    presence: Events,
    to_device: Events,
    device_lists: DeviceLists,
    device_one_time_keys_count: BTreeMap<String, u64>,
    rooms: Rooms,
}

#[derive(Debug, Default, Serialize)]
struct DeviceLists {
    changed: [&'static str; 0],
    left: [&'static str; 0],
}

#[derive(Debug, Default, Serialize)]
struct Rooms {
    join: BTreeMap<OwnedRoomId, JoinedRoom>,
    invite: BTreeMap<OwnedRoomId, InvitedRoom>,
    knock: BTreeMap<OwnedRoomId, KnockedRoom>,
    leave: BTreeMap<OwnedRoomId, LeftRoom>,
}

#[derive(Debug, Serialize)]
struct InvitedRoom {
    invite_state: Events,
}

#[derive(Debug, Serialize)]
struct KnockedRoom {
    knock_state: Events,
}

/// A finished answer.
#[derive(Debug)]
pub struct Built {
    pub token: SyncToken,
    body: Body,
}

impl Built {
    /// Whether it says nothing but where it stands.
    pub fn is_empty(&self) -> bool {
        let rooms = &self.body.rooms;
        self.body.account_data.is_empty()
            && self.body.presence.is_empty()
            && rooms.join.is_empty()
            && rooms.invite.is_empty()
            && rooms.knock.is_empty()
            && rooms.leave.is_empty()
    }

    /// An answer without news: known to be one before anything is looked up.
    fn nothing(token: SyncToken) -> Built {
        let next_batch = token.encode();
        Built {
            token,
            body: Body {
                next_batch,
                ..Body::default()
            },
        }
    }

    pub fn into_json(self) -> Result<String, SyncError> {
        Ok(serde_json::to_string(&self.body)?)
    }
}

/// Which account data changed; the key is the room, none for global data.
pub type ChangedData = BTreeMap<Option<OwnedRoomId>, BTreeSet<String>>;

/// An answer in the making. Everything is as of `token`, whatever comes meanwhile.
pub struct Building<'a> {
    pub sync: &'a ClientSync,
    pub request: &'a SyncRequest,
    since: Option<&'a SyncToken>,
    pub token: SyncToken,
    pub now_ms: u64,
    /// None without lazy loading.
    pub known_members: Option<KnownMembers<'a>>,
    /// What the user does not want to be told of, as of now.
    pub unwanted: Unwanted,
    /// Rooms in which others began or ceased to type.
    pub typing: TypingChanges,
    /// Rooms of the user that were purged since.
    purged: BTreeSet<OwnedRoomId>,
}

impl ClientSync {
    /// Builds the answer as of now.
    pub(super) fn build(
        &self,
        request: &SyncRequest,
        since: Option<&SyncToken>,
    ) -> Result<Built, SyncError> {
        if self.stopped.load(Ordering::Acquire) {
            return Err(SyncError::Stopped);
        }
        let user_partition = partition_of(request.user.as_str(), self.output.partitions());
        let (changes, is_same_boot) = self.changes_since(since);
        let typing = TypingChanges::new(&changes, &request.filter.room.ephemeral);
        let (token, candidates, data_changed, purged, (mut presence, came)) = {
            let memory = self.memory.read();
            let token = self.token(&memory, since, changes.to);
            let candidates = candidates(&memory, request, since, &typing);
            let purged = stretches_of(memory.user(&request.user), since, &token);
            let known = since.filter(|_| is_same_boot);
            let presence = self.presence_in(&memory, request, known, &changes);
            let since = since.and_then(|since| since.vector.get(user_partition as usize));
            let changed_at = memory
                .user(&request.user)
                .and_then(|user| user.account_data_at);
            let changed = changed_at >= since.map(|since| since.0) && changed_at.is_some();
            (token, candidates, changed, purged, presence)
        };
        self.add_presence_of_remote(request, &changes, came, &mut presence)?;
        let lazy = request.filter.room.state.lazy_load_members;
        let known_members = lazy.then(|| {
            let since = since.map(SyncToken::encode);
            self.sent_members
                .take(&request.user, &request.device, since.as_deref())
        });
        let purged = self.purged_since(&request.user, &purged)?;
        let nothing_of_rooms = candidates.is_empty() && purged.is_empty();
        if since.is_some() && nothing_of_rooms && !data_changed && presence.is_empty() {
            if let Some(known_members) = known_members {
                known_members.keep(&token.encode());
            }
            return Ok(Built::nothing(token));
        }
        let building = Building {
            sync: self,
            request,
            since,
            token,
            now_ms: clock::now_ms(),
            known_members,
            unwanted: Unwanted::of(&*self.users, &request.user),
            typing,
            purged,
        };
        let changed_data = match data_changed && since.is_some() {
            true => {
                let from = building.since(user_partition).unwrap_or(0);
                let to = building.to(user_partition);
                self.changed_account_data(&request.user, user_partition, from, to)?
            }
            false => ChangedData::new(),
        };
        building.body(candidates, changed_data, &presence)
    }

    /// The rows of a room.
    pub(super) fn history_of(&self, candidate: &Candidate) -> RoomHistory<'_> {
        RoomHistory {
            store: self.store.as_ref(),
            rooms: self.rooms.as_ref(),
            partition: candidate.partition,
            room: candidate.room,
            room_id: candidate.room_id.clone(),
            newest: candidate.newest.clone(),
        }
    }

    /// Which account data of a user changed in `[from, to)` of their partition.
    pub(super) fn changed_account_data(
        &self,
        user: &UserId,
        partition: PartitionId,
        from: u64,
        to: u64,
    ) -> Result<ChangedData, SyncError> {
        let of_user = || Key::new(partition).text(user.as_str());
        let mut changed = ChangedData::new();
        let mut next = from;
        loop {
            let (prefix, start) = (of_user(), of_user().number(next));
            let (prefix, start) = (prefix.bytes(), Some(start.bytes()));
            let page = self
                .store
                .range(SYNC_DATA, prefix, start, false, PAGE_ROWS)?;
            for (key, value) in &page {
                let offset = rows::last_number(SYNC_DATA, key)?;
                if offset >= to {
                    return Ok(changed);
                }
                next = offset + 1;
                let row: AccountDataRow = rows::decode(SYNC_DATA, value)?;
                let room = row.room_id.map(OwnedRoomId::try_from);
                let Ok(room) = room.transpose() else { continue };
                changed.entry(room).or_default().insert(row.event_type);
            }
            if page.len() < PAGE_ROWS {
                return Ok(changed);
            }
        }
    }

    /// The position of an answer: where the tables stand, and never behind the
    /// client's own position.
    pub(super) fn token(
        &self,
        memory: &Memory,
        since: Option<&SyncToken>,
        ephemeral: EphemeralOffset,
    ) -> SyncToken {
        let vector = memory
            .cursors
            .iter()
            .enumerate()
            .map(|(partition, cursor)| {
                let since = since.and_then(|since| since.vector.get(partition));
                OutputOffset(since.map_or(*cursor, |since| since.0.max(*cursor)))
            });
        SyncToken {
            epoch: self.epoch,
            vector: vector.collect(),
            to_device: since.map_or(0, |since| since.to_device),
            ephemeral: ephemeral.0,
            boot: self.boot,
        }
    }
}

/// Rooms in which something changed for the user, or all of them.
pub(super) fn candidates(
    memory: &Memory,
    request: &SyncRequest,
    since: Option<&SyncToken>,
    typing: &TypingChanges,
) -> Vec<Candidate> {
    let Some(user) = memory.user(&request.user) else {
        return Vec::new();
    };
    let concerns = |ix: &RoomIx, standing: &super::memory::Standing| {
        let slot = memory.room(*ix);
        let since = since.and_then(|since| since.vector.get(slot.partition as usize));
        since.is_none_or(|since| {
            let joined = standing.membership == Membership::Join;
            let receipts_at = receipts_at(user, slot, *ix);
            standing.changed_at >= since.0
                || (joined
                    && (slot.last_change >= since.0
                        || receipts_at >= Some(since.0)
                        || typing.has(&slot.room_id)
                        || request.full_state))
        })
    };
    user.rooms
        .iter()
        .filter(|(ix, standing)| concerns(ix, standing))
        .map(|(ix, standing)| candidate(memory, user, *ix, *standing, since))
        .filter(|candidate| request.filter.room.matches_room(&candidate.room_id))
        .collect()
}

/// Offset of the newest receipt that a user may be told of in a room: at or
/// behind the newest one of their own.
pub fn receipts_at(user: &UserSlot, slot: &RoomSlot, ix: RoomIx) -> Option<u64> {
    slot.receipts_at.max(user.own_receipts.get(&ix).copied())
}

/// A room of a user, copied from memory for an answer that tells on from `since`.
pub fn candidate(
    memory: &Memory,
    user: &UserSlot,
    ix: super::memory::RoomIx,
    standing: super::memory::Standing,
    since: Option<&SyncToken>,
) -> Candidate {
    let slot = memory.room(ix);
    let since = since.and_then(|since| since.vector.get(slot.partition as usize));
    Candidate {
        room_id: slot.room_id.clone(),
        partition: slot.partition,
        room: slot.room,
        standing,
        receipts_at: receipts_at(user, slot, ix),
        newest: Newest {
            timeline: slot.newest.timeline.since(since.map_or(0, |since| since.0)),
            ..slot.newest
        },
    }
}

impl<'a> Building<'a> {
    /// Position of the client in a partition.
    pub fn since(&self, partition: PartitionId) -> Option<u64> {
        let vector = &self.since?.vector;
        vector.get(partition as usize).map(|since| since.0)
    }

    /// Position of the client in *ephemeral*: its begin for one that was told by
    /// another process, none for one that knows nothing.
    pub fn ephemeral_since(&self) -> Option<EphemeralOffset> {
        let since = self.since?;
        let is_same_boot = since.boot == self.sync.boot;
        let told = if is_same_boot { since.ephemeral } else { 0 };
        Some(EphemeralOffset(told))
    }

    /// Position of the answer in a partition.
    pub fn to(&self, partition: PartitionId) -> u64 {
        let vector = &self.token.vector;
        vector.get(partition as usize).map_or(0, |to| to.0)
    }

    pub fn history(&self, candidate: &Candidate) -> RoomHistory<'a> {
        self.sync.history_of(candidate)
    }

    fn body(
        mut self,
        mut candidates: Vec<Candidate>,
        mut changed_data: ChangedData,
        presence: &[Arc<Presence>],
    ) -> Result<Built, SyncError> {
        let presence = self.presence_events(presence)?;
        let account_data = self.global_account_data(changed_data.remove(&None))?;
        self.add_rooms_of(&changed_data, &mut candidates);
        let mut rooms = Rooms::default();
        for candidate in candidates {
            let data = changed_data.remove(&Some(candidate.room_id.clone()));
            self.add_room(&candidate, data, &mut rooms)?;
        }
        for room_id in std::mem::take(&mut self.purged) {
            // One that came to be again is told as what it is now.
            let is_again = rooms.join.contains_key(&room_id)
                || rooms.invite.contains_key(&room_id)
                || rooms.knock.contains_key(&room_id);
            if !is_again && self.request.filter.room.matches_room(&room_id) {
                let gone = || LeftRoom::gone(self.request.state_section);
                rooms.leave.entry(room_id).or_insert_with(gone);
            }
        }
        let next_batch = self.token.encode();
        if let Some(known_members) = self.known_members {
            known_members.keep(&next_batch);
        }
        Ok(Built {
            token: self.token,
            body: Body {
                next_batch,
                account_data,
                presence,
                rooms,
                ..Body::default()
            },
        })
    }

    /// Joined rooms of which nothing changed but the user's data about them.
    fn add_rooms_of(&self, changed_data: &ChangedData, candidates: &mut Vec<Candidate>) {
        let present: BTreeSet<_> = candidates
            .iter()
            .map(|candidate| candidate.room_id.clone())
            .collect();
        let memory = self.sync.memory.read();
        let Some(user) = memory.user(&self.request.user) else {
            return;
        };
        for room_id in changed_data.keys().flatten() {
            if present.contains(room_id) || !self.request.filter.room.matches_room(room_id) {
                continue;
            }
            let Some(ix) = memory.room_ix(room_id) else {
                continue;
            };
            let standing = user.rooms.get(&ix).copied();
            // One that changed since the answer's position is for the next answer.
            let partition = memory.room(ix).partition;
            candidates.extend(
                standing
                    .filter(|standing| standing.membership == Membership::Join)
                    .filter(|standing| standing.changed_at < self.to(partition))
                    .map(|standing| candidate(&memory, user, ix, standing, self.since)),
            );
        }
    }

    fn add_room(
        &mut self,
        candidate: &Candidate,
        changed_data: Option<BTreeSet<String>>,
        rooms: &mut Rooms,
    ) -> Result<(), SyncError> {
        let room_id = candidate.room_id.clone();
        match candidate.standing.membership {
            Membership::Join => {
                if let Some(joined) = self.joined_room(candidate, changed_data)? {
                    rooms.join.insert(room_id, joined);
                }
            }
            Membership::Invite if self.is_unwanted(candidate)? => {}
            Membership::Invite => {
                let events = self.stripped_state(candidate)?;
                let invite_state = Events { events };
                rooms.invite.insert(room_id, InvitedRoom { invite_state });
            }
            Membership::Knock => {
                let events = self.stripped_state(candidate)?;
                let knock_state = Events { events };
                rooms.knock.insert(room_id, KnockedRoom { knock_state });
            }
            Membership::Leave | Membership::Ban => {
                let wanted = self.since.is_some() || self.request.filter.room.include_leave;
                if wanted && !self.sync.users.forgot(&self.request.user, &room_id) {
                    let left = self.left_room(candidate)?;
                    rooms.leave.insert(room_id, left);
                }
            }
        }
        Ok(())
    }

    /// Whether an invite is one that the user does not want to be told of.
    fn is_unwanted(&self, candidate: &Candidate) -> Result<bool, SyncError> {
        let (user, standing) = (&self.request.user, &candidate.standing);
        let inviter = self.sync.inviter(&candidate.room_id, user, standing)?;
        Ok(inviter.is_some_and(|inviter| self.unwanted.invite_from(&inviter)))
    }

    fn stripped_state(&self, candidate: &Candidate) -> Result<Vec<Box<RawValue>>, SyncError> {
        let history = self.history(candidate);
        stripped_state(&history, &self.request.user, &candidate.standing)
    }

    /// Global data: all of it for a client that knows nothing, with the push
    /// rules that hold where the user has set none.
    fn global_account_data(&self, changed: Option<BTreeSet<String>>) -> Result<Events, SyncError> {
        let data = self.account_data(None, changed);
        let filter = &self.request.filter.account_data;
        let user = &self.request.user;
        let mut events = Vec::new();
        if self.since.is_none() && filter.matches(user, PUSH_RULES) {
            events.extend(predefined_push_rules(user, &data)?);
        }
        for datum in data {
            if filter.matches(user, &datum.event_type) {
                events.push(global_event(user, &datum)?);
            }
        }
        Ok(Events { events })
    }

    /// Data about one room: what changed, or all of it where the room is new to the client.
    pub fn room_account_data(
        &self,
        room: &RoomId,
        changed: Option<BTreeSet<String>>,
        fresh: bool,
    ) -> Result<Events, SyncError> {
        let filter = &self.request.filter.room.account_data;
        if !filter.matches_room(room) || (changed.is_none() && !fresh) {
            return Ok(Events::default());
        }
        let data = match fresh {
            true => self
                .sync
                .users
                .all_account_data(&self.request.user, Some(room)),
            false => self.account_data(Some(room), changed),
        };
        let user = &self.request.user;
        let events = data
            .iter()
            .filter(|datum| filter.matches(user, &datum.event_type, || false))
            .map(|datum| account_data_event(&datum.event_type, &datum.content))
            .collect::<Result<_, _>>()?;
        Ok(Events { events })
    }

    /// The newest content of what changed. Should it be newer than this answer
    /// then the next one repeats it, which is harmless: only the last one counts.
    fn account_data(
        &self,
        room: Option<&RoomId>,
        changed: Option<BTreeSet<String>>,
    ) -> Vec<AccountDatum> {
        let (users, user) = (&self.sync.users, &self.request.user);
        match (self.since, changed) {
            (None, _) => users.all_account_data(user, room),
            (Some(_), changed) => changed
                .unwrap_or_default()
                .iter()
                .filter_map(|event_type| users.account_data(user, room, event_type))
                .collect(),
        }
    }
}

/// The push rules that hold where a user's global data has none.
pub fn predefined_push_rules(
    user: &UserId,
    data: &[AccountDatum],
) -> Result<Option<Box<RawValue>>, SyncError> {
    if data.iter().any(|datum| datum.event_type == PUSH_RULES) {
        return Ok(None);
    }
    let content = Ruleset::predefined(user).content();
    account_data_event(PUSH_RULES, &content).map(Some)
}

/// Global account data as clients see it. Push rules may have been written when
/// others were predefined.
pub fn global_event(user: &UserId, datum: &AccountDatum) -> Result<Box<RawValue>, SyncError> {
    if datum.event_type == PUSH_RULES {
        let content = Ruleset::of_user(user, Some(&datum.content)).content();
        return account_data_event(PUSH_RULES, &content);
    }
    account_data_event(&datum.event_type, &datum.content)
}

/// Account data as clients see it.
pub fn account_data_event(event_type: &str, content: &str) -> Result<Box<RawValue>, SyncError> {
    #[derive(Serialize)]
    struct Event<'a> {
        content: &'a RawValue,
        #[serde(rename = "type")]
        event_type: &'a str,
    }
    Ok(to_raw_value(&Event {
        content: serde_json::from_str(content)?,
        event_type,
    })?)
}
