//! A world to sync from: an *output* log in memory, users, and the rooms of
//! [`super::fake_rooms`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use log_format::codec;
use log_format::record::input::ReceiptType;
use log_format::record::output::{Decision, Origin, OutputReceipt, OutputUser, Reason, Visibility};
use log_format::record::{Kind, NewEnvelope, Source};
use parking_lot::RwLock;
use ruma::{
    EventId, OwnedDeviceId, OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomAliasId,
    RoomId, UserId,
};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::fake_rooms::{FakeRooms, Fate, How, What};
use crate::logs::log::{Log, LogRecord, PartitionId, ReadError, Waiting, partition_of};
use crate::matrix::filter::Filter;
use crate::query::ephemeral::fake::Silence;
use crate::query::ids::{OutputOffset, StateId};
use crate::query::receipts::fake::SomeReceipts;
use crate::query::receipts::{Receipt, ReceiptThread};
use crate::query::relations::fake::NoRelations;
use crate::query::rooms::Rooms;
use crate::query::tokens::Epoch;
use crate::query::users::{Account, AccountDatum, Alias, Device, Session, Users};
use crate::readers::client_sync::{ClientSync, Ports, StateSection, SyncError, SyncRequest};
use crate::readers::run::Reader;
use crate::readers::store::Write;
use crate::readers::store::memory::MemoryStore;

/// *Output* in memory.
pub struct FakeLog {
    partitions: Vec<RwLock<Vec<LogRecord>>>,
    ends: Vec<watch::Sender<u64>>,
    /// Time of the next record, in microseconds.
    clock_us: AtomicU64,
}

impl FakeLog {
    pub fn new(partitions: u32) -> FakeLog {
        FakeLog {
            partitions: (0..partitions).map(|_| RwLock::default()).collect(),
            ends: (0..partitions).map(|_| watch::Sender::new(0)).collect(),
            clock_us: AtomicU64::new(1_000_000),
        }
    }

