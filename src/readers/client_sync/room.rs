//! The section of a room that the user is joined to, and what it shares with
//! that of a room that they left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use log_format::record::output::Membership;
use ruma::{OwnedRoomId, UserId};
use serde::Serialize;
use serde_json::value::RawValue;

use super::answer::Building;
use super::history::{Newest, RoomHistory};
use super::memory::Standing;
use super::state::StateQuery;
use super::summary::{self, Summary};
use super::timeline::Timeline;
use super::unread::{Asked, Counts};
use super::visible::Judge;
use super::{ClientSync, StateSection, SyncError};
use crate::logs::log::PartitionId;
use crate::matrix::filter::EventFormat;
use crate::query::ids::RoomSn;
use crate::query::rooms::StoredEvent;
use crate::query::shown::{Show, ShowError};

/// A room that an answer may have to tell of, copied from memory as of the
/// answer's position.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub room_id: OwnedRoomId,
    pub partition: PartitionId,
    pub room: RoomSn,
    pub standing: Standing,
    /// At or behind the newest receipt of the user.
    pub receipts_at: Option<u64>,
    pub newest: Newest,
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
#[derive(Debug, Default, Serialize)]
pub struct TimelineBatch {
    pub(super) events: Vec<Box<RawValue>>,
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
    #[serde(rename = "org.matrix.msc4222.state_after")]
    UnstableAfter(Events),
}

impl State {
    pub fn new(section: StateSection, events: Vec<Box<RawValue>>) -> State {
        let events = Events { events };
        match section {
            StateSection::Before => State::Before(events),
            StateSection::After => State::After(events),
            StateSection::UnstableAfter => State::UnstableAfter(events),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            State::Before(events) | State::After(events) | State::UnstableAfter(events) => {
                events.is_empty()
            }
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
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    unread_thread_notifications: BTreeMap<String, Counts>,
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

impl ClientSync {
    /// Whether the user sent a receipt in a room since an offset.
    pub fn has_read_on(
        &self,
        candidate: &Candidate,
        user: &UserId,
        since: u64,
    ) -> Result<bool, SyncError> {
        if candidate.receipts_at < Some(since) {
            return Ok(false);
        }
        let receipts = self.receipts.of_user(&candidate.room_id, user)?;
        let mut receipts = receipts.iter();
        Ok(receipts.any(|receipt| receipt.changed_at.0 >= since))
    }
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
        let judge = Judge::new(
            &history,
            &self.request.user,
            candidate.standing,
            &self.unwanted,
        )?;
        let filter = self.request.filter.clone();
        let mut timeline = Timeline::load(
            &history,
            &judge,
            &filter.room.timeline,
            stretch.from,
            stretch.to,
        )?;
        if !self.request.state_section.is_after() {
            timeline.settle(&history, stretch.to)?;
        }

        let summarised = match stretch.known_at {
            None => true,
            Some(since) => history
                .changed(since, stretch.to)?
                .iter()
                .any(|key| summary::concerns(key, &self.request.user)),
        };
        let summary = match summarised {
            true => self
                .sync
                .summaries
                .of(&history, stretch.to, &self.request.user)?,
            false => Summary::default(),
        };
        let state = StateQuery {
            history: &history,
            timeline: &timeline,
            filter: &filter.room.state,
            user: &self.request.user,
            known_at: stretch.known_at.filter(|_| !self.request.full_state),
            held_at: stretch.known_at.or(stretch.gap.then_some(stretch.from)),
            to: stretch.to,
            after: self.request.state_section.is_after(),
            heroes: summary.heroes.as_deref().unwrap_or_default(),
        }
        .events(self.known_members.as_mut())?;
        let state = self.state_events(&judge, &state)?;
        let account_data = self.room_account_data(&candidate.room_id, changed_data, fresh)?;
        let ephemeral = self.ephemeral(candidate, &stretch)?;
        let nothing = timeline.shown.is_empty()
            && ephemeral.is_empty()
            && !timeline.limited
            && state.is_empty()
            && account_data.is_empty()
            && summary.is_empty();
        if nothing && !fresh && !self.request.full_state {
            // A receipt that the client does not want to hear of changes counts.
            let since = stretch.known_at.unwrap_or(0);
            let (sync, user) = (self.sync, &self.request.user);
            if !sync.has_read_on(candidate, user, since)? {
                return Ok(None);
            }
        }
        let counts = self.sync.unread.counts(&Asked {
            history: &history,
            user: &self.request.user,
            standing: &candidate.standing,
            judge: &judge,
            ignored_at: self.unwanted.ignored_at(),
            receipts_at: candidate.receipts_at,
            to: stretch.to,
        })?;
        let by_thread = filter.room.timeline.unread_thread_notifications;
        let (unread_notifications, unread_thread_notifications) = match by_thread {
            true => (counts.main, counts.threads),
            false => (counts.total(), BTreeMap::new()),
        };
        Ok(Some(JoinedRoom {
            summary,
            state,
            timeline: self.timeline_batch(&judge, &timeline, stretch)?,
            ephemeral,
            account_data,
            unread_notifications,
            unread_thread_notifications,
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
        judge: &Judge<'_>,
        timeline: &Timeline,
        stretch: Stretch,
    ) -> Result<TimelineBatch, SyncError> {
        let events: Vec<_> = timeline.events().cloned().collect();
        let limited = timeline.limited || stretch.gap;
        // Without a gap the client has, or gets, all that relates to an event
        // (*Aggregations of child events*).
        let relations = limited.then_some(&*self.sync.relations);
        let show_all = |show: Show<'_>, events: &[Arc<StoredEvent>]| {
            let show = Show { relations, ..show };
            show.timeline(events)
        };
        Ok(TimelineBatch {
            events: self.shown(judge, &events, show_all)?,
            limited,
            prev_batch: timeline.prev_batch(&self.token.vector),
        })
    }

    /// State events as they are sent.
    pub fn state_events(
        &self,
        judge: &Judge<'_>,
        state: &[Arc<StoredEvent>],
    ) -> Result<State, SyncError> {
        let events = self.shown(judge, state, |show, events| show.state(events))?;
        Ok(State::new(self.request.state_section, events))
    }

    /// Events in the format and with the fields that the client asked for.
    fn shown(
        &self,
        judge: &Judge<'_>,
        events: &[Arc<StoredEvent>],
        show_all: impl FnOnce(Show<'_>, &[Arc<StoredEvent>]) -> Result<Vec<Box<RawValue>>, ShowError>,
    ) -> Result<Vec<Box<RawValue>>, SyncError> {
        if self.request.filter.event_format == EventFormat::Federation {
            let events = events.iter();
            return events
                .map(|event| Ok(serde_json::from_slice(&judge.viewpoint.given(event)?)?))
                .collect();
        }
        let show = Show {
            viewpoint: &judge.viewpoint,
            user: &self.request.user,
            device: &self.request.device,
            now_ms: self.now_ms,
            names_room: false,
            relations: None,
        };
        let shown = show_all(show, events)?;
        match &self.request.filter.event_fields {
            None => Ok(shown),
            Some(fields) => {
                let shown = shown.iter();
                shown.map(|event| Ok(fields.project(event)?)).collect()
            }
        }
    }
}
