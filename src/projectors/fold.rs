//! What every projector is: a function of its state and the next record.

use log_format::record::output::{Decision, Origin, Reason};
use log_format::record::{Envelope, EnvelopeError};
use ruma::OwnedEventId;

use crate::logs::log::NewRecord;
use crate::storage::columns::Table;
use crate::storage::overlay::{Overlay, StoreError};

/// Raised whenever a fold may decide or write something else for the same
/// record; the store and *output* are then rebuilt beside the old ones.
pub const PROJECTOR_VERSION: u32 = 6;

/// A record about to be folded.
pub struct FoldInput<'a> {
    pub partition: u32,
    pub offset: u64,
    pub time_us: u64,
    pub envelope: &'a Envelope<'a>,
}

impl FoldInput<'_> {
    /// Origin of the one *output* record that this record leads to.
    pub fn origin(&self) -> Origin {
        Origin {
            src_offset: self.offset,
            about: self.offset,
            src_sub: 0,
            src_last: true,
            projector_version: PROJECTOR_VERSION,
        }
    }
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoldOutcome {
    pub decision: Decision,
    pub reason: Reason,
    /// For `Duplicate`: the event that exists already.
    pub duplicate_of: Option<OwnedEventId>,
}

impl FoldOutcome {
    /// An outcome that names no other event.
    pub fn of(decision: Decision, reason: Reason) -> FoldOutcome {
        FoldOutcome {
            decision,
            reason,
            duplicate_of: None,
        }
    }
}

/// What a fold decided.
pub struct Folded {
    /// Usually one record; in the order of their sub-numbers.
    pub output: Vec<NewRecord>,
    /// None: the record waits, and a later one's fold decides about it.
    pub outcome: Option<FoldOutcome>,
    /// Earlier records about which this fold decided, by offset.
    pub settled: Vec<(u64, FoldOutcome)>,
}

impl Folded {
    /// A record that is decided and concerns no other.
    pub fn decided(output: Vec<NewRecord>, decision: Decision, reason: Reason) -> Folded {
        Folded {
            output,
            outcome: Some(FoldOutcome::of(decision, reason)),
            settled: vec![],
        }
    }

    /// A record that waits.
    pub fn waiting() -> Folded {
        Folded {
            output: vec![],
            outcome: None,
            settled: vec![],
        }
    }
}

/// A fold that cannot go on. A *bad record* is never this: it is decided as
/// `Rejected` with reason `Malformed`. This is a store or a log that fails.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("record at offset {offset} is no envelope: {source}")]
    Envelope { offset: u64, source: EnvelopeError },
    #[error("log could not be read: {0}")]
    Log(#[from] crate::logs::log::ReadError),
    /// What was done aside comes out otherwise here: the fold is not a function
    /// of its input.
    #[error("the result that input offset {offset} names is not what its fold comes to")]
    ResumedOtherwise { offset: u64 },
}

/// One lane's projector: folds the records of its rooms (or users, aliases) in
/// log order. In-memory state that is derived from the tables (room heads,
/// sessions) is published only by [`Projector::publish`], after the group's
/// tables are written, so that nobody sees what a crash could take back.
pub trait Projector: Send {
    /// Folds one record: reads and writes tables through `tables`.
    fn fold(
        &mut self,
        record: &FoldInput<'_>,
        tables: &mut Overlay<'_>,
    ) -> Result<Folded, FoldError>;

    /// The group's writes are in the store: make what the query window shows current.
    fn publish(&mut self);

    /// Rows of this group that want to know their *output* offset, which is
    /// known only once the lanes are merged. Asked once per group, after its folds.
    fn stamps(&mut self) -> Vec<Stamp> {
        Vec::new()
    }
}

/// A row whose value begins with the *input* offset of the record that wrote it
/// (`u64` big-endian), to be replaced by the offset of the first *output* record
/// that this record led to. A row that a later record of the group wrote again
/// is recognised by its other offset and left alone.
pub struct Stamp {
    pub input_offset: u64,
    pub table: Table,
    /// Without the table's tag, as for [`Overlay::put`].
    pub key: Vec<u8>,
}
