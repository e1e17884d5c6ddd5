//! `/sync` and sliding sync over real sockets: first and later answers of users
//! in few and in many rooms, messages on their way to many who wait, memory for
//! each who waits, and what it costs to join a large room.
//!
//! `cargo bench --bench sync [-- PERCENT]`: of the full size, 100 by default.
//! The load generator runs on the same processors, and is counted in.

mod crowd;
#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crowd::Waiter;
use support::{Client, Latencies, Server};

/// Guests have no password, and are made quickly. That a thousand users are
/// there would be told to a thousand of them.
const SETTINGS: [(&str, &str); 2] = [
    ("ENGRAM__REGISTRATION__GUESTS", "true"),
    ("ENGRAM__PRESENCE__ENABLED", "false"),
];
const SLIDING: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
/// Enough for all clients at once, on both sides.
const OPEN_FILES: usize = 12_000;
/// `{"room":{"state":{"lazy_load_members":true}}}`
const LAZY_MEMBERS: &str =
    "%7B%22room%22%3A%7B%22state%22%3A%7B%22lazy_load_members%22%3Atrue%7D%7D%7D";
/// Messages in each room before anything is measured.
const MESSAGES: usize = 12;

fn main() {
    let percent = std::env::args().skip(1).find_map(|word| word.parse().ok());
    let percent: usize = percent.unwrap_or(100);
    let sized = |full: usize| (full * percent / 100).max(10);
    allow_files();
    println!("{:<58} {:>12}  goal", "what", "figure");
    let server = Server::start_with(&SETTINGS);
    rooms(&server, sized(1_000));
    delivery(&server, sized(1_000));
    joins(&server, sized(10_000));
    drop(server);
    memory(sized(5_000));
}

fn line(what: &str, figure: f64, unit: &str, goal: Option<f64>) {
    let goal = match goal {
        None => String::new(),
        Some(goal) if figure <= goal => format!("<= {goal} {unit}"),
        Some(goal) => format!("<= {goal} {unit}  MISSED"),
    };
    println!("{what:<58} {:>12}  {goal}", format!("{figure:.2} {unit}"));
}

/// As many connections as there are clients need as many open files.
fn allow_files() {
    let status = std::process::Command::new("prlimit")
        .args(["--pid", &std::process::id().to_string()])
        .arg(format!("--nofile={OPEN_FILES}"))
        .status();
    if !status.is_ok_and(|status| status.success()) {
        println!("cannot open {OPEN_FILES} files at once; some figures may be missing");
    }
}

fn encode(id: &str) -> String {
    id.replace('!', "%21").replace(':', "%3A")
}

/// A user with a connection.
struct User {
    client: Client,
    token: String,
    sent: usize,
}

impl User {
    fn register(server: &Server, name: &str) -> User {
        User {
            client: server.client(),
            token: server.register(name),
            sent: 0,
        }
    }

    /// An account without a password, which is made quickly.
    fn guest(server: &Server) -> User {
        let mut client = server.client();
        let path = "/_matrix/client/v3/register?kind=guest";
        let answer = client.call("POST", path, None, &json!({}));
        let token = answer["access_token"].as_str().expect("registered");
        User {
            client,
            token: token.to_owned(),
            sent: 0,
        }
    }

    fn call(&mut self, method: &str, path: &str, body: &Value) -> Value {
        self.client.call(method, path, Some(&self.token), body)
    }

    /// A connection of now: the server closes those that are idle for long.
    fn reconnect(&mut self, server: &Server) {
        self.client = server.client();
    }

    /// A room that everybody may join, guests too.
    fn create_room(&mut self) -> String {
        let guests =
            json!({ "type": "m.room.guest_access", "content": { "guest_access": "can_join" } });
        let body = json!({ "preset": "public_chat", "name": "Bench", "initial_state": [guests] });
        let answer = self.call("POST", "/_matrix/client/v3/createRoom", &body);
        answer["room_id"].as_str().expect("a room id").to_owned()
    }

    fn join(&mut self, room: &str) {
        let path = format!("/_matrix/client/v3/rooms/{}/join", encode(room));
        self.call("POST", &path, &json!({}));
    }

