//! A room server over an *input* log in memory, and a writer that builds the
//! next event of a room as a correct writer would.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use log_format::codec;
use log_format::record::envelope::Part;
use log_format::record::input::{InputRoomEvent, Placement, Transaction};
use log_format::record::output::{Decision, OutputRoomEvent, Reason};
use log_format::record::{Envelope, Kind, NewEnvelope, Source};
use ruma::canonical_json::redact;
use ruma::{CanonicalJsonObject, EventId, OwnedEventId, OwnedRoomId, RoomId, RoomVersionId};
use serde_json::{Value, json};

use crate::logs::log::{Log, LogRecord, NewRecord, PartitionId, ReadError, Waiting};
use crate::projectors::fold::{FoldError, FoldInput, Folded, Projector};
use crate::projectors::roomserver::{RoomServer, RoomServerOptions, RoomTables};
use crate::query::rooms::{RoomHead, Rooms, StateKey};
use crate::storage::columns::WAITING;
use crate::storage::keys::Key;
use crate::storage::open::{Store, StoreOptions};
use crate::storage::overlay::{Overlay, Read};

pub const ALICE: &str = "@alice:hs";
pub const BOB: &str = "@bob:hs";
pub const CAROL: &str = "@carol:other";

/// *Input* in memory: one partition.
#[derive(Default)]
pub struct MemoryLog(Mutex<Vec<LogRecord>>);

impl MemoryLog {
    pub fn append(&self, record: NewRecord) -> u64 {
        let mut records = self.0.lock().unwrap();
        let offset = records.len() as u64;
        records.push(LogRecord {
            offset,
            time_us: offset,
            payload: record.payload.into(),
        });
        offset
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub fn get(&self, offset: u64) -> LogRecord {
        self.0.lock().unwrap()[offset as usize].clone()
    }

    /// Erases the body of a record, as a rewrite does.
    pub fn erase_body(&self, offset: u64) {
        let mut records = self.0.lock().unwrap();
        let record = &mut records[offset as usize];
        let read = record.envelope().unwrap();
        let mut new = read.to_new();
        new.body_part = Part::Erased([7; 32]);
        let payload = new.encode(read.kind, read.source);
        record.payload = payload.into();
    }
}

impl Log for MemoryLog {
    fn partitions(&self) -> u32 {
        1
    }
    fn end(&self, _: PartitionId) -> u64 {
        self.0.lock().unwrap().len() as u64
    }
    fn begin(&self, _: PartitionId) -> u64 {
        0
    }
    fn read(
        &self,
        _: PartitionId,
        from: u64,
        max_bytes: usize,
    ) -> Result<Vec<LogRecord>, ReadError> {
        let records = self.0.lock().unwrap();
        let count = (max_bytes / 1024).max(1);
        Ok(records
            .iter()
            .skip(from as usize)
            .take(count)
            .cloned()
            .collect())
    }
    fn link_before(&self, _: PartitionId, _: u64) -> Result<[u8; 32], ReadError> {
        Ok([0; 32])
    }
    fn wait_beyond(&self, _: PartitionId, _: u64) -> Waiting<'_> {
        Box::pin(std::future::ready(()))
    }
    fn trim(&self, _: PartitionId, _: u64) -> Result<(), ReadError> {
        Ok(())
    }
}

/// An event to be folded.
#[derive(Clone, Debug)]
pub struct Draft {
    pub room: OwnedRoomId,
    pub version: RoomVersionId,
    pub id: OwnedEventId,
    pub sender: String,
    pub kind: String,
    pub state_key: Option<String>,
    pub content: Value,
    pub prev_events: Vec<String>,
    pub auth_events: Vec<String>,
    pub depth: u64,
    pub redacts: Option<String>,
    pub origin_ts_ms: u64,
    pub idempotency: [u8; 16],
    pub placement: Placement,
    pub source: Source,
    pub batch: (u32, u32),
}

const AUTH_CONTENT: [&str; 12] = [
    "creator",
    "m.federate",
    "room_version",
    "additional_creators",
    "invite",
    "notifications",
    "join_authorised_via_users_server",
    "public_key",
    "public_keys",
    "allow",
    "membership",
    "third_party_invite",
];

