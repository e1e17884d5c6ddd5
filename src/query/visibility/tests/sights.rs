//! Single cases: stays, redactions, and what a look costs.

use log_format::record::output::{Membership, Visibility};
use ruma::{OwnedUserId, UserId, server_name, user_id};
use serde_json::{Value, json};

use super::graph::{Graph, New, id, the_room};
use crate::matrix::RoomVersion;
use crate::query::ids::EventSn;
use crate::query::visibility::{Stay, Viewer, Viewpoint};

fn ann() -> &'static UserId {
    user_id!("@ann:hs")
}

fn ben() -> &'static UserId {
    user_id!("@ben:hs")
}

fn far() -> &'static UserId {
    user_id!("@far:there")
}

/// A room of Ann's with this visibility.
fn room(visibility: Visibility) -> Graph {
    let mut graph = Graph::new();
    graph.create(ann());
    graph.member(&[], ann(), Membership::Join);
    graph.shows(&[], ann(), visibility);
    graph
}

fn sees(graph: &Graph, viewer: Viewer<'_>, index: usize) -> bool {
    let view = Viewpoint::new(graph, the_room(), viewer);
    view.may_see(&graph.events[index]).unwrap()
}

#[test]
fn each_stay_is_seen_by_the_rules() {
    // Visibility, and whether one sees: before the invite, while invited, in the
    // room, after leaving, in the room again.
    for (visibility, expected) in [
        (Visibility::WorldReadable, [true, true, true, true, true]),
        (Visibility::Shared, [true, true, true, true, true]),
        (Visibility::Invited, [false, true, true, false, true]),
        (Visibility::Joined, [false, false, true, false, true]),
    ] {
        let mut graph = room(visibility);
        let mut said = vec![graph.say(&[], ann())];
        for membership in [
            Membership::Invite,
            Membership::Join,
            Membership::Leave,
            Membership::Join,
        ] {
            graph.member(&[], ben(), membership);
            said.push(graph.say(&[], ann()));
        }
        graph.finish();
        let seen: Vec<bool> = said
            .iter()
            .map(|said| sees(&graph, Viewer::User(ben()), *said))
            .collect();
        assert_eq!(seen, expected, "{visibility:?}");
        let server = Viewer::Server(server_name!("hs"));
        assert!(said.iter().all(|said| sees(&graph, server, *said)));
        let outside = Viewer::Server(server_name!("there"));
        let is_open = visibility == Visibility::WorldReadable;
        assert!(
            said.iter()
                .all(|said| sees(&graph, outside, *said) == is_open)
        );
        // Whoever left sees what was shared before, and nothing after.
        graph.member(&[], ben(), Membership::Ban);
        let after = graph.say(&[], ann());
        graph.finish();
        assert_eq!(sees(&graph, Viewer::User(ben()), said[0]), expected[0]);
        assert_eq!(sees(&graph, Viewer::User(ben()), after), is_open);
    }
}

#[test]
fn a_knock_shows_nothing_and_an_unset_visibility_is_shared() {
    let mut graph = Graph::new();
    graph.create(ann());
    graph.member(&[], ann(), Membership::Join);
    let said = graph.say(&[], ann());
    graph.member(&[], ben(), Membership::Knock);
    graph.finish();
    assert!(!sees(&graph, Viewer::User(ben()), said));
    graph.member(&[], ben(), Membership::Join);
    graph.finish();
    assert!(sees(&graph, Viewer::User(ben()), said));
}

#[test]
fn the_state_at_an_event_decides_on_its_branch() {
    let mut graph = room(Visibility::Joined);
    let fork = graph.say(&[], ann());
    let join = graph.member(&[fork], ben(), Membership::Join);
    let with_ben = graph.say(&[join], ann());
    // The same time on another branch, which knows no Ben.
    let without = graph.say(&[fork], ann());
    graph.say(&[with_ben, without], ann());
    graph.finish();
    assert!(sees(&graph, Viewer::User(ben()), with_ben));
    assert!(!sees(&graph, Viewer::User(ben()), without));
}

#[test]
fn a_change_between_shared_and_invited_is_seen_by_who_is_invited() {
    // Neither visibility contains the other: before, nothing would show.
    let mut graph = room(Visibility::Shared);
    graph.member(&[], ben(), Membership::Invite);
    let said = graph.say(&[], ann());
    let change = graph.shows(&[], ann(), Visibility::Invited);
    graph.finish();
    assert!(!sees(&graph, Viewer::User(ben()), said));
    assert!(sees(&graph, Viewer::User(ben()), change));
}

#[test]
fn stays_end_where_the_last_join_was_replaced() {
    let mut graph = room(Visibility::Shared);
    let view = |graph: &Graph| {
        Viewpoint::new(graph, the_room(), Viewer::User(ben()))
            .stay()
            .unwrap()
    };
    graph.finish();
    assert_eq!(view(&graph), Stay::Never);
    graph.member(&[], ben(), Membership::Invite);
    graph.finish();
    assert_eq!(view(&graph), Stay::Never);
    let join = graph.member(&[], ben(), Membership::Join);
    graph.finish();
    assert_eq!(view(&graph), Stay::Joined);
    let leave = graph.member(&[], ben(), Membership::Leave);
    graph.member(&[], ben(), Membership::Ban);
    graph.finish();
    let (join, leave) = (&graph.events[join], &graph.events[leave]);
    let expected = Stay::Left {
        joined: join.place,
        left: leave.place,
        state: leave.state_after,
    };
    assert_eq!(view(&graph), expected);
}

