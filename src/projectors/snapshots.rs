//! Snapshots: RocksDB checkpoints at a known offset, each with a manifest.
//!
//! A snapshot is a folder `<records>` with the checkpoint in `db` and
//! `manifest.json` beside it. It exists once it has this name: it is built
//! under another, verified, synced and renamed. Nothing here decides when.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::applied::Applied;
use super::fold::PROJECTOR_VERSION;
use crate::storage::open::{Store, StoreOptions};
use crate::storage::overlay::StoreError;

/// Why a snapshot could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: {why}")]
    Unfit { path: PathBuf, why: String },
}

/// What a snapshot says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub projector_version: u32,
    /// By partition; none where nothing was folded yet.
    pub partitions: Vec<Option<Place>>,
    pub files: Vec<FileEntry>,
}

/// Offsets and links of a partition, as in [`Applied`]; links in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub input_end: u64,
    pub input_link: String,
    pub output_end: u64,
    pub output_link: String,
}

/// One file of the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    pub name: String,
    pub bytes: u64,
    /// BLAKE3 of the content, in hexadecimal.
    pub blake3: String,
}

/// The folder in which snapshots lie.
#[derive(Clone, Debug)]
pub struct Snapshots {
    folder: PathBuf,
    /// How many are kept; at least one.
    keep: usize,
    options: StoreOptions,
    partitions: u32,
}

/// A snapshot whose name is that of a whole one; not verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub path: PathBuf,
    /// Records of all partitions of *input* together that it covers.
    pub records: u64,
}

impl Snapshots {
    /// Snapshots in `folder`, which is made when the first one is.
    pub fn new(folder: &Path, keep: usize, options: &StoreOptions, partitions: u32) -> Snapshots {
        Snapshots {
            folder: folder.to_owned(),
            keep: keep.max(1),
            options: options.clone(),
            partitions,
        }
    }

    /// The snapshots that are there, newest first.
    pub fn list(&self) -> Result<Vec<Snapshot>, SnapshotError> {
        let found = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            found => found.map_err(at(&self.folder))?,
        };
        let mut snapshots = Vec::new();
        for entry in found {
            let entry = entry.map_err(at(&self.folder))?;
            let name = entry.file_name();
            let records = name.to_str().filter(|name| name.len() == NAME_DIGITS);
            if let Some(records) = records.and_then(|name| name.parse().ok()) {
                snapshots.push(Snapshot {
                    path: entry.path(),
                    records,
                });
            }
        }
        snapshots.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.records));
        Ok(snapshots)
    }

    /// Makes a snapshot of the store as it is, verifies it and removes the ones
    /// beyond those kept. None if there is one of the same offsets, or no record.
    ///
    /// *Output* must be synced by the caller: `sync_output` is called once the
    /// checkpoint is taken and before the snapshot counts.
    pub fn make<E: From<SnapshotError>>(
        &self,
        store: &Store,
        sync_output: impl FnOnce() -> Result<(), E>,
    ) -> Result<Option<Snapshot>, E> {
        let building = self.folder.join("building");
        remove_folder(&building)?;
        fs::create_dir_all(&building).map_err(at(&building))?;
        let db = building.join("db");
        store.checkpoint(&db).map_err(SnapshotError::from)?;
        let applied = self.applied_in(&db)?;
        let places = applied.iter().flatten();
        let records: u64 = places.map(|place| place.input_end).sum();
        let path = self.folder.join(format!("{records:020}"));
        if records == 0 || path.exists() {
            remove_folder(&building)?;
            return Ok(None);
        }
        let manifest = self.describe(&db, &applied)?;
        write_manifest(&building, &manifest)?;
        sync_output()?;
        fs::rename(&building, &path).map_err(at(&path))?;
        sync_folder(&self.folder)?;
        self.rotate()?;
        Ok(Some(Snapshot { path, records }))
    }

    /// Reads a snapshot's manifest and compares every file with it.
    pub fn verify(&self, snapshot: &Snapshot) -> Result<Manifest, SnapshotError> {
        let manifest = read_manifest(&snapshot.path)?;
        let unfit = |why: String| SnapshotError::Unfit {
            path: snapshot.path.clone(),
            why,
        };
        if manifest.projector_version != PROJECTOR_VERSION {
            let version = manifest.projector_version;
            return Err(unfit(format!("made by projector version {version}")));
        }
        let db = snapshot.path.join("db");
        let found = files(&db)?;
        let named: Vec<&str> = manifest
            .files
            .iter()
            .map(|file| file.name.as_str())
            .collect();
        if found != named {
            return Err(unfit("its files are not those of the manifest".to_owned()));
        }
        for file in &manifest.files {
            if describe_file(&db, &file.name)? != *file {
                return Err(unfit(format!("file {} is damaged", file.name)));
            }
        }
        if places(&self.applied_in(&db)?) != manifest.partitions {
            return Err(unfit(
                "its applied offsets are not those of the manifest".to_owned(),
            ));
        }
        Ok(manifest)
    }

    /// Copies a verified snapshot to where the store is opened; `to` must not
    /// exist. Table files, which never change, are linked.
    pub fn restore(&self, snapshot: &Snapshot, to: &Path) -> Result<(), SnapshotError> {
        let db = snapshot.path.join("db");
        fs::create_dir_all(to).map_err(at(to))?;
        for name in files(&db)? {
            let (from, to) = (db.join(&name), to.join(&name));
            let linked = name.ends_with(".sst") && fs::hard_link(&from, &to).is_ok();
            if !linked {
                fs::copy(&from, &to).map_err(at(&to))?;
            }
        }
        sync_folder(to)
    }

    fn applied_in(&self, db: &Path) -> Result<Vec<Option<Applied>>, SnapshotError> {
        let store = Store::open_read_only(db, &self.options)?;
        let partitions = 0..self.partitions;
        let applied = partitions.map(|partition| Applied::read(&store, partition));
        Ok(applied.collect::<Result<_, _>>()?)
    }

    fn describe(&self, db: &Path, applied: &[Option<Applied>]) -> Result<Manifest, SnapshotError> {
        // Table files are links to the same file in every snapshot that has
        // them, so what the newest one says of them still holds.
        let newest = self.list()?.into_iter().next();
        let known = newest.and_then(|newest| Some((read_manifest(&newest.path).ok()?, newest)));
        let mut described = Vec::new();
        for name in files(db)? {
            let same = known.as_ref().and_then(|(manifest, newest)| {
                let entry = manifest.files.iter().find(|file| file.name == name)?;
                let there = fs::metadata(newest.path.join("db").join(&name)).ok()?;
                let here = fs::metadata(db.join(&name)).ok()?;
                let same = there.ino() == here.ino() && there.dev() == here.dev();
                (same && here.len() == entry.bytes).then(|| entry.clone())
            });
            described.push(match same {
                Some(entry) => entry,
                None => describe_file(db, &name)?,
            });
        }
        Ok(Manifest {
            projector_version: PROJECTOR_VERSION,
            partitions: places(applied),
            files: described,
        })
    }

    fn rotate(&self) -> Result<(), SnapshotError> {
        for old in self.list()?.into_iter().skip(self.keep) {
            remove_folder(&old.path)?;
        }
        Ok(())
    }
}

