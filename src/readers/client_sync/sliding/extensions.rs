//! Extensions: what an answer tells beside rooms (MSC4186, *Extensions*).

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use ruma::{OwnedRoomId, RoomId};
use serde::Serialize;
use serde_json::value::RawValue;

use super::super::answer::{account_data_event, global_event, predefined_push_rules};
use super::super::{ClientSync, SyncError};
use super::connection::{RoomKey, Told};
use super::lists::{Windows, key_of};
use super::receipts::ReceiptsBody;
use super::request::{Extensions, SlidingRequest};
use crate::logs::log::partition_of;
use crate::query::ephemeral::Changes;
use crate::query::ids::EphemeralOffset;
use crate::query::tokens::SyncToken;
use crate::query::unwanted::Unwanted;

/// Rooms whose data is told at once when the extension is first enabled.
const ROOMS_AT_ONCE_MAX: usize = 2_000;

/// How far each extension was told; none if it never was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct ExtensionsTold {
    /// Offset in the user's partition of *output*.
    pub account_data: Option<u64>,
}

/// `extensions` of an answer.
#[derive(Debug, Default, Serialize)]
pub struct ExtensionsBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    to_device: Option<ToDevice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e2ee: Option<EndToEnd>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account_data: Option<AccountData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipts: Option<ReceiptsBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    typing: Option<Typing>,
}

impl ExtensionsBody {
    /// Whether there is no news in it.
    pub fn is_empty(&self) -> bool {
        self.account_data.is_none() && self.receipts.is_none() && self.typing.is_none()
    }

    /// Adds receipts, if there are any.
    pub fn set_receipts(&mut self, receipts: ReceiptsBody) {
        self.receipts = (!receipts.rooms.is_empty()).then_some(receipts);
    }
}

/// Nothing: devices cannot send to each other yet.
#[derive(Debug, Serialize)]
struct ToDevice {
    next_batch: String,
    events: [(); 0],
}

/// Nothing: no keys are kept yet.
#[derive(Debug, Default, Serialize)]
struct EndToEnd {
    device_lists: DeviceLists,
    device_one_time_keys_count: BTreeMap<String, u64>,
}

#[derive(Debug, Default, Serialize)]
struct DeviceLists {
    changed: [(); 0],
    left: [(); 0],
}

#[derive(Debug, Default, Serialize)]
struct AccountData {
    global: Vec<Box<RawValue>>,
    rooms: BTreeMap<OwnedRoomId, Vec<Box<RawValue>>>,
}

/// One `m.typing` for each room.
#[derive(Debug, Default, Serialize)]
pub(super) struct Typing {
    pub rooms: BTreeMap<OwnedRoomId, Box<RawValue>>,
}

/// Makes the extensions of one answer.
pub struct Extending<'a> {
    pub sync: &'a ClientSync,
    pub request: &'a SlidingRequest,
    /// Where the reader stands.
    pub cursors: &'a [u64],
    pub since: Option<&'a SyncToken>,
    pub token: &'a SyncToken,
    pub told: &'a Told,
    pub windows: &'a Windows,
    pub unwanted: &'a Unwanted,
}

