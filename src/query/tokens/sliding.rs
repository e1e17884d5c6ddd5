//! How far a connection of sliding sync has come.

use super::{SyncToken, TokenError};

/// Begins every [`SlidingToken`]; the digit is its version.
const SLIDING_PREFIX: &str = "x1_";

/// `pos` of sliding sync (MSC4186): one answer, and what it told beside rooms.
///
/// What it told of rooms is kept by the server under this position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlidingToken {
    /// Random, so that no two answers have the same.
    pub answer: u64,
    pub sync: SyncToken,
}

impl SlidingToken {
    /// Shape: `x1_`, the answer's number in hexadecimal, `_` and a [`SyncToken`].
    pub fn encode(&self) -> String {
        format!("{SLIDING_PREFIX}{:x}_{}", self.answer, self.sync.encode())
    }

    /// Reads [`SlidingToken::encode`].
    pub fn decode(token: &str) -> Result<SlidingToken, TokenError> {
        let coded = token.strip_prefix(SLIDING_PREFIX).ok_or(TokenError)?;
        let (answer, sync) = coded.split_once('_').ok_or(TokenError)?;
        Ok(SlidingToken {
            answer: u64::from_str_radix(answer, 16).map_err(|_| TokenError)?,
            sync: SyncToken::decode(sync)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::ids::OutputOffset;
    use crate::query::tokens::Epoch;

    #[test]
    fn a_position_reads_back() {
        let token = SlidingToken {
            answer: u64::MAX - 5,
            sync: SyncToken {
                epoch: Epoch(3),
                vector: [OutputOffset(7), OutputOffset(1 << 40)].into(),
                to_device: 0,
                ephemeral: 9,
                boot: 1,
            },
        };
        assert_eq!(SlidingToken::decode(&token.encode()), Ok(token));
        for text in [
            "",
            "x1_",
            "x1_5",
            "x1_5_",
            "x1_zz_s1_AAAA",
            "s1_AAAA",
            "x1_5_x1_5_s1_AAAA",
        ] {
            assert_eq!(SlidingToken::decode(text), Err(TokenError), "{text}");
        }
    }
}