/// Digits of a snapshot's name, so that names sort as numbers.
const NAME_DIGITS: usize = 20;
const MANIFEST: &str = "manifest.json";

fn at(path: &Path) -> impl Fn(io::Error) -> SnapshotError {
    let path = path.to_owned();
    move |source| SnapshotError::Io {
        path: path.clone(),
        source,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn places(applied: &[Option<Applied>]) -> Vec<Option<Place>> {
    let place = |applied: &Applied| Place {
        input_end: applied.input_end,
        input_link: hex(&applied.input_link),
        output_end: applied.output_end,
        output_link: hex(&applied.output_link),
    };
    applied
        .iter()
        .map(|applied| applied.as_ref().map(place))
        .collect()
}

/// Names of a folder's files, in order; RocksDB's lock and text logs left out.
fn files(db: &Path) -> Result<Vec<String>, SnapshotError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(db).map_err(at(db))? {
        let entry = entry.map_err(at(db))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "LOCK" && !name.starts_with("LOG") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn describe_file(db: &Path, name: &str) -> Result<FileEntry, SnapshotError> {
    let path = db.join(name);
    let mut file = fs::File::open(&path).map_err(at(&path))?;
    let mut hasher = blake3::Hasher::new();
    let bytes = io::copy(&mut file, &mut hasher).map_err(at(&path))?;
    Ok(FileEntry {
        name: name.to_owned(),
        bytes,
        blake3: hex(hasher.finalize().as_bytes()),
    })
}

fn read_manifest(snapshot: &Path) -> Result<Manifest, SnapshotError> {
    let path = snapshot.join(MANIFEST);
    let bytes = fs::read(&path).map_err(at(&path))?;
    serde_json::from_slice(&bytes).map_err(|error| SnapshotError::Unfit {
        path,
        why: error.to_string(),
    })
}

fn write_manifest(snapshot: &Path, manifest: &Manifest) -> Result<(), SnapshotError> {
    let path = snapshot.join(MANIFEST);
    let write = || {
        let text = serde_json::to_vec_pretty(manifest)?;
        let mut file = fs::File::create(&path)?;
        io::Write::write_all(&mut file, &text)?;
        file.sync_all()
    };
    write().map_err(at(&path))?;
    sync_folder(&snapshot.join("db"))?;
    sync_folder(snapshot)
}

fn sync_folder(folder: &Path) -> Result<(), SnapshotError> {
    let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(at(folder))
}

fn remove_folder(folder: &Path) -> Result<(), SnapshotError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(at(folder)),
    }
}
