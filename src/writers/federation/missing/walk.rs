//! The walk back from an event to what is known, by `get_missing_events`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use ruma::{EventId, OwnedEventId, RoomId};
use tokio::time::Instant;

use super::budget::Budget;
use super::{GapError, Inner, Place};
use crate::limits::MISSING_EVENTS_MAX;
use crate::logs::log::NewRecord;
use crate::matrix::canonical_json::{Numbers, parse_object_with};
use crate::matrix::event::Pdu;
use crate::outbound::federation::missing_events::{Between, missing_events};
use crate::query::rooms::{QueryError, Rooms};
use crate::writers::federation::past;
use crate::writers::federation::pdu_checks::CheckedPdu;
use crate::writers::submit::{PendingSubmit, SubmitError, Submitter};

/// Events that are appended at a time.
const BATCH_EVENTS: usize = 50;
/// How long what was appended may take to be folded: the event behind it is
/// appended all the same, and waits for it in the room server.
const FOLD_MAX: Duration = Duration::from_secs(30);

/// Events that lead from one event back towards what is known.
#[derive(Default)]
pub struct Walked {
    held: BTreeMap<OwnedEventId, CheckedPdu>,
    /// Those of them that may not come in.
    denied: BTreeSet<OwnedEventId>,
}

impl Walked {
    /// One event.
    pub fn of(event: CheckedPdu) -> Walked {
        Walked {
            held: BTreeMap::from([(event.pdu.event_id.clone(), event)]),
            denied: BTreeSet::new(),
        }
    }

    pub fn holds(&self, id: &EventId) -> bool {
        self.held.contains_key(id)
    }

    /// Leaves out those that may not come in; the others keep their order.
    pub fn deny<E>(&mut self, is_denied: impl Fn(&Pdu) -> Result<bool, E>) -> Result<(), E> {
        for (id, event) in &self.held {
            if is_denied(&event.pdu)? {
                self.denied.insert(id.clone());
            }
        }
        Ok(())
    }

    fn taken(&self) -> impl Iterator<Item = &Pdu> {
        let events = self.held.iter();
        let taken = events.filter(|(id, _)| !self.denied.contains(*id));
        taken.map(|(_, event)| &event.pdu)
    }

    /// The events that build on some that may not come in, by id.
    pub fn behind_denied(&self) -> Vec<OwnedEventId> {
        let builds = |pdu: &&Pdu| pdu.prev_events.iter().any(|id| self.denied.contains(id));
        let found = self.taken().filter(builds);
        found.map(|pdu| pdu.event_id.clone()).collect()
    }

    /// What the events build on that is neither here nor among them, by id.
    pub fn open_ends(&self, rooms: &dyn Rooms) -> Result<Vec<OwnedEventId>, QueryError> {
        let mut open = BTreeSet::new();
        for pdu in self.taken() {
            let missing = past::missing(rooms, pdu, |id| self.held.contains_key(id))?;
            open.extend(missing.prev_events);
        }
        Ok(open.into_iter().collect())
    }

    /// The events, each behind those that it builds on.
    pub fn oldest_first(self) -> Vec<CheckedPdu> {
        let mut held = self.held;
        let mut order: Vec<OwnedEventId> = Vec::with_capacity(held.len());
        let mut seen: HashSet<&EventId> = HashSet::new();
        let mut path: Vec<(&EventId, usize)> = Vec::new();
        for start in held.keys() {
            if !seen.insert(start) {
                continue;
            }
            path.push((start, 0));
            while let Some((id, taken)) = path.last_mut() {
                let previous = held
                    .get(*id)
                    .map_or(&[][..], |event| &event.pdu.prev_events);
                match previous.get(*taken) {
                    Some(next) => {
                        *taken += 1;
                        if let Some((next, _)) = held.get_key_value(next)
                            && seen.insert(next)
                        {
                            path.push((next, 0));
                        }
                    }
                    None => {
                        order.push((*id).to_owned());
                        path.pop();
                    }
                }
            }
        }
        let order = order.into_iter().filter(|id| !self.denied.contains(id));
        order.filter_map(|id| held.remove(&id)).collect()
    }
}

impl Inner {
    /// Walks back from an event over what is missing, as far as the servers tell
    /// and the budget goes. What does not lie on the way is not taken.
    pub(super) async fn walk(
        &self,
        place: &Place<'_>,
        event: &Pdu,
        missing: &[OwnedEventId],
        budget: &mut Budget,
    ) -> Result<Walked, GapError> {
        let mut walked = Walked::default();
        let mut open: BTreeSet<OwnedEventId> = missing.iter().cloned().collect();
        for server in &place.servers {
            while !open.is_empty() && budget.request() {
                let latest = latest(event, &walked, &open);
                let between = Between {
                    earliest: &place.extremities,
                    latest: &latest,
                };
                let answer = missing_events(&self.parts.client, server, place.room, between).await;
                let found = match answer {
                    Ok(answer) => self.checked(place, answer).await,
                    Err(error) => {
                        tracing::debug!(%server, %error, "missing events were not told");
                        break;
                    }
                };
                if !self.take(found, &mut walked, &mut open, budget)? {
                    break;
                }
            }
        }
        Ok(walked)
    }

