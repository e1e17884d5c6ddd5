//! Profile fields (client-server API, *Profiles*).

use log_format::record::Kind;
use log_format::record::input::InputProfileField;
use ruma::UserId;
use serde_json::Value;

use super::user_data::{UserData, UserDataError, user_record};
use crate::limits::PROFILE_BYTES_MAX;
use crate::writers::submit::SubmitError;

impl UserData {
    /// Sets a field; true if that changed anything.
    ///
    /// Errors: `ProfileTooLarge` if names and values would exceed
    /// [`PROFILE_BYTES_MAX`] as the JSON object that is served.
    pub async fn set_profile_field(
        &self,
        user: &UserId,
        field: &str,
        value: &Value,
    ) -> Result<bool, UserDataError> {
        let value = value.to_string();
        let _turn = self.turn(user).await;
        let profile = self.users.profile(user);
        if profile.get(field) == Some(&value) {
            return Ok(false);
        }
        // Each field costs its quotes, colon and comma beside name and value.
        let others = profile.iter().filter(|(name, _)| *name != field);
        let bytes = |name: &str, value: &str| name.len() + value.len() + 4;
        let others: usize = others.map(|(name, value)| bytes(name, value)).sum();
        if others + bytes(field, &value) + 2 >= PROFILE_BYTES_MAX {
            return Err(UserDataError::ProfileTooLarge {
                max_bytes: PROFILE_BYTES_MAX,
            });
        }
        self.write_profile_field(user, field, Some(&value)).await?;
        Ok(true)
    }

    /// Removes a field; true if it was there.
    pub async fn remove_profile_field(
        &self,
        user: &UserId,
        field: &str,
    ) -> Result<bool, UserDataError> {
        let _turn = self.turn(user).await;
        if !self.users.profile(user).contains_key(field) {
            return Ok(false);
        }
        self.write_profile_field(user, field, None).await?;
        Ok(true)
    }

    async fn write_profile_field(
        &self,
        user: &UserId,
        field: &str,
        value: Option<&str>,
    ) -> Result<(), SubmitError> {
        let body = InputProfileField {
            field: field.to_owned(),
        };
        let record = user_record(Kind::InputProfileField, user, &body, value, |it| it);
        self.submit(user, record).await
    }
}
