//! A log in memory: the `Log`, `Append` and `OutputLog` ports for tests that
//! are about projection and not about disks. Durable means: synced.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use engram::logs::log::{
    Append, AppendError, AppendTicket, Appended, Log, LogRecord, NewRecord, PartitionId, ReadError,
    Waiting,
};
use engram::projectors::output_log::{OutputLog, OutputRecord, made};
use log_format::chain::link;
use parking_lot::Mutex;
use tokio::sync::watch;

pub struct MemoryLog {
    partitions: Vec<Partition>,
}

struct Partition {
    genesis: [u8; 32],
    entries: Mutex<Vec<Entry>>,
    end: watch::Sender<u64>,
    synced: AtomicU64,
}

/// Offset, time, payload and link of a record.
pub type Content = (u64, u64, Vec<u8>, [u8; 32]);

#[derive(Clone)]
struct Entry {
    record: LogRecord,
    link: [u8; 32],
}

impl MemoryLog {
    pub fn new(name: &str, partitions: u32) -> MemoryLog {
        let partition = |number: u32| Partition {
            genesis: *blake3::hash(format!("{name} {number}").as_bytes()).as_bytes(),
            entries: Mutex::default(),
            end: watch::channel(0).0,
            synced: AtomicU64::new(0),
        };
        MemoryLog {
            partitions: (0..partitions).map(partition).collect(),
        }
    }

    /// A copy of what a power cut leaves: everything synced and, of the rest, as
    /// much as `keep` says for its partition and number of unsynced records.
    pub fn after_power_cut(&self, mut keep: impl FnMut(u32, u64) -> u64) -> MemoryLog {
        let mut number = 0;
        let partition = |partition: &Partition| {
            let entries = partition.entries.lock();
            let synced = partition.synced.load(Ordering::Acquire);
            let end = synced + keep(number, entries.len() as u64 - synced);
            number += 1;
            Partition {
                genesis: partition.genesis,
                entries: Mutex::new(entries[..end as usize].to_vec()),
                end: watch::channel(end).0,
                synced: AtomicU64::new(end),
            }
        };
        MemoryLog {
            partitions: self.partitions.iter().map(partition).collect(),
        }
    }

    /// Every record: offset, time, payload and link.
    pub fn content(&self) -> Vec<Vec<Content>> {
        let entry = |entry: &Entry| {
            let record = &entry.record;
            (
                record.offset,
                record.time_us,
                record.payload.to_vec(),
                entry.link,
            )
        };
        let partitions = self.partitions.iter();
        partitions
            .map(|partition| partition.entries.lock().iter().map(entry).collect())
            .collect()
    }

    /// Replaces a record's payload, links included, as nobody should.
    pub fn tamper(&self, partition: u32, offset: u64, record: &NewRecord) {
        let partition = &self.partitions[partition as usize];
        let mut entries = partition.entries.lock();
        entries[offset as usize].record.payload = record.payload.clone().into();
        let mut previous = match offset {
            0 => partition.genesis,
            _ => entries[offset as usize - 1].link,
        };
        for entry in &mut entries[offset as usize..] {
            let envelope = entry.record.envelope().unwrap();
            let (kind, digest) = (envelope.kind.number(), envelope.digest());
            let (offset, time_us) = (entry.record.offset, entry.record.time_us);
            previous = link(&previous, offset, time_us, kind, &digest);
            entry.link = previous;
        }
    }

    fn push(&self, partition: u32, record: OutputRecord) -> u64 {
        let partition = &self.partitions[partition as usize];
        let mut entries = partition.entries.lock();
        let previous = entries.last().map_or(partition.genesis, |last| last.link);
        let offset = entries.len() as u64;
        let kind = record.kind.number();
        entries.push(Entry {
            record: LogRecord {
                offset,
                time_us: record.time_us,
                payload: record.payload.into(),
            },
            link: link(&previous, offset, record.time_us, kind, &record.digest),
        });
        partition.end.send_replace(offset + 1);
        offset
    }
}

impl Log for MemoryLog {
    fn partitions(&self) -> u32 {
        self.partitions.len() as u32
    }

    fn end(&self, partition: PartitionId) -> u64 {
        *self.partitions[partition as usize].end.borrow()
    }

    fn begin(&self, _: PartitionId) -> u64 {
        0
    }

    fn read(
        &self,
        partition: PartitionId,
        from: u64,
        max_bytes: usize,
    ) -> Result<Vec<LogRecord>, ReadError> {
        let entries = self.partitions[partition as usize].entries.lock();
        let mut bytes = 0;
        let records = entries.iter().skip(from as usize).take_while(|entry| {
            let first = bytes == 0;
            bytes += entry.record.payload.len();
            first || bytes <= max_bytes
        });
        Ok(records.map(|entry| entry.record.clone()).collect())
    }

    fn link_before(&self, partition: PartitionId, offset: u64) -> Result<[u8; 32], ReadError> {
        let partition = &self.partitions[partition as usize];
        match offset.checked_sub(1) {
            None => Ok(partition.genesis),
            Some(last) => Ok(partition.entries.lock()[last as usize].link),
        }
    }

    fn wait_beyond(&self, partition: PartitionId, offset: u64) -> Waiting<'_> {
        let mut end = self.partitions[partition as usize].end.subscribe();
        Box::pin(async move {
            // The sender lives as long as the log.
            let _ = end.wait_for(|end| *end > offset).await;
        })
    }

    fn trim(&self, _: PartitionId, _: u64) -> Result<(), ReadError> {
        Ok(())
    }
}

impl Append for MemoryLog {
    fn enqueue(
        &self,
        partition: PartitionId,
        batch: Vec<NewRecord>,
    ) -> Result<AppendTicket, AppendError> {
        let offsets: Vec<u64> = batch
            .into_iter()
            .map(|record| {
                let next = self.end(partition);
                self.push(partition, made(1_000 + next, record))
            })
            .collect();
        let end = self.end(partition);
        self.partitions[partition as usize]
            .synced
            .store(end, Ordering::Release);
        let appended = Appended {
            partition,
            first: offsets.first().copied().unwrap_or(end),
            count: offsets.len() as u32,
        };
        Ok(Box::pin(async move { Ok(appended) }))
    }
}

impl OutputLog for MemoryLog {
    fn append(&self, partition: u32, batch: &[OutputRecord]) -> Result<(), AppendError> {
        for record in batch {
            self.push(partition, record.clone());
        }
        Ok(())
    }

    fn sync(&self, partition: u32) -> Result<u64, AppendError> {
        let end = self.end(partition);
        let synced = &self.partitions[partition as usize].synced;
        synced.store(end, Ordering::Release);
        Ok(end)
    }

    fn synced_end(&self, partition: u32) -> u64 {
        let synced = &self.partitions[partition as usize].synced;
        synced.load(Ordering::Acquire)
    }

    fn cut(&self, partition: u32, end: u64) -> io::Result<()> {
        let partition = &self.partitions[partition as usize];
        partition.entries.lock().truncate(end as usize);
        partition.synced.fetch_min(end, Ordering::AcqRel);
        partition.end.send_replace(end);
        Ok(())
    }
}
