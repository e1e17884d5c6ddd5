//! What is found by which words, in which order, and how it is paged.

use log_format::record::output::Visibility;
use serde_json::json;

use super::world::{SearchWorld, ids};
use crate::matrix::filter::RoomEventFilter;
use crate::readers::client_search::{Group, Order, Search, SearchKey};
use crate::readers::client_sync::tests::world::user;

#[test]
fn messages_names_and_topics_are_found_by_their_keys() {
    let mut world = SearchWorld::new(1);
    let alice = user("alice");
    let room = world.create("a", &alice, Visibility::Shared);
    let said = world.say(&room, &alice, "Take me to your LEADER, 東京都の人");
    let name = world.state(&room, &alice, "m.room.name", "", json!({"name": "Leaders"}));
    let topic = json!({"topic": "Our leader speaks"});
    let topic = world.state(&room, &alice, "m.room.topic", "", topic);
    world.say(&room, &alice, "nothing of the sort");
    let member = json!({"membership": "join", "displayname": "leader"});
    world.state(&room, &alice, "m.room.member", alice.as_str(), member);
    world.follow();
    for (term, expected) in [
        ("leader", vec![&topic, &said]),
        ("leaders", vec![&name]),
        ("to leader", vec![&said]),
        ("\"your leader\"", vec![&said]),
        ("\"leader your\"", vec![]),
        ("京都", vec![&said]),
        ("都京", vec![]),
        ("?!", vec![]),
    ] {
        let mut found = world.find(&alice, term);
        found.sort();
        let mut expected: Vec<_> = expected.into_iter().cloned().collect();
        expected.sort();
        assert_eq!(found, expected, "{term}");
    }
    for (key, expected) in [
        (SearchKey::Body, vec![said]),
        (SearchKey::Name, vec![]),
        (SearchKey::Topic, vec![topic]),
    ] {
        let search = Search {
            keys: vec![key],
            ..Search::plain(&alice, "leader")
        };
        assert_eq!(ids(&world.found(&search)), expected, "{key:?}");
    }
}

#[test]
fn filters_narrow_what_is_found() {
    let mut world = SearchWorld::new(3);
    let (alice, bob) = (user("alice"), user("bob"));
    let here = world.create("here", &alice, Visibility::Shared);
    let there = world.create("there", &alice, Visibility::Shared);
    world.member(&here, &bob, &bob, "join");
    let mine = world.say(&here, &alice, "apple");
    let yours = world.say(&here, &bob, "apple");
    let far = world.say(&there, &alice, "apple");
    let file = json!({"msgtype": "m.file", "body": "apple", "url": "mxc://hs/a"});
    let file = world.message(&there, &alice, file);
    let name = world.state(&there, &alice, "m.room.name", "", json!({"name": "apple"}));
    world.follow();
    let all = [&mine, &yours, &far, &file, &name];
    for (filter, expected) in [
        (json!({}), all.to_vec()),
        (json!({"rooms": [here]}), vec![&mine, &yours]),
        (json!({"rooms": ["!elsewhere:here"]}), vec![]),
        (json!({"not_rooms": [here]}), vec![&far, &file, &name]),
        (json!({"senders": [bob]}), vec![&yours]),
        (json!({"not_senders": [alice]}), vec![&yours]),
        (json!({"types": ["m.room.name"]}), vec![&name]),
        (
            json!({"types": ["m.room.m*"]}),
            vec![&mine, &yours, &far, &file],
        ),
        (json!({"types": ["m.room.member"]}), vec![]),
        (json!({"not_types": ["m.room.message"]}), vec![&name]),
        (json!({"contains_url": true}), vec![&file]),
        (
            json!({"contains_url": false, "rooms": [there]}),
            vec![&far, &name],
        ),
    ] {
        let text = filter.to_string();
        let search = Search {
            filter: RoomEventFilter::parse(text.as_bytes()).unwrap(),
            ..Search::plain(&alice, "apple")
        };
        let found = world.found(&search);
        let mut there = ids(&found);
        there.sort();
        let mut expected: Vec<_> = expected.into_iter().cloned().collect();
        expected.sort();
        assert_eq!(there, expected, "{text}");
        assert_eq!(found.count, expected.len(), "{text}");
    }
}

