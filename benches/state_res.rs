//! State resolution against ruma's, in the same run and on the same rooms, and
//! the auth check of a plain message.
//!
//! Both get parsed events in memory. ruma gets the full auth chain of each
//! state and the conflicted state subgraph ready made, since it asks for them;
//! ours walks its graph within the time that is shown, and is told of the
//! states what they disagree on. Answers are compared.
//!
//! `cargo bench --bench state_res [-- WORDS]`, of rows whose title has the words.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engram::matrix::auth_rules::{
    self, AuthEvent, AuthState, CreateInfo, EventContent, JoinRule, PowerLevels, ThirdPartyInvite,
    auth_types_for_event,
};
use engram::matrix::canonical_json::parse_object;
use engram::matrix::ids::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, UserId};
use engram::matrix::state_res::{
    AuthGraph, AuthKind, Conflict, ResolutionEvent, Resolved, Room, Work, resolve,
};
use engram::matrix::{Membership, RoomVersion};
use ruma::events::{StateEventType, TimelineEventType};
use ruma::state_res::utils::event_id_set::EventIdSet;
use ruma::{MilliSecondsSinceUnixEpoch, UInt};
use serde_json::value::RawValue;

/// Each side runs this often and at least so long; the fastest run counts.
const RUNS: usize = 5;
const RUNS_TIME: Duration = Duration::from_millis(400);
const JOIN: &str = r#"{"membership":"join"}"#;

fn main() {
    println!(
        "{:<58} {:>9} {:>9} {:>7} {:>10} {:>8}",
        "state resolution", "engram ms", "ruma ms", "ratio", "units", "ns/unit"
    );
    let wanted = std::env::args()
        .skip(1)
        .find(|word| !word.starts_with("--"));
    let row = |title: String, story: &dyn Fn() -> Story, with_ruma: bool| {
        if wanted.as_ref().is_none_or(|words| title.contains(words)) {
            let story = story();
            if with_ruma {
                compare(&title, &story);
            } else {
                ours_alone(&title, &story);
            }
        }
    };
    for version in [RoomVersion::V11, RoomVersion::V12] {
        let title = |what: &str| format!("v{version}: {what}");
        for (count, named) in [(1_000, "1,000"), (10_000, "10,000")] {
            let title = |what: &str| title(&format!("{named} members {what}"));
            row(
                title("renamed on both sides"),
                &|| renamed(version, count, 0),
                true,
            );
            row(
                title("joined, half on each side"),
                &|| joined(version, count),
                true,
            );
            row(
                title("kicked here, renamed there"),
                &|| kicked(version, count, 0),
                true,
            );
        }
        row(
            title("1,000 of 50,000 members renamed on both sides"),
            &|| renamed(version, 1_000, 49_000),
            true,
        );
        row(
            title("1,000 kicked, power levels naming 1,000"),
            &|| kicked(version, 1_000, 1_000),
            true,
        );
        row(
            title("1,000 forks, each another key"),
            &|| forks(version, 0, |fork| fork),
            true,
        );
        row(
            title("1,000 forks, all the same key"),
            &|| forks(version, 0, |_| 0),
            true,
        );
        row(
            title("1,000 forks, each another key, 50,000 members"),
            &|| forks(version, 50_000, |fork| fork),
            false,
        );
    }
    plain_message();
}

/// Key of a state entry.
type Key = (&'static str, Box<str>);

/// A room, what all its states share, and what each has instead.
struct Story {
    create: CreateInfo,
    events: Vec<Arc<ResolutionEvent>>,
    graph: AuthGraph,
    base: BTreeMap<Key, u64>,
    forks: Vec<BTreeMap<Key, u64>>,
}

/// The parts of an event that differ.
struct Draft<'a> {
    sender: &'a str,
    kind: &'static str,
    state_key: &'a str,
    content: &'a str,
}

