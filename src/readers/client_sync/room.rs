//! The section of a room that the user is joined to, and what it shares with
//! that of a room that they left.

use std::collections::BTreeSet;
use std::sync::Arc;

use log_format::record::output::Membership;
use ruma::OwnedRoomId;
use serde::Serialize;
use serde_json::value::RawValue;

use super::SyncError;
use super::answer::Building;
use super::history::RoomHistory;
use super::memory::Standing;
use super::render;
use super::state::StateQuery;
use super::summary::Summary;
use super::timeline::{Shown, Timeline};
use super::unread::Counts;
use super::visible::Judge;
use crate::logs::log::PartitionId;
use crate::matrix::client_event::{Unsigned, content_of};
use crate::matrix::filter::EventFormat;
use crate::query::ids::RoomSn;
use crate::query::rooms::StoredEvent;

/// A room that an answer may have to tell of, copied from memory as of the
/// answer's position.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub room_id: OwnedRoomId,
    pub partition: PartitionId,
    pub room: RoomSn,
    pub standing: Standing,
}

/// A list of events, as most sections are.
#[derive(Debug, Default, Serialize)]
pub struct Events {
    pub events: Vec<Box<RawValue>>,
}

impl Events {
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

/// `TimelineBatch`.
#[derive(Debug, Serialize)]
pub struct TimelineBatch {
    events: Vec<Box<RawValue>>,
    limited: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_batch: Option<String>,
}

/// `state` or `state_after`, whichever the client asked for.
#[derive(Debug, Serialize)]
pub enum State {
    #[serde(rename = "state")]
    Before(Events),
    #[serde(rename = "state_after")]
    After(Events),
}

impl State {
    pub fn new(after: bool, events: Vec<Box<RawValue>>) -> State {
        match after {
            true => State::After(Events { events }),
            false => State::Before(Events { events }),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            State::Before(events) | State::After(events) => events.is_empty(),
        }
    }
}

/// `Joined Room`.
#[derive(Debug, Serialize)]
pub struct JoinedRoom {
    #[serde(skip_serializing_if = "Summary::is_empty")]
    summary: Summary,
    #[serde(flatten)]
    state: State,
    timeline: TimelineBatch,
    ephemeral: Events,
    account_data: Events,
    unread_notifications: Counts,
}

/// What of a room's log the answer covers for this client.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    /// First offset whose events the client may not have.
    pub from: u64,
    /// Offset behind the last one.
    pub to: u64,
    /// Offset as of which the client knows the room's state; none if it does not.
    pub known_at: Option<u64>,
    /// The client saw an earlier part of the room, which does not reach `from`.
    pub gap: bool,
}

impl<'a> Building<'a> {
    /// A joined room; none if there is nothing to tell of it.
    pub fn joined_room(
        &mut self,
        candidate: &Candidate,
        changed_data: Option<BTreeSet<String>>,
    ) -> Result<Option<JoinedRoom>, SyncError> {
        let history = self.history(candidate);
        let stretch = self.stretch(&history, candidate)?;
        let fresh = stretch.known_at.is_none();
        let mut judge = Judge::new(&history, &self.request.user, candidate.standing)?;
        let filter = self.request.filter.clone();
        let mut timeline = Timeline::load(
            &history,
            &mut judge,
            &filter.room.timeline,
            stretch.from,
            stretch.to,
        )?;
        if !self.request.use_state_after {
            timeline.settle(&history, stretch.to)?;
        }

        let members_changed = match stretch.known_at {
            None => true,
            Some(since) => history
                .changes(since, stretch.to)?
                .keys()
                .any(|key| &*key.kind == "m.room.member" || is_name(&key.kind)),
        };
        let summary = match members_changed {
            true => {
                let state = history.state_at(stretch.to)?;
                Summary::load(&history, &state, &self.request.user)?
            }
            false => Summary::default(),
        };
        let state = StateQuery {
            history: &history,
            timeline: &timeline,
            filter: &filter.room.state,
            user: &self.request.user,
            known_at: stretch.known_at.filter(|_| !self.request.full_state),
            to: stretch.to,
            after: self.request.use_state_after,
            heroes: summary.heroes.as_deref().unwrap_or_default(),
        }
        .events(&mut self.known_members)?;
        let state = self.state_events(&state)?;
        let account_data = self.room_account_data(&candidate.room_id, changed_data, fresh)?;
        let nothing = timeline.shown.is_empty()
            && !timeline.limited
            && state.is_empty()
            && account_data.is_empty()
            && summary.is_empty();
        if nothing && !fresh && !self.request.full_state {
            return Ok(None);
        }
        let unread_notifications = self.sync.unread.counts(
            &history,
            &self.request.user,
            &candidate.standing,
            stretch.to,
        )?;
        if !self.request.use_state_after {
            timeline.settle(&history, stretch.to)?;
        }
        Ok(Some(JoinedRoom {
            summary,
            state,
            timeline: self.timeline_batch(&history, &mut judge, &timeline, stretch)?,
            ephemeral: Events::default(),
            account_data,
            unread_notifications,
        }))
    }

