//! A world to sync from: an *output* log in memory, and a room server that
//! knows only what the reader asks of it. It authorises nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use log_format::codec;
use log_format::record::input::Transaction;
use log_format::record::output::{
    Decision, Membership, MembershipChange, Origin, OutputRoomEvent, OutputUser, Reason,
    StateChange, StateChangeCause, Timeline, Visibility,
};
use log_format::record::{Kind, NewEnvelope, Source};
use parking_lot::RwLock;
use ruma::{
    EventId, OwnedDeviceId, OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomAliasId,
    RoomId, UserId,
};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::logs::log::{Log, LogRecord, PartitionId, ReadError, Waiting, partition_of};
use crate::matrix::filter::Filter;
use crate::query::ids::{EventSn, OutputOffset, Place, RoomSn, StateId};
use crate::query::rooms::{
    Direction, QueryError, RoomHead, RoomMembership, Rooms, StateKey, StateMap, StoredEvent,
};
use crate::query::tokens::Epoch;
use crate::query::users::{Account, AccountDatum, Alias, Device, Session, Users};
use crate::readers::client_sync::{ClientSync, Ports, SyncError, SyncRequest};
use crate::readers::run::Reader;
use crate::readers::store::Write;
use crate::readers::store::memory::MemoryStore;

/// *Output* in memory.
pub struct FakeLog {
    partitions: Vec<RwLock<Vec<LogRecord>>>,
    ends: Vec<watch::Sender<u64>>,
}

impl FakeLog {
    fn new(partitions: u32) -> FakeLog {
        FakeLog {
            partitions: (0..partitions).map(|_| RwLock::default()).collect(),
            ends: (0..partitions).map(|_| watch::Sender::new(0)).collect(),
        }
    }

    fn append(&self, partition: PartitionId, kind: Kind, source: Source, new: &NewEnvelope<'_>) {
        let payload = new.encode(kind, source).into();
        let mut records = self.partitions[partition as usize].write();
        let offset = records.len() as u64;
        records.push(LogRecord {
            offset,
            time_us: 0,
            payload,
        });
        drop(records);
        self.ends[partition as usize].send_replace(offset + 1);
    }
}

impl Log for FakeLog {
    fn partitions(&self) -> u32 {
        self.partitions.len() as u32
    }

    fn end(&self, partition: PartitionId) -> u64 {
        *self.ends[partition as usize].borrow()
    }

    fn begin(&self, _: PartitionId) -> u64 {
        0
    }

    fn read(
        &self,
        partition: PartitionId,
        from: u64,
        _: usize,
    ) -> Result<Vec<LogRecord>, ReadError> {
        let records = self.partitions[partition as usize].read();
        let records = records.iter().skip(from as usize).take(16);
        Ok(records.cloned().collect())
    }

    fn link_before(&self, _: PartitionId, _: u64) -> Result<[u8; 32], ReadError> {
        Ok([0; 32])
    }

    fn wait_beyond(&self, partition: PartitionId, offset: u64) -> Waiting<'_> {
        let mut end = self.ends[partition as usize].subscribe();
        Box::pin(async move {
            end.wait_for(|end| *end > offset).await.ok();
        })
    }

    fn trim(&self, _: PartitionId, _: u64) -> Result<(), ReadError> {
        Ok(())
    }
}

/// A room of the fake room server.
#[derive(Default)]
pub struct FakeRoom {
    pub events: Vec<Arc<StoredEvent>>,
    states: Vec<StateMap>,
    pub current: StateMap,
    extremities: Vec<OwnedEventId>,
}

#[derive(Default)]
pub struct FakeRooms {
    pub rooms: RwLock<BTreeMap<OwnedRoomId, FakeRoom>>,
}