impl Story {
    /// A public room whose creator is there; power levels name so many others.
    fn new(version: RoomVersion, named: usize) -> Story {
        let is_v12 = version.room_id_is_create_hash();
        let room_id = if is_v12 { "!create" } else { "!r:hs" };
        let content = r#"{"creator":"@creator:hs"}"#;
        let create = CreateInfo::parse(
            version,
            OwnedEventId::try_from("$create").expect("valid"),
            OwnedRoomId::try_from(room_id).expect("valid"),
            OwnedUserId::try_from("@creator:hs").expect("valid"),
            &parse_object(content.as_bytes()).expect("parses"),
        );
        let mut story = Story {
            create: create.expect("parses"),
            events: Vec::new(),
            graph: AuthGraph::new(),
            base: BTreeMap::new(),
            forks: Vec::new(),
        };
        story.agree("@creator:hs", "m.room.create", "", content);
        story.agree("@creator:hs", "m.room.member", "@creator:hs", JOIN);
        let creator = (!is_v12).then(|| r#""@creator:hs":100"#.to_owned());
        let named = (0..named).map(|at| format!(r#""@named-{at}:hs":10"#));
        let users: Vec<String> = creator.into_iter().chain(named).collect();
        let levels = format!(r#"{{"users":{{{}}}}}"#, users.join(","));
        story.agree("@creator:hs", "m.room.power_levels", "", &levels);
        let public = r#"{"join_rule":"public"}"#;
        story.agree("@creator:hs", "m.room.join_rules", "", public);
        story
    }

    fn agree(&mut self, sender: &str, kind: &'static str, state_key: &str, content: &str) {
        let draft = Draft {
            sender,
            kind,
            state_key,
            content,
        };
        let (key, id) = self.add(None, &draft);
        self.base.insert(key, id);
    }

    fn differ(&mut self, fork: usize, sender: &str, kind: &'static str, key: &str, content: &str) {
        let draft = Draft {
            sender,
            kind,
            state_key: key,
            content,
        };
        let (key, id) = self.add(Some(fork), &draft);
        self.forks[fork].insert(key, id);
    }

    fn add(&mut self, fork: Option<usize>, draft: &Draft<'_>) -> (Key, u64) {
        let id = self.events.len() as u64;
        let content = parse_object(draft.content.as_bytes()).expect("parses");
        let sender = OwnedUserId::try_from(draft.sender).expect("valid");
        let member = match draft.kind {
            "m.room.member" => Some(auth_rules::MemberContent::parse(&content).expect("is one")),
            _ => None,
        };
        let version = self.create.version;
        let keys =
            auth_types_for_event(version, draft.kind, &sender, Some(draft.state_key), member);
        let held = |key: &auth_rules::AuthKey<'_>| {
            let key: Key = (key.kind, key.state_key.as_ref().into());
            let of_fork = fork.and_then(|fork| self.forks[fork].get(&key));
            of_fork.or_else(|| self.base.get(&key)).copied()
        };
        let auth_events: Vec<u64> = keys.iter().filter_map(held).collect();
        drop(keys);
        let kind = AuthKind::of(draft.kind, draft.state_key);
        self.graph.insert(id, kind, &auth_events);
        let name = match draft.kind {
            "m.room.create" => "$create".to_owned(),
            _ => format!(
                "${:040x}",
                u128::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834)
            ),
        };
        self.events.push(Arc::new(ResolutionEvent {
            event_id: OwnedEventId::try_from(name).expect("valid"),
            sender,
            kind: draft.kind.into(),
            state_key: draft.state_key.into(),
            content,
            origin_server_ts: id,
            depth: id,
            auth_events,
            prev_events_count: usize::from(id > 0),
            first_prev_is_create: id == 1,
            redacts: None,
            rejected: false,
        }));
        ((draft.kind, draft.state_key.into()), id)
    }

    fn fork(&mut self, forks: usize) {
        self.forks = vec![BTreeMap::new(); forks];
    }

    /// The entry of a key in a fork.
    fn entry(&self, fork: usize, key: &Key) -> Option<u64> {
        self.forks[fork]
            .get(key)
            .or_else(|| self.base.get(key))
            .copied()
    }
}

/// Members who joined before, and have two new names.
fn renamed(version: RoomVersion, members: usize, others: usize) -> Story {
    let mut story = Story::new(version, 0);
    let users: Vec<String> = (0..members).map(|at| format!("@member-{at}:hs")).collect();
    for at in 0..others {
        let user = format!("@other-{at}:hs");
        story.agree(&user, "m.room.member", &user, JOIN);
    }
    for user in &users {
        story.agree(user, "m.room.member", user, JOIN);
    }
    story.fork(2);
    for fork in 0..2 {
        let content = format!(r#"{{"displayname":"{fork}","membership":"join"}}"#);
        for user in &users {
            story.differ(fork, user, "m.room.member", user, &content);
        }
    }
    story
}

/// Members of whom each side knows half.
fn joined(version: RoomVersion, members: usize) -> Story {
    let mut story = Story::new(version, 0);
    story.fork(2);
    for at in 0..members {
        let user = format!("@member-{at}:hs");
        story.differ(at % 2, &user, "m.room.member", &user, JOIN);
    }
    story
}

/// Members who were kicked on one side while they took a new name on the other.
fn kicked(version: RoomVersion, members: usize, named: usize) -> Story {
    let mut story = Story::new(version, named);
    let users: Vec<String> = (0..members).map(|at| format!("@member-{at}:hs")).collect();
    for user in &users {
        story.agree(user, "m.room.member", user, JOIN);
    }
    story.fork(2);
    for user in &users {
        let leave = r#"{"membership":"leave"}"#;
        story.differ(0, "@creator:hs", "m.room.member", user, leave);
        let renamed = r#"{"displayname":"x","membership":"join"}"#;
        story.differ(1, user, "m.room.member", user, renamed);
    }
    story
}

/// A thousand forks, each with one entry.
fn forks(version: RoomVersion, members: usize, key: impl Fn(usize) -> usize) -> Story {
    let mut story = Story::new(version, 0);
    for at in 0..members {
        let user = format!("@member-{at}:hs");
        story.agree(&user, "m.room.member", &user, JOIN);
    }
    story.fork(1_000);
    for fork in 0..1_000 {
        let key = format!("key-{}", key(fork));
        story.differ(fork, "@creator:hs", "x.setting", &key, "{}");
    }
    story
}

/// The room as our resolution reads it.
struct Ours<'a> {
    story: &'a Story,
    agreed: HashMap<&'static str, HashMap<&'a str, u64>>,
    conflicts: Vec<Conflicted<'a>>,
}

/// A key in conflict: what the base has, and who differs.
struct Conflicted<'a> {
    key: &'a Key,
    base: Option<u64>,
    differing: Vec<(u32, Option<u64>)>,
}

impl Room for Ours<'_> {
    type Error = Infallible;

