//! Whether there is room on the disk to go on appending.
//!
//! Appends stop at a reserve, before the disk is full, so that RocksDB can still
//! flush and compact; they go on by themselves once there is room again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log_format::file_system::FileSystem;

/// How long an answer of the file system is believed.
const CHECK_EVERY: Duration = Duration::from_millis(250);

/// Watches the free space below one folder.
pub(super) struct Space {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    reserve_bytes: u64,
    checked: Option<Instant>,
    enough: bool,
}

impl Space {
    pub fn new(fs: Arc<dyn FileSystem>, dir: PathBuf, reserve_bytes: u64) -> Space {
        Space {
            fs,
            dir,
            reserve_bytes,
            checked: None,
            enough: true,
        }
    }

    /// Whether appends may go on. Says so in the log when that changes.
    pub fn is_enough(&mut self) -> bool {
        let now = Instant::now();
        let fresh = self
            .checked
            .is_some_and(|at| now.duration_since(at) < CHECK_EVERY);
        if fresh {
            return self.enough;
        }
        self.checked = Some(now);
        // A file system that does not answer is not full; a write will tell.
        let free = self.fs.free_bytes(&self.dir).unwrap_or(u64::MAX);
        let enough = free >= self.reserve_bytes;
        if enough != self.enough {
            let (free_bytes, reserve_bytes) = (free, self.reserve_bytes);
            if enough {
                tracing::info!(
                    free_bytes,
                    reserve_bytes,
                    "disk has room again, appends go on"
                );
            } else {
                tracing::error!(
                    free_bytes,
                    reserve_bytes,
                    "disk is below its reserve, appends are refused"
                );
            }
        }
        self.enough = enough;
        enough
    }

    /// A write met a full disk: ask again before the next one.
    pub fn met_full_disk(&mut self) {
        self.checked = None;
    }
}