impl Rooms for FakeRooms {
    fn head(&self, _: &RoomId) -> Result<Option<Arc<RoomHead>>, QueryError> {
        Ok(None)
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

    fn rooms_of(&self, _: &UserId) -> Result<Vec<RoomMembership>, QueryError> {
        Err(QueryError::Store("sync has tables of its own".to_owned()))
    }

    fn membership(&self, _: &RoomId, _: &UserId) -> Result<Option<Membership>, QueryError> {
        Err(QueryError::Store("sync has tables of its own".to_owned()))
    }

    fn published(&self) -> Result<Vec<OwnedRoomId>, QueryError> {
        Ok(Vec::new())
    }
}

type DatumKey = (OwnedUserId, Option<OwnedRoomId>, String);

#[derive(Default)]
pub struct FakeUsers {
    data: RwLock<BTreeMap<DatumKey, AccountDatum>>,
    pub forgotten: RwLock<Vec<(OwnedUserId, OwnedRoomId)>>,
}

impl Users for FakeUsers {
    fn session(&self, _: &[u8; 32]) -> Option<Arc<Session>> {
        None
    }
    fn refresh_session(&self, _: &[u8; 32]) -> Option<(OwnedUserId, OwnedDeviceId)> {
        None
    }
    fn account(&self, _: &UserId) -> Option<Account> {
        None
    }
    fn devices(&self, _: &UserId) -> Vec<Device> {
        Vec::new()
    }
    fn profile(&self, _: &UserId) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
    fn account_data(
        &self,
        user: &UserId,
        room: Option<&RoomId>,
        event_type: &str,
    ) -> Option<AccountDatum> {
        let key = (
            user.to_owned(),
            room.map(ToOwned::to_owned),
            event_type.to_owned(),
        );
        self.data.read().get(&key).cloned()
    }
    fn all_account_data(&self, user: &UserId, room: Option<&RoomId>) -> Vec<AccountDatum> {
        let data = self.data.read();
        data.iter()
            .filter(|((of, about, _), _)| of == user && about.as_deref() == room)
            .map(|(_, datum)| datum.clone())
            .collect()
    }
    fn filter(&self, _: &UserId, _: &str) -> Option<Arc<str>> {
        None
    }
    fn forgot(&self, user: &UserId, room: &RoomId) -> bool {
        let forgotten = self.forgotten.read();
        forgotten
            .iter()
            .any(|(of, what)| of == user && what == room)
    }
    fn alias(&self, _: &RoomAliasId) -> Option<Alias> {
        None
    }
    fn aliases_of(&self, _: &RoomId) -> Vec<OwnedRoomAliasId> {
        Vec::new()
    }
}

/// How an event enters a room, beside what it says.
#[derive(Clone, Default)]
pub struct How {
    pub source: Option<Source>,
    pub transaction: Option<(OwnedDeviceId, String)>,
    /// The event builds on the state before the newest event: a fork.
    pub forks: bool,
    /// What state resolution does besides: `(type, state key)` to event id.
    pub resolves: Vec<(StateKey, Option<OwnedEventId>)>,
}

/// The world.
pub struct World {
    pub log: Arc<FakeLog>,
    pub rooms: Arc<FakeRooms>,
    pub users: Arc<FakeUsers>,
    pub sync: Arc<ClientSync>,
    store: Arc<dyn Write>,
    next_sn: u64,
}

pub fn user(name: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:here")).expect("a plain name")
}

fn open(world: &Parts, store: &Arc<dyn Write>) -> Arc<ClientSync> {
    let ports = Ports {
        store: store.clone(),
        rooms: world.1.clone(),
        users: world.2.clone(),
        output: world.0.clone(),
    };
    let server = ruma::server_name!("here").to_owned();
    Arc::new(ClientSync::open(ports, server, Epoch(1), 7).expect("tables open"))
}

type Parts = (Arc<FakeLog>, Arc<FakeRooms>, Arc<FakeUsers>);

impl World {
    pub fn new(partitions: u32) -> World {
        World::over(partitions, Arc::new(MemoryStore::default()))
    }

    /// A world whose reader keeps its rows in this store.
    pub fn over(partitions: u32, store: Arc<dyn Write>) -> World {
        let parts: Parts = (
            Arc::new(FakeLog::new(partitions)),
            Arc::default(),
            Arc::default(),
        );
        World {
            sync: open(&parts, &store),
            log: parts.0,
            rooms: parts.1,
            users: parts.2,
            store,
            next_sn: 0,
        }
    }

    /// Ends the reader and begins anew: with the rows it left, or from nothing.
    pub fn restart(&mut self, rebuild: bool) {
        let parts = (self.log.clone(), self.rooms.clone(), self.users.clone());
        if rebuild {
            self.store = Arc::new(MemoryStore::default());
        }
        self.sync = open(&parts, &self.store);
    }

    /// Folds all that the log holds.
    pub fn fold(&self) {
        for partition in 0..self.log.partitions() {
            loop {
                let next = self.sync.cursor(partition);
                let records = self.log.read(partition, next, 0).expect("in memory");
                if records.is_empty() {
                    break;
                }
                self.sync.fold(partition, &records).expect("folds");
            }
        }
    }

    pub fn create(&mut self, name: &str, creator: &UserId, visibility: Visibility) -> OwnedRoomId {
        let room = RoomId::parse(format!("!{name}:here")).expect("a plain name");
        self.state(&room, creator, "m.room.create", "", json!({}));
        self.member(&room, creator, creator, "join");
        let visibility = json!({"history_visibility": visibility.as_str()});
        self.state(&room, creator, "m.room.history_visibility", "", visibility);
        room
    }