    fn event(&mut self, id: u64) -> Result<Option<Arc<ResolutionEvent>>, Infallible> {
        Ok(self.story.events.get(id as usize).cloned())
    }
    fn agreed(&mut self, kind: &str, state_key: &str) -> Result<Option<u64>, Infallible> {
        let of_kind = self.agreed.get(kind);
        Ok(of_kind.and_then(|keys| keys.get(state_key)).copied())
    }
    fn each_agreed(&mut self, each: &mut dyn FnMut(u64)) -> Result<(), Infallible> {
        let entries = self.agreed.values().flat_map(|keys| keys.values());
        entries.copied().for_each(each);
        Ok(())
    }
}

impl<'a> Ours<'a> {
    fn new(story: &'a Story) -> Ours<'a> {
        let changed: BTreeSet<&Key> = story.forks.iter().flat_map(|fork| fork.keys()).collect();
        let mut agreed: HashMap<&'static str, HashMap<&str, u64>> = HashMap::new();
        for (key, id) in &story.base {
            if !changed.contains(key) {
                agreed.entry(key.0).or_default().insert(&key.1, *id);
            }
        }
        let conflicted = |key: &'a Key| {
            let forks = (0..).zip(&story.forks);
            let differing = forks.filter_map(|(at, fork)| Some((at, Some(*fork.get(key)?))));
            Conflicted {
                key,
                base: story.base.get(key).copied(),
                differing: differing.collect(),
            }
        };
        Ours {
            story,
            agreed,
            conflicts: changed.into_iter().map(conflicted).collect(),
        }
    }

    fn resolve(&mut self) -> (Resolved, u64) {
        let mut conflict = Conflict::new(self.story.forks.len());
        for key in &self.conflicts {
            conflict.push(key.base, key.differing.iter().copied());
        }
        let story = self.story;
        let mut work = Work::new(u64::MAX);
        let resolved = resolve(&story.create, &conflict, &story.graph, self, &mut work);
        (resolved.expect("resolves"), work.spent())
    }
}

/// An event as ruma reads it.
struct TheirEvent {
    event: Arc<ResolutionEvent>,
    room_id: OwnedRoomId,
    kind: TimelineEventType,
    content: Box<RawValue>,
    auth_events: Vec<OwnedEventId>,
    prev_events: Vec<OwnedEventId>,
}

