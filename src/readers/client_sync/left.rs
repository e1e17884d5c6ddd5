//! The section of a room that the user left, was kicked or banned from, or
//! whose invite they rejected: up to that event, and nothing behind it.

use serde::Serialize;

use log_format::record::output::Membership;

use super::answer::Building;
use super::outside::{end_in_timeline, seen_from_outside};
use super::room::{Candidate, Events, State, Stretch, TimelineBatch};
use super::rows::MembershipRow;
use super::state::StateQuery;
use super::timeline::Timeline;
use super::visible::Judge;
use super::{StateSection, SyncError};

/// `Left Room`.
#[derive(Debug, Serialize)]
pub struct LeftRoom {
    #[serde(flatten)]
    state: State,
    timeline: TimelineBatch,
    account_data: Events,
}

impl LeftRoom {
    /// A room of which nothing is known any more.
    pub fn gone(section: StateSection) -> LeftRoom {
        LeftRoom {
            state: State::new(section, Vec::new()),
            timeline: TimelineBatch::default(),
            account_data: Events::default(),
        }
    }
}

impl Building<'_> {
    /// A room that the user is no longer in.
    pub fn left_room(&mut self, candidate: &Candidate) -> Result<LeftRoom, SyncError> {
        let history = self.history(candidate);
        let user = self.request.user.clone();
        let left_at = candidate.standing.changed_at;
        let since = self.since(candidate.partition);
        let rows = history.memberships(&user, 0, left_at + 1)?;
        let known = rows.iter().rev().find(|(offset, _)| Some(*offset) < since);
        let joined = |membership: Membership| membership == Membership::Join;
        let was_joined = since.is_some() && known.is_some_and(|(_, row)| joined(row.membership));
        // A stay that the client has not been told of, within what is new to it.
        let new_stay = rows
            .iter()
            .filter(|(offset, _)| since.is_none_or(|since| *offset >= since))
            .skip_while(|(_, row)| was_joined && joined(row.membership))
            .any(|(_, row)| joined(row.membership));
        let from = match since {
            None => 0,
            Some(since) => self.told_before(&history, since, left_at)?.min(since),
        };
        let stretch = Stretch {
            from: if was_joined { since.unwrap_or(0) } else { from },
            to: stay_ended_at(&rows).unwrap_or(left_at) + 1,
            known_at: since.filter(|_| was_joined && !new_stay),
            gap: false,
        };
        let filter = self.request.filter.clone();
        let judge = Judge::new(&history, &user, candidate.standing, &self.unwanted)?;
        if !was_joined && !new_stay {
            return self.never_joined(&history, judge, candidate);
        }
        // The timeline also has what became of the user's membership later on;
        // state is told as it was when they left.
        let mut timeline = Timeline::load(
            &history,
            &judge,
            &filter.room.timeline,
            stretch.from,
            left_at + 1,
        )?;
        if !self.request.state_section.is_after() {
            timeline.settle(&history, stretch.to)?;
        }
        let state = StateQuery {
            history: &history,
            timeline: &timeline,
            filter: &filter.room.state,
            user: &user,
            known_at: stretch.known_at,
            held_at: (from > 0).then_some(from),
            to: stretch.to,
            after: self.request.state_section.is_after(),
            heroes: &[],
        }
        .events(self.known_members.as_mut())?;
        let mut timeline = self.timeline_batch(&judge, &timeline, stretch)?;
        self.add_end(&history, candidate, &mut timeline)?;
        Ok(LeftRoom {
            state: self.state_events(&judge, &state)?,
            timeline,
            account_data: self.room_account_data(
                &candidate.room_id,
                None,
                stretch.known_at.is_none(),
            )?,
        })
    }

    /// What ended an invite or a knock that was seen from outside is in no timeline.
    fn add_end(
        &self,
        history: &super::history::RoomHistory<'_>,
        candidate: &Candidate,
        timeline: &mut TimelineBatch,
    ) -> Result<(), SyncError> {
        if candidate.standing.outside
            && let Some(end) = seen_from_outside(history, &self.request.user)?
        {
            timeline.events.extend(end_in_timeline(&end)?);
        }
        Ok(())
    }

    /// A room that the user never was in: its state is none of their business,
    /// and its timeline only what became of their own membership.
    fn never_joined(
        &self,
        history: &super::history::RoomHistory<'_>,
        judge: Judge<'_>,
        candidate: &Candidate,
    ) -> Result<LeftRoom, SyncError> {
        let left_at = candidate.standing.changed_at;
        let stretch = Stretch {
            from: left_at,
            to: left_at + 1,
            known_at: None,
            gap: false,
        };
        let filter = self.request.filter.clone();
        let timeline = Timeline::load(
            history,
            &judge,
            &filter.room.timeline,
            stretch.from,
            stretch.to,
        )?;
        let mut timeline = self.timeline_batch(&judge, &timeline, stretch)?;
        self.add_end(history, candidate, &mut timeline)?;
        Ok(LeftRoom {
            state: State::new(self.request.state_section, Vec::new()),
            timeline,
            account_data: Events::default(),
        })
    }
}

/// Offset of the membership that ended the last stay.
fn stay_ended_at(rows: &[(u64, MembershipRow)]) -> Option<u64> {
    let joined = |(_, row): &(u64, MembershipRow)| row.membership == Membership::Join;
    let last = rows.iter().rposition(joined)?;
    rows.get(last + 1).map(|(offset, _)| *offset)
}
