//! The event stream of clients from before `/sync` (client-server API, `GET
//! /events`): every event since a token in the order of *output*, none left out,
//! as many as fit into an answer. With a room it is that room alone, also for
//! those who look in from outside.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use log_format::record::output::Membership;
use ruma::{OwnedRoomId, RoomId, UserId};
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};

use super::answer::candidates;
use super::history::RoomHistory;
use super::memory::{Memory, Standing};
use super::room::Candidate;
use super::rows::TimelineRow;
use super::timeline::events_of;
use super::typing::TypingChanges;
use super::visible::Judge;
use super::{ClientSync, SyncError, SyncRequest, TIMEOUT_MAX};
use crate::clock;
use crate::logs::log::PartitionId;
use crate::matrix::history_visibility::membership_of;
use crate::query::ids::{EphemeralOffset, OutputOffset};
use crate::query::rooms::StoredEvent;
use crate::query::shown::Show;
use crate::query::tokens::{SyncToken, TokenError};
use crate::query::unwanted::Unwanted;

/// Rows of timelines that one answer looks at; what lies behind is for the next.
const ROWS_MAX: usize = 200;

/// The stream tells nothing of who types and who is there: a sync that goes on
/// from its token is told all that is current.
const NOTHING_EPHEMERAL: EphemeralOffset = EphemeralOffset(0);

/// An answer.
#[derive(Debug)]
pub struct Chunk {
    /// Tokens of where it begins and ends, the latter to go on from.
    pub start: String,
    pub end: String,
    pub events: Vec<Box<RawValue>>,
}

/// What lies behind a token.
struct Page {
    /// Behind the last row that was looked at.
    token: SyncToken,
    /// There are rows behind it.
    more: bool,
    events: Vec<Box<RawValue>>,
}

/// An event as it is told, and where it came.
struct Told {
    partition: PartitionId,
    offset: u64,
    event: Box<RawValue>,
}

/// A row, of the room at this index.
struct Row {
    partition: PartitionId,
    room: usize,
    row: TimelineRow,
}

impl ClientSync {
    /// Where the stream stands now, as the `next_batch` of a sync would say.
    pub async fn position(&self) -> String {
        self.catch_up().await;
        self.token(&self.memory.read(), None, NOTHING_EPHEMERAL)
            .encode()
    }

    /// Gives what is new since the request's token, or waits for it. Without a
    /// token it begins now. `peek` is the only room that is told of; whether the
    /// user may look into it is for the caller to ask.
    ///
    /// Errors: [`SyncError::Token`] for a token that cannot be continued from:
    /// this stream has no way to begin anew.
    pub async fn stream(
        self: &Arc<Self>,
        request: SyncRequest,
        peek: Option<OwnedRoomId>,
    ) -> Result<Chunk, SyncError> {
        let deadline = Instant::now() + request.timeout.min(TIMEOUT_MAX);
        self.catch_up().await;
        let mut since = match &request.since {
            None => self.token(&self.memory.read(), None, NOTHING_EPHEMERAL),
            Some(text) => Some(SyncToken::decode(text)?)
                .filter(|token| self.is_ours(token))
                .ok_or(TokenError)?,
        };
        let start = since.encode();
        let request = Arc::new(request);
        let place = self.enter_waiting(&request.user, false);
        let peeked = peek.as_deref().and_then(|room| self.enter_peeking(room));
        loop {
            // From here on news is not missed, whenever it comes. Who looks in is
            // woken by the room; who is in it, by either.
            let news = place.news.notified();
            let in_room = peeked.as_ref().map(|place| place.news.notified());
            let page = self.page_aside(&request, &peek, &since).await?;
            let ends =
                self.session_ended(request.access.as_ref(), &request.user, &request.device)?;
            let answers = ends || !page.events.is_empty() || self.closing.load(Ordering::Acquire);
            since = page.token;
            if !answers && page.more {
                continue;
            }
            let woken = async {
                match in_room {
                    None => news.await,
                    Some(in_room) => tokio::select! {
                        () = news => {}
                        () = in_room => {}
                    },
                }
            };
            if answers || timeout_at(deadline, woken).await.is_err() {
                return Ok(Chunk {
                    start,
                    end: since.encode(),
                    events: page.events,
                });
            }
        }
    }

