//! The sequencer: one order per room for what local users write.
//!
//! It picks `prev_events` and `auth_events`, has the event built and signed,
//! and hands it to the append while it holds the room's gate, so local senders
//! never fork the graph. A message may build on one that is appended but not
//! yet folded; a state event, and what follows one, waits for the fold. Only an
//! invite that another server has to sign stands beside what came meanwhile.
//!
//! Lock order: a line's `gate`, then its `tip`. The gate of a message is never
//! held across an await; that of a state event is held until its fold.

mod standing;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use dashmap::DashMap;
use log_format::record::input::{Placement, Transaction};
use log_format::record::output::{Decision, Reason};
use parking_lot::Mutex;
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use tokio::sync::Notify;

use self::standing::standing;
use super::authorize::{authorize, check, message_auth_events};
use super::event_builder::{Built, Draft, EventBuilder, Parents, RecordFields, reference_to};
use super::room_error::RoomWriteError;
use crate::limits::{INTEGER_MAX, PREV_EVENTS_MAX};
use crate::logs::log::NewRecord;
use crate::matrix::build::EventRef;
use crate::query::ids::{EventSn, StateId};
use crate::query::rooms::{RoomHead, Rooms};
use crate::writers::federation::policy_servers::PolicyServers;
use crate::writers::submit::{SubmitError, Submitted, Submitter};

/// How often an event is built anew because the fold saw another head.
const REBUILDS_MAX: usize = 16;
/// How often another server is asked to sign an event that is built anew.
const SIGNED_REBUILDS_MAX: usize = 3;
/// Rooms whose lines are kept; idle ones beyond it are dropped.
const LINES_MAX: usize = 16_384;
/// Senders whose auth events are remembered per room, so that a huge room stays small here.
const SENDERS_MAX: usize = 1_024;

/// Where the next event of a room goes while earlier ones are not yet folded.
#[derive(Clone, Debug)]
struct PendingTip {
    event: EventRef,
    depth: u64,
    state_id: StateId,
}

/// The auth events of a member's messages, as of one state.
#[derive(Default)]
struct AuthEvents {
    state_id: Option<StateId>,
    by_sender: HashMap<OwnedUserId, Arc<[EventRef]>>,
}

impl AuthEvents {
    fn find(&self, state_id: StateId, sender: &UserId) -> Option<Arc<[EventRef]>> {
        if self.state_id != Some(state_id) {
            return None;
        }
        self.by_sender.get(sender).cloned()
    }

    fn remember(&mut self, state_id: StateId, sender: &UserId, events: Arc<[EventRef]>) {
        if self.state_id != Some(state_id) || self.by_sender.len() >= SENDERS_MAX {
            self.state_id = Some(state_id);
            self.by_sender.clear();
        }
        self.by_sender.insert(sender.to_owned(), events);
    }
}

#[derive(Default)]
struct Tip {
    /// Counts refusals: what was built before one says nothing about the tip after it.
    generation: u64,
    pending: Option<PendingTip>,
    /// Requests under way by idempotency key; a repeat waits for the first.
    requests: HashMap<[u8; 16], Arc<Notify>>,
    auth_events: AuthEvents,
}

/// One room's line of local writes.
#[derive(Default)]
struct Line {
    gate: tokio::sync::Mutex<()>,
    tip: Mutex<Tip>,
    /// Told whenever `tip.pending` becomes none.
    drained: Notify,
}

impl Line {
    /// Waits until everything that was appended in this line is folded. Called
    /// with the gate held, so that nothing new is appended meanwhile.
    async fn drained(&self) {
        loop {
            let told = self.drained.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            if self.tip.lock().pending.is_none() {
                return;
            }
            told.await;
        }
    }

    /// Notes what became of an event that was built in `generation`.
    fn settle(&self, generation: u64, event_id: &EventId, kept: bool) {
        let mut tip = self.tip.lock();
        if tip.generation != generation {
            return;
        }
        if !kept {
            // What was built on it will be refused too; the query window's head
            // holds all that came before, and nothing behind it is to come.
            tip.generation += 1;
            tip.pending = None;
        } else if tip
            .pending
            .as_ref()
            .is_some_and(|tip| tip.event.event_id == event_id)
        {
            tip.pending = None;
        }
        if tip.pending.is_none() {
            self.drained.notify_waiters();
        }
    }
}

