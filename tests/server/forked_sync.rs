//! Forked rooms from records to answers: random events on old branches go
//! through the real room server, and what sync told each client is held against
//! the room server's own current state after every answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use engram::logs::log::{Append, Log, NewRecord};
use engram::matrix::filter::Filter;
use engram::matrix::history_visibility::membership_of;
use engram::projectors::aliasserver::AliasProjector;
use engram::projectors::lanes::Lane;
use engram::projectors::roomserver::{RoomServer, RoomServerOptions, RoomTables};
use engram::projectors::run::{Parts, Projection, SnapshotSchedule};
use engram::projectors::snapshots::Snapshots;
use engram::projectors::userserver::{Sessions, UserAnswers, UserProjector};
use engram::query::ids::StateId;
use engram::query::outcome::Outcomes;
use engram::query::rooms::{RoomHead, Rooms, StateKey, StateMap};
use engram::query::tokens::Epoch;
use engram::query::visibility::{Viewer, Viewpoint};
use engram::readers::client_sync::{ClientSync, Ports, SyncRequest};
use engram::readers::run::Reader;
use engram::storage::open::{Store, StoreOptions};
use log_format::codec;
use log_format::record::envelope::Part;
use log_format::record::input::{InputRoomEvent, Placement};
use log_format::record::output::{Decision, Membership, OutputRoomEvent, StateChangeCause};
use log_format::record::{Kind, NewEnvelope, Source};
use ruma::canonical_json::redact;
use ruma::{CanonicalJsonObject, EventId, OwnedUserId, RoomId, RoomVersionId, UserId};
use serde_json::{Value, json};

use crate::memory_log::MemoryLog;
use crate::records::{Random, hash};

const ROOM: &str = "!room:there";
const FAR: &str = "@far:there";
const LOCAL: [&str; 4] = ["@a:here", "@b:here", "@c:here", "@d:here"];
const VISIBILITIES: [&str; 4] = ["shared", "joined", "invited", "world_readable"];

fn room_id() -> &'static RoomId {
    ROOM.try_into().unwrap()
}

/// The real projectors and the real reader over logs in memory.
struct House {
    folder: tempfile::TempDir,
    store: Arc<Store>,
    projection: Projection,
    input: Arc<MemoryLog>,
    output: Arc<MemoryLog>,
    rooms: Arc<RoomTables>,
    sessions: Arc<Sessions>,
}

impl House {
    fn new() -> House {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store"), &StoreOptions::default());
        let store = Arc::new(store.unwrap());
        let input = Arc::new(MemoryLog::new("input", 1));
        let output = Arc::new(MemoryLog::new("output", 1));
        let options = RoomServerOptions::default();
        let rooms = RoomTables::new(store.clone(), input.clone(), &[9; 16], &options);
        let sessions = Arc::new(Sessions::load(&store, 1).unwrap());
        let lane = Lane {
            rooms: Box::new(RoomServer::new(rooms.clone())),
            users: Box::new(UserProjector::new(sessions.clone())),
            aliases: Box::new(AliasProjector),
        };
        let snapshots = folder.path().join("snapshots");
        let projection = Projection::start(Parts {
            store: store.clone(),
            input: input.clone(),
            output: output.clone(),
            snapshots: Snapshots::new(&snapshots, 2, &StoreOptions::default(), 1),
            schedule: SnapshotSchedule {
                seconds: 0,
                records: 0,
            },
            lanes: vec![vec![lane]],
        });
        House {
            projection: projection.unwrap(),
            folder,
            store,
            input,
            output,
            rooms,
            sessions,
        }
    }

    /// Appends a record and waits for its fold.
    async fn fold(&self, record: NewRecord) {
        let appended = self.input.enqueue(0, vec![record]).unwrap().await.unwrap();
        let outcome = self.projection.outcomes().outcome(appended).await;
        outcome.unwrap();
    }

