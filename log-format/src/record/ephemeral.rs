//! Bodies of the records that writers append to *ephemeral*: what is true for
//! minutes, and lost without harm.

use bincode::{Decode, Encode};

/// Body of [`super::Kind::EphemeralTyping`]; the user is the envelope's `sender`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EphemeralTyping {
    /// False also when the time is up: projectors have no clock, so that the
    /// writer appends the end as well.
    pub typing: bool,
}

/// `presence` (client-server API, *Presence*).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum PresenceState {
    Online,
    Unavailable,
    Offline,
}

impl PresenceState {
    /// The specification's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            PresenceState::Online => "online",
            PresenceState::Unavailable => "unavailable",
            PresenceState::Offline => "offline",
        }
    }

    /// Reads the specification's word.
    pub fn parse(word: &str) -> Option<PresenceState> {
        [
            PresenceState::Online,
            PresenceState::Unavailable,
            PresenceState::Offline,
        ]
        .into_iter()
        .find(|state| state.as_str() == word)
    }
}

/// Body of [`super::Kind::EphemeralPresence`]; the user is the envelope's key,
/// `status_msg` its body part.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EphemeralPresence {
    pub presence: PresenceState,
    /// When the user last did something, in milliseconds since the epoch; none
    /// if that is not known.
    pub last_active_ms: Option<u64>,
    pub currently_active: bool,
}
