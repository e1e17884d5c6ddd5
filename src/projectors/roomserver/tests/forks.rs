//! Events out of order and on forks: what each becomes, and what current state
//! is afterwards.

use log_format::codec;
use log_format::record::input::{
    InputStateAbandoned, InputStateBegin, InputStateChunk, InputStateCommit, Placement,
};
use log_format::record::output::{
    Decision, OutputRoomGap, Reason, StateChangeCause, Timeline, Visibility,
};
use log_format::record::{Envelope, Kind, NewEnvelope, Source};
use ruma::{OwnedRoomId, RoomId};
use serde_json::json;

use super::harness::{ALICE, BOB, CAROL, Draft, House, Outcome};
use crate::logs::log::NewRecord;
use crate::query::begun_states::{BegunState, BegunStates};
use crate::query::ids::Place;
use crate::query::rooms::{Direction, Rooms, StateKey};

/// Every version, or the first of each state resolution and the last.
const VERSIONS: [&str; 4] = ["1", "2", "11", "12"];

/// A room with Alice (100), Bob (50) and Carol (0) joined.
fn room(house: &mut House, version: &str) -> OwnedRoomId {
    let room = house.room(version);
    house.member(&room, BOB, BOB, "join").accepted();
    house.member(&room, CAROL, CAROL, "join").accepted();
    let creators = version == "12";
    let users = match creators {
        true => json!({ BOB: 50 }),
        false => json!({ ALICE: 100, BOB: 50 }),
    };
    let levels = json!({ "users": users, "state_default": 50 });
    let kind = "m.room.power_levels";
    house.state(&room, ALICE, kind, "", levels).accepted();
    room
}

fn remote(mut draft: Draft) -> Draft {
    draft.source = Source::Federation;
    draft
}

impl House {
    /// An event of another server on top of the room as it is.
    fn theirs(
        &mut self,
        room: &RoomId,
        sender: &str,
        kind: &str,
        state_key: Option<&str>,
        content: serde_json::Value,
    ) -> Draft {
        remote(self.draft(room, sender, kind, state_key, content))
    }

    fn topic(&mut self, room: &RoomId, sender: &str, topic: &str) -> Draft {
        let content = json!({ "topic": topic });
        self.theirs(room, sender, "m.room.topic", Some(""), content)
    }

    fn says(&mut self, room: &RoomId, sender: &str, text: &str) -> Draft {
        self.theirs(
            room,
            sender,
            "m.room.message",
            None,
            json!({ "body": text }),
        )
    }

    fn moves(&mut self, room: &RoomId, sender: &str, target: &str, to: &str) -> Draft {
        let content = json!({ "membership": to });
        self.theirs(room, sender, "m.room.member", Some(target), content)
    }

    fn holds(&self, room: &RoomId, kind: &str, state_key: &str) -> Option<String> {
        let head = self.head(room);
        let sn = *head.state.get(&StateKey::new(kind, state_key))?;
        let events = self.tables.events(room, &[sn]).unwrap();
        Some(events[0].event_id.to_string())
    }

    fn extremities(&self, room: &RoomId) -> Vec<String> {
        let head = self.head(room);
        let ids = head.extremities.iter();
        ids.map(|tip| tip.event_id.to_string()).collect()
    }

    /// What is read back says the same as what is in memory.
    fn same_after_restart(&mut self, room: &RoomId) {
        let before = format!("{:?}", self.head(room));
        self.restart();
        assert_eq!(format!("{:?}", self.head(room)), before);
    }
}

fn on(draft: &Draft, parents: &[&Draft]) -> Draft {
    let mut draft = draft.clone();
    draft.prev_events = parents.iter().map(|parent| parent.id.to_string()).collect();
    draft
}

fn outcome(outcome: &Outcome) -> (Decision, Reason) {
    outcome.verdict()
}

fn gap(outcome: &Outcome) -> Option<OutputRoomGap> {
    outcome.folded.output.iter().find_map(|record| {
        let envelope = Envelope::parse(&record.payload).unwrap();
        match envelope.kind {
            Kind::OutputRoomGap => Some(codec::decode(envelope.body).unwrap()),
            _ => None,
        }
    })
}

