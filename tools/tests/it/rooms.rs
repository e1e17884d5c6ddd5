//! `state` and `diff`: a room's state as of any moment, from *output* alone.

use log_format::partition::partition_of;
use log_format::record::output::{Decision, Membership, MembershipChange, StateChangeCause};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::story::{Decided, SOURCES, Story, change, member, message, state};
use crate::support::{FIRST_TIME_US, lines, run};

const ROOM: &str = "!room:hs.test";
const ALICE: &str = "@alice:hs.test";
const BOB: &str = "@bob:other.test";
const NAME: &str = "m.room.name";

/// Offsets in *output*, as the tests name them.
const FIRST_NAME: u64 = 4;
const SECOND_NAME: u64 = 6;
const PART: u64 = 8;
const RESOLVED: u64 = 9;

/// A room whose forks are resolved: the second name loses to the first, and
/// Bob's join to a ban.
fn resolved_room() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    told(&folder).end();
    folder
}

fn told(folder: &TempDir) -> Story {
    let mut story = Story::begin(folder.path());
    let create = json!({ "room_version": "11" });
    let create = Decided {
        kept: &["room_version"],
        ..state("$create", ALICE, "m.room.create", "", create, None)
    };
    let levels = json!({ "users": { ALICE: 100 }, "invite": 0, "redact": 50 });
    let levels = Decided {
        kept: &["users", "redact"],
        ..state("$levels", ALICE, "m.room.power_levels", "", levels, None)
    };
    let public = json!({ "join_rule": "public" });
    let name =
        |id, sender, text: &str, from| state(id, sender, NAME, "", json!({ "name": text }), from);
    let ban = Decided {
        decision: Decision::Outlier,
        delta: vec![],
        memberships: vec![],
        extremities: vec![],
        ..member("$ban", ALICE, BOB, None, Membership::Ban)
    };
    let resolving = Decided {
        delta: vec![change(
            "m.room.member",
            BOB,
            Some("$bob"),
            Some("$ban"),
            StateChangeCause::Resolution,
        )],
        extremities: vec!["$left".to_owned(), "$merge".to_owned()],
        ..message("$merge", ALICE)
    };
    for event in [
        create,
        member("$alice", ALICE, ALICE, None, Membership::Join),
        levels,
        state("$rules", ALICE, "m.room.join_rules", "", public, None),
        name("$first", ALICE, "First", None),
        member("$bob", BOB, BOB, None, Membership::Join),
        name("$second", ALICE, "Second", Some("$first")),
        ban,
    ] {
        story.decide(ROOM, &event);
    }
    let back = change(
        NAME,
        "",
        Some("$second"),
        Some("$first"),
        StateChangeCause::Resolution,
    );
    let about = (story.next + 1) * SOURCES;
    // Memberships go with any part, not with that of their event.
    let banned = MembershipChange {
        user_id: BOB.to_owned(),
        from: Some(Membership::Join),
        to: Membership::Ban,
    };
    story.part(ROOM, about, vec![back], vec![banned]);
    story.decide(ROOM, &resolving);
    story.decide(
        "!other:hs.test",
        &state(
            "$strange",
            ALICE,
            NAME,
            "",
            json!({ "name": "Other" }),
            None,
        ),
    );
    story
}

fn state_at(folder: &TempDir, at: &str) -> Value {
    let arguments = ["state", ROOM, ".", "--at", at, "--json"];
    let mut found = lines(folder.path(), &arguments);
    assert_eq!(found.len(), 1, "one object");
    found.remove(0)
}

/// The entry of a key, null if there is none.
fn entry(state: &Value, kind: &str, state_key: &str) -> Value {
    let entries = state["state"].as_array().unwrap();
    let found = entries
        .iter()
        .find(|entry| entry["type"] == kind && entry["state_key"] == state_key);
    found.cloned().unwrap_or(Value::Null)
}

fn name_at(folder: &TempDir, at: impl ToString) -> Value {
    entry(&state_at(folder, &at.to_string()), NAME, "")["event_id"].clone()
}

