//! `PUT /_matrix/federation/v1/send/{txnId}`: events and EDUs of another server
//! (server-server API, *Transactions*).

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};

use super::auth::SignedJson;
use crate::api::ApiState;
use crate::api::errors::ApiError;
use crate::api::extract::Path;
use crate::limits::SEND_BODY_BYTES_MAX;

/// `PUT /_matrix/federation/v1/send/{txnId}`
pub async fn send(
    State(api): State<ApiState>,
    Path(transaction_id): Path<String>,
    signed: SignedJson<SEND_BODY_BYTES_MAX>,
) -> Result<Json<Value>, ApiError> {
    let receiver = &api.receiver;
    let received = receiver
        .receive(&signed.origin, &transaction_id, (signed.body, signed.bytes))
        .await?;
    let results = received.iter().map(|(event, error)| {
        let result = match error {
            None => json!({}),
            Some(error) => json!({ "error": error }),
        };
        (event.to_string(), result)
    });
    Ok(Json(json!({ "pdus": results.collect::<Map<_, _>>() })))
}
