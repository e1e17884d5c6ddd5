//! A room server that authorises nothing: it does to a room what a test says a
//! fold did, and knows the room as the window would show it.

use std::collections::BTreeMap;
use std::sync::Arc;

use log_format::codec;
use log_format::record::input::Transaction;
use log_format::record::output::{
    Decision, Membership, MembershipChange, OutputRoomEvent, OutputRoomState, Reason, StateChange,
    StateChangeCause, Timeline, Visibility,
};
use log_format::record::{Kind, NewEnvelope};
use parking_lot::RwLock;
use ruma::{EventId, OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::{Value, json};

use super::world::origin;
use crate::matrix::RoomVersion;
use crate::matrix::auth_rules::{CreateInfo, PowerLevels};
use crate::matrix::canonical_json::{parse_object, to_bytes};
use crate::matrix::history_visibility::{membership_of, visibility_of};
use crate::matrix::redaction::redact;
use crate::query::authority::{Authority, Member};
use crate::query::ids::{EventSn, Place, RoomSn, StateId};
use crate::query::rooms::{
    Direction, QueryError, RoomHead, RoomMembership, Rooms, StateKey, StateMap, StoredEvent,
};

const MEMBER: &str = "m.room.member";
const VERSION: RoomVersion = RoomVersion::V11;

/// What became of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// Accepted at the end of the timeline; a state event enters current state.
    #[default]
    Live,
    /// Accepted at the end of the timeline, but another event keeps its key.
    Loses,
    /// Kept, and in no timeline.
    SoftFailed,
    /// Older than what is known.
    History,
}

/// How an event enters a room, beside what it says.
#[derive(Clone, Default)]
pub struct How {
    pub transaction: Option<(OwnedDeviceId, String)>,
    /// The state that it builds on, if not the current one: a fork.
    pub on: Option<StateId>,
    pub fate: Fate,
    /// What state resolution does besides: `(type, state key)` to event id.
    pub resolves: Vec<(StateKey, Option<OwnedEventId>)>,
    /// Records in which the change of state comes before the event's own.
    pub parts: usize,
    /// What lies before the event is missing.
    pub behind_gap: bool,
}

/// What an event is.
#[derive(Clone, Copy)]
pub struct What<'a> {
    pub sender: &'a UserId,
    pub kind: &'a str,
    pub state_key: Option<&'a str>,
    pub content: &'a Value,
}

/// A record that the fold of one event made.
pub struct Made {
    pub kind: Kind,
    pub body: Vec<u8>,
}

/// A room of the fake room server.
#[derive(Default)]
pub struct FakeRoom {
    /// In the order of their records.
    pub events: Vec<Arc<StoredEvent>>,
    pub timelines: Vec<Timeline>,
    /// Current state behind each event's record.
    pub currents: Vec<StateId>,
    pub states: Vec<StateMap>,
    pub current: StateMap,
    gaps: u128,
}

impl FakeRoom {
    pub fn event(&self, sn: EventSn) -> &Arc<StoredEvent> {
        let found = self.events.iter().find(|event| event.event == sn);
        found.expect("an event of the room")
    }

    fn named(&self, id: &EventId) -> &Arc<StoredEvent> {
        let found = self.events.iter().find(|event| event.event_id == id);
        found.expect("an event of the room")
    }

    /// The event that holds a key in a state.
    pub fn entry(&self, state: StateId, kind: &str, key: &str) -> Option<&Arc<StoredEvent>> {
        let sn = self.states[state.0 as usize].get(&StateKey::new(kind, key));
        sn.map(|sn| self.event(*sn))
    }

    pub fn membership(&self, state: StateId, user: &UserId) -> Option<Membership> {
        let event = self.entry(state, MEMBER, user.as_str())?;
        membership_of(&event.json)
    }

    pub fn visibility(&self, state: StateId) -> Visibility {
        let event = self.entry(state, "m.room.history_visibility", "");
        event.map_or(Visibility::Shared, |event| visibility_of(&event.json))
    }

