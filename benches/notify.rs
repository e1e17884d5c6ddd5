//! What a message costs in a room of many local members: its sender, and those
//! who wait for it with `/sync` and are told how much they have not read.
//!
//! A part of the members has push rules of their own. Waiting requests are real
//! connections, answered over loopback. The ratios are of one run on one machine.
//! `cargo bench --bench notify [-- members]`.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use engram::matrix::RoomVersion;
use engram::matrix::auth_rules::CreateInfo;
use engram::matrix::canonical_json::parse_object;
use engram::matrix::push_rules::{
    Kind, NewRule, Position, PushEvent, PushRoom, Reader, Rules, Ruleset,
};
use serde_json::{Value, json};
use support::{Client, Latencies, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Messages that are sent in each scenario.
const SENDS: usize = 300;
/// Messages that are told to all who wait.
const ROUNDS: usize = 20;
/// Nobody is told who is there, and nobody is there.
const NO_PRESENCE: &str =
    "set_presence=offline&filter=%7B%22presence%22%3A%7B%22not_types%22%3A%5B%22*%22%5D%7D%7D";
/// One in so many members has rules of their own.
const OWN_RULES: usize = 10;

fn main() {
    let members = std::env::args()
        .skip(1)
        .find_map(|arg| arg.parse().ok())
        .unwrap_or(1_000);
    let server = Server::start();
    let sender = server.register("sender");
    let alone = public_room(&server, &sender);
    let room = public_room(&server, &sender);
    let crowd: Vec<String> = (0..members)
        .map(|number| server.register(&format!("member{number}")))
        .collect();
    for (number, token) in crowd.iter().enumerate() {
        let mut client = server.client();
        let path = format!("/_matrix/client/v3/rooms/{}/join", encode(&room));
        client.call("POST", &path, Some(token), &json!({}));
        if number % OWN_RULES == 0 {
            put_rules(&mut client, token, number);
        }
    }

    println!(
        "{:<34} {:>9} {:>9} {:>12}",
        "scenario", "p50 ms", "p99 ms", "CPU us/send"
    );
    let (empty, empty_cpu) = send_many(&server, &sender, &alone);
    row("send, nobody else in the room", &empty, empty_cpu);
    let (full, full_cpu) = send_many(&server, &sender, &room);
    row(&format!("send, {members} members"), &full, full_cpu);
    println!(
        "    p50 is {:.2}x of the empty room, server CPU {:.2}x",
        full.percentile_ms(50.0) / empty.percentile_ms(50.0),
        full_cpu / empty_cpu,
    );

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(deliver(&server, &sender, &room, &crowd));
    judging();
}

/// What judging an event takes, without a server: once an event, once a set of
/// rules, and once for each user.
fn judging() {
    let user = ruma::user_id!("@member:bench.test");
    let sender = ruma::user_id!("@sender:bench.test");
    let (room_id, event_id) = (
        ruma::room_id!("!room:bench.test"),
        ruma::event_id!("$event"),
    );
    let pdu = json!({
        "type": "m.room.message", "sender": sender, "room_id": room_id, "origin_server_ts": 1,
        "content": text(), "auth_events": [], "prev_events": [], "depth": 1,
        "hashes": {}, "signatures": {},
    });
    let pdu = pdu.to_string();
    let parse = || PushEvent::parse(pdu.as_bytes(), event_id, room_id, sender).expect("parses");
    let event = parse();
    let create = CreateInfo::parse(
        RoomVersion::V12,
        ruma::event_id!("$create").to_owned(),
        room_id.to_owned(),
        sender.to_owned(),
        &parse_object(b"{}").expect("parses"),
    );
    let room = PushRoom {
        joined_members: 1_000,
        create: Arc::new(create.expect("parses")),
        levels: None,
    };
    let mut ruleset = Ruleset::predefined(user);
    let predefined = Rules::compile(&ruleset, user);
    for number in 0..1_000 {
        let new = NewRule {
            kind: Kind::Content,
            rule_id: format!("word{number}"),
            actions: vec![json!("notify")],
            conditions: None,
            pattern: Some(format!("w?rd*{number}")),
        };
        ruleset.put(new, &Position::Unsaid).expect("is taken");
    }
    let own = Rules::compile(&ruleset, user);
    let plan = predefined.plan(&event, &room);
    let reader = Reader {
        user,
        display_name: &|| "Member".to_owned(),
    };
    let each = |name: &str, rounds: u32, judge: &dyn Fn()| {
        let begun = Instant::now();
        (0..rounds).for_each(|_| judge());
        let each_us = begun.elapsed().as_secs_f64() * 1e6 / f64::from(rounds);
        println!("{name}: {each_us:.2} us");
    };
    each("parse an event", 20_000, &|| {
        drop(std::hint::black_box(parse()))
    });
    each("ask the predefined rules of it", 20_000, &|| {
        std::hint::black_box(predefined.plan(&event, &room));
    });
    each("ask a set with 1,000 globs of it", 200, &|| {
        std::hint::black_box(own.plan(&event, &room));
    });
    each("say what it means to one user", 200_000, &|| {
        std::hint::black_box(predefined.verdict(&plan, &event, &reader));
    });
}

/// Rules about words, and about a room that nobody is in.
fn put_rules(client: &mut Client, token: &str, number: usize) {
    for word in ["cake", "t?a*time"] {
        let path = format!("/_matrix/client/v3/pushrules/global/content/{word}{number}");
        let rule = json!({ "pattern": word, "actions": ["notify", { "set_tweak": "highlight" }] });
        let path = path.replace(['?', '*'], "");
        client.call("PUT", &path, Some(token), &rule);
    }
    let path = format!("/_matrix/client/v3/pushrules/global/room/%21room{number}%3Abench.test");
    client.call("PUT", &path, Some(token), &json!({ "actions": [] }));
}

/// All members wait; a message is sent; they are answered, and wait again.
async fn deliver(server: &Server, sender: &str, room: &str, crowd: &[String]) {
    let mut waiting = Vec::new();
    let mut counted = Vec::new();
    for token in crowd {
        let stream = TcpStream::connect(&server.address).await.expect("connects");
        let mut member = Member {
            stream,
            token: token.clone(),
            since: String::new(),
        };
        // The first answer counts the room from the beginning.
        let begun = Instant::now();
        let first = member.sync(0).await;
        counted.push(begun.elapsed());
        assert!(unread(&first, room) > 0, "{first}");
        waiting.push(member);
    }
    let cold = counted
        .first()
        .map_or(0.0, |first| first.as_secs_f64() * 1e3);
    println!(
        "first sync, which counts {SENDS} messages: {cold:.1} ms where nobody did before, p50 {:.1} ms",
        Latencies::new(counted).percentile_ms(50.0),
    );
    for member in &mut waiting {
        // The server has hung up on those that were idle for long.
        member.stream = TcpStream::connect(&server.address).await.expect("connects");
    }
    let mut delivered = Vec::new();
    let mut last = Vec::new();
    let cpu_before = server.cpu();
    for round in 0..ROUNDS {
        let waits: Vec<_> = waiting
            .drain(..)
            .map(|mut member| {
                tokio::spawn(async move {
                    let answer = member.sync(30_000).await;
                    (member, answer, Instant::now())
                })
            })
            .collect();
        // All of them are there before the message is.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (address, token, path) = (
            server.address.clone(),
            sender.to_owned(),
            message_path(room, "told", round),
        );
        let begun = Instant::now();
        let send = tokio::task::spawn_blocking(move || {
            Client::connect(&address).call("PUT", &path, Some(&token), &text());
        });
        send.await.expect("is sent");
        let mut ended = begun;
        for wait in waits {
            let (member, answer, at) = wait.await.expect("is answered");
            assert!(unread(&answer, room) > 0, "{answer}");
            delivered.push(at.duration_since(begun));
            ended = ended.max(at);
            waiting.push(member);
        }
        last.push(ended.duration_since(begun));
    }
    let cpu = server.cpu().saturating_sub(cpu_before);
    let (answers, last) = (delivered.len(), Latencies::new(last));
    let delivered = Latencies::new(delivered);
    println!(
        "{} waiting syncs told of a message: p50 {:.1} ms, p99 {:.1} ms, all within {:.1} ms (median)",
        crowd.len(),
        delivered.percentile_ms(50.0),
        delivered.percentile_ms(99.0),
        last.percentile_ms(50.0),
    );
    println!(
        "server CPU per answer, from the request to its count: {:.0} us",
        cpu.as_secs_f64() * 1e6 / answers as f64,
    );
}

