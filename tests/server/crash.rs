//! Nothing acknowledged is lost, nothing is doubled: clients send in many
//! rooms, the server is killed at a random moment and started again, many times.
//!
//! A SIGKILL leaves the page cache whole, so in half of the rounds the test also
//! plays a power cut: it removes a random part of what no flush had returned
//! for, in *input*, and a random part of the end of *output*. Small segments,
//! memtables and snapshot intervals make every path of recovery run; the files left
//! behind prove that they did. `ENGRAM_CRASH_ROUNDS` asks for more than the 200 rounds
//! of a plain run, `ENGRAM_CRASH_SEED` repeats one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use log_format::file_system::{FileSystem as _, OpenMode, RealFileSystem};
use log_format::scan::{BatchScanner, Check, FrameScanner, Step};
use log_format::segment::{self, HEADER_PAGE_BYTES, SegmentHeader};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Api, Builder, Server, escape};

const ROUNDS: usize = 200;
const SENDERS: usize = 4;
const ROOMS_PER_SENDER: usize = 3;
/// Rounds after which the derived data is held against a replay.
const VERIFY_EVERY: usize = 50;
/// How much of the end of *output* a power cut may take.
const OUTPUT_CUT_BYTES_MAX: u64 = 16 << 10;
const SYNC_FILTER: &str = r#"{"room":{"timeline":{"limit":50}}}"#;

/// A linear congruential generator: the moments and cuts of a run repeat by its seed.
struct Dice(u64);

impl Dice {
    fn seeded() -> Dice {
        let seed = std::env::var("ENGRAM_CRASH_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
        println!("ENGRAM_CRASH_SEED={seed}");
        Dice(seed)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end.max(1)
    }
}

/// A message that was put on its way.
#[derive(Clone)]
struct Sent {
    room: String,
    txn: String,
}

/// One user who sends, and what the server owes them.
struct Sender {
    api: Api,
    rooms: Vec<String>,
    /// Event ids by room, in the order of their acknowledgements.
    acknowledged: BTreeMap<String, Vec<String>>,
    /// How many of them an earlier sync showed, by room.
    shown: BTreeMap<String, usize>,
    unanswered: Option<Sent>,
    next: u64,
    since: String,
}

impl Sender {
    async fn new(server: &Server, number: usize) -> Sender {
        let api = server.register(&format!("sender{number}")).await;
        let mut rooms = Vec::new();
        for _ in 0..ROOMS_PER_SENDER {
            rooms.push(api.create_room(json!({})).await);
        }
        let since = api.sync("timeout=0").await["next_batch"]
            .as_str()
            .unwrap()
            .to_owned();
        let (acknowledged, shown) = (BTreeMap::new(), BTreeMap::new());
        Sender {
            api,
            rooms,
            acknowledged,
            shown,
            unanswered: None,
            next: 0,
            since,
        }
    }