    /// A reader with its rows in a store of this name.
    fn reader(&self, name: &str) -> Arc<ClientSync> {
        let store = Store::open(&self.folder.path().join(name), &StoreOptions::default());
        let users = UserAnswers::new(
            self.store.clone(),
            self.sessions.clone(),
            self.rooms.clone(),
            1,
        );
        let ports = Ports {
            store: Arc::new(store.unwrap()),
            rooms: self.rooms.clone(),
            users: Arc::new(users),
            output: self.output.clone(),
        };
        let server = ruma::server_name!("here").to_owned();
        Arc::new(ClientSync::open(ports, server, Epoch(1), 1).unwrap())
    }

    fn follow(&self, reader: &ClientSync) {
        loop {
            let records = self.output.read(0, reader.cursor(0), 1 << 16).unwrap();
            if records.is_empty() {
                return;
            }
            reader.fold(0, &records).unwrap();
        }
    }

    /// How many entries of current state resolution changed.
    fn resolutions(&self) -> usize {
        let records = self.output.read(0, 0, usize::MAX).unwrap();
        let bodies = records.iter().filter_map(|record| {
            let envelope = record.envelope().unwrap();
            let is_event = envelope.kind == Kind::OutputRoomEvent;
            is_event.then(|| codec::decode::<OutputRoomEvent>(envelope.body).unwrap())
        });
        let changes = bodies.flat_map(|body| body.state_delta);
        changes
            .filter(|change| change.cause == StateChangeCause::Resolution)
            .count()
    }

    fn head(&self) -> Arc<RoomHead> {
        self.rooms.head(room_id()).unwrap().unwrap()
    }

    fn ids(&self, state: &StateMap) -> BTreeMap<(String, String), String> {
        let entries = state.iter().map(|(key, sn)| {
            let event = self.rooms.events(room_id(), &[*sn]).unwrap().pop().unwrap();
            let key = (key.kind.to_string(), key.state_key.to_string());
            (key, event.event_id.to_string())
        });
        entries.collect()
    }
}

struct Draft<'a> {
    sender: &'a str,
    kind: &'a str,
    state_key: Option<&'a str>,
    content: Value,
}

/// An event that was accepted or soft-failed.
#[derive(Clone)]
struct Known {
    id: String,
    depth: u64,
    state_after: StateId,
}

/// Makes events of one room, on its end or on old ones.
struct Maker<'a> {
    house: &'a House,
    random: Random,
    known: Vec<Known>,
    messages: Vec<String>,
    /// How often each decision was taken.
    decided: BTreeMap<&'static str, usize>,
}

