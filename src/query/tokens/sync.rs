//! How far a client has synced.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{PARTITIONS_MAX, TokenError};
use crate::query::ids::OutputOffset;

/// Begins every [`SyncToken`]; the digit is its version.
const SYNC_PREFIX: &str = "s1_";
/// A `u64` takes at most ten bytes of seven bits.
const VARINT_BYTES_MAX: usize = 10;

/// Names one *output* log: another epoch is another log, whose offsets mean
/// something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The epoch of an *output* log, from the id in its `ROOT`.
    pub fn of_log(log_id: &[u8; 16]) -> Epoch {
        let hash = blake3::hash(log_id);
        let mut first = [0; 4];
        first.copy_from_slice(&hash.as_bytes()[..4]);
        Epoch(u32::from_le_bytes(first))
    }
}

/// `next_batch` and `since` of `/sync`: everything below these offsets was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncToken {
    pub epoch: Epoch,
    /// *Output* offset behind the last record delivered, by partition.
    pub vector: Box<[OutputOffset]>,
    /// Behind the last to-device message delivered, in the user's partition.
    pub to_device: u64,
    /// Behind the last record of *ephemeral* that is in what was told.
    pub ephemeral: u64,
    /// Which process: another boot id means *send what is current*.
    pub boot: u32,
}

impl SyncToken {
    /// Shape: `s1_` and base64url of `epoch: u32 LE | boot: u32 LE | to_device |
    /// ephemeral | one offset per partition`, where numbers without a width are
    /// LEB128: a token of one partition is some 25 characters long.
    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(16 + 5 * self.vector.len());
        bytes.extend_from_slice(&self.epoch.0.to_le_bytes());
        bytes.extend_from_slice(&self.boot.to_le_bytes());
        put_varint(&mut bytes, self.to_device);
        put_varint(&mut bytes, self.ephemeral);
        for offset in &self.vector {
            put_varint(&mut bytes, offset.0);
        }
        let mut token = String::with_capacity(SYNC_PREFIX.len() + bytes.len() * 4 / 3 + 2);
        token.push_str(SYNC_PREFIX);
        URL_SAFE_NO_PAD.encode_string(bytes, &mut token);
        token
    }

    /// Reads [`SyncToken::encode`]. How many partitions it should name is for
    /// the caller to check.
    pub fn decode(token: &str) -> Result<SyncToken, TokenError> {
        let coded = token.strip_prefix(SYNC_PREFIX).ok_or(TokenError)?;
        if coded.len() > (8 + VARINT_BYTES_MAX * (2 + PARTITIONS_MAX)) * 2 {
            return Err(TokenError);
        }
        let bytes = URL_SAFE_NO_PAD.decode(coded).map_err(|_| TokenError)?;
        let (epoch, rest) = bytes.split_first_chunk::<4>().ok_or(TokenError)?;
        let (boot, mut rest) = rest.split_first_chunk::<4>().ok_or(TokenError)?;
        let to_device = take_varint(&mut rest)?;
        let ephemeral = take_varint(&mut rest)?;
        let mut vector = Vec::new();
        while !rest.is_empty() {
            vector.push(OutputOffset(take_varint(&mut rest)?));
        }
        if vector.is_empty() || vector.len() > PARTITIONS_MAX {
            return Err(TokenError);
        }
        Ok(SyncToken {
            epoch: Epoch(u32::from_le_bytes(*epoch)),
            vector: vector.into_boxed_slice(),
            to_device,
            ephemeral,
            boot: u32::from_le_bytes(*boot),
        })
    }
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Result<u64, TokenError> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(TokenError)?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return Err(TokenError);
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(TokenError)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(offsets: &[u64]) -> SyncToken {
        SyncToken {
            epoch: Epoch(0xdead_beef),
            vector: offsets.iter().map(|offset| OutputOffset(*offset)).collect(),
            to_device: 300,
            ephemeral: 0,
            boot: 42,
        }
    }

    #[test]
    fn a_sync_token_reads_back() {
        for offsets in [
            &[0u64][..],
            &[127, 128, 16_384],
            &[u64::MAX, 1 << 63],
            &[7; 64],
        ] {
            let token = token(offsets);
            assert_eq!(SyncToken::decode(&token.encode()), Ok(token));
        }
    }

    #[test]
    fn a_token_is_compact_and_fit_for_a_query_string() {
        let text = token(&[1_000_000]).encode();
        assert!(text.len() <= 26, "{text}");
        let url_safe = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        assert!(text.chars().all(url_safe));
    }

    #[test]
    fn what_is_no_sync_token_is_refused() {
        let whole = token(&[5, 600]).encode();
        let bytes = URL_SAFE_NO_PAD.decode(&whole[3..]).unwrap_or_default();
        // Cut before the last varint ends, and before there is any offset.
        for len in [0, 3, 7, 8, 9, 11, bytes.len() - 1] {
            let cut = format!("s1_{}", URL_SAFE_NO_PAD.encode(&bytes[..len]));
            assert_eq!(SyncToken::decode(&cut), Err(TokenError), "{len}");
        }
        for text in ["", "s1_", "s0_AAAA", "t1_AAAA", "s1_%%", "s72594_4483_1934"] {
            assert_eq!(SyncToken::decode(text), Err(TokenError), "{text}");
        }
        let mut long = bytes[..8].to_vec();
        long.extend_from_slice(&[0, 0]);
        long.extend_from_slice(&[0xff; 9]);
        long.push(2);
        let overflow = format!("s1_{}", URL_SAFE_NO_PAD.encode(&long));
        assert_eq!(SyncToken::decode(&overflow), Err(TokenError));
    }
}
