//! One room as an answer tells of it: of those that the user is in everything
//! that is new, of an invite or a knock what may be known from outside, and of
//! one that they are gone from what there was until then.

use std::sync::Arc;

use log_format::record::output::Membership;
use ruma::RoomId;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::super::history::RoomHistory;
use super::super::memory::Standing;
use super::super::outside::{end_as_stripped, end_in_timeline, seen_from_outside};
use super::super::room::Candidate;
use super::super::stripped::stripped_state;
use super::super::summary::is_name;
use super::super::timeline::Timeline;
use super::super::unread::Asked;
use super::super::visible::Judge;
use super::super::{ClientSync, SyncError};
use super::body::{Hero, RoomBody, StateStub};
use super::connection::{News, RoomKey, RoomSent, Told};
use super::lists::ListSet;
use super::request::{Dialect, SlidingRequest};
use super::required_state::Wanted;
use super::state::{Before, RequiredState, RequiredStateQuery};
use crate::matrix::client_event::{content_of, stripped_state as stripped_event};
use crate::matrix::filter::RoomEventFilter;
use crate::query::ids::EventSn;
use crate::query::outside::OutsideMembership;
use crate::query::rooms::{StateKey, StoredEvent};
use crate::query::shown::Show;
use crate::query::tokens::SyncToken;
use crate::query::unwanted::Unwanted;

const MEMBER: &str = "m.room.member";
const NAME: &str = "m.room.name";
const AVATAR: &str = "m.room.avatar";
/// Of [`RoomSent::held`]: the client holds all events of the room.
const HELD_ALL: u16 = u16::MAX;

/// A room that may have news for the client, copied from memory as of the
/// answer's position.
pub struct Due {
    pub candidate: Candidate,
    /// See [`super::super::rows::RoomTraits`].
    pub bumped_us: u64,
    pub lists: ListSet,
    /// Index of what state is wanted, in [`Told::configs`].
    pub config: u16,
    pub timeline_limit: u16,
    pub is_dm: bool,
    pub sent: Option<RoomSent>,
}

impl Due {
    pub fn key(&self) -> RoomKey {
        RoomKey {
            partition: self.candidate.partition,
            room: self.candidate.room,
        }
    }
}

/// Tells of rooms in one answer.
pub struct Teller<'a> {
    pub sync: &'a ClientSync,
    pub request: &'a SlidingRequest,
    /// Position of the client; none if it begins.
    pub since: Option<&'a SyncToken>,
    pub token: &'a SyncToken,
    /// Where the reader stands: what is told of rooms is as of here.
    pub cursors: &'a [u64],
    pub told: &'a Told,
    pub now_ms: u64,
    pub unwanted: Unwanted,
}

/// What is told of a room, and how far that goes.
pub struct ToldRoom {
    /// None if there was nothing to tell after all.
    pub body: Option<RoomBody>,
    pub sent: RoomSent,
}

/// What of a room's log the client has, and what the answer covers.
struct Stretch {
    /// The client has the room up to here; none if it is new to it.
    known: Option<RoomSent>,
    /// Offset behind the last event that may be shown.
    timeline_to: u64,
    /// Offset as of which state is told.
    state_to: u64,
}

impl<'a> Teller<'a> {
    /// Tells of a room, and notes in `news` which members are told.
    pub fn tell(&self, due: &Due, news: &mut News) -> Result<ToldRoom, SyncError> {
        let to = self.to(due);
        let history = self.history(&due.candidate);
        let standing = &due.candidate.standing;
        let sent = RoomSent {
            to,
            members_from: to,
            config: due.config,
            limit: due.timeline_limit,
            held: 0,
            receipts_to: None,
            narrowed_at: None,
            membership: standing.membership,
            is_dm: due.is_dm,
        };
        match standing.membership {
            Membership::Join => {
                let rejoined = |sent: &RoomSent| standing.joined_at >= Some(sent.to);
                let stretch = Stretch {
                    known: due.sent.filter(|sent| sent.is_joined() && !rejoined(sent)),
                    timeline_to: to,
                    state_to: to,
                };
                self.inside(due, &history, stretch, sent, news)
            }
            Membership::Invite | Membership::Knock => {
                let body = self.outside(due, &history)?;
                Ok(ToldRoom {
                    body: Some(body),
                    sent,
                })
            }
            Membership::Leave | Membership::Ban => match self.stay(due, &history)? {
                Some(stretch) => self.inside(due, &history, stretch, sent, news),
                None => {
                    let body = self.never_in(due, &history)?;
                    Ok(ToldRoom {
                        body: Some(body),
                        sent,
                    })
                }
            },
        }
    }

