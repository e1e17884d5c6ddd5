//! Seals: the last frame of a finished segment, and the trailer that finds it.
//!
//! A seal covers what a rewrite keeps (offsets, links, digests), so it stays
//! valid when bodies are erased. Source: FORMAT.md, section 6.

use crate::frame::{FrameFault, FrameHeader, HEADER_BYTES, array_at, kind, payload_crc, u64_at};

/// Length of a seal's payload.
pub const PAYLOAD_BYTES: usize = 88;
/// Length of the trailer that ends a sealed segment.
pub const TRAILER_BYTES: usize = 32;
/// What a seal adds to a segment.
pub const SEAL_BYTES: u64 = (HEADER_BYTES + PAYLOAD_BYTES + TRAILER_BYTES) as u64;
/// First eight bytes of a trailer.
pub const TRAILER_MAGIC: [u8; 8] = *b"ENGREND1";

/// What a sealed segment holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Offset of the first record.
    pub first: u64,
    /// Offset behind the last record.
    pub end: u64,
    /// Records, always `end - first`.
    pub records: u64,
    /// Chain link behind the last record.
    pub link: [u8; 32],
    /// Root over the payload digests ([`crate::chain::Merkle`]).
    pub merkle_root: [u8; 32],
}

impl Seal {
    /// Writes the payload of the seal frame.
    pub fn encode(&self) -> [u8; PAYLOAD_BYTES] {
        let mut out = [0; PAYLOAD_BYTES];
        out[0..8].copy_from_slice(&self.first.to_le_bytes());
        out[8..16].copy_from_slice(&self.end.to_le_bytes());
        out[16..24].copy_from_slice(&self.records.to_le_bytes());
        out[24..56].copy_from_slice(&self.link);
        out[56..88].copy_from_slice(&self.merkle_root);
        out
    }

    /// Reads the payload of a seal frame.
    pub fn decode(payload: &[u8]) -> Result<Seal, FrameFault> {
        if payload.len() != PAYLOAD_BYTES {
            return Err(FrameFault::Seal);
        }
        let seal = Seal {
            first: u64_at(payload, 0),
            end: u64_at(payload, 8),
            records: u64_at(payload, 16),
            link: array_at(payload, 24),
            merkle_root: array_at(payload, 56),
        };
        let counted = seal.end.checked_sub(seal.first) == Some(seal.records);
        counted.then_some(seal).ok_or(FrameFault::Seal)
    }

    /// What the next segment's header names this segment by.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"log-v1 seal");
        hasher.update(&self.encode());
        *hasher.finalize().as_bytes()
    }

    /// The bytes that end a segment: seal frame and trailer, for `position`.
    pub fn encode_end(&self, position: u64, time_us: u64, salt: u32, synced: u32) -> Vec<u8> {
        let payload = self.encode();
        let header = FrameHeader {
            kind: kind::SEAL,
            flags: 0,
            payload_len: PAYLOAD_BYTES as u32,
            body_crc: payload_crc(&payload),
            offset: self.end,
            time_us,
            salt,
            synced,
            hash: self.link,
            tail: 0,
        };
        let mut out = header.encode().to_vec();
        out.extend_from_slice(&payload);
        out.extend_from_slice(&encode_trailer(position, salt));
        out
    }
}

fn encode_trailer(seal_position: u64, salt: u32) -> [u8; TRAILER_BYTES] {
    let mut out = [0; TRAILER_BYTES];
    out[0..8].copy_from_slice(&TRAILER_MAGIC);
    out[8..16].copy_from_slice(&seal_position.to_le_bytes());
    out[16..20].copy_from_slice(&salt.to_le_bytes());
    let crc = crc32c::crc32c(&out[..28]);
    out[28..32].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The seal's position, if `trailer` is the trailer of the file with this salt
/// and length.
pub fn decode_trailer(trailer: &[u8], salt: u32, file_bytes: u64) -> Option<u64> {
    let trailer: &[u8; TRAILER_BYTES] = trailer.try_into().ok()?;
    let position = u64_at(trailer, 8);
    let fits = position.checked_add(SEAL_BYTES) == Some(file_bytes);
    (fits && *trailer == encode_trailer(position, salt)).then_some(position)
}
