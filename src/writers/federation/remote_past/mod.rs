//! A room's past, fetched from the other servers in it when a user of ours reads
//! on beyond what is here (server-server API, *Backfilling and retrieving missing
//! events*).
//!
//! Where history is missing is told by the places of events and by what they
//! build on ([`gap`]). What is fetched becomes part of the past: it moves neither
//! current state nor the room's end. At most one fetch of a room runs at a time.

mod chunk;
mod gap;
mod jump;
mod state;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use log_format::record::Source;
use log_format::record::input::Placement;
use parking_lot::Mutex;
use ruma::{OwnedEventId, OwnedServerName, RoomId, ServerName};
use tokio::time::{Instant, timeout};

use self::chunk::Chunk;
pub use self::gap::Gap;
pub use self::jump::Sought;
use super::given_state::GivenStateError;
use super::pdu_checks::CheckedPdu;
use super::remote_rooms::{RemoteRoomError, RemoteRooms};
use crate::logs::log::NewRecord;
use crate::matrix::canonical_json::{Numbers, parse_object_with};
use crate::outbound::federation::backfill;
use crate::query::ids::Place;
use crate::query::rooms::RoomHead;
use crate::writers::submit::SubmitError;

/// How long a client waits: then it is answered with what is there, and what is
/// on its way is there for the next page.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Fetches for one page: as many as a page of the largest size may take.
const FETCHES_MAX: usize = 8;
/// Servers that are asked for one stretch, those with the most members first.
const SERVERS_MAX: usize = 5;
/// How long a gap is left alone that nobody could fill.
const PAUSE: Duration = Duration::from_secs(60);
/// Gaps that are remembered so of one room.
const PAUSES_MAX: usize = 64;
/// Rooms whose lines are remembered before idle ones are forgotten.
const LINES_MAX: usize = 1_024;

/// The fetches of one room.
#[derive(Default)]
pub struct Line {
    turn: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Who answered last.
    good: Option<OwnedServerName>,
    /// Events whose past nobody told, and until when they are left alone.
    paused: HashMap<OwnedEventId, Instant>,
}

