//! Follows *output* into the index: when to commit, and what to do when the
//! disk or the index fails. The rest of the server goes on without it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::fold::{FoldError, fold};
use super::index::{self, IndexError, Writing};
use super::{ClientSearch, Ports};
use crate::readers::run::ReaderError;

/// Payload bytes that are read at a time.
const GROUP_BYTES: usize = 256 * 1024;
/// From the first thing that is not committed to its commit, on an idle server:
/// more of what is sent at once comes into one commit, and nobody waits long.
const COMMIT_AFTER: Duration = Duration::from_millis(200);
/// From the first news to a look at them: a server where much is said folds it
/// some thirty times a second and not message by message.
const GATHER: Duration = Duration::from_millis(30);
/// A commit flushes some ten files. It comes no sooner than so many times what
/// the last one took, so that the disk and the processors are the log's...
const COMMIT_PAUSE: u32 = 9;
/// ...but no later than this.
const COMMIT_PAUSE_MAX: Duration = Duration::from_secs(10);
/// Documents after which a commit does not wait: while an index is built anew.
const COMMIT_DOCUMENTS: usize = 100_000;
/// Records after which the cursors are committed though nothing was found in
/// them: no more are read again after a restart.
const COMMIT_RECORDS: u64 = 200_000;
/// How often segments are written anew that hold something deleted.
const ERASE_EVERY: Duration = Duration::from_secs(60 * 60);
/// From a failure to the next attempt.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// Failures in a row after which the index is built anew.
const FAILURES_MAX: u32 = 3;

/// The one who writes the index.
pub struct Follower {
    /// None after a failure, until it is opened again.
    writing: Option<Writing>,
    /// Documents and deletions that are not committed.
    queued: usize,
    /// Records since the last commit.
    records: u64,
    /// Since when something is queued.
    since: Option<Instant>,
    /// Not before this.
    next_commit: Option<Instant>,
    next_erase: Option<Instant>,
    is_checked: bool,
    failures: u32,
}

/// What comes after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// There may be more to fold.
    GoOn,
    /// Nothing to fold; nothing to do before this, if nothing comes.
    Wait(Instant),
}

impl Follower {
    /// Of an index that is open; without one it is opened at the first step.
    pub fn new(writing: Option<Writing>) -> Follower {
        Follower {
            failures: u32::from(writing.is_none()),
            writing,
            queued: 0,
            records: 0,
            since: None,
            next_commit: None,
            next_erase: None,
            is_checked: false,
        }
    }

    fn next(&self) -> &[u64] {
        self.writing.as_ref().map_or(&[], |writing| &writing.next)
    }

    fn commit_due(&self) -> Option<Instant> {
        let due = self.since? + COMMIT_AFTER;
        Some(self.next_commit.map_or(due, |next| next.max(due)))
    }
}

/// Opens the index in its folder, as far as it fits *output*.
pub fn open_index(ports: &Ports) -> Result<Writing, IndexError> {
    let partitions = 0..ports.output.partitions();
    let ends: Vec<u64> = partitions.map(|each| ports.output.end(each)).collect();
    index::open(&ports.folder, ports.epoch, &ends)
}

impl ClientSearch {
    /// Folds what there is, a group of each partition, and commits when it is time.
    pub fn step(&self, now: Instant) -> Result<Next, FoldError> {
        let follower = &mut *self.follower.lock();
        let stepped = self.try_step(follower, now);
        match &stepped {
            Ok(_) => follower.failures = 0,
            Err(_) => {
                // What was queued is gone with the writer; it is read again.
                follower.failures += 1;
                follower.writing = None;
            }
        }
        stepped
    }

    fn try_step(&self, follower: &mut Follower, now: Instant) -> Result<Next, FoldError> {
        self.repair(follower)?;
        let Some(writing) = &mut follower.writing else {
            return Ok(Next::GoOn);
        };
        let mut went_on = false;
        for partition in 0..self.ports.output.partitions() {
            let Some(next) = writing.next.get_mut(partition as usize) else {
                continue;
            };
            let output = &self.ports.output;
            let records = output
                .read(partition, *next, GROUP_BYTES)
                .map_err(ReaderError::Log)?;
            let Some(last) = records.last() else {
                continue;
            };
            *next = last.offset + 1;
            for record in &records {
                follower.queued += fold(writing, &*self.ports.rooms, record)?;
            }
            follower.records += records.len() as u64;
            went_on = true;
        }
        if follower.queued == 0 {
            self.show(&writing.next);
        } else {
            follower.since.get_or_insert(now);
        }
        let due = follower.commit_due();
        let is_due = due.is_some_and(|due| due <= now)
            || follower.queued >= COMMIT_DOCUMENTS
            || follower.records >= COMMIT_RECORDS;
        if is_due {
            self.commit(follower)?;
            return Ok(Next::GoOn);
        }
        if went_on {
            return Ok(Next::GoOn);
        }
        let erase = *follower.next_erase.get_or_insert(now + ERASE_EVERY);
        if erase <= now {
            follower.next_erase = Some(now + ERASE_EVERY);
            if let Some(writing) = &mut follower.writing {
                writing.erase()?;
            }
        }
        Ok(Next::Wait(due.unwrap_or(erase).min(erase)))
    }

