//! A room as a graph of events, for the window to show. Nothing is authorised,
//! and state is resolved by a toy rule: the newest event wins a key, unless a
//! salt says the oldest does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use log_format::record::output::{Decision, Membership, Visibility};
use ruma::{EventId, OwnedEventId, OwnedUserId, RoomId, UserId, room_id};
use serde_json::{Value, json};

use crate::matrix::RoomVersion;
use crate::matrix::auth_rules::CreateInfo;
use crate::matrix::canonical_json::parse_object;
use crate::matrix::history_visibility::{membership_of, visibility_of};
use crate::query::authority::{Authority, Member};
use crate::query::ids::{EventSn, Place, RoomSn, StateId};
use crate::query::rooms::{QueryError, RoomHead, StateKey, StateMap, StoredEvent};
use crate::query::testing::FewRooms;

pub const MEMBER: &str = "m.room.member";
pub const VISIBILITY: &str = "m.room.history_visibility";

pub fn the_room() -> &'static RoomId {
    room_id!("!room:hs")
}

/// An event to add.
pub struct New<'a> {
    pub sender: &'a UserId,
    pub kind: &'a str,
    pub state_key: Option<&'a str>,
    pub content: Value,
}

/// How often the window was asked for what costs.
#[derive(Debug, Default)]
pub struct Asked {
    pub events: AtomicUsize,
    pub entries: AtomicUsize,
    pub states: AtomicUsize,
}

impl Asked {
    pub fn counts(&self) -> (usize, usize, usize) {
        let count = |asked: &AtomicUsize| asked.load(Ordering::Relaxed);
        (
            count(&self.events),
            count(&self.entries),
            count(&self.states),
        )
    }
}

/// The room. Event `n` has the interned id `n`.
#[derive(Default)]
pub struct Graph {
    pub version: Option<RoomVersion>,
    pub events: Vec<Arc<StoredEvent>>,
    pub states: Vec<StateMap>,
    parents: Vec<Vec<usize>>,
    pub asked: Asked,
    head: Option<Arc<RoomHead>>,
}

impl Graph {
    pub fn new() -> Graph {
        Graph {
            states: vec![StateMap::new()],
            ..Graph::default()
        }
    }

    /// Adds an event behind these, or behind the last one.
    pub fn add(&mut self, parents: &[usize], new: New<'_>) -> usize {
        let index = self.events.len();
        let parents = match parents {
            [] => index.checked_sub(1).into_iter().collect(),
            parents => parents.to_vec(),
        };
        let before = self.resolve(&parents);
        let mut after = before.clone();
        let mut replaces = None;
        if let Some(state_key) = new.state_key {
            let key = Arc::new(StateKey::new(new.kind, state_key));
            replaces = after.insert(key, EventSn(index as u64));
        }
        let pdu = json!({
            "type": new.kind, "content": new.content, "sender": new.sender,
            "redacts": new.content.get("redacts"),
        });
        let visibility = self.visibility(&before);
        let event = StoredEvent {
            room: RoomSn(0),
            event: EventSn(index as u64),
            event_id: id(index),
            sender: new.sender.to_owned(),
            kind: new.kind.into(),
            state_key: new.state_key.map(Into::into),
            origin_server_ts: 0,
            place: Place(Place::FIRST.0 + index as u128 * Place::STEP),
            decision: Decision::Accepted,
            state_before: self.intern(&before),
            state_after: self.intern(&after),
            visibility,
            replaces,
            redacted_by: None,
            transaction: None,
            json: serde_json::to_vec(&pdu).unwrap().into(),
        };
        self.events.push(Arc::new(event));
        self.parents.push(parents);
        self.head = None;
        index
    }

    pub fn create(&mut self, sender: &UserId) {
        let (kind, content) = ("m.room.create", json!({}));
        self.state(&[], sender, kind, "", content);
    }

    pub fn state(
        &mut self,
        parents: &[usize],
        sender: &UserId,
        kind: &str,
        state_key: &str,
        content: Value,
    ) -> usize {
        let new = New {
            sender,
            kind,
            state_key: Some(state_key),
            content,
        };
        self.add(parents, new)
    }

    pub fn member(&mut self, parents: &[usize], user: &UserId, membership: Membership) -> usize {
        let content = json!({ "membership": membership.as_str() });
        self.state(parents, user, MEMBER, user.as_str(), content)
    }

    pub fn shows(&mut self, parents: &[usize], sender: &UserId, to: Visibility) -> usize {
        let content = json!({ "history_visibility": to.as_str() });
        self.state(parents, sender, VISIBILITY, "", content)
    }

    pub fn say(&mut self, parents: &[usize], sender: &UserId) -> usize {
        let new = New {
            sender,
            kind: "m.room.message",
            state_key: None,
            content: json!({ "body": "x" }),
        };
        self.add(parents, new)
    }

    pub fn change(&mut self, index: usize, change: impl FnOnce(&mut StoredEvent)) {
        change(Arc::make_mut(&mut self.events[index]));
    }