    /// Folds an event, and gives its records.
    pub fn fold(
        &mut self,
        room_id: &RoomId,
        sn: u64,
        event_id: &EventId,
        what: What<'_>,
        how: &How,
    ) -> Vec<Made> {
        if self.states.is_empty() {
            self.states.push(StateMap::new());
        }
        if how.behind_gap {
            self.gaps += Place::START.behind_gap().0;
        }
        let before = match how.on {
            Some(state) => self.states[state.0 as usize].clone(),
            None => self.current.clone(),
        };
        let key = what.state_key.map(|key| StateKey::new(what.kind, key));
        let mut after = before.clone();
        let mut current = self.current.clone();
        if let Some(key) = &key {
            after.insert(Arc::new(key.clone()), EventSn(sn));
            if how.fate == Fate::Live {
                current.insert(Arc::new(key.clone()), EventSn(sn));
            }
        }
        let (state_before, state_after) = (self.intern(&before), self.intern(&after));
        let event = self.stored(
            room_id,
            sn,
            event_id,
            what,
            how,
            (state_before, state_after),
        );
        let visibility = event.visibility;
        self.events.push(Arc::new(event));
        for (key, to) in &how.resolves {
            let to = to.as_ref().map(|to| self.named(to).event);
            match to {
                Some(to) => current.insert(Arc::new(key.clone()), to),
                None => current.remove(key),
            };
        }
        let mut delta = self.delta(&current, EventSn(sn));
        let mut members = self.member_changes(&delta);
        // The event's own first.
        let is_own = |change: &MembershipChange| {
            what.kind == MEMBER && what.state_key == Some(&*change.user_id)
        };
        members.sort_by_key(|change| !is_own(change));
        self.current = current.clone();
        let current = self.intern(&current);
        self.currents.push(current);
        let timeline = match how.fate {
            Fate::Live | Fate::Loses => Timeline::Live,
            Fate::SoftFailed => Timeline::Outside,
            Fate::History => Timeline::History,
        };
        self.timelines.push(timeline);
        let room_sn = self.events.first().map_or(sn, |first| first.event.0);
        let mut made = Vec::new();
        for part in 0..how.parts {
            // Each part has a share, the last record the rest.
            let share = delta.len() / (how.parts - part + 1);
            let state_delta: Vec<_> = delta.drain(..share).collect();
            // As many memberships go with a part as it has member events, but
            // they need not be the same users'.
            let of_members = state_delta.iter().filter(|change| change.kind == MEMBER);
            let of_members = of_members.count().min(members.len());
            let memberships = members.drain(..of_members).collect();
            made.push(Made {
                kind: Kind::OutputRoomState,
                body: codec::encode(&OutputRoomState {
                    origin: origin(sn, part as u32, false),
                    room_sn,
                    state_delta,
                    memberships,
                }),
            });
        }
        let stored = self.events.last().expect("just pushed");
        let body = OutputRoomEvent {
            origin: origin(sn, how.parts as u32, true),
            decision: stored.decision,
            reason: Reason::None,
            room_sn,
            event_sn: sn,
            place: stored.place.to_bytes(),
            state_before: state_before.0,
            state_after: state_after.0,
            current_state: current.0,
            state_delta: delta,
            memberships: members,
            extremities: vec![event_id.to_string()],
            visibility,
            timeline,
            redacts: what.content["redacts"].as_str().map(str::to_owned),
            thread: None,
            transaction: how
                .transaction
                .as_ref()
                .map(|(device, txn_id)| Transaction {
                    device_id: device.to_string(),
                    txn_id: txn_id.clone(),
                }),
        };
        made.push(Made {
            kind: Kind::OutputRoomEvent,
            body: codec::encode(&body),
        });
        made
    }