    /// Up to where a room is told: as far as the reader has come, and never
    /// behind what was told before.
    fn to(&self, due: &Due) -> u64 {
        let cursor = self.cursors.get(due.candidate.partition as usize).copied();
        let told = due.sent.map_or(0, |sent| sent.to);
        cursor.unwrap_or(0).max(told)
    }

    fn history(&self, candidate: &Candidate) -> RoomHistory<'a> {
        self.sync.history_of(candidate)
    }

    /// The last stay of a user who is gone, as far as the client does not have
    /// it: up to its end, and of what follows their own membership. None if they
    /// never were in the room.
    fn stay(&self, due: &Due, history: &RoomHistory<'_>) -> Result<Option<Stretch>, SyncError> {
        let left_at = due.candidate.standing.changed_at;
        let rows = history.memberships(&self.request.user, 0, left_at + 1)?;
        let joined = |membership: Membership| membership == Membership::Join;
        let Some(last) = rows.iter().rposition(|(_, row)| joined(row.membership)) else {
            return Ok(None);
        };
        let begun = rows[..last]
            .iter()
            .rposition(|(_, row)| !joined(row.membership));
        let begun = begun.map_or(0, |before| before + 1);
        let joined_at = rows.get(begun).map_or(0, |(offset, _)| *offset);
        let ended_at = rows.get(last + 1).map_or(left_at, |(offset, _)| *offset);
        // The client knows this stay if it was told of the room since it began, and
        // not from outside, which replaced what it knew.
        let known = due
            .sent
            .filter(|sent| !sent.is_outside() && joined_at < sent.to);
        Ok(Some(Stretch {
            known,
            timeline_to: left_at + 1,
            state_to: ended_at + 1,
        }))
    }

    /// A room that the user is in, or was.
    fn inside(
        &self,
        due: &Due,
        history: &RoomHistory<'a>,
        stretch: Stretch,
        sent: RoomSent,
        news: &mut News,
    ) -> Result<ToldRoom, SyncError> {
        let standing = &due.candidate.standing;
        let is_joined = standing.membership == Membership::Join;
        let judge = Judge::new(history, &self.request.user, *standing, &self.unwanted)?;
        let known = stretch.known;
        let from = known.map_or(0, |known| known.to);
        let limit = due.timeline_limit;
        let grows = known.is_some_and(|known| limit > known.limit && limit > known.held);
        let first = if grows { 0 } else { from };
        let timeline = self.timeline(history, &judge, limit, first, stretch.timeline_to)?;
        let expanded = grows
            && timeline
                .shown
                .first()
                .is_some_and(|first| first.offset < from);

        let wanted = self.told.config(due.config).cloned().unwrap_or_default();
        let narrowed_at = known.and_then(|known| self.narrowed_at(&known, &wanted));
        let before = known.and_then(|known| {
            Some(Before {
                to: known.to.min(stretch.state_to),
                wanted: self.told.config(known.config)?,
                narrowed_at,
            })
        });
        // What lazy loading told counts until not all members are told who changed:
        // behind a gap, or where the client does not want members.
        let members_from = known
            .filter(|_| !timeline.limited && wanted.lazy_members())
            .map_or(sent.to, |known| known.members_from);
        let hash = |member: &str| {
            self.sync
                .sliding
                .member(&history.room_id, members_from, member)
        };
        let is_fresh = before.is_none();
        let mut state = RequiredStateQuery {
            history,
            wanted: &wanted,
            before,
            to: stretch.state_to,
            timeline: &timeline,
        }
        .load(|member| self.told.members.contains(&hash(member)))?;
        if !is_joined {
            self.add_own_membership(history, standing, &mut state)?;
        }
        if wanted.lazy_members() {
            let members = state.events.iter().filter(|event| &*event.kind == MEMBER);
            let members = members.filter_map(|event| event.state_key.as_deref());
            news.members.extend(members.map(hash));
        }

        let held = held(known.filter(|_| !grows), &timeline);
        let sent = RoomSent {
            members_from,
            held,
            receipts_to: known.and_then(|known| known.receipts_to),
            narrowed_at,
            ..sent
        };
        let is_as_told =
            |known: RoomSent| known.is_dm == due.is_dm && known.membership == standing.membership;
        let nothing = known.is_some_and(is_as_told)
            && !is_fresh
            && timeline.shown.is_empty()
            && !timeline.limited
            && state.events.is_empty()
            && state.removed.is_empty()
            && !describes(&state);
        let tells_counts = is_joined && self.request.dialect == Dialect::Unstable;
        let has_read = |since: u64| match tells_counts {
            true => self
                .sync
                .has_read_on(&due.candidate, &self.request.user, since),
            false => Ok(false),
        };
        if nothing && !has_read(from)? {
            return Ok(ToldRoom { body: None, sent });
        }
        let mut body = self.common(due);
        body.initial = is_fresh;
        match self.request.dialect {
            Dialect::Unstable => body.unstable_expanded_timeline = expanded,
            Dialect::Accepted => body.expanded_timeline = expanded,
        }
        body.is_dm = match known.filter(|_| !is_fresh) {
            Some(known) => (known.is_dm != due.is_dm).then_some(due.is_dm),
            None => due.is_dm.then_some(true),
        };
        self.describe(
            &mut body,
            history,
            &state,
            is_fresh,
            stretch.state_to,
            is_joined,
        )?;
        body.limited = timeline.limited;
        body.num_live = Some(self.live(&due.candidate, &timeline));
        body.prev_batch = timeline.prev_batch(&self.token.vector);
        self.show(&mut body, &judge, &timeline, &state)?;
        if tells_counts {
            let counts = self.sync.unread.counts(&Asked {
                history,
                user: &self.request.user,
                standing,
                judge: &judge,
                ignored_at: self.unwanted.ignored_at(),
                receipts_at: due.candidate.receipts_at,
                to: stretch.timeline_to,
            })?;
            let counts = counts.total();
            body.notification_count = Some(counts.notification_count);
            body.highlight_count = Some(counts.highlight_count);
        }
        Ok(ToldRoom {
            body: Some(body),
            sent,
        })
    }

    /// See [`RoomSent::narrowed_at`], where this is wanted now.
    fn narrowed_at(&self, known: &RoomSent, wanted: &Wanted) -> Option<u64> {
        let before = self.told.config(known.config);
        let narrows = before.is_some_and(|before| !wanted.covers(before));
        known.narrowed_at.or(narrows.then_some(known.to))
    }

    fn timeline(
        &self,
        history: &RoomHistory<'_>,
        judge: &Judge<'_>,
        limit: u16,
        from: u64,
        to: u64,
    ) -> Result<Timeline, SyncError> {
        if limit == 0 {
            return Timeline::hidden(history, from, to);
        }
        let filter = RoomEventFilter {
            limit: Some(u64::from(limit)),
            ..RoomEventFilter::default()
        };
        Timeline::load(history, judge, &filter, from, to)
    }

    /// How many of the events shown came after the client's position.
    fn live(&self, candidate: &Candidate, timeline: &Timeline) -> usize {
        let since = self.since.map(|since| &since.vector);
        let since = since.and_then(|vector| vector.get(candidate.partition as usize));
        let Some(since) = since else { return 0 };
        let live = timeline.shown.iter().rev();
        live.take_while(|shown| shown.offset >= since.0).count()
    }

    /// The membership of a user who is gone is told whatever they asked for:
    /// clients know by it that they are.
    fn add_own_membership(
        &self,
        history: &RoomHistory<'_>,
        standing: &Standing,
        state: &mut RequiredState,
    ) -> Result<(), SyncError> {
        let user = self.request.user.as_str();
        let is_own = |event: &Arc<StoredEvent>| {
            &*event.kind == MEMBER && event.state_key.as_deref() == Some(user)
        };
        state.events.retain(|event| !is_own(event));
        let own: Vec<EventSn> = standing.event.into_iter().collect();
        state
            .events
            .extend(history.rooms.events(&history.room_id, &own)?);
        Ok(())
    }

    /// Name, avatar, heroes and counts, where they are new or changed.
    fn describe(
        &self,
        body: &mut RoomBody,
        history: &RoomHistory<'_>,
        state: &RequiredState,
        is_fresh: bool,
        to: u64,
        is_joined: bool,
    ) -> Result<(), SyncError> {
        let changed = |kind: &str| state.changed.iter().any(|key| &*key.kind == kind);
        let (name_changed, members_changed) = (changed(NAME), changed(MEMBER));
        // Heroes stand in for a name or an alias that is not there.
        let naming_changed = state.changed.iter().any(|key| is_name(&key.kind));
        if !is_fresh && !naming_changed && !members_changed && !changed(AVATAR) {
            return Ok(());
        }
        let name = text(history, to, NAME, "name")?;
        if is_fresh || changed(AVATAR) {
            let avatar = text(history, to, AVATAR, "url")?;
            body.avatar = (avatar.is_some() || !is_fresh).then_some(avatar);
        }
        // Who is in the room now is for those alone who are.
        if is_joined && (is_fresh || naming_changed || members_changed) {
            let summary = self.sync.summaries.of(history, to, &self.request.user)?;
            if is_fresh || members_changed {
                body.joined_count = summary.joined;
                body.invited_count = summary.invited;
            }
            if name.is_none() {
                let heroes = summary.heroes.unwrap_or_default();
                body.heroes = Some(self.heroes(history, to, heroes)?);
            }
        }
        if is_fresh || name_changed {
            body.name = (name.is_some() || !is_fresh).then_some(name);
        }
        Ok(())
    }

    fn heroes(
        &self,
        history: &RoomHistory<'_>,
        to: u64,
        heroes: Vec<String>,
    ) -> Result<Vec<Hero>, SyncError> {
        let state = history.state_id_at(to)?;
        let mut found = Vec::with_capacity(heroes.len());
        for user_id in heroes {
            let key = StateKey::new(MEMBER, &user_id);
            let event = history.rooms.state_entry(&history.room_id, state, &key)?;
            let wanted: Vec<EventSn> = event.into_iter().collect();
            let event = history.rooms.events(&history.room_id, &wanted)?.pop();
            let content = content(event.as_deref());
            let field = |name: &str| Some(content.get(name)?.as_str()?.to_owned());
            found.push(Hero {
                user_id,
                displayname: field("displayname"),
                avatar_url: field("avatar_url"),
            });
        }
        Ok(found)
    }

    fn show(
        &self,
        body: &mut RoomBody,
        judge: &Judge<'_>,
        timeline: &Timeline,
        state: &RequiredState,
    ) -> Result<(), SyncError> {
        // Where the client has all events up to these, it has or gets all that
        // relates to them.
        let may_miss = body.initial
            || timeline.limited
            || body.expanded_timeline
            || body.unstable_expanded_timeline;
        let show = Show {
            viewpoint: &judge.viewpoint,
            user: &self.request.user,
            device: &self.request.device,
            now_ms: self.now_ms,
            names_room: false,
            relations: may_miss.then_some(&*self.sync.relations),
        };
        let events: Vec<_> = timeline.events().cloned().collect();
        body.timeline = show.timeline(&events)?;
        body.required_state = show.state(&state.events)?;
        if self.request.tells_removed {
            for key in &state.removed {
                body.required_state.push(to_raw_value(&StateStub {
                    kind: &key.kind,
                    state_key: &key.state_key,
                })?);
            }
        }
        Ok(())
    }

    /// An invite or a knock.
    fn outside(&self, due: &Due, history: &RoomHistory<'_>) -> Result<RoomBody, SyncError> {
        let standing = &due.candidate.standing;
        let stripped = stripped_state(history, &self.request.user, standing)?;
        let mut body = self.common(due);
        body.initial = true;
        body.is_dm = due.is_dm.then_some(true);
        match self.request.dialect {
            Dialect::Unstable => body.invite_state = Some(stripped),
            Dialect::Accepted => body.stripped_state = Some(stripped),
        }
        Ok(body)
    }

    /// A room that the user never was in and is no longer invited to: its state
    /// is none of their business, but for their own membership.
    fn never_in(&self, due: &Due, history: &RoomHistory<'a>) -> Result<RoomBody, SyncError> {
        let standing = due.candidate.standing;
        let own: Vec<EventSn> = standing.event.into_iter().collect();
        let own = history.rooms.events(&history.room_id, &own)?;
        let mut body = self.common(due);
        body.initial = true;
        if standing.outside {
            let seen = seen_from_outside(history, &self.request.user)?;
            self.tell_end(&mut body, seen.as_ref())?;
            return Ok(body);
        }
        match self.request.dialect {
            // Clients take stripped state for an invite.
            Dialect::Unstable => {
                let user = &self.request.user;
                let judge = Judge::new(history, user, standing, &self.unwanted)?;
                let state = RequiredState {
                    events: own,
                    ..RequiredState::default()
                };
                self.show(&mut body, &judge, &Timeline::empty(false), &state)?;
            }
            Dialect::Accepted => {
                let own = own.iter().map(|event| stripped_event(&event.json));
                let own: Vec<Box<RawValue>> = own.collect::<Result<_, _>>()?;
                body.stripped_state = Some(own);
            }
        }
        Ok(body)
    }

    /// The end of an invite or a knock that was seen from outside.
    fn tell_end(
        &self,
        body: &mut RoomBody,
        seen: Option<&OutsideMembership>,
    ) -> Result<(), SyncError> {
        let Some(end) = seen.filter(|seen| !seen.is_open()) else {
            return Ok(());
        };
        match self.request.dialect {
            Dialect::Unstable => body.required_state.extend(end_in_timeline(end)?),
            Dialect::Accepted => {
                body.stripped_state = Some(end_as_stripped(end)?.into_iter().collect());
            }
        }
        Ok(())
    }

    fn common(&self, due: &Due) -> RoomBody {
        let standing = &due.candidate.standing;
        let names = self.request.lists.iter().enumerate();
        let names = names.filter(|(index, _)| due.lists.contains(*index));
        RoomBody {
            bump_stamp: match (standing.membership, due.bumped_us) {
                // Nothing that counts has come since the user did.
                (Membership::Join, 0) => standing.changed_us,
                (Membership::Join, bumped_us) => bumped_us,
                _ => standing.changed_us,
            },
            membership: standing.membership.as_str(),
            lists: names.map(|(_, (name, _))| name.clone()).collect(),
            ..RoomBody::default()
        }
    }
}

