//! A user of ours invites one of another server: that server is told, and signs
//! the invite before it becomes part of the room (server-server API, *Inviting
//! to a room*).

use log_format::record::Source;
use log_format::record::input::{Placement, VerifiedKey};
use ruma::{EventId, ServerName};

use super::pdu_checks::CheckedPdu;
use super::remote_join::add_signatures;
use super::remote_rooms::{RemoteRoomError, RemoteRooms};
use crate::logs::log::NewRecord;
use crate::matrix::RoomVersion;
use crate::matrix::canonical_json::{
    CanonicalJsonObject, CanonicalJsonValue, Numbers, parse_object_with, parse_stored_object,
};
use crate::matrix::event::Pdu;
use crate::matrix::server_keys::Validity;
use crate::matrix::signing::is_signed;
use crate::outbound::federation::invites::{self, Invite};
use crate::query::rooms::{RoomHead, StateKey};
use crate::query::stripped::describing;

const MEMBER: &str = "m.room.member";
/// Keys that one server may sign an invite with. Ours: it needs one.
const KEY_IDS_MAX: usize = 4;

impl RemoteRooms {
    /// The record of an invite with the signature of the invited user's server.
    /// `json` is the invite as we signed it, on top of `head`.
    pub async fn invite(
        &self,
        server: &ServerName,
        head: &RoomHead,
        (event_id, json): (&EventId, &[u8]),
    ) -> Result<NewRecord, RemoteRoomError> {
        let version = head.authority.create_info.version;
        let unreadable = |_| RemoteRoomError::Build("an event of ours cannot be read".into());
        let mut event = parse_stored_object(json).map_err(unreadable)?;
        let sender = event.get("sender").and_then(CanonicalJsonValue::as_str);
        let room_state = self.room_state(head, sender.unwrap_or_default())?;
        let invite = Invite {
            version,
            room: &head.room_id,
            event_id,
            event: &event,
            room_state: &room_state,
        };
        let theirs = invites::invite(&self.parts.client, server, &invite).await?;
        let theirs = parse_object_with(&theirs, Numbers::Kept);
        let theirs = theirs.map_err(|_| RemoteRoomError::BadAnswer("it is no event"))?;
        add_signatures(&mut event, &theirs, server);
        let invite = self.countersigned_invite(version, server, event).await?;
        if invite.pdu.event_id != *event_id {
            return Err(RemoteRoomError::BadAnswer("the invite is another event"));
        }
        let own = &self.own().server;
        Ok(invite.record(Placement::New, Source::Client, own))
    }

    /// The invite with a signature that the invited user's server made. Of what it
    /// sent nothing else was taken over.
    async fn countersigned_invite(
        &self,
        version: RoomVersion,
        server: &ServerName,
        event: CanonicalJsonObject,
    ) -> Result<CheckedPdu, RemoteRoomError> {
        let unsigned = RemoteRoomError::BadAnswer("the invite is not signed");
        let pdu = Pdu::from_object(version, event);
        let pdu = pdu.map_err(|_| RemoteRoomError::BadAnswer("the invite became too large"))?;
        let signatures = pdu.object().get("signatures");
        let signatures = signatures.and_then(|all| all.as_object()?.get(server.as_str()));
        let ids = signatures.and_then(|theirs| theirs.as_object());
        let ids: Vec<&str> = ids
            .into_iter()
            .flat_map(|ids| ids.keys())
            .map(String::as_str)
            .take(KEY_IDS_MAX)
            .collect();
        for id in ids {
            let keys = self
                .parts
                .keyring
                .with(server, id, |stored| stored.keys.contains_key(id));
            let Ok(keys) = keys.await else { continue };
            let Some(key) = keys
                .keys
                .get(id)
                .filter(|key| key.is_good_for_event(pdu.origin_server_ts))
            else {
                continue;
            };
            if is_signed(version, pdu.object(), (server, id), &key.key) {
                let (Validity::Until(until) | Validity::Expired(until)) = key.validity;
                let used = |server: &ServerName, key_id: &str, valid_until_ms| VerifiedKey {
                    server: server.to_string(),
                    key_id: key_id.to_owned(),
                    valid_until_ms,
                };
                let own = &self.own().server;
                let verified_with = vec![
                    used(own, self.own().current.key_id(), u64::MAX),
                    used(server, id, until),
                ];
                return Ok(CheckedPdu::of(pdu, verified_with));
            }
        }
        Err(unsigned)
    }

    /// What the invited user's server may show of the room, whole events: what
    /// describes it, and who invites.
    fn room_state(
        &self,
        head: &RoomHead,
        sender: &str,
    ) -> Result<Vec<CanonicalJsonValue>, RemoteRoomError> {
        let mut events = describing(head);
        events.extend(head.state.get(&StateKey::new(MEMBER, sender)));
        let events = self.parts.rooms.events(&head.room_id, &events)?;
        let events = events.iter().filter_map(|event| {
            let object = parse_stored_object(&event.json).ok()?;
            Some(CanonicalJsonValue::Object(object))
        });
        Ok(events.collect())
    }
}
