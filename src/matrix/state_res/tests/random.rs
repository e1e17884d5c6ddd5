//! Random rooms with forks, merges, power struggles and every membership, in
//! each version: our answer against an independent one, and against our own
//! when the same states are put in another way.
//!
//! `ENGRAM_STATE_RES_ROOMS` sets how many rooms each version gets.

use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use super::super::*;
use super::room::{Dice, Draft, Fork, StateMap, TestRoom, key};
use super::{by_ruma, by_text};
use crate::crypto::signing_key::ServerKey;
use crate::matrix::RoomVersion;
use crate::matrix::redaction::{auth_extract, redacted_content};

/// 12 versions make 12,000 rooms.
const ROOMS: u64 = 1_000;

const USERS: [&str; 4] = ["@a:hs", "@b:hs", "@c:o", "@d:o"];

/// A room that grows on several forks at once.
struct Growth {
    room: TestRoom,
    forks: Vec<Fork>,
    dice: Dice,
}

/// Signs what an identity server signs when an invited address finds its user.
static IDENTITY_KEY: LazyLock<ServerKey> = LazyLock::new(|| ServerKey::from_seed([7; 32], "1"));

/// The contents of invites that were signed so, by the index of the user.
static SIGNED_INVITES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let invite = |user: &&str| {
        let signature =
            IDENTITY_KEY.sign_base64(format!(r#"{{"mxid":"{user}","token":"t"}}"#).as_bytes());
        format!(
            r#"{{"membership":"invite","third_party_invite":{{"display_name":"x","signed":{{"mxid":"{user}","token":"t","signatures":{{"id":{{"ed25519:1":"{signature}"}}}}}}}}}}"#
        )
    };
    USERS.iter().map(invite).collect()
});

