//! Random rooms with forks: what each user and each server sees, against the
//! five rules written down as the specification has them, one user at a time.

use log_format::record::output::{Decision, Membership, Visibility};
use proptest::prelude::*;
use ruma::{ServerName, UserId, server_name, user_id};
use serde_json::json;

use super::graph::{Graph, MEMBER, VISIBILITY, the_room};
use crate::query::ids::StateId;
use crate::query::rooms::{StateKey, StoredEvent};
use crate::query::visibility::{Viewer, Viewpoint};

const MEMBERSHIPS: [Membership; 5] = [
    Membership::Join,
    Membership::Invite,
    Membership::Knock,
    Membership::Leave,
    Membership::Ban,
];
const VISIBILITIES: [Visibility; 4] = [
    Visibility::WorldReadable,
    Visibility::Shared,
    Visibility::Invited,
    Visibility::Joined,
];

fn users() -> [&'static UserId; 5] {
    [
        user_id!("@a:one"),
        user_id!("@b:one"),
        user_id!("@c:two"),
        user_id!("@d:two"),
        user_id!("@e:three"),
    ]
}

fn servers() -> [&'static ServerName; 4] {
    [
        server_name!("one"),
        server_name!("two"),
        server_name!("three"),
        server_name!("none"),
    ]
}

/// "1. If the `history_visibility` was set to `world_readable`, allow. […]"
fn rules(visibility: Visibility, membership: Option<Membership>, joined_after: bool) -> bool {
    if visibility == Visibility::WorldReadable {
        return true;
    }
    if membership == Some(Membership::Join) {
        return true;
    }
    if visibility == Visibility::Shared && joined_after {
        return true;
    }
    if membership == Some(Membership::Invite) && visibility == Visibility::Invited {
        return true;
    }
    false
}

/// "[…] and the user joined the room at any point after the event was sent":
/// they are joined, or the last stay that led to their membership came later, or
/// reached behind the event.
fn joined_after(graph: &Graph, user: &UserId, event: &StoredEvent) -> bool {
    let key = StateKey::new(MEMBER, user.as_str());
    let mut next = graph.current().get(&key).copied();
    let mut ended = None;
    while let Some(sn) = next {
        let member = &graph.events[sn.0 as usize];
        let after = &graph.states[member.state_after.0 as usize];
        let joins = graph.membership(after, user) == Some(Membership::Join);
        if joins && ended.is_none_or(|ended| ended > event.event) {
            return true;
        }
        let before = &graph.states[member.state_before.0 as usize];
        next = before.get(&key).copied();
        ended = Some(sn);
    }
    false
}

fn user_sees(graph: &Graph, user: &UserId, event: &StoredEvent) -> bool {
    let before = &graph.states[event.state_before.0 as usize];
    let after = &graph.states[event.state_after.0 as usize];
    let own = &*event.kind == MEMBER && event.state_key.as_deref() == Some(user.as_str());
    let visibilities = match &*event.kind == VISIBILITY {
        true => vec![graph.visibility(before), graph.visibility(after)],
        false => vec![graph.visibility(before)],
    };
    let memberships = match own {
        true => vec![
            graph.membership(before, user),
            graph.membership(after, user),
        ],
        false => vec![graph.membership(before, user)],
    };
    let later = joined_after(graph, user, event);
    visibilities.iter().any(|visibility| {
        let mut memberships = memberships.iter();
        memberships.any(|membership| rules(*visibility, *membership, later))
    })
}

fn server_sees(graph: &Graph, server: &ServerName, event: &StoredEvent) -> bool {
    let world_readable = user_sees(graph, user_id!("@nobody:nowhere"), event);
    // Users whom resolution left without an entry in current state do not count.
    let is_known = |user: &&UserId| {
        let key = StateKey::new(MEMBER, user.as_str());
        user.server_name() == server && graph.current().contains_key(&key)
    };
    let mut users = users().into_iter().filter(is_known);
    world_readable || users.any(|user| user_sees(graph, user, event))
}

/// One event: what it is, two parents, a choice, and what became of it.
type Step = (u8, u8, u8, u8, u8);

fn build(steps: &[Step]) -> Graph {
    let mut graph = Graph::new();
    let creator = users()[0];
    graph.create(creator);
    for (what, one, two, choice, fate) in steps {
        let count = graph.events.len();
        // Mostly on the newest event, sometimes on an old one, or on two.
        let parents = match one % 4 {
            0 => vec![*two as usize % count],
            1 => vec![*two as usize % count, count - 1],
            _ => vec![count - 1],
        };
        let user = users()[*choice as usize % users().len()];
        let index = match what % 6 {
            0..=2 => graph.member(&parents, user, MEMBERSHIPS[*two as usize % 5]),
            3 => graph.shows(&parents, user, VISIBILITIES[*choice as usize % 4]),
            4 => graph.state(&parents, user, "m.room.topic", "", json!({})),
            _ => graph.say(&parents, user),
        };
        match fate % 12 {
            0 => graph.change(index, |event| event.decision = Decision::SoftFailed),
            1 => graph.change(index, |event| event.decision = Decision::Rejected),
            // An outlier in all but name: its state is not known.
            2 if what % 6 == 5 => graph.change(index, |event| event.state_after = StateId::EMPTY),
            _ => {}
        }
    }
    graph.finish();
    graph
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn who_sees_what_is_as_the_rules_say(
        steps in proptest::collection::vec(any::<Step>(), 1..40),
    ) {
        let graph = build(&steps);
        for user in users() {
            let view = Viewpoint::new(&graph, the_room(), Viewer::User(user));
            for event in &graph.events {
                let expected = event.decision == Decision::Accepted
                    && event.state_after != StateId::EMPTY
                    && user_sees(&graph, user, event);
                prop_assert_eq!(view.may_see(event).unwrap(), expected, "{} {:?}", user, event);
            }
        }
        for server in servers() {
            let view = Viewpoint::new(&graph, the_room(), Viewer::Server(server));
            for event in &graph.events {
                let expected = matches!(event.decision, Decision::Accepted | Decision::SoftFailed)
                    && event.state_after != StateId::EMPTY
                    && server_sees(&graph, server, event);
                prop_assert_eq!(view.may_see(event).unwrap(), expected, "{} {:?}", server, event);
            }
        }
    }
}
