//! Rooms that we are not in: invites and knocks seen from outside, and coming
//! back to a room that everybody of ours had left.

use log_format::codec;
use log_format::record::envelope::Part;
use log_format::record::input::{InputOutsideMembership, Placement};
use log_format::record::output::{Decision, Membership, OutputOutsideMembership, Reason, Timeline};
use log_format::record::{Envelope, Kind, NewEnvelope, Source};
use ruma::{RoomId, UserId};

use super::forks::give;
use super::harness::{ALICE, BOB, CAROL, Draft, House, Outcome};
use crate::logs::log::NewRecord;
use crate::query::ids::Place;
use crate::query::rooms::{Direction, Rooms};

const VERSIONS: [&str; 4] = ["1", "2", "11", "12"];
/// Of the server whose house it is.
const ME: &str = "@me:hs2";

fn told(room: &RoomId, user: &str, membership: Membership) -> NewRecord {
    let body = codec::encode(&InputOutsideMembership { membership });
    let envelope = NewEnvelope {
        key: room.as_str(),
        room_id: Some(room.as_str()),
        event_id: Some("$outside"),
        sender: Some(ALICE),
        state_key: Some(user),
        event_type: Some("m.room.member"),
        room_version: Some("11"),
        body: &body,
        body_part: Part::Present(br#"{"event":{"type":"m.room.member"},"state":[{"a":1}]}"#),
        ..NewEnvelope::default()
    };
    NewRecord::new(Kind::InputOutsideMembership, Source::Federation, &envelope)
}

pub(super) fn invited_from_outside(room: &RoomId, user: &UserId) -> NewRecord {
    told(room, user.as_str(), Membership::Invite)
}

fn said(outcome: &Outcome) -> OutputOutsideMembership {
    let envelope = Envelope::parse(&outcome.folded.output[0].payload).unwrap();
    assert_eq!(envelope.kind, Kind::OutputOutsideMembership);
    codec::decode(envelope.body).unwrap()
}

fn me() -> &'static UserId {
    <&UserId>::try_from(ME).unwrap()
}

fn fold(house: &mut House, record: NewRecord) -> Outcome {
    house.fold_group(vec![record]).pop().unwrap()
}

#[test]
fn an_invite_is_kept_until_it_ends() {
    let mut house = House::new();
    let room = <&RoomId>::try_from("!far:other").unwrap();
    let none = fold(&mut house, told(room, ME, Membership::Leave));
    assert_eq!(none.verdict(), (Decision::Rejected, Reason::NotFound));
    for begin in [Membership::Invite, Membership::Knock] {
        let kept = fold(&mut house, told(room, ME, begin));
        assert_eq!(kept.verdict(), (Decision::Accepted, Reason::None));
        assert_eq!(said(&kept).room_sn, kept.offset);
        let seen = house.tables.outside(room, me()).unwrap().unwrap();
        assert_eq!((seen.membership, seen.sender.as_str()), (begin, ALICE));
        assert_eq!(seen.stripped_state().len(), 1);
        assert_eq!(house.tables.membership(room, me()).unwrap(), Some(begin));
        assert_eq!(house.tables.outside_of(me()).unwrap().len(), 1);
        // It is no room of ours, and no room state.
        assert!(house.tables.head(room).unwrap().is_none());
        assert!(house.tables.rooms_of(me()).unwrap().is_empty());
        house.restart();
        let end = fold(&mut house, told(room, ME, Membership::Leave));
        assert_eq!(end.verdict(), (Decision::Accepted, Reason::None));
        let seen = house.tables.outside(room, me()).unwrap().unwrap();
        assert!(!seen.is_open());
        let again = fold(&mut house, told(room, ME, Membership::Leave));
        assert_eq!(again.verdict(), (Decision::Rejected, Reason::NotFound));
    }
}

#[test]
fn what_no_correct_writer_makes_is_refused() {
    let mut house = House::new();
    let room = <&RoomId>::try_from("!far:other").unwrap();
    for record in [
        told(room, ME, Membership::Join),
        told(room, "nobody", Membership::Invite),
    ] {
        let refused = fold(&mut house, record);
        assert_eq!(refused.verdict(), (Decision::Rejected, Reason::Malformed));
    }
    let inside = house.room("11");
    let alice = told(&inside, ALICE, Membership::Invite);
    let refused = fold(&mut house, alice);
    assert_eq!(refused.verdict(), (Decision::Rejected, Reason::RoomExists));
}

/// The record of a join of ours, as it comes back from a resident.
fn join(other: &mut House, room: &RoomId, placement: Placement) -> Draft {
    let content = serde_json::json!({ "membership": "join" });
    let mut join = other.draft(room, ME, "m.room.member", Some(ME), content);
    join.source = Source::Federation;
    other.fold(&join).accepted();
    join.placement = placement;
    join
}

/// Joins: the events of the other server's current state before the join as
/// outliers, then that state, then the join.
fn come_in(house: &mut House, other: &House, known: &[Draft], given: u8, join: &Draft) -> Outcome {
    for draft in known {
        let mut outlier = draft.clone();
        outlier.source = Source::Federation;
        outlier.placement = Placement::Outlier;
        house.fold_group(vec![outlier.record()]);
    }
    let before = other.event(&join.room, &join.id).state_before;
    let state = other.tables.state(&join.room, before).unwrap();
    let sns: Vec<_> = state.values().copied().collect();
    let events = other.tables.events(&join.room, &sns).unwrap();
    let ids: Vec<_> = events
        .iter()
        .map(|event| event.event_id.to_string())
        .collect();
    let given = give(house, &join.room, given, join, &ids);
    assert_eq!(given.verdict(), (Decision::Accepted, Reason::None));
    house.fold(join).accepted()
}