impl Draft {
    pub fn record(&self) -> NewRecord {
        let rules = self.version.rules().unwrap();
        let mut event = json!({
            "type": self.kind, "sender": self.sender, "content": self.content,
            "prev_events": self.prev_events, "auth_events": self.auth_events,
            "depth": self.depth, "origin_server_ts": self.origin_ts_ms, "hashes": {}, "signatures": {},
        });
        let is_create = self.kind == "m.room.create";
        if !(is_create && rules.authorization.room_create_event_id_as_room_id) {
            event["room_id"] = json!(self.room);
        }
        if let Some(state_key) = &self.state_key {
            event["state_key"] = json!(state_key);
        }
        if let Some(target) = &self.redacts {
            match rules.redaction.content_field_redacts {
                true => event["content"]["redacts"] = json!(target),
                false => event["redacts"] = json!(target),
            }
        }
        let body = serde_json::to_vec(&event).unwrap();
        let canonical: CanonicalJsonObject = serde_json::from_slice(&body).unwrap();
        let skeleton = redact(canonical, &rules.redaction, None).unwrap();
        let kept = serde_json::to_value(&skeleton).unwrap();
        let mut extract = serde_json::Map::new();
        for field in AUTH_CONTENT {
            let value = &event["content"][field];
            let read = self.state_key.is_some() && !value.is_null();
            if read && kept["content"].get(field).is_none() {
                extract.insert(field.to_owned(), value.clone());
            }
        }
        let extract = serde_json::to_vec(&extract).unwrap();
        let skeleton = serde_json::to_vec(&skeleton).unwrap();
        let membership = event["content"]["membership"].as_str().map(str::to_owned);
        let encoded = codec::encode(&InputRoomEvent {
            placement: self.placement.clone(),
            depth: self.depth,
            prev_events: self.prev_events.clone(),
            auth_events: self.auth_events.clone(),
            redacts: self.redacts.clone(),
            relation: None,
            membership: membership.filter(|_| self.kind == "m.room.member"),
            transaction: Some(Transaction {
                device_id: "DEV".to_owned(),
                txn_id: "t".to_owned(),
            }),
            verified_with: vec![],
            batch_index: self.batch.0,
            batch_count: self.batch.1,
        });
        let envelope = NewEnvelope {
            received_us: 5,
            origin_ts_ms: self.origin_ts_ms,
            idempotency: self.idempotency,
            key: self.room.as_str(),
            room_id: Some(self.room.as_str()),
            event_id: Some(self.id.as_str()),
            sender: Some(&self.sender),
            event_type: Some(&self.kind),
            state_key: self.state_key.as_deref(),
            room_version: Some(self.version.as_str()),
            body: &encoded,
            auth_extract: match extract.len() > 2 {
                true => Part::Present(&extract),
                false => Part::Absent,
            },
            skeleton: Part::Present(&skeleton),
            body_part: Part::Present(&body),
            salt: [3; 32],
            ..NewEnvelope::default()
        };
        NewRecord::new(Kind::InputRoomEvent, self.source, &envelope)
    }
}

/// A fold's outcome, decoded.
pub struct Outcome {
    pub folded: Folded,
    pub offset: u64,
    pub output: Vec<OutputRoomEvent>,
}

impl Outcome {
    pub fn last(&self) -> &OutputRoomEvent {
        self.output.last().unwrap()
    }

    pub fn verdict(&self) -> (Decision, Reason) {
        {
            let outcome = self.folded.outcome.as_ref().expect("decided");
            (outcome.decision, outcome.reason)
        }
    }

    pub fn accepted(self) -> Outcome {
        assert_eq!(self.verdict(), (Decision::Accepted, Reason::None));
        self
    }

    pub fn rejected(self, reason: Reason) -> Outcome {
        assert_eq!(self.verdict(), (Decision::Rejected, reason));
        self
    }
}

/// A store, a log and one lane.
pub struct House {
    _dir: tempfile::TempDir,
    pub log: Arc<MemoryLog>,
    pub store: Arc<Store>,
    pub tables: Arc<RoomTables>,
    pub lane: RoomServer,
    pub puts: usize,
    /// What was drafted and accepted, in order.
    pub drafts: Vec<Draft>,
    options: RoomServerOptions,
    pub next_id: u64,
}

impl House {
    pub fn new() -> House {
        House::over(Arc::new(MemoryLog::default()))
    }

    /// A fresh store over a log.
    pub fn over(log: Arc<MemoryLog>) -> House {
        House::over_with(log, RoomServerOptions::default().inline_work)
    }

    /// A house where an event may cost so much while others wait.
    pub fn with_inline_work(inline_work: u64) -> House {
        House::over_with(Arc::new(MemoryLog::default()), inline_work)
    }

    pub fn over_with(log: Arc<MemoryLog>, inline_work: u64) -> House {
        let options = RoomServerOptions {
            inline_work,
            ..RoomServerOptions::default()
        };
        House::with_options(log, options)
    }