    fn say(&mut self, room: &str) {
        self.sent += 1;
        let (room, sent) = (encode(room), self.sent);
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{sent}");
        let body = json!({ "msgtype": "m.text", "body": "The quick brown fox jumps over it." });
        self.call("PUT", &path, &body);
    }

    /// Syncs; gives the token that comes next, and how long it took.
    fn sync(&mut self, since: Option<&str>) -> (String, Duration) {
        let since = since.map_or(String::new(), |since| format!("&since={since}"));
        let path = format!("/_matrix/client/v3/sync?timeout=0{since}");
        let begun = Instant::now();
        let status = self.client.send("GET", &path, Some(&self.token), b"");
        let took = begun.elapsed();
        let answer = self.client.body();
        assert_eq!(status, 200, "{answer}");
        (text(&answer["next_batch"]), took)
    }

    /// The same by sliding sync: a list of the newest 20 rooms.
    fn slide(&mut self, connection: &str, pos: Option<&str>) -> (String, Duration) {
        let pos = pos.map_or(String::new(), |pos| format!("&pos={pos}"));
        let body = json!({
            "conn_id": connection,
            "lists": { "all": {
                "ranges": [[0, 19]], "timeline_limit": 1,
                "required_state": [
                    ["m.room.name", ""], ["m.room.encryption", ""], ["m.room.create", ""],
                    ["m.room.member", "$LAZY"], ["m.room.member", "$ME"],
                ],
            } },
            "extensions": { "account_data": { "enabled": true }, "receipts": { "enabled": true } },
        });
        let body = body.to_string();
        let path = format!("{SLIDING}?timeout=0{pos}");
        let begun = Instant::now();
        let status = self
            .client
            .send("POST", &path, Some(&self.token), body.as_bytes());
        let took = begun.elapsed();
        let answer = self.client.body();
        assert_eq!(status, 200, "{answer}");
        (text(&answer["pos"]), took)
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// Repeats a measurement.
fn repeat(times: usize, mut once: impl FnMut() -> Duration) -> Latencies {
    Latencies::new((0..times).map(|_| once()).collect())
}

fn print(what: &str, all: &Latencies, p50: Option<f64>, p99: Option<f64>) {
    line(&format!("{what}, p50"), all.percentile_ms(50.0), "ms", p50);
    line(&format!("{what}, p99"), all.percentile_ms(99.0), "ms", p99);
}

/// First and later answers of users in one, in fifty and in many rooms.
fn rooms(server: &Server, many: usize) {
    let mut creator = User::register(server, "creator");
    let ids: Vec<String> = (0..many).map(|_| creator.create_room()).collect();
    let few = 50.min(many);
    let mut users: Vec<(usize, User)> = [1, few, many]
        .into_iter()
        .map(|count| (count, User::register(server, &format!("in{count}"))))
        .collect();
    for (count, user) in &mut users {
        for room in &ids[..*count] {
            user.join(room);
        }
    }
    for _ in 0..MESSAGES {
        for room in &ids {
            creator.say(room);
        }
    }
    println!(
        "{many} rooms, resident {:.1} MiB",
        mib(server.resident_bytes())
    );
    for (count, user) in &mut users {
        user.reconnect(server);
        let goal = (*count == few).then_some(10.0);
        let first = repeat(if *count == many { 10 } else { 100 }, || user.sync(None).1);
        print(&format!("first sync, {count} rooms"), &first, goal, None);
        println!("    answer of {} KiB", user.client.answer_bytes() / 1024);
    }
    let mut alone = None;
    for (count, user) in &mut users {
        user.reconnect(server);
        creator.reconnect(server);
        let (mut since, _) = user.sync(None);
        let quiet = repeat(2_000, || {
            let (next, took) = user.sync(Some(&since));
            since = next;
            took
        });
        print(
            &format!("sync, nothing new, {count} rooms"),
            &quiet,
            None,
            Some(1.0),
        );
        let one = repeat(1_000, || {
            creator.say(&ids[0]);
            let (next, took) = user.sync(Some(&since));
            since = next;
            took
        });
        print(
            &format!("sync, a message in one of {count} rooms"),
            &one,
            None,
            Some(1.0),
        );
        let p50 = one.percentile_ms(50.0);
        let alone = *alone.get_or_insert(p50);
        line("    p50 against one room", p50 / alone, "x", Some(1.5));
    }
    let mut alone = None;
    for (count, user) in &mut users {
        user.reconnect(server);
        creator.reconnect(server);
        let mut connections = 0;
        let first = repeat(100, || {
            connections += 1;
            user.slide(&format!("c{connections}"), None).1
        });
        print(
            &format!("first sliding sync, 20 of {count} rooms"),
            &first,
            None,
            None,
        );
        let (mut pos, _) = user.slide("on", None);
        let quiet = repeat(1_000, || {
            let (next, took) = user.slide("on", Some(&pos));
            pos = next;
            took
        });
        print(
            &format!("sliding sync, nothing new, {count} rooms"),
            &quiet,
            None,
            Some(1.0),
        );
        let one = repeat(1_000, || {
            creator.say(&ids[0]);
            let (next, took) = user.slide("on", Some(&pos));
            pos = next;
            took
        });
        print(
            &format!("sliding sync, a message in one of {count} rooms"),
            &one,
            None,
            Some(1.0),
        );
        let p50 = one.percentile_ms(50.0);
        let alone = *alone.get_or_insert(p50);
        line("    p50 against one room", p50 / alone, "x", Some(1.5));
    }
}

/// One message, and all members of its room wait for it.
fn delivery(server: &Server, waiters: usize) {
    const WARM_UP: usize = 2;
    let mut sender = User::register(server, "sender");
    let room = sender.create_room();
    let mut guests: Vec<User> = (0..waiters).map(|_| User::guest(server)).collect();
    for guest in &mut guests {
        guest.join(&room);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let tokens: Vec<String> = guests.into_iter().map(|guest| guest.token).collect();
    let mut waiting = runtime.block_on(connect(server, &tokens));
    let filter = format!("&filter={LAZY_MEMBERS}");
    let query = |since: &str| format!("timeout=60000&since={since}{filter}");
    sender.reconnect(server);
    // Tokens are of no one user.
    let (since, _) = sender.sync(None);
    let mut since = vec![since; waiters];
    let mut all = Vec::new();
    for round in 0..WARM_UP + 20 {
        runtime.block_on(async {
            for (waiter, since) in waiting.iter_mut().zip(&since) {
                waiter.ask(&query(since)).await;
            }
        });
        server.await_quiet();
        // Whoever was told of something else is no one who waits.
        while runtime.block_on(ask_again(&mut waiting, query)) > 0 {
            server.await_quiet();
        }
        sender.reconnect(server);
        let begun = Instant::now();
        let (room, mut speaker) = (room.clone(), sender);
        let speaking = std::thread::spawn(move || {
            speaker.say(&room);
            speaker
        });
        let hear = waiting.iter_mut().map(Waiter::hear);
        let heard = runtime.block_on(futures_util::future::join_all(hear));
        sender = speaking.join().expect("the message was sent");
        // The first rounds warm up.
        if round >= WARM_UP {
            all.extend(heard.iter().map(|at| at.duration_since(begun)));
        }
        since = waiting.iter().map(Waiter::next).collect();
    }
    let all = Latencies::new(all);
    print(
        &format!("a message to {waiters} who wait"),
        &all,
        None,
        Some(50.0),
    );
}

/// Lets those wait again who have an answer already; gives how many they were.
async fn ask_again(waiting: &mut [Waiter], query: impl Fn(&str) -> String) -> usize {
    let mut asked = 0;
    for waiter in waiting {
        if waiter.has_heard() {
            waiter.hear_rest().await;
            let since = waiter.next();
            waiter.ask(&query(&since)).await;
            asked += 1;
        }
    }
    asked
}

async fn ask_all(waiting: &mut [Waiter], query: &str) {
    for waiter in waiting {
        waiter.ask(query).await;
    }
}

async fn connect(server: &Server, tokens: &[String]) -> Vec<Waiter> {
    let mut waiting = Vec::new();
    for token in tokens {
        waiting.push(Waiter::connect(&server.address, token).await);
    }
    waiting
}

/// Joins of a room with ten members, and of one with many.
fn joins(server: &Server, many: usize) {
    const JOINS: usize = 200;
    let mut creator = User::register(server, "host");
    let large = creator.create_room();
    for _ in 1..many {
        User::guest(server).join(&large);
    }
    let mut guests: Vec<User> = (0..9).map(|_| User::guest(server)).collect();
    let mut small = Vec::new();
    creator.reconnect(server);
    guests.iter_mut().for_each(|guest| guest.reconnect(server));
    for _ in 0..JOINS {
        let room = creator.create_room();
        for guest in &mut guests {
            guest.join(&room);
        }
        small.push(room);
    }
    let mut joiners: Vec<User> = (0..JOINS).map(|_| User::guest(server)).collect();
    let mut join_all = |rooms: &mut dyn Iterator<Item = &String>| {
        joiners
            .iter_mut()
            .for_each(|joiner| joiner.reconnect(server));
        let cpu = server.cpu();
        let times = joiners.iter_mut().zip(rooms).map(|(joiner, room)| {
            let begun = Instant::now();
            joiner.join(room);
            begun.elapsed()
        });
        let times = Latencies::new(times.collect());
        server.await_quiet();
        let cpu = server.cpu().saturating_sub(cpu);
        (times, cpu.as_secs_f64() * 1e6 / JOINS as f64)
    };
    let (small, small_cpu) = join_all(&mut small.iter());
    let (large, large_cpu) = join_all(&mut std::iter::repeat(&large));
    print("join of a room with 10 members", &small, None, None);
    print(
        &format!("join of a room with {many} members"),
        &large,
        None,
        None,
    );
    let ratio = large.percentile_ms(50.0) / small.percentile_ms(50.0);
    line("    p50 against ten members", ratio, "x", Some(1.5));
    line(
        "    processor time of the server, ten members",
        small_cpu,
        "µs",
        None,
    );
    line(
        "    the same against ten members",
        large_cpu / small_cpu,
        "x",
        Some(1.5),
    );
}

/// What the server holds for each client that waits.
fn memory(waiters: usize) {
    /// Guests in each room.
    const ROOM_MEMBERS: usize = 50;
    let server = Server::start_with(&SETTINGS);
    let mut host = User::register(&server, "host");
    let mut rooms: Vec<String> = Vec::new();
    // The connections of their registrations end here.
    let tokens: Vec<String> = (0..waiters)
        .map(|number| {
            if number % ROOM_MEMBERS == 0 {
                rooms.push(host.create_room());
            }
            let mut guest = User::guest(&server);
            guest.join(&rooms[number / ROOM_MEMBERS]);
            guest.token
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let unconnected = server.resident_bytes();
    host.reconnect(&server);
    // Tokens are of no one user.
    let (since, _) = host.sync(None);
    let mut waiting = runtime.block_on(connect(&server, &tokens));
    runtime.block_on(async {
        ask_all(&mut waiting, &format!("timeout=0&since={since}")).await;
        for waiter in &mut waiting {
            waiter.hear().await;
        }
    });
    server.await_quiet();
    let idle = server.resident_bytes();
    let query = format!("timeout=90000&since={since}");
    runtime.block_on(ask_all(&mut waiting, &query));
    server.await_quiet();
    let full = server.resident_bytes();
    let each = |from: u64, to: u64| to.saturating_sub(from) as f64 / waiters as f64 / 1024.0;
    println!("{waiters} clients, resident {:.1} MiB", mib(full));
    line(
        "memory of a connection that is idle",
        each(unconnected, idle),
        "KiB",
        None,
    );
    line(
        "memory of a sync that waits, beyond that",
        each(idle, full),
        "KiB",
        Some(16.0),
    );
    line("memory of both", each(unconnected, full), "KiB", Some(16.0));
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}