#[test]
fn whoever_comes_back_starts_from_the_state_that_is_given() {
    for version in VERSIONS {
        let mut other = House::new();
        let room = other.room(version);
        let first = join(&mut other, &room, Placement::New);
        let before = other.drafts[..other.drafts.len() - 1].to_vec();
        let mut house = House::new();
        fold(&mut house, told(&room, ME, Membership::Invite));
        come_in(&mut house, &other, &before, 1, &first);
        // What was seen from outside ends with the membership in the room itself.
        assert!(
            house.tables.outside(&room, me()).unwrap().is_none(),
            "{version}"
        );
        assert_eq!(
            house.tables.membership(&room, me()).unwrap(),
            Some(Membership::Join)
        );

        // The user is kicked, the room goes on without us, and bans others.
        let mut kick = other.draft(
            &room,
            ALICE,
            "m.room.member",
            Some(ME),
            serde_json::json!({ "membership": "leave" }),
        );
        kick.source = Source::Federation;
        other.fold(&kick).accepted();
        house.fold(&kick).accepted();
        assert_eq!(
            house.tables.membership(&room, me()).unwrap(),
            Some(Membership::Leave)
        );
        let frozen = house.head(&room);
        let gone_from = other.drafts.len();
        other.member(&room, BOB, BOB, "join").accepted();
        other.member(&room, ALICE, CAROL, "ban").accepted();
        let topic = serde_json::json!({ "topic": "later" });
        other
            .state(&room, ALICE, "m.room.topic", "", topic)
            .accepted();
        fold(&mut house, told(&room, ME, Membership::Invite));
        assert_eq!(
            house.tables.membership(&room, me()).unwrap(),
            Some(Membership::Invite)
        );

        let back = join(&mut other, &room, Placement::Rejoin);
        let missed = other.drafts[gone_from..other.drafts.len() - 1].to_vec();
        let told = come_in(&mut house, &other, &missed, 2, &back);
        assert_eq!(told.last().timeline, Timeline::Live);
        let (ours, theirs) = (house.head(&room), other.head(&room));
        let ids = |house: &House| {
            let head = house.head(&room);
            let sns: Vec<_> = head.state.values().copied().collect();
            let events = house.tables.events(&room, &sns).unwrap();
            let ids = events.iter().map(|event| event.event_id.clone());
            ids.collect::<Vec<_>>()
        };
        assert_eq!(ids(&house), ids(&other), "{version}");
        assert_eq!(ours.joined_members, theirs.joined_members);
        assert_eq!(ours.extremities.len(), 1);
        assert_eq!(ours.extremities[0].event_id, back.id);
        assert!(ours.last_place.is_behind_gap(frozen.last_place));
        assert!(house.tables.outside(&room, me()).unwrap().is_none());
        let timeline = house
            .tables
            .timeline(&room, Place::END, Direction::Backward, 3);
        assert_eq!(timeline.unwrap().len(), 3);
        let remembered = format!("{ours:?}");
        house.restart();
        assert_eq!(format!("{:?}", house.head(&room)), remembered);
        house.next_id = 500;
        house.message(&room, ME, "back").accepted();
    }
}

/// The room was known by its create event from outside; history that reaches back
/// to it gives it its place, once.
#[test]
fn the_create_event_has_the_first_place_of_the_history() {
    for version in VERSIONS {
        let mut other = House::new();
        let room = other.room(version);
        let first = join(&mut other, &room, Placement::New);
        let before = other.drafts[..other.drafts.len() - 1].to_vec();
        let mut house = House::new();
        come_in(&mut house, &other, &before, 1, &first);
        let head = house.head(&room);
        let mut create = before[0].clone();
        create.source = Source::Backfill;
        create.placement = Placement::Backfill {
            before: first.id.to_string(),
        };
        let placed = house.fold(&create).accepted();
        assert_eq!(placed.last().timeline, Timeline::History, "{version}");
        assert!(placed.last().state_delta.is_empty());
        let again = house.fold(&create);
        assert_eq!(again.verdict().0, Decision::Duplicate, "{version}");
        let timeline = house
            .tables
            .timeline(&room, Place::END, Direction::Backward, 9)
            .unwrap();
        assert_eq!(timeline.len(), 2, "{version}");
        assert_eq!(timeline[1].1.0, head.room.0);
        let after = house.head(&room);
        assert_eq!(after.state, head.state);
        assert_eq!(after.extremities, head.extremities);
        // What builds on it has a state now, and needs none that is given.
        let mut creator = before[1].clone();
        creator.source = Source::Backfill;
        creator.placement = create.placement.clone();
        house.fold(&creator).accepted();
    }
}

/// Without a state that was given it is an event like any other.
#[test]
fn nobody_comes_back_without_a_given_state() {
    let mut house = House::new();
    let room = house.room("11");
    let content = serde_json::json!({ "membership": "join" });
    let mut draft = house.draft(&room, BOB, "m.room.member", Some(BOB), content);
    draft.source = Source::Federation;
    draft.placement = Placement::Rejoin;
    draft.prev_events = vec!["$unknown".to_owned()];
    let kept = house.fold(&draft);
    assert_eq!(kept.verdict(), (Decision::Outlier, Reason::MissingEvents));
    // A local record may never be one.
    draft.source = Source::Client;
    let refused = house.fold(&Draft {
        id: house.drafts[0].id.clone(),
        ..draft
    });
    assert_ne!(refused.verdict().0, Decision::Accepted);
}