impl RemoteRooms {
    /// Has the past before a place fetched, as far as `wanted` events are missing
    /// there, and waits a bounded time for it. Nothing that fails is an error:
    /// what is there is shown. Answers whether some of it is missing still.
    pub async fn fill_past(&self, head: &Arc<RoomHead>, from: Place, wanted: usize) -> bool {
        if !head.is_resident(&self.own().server) || head.servers.len() < 2 {
            return false;
        }
        match gap::find(&*self.parts.rooms, &head.room_id, from, wanted) {
            Ok(None) => return false,
            Ok(Some(gap)) if self.line_of(&head.room_id).is_paused(&gap) => return true,
            Ok(Some(_)) => {}
            Err(error) => {
                tracing::warn!(room = %head.room_id, %error, "gaps of a room could not be found");
                return false;
            }
        }
        let (this, room) = (self.clone(), head.room_id.clone());
        let head = head.clone();
        // It goes on when the client goes away: the next one finds it done.
        let filling = tokio::spawn(async move { this.fill(&head, from, wanted).await });
        match timeout(WAIT_MAX, filling).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::info!(%error, "a room's past could not be fetched"),
            Ok(Err(_)) => tracing::warn!("fetching a room's past panicked"),
            Err(_) => tracing::info!("a room's past takes long to come"),
        }
        let left = gap::find(&*self.parts.rooms, &room, from, wanted);
        left.is_ok_and(|left| left.is_some())
    }

    fn line_of(&self, room: &RoomId) -> Arc<Line> {
        if self.lines.len() > LINES_MAX {
            self.lines.retain(|_, line| Arc::strong_count(line) > 1);
        }
        self.lines.entry(room.to_owned()).or_default().clone()
    }

    async fn fill(
        &self,
        head: &RoomHead,
        from: Place,
        wanted: usize,
    ) -> Result<(), RemoteRoomError> {
        let line = self.line_of(&head.room_id);
        let _turn = line.turn.lock().await;
        for _ in 0..FETCHES_MAX {
            let gap = gap::find(&*self.parts.rooms, &head.room_id, from, wanted)?;
            let Some(gap) = gap.filter(|gap| !line.is_paused(gap)) else {
                return Ok(());
            };
            if let Err(error) = self.fill_from_any(head, &gap, &line).await {
                line.pause(&gap);
                return Err(error);
            }
        }
        Ok(())
    }

    async fn fill_from_any(
        &self,
        head: &RoomHead,
        gap: &Gap,
        line: &Line,
    ) -> Result<(), RemoteRoomError> {
        let mut why = RemoteRoomError::NoServer;
        for server in line.servers(head, &self.own().server) {
            match self.fill_from(head, gap, &server).await {
                Ok(()) => {
                    line.known.lock().good = Some(server);
                    return Ok(());
                }
                Err(error) if !error.is_of_the_server() => return Err(error),
                Err(error) => {
                    tracing::info!(room = %head.room_id, %server, %error, "no past from this server");
                    why = error;
                }
            }
        }
        Err(why)
    }

    /// Fetches a stretch, checks it and appends it. An error if there was nothing
    /// in it.
    async fn fill_from(
        &self,
        head: &RoomHead,
        gap: &Gap,
        server: &ServerName,
    ) -> Result<(), RemoteRoomError> {
        let room = &head.room_id;
        let version = head.authority.create_info.version;
        let client = &self.parts.client;
        let raw = backfill::backfill(client, server, room, &gap.before).await?;
        let parsed = raw.iter();
        let parsed = parsed.filter_map(|event| parse_object_with(event, Numbers::Kept).ok());
        let checked = self.checks.check_all(version, parsed.collect()).await;
        let checked = checked.into_iter().filter_map(|event| match event {
            Ok(event) => Some(event),
            Err(why) => {
                tracing::debug!(%room, %server, %why, "event of the past does not pass its checks");
                None
            }
        });
        let chunk = Chunk::of(&*self.parts.rooms, room, gap, checked)?;
        if chunk.events.is_empty() {
            return Err(RemoteRoomError::BadAnswer("nothing of the past is in it"));
        }
        let count = chunk.events.len();
        self.append_chunk(head, gap, server, chunk).await?;
        tracing::debug!(%room, %server, count, "a stretch of the past is here");
        Ok(())
    }

    /// Appends the events, the oldest first, each whose past is not here with the
    /// state before it.
    async fn append_chunk(
        &self,
        head: &RoomHead,
        gap: &Gap,
        server: &ServerName,
        chunk: Chunk,
    ) -> Result<(), RemoteRoomError> {
        let room = &head.room_id;
        let record = |event: &CheckedPdu| {
            let before = gap.before.to_string();
            event.record(Placement::Backfill { before }, Source::Backfill, server)
        };
        let mut batch: Vec<NewRecord> = Vec::new();
        for (event, is_loose) in &chunk.events {
            if !is_loose {
                batch.push(record(event));
                continue;
            }
            self.append_past(room, std::mem::take(&mut batch)).await?;
            let id = &event.pdu.event_id;
            let state = self.state_before(head, server, id).await?;
            let given = &self.given;
            match given.give_and_append(room, id, &state, record(event)).await {
                // One that is refused stays out of the past; what builds on it is
                // judged by the state before it.
                Ok(_) | Err(GivenStateError::Refused(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.append_past(room, batch).await
    }

    async fn append_past(
        &self,
        room: &RoomId,
        batch: Vec<NewRecord>,
    ) -> Result<(), RemoteRoomError> {
        if batch.is_empty() {
            return Ok(());
        }
        match self.parts.submitter.submit(room.as_str(), batch).await {
            Ok(_) | Err(SubmitError::Refused(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Line {
    fn is_paused(&self, gap: &Gap) -> bool {
        let known = self.known.lock();
        let until = known.paused.get(&gap.before);
        until.is_some_and(|until| *until > Instant::now())
    }

    fn pause(&self, gap: &Gap) {
        let mut known = self.known.lock();
        if known.paused.len() >= PAUSES_MAX {
            known.paused.clear();
        }
        let until = Instant::now() + PAUSE;
        known.paused.insert(gap.before.clone(), until);
    }

    /// The servers to ask: who answered last, then those with the most members.
    fn servers(&self, head: &RoomHead, own: &ServerName) -> Vec<OwnedServerName> {
        let good = self.known.lock().good.clone();
        let mut servers: Vec<_> = head
            .servers
            .iter()
            .filter(|(name, _)| *name != own)
            .collect();
        servers.sort_by(|(a, few), (b, many)| many.cmp(few).then(a.cmp(b)));
        servers.sort_by_key(|(name, _)| Some(*name) != good.as_ref());
        let servers = servers.into_iter().take(SERVERS_MAX);
        servers.map(|(name, _)| name.clone()).collect()
    }
}
