//! `GET /notifications`: what a user was notified of, the newest first
//! (client-server API, *Listing Notifications*).
//!
//! Nothing is kept for it: the rooms' rows are walked back side by side, and
//! what they name is judged as counts judge it, by the rules as they are now. A
//! room counts since the user joined it; an invite counts as an event.

use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use log_format::record::output::Membership;
use ruma::{DeviceId, OwnedDeviceId, OwnedRoomId, OwnedUserId};
use serde::Serialize;
use serde_json::value::RawValue;

use super::answer::candidate;
use super::history::RoomHistory;
use super::room::Candidate;
use super::rows::TimelineRow;
use super::timeline::events_of;
use super::visible::Judge;
use super::{ClientSync, SyncError};
use crate::clock;
use crate::logs::log::PartitionId;
use crate::matrix::push_rules::{Reader, Rules};
use crate::query::ids::{EphemeralOffset, OutputOffset, Place};
use crate::query::receipts::ReadUpTo;
use crate::query::rooms::StoredEvent;
use crate::query::shown::Show;
use crate::query::tokens::SyncToken;
use crate::query::unwanted::Unwanted;

/// Notifications of a page if the client does not say, and at most.
const LIMIT_DEFAULT: usize = 20;
const LIMIT_MAX: usize = 100;
/// Events that one page looks at. Where few of them notify, it has fewer
/// notifications than were asked for, and a token to go on from.
const EVENTS_MAX: usize = 3_000;
/// Rows of a room that are read at a time.
const PAGE_ROWS: usize = 16;

/// A request, parsed.
#[derive(Clone, Debug)]
pub struct NotificationsRequest {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    /// `next_token` of the page before.
    pub from: Option<String>,
    pub limit: Option<usize>,
    pub only_highlights: bool,
}

#[derive(Serialize)]
struct Page {
    #[serde(skip_serializing_if = "Option::is_none")]
    next_token: Option<String>,
    notifications: Vec<Notification>,
}

/// `Notification`. Rules are of no profile, so none is named.
#[derive(Serialize)]
struct Notification {
    actions: Box<RawValue>,
    event: Box<RawValue>,
    read: bool,
    room_id: OwnedRoomId,
    ts: u64,
}

impl ClientSync {
    /// A page, as JSON.
    ///
    /// Errors: [`SyncError::Token`] for a `from` that is none of ours; the others
    /// are failures of this server.
    pub async fn notifications(
        self: &Arc<Self>,
        request: NotificationsRequest,
    ) -> Result<String, SyncError> {
        let from = match &request.from {
            Some(from) => Some(SyncToken::decode(from)?).filter(|from| self.is_ours(from)),
            None => None,
        };
        self.catch_up().await;
        let sync = self.clone();
        let page = tokio::task::spawn_blocking(move || {
            Ok(serde_json::to_string(&sync.page(&request, from)?)?)
        });
        page.await.map_err(|_| SyncError::Stopped)?
    }

    fn page(
        &self,
        request: &NotificationsRequest,
        from: Option<SyncToken>,
    ) -> Result<Page, SyncError> {
        let (mut token, rooms) = {
            let memory = self.memory.read();
            let token =
                from.unwrap_or_else(|| self.token(&memory, None, EphemeralOffset::default()));
            let user = memory.user(&request.user);
            let rooms = user.into_iter().flat_map(|user| {
                let rooms = user.rooms.iter();
                rooms.map(|(ix, standing)| candidate(&memory, user, *ix, *standing, None))
            });
            (token, rooms.collect::<Vec<Candidate>>())
        };
        let unwanted = Unwanted::of(&*self.users, &request.user);
        let mut walk = Walk::default();
        for room in &rooms {
            let before = token.vector.get(room.partition as usize);
            let line = Line::new(self, room, before.map_or(0, |before| before.0));
            walk.add(line)?;
        }
        let lister = Lister {
            sync: self,
            request,
            device: &request.device,
            rules: self.notified.rules(&request.user),
            unwanted,
            now_ms: clock::now_ms(),
        };
        let limit = request.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX);
        let mut facts = HashMap::new();
        let mut notifications = Vec::new();
        let mut looked = 0;
        let mut is_whole = true;
        while let Some(next) = walk.next()? {
            let room = next.room;
            if notifications.len() == limit || looked == EVENTS_MAX {
                is_whole = false;
                break;
            }
            looked += 1;
            if let Some(before) = token.vector.get_mut(room.partition as usize) {
                *before = OutputOffset(next.offset);
            }
            let facts = match facts.entry(room.room_id.as_str()) {
                std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::hash_map::Entry::Vacant(new) => new.insert(lister.facts(room)?),
            };
            notifications.extend(lister.notification(&next, facts)?);
        }
        Ok(Page {
            next_token: (!is_whole).then(|| token.encode()),
            notifications,
        })
    }
}

