//! Waiting: for the reader to have seen what the client was told, and for
//! something new to tell.
//!
//! A request that waits is a timer, a place in one map and its own parameters.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use log_format::record::input::TokenHash;
use ruma::{DeviceId, RoomId, UserId};
use tokio::time::{Instant, timeout_at};

use super::answer::Built;
use super::waiters::{Place, RoomPlace};
use super::{ClientSync, SyncError, SyncRequest, TIMEOUT_MAX};
use crate::query::ids::OutputOffset;
use crate::query::tokens::SyncToken;

/// Records that an answer may have to tell of and is still built at once, among
/// the other requests: what it reads lies in memory for the most part.
const NEAR_RECORDS_MAX: u64 = 500;
/// How long a read waits for the reader to pass what the user was told.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);

impl ClientSync {
    /// Answers a request, after at most its timeout.
    ///
    /// Errors: [`SyncError::Token`] for a `since` that is none of ours; the
    /// others are failures of this server.
    pub async fn sync(self: &Arc<Self>, request: SyncRequest) -> Result<String, SyncError> {
        let deadline = Instant::now() + request.timeout.min(TIMEOUT_MAX);
        let since = self.since(&request)?;
        self.catch_up().await;
        let request = Arc::new(request);
        let mut since = match since {
            Some(since) if !request.full_state => since,
            since => return self.build_aside(request, since).await?.into_json(),
        };
        if request.timeout.is_zero() {
            return self.build_for(&request, &since).await?.into_json();
        }
        let hears_presence = self.tells_presence(&request);
        let place = self.enter_waiting(&request.user, hears_presence);
        loop {
            let mut news = std::pin::pin!(place.news.notified());
            // From here on news is not missed, whenever it comes.
            news.as_mut().enable();
            let built = self.build_for(&request, &since).await?;
            let ends =
                self.session_ended(request.access.as_ref(), &request.user, &request.device)?;
            let answers = ends || !built.is_empty() || self.closing.load(Ordering::Acquire);
            if answers || timeout_at(deadline, news).await.is_err() {
                return built.into_json();
            }
            // What was looked through held nothing for this client: later
            // rounds begin behind it.
            since = built.token;
        }
    }

    /// Builds an answer that tells on from `since`.
    async fn build_for(
        self: &Arc<Self>,
        request: &Arc<SyncRequest>,
        since: &SyncToken,
    ) -> Result<Built, SyncError> {
        let behind: u64 = {
            let memory = self.memory.read();
            let cursors = memory.cursors.iter().zip(&since.vector);
            cursors.map(|(to, since)| to.saturating_sub(since.0)).sum()
        };
        match behind > NEAR_RECORDS_MAX {
            true => self.build_aside(request.clone(), Some(since.clone())).await,
            false => self.build(request, Some(since)),
        }
    }

    /// Builds a dear answer where it holds nobody up.
    async fn build_aside(
        self: &Arc<Self>,
        request: Arc<SyncRequest>,
        since: Option<SyncToken>,
    ) -> Result<Built, SyncError> {
        let sync = self.clone();
        let build = move || sync.build(&request, since.as_ref());
        let built = tokio::task::spawn_blocking(build).await;
        built.map_err(|_| SyncError::Stopped)?
    }

    /// Whether the session of a request is over. Where its device lives on, as
    /// the token was replaced, the client gets what there is and asks again.
    pub(super) fn session_ended(
        &self,
        access: Option<&TokenHash>,
        user: &UserId,
        device: &DeviceId,
    ) -> Result<bool, SyncError> {
        let Some(access) = access else {
            return Ok(false);
        };
        if self.users.session(access).is_some() {
            return Ok(false);
        }
        let devices = self.users.devices(user);
        match devices.iter().any(|known| known.device_id == device) {
            true => Ok(true),
            false => Err(SyncError::LoggedOut),
        }
    }

    /// The token that a request continues from; none if it begins anew.
    fn since(&self, request: &SyncRequest) -> Result<Option<SyncToken>, SyncError> {
        let Some(text) = &request.since else {
            return Ok(None);
        };
        let token = SyncToken::decode(text)?;
        Ok(self.is_ours(&token).then_some(token))
    }

    /// Enters a request of a user among those that wait, also for the presence of
    /// others if it tells of that.
    pub(super) fn enter_waiting(&self, user: &UserId, hears_presence: bool) -> Place<'_> {
        let known = self.memory.read().user_ix(user);
        let user = known.unwrap_or_else(|| self.memory.write().intern_user(user));
        self.waiters.enter(user, hears_presence)
    }

    /// Enters a request that looks into a room; none for one that is not known.
    pub(super) fn enter_peeking(&self, room: &RoomId) -> Option<RoomPlace<'_>> {
        let room = self.memory.read().room_ix(room)?;
        Some(self.waiters.enter_room(room))
    }

    /// Whether a position can be continued from.
    pub(super) fn is_ours(&self, token: &SyncToken) -> bool {
        token.epoch == self.epoch
            && token.vector.len() == self.output.partitions() as usize
            // A position that was never written cannot be continued from: the
            // log was put back to an earlier state, and the client starts over.
            && self.cursors_cover(&token.vector, |partition| self.output.end(partition))
    }

    fn cursors_cover(&self, vector: &[OutputOffset], reached: impl Fn(u32) -> u64) -> bool {
        (0..)
            .zip(vector)
            .all(|(partition, wanted)| wanted.0 <= reached(partition))
    }

    /// Waits, bounded, until the reader, and that of what is bundled with
    /// events, have passed all that was decided before the request: with it what
    /// the user was told, by an answer of sync, of a writer, or by another user
    /// elsewhere.
    pub(super) async fn catch_up(&self) {
        self.relations.passed(None).await;
        let deadline = Instant::now() + CATCH_UP_MAX;
        let decided: Vec<OutputOffset> = (0..self.output.partitions())
            .map(|partition| OutputOffset(self.output.end(partition)))
            .collect();
        loop {
            let mut advanced = std::pin::pin!(self.advanced.notified());
            advanced.as_mut().enable();
            let passed = {
                let memory = self.memory.read();
                let reached =
                    |partition: u32| memory.cursors.get(partition as usize).copied().unwrap_or(0);
                self.cursors_cover(&decided, reached)
            };
            if passed
                || self.stopped.load(Ordering::Acquire)
                || timeout_at(deadline, advanced).await.is_err()
            {
                return;
            }
        }
    }
}
