//! Rooms that the operator had purged: what was kept of them goes, and clients
//! that knew them are told, once, that they are no longer in them. The events by
//! which they left are gone as well, so that is all there is to tell.

use std::collections::BTreeSet;

use ruma::{OwnedRoomId, RoomId, UserId};

use log_format::record::output::OutputRoomPurged;

use super::memory::UserSlot;
use super::rows::{self, Key};
use super::unread::UnreadCounts;
use super::{ClientSync, SyncError};
use crate::logs::log::{LogRecord, PartitionId};
use crate::matrix::ids::domain_of;
use crate::query::ids::RoomSn;
use crate::query::tokens::SyncToken;
use crate::readers::run::ReaderError;
use crate::storage::columns::{
    SYNC_MEMBERS, SYNC_OWN_RECEIPTS, SYNC_PURGED, SYNC_RECEIPTS, SYNC_RECEIPTS_AT, SYNC_ROOMS,
    SYNC_STATE, SYNC_TIMELINE, SYNC_UNREAD, Table,
};
use crate::storage::overlay::{Overlay, Read, StoreError};

/// Tables whose keys begin with the room.
const OF_ROOM: [Table; 5] = [
    SYNC_TIMELINE,
    SYNC_STATE,
    SYNC_ROOMS,
    SYNC_RECEIPTS,
    SYNC_RECEIPTS_AT,
];
/// Rows that one range read takes.
const PAGE_ROWS: usize = 256;

impl ClientSync {
    /// Drops what is kept of a purged room: all that is found by the room, and
    /// what is found by the users that the record names. Each group before the
    /// record must be written.
    pub(super) fn drop_room(
        &self,
        partition: PartitionId,
        record: &LogRecord,
        purged: &OutputRoomPurged,
    ) -> Result<(), ReaderError> {
        let offset = record.offset;
        let envelope = record
            .envelope()
            .map_err(|source| ReaderError::Envelope { offset, source })?;
        let room_id = envelope.room_id.map(<&RoomId>::try_from);
        let Some(Ok(room_id)) = room_id else {
            return Ok(());
        };
        let room = RoomSn(purged.room_sn);
        let mut rows = Overlay::new(self.store.as_ref());
        {
            let mut memory = self.memory.write();
            let known = memory.room_ix(room_id);
            let known = known.filter(|ix| memory.room(*ix).room == room);
            let concerned = known.map(|ix| memory.remove_room(ix)).unwrap_or_default();
            for user in concerned {
                let slot = memory.user_mut(user);
                slot.purged_at.insert(partition, offset);
                let key = Key::new(partition).text(slot.user_id.as_str());
                let value = room_id.as_bytes().to_vec();
                rows.put(SYNC_PURGED, key.number(offset).bytes(), value);
                memory.news.users.insert(user);
            }
        }
        for user in &purged.users {
            if domain_of(user) == Some(self.server_name.as_str())
                && let Ok(user) = <&UserId>::try_from(&**user)
            {
                self.unread.forget(user, partition, room);
                drop_of_user(&mut rows, partition, room, user)?;
            }
        }
        // Who was concerned is in these rows: they come first.
        self.store.write(rows.into_writes())?;
        let of_room = Key::new(partition).room(room);
        let prefixes = OF_ROOM.map(|table| (table, of_room.bytes().to_vec()));
        self.store.remove(&prefixes)?;
        Ok(())
    }

    /// Rooms of a user that were purged between two positions.
    pub(super) fn purged_since(
        &self,
        user: &UserId,
        stretches: &[(PartitionId, u64, u64)],
    ) -> Result<BTreeSet<OwnedRoomId>, SyncError> {
        let mut purged = BTreeSet::new();
        for (partition, from, to) in stretches {
            let of_user = || Key::new(*partition).text(user.as_str());
            let (prefix, mut next) = (of_user(), *from);
            loop {
                let start = of_user().number(next);
                let page = self.store.range(
                    SYNC_PURGED,
                    prefix.bytes(),
                    Some(start.bytes()),
                    false,
                    PAGE_ROWS,
                )?;
                for (key, value) in &page {
                    next = rows::last_number(SYNC_PURGED, key)? + 1;
                    let room = std::str::from_utf8(value).ok();
                    let room = room.and_then(|room| OwnedRoomId::try_from(room).ok());
                    if next <= *to {
                        purged.extend(room);
                    }
                }
                if page.len() < PAGE_ROWS || next > *to {
                    break;
                }
            }
        }
        Ok(purged)
    }
}

/// Where a user has purged rooms to be told of, behind `since` and before `token`.
pub(super) fn stretches_of(
    user: Option<&UserSlot>,
    since: Option<&SyncToken>,
    token: &SyncToken,
) -> Vec<(PartitionId, u64, u64)> {
    let (Some(user), Some(since)) = (user, since) else {
        return Vec::new();
    };
    let stretches = user.purged_at.iter().filter_map(|(partition, newest)| {
        let from = since.vector.get(*partition as usize)?.0;
        let to = token.vector.get(*partition as usize)?.0;
        (from <= *newest && from < to).then_some((*partition, from, to))
    });
    stretches.collect()
}

/// Rows of a room that are found by a user.
fn drop_of_user(
    rows: &mut Overlay<'_>,
    partition: PartitionId,
    room: RoomSn,
    user: &UserId,
) -> Result<(), StoreError> {
    let unread = UnreadCounts::row(user, partition, room);
    rows.delete(SYNC_UNREAD, unread.bytes());
    let of_room = Key::new(partition).text(user.as_str()).room(room);
    for table in [SYNC_MEMBERS, SYNC_OWN_RECEIPTS] {
        // As many as the user came and went, or has threads that they read.
        let found = Read::range(rows, table, of_room.bytes(), None, false, usize::MAX)?;
        for (key, _) in found {
            rows.delete(table, &key);
        }
    }
    Ok(())
}