impl ruma::state_res::Event for TheirEvent {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.event.event_id
    }
    fn room_id(&self) -> Option<&ruma::RoomId> {
        Some(&self.room_id)
    }
    fn sender(&self) -> &ruma::UserId {
        &self.event.sender
    }
    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(UInt::try_from(self.event.origin_server_ts).expect("small"))
    }
    fn event_type(&self) -> &TimelineEventType {
        &self.kind
    }
    fn content(&self) -> &RawValue {
        &self.content
    }
    fn state_key(&self) -> Option<&str> {
        Some(&self.event.state_key)
    }
    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.prev_events.iter())
    }
    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.auth_events.iter())
    }
    fn redacts(&self) -> Option<&OwnedEventId> {
        None
    }
    fn rejected(&self) -> bool {
        false
    }
}

/// Everything that ruma asks for, made before its time runs.
struct Theirs {
    version: RoomVersion,
    events: HashMap<OwnedEventId, TheirEvent>,
    states: Vec<ruma::state_res::StateMap<OwnedEventId>>,
    chains: Vec<EventIdSet<OwnedEventId>>,
    subgraph: EventIdSet<OwnedEventId>,
}

impl Theirs {
    fn new(story: &Story, conflicted: &BTreeSet<u64>) -> Theirs {
        let name = |id: &u64| story.events[*id as usize].event_id.clone();
        let event = |event: &Arc<ResolutionEvent>| {
            let content = engram::matrix::canonical_json::to_bytes(&event.content);
            let content = String::from_utf8(content).expect("is UTF-8");
            let theirs = TheirEvent {
                room_id: story.create.room_id.clone(),
                kind: TimelineEventType::from(&*event.kind),
                content: RawValue::from_string(content).expect("is JSON"),
                auth_events: event.auth_events.iter().map(name).collect(),
                prev_events: match event.prev_events_count {
                    0 => vec![],
                    _ => vec![story.create.event_id.clone()],
                },
                event: event.clone(),
            };
            (event.event_id.clone(), theirs)
        };
        let mut chains = Vec::new();
        let mut states = Vec::new();
        for fork in 0..story.forks.len() {
            let keys = story.base.keys().chain(story.forks[fork].keys());
            let entries: BTreeMap<&Key, u64> = keys
                .filter_map(|key| Some((key, story.entry(fork, key)?)))
                .collect();
            chains.push(
                chain(story, entries.values().copied())
                    .iter()
                    .map(name)
                    .collect(),
            );
            let entry = |(key, id): (&&Key, &u64)| {
                ((StateEventType::from(key.0), key.1.to_string()), name(id))
            };
            states.push(entries.iter().map(entry).collect());
        }
        // An end, or both above and below one.
        let reached = chain(story, conflicted.iter().copied());
        let mut reaches: BTreeSet<u64> = conflicted.clone();
        for (id, event) in story.events.iter().enumerate() {
            if event
                .auth_events
                .iter()
                .any(|cited| reaches.contains(cited))
            {
                reaches.insert(id as u64);
            }
        }
        let between = reached.intersection(&reaches).chain(conflicted);
        Theirs {
            version: story.create.version,
            subgraph: between.map(name).collect(),
            events: story.events.iter().map(event).collect(),
            states,
            chains,
        }
    }

    /// Answers the time, too: what it consumes is copied before.
    fn resolve(&self) -> (ruma::state_res::StateMap<OwnedEventId>, Duration) {
        let rules = self.version.rules();
        let (chains, subgraph) = (self.chains.clone(), self.subgraph.clone());
        let begun = Instant::now();
        let resolved = ruma::state_res::resolve(
            &rules.authorization,
            rules.state_res.v2_rules().expect("not version 1"),
            &self.states,
            chains,
            |id: &EventId| self.events.get(id),
            |_| Some(subgraph.clone()),
        );
        (resolved.expect("resolves"), begun.elapsed())
    }
}

fn chain(story: &Story, from: impl Iterator<Item = u64>) -> BTreeSet<u64> {
    let mut todo: Vec<u64> = from
        .flat_map(|id| story.events[id as usize].auth_events.iter().copied())
        .collect();
    let mut chain = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if chain.insert(id) {
            todo.extend(&story.events[id as usize].auth_events);
        }
    }
    chain
}

/// The fastest of some runs.
fn fastest(mut run: impl FnMut() -> Duration) -> Duration {
    let begun = Instant::now();
    let mut fastest = run();
    let mut runs = 1;
    while runs < RUNS || begun.elapsed() < RUNS_TIME {
        fastest = fastest.min(run());
        runs += 1;
    }
    fastest
}

