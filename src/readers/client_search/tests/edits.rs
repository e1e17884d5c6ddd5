//! Messages that were replaced: found by their newest text that one may see.

use log_format::record::output::Visibility;
use ruma::event_id;
use serde_json::json;

use super::world::{SearchWorld, only};
use crate::readers::client_search::Search;
use crate::readers::client_sync::tests::world::user;

#[test]
fn a_replaced_message_is_found_by_its_newest_text() {
    let mut world = SearchWorld::new(1);
    let alice = user("alice");
    let room = world.create("a", &alice, Visibility::Shared);
    let message = world.say(&room, &alice, "apple");
    let pear = world.edit(&room, &alice, &message, "pear");
    let plum = world.edit(&room, &alice, &message, "plum");
    world.follow();
    let finds = |world: &SearchWorld, term| world.find(&alice, term);
    assert_eq!(finds(&world, "plum"), only(&message));
    assert!(finds(&world, "pear").is_empty());
    assert!(finds(&world, "apple").is_empty());
    assert_eq!(world.found(&Search::plain(&alice, "apple")).count, 0);
    // Redacting an edit takes back that edit.
    world.redact(&room, &alice, &plum);
    assert_eq!(finds(&world, "pear"), only(&message));
    assert!(finds(&world, "plum").is_empty());
    world.follow();
    assert_eq!(finds(&world, "pear"), only(&message));
    world.redact(&room, &alice, &pear);
    world.follow();
    assert_eq!(finds(&world, "apple"), only(&message));
    // Redacting the message takes all of it.
    world.edit(&room, &alice, &message, "grape");
    world.follow();
    assert_eq!(finds(&world, "grape"), only(&message));
    world.redact(&room, &alice, &message);
    assert!(finds(&world, "grape").is_empty());
    world.edit(&room, &alice, &message, "melon");
    world.follow();
    assert!(finds(&world, "grape").is_empty() && finds(&world, "melon").is_empty());
}

#[test]
fn an_edit_without_text_takes_the_text_away() {
    let mut world = SearchWorld::new(1);
    let alice = user("alice");
    let room = world.create("a", &alice, Visibility::Shared);
    let message = world.say(&room, &alice, "apple");
    world.edit(&room, &alice, &message, "");
    world.follow();
    assert!(world.find(&alice, "apple").is_empty());
}

#[test]
fn what_may_not_replace_stands_for_itself() {
    let mut world = SearchWorld::new(1);
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.create("a", &alice, Visibility::Shared);
    world.member(&room, &bob, &bob, "join");
    let message = world.say(&room, &alice, "apple");
    let others = world.edit(&room, &bob, &message, "pear");
    let unknown = world.edit(&room, &alice, event_id!("$nothing"), "plum");
    let of_edit = world.edit(&room, &bob, &others, "grape");
    let shapeless = json!({
        "body": "melon",
        "m.relates_to": { "rel_type": "m.replace", "event_id": message },
    });
    let shapeless = world.message(&room, &alice, shapeless);
    world.follow();
    for (term, expected) in [
        ("apple", message),
        ("pear", others),
        ("plum", unknown),
        ("grape", of_edit),
        ("melon", shapeless),
    ] {
        assert_eq!(world.find(&alice, term), [expected], "{term}");
    }
}

#[test]
fn newest_is_what_the_searcher_may_see_of_it() {
    let mut world = SearchWorld::new(1);
    let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
    let room = world.create("a", &alice, Visibility::Joined);
    world.member(&room, &bob, &bob, "join");
    let message = world.say(&room, &alice, "apple");
    world.member(&room, &bob, &bob, "leave");
    world.member(&room, &carol, &carol, "join");
    let edit = world.edit(&room, &alice, &message, "pear");
    world.follow();
    assert_eq!(world.find(&bob, "apple"), only(&message));
    assert!(world.find(&bob, "pear").is_empty());
    assert_eq!(world.find(&alice, "pear"), [message]);
    // Of the message carol sees nothing but its edit.
    assert_eq!(world.find(&carol, "pear"), [edit]);
    assert!(world.find(&carol, "apple").is_empty());
}