    pub fn with_options(log: Arc<MemoryLog>, options: RoomServerOptions) -> House {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), &StoreOptions::default()).unwrap());
        let tables = RoomTables::new(store.clone(), log.clone(), &[9; 16], &options);
        House {
            _dir: dir,
            log,
            store,
            lane: RoomServer::new(tables.clone()),
            tables,
            puts: 0,
            drafts: vec![],
            options,
            next_id: 0,
        }
    }

    /// The same store as after a restart: nothing in memory.
    pub fn restart(&mut self) {
        let options = &self.options;
        self.tables = RoomTables::new(self.store.clone(), self.log.clone(), &[9; 16], options);
        self.lane = RoomServer::new(self.tables.clone());
    }

    pub fn id(&mut self) -> OwnedEventId {
        self.next_id += 1;
        OwnedEventId::try_from(format!("$event{:05}", self.next_id)).unwrap()
    }

    /// Folds records of the log as one group and writes it.
    pub fn fold_offsets(&mut self, offsets: &[u64]) -> Vec<Outcome> {
        let mut overlay = Overlay::new(&*self.store);
        let mut outcomes = vec![];
        for offset in offsets {
            let record = self.log.get(*offset);
            let envelope = record.envelope().unwrap();
            let input = FoldInput {
                partition: 0,
                offset: *offset,
                time_us: record.time_us,
                envelope: &envelope,
            };
            let folded = self.lane.fold(&input, &mut overlay).unwrap();
            let decode = |record: &NewRecord| {
                let envelope = Envelope::parse(&record.payload).unwrap();
                codec::decode::<OutputRoomEvent>(envelope.body).ok()
            };
            let output = folded.output.iter().filter_map(decode).collect();
            let offset = *offset;
            outcomes.push(Outcome {
                folded,
                offset,
                output,
            });
        }
        self.puts = overlay.puts();
        let mut batch = self.store.batch();
        batch.apply(overlay.into_writes()).unwrap();
        self.store.write(batch).unwrap();
        self.lane.publish();
        outcomes
    }

    pub fn fold_group(&mut self, records: Vec<NewRecord>) -> Vec<Outcome> {
        let offsets: Vec<u64> = records
            .into_iter()
            .map(|record| self.log.append(record))
            .collect();
        self.fold_offsets(&offsets)
    }

    pub fn fold(&mut self, draft: &Draft) -> Outcome {
        let outcome = self.fold_group(vec![draft.record()]).pop().unwrap();
        if outcome.verdict().0 == Decision::Accepted {
            self.drafts.push(draft.clone());
        }
        outcome
    }

    /// A fold that may fail; nothing is written.
    pub fn try_fold(&mut self, record: NewRecord) -> Result<Folded, FoldError> {
        let offset = self.log.append(record);
        let record = self.log.get(offset);
        let input = FoldInput {
            partition: 0,
            offset,
            time_us: record.time_us,
            envelope: &record.envelope().unwrap(),
        };
        self.lane.fold(&input, &mut Overlay::new(&*self.store))
    }

    /// Rows of events that wait.
    pub fn head_waiting(&self, room: &RoomId) -> usize {
        let sn = self.head(room).room;
        let prefix = Key::of(0).number(sn.0);
        let rows = self
            .store
            .range(WAITING, prefix.as_ref(), None, false, 1000);
        rows.unwrap().len()
    }

    pub fn head(&self, room: &RoomId) -> Arc<RoomHead> {
        self.tables.head(room).unwrap().unwrap()
    }

    /// An event on top of the room as it is now.
    pub fn draft(
        &mut self,
        room: &RoomId,
        sender: &str,
        kind: &str,
        state_key: Option<&str>,
        content: Value,
    ) -> Draft {
        let head = self.head(room);
        let id = self.id();
        let mut draft = Draft {
            room: room.to_owned(),
            version: head.version.clone(),
            id,
            sender: sender.to_owned(),
            kind: kind.to_owned(),
            state_key: state_key.map(str::to_owned),
            content,
            prev_events: vec![],
            auth_events: vec![],
            depth: 0,
            redacts: None,
            origin_ts_ms: 1,
            idempotency: [0; 16],
            placement: Placement::New,
            source: Source::Client,
            batch: (0, 1),
        };
        for extremity in head.extremities.iter() {
            draft.prev_events.push(extremity.event_id.to_string());
            draft.depth = draft.depth.max(extremity.depth + 1);
        }
        draft.auth_events = self.auth_events(&head, &draft);
        draft
    }

    /// Auth events as the specification selects them.
    fn auth_events(&self, head: &RoomHead, draft: &Draft) -> Vec<String> {
        let rules = head.version.rules().unwrap().authorization;
        let kind = draft.kind.as_str().into();
        let content = serde_json::value::to_raw_value(&draft.content).unwrap();
        let sender = <&ruma::UserId>::try_from(draft.sender.as_str()).unwrap();
        let state_key = draft.state_key.as_deref();
        let types =
            ruma::state_res::auth_types_for_event(&kind, sender, state_key, &content, &rules);
        let mut ids = vec![];
        for (kind, key) in types.unwrap_or_default() {
            let entry = head.state.get(&StateKey::new(&kind.to_string(), &key));
            ids.extend(entry.map(|sn| self.event_by_sn(&head.room_id, sn.0)));
        }
        ids
    }

    /// What the rules say of an event, against current state, when everything
    /// is read from the records anew.
    pub fn rules_allow(&self, draft: &Draft) -> bool {
        use crate::matrix::RoomVersion;
        use crate::matrix::auth_rules::{AuthEvent, EventContent, check};
        let tables = RoomTables::new(
            self.store.clone(),
            self.log.clone(),
            &[9; 16],
            &RoomServerOptions::default(),
        );
        let head = tables.head(&draft.room).unwrap().unwrap();
        let content = serde_json::from_value(draft.content.clone()).unwrap();
        let event = AuthEvent {
            event_id: &draft.id,
            room_id: &draft.room,
            sender: draft.sender.as_str().try_into().unwrap(),
            kind: &draft.kind,
            state_key: draft.state_key.as_deref(),
            content: EventContent::Parsed(&content),
            prev_events_count: draft.prev_events.len(),
            first_prev_event: None,
            redacts: None,
        };
        let version = RoomVersion::try_from(&draft.version).unwrap();
        check(version, &event, &*head.authority).is_ok()
    }

    fn event_by_sn(&self, room: &RoomId, sn: u64) -> String {
        let events = self.tables.events(room, &[crate::query::ids::EventSn(sn)]);
        events.unwrap()[0].event_id.to_string()
    }

    pub fn create_draft(&mut self, version: &str, creator: &str) -> Draft {
        let id = self.id();
        let version = RoomVersionId::try_from(version).unwrap();
        let rules = version.rules().unwrap().authorization;
        let room = match rules.room_create_event_id_as_room_id {
            true => format!("!{}", id.as_str().strip_prefix('$').unwrap()),
            false => format!("!room{}:hs", self.next_id),
        };
        let mut content = json!({ "room_version": version });
        if !rules.use_room_create_sender {
            content["creator"] = json!(creator);
        }
        Draft {
            room: OwnedRoomId::try_from(room).unwrap(),
            version,
            id,
            sender: creator.to_owned(),
            kind: "m.room.create".to_owned(),
            state_key: Some(String::new()),
            content,
            prev_events: vec![],
            auth_events: vec![],
            depth: 1,
            redacts: None,
            origin_ts_ms: 1,
            idempotency: [0; 16],
            placement: Placement::New,
            source: Source::Client,
            batch: (0, 1),
        }
    }

    /// A room with its creator joined, power levels and public join rules.
    pub fn room(&mut self, version: &str) -> OwnedRoomId {
        let create = self.create_draft(version, ALICE);
        let room = create.room.clone();
        self.fold(&create).accepted();
        self.member(&room, ALICE, ALICE, "join").accepted();
        let privileged = create
            .version
            .rules()
            .unwrap()
            .authorization
            .explicitly_privilege_room_creators;
        let users = match privileged {
            true => json!({}),
            false => json!({ ALICE: 100 }),
        };
        self.state(
            &room,
            ALICE,
            "m.room.power_levels",
            "",
            json!({ "users": users }),
        )
        .accepted();
        let public = json!({ "join_rule": "public" });
        self.state(&room, ALICE, "m.room.join_rules", "", public)
            .accepted();
        room
    }

    pub fn state(
        &mut self,
        room: &RoomId,
        sender: &str,
        kind: &str,
        state_key: &str,
        content: Value,
    ) -> Outcome {
        let draft = self.draft(room, sender, kind, Some(state_key), content);
        self.fold(&draft)
    }

    pub fn member(
        &mut self,
        room: &RoomId,
        sender: &str,
        target: &str,
        membership: &str,
    ) -> Outcome {
        let content = json!({ "membership": membership });
        self.state(room, sender, "m.room.member", target, content)
    }

    pub fn message(&mut self, room: &RoomId, sender: &str, body: &str) -> Outcome {
        let content = json!({ "msgtype": "m.text", "body": body });
        let draft = self.draft(room, sender, "m.room.message", None, content);
        self.fold(&draft)
    }

    pub fn event(&self, room: &RoomId, id: &EventId) -> Arc<crate::query::rooms::StoredEvent> {
        self.tables.event(room, id).unwrap().unwrap()
    }

    /// Every row of every digested table.
    pub fn dump(&self) -> BTreeMap<(&'static str, Vec<u8>), Vec<u8>> {
        let mut rows = BTreeMap::new();
        for table in crate::storage::columns::ALL
            .iter()
            .filter(|table| table.digested)
        {
            self.store
                .scan::<crate::storage::overlay::StoreError>(*table, b"", |key, value| {
                    rows.insert((table.name, key.to_vec()), value.to_vec());
                    Ok(())
                })
                .unwrap();
        }
        rows
    }
}
