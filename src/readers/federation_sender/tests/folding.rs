//! Who is sent what.

use log_format::record::Source;
use log_format::record::output::{Decision, Membership, Timeline};

use super::world::{Mood, Said, World};
use crate::readers::store::memory::MemoryStore;
use std::sync::Arc;
use std::time::Duration;

const ROOM: &str = "!r:a.test";
const BOB: &str = "@bob:b.test";
const SOON: Duration = Duration::from_millis(100);

#[tokio::test]
async fn an_event_goes_to_the_servers_in_the_room_and_to_those_that_it_puts_out() {
    let mut world = World::new();
    world.say(&Said::message(ROOM));
    world.say(&Said::theirs(ROOM, BOB, true));
    world.say(&Said::theirs(ROOM, "@ben:b.test", true));
    world.say(&Said::theirs(ROOM, "@carol:c.test", true));
    let both = world.say(&Said::message(ROOM));
    world.say(&Said::theirs(ROOM, BOB, false));
    let still = world.say(&Said::message(ROOM));
    let kick = world.say(&Said {
        memberships: vec![("@ben:b.test", Some(Membership::Join), Membership::Leave)],
        is_member: true,
        ..Said::message(ROOM)
    });
    let one = world.say(&Said::message(ROOM));
    world.say(&Said::theirs(ROOM, "@carol:c.test", false));
    world.say(&Said::message(ROOM));
    world.pass(SOON).await;
    let all = [both, still, kick, one];
    assert_eq!(world.has("b.test"), all[..3]);
    assert_eq!(world.has("c.test"), all);
    assert_eq!(world.has("a.test"), Vec::<String>::new());
    // Nothing is left of a room without others.
    assert!(!world.sender.federated.has(0, ROOM) && !world.sender.federated.has(1, ROOM));
}

#[tokio::test]
async fn what_others_made_is_theirs_to_send_unless_they_came_through_us() {
    let mut world = World::new();
    world.say(&Said::theirs(ROOM, BOB, true));
    world.say(&Said::theirs(ROOM, "@carol:c.test", true));
    let said = |source, decision, timeline| Said {
        source,
        decision,
        timeline,
        ..Said::message(ROOM)
    };
    let (accepted, live) = (Decision::Accepted, Timeline::Live);
    world.say(&said(Source::Federation, accepted, live));
    world.say(&said(Source::Backfill, accepted, Timeline::History));
    world.say(&said(Source::Client, Decision::Rejected, Timeline::Outside));
    world.say(&said(
        Source::Client,
        Decision::SoftFailed,
        Timeline::Outside,
    ));
    world.say(&said(Source::Client, Decision::Outlier, Timeline::Outside));
    // A join by send_join: the server that handed it in has it.
    let handed_in = world.say(&Said {
        origin: Some("c.test"),
        memberships: vec![("@carl:c.test", None, Membership::Join)],
        is_member: true,
        ..said(Source::Internal, accepted, live)
    });
    let of_service = world.say(&said(Source::Appservice, accepted, live));
    world.pass(SOON).await;
    assert_eq!(world.has("b.test"), [handed_in, of_service.clone()]);
    assert_eq!(world.has("c.test"), [of_service]);
}

#[tokio::test]
async fn whoever_is_uninvited_hears_of_it_and_invitations_go_another_way() {
    let mut world = World::new();
    let change = |from, to| Said {
        memberships: vec![(BOB, from, to)],
        is_member: true,
        ..Said::message(ROOM)
    };
    world.say(&Said::theirs(ROOM, "@carol:c.test", true));
    world.say(&change(None, Membership::Invite));
    let taken_back = world.say(&change(Some(Membership::Invite), Membership::Leave));
    world.say(&change(Some(Membership::Leave), Membership::Ban));
    world.pass(SOON).await;
    assert_eq!(world.has("b.test"), [taken_back]);
    assert_eq!(world.has("c.test").len(), 3);
}

#[tokio::test]
async fn whoever_is_put_out_by_a_change_of_many_parts_hears_of_it() {
    let mut world = World::new();
    let stays = "@carol:c.test";
    for user in [BOB, "@dan:d.test", stays] {
        world.say(&Said::theirs(ROOM, user, true));
    }
    let leaves = |user| (user, Some(Membership::Join), Membership::Leave);
    world.part(ROOM, &[leaves(BOB)]);
    let last = world.say(&Said {
        memberships: vec![leaves("@dan:d.test")],
        ..Said::message(ROOM)
    });
    let after = world.say(&Said::message(ROOM));
    world.pass(SOON).await;
    assert_eq!(world.has("b.test"), std::slice::from_ref(&last));
    assert_eq!(world.has("d.test"), std::slice::from_ref(&last));
    assert_eq!(world.has("c.test"), [last, after]);
}

#[tokio::test]
async fn the_tables_are_the_same_however_the_records_are_grouped() {
    let mut world = World::new();
    world.mood("b.test", Mood::Silent);
    world.say(&Said::theirs(ROOM, BOB, true));
    for _ in 0..30 {
        world.say(&Said::message(ROOM));
    }
    let kept: Arc<MemoryStore> = world.store.clone();
    world.crash(true);
    assert!(world.store.same_rows(&kept));
}