type Outcome = Result<Submitted, SubmitError>;

/// An appended message whose fold is awaited. Dropping it (its client went
/// away) leaves the waiting to a task, since the line must learn the outcome.
struct InFlight {
    line: Arc<Line>,
    generation: u64,
    event_id: OwnedEventId,
    outcome: Option<Pin<Box<dyn Future<Output = Outcome> + Send>>>,
}

impl InFlight {
    async fn settled(mut self) -> Outcome {
        let Some(outcome) = self.outcome.as_mut() else {
            return Err(SubmitError::Outcome(
                crate::query::outcome::OutcomeError::Stopped,
            ));
        };
        let outcome = outcome.as_mut().await;
        self.outcome = None;
        self.line
            .settle(self.generation, &self.event_id, is_kept(&outcome));
        outcome
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let Some(outcome) = self.outcome.take() else {
            return;
        };
        let (line, generation) = (self.line.clone(), self.generation);
        let event_id = self.event_id.clone();
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                let outcome = outcome.await;
                line.settle(generation, &event_id, is_kept(&outcome));
            })),
            // Without a runtime nothing more is written in this process.
            Err(_) => line.settle(generation, &event_id, false),
        }
    }
}

/// Whether the event is part of the room; a duplicate's is not.
fn is_kept(outcome: &Outcome) -> bool {
    matches!(outcome, Ok(done) if done.outcome.decision == Decision::Accepted)
}

/// Removes a request from its line however it ends, and wakes its repeats.
struct RequestGuard {
    line: Arc<Line>,
    key: [u8; 16],
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        if let Some(waiters) = self.line.tip.lock().requests.remove(&self.key) {
            waiters.notify_waiters();
        }
    }
}

/// What there is to write.
enum Chosen {
    Nothing,
    /// The room's state says so already.
    Standing(OwnedEventId),
    Event(Box<Built>),
}

enum Claim {
    /// This request is the first with its key.
    First(RequestGuard),
    /// An earlier one made this event.
    Done(OwnedEventId),
}

/// A client's transaction: the key that makes a repeat recognisable, and what
/// `/sync` echoes to the device.
#[derive(Clone, Debug)]
pub struct ClientTransaction {
    pub idempotency: [u8; 16],
    pub echo: Transaction,
}

/// Decides, on the head it is given and with the line held, what state event to
/// write; none if there is nothing to do.
pub type StateChoice =
    Box<dyn FnMut(&RoomHead) -> Result<Option<Draft>, RoomWriteError> + Send + 'static>;

/// Work that must be done, once, before a state event is appended, and that may
/// name it. If it fails, nothing is appended.
pub type Beforehand = Box<dyn FnOnce(OwnedEventId) -> Work + Send + 'static>;
/// See [`Beforehand`].
pub type Work = Pin<Box<dyn Future<Output = Result<(), RoomWriteError>> + Send>>;

/// Has another server sign a state event that was built on a head: its id and
/// its JSON go in, its record comes out. Asked again if the event is built anew.
pub type Countersign =
    Box<dyn FnMut(Arc<RoomHead>, OwnedEventId, Vec<u8>) -> Countersigned + Send + 'static>;
/// See [`Countersign`].
pub type Countersigned = Pin<Box<dyn Future<Output = Result<NewRecord, RoomWriteError>> + Send>>;

/// See the module's header. Cheap to clone.
#[derive(Clone)]
pub struct Sequencer {
    shared: Arc<Shared>,
}

struct Shared {
    submitter: Submitter,
    rooms: Arc<dyn Rooms>,
    builder: Arc<EventBuilder>,
    /// Asked before an event is appended, with the room's line held: where a room
    /// uses a policy server, it has one event under way at a time.
    policies: PolicyServers,
    lines: DashMap<OwnedRoomId, Arc<Line>>,
}

impl Sequencer {
    pub fn new(
        submitter: Submitter,
        rooms: Arc<dyn Rooms>,
        builder: Arc<EventBuilder>,
        policies: PolicyServers,
    ) -> Sequencer {
        Sequencer {
            shared: Arc::new(Shared {
                submitter,
                rooms,
                builder,
                policies,
                lines: DashMap::new(),
            }),
        }
    }

