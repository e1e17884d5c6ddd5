//! Waiting: for the reader to have seen what the client was told, and for
//! something new to tell.
//!
//! A request that waits is a timer, a place in one map and its own parameters.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::memory::UserIx;
use super::{ClientSync, SyncError, SyncRequest, TIMEOUT_MAX};
use crate::query::ids::OutputOffset;
use crate::query::tokens::SyncToken;

/// How long a read waits for the reader to pass what the user was told.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);

/// A request's place among those that wait; given back when it is dropped,
/// also when the client has gone away.
struct Place<'a> {
    sync: &'a ClientSync,
    user: UserIx,
    news: Arc<Notify>,
}

impl<'a> Place<'a> {
    fn enter(sync: &'a ClientSync, request: &SyncRequest) -> Place<'a> {
        let (user, news) = sync.memory.write().enter(&request.user);
        Place { sync, user, news }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.sync.memory.write().leave(self.user);
    }
}

impl ClientSync {
    /// Answers a request, after at most its timeout.
    ///
    /// Errors: [`SyncError::Token`] for a `since` that is none of ours; the
    /// others are failures of this server.
    pub async fn sync(self: &Arc<Self>, request: SyncRequest) -> Result<String, SyncError> {
        let deadline = Instant::now() + request.timeout.min(TIMEOUT_MAX);
        let since = self.since(&request)?;
        self.catch_up().await;
        let Some(mut since) = since else {
            // The dear answer, made where it holds nobody up.
            let sync = self.clone();
            let built = tokio::task::spawn_blocking(move || sync.build(&request, None)).await;
            return built
                .map_err(|_| SyncError::Stopped)?
                .and_then(|built| built.into_json());
        };
        if request.full_state || request.timeout.is_zero() {
            return self.build(&request, Some(&since))?.into_json();
        }
        let place = Place::enter(self, &request);
        loop {
            let mut news = std::pin::pin!(place.news.notified());
            // From here on news is not missed, whenever it comes.
            news.as_mut().enable();
            let built = self.build(&request, Some(&since))?;
            let answers = !built.is_empty() || self.closing.load(Ordering::Acquire);
            if answers || timeout_at(deadline, news).await.is_err() {
                return built.into_json();
            }
            // What was looked through held nothing for this client: later
            // rounds begin behind it.
            since = built.token;
        }
    }

    /// The token that a request continues from; none if it begins anew.
    fn since(&self, request: &SyncRequest) -> Result<Option<SyncToken>, SyncError> {
        let Some(text) = &request.since else {
            return Ok(None);
        };
        let token = SyncToken::decode(text)?;
        let ours = token.epoch == self.epoch
            && token.vector.len() == self.output.partitions() as usize
            // A position that was never written cannot be continued from: the
            // log was put back to an earlier state, and the client starts over.
            && self.cursors_cover(&token.vector, |partition| self.output.end(partition));
        Ok(ours.then_some(token))
    }

    fn cursors_cover(&self, vector: &[OutputOffset], reached: impl Fn(u32) -> u64) -> bool {
        (0..)
            .zip(vector)
            .all(|(partition, wanted)| wanted.0 <= reached(partition))
    }

    /// Waits, bounded, until the reader has passed all that was decided before
    /// the request: with it what the user was told, by an answer of sync, of a
    /// writer, or by another user elsewhere.
    async fn catch_up(&self) {
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
