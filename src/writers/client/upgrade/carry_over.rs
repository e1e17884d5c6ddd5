//! What users keep about a room, taken along to its successor when they join it:
//! tags, that it is a direct chat, the push rule about it (client-server API, *Room
//! Upgrades*: "the server should automatically transfer/replicate some of the
//! user's personalized settings").
//!
//! And what this server keeps about a room that was upgraded elsewhere: its own
//! aliases of it, and its place in the directory. Ours: the specification has only
//! the upgrading server move these, and then all others would lead to a dead room.

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
        let Some(tombstone) = tombstone else {
            return Ok(());
        };
        if replacement_room(&tombstone.json).as_deref() != Some(room_id) {
            return Ok(());
        }
        // One of ours moves them itself.
        if tombstone.sender.server_name() != self.server_name() {
            self.move_aliases(user, &old, room_id).await?;
            self.move_in_directory(user, &old, room_id).await?;
        }
        let data = self.user_data();
        let tags = content(&**self.users(), user, &old, TAGS);
        copy_tags(data, user, room_id, tags).await?;
        list_as_direct(data, user, &old, room_id).await?;
        copy_push_rule(data, user, &old, room_id).await?;
        Ok(())
    }
}

/// Tags, unless the user has tagged the new room already.
async fn copy_tags(
    data: &UserData,
    user: &UserId,
    new: &RoomId,
    tags: Option<Map<String, Value>>,
) -> Result<(), UserDataError> {
    let Some(tags) = tags else { return Ok(()) };
    data.change_account_data(user, Some(new), TAGS, |now| match now {
        Some(_) => None,
        None => Some(tags),
    })
    .await
}

/// Lists the new room wherever the old one is listed.
async fn list_as_direct(
    data: &UserData,
    user: &UserId,
    old: &RoomId,
    new: &RoomId,
) -> Result<(), UserDataError> {
    data.change_account_data(user, None, DIRECT, |direct| {
        let mut direct = direct?;
        let mut changed = false;
        for rooms in direct.values_mut().filter_map(Value::as_array_mut) {
            let has = |room: &RoomId| rooms.iter().any(|listed| listed == room.as_str());
            if has(old) && !has(new) {
                rooms.push(json!(new));
                changed = true;
            }
        }
        changed.then_some(direct)
    })
    .await
}

/// The rule about the old room, for the new one as well.
async fn copy_push_rule(
    data: &UserData,
    user: &UserId,
    old: &RoomId,
    new: &RoomId,
) -> Result<(), UserDataError> {
    data.change_push_rules(user, |rules| {
        rules.copy_room_rule(old, new);
        Ok(())
    })
    .await
}

fn content(
    users: &dyn Users,
    user: &UserId,
    room: &RoomId,
    event_type: &str,
) -> Option<Map<String, Value>> {
    let datum = users.account_data(user, Some(room), event_type)?;
    serde_json::from_str(&datum.content).ok()
}