#[test]
fn a_power_struggle_is_resolved_and_said_so() {
    for version in VERSIONS {
        let mut house = House::new();
        let room = room(&mut house, version);
        let levels = house.holds(&room, "m.room.power_levels", "").unwrap();
        // Bob sets a topic while Alice bans him.
        let ban = house.moves(&room, ALICE, BOB, "ban");
        let topic = house.topic(&room, BOB, "mine");
        let banned = house.fold(&ban).accepted();
        assert_eq!(banned.last().timeline, Timeline::Live);
        let failed = house.fold(&topic);
        assert_eq!(
            outcome(&failed),
            (Decision::SoftFailed, Reason::Forbidden),
            "{version}"
        );
        assert_eq!(failed.last().timeline, Timeline::Outside);
        assert_eq!(house.holds(&room, "m.room.topic", ""), None);
        assert_eq!(house.extremities(&room), [ban.id.to_string()]);
        // Carol did not hear of the ban: her fork brings Bob's topic back in,
        // where the resolution of the version lets it.
        let hello = on(&house.says(&room, CAROL, "hello"), &[&topic]);
        let merged = house.fold(&hello).accepted();
        assert_eq!(house.extremities(&room).len(), 2);
        let mine = Some(topic.id.to_string());
        let held = house.holds(&room, "m.room.topic", "");
        if version != "1" {
            assert_eq!(held, None, "{version}: the ban comes first");
        } else {
            assert_eq!(held, mine, "version 1 orders by depth");
            let change = &merged.last().state_delta[0];
            assert_eq!(change.cause, StateChangeCause::Resolution);
            assert_eq!((&change.from, &change.to), (&None, &mine));
        }
        assert_eq!(
            house
                .head(&room)
                .authority
                .membership(BOB.try_into().unwrap()),
            Some(log_format::record::output::Membership::Ban)
        );
        assert_eq!(house.holds(&room, "m.room.power_levels", ""), Some(levels));
        // Who joins the ends makes one of them.
        house.message(&room, ALICE, "one again").accepted();
        assert_eq!(house.extremities(&room).len(), 1);
        house.same_after_restart(&room);
    }
}

#[test]
fn both_ends_of_a_fork_count_until_they_are_joined() {
    for version in VERSIONS {
        let mut house = House::new();
        let room = room(&mut house, version);
        let left = house.topic(&room, ALICE, "left");
        let right = house.theirs(
            &room,
            BOB,
            "m.room.name",
            Some(""),
            json!({ "name": "right" }),
        );
        house.fold(&left).accepted();
        let second = house.fold(&right).accepted();
        assert_eq!(house.extremities(&room).len(), 2);
        // Both are in current state, since they do not contend.
        let topic = house.holds(&room, "m.room.topic", "");
        assert_eq!(topic, Some(left.id.to_string()), "{version}");
        let name = house.holds(&room, "m.room.name", "");
        assert_eq!(name, Some(right.id.to_string()), "{version}");
        let told = second.last();
        assert_ne!(told.current_state, told.state_after);
        let stored = house.event(&room, &right.id);
        let topic_key = StateKey::new("m.room.topic", "");
        let at = house
            .tables
            .state_entry(&room, stored.state_after, &topic_key);
        assert_eq!(at.unwrap(), None, "the fork knows nothing of the other");
        let merged = house.message(&room, ALICE, "joined").accepted();
        assert_eq!(merged.last().state_before, told.current_state);
        assert!(merged.last().state_delta.is_empty());
        house.same_after_restart(&room);
    }
}

