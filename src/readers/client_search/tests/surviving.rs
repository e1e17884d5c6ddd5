//! Restarts, crashes, and indexes that do not fit or are damaged.

use std::fs;

use log_format::record::output::Visibility;

use super::world::SearchWorld;
use crate::readers::client_sync::tests::world::user;

fn with_messages(count: usize) -> SearchWorld {
    let mut world = SearchWorld::new(2);
    let alice = user("alice");
    let room = world.create("a", &alice, Visibility::Shared);
    for index in 0..count {
        world.say(&room, &alice, &format!("word number{index}"));
    }
    world
}

fn count(world: &SearchWorld) -> usize {
    let search = crate::readers::client_search::Search {
        limit: 500,
        ..crate::readers::client_search::Search::plain(&user("alice"), "word")
    };
    world.found(&search).hits.len()
}

#[test]
fn a_crash_before_a_commit_repeats_what_was_lost_and_nothing_else() {
    let mut world = with_messages(20);
    world.follow();
    let room = ruma::room_id!("!a:here");
    for index in 0..20 {
        world.say(room, &user("alice"), &format!("word more{index}"));
    }
    // Folded, and not committed.
    world.step();
    world.restart(1);
    assert!(world.search.behind() > 0);
    world.follow();
    assert_eq!(count(&world), 40);
    world.restart(1);
    assert_eq!((world.search.behind(), count(&world)), (0, 40));
}

#[test]
fn an_index_of_another_log_is_built_anew() {
    let mut world = with_messages(20);
    world.follow();
    world.restart(2);
    assert!(world.search.behind() > 0);
    assert_eq!(count(&world), 0);
    world.follow();
    assert_eq!(count(&world), 20);
}

#[test]
fn a_folder_that_was_deleted_comes_back() {
    let mut world = with_messages(20);
    world.follow();
    fs::remove_dir_all(world.folder()).unwrap();
    world.restart(1);
    world.follow();
    assert_eq!(count(&world), 20);
}

#[test]
fn damaged_files_are_found_and_built_anew() {
    for kind in ["idx", "fast", "term", "pos", "json"] {
        let mut world = with_messages(20);
        world.follow();
        let mut harmed = 0;
        for entry in fs::read_dir(world.folder()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == kind) {
                let mut bytes = fs::read(&path).unwrap();
                let middle = bytes.len() / 3;
                bytes[middle] ^= 0x55;
                fs::write(&path, bytes).unwrap();
                harmed += 1;
            }
        }
        assert!(
            harmed > 0,
            "no {kind} in {:?}",
            fs::read_dir(world.folder())
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect::<Vec<_>>()
        );
        world.restart(1);
        // The first step looks at every file.
        while world.search.step(std::time::Instant::now()).is_err() {}
        world.follow();
        assert_eq!(count(&world), 20, "{kind}");
    }
}