/// A member with a connection of their own.
struct Member {
    stream: TcpStream,
    token: String,
    since: String,
}

impl Member {
    async fn sync(&mut self, timeout_ms: u32) -> Value {
        let since = match self.since.is_empty() {
            true => String::new(),
            false => format!("&since={}", self.since),
        };
        let request = format!(
            "GET /_matrix/client/v3/sync?{NO_PRESENCE}&timeout={timeout_ms}{since} HTTP/1.1\r\n\
             Host: bench.test\r\nAuthorization: Bearer {}\r\n\r\n",
            self.token
        );
        let written = self.stream.write_all(request.as_bytes()).await;
        written.expect("request is written");
        let answer = self.read().await;
        self.since = answer["next_batch"].as_str().expect("a token").to_owned();
        answer
    }

    /// Reads one answer, which says how long it is.
    async fn read(&mut self) -> Value {
        let mut bytes = Vec::new();
        loop {
            let read = self.stream.read_buf(&mut bytes).await.expect("reads");
            assert!(read > 0, "the server hung up");
            let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
                continue;
            };
            let head = String::from_utf8_lossy(&bytes[..at]).to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length
                .and_then(|text| text.trim().parse().ok())
                .expect("a length");
            if bytes.len() >= at + 4 + length {
                return serde_json::from_slice(&bytes[at + 4..]).expect("is JSON");
            }
        }
    }
}

