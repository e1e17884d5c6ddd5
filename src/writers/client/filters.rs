//! Stored sync filters (client-server API, *Filtering*).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use log_format::record::Kind;
use log_format::record::input::InputFilter;
use ruma::UserId;
use serde_json::{Map, Value};

use super::user_data::{UserData, UserDataError, user_record};
use crate::limits::FILTER_BYTES_MAX;

/// Bytes of the definition's hash that make its id: 96 bits, too many for two
/// filters of one user to meet.
const FILTER_ID_BYTES: usize = 12;

impl UserData {
    /// Stores a filter and answers its id, a hash of the definition: the same
    /// filter gets the same id and is written once.
    ///
    /// Errors: `TooLarge` beyond [`FILTER_BYTES_MAX`].
    pub async fn add_filter(
        &self,
        user: &UserId,
        definition: &Map<String, Value>,
    ) -> Result<String, UserDataError> {
        // A map of strings and values has no way to fail; its keys are sorted.
        let definition = serde_json::to_string(definition).unwrap_or_else(|_| "{}".to_owned());
        if definition.len() > FILTER_BYTES_MAX {
            return Err(UserDataError::TooLarge {
                max_bytes: FILTER_BYTES_MAX,
            });
        }
        let hash = blake3::hash(definition.as_bytes());
        // Ids may not begin with "{", which marks a filter given in place; this alphabet has none.
        let filter_id = URL_SAFE_NO_PAD.encode(&hash.as_bytes()[..FILTER_ID_BYTES]);
        if self.users.filter(user, &filter_id).is_none() {
            let body = InputFilter {
                filter_id: filter_id.clone(),
            };
            let record = user_record(Kind::InputFilter, user, &body, Some(&definition), |it| it);
            self.submit(user, record).await?;
        }
        Ok(filter_id)
    }
}
