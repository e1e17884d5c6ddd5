//! Segment files: their names and their header page.
//!
//! Source: FORMAT.md, section 4.

use std::path::{Path, PathBuf};

use crate::frame::{array_at, u32_at, u64_at};
use crate::partition::LogId;
use crate::record::envelope::PAYLOAD_BYTES_MAX;

/// Length of the header page; the first frame begins behind it.
pub const HEADER_PAGE_BYTES: usize = 4096;
/// First eight bytes of a segment.
pub const MAGIC: [u8; 8] = *b"ENGRSEG1";
/// A reader refuses another major version and reads any minor one.
pub const MAJOR: u16 = 1;
/// See [`MAJOR`].
pub const MINOR: u16 = 0;
/// Codec of record bodies: 1 = bincode 2 legacy layout.
pub const CODEC_ID: u16 = 1;
/// Hash of digests and links: 1 = BLAKE3.
pub const HASH_ID: u8 = 1;
/// Checksum of headers and payloads: 1 = CRC-32C.
pub const CHECKSUM_ID: u8 = 1;

const FIELDS_BYTES: usize = 168;
const CRC_AT: usize = HEADER_PAGE_BYTES - 4;

/// Why a header page was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentFault {
    #[error("file is shorter than a segment header")]
    Short,
    #[error("file is not a segment")]
    Magic,
    #[error("header checksum does not fit")]
    Checksum,
    #[error("format version {0} is not known")]
    Version(u16),
    #[error("feature bits {0:#x} are not known")]
    Features(u32),
    #[error("codec, hash or checksum is not known")]
    Algorithm,
    #[error("bytes that must be zero are not")]
    NotZero,
}

/// The fields of a header page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub log_id: LogId,
    pub partition: u32,
    /// Offset of the first record.
    pub base: u64,
    /// Random for each file; part of every frame in it.
    pub salt: u32,
    /// Rises with each rewrite of the segment.
    pub generation: u32,
    /// When the file was made, in microseconds since the epoch.
    pub created_us: u64,
    /// Append time of the record before the first; 0 at the beginning.
    pub time_before_us: u64,
    /// Chain link before the first record.
    pub link_before: [u8; 32],
    /// Digest of the seal of the segment before; zero at the beginning.
    pub previous_seal: [u8; 32],
    /// Id of the key that signs this partition's checkpoints; zero for none.
    pub signer: [u8; 8],
    /// Features that a reader must know to read on.
    pub features_incompatible: u32,
    /// Features that a writer must know to write on.
    pub features_read_only: u32,
    /// Features that may be ignored.
    pub features_compatible: u32,
}

impl SegmentHeader {
    /// Writes the page.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_PAGE_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&MAJOR.to_le_bytes());
        out.extend_from_slice(&MINOR.to_le_bytes());
        out.extend_from_slice(&(HEADER_PAGE_BYTES as u32).to_le_bytes());
        out.extend_from_slice(&self.log_id.0);
        out.extend_from_slice(&self.partition.to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&self.base.to_le_bytes());
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&CODEC_ID.to_le_bytes());
        out.extend_from_slice(&[HASH_ID, CHECKSUM_ID]);
        out.extend_from_slice(&self.created_us.to_le_bytes());
        out.extend_from_slice(&self.time_before_us.to_le_bytes());
        out.extend_from_slice(&self.link_before);
        out.extend_from_slice(&self.previous_seal);
        out.extend_from_slice(&self.signer);
        out.extend_from_slice(&self.features_incompatible.to_le_bytes());
        out.extend_from_slice(&self.features_read_only.to_le_bytes());
        out.extend_from_slice(&self.features_compatible.to_le_bytes());
        out.extend_from_slice(&(PAYLOAD_BYTES_MAX as u32).to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        debug_assert_eq!(out.len(), FIELDS_BYTES);
        out.resize(CRC_AT, 0);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the page.
    pub fn decode(page: &[u8]) -> Result<SegmentHeader, SegmentFault> {
        let Some(page) = page.get(..HEADER_PAGE_BYTES) else {
            return Err(SegmentFault::Short);
        };
        if page[..8] != MAGIC {
            return Err(SegmentFault::Magic);
        }
        if crc32c::crc32c(&page[..CRC_AT]) != u32_at(page, CRC_AT) {
            return Err(SegmentFault::Checksum);
        }
        let major = u16::from_le_bytes([page[8], page[9]]);
        if major != MAJOR {
            return Err(SegmentFault::Version(major));
        }
        let header = SegmentHeader {
            log_id: LogId(array_at(page, 16)),
            partition: u32_at(page, 32),
            salt: u32_at(page, 36),
            base: u64_at(page, 40),
            generation: u32_at(page, 48),
            created_us: u64_at(page, 56),
            time_before_us: u64_at(page, 64),
            link_before: array_at(page, 72),
            previous_seal: array_at(page, 104),
            signer: array_at(page, 136),
            features_incompatible: u32_at(page, 144),
            features_read_only: u32_at(page, 148),
            features_compatible: u32_at(page, 152),
        };
        let algorithms = [page[52], page[53], page[54], page[55]];
        if algorithms != [CODEC_ID as u8, 0, HASH_ID, CHECKSUM_ID] {
            return Err(SegmentFault::Algorithm);
        }
        if header.features_incompatible != 0 {
            return Err(SegmentFault::Features(header.features_incompatible));
        }
        let zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        if !zero(&page[160..CRC_AT]) {
            return Err(SegmentFault::NotZero);
        }
        Ok(header)
    }
}

/// A segment's file name: 20 digits, so that names sort as offsets do.
pub fn file_name(base: u64) -> String {
    format!("{base:020}.seg")
}

/// The base offset in a segment's file name.
pub fn parse_file_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() == 20).then(|| digits.parse().ok())?
}

/// Path of the sparse index beside a segment.
pub fn index_path(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("{base:020}.idx"))
}
