//! The hash chain over records and the Merkle tree over a segment.
//!
//! Both cover payload digests, never payloads, so that an erased log verifies.
//! Source: FORMAT.md, section 7.

use std::collections::VecDeque;

use crate::partition::LogId;

/// The link before the first record of a partition.
pub fn genesis(log_id: LogId, partition: u32) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"log-v1 genesis");
    hasher.update(&log_id.0);
    hasher.update(&partition.to_le_bytes());
    *hasher.finalize().as_bytes()
}

/// The link behind one record. `record_kind` is the number of its kind.
pub fn link(
    previous: &[u8; 32],
    offset: u64,
    time_us: u64,
    record_kind: u16,
    digest: &[u8; 32],
) -> [u8; 32] {
    const DOMAIN: &[u8; 11] = b"log-v1 link";
    let mut input = [0; 11 + 32 + 8 + 8 + 2 + 32];
    input[..11].copy_from_slice(DOMAIN);
    input[11..43].copy_from_slice(previous);
    input[43..51].copy_from_slice(&offset.to_le_bytes());
    input[51..59].copy_from_slice(&time_us.to_le_bytes());
    input[59..61].copy_from_slice(&record_kind.to_le_bytes());
    input[61..93].copy_from_slice(digest);
    *blake3::hash(&input).as_bytes()
}

/// A Merkle tree that grows by one leaf at a time.
///
/// Shape: leaf = blake3(00 ‖ payload digest), node = blake3(01 ‖ left ‖ right);
/// the left subtree is the largest power of two below the number of leaves (as
/// in RFC 6962). The root of no leaves is 32 zero bytes.
#[derive(Clone, Debug, Default)]
pub struct Merkle {
    /// Roots of full subtrees, largest first.
    peaks: Vec<[u8; 32]>,
    /// Leaves in `peaks`.
    folded: u64,
    /// Payload digests of the leaves after those.
    queued: VecDeque<[u8; 32]>,
}

/// Queued leaves that one push folds, so that a queue shrinks without a pause.
const FOLDED_PER_PUSH: usize = 8;

impl Merkle {
    /// Adds the payload digest of the next record.
    pub fn push(&mut self, digest: &[u8; 32]) {
        self.queued.push_back(*digest);
        for _ in 0..FOLDED_PER_PUSH {
            let Some(digest) = self.queued.pop_front() else {
                return;
            };
            self.fold(&digest);
        }
    }

    /// Adds a digest without hashing it yet: a start has many, and may never
    /// need the root.
    pub fn push_later(&mut self, digest: &[u8; 32]) {
        self.queued.push_back(*digest);
    }

    fn fold(&mut self, digest: &[u8; 32]) {
        let mut input = [0; 33];
        input[1..].copy_from_slice(digest);
        let mut node = *blake3::hash(&input).as_bytes();
        let mut full = self.folded;
        while full & 1 == 1 {
            if let Some(left) = self.peaks.pop() {
                node = parent(&left, &node);
            }
            full >>= 1;
        }
        self.peaks.push(node);
        self.folded += 1;
    }

    /// Leaves so far.
    pub fn leaves(&self) -> u64 {
        self.folded + self.queued.len() as u64
    }

    /// The root over all leaves so far.
    pub fn root(&self) -> [u8; 32] {
        let mut whole = self.clone();
        while let Some(digest) = whole.queued.pop_front() {
            whole.fold(&digest);
        }
        let mut peaks = whole.peaks.iter().rev();
        let Some(last) = peaks.next() else {
            return [0; 32];
        };
        peaks.fold(*last, |right, left| parent(left, &right))
    }
}

fn parent(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut input = [1; 65];
    input[1..33].copy_from_slice(left);
    input[33..].copy_from_slice(right);
    *blake3::hash(&input).as_bytes()
}
