//! Lanes: the records of one group, folded in parallel by key.
//!
//! A key always has the same lane, and keys never share a row, so the lanes of
//! a group meet only when it is merged. With one lane, or when a group has
//! records for one lane only, the fold runs on the calling thread.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use bytes::Bytes;
use log_format::record::{Envelope, Kind};

use super::fold::{FoldError, FoldInput, Folded, Projector, Stamp};
use crate::logs::log::LogRecord;
use crate::storage::columns::Family;
use crate::storage::overlay::{Overlay, Read};

/// Groups of up to so many records are folded on the calling thread: two thread
/// switches cost as much as some tens of folds of plain messages save.
const INLINE_RECORDS_MAX: usize = 32;

/// Pending writes of a lane: full key by family to value, `None` for a deletion.
pub type Writes = BTreeMap<(Family, Vec<u8>), Option<Bytes>>;

/// The projectors of one lane of one partition.
pub struct Lane {
    pub rooms: Box<dyn Projector>,
    pub users: Box<dyn Projector>,
    pub aliases: Box<dyn Projector>,
    pub receipts: Box<dyn Projector>,
    pub keys: Box<dyn Projector>,
    pub deliveries: Box<dyn Projector>,
}

impl Lane {
    fn projector(&mut self, kind: Kind) -> Option<&mut dyn Projector> {
        Some(match kind {
            Kind::InputRoomEvent
            | Kind::InputRoomPublished
            | Kind::InputStateBegin
            | Kind::InputStateChunk
            | Kind::InputStateCommit
            | Kind::InputStateAbandoned
            | Kind::InputRoomResumed
            | Kind::InputOutsideMembership
            | Kind::InputRoomPurged => self.rooms.as_mut(),
            Kind::InputAccountCreated
            | Kind::InputPasswordSet
            | Kind::InputAccountDeactivated
            | Kind::InputDeviceLoggedIn
            | Kind::InputTokensRefreshed
            | Kind::InputDevicesRemoved
            | Kind::InputProfileField
            | Kind::InputAccountData
            | Kind::InputFilter
            | Kind::InputRoomForgotten
            | Kind::InputDeviceRenamed
            | Kind::InputReport => self.users.as_mut(),
            Kind::InputAliasCreated | Kind::InputAliasRemoved => self.aliases.as_mut(),
            Kind::InputReceipt => self.receipts.as_mut(),
            Kind::InputServerKeys => self.keys.as_mut(),
            Kind::InputDelivery => self.deliveries.as_mut(),
            // Folded elsewhere, or not *input*.
            Kind::EphemeralTyping
            | Kind::EphemeralPresence
            | Kind::OutputReceipt
            | Kind::OutputOutsideMembership
            | Kind::OutputRoomEvent
            | Kind::OutputRoomPublished
            | Kind::OutputRoomPurged
            | Kind::OutputRoomState
            | Kind::OutputRoomGap
            | Kind::OutputUser
            | Kind::OutputAlias
            | Kind::OutputServerKeys
            | Kind::OutputDelivery => return None,
        })
    }

    /// Makes current what the query window shows.
    pub fn publish(&mut self) {
        self.rooms.publish();
        self.users.publish();
        self.aliases.publish();
        self.receipts.publish();
        self.keys.publish();
        self.deliveries.publish();
    }
}

/// What one lane made of its share of a group.
pub struct LaneFold {
    pub writes: Writes,
    /// Index within the group, and what the fold decided.
    pub folded: Vec<(usize, Folded)>,
    pub stamps: Vec<Stamp>,
}

