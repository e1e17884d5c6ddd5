//! `PUT /send` in a closed loop: durable before the answer, over real sockets.
//!
//! Senders each in a room of their own, all in one room, and into rooms with
//! many joined local users. The table's ratios are of one run on one machine.
//! `cargo bench --bench send [-- seconds]`.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Client, Latencies, Server, bare_flush_ms, folder_bytes};

const ROOMS: usize = 1000;
const EVENTS: usize = 100_000;

struct Sender {
    token: String,
    room: String,
}

struct Measured {
    rate: f64,
    latencies: Latencies,
    cpu_per_send_us: f64,
}

fn main() {
    let seconds = std::env::args()
        .skip(1)
        .find_map(|arg| arg.parse().ok())
        .unwrap_or(5);
    let window = Duration::from_secs(seconds);
    let server = Server::start();
    let (flush_p50, flush_p99) = bare_flush_ms(&server.data_dir);
    println!("bare 4 KiB write + fdatasync: p50 {flush_p50:.3} ms, p99 {flush_p99:.3} ms");
    println!(
        "resident after start: {:.1} MiB",
        mib(server.resident_bytes())
    );

    let tokens: Vec<String> = (0..64)
        .map(|number| server.register(&format!("sender{number}")))
        .collect();
    let own: Vec<Sender> = tokens
        .iter()
        .map(|token| Sender {
            token: token.clone(),
            room: create_room(&server, token),
        })
        .collect();
    header();
    let disk_before = event_bytes(&server);
    let mut sent = 0;
    let alone = report(
        "1 sender, own room",
        run(&server, &own[..1], window),
        &mut sent,
    );
    for count in [16, 64] {
        report(
            &format!("{count} senders, own rooms"),
            run(&server, &own[..count], window),
            &mut sent,
        );
    }
    let shared_room = public_room(&server, &tokens[0]);
    for token in &tokens[1..] {
        join(&server, token, &shared_room);
    }
    let shared: Vec<Sender> = tokens
        .iter()
        .map(|token| Sender {
            token: token.clone(),
            room: shared_room.clone(),
        })
        .collect();
    for count in [16, 64] {
        report(
            &format!("{count} senders, one room"),
            run(&server, &shared[..count], window),
            &mut sent,
        );
    }
    let written = event_bytes(&server).saturating_sub(disk_before);

    let mut crowd = Vec::new();
    for members in [100, 1000] {
        while crowd.len() < members {
            crowd.push(server.register(&format!("crowd{}", crowd.len())));
        }
        let room = public_room(&server, &tokens[0]);
        for token in &crowd {
            join(&server, token, &room);
        }
        let one = [Sender {
            token: tokens[0].clone(),
            room,
        }];
        let measured = report(
            &format!("1 sender, {members} members"),
            run(&server, &one, window),
            &mut sent,
        );
        println!(
            "    p50 is {:.2}x of the room with one member, server CPU {:.2}x",
            measured.latencies.percentile_ms(50.0) / alone.latencies.percentile_ms(50.0),
            measured.cpu_per_send_us / alone.cpu_per_send_us,
        );
    }
    println!(
        "disk per event (logs and RocksDB, fill-ahead included): {} bytes",
        written / sent.max(1)
    );
    println!(
        "resident at the end: {:.1} MiB",
        mib(server.resident_bytes())
    );
    drop(server);
    memory_of_rooms();
}

/// Memory of a server that took 100,000 events in 1,000 rooms.
fn memory_of_rooms() {
    let server = Server::start();
    let threads: Vec<_> = (0..16)
        .map(|number| {
            let token = server.register(&format!("keeper{number}"));
            let share = ROOMS / 16 + usize::from(number < ROOMS % 16);
            let rooms: Vec<String> = (0..share).map(|_| create_room(&server, &token)).collect();
            let mut client = server.client();
            std::thread::spawn(move || fill(&mut client, &token, &rooms))
        })
        .collect();
    let events: usize = threads
        .into_iter()
        .map(|thread| thread.join().expect("sender"))
        .sum();
    println!(
        "{ROOMS} rooms, {events} messages: resident {:.1} MiB",
        mib(server.resident_bytes())
    );
}