fn time_ours(ours: &mut Ours<'_>) -> (Duration, u64) {
    let mut units = 0;
    let time = fastest(|| {
        let begun = Instant::now();
        units = black_box(ours.resolve()).1;
        begun.elapsed()
    });
    (time, units)
}

fn compare(title: &str, story: &Story) {
    let mut ours = Ours::new(story);
    let mut conflicted = BTreeSet::new();
    for key in &ours.conflicts {
        for fork in 0..story.forks.len() {
            conflicted.extend(story.entry(fork, key.key));
        }
    }
    let theirs = Theirs::new(story, &conflicted);

    let (resolved, _) = ours.resolve();
    let (expected, _) = theirs.resolve();
    for (conflicted, id) in ours.conflicts.iter().zip(&resolved.entries) {
        let (kind, state_key) = conflicted.key;
        let key = (StateEventType::from(*kind), state_key.to_string());
        let id = id.map(|id| &story.events[id as usize].event_id);
        assert_eq!(expected.get(&key), id, "{title}");
    }
    let (time, units) = time_ours(&mut ours);
    let their_time = fastest(|| theirs.resolve().1);
    let ratio = their_time.as_secs_f64() / time.as_secs_f64();
    print_row(title, time, Some((their_time, ratio)), units);
}

fn ours_alone(title: &str, story: &Story) {
    let (time, units) = time_ours(&mut Ours::new(story));
    print_row(title, time, None, units);
}

fn print_row(title: &str, ours: Duration, theirs: Option<(Duration, f64)>, units: u64) {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let (theirs, ratio) = match theirs {
        Some((time, ratio)) => (format!("{:.3}", ms(time)), format!("{ratio:.1}")),
        None => ("-".to_owned(), "-".to_owned()),
    };
    let per_unit = ours.as_nanos() as f64 / units.max(1) as f64;
    println!(
        "{title:<58} {:>9.3} {theirs:>9} {ratio:>7} {units:>10} {per_unit:>8.1}",
        ms(ours)
    );
}

/// A parsed state of 50,000 members, as the rules read it.
struct Parsed {
    create: CreateInfo,
    levels: PowerLevels,
    members: HashMap<OwnedUserId, Membership>,
}

impl AuthState for Parsed {
    fn create(&self) -> Option<&CreateInfo> {
        Some(&self.create)
    }
    fn power_levels(&self) -> Option<&PowerLevels> {
        Some(&self.levels)
    }
    fn join_rule(&self) -> JoinRule {
        JoinRule::Public
    }
    fn membership(&self, user: &UserId) -> Option<Membership> {
        self.members.get(user).copied()
    }
    fn third_party_invite(&self, _: &str) -> Option<ThirdPartyInvite> {
        None
    }
}

fn plain_message() {
    const MEMBERS: usize = 50_000;
    println!("\n{:<58} {:>9}", "auth check of a plain message", "ns");
    for named in [1, 1_000] {
        let mut story = Story::new(RoomVersion::V12, named);
        let levels = story.events[2].content.clone();
        let users = (0..MEMBERS).map(|at| OwnedUserId::try_from(format!("@member-{at}:hs")));
        let users: Vec<OwnedUserId> = users.map(|user| user.expect("valid")).collect();
        let state = Parsed {
            levels: PowerLevels::parse(RoomVersion::V12, &levels).expect("parses"),
            members: users
                .iter()
                .map(|user| (user.clone(), Membership::Join))
                .collect(),
            create: story.create.clone(),
        };
        let event_id = story.events.remove(3).event_id.clone();
        let time = fastest(|| {
            let begun = Instant::now();
            for user in &users {
                let message = AuthEvent {
                    event_id: &event_id,
                    room_id: &state.create.room_id,
                    sender: user,
                    kind: "m.room.message",
                    state_key: None,
                    content: EventContent::Bytes(br#"{"body":"hello","msgtype":"m.text"}"#),
                    prev_events_count: 1,
                    first_prev_event: None,
                    redacts: None,
                };
                let allowed = auth_rules::check(RoomVersion::V12, black_box(&message), &state);
                assert_eq!(allowed, Ok(()));
            }
            begun.elapsed()
        });
        let each = time.as_nanos() as f64 / MEMBERS as f64;
        println!(
            "{:<58} {each:>9.0}",
            format!("50,000 members, power levels naming {named}")
        );
    }
}
