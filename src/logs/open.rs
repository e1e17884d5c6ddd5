//! Opening the topics: settings, manifests, and what can stand in the way.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use log_format::file_system::{FileSystem, RealFileSystem};
use log_format::root::TopicRoot;
use log_format::{LogId, OpenError, ReadError, SyncMode, Topic, WriterConfig};

use crate::crypto::random;

/// What the embedded logs need to know.
#[derive(Clone)]
pub struct LogSettings {
    /// The folder that holds a folder for each topic.
    pub dir: PathBuf,
    /// Partitions of a log that is made; one that exists must have as many.
    pub partitions: u32,
    pub segment_bytes: u64,
    /// Appends are refused below so much free space.
    pub reserve_bytes: u64,
    /// Signs checkpoints of *input*.
    pub checkpoint_key: Option<ed25519_dalek::SigningKey>,
    /// `Off` only for the test that proves that syncs matter.
    pub sync: SyncMode,
    /// Writes down what was flushed, for crash tests only.
    pub synced_marker: bool,
    pub fs: Arc<dyn FileSystem>,
}

impl LogSettings {
    /// The settings of a server, on the machine's own files.
    pub fn new(dir: &Path, partitions: u32, segment_bytes: u64, reserve_bytes: u64) -> LogSettings {
        LogSettings {
            dir: dir.to_owned(),
            partitions,
            segment_bytes,
            reserve_bytes,
            checkpoint_key: None,
            sync: SyncMode::Real,
            synced_marker: false,
            fs: Arc::new(RealFileSystem),
        }
    }

    /// Folder of a topic.
    pub(super) fn topic_dir(&self, topic: Topic) -> PathBuf {
        self.dir.join(topic.name())
    }

    pub(super) fn input_config(&self) -> WriterConfig {
        WriterConfig {
            checkpoint_key: self.checkpoint_key.clone(),
            sync: self.sync,
            ..WriterConfig::input(self.segment_bytes)
        }
    }

    pub(super) fn output_config(&self) -> WriterConfig {
        WriterConfig {
            sync: self.sync,
            ..WriterConfig::output(self.segment_bytes)
        }
    }

    /// Nothing of *ephemeral* is flushed but what a new segment needs.
    pub(super) fn ephemeral_config(&self, segment_bytes: u64) -> WriterConfig {
        WriterConfig {
            sync: SyncMode::Off,
            ..WriterConfig::output(segment_bytes)
        }
    }
}

/// Renames a folder so that a new one can take its place; returns its new name.
pub(super) fn set_aside(settings: &LogSettings, dir: &Path) -> Result<PathBuf, OpenError> {
    let mut name = dir.as_os_str().to_owned();
    name.push(format!(".aside-{}", settings.fs.now_us()));
    let aside = PathBuf::from(name);
    settings
        .fs
        .rename(dir, &aside)
        .map_err(|source| OpenError::Io {
            path: dir.to_owned(),
            source,
        })?;
    Ok(aside)
}

/// Why a log was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenLogError {
    /// The number of partitions is fixed when a log is made.
    #[error("log {} has {found} partitions, the settings say {wanted}", dir.display())]
    Partitions {
        dir: PathBuf,
        found: u32,
        wanted: u32,
    },
    #[error("partition {partition}: {source}")]
    Partition { partition: u32, source: OpenError },
    #[error(transparent)]
    Root(OpenError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("append thread did not start: {0}")]
    Thread(std::io::Error),
    #[error("marker of the synced end could not be made: {0}")]
    Marker(std::io::Error),
}

/// Reads the manifest of *input*, or makes the log.
pub(super) fn input_root(settings: &LogSettings) -> Result<TopicRoot, OpenLogError> {
    let dir = settings.topic_dir(Topic::Input);
    let root = TopicRoot::read(&*settings.fs, &dir).map_err(OpenLogError::Root)?;
    let root = match root {
        Some(root) => root,
        None => {
            let mut root =
                TopicRoot::new(Topic::Input, LogId(random::bytes()), settings.partitions);
            root.write(&*settings.fs, &dir)
                .map_err(OpenLogError::Root)?;
            root
        }
    };
    check_partitions(&dir, root.partitions, settings.partitions)?;
    Ok(root)
}

pub(super) fn check_partitions(dir: &Path, found: u32, wanted: u32) -> Result<(), OpenLogError> {
    if found != wanted {
        return Err(OpenLogError::Partitions {
            dir: dir.to_owned(),
            found,
            wanted,
        });
    }
    Ok(())
}
