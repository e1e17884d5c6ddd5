//! A third-party invite by one of our users becomes an invite, once the person
//! has a user id: their server shows what the identity server signed
//! (server-server API, *Third-party invites*).
//!
//! The room decides: it holds the `m.room.third_party_invite` that our user sent,
//! with the keys that the signature is checked against. What another server adds
//! to it is not taken over.

use ruma::{OwnedUserId, RoomId, ServerName};

use super::event_builder::Draft;
use super::room_error::RoomWriteError;
use super::room_writer::RoomWriter;
use crate::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use crate::query::rooms::RoomHead;

const MEMBER: &str = "m.room.member";
const THIRD_PARTY_INVITE: &str = "third_party_invite";

impl RoomWriter {
    /// Invites a user of `origin` by the partial member event that it sends.
    pub async fn exchange_invite(
        &self,
        origin: &ServerName,
        room: &RoomId,
        event: &CanonicalJsonObject,
    ) -> Result<(), RoomWriteError> {
        let invalid = |text: &str| RoomWriteError::InvalidParam(text.into());
        if text(event, "type") != Some(MEMBER) || text(event, "room_id") != Some(room.as_str()) {
            return Err(invalid("the event is no invite to this room"));
        }
        let sender = user(event, "sender").filter(|user| user.server_name() == self.server_name());
        let sender = sender.ok_or_else(|| invalid("the sender is of another server"))?;
        let target = user(event, "state_key").filter(|user| user.server_name() == origin);
        let target = target.ok_or_else(|| invalid("the invited user is of another server"))?;
        let content = event.get("content").and_then(|content| content.as_object());
        let content = content.filter(|content| text(content, "membership") == Some("invite"));
        let shown = content.and_then(|content| content.get(THIRD_PARTY_INVITE)?.as_object());
        let shown = shown.and_then(rebuilt);
        let shown = shown.ok_or_else(|| invalid("the event holds no third-party invite"))?;
        let content = CanonicalJsonObject::from([
            (
                "membership".to_owned(),
                CanonicalJsonValue::String("invite".into()),
            ),
            (
                THIRD_PARTY_INVITE.to_owned(),
                CanonicalJsonValue::Object(shown),
            ),
        ]);
        let draft = Draft::state(&sender, MEMBER, target.as_str(), content);
        let own = self.server_name().to_owned();
        let choose = Box::new(move |head: &RoomHead| match head.is_resident(&own) {
            true => Ok(Some(draft.clone())),
            false => Err(RoomWriteError::UnknownRoom),
        });
        self.set_invite(room, &target, choose).await.map(drop)
    }
}

/// What the room and its members need of a `third_party_invite`, made anew.
fn rebuilt(given: &CanonicalJsonObject) -> Option<CanonicalJsonObject> {
    let pick = |from: &CanonicalJsonObject, fields: &[&str]| {
        let fields = fields.iter();
        let picked = fields.map(|field| Some(((*field).to_owned(), from.get(*field)?.clone())));
        picked.collect::<Option<CanonicalJsonObject>>()
    };
    let signed = pick(
        given.get("signed")?.as_object()?,
        &["mxid", "token", "signatures"],
    )?;
    let mut rebuilt = pick(given, &["display_name"])?;
    rebuilt.insert("signed".to_owned(), CanonicalJsonValue::Object(signed));
    Some(rebuilt)
}

fn text<'a>(event: &'a CanonicalJsonObject, field: &str) -> Option<&'a str> {
    event.get(field)?.as_str()
}

fn user(event: &CanonicalJsonObject, field: &str) -> Option<OwnedUserId> {
    OwnedUserId::try_from(text(event, field)?).ok()
}
