//! Two and three servers whose network is cut, mended, and whose processes are
//! restarted and killed meanwhile: at the end all have the same room.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use engram::crypto::random;
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::wire::Wire;
use super::{NAMES, Neighbourhood};
use crate::harness::{Api, Server, escape};

/// What takes longer does not come. Debug builds on a busy machine are slow.
const PATIENCE: Duration = Duration::from_secs(180);
/// Requests of one user at a time.
const AT_A_TIME: usize = 4;

/// Servers that are all wired to one another.
struct Net {
    servers: Vec<Server>,
    /// From one to another.
    wires: BTreeMap<(usize, usize), Wire>,
}

impl Net {
    async fn of(count: usize) -> Net {
        let neighbourhood = Neighbourhood::new();
        let (mut servers, mut wires) = (Vec::new(), BTreeMap::new());
        for (from, name) in NAMES.into_iter().enumerate().take(count) {
            let mut hosts = Vec::new();
            for to in (0..count).filter(|to| *to != from) {
                let target = SocketAddr::from((neighbourhood.address(NAMES[to]), 8448));
                let wire = Wire::to(target).await;
                hosts.push(format!("{}={}", NAMES[to], wire.address));
                wires.insert((from, to), wire);
            }
            let builder = neighbourhood.builder(name);
            let builder = builder.set("FEDERATION__STATIC_HOSTS", hosts.join(","));
            servers.push(builder.start().await);
        }
        Net { servers, wires }
    }

    fn cut(&self) {
        self.wires.values().for_each(Wire::cut);
    }

    fn mend(&self) {
        self.wires.values().for_each(Wire::mend);
    }
}

/// A user with what they remember over a restart of their server.
struct Person {
    api: Api,
    home: usize,
}

impl Person {
    async fn at(net: &Net, home: usize) -> Person {
        let name = NAMES[home].replace('.', "-");
        let api = net.servers[home].register(&name).await;
        Person { api, home }
    }

    /// The same user after a restart, which gave the server another port.
    fn found_again(&mut self, net: &Net) {
        let mut api = net.servers[self.home].api();
        api.token = self.api.token.take();
        api.user_id = std::mem::take(&mut self.api.user_id);
        self.api = api;
    }

    async fn join(&self, room: &str, via: &str) {
        let path = format!("/_matrix/client/v3/join/{}?via={via}", escape(room));
        self.api.post(&path, json!({})).await.ok();
    }

    /// Sends messages, and gives their ids.
    async fn chat(&self, room: &str, tag: &str, count: usize) -> Vec<String> {
        let mut sent = Vec::new();
        let numbers: Vec<usize> = (0..count).collect();
        for some in numbers.chunks(AT_A_TIME) {
            let sending = some.iter().map(|number| {
                let (path, body) = message(room, tag, *number);
                async move { self.api.put(&path, body).await.ok() }
            });
            for answer in join_all(sending).await {
                sent.push(answer["event_id"].as_str().unwrap().to_owned());
            }
        }
        sent
    }

    /// The same while the server may go away; what it did not take is left out.
    async fn try_chat(&self, room: &str, tag: &str, count: usize) {
        let numbers: Vec<usize> = (0..count).collect();
        for some in numbers.chunks(AT_A_TIME) {
            let sending = some.iter().map(|number| async move {
                let (path, body) = message(room, tag, *number);
                let request = self.api.try_request(Method::PUT, &path, Some(body));
                request.await.is_ok()
            });
            if !join_all(sending).await.contains(&true) {
                return;
            }
        }
    }

    async fn topic(&self, room: &str, topic: &str) {
        let path = format!(
            "/_matrix/client/v3/rooms/{}/state/m.room.topic",
            escape(room)
        );
        self.api.put(&path, json!({ "topic": topic })).await.ok();
    }

    /// Ids of current state by key.
    async fn state(&self, room: &str) -> BTreeMap<(String, String), String> {
        let path = format!("/_matrix/client/v3/rooms/{}/state", escape(room));
        let state = self.api.get(&path).await.ok();
        let text = |event: &Value, field: &str| event[field].as_str().unwrap().to_owned();
        let entries = state.as_array().unwrap().iter();
        let entries = entries.map(|event| {
            let key = (text(event, "type"), text(event, "state_key"));
            (key, text(event, "event_id"))
        });
        entries.collect()
    }

