//! The data folder: made private, locked, and pinned to one server name.
//!
//! ```text
//! LOCK           held by the process that uses the folder
//! server_name    the name that everything in the folder belongs to
//! keys/          signing.key (Matrix), old_keys.json (its public predecessors), checkpoint.key (log)
//! log/           the logs: the truth
//! store/         derived, may be deleted while the server is down
//! snapshots/     of the store
//! search/        index of words, derived, may be deleted while the server is down
//! space.json     how large the store was at its last flush, for `engram-log stats`
//! run/           addresses.json, admin.sock: of the running process
//! ```

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use ruma::ServerName;

/// The data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("another engram ({holder}) uses {path}", path = path.display())]
    InUse { path: PathBuf, holder: String },
    #[error(
        "{path} belongs to the server {there}, but server_name is {configured}: a server cannot be \
         renamed. Set server_name back, or data_dir to another folder",
        path = path.display()
    )]
    OtherServer {
        path: PathBuf,
        there: String,
        configured: String,
    },
}

/// The folder, not necessarily ours alone.
#[derive(Clone, Debug)]
pub struct DataDir {
    root: PathBuf,
}

/// The right to change the folder, until dropped or until the process ends.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

impl DataDir {
    /// Names the folder; touches nothing.
    pub fn at(root: &Path) -> DataDir {
        DataDir { root: root.into() }
    }

    /// Creates what is missing (mode 0700), takes the lock and pins the server name.
    ///
    /// Errors: [`DataDirError::InUse`] at once if another process holds the lock.
    pub fn open(root: &Path, name: &ServerName) -> Result<(DataDir, DataDirLock), DataDirError> {
        let data_dir = DataDir::at(root);
        let folders = ["", "keys", "log", "snapshots", "run"];
        for folder in folders.map(|folder| root.join(folder)) {
            make_private(&folder).map_err(at(&folder))?;
        }
        let lock = data_dir.lock()?;
        data_dir.pin_name(name)?;
        Ok((data_dir, lock))
    }

    /// Whether a server ever ran here.
    pub fn exists(&self) -> bool {
        self.root.join("server_name").exists()
    }

    fn lock(&self) -> Result<DataDirLock, DataDirError> {
        let path = self.root.join("LOCK");
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(at(&path))?;
        match file.try_lock() {
            Ok(()) => (),
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                return Err(DataDirError::InUse {
                    path: self.root.clone(),
                    holder: holder.trim().to_owned(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(at(&path)(error)),
        }
        // Only for the message above; the lock itself is the kernel's.
        let holder = format!("process {}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.write_all(holder.as_bytes()))
            .map_err(at(&path))?;
        Ok(DataDirLock { _file: file })
    }

    fn pin_name(&self, name: &ServerName) -> Result<(), DataDirError> {
        let path = self.root.join("server_name");
        match fs::read_to_string(&path) {
            Ok(there) if there.trim() == name.as_str() => Ok(()),
            Ok(there) => Err(DataDirError::OtherServer {
                path: self.root.clone(),
                there: there.trim().to_owned(),
                configured: name.to_string(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                replace(&path, format!("{name}\n").as_bytes()).map_err(at(&path))
            }
            Err(error) => Err(at(&path)(error)),
        }
    }

    pub fn signing_key(&self) -> PathBuf {
        self.root.join("keys/signing.key")
    }

    /// Public keys that were ours once.
    pub fn old_keys(&self) -> PathBuf {
        self.root.join("keys/old_keys.json")
    }

    pub fn checkpoint_key(&self) -> PathBuf {
        self.root.join("keys/checkpoint.key")
    }

    pub fn logs(&self) -> PathBuf {
        self.root.join("log")
    }

    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub fn search(&self) -> PathBuf {
        self.root.join("search")
    }

    /// A folder for the process of that number to work in.
    pub fn scratch(&self, pid: u32) -> PathBuf {
        self.root.join(format!("run/scratch-{pid}"))
    }

    pub fn space(&self) -> PathBuf {
        self.root.join("space.json")
    }

    pub fn admin_socket(&self) -> PathBuf {
        self.root.join("run/admin.sock")
    }

    pub fn addresses(&self) -> PathBuf {
        self.root.join("run/addresses.json")
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> DataDirError {
    let path = path.to_owned();
    move |source| DataDirError::Io {
        path: path.clone(),
        source,
    }
}

/// Creates a folder with mode 0700. A data folder that is there already and open
/// to others is closed, since it holds keys and everybody's messages.
fn make_private(folder: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let mut permissions = fs::metadata(folder)?.permissions();
    if permissions.mode() & 0o077 != 0 {
        permissions.set_mode(0o700);
        fs::set_permissions(folder, permissions)?;
    }
    Ok(())
}

/// Writes a small file as a whole: readers see the old content or the new one.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[test]
    fn the_folder_is_private_locked_and_keeps_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("a/b");
        let (data_dir, lock) = DataDir::open(&root, server_name!("a.test")).unwrap();
        for path in [root.clone(), root.join("keys"), root.join("log")] {
            assert_eq!(
                fs::metadata(path).unwrap().permissions().mode() & 0o777,
                0o700
            );
        }
        let second = DataDir::open(&root, server_name!("a.test")).unwrap_err();
        let own = format!("process {}", std::process::id());
        assert!(matches!(second, DataDirError::InUse { holder, .. } if holder == own));
        drop(lock);
        assert!(data_dir.exists());
        let renamed = DataDir::open(&root, server_name!("b.test")).unwrap_err();
        assert!(
            matches!(renamed, DataDirError::OtherServer { .. }),
            "{renamed}"
        );
        DataDir::open(&root, server_name!("a.test")).unwrap();
    }
}