    /// Sends a non-state event and waits until it is durable and folded.
    ///
    /// A repeat with the same idempotency key gives the first one's event id,
    /// across restarts too.
    pub async fn send(
        &self,
        room_id: &RoomId,
        draft: &Draft,
        transaction: Option<&ClientTransaction>,
    ) -> Result<OwnedEventId, RoomWriteError> {
        let line = self.shared.line(room_id);
        let _request = match transaction {
            None => None,
            Some(transaction) => {
                let key = &transaction.idempotency;
                match self.shared.claim(&line, room_id, key).await? {
                    Claim::Done(event_id) => return Ok(event_id),
                    Claim::First(guard) => Some(guard),
                }
            }
        };
        for _ in 0..REBUILDS_MAX {
            let in_flight = self
                .shared
                .append_message(&line, room_id, draft, transaction)
                .await?;
            let event_id = in_flight.event_id.clone();
            match in_flight.settled().await {
                Ok(done) => return Ok(done.duplicate_of().cloned().unwrap_or(event_id)),
                Err(refusal) => rebuild_or_give_up(refusal)?,
            }
        }
        Err(RoomWriteError::Contended)
    }

    /// Writes the state event that `choose` decides on, and waits until it is
    /// durable and folded. None if there was nothing to write. Where the room
    /// has the very same state from the same sender, that event is answered
    /// and none is written.
    ///
    /// It goes on by itself when the caller is dropped: followers must not
    /// build before its fold.
    pub async fn set_state(
        &self,
        room_id: &RoomId,
        choose: StateChoice,
    ) -> Result<Option<OwnedEventId>, RoomWriteError> {
        self.spawn_state(room_id, choose, None).await
    }

    /// [`Sequencer::set_state`] with work that is done when the event is allowed
    /// and built. Should others be faster meanwhile, the event is built anew and
    /// has another id than the one that the work was told.
    ///
    /// Must not write to the same room by this sequencer, whose line is held.
    pub async fn set_state_after(
        &self,
        room_id: &RoomId,
        choose: StateChoice,
        before: Beforehand,
    ) -> Result<Option<OwnedEventId>, RoomWriteError> {
        self.spawn_state(room_id, choose, Some(before)).await
    }

    /// Writes a state event that another server signs as well. The room does not
    /// wait for that server: what is written meanwhile stands beside the event.
    pub async fn set_state_signed(
        &self,
        room_id: &RoomId,
        choose: StateChoice,
        countersign: Countersign,
    ) -> Result<Option<OwnedEventId>, RoomWriteError> {
        let shared = self.shared.clone();
        let room_id = room_id.to_owned();
        let work = async move { shared.write_signed(&room_id, choose, countersign).await };
        match tokio::spawn(work).await {
            Ok(written) => written,
            Err(_) => Err(RoomWriteError::Stopping),
        }
    }

    async fn spawn_state(
        &self,
        room_id: &RoomId,
        choose: StateChoice,
        before: Option<Beforehand>,
    ) -> Result<Option<OwnedEventId>, RoomWriteError> {
        let shared = self.shared.clone();
        let room_id = room_id.to_owned();
        let work = async move { shared.write_state(&room_id, choose, before).await };
        match tokio::spawn(work).await {
            Ok(written) => written,
            Err(_) => Err(RoomWriteError::Stopping),
        }
    }
}

/// What is refused because others were faster is built again.
fn rebuild_or_give_up(refusal: SubmitError) -> Result<(), RoomWriteError> {
    match refusal {
        SubmitError::Refused(Reason::Rebase | Reason::MissingEvents) => Ok(()),
        SubmitError::Refused(Reason::UnknownRoom) => Err(RoomWriteError::UnknownRoom),
        SubmitError::Refused(Reason::Forbidden) => Err(RoomWriteError::Forbidden(
            "the room does not allow this event".into(),
        )),
        other => Err(other.into()),
    }
}

impl Shared {
    fn line(&self, room_id: &RoomId) -> Arc<Line> {
        if let Some(line) = self.lines.get(room_id) {
            return line.clone();
        }
        if self.lines.len() >= LINES_MAX {
            // Whoever writes to a room holds its line, so one that only the map
            // holds is idle and remembers nothing that matters.
            self.lines.retain(|_, line| Arc::strong_count(line) > 1);
        }
        self.lines.entry(room_id.to_owned()).or_default().clone()
    }

