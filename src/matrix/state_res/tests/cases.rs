//! Fixed cases: what tells the versions apart, where we differ from ruma, and
//! the edges of the interface.

use std::convert::Infallible;
use std::sync::Arc;

use super::super::*;
use super::by_ruma;
use super::room::{Dice, Draft, Fork, StateMap, TestRoom, key};
use crate::matrix::RoomVersion;

/// A room of a version with some forks: `@a:hs` made it, `@b:hs` has joined and
/// may do what moderators may.
fn forked(version: RoomVersion, forks: usize) -> (TestRoom, Vec<Fork>) {
    let (mut room, mut fork) = TestRoom::new(version, r#"{"creator":"@a:hs"}"#);
    let join = r#"{"membership":"join"}"#;
    let levels = levels(version, 50);
    for (sender, kind, state_key, content) in [
        ("@a:hs", "m.room.member", "@a:hs", join),
        ("@a:hs", "m.room.power_levels", "", levels.as_str()),
        (
            "@a:hs",
            "m.room.join_rules",
            "",
            r#"{"join_rule":"public"}"#,
        ),
        ("@b:hs", "m.room.member", "@b:hs", join),
    ] {
        let ts = room.events.len() as u64;
        add(&mut room, &mut fork, (sender, kind, state_key, content), ts);
    }
    (room, vec![fork; forks])
}

fn levels(version: RoomVersion, of_b: i64) -> String {
    let creator = match version.room_id_is_create_hash() {
        true => "",
        false => r#""@a:hs":100,"#,
    };
    format!(r#"{{"users":{{{creator}"@b:hs":{of_b}}}}}"#)
}

type Entry<'a> = (&'a str, &'a str, &'a str, &'a str);

fn add(room: &mut TestRoom, fork: &mut Fork, entry: Entry<'_>, ts: u64) -> u64 {
    let (sender, kind, state_key, content) = entry;
    let draft = Draft {
        sender,
        kind,
        state_key,
        content,
        ts,
    };
    room.add(fork, &draft).expect("is allowed")
}

fn resolve(room: &TestRoom, forks: &[Fork]) -> StateMap {
    let states: Vec<&StateMap> = forks.iter().map(|fork| &fork.state).collect();
    room.resolve(&states)
}

/// The creator left on one fork and closed the room on the other. Once these
/// meet twice, neither join rules event has a sender in the room and both are
/// gone, and a member joins again under the default join rule.
#[test]
fn only_the_default_join_rule_sets_us_apart_from_ruma() {
    for version in RoomVersion::all() {
        if version == RoomVersion::V1 {
            continue; // Which ruma does not know.
        }
        let (mut room, mut forks) = forked(version, 2);
        let member = key("m.room.member", "@b:hs");
        let first = forks[0].state[&member];
        let closes = (
            "@a:hs",
            "m.room.join_rules",
            "",
            r#"{"join_rule":"invite"}"#,
        );
        add(&mut room, &mut forks[0], closes, 5);
        let leaves = (
            "@a:hs",
            "m.room.member",
            "@a:hs",
            r#"{"membership":"leave"}"#,
        );
        add(&mut room, &mut forks[1], leaves, 5);
        forks[0].state = resolve(&room, &forks);
        forks[0].state = resolve(&room, &forks);
        let rules = key("m.room.join_rules", "");
        if version.room_id_is_create_hash() {
            // Version 2.1 starts from an empty state, where @a is in the room.
            assert!(forks[0].state.contains_key(&rules), "{version}");
            continue;
        }
        assert!(!forks[0].state.contains_key(&rules), "{version}");
        let joins = (
            "@b:hs",
            "m.room.member",
            "@b:hs",
            r#"{"membership":"join"}"#,
        );
        let again = add(&mut room, &mut forks[0], joins, 5);
        assert_ne!(first, again, "{version}");

        let mut ours = room.named(&resolve(&room, &forks));
        let states: Vec<&StateMap> = forks.iter().map(|fork| &fork.state).collect();
        let mut theirs = by_ruma::resolve(&room, &states);
        let id_of = |id: u64| Some(room.events[&id].event_id.clone());
        assert_eq!(ours.remove(&member), id_of(again), "{version}");
        // Should this fail one day, ruma has a default too: compare all again.
        assert_eq!(theirs.remove(&member), id_of(first), "{version}");
        assert_eq!(ours, theirs, "{version}");
    }
}

#[test]
fn a_ban_wins_over_what_the_banned_did_beside_it() {
    for version in RoomVersion::all() {
        let (mut room, mut forks) = forked(version, 2);
        let ban = ("@a:hs", "m.room.member", "@b:hs", r#"{"membership":"ban"}"#);
        let ban = add(&mut room, &mut forks[0], ban, 10);
        let topic = ("@b:hs", "m.room.topic", "", r#"{"topic":"x"}"#);
        add(&mut room, &mut forks[1], topic, 11);
        let resolved = resolve(&room, &forks);
        assert_eq!(resolved[&key("m.room.member", "@b:hs")], ban, "{version}");
        // In version 1 a key that one side lacks is no conflict, and stays.
        assert_eq!(
            resolved.contains_key(&key("m.room.topic", "")),
            version == RoomVersion::V1,
            "{version}"
        );
    }
}

/// The level of whoever sent an event comes from the create event, too: an added
/// creator's word comes before that of a user with the highest level there is,
/// though it is younger.
#[test]
fn msc4289_creators_come_first_when_events_are_sorted() {
    let version = RoomVersion::V12;
    let (mut room, mut fork) = TestRoom::new(
        version,
        r#"{"creator":"@a:hs","additional_creators":["@d:o"]}"#,
    );
    let join = r#"{"membership":"join"}"#;
    let highest = format!(r#"{{"users":{{"@b:hs":{}}}}}"#, (1_i64 << 53) - 1);
    for (sender, kind, state_key, content) in [
        ("@a:hs", "m.room.member", "@a:hs", join),
        ("@a:hs", "m.room.power_levels", "", &*highest),
        (
            "@a:hs",
            "m.room.join_rules",
            "",
            r#"{"join_rule":"public"}"#,
        ),
        ("@b:hs", "m.room.member", "@b:hs", join),
        ("@d:o", "m.room.member", "@d:o", join),
    ] {
        let ts = room.events.len() as u64;
        add(&mut room, &mut fork, (sender, kind, state_key, content), ts);
    }
    let mut forks = vec![fork; 2];
    let demotes = (
        "@d:o",
        "m.room.power_levels",
        "",
        r#"{"users":{"@b:hs":0}}"#,
    );
    let demotes = add(&mut room, &mut forks[0], demotes, 99);
    let closes = (
        "@b:hs",
        "m.room.join_rules",
        "",
        r#"{"join_rule":"invite"}"#,
    );
    let open = forks[1].state[&key("m.room.join_rules", "")];
    add(&mut room, &mut forks[1], closes, 50);
    let resolved = resolve(&room, &forks);
    assert_eq!(resolved[&key("m.room.power_levels", "")], demotes);
    assert_eq!(resolved[&key("m.room.join_rules", "")], open);
}

#[test]
fn version_1_takes_the_deepest_allowed_event() {
    let (mut room, mut forks) = forked(RoomVersion::V1, 2);
    let topic = |of: &'static str| ("@b:hs", "m.room.topic", "", of);
    let shallow = add(
        &mut room,
        &mut forks[0],
        topic(r#"{"topic":"shallow"}"#),
        99,
    );
    let name = ("@b:hs", "m.room.name", "", r#"{"name":"x"}"#);
    add(&mut room, &mut forks[1], name, 5);
    let deep = add(&mut room, &mut forks[1], topic(r#"{"topic":"deep"}"#), 5);
    assert_eq!(resolve(&room, &forks)[&key("m.room.topic", "")], deep);
    // Whose sender lost the level for it does not pass; where none does, the
    // least deep stays.
    let levels = levels(RoomVersion::V1, 0);
    let levels = ("@a:hs", "m.room.power_levels", "", levels.as_str());
    add(&mut room, &mut forks[0], levels, 6);
    assert_eq!(resolve(&room, &forks)[&key("m.room.topic", "")], shallow);
    // One that passes is taken before deeper ones that do not.
    let by_a = ("@a:hs", "m.room.topic", "", r#"{"topic":"mine"}"#);
    let by_a = add(&mut room, &mut forks[0], by_a, 7);
    forks[1].depth = 50;
    let deeper = ("@b:hs", "m.room.topic", "", r#"{"topic":"deeper"}"#);
    add(&mut room, &mut forks[1], deeper, 7);
    assert_eq!(resolve(&room, &forks)[&key("m.room.topic", "")], by_a);
}

/// A room that must not be read.
struct Unread;

impl super::super::Room for Unread {
    type Error = Infallible;

    fn event(&mut self, _: u64) -> Result<Option<Arc<ResolutionEvent>>, Infallible> {
        unreachable!("nothing to look at")
    }
    fn agreed(&mut self, _: &str, _: &str) -> Result<Option<u64>, Infallible> {
        unreachable!("nothing to ask")
    }
    fn each_agreed(&mut self, _: &mut dyn FnMut(u64)) -> Result<(), Infallible> {
        unreachable!("nothing to ask")
    }
}

#[test]
fn states_that_agree_need_no_events() {
    let (room, _) = forked(RoomVersion::V11, 1);
    let mut conflict = Conflict::new(3);
    conflict.push(Some(4), []);
    conflict.push(None, []);
    conflict.push(Some(1), [(0, Some(5)), (2, Some(5)), (1, Some(5))]);
    conflict.push(
        Some(1),
        [(0, None), (1, Some(1)), (1, None), (2, None), (9, Some(2))],
    );
    let mut work = Work::new(0);
    let resolved =
        super::super::resolve(&room.create, &conflict, &room.graph, &mut Unread, &mut work)
            .expect("resolves");
    assert_eq!(resolved.entries, [Some(4), None, Some(5), None]);
    assert!(resolved.added.is_empty());
    let alone = Conflict::new(1);
    let resolved = super::super::resolve(&room.create, &alone, &room.graph, &mut Unread, &mut work);
    assert_eq!(resolved, Ok(Resolved::default()));
}

/// A budget is kept to the unit, and one that is hopeless is refused before
/// anything is read.
#[test]
fn the_bound_is_on_work() {
    for version in RoomVersion::all() {
        let (mut room, mut forks) = forked(version, 2);
        for (fork, rule) in forks.iter_mut().zip(["invite", "knock"]) {
            let content = format!(r#"{{"join_rule":"{rule}"}}"#);
            let rules = ("@a:hs", "m.room.join_rules", "", content.as_str());
            add(&mut room, fork, rules, 10);
        }
        let states: Vec<&StateMap> = forks.iter().map(|fork| &fork.state).collect();
        let with = |max| room.resolve_as(&states, &mut Dice(3), Work::new(max));
        let (resolved, spent) = with(u64::MAX).expect("resolves");
        assert_eq!(with(spent), Ok((resolved, spent)), "{version}");
        for max in 0..spent {
            assert_eq!(with(max), Err(ResolveError::TooMuchWork), "{version}");
        }
        // The same work, however events are numbered.
        let (other, numbers) = room.renumbered_with_full_graph(&mut Dice(9));
        let renumber = |state: &&StateMap| -> StateMap {
            let entries = state.iter();
            entries
                .map(|(key, id)| (key.clone(), numbers[id]))
                .collect()
        };
        let states: Vec<StateMap> = states.iter().map(renumber).collect();
        let states: Vec<&StateMap> = states.iter().collect();
        let again = other.resolve_as(&states, &mut Dice(3), Work::new(u64::MAX));
        assert_eq!(again.expect("resolves").1, spent, "{version}");
    }
    let (room, _) = forked(RoomVersion::V11, 1);
    let mut conflict = Conflict::new(2);
    for id in 0..1000 {
        conflict.push(Some(2 * id), [(1, Some(2 * id + 1))]);
    }
    let mut work = Work::new(10_000);
    let resolved =
        super::super::resolve(&room.create, &conflict, &room.graph, &mut Unread, &mut work);
    assert_eq!(resolved, Err(ResolveError::TooMuchWork));
    assert_eq!(work.spent(), 0);
}