fn redaction(graph: &mut Graph, sender: &UserId, target: &str) -> usize {
    let new = New {
        sender,
        kind: "m.room.redaction",
        state_key: None,
        content: json!({ "redacts": target }),
    };
    graph.add(&[], new)
}

#[test]
fn redactions_are_withheld_until_they_take_effect() {
    for version in [RoomVersion::V1, RoomVersion::V3, RoomVersion::V11] {
        let mut graph = room(Visibility::Shared);
        graph.version = Some(version);
        graph.member(&[], ben(), Membership::Join);
        graph.member(&[], far(), Membership::Join);
        let said = graph.say(&[], ann());
        let powerless = redaction(&mut graph, far(), id(said).as_str());
        let unknown = redaction(&mut graph, ann(), "$unknown");
        let nothing = redaction(&mut graph, ann(), "no id");
        let applied = redaction(&mut graph, ann(), id(said).as_str());
        let second = redaction(&mut graph, ben(), id(said).as_str());
        graph.change(said, |event| {
            event.redacted_by = Some(EventSn(applied as u64))
        });
        graph.finish();
        let clients_see = |index| sees(&graph, Viewer::User(ben()), index);
        // In versions 1 and 2 the auth rules judge redactions.
        let by_auth = version == RoomVersion::V1;
        for withheld in [powerless, unknown, nothing] {
            assert_eq!(clients_see(withheld), by_auth, "{version}");
            // How the room was there is no secret, and servers are given all.
            let view = Viewpoint::new(&graph, the_room(), Viewer::User(ben()));
            assert!(view.may_read_at(&graph.events[withheld]).unwrap());
            assert!(sees(&graph, Viewer::Server(server_name!("hs")), withheld));
        }
        assert!(clients_see(applied) && clients_see(second), "{version}");
    }
}

#[test]
fn a_page_looks_each_state_up_once() {
    let mut graph = room(Visibility::Joined);
    graph.member(&[], ben(), Membership::Join);
    let first = graph.say(&[], ann());
    for index in 0..99 {
        match index % 20 {
            0 => graph.state(
                &[],
                ann(),
                "m.room.topic",
                "",
                Value::Object(serde_json::Map::new()),
            ),
            _ => graph.say(&[], ann()),
        };
    }
    graph.finish();
    let page = &graph.events[first..];
    assert_eq!(page.len(), 100);
    for viewer in [Viewer::User(ben()), Viewer::Server(server_name!("hs"))] {
        let (_, entries, states) = graph.asked.counts();
        let view = Viewpoint::new(&graph, the_room(), viewer);
        assert!(page.iter().all(|event| view.may_see(event).unwrap()));
        let (_, more_entries, more_states) = graph.asked.counts();
        // Six states: that of Ben's join, and one for each topic.
        let users = if viewer == Viewer::User(ben()) { 1 } else { 2 };
        assert_eq!(more_entries - entries, 6 * users, "{viewer:?}");
        assert_eq!(more_states, states);
    }
    // The one member event that decides is read once.
    let (events, ..) = graph.asked.counts();
    assert_eq!(events, 1);
}

#[test]
fn large_rooms_are_judged_without_their_state() {
    for visibility in [Visibility::Shared, Visibility::WorldReadable] {
        let mut graph = room(visibility);
        let said = graph.say(&[], ann());
        graph.member(&[], far(), Membership::Join);
        graph.finish();
        let mut head = (*graph.head_of()).clone();
        let mut authority = (*head.authority).clone();
        for index in 0..50_000 {
            let user = OwnedUserId::try_from(format!("@u{index}:other")).unwrap();
            let member = authority.members[ann()];
            authority.members.insert(user, member);
        }
        head.authority = authority.into();
        graph.set_head(head);
        let view = Viewpoint::new(&graph, the_room(), Viewer::Server(server_name!("there")));
        for event in &graph.events[said..] {
            assert!(view.may_see(event).unwrap());
        }
        assert_eq!(graph.asked.counts(), (0, 0, 0));
    }
}

#[test]
fn a_server_with_many_users_reads_an_old_state_once() {
    let mut graph = room(Visibility::Joined);
    let said = graph.say(&[], ann());
    for index in 0..600 {
        let user = OwnedUserId::try_from(format!("@u{index}:there")).unwrap();
        graph.member(&[], &user, Membership::Join);
        graph.member(&[], &user, Membership::Leave);
    }
    graph.finish();
    let view = Viewpoint::new(&graph, the_room(), Viewer::Server(server_name!("there")));
    assert!(!view.may_see(&graph.events[said]).unwrap());
    let (_, entries, states) = graph.asked.counts();
    assert_eq!((entries, states), (0, 1));
}
