//! A stretch of the past, as another server told it: what leads back from a gap,
//! and nothing else that was in the answer.

use std::collections::{HashMap, HashSet};

use ruma::{EventId, OwnedEventId, RoomId};

use super::gap::{Gap, is_placed};
use crate::matrix::event::Pdu;
use crate::query::rooms::{QueryError, Rooms};
use crate::writers::federation::past::has_state;
use crate::writers::federation::pdu_checks::CheckedPdu;

/// Events in the order in which they are appended.
pub struct Chunk {
    /// The oldest first, each behind those that it builds on; and whether one is
    /// a loose end: the state before it cannot be told by what is here.
    pub events: Vec<(CheckedPdu, bool)>,
}

impl Chunk {
    /// What of an answer leads back from a gap and is not here.
    pub fn of(
        rooms: &dyn Rooms,
        room: &RoomId,
        gap: &Gap,
        told: impl IntoIterator<Item = CheckedPdu>,
    ) -> Result<Chunk, QueryError> {
        let mut by_id: HashMap<OwnedEventId, CheckedPdu> = HashMap::new();
        for event in told {
            let id = &event.pdu.event_id;
            let is_of_room = event.pdu.room_id == *room && *id != gap.before;
            if is_of_room && !is_placed(rooms, room, id)? {
                by_id.entry(id.clone()).or_insert(event);
            }
        }
        let order = order(&by_id, &gap.missing);
        let mut events = Vec::with_capacity(order.len());
        let in_order: HashSet<_> = order.iter().cloned().collect();
        for id in order {
            let Some(event) = by_id.remove(&id) else {
                continue;
            };
            let is_loose = is_loose(rooms, &event.pdu, |id| in_order.contains(id))?;
            events.push((event, is_loose));
        }
        Ok(Chunk { events })
    }
}

/// The ids that are reached back from `missing`, each behind those that it builds on.
fn order(by_id: &HashMap<OwnedEventId, CheckedPdu>, missing: &[OwnedEventId]) -> Vec<OwnedEventId> {
    enum Step<'a> {
        Look(&'a OwnedEventId),
        Done(&'a OwnedEventId),
    }
    let mut begun: HashSet<&OwnedEventId> = HashSet::new();
    let mut order = Vec::with_capacity(by_id.len());
    let mut steps: Vec<Step<'_>> = missing.iter().rev().map(Step::Look).collect();
    while let Some(step) = steps.pop() {
        match step {
            Step::Done(id) => order.push(id.clone()),
            Step::Look(id) => {
                let Some(event) = by_id.get(id).filter(|_| begun.insert(id)) else {
                    continue;
                };
                steps.push(Step::Done(id));
                steps.extend(event.pdu.prev_events.iter().rev().map(Step::Look));
            }
        }
    }
    order
}

/// Whether the state before an event is known neither from what is here nor from
/// what comes with it.
pub fn is_loose(
    rooms: &dyn Rooms,
    pdu: &Pdu,
    comes: impl Fn(&EventId) -> bool,
) -> Result<bool, QueryError> {
    for id in &pdu.prev_events {
        if comes(id) {
            continue;
        }
        let known = rooms.event(&pdu.room_id, id)?;
        if !known.is_some_and(|known| has_state(&known)) {
            return Ok(true);
        }
    }
    Ok(false)
}