#[test]
fn results_come_by_rank_or_by_time() {
    let mut world = SearchWorld::new(1);
    let alice = user("alice");
    let room = world.create("a", &alice, Visibility::Shared);
    let best = world.say(&room, &alice, "cake cake cake");
    let long = format!("cake{}", " and more".repeat(50));
    let worst = world.say(&room, &alice, &long);
    let middle = world.say(&room, &alice, "more cake");
    world.follow();
    let ranked = world.found(&Search::plain(&alice, "cake"));
    assert_eq!(ids(&ranked), [best.clone(), middle.clone(), worst.clone()]);
    let ranks: Vec<f32> = ranked.hits.iter().map(|hit| hit.rank).collect();
    assert!(ranks.is_sorted_by(|a, b| a > b), "{ranks:?}");
    let recent = Search {
        order: Order::Recent,
        ..Search::plain(&alice, "cake")
    };
    assert_eq!(ids(&world.found(&recent)), [middle, worst, best]);
}

#[test]
fn ranks_do_not_tell_of_what_the_searcher_cannot_see() {
    let mut world = SearchWorld::new(1);
    let (alice, bob) = (user("alice"), user("bob"));
    let mine = world.create("mine", &alice, Visibility::Shared);
    world.say(&mine, &alice, "the secret word");
    world.follow();
    let rank = |world: &SearchWorld| world.found(&Search::plain(&alice, "secret")).hits[0].rank;
    let alone = rank(&world);
    let other = world.create("other", &bob, Visibility::Shared);
    for _ in 0..20 {
        world.say(&other, &bob, "secret");
    }
    world.follow();
    assert_eq!(rank(&world), alone);
}

#[test]
fn pages_go_through_everything_once() {
    let mut world = SearchWorld::new(2);
    let (alice, bob) = (user("alice"), user("bob"));
    let rooms: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .map(|name| world.create(name, &alice, Visibility::Shared))
        .collect();
    world.member(&rooms[0], &bob, &bob, "join");
    let mut said = Vec::new();
    for index in 0..40 {
        let sender = if index % 5 == 0 { &bob } else { &alice };
        let room = if index % 5 == 0 {
            &rooms[0]
        } else {
            &rooms[index % 3]
        };
        let text = format!("word{}", " x".repeat(index % 7));
        said.push((world.say(room, sender, &text), room.clone(), sender.clone()));
    }
    world.follow();
    for order in [Order::Rank, Order::Recent] {
        let search = Search {
            order,
            limit: 7,
            ..Search::plain(&alice, "word")
        };
        let pages = world.pages(&search);
        assert_eq!(pages.len(), 6);
        assert!(pages.iter().all(|page| page.count == 40));
        let mut all: Vec<_> = pages.iter().flat_map(ids).collect();
        if order == Order::Recent {
            let newest_first: Vec<_> = said.iter().rev().map(|(id, ..)| id.clone()).collect();
            assert_eq!(all, newest_first);
        }
        all.sort();
        let mut expected: Vec<_> = said.iter().map(|(id, ..)| id.clone()).collect();
        expected.sort();
        assert_eq!(all, expected);
        // The rest of one group, behind its last result on the first page.
        for group in [Group::Room(rooms[0].clone()), Group::Sender(bob.clone())] {
            let is_in = |room: &ruma::RoomId, sender: &ruma::UserId| match &group {
                Group::Room(wanted) => wanted == room,
                Group::Sender(wanted) => wanted == sender,
            };
            let first: Vec<_> = pages[0].hits.iter().collect();
            let of_group = first
                .iter()
                .filter(|hit| is_in(&hit.room_id, &hit.event.sender));
            let of_group: Vec<_> = of_group.collect();
            let Some(last) = of_group.last() else {
                continue;
            };
            let rest = Search {
                next_batch: Some(search.group_token(group.clone(), last)),
                ..search.clone()
            };
            let rest: Vec<_> = world.pages(&rest).iter().flat_map(ids).collect();
            let total = said.iter().filter(|(_, room, sender)| is_in(room, sender));
            assert_eq!(of_group.len() + rest.len(), total.count(), "{group:?}");
        }
    }
}

#[test]
fn a_page_may_be_longer_than_the_first_walk() {
    let mut world = SearchWorld::new(1);
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.create("a", &alice, Visibility::Joined);
    for _ in 0..300 {
        world.say(&room, &alice, "word");
    }
    let seen = world.member(&room, &bob, &bob, "join");
    world.follow();
    // All that bob may not see stands before what he may, and is not counted.
    assert!(world.find(&bob, "word").is_empty());
    assert_eq!(world.found(&Search::plain(&bob, "word")).count, 0);
    let last = world.say(&room, &alice, "one word more");
    world.follow();
    assert_eq!(world.find(&bob, "word"), [last]);
    assert_eq!(world.found(&Search::plain(&alice, "word")).hits.len(), 10);
    drop(seen);
}
