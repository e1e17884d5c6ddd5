//! Simplified sliding sync: what is new in the rooms that a client looks at
//! (MSC4186, as clients of 2026 use it).
//!
//! It shares the reader's rows and memory with classic sync. Its own are what
//! each connection was told, and how rooms are listed. Rooms that no list or
//! subscription of a request names cost it nothing but a look at memory.

mod body;
mod connection;
mod connections;
mod extensions;
mod lists;
mod receipts;
pub mod request;
mod required_state;
mod room;
mod round;
mod state;
#[cfg(test)]
mod tests;
mod typing;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ruma::RoomId;
use tokio::time::{Instant, timeout_at};

use self::connections::{ConnectionKey, Connections, Opened};
use self::request::SlidingRequest;
use self::round::{Answer, Round};
use super::{ClientSync, SyncError, TIMEOUT_MAX};
use crate::crypto::random;
use crate::logs::log::PartitionId;
use crate::query::tokens::{SlidingToken, SyncToken};
use crate::readers::store::Write;
use crate::storage::columns::{SLIDING_CONNECTIONS, SLIDING_ROOMS, Table};
use crate::storage::overlay::StoreError;

/// The tables of connections; no fold writes them.
pub const TABLES: [Table; 2] = [SLIDING_CONNECTIONS, SLIDING_ROOMS];

/// Events of a room's timeline that a client may ask for.
pub const TIMELINE_LIMIT_MAX: u16 = 100;
/// Rooms with news that are told at once, among the other requests; more are
/// told where they hold nobody up.
const ROOMS_AT_ONCE_MAX: usize = 8;

/// What sliding sync keeps.
pub struct Sliding {
    connections: Connections,
    /// Of [`Sliding::member`].
    hasher: RandomState,
}

impl Sliding {
    pub fn new(partitions: u32) -> Sliding {
        Sliding {
            connections: Connections::new(partitions),
            hasher: RandomState::new(),
        }
    }

    /// Finds the connections of a partition again.
    pub fn load(&self, store: &dyn Write, partition: PartitionId) -> Result<(), StoreError> {
        self.connections.load(store, partition)
    }

    /// Names a member of a room who was told since an offset.
    fn member(&self, room: &RoomId, from: u64, member: &str) -> u64 {
        self.hasher.hash_one((room.as_str(), from, member))
    }
}

impl ClientSync {
    /// Connections of sliding sync that are kept, for `/metrics`.
    pub fn sliding_connections(&self) -> usize {
        self.sliding.connections.len()
    }

    /// Answers a request of sliding sync, after at most its timeout.
    ///
    /// Errors: [`SyncError::UnknownPosition`] where the client has to start over.
    pub async fn sliding_sync(
        self: &Arc<Self>,
        request: SlidingRequest,
    ) -> Result<String, SyncError> {
        let deadline = Instant::now() + request.timeout.min(TIMEOUT_MAX);
        self.catch_up().await;
        let (opened, since) = self.open_connection(&request)?;
        let request = Arc::new(request);
        let mut round = Round::new(self.clone(), request.clone(), opened, since);
        if round.since.is_none() || request.timeout.is_zero() {
            let (round, answer) = build(round).await?;
            return self.give(round, answer);
        }
        let place = self.enter_waiting(&request.user, false);
        loop {
            let mut news = std::pin::pin!(place.news.notified());
            // From here on news is not missed, whenever it comes.
            news.as_mut().enable();
            let answer;
            (round, answer) = build(round).await?;
            let access = request.access.as_ref();
            let ends = self.session_ended(access, &request.user, &request.device)?
                || self.closing.load(Ordering::Acquire)
                || !self.sliding.connections.is_newest(&round.opened);
            if !answer.is_empty() || ends || timeout_at(deadline, news).await.is_err() {
                return self.give(round, answer);
            }
            round.pass(answer);
        }
    }

    /// The connection of a request and the position that it continues from.
    fn open_connection(
        &self,
        request: &SlidingRequest,
    ) -> Result<(Opened, Option<SyncToken>), SyncError> {
        let key = ConnectionKey {
            user: request.user.clone(),
            device: request.device.clone(),
            conn_id: request.conn_id.clone(),
        };
        let since = match &request.pos {
            None => None,
            Some(pos) => {
                let token = SlidingToken::decode(pos).map_err(|_| SyncError::UnknownPosition)?;
                let ours = self.is_ours(&token.sync).then_some(token.sync);
                Some(ours.ok_or(SyncError::UnknownPosition)?)
            }
        };
        let pos = request.pos.as_deref();
        let opened = self
            .sliding
            .connections
            .open(self.store.as_ref(), key, pos)?;
        Ok((opened.ok_or(SyncError::UnknownPosition)?, since))
    }

    /// Gives an answer, and keeps what it tells. One without news keeps the
    /// client where it is, as does one to a request that another has replaced.
    fn give(&self, round: Round, answer: Answer) -> Result<String, SyncError> {
        let request = round.request.clone();
        if let Some(pos) = request.pos.as_deref().filter(|_| answer.is_empty()) {
            return answer.into_json(&request, pos);
        }
        let position = SlidingToken {
            answer: u64::from_be_bytes(random::bytes()),
            sync: answer.token.clone(),
        };
        let position = position.encode();
        let connections = &self.sliding.connections;
        let news = answer.news.clone();
        let kept = connections.keep(self.store.as_ref(), round.opened, &position, news)?;
        match (kept, request.pos.as_deref()) {
            (false, Some(pos)) => answer.without_news().into_json(&request, pos),
            _ => answer.into_json(&request, &position),
        }
    }
}

/// One round, where it holds nobody up.
async fn build(mut round: Round) -> Result<(Round, Answer), SyncError> {
    let plan = round.plan()?;
    if plan.rooms_due() <= ROOMS_AT_ONCE_MAX {
        let answer = round.build(plan)?;
        return Ok((round, answer));
    }
    let built = tokio::task::spawn_blocking(move || {
        let answer = round.build(plan)?;
        Ok((round, answer))
    });
    built.await.map_err(|_| SyncError::Stopped)?
}