fn unread(answer: &Value, room: &str) -> u64 {
    let counts = &answer["rooms"]["join"][room]["unread_notifications"];
    counts["notification_count"].as_u64().unwrap_or(0)
}

fn send_many(server: &Server, token: &str, room: &str) -> (Latencies, f64) {
    let mut client = server.client();
    let body = text().to_string();
    let mut latencies = Vec::with_capacity(SENDS);
    let cpu_before = server.cpu();
    for number in 0..SENDS {
        let path = message_path(room, "many", number);
        let begun = Instant::now();
        let status = client.send("PUT", &path, Some(token), body.as_bytes());
        assert_eq!(status, 200, "{}", client.body());
        latencies.push(begun.elapsed());
    }
    let cpu = server.cpu().saturating_sub(cpu_before);
    (
        Latencies::new(latencies),
        cpu.as_secs_f64() * 1e6 / SENDS as f64,
    )
}

fn row(name: &str, latencies: &Latencies, cpu_us: f64) {
    println!(
        "{name:<34} {:>9.3} {:>9.3} {cpu_us:>12.0}",
        latencies.percentile_ms(50.0),
        latencies.percentile_ms(99.0),
    );
}

fn text() -> Value {
    json!({ "msgtype": "m.text", "body": "The quick brown fox jumps over the lazy dog." })
}

fn message_path(room: &str, name: &str, number: usize) -> String {
    let room = encode(room);
    format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{name}{number}")
}

fn public_room(server: &Server, token: &str) -> String {
    let body = json!({ "preset": "public_chat" });
    let path = "/_matrix/client/v3/createRoom";
    let answer = server.client().call("POST", path, Some(token), &body);
    answer["room_id"].as_str().expect("a room id").to_owned()
}

fn encode(id: &str) -> String {
    id.replace('!', "%21").replace(':', "%3A")
}
