//! Templates of member events: what a server that is not in the room cannot know
//! of an event that it is to sign.

use ruma::{OwnedRoomId, OwnedUserId, RoomId, ServerName, UserId};

use super::{Handshake, Resident, ResidentError};
use crate::clock::now_ms;
use crate::limits::INTEGER_MAX;
use crate::matrix::RoomVersion;
use crate::matrix::build::references;
use crate::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use crate::writers::client::authorize::authorize;
use crate::writers::client::event_builder::{Draft, Parents};
use crate::writers::client::joins::AUTHORISED_BY;
use crate::writers::client::sequencer::parents_of;

const MEMBER: &str = "m.room.member";

/// Who asks for a template, and for what.
pub struct Asked<'a> {
    pub handshake: Handshake,
    /// The server that asks, which has to be the user's.
    pub origin: &'a ServerName,
    pub room_id: OwnedRoomId,
    pub user: OwnedUserId,
    /// Room versions that the server supports.
    pub versions: Vec<String>,
}

/// An event without id, hashes and signatures.
pub struct Template {
    pub version: RoomVersion,
    pub event: CanonicalJsonObject,
}

impl Resident {
    /// The member event with which a user of another server joins, leaves or
    /// knocks, if the room as it is now allows that.
    pub fn template(&self, asked: &Asked<'_>) -> Result<Template, ResidentError> {
        if asked.user.server_name() != asked.origin {
            return Err(ResidentError::NotOfOrigin);
        }
        let (head, version) = self.open(&asked.room_id, asked.origin)?;
        // Whoever leaves was in the room or invited to it, and knows its version.
        let is_known = asked.versions.iter().any(|known| known == version.as_str());
        if asked.handshake != Handshake::Leave && !is_known {
            return Err(ResidentError::IncompatibleVersion(version));
        }
        let membership = asked.handshake.membership().as_str();
        let mut content = CanonicalJsonObject::from([("membership".to_owned(), text(membership))]);
        if asked.handshake == Handshake::Join {
            let authoriser = self.authoriser(&head, &asked.user)?;
            let authoriser = authoriser.map(|user| (AUTHORISED_BY.to_owned(), text(user.as_str())));
            content.extend(authoriser);
        }
        let draft = Draft::state(&asked.user, MEMBER, asked.user.as_str(), content);
        let parents = parents_of(self.rooms(), &head)?;
        let auth_events = authorize(self.rooms(), &head, version, &draft, &parents)?;
        let auth_events = references(version, &auth_events);
        Ok(Template {
            version,
            event: self.event(
                &asked.room_id,
                &asked.user,
                draft,
                parents,
                auth_events,
                version,
            ),
        })
    }

    fn event(
        &self,
        room_id: &RoomId,
        user: &UserId,
        draft: Draft,
        parents: Parents,
        auth_events: CanonicalJsonValue,
        version: RoomVersion,
    ) -> CanonicalJsonObject {
        let fields = [
            ("auth_events", auth_events),
            ("content", CanonicalJsonValue::Object(draft.content)),
            ("depth", integer(parents.depth)),
            // Both for the other server to replace.
            ("origin", text(self.own_name().as_str())),
            ("origin_server_ts", integer(now_ms())),
            ("prev_events", references(version, &parents.prev_events)),
            ("room_id", text(room_id.as_str())),
            ("sender", text(user.as_str())),
            ("state_key", text(user.as_str())),
            ("type", text(MEMBER)),
        ];
        let fields = fields.into_iter();
        fields.map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

fn text(text: &str) -> CanonicalJsonValue {
    CanonicalJsonValue::String(text.to_owned())
}

/// A number of an event; those beyond what JSON has are as large as can be.
fn integer(value: u64) -> CanonicalJsonValue {
    let value = i64::try_from(value).unwrap_or(INTEGER_MAX).min(INTEGER_MAX);
    CanonicalJsonValue::Integer(ruma::Int::new(value).unwrap_or(ruma::Int::MAX))
}
