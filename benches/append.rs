//! Durable appends through the group commit, against what the disk allows.
//!
//! Closed loop: each appender waits for its record to be durable before the
//! next. Beside it, in the same run: one thread that writes and flushes as many
//! records at once as there are appenders (the limit), and a plain channel from
//! tokio to a thread that does the same without digests, frames or recovery
//! (the prototype). `cargo bench --bench append [-- seconds]`.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use engram::logs::LogSettings;
use engram::logs::input::InputLog;
use engram::logs::log::{Append, NewRecord};
use log_format::record::{Kind, NewEnvelope, Part, Source};
use tokio::sync::{mpsc, oneshot};

/// Bytes of an event as it is logged.
const EVENT_BYTES: usize = 900;
/// What the limit and the prototype write for each record.
const PLAIN_BYTES: usize = 1024;
const FILE_BYTES: u64 = 512 << 20;
const SEGMENT_BYTES: u64 = 64 << 20;

fn main() {
    let seconds = std::env::args().skip(1).find_map(|arg| arg.parse().ok());
    let window = Duration::from_secs(seconds.unwrap_or(3));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("runtime");
    println!(
        "{:<10} {:>12} {:>12} {:>12} {:>8} {:>11} {:>9} {:>9}",
        "appenders", "engram/s", "limit/s", "plain/s", "÷ limit", "÷ plain", "p50 ms", "p99 ms"
    );
    for appenders in [1, 16, 64, 256] {
        let limit = limit(appenders, window);
        let plain = runtime.block_on(plain(appenders, window));
        let (rate, p50, p99) = runtime.block_on(ours(appenders, window));
        println!(
            "{appenders:<10} {rate:>12.0} {limit:>12.0} {plain:>12.0} {:>8.2} {:>11.2} {p50:>9.3} {p99:>9.3}",
            rate / limit,
            rate / plain,
        );
    }
}

fn zero_filled(folder: &tempfile::TempDir) -> File {
    let path = folder.path().join("plain");
    let file = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .open(path)
        .expect("file");
    let zeroes = vec![0; 1 << 20];
    for at in (0..FILE_BYTES).step_by(zeroes.len()) {
        file.write_all_at(&zeroes, at).expect("write");
    }
    file.sync_all().expect("sync");
    file
}

/// One thread, `records` ready for each flush.
fn limit(records: usize, window: Duration) -> f64 {
    let folder = tempfile::tempdir().expect("folder");
    let file = zero_filled(&folder);
    let batch = vec![1; PLAIN_BYTES * records];
    let begun = Instant::now();
    let (mut at, mut flushes) = (0, 0_u64);
    while begun.elapsed() < window {
        file.write_all_at(&batch, at).expect("write");
        file.sync_data().expect("sync");
        at = (at + batch.len() as u64) % (FILE_BYTES - batch.len() as u64);
        flushes += 1;
    }
    (flushes * records as u64) as f64 / begun.elapsed().as_secs_f64()
}

/// A channel into a thread that writes and flushes whatever waits.
async fn plain(appenders: usize, window: Duration) -> f64 {
    let folder = tempfile::tempdir().expect("folder");
    let file = zero_filled(&folder);
    let (queue, mut waiting) = mpsc::channel::<(Vec<u8>, oneshot::Sender<()>)>(appenders);
    let thread = std::thread::spawn(move || {
        let mut at = 0;
        while let Some(first) = waiting.blocking_recv() {
            let mut group = vec![first];
            while let Ok(next) = waiting.try_recv() {
                group.push(next);
            }
            let bytes: Vec<u8> = group.iter().flat_map(|(bytes, _)| bytes).copied().collect();
            file.write_all_at(&bytes, at).expect("write");
            file.sync_data().expect("sync");
            at = (at + bytes.len() as u64) % (FILE_BYTES - (1 << 20));
            for (_, done) in group {
                let _ = done.send(());
            }
        }
    });
    let latencies = closed_loop(appenders, window, move |_| {
        let queue = queue.clone();
        async move {
            let (done, durable) = oneshot::channel();
            queue
                .send((vec![1; PLAIN_BYTES], done))
                .await
                .expect("thread");
            durable.await.expect("thread");
        }
    })
    .await;
    thread.join().expect("thread");
    latencies.len() as f64 / window.as_secs_f64()
}

/// Engram's *input* log: envelope, digest, frames, chain, flush.
async fn ours(appenders: usize, window: Duration) -> (f64, f64, f64) {
    let folder = tempfile::tempdir().expect("folder");
    let settings = LogSettings::new(folder.path(), 1, SEGMENT_BYTES, 1 << 20);
    let (log, _) = InputLog::open(&settings, &[]).expect("log");
    let log = Arc::new(log);
    let mut latencies = closed_loop(appenders, window, move |number| {
        let log = log.clone();
        async move {
            let record = record(number);
            let ticket = log.enqueue(0, vec![record]).expect("room in the queue");
            ticket.await.expect("durable");
        }
    })
    .await;
    latencies.sort_unstable();
    let at = |percent: usize| latencies[latencies.len() * percent / 100].as_secs_f64() * 1000.0;
    (
        latencies.len() as f64 / window.as_secs_f64(),
        at(50),
        at(99),
    )
}

fn record(number: usize) -> NewRecord {
    let event = [b'x'; EVENT_BYTES];
    let id = format!("$event{number}");
    let envelope = NewEnvelope {
        key: "!room",
        room_id: Some("!room"),
        event_id: Some(&id),
        sender: Some("@alice:bench.test"),
        event_type: Some("m.room.message"),
        body_part: Part::Present(&event),
        salt: [7; 32],
        ..NewEnvelope::default()
    };
    NewRecord::new(Kind::InputRoomEvent, Source::Client, &envelope)
}

/// Latencies of every append that `appenders` tasks made within the window.
async fn closed_loop<F>(
    appenders: usize,
    window: Duration,
    append: impl Fn(usize) -> F + Clone + Send + 'static,
) -> Vec<Duration>
where
    F: Future<Output = ()> + Send,
{
    let stop = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..appenders)
        .map(|number| {
            let (stop, append) = (stop.clone(), append.clone());
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    append(number).await;
                    latencies.push(begun.elapsed());
                }
                latencies
            })
        })
        .collect();
    tokio::time::sleep(window).await;
    stop.store(true, Ordering::Relaxed);
    drop(append);
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.expect("appender"));
    }
    all
}