#[test]
fn the_state_at_the_end_is_what_resolution_left() {
    let folder = resolved_room();
    let now = state_at(&folder, "end");
    assert_eq!(now["room_version"], "11");
    assert_eq!(now["creator"], ALICE);
    assert_eq!(now["join_rule"], "public");
    assert_eq!(now["history_visibility"], Value::Null, "never set");
    assert_eq!(now["name"], "First");
    assert_eq!(now["power_levels"]["users"][ALICE], 100);
    assert_eq!(now["extremities"], json!(["$left", "$merge"]));
    assert_eq!(
        now["members"]["join"],
        json!({ "count": 1, "first": [ALICE] })
    );
    assert_eq!(now["members"]["ban"], json!({ "count": 1, "first": [BOB] }));
    assert_eq!(now["at"]["output_offset"], RESOLVED);
    assert_eq!(now["misfits"], 0);
    let ban = entry(&now, "m.room.member", BOB);
    assert_eq!(ban["event_id"], "$ban");
    assert_eq!(ban["cause"], "resolution");
    assert_eq!(ban["since"], RESOLVED);
    assert_eq!(
        ban["content"]["membership"], "ban",
        "from the outlier's record"
    );
    assert_eq!(entry(&now, NAME, "")["content"]["name"], "First");
}

#[test]
fn any_moment_can_be_named() {
    let folder = resolved_room();
    assert_eq!(name_at(&folder, FIRST_NAME - 1), Value::Null);
    assert_eq!(name_at(&folder, FIRST_NAME), "$first");
    assert_eq!(name_at(&folder, SECOND_NAME), "$second");
    assert_eq!(
        name_at(&folder, PART),
        "$second",
        "a part counts at the decision's last record"
    );
    assert_eq!(name_at(&folder, RESOLVED), "$first");
    // The same by the offset of input, where the second name is number 60.
    assert_eq!(name_at(&folder, "in:59"), "$first");
    assert_eq!(name_at(&folder, "in:60"), "$second");
    assert_eq!(name_at(&folder, "in:89"), "$second");
    assert_eq!(name_at(&folder, "in:90"), "$first");
    // And by time, a second each.
    assert_eq!(FIRST_TIME_US, 1_795_428_000_000_000);
    assert_eq!(name_at(&folder, "2026-11-23T10:00:05.999999Z"), "$first");
    assert_eq!(name_at(&folder, "2026-11-23T10:00:06Z"), "$second");
    let join = &entry(&state_at(&folder, "6"), "m.room.member", BOB)["membership"];
    assert_eq!(*join, "join");

    let code = |arguments: &[&str]| run(folder.path(), arguments).status.code();
    assert_eq!(code(&["state", "!nowhere:hs.test", "."]), Some(4));
    assert_eq!(code(&["state", ROOM, ".", "--at", "99"]), Some(4));
    assert_eq!(code(&["state", ROOM, ".", "--at", "soon"]), Some(64));
    assert_eq!(code(&["state", ROOM, "."]), Some(0));
}

#[test]
fn one_type_can_be_asked_for() {
    let folder = resolved_room();
    let arguments = ["state", ROOM, ".", "--type", "m.room.member", "--json"];
    let found = &lines(folder.path(), &arguments)[0];
    assert_eq!(found["state"].as_array().unwrap().len(), 2);
}

