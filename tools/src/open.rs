//! From PATH to the partitions that it names.

use std::fs;
use std::path::{Path, PathBuf};

use log_format::append::LOCK_NAME;
use log_format::file_system::RealFileSystem;
use log_format::partition::{Topic, parse_partition_dir};
use log_format::read::EndScan;
use log_format::root::TopicRoot;
use log_format::{FileSystem, PartitionReader, StoredRecord, segment};

use crate::cli::Range;
use crate::error::ToolError;

/// Payload bytes that are read at a time.
const READ_BYTES: usize = 1 << 20;

/// One partition, and how much of it PATH names.
pub struct Partition {
    pub topic: Option<Topic>,
    pub number: u32,
    pub dir: PathBuf,
    /// Base of the one segment that PATH names.
    pub only_segment: Option<u64>,
}

impl Partition {
    /// `input/p0000`, for people.
    pub fn label(&self) -> String {
        let topic = self.topic.map_or("?", Topic::name);
        format!("{topic}/p{:04}", self.number)
    }

    /// The topic's manifest.
    pub fn root(&self) -> Result<Option<TopicRoot>, ToolError> {
        match self.dir.parent() {
            Some(topic) => Ok(TopicRoot::read(&RealFileSystem, topic)?),
            None => Ok(None),
        }
    }

    /// Whether a server has the partition open for writing.
    pub fn is_live(&self) -> bool {
        RealFileSystem
            .is_locked(&self.dir.join(LOCK_NAME))
            .unwrap_or(false)
    }

    /// A reader, and the offset behind the last record to be shown: beside a
    /// live writer of *input* what is synced, else what is written whole.
    pub fn open(&self) -> Result<(PartitionReader, u64), ToolError> {
        let reader = PartitionReader::open(&self.dir)?;
        let end = reader.find_end(&mut EndScan::default())?;
        let synced_only = self.topic == Some(Topic::Input) && self.is_live();
        Ok((reader, if synced_only { end.synced } else { end.written }))
    }

    /// The offsets that a range means here, within what PATH names.
    pub fn offsets(
        &self,
        reader: &PartitionReader,
        end: u64,
        range: &Range,
    ) -> Result<(u64, u64), ToolError> {
        let mut from = range.from.unwrap_or(0).max(reader.begin());
        let mut below = range.to.unwrap_or(end).min(end);
        if let Some(since) = range.since {
            from = from.max(reader.offset_at_time(since, end)?);
        }
        if let Some(until) = range.until {
            below = below.min(reader.offset_at_time(until, end)?);
        }
        if let Some(base) = self.only_segment {
            from = from.max(base);
            below = below.min(self.segment_after(base)?.unwrap_or(end));
        }
        Ok((from, below))
    }

    fn segment_after(&self, base: u64) -> Result<Option<u64>, ToolError> {
        Ok(names(&self.dir)?
            .iter()
            .filter_map(|name| segment::parse_file_name(name))
            .filter(|other| *other > base)
            .min())
    }
}

/// Calls `each` for every record of a range until it returns false.
pub fn for_each(
    reader: &PartitionReader,
    from: u64,
    below: u64,
    mut each: impl FnMut(StoredRecord) -> Result<bool, ToolError>,
) -> Result<(), ToolError> {
    let mut next = from;
    while next < below {
        for record in reader.read(next, below, READ_BYTES)? {
            next = record.offset + 1;
            if !each(record)? {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The partitions that a path names, *input* first.
pub fn partitions(path: &Path) -> Result<Vec<Partition>, ToolError> {
    let path = &fs::canonicalize(path).map_err(|source| ToolError::Io {
        path: path.to_owned(),
        source,
    })?;
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    if let Some(base) = segment::parse_file_name(&name) {
        let dir = path
            .parent()
            .ok_or_else(|| ToolError::NotALog(path.clone()))?;
        return match partition(dir) {
            Some(partition) => Ok(vec![Partition {
                only_segment: Some(base),
                ..partition
            }]),
            None => Err(ToolError::NotALog(path.clone())),
        };
    }
    if let Some(partition) = partition(path) {
        return Ok(vec![partition]);
    }
    let mut found = topic_partitions(path)?;
    if found.is_empty() {
        for topic in Topic::ALL {
            found.extend(topic_partitions(&path.join(topic.name()))?);
        }
    }
    // A data folder is meant as its log.
    if found.is_empty() && path.join("log").is_dir() {
        return partitions(&path.join("log"));
    }
    if found.is_empty() {
        Err(ToolError::NotALog(path.clone()))
    } else {
        Ok(found)
    }
}

/// The one partition that a path names, chosen by number where it names several.
pub fn one_partition(path: &Path, number: Option<u32>) -> Result<Partition, ToolError> {
    let mut found = partitions(path)?;
    if let Some(number) = number {
        found.retain(|partition| partition.number == number);
        if found.is_empty() {
            return Err(ToolError::NoPartition {
                path: path.to_owned(),
                partition: number,
            });
        }
    }
    let count = found.len();
    found
        .pop()
        .filter(|_| count == 1)
        .ok_or(ToolError::WhichPartition(count))
}

fn topic_partitions(dir: &Path) -> Result<Vec<Partition>, ToolError> {
    if !dir.join("ROOT").is_file() {
        return Ok(Vec::new());
    }
    let mut found: Vec<Partition> = names(dir)?
        .iter()
        .filter_map(|name| partition(&dir.join(name)))
        .collect();
    found.sort_by_key(|partition| partition.number);
    Ok(found)
}

fn partition(dir: &Path) -> Option<Partition> {
    let name = dir.file_name()?.to_str()?;
    let number = parse_partition_dir(name).filter(|_| dir.is_dir())?;
    let topic_name = dir.parent()?.file_name()?.to_str()?;
    let topic = Topic::ALL
        .into_iter()
        .find(|topic| topic.name() == topic_name);
    Some(Partition {
        topic,
        number,
        dir: dir.to_owned(),
        only_segment: None,
    })
}

fn names(dir: &Path) -> Result<Vec<String>, ToolError> {
    let failed = |source| ToolError::Io {
        path: dir.to_owned(),
        source,
    };
    let entries = fs::read_dir(dir).map_err(failed)?;
    let names: Result<Vec<String>, _> = entries
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect();
    names.map_err(failed)
}