#[test]
fn what_misses_its_past_waits_and_says_so() {
    for version in VERSIONS {
        let mut house = House::new();
        let room = room(&mut house, version);
        let first = house.says(&room, BOB, "first");
        let second = on(&house.says(&room, BOB, "second"), &[&first]);
        let third = on(&house.says(&room, BOB, "third"), &[&second]);
        for draft in [&third, &second] {
            let waits = house.fold(draft);
            assert_eq!(outcome(&waits), (Decision::Outlier, Reason::MissingEvents));
            let told = gap(&waits).unwrap();
            assert_eq!(told.prev_events, draft.prev_events);
            assert!(told.auth_events.is_empty());
        }
        assert_eq!(house.tables.waits(&room).unwrap().events, 2);
        let extremities = house.extremities(&room);
        assert!(!extremities.contains(&third.id.to_string()));
        // The first brings the others along, in the order of the graph.
        let came = house.fold(&first).accepted();
        let ids: Vec<_> = came.output.iter().map(|told| told.event_sn).collect();
        assert_eq!(ids.len(), 3, "{version}");
        assert!(
            came.output
                .iter()
                .all(|told| told.timeline == Timeline::Live)
        );
        let subs: Vec<_> = came.output.iter().map(|told| told.origin).collect();
        assert_eq!(
            subs.iter().map(|sub| sub.src_sub).collect::<Vec<_>>(),
            [0, 1, 2]
        );
        assert!(subs[2].src_last && !subs[1].src_last);
        assert!(subs.iter().all(|sub| sub.src_offset == came.offset));
        assert!(subs[1].about < came.offset);
        assert_eq!(house.extremities(&room), [third.id.to_string()]);
        // A repeat adds nothing.
        assert_eq!(house.fold(&third).verdict().0, Decision::Duplicate);
        house.same_after_restart(&room);
        assert_eq!(house.head_waiting(&room), 0);
    }
}

#[test]
fn what_was_rejected_for_its_authority_is_judged_again() {
    for version in VERSIONS {
        let mut house = House::new();
        let room = room(&mut house, version);
        let dave = "@dave:other";
        let join = house.moves(&room, dave, dave, "join");
        // Dave's message cites a join that has not come.
        let mut message = house.says(&room, dave, "hi");
        message.auth_events.push(join.id.to_string());
        message.prev_events = vec![join.id.to_string()];
        let rejected = house.fold(&message);
        assert_eq!(
            outcome(&rejected),
            (Decision::Rejected, Reason::MissingAuthEvents)
        );
        assert_eq!(gap(&rejected).unwrap().auth_events, [join.id.to_string()]);
        let joined = house.fold(&join).accepted();
        let decisions: Vec<_> = joined.output.iter().map(|told| told.decision).collect();
        assert_eq!(
            decisions,
            [Decision::Accepted, Decision::Accepted],
            "{version}"
        );
        assert_eq!(house.extremities(&room), [message.id.to_string()]);
        assert_eq!(house.head_waiting(&room), 0);
        house.same_after_restart(&room);
    }
}

#[test]
fn what_cites_a_rejected_event_is_rejected_until_that_is_mended() {
    let mut house = House::new();
    let room = room(&mut house, "11");
    let (dave, erin) = ("@dave:other", "@erin:other");
    // The invite by Dave comes before Dave's own join.
    let join = house.moves(&room, dave, dave, "join");
    let mut invite = house.moves(&room, dave, erin, "invite");
    invite.prev_events = vec![join.id.to_string()];
    invite.auth_events.push(join.id.to_string());
    let mut accepts = house.moves(&room, erin, erin, "join");
    accepts.prev_events = vec![invite.id.to_string()];
    accepts.auth_events.push(invite.id.to_string());
    let why = |house: &mut House, draft: &Draft| house.fold(draft).verdict().1;
    assert_eq!(why(&mut house, &invite), Reason::MissingAuthEvents);
    assert_eq!(why(&mut house, &accepts), Reason::RejectedAuthEvent);
    let told = house.fold(&join).accepted();
    let accepted = |told: &Outcome| {
        let mut decisions = told.output.iter().map(|told| told.decision);
        decisions.all(|decision| decision == Decision::Accepted)
    };
    assert!(accepted(&told));
    assert_eq!(told.output.len(), 3);
    let erin = erin.try_into().unwrap();
    assert!(house.head(&room).authority.is_joined(erin));
}

#[test]
fn extremities_are_retired_through_what_was_refused() {
    let mut house = House::new();
    let room = room(&mut house, "11");
    let base = house.says(&room, BOB, "base");
    house.fold(&base).accepted();
    // A stranger's message is rejected, and so is the next on top of it.
    let bad = house.says(&room, "@stranger:other", "let me in");
    assert_eq!(house.fold(&bad).verdict().0, Decision::Rejected);
    let worse = on(&house.says(&room, "@stranger:other", "again"), &[&bad]);
    assert_eq!(house.fold(&worse).verdict().0, Decision::Rejected);
    assert_eq!(house.extremities(&room), [base.id.to_string()]);
    // Bob's next knows of them, and reaches the base only through them.
    let next = on(&house.says(&room, BOB, "next"), &[&worse]);
    house.fold(&next).accepted();
    assert_eq!(house.extremities(&room), [next.id.to_string()]);
}