#[test]
fn people_read_a_summary_and_a_table() {
    let folder = resolved_room();
    let output = run(folder.path(), &["state", ROOM, "."]);
    let text = String::from_utf8(output.stdout).unwrap();
    for line in [
        "!room:hs.test  version 11  created by @alice:hs.test",
        "members join   1  @alice:hs.test",
        "members ban    1  @bob:other.test",
        "power          @alice:hs.test 100",
        "power needed   invite 0  redact 50",
        "join rule      public",
        "visibility     shared (not set)",
        "m.room.member @bob:other.test ban by resolution  since offset 9",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn what_was_redacted_or_erased_is_not_shown_at_any_moment() {
    let folder = tempfile::tempdir().unwrap();
    let mut story = told(&folder);
    let redaction = |id, sender, target| Decided {
        kind: "m.room.redaction",
        content: json!({}),
        redacts: Some(target),
        ..message(id, sender)
    };
    // Bob is of another server and has no power: this one has no effect.
    story.decide(ROOM, &redaction("$powerless", BOB, "$rules"));
    story.decide(ROOM, &redaction("$redaction", ALICE, "$first"));
    let topic = state(
        "$topic",
        ALICE,
        "m.room.topic",
        "",
        json!({ "topic": "t" }),
        None,
    );
    let erased = Decided {
        erased: true,
        ..topic
    };
    story.decide(ROOM, &erased);
    story.end();
    for at in ["4", "end"] {
        let state = state_at(&folder, at);
        let name = entry(&state, NAME, "");
        assert_eq!(name["event_id"], "$first");
        assert_eq!(name["body"], "redacted", "at {at}");
        assert_eq!(name["redacted_by"], "$redaction");
        assert_eq!(name["content"], json!({}));
        assert_eq!(state["name"], Value::Null);
        assert_eq!(state["join_rule"], "public");
    }
    let topic = entry(&state_at(&folder, "end"), "m.room.topic", "");
    assert_eq!(topic["body"], "erased");
    assert_eq!(topic["content"], json!({}));
    let text = run(folder.path(), &["state", ROOM, "."]).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains("redacted by $redaction") && !text.contains("First"),
        "{text}"
    );
}

#[test]
fn a_difference_names_what_changed_and_why() {
    let folder = resolved_room();
    let found = lines(folder.path(), &["diff", ROOM, "6", "end", ".", "--json"]);
    let changes = found[0]["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 2);
    let member = &changes[0];
    assert_eq!(member["type"], "m.room.member");
    assert_eq!(member["from"], "$bob");
    assert_eq!(member["to"], "$ban");
    assert_eq!(member["membership"], json!({ "from": "join", "to": "ban" }));
    assert_eq!(member["cause"], "resolution");
    assert_eq!(member["by_event"], "$merge");
    assert_eq!(member["by"], ALICE);
    assert_eq!(member["output_offset"], RESOLVED);

    // The name went away and came back in between.
    let found = lines(folder.path(), &["diff", ROOM, "4", "end", ".", "--json"]);
    let types: Vec<&Value> = found[0]["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| &change["type"])
        .collect();
    assert_eq!(types, ["m.room.member"]);

    let text = run(folder.path(), &["diff", ROOM, "3", "6", "."]).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("+ m.room.name"), "{text}");
    assert!(text.contains("nothing -> $second"), "{text}");
    assert!(text.contains("the last of 2 changes"), "{text}");
    assert!(
        text.contains("+ m.room.member @bob:other.test  - -> join"),
        "{text}"
    );
    let same = lines(folder.path(), &["diff", ROOM, "6", "6", ".", "--json"]);
    assert_eq!(same[0]["changes"], json!([]));
    let backwards = run(folder.path(), &["diff", ROOM, "6", "4", "."]);
    assert_eq!(backwards.status.code(), Some(64));
}

#[test]
fn a_log_whose_changes_do_not_fit_is_said_to_be_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let mut story = told(&folder);
    let content = json!({ "name": "Third" });
    let wrong = state("$third", ALICE, NAME, "", content, Some("$never"));
    story.decide(ROOM, &wrong);
    story.end();
    let output = run(folder.path(), &["state", ROOM, ".", "--json"]);
    assert_eq!(output.status.code(), Some(2));
    let state: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(state["misfits"], 1);
}

#[test]
fn a_room_is_read_in_its_own_partition() {
    let folder = tempfile::tempdir().unwrap();
    let rooms = [
        "!one:hs.test",
        "!two:hs.test",
        "!three:hs.test",
        "!four:hs.test",
    ];
    let home = |room: &str| partition_of(room, 2);
    for number in 0..2 {
        let mut story = Story::begin_in(&folder.path().join("data/log"), number, 2);
        for room in rooms.iter().filter(|room| home(room) == number) {
            let content = json!({ "name": room });
            story.decide(room, &state("$name", ALICE, NAME, "", content, None));
        }
        story.end();
    }
    assert!(rooms.iter().any(|room| home(room) == 0));
    assert!(rooms.iter().any(|room| home(room) == 1));
    for room in rooms {
        // Without a path it is the data folder below this one.
        let found = &lines(folder.path(), &["state", room, "--json"])[0];
        assert_eq!(found["name"], room);
        assert_eq!(found["at"]["partition"], home(room));
    }
}

/// Fifty thousand members are told in memory that a state of that size takes.
#[test]
fn a_large_room_needs_little_memory() {
    const MEMBERS: u64 = 50_000;
    let folder = tempfile::tempdir().unwrap();
    let mut story = Story::begin(folder.path());
    for number in 0..MEMBERS {
        let user: &'static str = format!("@user{number}:hs.test").leak();
        let id: &'static str = format!("$member{number}").leak();
        story.decide(ROOM, &member(id, user, user, None, Membership::Join));
    }
    story.end();
    let command = "ulimit -v 131072; exec \"$0\" state '!room:hs.test' . --json";
    let output = std::process::Command::new("sh")
        .args(["-c", command, env!("CARGO_BIN_EXE_engram-log")])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let state: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(state["state"].as_array().unwrap().len() as u64, MEMBERS);
    assert_eq!(state["members"]["join"]["count"], MEMBERS);
    let text = run(folder.path(), &["state", ROOM, "."]).stdout;
    assert!(
        text.split(|byte| *byte == b'\n').count() < 30,
        "a crowd is counted"
    );
}