    pub(super) async fn checked(
        &self,
        place: &Place<'_>,
        answer: Vec<bytes::Bytes>,
    ) -> BTreeMap<OwnedEventId, (CheckedPdu, usize)> {
        let sizes: Vec<usize> = answer.iter().map(bytes::Bytes::len).collect();
        let parsed = answer
            .iter()
            // What is no JSON is no event either, and refused as such.
            .map(|event| parse_object_with(event, Numbers::Kept).unwrap_or_default());
        let checked = self.parts.checks.check_all(place.version, parsed.collect());
        let checked = checked.await.into_iter().zip(sizes);
        let of_room = checked.filter_map(|(event, size)| match event {
            Ok(event) if event.pdu.room_id == place.room => {
                Some((event.pdu.event_id.clone(), (event, size)))
            }
            Ok(_) => None,
            Err(refusal) => {
                tracing::debug!(%refusal, "missing event is dropped");
                None
            }
        });
        of_room.collect()
    }

    /// Takes what lies on the way, and says whether anything did.
    fn take(
        &self,
        mut found: BTreeMap<OwnedEventId, (CheckedPdu, usize)>,
        walked: &mut Walked,
        open: &mut BTreeSet<OwnedEventId>,
        budget: &mut Budget,
    ) -> Result<bool, QueryError> {
        let before = walked.held.len();
        while let Some(id) = open.iter().find(|id| found.contains_key(*id)).cloned() {
            let Some((event, size)) = found.remove(&id) else {
                break;
            };
            if !budget.event(size) {
                return Ok(false);
            }
            open.remove(&id);
            let comes = |id: &EventId| walked.held.contains_key(id);
            let missing = past::missing(&*self.parts.rooms, &event.pdu, comes)?;
            open.extend(missing.prev_events);
            walked.held.insert(id, event);
        }
        Ok(walked.held.len() > before)
    }
}

/// Where the walk goes on: at events that build on what is missing.
fn latest<'a>(
    event: &'a Pdu,
    walked: &'a Walked,
    open: &BTreeSet<OwnedEventId>,
) -> Vec<&'a EventId> {
    let held = walked.held.values().map(|event| &event.pdu);
    let all = held.chain(std::iter::once(event));
    let builds_on_open = all.filter(|event| event.prev_events.iter().any(|id| open.contains(id)));
    let ids = builds_on_open.map(|event| &*event.event_id);
    ids.take(MISSING_EVENTS_MAX).collect()
}

/// Events on their way into the log, one behind the other.
pub struct Batch<'a> {
    room: &'a RoomId,
    submitter: &'a Submitter,
    records: Vec<NewRecord>,
    ids: HashSet<OwnedEventId>,
    pending: Option<PendingSubmit>,
}

impl<'a> Batch<'a> {
    pub fn new(room: &'a RoomId, submitter: &'a Submitter) -> Batch<'a> {
        Batch {
            room,
            submitter,
            records: Vec::new(),
            ids: HashSet::new(),
            pending: None,
        }
    }

    /// Ids of what was pushed.
    pub fn ids(&self) -> &HashSet<OwnedEventId> {
        &self.ids
    }

    pub async fn push(
        &mut self,
        event_id: OwnedEventId,
        record: NewRecord,
    ) -> Result<(), SubmitError> {
        self.records.push(record);
        self.ids.insert(event_id);
        match self.records.len() >= BATCH_EVENTS {
            true => self.flush().await,
            false => Ok(()),
        }
    }

    async fn flush(&mut self) -> Result<(), SubmitError> {
        let records = std::mem::take(&mut self.records);
        if records.is_empty() {
            return Ok(());
        }
        if let Some(before) = self.pending.take() {
            before.durable().await?;
        }
        self.pending = Some(self.submitter.enqueue(self.room.as_str(), records)?);
        Ok(())
    }

    /// Waits until all of it is durable, and a while for it to be folded.
    pub async fn finish(mut self) -> Result<(), SubmitError> {
        self.flush().await?;
        if let Some(last) = self.pending.take() {
            let durable = last.durable().await?;
            durable.outcome_by(Instant::now() + FOLD_MAX).await?;
        }
        Ok(())
    }
}
