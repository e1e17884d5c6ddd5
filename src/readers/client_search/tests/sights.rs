//! Who finds what: every result is one that the searcher may see.

use log_format::record::output::Visibility;
use serde_json::json;

use super::world::{SearchWorld, only};
use crate::readers::client_search::Search;
use crate::readers::client_sync::tests::fake_rooms::{Fate, How};
use crate::readers::client_sync::tests::world::user;

#[test]
fn who_left_finds_what_they_saw_and_strangers_nothing() {
    let mut world = SearchWorld::new(1);
    let (alice, bob, eve) = (user("alice"), user("bob"), user("eve"));
    let room = world.create("a", &alice, Visibility::WorldReadable);
    world.member(&room, &bob, &bob, "join");
    let before = world.say(&room, &alice, "plan one");
    world.member(&room, &bob, &bob, "leave");
    let after = world.say(&room, &alice, "plan two");
    world.member(&room, &alice, &eve, "invite");
    world.follow();
    assert_eq!(world.find(&alice, "plan").len(), 2);
    // Not what happened after they left, though the world may read it.
    assert_eq!(world.find(&bob, "plan"), only(&before));
    assert!(world.find(&eve, "plan").is_empty(), "invited only");
    assert!(world.find(&user("stranger"), "plan").is_empty());
    world.member(&room, &bob, &bob, "join");
    world.follow();
    assert!(world.find(&bob, "plan").contains(&after));
    world.member(&room, &alice, &bob, "ban");
    let forgotten = (bob.clone(), room.clone());
    world.follow();
    assert_eq!(world.find(&bob, "plan").len(), 2);
    world.users.forgotten.write().push(forgotten);
    assert!(world.find(&bob, "plan").is_empty());
}

#[test]
fn history_that_is_closed_is_neither_found_nor_counted() {
    let mut world = SearchWorld::new(1);
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.create("a", &alice, Visibility::Joined);
    for _ in 0..150 {
        world.say(&room, &alice, "whisper");
    }
    world.member(&room, &bob, &bob, "join");
    let heard = world.say(&room, &alice, "whisper");
    world.follow();
    let found = world.found(&Search::plain(&bob, "whisper"));
    assert_eq!(super::world::ids(&found), [heard]);
    assert!(found.count <= 1, "{}", found.count);
    assert_eq!(found.next_batch, None);
}

#[test]
fn those_who_are_ignored_are_not_found() {
    let mut world = SearchWorld::new(1);
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.create("a", &alice, Visibility::Shared);
    world.member(&room, &bob, &bob, "join");
    world.say(&room, &bob, "noise");
    let name = world.state(&room, &bob, "m.room.name", "", json!({"name": "noise"}));
    world.set_data(
        &alice,
        None,
        "m.ignored_user_list",
        json!({"ignored_users": {"@bob:here": {}}}),
    );
    world.follow();
    let found = world.found(&Search::plain(&alice, "noise"));
    // State stays: rooms would not look right without it.
    assert_eq!(super::world::ids(&found), [name]);
    assert_eq!(found.count, 1);
    assert_eq!(world.find(&bob, "noise").len(), 2);
}

#[test]
fn encrypted_rooms_are_not_searched() {
    let mut world = SearchWorld::new(1);
    let alice = user("alice");
    let room = world.create("a", &alice, Visibility::Shared);
    world.say(&room, &alice, "plaintext");
    world.follow();
    assert_eq!(world.find(&alice, "plaintext").len(), 1);
    let algorithm = json!({"algorithm": "m.megolm.v1.aes-sha2"});
    world.state(&room, &alice, "m.room.encryption", "", algorithm);
    // At once, and from the index with the next commit.
    assert!(world.find(&alice, "plaintext").is_empty());
    world.say(&room, &alice, "plaintext again");
    world.follow();
    assert!(world.find(&alice, "plaintext").is_empty());
    world.restart(2);
    world.follow();
    assert_eq!(world.on_disk("plaintext"), 0);
}

#[test]
fn only_accepted_events_are_found() {
    let mut world = SearchWorld::new(1);
    let alice = user("alice");
    let room = world.create("a", &alice, Visibility::Shared);
    let content = json!({"body": "text"});
    let mut say = |fate| {
        let how = How {
            fate,
            ..How::default()
        };
        world.send(&room, &alice, "m.room.message", None, content.clone(), how)
    };
    say(Fate::SoftFailed);
    let old = say(Fate::History);
    world.follow();
    assert_eq!(world.find(&alice, "text"), only(&old));
    // What was found later is older than its record: who left sees it.
    world.member(&room, &alice, &alice, "leave");
    world.follow();
    assert_eq!(world.find(&alice, "text"), [old]);
}

#[test]
fn a_redaction_counts_before_the_index_follows() {
    let mut world = SearchWorld::new(1);
    let alice = user("alice");
    let room = world.create("a", &alice, Visibility::Shared);
    let regretted = world.say(&room, &alice, "hunter2hunter2");
    world.say(&room, &alice, "innocent");
    world.follow();
    assert_eq!(world.find(&alice, "hunter2hunter2"), only(&regretted));
    world.redact(&room, &alice, &regretted);
    let found = world.found(&Search::plain(&alice, "hunter2hunter2"));
    assert_eq!((found.hits.len(), found.count), (0, 0));
    assert_eq!(world.on_disk("hunter2hunter2"), 1);
    world.follow();
    let search = &world.search;
    search.finish_merges();
    assert_eq!(world.on_disk("hunter2hunter2"), 0, "gone from the files");
    world.restart(1);
    assert_eq!(world.find(&alice, "innocent").len(), 1);
}

#[test]
fn what_is_redacted_is_never_indexed_anew() {
    let mut world = SearchWorld::new(1);
    let alice = user("alice");
    let room = world.create("a", &alice, Visibility::Shared);
    let regretted = world.say(&room, &alice, "hunter2hunter2");
    world.redact(&room, &alice, &regretted);
    world.say(&room, &alice, "innocent");
    // Every record comes before its redaction was folded, and all the same.
    while world.search.behind() > 0 {
        world.step();
        world.search.commit_now().unwrap();
        assert_eq!(world.on_disk("hunter2hunter2"), 0);
    }
    assert_eq!(world.find(&alice, "innocent").len(), 1);
}
