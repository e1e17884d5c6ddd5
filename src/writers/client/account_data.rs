//! Account data, global and by room (client-server API, *Client Config*).

use log_format::record::input::InputAccountData;
use log_format::record::{Kind, NewEnvelope};
use ruma::{RoomId, UserId};
use serde_json::{Map, Value};

use super::user_data::{UserData, UserDataError, user_record};
use crate::limits::{ACCOUNT_DATA_BYTES_MAX, ACCOUNT_DATA_KEYS_MAX};

impl UserData {
    /// Sets the content of a type; what is there already is not written again.
    ///
    /// Errors: `TooLarge`; `TooMany`, counted by room and global data apart.
    pub async fn set_account_data(
        &self,
        user: &UserId,
        room: Option<&RoomId>,
        event_type: &str,
        content: &Map<String, Value>,
    ) -> Result<(), UserDataError> {
        let _turn = self.turn(user).await;
        self.put_account_data(user, room, event_type, content).await
    }

    /// Changes the content of a type: `change` is told what is there, and says
    /// what is to be, or none where nothing is to change. No other change of the
    /// user's data comes between the two. Errors as [`UserData::set_account_data`].
    pub(super) async fn change_account_data(
        &self,
        user: &UserId,
        room: Option<&RoomId>,
        event_type: &str,
        change: impl FnOnce(Option<Map<String, Value>>) -> Option<Map<String, Value>> + Send,
    ) -> Result<(), UserDataError> {
        let _turn = self.turn(user).await;
        let now = self.users.account_data(user, room, event_type);
        // What cannot be read is nothing that could be changed.
        let now = now.map(|datum| serde_json::from_str(&datum.content).unwrap_or_default());
        match change(now) {
            Some(content) => {
                self.put_account_data(user, room, event_type, &content)
                    .await
            }
            None => Ok(()),
        }
    }

    /// [`UserData::set_account_data`], in the user's turn.
    pub(super) async fn put_account_data(
        &self,
        user: &UserId,
        room: Option<&RoomId>,
        event_type: &str,
        content: &Map<String, Value>,
    ) -> Result<(), UserDataError> {
        // A map of strings and values has no way to fail.
        let content = serde_json::to_string(content).unwrap_or_else(|_| "{}".to_owned());
        if content.len() > ACCOUNT_DATA_BYTES_MAX {
            return Err(UserDataError::TooLarge {
                max_bytes: ACCOUNT_DATA_BYTES_MAX,
            });
        }
        match self.users.account_data(user, room, event_type) {
            Some(datum) if *datum.content == *content => return Ok(()),
            Some(_) => {}
            None => {
                let types = self.users.all_account_data(user, room).len();
                if types >= ACCOUNT_DATA_KEYS_MAX {
                    return Err(UserDataError::TooMany {
                        what: "types of account data",
                        max: ACCOUNT_DATA_KEYS_MAX,
                    });
                }
            }
        }
        self.append_account_data(user, room, event_type, &content)
            .await
    }

    /// Appends account data that was checked, its content as JSON.
    pub(super) async fn append_account_data(
        &self,
        user: &UserId,
        room: Option<&RoomId>,
        event_type: &str,
        content: &str,
    ) -> Result<(), UserDataError> {
        let record = user_record(
            Kind::InputAccountData,
            user,
            &InputAccountData {},
            Some(content),
            |envelope| NewEnvelope {
                event_type: Some(event_type),
                room_id: room.map(RoomId::as_str),
                ..envelope
            },
        );
        self.submit(user, record).await.map_err(UserDataError::from)
    }
}