    /// Ids of messages, the newest first, as the client pages back to the start.
    async fn history(&self, room: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut from = String::new();
        loop {
            let path = format!(
                "/_matrix/client/v3/rooms/{}/messages?dir=b&limit=100{from}",
                escape(room)
            );
            let page = self.api.get(&path).await.ok();
            let events = page["chunk"].as_array().unwrap().iter();
            let messages = events.filter(|event| event["type"] == "m.room.message");
            found.extend(messages.map(|event| event["event_id"].as_str().unwrap().to_owned()));
            match page["end"].as_str() {
                Some(end) => from = format!("&from={}", escape(end)),
                None => return found,
            }
        }
    }
}

/// A request that sends a message, the same each time.
fn message(room: &str, tag: &str, number: usize) -> (String, Value) {
    let room = escape(room);
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{tag}{number}");
    let body = json!({ "msgtype": "m.text", "body": format!("{tag} {number}") });
    (path, body)
}

/// A client that never stops syncing, and counts what it is told.
struct Follower {
    since: Option<String>,
    told: BTreeMap<String, usize>,
}

impl Follower {
    fn new() -> Follower {
        Follower {
            since: None,
            told: BTreeMap::new(),
        }
    }

    /// Takes in what there is now.
    async fn follow(&mut self, api: &Api, room: &str) {
        let filter = json!({ "room": { "timeline": { "limit": 1000 } } }).to_string();
        let mut path = format!(
            "/_matrix/client/v3/sync?timeout=0&filter={}",
            escape(&filter)
        );
        if let Some(since) = &self.since {
            path += &format!("&since={since}");
        }
        let Ok(answer) = api.try_request(Method::GET, &path, None).await else {
            return;
        };
        let answer = answer.ok();
        let events = &answer["rooms"]["join"][room]["timeline"]["events"];
        for event in events.as_array().into_iter().flatten() {
            let id = event["event_id"].as_str().unwrap().to_owned();
            *self.told.entry(id).or_default() += 1;
        }
        self.since = answer["next_batch"].as_str().map(str::to_owned);
    }
}

