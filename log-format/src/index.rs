//! The sparse index of a segment: where to begin to look for an offset.
//!
//! A cache: it may be deleted at any time, and a file that does not check out is
//! ignored. Source: FORMAT.md, section 9.

use crate::frame::{u32_at, u64_at};

/// Bytes of log between two entries, at least.
pub const STEP_BYTES: u64 = 4096;
/// First eight bytes of an index file.
pub const MAGIC: [u8; 8] = *b"ENGRIDX1";
const HEADER_BYTES: usize = 32;
const ENTRY_BYTES: usize = 16;

/// A data frame's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Offset minus the segment's base.
    pub relative: u32,
    pub position: u32,
    /// Milliseconds from the first entry's append time, saturating.
    pub relative_ms: u32,
}

/// Entries of one segment, by rising position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SparseIndex {
    entries: Vec<Entry>,
    first_us: u64,
}

impl SparseIndex {
    /// Takes note of a data frame, if it is a step beyond the last entry.
    pub fn note(&mut self, relative: u64, position: u64, time_us: u64) {
        let last = self.entries.last();
        if last.is_some_and(|last| position < u64::from(last.position) + STEP_BYTES) {
            return;
        }
        if last.is_none() {
            self.first_us = time_us;
        }
        let relative_ms = time_us.saturating_sub(self.first_us) / 1000;
        let (Ok(relative), Ok(position)) = (u32::try_from(relative), u32::try_from(position))
        else {
            return;
        };
        self.entries.push(Entry {
            relative,
            position,
            relative_ms: u32::try_from(relative_ms).unwrap_or(u32::MAX),
        });
    }

    /// The last entry at or before a relative offset.
    pub fn at_or_before(&self, relative: u64) -> Option<Entry> {
        let behind = |entry: &Entry| u64::from(entry.relative) <= relative;
        let count = self.entries.partition_point(behind);
        self.entries.get(count.checked_sub(1)?).copied()
    }

    /// The last entry whose time is before `time_us`.
    pub fn before_time(&self, time_us: u64) -> Option<Entry> {
        let wanted_ms = time_us.checked_sub(self.first_us)? / 1000;
        let before = |entry: &Entry| u64::from(entry.relative_ms) < wanted_ms;
        let count = self.entries.partition_point(before);
        self.entries.get(count.checked_sub(1)?).copied()
    }

    /// The entries, by rising position.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Writes the file. Each entry's checksum is seeded with the segment's salt,
    /// so an index of another segment does not check out.
    pub fn encode(&self, base: u64, salt: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + self.entries.len() * ENTRY_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&base.to_le_bytes());
        out.extend_from_slice(&self.first_us.to_le_bytes());
        out.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        let crc = crc32c::crc32c_append(salt, &out);
        out.extend_from_slice(&crc.to_le_bytes());
        for entry in &self.entries {
            let at = out.len();
            out.extend_from_slice(&entry.relative.to_le_bytes());
            out.extend_from_slice(&entry.position.to_le_bytes());
            out.extend_from_slice(&entry.relative_ms.to_le_bytes());
            let crc = crc32c::crc32c_append(salt, &out[at..]);
            out.extend_from_slice(&crc.to_le_bytes());
        }
        out
    }

    /// Reads a file; `None` if anything in it does not check out.
    pub fn decode(bytes: &[u8], base: u64, salt: u32) -> Option<SparseIndex> {
        let header = bytes.get(..HEADER_BYTES)?;
        let count = u32_at(header, 24) as usize;
        let whole = header[..8] == MAGIC
            && u64_at(header, 8) == base
            && crc32c::crc32c_append(salt, &header[..28]) == u32_at(header, 28)
            && bytes.len() == HEADER_BYTES + count * ENTRY_BYTES;
        if !whole {
            return None;
        }
        let mut entries: Vec<Entry> = Vec::with_capacity(count);
        for bytes in bytes[HEADER_BYTES..].chunks_exact(ENTRY_BYTES) {
            let entry = Entry {
                relative: u32_at(bytes, 0),
                position: u32_at(bytes, 4),
                relative_ms: u32_at(bytes, 8),
            };
            let rises = entries.last().is_none_or(|last| {
                last.position < entry.position && last.relative < entry.relative
            });
            if !rises || crc32c::crc32c_append(salt, &bytes[..12]) != u32_at(bytes, 12) {
                return None;
            }
            entries.push(entry);
        }
        Some(SparseIndex {
            entries,
            first_us: u64_at(header, 16),
        })
    }
}