/// Whether changes of state say how the room is called, or who is in it.
fn describes(state: &RequiredState) -> bool {
    let mut kinds = state.changed.iter().map(|key| &*key.kind);
    kinds.any(|kind| is_name(kind) || [AVATAR, MEMBER].contains(&kind))
}

/// How many of the newest events the client holds after an answer.
fn held(known: Option<RoomSent>, timeline: &Timeline) -> u16 {
    let shown = u16::try_from(timeline.shown.len()).unwrap_or(HELD_ALL);
    match (timeline.limited, known) {
        (true, _) => shown,
        (false, None) => HELD_ALL,
        (false, Some(known)) => known.held.saturating_add(shown),
    }
}

/// A text in the content of a state event as of an offset; none if it is empty.
fn text(
    history: &RoomHistory<'_>,
    to: u64,
    kind: &str,
    field: &str,
) -> Result<Option<String>, SyncError> {
    let (rooms, room): (_, &RoomId) = (history.rooms, &history.room_id);
    let state = history.state_id_at(to)?;
    let event = rooms.state_entry(room, state, &StateKey::new(kind, ""))?;
    let wanted: Vec<EventSn> = event.into_iter().collect();
    let event = rooms.events(room, &wanted)?.pop();
    let content = content(event.as_deref());
    let text = content.get(field).and_then(Value::as_str);
    Ok(text.filter(|text| !text.is_empty()).map(str::to_owned))
}

/// The content of an event; null where there is none.
fn content(event: Option<&StoredEvent>) -> Value {
    let content = event.and_then(|event| content_of(&event.json).ok());
    let content = content.and_then(|content| serde_json::from_str(content).ok());
    content.unwrap_or(Value::Null)
}