impl Growth {
    fn new(version: RoomVersion, seed: u64) -> Growth {
        let mut dice = Dice(seed);
        let more = match dice.one_in(4) {
            true => r#","additional_creators":["@b:hs"]"#,
            false => "",
        };
        let federate = dice.one_in(16).then_some(r#","m.federate":false"#);
        let content = format!(
            r#"{{"creator":"@a:hs"{more}{}}}"#,
            federate.unwrap_or_default()
        );
        let (room, fork) = TestRoom::new(version, &content);
        let mut growth = Growth {
            room,
            forks: vec![fork],
            dice,
        };
        let join = r#"{"membership":"join"}"#;
        growth.must(0, "@a:hs", "m.room.member", "@a:hs", join, 1);
        let levels = growth.levels_content(&[50, 0, 0]);
        growth.must(0, "@a:hs", "m.room.power_levels", "", &levels, 2);
        let public = r#"{"join_rule":"public"}"#;
        growth.must(0, "@a:hs", "m.room.join_rules", "", public, 3);
        growth.must(0, "@b:hs", "m.room.member", "@b:hs", join, 4);
        growth
    }

    /// Lets so many things happen on so many forks.
    fn grow(&mut self, forks: usize, acts: usize) {
        self.forks = vec![self.forks[0].clone(); forks];
        for _ in 0..acts {
            self.act();
        }
    }

    fn must(&mut self, fork: usize, user: &str, kind: &str, state_key: &str, json: &str, ts: u64) {
        assert!(self.add(fork, user, kind, state_key, json, ts));
    }

    fn add(
        &mut self,
        fork: usize,
        sender: &str,
        kind: &str,
        state_key: &str,
        content: &str,
        ts: u64,
    ) -> bool {
        let draft = Draft {
            sender,
            kind,
            state_key,
            content,
            ts,
        };
        self.room.add(&mut self.forks[fork], &draft).is_some()
    }

    /// Every field is named: ruma compares those that are added with defaults,
    /// we do not. The levels are those of all users but the first, who has 100.
    fn levels_content(&mut self, users: &[i64]) -> String {
        let is_v12 = self.room.version().room_id_is_create_hash();
        let mut listed = String::new();
        if !is_v12 {
            listed.push_str(r#""@a:hs":100"#);
        }
        let creators = self.room.create.creators.clone();
        for (user, level) in USERS[1..].iter().zip(users) {
            if is_v12 && creators.iter().any(|creator| creator == user) {
                continue;
            }
            let comma = if listed.is_empty() { "" } else { "," };
            let quote = match self.dice.one_in(4) && self.room.version() < RoomVersion::V10 {
                true => "\"",
                false => "",
            };
            write!(listed, r#"{comma}"{user}":{quote}{level}{quote}"#).expect("is a string");
        }
        let state = [0, 50, 50, 75][self.dice.below(4)];
        let ban = [25, 50, 50, 100][self.dice.below(4)];
        let invite = [0, 0, 50][self.dice.below(3)];
        let topic = [0, 25, 50][self.dice.below(3)];
        format!(
            r#"{{"users":{{{listed}}},"users_default":0,"events_default":0,"state_default":{state},"ban":{ban},"kick":50,"redact":50,"invite":{invite},"events":{{"m.room.topic":{topic}}},"notifications":{{"room":50}}}}"#
        )
    }

    /// Something happens on a fork, if its state allows it.
    fn act(&mut self) {
        let fork = self.dice.below(self.forks.len());
        let user = self.dice.pick(&USERS);
        let at = self.dice.below(USERS.len());
        let target = USERS[at];
        let ts = 5 + self.dice.below(7) as u64;
        let member = |word: &str| format!(r#"{{"membership":"{word}"}}"#);
        let (kind, state_key, content) = match self.dice.below(23) {
            0 | 1 => ("m.room.topic", "", format!(r#"{{"topic":"{ts}"}}"#)),
            2..=4 => {
                let levels = [0, 25, 50, 75, 100];
                let users = [(); 3].map(|()| levels[self.dice.below(5)]);
                ("m.room.power_levels", "", self.levels_content(&users))
            }
            5 | 6 => ("m.room.join_rules", "", self.join_rules_content()),
            7 | 8 => ("m.room.member", target, member("ban")),
            9 => ("m.room.member", target, member("leave")),
            10 => ("m.room.member", user, member("leave")),
            11 | 12 => ("m.room.member", user, member("join")),
            13 => {
                let content = format!(
                    r#"{{"membership":"join","join_authorised_via_users_server":"{target}"}}"#
                );
                ("m.room.member", user, content)
            }
            14 | 15 => ("m.room.member", target, member("invite")),
            16 => ("m.room.member", user, member("knock")),
            17 => {
                let public_key = IDENTITY_KEY.public_base64();
                let content = format!(r#"{{"display_name":"x","public_key":"{public_key}"}}"#);
                ("m.room.third_party_invite", "t", content)
            }
            18 => ("m.room.member", target, SIGNED_INVITES[at].clone()),
            19 => {
                let redacted = self.dice.below(self.room.events.len()) as u64;
                let redacted = &self.room.events[&redacted].event_id;
                let content = format!(r#"{{"redacts":"{redacted}"}}"#);
                ("m.room.redaction", "", content)
            }
            20 => return self.mistake(fork),
            _ => return self.merge(fork),
        };
        self.add(fork, user, kind, state_key, &content, ts);
    }

    fn join_rules_content(&mut self) -> String {
        let rules = [
            "public",
            "public",
            "invite",
            "knock",
            "restricted",
            "knock_restricted",
            "private",
        ];
        let rule = self.dice.pick(&rules);
        format!(r#"{{"join_rule":"{rule}","allow":[]}}"#)
    }

    /// The forks meet: later events build on a resolved state.
    fn merge(&mut self, fork: usize) {
        let other = (fork + 1) % self.forks.len();
        let states = [&self.forks[fork].state, &self.forks[other].state];
        let state = self.room.resolve(&states);
        let depth = self.forks[fork].depth.max(self.forks[other].depth);
        self.forks[fork] = Fork {
            state,
            depth,
            prev_events_count: 2,
            after_create: false,
        };
    }

    /// A server is wrong about the state: it holds an entry that is older, or
    /// of another fork, or none.
    fn mistake(&mut self, fork: usize) {
        let id = 1 + self.dice.below(self.room.events.len() - 1) as u64;
        let event = &self.room.events[&id];
        let key = key(&event.kind, &event.state_key);
        let state = &mut self.forks[fork].state;
        match self.dice.one_in(4) {
            true => state.remove(&key),
            false => state.insert(key, id),
        };
    }

    fn states(&self) -> Vec<&StateMap> {
        self.forks.iter().map(|fork| &fork.state).collect()
    }

    /// Some events turn out to have been rejected.
    fn reject_some(&mut self) {
        for _ in 0..1 + self.dice.below(2) {
            let id = 1 + self.dice.below(self.room.events.len() - 1) as u64;
            self.change(id, |event| event.rejected = true);
        }
    }

    fn change(&mut self, id: u64, change: impl FnOnce(&mut ResolutionEvent)) {
        let event = self.room.events.get_mut(&id).expect("is one");
        change(Arc::make_mut(event));
    }

    /// Whether somebody joined under a state without `m.room.join_rules`.
    ///
    /// Such a join is the one thing on which we and ruma differ on purpose:
    /// `auth_rules` takes the join rule of a room that sets none for `invite`,
    /// as Synapse and gomatrixserverlib do (a member may join again, as a new
    /// profile does), while ruma has no join rule then and refuses. The
    /// specification names no default: *Authorisation rules* speak of "the
    /// `join_rule`", and *Auth events selection* cites the event "if any".
    /// Forks come to lack the event when its sender loses the right to it in a
    /// resolution. Joins that cite join rules fall back on them, so that these
    /// are all the joins that either side ever judges without; the creator's
    /// first is allowed before the join rule is read. The case itself is
    /// `cases::only_the_default_join_rule_sets_us_apart_from_ruma`.
    fn has_join_without_join_rules(&self) -> bool {
        const CREATORS_JOIN: u64 = 1;
        let room = &self.room;
        let is_rules = |id: &u64| {
            let event = &room.events[id];
            &*event.kind == "m.room.join_rules" && !event.rejected
        };
        room.events.iter().any(|(id, event)| {
            let membership = event.content.get("membership");
            *id != CREATORS_JOIN
                && membership.and_then(|word| word.as_str()) == Some("join")
                && !event.auth_events.iter().any(is_rules)
        })
    }
}

fn rooms_per_version() -> u64 {
    let set = std::env::var("ENGRAM_STATE_RES_ROOMS").ok();
    set.and_then(|rooms| rooms.parse().ok()).unwrap_or(ROOMS)
}

fn seeds(version: RoomVersion) -> impl Iterator<Item = u64> {
    let number: u64 = version.as_str().parse().expect("is a number");
    (0..rooms_per_version()).map(move |room| number * 1_000_000_007 + room)
}

/// Our answer, and where there is one the independent answer, agree; and ours
/// stays when the same room is put otherwise.
fn check_version(version: RoomVersion) {
    let (mut compared, mut conflicts) = (0, 0);
    for seed in seeds(version) {
        let mut growth = Growth::new(version, seed);
        let forks = 2 + growth.dice.below(3);
        let acts = 8 + growth.dice.below(22);
        growth.grow(forks, acts);
        if growth.dice.one_in(6) {
            growth.reject_some();
        }
        let room = &growth.room;
        let states = growth.states();
        let ours = room.resolve(&states);
        check_budget(room, &states, seed);
        conflicts += u64::from(states.iter().any(|state| **state != *states[0]));
        if version == RoomVersion::V1 {
            assert_eq!(ours, by_text::resolve(room, &states), "seed {seed}");
            compared += 1;
        } else if !growth.has_join_without_join_rules() {
            let theirs = by_ruma::resolve(room, &states);
            assert_eq!(room.named(&ours), theirs, "version {version}, seed {seed}");
            compared += 1;
        }
        let ours = room.named(&ours);
        check_put_otherwise(&mut growth, &ours, seed);
    }
    // Comparing nothing would show nothing.
    let rooms = rooms_per_version();
    assert!(
        compared * 20 >= rooms * 17,
        "compared {compared} of {rooms}"
    );
    assert!(
        conflicts * 10 >= rooms * 9,
        "{conflicts} conflicts in {rooms}"
    );
    println!("version {version}: {compared} of {rooms} rooms compared");
}

/// What was spent once is enough again, and less is not.
fn check_budget(room: &TestRoom, states: &[&StateMap], seed: u64) {
    let with = |max| room.resolve_as(states, &mut Dice(seed), Work::new(max));
    let resolved = with(u64::MAX).expect("resolves");
    let (_, spent) = &resolved;
    let short = spent.checked_sub(1).map(with);
    assert_eq!(with(*spent), Ok(resolved), "seed {seed}");
    let too_much = Err(ResolveError::TooMuchWork);
    assert!(short.is_none_or(|short| short == too_much), "seed {seed}");
}

/// More states than bits in a word, and not a multiple of it.
#[test]
fn hundreds_of_states() {
    let mut compared = 0;
    for version in RoomVersion::all() {
        for (seed, forks) in [(1, 64), (2, 65), (3, 100), (4, 130), (5, 200), (6, 333)] {
            let mut growth = Growth::new(version, seed);
            growth.grow(forks, forks + 40);
            let states = growth.states();
            let ours = growth.room.named(&growth.room.resolve(&states));
            if version == RoomVersion::V1 {
                let theirs = by_text::resolve(&growth.room, &states);
                assert_eq!(ours, growth.room.named(&theirs), "{forks} states");
            } else if !growth.has_join_without_join_rules() {
                let theirs = by_ruma::resolve(&growth.room, &states);
                assert_eq!(ours, theirs, "version {version}, {forks} states");
                compared += 1;
            }
            check_put_otherwise(&mut growth, &ours, seed);
        }
    }
    assert!(compared >= 40, "compared {compared}");
}

/// The order of states, one that is given twice, the numbers of events, what is
/// passed as agreed, what the graph lacks, and redaction make no difference.
fn check_put_otherwise(
    growth: &mut Growth,
    ours: &std::collections::BTreeMap<super::room::Key, OwnedEventId>,
    seed: u64,
) {
    let version = growth.room.version();
    for _ in 0..2 {
        let redacted = growth.dice.below(growth.room.events.len()) as u64;
        growth.change(redacted, |event| redact(version, event));
    }
    let mut dice = Dice(seed ^ 0xabcd);
    let (other, numbers) = growth.room.renumbered(&mut dice);
    let renumber = |fork: &Fork| -> StateMap {
        let entries = fork.state.iter();
        entries
            .map(|(key, id)| (key.clone(), numbers[id]))
            .collect()
    };
    let mut states: Vec<StateMap> = growth.forks.iter().map(renumber).collect();
    states.push(states[dice.below(states.len())].clone());
    dice.shuffle(&mut states);
    let states: Vec<&StateMap> = states.iter().collect();
    let (again, _) = other
        .resolve_as(&states, &mut dice, Work::new(u64::MAX))
        .expect("resolves");
    assert_eq!(other.named(&again), *ours, "version {version}, seed {seed}");
}

/// Leaves of an event what is left when it is redacted: its skeleton, and the
/// auth extract beside it.
fn redact(version: RoomVersion, event: &mut ResolutionEvent) {
    let extract = auth_extract(version, &event.kind, &event.content);
    event.content = redacted_content(&version.rules().redaction, &event.kind, &event.content);
    event.content.extend(extract.unwrap_or_default());
}

macro_rules! each_version {
    ($($name:ident: $version:ident,)*) => {
        $(#[test]
        fn $name() {
            check_version(RoomVersion::$version);
        })*
    };
}

each_version! {
    random_rooms_of_version_1: V1,
    random_rooms_of_version_2: V2,
    random_rooms_of_version_3: V3,
    random_rooms_of_version_4: V4,
    random_rooms_of_version_5: V5,
    random_rooms_of_version_6: V6,
    random_rooms_of_version_7: V7,
    random_rooms_of_version_8: V8,
    random_rooms_of_version_9: V9,
    random_rooms_of_version_10: V10,
    random_rooms_of_version_11: V11,
    random_rooms_of_version_12: V12,
}