    /// Sends until no answer comes.
    async fn send_until_killed(&mut self) {
        loop {
            let room = self.rooms[self.next as usize % self.rooms.len()].clone();
            let sent = Sent {
                room,
                txn: format!("t{}", self.next),
            };
            self.next += 1;
            if self.next.is_multiple_of(10) {
                let path = format!(
                    "/_matrix/client/v3/rooms/{}/state/m.room.topic",
                    escape(&sent.room)
                );
                let body = json!({ "topic": sent.txn });
                if self
                    .api
                    .try_request(Method::PUT, &path, Some(body))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            self.unanswered = Some(sent);
            if !self.send_unanswered().await {
                return;
            }
        }
    }

    /// Sends what has no answer yet, under its transaction id. False if the server is gone.
    async fn send_unanswered(&mut self) -> bool {
        let Some(sent) = self.unanswered.clone() else {
            return true;
        };
        let path = format!(
            "/_matrix/client/v3/rooms/{}/send/m.room.message/{}",
            escape(&sent.room),
            sent.txn
        );
        let body = json!({ "msgtype": "m.text", "body": sent.txn });
        match self.api.try_request(Method::PUT, &path, Some(body)).await {
            Ok(answer) => {
                let event_id = answer.ok()["event_id"].as_str().unwrap().to_owned();
                self.acknowledged
                    .entry(sent.room)
                    .or_default()
                    .push(event_id);
                self.unanswered = None;
                true
            }
            Err(_) => false,
        }
    }

    /// The token from before the crash gives every message since then exactly
    /// once and in order: what was acknowledged, and nothing else.
    async fn check_sync(&mut self) -> Result<(), String> {
        let query = format!(
            "timeout=0&since={}&filter={}",
            escape(&self.since),
            escape(SYNC_FILTER)
        );
        let answer = self
            .api
            .get(&format!("/_matrix/client/v3/sync?{query}"))
            .await;
        if answer.status != 200 {
            return Err(format!(
                "a token from before the crash is refused: {}",
                answer.text
            ));
        }
        for room in &self.rooms {
            let timeline = &answer.body["rooms"]["join"][room]["timeline"];
            let known = self.acknowledged.get(room).map_or(&[][..], Vec::as_slice);
            let before = self.shown.get(room).copied().unwrap_or(0);
            let mut found = Vec::new();
            if timeline["limited"] == true {
                let gap = timeline["prev_batch"].as_str().unwrap();
                let last_shown = before.checked_sub(1).and_then(|at| known.get(at));
                found = self.backwards(room, gap, last_shown).await;
            }
            found.extend(messages(&timeline["events"]));
            same(room, found, &known[before..])?;
            self.shown.insert(room.clone(), known.len());
        }
        self.since = answer.body["next_batch"].as_str().unwrap().to_owned();
        Ok(())
    }

    /// Messages before a gap, back to one that is known, in the room's order.
    async fn backwards(&self, room: &str, gap: &str, known: Option<&String>) -> Vec<String> {
        let mut found = Vec::new();
        let mut from = Some(gap.to_owned());
        while let Some(token) = from {
            let query = format!("messages?dir=b&limit=100&from={}", escape(&token));
            let path = format!("/_matrix/client/v3/rooms/{}/{query}", escape(room));
            let page = self.api.get(&path).await.ok();
            for message in messages(&page["chunk"]) {
                if Some(&message) == known {
                    found.reverse();
                    return found;
                }
                found.push(message);
            }
            from = page["end"].as_str().map(str::to_owned);
        }
        found.reverse();
        found
    }

    /// The whole history, page by page.
    async fn check_history(&self) -> Result<(), String> {
        for (room, known) in &self.acknowledged {
            let mut found = Vec::new();
            let mut from = String::new();
            loop {
                let path = format!(
                    "/_matrix/client/v3/rooms/{}/messages?dir=f&limit=100{from}",
                    escape(room)
                );
                let page = self.api.get(&path).await.ok();
                found.extend(messages(&page["chunk"]));
                match page["end"].as_str() {
                    Some(end) => from = format!("&from={}", escape(end)),
                    None => break,
                }
            }
            same(room, found, known)?;
        }
        Ok(())
    }
}

fn messages(events: &Value) -> Vec<String> {
    let events = events.as_array().map(Vec::as_slice).unwrap_or_default();
    let wanted = events
        .iter()
        .filter(|event| event["type"] == "m.room.message");
    wanted
        .map(|event| event["event_id"].as_str().unwrap().to_owned())
        .collect()
}

fn same(room: &str, found: Vec<String>, acknowledged: &[String]) -> Result<(), String> {
    if found == acknowledged {
        return Ok(());
    }
    let lost = acknowledged.iter().filter(|id| !found.contains(id)).count();
    Err(format!(
        "{room}: {lost} acknowledged events lost; {} acknowledged, {} found",
        acknowledged.len(),
        found.len()
    ))
}

/// Where a partition's last segment stands.
fn last_segment(partition: &Path) -> Option<PathBuf> {
    let names = RealFileSystem.list(partition).unwrap();
    let base = names
        .iter()
        .filter_map(|name| segment::parse_file_name(name))
        .max()?;
    Some(partition.join(segment::file_name(base)))
}

fn partitions(data_dir: &Path, topic: &str) -> Vec<(usize, PathBuf)> {
    let dir = |number: usize| {
        data_dir
            .join("log")
            .join(topic)
            .join(format!("p{number:04}"))
    };
    (0..)
        .map(|number| (number, dir(number)))
        .take_while(|(_, dir)| dir.is_dir())
        .collect()
}

/// Takes a random part of what no flush had returned for. Returns how many bytes.
fn cut_input(data_dir: &Path, dice: &mut Dice) -> u64 {
    let mut cut = 0;
    for (number, partition) in partitions(data_dir, "input") {
        let marker = std::fs::read(data_dir.join(format!("log/input/synced-{number}"))).unwrap();
        // Empty until the first flush.
        let synced_end = match marker.is_empty() {
            true => 0,
            false => u64::from_le_bytes(marker.try_into().unwrap()),
        };
        let path = last_segment(&partition).unwrap();
        let (synced, written) = positions(&path, synced_end);
        // Sectors are lost whole, and from anywhere on.
        let from = synced + dice.below(written.saturating_sub(synced) + 1);
        if from < written {
            let file = File::options().write(true).open(&path).unwrap();
            file.write_all_at(&vec![0; (written - from) as usize], from)
                .unwrap();
            cut += written - from;
        }
    }
    cut
}

/// Positions behind the last batch of records below `synced_end`, and behind the
/// last byte that was written.
fn positions(path: &Path, synced_end: u64) -> (u64, u64) {
    let bytes = std::fs::read(path).unwrap();
    let header = SegmentHeader::decode(&bytes[..HEADER_PAGE_BYTES]).unwrap();
    let file = RealFileSystem.open(path, OpenMode::Read).unwrap();
    let mut frames = FrameScanner::new(&*file, header.salt, HEADER_PAGE_BYTES as u64);
    let mut batches = BatchScanner::new(header, Check::Checksums);
    let mut synced = batches.position;
    while let Step::Frame(frame) = frames.step().unwrap() {
        if batches.take(&frame).is_err() {
            break;
        }
        if batches.end <= synced_end {
            synced = batches.position;
        }
    }
    let written = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |at| at as u64 + 1);
    (synced, written.max(synced))
}

/// Takes a random part of the end of *output*, which is derived and flushed lazily.
fn cut_output(data_dir: &Path, dice: &mut Dice) -> u64 {
    let mut cut = 0;
    for (_, partition) in partitions(data_dir, "output") {
        let Some(path) = last_segment(&partition) else {
            continue;
        };
        let file = File::options().write(true).open(path).unwrap();
        let bytes = file.metadata().unwrap().len();
        let most = bytes
            .saturating_sub(HEADER_PAGE_BYTES as u64)
            .min(OUTPUT_CUT_BYTES_MAX);
        let taken = dice.below(most + 1);
        file.set_len(bytes - taken).unwrap();
        cut += taken;
    }
    cut
}

/// What the rounds ran into, to prove that they ran into it.
#[derive(Debug, Default)]
struct Hits {
    acknowledged: usize,
    /// Table files of the store: a flush makes one.
    flushed: BTreeSet<String>,
    segments: BTreeSet<String>,
    snapshots: BTreeSet<String>,
    input_bytes_cut: u64,
    output_bytes_cut: u64,
}

impl Hits {
    /// Looks at what a killed server left.
    fn look(&mut self, data_dir: &Path) {
        let names = |folder: &str| {
            RealFileSystem
                .list(&data_dir.join(folder))
                .unwrap_or_default()
        };
        self.flushed.extend(
            names("store")
                .into_iter()
                .filter(|name| name.ends_with(".sst")),
        );
        self.segments.extend(
            names("log/input/p0000")
                .into_iter()
                .filter(|name| name.ends_with(".seg")),
        );
        self.snapshots.extend(
            names("snapshots")
                .into_iter()
                .filter(|name| name != "building"),
        );
    }
}

fn settings() -> Builder {
    Server::builder()
        .set("LOG__SEGMENT_BYTES", 256 << 10)
        .set("LOG__SYNCED_MARKER", true)
        .set("LOG__RESERVE_BYTES", 1 << 20)
        .set("STORE__MEMTABLE_BYTES", 128 << 10)
        .set("STORE__FLUSH_SECONDS", 1)
        .set("SNAPSHOTS__INTERVAL_RECORDS", 200)
}

async fn run(
    server: &mut Server,
    senders: &mut [Sender],
    rounds: usize,
    dice: &mut Dice,
) -> Result<Hits, String> {
    let mut hits = Hits::default();
    for round in 0..rounds {
        for sender in senders.iter_mut() {
            let mut api = server.api();
            api.token = sender.api.token.clone();
            sender.api = api;
            assert!(sender.send_unanswered().await, "the server is up");
            sender
                .check_sync()
                .await
                .map_err(|why| format!("round {round}: {why}"))?;
        }
        // Most lives are short; some see the timers of flushes and snapshots run.
        let longest = if round % 10 == 9 { 2500 } else { 150 };
        let kill_after = Duration::from_millis(20 + dice.below(longest));
        let sending = senders.iter_mut().map(Sender::send_until_killed);
        let load = futures_util::future::join_all(sending);
        let killing = async {
            tokio::time::sleep(kill_after).await;
            server.kill();
        };
        futures_util::future::join(load, killing).await;
        hits.look(&server.data_dir);
        if round % 2 == 0 {
            hits.input_bytes_cut += cut_input(&server.data_dir, dice);
            hits.output_bytes_cut += cut_output(&server.data_dir, dice);
        }
        if (round + 1) % VERIFY_EVERY == 0 {
            server.start().await;
            server.terminate().await;
            verify(server)?;
        }
        server.start().await;
    }
    hits.acknowledged = senders
        .iter()
        .flat_map(|sender| sender.acknowledged.values())
        .map(Vec::len)
        .sum();
    for sender in senders.iter_mut() {
        let mut api = server.api();
        api.token = sender.api.token.clone();
        sender.api = api;
        assert!(sender.send_unanswered().await, "the server is up");
        sender.check_history().await?;
    }
    Ok(hits)
}

/// The digest of what is on disk equals that of a replay.
fn verify(server: &Server) -> Result<(), String> {
    let status = server.command(&["replay", "--verify"]).status().unwrap();
    if status.success() {
        Ok(())
    } else {
        Err(format!("a replay differs from what is on disk: {status}"))
    }
}

async fn senders(server: &Server) -> Vec<Sender> {
    let mut all = Vec::new();
    for number in 0..SENDERS {
        all.push(Sender::new(server, number).await);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_or_doubled() {
    survive(settings(), 1).await;
}

/// Fewer rounds: what differs is that a client's records lie in several logs.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_in_four_partitions() {
    survive(settings().set("LOG__PARTITIONS", 4), 4).await;
}

/// How often all rounds are played again while no cut met a batch on its way.
const MORE_TIMES: usize = 4;

/// Lets a server live and die; a fraction of the rounds asked for.
async fn survive(settings: Builder, fraction: usize) {
    let rounds = std::env::var("ENGRAM_CRASH_ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok());
    let rounds = rounds.unwrap_or(ROUNDS) / fraction;
    let mut dice = Dice::seeded();
    let begun = Instant::now();
    let mut server = settings.start().await;
    let mut senders = senders(&server).await;
    let hits = run(&mut server, &mut senders, rounds, &mut dice).await;
    let mut hits = hits.unwrap_or_else(|why| panic!("{why}"));
    // Whether a batch is on its way when the server is killed is chance: a busy
    // machine sends fewer of them, and they wait for nothing.
    for _ in 0..MORE_TIMES {
        if hits.input_bytes_cut > 0 {
            break;
        }
        let more = run(&mut server, &mut senders, rounds, &mut dice).await;
        hits.input_bytes_cut = more.unwrap_or_else(|why| panic!("{why}")).input_bytes_cut;
    }
    println!(
        "{rounds} rounds in {:.0?}: {} messages acknowledged, {} table files, {} segments, {} snapshots, {} + {} bytes cut",
        begun.elapsed(),
        hits.acknowledged,
        hits.flushed.len(),
        hits.segments.len(),
        hits.snapshots.len(),
        hits.input_bytes_cut,
        hits.output_bytes_cut,
    );
    assert!(hits.acknowledged >= rounds, "the clients got answers");
    assert!(!hits.flushed.is_empty(), "the store was flushed");
    assert!(hits.segments.len() > 1 || rounds < 50, "segments rolled");
    assert!(
        !hits.snapshots.is_empty() || rounds < 50,
        "snapshots were made"
    );
    assert!(hits.output_bytes_cut > 0, "output was cut");
    assert!(hits.input_bytes_cut > 0 || rounds < 50, "input was cut");
    server.terminate().await;
    verify(&server).unwrap_or_else(|why| panic!("{why}"));
}

/// The test above has teeth: without the flush before the answer, the same
/// power cuts lose what was acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn without_flushes_the_same_cuts_lose_messages() {
    let mut dice = Dice::seeded();
    let mut server = settings().start().await;
    let mut senders = senders(&server).await;
    server.terminate().await;
    server.set("LOG__SYNC", false);
    server.start().await;
    let rounds = tokio::spawn(async move {
        let outcome = run(&mut server, &mut senders, 10, &mut dice).await;
        outcome.map_err(|why| assert!(why.contains("lost") || why.contains("refused"), "{why}"))
    });
    // A server that notices that acknowledged records are gone does not start,
    // which the harness reports by a panic.
    match rounds.await {
        Ok(outcome) => assert!(
            outcome.is_err(),
            "ten power cuts without a flush lost nothing"
        ),
        Err(panic) => {
            let why = panic.into_panic();
            let why = why.downcast_ref::<String>().map_or("", String::as_str);
            assert!(why.contains("acknowledged records"), "{why}");
        }
    }
}
