//! A file system in memory that remembers what was synced.
//!
//! [`FakeFs::crash`] plays a power cut: what was not synced survives sector by
//! sector at random, names as a random prefix of what was done to them. The
//! N-th call can be made to fail. Clones share the files.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use log_format::FileSystem;
use log_format::file_system::{File, Lock, OpenMode};

const SECTOR_BYTES: usize = 512;

/// What goes wrong at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The disk answers with an error.
    Io,
    /// The disk is full; of a write, half is done.
    Full,
    /// As `Io`, and the write was half done.
    ShortWrite,
}

/// When calls fail, counted from 1 over all that change or sync something.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub at_call: u64,
    pub failure: Failure,
    /// All later calls fail as well.
    pub for_ever: bool,
}

#[derive(Default, Clone)]
struct Node {
    live: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Clone)]
enum NameChange {
    Link(PathBuf, usize),
    Unlink(PathBuf),
}

#[derive(Default)]
struct State {
    nodes: Vec<Node>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    unsynced_names: Vec<NameChange>,
    locked: bool,
    calls: u64,
    plan: Option<Plan>,
    /// Syncs answer, but do nothing.
    syncs_lie: bool,
    syncs: u64,
    /// Bytes that may still be allocated; `None` for no limit.
    room: Option<u64>,
    clock_us: u64,
}

#[derive(Clone, Default)]
pub struct FakeFs(Arc<Mutex<State>>);

struct FakeFile {
    fs: FakeFs,
    node: usize,
    writable: bool,
}

struct FakeLock(FakeFs);

impl Lock for FakeLock {}

impl Drop for FakeLock {
    fn drop(&mut self) {
        self.0.state().locked = false;
    }
}

/// A small generator, so that a seed names a crash.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

impl FakeFs {
    pub fn new() -> FakeFs {
        FakeFs::default()
    }

