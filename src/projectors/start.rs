//! The start: open the store, see whether it fits the logs, else the newest
//! snapshot that does, else begin from zero; complete *output*.
//!
//! Source: log.md, settled rule 2. Both derived stores may be lost or stale and
//! are then set aside and made again; only *input* is taken as it is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use log_format::codec::decode;
use log_format::record::Kind;
use log_format::record::output::{
    OutputAlias, OutputDelivery, OutputOutsideMembership, OutputReceipt, OutputRoomEvent,
    OutputRoomGap, OutputRoomPublished, OutputRoomPurged, OutputRoomState, OutputServerKeys,
    OutputUser,
};

use super::applied::Applied;
use super::engine::{Patience, RunError, append_patiently};
use super::fold::PROJECTOR_VERSION;
use super::output_log::{Difference, OutputLog};
use super::snapshots::{SnapshotError, Snapshots};
use super::tail::{self, TailError};
use crate::logs::log::{Log, LogRecord, ReadError};
use crate::storage::open::{Store, StoreOptions};
use crate::storage::overlay::StoreError;

/// Where the store and its snapshots lie.
#[derive(Clone, Debug)]
pub struct Folders {
    pub store: PathBuf,
    pub snapshots: PathBuf,
}

impl Folders {
    /// Where a store is moved to that is not used any more. One is kept.
    fn aside(&self) -> PathBuf {
        self.store.with_extension("aside")
    }
}