pub fn record(kind: Kind, room: &RoomId, body: Vec<u8>) -> NewRecord {
    let envelope = NewEnvelope {
        key: room.as_str(),
        room_id: Some(room.as_str()),
        body: &body,
        ..NewEnvelope::default()
    };
    NewRecord::new(kind, Source::Federation, &envelope)
}

pub fn give(house: &mut House, room: &RoomId, given: u8, event: &Draft, ids: &[String]) -> Outcome {
    let given = [given; 16];
    let begin = InputStateBegin {
        given,
        event_id: event.id.to_string(),
    };
    let mut records = vec![record(Kind::InputStateBegin, room, codec::encode(&begin))];
    for ids in ids.chunks(2) {
        let event_ids = ids.to_vec();
        let chunk = codec::encode(&InputStateChunk { given, event_ids });
        records.push(record(Kind::InputStateChunk, room, chunk));
    }
    let commit = codec::encode(&InputStateCommit { given });
    records.push(record(Kind::InputStateCommit, room, commit));
    house.fold_group(records).pop().unwrap()
}

#[test]
fn a_remote_room_is_joined_with_the_state_that_its_server_gives() {
    for version in VERSIONS {
        // Another house makes the room; this one hears of it by a join.
        let mut other = House::new();
        let room = room(&mut other, version);
        let before = other.drafts.clone();
        let join = other.moves(&room, "@me:hs2", "@me:hs2", "join");
        other.fold(&join).accepted();
        let mut house = House::new();
        for draft in &before {
            let outlier = Draft {
                placement: Placement::Outlier,
                ..remote(draft.clone())
            };
            let told = house.fold(&outlier);
            assert_eq!(
                outcome(&told),
                (Decision::Outlier, Reason::None),
                "{version}"
            );
        }
        assert!(house.head(&room).extremities.is_empty());
        let head = other.head(&room);
        let mut ids = vec![];
        for draft in &before {
            let held = other.holds(&room, &draft.kind, draft.state_key.as_deref().unwrap());
            ids.extend(held.filter(|id| *id == draft.id.as_str()));
        }
        let told = give(&mut house, &room, 1, &join, &ids);
        assert_eq!(
            outcome(&told),
            (Decision::Accepted, Reason::None),
            "{version}"
        );
        let joined = house.fold(&join).accepted();
        assert_eq!(joined.last().state_delta.len(), ids.len() + 1);
        assert_eq!(joined.last().memberships.len(), 4);
        assert_eq!(joined.last().memberships[0].user_id, "@me:hs2");
        let ours = house.head(&room);
        assert_eq!(ours.joined_members, head.joined_members);
        assert_eq!(ours.state.len(), head.state.len());
        assert_eq!(house.extremities(&room), [join.id.to_string()]);
        assert_eq!(ours.last_place, Place::FIRST);
        house.same_after_restart(&room);
        // And now the room goes on here.
        house.next_id = 100;
        let hello = house.message(&room, "@me:hs2", "hello").accepted();
        assert_eq!(hello.last().timeline, Timeline::Live);
    }
}

