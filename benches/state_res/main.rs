//! State resolution against ruma's, in the same run and on the same rooms, and
//! the auth check of a plain message.
//!
//! Both get parsed events in memory. ruma gets the full auth chain of each
//! state and the conflicted state subgraph ready made, since it asks for them;
//! ours walks its graph within the time that is shown, and is told of the
//! states what they disagree on. Answers are compared.
//!
//! `cargo bench --bench state_res [-- WORDS]`, of rows whose title has the words.

mod ours;
mod story;
mod theirs;

use std::collections::{BTreeSet, HashMap};
use std::hint::black_box;
use std::time::{Duration, Instant};

use engram::matrix::auth_rules::{
    self, AuthEvent, AuthState, CreateInfo, EventContent, JoinRule, PowerLevels, ThirdPartyInvite,
};
use engram::matrix::ids::{OwnedUserId, UserId};
use engram::matrix::{Membership, RoomVersion};
use ruma::events::StateEventType;

use ours::Ours;
use story::{Story, forks, joined, kicked, renamed, renamed_twice};
use theirs::Theirs;

/// Entries of all states together that ruma is given at most.
const ENTRIES_MAX: usize = 1_000_000;
/// Each side runs this often and at least so long; the fastest run counts.
const RUNS: usize = 5;
const RUNS_TIME: Duration = Duration::from_millis(400);

fn main() {
    println!(
        "{:<58} {:>9} {:>9} {:>7} {:>10} {:>8}",
        "state resolution", "engram ms", "ruma ms", "ratio", "units", "ns/unit"
    );
    let wanted = std::env::args()
        .skip(1)
        .find(|word| !word.starts_with("--"));
    let row = |title: String, story: &dyn Fn() -> Story| {
        if wanted.as_ref().is_none_or(|words| title.contains(words)) {
            compare(&title, &story());
        }
    };
    for version in [RoomVersion::V11, RoomVersion::V12] {
        let title = |what: &str| format!("v{version}: {what}");
        for (count, named) in [(1_000, "1,000"), (10_000, "10,000")] {
            let title = |what: &str| title(&format!("{named} members {what}"));
            row(title("renamed on both sides"), &|| {
                renamed(version, count, 0)
            });
            row(title("joined, half on each side"), &|| {
                joined(version, count)
            });
            row(title("kicked here, renamed there"), &|| {
                kicked(version, count, 0)
            });
        }
        let thousand = || renamed(version, 1_000, 49_000);
        row(
            title("1,000 of 50,000 members renamed on both sides"),
            &thousand,
        );
        let twice = || renamed_twice(version, 10, 49_990);
        row(
            title("10 of 50,000 members renamed twice on a side"),
            &twice,
        );
        let named = || kicked(version, 1_000, 1_000);
        row(title("1,000 kicked, power levels naming 1,000"), &named);
        let each = || forks(version, 0, |fork| fork);
        row(title("1,000 forks, each another key"), &each);
        let same = || forks(version, 0, |_| 0);
        row(title("1,000 forks, all the same key"), &same);
        let large = || forks(version, 50_000, |fork| fork);
        row(
            title("1,000 forks, each another key, 50,000 members"),
            &large,
        );
    }
    plain_message();
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
    let (time, units) = time_ours(&mut ours);
    // ruma wants the full auth chain of each state: of some there is no room.
    if story.forks.len() * story.base.len() > ENTRIES_MAX {
        return print_row(title, time, None, units);
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
    let their_time = fastest(|| theirs.resolve().1);
    let ratio = their_time.as_secs_f64() / time.as_secs_f64();
    print_row(title, time, Some((their_time, ratio)), units);
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