impl Maker<'_> {
    async fn create(&mut self) {
        let levels = json!({"users": {FAR: 100, LOCAL[0]: 50}, "state_default": 50});
        for (kind, key, content) in [
            ("m.room.create", "", json!({"room_version": "11"})),
            ("m.room.member", FAR, json!({"membership": "join"})),
            ("m.room.power_levels", "", levels),
            ("m.room.join_rules", "", json!({"join_rule": "public"})),
        ] {
            let draft = Draft {
                sender: FAR,
                kind,
                state_key: Some(key),
                content,
            };
            let (parents, state) = self.parents();
            self.send(draft, parents, &state).await;
        }
    }

    async fn next(&mut self) {
        let (parents, state) = self.parents();
        let user = LOCAL[self.random.below(4) as usize];
        let joined = LOCAL.into_iter().chain([FAR]);
        let joined: Vec<&str> = joined.filter(|user| self.is_joined(&state, user)).collect();
        let anybody = joined.get(self.random.below(joined.len() as u64) as usize);
        let anybody = anybody.copied().unwrap_or(FAR);
        let number = self.random.below(1_000);
        let (sender, kind, state_key, content) = match self.random.below(14) {
            0..3 => (
                user,
                "m.room.member",
                Some(user),
                json!({"membership": "join"}),
            ),
            3 => (
                user,
                "m.room.member",
                Some(user),
                json!({"membership": "leave"}),
            ),
            4 => (
                FAR,
                "m.room.member",
                Some(user),
                json!({"membership": "ban"}),
            ),
            5 => (
                FAR,
                "m.room.member",
                Some(user),
                json!({"membership": "leave"}),
            ),
            6 => (
                anybody,
                "m.room.member",
                Some(user),
                json!({"membership": "invite"}),
            ),
            7 => (anybody, "m.room.topic", Some(""), json!({"topic": number})),
            8 => {
                let level = [0, 50][number as usize % 2];
                let levels = json!({"users": {FAR: 100, LOCAL[0]: level}, "state_default": 50});
                (FAR, "m.room.power_levels", Some(""), levels)
            }
            9 => {
                let word = VISIBILITIES[number as usize % 4];
                let content = json!({ "history_visibility": word });
                (FAR, "m.room.history_visibility", Some(""), content)
            }
            10 => {
                let rule = ["public", "invite"][number as usize % 2];
                (
                    FAR,
                    "m.room.join_rules",
                    Some(""),
                    json!({ "join_rule": rule }),
                )
            }
            11 if !self.messages.is_empty() => {
                let target = &self.messages[number as usize % self.messages.len()];
                (
                    anybody,
                    "m.room.redaction",
                    None,
                    json!({ "redacts": target }),
                )
            }
            _ => (anybody, "m.room.message", None, json!({ "body": number })),
        };
        let draft = Draft {
            sender,
            kind,
            state_key,
            content,
        };
        self.send(draft, parents, &state).await;
    }

    fn is_joined(&self, state: &StateMap, user: &str) -> bool {
        let entry = state.get(&StateKey::new("m.room.member", user));
        let event = entry.map(|sn| self.house.rooms.events(room_id(), &[*sn]).unwrap());
        let event = event.and_then(|mut found| found.pop());
        event.is_some_and(|event| membership_of(&event.json) == Some(Membership::Join))
    }

    /// Parents of the next event, and the state that its author saw.
    fn parents(&mut self) -> (Vec<Known>, StateMap) {
        let Ok(Some(head)) = self.house.rooms.head(room_id()) else {
            return (Vec::new(), StateMap::new());
        };
        // A branch goes on, a new one begins, or all are merged.
        let (merges, back) = match self.random.below(8) {
            0..2 => (true, 0),
            2..5 => (false, self.random.below(10) as usize),
            _ => (false, 0),
        };
        match !merges && back < self.known.len() {
            true => {
                let parent = self.known[self.known.len() - 1 - back].clone();
                let state = self.house.rooms.state(room_id(), parent.state_after);
                (vec![parent], state.unwrap())
            }
            false => {
                let extremities = head.extremities.iter().map(|tip| Known {
                    id: tip.event_id.to_string(),
                    depth: tip.depth,
                    state_after: tip.state_after,
                });
                (extremities.collect(), head.state.clone())
            }
        }
    }

    /// Source: server-server API, *Auth events selection*.
    fn auth_events(&self, draft: &Draft<'_>, state: &StateMap) -> Vec<String> {
        let mut wanted = vec![
            ("m.room.create", ""),
            ("m.room.power_levels", ""),
            ("m.room.member", draft.sender),
        ];
        if draft.kind == "m.room.member" {
            wanted.extend(draft.state_key.map(|target| ("m.room.member", target)));
            wanted.push(("m.room.join_rules", ""));
        }
        let found = wanted.into_iter();
        let found = found.filter_map(|(kind, key)| state.get(&StateKey::new(kind, key)));
        let found: BTreeSet<_> = found.copied().collect();
        let found: Vec<_> = found.into_iter().collect();
        let events = self.house.rooms.events(room_id(), &found).unwrap();
        events
            .iter()
            .map(|event| event.event_id.to_string())
            .collect()
    }

    async fn send(&mut self, draft: Draft<'_>, parents: Vec<Known>, state: &StateMap) {
        let id = format!("${:016x}{:016x}", self.random.next(), self.random.next());
        let depth = parents.iter().map(|parent| parent.depth).max().unwrap_or(0) + 1;
        let prev_events: Vec<String> = parents.into_iter().map(|parent| parent.id).collect();
        let auth_events = self.auth_events(&draft, state);
        let mut event = json!({
            "type": draft.kind, "sender": draft.sender, "content": draft.content, "room_id": ROOM,
            "prev_events": prev_events, "auth_events": auth_events, "depth": depth,
            "origin_server_ts": depth, "hashes": {}, "signatures": {},
        });
        if let Some(state_key) = draft.state_key {
            event["state_key"] = json!(state_key);
        }
        let body_part = serde_json::to_vec(&event).unwrap();
        let canonical: CanonicalJsonObject = serde_json::from_slice(&body_part).unwrap();
        let rules = RoomVersionId::V11.rules().unwrap();
        let skeleton = redact(canonical, &rules.redaction, None).unwrap();
        let skeleton = serde_json::to_vec(&skeleton).unwrap();
        let text = |key: &str| draft.content[key].as_str().map(str::to_owned);
        let body = codec::encode(&InputRoomEvent {
            placement: Placement::New,
            depth,
            prev_events,
            auth_events,
            redacts: text("redacts"),
            relation: None,
            membership: text("membership"),
            transaction: None,
            verified_with: Vec::new(),
            batch_index: 0,
            batch_count: 1,
        });
        let envelope = NewEnvelope {
            received_us: 5,
            origin_ts_ms: depth,
            key: ROOM,
            room_id: Some(ROOM),
            event_id: Some(&id),
            sender: Some(draft.sender),
            event_type: Some(draft.kind),
            state_key: draft.state_key,
            room_version: Some("11"),
            body: &body,
            skeleton: Part::Present(&skeleton),
            body_part: Part::Present(&body_part),
            salt: hash(self.random.next()),
            ..NewEnvelope::default()
        };
        let record = NewRecord::new(Kind::InputRoomEvent, Source::Federation, &envelope);
        self.house.fold(record).await;
        let event_id = <&EventId>::try_from(id.as_str()).unwrap();
        let stored = self.house.rooms.event(room_id(), event_id).unwrap();
        let decision = stored
            .as_ref()
            .map_or(Decision::Rejected, |event| event.decision);
        *self.decided.entry(decision.name()).or_default() += 1;
        if let Some(stored) = stored
            && matches!(decision, Decision::Accepted | Decision::SoftFailed)
        {
            if draft.kind == "m.room.message" {
                self.messages.push(id.clone());
            }
            let state_after = stored.state_after;
            self.known.push(Known {
                id,
                depth,
                state_after,
            });
        }
    }
}