/// Folds that could not be done.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    #[error(transparent)]
    Fold(#[from] FoldError),
    #[error("input record at offset {offset} is of kind {kind}, which no projector folds")]
    NotInput { offset: u64, kind: &'static str },
    #[error("a lane panicked; its group was not applied")]
    Panicked,
}

struct Job {
    lane: Lane,
    partition: u32,
    index: usize,
    records: Arc<[LogRecord]>,
    share: Vec<usize>,
}

struct Done {
    lane: Lane,
    index: usize,
    fold: Result<LaneFold, LaneError>,
}

/// The lanes of one partition with the threads that fold them.
pub struct Lanes {
    partition: u32,
    store: Arc<dyn Read>,
    /// `None` only while a lane is out with a worker.
    lanes: Vec<Option<Lane>>,
    workers: Vec<Worker>,
    done: Receiver<Done>,
}

struct Worker {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Lanes {
    /// Lanes over a store. There is a thread for each lane but one, which the
    /// caller's thread folds.
    pub fn new(partition: u32, store: Arc<dyn Read>, lanes: Vec<Lane>) -> std::io::Result<Lanes> {
        let (finished, done) = channel();
        let mut workers = Vec::new();
        for number in 1..lanes.len() {
            let (jobs, inbox) = channel::<Job>();
            let (finished, store) = (finished.clone(), store.clone());
            let thread = std::thread::Builder::new()
                .name(format!("lane-{partition}-{number}"))
                .spawn(move || work(&inbox, &finished, store.as_ref()))?;
            workers.push(Worker {
                jobs: Some(jobs),
                thread: Some(thread),
            });
        }
        Ok(Lanes {
            partition,
            store,
            lanes: lanes.into_iter().map(Some).collect(),
            workers,
            done,
        })
    }

    /// Folds a group; the results by lane, in no particular order of lanes.
    ///
    /// Errors: the first by lane number. Nothing was written then, but the
    /// lanes have seen part of the group and must not be used again.
    pub fn fold(&mut self, records: &Arc<[LogRecord]>) -> Result<Vec<LaneFold>, LaneError> {
        let mut shares = self.shares(records)?;
        if records.len() <= INLINE_RECORDS_MAX {
            return self.fold_here(records, shares);
        }
        let Some((own_index, own_share)) = shares.pop() else {
            return Ok(Vec::new());
        };
        let mut results = Vec::with_capacity(shares.len() + 1);
        let mut out = 0;
        for (worker, (index, share)) in self.workers.iter().zip(shares) {
            let lane = self.lanes.get_mut(index).and_then(Option::take);
            let job = Job {
                lane: lane.ok_or(LaneError::Panicked)?,
                partition: self.partition,
                index,
                records: records.clone(),
                share,
            };
            let jobs = worker.jobs.as_ref().ok_or(LaneError::Panicked)?;
            jobs.send(job).map_err(|_| LaneError::Panicked)?;
            out += 1;
        }
        let own = self.lanes.get_mut(own_index).and_then(Option::as_mut);
        let own = own.ok_or(LaneError::Panicked)?;
        let store = self.store.as_ref();
        results.push((
            own_index,
            fold_share(own, self.partition, store, records, own_share),
        ));
        for _ in 0..out {
            let done = self.done.recv().map_err(|_| LaneError::Panicked)?;
            if let Some(place) = self.lanes.get_mut(done.index) {
                *place = Some(done.lane);
            }
            results.push((done.index, done.fold));
        }
        // So that the error which is reported does not depend on scheduling.
        results.sort_by_key(|(index, _)| *index);
        results.into_iter().map(|(_, fold)| fold).collect()
    }

    fn fold_here(
        &mut self,
        records: &[LogRecord],
        shares: Vec<(usize, Vec<usize>)>,
    ) -> Result<Vec<LaneFold>, LaneError> {
        let (partition, store) = (self.partition, self.store.as_ref());
        let mut folds = Vec::with_capacity(shares.len());
        for (index, share) in shares {
            let lane = self.lanes.get_mut(index).and_then(Option::as_mut);
            let lane = lane.ok_or(LaneError::Panicked)?;
            folds.push(fold_share(lane, partition, store, records, share)?);
        }
        Ok(folds)
    }

    /// Makes current what the query window shows, on every lane.
    pub fn publish(&mut self) {
        self.lanes.iter_mut().flatten().for_each(Lane::publish);
    }

    /// Which records each lane folds; lanes without any are left out.
    fn shares(&self, records: &[LogRecord]) -> Result<Vec<(usize, Vec<usize>)>, LaneError> {
        if self.lanes.len() == 1 {
            let all = (0..records.len()).collect();
            return Ok(Vec::from_iter((!records.is_empty()).then_some((0, all))));
        }
        let mut shares = vec![Vec::new(); self.lanes.len()];
        for (at, record) in records.iter().enumerate() {
            let envelope = parse(record)?;
            if let Some(share) = shares.get_mut(lane_of(envelope.key, self.lanes.len())) {
                share.push(at);
            }
        }
        let shares = shares.into_iter().enumerate();
        Ok(shares.filter(|(_, share)| !share.is_empty()).collect())
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            worker.jobs = None;
            if let Some(thread) = worker.thread.take() {
                // A lane that panicked was reported by the fold.
                let _ = thread.join();
            }
        }
    }
}

/// FNV-1a of the key: the lanes need no more than that keys spread, and the
/// result of a group does not depend on which lane a key has.
fn lane_of(key: &str, lanes: usize) -> usize {
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (hash % lanes.max(1) as u64) as usize
}

fn parse(record: &LogRecord) -> Result<Envelope<'_>, FoldError> {
    record.envelope().map_err(|source| FoldError::Envelope {
        offset: record.offset,
        source,
    })
}

fn work(inbox: &Receiver<Job>, finished: &Sender<Done>, store: &dyn Read) {
    while let Ok(job) = inbox.recv() {
        let Job {
            mut lane,
            partition,
            index,
            records,
            share,
        } = job;
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            fold_share(&mut lane, partition, store, &records, share)
        }));
        let fold = caught.unwrap_or(Err(LaneError::Panicked));
        if finished.send(Done { lane, index, fold }).is_err() {
            return;
        }
    }
}

fn fold_share(
    lane: &mut Lane,
    partition: u32,
    store: &dyn Read,
    records: &[LogRecord],
    share: Vec<usize>,
) -> Result<LaneFold, LaneError> {
    let mut tables = Overlay::new(store);
    let mut folded = Vec::with_capacity(share.len());
    for at in share {
        let Some(record) = records.get(at) else {
            continue;
        };
        let envelope = parse(record)?;
        let projector = lane.projector(envelope.kind).ok_or(LaneError::NotInput {
            offset: record.offset,
            kind: envelope.kind.name(),
        })?;
        let input = FoldInput {
            partition,
            offset: record.offset,
            time_us: record.time_us,
            envelope: &envelope,
        };
        folded.push((at, projector.fold(&input, &mut tables)?));
    }
    let mut stamps = lane.rooms.stamps();
    stamps.extend(lane.users.stamps());
    stamps.extend(lane.aliases.stamps());
    stamps.extend(lane.receipts.stamps());
    Ok(LaneFold {
        writes: tables.into_writes(),
        folded,
        stamps,
    })
}