/// Sends a share of `EVENTS` into each room; gives how many were sent.
fn fill(client: &mut Client, token: &str, rooms: &[String]) -> usize {
    let body = json!({ "msgtype": "m.text", "body": "Something to remember." }).to_string();
    let per_room = EVENTS / ROOMS;
    for number in 0..per_room {
        for room in rooms {
            let path = format!(
                "/_matrix/client/v3/rooms/{}/send/m.room.message/{number}",
                encode(room)
            );
            let status = client.send("PUT", &path, Some(token), body.as_bytes());
            assert_eq!(status, 200, "{}", client.body());
        }
    }
    per_room * rooms.len()
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

fn event_bytes(server: &Server) -> u64 {
    folder_bytes(&server.data_dir)
}

fn header() {
    println!(
        "{:<26} {:>9} {:>9} {:>9} {:>14}",
        "scenario", "sends/s", "p50 ms", "p99 ms", "CPU us/send"
    );
}

fn report(name: &str, measured: Measured, sent: &mut u64) -> Measured {
    *sent += measured.latencies.count() as u64;
    println!(
        "{name:<26} {:>9.0} {:>9.3} {:>9.3} {:>14.0}",
        measured.rate,
        measured.latencies.percentile_ms(50.0),
        measured.latencies.percentile_ms(99.0),
        measured.cpu_per_send_us,
    );
    measured
}

fn create_room(server: &Server, token: &str) -> String {
    let answer = server.client().call(
        "POST",
        "/_matrix/client/v3/createRoom",
        Some(token),
        &json!({}),
    );
    answer["room_id"].as_str().expect("a room id").to_owned()
}

fn public_room(server: &Server, token: &str) -> String {
    let body = json!({ "preset": "public_chat" });
    let answer = server
        .client()
        .call("POST", "/_matrix/client/v3/createRoom", Some(token), &body);
    answer["room_id"].as_str().expect("a room id").to_owned()
}

fn join(server: &Server, token: &str, room: &str) {
    let path = format!("/_matrix/client/v3/rooms/{}/join", encode(room));
    server.client().call("POST", &path, Some(token), &json!({}));
}

fn encode(id: &str) -> String {
    id.replace('!', "%21")
        .replace('$', "%24")
        .replace(':', "%3A")
}

/// Every sender sends as fast as it gets answers, for the time of the window.
fn run(server: &Server, senders: &[Sender], window: Duration) -> Measured {
    let stop = Arc::new(AtomicBool::new(false));
    let barrier = Arc::new(Barrier::new(senders.len() + 1));
    let threads: Vec<_> = senders
        .iter()
        .enumerate()
        .map(|(number, sender)| {
            let (stop, barrier) = (stop.clone(), barrier.clone());
            let (token, room) = (sender.token.clone(), encode(&sender.room));
            let mut client = server.client();
            let run_id = Instant::now();
            std::thread::spawn(move || {
                barrier.wait();
                send_until(
                    &mut client,
                    &stop,
                    &token,
                    &room,
                    &format!("{number}-{run_id:?}"),
                )
            })
        })
        .collect();
    let cpu_before = server.cpu();
    barrier.wait();
    let begun = Instant::now();
    std::thread::sleep(window);
    stop.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for thread in threads {
        all.extend(thread.join().expect("sender"));
    }
    let (elapsed, cpu) = (begun.elapsed(), server.cpu().saturating_sub(cpu_before));
    let count = all.len().max(1) as f64;
    Measured {
        rate: count / elapsed.as_secs_f64(),
        cpu_per_send_us: cpu.as_secs_f64() * 1e6 / count,
        latencies: Latencies::new(all),
    }
}

fn send_until(
    client: &mut Client,
    stop: &AtomicBool,
    token: &str,
    room: &str,
    run_id: &str,
) -> Vec<Duration> {
    let body =
        json!({ "msgtype": "m.text", "body": "The quick brown fox jumps over the lazy dog." })
            .to_string();
    let run_id: String = run_id.chars().filter(char::is_ascii_alphanumeric).collect();
    let mut latencies = Vec::with_capacity(1 << 14);
    while !stop.load(Ordering::Relaxed) {
        let path = format!(
            "/_matrix/client/v3/rooms/{room}/send/m.room.message/{run_id}-{}",
            latencies.len()
        );
        let begun = Instant::now();
        let status = client.send("PUT", &path, Some(token), body.as_bytes());
        assert_eq!(status, 200, "{}", client.body());
        assert_ne!(client.body()["event_id"], Value::Null);
        latencies.push(begun.elapsed());
    }
    latencies
}
