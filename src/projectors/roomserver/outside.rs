//! Membership seen from outside: the table of invites to and knocks on rooms
//! that we are not in. It is never room state, and has no part in a room's turn:
//! a row is there until the user's membership in the room's own state changes,
//! which is what counts from then on.

use log_format::codec;
use log_format::record::input::InputOutsideMembership;
use log_format::record::output::{Decision, Membership, OutputOutsideMembership, Reason};
use log_format::record::{Kind, NewEnvelope};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomVersionId, UserId,
};

use super::fold::RoomServer;
use super::rows;
use crate::logs::log::NewRecord;
use crate::projectors::fold::{FoldError, FoldInput, Folded};
use crate::query::outside::{OutsideMembership, is_open};
use crate::storage::columns::{OUTSIDE, OUTSIDE_USERS};
use crate::storage::keys::{RowReader, RowWriter};
use crate::storage::overlay::{Overlay, StoreError};

/// Who is what to which room.
struct Said<'a> {
    membership: Membership,
    room_id: &'a RoomId,
    user: &'a UserId,
    sender: &'a UserId,
    event_id: Option<&'a str>,
    origin: Option<&'a str>,
    version: Option<&'a str>,
    json: &'a [u8],
}

impl RoomServer {
    /// Folds an invite, a knock or the end of one.
    pub(super) fn fold_outside(
        &mut self,
        record: &FoldInput<'_>,
        tables: &mut Overlay<'_>,
    ) -> Result<Folded, FoldError> {
        let (decision, reason) = match said(record) {
            None => (Decision::Rejected, Reason::Malformed),
            Some(said) => self.keep_outside(record, &said, tables)?,
        };
        let room_id = record.envelope.room_id;
        let head = room_id.and_then(|id| <&RoomId>::try_from(id).ok());
        let head = head.and_then(|id| self.group.heads.get(id));
        let membership = said(record).map_or(Membership::Leave, |said| said.membership);
        let body = codec::encode(&OutputOutsideMembership {
            origin: record.origin(),
            decision,
            reason,
            room_sn: head.map_or(record.offset, |head| head.shown.room.0),
            membership,
        });
        let output = NewEnvelope {
            body: &body,
            ..record.envelope.to_new()
        };
        let kind = Kind::OutputOutsideMembership;
        let output = NewRecord::new(kind, record.envelope.source, &output);
        Ok(Folded::decided(vec![output], decision, reason))
    }

    fn keep_outside(
        &mut self,
        record: &FoldInput<'_>,
        said: &Said<'_>,
        tables: &mut Overlay<'_>,
    ) -> Result<(Decision, Reason), FoldError> {
        let key = rows::user_room_key(record.partition, said.user.as_str(), said.room_id.as_str());
        let begins = is_open(said.membership);
        self.bring_head(record.partition, said.room_id, tables)?;
        let head = self.group.heads.get(said.room_id);
        let is_inside = head.is_some_and(|head| head.shown.authority.is_joined(said.user));
        if is_inside {
            return Ok((Decision::Rejected, Reason::RoomExists));
        }
        let before = tables.get(OUTSIDE, key.as_ref())?;
        let before = before.map(|row| read(said.room_id.to_owned(), &row));
        if !begins && !before.transpose()?.is_some_and(|before| before.is_open()) {
            return Ok((Decision::Rejected, Reason::NotFound));
        }
        tables.put(OUTSIDE, key.as_ref(), encode(said));
        let (room, user) = (said.room_id.as_str(), said.user.as_str());
        let by_room = rows::outside_user_key(record.partition, room, user);
        tables.put(OUTSIDE_USERS, by_room.as_ref(), Vec::new());
        Ok((Decision::Accepted, Reason::None))
    }
}

/// What a record says, if a correct writer made it.
fn said<'a>(record: &FoldInput<'a>) -> Option<Said<'a>> {
    let envelope = record.envelope;
    let body = codec::decode::<InputOutsideMembership>(envelope.body).ok()?;
    let room_id = <&RoomId>::try_from(envelope.room_id?).ok()?;
    let said = Said {
        membership: body.membership,
        room_id,
        user: <&UserId>::try_from(envelope.state_key?).ok()?,
        sender: <&UserId>::try_from(envelope.sender?).ok()?,
        event_id: envelope.event_id,
        origin: envelope.origin,
        version: envelope.room_version,
        json: envelope.body_part.bytes().unwrap_or_default(),
    };
    (envelope.key == room_id.as_str() && said.membership != Membership::Join).then_some(said)
}

fn encode(said: &Said<'_>) -> Vec<u8> {
    let mut row = RowWriter::with_capacity(said.json.len() + 128);
    row.u8(rows::membership_byte(Some(said.membership)))
        .text(said.sender.as_str())
        .optional_text(said.event_id)
        .optional_text(said.origin)
        .optional_text(said.version)
        .bytes(said.json);
    row.finish()
}

/// Reads a row.
pub(super) fn read(room_id: OwnedRoomId, bytes: &[u8]) -> Result<OutsideMembership, StoreError> {
    let mut row = RowReader::new(OUTSIDE, bytes);
    let membership = rows::read_membership(&mut row)?;
    let sender = OwnedUserId::try_from(row.text()?);
    let event_id = row.optional_text()?.map(OwnedEventId::try_from);
    let origin = row.optional_text()?.map(OwnedServerName::try_from);
    let version = row.optional_text()?.map(RoomVersionId::try_from);
    Ok(OutsideMembership {
        room_id,
        membership: membership.ok_or_else(|| row.error("no membership"))?,
        sender: sender.map_err(|_| row.error("no sender"))?,
        event_id: event_id.and_then(Result::ok),
        origin: origin.and_then(Result::ok),
        version: version.and_then(Result::ok),
        json: bytes::Bytes::copy_from_slice(row.rest()),
    })
}

/// The user's membership in the room's own state counts from here on.
pub(super) fn end(
    tables: &mut Overlay<'_>,
    partition: u32,
    user: &str,
    room_id: &str,
) -> Result<(), StoreError> {
    let key = rows::user_room_key(partition, user, room_id);
    // Most members are not ours: a look costs less than a tombstone.
    if tables.get(OUTSIDE, key.as_ref())?.is_some() {
        tables.delete(OUTSIDE, key.as_ref());
        let by_room = rows::outside_user_key(partition, room_id, user);
        tables.delete(OUTSIDE_USERS, by_room.as_ref());
    }
    Ok(())
}