/// Looks until it holds. `look` gives what it saw, to be told if it never does.
async fn eventually<T: std::fmt::Debug>(what: &str, mut look: impl AsyncFnMut() -> Result<(), T>) {
    let begun = Instant::now();
    loop {
        match look().await {
            Ok(()) => return,
            Err(seen) if begun.elapsed() > PATIENCE => panic!("{what}: {seen:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// All people see the same state, and all messages, each once.
async fn same_room(people: &[Person], room: &str, sent: &BTreeSet<String>) {
    eventually("one state", async || {
        let states = join_all(people.iter().map(|person| person.state(room))).await;
        match states.iter().all(|state| *state == states[0]) {
            true => Ok(()),
            false => Err(states),
        }
    })
    .await;
    for person in people {
        eventually("all messages", async || {
            let history = person.history(room).await;
            let found: BTreeSet<String> = history.iter().cloned().collect();
            assert_eq!(found.len(), history.len(), "a message comes twice");
            let missing: Vec<&String> = sent.difference(&found).collect();
            match missing.is_empty() {
                true => Ok(()),
                false => Err((person.home, missing.len(), history.len())),
            }
        })
        .await;
    }
}

/// A public room of the first person that the others joined, all with power.
async fn shared_room(people: &[Person], version: &str) -> String {
    let users: serde_json::Map<String, Value> = people
        .iter()
        .skip(1)
        .map(|person| (person.api.user_id.clone(), json!(50)))
        .collect();
    let mut levels = json!({ "users": users });
    if version != "12" {
        levels["users"][&people[0].api.user_id] = json!(100);
    }
    let room = json!({
        "preset": "public_chat", "room_version": version, "power_level_content_override": levels,
    });
    let room = people[0].api.create_room(room).await;
    for person in &people[1..] {
        person.join(&room, NAMES[people[0].home]).await;
    }
    room
}

/// 1,000 events on both sides of a cut.
#[tokio::test(flavor = "multi_thread")]
async fn two_halves_of_a_room_become_one() {
    let net = Net::of(2).await;
    let people = [Person::at(&net, 0).await, Person::at(&net, 1).await];
    for version in ["10", "12"] {
        let room = shared_room(&people, version).await;
        net.cut();
        let (ours, theirs) = tokio::join!(
            people[0].chat(&room, "ours", 1_000),
            people[1].chat(&room, "theirs", 1_000)
        );
        people[0].topic(&room, "ours").await;
        people[1].topic(&room, "theirs").await;
        let mut sent: BTreeSet<String> = ours.into_iter().chain(theirs).collect();
        net.mend();
        for person in &people {
            sent.extend(person.chat(&room, "healed", 1).await);
        }
        same_room(&people, &room, &sent).await;
    }
}

/// Restarts and kills while three servers talk, with cuts in between.
#[tokio::test(flavor = "multi_thread")]
async fn three_servers_lose_nothing_by_crashes() {
    let mut net = Net::of(3).await;
    let mut people = Vec::new();
    let mut followers = Vec::new();
    for home in 0..3 {
        people.push(Person::at(&net, home).await);
        followers.push(Follower::new());
    }
    let room = shared_room(&people, "11").await;
    let mut sent = BTreeSet::new();
    for round in 0..6 {
        let hit = round % 3;
        if round % 2 == 1 {
            net.cut();
        }
        let tag = format!("round{round}-");
        let chats = people.iter().map(|person| person.chat(&room, &tag, 25));
        sent.extend(join_all(chats).await.into_iter().flatten());
        // In the middle of what is on its way.
        match round < 3 {
            true => net.servers[hit].kill(),
            false => assert!(net.servers[hit].terminate().await.success()),
        }
        net.mend();
        net.servers[hit].start().await;
        people[hit].found_again(&net);
        let topic = format!("round {round}");
        people[hit].topic(&room, &topic).await;
        for (person, follower) in people.iter().zip(&mut followers) {
            follower.follow(&person.api, &room).await;
        }
    }
    for person in &people {
        sent.extend(person.chat(&room, "last", 1).await);
    }
    same_room(&people, &room, &sent).await;
    for (person, follower) in people.iter().zip(&mut followers) {
        follower.follow(&person.api, &room).await;
        let twice = follower.told.iter().find(|(_, times)| **times > 1);
        assert_eq!(twice, None, "told twice at {}", NAMES[person.home]);
    }
}

/// A server is killed again and again while it sends: what was under way comes
/// again as it was, and no client is told anything twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_is_killed_in_the_middle_of_transactions_repeats_nothing() {
    let mut net = Net::of(2).await;
    let mut people = [Person::at(&net, 0).await, Person::at(&net, 1).await];
    let mut follower = Follower::new();
    let room = shared_room(&people, "11").await;
    let mut sent = BTreeSet::new();
    for round in 0..8 {
        let tag = format!("round{round}-");
        // Early, late, or after all that: told, so that a failure can be repeated.
        let moment = Duration::from_millis(random::bytes::<1>()[0].into()) * 4;
        eprintln!("round {round}: killed after {moment:?}");
        {
            let chat = people[0].try_chat(&room, &tag, 60);
            let kill = async {
                tokio::time::sleep(moment).await;
                net.servers[0].kill();
            };
            tokio::join!(chat, kill);
        }
        net.servers[0].start().await;
        people[0].found_again(&net);
        // As a client does that had no answer: under the same transaction ids.
        sent.extend(people[0].chat(&room, &tag, 60).await);
        follower.follow(&people[1].api, &room).await;
    }
    same_room(&people, &room, &sent).await;
    follower.follow(&people[1].api, &room).await;
    let twice = follower.told.iter().find(|(_, times)| **times > 1);
    assert_eq!(twice, None, "told twice");
    let missing = sent.iter().find(|id| !follower.told.contains_key(*id));
    assert_eq!(missing, None, "not told");
}
