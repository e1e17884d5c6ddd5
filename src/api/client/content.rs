//! The content of an event as a client sends it: parsed once, into the form
//! that is hashed.

use axum::extract::{FromRequest, Request};
use serde::Deserialize;

use crate::api::errors::ApiError;
use crate::api::extract::read_body;
use crate::api::limits::BODY_BYTES_MAX;
use crate::matrix::canonical_json::{CanonicalJsonObject, JsonError, Numbers, parse_object_with};

/// A body that is an event's content: a JSON object without fractions.
pub struct EventContent(pub CanonicalJsonObject);

impl<S: Sync> FromRequest<S> for EventContent {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<EventContent, ApiError> {
        let bytes = read_body(request, BODY_BYTES_MAX).await?;
        parse_object_with(&bytes, Numbers::Converted)
            .map(EventContent)
            .map_err(json_error)
    }
}

/// [`EventContent`] that may be left out; then it counts as `{}`.
pub struct OptionalEventContent(pub CanonicalJsonObject);

impl<S: Sync> FromRequest<S> for OptionalEventContent {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<OptionalEventContent, ApiError> {
        let bytes = read_body(request, BODY_BYTES_MAX).await?;
        if bytes.is_empty() {
            return Ok(OptionalEventContent(CanonicalJsonObject::new()));
        }
        parse_object_with(&bytes, Numbers::Converted)
            .map(OptionalEventContent)
            .map_err(json_error)
    }
}

/// A JSON object inside a typed body that becomes an event's content.
#[derive(Clone, Debug, Default)]
pub struct ContentField(pub CanonicalJsonObject);

impl<'de> Deserialize<'de> for ContentField {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<ContentField, D::Error> {
        let raw = <&serde_json::value::RawValue>::deserialize(from)?;
        parse_object_with(raw.get().as_bytes(), Numbers::Converted)
            .map(ContentField)
            .map_err(serde::de::Error::custom)
    }
}

/// `M_NOT_JSON` for what no parser takes, `M_BAD_JSON` for what an event may not hold.
pub fn json_error(error: JsonError) -> ApiError {
    match error.kind.is_syntax() {
        true => ApiError::NotJson,
        false => ApiError::BadJson(format!("Content: {}", error.kind).into()),
    }
}
