//! The one place that knows bincode.
//!
//! Bodies are bincode 2 with `config::legacy()`: fixed-width little-endian
//! integers, `u64` lengths, one-byte options, `u32` enum variants, fields in
//! order. FORMAT.md specifies the bytes, so a successor of the crate needs to
//! satisfy only that page.

use bincode::{Decode, Encode, config};

/// Bytes that a body may claim while it is decoded; a damaged length beyond it
/// is an error instead of an allocation. Same as the largest record.
const DECODE_LIMIT_BYTES: usize = 1 << 20;

/// A body that is not what its kind says.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("body does not decode: {0}")]
    Malformed(String),
    #[error("{left} bytes follow the body")]
    TrailingBytes { left: usize },
}

/// Encodes a record body.
pub fn encode<T: Encode>(body: &T) -> Vec<u8> {
    // Our body types hold no `RefCell`, `Mutex` or unsized sequence, the only
    // things that bincode cannot encode into a growing vector.
    bincode::encode_to_vec(body, config::legacy()).unwrap_or_default()
}

/// Decodes a record body; every byte must be used.
pub fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, CodecError> {
    let limited = config::legacy().with_limit::<DECODE_LIMIT_BYTES>();
    let (body, used) = bincode::decode_from_slice(bytes, limited)
        .map_err(|error| CodecError::Malformed(error.to_string()))?;
    match bytes.len() - used {
        0 => Ok(body),
        left => Err(CodecError::TrailingBytes { left }),
    }
}
