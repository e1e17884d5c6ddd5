//! How fast messages are indexed, and how fast they are found: real logs, store
//! and index in a temporary folder, one user in all rooms. The index alone, fed
//! with the same texts, is what the rate is compared with.
//!
//! `cargo bench --bench search [-- EVENTS]`

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
use std::time::{Duration, Instant};

use engram::logs::log::{Append, Log};
use engram::logs::{InputLog, LogSettings, OutputLog};
use engram::matrix::filter::RoomEventFilter;
use engram::projectors::aliasserver::AliasProjector;
use engram::projectors::deliveryserver::DeliveryProjector;
use engram::projectors::keyserver::KeyProjector;
use engram::projectors::lanes::Lane;
use engram::projectors::output_log::{EmbeddedOutput, OutputLog as OutputPort};
use engram::projectors::rebuild;
use engram::projectors::receiptserver::ReceiptProjector;
use engram::projectors::roomserver::{RoomServer, RoomServerOptions, RoomTables};
use engram::projectors::run::epoch;
use engram::projectors::userserver::{Sessions, UserAnswers, UserProjector};
use engram::query::rooms::Rooms;
use engram::query::tokens::Epoch;
use engram::readers::client_search::{ClientSearch, Order, Ports, Search, SearchKey};
use engram::readers::words;
use engram::storage::open::{Store, StoreOptions};
use ruma::user_id;
use tantivy::schema::{IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::{Index, IndexWriter, TantivyDocument};

use records::Random;
use room_records::Room;

const EVENTS: usize = 200_000;
const ROOMS: usize = 1_000;
/// Different words; the first are the commonest.
const WORDS: u64 = 50_000;
const SEGMENT_BYTES: u64 = 64 << 20;
/// Records of one append.
const BATCH: usize = 500;
/// How often each search is repeated; the middle one counts.
const REPEATS: usize = 51;

fn main() {
    let arguments = std::env::args().skip(1);
    let mut numbers = arguments.filter_map(|argument| argument.parse().ok());
    let events: usize = numbers.next().unwrap_or(EVENTS);
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut random = Random(1);
    let texts: Vec<String> = (0..events).map(|_| text(&mut random)).collect();
    let bytes: usize = texts.iter().map(String::len).sum();
    let house = House::new(folder.path(), &texts, &mut random);

    let alone = index_alone(&folder.path().join("alone"), &texts);
    let search = house.open(&folder.path().join("search"));
    let begun = Instant::now();
    while search.behind() > 0 {
        search.step(Instant::now()).expect("follows");
    }
    let took = begun.elapsed();
    let rate = |took: Duration| events as f64 / took.as_secs_f64();
    println!(
        "{events} messages of {} bytes in {ROOMS} rooms",
        bytes / events
    );
    println!("index alone: {:.0} messages/s", rate(alone));
    println!(
        "with output and look-ups: {:.0} messages/s, {:.2} of that",
        rate(took),
        rate(took) / rate(alone)
    );
    let size = size_of(&folder.path().join("search"));
    println!(
        "{} bytes of index per message, {:.2} of its text",
        size / events,
        size as f64 / bytes as f64
    );
    for (what, term, order) in [
        ("rare word", "w40000", Order::Rank),
        ("common word", "w0", Order::Rank),
        ("every third message", "the", Order::Rank),
        ("every third message, newest", "the", Order::Recent),
        ("two common words", "the w0", Order::Rank),
        ("phrase of two", "\"w0 w1\"", Order::Rank),
        ("no such word", "nothing", Order::Rank),
    ] {
        ask(&search, what, term, order, RoomEventFilter::default());
    }
    let filter = br#"{"rooms": ["!room7:example.org"]}"#;
    let filter = RoomEventFilter::parse(filter).expect("a filter");
    ask(
        &search,
        "every third message, one room",
        "the",
        Order::Rank,
        filter,
    );
}

/// Some ten words, the first of them the commoner; a third begin with `the`.
fn text(random: &mut Random) -> String {
    let count = 6 + random.below(9);
    let the = if random.below(3) == 0 { "the " } else { "" };
    let word = |random: &mut Random| {
        let most = 1 + random.below(WORDS);
        let most = 1 + random.below(most);
        format!("w{}", random.below(most))
    };
    let words: Vec<String> = (0..count).map(|_| word(random)).collect();
    format!("{the}{}", words.join(" "))
}

fn ask(search: &ClientSearch, what: &str, term: &str, order: Order, filter: RoomEventFilter) {
    let asked = Search {
        user: user_id!("@creator:example.org").to_owned(),
        term: term.to_owned(),
        keys: SearchKey::ALL.to_vec(),
        filter,
        order,
        limit: 10,
        next_batch: None,
    };
    let mut times = Vec::new();
    let mut count = 0;
    for _ in 0..REPEATS {
        let begun = Instant::now();
        count = search.find(&asked).expect("an answer").count;
        times.push(begun.elapsed());
    }
    times.sort();
    let (middle, worst) = (times[REPEATS / 2], times[REPEATS - 1]);
    println!("{what}: {count} results, {middle:.1?} (slowest {worst:.1?})");
}

/// The same texts into an index of nothing else.
fn index_alone(folder: &Path, texts: &[String]) -> Duration {
    std::fs::create_dir_all(folder).expect("a folder");
    let mut schema = Schema::builder();
    let indexing = TextFieldIndexing::default()
        .set_tokenizer("words")
        .set_index_option(IndexRecordOption::WithFreqsAndPositions);
    let field = schema.add_text_field(
        "text",
        TextOptions::default().set_indexing_options(indexing),
    );
    let index = Index::create_in_dir(folder, schema.build()).expect("an index");
    index.tokenizers().register("words", words::analyzer());
    let begun = Instant::now();
    let mut writer: IndexWriter = index
        .writer_with_num_threads(1, 24 << 20)
        .expect("a writer");
    for text in texts {
        let mut document = TantivyDocument::default();
        document.add_text(field, text);
        writer.add_document(document).expect("added");
    }
    writer.commit().expect("committed");
    begun.elapsed()
}

fn size_of(folder: &Path) -> usize {
    let files = std::fs::read_dir(folder).expect("a folder");
    let sizes = files.map(|file| file.expect("a file").metadata().expect("a file").len());
    sizes.sum::<u64>() as usize
}

/// Logs and store of a server that has taken in all messages.
struct House {
    store: Arc<Store>,
    rooms: Arc<RoomTables>,
    sessions: Arc<Sessions>,
    output: Arc<dyn OutputPort>,
}

impl House {
    fn new(folder: &Path, texts: &[String], random: &mut Random) -> House {
        let settings = LogSettings::new(&folder.join("log"), 1, SEGMENT_BYTES, 0);
        let input = Arc::new(InputLog::open(&settings, &[]).expect("input opens").0);
        fill(&input, texts, random);
        let output = OutputLog::open(&settings, input.log_id(), epoch()).expect("output opens");
        let output: Arc<dyn OutputPort> = Arc::new(EmbeddedOutput::new(Arc::new(output.0)));
        let store = Store::open(&folder.join("store"), &StoreOptions::default());
        let store = Arc::new(store.expect("store opens"));
        let as_input: Arc<dyn Log> = input.clone();
        let options = RoomServerOptions::default();
        let rooms = RoomTables::new(store.clone(), as_input.clone(), &input.log_id().0, &options);
        let sessions = Arc::new(Sessions::load(&store, 1).expect("sessions"));
        let lane = || Lane {
            rooms: Box::new(RoomServer::new(rooms.clone())),
            users: Box::new(UserProjector::new(sessions.clone())),
            aliases: Box::new(AliasProjector),
            receipts: Box::new(ReceiptProjector::default()),
            keys: Box::new(KeyProjector),
            deliveries: Box::new(DeliveryProjector),
        };
        let lanes = |_| vec![lane()];
        rebuild::replay(&store, &as_input, &output, &lanes, &|_| {}).expect("replay");
        House {
            store,
            rooms,
            sessions,
            output,
        }
    }

    fn open(&self, folder: &Path) -> ClientSearch {
        let rooms: Arc<dyn Rooms> = self.rooms.clone();
        let (store, sessions) = (self.store.clone(), self.sessions.clone());
        let users = UserAnswers::new(store, sessions, rooms.clone(), 1);
        let ports = Ports {
            rooms,
            users: Arc::new(users),
            output: self.output.clone(),
            folder: folder.to_owned(),
            epoch: Epoch(1),
        };
        ClientSearch::open(ports).expect("an index")
    }
}

/// Appends the messages round robin over the rooms.
fn fill(input: &InputLog, texts: &[String], random: &mut Random) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("runtime");
    let append = |batch: Vec<_>| {
        let ticket = input.enqueue(0, batch).expect("queue has room");
        runtime.block_on(ticket).expect("append");
    };
    let mut rooms = Vec::new();
    for number in 0..ROOMS as u64 {
        let (room, made) = Room::create(number, random);
        rooms.push(room);
        append(made.into_iter().map(|made| made.record).collect());
    }
    for (chunk, texts) in texts.chunks(BATCH).enumerate() {
        let message = |(index, text): (usize, &String)| {
            let room = &mut rooms[(chunk * BATCH + index) % ROOMS];
            room.say(random, text).record
        };
        append(texts.iter().enumerate().map(message).collect());
    }
}