    /// Reads rows of the store, and so holds nobody up.
    async fn page_aside(
        self: &Arc<Self>,
        request: &Arc<SyncRequest>,
        peek: &Option<OwnedRoomId>,
        since: &SyncToken,
    ) -> Result<Page, SyncError> {
        let (sync, request) = (self.clone(), request.clone());
        let (peek, since) = (peek.clone(), since.clone());
        let read = move || sync.stream_page(&request, peek.as_deref(), &since);
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|_| SyncError::Stopped)?
    }

    fn stream_page(
        &self,
        request: &SyncRequest,
        peek: Option<&RoomId>,
        since: &SyncToken,
    ) -> Result<Page, SyncError> {
        if self.stopped.load(Ordering::Acquire) {
            return Err(SyncError::Stopped);
        }
        let (mut token, rooms) = {
            let memory = self.memory.read();
            let rooms = match peek {
                None => candidates(&memory, request, Some(since), &TypingChanges::default()),
                Some(room) => peeked(&memory, request, room, since).into_iter().collect(),
            };
            let ephemeral = EphemeralOffset(since.ephemeral);
            (self.token(&memory, Some(since), ephemeral), rooms)
        };
        let histories: Vec<RoomHistory<'_>> =
            rooms.iter().map(|room| self.history_of(room)).collect();
        let (rows, more) = first_rows(&histories, since, &mut token)?;
        let mut events = Vec::new();
        for (index, (candidate, history)) in rooms.iter().zip(&histories).enumerate() {
            let own = rows.iter().filter(|row| row.room == index);
            let own: Vec<TimelineRow> = own.map(|row| row.row).collect();
            if !own.is_empty() {
                events.extend(self.told(request, peek.is_some(), candidate, history, own)?);
            }
        }
        events.sort_by_key(|told| (told.partition, told.offset));
        Ok(Page {
            token,
            more,
            events: events.into_iter().map(|told| told.event).collect(),
        })
    }

    /// The events of rows of one room that the user is told of.
    fn told(
        &self,
        request: &SyncRequest,
        peeks: bool,
        candidate: &Candidate,
        history: &RoomHistory<'_>,
        rows: Vec<TimelineRow>,
    ) -> Result<Vec<Told>, SyncError> {
        let is_joined = candidate.standing.membership == Membership::Join;
        let forgot = !is_joined && self.users.forgot(&request.user, &candidate.room_id);
        if forgot && !peeks {
            return Ok(Vec::new());
        }
        let unwanted = Unwanted::of(&*self.users, &request.user);
        let mut judge = Judge::new(history, &request.user, candidate.standing, &unwanted)?;
        if forgot {
            judge.viewpoint = judge.viewpoint.without_memberships();
        }
        let to = rows.last().map_or(0, |row| row.offset + 1);
        let stays = Stays::of(history, &request.user, to)?;
        let (mut offsets, mut events) = (Vec::new(), Vec::new());
        for (row, event) in events_of(history, rows)? {
            let tells = match peeks {
                true => judge.viewpoint.may_see(&event)?,
                false if is_own_membership(&event, request) => !is_unwanted(&event, &unwanted),
                false => stays.contain(row.offset) && judge.tells(&event, row.offset)?,
            };
            if tells {
                offsets.push(row.offset);
                events.push(event);
            }
        }
        let show = Show {
            viewpoint: &judge.viewpoint,
            user: &request.user,
            device: &request.device,
            now_ms: clock::now_ms(),
            names_room: true,
            // All of them are in the stream themselves.
            relations: None,
        };
        let shown = show.timeline(&events)?;
        let told = offsets.into_iter().zip(shown);
        let partition = history.partition;
        Ok(told
            .map(|(offset, event)| Told {
                partition,
                offset,
                event,
            })
            .collect())
    }
}