    pub fn append(
        &self,
        partition: PartitionId,
        kind: Kind,
        source: Source,
        new: &NewEnvelope<'_>,
    ) {
        let payload = new.encode(kind, source).into();
        let mut records = self.partitions[partition as usize].write();
        let offset = records.len() as u64;
        records.push(LogRecord {
            offset,
            time_us: self.clock_us.fetch_add(1_000, Ordering::Relaxed),
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

type DatumKey = (OwnedUserId, Option<OwnedRoomId>, String);

#[derive(Default)]
pub struct FakeUsers {
    data: RwLock<BTreeMap<DatumKey, AccountDatum>>,
    pub forgotten: RwLock<Vec<(OwnedUserId, OwnedRoomId)>>,
    /// Accounts and their profiles; those that ended have none.
    accounts: RwLock<BTreeMap<OwnedUserId, Option<BTreeMap<String, String>>>>,
}

impl FakeUsers {
    /// An account begins or ends, or a field of its profile is set or removed.
    pub fn change(&self, user: &UserId, kind: Kind, field: Option<&str>, json: Option<&str>) {
        let mut accounts = self.accounts.write();
        let profile = accounts
            .entry(user.to_owned())
            .or_insert(Some(BTreeMap::new()));
        match (kind, field, json, &mut *profile) {
            (Kind::InputAccountDeactivated, ..) => *profile = None,
            (_, Some(field), Some(json), Some(fields)) => {
                fields.insert(field.to_owned(), json.to_owned());
            }
            (_, Some(field), None, Some(fields)) => {
                fields.remove(field);
            }
            _ => {}
        }
    }
}

impl Users for FakeUsers {
    fn session(&self, _: &[u8; 32]) -> Option<Arc<Session>> {
        None
    }
    fn refresh_session(&self, _: &[u8; 32]) -> Option<(OwnedUserId, OwnedDeviceId)> {
        None
    }
    fn account(&self, user: &UserId) -> Option<Account> {
        let accounts = self.accounts.read();
        accounts.get(user).map(|profile| Account {
            password_hash: None,
            guest: false,
            admin: false,
            deactivated: profile.is_none(),
            erased: false,
        })
    }
    fn devices(&self, _: &UserId) -> Vec<Device> {
        Vec::new()
    }
    fn profile(&self, user: &UserId) -> BTreeMap<String, String> {
        let accounts = self.accounts.read();
        accounts.get(user).cloned().flatten().unwrap_or_default()
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

/// The world.
pub struct World {
    pub log: Arc<FakeLog>,
    pub rooms: Arc<FakeRooms>,
    pub users: Arc<FakeUsers>,
    pub receipts: Arc<SomeReceipts>,
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
        relations: Arc::new(NoRelations),
        receipts: world.3.clone(),
        ephemeral: Arc::new(Silence),
        output: world.0.clone(),
    };
    let server = ruma::server_name!("here").to_owned();
    Arc::new(ClientSync::open(ports, server, Epoch(1), 7).expect("tables open"))
}

type Parts = (
    Arc<FakeLog>,
    Arc<FakeRooms>,
    Arc<FakeUsers>,
    Arc<SomeReceipts>,
);

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
            Arc::default(),
        );
        World {
            sync: open(&parts, &store),
            log: parts.0,
            rooms: parts.1,
            users: parts.2,
            receipts: parts.3,
            store,
            next_sn: 0,
        }
    }

    /// Ends the reader and begins anew: with the rows it left, or from nothing.
    pub fn restart(&mut self, rebuild: bool) {
        let parts = (
            self.log.clone(),
            self.rooms.clone(),
            self.users.clone(),
            self.receipts.clone(),
        );
        if rebuild {
            self.store = Arc::new(MemoryStore::default());
        }
        self.sync = open(&parts, &self.store);
    }

    /// Folds at most so many records of each partition.
    pub fn fold_some(&self, count: usize) {
        for partition in 0..self.log.partitions() {
            let next = self.sync.cursor(partition);
            let mut records = self.log.read(partition, next, 0).expect("in memory");
            records.truncate(count);
            self.sync.fold(partition, &records).expect("folds");
        }
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

    /// Puts an event into a room and its records into the log.
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
        let what = What {
            sender,
            kind,
            state_key,
            content: &content,
        };
        let mut rooms = self.rooms.rooms.write();
        let room = rooms.entry(room_id.to_owned()).or_default();
        let made = room.fold(room_id, sn, &event_id, what, &how);
        drop(rooms);
        let partition = partition_of(room_id.as_str(), self.log.partitions());
        let source = match how.fate {
            Fate::History => Source::Backfill,
            _ => Source::Client,
        };
        for made in made {
            let envelope = FakeRooms::envelope(room_id, &event_id, &what, &made.body);
            self.log.append(partition, made.kind, source, &envelope);
        }
        event_id
    }

    /// Sends a redaction that takes effect.
    pub fn redact(&mut self, room: &RoomId, sender: &UserId, target: &EventId) -> OwnedEventId {
        let content = json!({"redacts": target, "reason": "because"});
        let how = How::default();
        let by = self.send(room, sender, "m.room.redaction", None, content, how);
        self.apply_redaction(room, target, &by);
        by
    }

    /// A redaction takes effect.
    pub fn apply_redaction(&self, room: &RoomId, target: &EventId, by: &EventId) {
        let mut rooms = self.rooms.rooms.write();
        let room = rooms.get_mut(room).expect("a room");
        room.redact(target, by);
    }

    /// The state before a room's newest event: where a fork begins.
    pub fn before_newest(&self, room: &RoomId) -> StateId {
        let rooms = self.rooms.rooms.read();
        let newest = rooms[room].events.last();
        newest.expect("an event").state_before
    }

    /// A user reads a room, or a thread of it, up to an event.
    pub fn read(
        &self,
        room: &RoomId,
        user: &UserId,
        event: &EventId,
        receipt_type: ReceiptType,
        thread: Option<&str>,
    ) {
        let partition = partition_of(room.as_str(), self.log.partitions());
        let read = self.rooms.event(room, event).expect("in memory");
        let place = read.map(|event| event.place);
        let receipt = Receipt {
            receipt_type,
            thread: ReceiptThread::parse(thread).expect("a thread id"),
            event_id: event.to_owned(),
            place,
            ts: self.log.end(partition),
            changed_at: OutputOffset(self.log.end(partition)),
        };
        let decision = match self.receipts.set(room, user, receipt) {
            true => Decision::Accepted,
            false => Decision::Duplicate,
        };
        let body = codec::encode(&OutputReceipt {
            origin: origin(0, 0, true),
            decision,
            reason: Reason::None,
            receipt_type,
            thread: thread.map(str::to_owned),
            place: place.map(|place| place.to_bytes()),
        });
        let envelope = NewEnvelope {
            key: room.as_str(),
            room_id: Some(room.as_str()),
            event_id: Some(event.as_str()),
            sender: Some(user.as_str()),
            body: &body,
            ..NewEnvelope::default()
        };
        self.log
            .append(partition, Kind::OutputReceipt, Source::Client, &envelope);
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
            origin: origin(0, 0, true),
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
        state_section: StateSection::Before,
        access: None,
    }
}

/// Of a record among those of one fold.
pub fn origin(src_offset: u64, src_sub: u32, src_last: bool) -> Origin {
    Origin {
        src_offset,
        about: src_offset,
        src_sub,
        src_last,
        projector_version: 1,
    }
}

/// Event ids of a section's events.
pub fn ids(events: &Value) -> Vec<String> {
    let events = events.as_array().into_iter().flatten();
    events
        .map(|event| event["event_id"].as_str().unwrap_or("none").to_owned())
        .collect()
}