#[test]
fn synapse_pr_6501_a_given_state_must_be_whole_and_of_this_room() {
    let mut house = House::new();
    let room = room(&mut house, "11");
    let create = house.drafts[0].id.to_string();
    let event = house.says(&room, BOB, "later");
    let mut later = event.clone();
    later.prev_events = vec!["$unknown".to_owned()];
    let unknown = vec![create.clone(), "$nobody-knows".to_owned()];
    let told = give(&mut house, &room, 1, &later, &unknown);
    assert_eq!(outcome(&told), (Decision::Rejected, Reason::MissingEvents));
    assert_eq!(gap(&told).unwrap().auth_events, ["$nobody-knows"]);
    let without_create = vec![house.drafts[1].id.to_string()];
    let told = give(&mut house, &room, 2, &later, &without_create);
    assert_eq!(outcome(&told), (Decision::Rejected, Reason::Malformed));
    let twice = vec![create.clone(), create];
    let told = give(&mut house, &room, 3, &later, &twice);
    assert_eq!(outcome(&told), (Decision::Rejected, Reason::Malformed));
    // Nothing was given, so the event waits.
    assert_eq!(house.fold(&later).verdict().0, Decision::Outlier);
    let given = [9; 16];
    let begin = InputStateBegin {
        given,
        event_id: later.id.to_string(),
    };
    let begin = record(Kind::InputStateBegin, &room, codec::encode(&begin));
    let chunk = codec::encode(&InputStateChunk {
        given,
        event_ids: vec![later.id.to_string()],
    });
    let chunk = record(Kind::InputStateChunk, &room, chunk);
    assert_eq!(house.tables.begun_states().unwrap(), []);
    house.fold_group(vec![begin, chunk]);
    let room_id = room.clone();
    let begun = BegunState { room_id, given };
    assert_eq!(house.tables.begun_states().unwrap(), [begun]);
    let gone = codec::encode(&InputStateAbandoned { given });
    let gone = record(Kind::InputStateAbandoned, &room, gone);
    let again = codec::encode(&InputStateAbandoned { given });
    let again = record(Kind::InputStateAbandoned, &room, again);
    let told = house.fold_group(vec![gone, again]);
    assert_eq!(told[0].verdict(), (Decision::Accepted, Reason::None));
    assert_eq!(told[1].verdict(), (Decision::Rejected, Reason::NotFound));
    assert_eq!(house.tables.begun_states().unwrap(), []);
}

#[test]
fn history_is_filled_in_before_what_is_known() {
    let mut house = House::new();
    let room = room(&mut house, "11");
    let state: Vec<String> = house
        .drafts
        .iter()
        .map(|draft| draft.id.to_string())
        .collect();
    let old = house.says(&room, BOB, "old");
    let older = house.says(&room, BOB, "older");
    // Five messages that this server missed, then one that it hears of.
    let mut missed = vec![];
    let mut parent = older.clone();
    for number in 0..5 {
        let next = on(
            &house.says(&room, BOB, &format!("missed {number}")),
            &[&parent],
        );
        missed.push(next.clone());
        parent = next;
    }
    let newest = on(&house.says(&room, CAROL, "newest"), &[&parent]);
    house.fold(&old).accepted();
    let ids = current(&house, &room, &state);
    let told = give(&mut house, &room, 1, &newest, &ids);
    assert_eq!(outcome(&told), (Decision::Accepted, Reason::None));
    house.fold(&newest).accepted();
    // It does not build on the old end, which stays one.
    let mut ends = vec![old.id.to_string(), newest.id.to_string()];
    ends.sort();
    assert_eq!(house.extremities(&room), ends);
    // A chunk of the newest three, then the older two before them.
    for (given, chunk, before) in [
        (2, 2..5, newest.id.clone()),
        (3, 0..2, missed[2].id.clone()),
    ] {
        let first = &missed[chunk.start];
        give(&mut house, &room, given, first, &ids);
        for draft in &missed[chunk] {
            let mut draft = remote(draft.clone());
            draft.placement = Placement::Backfill {
                before: before.to_string(),
            };
            let told = house.fold(&draft).accepted();
            assert_eq!(told.last().timeline, Timeline::History);
            assert!(told.last().state_delta.is_empty());
        }
    }
    assert_eq!(house.extremities(&room), ends);
    let timeline = house
        .tables
        .timeline(&room, Place::END, Direction::Backward, 7);
    let sns: Vec<_> = timeline.unwrap().into_iter().map(|(_, sn)| sn).collect();
    let events = house.tables.events(&room, &sns).unwrap();
    let shown: Vec<_> = events
        .iter()
        .rev()
        .map(|event| event.event_id.clone())
        .collect();
    let mut expected = vec![old.id.clone()];
    expected.extend(missed.iter().map(|draft| draft.id.clone()));
    expected.push(newest.id.clone());
    assert_eq!(shown, expected);
    // What comes late and is built on is no end of the room.
    let late = Draft {
        prev_events: house
            .drafts
            .last()
            .map(|last| vec![last.id.to_string()])
            .unwrap(),
        ..older
    };
    house.fold(&late).accepted();
    assert_eq!(house.extremities(&room), ends);
    house.same_after_restart(&room);
}

/// Those of the events that are in current state.
fn current(house: &House, room: &RoomId, ids: &[String]) -> Vec<String> {
    let head = house.head(room);
    let sns: Vec<_> = head.state.values().copied().collect();
    let held = house.tables.events(room, &sns).unwrap();
    let held: Vec<_> = held
        .iter()
        .map(|event| event.event_id.to_string())
        .collect();
    ids.iter().filter(|id| held.contains(id)).cloned().collect()
}

