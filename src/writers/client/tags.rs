//! Tags of rooms: one piece of room account data, changed tag by tag
//! (client-server API, *Room Tagging*).

use ruma::{RoomId, UserId};
use serde_json::{Map, Value};

use super::user_data::{UserData, UserDataError};

/// The type of account data that holds a room's tags.
const TAG_TYPE: &str = "m.tag";
const TAGS: &str = "tags";

impl UserData {
    /// The tags that a user gave a room. What a client wrote there that is no
    /// set of tags counts as none.
    pub fn tags(&self, user: &UserId, room: &RoomId) -> Map<String, Value> {
        match self.tag_content(user, room).remove(TAGS) {
            Some(Value::Object(tags)) => tags,
            _ => Map::new(),
        }
    }

    /// Gives a room a tag, or the tag another content.
    pub async fn set_tag(
        &self,
        user: &UserId,
        room: &RoomId,
        tag: String,
        content: Map<String, Value>,
    ) -> Result<(), UserDataError> {
        let _turn = self.turn(user).await;
        let mut tags = self.tags(user, room);
        tags.insert(tag, Value::Object(content));
        self.put_tags(user, room, tags).await
    }

    /// Takes a tag away; that it was not there is no error.
    pub async fn remove_tag(
        &self,
        user: &UserId,
        room: &RoomId,
        tag: &str,
    ) -> Result<(), UserDataError> {
        let _turn = self.turn(user).await;
        let mut tags = self.tags(user, room);
        match tags.remove(tag) {
            Some(_) => self.put_tags(user, room, tags).await,
            None => Ok(()),
        }
    }

    async fn put_tags(
        &self,
        user: &UserId,
        room: &RoomId,
        tags: Map<String, Value>,
    ) -> Result<(), UserDataError> {
        // Keys beside the tags are the client's, and stay.
        let mut content = self.tag_content(user, room);
        content.insert(TAGS.to_owned(), Value::Object(tags));
        self.put_account_data(user, Some(room), TAG_TYPE, &content)
            .await
    }

    fn tag_content(&self, user: &UserId, room: &RoomId) -> Map<String, Value> {
        let datum = self.users.account_data(user, Some(room), TAG_TYPE);
        let content = datum.and_then(|datum| serde_json::from_str(&datum.content).ok());
        content.unwrap_or_default()
    }
}
