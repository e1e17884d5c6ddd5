//! Signing what is durable, now and then, and publishing the key.
//!
//! The bytes of a checkpoint are `checkpoint.rs`. Source: FORMAT.md, section 8.

use std::io;

use crate::append::PartitionWriter;
use crate::checkpoint::{self, CHECKPOINT_BYTES, Checkpoint};
use crate::file_system::{OpenMode, read_all, replace};

/// Records and microseconds after which a checkpoint is due.
const CHECKPOINT_RECORDS: u64 = 10_000;
const CHECKPOINT_US: u64 = 60_000_000;

/// Where the last checkpoint stands, and what it said.
pub(crate) struct Checkpoints {
    position: u64,
    previous: [u8; 32],
    offset: u64,
    time_us: u64,
}

impl Checkpoints {
    /// Goes on behind `bytes` of checkpoints, of which `last` is the last.
    pub fn after(bytes: u64, last: Option<&Checkpoint>) -> Checkpoints {
        Checkpoints {
            position: bytes,
            previous: last.map_or([0; 32], Checkpoint::digest),
            offset: last.map_or(0, |last| last.offset),
            time_us: last.map_or(0, |last| last.time_us),
        }
    }
}

impl PartitionWriter {
    pub(crate) fn checkpoint_due(&self) -> bool {
        let new = self.durable_end.saturating_sub(self.checkpoints.offset);
        self.config.checkpoint_key.is_some()
            && new > 0
            && (new >= CHECKPOINT_RECORDS
                || self.fs.now_us() >= self.checkpoints.time_us.saturating_add(CHECKPOINT_US))
    }

    /// Signs what is durable. A failure to write it down is left for the next
    /// time: checkpoints witness, they do not carry.
    pub(crate) fn write_checkpoint(&mut self, durable: bool) {
        let Some(key) = &self.config.checkpoint_key else {
            return;
        };
        let checkpoint = Checkpoint {
            log_id: self.log_id,
            partition: self.partition as u16,
            offset: self.durable_end,
            position: self.position(),
            link: self.link,
            time_us: self.fs.now_us(),
            previous: self.checkpoints.previous,
            key_id: [0; 8],
            signature: [0; 64],
        }
        .sign(key);
        let path = self.dir.join(checkpoint::FILE_NAME);
        let written = (|| {
            let file = match self.fs.open(&path, OpenMode::ReadWrite) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.fs.open(&path, OpenMode::CreateNew)?
                }
                file => file?,
            };
            file.write_at(&checkpoint.encode(), self.checkpoints.position)?;
            if durable {
                file.sync_data()?;
            }
            Ok::<_, io::Error>(())
        })();
        if written.is_ok() {
            self.checkpoints.position += CHECKPOINT_BYTES as u64;
            self.checkpoints.previous = checkpoint.digest();
            self.checkpoints.offset = checkpoint.offset;
            self.checkpoints.time_us = checkpoint.time_us;
        }
    }

    /// Adds the public key to the list beside the checkpoints.
    pub(crate) fn publish_key(&self) -> io::Result<()> {
        let Some(key) = &self.config.checkpoint_key else {
            return Ok(());
        };
        let path = self.dir.join(checkpoint::KEYS_FILE_NAME);
        let mut list = match read_all(&*self.fs, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            list => list?,
        };
        let public = key.verifying_key().to_bytes();
        let line: String = public.iter().map(|byte| format!("{byte:02x}")).collect();
        if String::from_utf8_lossy(&list)
            .lines()
            .any(|known| known == line)
        {
            return Ok(());
        }
        list.extend_from_slice(line.as_bytes());
        list.push(b'\n');
        replace(&*self.fs, &path, &list)
    }
}
