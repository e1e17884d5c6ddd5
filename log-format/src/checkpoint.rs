//! Signed checkpoints: what the log's own key vouches for.
//!
//! Whoever has the public key and a checkpoint kept elsewhere can tell whether
//! a copy of the log was edited, cut, or forked. Source: FORMAT.md, section 8.

use ed25519_dalek::{Signature, Signer, SigningKey, Verifier, VerifyingKey};

use crate::frame::{array_at, u32_at, u64_at};
use crate::partition::LogId;

/// Length of one checkpoint.
pub const CHECKPOINT_BYTES: usize = 192;
/// First four bytes of a checkpoint.
pub const MAGIC: [u8; 4] = *b"ENCP";
/// The version that this code reads and writes.
pub const VERSION: u16 = 1;
/// Name of the file in a partition's folder.
pub const FILE_NAME: &str = "checkpoints";
/// Name of the file that lists the public keys, a convenience: trust comes from
/// a copy kept elsewhere.
pub const KEYS_FILE_NAME: &str = "checkpoint-keys";
/// What is signed begins with this, so that no signature can pass for another's.
const DOMAIN: &[u8] = b"log-v1 checkpoint";
const SIGNED_BYTES: usize = 120;

/// A statement that the log had this link at this offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub log_id: LogId,
    pub partition: u16,
    /// Offset behind the last record covered.
    pub offset: u64,
    /// Position behind that record's batch; a hint once the segment was rewritten.
    pub position: u64,
    pub link: [u8; 32],
    /// Microseconds since the epoch.
    pub time_us: u64,
    /// Digest of the checkpoint before; zero for the first.
    pub previous: [u8; 32],
    pub key_id: [u8; 8],
    pub signature: [u8; 64],
}

impl Checkpoint {
    /// Signs. `signature` and `key_id` of `self` are replaced.
    pub fn sign(mut self, key: &SigningKey) -> Checkpoint {
        self.key_id = key_id(&key.verifying_key());
        self.signature = key.sign(&self.signed_bytes()).to_bytes();
        self
    }

    /// Whether `key` made this checkpoint.
    pub fn verify(&self, key: &VerifyingKey) -> bool {
        let signature = Signature::from_bytes(&self.signature);
        self.key_id == key_id(key) && key.verify(&self.signed_bytes(), &signature).is_ok()
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let mut out = DOMAIN.to_vec();
        out.extend_from_slice(&self.encode()[..SIGNED_BYTES]);
        out
    }

    /// Writes the 192 bytes.
    pub fn encode(&self) -> [u8; CHECKPOINT_BYTES] {
        let mut out = [0; CHECKPOINT_BYTES];
        out[0..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        out[6..8].copy_from_slice(&self.partition.to_le_bytes());
        out[8..24].copy_from_slice(&self.log_id.0);
        out[24..32].copy_from_slice(&self.offset.to_le_bytes());
        out[32..40].copy_from_slice(&self.position.to_le_bytes());
        out[40..72].copy_from_slice(&self.link);
        out[72..80].copy_from_slice(&self.time_us.to_le_bytes());
        out[80..112].copy_from_slice(&self.previous);
        out[112..120].copy_from_slice(&self.key_id);
        out[120..184].copy_from_slice(&self.signature);
        let crc = crc32c::crc32c(&out[..188]);
        out[188..192].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads one; `None` for what is not a whole checkpoint.
    pub fn decode(bytes: &[u8]) -> Option<Checkpoint> {
        let bytes: &[u8; CHECKPOINT_BYTES] = bytes.try_into().ok()?;
        let whole = bytes[..4] == MAGIC
            && bytes[4..6] == VERSION.to_le_bytes()
            && bytes[184..188] == [0; 4]
            && crc32c::crc32c(&bytes[..188]) == u32_at(bytes, 188);
        whole.then(|| Checkpoint {
            partition: u16::from_le_bytes([bytes[6], bytes[7]]),
            log_id: LogId(array_at(bytes, 8)),
            offset: u64_at(bytes, 24),
            position: u64_at(bytes, 32),
            link: array_at(bytes, 40),
            time_us: u64_at(bytes, 72),
            previous: array_at(bytes, 80),
            key_id: array_at(bytes, 112),
            signature: array_at(bytes, 120),
        })
    }

    /// What the next checkpoint names this one by.
    pub fn digest(&self) -> [u8; 32] {
        *blake3::hash(&self.encode()).as_bytes()
    }
}

/// First eight bytes of the BLAKE3 of a public key.
pub fn key_id(key: &VerifyingKey) -> [u8; 8] {
    array_at(blake3::hash(key.as_bytes()).as_bytes(), 0)
}

/// Every whole checkpoint at the front of a file. Second value: bytes used; what
/// follows is a torn write (or damage, which [`crate::verify`] tells apart).
pub fn parse_file(bytes: &[u8]) -> (Vec<Checkpoint>, usize) {
    let whole: Vec<Checkpoint> = bytes
        .chunks_exact(CHECKPOINT_BYTES)
        .map_while(Checkpoint::decode)
        .collect();
    let used = whole.len() * CHECKPOINT_BYTES;
    (whole, used)
}