/// A client that believes what it is told.
struct Client {
    user: OwnedUserId,
    after: bool,
    limit: u32,
    since: Option<String>,
    state: BTreeMap<(String, String), String>,
    section: Option<&'static str>,
}

impl Client {
    async fn ask(&self, sync: &Arc<ClientSync>, since: Option<String>) -> Value {
        let filter = json!({"room": {"timeline": {"limit": self.limit}, "include_leave": true}});
        let request = SyncRequest {
            user: self.user.clone(),
            device: "DEVICE".into(),
            since,
            filter: Arc::new(Filter::parse(filter.to_string().as_bytes()).unwrap()),
            full_state: false,
            timeout: Duration::ZERO,
            use_state_after: self.after,
        };
        serde_json::from_str(&sync.sync(request).await.unwrap()).unwrap()
    }

    async fn sync(&mut self, house: &House, sync: &Arc<ClientSync>) {
        house.follow(sync);
        let answer = self.ask(sync, self.since.clone()).await;
        self.since = answer["next_batch"].as_str().map(str::to_owned);
        for section in ["join", "invite", "knock", "leave"] {
            let Some(told) = answer["rooms"][section].get(ROOM) else {
                continue;
            };
            self.section = Some(section);
            let (section, applied) = match self.after {
                true => ("state_after", json!([])),
                false => ("state", told["timeline"]["events"].clone()),
            };
            let state = told[section]["events"].as_array().into_iter().flatten();
            for event in state.chain(applied.as_array().into_iter().flatten()) {
                if let Some(state_key) = event["state_key"].as_str() {
                    let text = |key: &str| event[key].as_str().unwrap().to_owned();
                    self.state
                        .insert((text("type"), state_key.to_owned()), text("event_id"));
                }
            }
            self.judge(house, &told["timeline"]["events"]);
        }
        self.check(house);
    }