    fn stored(
        &self,
        room_id: &RoomId,
        sn: u64,
        event_id: &EventId,
        what: What<'_>,
        how: &How,
        (state_before, state_after): (StateId, StateId),
    ) -> StoredEvent {
        let mut pdu = json!({
            "type": what.kind, "sender": what.sender, "content": what.content, "room_id": room_id,
            "origin_server_ts": sn, "depth": sn, "prev_events": [], "auth_events": [],
            "hashes": {"sha256": "x"}, "signatures": {},
        });
        if let Some(state_key) = what.state_key {
            pdu["state_key"] = json!(state_key);
        }
        let distance = u128::from(sn) * Place::STEP + self.gaps;
        let place = match how.fate {
            Fate::Live | Fate::Loses => Place(Place::FIRST.0 + distance),
            Fate::SoftFailed => Place::START,
            Fate::History => Place(Place::FIRST.0 - distance),
        };
        let key = what.state_key.map(|key| StateKey::new(what.kind, key));
        StoredEvent {
            room: RoomSn(0),
            event: EventSn(sn),
            event_id: event_id.to_owned(),
            sender: what.sender.to_owned(),
            kind: what.kind.into(),
            state_key: what.state_key.map(Into::into),
            origin_server_ts: sn,
            place,
            decision: match how.fate {
                Fate::SoftFailed => Decision::SoftFailed,
                _ => Decision::Accepted,
            },
            state_before,
            state_after,
            visibility: self.visibility(state_before),
            replaces: key.and_then(|key| self.states[state_before.0 as usize].get(&key).copied()),
            redacted_by: None,
            transaction: how
                .transaction
                .as_ref()
                .map(|(device, txn)| (device.clone(), txn.as_str().into())),
            json: serde_json::to_vec(&pdu).expect("JSON").into(),
        }
    }

    /// Marks an event as redacted by another, and serves it so.
    pub fn redact(&mut self, target: &EventId, by: &EventId) {
        let by = self.named(by).event;
        let mut events = self.events.iter_mut();
        let target = events.find(|event| event.event_id == target);
        let target = Arc::make_mut(target.expect("an event of the room"));
        let object = parse_object(&target.json).expect("an event");
        target.json = to_bytes(&redact(&VERSION.rules().redaction, &object)).into();
        target.redacted_by = Some(by);
    }

    fn delta(&self, next: &StateMap, event: EventSn) -> Vec<StateChange> {
        let mut keys: Vec<_> = self.current.keys().chain(next.keys()).collect();
        keys.sort();
        keys.dedup();
        let id = |sn: Option<&EventSn>| sn.map(|sn| self.event(*sn).event_id.to_string());
        let changed = keys
            .into_iter()
            .filter(|key| self.current.get(*key) != next.get(*key));
        changed
            .map(|key| StateChange {
                kind: key.kind.to_string(),
                state_key: key.state_key.to_string(),
                from: id(self.current.get(key)),
                to: id(next.get(key)),
                cause: match next.get(key) == Some(&event) {
                    true => StateChangeCause::Event,
                    false => StateChangeCause::Resolution,
                },
            })
            .collect()
    }

    fn member_changes(&self, delta: &[StateChange]) -> Vec<MembershipChange> {
        let said = |id: &Option<String>| {
            let id = id
                .as_deref()
                .map(|id| <&EventId>::try_from(id).expect("an id"));
            id.and_then(|id| membership_of(&self.named(id).json))
        };
        let members = delta.iter().filter(|change| change.kind == MEMBER);
        members
            .map(|change| MembershipChange {
                user_id: change.state_key.clone(),
                from: said(&change.from),
                to: said(&change.to).unwrap_or(Membership::Leave),
            })
            .collect()
    }

    fn intern(&mut self, state: &StateMap) -> StateId {
        let known = self.states.iter().position(|known| known == state);
        let id = known.unwrap_or_else(|| {
            self.states.push(state.clone());
            self.states.len() - 1
        });
        StateId(id as u64)
    }

    fn head(&self, room_id: &RoomId) -> Option<RoomHead> {
        let create = self.events.first()?;
        let info = CreateInfo::parse(
            VERSION,
            create.event_id.clone(),
            room_id.to_owned(),
            create.sender.clone(),
            &parse_object(b"{}").expect("JSON"),
        );
        let mut authority = Authority::of_create(create.event, info.expect("a create event"));
        for (key, sn) in self.current.iter().filter(|(key, _)| &*key.kind == MEMBER) {
            let membership = membership_of(&self.event(*sn).json).expect("a membership");
            let user = OwnedUserId::try_from(&*key.state_key).expect("a user id");
            let event = *sn;
            authority.members.insert(user, Member { membership, event });
        }
        let levels = self.current.get(&StateKey::new("m.room.power_levels", ""));
        authority.power = levels.map(|sn| {
            let pdu: Value = serde_json::from_slice(&self.event(*sn).json).expect("JSON");
            let content = parse_object(pdu["content"].to_string().as_bytes()).expect("JSON");
            Arc::new(PowerLevels::parse(VERSION, &content).expect("levels"))
        });
        let count = |wanted| {
            let members = authority.members.values();
            members.filter(|member| member.membership == wanted).count() as u64
        };
        let state_id = *self.currents.last()?;
        Some(RoomHead {
            room_id: room_id.to_owned(),
            room: RoomSn(0),
            version: VERSION.id(),
            extremities: Arc::new([]),
            last_place: create.place,
            state_id,
            state: self.current.clone(),
            visibility: self.visibility(state_id),
            joined_members: count(Membership::Join),
            invited_members: count(Membership::Invite),
            servers: imbl::OrdMap::new(),
            authority: Arc::new(authority),
        })
    }
}