/// The rows of one room that are still to be looked at, the newest first.
struct Line<'a> {
    room: &'a Candidate,
    history: RoomHistory<'a>,
    /// Rows are from here on,
    from: u64,
    /// and those behind this are read.
    end: u64,
    rows: VecDeque<TimelineRow>,
}

impl<'a> Line<'a> {
    fn new(sync: &'a ClientSync, room: &'a Candidate, before: u64) -> Line<'a> {
        let standing = &room.standing;
        let changed_at = standing.changed_at;
        let (from, end) = match standing.membership {
            Membership::Join => (standing.joined_at.map_or(before, |at| at + 1), before),
            // The invite alone.
            Membership::Invite => (changed_at, before.min(changed_at + 1)),
            Membership::Knock | Membership::Leave | Membership::Ban => (0, 0),
        };
        Line {
            room,
            history: sync.history_of(room),
            from,
            end,
            rows: VecDeque::new(),
        }
    }

    /// The newest row that is left.
    fn head(&mut self) -> Result<Option<TimelineRow>, SyncError> {
        if self.rows.is_empty() && self.from < self.end {
            let rows = self
                .history
                .timeline_before(self.from, self.end, PAGE_ROWS)?;
            let is_whole = rows.len() < PAGE_ROWS;
            self.end = match rows.last() {
                Some(oldest) if !is_whole => oldest.offset,
                _ => self.from,
            };
            self.rows.extend(rows);
            self.add_invite();
        }
        Ok(self.rows.front().copied())
    }

    /// An invite to a room that is not known here is in no timeline.
    fn add_invite(&mut self) {
        let standing = &self.room.standing;
        let is_invite = standing.membership == Membership::Invite;
        if let Some(event) = standing.event.filter(|_| is_invite && self.rows.is_empty()) {
            self.rows.push_back(TimelineRow {
                offset: standing.changed_at,
                event,
                place: Place::END,
            });
        }
    }
}

/// An event, with its offset in the log.
struct Next<'a> {
    room: &'a Candidate,
    offset: u64,
    event: Arc<StoredEvent>,
}

/// All rooms side by side. Within a partition the log orders them; of several,
/// the event that says it is newer comes first.
#[derive(Default)]
struct Walk<'a> {
    lines: Vec<Line<'a>>,
    /// Offset of each line's newest row, by partition.
    heads: BTreeMap<PartitionId, BinaryHeap<(u64, usize)>>,
    /// The newest of each partition, loaded.
    loaded: BTreeMap<PartitionId, (usize, u64, Arc<StoredEvent>)>,
}

impl<'a> Walk<'a> {
    fn add(&mut self, mut line: Line<'a>) -> Result<(), SyncError> {
        if let Some(head) = line.head()? {
            let partition = line.room.partition;
            let heads = self.heads.entry(partition).or_default();
            heads.push((head.offset, self.lines.len()));
            self.lines.push(line);
        }
        Ok(())
    }

