//! What thousands of servers cost that are gone for good: memory while events
//! wait for them, and a start after a long stop, when all are due.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use log_format::record::Source;

use crate::world::{World, joins};

/// Servers that are gone.
pub const SERVERS: usize = 5_000;
/// Events that wait for each of them.
pub const EVENTS: usize = 1_000;
/// Users whose receipts wait beside: more than are kept.
const READERS: usize = 500;
/// What one may cost, in bytes.
const BYTES_MAX: u64 = 64 * 1024;

/// Prints what they cost. Nobody listens at their port, so each attempt ends at once.
pub async fn cost(servers: usize, events: usize) {
    println!("\n{servers} servers that are gone, {events} events for each");
    let mut world = World::new();
    let carrying = tokio::spawn(world.sender.clone().run());
    // What the process needs in any case.
    for number in 0..10 {
        world.say(Source::Federation, joins(&name(servers + number)));
    }
    world.say(Source::Client, vec![]);
    until_tried(&world, 10).await;
    let before = Memory::of(&world);
    for number in 0..servers {
        world.say(Source::Federation, joins(&name(number)));
    }
    world.say(Source::Client, vec![]);
    until_tried(&world, servers + 10).await;
    let begun = Instant::now();
    for _ in 0..events {
        world.say(Source::Client, vec![]);
    }
    let folded = begun.elapsed() / u32::try_from(events).expect("few");
    for number in 0..READERS {
        world.read(number);
    }
    let after = Memory::of(&world);
    let each = after.resident.saturating_sub(before.resident) / servers as u64;
    let of_store = after.of_store.saturating_sub(before.of_store) / servers as u64;
    println!(
        "| per server: resident bytes | of them memtables and block cache | one event to all, ms |"
    );
    println!("|---|---|---|");
    println!(
        "| {each} | {of_store} | {:.1} |",
        folded.as_secs_f64() * 1000.0
    );
    assert!(each <= BYTES_MAX, "{each} bytes for each server");
    let waiting = world.sender.counts().waiting;
    println!(
        "{waiting} rows wait for {} servers",
        world.sender.counts().in_memory
    );
    carrying.abort();
    let _ = carrying.await;
    start(&mut world).await;
}

/// A process that finds all of them backed off, and then one that finds them due.
async fn start(world: &mut World) {
    let begun = Instant::now();
    world.open_again();
    let opened = begun.elapsed();
    world.carrier.most.store(0, Ordering::Relaxed);
    let carrying = tokio::spawn(world.sender.clone().run());
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!(
        "a start opens in {} ms; {} servers are in memory then, {} were asked at a time at most",
        opened.as_millis(),
        world.sender.counts().in_memory,
        world.carrier.most.load(Ordering::Relaxed)
    );
    carrying.abort();
    let _ = carrying.await;
}

/// At an address of its own, where nobody listens.
fn name(number: usize) -> String {
    format!("127.9.{}.{}:1", number / 250, 1 + number % 250)
}

/// Waits until all have been tried once.
async fn until_tried(world: &World, servers: usize) {
    let begun = Instant::now();
    while world.sender.counts().failing < servers as u64 {
        assert!(
            begun.elapsed() < Duration::from_secs(300),
            "not tried in time"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Of this process, in bytes.
struct Memory {
    resident: u64,
    of_store: u64,
}

impl Memory {
    fn of(world: &World) -> Memory {
        let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
        let pages: Option<u64> = statm
            .split_whitespace()
            .nth(1)
            .and_then(|it| it.parse().ok());
        let store = world.store.metrics();
        Memory {
            resident: pages.expect("resident pages") * 4096,
            of_store: store.memtable_bytes + store.block_cache_bytes,
        }
    }
}
