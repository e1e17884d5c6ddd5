//! A large forked room, small enough for a test: bounds on the work for each
//! event, on rows and on how much of the state is read, never on time. The
//! large one and its figures: `benches/rooms.rs`.

use engram::matrix::RoomVersion;
use engram::projectors::roomserver::RoomServerOptions;
use engram::query::rooms::Rooms;
use log_format::record::output::Decision;
use ruma::RoomId;

use crate::big_room::{BigRoom, Size};
use crate::lane::OneLane;

/// Steps of work that any event of the room may take: far fewer than it has members.
const STEPS_MAX: u64 = 1_000;

#[test]
fn work_for_an_event_does_not_grow_with_the_room() {
    let size = Size {
        members: 2_000,
        events: 5_000,
        forks: 50,
    };
    for version in [RoomVersion::V10, RoomVersion::V12] {
        let mut lane = OneLane::new(&RoomServerOptions {
            inline_work: STEPS_MAX,
            ..RoomServerOptions::default()
        });
        let mut room = BigRoom::new(size, version, 41);
        let room_id = room.graph.room_id.clone();
        let (mut accepted, mut messages, mut reads_max, mut rows_max) = (0, 0, 0, 0);
        for (number, event) in room.by_ref().enumerate() {
            let is_plain = event.kind == "m.room.message" && event.prev_events.len() == 1;
            let taken = lane.take(event.fields().record());
            let Some(outcome) = taken.folded.outcome else {
                panic!("event {number} takes more than {STEPS_MAX} steps");
            };
            accepted += u64::from(outcome.decision == Decision::Accepted);
            if is_plain && event.content["body"] != "aside" {
                messages += 1;
                assert!(taken.rows <= 5, "message {number}: {} rows", taken.rows);
                assert!(taken.reads <= 12, "message {number}: {} reads", taken.reads);
            }
            (reads_max, rows_max) = (reads_max.max(taken.reads), rows_max.max(taken.rows));
        }
        println!("{version}: at most {reads_max} reads and {rows_max} rows for an event");
        assert!(accepted >= size.events * 99 / 100, "{accepted} accepted");
        assert!(messages >= 2_000);
        assert!(reads_max <= STEPS_MAX, "{reads_max} reads for one event");
        assert!(rows_max <= 60, "{rows_max} rows for one event");
        let room_id = <&RoomId>::try_from(room_id.as_str()).unwrap();
        let head = lane.tables.head(room_id).unwrap().unwrap();
        assert!(head.joined_members >= 1_900, "{}", head.joined_members);
        let state = lane.tables.state(room_id, head.state_id).unwrap();
        assert_eq!(state, head.state);
    }
}
