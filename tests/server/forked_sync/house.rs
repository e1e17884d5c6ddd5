//! The real projectors and the real reader over logs in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use engram::logs::log::{Append, Log, NewRecord};
use engram::projectors::aliasserver::AliasProjector;
use engram::projectors::deliveryserver::DeliveryProjector;
use engram::projectors::ephemeral::EphemeralProjection;
use engram::projectors::keyserver::KeyProjector;
use engram::projectors::lanes::Lane;
use engram::projectors::receiptserver::{ReceiptAnswers, ReceiptProjector};
use engram::projectors::roomserver::{RoomServer, RoomServerOptions, RoomTables};
use engram::projectors::run::{Parts, Projection, SnapshotSchedule};
use engram::projectors::snapshots::Snapshots;
use engram::projectors::userserver::{Sessions, UserAnswers, UserProjector};
use engram::query::outcome::Outcomes;
use engram::query::rooms::{RoomHead, Rooms, StateMap};
use engram::query::tokens::Epoch;
use engram::readers::client_sync::{ClientSync, Ports};
use engram::readers::relations::EventRelations;
use engram::readers::run::Reader;
use engram::storage::open::{Store, StoreOptions};
use log_format::codec;
use log_format::record::Kind;
use log_format::record::output::{OutputRoomEvent, StateChangeCause};

use super::room_id;
use crate::memory_log::MemoryLog;

/// One server, without its doors.
pub struct House {
    folder: tempfile::TempDir,
    store: Arc<Store>,
    pub projection: Projection,
    input: Arc<MemoryLog>,
    output: Arc<MemoryLog>,
    pub rooms: Arc<RoomTables>,
    sessions: Arc<Sessions>,
}

impl House {
    pub fn new() -> House {
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
            receipts: Box::new(ReceiptProjector::default()),
            keys: Box::new(KeyProjector),
            deliveries: Box::new(DeliveryProjector),
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
    pub async fn fold(&self, record: NewRecord) {
        let appended = self.input.enqueue(0, vec![record]).unwrap().await.unwrap();
        let outcome = self.projection.outcomes().outcome(appended).await;
        outcome.unwrap();
    }

    /// A reader with its rows in a store of this name.
    pub fn reader(&self, name: &str) -> Arc<ClientSync> {
        let store = Store::open(&self.folder.path().join(name), &StoreOptions::default());
        let store = Arc::new(store.unwrap());
        // Of a log in which nothing happens: what is bundled is tested elsewhere.
        let relations = EventRelations::open(
            store.clone(),
            self.rooms.clone(),
            Arc::new(MemoryLog::new("output", 1)),
            Epoch(1),
        );
        let users = UserAnswers::new(
            self.store.clone(),
            self.sessions.clone(),
            self.rooms.clone(),
            1,
        );
        // Nobody types and nobody is there.
        let ephemeral = Arc::new(MemoryLog::new("ephemeral", 1));
        let ports = Ports {
            store,
            rooms: self.rooms.clone(),
            users: Arc::new(users),
            receipts: Arc::new(ReceiptAnswers::new(self.store.clone(), 1)),
            relations: Arc::new(relations.unwrap()),
            ephemeral: Arc::new(EphemeralProjection::open(ephemeral, true)),
            output: self.output.clone(),
        };
        let server = ruma::server_name!("here").to_owned();
        Arc::new(ClientSync::open(ports, server, Epoch(1), 1).unwrap())
    }

    pub fn follow(&self, reader: &ClientSync) {
        loop {
            let records = self.output.read(0, reader.cursor(0), 1 << 16).unwrap();
            if records.is_empty() {
                return;
            }
            reader.fold(0, &records).unwrap();
        }
    }

    /// How many entries of current state resolution changed.
    pub fn resolutions(&self) -> usize {
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

    pub fn head(&self) -> Arc<RoomHead> {
        self.rooms.head(room_id()).unwrap().unwrap()
    }

    pub fn ids(&self, state: &StateMap) -> BTreeMap<(String, String), String> {
        let entries = state.iter().map(|(key, sn)| {
            let event = self.rooms.events(room_id(), &[*sn]).unwrap().pop().unwrap();
            let key = (key.kind.to_string(), key.state_key.to_string());
            (key, event.event_id.to_string())
        });
        entries.collect()
    }
}
