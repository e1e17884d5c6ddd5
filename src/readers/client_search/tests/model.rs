//! Random histories against a slow search that looks at every event anew.

use log_format::record::output::{Membership, Visibility};
use proptest::prelude::*;
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, UserId};
use serde_json::Value;

use super::world::{SearchWorld, ids};
use crate::query::rooms::{Rooms, StoredEvent};
use crate::query::visibility::{Stay, Viewer, Viewpoint};
use crate::readers::client_search::terms::Terms;
use crate::readers::client_search::texts::{may_replace, replacement};
use crate::readers::client_search::{Order, Search};
use crate::readers::client_sync::tests::world::user;

const USERS: [&str; 3] = ["alice", "bob", "carol"];
const WORDS: [&str; 4] = ["red", "green", "東京", "réd"];
const TERMS: [&str; 6] = ["red", "GREEN", "東", "red green", "\"red green\"", "京"];
const ROOMS: [(&str, Visibility); 3] = [
    ("a", Visibility::Shared),
    ("b", Visibility::Joined),
    ("c", Visibility::Invited),
];

#[derive(Clone, Debug)]
enum Step {
    Say(usize, usize, Vec<usize>),
    /// Which of the room's messages, or edits of one.
    Edit(usize, usize, usize, Vec<usize>),
    Redact(usize, usize),
    Member(usize, usize, bool),
    /// Fold some, without a commit.
    Fold,
    Commit,
    /// A crash; of which log the index is taken to be.
    Restart(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let words = || prop::collection::vec(0..WORDS.len(), 1..4);
    let (room, person, message) = (0..ROOMS.len(), 0..USERS.len(), 0..50usize);
    let step = prop_oneof![
        6 => (room.clone(), person.clone(), words()).prop_map(|(r, u, w)| Step::Say(r, u, w)),
        4 => (room.clone(), person.clone(), message.clone(), words())
            .prop_map(|(r, u, m, w)| Step::Edit(r, u, m, w)),
        2 => (room.clone(), message).prop_map(|(r, m)| Step::Redact(r, m)),
        3 => (room, person, any::<bool>()).prop_map(|(r, u, joins)| Step::Member(r, u, joins)),
        2 => Just(Step::Fold),
        1 => Just(Step::Commit),
        1 => any::<bool>().prop_map(Step::Restart),
    ];
    prop::collection::vec(step, 1..60)
}

fn content(event: &StoredEvent) -> Value {
    let pdu: Value = serde_json::from_slice(&event.json).unwrap();
    pdu["content"].clone()
}

/// What a user finds, by looking at every event of every room.
fn slow_search(world: &SearchWorld, viewer: &UserId, term: &str) -> Vec<OwnedEventId> {
    let terms = Terms::parse(term).unwrap();
    let mut found = Vec::new();
    let rooms: Vec<OwnedRoomId> = world.rooms.rooms.read().keys().cloned().collect();
    for room in rooms {
        let events = world.rooms.rooms.read()[&room].events.clone();
        let viewpoint = Viewpoint::new(&*world.rooms, &room, Viewer::User(viewer));
        let is_searched = |event: &StoredEvent| {
            let is_within = match viewpoint.stay().unwrap() {
                Stay::Joined => true,
                Stay::Left { left, .. } => event.place <= left,
                Stay::Never => false,
            };
            is_within && event.redacted_by.is_none() && viewpoint.may_see(event).unwrap()
        };
        for event in events
            .iter()
            .filter(|event| &*event.kind == "m.room.message")
        {
            if !is_searched(event) {
                continue;
            }
            let own = content(event);
            let target = replacement(&own).map(|(target, _)| target.to_owned());
            let original = target.and_then(|target| {
                let mut all = events.iter();
                all.find(|original| original.event_id == target && may_replace(event, original))
            });
            if original
                .is_some_and(|original| original.redacted_by.is_some() || is_searched(original))
            {
                // Told under the message, not here.
                continue;
            }
            let edits = events.iter().filter(|edit| {
                let own = content(edit);
                replacement(&own).is_some_and(|(target, _)| *target == event.event_id)
                    && may_replace(edit, event)
                    && is_searched(edit)
            });
            let newest = edits.max_by_key(|edit| (edit.origin_server_ts, &edit.event_id));
            let shown = content(newest.unwrap_or(event));
            let shown = replacement(&shown).map_or(&shown, |(_, new)| new);
            if terms.matches(shown["body"].as_str().unwrap_or_default()) {
                found.push(event.event_id.clone());
            }
        }
    }
    found.sort();
    found
}

fn is_joined(world: &SearchWorld, room: &RoomId, who: &UserId) -> bool {
    let head = world.rooms.head(room).unwrap().unwrap();
    head.authority.membership(who) == Some(Membership::Join)
}

fn nth_message(world: &SearchWorld, room: &RoomId, n: usize) -> Option<OwnedEventId> {
    let rooms = world.rooms.rooms.read();
    let events = rooms[room].events.iter();
    let messages = events.filter(|event| &*event.kind == "m.room.message");
    let messages: Vec<&EventId> = messages.map(|event| &*event.event_id).collect();
    let nth = messages.get(n % messages.len().max(1))?;
    Some((*nth).to_owned())
}

fn text(words: &[usize]) -> String {
    let words: Vec<&str> = words.iter().map(|word| WORDS[*word]).collect();
    words.join(" ")
}

fn take(world: &mut SearchWorld, rooms: &[OwnedRoomId], step: &Step, epoch: &mut u32) {
    match step {
        Step::Say(room, who, words) => {
            let who = user(USERS[*who]);
            if is_joined(world, &rooms[*room], &who) {
                world.say(&rooms[*room], &who, &text(words));
            }
        }
        Step::Edit(room, who, message, words) => {
            let who = user(USERS[*who]);
            let target = nth_message(world, &rooms[*room], *message);
            if let (Some(target), true) = (target, is_joined(world, &rooms[*room], &who)) {
                world.edit(&rooms[*room], &who, &target, &text(words));
            }
        }
        Step::Redact(room, message) => {
            if let Some(target) = nth_message(world, &rooms[*room], *message) {
                world.redact(&rooms[*room], &user("alice"), &target);
            }
        }
        Step::Member(room, who, joins) => {
            let who = user(USERS[*who]);
            let word = if *joins { "join" } else { "leave" };
            world.member(&rooms[*room], &who, &who, word);
        }
        Step::Fold => {
            world.step();
        }
        Step::Commit => world.search.commit_now().unwrap(),
        Step::Restart(other_log) => {
            *epoch += u32::from(*other_log);
            world.restart(*epoch);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn the_index_finds_what_a_look_at_everything_finds(steps in steps()) {
        let mut world = SearchWorld::new(2);
        let mut epoch = 1;
        let rooms = ROOMS.map(|(name, visibility)| world.create(name, &user("alice"), visibility));
        for step in &steps {
            take(&mut world, &rooms, step, &mut epoch);
        }
        world.follow();
        for name in USERS {
            for term in TERMS {
                let viewer = user(name);
                let expected = slow_search(&world, &viewer, term);
                for order in [Order::Rank, Order::Recent] {
                    let search = Search { order, limit: 3, ..Search::plain(&viewer, term) };
                    let pages = world.pages(&search);
                    let mut found: Vec<_> = pages.iter().flat_map(ids).collect();
                    found.sort();
                    prop_assert_eq!(&found, &expected, "{} {} {:?}", name, term, order);
                    prop_assert!(pages.iter().all(|page| page.count == expected.len()));
                }
            }
        }
    }
}
