//! Invites and knocks of our users, seen from outside, that somebody in the room
//! ended: the only events that are taken in of a room that we are not in.

use ruma::{RoomId, ServerName, UserId};

use super::{Inner, ReceiveError, Received};
use crate::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use crate::matrix::{Membership, RoomVersion};
use crate::writers::federation::outside_membership;

impl Inner {
    /// Takes in what ends an invite or a knock; the ids of those events.
    ///
    /// Nobody here can judge whether it was allowed. So it counts from the server
    /// alone that told us of the invite, or took the knock.
    pub(super) async fn receive_withdrawn(
        &self,
        origin: &ServerName,
        room: &RoomId,
        events: &[CanonicalJsonObject],
    ) -> Result<Received, ReceiveError> {
        let mut received = Received::new();
        for event in events {
            let Some(user) = self.is_out(event) else {
                continue;
            };
            let seen = self.parts.rooms.outside(room, user)?;
            let Some(seen) = seen.filter(|seen| seen.is_open()) else {
                continue;
            };
            let told_by = [Some(seen.sender.server_name()), seen.origin.as_deref()];
            let version = seen.version.as_ref();
            let version = version.and_then(|version| RoomVersion::try_from(version).ok());
            let Some(version) = version.filter(|_| told_by.contains(&Some(origin))) else {
                continue;
            };
            let Ok(checked) = self.parts.checks.check(version, event.clone()).await else {
                continue;
            };
            let pdu = &checked.pdu;
            if pdu.room_id != room || pdu.sender.server_name() != origin || checked.is_redacted {
                continue;
            }
            let Some(record) = outside_membership::record(pdu, &[], Some(origin)) else {
                continue;
            };
            let submitter = &self.parts.submitter;
            let pending = submitter.enqueue(room.as_str(), vec![record])?;
            pending.durable().await?;
            received.insert(pdu.event_id.clone(), None);
        }
        Ok(received)
    }

    /// The user of ours whom a member event puts out of a room.
    fn is_out<'a>(&self, event: &'a CanonicalJsonObject) -> Option<&'a UserId> {
        let text = |field: &str| event.get(field).and_then(CanonicalJsonValue::as_str);
        let content = event.get("content")?.as_object()?;
        let word = content.get("membership")?.as_str()?;
        let is_out = matches!(
            Membership::parse(word),
            Some(Membership::Leave | Membership::Ban)
        );
        let user = <&UserId>::try_from(text("state_key")?).ok()?;
        let is_ours = user.server_name() == self.parts.own;
        (text("type") == Some("m.room.member") && is_out && is_ours).then_some(user)
    }
}
