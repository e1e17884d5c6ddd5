//! A test's window into what was flushed.
//!
//! After a SIGKILL the page cache still holds everything, so a crash test that
//! wants to simulate a power cut must know which records a flush had returned
//! for. With the test switch `log.synced_marker` the append thread writes that
//! down, by a plain write that outlives the process. It proves nothing to the
//! server, which never reads it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::log::PartitionId;

/// Holds one partition's durable end, as `u64` little-endian.
pub(super) struct SyncedMarker(File);

impl SyncedMarker {
    /// The marker's path below a topic's folder.
    pub(super) fn path(topic_dir: &Path, partition: PartitionId) -> PathBuf {
        topic_dir.join(format!("synced-{partition}"))
    }

    /// Creates the marker, or goes on with the one that is there.
    pub(super) fn open(topic_dir: &Path, partition: PartitionId) -> io::Result<SyncedMarker> {
        let path = SyncedMarker::path(topic_dir, partition);
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map(SyncedMarker)
    }

    /// A flush returned that covers every record below `durable_end`.
    pub(super) fn note(&self, durable_end: u64) {
        if let Err(error) = self.0.write_all_at(&durable_end.to_le_bytes(), 0) {
            tracing::warn!(%error, "marker of the synced end could not be written");
        }
    }
}
