//! Membership seen from outside: invites to and knocks on rooms that no user of
//! ours is in. It is no room state: all that is known of such a room is what
//! came with the invite or was answered to the knock.

use bytes::Bytes;
use log_format::record::output::Membership;
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId};
use serde::Deserialize;
use serde_json::value::RawValue;

/// What one of our users is to a room that we are not in.
#[derive(Clone, Debug)]
pub struct OutsideMembership {
    pub room_id: OwnedRoomId,
    /// `Invite` or `Knock`; `Leave` or `Ban` where one ended.
    pub membership: Membership,
    /// Who invited, or did what ended it.
    pub sender: OwnedUserId,
    /// The member event, where there is one: that of a rejection of which the
    /// other server could not be told is known here alone.
    pub event_id: Option<OwnedEventId>,
    /// The server that told us, of a knock the one that took it.
    pub origin: Option<OwnedServerName>,
    /// None where it was not said.
    pub version: Option<RoomVersionId>,
    /// See [`OutsideMembership::event`] and [`OutsideMembership::stripped_state`].
    pub json: Bytes,
}

#[derive(Default, Deserialize)]
struct Told<'a> {
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow, default)]
    state: Vec<&'a RawValue>,
}

/// Whether a membership seen from outside is one that can still lead into the
/// room: an invite or a knock.
pub fn is_open(membership: Membership) -> bool {
    matches!(membership, Membership::Invite | Membership::Knock)
}

impl OutsideMembership {
    /// Whether it has not ended.
    pub fn is_open(&self) -> bool {
        is_open(self.membership)
    }

    fn told(&self) -> Told<'_> {
        serde_json::from_slice(&self.json).unwrap_or_default()
    }

    /// The member event as a PDU.
    pub fn event(&self) -> Option<&RawValue> {
        self.told().event
    }

    /// The stripped state, as clients are shown it (client-server API, *Stripped
    /// state*), the member event included.
    pub fn stripped_state(&self) -> Vec<Box<RawValue>> {
        let state = self.told().state.into_iter();
        state.map(ToOwned::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_room_id, owned_user_id};

    use super::*;

    #[test]
    fn what_cannot_be_read_is_not_there() {
        let told = |json: &'static str| OutsideMembership {
            room_id: owned_room_id!("!r:b"),
            membership: Membership::Invite,
            sender: owned_user_id!("@b:b"),
            event_id: None,
            origin: None,
            version: None,
            json: Bytes::from_static(json.as_bytes()),
        };
        let whole = told(r#"{"event":{"type":"m.room.member"},"state":[{"a":1},{"b":2}]}"#);
        assert_eq!(whole.event().unwrap().get(), r#"{"type":"m.room.member"}"#);
        assert_eq!(whole.stripped_state().len(), 2);
        for json in ["", "{}", "[]", "{"] {
            assert!(told(json).event().is_none());
            assert!(told(json).stripped_state().is_empty());
        }
    }
}