    /// Opens the index after a failure; empties one whose files are damaged, or
    /// with which it fails again and again.
    fn repair(&self, follower: &mut Follower) -> Result<(), FoldError> {
        if self.is_suspect.swap(false, Ordering::AcqRel) {
            follower.is_checked = false;
        }
        if let Some(writing) = &follower.writing
            && !follower.is_checked
        {
            follower.is_checked = true;
            if let Err(error) = writing.check() {
                tracing::error!(%error, "search index is damaged, and is built anew");
                follower.failures = FAILURES_MAX;
                follower.writing = None;
            }
        }
        if follower.writing.is_some() {
            return Ok(());
        }
        if follower.failures >= FAILURES_MAX {
            // Whether or not there was one: opening makes it anew.
            let _ = index::remove(&self.ports.folder);
        }
        let writing = open_index(&self.ports)?;
        self.searching.store(Arc::new(writing.searching.clone()));
        self.show(&writing.next);
        *follower = Follower {
            failures: follower.failures,
            ..Follower::new(Some(writing))
        };
        Ok(())
    }

    /// Commits what is queued, whether or not it is time.
    pub fn commit_now(&self) -> Result<(), FoldError> {
        Ok(self.commit(&mut self.follower.lock())?)
    }

    fn commit(&self, follower: &mut Follower) -> Result<(), IndexError> {
        let begun = Instant::now();
        let Some(writing) = &mut follower.writing else {
            return Ok(());
        };
        writing.commit()?;
        self.show(&writing.next);
        let pause = (begun.elapsed() * COMMIT_PAUSE).min(COMMIT_PAUSE_MAX);
        follower.next_commit = Some(Instant::now() + pause);
        (follower.queued, follower.records) = (0, 0);
        follower.since = None;
        Ok(())
    }

    fn show(&self, next: &[u64]) {
        for (shown, next) in self.shown.iter().zip(next) {
            shown.store(*next, Ordering::Release);
        }
    }

    /// *Output* records that a search does not take into account yet.
    pub fn behind(&self) -> u64 {
        let partitions = (0..self.ports.output.partitions()).zip(&self.shown);
        let behind = partitions.map(|(partition, shown)| {
            let end = self.ports.output.end(partition);
            end.saturating_sub(shown.load(Ordering::Acquire))
        });
        behind.sum()
    }

    /// Waits for merges, and opens the index anew.
    #[cfg(test)]
    pub fn finish_merges(&self) {
        let follower = &mut *self.follower.lock();
        let writing = follower.writing.take().expect("an index");
        writing.finish_merges().expect("merges");
        self.repair(follower).expect("opens");
    }

    /// Resolves when a partition has a record that was not folded.
    async fn news(&self) {
        let next = self.follower.lock().next().to_vec();
        let partitions = (0u32..).zip(next);
        let output = &self.ports.output;
        let waits = partitions.map(|(partition, next)| output.wait_beyond(partition, next));
        futures_util::future::select_all(waits).await;
    }
}

/// Follows until `stop`, whatever fails.
pub fn spawn(search: &Arc<ClientSearch>, stop: &CancellationToken) -> JoinHandle<()> {
    let (search, stop) = (search.clone(), stop.clone());
    tokio::spawn(async move {
        while !stop.is_cancelled() {
            follow(&search, &stop).await;
        }
        let commit = move || search.commit_now();
        if let Ok(Err(error)) = spawn_blocking(commit).await {
            tracing::warn!(%error, "search index not committed, it is brought up at the next start");
        }
    })
}

async fn follow(search: &Arc<ClientSearch>, stop: &CancellationToken) {
    let stepping = search.clone();
    let stepped = spawn_blocking(move || stepping.step(Instant::now())).await;
    let until = match stepped {
        Ok(Ok(Next::GoOn)) => return,
        Ok(Ok(Next::Wait(until))) => until,
        Ok(Err(error)) => {
            tracing::error!(%error, "search index does not follow, tried again shortly");
            Instant::now() + RETRY_AFTER
        }
        Err(error) => {
            tracing::error!(%error, "search index panicked, tried again shortly");
            Instant::now() + RETRY_AFTER
        }
    };
    let is_failed = search.follower.lock().writing.is_none();
    let news = async {
        match is_failed {
            true => std::future::pending().await,
            false => search.news().await,
        }
        tokio::time::sleep(GATHER).await;
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = news => {}
        () = tokio::time::sleep_until(until.into()) => {}
    }
}