fn is_own_membership(event: &StoredEvent, request: &SyncRequest) -> bool {
    &*event.kind == "m.room.member" && event.state_key.as_deref() == Some(request.user.as_str())
}

/// Whether an event invites the user against their will.
fn is_unwanted(event: &StoredEvent, unwanted: &Unwanted) -> bool {
    membership_of(&event.json) == Some(Membership::Invite) && unwanted.invite_from(&event.sender)
}

/// The room that is looked into, if it is known here and something came.
fn peeked(
    memory: &Memory,
    request: &SyncRequest,
    room: &RoomId,
    since: &SyncToken,
) -> Option<Candidate> {
    let ix = memory.room_ix(room)?;
    let slot = memory.room(ix);
    let known = since.vector.get(slot.partition as usize)?;
    if slot.last_change < known.0 {
        return None;
    }
    let user = memory.user(&request.user);
    let standing = user.and_then(|user| user.rooms.get(&ix).copied());
    Some(Candidate {
        room_id: slot.room_id.clone(),
        partition: slot.partition,
        room: slot.room,
        standing: standing.unwrap_or(OUTSIDE),
        receipts_at: None,
        newest: slot.newest.clone(),
    })
}

/// Who never had a membership.
const OUTSIDE: Standing = Standing {
    membership: Membership::Leave,
    event: None,
    changed_at: 0,
    joined_at: None,
    changed_us: 0,
    by_self: false,
    encrypted: false,
    has_joined: false,
    outside: false,
};

/// The first rows behind `since` of all rooms, at most [`ROWS_MAX`], and whether
/// there are more; `token` then ends where they do.
fn first_rows(
    histories: &[RoomHistory<'_>],
    since: &SyncToken,
    token: &mut SyncToken,
) -> Result<(Vec<Row>, bool), SyncError> {
    let mut rows: Vec<Row> = Vec::new();
    let mut more = false;
    let mut end_at = |token: &mut SyncToken, partition: PartitionId, offset: u64| {
        if let Some(end) = token.vector.get_mut(partition as usize)
            && end.0 > offset
        {
            *end = OutputOffset(offset);
            more = true;
        }
    };
    for (room, history) in histories.iter().enumerate() {
        let partition = history.partition;
        let of = |token: &SyncToken| {
            let offset = token.vector.get(partition as usize);
            offset.map_or(0, |offset| offset.0)
        };
        let found = history.timeline_after(of(since), of(token), ROWS_MAX)?;
        if let (ROWS_MAX, Some(last)) = (found.len(), found.last()) {
            end_at(token, partition, last.offset + 1);
        }
        let found = found.into_iter();
        rows.extend(found.map(|row| Row {
            partition,
            room,
            row,
        }));
    }
    rows.sort_by_key(|row| (row.partition, row.row.offset));
    for cut in rows.iter().skip(ROWS_MAX) {
        end_at(token, cut.partition, cut.row.offset);
    }
    rows.truncate(ROWS_MAX);
    rows.retain(|row| {
        let end = token.vector.get(row.partition as usize);
        end.is_some_and(|end| row.row.offset < end.0)
    });
    Ok((rows, more))
}

/// The stretches of *output* in which a user was in a room, the events that
/// began and ended each included.
struct Stays(Vec<(u64, Option<u64>)>);

impl Stays {
    fn of(history: &RoomHistory<'_>, user: &UserId, to: u64) -> Result<Stays, SyncError> {
        let mut stays: Vec<(u64, Option<u64>)> = Vec::new();
        for (offset, row) in history.memberships(user, 0, to)? {
            let joins = row.membership == Membership::Join;
            match stays.last_mut().filter(|(_, end)| end.is_none()) {
                Some((_, end)) if !joins => *end = Some(offset),
                None if joins => stays.push((offset, None)),
                _ => {}
            }
        }
        Ok(Stays(stays))
    }

    fn contain(&self, offset: u64) -> bool {
        let mut stays = self.0.iter();
        stays.any(|(begin, end)| *begin <= offset && end.is_none_or(|end| offset <= end))
    }
}
