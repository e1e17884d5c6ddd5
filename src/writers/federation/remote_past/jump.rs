//! A jump into the past: the event that was sent next to a time, where our part of
//! the history has a gap there. Servers of the room are asked which it is, and it
//! is fetched with the state before it (client-server and server-server API,
//! `timestamp_to_event`).
//!
//! It stands alone in the timeline then, with gaps on both sides, which are filled
//! when a client reads on from it.

use std::sync::Arc;

use log_format::record::Source;
use log_format::record::input::Placement;
use ruma::{OwnedEventId, ServerName};
use tokio::time::timeout;

use super::chunk::is_loose;
use super::gap::{self, Gap};
use super::{Line, WAIT_MAX};
use crate::matrix::canonical_json::{Numbers, parse_object_with};
use crate::outbound::answer::RequestError;
use crate::outbound::federation::event;
use crate::outbound::federation::timestamps::{Closest, timestamp_to_event};
use crate::query::ids::Place;
use crate::query::rooms::{Direction, RoomHead};
use crate::writers::federation::pdu_checks::CheckedPdu;
use crate::writers::federation::remote_rooms::{RemoteRoomError, RemoteRooms};

/// What is looked for, and the best of it that is here.
#[derive(Clone, Copy, Debug)]
pub struct Sought {
    /// Milliseconds since the epoch.
    pub ts: u64,
    /// Forward: the first event at that time or later. Backward: the last at it or
    /// earlier.
    pub direction: Direction,
    /// The best that is here, if anything is on that side: when it was sent, and
    /// its place.
    pub found: Option<(u64, Place)>,
}

impl Sought {
    /// Whether an event of that time would be better.
    fn is_closer(&self, ts: u64) -> bool {
        let found = self.found.map(|(found, _)| found);
        match self.direction {
            Direction::Forward => ts >= self.ts && found.is_none_or(|found| ts < found),
            Direction::Backward => ts <= self.ts && found.is_none_or(|found| ts > found),
        }
    }
}

impl RemoteRooms {
    /// The gap of our history where an event that is closer may be; none where
    /// asking others is of no use.
    pub fn gap_beside(&self, head: &RoomHead, sought: Sought) -> Option<Gap> {
        let is_exact = sought.found.is_some_and(|(found, _)| found == sought.ts);
        if is_exact || !head.is_resident(&self.own().server) || head.servers.len() < 2 {
            return None;
        }
        let place = sought.found.map(|(_, place)| place);
        let gap = gap::beside(&*self.parts.rooms, &head.room_id, place, sought.direction);
        gap.unwrap_or_else(|error| {
            tracing::warn!(room = %head.room_id, %error, "gaps of a room could not be found");
            None
        })
    }

    /// Has a closer event fetched from whoever has it, and waits a bounded time for
    /// it. Answers whether it is here now. Nothing that fails is an error: then what
    /// was found is the answer.
    pub async fn find_closer(&self, head: &Arc<RoomHead>, gap: Gap, sought: Sought) -> bool {
        let (this, head) = (self.clone(), head.clone());
        // It goes on when the client goes away: the next one finds it done.
        let looking = tokio::spawn(async move { this.ask_all(&head, &gap, &sought).await });
        match timeout(WAIT_MAX, looking).await {
            Ok(Ok(Ok(is_found))) => is_found,
            Ok(Ok(Err(error))) => {
                tracing::info!(%error, "an event of a time could not be fetched");
                false
            }
            Ok(Err(_)) => {
                tracing::warn!("looking for an event of a time panicked");
                false
            }
            Err(_) => {
                tracing::info!("an event of a time takes long to come");
                false
            }
        }
    }

    /// Asks one server after the other until one has a closer event.
    async fn ask_all(
        &self,
        head: &RoomHead,
        gap: &Gap,
        sought: &Sought,
    ) -> Result<bool, RemoteRoomError> {
        let line = self.line_of(&head.room_id);
        let _turn = line.turn.lock().await;
        for server in line.servers(head, &self.own().server) {
            match self.ask_one(head, gap, sought, &server).await {
                Ok(true) => {
                    note_good(&line, &server);
                    return Ok(true);
                }
                Ok(false) => {}
                Err(error) if !error.is_of_the_server() => return Err(error),
                Err(error) => {
                    tracing::info!(room = %head.room_id, %server, %error, "no event of the time from this server");
                }
            }
        }
        Ok(false)
    }

    /// Whether a server has a closer event, which is here then.
    async fn ask_one(
        &self,
        head: &RoomHead,
        gap: &Gap,
        sought: &Sought,
        server: &ServerName,
    ) -> Result<bool, RemoteRoomError> {
        let room = &head.room_id;
        let forward = sought.direction == Direction::Forward;
        let client = &self.parts.client;
        let told = timestamp_to_event(client, server, room, (sought.ts, forward)).await;
        let told: Closest = match told {
            Ok(told) => told,
            Err(RequestError::Refused(refusal)) if refusal.status == 404 => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        // One that is here was looked at, and is not for the user to see.
        let is_news = sought.is_closer(told.origin_server_ts)
            && !gap::is_placed(&*self.parts.rooms, room, &told.event_id)?;
        if !is_news {
            return Ok(false);
        }
        let event = self.fetch_alone(head, server, &told.event_id).await?;
        // What it says itself is signed, and what the server says of it is not.
        if !sought.is_closer(event.pdu.origin_server_ts) {
            return Err(RemoteRoomError::BadAnswer("the event is of another time"));
        }
        self.append_alone(head, gap, server, &event).await?;
        Ok(gap::is_placed(&*self.parts.rooms, room, &told.event_id)?)
    }

    /// One event of the room from a server, checked.
    async fn fetch_alone(
        &self,
        head: &RoomHead,
        server: &ServerName,
        id: &OwnedEventId,
    ) -> Result<CheckedPdu, RemoteRoomError> {
        let raw = event::event(&self.parts.client, server, id).await?;
        let raw = raw.ok_or(RemoteRoomError::BadAnswer("the event is not in it"))?;
        let object = parse_object_with(&raw, Numbers::Kept);
        let object = object.map_err(|_| RemoteRoomError::BadAnswer("the event is no object"))?;
        let version = head.authority.create_info.version;
        let checked = self.checks.check(version, object).await;
        let checked = checked.map_err(|why| {
            tracing::debug!(%id, %server, %why, "event of a time does not pass its checks");
            RemoteRoomError::BadAnswer("the event does not pass its checks")
        })?;
        match checked.pdu.event_id == *id && checked.pdu.room_id == head.room_id {
            true => Ok(checked),
            false => Err(RemoteRoomError::BadAnswer("it is another event")),
        }
    }

    /// Appends an event of the past by itself, with the state before it where that
    /// is not known.
    async fn append_alone(
        &self,
        head: &RoomHead,
        gap: &Gap,
        server: &ServerName,
        event: &CheckedPdu,
    ) -> Result<(), RemoteRoomError> {
        let before = gap.before.to_string();
        let record = event.record(Placement::Backfill { before }, Source::Federation, server);
        let id = &event.pdu.event_id;
        if !is_loose(&*self.parts.rooms, &event.pdu, |_| false)? {
            return self.append_past(&head.room_id, vec![record]).await;
        }
        let state = self.state_before(head, server, id).await?;
        let given = &self.given;
        given
            .give_and_append(&head.room_id, id, &state, record)
            .await?;
        Ok(())
    }
}

fn note_good(line: &Line, server: &ServerName) {
    line.known.lock().good = Some(server.to_owned());
}