    /// The state behind these events.
    fn resolve(&self, events: &[usize]) -> StateMap {
        let mut resolved = StateMap::new();
        for event in events {
            for (key, sn) in &self.states[self.events[*event].state_after.0 as usize] {
                let other = resolved.get(key).copied().unwrap_or(*sn);
                let oldest_wins = (other.0 + sn.0) % 3 == 0;
                let winner = if oldest_wins {
                    other.min(*sn)
                } else {
                    other.max(*sn)
                };
                resolved.insert(key.clone(), winner);
            }
        }
        resolved
    }

    fn intern(&mut self, state: &StateMap) -> StateId {
        let known = self.states.iter().position(|known| known == state);
        let id = known.unwrap_or_else(|| {
            self.states.push(state.clone());
            self.states.len() - 1
        });
        StateId(id as u64)
    }

    pub fn visibility(&self, state: &StateMap) -> Visibility {
        let event = state.get(&StateKey::new(VISIBILITY, ""));
        event.map_or(Visibility::Shared, |event| {
            visibility_of(&self.events[event.0 as usize].json)
        })
    }

    pub fn membership(&self, state: &StateMap, user: &UserId) -> Option<Membership> {
        let event = state.get(&StateKey::new(MEMBER, user.as_str()))?;
        membership_of(&self.events[event.0 as usize].json)
    }

    /// Makes the head that the window shows, from all events without a child.
    pub fn finish(&mut self) {
        let parents: Vec<usize> = self.parents.iter().flatten().copied().collect();
        let leaves = (0..self.events.len()).filter(|index| !parents.contains(index));
        let state = self.resolve(&leaves.collect::<Vec<_>>());
        let create = self.events[0].clone();
        let version = self.version.unwrap_or(RoomVersion::V11);
        let info = CreateInfo::parse(
            version,
            create.event_id.clone(),
            the_room().to_owned(),
            create.sender.clone(),
            &parse_object(br#"{"creator":"@creator:hs"}"#).unwrap(),
        );
        let mut authority = Authority::of_create(create.event, info.unwrap());
        for (key, sn) in state.iter().filter(|(key, _)| &*key.kind == MEMBER) {
            let user = OwnedUserId::try_from(&*key.state_key).unwrap();
            let (event, membership) = (*sn, self.membership(&state, &user).unwrap());
            authority.members.insert(user, Member { membership, event });
        }
        let head = RoomHead {
            room_id: the_room().to_owned(),
            room: RoomSn(0),
            version: version.id(),
            extremities: Arc::new([]),
            last_place: self.events[self.events.len() - 1].place,
            state_id: self.intern(&state),
            visibility: self.visibility(&state),
            state,
            authority: Arc::new(authority),
            joined_members: 0,
            invited_members: 0,
            servers: imbl::OrdMap::new(),
        };
        self.head = Some(Arc::new(head));
    }

    pub fn head_of(&self) -> Arc<RoomHead> {
        self.head.clone().expect("finished")
    }

    pub fn set_head(&mut self, head: RoomHead) {
        self.head = Some(Arc::new(head));
    }

    pub fn current(&self) -> &StateMap {
        &self.head.as_ref().expect("finished").state
    }
}

pub fn id(index: usize) -> OwnedEventId {
    EventId::parse(format!("$e{index}")).unwrap()
}

impl FewRooms for Graph {
    fn head(&self, room: &RoomId) -> Result<Option<Arc<RoomHead>>, QueryError> {
        Ok(self.head.clone().filter(|_| room == the_room()))
    }

    fn head_by_sn(&self, _: u32, _: RoomSn) -> Result<Option<Arc<RoomHead>>, QueryError> {
        Ok(self.head.clone())
    }

    fn event(&self, _: &RoomId, id: &EventId) -> Result<Option<Arc<StoredEvent>>, QueryError> {
        let mut events = self.events.iter();
        Ok(events.find(|event| event.event_id == id).cloned())
    }

    fn events(&self, _: &RoomId, sns: &[EventSn]) -> Result<Vec<Arc<StoredEvent>>, QueryError> {
        self.asked.events.fetch_add(sns.len(), Ordering::Relaxed);
        let found = sns.iter().filter_map(|sn| self.events.get(sn.0 as usize));
        Ok(found.cloned().collect())
    }

    fn state(&self, _: &RoomId, state: StateId) -> Result<StateMap, QueryError> {
        self.asked.states.fetch_add(1, Ordering::Relaxed);
        Ok(self.states[state.0 as usize].clone())
    }

    fn state_entry(
        &self,
        _: &RoomId,
        state: StateId,
        key: &StateKey,
    ) -> Result<Option<EventSn>, QueryError> {
        self.asked.entries.fetch_add(1, Ordering::Relaxed);
        Ok(self.states[state.0 as usize].get(key).copied())
    }

    fn membership(&self, _: &RoomId, user: &UserId) -> Result<Option<Membership>, QueryError> {
        Ok(Graph::membership(self, self.current(), user))
    }
}
