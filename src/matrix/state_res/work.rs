//! How much a resolution may do, in units that are counted and not timed, so
//! that every replay gives up at the same place.

use super::super::room_version::RoomVersion;
use super::conflict::Conflict;

/// Reading an edge of the auth graph, or an agreed entry: the unit.
pub(super) const EDGE: u64 = 1;
/// Reading an event for the first time.
pub(super) const EVENT: u64 = 16;
/// Judging an event.
pub(super) const CHECK: u64 = 16;
/// Trying a signature with a key.
pub(super) const SIGNATURE: u64 = 2048;

/// A budget of work. One unit is an edge of the auth graph that is walked; an
/// event that is read and an event that is judged count for 16 each, and one of
/// power levels for as many more as it has entries; a signature of a
/// third-party invite that is tried counts for 2,048. With events in memory a
/// unit takes some 5 to 30 ns.
///
/// It depends on the states, on the room's events and on which of them the graph
/// has, not on what is cached nor on the order in which events came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    spent: u64,
    max: u64,
}

/// A budget ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more work than is allowed at once")]
pub struct OutOfWork;

impl Work {
    /// A budget of `max` units.
    pub fn new(max: u64) -> Work {
        Work { spent: 0, max }
    }

    /// Units spent so far; never more than were allowed.
    pub fn spent(&self) -> u64 {
        self.spent
    }

    /// Units that may still be spent.
    pub fn left(&self) -> u64 {
        self.max - self.spent
    }

    /// Takes units before the work is done. Takes nothing if they do not suffice.
    pub fn spend(&mut self, units: u64) -> Result<(), OutOfWork> {
        self.check(units)?;
        self.spent += units;
        Ok(())
    }

    /// Whether so many units are left.
    pub fn check(&self, units: u64) -> Result<(), OutOfWork> {
        if units <= self.left() {
            Ok(())
        } else {
            Err(OutOfWork)
        }
    }
}

/// The least that a conflict takes: every event in it is read, and in all
/// versions but the first judged.
///
/// Lets a caller know before anything else is done that a budget is short.
pub(super) fn least(version: RoomVersion, conflict: &Conflict) -> u64 {
    let judging = if version == RoomVersion::V1 { 0 } else { CHECK };
    conflict.events_count() as u64 * (EVENT + judging)
}