    /// What a timeline shows was accepted, and the user may see it.
    fn judge(&self, house: &House, events: &Value) {
        let view = Viewpoint::new(&*house.rooms, room_id(), Viewer::User(&self.user));
        for event in events.as_array().into_iter().flatten() {
            let id = <&EventId>::try_from(event["event_id"].as_str().unwrap()).unwrap();
            let stored = house.rooms.event(room_id(), id).unwrap().unwrap();
            assert_eq!(stored.decision, Decision::Accepted);
            let own = stored.state_key.as_deref() == Some(self.user.as_str());
            let joined = self.section == Some("join");
            if joined && !own {
                assert!(view.may_see(&stored).unwrap(), "{} sees {id}", self.user);
            }
        }
    }

    fn check(&self, house: &House) {
        let head = house.head();
        let membership = head.authority.membership(&self.user);
        let section = membership.map(|membership| match membership {
            Membership::Join => "join",
            Membership::Invite => "invite",
            Membership::Knock => "knock",
            Membership::Leave | Membership::Ban => "leave",
        });
        match section {
            Some(section) => assert_eq!(self.section, Some(section), "{}", self.user),
            // Whose entry a resolution took away has left, if they were there.
            None => assert!(
                matches!(self.section, None | Some("leave")),
                "{}",
                self.user
            ),
        }
        if section == Some("join") {
            let truth = house.ids(&head.state);
            let mut state = self.state.clone();
            // The format has no word for a key that is gone.
            state.retain(|key, _| truth.contains_key(key));
            assert_eq!(state, truth, "{} after: {}", self.user, self.after);
        }
    }
}

/// The event ids of all sections, in their order.
fn ids(answer: &Value) -> Vec<Value> {
    let mut ids = Vec::new();
    for section in ["join", "invite", "leave"] {
        let told = &answer["rooms"][section][ROOM];
        for part in ["state", "state_after", "timeline", "invite_state"] {
            let events = told[part]["events"].as_array().into_iter().flatten();
            ids.extend(events.map(|event| event.get("event_id").cloned().unwrap_or(json!(part))));
        }
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_forked_rooms_end_with_the_rooms_state() {
    let mut decided: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 0..10 {
        let house = House::new();
        let sync = house.reader("sync");
        let mut maker = Maker {
            house: &house,
            random: Random(seed),
            known: Vec::new(),
            messages: Vec::new(),
            decided: BTreeMap::new(),
        };
        maker.create().await;
        let mut clients: Vec<Client> = LOCAL
            .iter()
            .enumerate()
            .map(|(index, name)| Client {
                user: <&UserId>::try_from(*name).unwrap().to_owned(),
                after: index % 2 == 0,
                limit: [2, 50][index / 2],
                since: None,
                state: BTreeMap::new(),
                section: None,
            })
            .collect();
        for _ in 0..150 {
            match maker.random.below(4) {
                0 => {
                    let who = maker.random.below(4) as usize;
                    clients[who].sync(&house, &sync).await;
                }
                _ => maker.next().await,
            }
        }
        let rebuilt = house.reader("rebuilt");
        house.follow(&rebuilt);
        for client in &mut clients {
            client.sync(&house, &sync).await;
            // A reader that begins anew tells the same.
            let anew = client.ask(&rebuilt, None).await;
            assert_eq!(ids(&client.ask(&sync, None).await), ids(&anew));
        }
        *decided.entry("resolution").or_default() += house.resolutions();
        for (decision, count) in maker.decided {
            *decided.entry(decision).or_default() += count;
        }
        let projection = house.projection;
        let stopped = tokio::task::spawn_blocking(move || projection.stop(false)).await;
        stopped.unwrap().unwrap();
    }
    // The rooms were worth it.
    for (what, least) in [
        ("accepted", 100),
        ("soft-failed", 5),
        ("rejected", 50),
        ("resolution", 10),
    ] {
        let count = decided.get(what).copied().unwrap_or(0);
        assert!(count > least, "{decided:?}");
    }
}
