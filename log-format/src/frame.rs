//! The 80-byte frame header and what follows it.
//!
//! Only bytes and checks that need nothing but the frame itself; what frames
//! mean together is `scan.rs`. Source: FORMAT.md, section 5.

use crate::record::envelope::PAYLOAD_BYTES_MAX;

/// Length of a frame header, and so of a frame without payload.
pub const HEADER_BYTES: usize = 80;
/// First four bytes of every frame; never zero, so zeroes never parse.
pub const MAGIC: u32 = 0x314C_5645;
/// The header version that this code reads and writes.
pub const HEADER_VERSION: u8 = 1;
/// Frames begin at multiples of this.
pub const ALIGNMENT: usize = 8;
/// A kind with this bit may be skipped by a reader that does not know it.
pub const SKIPPABLE: u8 = 0x80;

/// Frame kinds.
pub mod kind {
    /// One record.
    pub const DATA: u8 = 1;
    /// The end of a batch; a batch without it never happened.
    pub const COMMIT: u8 = 2;
    /// The end of a segment.
    pub const SEAL: u8 = 3;
    /// A remark of a tool, in JSON; counts as no record.
    pub const NOTE: u8 = 4;
}

/// Frame flags.
pub mod flags {
    /// The record's erasable part was removed by a rewrite.
    pub const ERASED: u16 = 1;
    /// All flags that this version knows.
    pub const KNOWN: u16 = ERASED;
}

/// Why bytes are not a frame, or not the one that belongs there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    #[error("no frame begins here")]
    Magic,
    #[error("header checksum does not fit")]
    HeaderChecksum,
    #[error("header version {0} is not known")]
    Version(u8),
    #[error("frame kind {0} is not known and may not be skipped")]
    Kind(u8),
    #[error("flags {0:#06x} are not known")]
    Flags(u16),
    #[error("payload of {0} bytes is larger than the log takes")]
    Length(u32),
    #[error("frame reaches beyond the end of the file")]
    Truncated,
    #[error("payload checksum does not fit")]
    PayloadChecksum,
    #[error("frame belongs to another file or an earlier life of this one")]
    Salt,
    #[error("frame carries offset {found}, {expected} was expected")]
    Offset { expected: u64, found: u64 },
    #[error("time runs backwards")]
    Time,
    #[error("frame is out of its batch's order")]
    BatchOrder,
    #[error("batch checksum or count does not fit")]
    Batch,
    #[error("chain link does not fit")]
    Link,
    #[error("seal does not fit the segment")]
    Seal,
}

/// A frame header's fields; see FORMAT.md, section 5, for the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    pub kind: u8,
    pub flags: u16,
    /// Bytes of payload, without padding.
    pub payload_len: u32,
    /// CRC-32C of payload and padding; in a commit, of the batch's headers.
    pub body_crc: u32,
    /// Data: the record's offset. Others: offset behind the last record.
    pub offset: u64,
    /// Microseconds since the epoch, never decreasing.
    pub time_us: u64,
    pub salt: u32,
    /// Bytes of this segment whose sync had returned when the frame was made.
    pub synced: u32,
    /// Data: payload digest. Commit and seal: chain link.
    pub hash: [u8; 32],
    /// Data: index in batch | record kind << 16. Commit: records in the batch.
    pub tail: u32,
}

impl FrameHeader {
    /// Writes the 80 bytes, checksum included.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4] = HEADER_VERSION;
        out[5] = self.kind;
        out[6..8].copy_from_slice(&self.flags.to_le_bytes());
        out[8..12].copy_from_slice(&self.payload_len.to_le_bytes());
        out[12..16].copy_from_slice(&self.body_crc.to_le_bytes());
        out[16..24].copy_from_slice(&self.offset.to_le_bytes());
        out[24..32].copy_from_slice(&self.time_us.to_le_bytes());
        out[32..36].copy_from_slice(&self.salt.to_le_bytes());
        out[36..40].copy_from_slice(&self.synced.to_le_bytes());
        out[40..72].copy_from_slice(&self.hash);
        out[72..76].copy_from_slice(&self.tail.to_le_bytes());
        let crc = crc32c::crc32c(&out[..76]);
        out[76..80].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the 80 bytes. Nothing is believed before the checksum holds.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<FrameHeader, FrameFault> {
        if u32_at(bytes, 0) != MAGIC {
            return Err(FrameFault::Magic);
        }
        if crc32c::crc32c(&bytes[..76]) != u32_at(bytes, 76) {
            return Err(FrameFault::HeaderChecksum);
        }
        if bytes[4] != HEADER_VERSION {
            return Err(FrameFault::Version(bytes[4]));
        }
        let header = FrameHeader {
            kind: bytes[5],
            flags: u16::from_le_bytes([bytes[6], bytes[7]]),
            payload_len: u32_at(bytes, 8),
            body_crc: u32_at(bytes, 12),
            offset: u64_at(bytes, 16),
            time_us: u64_at(bytes, 24),
            salt: u32_at(bytes, 32),
            synced: u32_at(bytes, 36),
            hash: array_at(bytes, 40),
            tail: u32_at(bytes, 72),
        };
        if header.payload_len as usize > PAYLOAD_BYTES_MAX {
            return Err(FrameFault::Length(header.payload_len));
        }
        if header.flags & !flags::KNOWN != 0 {
            return Err(FrameFault::Flags(header.flags));
        }
        let known = (kind::DATA..=kind::NOTE).contains(&header.kind);
        if !known && header.kind & SKIPPABLE == 0 {
            return Err(FrameFault::Kind(header.kind));
        }
        Ok(header)
    }

    /// Bytes of payload and padding.
    pub fn body_bytes(&self) -> usize {
        padded(self.payload_len as usize)
    }

    /// Bytes of the whole frame.
    pub fn frame_bytes(&self) -> usize {
        HEADER_BYTES + self.body_bytes()
    }

    /// Data: index in its batch.
    pub fn batch_index(&self) -> u16 {
        self.tail as u16
    }

    /// Data: number of the record's kind.
    pub fn record_kind(&self) -> u16 {
        (self.tail >> 16) as u16
    }

    /// The `tail` of a data frame.
    pub fn data_tail(batch_index: u16, record_kind: u16) -> u32 {
        u32::from(batch_index) | u32::from(record_kind) << 16
    }
}

/// `len` rounded up to a frame boundary.
pub fn padded(len: usize) -> usize {
    len.next_multiple_of(ALIGNMENT)
}

/// CRC-32C of a payload and the zero bytes that pad it.
pub fn payload_crc(payload: &[u8]) -> u32 {
    let padding = padded(payload.len()) - payload.len();
    crc32c::crc32c_append(crc32c::crc32c(payload), &[0; ALIGNMENT][..padding])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

/// `N` bytes from `at`; the callers pass fixed layouts that are long enough.
pub(crate) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}