    /// What of a joined room the client does not have.
    fn stretch(
        &self,
        history: &RoomHistory<'_>,
        candidate: &Candidate,
    ) -> Result<Stretch, SyncError> {
        let to = self.to(candidate.partition);
        let Some(since) = self.since(candidate.partition) else {
            return Ok(Stretch {
                from: 0,
                to,
                known_at: None,
                gap: false,
            });
        };
        let joined_at = candidate.standing.joined_at.unwrap_or(to);
        if joined_at < since {
            return Ok(Stretch {
                from: since,
                to,
                known_at: Some(since),
                gap: false,
            });
        }
        // Joined since: everything is new, but for what was told while the user
        // was in the room before.
        let from = self.told_before(history, since, joined_at)?;
        Ok(Stretch {
            from,
            to,
            known_at: None,
            gap: from > 0,
        })
    }

    /// Behind the last event that was told during an earlier stay, which ended
    /// before `joined_at`; 0 if there was none.
    pub fn told_before(
        &self,
        history: &RoomHistory<'_>,
        since: u64,
        joined_at: u64,
    ) -> Result<u64, SyncError> {
        let mut told = 0;
        let mut joined = false;
        for (offset, row) in history.memberships(&self.request.user, 0, joined_at)? {
            if offset >= since {
                break;
            }
            let joins = row.membership == Membership::Join;
            if joined && !joins {
                told = offset + 1;
            }
            joined = joins;
        }
        Ok(if joined { since } else { told })
    }

    /// A timeline as it is sent.
    pub fn timeline_batch(
        &self,
        history: &RoomHistory<'_>,
        judge: &mut Judge<'_>,
        timeline: &Timeline,
        stretch: Stretch,
    ) -> Result<TimelineBatch, SyncError> {
        let mut events = Vec::with_capacity(timeline.shown.len());
        for shown in &timeline.shown {
            events.push(self.timeline_event(history, judge, shown)?);
        }
        Ok(TimelineBatch {
            events,
            limited: timeline.limited || stretch.gap,
            prev_batch: timeline.prev_batch(&self.token.vector),
        })
    }

    fn timeline_event(
        &self,
        history: &RoomHistory<'_>,
        judge: &mut Judge<'_>,
        shown: &Shown,
    ) -> Result<Box<RawValue>, SyncError> {
        let event = &shown.event;
        if self.request.filter.event_format == EventFormat::Federation {
            return render::federation_event(event);
        }
        let beside: Vec<_> = event
            .replaces
            .into_iter()
            .chain(event.redacted_by)
            .collect();
        let beside = match beside.is_empty() {
            true => Vec::new(),
            false => history.rooms.events(&history.room_id, &beside)?,
        };
        let find = |wanted| beside.iter().find(|found| Some(found.event) == wanted);
        let replaced = find(event.replaces);
        let may_see = match replaced {
            Some(replaced) => judge.may_see_replaced(replaced)?,
            None => false,
        };
        let redaction = match find(event.redacted_by) {
            Some(redaction) => Some(render::client_event(redaction, self.aged(redaction))?),
            None => None,
        };
        // What was replaced is named even where its content may not be shown.
        let prev_content = match replaced.filter(|_| may_see) {
            Some(replaced) => Some(content_of(&replaced.json)?),
            None => None,
        };
        let unsigned = Unsigned {
            membership: Some(shown.membership),
            transaction_id: self.transaction_id(event),
            prev_content,
            replaces_state: replaced.map(|replaced| &*replaced.event_id),
            redacted_because: redaction.as_deref().map(RawValue::get),
            ..self.aged(event)
        };
        self.fields(render::client_event(event, unsigned)?)
    }

    /// How old the event is, and nothing else.
    fn aged(&self, event: &StoredEvent) -> Unsigned<'static> {
        Unsigned {
            age: Some(self.now_ms as i64 - event.origin_server_ts as i64),
            ..Unsigned::default()
        }
    }

    /// The fields that the client asked for.
    fn fields(&self, event: Box<RawValue>) -> Result<Box<RawValue>, SyncError> {
        match &self.request.filter.event_fields {
            Some(fields) => Ok(fields.project(&event)?),
            None => Ok(event),
        }
    }

    /// The transaction id, for the device that sent the event.
    fn transaction_id<'e>(&self, event: &'e StoredEvent) -> Option<&'e str> {
        let (device, transaction) = event.transaction.as_ref()?;
        let own = event.sender == self.request.user && *device == self.request.device;
        own.then_some(&**transaction)
    }

    /// State events as they are sent.
    pub fn state_events(&self, state: &[Arc<StoredEvent>]) -> Result<State, SyncError> {
        let federation = self.request.filter.event_format == EventFormat::Federation;
        let events = state
            .iter()
            .map(|event| match federation {
                true => render::federation_event(event),
                false => self.fields(render::client_event(event, self.aged(event))?),
            })
            .collect::<Result<_, _>>()?;
        Ok(State::new(self.request.use_state_after, events))
    }
}

/// State by which a room is named, and whose absence asks for heroes.
fn is_name(kind: &str) -> bool {
    kind == "m.room.name" || kind == "m.room.canonical_alias"
}