#[test]
fn visibility_is_that_of_the_fork() {
    let mut house = House::new();
    let room = room(&mut house, "11");
    let kind = "m.room.history_visibility";
    let content = json!({ "history_visibility": "joined" });
    let closes = house.theirs(&room, ALICE, kind, Some(""), content);
    let says = house.says(&room, BOB, "meanwhile");
    house.fold(&closes).accepted();
    house.fold(&says).accepted();
    let stored = house.event(&room, &says.id);
    assert_eq!(stored.visibility, Visibility::Shared);
    assert_eq!(house.head(&room).visibility, Visibility::Joined);
}

#[test]
fn a_redaction_has_the_power_of_its_fork() {
    let mut house = House::new();
    let room = room(&mut house, "11");
    let victim = house.says(&room, CAROL, "text");
    house.fold(&victim).accepted();
    let levels = json!({ "users": { ALICE: 100, BOB: 0 } });
    let demotes = house.theirs(&room, ALICE, "m.room.power_levels", Some(""), levels);
    // Bob redacts as a moderator, on a fork that knows nothing else.
    let mut redacts = house.theirs(&room, BOB, "m.room.redaction", None, json!({}));
    redacts.redacts = Some(victim.id.to_string());
    let mut later = redacts.clone();
    house.fold(&demotes).accepted();
    assert_eq!(house.fold(&redacts).verdict().0, Decision::Accepted);
    let stored = house.event(&room, &victim.id);
    assert!(stored.redacted_by.is_some());
    later.id = house.id();
    later.prev_events = vec![demotes.id.to_string()];
    let other = house.says(&room, CAROL, "stays");
    house.fold(&other).accepted();
    later.redacts = Some(other.id.to_string());
    house.fold(&later);
    assert!(house.event(&room, &other.id).redacted_by.is_none());
}

#[test]
fn a_replay_of_forks_is_the_same_whatever_the_groups() {
    let mut house = House::new();
    let room = room(&mut house, "12");
    let mut ends = vec![house.drafts.last().unwrap().clone()];
    for round in 0..30 {
        let parent = ends[(round * 7) % ends.len()].clone();
        let sender = [ALICE, BOB, CAROL][round % 3];
        let draft = match round % 4 {
            0 => house.topic(&room, sender, &format!("{round}")),
            1 => house.moves(&room, ALICE, "@x:other", "invite"),
            2 => house.says(&room, sender, "text"),
            _ => house.theirs(
                &room,
                ALICE,
                "m.room.power_levels",
                Some(""),
                json!({ "users": { BOB: round % 60 } }),
            ),
        };
        let draft = on(&draft, &[&parent]);
        let folded = house.fold(&draft);
        if folded.verdict().0 == Decision::Accepted {
            ends.push(draft);
        }
    }
    assert!(house.head(&room).extremities.len() > 1);
    let dump = house.dump();
    let count = house.log.len();
    for group in [1, 7, count] {
        let mut again = House::over(house.log.clone());
        let offsets: Vec<u64> = (0..count as u64).collect();
        for offsets in offsets.chunks(group) {
            again.fold_offsets(offsets);
        }
        assert_eq!(again.dump(), dump);
    }
}

#[test]
fn synapse_0f2ecb961_events_that_name_each_other_leave_the_room_an_end() {
    let mut house = House::new();
    let room = room(&mut house, "1");
    let ids: Vec<String> = house
        .drafts
        .iter()
        .map(|draft| draft.id.to_string())
        .collect();
    let ids = current(&house, &room, &ids);
    let mut one = house.says(&room, BOB, "one");
    let two = on(&house.says(&room, BOB, "two"), &[&one]);
    // What was there is built on as well, so that nothing else is an end.
    let ends = house.extremities(&room);
    one.prev_events = vec![two.id.to_string()];
    one.prev_events.extend(ends);
    give(&mut house, &room, 1, &two, &ids);
    house.fold(&two).accepted();
    house.fold(&one).accepted();
    assert_eq!(house.extremities(&room), [one.id.to_string()]);
    house.message(&room, BOB, "three").accepted();
}
