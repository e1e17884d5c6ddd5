//! The published state resets for which room version 12 changed the algorithm
//! (MSC4297, *Problem A* and *Problem B*): rooms whose states disagree with
//! their auth chains, as after a faulty answer to `/state`. Versions 2 to 11
//! reset, by the letter of their text; version 12 must not.

use super::by_ruma;
use super::room::{Draft, Fork, StateMap, TestRoom, key};
use crate::matrix::RoomVersion;

const JOIN: &str = r#"{"membership":"join"}"#;
const RENAMED: &str = r#"{"displayname":"++","membership":"join"}"#;

/// A room of which `@a:hs` is the only one with a level, and anyone may join.
struct Story {
    room: TestRoom,
    fork: Fork,
}

impl Story {
    fn new(version: RoomVersion) -> Story {
        let (room, fork) = TestRoom::new(version, r#"{"creator":"@a:hs"}"#);
        let mut story = Story { room, fork };
        story.tell("@a:hs", "m.room.member", "@a:hs", JOIN);
        story.levels("@a:hs", &[]);
        story.tell(
            "@a:hs",
            "m.room.join_rules",
            "",
            r#"{"join_rule":"public"}"#,
        );
        story
    }

    /// Something happens, on the one fork there is.
    fn tell(&mut self, sender: &str, kind: &str, state_key: &str, content: &str) -> u64 {
        let draft = Draft {
            sender,
            kind,
            state_key,
            content,
            ts: self.room.events.len() as u64,
        };
        self.room.add(&mut self.fork, &draft).expect("is allowed")
    }

    fn levels(&mut self, sender: &str, moderators: &[&str]) -> u64 {
        let creator = match self.room.version().room_id_is_create_hash() {
            true => None,
            false => Some(r#""@a:hs":100"#.to_owned()),
        };
        let moderators = moderators.iter().map(|user| format!(r#""{user}":50"#));
        let users: Vec<String> = creator.into_iter().chain(moderators).collect();
        let content = format!(r#"{{"users":{{{}}}}}"#, users.join(","));
        self.tell(sender, "m.room.power_levels", "", &content)
    }

    fn member(&mut self, user: &str, content: &str) -> u64 {
        self.tell(user, "m.room.member", user, content)
    }

    /// The state after the fork, but for what a faulty server says.
    fn state_with(&self, entries: &[(&str, &str, Option<u64>)]) -> StateMap {
        let mut state = self.fork.state.clone();
        for (kind, state_key, event) in entries {
            state.remove(&key(kind, state_key));
            state.extend(event.map(|event| (key(kind, state_key), event)));
        }
        state
    }

    fn resolve(&self, states: &[&StateMap]) -> StateMap {
        let resolved = self.room.resolve(states);
        let theirs = by_ruma::resolve(&self.room, states);
        assert_eq!(self.room.named(&resolved), theirs);
        resolved
    }
}

fn versions_from_2() -> impl Iterator<Item = RoomVersion> {
    RoomVersion::all().filter(|version| *version != RoomVersion::V1)
}

/// All agree that Alice, who set the join rules, has left; one side holds her
/// older ones.
#[test]
fn cve_2025_49090_problem_a_join_rules_are_lost_because_their_sender_left() {
    for version in versions_from_2() {
        let mut story = Story::new(version);
        let public = story.fork.state[&key("m.room.join_rules", "")];
        let bob = story.member("@b:hs", JOIN);
        let charlie = story.member("@c:o", JOIN);
        let invite = r#"{"join_rule":"invite"}"#;
        let invite = story.tell("@a:hs", "m.room.join_rules", "", invite);
        let leaves = r#"{"membership":"leave"}"#;
        let left = story.member("@a:hs", leaves);
        let bob_renamed = story.member("@b:hs", RENAMED);
        let charlie_renamed = story.member("@c:o", RENAMED);
        let of_bob = story.state_with(&[("m.room.member", "@c:o", Some(charlie))]);
        let of_charlie = story.state_with(&[
            ("m.room.member", "@b:hs", Some(bob)),
            ("m.room.join_rules", "", Some(public)),
        ]);

        let resolved = story.resolve(&[&of_bob, &of_charlie]);
        let rules = resolved.get(&key("m.room.join_rules", "")).copied();
        let kept = version == RoomVersion::V12;
        assert_eq!(rules, kept.then_some(invite), "{version}");
        // The rest is what it should be, whatever the version.
        let mut expected = story.fork.state.clone();
        expected.retain(|key, _| &*key.0 != "m.room.join_rules");
        expected.extend(rules.map(|rules| (key("m.room.join_rules", ""), rules)));
        assert_eq!(resolved, expected, "{version}");
        assert_eq!(resolved[&key("m.room.member", "@a:hs")], left);
        assert_eq!(resolved[&key("m.room.member", "@b:hs")], bob_renamed);
        assert_eq!(resolved[&key("m.room.member", "@c:o")], charlie_renamed);
    }
}

/// Alice promotes Bob, and Bob promotes Charlie. One side holds the power
/// levels from before both, though its auth chain knows better; what lies
/// between is in both auth chains, so that it is in no auth difference.
#[test]
fn cve_2025_49090_problem_b_power_levels_are_lost_because_those_between_are_not_replayed() {
    for version in versions_from_2() {
        let mut story = Story::new(version);
        let first = story.fork.state[&key("m.room.power_levels", "")];
        story.member("@b:hs", JOIN);
        story.member("@c:o", JOIN);
        story.levels("@a:hs", &["@b:hs"]);
        let last = story.levels("@b:hs", &["@b:hs", "@c:o"]);
        let before = story.fork.clone();
        let zara = story.member("@z:o", JOIN);
        let of_zara = story.fork.state.clone();
        story.fork = before;
        story.member("@e:o", JOIN);
        let eve = story.member("@e:o", RENAMED);
        let of_eve = story.state_with(&[("m.room.power_levels", "", Some(first))]);

        let resolved = story.resolve(&[&of_eve, &of_zara]);
        let expected = match version == RoomVersion::V12 {
            true => last,
            false => first,
        };
        assert_eq!(
            resolved[&key("m.room.power_levels", "")],
            expected,
            "{version}"
        );
        assert_eq!(resolved[&key("m.room.member", "@z:o")], zara, "{version}");
        assert_eq!(resolved[&key("m.room.member", "@e:o")], eve, "{version}");
        assert_eq!(resolved.len(), story.fork.state.len() + 1, "{version}");
    }
}

/// The same as problem B where one side lacks the key altogether: a path needs
/// two ends, and with one there is nothing to replay between.
#[test]
fn a_key_that_one_side_lacks_is_filled_from_the_other() {
    for version in versions_from_2() {
        let mut story = Story::new(version);
        story.member("@b:hs", JOIN);
        story.levels("@a:hs", &["@b:hs"]);
        let last = story.levels("@b:hs", &["@b:hs", "@c:o"]);
        let lacking = story.state_with(&[("m.room.power_levels", "", None)]);
        let resolved = story.resolve(&[&story.fork.state, &lacking]);
        assert_eq!(resolved[&key("m.room.power_levels", "")], last, "{version}");
        assert_eq!(resolved, story.fork.state, "{version}");
    }
}
