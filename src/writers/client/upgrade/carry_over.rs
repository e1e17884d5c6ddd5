//! What users keep about a room, taken along to its successor when they join it:
//! tags, that it is a direct chat, push rules (client-server API, *Room
//! Upgrades*: "the server should automatically transfer/replicate some of the
//! user's personalized settings").

use ruma::{RoomId, UserId};
use serde_json::{Map, Value, json};

use super::{TOMBSTONE, predecessor, replacement_room};
use crate::query::users::Users;
use crate::writers::client::room_error::RoomWriteError;
use crate::writers::client::room_state::RoomState;
use crate::writers::client::room_writer::RoomWriter;
use crate::writers::client::user_data::{UserData, UserDataError};

const TAGS: &str = "m.tag";
const DIRECT: &str = "m.direct";

impl RoomWriter {
    /// Copies the user's settings from the predecessor of a room, if it has one
    /// that names it as its successor: a room that only claims to be one gets
    /// nothing. Can be repeated.
    pub(in crate::writers::client) async fn carry_over(
        &self,
        user: &UserId,
        room_id: &RoomId,
    ) -> Result<(), RoomWriteError> {
        let rooms = &**self.rooms();
        let Some(head) = rooms.head(room_id)? else {
            return Ok(());
        };
        let Some(old) = predecessor(&RoomState::new(rooms, &head))? else {
            return Ok(());
        };
        let Some(old_head) = rooms.head(&old)? else {
            return Ok(());
        };
        let tombstone = RoomState::new(rooms, &old_head).event(TOMBSTONE, "")?;
        let named = tombstone.and_then(|tombstone| replacement_room(&tombstone.json));
        if named.as_deref() != Some(room_id) {
            return Ok(());
        }
        let data = UserData::new(self.users().clone(), self.submitter().clone());
        let settings = Settings {
            data: &data,
            user,
            old: &old,
            new: room_id,
        };
        settings.copy_tags(&**self.users()).await?;
        settings.copy_direct(&**self.users()).await?;
        Ok(())
    }
}

struct Settings<'a> {
    data: &'a UserData,
    user: &'a UserId,
    old: &'a RoomId,
    new: &'a RoomId,
}

impl Settings<'_> {
    /// Tags, unless the user has tagged the new room already.
    async fn copy_tags(&self, users: &dyn Users) -> Result<(), UserDataError> {
        if users
            .account_data(self.user, Some(self.new), TAGS)
            .is_some()
        {
            return Ok(());
        }
        match content(users, self.user, Some(self.old), TAGS) {
            Some(tags) => self.set(Some(self.new), TAGS, &tags).await,
            None => Ok(()),
        }
    }

    /// Lists the new room wherever the old one is listed.
    async fn copy_direct(&self, users: &dyn Users) -> Result<(), UserDataError> {
        let Some(mut direct) = content(users, self.user, None, DIRECT) else {
            return Ok(());
        };
        let mut changed = false;
        for rooms in direct.values_mut().filter_map(Value::as_array_mut) {
            let has = |room: &RoomId| rooms.iter().any(|listed| listed == room.as_str());
            if has(self.old) && !has(self.new) {
                rooms.push(json!(self.new));
                changed = true;
            }
        }
        match changed {
            true => self.set(None, DIRECT, &direct).await,
            false => Ok(()),
        }
    }

    async fn set(
        &self,
        room: Option<&RoomId>,
        event_type: &str,
        content: &Map<String, Value>,
    ) -> Result<(), UserDataError> {
        self.data
            .set_account_data(self.user, room, event_type, content)
            .await
    }
}

fn content(
    users: &dyn Users,
    user: &UserId,
    room: Option<&RoomId>,
    event_type: &str,
) -> Option<Map<String, Value>> {
    let datum = users.account_data(user, room, event_type)?;
    serde_json::from_str(&datum.content).ok()
}