    async fn claim(
        &self,
        line: &Arc<Line>,
        room_id: &RoomId,
        key: &[u8; 16],
    ) -> Result<Claim, RoomWriteError> {
        loop {
            let earlier = {
                let mut tip = line.tip.lock();
                match tip.requests.get(key) {
                    Some(earlier) => earlier.clone().notified_owned(),
                    None => {
                        tip.requests.insert(*key, Arc::default());
                        break;
                    }
                }
            };
            earlier.await;
        }
        let guard = RequestGuard {
            line: line.clone(),
            key: *key,
        };
        Ok(match self.rooms.transaction(room_id, key)? {
            Some(event_id) => Claim::Done(event_id),
            None => Claim::First(guard),
        })
    }

    /// Builds a message on the newest head, appended or folded, and appends it.
    async fn append_message(
        &self,
        line: &Arc<Line>,
        room_id: &RoomId,
        draft: &Draft,
        transaction: Option<&ClientTransaction>,
    ) -> Result<InFlight, RoomWriteError> {
        let _gate = line.gate.lock().await;
        let (head, known, parents) = loop {
            // The tip first: once it says that nothing is pending, the head
            // that is asked for next has it all.
            let pending = line.tip.lock().pending.clone();
            let head = self.head(room_id)?;
            let parents = match pending {
                None => parents_of(&*self.rooms, &head)?,
                Some(tip) if tip.state_id == head.state_id && head.extremities.len() == 1 => {
                    Parents {
                        prev_events: vec![tip.event],
                        depth: depth_behind(tip.depth),
                    }
                }
                // Others changed the state or forked the room below what is in
                // flight: build on what is folded.
                Some(_) => {
                    line.drained().await;
                    continue;
                }
            };
            let tip = line.tip.lock();
            let known = tip.auth_events.find(head.state_id, &draft.sender);
            drop(tip);
            break (head, known, parents);
        };
        let version = head.authority.create_info.version;
        check(&head, version, draft, &parents)?;
        let auth_events = match known {
            Some(auth_events) => auth_events,
            None => {
                let found = message_auth_events(&*self.rooms, &head, version, &draft.sender)?;
                let mut tip = line.tip.lock();
                tip.auth_events
                    .remember(head.state_id, &draft.sender, found.clone());
                found
            }
        };
        let depth = parents.depth;
        let fields = RecordFields {
            room_id: Some(room_id),
            version,
            parents,
            auth_events: &auth_events,
            transaction,
            placement: Placement::New,
            batch: (0, 1),
        };
        let built = self.builder.build(draft, fields)?;
        let event_id = built.event_id;
        let record = self.policies.recommended(&head, built.record).await?;
        // The tip's lock covers the enqueue, so that the outcome cannot be
        // settled before the tip knows of the event.
        let mut tip = line.tip.lock();
        let pending = self.submitter.enqueue(room_id.as_str(), vec![record])?;
        tip.pending = Some(PendingTip {
            event: built.reference,
            depth,
            state_id: head.state_id,
        });
        // Were the tip refused since it was read, this event is refused with it
        // and must take the new tip along, so it belongs to the new generation.
        let generation = tip.generation;
        drop(tip);
        Ok(InFlight {
            line: line.clone(),
            generation,
            event_id,
            outcome: Some(Box::pin(pending.finish())),
        })
    }

    async fn write_signed(
        &self,
        room_id: &RoomId,
        mut choose: StateChoice,
        mut countersign: Countersign,
    ) -> Result<Option<OwnedEventId>, RoomWriteError> {
        let line = self.line(room_id);
        for _ in 0..SIGNED_REBUILDS_MAX {
            let (head, built) = {
                let _gate = line.gate.lock().await;
                line.drained().await;
                let head = self.head(room_id)?;
                match self.build_state(&head, &mut choose)? {
                    Chosen::Nothing => return Ok(None),
                    Chosen::Standing(event_id) => return Ok(Some(event_id)),
                    Chosen::Event(built) => (head, built),
                }
            };
            let signed = countersign(head.clone(), built.event_id.clone(), built.json);
            let record = signed.await?;
            let record = self.policies.recommended(&head, record).await?;
            let _gate = line.gate.lock().await;
            line.drained().await;
            let pending = self.submitter.enqueue(room_id.as_str(), vec![record])?;
            match pending.finish().await {
                Ok(_) => return Ok(Some(built.event_id)),
                Err(refusal) => rebuild_or_give_up(refusal)?,
            }
        }
        Err(RoomWriteError::Contended)
    }