    pub fn say(&mut self, room: &RoomId, sender: &UserId, text: &str) -> OwnedEventId {
        let content = json!({"msgtype": "m.text", "body": text});
        self.send(
            room,
            sender,
            "m.room.message",
            None,
            content,
            How::default(),
        )
    }

    pub fn member(
        &mut self,
        room: &RoomId,
        sender: &UserId,
        target: &UserId,
        word: &str,
    ) -> OwnedEventId {
        let content = json!({"membership": word});
        self.state(room, sender, "m.room.member", target.as_str(), content)
    }

    pub fn state(
        &mut self,
        room: &RoomId,
        sender: &UserId,
        kind: &str,
        key: &str,
        content: Value,
    ) -> OwnedEventId {
        self.send(room, sender, kind, Some(key), content, How::default())
    }

    /// Puts an event into a room and its record into the log.
    pub fn send(
        &mut self,
        room_id: &RoomId,
        sender: &UserId,
        kind: &str,
        state_key: Option<&str>,
        content: Value,
        how: How,
    ) -> OwnedEventId {
        self.next_sn += 1;
        let sn = self.next_sn;
        let event_id = EventId::parse(format!("$e{sn}")).expect("a plain id");
        let mut rooms = self.rooms.rooms.write();
        let room = rooms.entry(room_id.to_owned()).or_default();
        if room.states.is_empty() {
            room.states.push(StateMap::new());
        }
        let newest = room.events.last().cloned();
        let before = match (&newest, how.forks) {
            (None, _) => StateMap::new(),
            (Some(newest), true) => room.states[newest.state_before.0 as usize].clone(),
            // Merges whatever was forked: the state is what is current.
            (Some(_), false) => room.current.clone(),
        };
        let key = state_key.map(|state_key| StateKey::new(kind, state_key));
        let mut after = before.clone();
        let mut delta = Vec::new();
        let id_of = |room: &FakeRoom, sn: Option<EventSn>| {
            sn.and_then(|sn| room.events.iter().find(|event| event.event == sn))
                .map(|event| event.event_id.to_string())
        };
        if let Some(key) = &key {
            after.insert(Arc::new(key.clone()), EventSn(sn));
            let from = room.current.insert(Arc::new(key.clone()), EventSn(sn));
            delta.push(StateChange {
                kind: key.kind.to_string(),
                state_key: key.state_key.to_string(),
                from: id_of(room, from),
                to: Some(event_id.to_string()),
                cause: StateChangeCause::Event,
            });
        }
        for (key, to) in &how.resolves {
            let from = room.current.remove(key);
            let to_sn = to.as_ref().map(|to| {
                let found = room.events.iter().find(|event| event.event_id == *to);
                found.expect("an event of the room").event
            });
            if let Some(to_sn) = to_sn {
                room.current.insert(Arc::new(key.clone()), to_sn);
            }
            delta.push(StateChange {
                kind: key.kind.to_string(),
                state_key: key.state_key.to_string(),
                from: id_of(room, from),
                to: to.as_ref().map(ToString::to_string),
                cause: StateChangeCause::Resolution,
            });
        }
        let state_before = intern(&mut room.states, &before);
        let state_after = intern(&mut room.states, &after);
        room.extremities = match (how.forks, &newest) {
            (true, Some(newest)) => vec![newest.event_id.clone(), event_id.clone()],
            _ => vec![event_id.clone()],
        };
        let visibility = visibility_in(room, &before);
        let membership = (kind == "m.room.member").then(|| MembershipChange {
            user_id: state_key.unwrap_or_default().to_owned(),
            from: None,
            to: Membership::parse(content["membership"].as_str().unwrap_or_default())
                .expect("a membership"),
        });
        let mut pdu = json!({
            "type": kind, "sender": sender, "content": content, "room_id": room_id,
            "origin_server_ts": sn, "depth": sn, "prev_events": [], "auth_events": [],
            "hashes": {"sha256": "x"}, "signatures": {},
        });
        if let Some(state_key) = state_key {
            pdu["state_key"] = json!(state_key);
        }
        let place = Place(Place::FIRST.0 + u128::from(sn) * Place::STEP);
        let replaces = key.as_ref().and_then(|key| before.get(key).copied());
        let event = StoredEvent {
            room: RoomSn(0),
            event: EventSn(sn),
            event_id: event_id.clone(),
            sender: sender.to_owned(),
            kind: kind.into(),
            state_key: state_key.map(Into::into),
            origin_server_ts: sn,
            place,
            decision: Decision::Accepted,
            state_before,
            state_after,
            visibility,
            replaces,
            redacted_by: None,
            transaction: how
                .transaction
                .as_ref()
                .map(|(device, txn)| (device.clone(), txn.as_str().into())),
            json: serde_json::to_vec(&pdu).expect("JSON").into(),
        };
        let room_sn = room.events.first().map_or(sn, |first| first.event.0);
        room.events.push(Arc::new(event));
        let body = OutputRoomEvent {
            origin: origin(sn),
            decision: Decision::Accepted,
            reason: Reason::None,
            room_sn,
            event_sn: sn,
            place: place.to_bytes(),
            state_before: state_before.0,
            state_after: state_after.0,
            current_state: state_after.0,
            state_delta: delta,
            memberships: membership.into_iter().collect(),
            extremities: room.extremities.iter().map(ToString::to_string).collect(),
            visibility,
            timeline: match how.source {
                Some(Source::Backfill) => Timeline::History,
                _ => Timeline::Live,
            },
            redacts: None,
            transaction: how.transaction.map(|(device, txn_id)| Transaction {
                device_id: device.to_string(),
                txn_id,
            }),
        };
        drop(rooms);
        let body = codec::encode(&body);
        let envelope = NewEnvelope {
            key: room_id.as_str(),
            room_id: Some(room_id.as_str()),
            event_id: Some(event_id.as_str()),
            sender: Some(sender.as_str()),
            event_type: Some(kind),
            state_key,
            body: &body,
            ..NewEnvelope::default()
        };
        let partition = partition_of(room_id.as_str(), self.log.partitions());
        let source = how.source.unwrap_or(Source::Client);
        self.log
            .append(partition, Kind::OutputRoomEvent, source, &envelope);
        event_id
    }

