//! Where in a room, as of which *output*.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{PARTITIONS_MAX, TokenError};
use crate::query::ids::{OutputOffset, Place};
use crate::query::rooms::Direction;

/// Begins every [`TimelineToken`]; the digit is its version.
const TIMELINE_PREFIX: &str = "t1_";

/// A position in a room's timeline, between two events.
///
/// `prev_batch` of `/sync`, `start` and `end` of `/messages` and `/context`.
/// The token stands just *before* the event at `before` (if there is one):
/// going backward gives what is older, going forward gives that event first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineToken {
    pub before: Place,
    /// *Output* offset by partition as of which the token was made.
    pub vector: Box<[OutputOffset]>,
}

impl TimelineToken {
    /// Just before the event at `place`.
    pub fn before(place: Place, vector: &[OutputOffset]) -> TimelineToken {
        TimelineToken {
            before: place,
            vector: vector.into(),
        }
    }

    /// Just behind the event at `place`.
    pub fn after(place: Place, vector: &[OutputOffset]) -> TimelineToken {
        TimelineToken::before(Place(place.0.saturating_add(1)), vector)
    }

    /// The place to hand to [`crate::query::rooms::Rooms::timeline`], which gives what
    /// lies strictly beyond it.
    pub fn start(&self, direction: Direction) -> Place {
        match direction {
            Direction::Backward => self.before,
            Direction::Forward => Place(self.before.0.saturating_sub(1)),
        }
    }

    /// Shape: `t1_` and base64url of `place: u128 BE | offset: u64 BE` per partition.
    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(16 + 8 * self.vector.len());
        bytes.extend_from_slice(&self.before.to_bytes());
        for offset in &self.vector {
            bytes.extend_from_slice(&offset.0.to_be_bytes());
        }
        let mut token = String::with_capacity(TIMELINE_PREFIX.len() + bytes.len() * 4 / 3 + 2);
        token.push_str(TIMELINE_PREFIX);
        URL_SAFE_NO_PAD.encode_string(bytes, &mut token);
        token
    }

    /// Reads [`TimelineToken::encode`].
    pub fn decode(token: &str) -> Result<TimelineToken, TokenError> {
        let coded = token.strip_prefix(TIMELINE_PREFIX).ok_or(TokenError)?;
        if coded.len() > (16 + 8 * PARTITIONS_MAX).div_ceil(3) * 4 {
            return Err(TokenError);
        }
        let bytes = URL_SAFE_NO_PAD.decode(coded).map_err(|_| TokenError)?;
        let (place, offsets) = bytes.split_first_chunk::<16>().ok_or(TokenError)?;
        let (offsets, rest) = offsets.as_chunks::<8>();
        if !rest.is_empty() {
            return Err(TokenError);
        }
        Ok(TimelineToken {
            before: Place::from_bytes(*place),
            vector: offsets
                .iter()
                .map(|offset| OutputOffset(u64::from_be_bytes(*offset)))
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_token_reads_back() {
        let vector = [OutputOffset(7), OutputOffset(u64::MAX)];
        for token in [
            TimelineToken::before(Place::FIRST, &vector),
            TimelineToken::after(Place::END, &[]),
        ] {
            assert_eq!(TimelineToken::decode(&token.encode()), Ok(token));
        }
    }

    #[test]
    fn a_token_stands_between_two_events() {
        let second = Place::FIRST.next();
        let between = TimelineToken::after(Place::FIRST, &[]);
        assert!(between.start(Direction::Backward) > Place::FIRST);
        assert!(between.start(Direction::Backward) < second);
        assert!(between.start(Direction::Forward) >= Place::FIRST);
        assert!(between.start(Direction::Forward) < second);
        let same = TimelineToken::before(second, &[]);
        assert!(same.start(Direction::Forward) < second);
        assert_eq!(same.start(Direction::Backward), second);
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for text in [
            "",
            "t1_",
            "t1_AAAA",
            "t0_AAAAAAAAAAAAAAAAAAAAAA",
            "s1_x",
            "t1_%%",
            "t1_AAAAAAAAAAAAAAAAAAAAAAA",
        ] {
            assert_eq!(TimelineToken::decode(text), Err(TokenError), "{text}");
        }
    }
}
