//! Names: topics, partitions, log ids, and which partition a key belongs to.
//!
//! Nothing here touches a disk. Source: FORMAT.md, sections 1 and 2.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::record::Kind;

/// Names one log for ever: with a partition and an offset, one record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId(pub [u8; 16]);

impl LogId {
    /// The id of the *output* log of an epoch, from its *input* log's id, so
    /// that a rebuilt *output* has the same links as the one it replaces.
    pub fn of_output(input: LogId, epoch: u64) -> LogId {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"log-v1 output id");
        hasher.update(&input.0);
        hasher.update(&epoch.to_le_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        LogId(id)
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The named logs of a server; each is a folder below `log/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Topic {
    /// Facts that writers accepted.
    Input = 1,
    /// What the projectors made of them.
    Output = 2,
    /// Typing and presence; kept for minutes.
    Ephemeral = 3,
}

impl Topic {
    /// Every topic.
    pub const ALL: [Topic; 3] = [Topic::Input, Topic::Output, Topic::Ephemeral];

    /// The folder's name.
    pub fn name(self) -> &'static str {
        match self {
            Topic::Input => "input",
            Topic::Output => "output",
            Topic::Ephemeral => "ephemeral",
        }
    }

    /// The topic with this number in a manifest.
    pub fn from_number(number: u8) -> Option<Topic> {
        Topic::ALL.into_iter().find(|topic| *topic as u8 == number)
    }
}

/// Folder of a partition below its topic's folder.
pub fn partition_dir(topic_dir: &Path, partition: u32) -> PathBuf {
    topic_dir.join(format!("p{partition:04}"))
}

/// The number in a partition folder's name.
pub fn parse_partition_dir(name: &str) -> Option<u32> {
    let digits = name.strip_prefix('p')?;
    (digits.len() >= 4).then(|| digits.parse().ok())?
}

/// What was known to be durable from elsewhere: RocksDB's applied offset, or a
/// source offset in *output*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Offset behind the last record that is known to have been durable.
    pub end: u64,
    /// The chain link there, if it is known.
    pub link: Option<[u8; 32]>,
}

/// What a record kind's partition key is (FORMAT.md, section *Record kinds*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyedBy {
    Room,
    User,
    Alias,
    Server,
    /// The same partition as the *input* record it answers.
    Source,
}

impl KeyedBy {
    /// The word that FORMAT.md and the tools use.
    pub fn name(self) -> &'static str {
        match self {
            KeyedBy::Room => "room",
            KeyedBy::User => "user",
            KeyedBy::Alias => "alias",
            KeyedBy::Server => "server",
            KeyedBy::Source => "source",
        }
    }
}

/// The partition key of a kind.
pub fn keyed_by(kind: Kind) -> KeyedBy {
    match kind.number() >> 8 {
        0x00 | 0x40 => KeyedBy::Room,
        0x01 | 0x41 => KeyedBy::User,
        0x02 => KeyedBy::Alias,
        0x03 => KeyedBy::Server,
        _ => KeyedBy::Source,
    }
}

/// The partition of a key: the first eight bytes of its BLAKE3, little-endian,
/// modulo the number of partitions (at least one).
pub fn partition_of(key: &str, partitions: u32) -> u32 {
    let hash = blake3::hash(key.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    (u64::from_le_bytes(first) % u64::from(partitions.max(1))) as u32
}