    /// Sets account data.
    pub fn set_data(&mut self, user: &UserId, room: Option<&RoomId>, kind: &str, content: Value) {
        let partition = partition_of(user.as_str(), self.log.partitions());
        let key = (
            user.to_owned(),
            room.map(ToOwned::to_owned),
            kind.to_owned(),
        );
        let datum = AccountDatum {
            event_type: kind.to_owned(),
            content: content.to_string().into(),
            changed_at: OutputOffset(self.log.end(partition)),
        };
        self.users.data.write().insert(key, datum);
        let body = codec::encode(&OutputUser {
            origin: origin(0),
            decision: Decision::Accepted,
            reason: Reason::None,
            kind: Kind::InputAccountData.number(),
            devices: Vec::new(),
            name: None,
        });
        let envelope = NewEnvelope {
            key: user.as_str(),
            room_id: room.map(RoomId::as_str),
            event_type: Some(kind),
            body: &body,
            ..NewEnvelope::default()
        };
        self.log
            .append(partition, Kind::OutputUser, Source::Client, &envelope);
    }

    /// One request, answered without waiting.
    pub async fn ask(&self, request: SyncRequest) -> Result<Value, SyncError> {
        let answer = self.sync.sync(request).await?;
        Ok(serde_json::from_str(&answer).expect("the answer is JSON"))
    }

    /// [`World::ask`] with everything folded, for a user and a filter.
    pub async fn synced(&self, user: &UserId, since: Option<&str>, filter: Value) -> Value {
        self.fold();
        self.ask(request(user, since, filter))
            .await
            .expect("an answer")
    }
}

/// A plain request.
pub fn request(user: &UserId, since: Option<&str>, filter: Value) -> SyncRequest {
    SyncRequest {
        user: user.to_owned(),
        device: "DEVICE".into(),
        since: since.map(str::to_owned),
        filter: Arc::new(Filter::parse(filter.to_string().as_bytes()).expect("a filter")),
        full_state: false,
        timeout: Duration::ZERO,
        use_state_after: false,
    }
}

fn origin(src_offset: u64) -> Origin {
    Origin {
        src_offset,
        about: src_offset,
        src_sub: 0,
        src_last: true,
        projector_version: 1,
    }
}

fn intern(states: &mut Vec<StateMap>, state: &StateMap) -> StateId {
    let known = states.iter().position(|known| known == state);
    let id = known.unwrap_or_else(|| {
        states.push(state.clone());
        states.len() - 1
    });
    StateId(id as u64)
}

fn visibility_in(room: &FakeRoom, state: &StateMap) -> Visibility {
    let key = StateKey::new("m.room.history_visibility", "");
    let event = state.get(&key).copied();
    let event = room.events.iter().find(|known| Some(known.event) == event);
    event.map_or(Visibility::Shared, |event| {
        let pdu: Value = serde_json::from_slice(&event.json).expect("JSON");
        let word = pdu["content"]["history_visibility"].as_str();
        Visibility::parse(word.unwrap_or_default())
    })
}

/// Event ids of a section's events.
pub fn ids(events: &Value) -> Vec<String> {
    let events = events.as_array().into_iter().flatten();
    events
        .map(|event| event["event_id"].as_str().unwrap_or("none").to_owned())
        .collect()
}
