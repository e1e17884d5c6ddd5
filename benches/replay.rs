//! How fast a lost store and *output* are made again from *input*: plain
//! messages in many rooms, real logs and store in a temporary folder.
//!
//! `cargo bench --bench replay [-- EVENTS]`

#[path = "../tests/server/forked_rooms.rs"]
#[allow(dead_code)]
mod forked_rooms;
#[path = "../tests/server/graph.rs"]
#[allow(dead_code)]
mod graph;
#[path = "../tests/server/records.rs"]
#[allow(dead_code)]
mod records;
#[path = "../tests/server/room_records.rs"]
#[allow(dead_code)]
mod room_records;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use engram::logs::log::{Append, Log};
use engram::logs::{InputLog, LogSettings, OutputLog};
use engram::projectors::aliasserver::AliasProjector;
use engram::projectors::deliveryserver::DeliveryProjector;
use engram::projectors::keyserver::KeyProjector;
use engram::projectors::lanes::Lane;
use engram::projectors::output_log::{EmbeddedOutput, OutputLog as OutputPort};
use engram::projectors::rebuild;
use engram::projectors::receiptserver::ReceiptProjector;
use engram::projectors::roomserver::{RoomServer, RoomServerOptions, RoomTables};
use engram::projectors::run::epoch;
use engram::projectors::userserver::{Sessions, UserProjector};
use engram::storage::open::{Store, StoreOptions};

use records::Random;
use room_records::Room;

const EVENTS: u64 = 200_000;
const ROOMS: u64 = 100;
const SEGMENT_BYTES: u64 = 64 << 20;
/// Records of one append.
const BATCH: usize = 500;

fn main() {
    let arguments = std::env::args().skip(1);
    let events = arguments
        .filter_map(|argument| argument.parse().ok())
        .next();
    let events: u64 = events.unwrap_or(EVENTS);
    let folder = tempfile::tempdir().expect("temporary folder");
    let input = Arc::new(open_input(folder.path()));
    let bytes = fill(&input, events);
    println!(
        "{events} events in {ROOMS} rooms, {} bytes each in input",
        bytes / events
    );
    let mut digests = Vec::new();
    for lanes in [1, 2] {
        let home = folder.path().join(format!("lanes-{lanes}"));
        let begun = Instant::now();
        digests.push(replay(&home, &input, lanes));
        let seconds = begun.elapsed().as_secs_f64();
        let rate = events as f64 / seconds;
        println!("{lanes} lanes: {rate:.0} events/s ({seconds:.2} s)");
    }
    assert_eq!(digests[0], digests[1], "lanes change nothing");
}

fn open_input(folder: &Path) -> InputLog {
    let settings = LogSettings::new(&folder.join("log"), 1, SEGMENT_BYTES, 0);
    InputLog::open(&settings, &[]).expect("input opens").0
}

/// Appends messages round robin over the rooms; the bytes of all payloads.
fn fill(input: &InputLog, events: u64) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("runtime");
    let mut random = Random(1);
    let mut rooms = Vec::new();
    let mut batch = Vec::new();
    let mut bytes = 0;
    let append = |batch: &mut Vec<_>| {
        let batch = std::mem::take(batch);
        let ticket = input.enqueue(0, batch).expect("queue has room");
        runtime.block_on(ticket).expect("append");
    };
    for number in 0..ROOMS {
        let (room, made) = Room::create(number, &mut random);
        rooms.push(room);
        batch.extend(made.into_iter().map(|made| made.record));
    }
    append(&mut batch);
    for number in 0..events {
        let made = rooms[(number % ROOMS) as usize].plain_message(&mut random);
        bytes += made.record.payload.len() as u64;
        batch.push(made.record);
        if batch.len() == BATCH {
            append(&mut batch);
        }
    }
    if !batch.is_empty() {
        append(&mut batch);
    }
    bytes
}

fn replay(home: &Path, input: &Arc<InputLog>, lanes: usize) -> rebuild::Digest {
    let settings = LogSettings::new(&home.join("log"), 1, SEGMENT_BYTES, 0);
    let output = OutputLog::open(&settings, input.log_id(), epoch()).expect("output opens");
    let output: Arc<dyn OutputPort> = Arc::new(EmbeddedOutput::new(Arc::new(output.0)));
    let store = Store::open(&home.join("store"), &StoreOptions::default());
    let store = Arc::new(store.expect("store opens"));
    let as_input: Arc<dyn Log> = input.clone();
    let options = RoomServerOptions::default();
    let log_id = input.log_id().0;
    let rooms = RoomTables::new(store.clone(), as_input.clone(), &log_id, &options);
    let sessions = Arc::new(Sessions::load(&store, 1).expect("sessions"));
    let lane = |_| Lane {
        rooms: Box::new(RoomServer::new(rooms.clone())),
        users: Box::new(UserProjector::new(sessions.clone())),
        aliases: Box::new(AliasProjector),
        receipts: Box::new(ReceiptProjector::default()),
        keys: Box::new(KeyProjector),
        deliveries: Box::new(DeliveryProjector),
    };
    let make_lanes = |_| (0..lanes).map(lane).collect();
    rebuild::replay(&store, &as_input, &output, &make_lanes, &|_| {}).expect("replay")
}