#[derive(Default)]
pub struct FakeRooms {
    pub rooms: RwLock<BTreeMap<OwnedRoomId, FakeRoom>>,
}

impl FakeRooms {
    /// The envelope under which a room's record is appended.
    pub fn envelope<'a>(
        room: &'a RoomId,
        event: &'a EventId,
        what: &'a What<'a>,
        body: &'a [u8],
    ) -> NewEnvelope<'a> {
        NewEnvelope {
            key: room.as_str(),
            room_id: Some(room.as_str()),
            event_id: Some(event.as_str()),
            sender: Some(what.sender.as_str()),
            event_type: Some(what.kind),
            state_key: what.state_key,
            body,
            ..NewEnvelope::default()
        }
    }
}

impl Rooms for FakeRooms {
    fn head(&self, room: &RoomId) -> Result<Option<Arc<RoomHead>>, QueryError> {
        let rooms = self.rooms.read();
        let head = rooms.get(room).and_then(|known| known.head(room));
        Ok(head.map(Arc::new))
    }

    fn head_by_sn(&self, _: u32, _: RoomSn) -> Result<Option<Arc<RoomHead>>, QueryError> {
        Ok(None)
    }

    fn event(&self, room: &RoomId, id: &EventId) -> Result<Option<Arc<StoredEvent>>, QueryError> {
        let rooms = self.rooms.read();
        let mut events = rooms.get(room).into_iter().flat_map(|room| &room.events);
        Ok(events.find(|event| event.event_id == id).cloned())
    }

    fn events(&self, room: &RoomId, sns: &[EventSn]) -> Result<Vec<Arc<StoredEvent>>, QueryError> {
        let rooms = self.rooms.read();
        let Some(room) = rooms.get(room) else {
            return Ok(Vec::new());
        };
        let find = |sn: &EventSn| room.events.iter().find(|event| event.event == *sn).cloned();
        Ok(sns.iter().filter_map(find).collect())
    }

    fn state(&self, room: &RoomId, state: StateId) -> Result<StateMap, QueryError> {
        let rooms = self.rooms.read();
        let states = rooms
            .get(room)
            .and_then(|room| room.states.get(state.0 as usize));
        Ok(states.cloned().unwrap_or_default())
    }

    fn state_entry(
        &self,
        room: &RoomId,
        state: StateId,
        key: &StateKey,
    ) -> Result<Option<EventSn>, QueryError> {
        Ok(self.state(room, state)?.get(key).copied())
    }

    fn timeline(
        &self,
        _: &RoomId,
        _: Place,
        _: Direction,
        _: usize,
    ) -> Result<Vec<(Place, EventSn)>, QueryError> {
        Err(QueryError::Store(
            "sync does not walk in room order".to_owned(),
        ))
    }

    fn transaction(&self, _: &RoomId, _: &[u8; 16]) -> Result<Option<OwnedEventId>, QueryError> {
        Ok(None)
    }

    fn rooms_of(&self, user: &UserId) -> Result<Vec<RoomMembership>, QueryError> {
        let rooms = self.rooms.read();
        let entry = |(room_id, room): (&OwnedRoomId, &FakeRoom)| {
            let event = *room.current.get(&StateKey::new(MEMBER, user.as_str()))?;
            Some(RoomMembership {
                room_id: room_id.clone(),
                membership: membership_of(&room.event(event).json)?,
                event,
            })
        };
        Ok(rooms.iter().filter_map(entry).collect())
    }

    fn membership(&self, _: &RoomId, _: &UserId) -> Result<Option<Membership>, QueryError> {
        Err(QueryError::Store("sync has tables of its own".to_owned()))
    }

    fn published(&self) -> Result<Vec<OwnedRoomId>, QueryError> {
        Ok(Vec::new())
    }
}