/// Why projection could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("store failed: {0}")]
    Store(#[from] StoreError),
    #[error("log could not be read: {0}")]
    Read(#[from] ReadError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Tail(#[from] TailError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// What a start had to do, for the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order in which it was noticed and done.
    pub notes: Vec<String>,
    /// Snapshot that was restored: the records that it covers.
    pub restored: Option<u64>,
    /// *Output* records that were completed from the store.
    pub completed: u64,
}

/// Opens the store alone, before the logs: its applied offsets are witnesses of
/// what was durable in *input*. A store that does not open is set aside.
pub fn open_store(
    folders: &Folders,
    options: &StoreOptions,
    report: &mut Report,
) -> Result<Store, StartError> {
    if let Some(parent) = folders.store.parent() {
        fs::create_dir_all(parent).map_err(|source| StartError::Io {
            path: parent.to_owned(),
            source,
        })?;
    }
    match Store::open(&folders.store, options) {
        Ok(store) => Ok(store),
        Err(error) if is_locked(&error) => Err(error.into()),
        Err(error) => {
            let note = format!("the store does not open and was set aside: {error}");
            report.notes.push(note);
            set_aside(folders)?;
            Ok(Store::open(&folders.store, options)?)
        }
    }
}

/// Applied offsets and links by partition, none where nothing was folded.
/// A row that cannot be read counts as none.
pub fn witnesses(store: &Store, partitions: u32) -> Vec<Option<Applied>> {
    let rows = (0..partitions).map(|partition| Applied::read(store, partition));
    rows.map(|row| row.ok().flatten()).collect()
}

/// Makes store and *output* fit *input*; see the head of this file.
///
/// Without `snapshots` none is used. Errors: I/O only; what does not fit is
/// reported and replaced.
pub fn fit(
    store: Store,
    folders: &Folders,
    options: &StoreOptions,
    snapshots: Option<&Snapshots>,
    input: &dyn Log,
    output: &dyn OutputLog,
    report: &mut Report,
) -> Result<Arc<Store>, StartError> {
    cut_beyond_input(input, output, report)?;
    let found = snapshots.map_or(Ok(Vec::new()), Snapshots::list)?;
    let misfit = match judge(&store, input, output)? {
        Some(Misfit::Empty) if found.is_empty() => None,
        misfit => misfit,
    };
    let Some(misfit) = misfit else {
        return finish(store, input, output, report);
    };
    drop(store);
    match misfit {
        Misfit::Empty => remove(&folders.store)?,
        _ => {
            let note = format!("the store does not fit and was set aside: {misfit}");
            report.notes.push(note);
            set_aside(folders)?;
        }
    }
    for snapshot in found {
        let Some(snapshots) = snapshots else { break };
        let name = snapshot.path.display();
        if let Err(error) = snapshots.verify(&snapshot) {
            report.notes.push(format!("snapshot not used: {error}"));
            continue;
        }
        snapshots.restore(&snapshot, &folders.store)?;
        let store = Store::open(&folders.store, options)?;
        match judge(&store, input, output)? {
            None => {
                report.notes.push(format!("restored from snapshot {name}"));
                report.restored = Some(snapshot.records);
                cut_untrusted(&misfit, &store, input, output, report)?;
                return finish(store, input, output, report);
            }
            Some(misfit) => {
                let note = format!("snapshot {name} does not fit: {misfit}");
                report.notes.push(note);
                drop(store);
                remove(&folders.store)?;
            }
        }
    }
    report
        .notes
        .push("replaying from the first record".to_owned());
    let store = Store::open(&folders.store, options)?;
    cut_untrusted(&misfit, &store, input, output, report)?;
    finish(store, input, output, report)
}

/// Why a store cannot be continued with these logs.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Misfit {
    #[error("it is empty")]
    Empty,
    #[error("its projector version is {0}, this is {PROJECTOR_VERSION}")]
    Version(u32),
    #[error("input of partition {partition} {why}")]
    Input { partition: u32, why: &'static str },
    #[error("output of partition {partition} {why}")]
    Output { partition: u32, why: &'static str },
    #[error("its applied offset does not read: {0}")]
    Row(String),
}

/// Whether the store can be continued: both logs hold what it was made from
/// and what it led to, or it can complete the latter.
fn judge(
    store: &Store,
    input: &dyn Log,
    output: &dyn OutputLog,
) -> Result<Option<Misfit>, StartError> {
    let mut empty = true;
    for partition in 0..input.partitions() {
        let applied = match Applied::read(store, partition) {
            Err(StoreError::Row { why, .. }) => return Ok(Some(Misfit::Row(why))),
            applied => applied?,
        };
        let Some(applied) = applied else {
            continue;
        };
        empty = false;
        if applied.projector_version != PROJECTOR_VERSION {
            return Ok(Some(Misfit::Version(applied.projector_version)));
        }
        let misfit = |why| Some(Misfit::Input { partition, why });
        if input.end(partition) < applied.input_end {
            return Ok(misfit("ends before what was applied"));
        }
        if input.link_before(partition, applied.input_end)? != applied.input_link {
            return Ok(misfit("is another log up to what was applied"));
        }
        let misfit = |why| Some(Misfit::Output { partition, why });
        let end = output.end(partition);
        if end >= applied.output_end {
            if output.link_before(partition, applied.output_end)? != applied.output_link {
                return Ok(misfit("is another log up to what was applied"));
            }
        } else if !completes(store, partition, end, applied.output_end)? {
            return Ok(misfit("lacks more than the store can complete"));
        }
    }
    Ok(empty.then_some(Misfit::Empty))
}

/// Whether the output tail covers `from..to` without a hole.
fn completes(store: &Store, partition: u32, from: u64, to: u64) -> Result<bool, StoreError> {
    let mut reached = from;
    for (first, end) in tail::rows(store, partition)? {
        if first <= reached && end > reached {
            reached = end;
        }
    }
    Ok(reached >= to)
}

/// Takes off *output* what does not follow from the store that is now used, if
/// the reason for leaving the old one speaks against *output* too.
fn cut_untrusted(
    misfit: &Misfit,
    store: &Store,
    input: &dyn Log,
    output: &dyn OutputLog,
    report: &mut Report,
) -> Result<(), StartError> {
    match misfit {
        Misfit::Empty | Misfit::Row(_) => return Ok(()),
        Misfit::Version(_) | Misfit::Input { .. } | Misfit::Output { .. } => {}
    }
    for partition in 0..input.partitions() {
        let keep = Applied::read(store, partition)?.map_or(0, |applied| applied.output_end);
        let end = output.end(partition);
        if end > keep {
            let cut = end - keep;
            let note = format!("{cut} output records of partition {partition} are made again");
            report.notes.push(note);
            cut_at(output, partition, keep)?;
        }
    }
    Ok(())
}

/// Takes off *output* what came from records that *input* does not have: it was
/// replaced by an older copy.
fn cut_beyond_input(
    input: &dyn Log,
    output: &dyn OutputLog,
    report: &mut Report,
) -> Result<(), StartError> {
    for partition in 0..input.partitions() {
        let (input_end, end) = (input.end(partition), output.end(partition));
        let beyond = |offset: u64| -> Result<bool, StartError> {
            let read = output.read(partition, offset, 1)?;
            let source = read.first().and_then(source_of);
            Ok(source.is_some_and(|source| source >= input_end))
        };
        if end == output.begin(partition) || !beyond(end - 1)? {
            continue;
        }
        // Sources rise with the offset: the first one beyond is searched for.
        let (mut low, mut high) = (output.begin(partition), end - 1);
        while low < high {
            let middle = low + (high - low) / 2;
            match beyond(middle)? {
                true => high = middle,
                false => low = middle + 1,
            }
        }
        let cut = end - low;
        let note = format!("{cut} output records of partition {partition} have no source");
        report.notes.push(note);
        cut_at(output, partition, low)?;
    }
    Ok(())
}

/// *Input* offset that an *output* record came from.
fn source_of(record: &LogRecord) -> Option<u64> {
    let envelope = record.envelope().ok()?;
    let origin = match envelope.kind {
        Kind::OutputRoomEvent => decode::<OutputRoomEvent>(envelope.body).ok()?.origin,
        Kind::OutputRoomPublished => decode::<OutputRoomPublished>(envelope.body).ok()?.origin,
        Kind::OutputRoomPurged => decode::<OutputRoomPurged>(envelope.body).ok()?.origin,
        Kind::OutputRoomState => decode::<OutputRoomState>(envelope.body).ok()?.origin,
        Kind::OutputRoomGap => decode::<OutputRoomGap>(envelope.body).ok()?.origin,
        Kind::OutputReceipt => decode::<OutputReceipt>(envelope.body).ok()?.origin,
        Kind::OutputUser => decode::<OutputUser>(envelope.body).ok()?.origin,
        Kind::OutputAlias => decode::<OutputAlias>(envelope.body).ok()?.origin,
        Kind::OutputServerKeys => decode::<OutputServerKeys>(envelope.body).ok()?.origin,
        Kind::OutputOutsideMembership => {
            decode::<OutputOutsideMembership>(envelope.body)
                .ok()?
                .origin
        }
        Kind::OutputDelivery => decode::<OutputDelivery>(envelope.body).ok()?.origin,
        _ => return None,
    };
    Some(origin.src_offset)
}

fn cut_at(output: &dyn OutputLog, partition: u32, end: u64) -> Result<(), StartError> {
    output.cut(partition, end).map_err(|source| StartError::Io {
        path: PathBuf::from(format!("output partition {partition}")),
        source,
    })
}

/// Completes *output* from the store, and checks the link that this leads to.
fn finish(
    store: Store,
    input: &dyn Log,
    output: &dyn OutputLog,
    report: &mut Report,
) -> Result<Arc<Store>, StartError> {
    let impatient: &Patience = &|| false;
    for partition in 0..input.partitions() {
        let Some(applied) = Applied::read(&store, partition)? else {
            continue;
        };
        if output.end(partition) >= applied.output_end {
            continue;
        }
        for (first, end) in tail::rows(&store, partition)? {
            let reached = output.end(partition);
            if end <= reached || first > reached {
                continue;
            }
            let made = tail::records(&store, input, partition, first)?;
            let known = usize::try_from(reached - first).unwrap_or(usize::MAX);
            let missing = made.get(known..).unwrap_or_default();
            append_patiently(output, partition, missing, impatient)?;
            report.completed += missing.len() as u64;
        }
        let link = output.link_before(partition, applied.output_end)?;
        if link != applied.output_link {
            let difference = Difference {
                partition,
                output_offset: applied.output_end,
                what: "what the store completed has another link".to_owned(),
            };
            return Err(RunError::NotDeterministic(difference).into());
        }
    }
    Ok(Arc::new(store))
}

/// Moves the store away; the one that was moved away before is removed.
fn set_aside(folders: &Folders) -> Result<(), StartError> {
    let aside = folders.aside();
    remove(&aside)?;
    match fs::rename(&folders.store, &aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        moved => moved.map_err(|source| StartError::Io {
            path: folders.store.clone(),
            source,
        }),
    }
}

/// Removes the store and what was set aside of it: the next start replays from
/// a snapshot or from zero.
pub fn discard_store(folders: &Folders) -> Result<(), StartError> {
    remove(&folders.store)
}

fn remove(folder: &Path) -> Result<(), StartError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|source| StartError::Io {
            path: folder.to_owned(),
            source,
        }),
    }
}

/// Whether the store is only in use by another process, not damaged.
fn is_locked(error: &StoreError) -> bool {
    match error {
        StoreError::RocksDb(error) => {
            let text = error.as_ref();
            text.contains("/LOCK") || text.contains("lock hold by current process")
        }
        StoreError::Row { .. } | StoreError::NoFamily(_) => false,
    }
}
