//! Rooms that we are not in, and to which a user of ours was invited or on which
//! they knocked. Such a room has rows like any other, under a number that stands
//! in for its own until an event of the room comes.

use log_format::record::Envelope;
use log_format::record::output::{Decision, OutputOutsideMembership};
use ruma::{OwnedUserId, RoomId, UserId};
use serde_json::value::RawValue;

use super::fold::Group;
use super::history::RoomHistory;
use super::memory::{MembershipNews, RoomIx, Standing};
use super::rows::{self, Key, MembershipRow};
use super::{ClientSync, SyncError};
use crate::logs::log::LogRecord;
use crate::matrix::client_event::{Format, Unsigned, client_event, stripped_state};
use crate::query::ids::RoomSn;
use crate::query::outside::OutsideMembership;
use crate::readers::run::ReaderError;
use crate::storage::columns::{SYNC_MEMBERS, SYNC_ROOMS};
use crate::storage::overlay::Read;

impl Group<'_, '_> {
    /// An invite, a knock, or the end of one.
    pub(super) fn outside_membership(
        &mut self,
        record: &LogRecord,
        envelope: &Envelope<'_>,
        body: &OutputOutsideMembership,
    ) -> Result<(), ReaderError> {
        if body.decision != Decision::Accepted {
            return Ok(());
        }
        let offset = record.offset;
        let missing = |what| ReaderError::Field { offset, what };
        let room_id = envelope.room_id.map(<&RoomId>::try_from);
        let room_id = room_id.and_then(Result::ok).ok_or(missing("room id"))?;
        let user = envelope.state_key.map(<&UserId>::try_from);
        let user = user.and_then(Result::ok).ok_or(missing("state key"))?;
        let room = RoomSn(body.room_sn);
        let ix = self.memory.intern_room(room_id, self.partition, room);
        let row = MembershipRow {
            membership: body.membership,
            event: None,
            at_us: record.time_us,
            by_self: envelope.sender == Some(user.as_str()),
            encrypted: false,
            outside: true,
        };
        let user_ix = self.memory.intern_user(user);
        let news = MembershipNews {
            membership: row.membership,
            event: None,
            offset,
            at_us: row.at_us,
            by_self: row.by_self,
            encrypted: row.encrypted,
            outside: true,
        };
        self.memory.set_membership(user_ix, ix, news);
        let key = Key::new(self.partition).text(user.as_str());
        let key = key.room(self.memory.room(ix).room).number(offset);
        rows::put(&mut self.rows, SYNC_MEMBERS, &key, &row);
        self.changed.insert(ix);
        Ok(())
    }

    /// The index of a room of which an event came. If it was known from outside
    /// only, its rows move to the room's own number.
    pub(super) fn room_inside(
        &mut self,
        room_id: &RoomId,
        room: RoomSn,
    ) -> Result<RoomIx, ReaderError> {
        let ix = self.memory.intern_room(room_id, self.partition, room);
        let stood_in = self.memory.room(ix).room;
        if stood_in == room {
            return Ok(ix);
        }
        self.memory.room_mut(ix).room = room;
        let of_room = Key::new(self.partition).room(stood_in);
        self.rows.delete(SYNC_ROOMS, of_room.bytes());
        for user in self.memory.related_to(ix) {
            let of = |room| Key::new(self.partition).text(user.as_str()).room(room);
            let prefix = of(stood_in);
            let found = Read::range(
                &self.rows,
                SYNC_MEMBERS,
                prefix.bytes(),
                None,
                false,
                usize::MAX,
            )?;
            for (key, value) in found {
                let offset = rows::last_number(SYNC_MEMBERS, &key)?;
                self.rows
                    .delete(SYNC_MEMBERS, of(stood_in).number(offset).bytes());
                self.rows
                    .put(SYNC_MEMBERS, of(room).number(offset).bytes(), value);
            }
        }
        Ok(ix)
    }
}

impl ClientSync {
    /// Who invited a user to a room.
    pub(super) fn inviter(
        &self,
        room: &RoomId,
        user: &UserId,
        standing: &Standing,
    ) -> Result<Option<OwnedUserId>, SyncError> {
        if standing.outside {
            let seen = self.rooms.outside(room, user)?;
            return Ok(seen.map(|seen| seen.sender));
        }
        let invite: Vec<_> = standing.event.into_iter().collect();
        let invite = self.rooms.events(room, &invite)?.pop();
        Ok(invite.map(|invite| invite.sender.clone()))
    }
}

/// What the user is to a room, if the room's state does not say it.
pub fn seen_from_outside(
    history: &RoomHistory<'_>,
    user: &UserId,
) -> Result<Option<OutsideMembership>, SyncError> {
    Ok(history.rooms.outside(&history.room_id, user)?)
}

/// The member event that ended an invite or a knock, as clients get it in a
/// timeline; none if there is none.
pub fn end_in_timeline(end: &OutsideMembership) -> Result<Option<Box<RawValue>>, SyncError> {
    let (Some(event), Some(event_id)) = (end.event(), &end.event_id) else {
        return Ok(None);
    };
    let format = Format {
        event_id,
        room_id: None,
        unsigned: Unsigned {
            membership: Some(end.membership),
            ..Unsigned::default()
        },
    };
    Ok(Some(client_event(event.get().as_bytes(), &format)?))
}

/// The same as stripped state.
pub fn end_as_stripped(end: &OutsideMembership) -> Result<Option<Box<RawValue>>, SyncError> {
    let stripped = end
        .event()
        .map(|event| stripped_state(event.get().as_bytes()));
    Ok(stripped.transpose()?)
}