    /// Builds what is chosen on a head.
    fn build_state(
        &self,
        head: &Arc<RoomHead>,
        choose: &mut StateChoice,
    ) -> Result<Chosen, RoomWriteError> {
        let Some(draft) = choose(head)? else {
            return Ok(Chosen::Nothing);
        };
        let version = head.authority.create_info.version;
        let parents = parents_of(&*self.rooms, head)?;
        let auth_events = authorize(&*self.rooms, head, version, &draft, &parents)?;
        if let Some(same) = standing(&*self.rooms, head, &draft)? {
            return Ok(Chosen::Standing(same));
        }
        let fields = RecordFields {
            room_id: Some(&head.room_id),
            version,
            parents,
            auth_events: &auth_events,
            transaction: None,
            placement: Placement::New,
            batch: (0, 1),
        };
        let built = self.builder.build(&draft, fields)?;
        Ok(Chosen::Event(Box::new(built)))
    }

    async fn write_state(
        &self,
        room_id: &RoomId,
        mut choose: StateChoice,
        mut before: Option<Beforehand>,
    ) -> Result<Option<OwnedEventId>, RoomWriteError> {
        let line = self.line(room_id);
        let _gate = line.gate.lock().await;
        for _ in 0..REBUILDS_MAX {
            line.drained().await;
            let head = self.head(room_id)?;
            let built = match self.build_state(&head, &mut choose)? {
                Chosen::Nothing => return Ok(None),
                Chosen::Standing(event_id) => return Ok(Some(event_id)),
                Chosen::Event(built) => built,
            };
            if let Some(before) = before.take() {
                before(built.event_id.clone()).await?;
            }
            let record = self.policies.recommended(&head, built.record).await?;
            let pending = self.submitter.enqueue(room_id.as_str(), vec![record])?;
            match pending.finish().await {
                Ok(done) => {
                    let first = done.duplicate_of().cloned();
                    return Ok(Some(first.unwrap_or(built.event_id)));
                }
                Err(refusal) => rebuild_or_give_up(refusal)?,
            }
        }
        Err(RoomWriteError::Contended)
    }

    fn head(&self, room_id: &RoomId) -> Result<Arc<RoomHead>, RoomWriteError> {
        self.rooms.head(room_id)?.ok_or(RoomWriteError::UnknownRoom)
    }
}

/// What the next event builds on when nothing is in flight: the deepest forward
/// extremities, as many as an event may name. So a room with many of them has
/// fewer with each event that is sent here.
pub fn parents_of(rooms: &dyn Rooms, head: &RoomHead) -> Result<Parents, RoomWriteError> {
    let mut tips: Vec<_> = head.extremities.iter().collect();
    tips.sort_by(|a, b| b.depth.cmp(&a.depth).then(a.event_id.cmp(&b.event_id)));
    tips.truncate(PREV_EVENTS_MAX);
    let version = head.authority.create_info.version;
    let prev_events = if version.has_event_id_field() {
        let tips: Vec<EventSn> = tips.iter().map(|tip| tip.event).collect();
        let events = rooms.events(&head.room_id, &tips)?;
        let references = events.iter().map(|event| reference_to(version, event));
        references.collect()
    } else {
        let ids = tips.iter().map(|tip| tip.event_id.clone());
        ids.map(EventRef::from).collect()
    };
    Ok(Parents {
        prev_events,
        depth: depth_behind(tips.first().map_or(0, |tip| tip.depth)),
    })
}

/// The depth of what builds on an event of this depth. Another server may have
/// sent the greatest one that there is; then all that follow share it.
fn depth_behind(depth: u64) -> u64 {
    depth.saturating_add(1).min(INTEGER_MAX.unsigned_abs())
}