impl Extending<'_> {
    /// The extensions that are enabled, and how far they are told with them.
    /// `new` are the rooms that are told for the first time, `changes` what
    /// changed in *ephemeral*. Puts into `typing_told` what it tells of that.
    pub fn build(
        &self,
        new: &[OwnedRoomId],
        changes: &Changes,
        typing_told: &mut Option<Vec<(RoomKey, bool)>>,
    ) -> Result<(ExtensionsBody, ExtensionsTold), SyncError> {
        let Extensions {
            to_device,
            e2ee,
            account_data,
            typing,
            ..
        } = &self.request.extensions;
        let mut told = self.told.extensions;
        let mut body = ExtensionsBody {
            to_device: (to_device.enabled == Some(true)).then(|| ToDevice {
                next_batch: to_device.since.clone().unwrap_or_else(|| "0".to_owned()),
                events: [],
            }),
            e2ee: e2ee.is_enabled().then(EndToEnd::default),
            account_data: None,
            receipts: None,
            typing: None,
        };
        if typing.is_enabled() {
            let typing = self.typing(new, changes, typing_told.insert(Vec::new()))?;
            body.typing = (!typing.rooms.is_empty()).then_some(typing);
        }
        if account_data.is_enabled() {
            let data = self.account_data(new)?;
            told.account_data = Some(self.data_to());
            let is_empty = data.global.is_empty() && data.rooms.is_empty();
            body.account_data = (!is_empty).then_some(data);
        }
        Ok((body, told))
    }

    fn partition(&self) -> u32 {
        partition_of(self.request.user.as_str(), self.sync.output.partitions())
    }

    /// Up to where the client was told of *ephemeral*: nothing by this process,
    /// where that was another one.
    pub(super) fn ephemeral_since(&self) -> EphemeralOffset {
        let since = self.since.filter(|since| since.boot == self.token.boot);
        EphemeralOffset(since.map_or(0, |since| since.ephemeral))
    }

    /// Up to where this answer tells of the user's account data.
    fn data_to(&self) -> u64 {
        let cursor = self.cursors.get(self.partition() as usize).copied();
        let told = self.told.extensions.account_data;
        cursor.unwrap_or(0).max(told.unwrap_or(0))
    }

    /// What changed since it was last told. A room's data is told with the room,
    /// and from then on whether or not a list has it: who comes back to a room
    /// has missed nothing.
    fn account_data(&self, new: &[OwnedRoomId]) -> Result<AccountData, SyncError> {
        let (users, user) = (&self.sync.users, &self.request.user);
        let mut data = AccountData::default();
        let Some(from) = self.told.extensions.account_data else {
            data.global = self.all_global()?;
            for room in self.known_rooms().iter().chain(new) {
                self.add_all_of(room, &mut data)?;
            }
            return Ok(data);
        };
        for room in new {
            self.add_all_of(room, &mut data)?;
        }
        let (partition, to) = (self.partition(), self.data_to());
        let changed = self.sync.changed_account_data(user, partition, from, to)?;
        for (room, types) in changed {
            if room.as_ref().is_some_and(|room| !self.is_known(room)) {
                continue;
            }
            for event_type in types {
                let datum = users.account_data(user, room.as_deref(), &event_type);
                let Some(datum) = datum else { continue };
                match &room {
                    Some(room) => {
                        let event = account_data_event(&event_type, &datum.content)?;
                        data.rooms.entry(room.clone()).or_default().push(event);
                    }
                    None => data.global.push(global_event(user, &datum)?),
                }
            }
        }
        Ok(data)
    }

    fn add_all_of(&self, room: &RoomId, data: &mut AccountData) -> Result<(), SyncError> {
        let all = self
            .sync
            .users
            .all_account_data(&self.request.user, Some(room));
        for datum in all {
            let event = account_data_event(&datum.event_type, &datum.content)?;
            data.rooms.entry(room.to_owned()).or_default().push(event);
        }
        Ok(())
    }

    /// Whether the client was told of a room before.
    fn is_known(&self, room: &RoomId) -> bool {
        let memory = self.sync.memory.read();
        let ix = memory.room_ix(room);
        ix.is_some_and(|ix| self.told.rooms.contains_key(&key_of(memory.room(ix))))
    }

    /// Rooms that the client was told of before.
    fn known_rooms(&self) -> Vec<OwnedRoomId> {
        let memory = self.sync.memory.read();
        let rooms = memory
            .user(&self.request.user)
            .map(|user| user.rooms.keys());
        let rooms = rooms.into_iter().flatten().map(|ix| memory.room(*ix));
        let known = rooms.filter(|slot| self.told.rooms.contains_key(&key_of(slot)));
        known
            .take(ROOMS_AT_ONCE_MAX)
            .map(|slot| slot.room_id.clone())
            .collect()
    }

    fn all_global(&self) -> Result<Vec<Box<RawValue>>, SyncError> {
        let (users, user) = (&self.sync.users, &self.request.user);
        let data = users.all_account_data(user, None);
        let mut events: Vec<_> = predefined_push_rules(user, &data)?.into_iter().collect();
        for datum in &data {
            events.push(global_event(user, datum)?);
        }
        Ok(events)
    }
}
