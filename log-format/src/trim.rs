//! Removing whole segments from the front of a partition.
//!
//! A choice of the operator's or a policy's, never of recovery. The last segment
//! always stays, so offsets go on where they were. Source: FORMAT.md, section 12.

use std::io;
use std::path::Path;

use crate::file_system::FileSystem;
use crate::segment;

/// Removes the segments whose records all lie below `before`; the oldest first,
/// so that an interruption leaves no gap. Returns how many went.
pub fn trim(fs: &dyn FileSystem, dir: &Path, before: u64) -> io::Result<usize> {
    let names = fs.list(dir)?;
    let mut bases: Vec<u64> = names
        .iter()
        .filter_map(|name| segment::parse_file_name(name))
        .collect();
    bases.sort_unstable();
    let mut removed = 0;
    // A segment ends where the next begins.
    for pair in bases.windows(2).take_while(|pair| pair[1] <= before) {
        fs.remove(&dir.join(segment::file_name(pair[0])))?;
        match fs.remove(&segment::index_path(dir, pair[0])) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs.sync_dir(dir)?;
        removed += 1;
    }
    Ok(removed)
}
