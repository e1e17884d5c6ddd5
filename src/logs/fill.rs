//! The thread that fills the next segment of an *input* partition with zeroes,
//! so that neither a roll nor a flush has to do it.
//!
//! It sleeps until the appending thread has come far enough. All that it makes
//! is a spare: if it fails or is late, appends do without.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, Thread};

use log_format::{FileSystem, Filler};

/// Where the spare lies, and how much room must be left beside it.
pub(super) struct FillSettings {
    pub fs: Arc<dyn FileSystem>,
    pub dir: PathBuf,
    pub reserve_bytes: u64,
}

/// The running thread. Ends when dropped.
pub(super) struct Filling {
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Wakes the thread.
pub(super) struct Waker {
    filler: Arc<Filler>,
    thread: Thread,
}

impl Filling {
    /// Starts the thread of a partition.
    pub fn start(
        number: u32,
        filler: Filler,
        settings: FillSettings,
    ) -> std::io::Result<(Filling, Waker)> {
        let filler = Arc::new(filler);
        let closing = Arc::new(AtomicBool::new(false));
        let run = {
            let (filler, closing) = (filler.clone(), closing.clone());
            move || {
                while !closing.load(Ordering::Acquire) {
                    if !settings.step(&filler) {
                        // A wake-up between the step and here is kept for us.
                        std::thread::park();
                    }
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name(format!("fill-{number}"))
            .spawn(run)?;
        let waker = Waker {
            filler,
            thread: thread.thread().clone(),
        };
        let filling = Filling {
            closing,
            thread: Some(thread),
        };
        Ok((filling, waker))
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else {
            return;
        };
        thread.thread().unpark();
        if thread.join().is_err() {
            tracing::error!("thread that fills segments panicked");
        }
    }
}

impl Waker {
    /// To be called after an append; cheap when there is nothing to fill.
    pub fn wake_if_wanted(&self) {
        if self.filler.is_wanted() {
            self.thread.unpark();
        }
    }
}

impl FillSettings {
    /// Whether there is more to do at once.
    fn step(&self, filler: &Filler) -> bool {
        // The reserve is for what must be written; a spare is not. A file system
        // that does not answer is not full; the write will tell.
        let free = self.fs.free_bytes(&self.dir).unwrap_or(u64::MAX);
        if !filler.is_wanted() || free < self.reserve_bytes.saturating_add(filler.step_bytes()) {
            return false;
        }
        filler.step().unwrap_or_else(|error| {
            let dir = self.dir.display();
            tracing::warn!(%error, %dir, "next segment not made ahead");
            false
        })
    }
}