    /// The next event.
    fn next(&mut self) -> Result<Option<Next<'a>>, SyncError> {
        let partitions: Vec<PartitionId> = self.heads.keys().copied().collect();
        for partition in partitions {
            self.load(partition)?;
        }
        let newest = self.loaded.iter();
        let newest = newest.max_by_key(|(_, (_, _, event))| event.origin_server_ts);
        let Some(partition) = newest.map(|(partition, _)| *partition) else {
            return Ok(None);
        };
        let taken = self.loaded.remove(&partition);
        Ok(taken.and_then(|(index, offset, event)| {
            let line = self.lines.get(index)?;
            Some(Next {
                room: line.room,
                offset,
                event,
            })
        }))
    }

    /// Loads the newest event of a partition, if there is one.
    fn load(&mut self, partition: PartitionId) -> Result<(), SyncError> {
        while !self.loaded.contains_key(&partition) {
            let Some((_, index)) = self.heads.get_mut(&partition).and_then(BinaryHeap::pop) else {
                break;
            };
            let Some(line) = self.lines.get_mut(index) else {
                break;
            };
            let row = line.rows.pop_front();
            if let Some(head) = line.head()?
                && let Some(heads) = self.heads.get_mut(&partition)
            {
                heads.push((head.offset, index));
            }
            let Some(row) = row else { continue };
            let event = events_of(&line.history, vec![row])?.pop();
            if let Some((row, event)) = event {
                self.loaded.insert(partition, (index, row.offset, event));
            }
        }
        Ok(())
    }
}

/// What is the same for all events of a room.
struct Facts<'a> {
    judge: Judge<'a>,
    read: ReadUpTo,
}

/// Judges events and shows those that notify.
struct Lister<'a> {
    sync: &'a ClientSync,
    request: &'a NotificationsRequest,
    device: &'a DeviceId,
    rules: Arc<Rules>,
    unwanted: Unwanted,
    now_ms: u64,
}

impl<'a> Lister<'a> {
    fn facts(&self, room: &Candidate) -> Result<Facts<'a>, SyncError> {
        let (sync, user) = (self.sync, &self.request.user);
        let history = sync.history_of(room);
        let receipts = sync.receipts.of_user(&room.room_id, user)?;
        Ok(Facts {
            judge: Judge::new(&history, user, room.standing, &self.unwanted)?,
            read: ReadUpTo::of(&receipts),
        })
    }

    fn notification(
        &self,
        next: &Next<'_>,
        facts: &Facts<'_>,
    ) -> Result<Option<Notification>, SyncError> {
        let (sync, user) = (self.sync, &self.request.user);
        let (room, event) = (next.room, &*next.event);
        let Some(judged) = sync.notified.judged(&room.room_id, event)? else {
            return Ok(None);
        };
        let reader = Reader {
            user,
            display_name: &|| sync.notified.name_of(&room.room_id, user),
        };
        let verdict = judged.verdict(&self.rules, &reader);
        let wanted = verdict.notify && (verdict.highlight || !self.request.only_highlights);
        if !wanted || !self.tells(next, facts)? {
            return Ok(None);
        }
        let show = Show {
            viewpoint: &facts.judge.viewpoint,
            relations: Some(&*sync.relations),
            user,
            device: self.device,
            now_ms: self.now_ms,
            names_room: false,
        };
        let actions = judged.actions(&self.rules, &reader).unwrap_or("[]");
        let thread = judged.thread().map(|root| -> &ruma::EventId { root });
        Ok(Some(Notification {
            actions: serde_json::from_str(actions)?,
            event: show.event(event)?,
            read: facts.read.in_thread(thread) >= Some(event.place),
            room_id: room.room_id.clone(),
            ts: event.origin_server_ts,
        }))
    }

    fn tells(&self, next: &Next<'_>, facts: &Facts<'_>) -> Result<bool, SyncError> {
        let is_invite = next.room.standing.membership == Membership::Invite;
        if is_invite && self.unwanted.invite_from(&next.event.sender) {
            return Ok(false);
        }
        facts.judge.tells(&next.event, next.offset)
    }
}
