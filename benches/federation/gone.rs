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
/// Longer than any server is left alone.
const LONG_STOP: Duration = Duration::from_secs(2 * 24 * 60 * 60);
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
    let each = |world: &World| {
        let now = Memory::of(world);
        let resident = now.resident.saturating_sub(before.resident) / servers as u64;
        let of_store = now.of_store.saturating_sub(before.of_store) / servers as u64;
        (resident, of_store)
    };
    println!("| resident bytes for each server | of them memtables and block cache |  |");
    println!("|---|---|---|");
    for number in 0..servers {
        world.say(Source::Federation, joins(&name(number)));
    }
    let (resident, of_store) = each(&world);
    println!("| {resident} | {of_store} | in the room |");
    world.say(Source::Client, vec![]);
    until_tried(&world, servers + 10).await;
    let (resident, of_store) = each(&world);
    println!("| {resident} | {of_store} | tried once |");
    let begun = Instant::now();
    for _ in 0..events {
        world.say(Source::Client, vec![]);
    }
    let folded = begun.elapsed().as_secs_f64() * 1000.0 / events as f64;
    let (resident, of_store) = each(&world);
    println!("| {resident} | {of_store} | {events} events on, {folded:.1} ms each |");
    for number in 0..READERS {
        world.read(number);
    }
    let (resident, of_store) = each(&world);
    println!("| {resident} | {of_store} | {READERS} receipts on |");
    assert!(resident <= BYTES_MAX, "{resident} bytes for each server");
    let waiting = world.sender.counts().waiting;
    println!(
        "{waiting} rows wait for {} servers",
        world.sender.counts().in_memory
    );
    carrying.abort();
    let _ = carrying.await;
    start(&mut world, servers).await;
}

/// A process that finds all of them backed off, and one that finds all of them due.
async fn start(world: &mut World, servers: usize) {
    let begun = Instant::now();
    world.open_again();
    let backed_off = begun.elapsed();
    println!(
        "a start that finds them backed off opens in {} ms",
        backed_off.as_millis()
    );
    world.time.go_ahead(LONG_STOP);
    let carrier = world.carrier.clone();
    let asked = carrier.asked.load(Ordering::Relaxed);
    carrier.most.store(0, Ordering::Relaxed);
    let begun = Instant::now();
    world.open_again();
    let carrying = tokio::spawn(world.sender.clone().run());
    while carrier.asked.load(Ordering::Relaxed) < asked + servers {
        assert!(
            begun.elapsed() < Duration::from_secs(300),
            "not asked in time"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!(
        "a start that finds them due has asked all in {} ms, at most {} at a time",
        begun.elapsed().as_millis(),
        carrier.most.load(Ordering::Relaxed)
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