    pub fn shared(&self) -> Arc<dyn FileSystem> {
        Arc::new(self.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while holding it")
    }

    pub fn plan(&self, plan: Option<Plan>) {
        let mut state = self.state();
        state.calls = 0;
        state.plan = plan;
    }

    pub fn set_syncs_lie(&self, lie: bool) {
        self.state().syncs_lie = lie;
    }

    pub fn set_room(&self, bytes: Option<u64>) {
        self.state().room = bytes;
    }

    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// The bytes of a file, as a reader sees them.
    pub fn bytes(&self, path: &Path) -> Vec<u8> {
        let state = self.state();
        state.nodes[state.names[path]].live.clone()
    }

    /// Replaces a file's bytes, durably.
    pub fn put(&self, path: &Path, bytes: Vec<u8>) {
        let mut state = self.state();
        let node = Node {
            live: bytes.clone(),
            durable: bytes,
        };
        state.nodes.push(node);
        let number = state.nodes.len() - 1;
        state.names.insert(path.to_owned(), number);
        state.durable_names.insert(path.to_owned(), number);
    }

    /// Removes everything.
    pub fn clear(&self) {
        *self.state() = State::default();
    }

    pub fn byte(&self, path: &Path, at: u64) -> u8 {
        let state = self.state();
        let live = &state.nodes[state.names[path]].live;
        live.get(at as usize).copied().unwrap_or(0)
    }

    pub fn set_byte(&self, path: &Path, at: u64, byte: u8) {
        let mut state = self.state();
        let node = state.names[path];
        if let Some(found) = state.nodes[node].live.get_mut(at as usize) {
            *found = byte;
        }
    }

    pub fn take_away(&self, path: &Path) {
        let mut state = self.state();
        state.names.remove(path);
        state.durable_names.remove(path);
    }

    pub fn paths(&self) -> Vec<PathBuf> {
        self.state().names.keys().cloned().collect()
    }

    /// The same files, independent of this one, all durable.
    pub fn copy(&self) -> FakeFs {
        let copy = FakeFs::new();
        copy.state().clock_us = self.state().clock_us;
        for path in self.paths() {
            copy.put(&path, self.bytes(&path));
        }
        copy
    }

    /// What a machine finds after the power was cut.
    pub fn crash(&self, seed: u64) -> FakeFs {
        let mut random = Random::new(seed);
        let state = self.state();
        let mut names = state.durable_names.clone();
        let kept = random.below(state.unsynced_names.len() as u64 + 1) as usize;
        for change in &state.unsynced_names[..kept] {
            match change {
                NameChange::Link(path, node) => names.insert(path.clone(), *node),
                NameChange::Unlink(path) => names.remove(path),
            };
        }
        let after = FakeFs::new();
        after.state().clock_us = state.clock_us + 1;
        for (path, number) in names {
            after.put(&path, surviving(&state.nodes[number], &mut random));
        }
        after
    }

    /// Counts a call that changes something; says whether and how it fails.
    fn count(&self) -> Option<Failure> {
        let mut state = self.state();
        state.calls += 1;
        let plan = state.plan?;
        let fails = state.calls == plan.at_call || (plan.for_ever && state.calls > plan.at_call);
        fails.then_some(plan.failure)
    }

    fn check(&self) -> io::Result<()> {
        self.count().map_or(Ok(()), |failure| Err(failure.error()))
    }
}

impl Failure {
    fn error(self) -> io::Error {
        match self {
            Failure::Io | Failure::ShortWrite => io::Error::from_raw_os_error(5),
            Failure::Full => io::ErrorKind::StorageFull.into(),
        }
    }
}

/// Each sector that was not synced is the old one, the new one, or, at the end
/// of the file, missing.
fn surviving(node: &Node, random: &mut Random) -> Vec<u8> {
    let mut bytes = node.live.clone();
    match random.below(3) {
        0 => bytes.truncate(node.durable.len()),
        1 if node.live.len() > node.durable.len() => {
            let grown = (node.live.len() - node.durable.len()) as u64;
            bytes.truncate(node.durable.len() + random.below(grown + 1) as usize);
        }
        _ => {}
    }
    let all_old = random.below(4) == 0;
    for start in (0..bytes.len()).step_by(SECTOR_BYTES) {
        let end = (start + SECTOR_BYTES).min(bytes.len());
        let old: Vec<u8> = (start..end)
            .map(|at| node.durable.get(at).copied().unwrap_or(0))
            .collect();
        if bytes[start..end] != old[..] && (all_old || random.below(2) == 0) {
            bytes[start..end].copy_from_slice(&old);
        }
    }
    bytes
}

impl File for FakeFile {
    fn read_at(&self, out: &mut [u8], at: u64) -> io::Result<usize> {
        let state = self.fs.state();
        let live = &state.nodes[self.node].live;
        let Some(from) = live.get(at as usize..) else {
            return Ok(0);
        };
        let count = from.len().min(out.len());
        out[..count].copy_from_slice(&from[..count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        assert!(self.writable, "a file opened for reading is written");
        let failure = self.fs.count();
        let mut state = self.fs.state();
        let grows =
            (at + bytes.len() as u64).saturating_sub(state.nodes[self.node].live.len() as u64);
        let mut done = match failure {
            None => bytes.len(),
            Some(Failure::Io) => 0,
            Some(Failure::Full | Failure::ShortWrite) => bytes.len() / 2,
        };
        let mut answer = failure.map_or(Ok(()), |failure| Err(failure.error()));
        if let Some(room) = &mut state.room {
            if grows > *room {
                done = done.min(bytes.len() - (grows - *room) as usize);
                answer = Err(io::ErrorKind::StorageFull.into());
                *room = 0;
            } else {
                *room -= grows;
            }
        }
        let live = &mut state.nodes[self.node].live;
        let end = at as usize + done;
        if done > 0 && live.len() < end {
            live.resize(end, 0);
        }
        if done > 0 {
            live[at as usize..end].copy_from_slice(&bytes[..done]);
        }
        answer
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.fs.state().nodes[self.node].live.len() as u64)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        assert!(self.writable, "a file opened for reading is cut");
        self.fs.check()?;
        self.fs.state().nodes[self.node]
            .live
            .resize(bytes as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.fs.check()?;
        let mut state = self.fs.state();
        state.syncs += 1;
        if !state.syncs_lie {
            let node = &mut state.nodes[self.node];
            node.durable = node.live.clone();
        }
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }
}

impl FileSystem for FakeFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        if mode != OpenMode::Read {
            self.check()?;
        }
        let mut state = self.state();
        let known = state.names.get(path).copied();
        let node = match (mode, known) {
            (OpenMode::CreateNew, Some(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            (OpenMode::CreateNew, None) => {
                state.nodes.push(Node::default());
                let node = state.nodes.len() - 1;
                state.names.insert(path.to_owned(), node);
                state
                    .unsynced_names
                    .push(NameChange::Link(path.to_owned(), node));
                node
            }
            (_, Some(node)) => node,
            (_, None) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Arc::new(FakeFile {
            fs: self.clone(),
            node,
            writable: mode != OpenMode::Read,
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        let names = inside.filter_map(|path| path.file_name());
        Ok(names
            .map(|name| name.to_string_lossy().into_owned())
            .collect())
    }

    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        self.check()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check()?;
        let mut state = self.state();
        let node = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), node);
        state
            .unsynced_names
            .push(NameChange::Unlink(from.to_owned()));
        state
            .unsynced_names
            .push(NameChange::Link(to.to_owned(), node));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.check()?;
        let mut state = self.state();
        state.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        state
            .unsynced_names
            .push(NameChange::Unlink(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        self.check()?;
        let mut state = self.state();
        state.syncs += 1;
        if !state.syncs_lie {
            state.durable_names = state.names.clone();
            state.unsynced_names.clear();
        }
        Ok(())
    }

    fn set_read_only(&self, _path: &Path, _read_only: bool) -> io::Result<()> {
        self.check()
    }

    fn lock(&self, _path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let mut state = self.state();
        if state.locked {
            return Ok(None);
        }
        state.locked = true;
        Ok(Some(Box::new(FakeLock(self.clone()))))
    }

    fn is_locked(&self, _path: &Path) -> io::Result<bool> {
        Ok(self.state().locked)
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(self.state().room.unwrap_or(u64::MAX))
    }

    fn now_us(&self) -> u64 {
        let mut state = self.state();
        state.clock_us += 1;
        1_800_000_000_000_000 + state.clock_us
    }

    fn nonce(&self) -> u64 {
        let mut state = self.state();
        state.clock_us += 1;
        Random::new(state.clock_us).next()
    }
}
