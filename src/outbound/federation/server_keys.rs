//! `GET /_matrix/key/v2/server` and `POST /_matrix/key/v2/query`: the keys of a
//! server, from itself or from a notary (server-server API, *Retrieving server keys*).

use reqwest::Method;
use ruma::ServerName;

use super::client::{Bounds, FederationClient, Request};
use crate::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue, parse_object};
use crate::outbound::answer::RequestError;

/// Answers that a notary may give about one server.
const NOTARY_ANSWERS_MAX: usize = 10;

/// What a server says of itself, unchecked.
pub async fn own(
    client: &FederationClient,
    server: &ServerName,
) -> Result<CanonicalJsonObject, RequestError> {
    let request = Request::get("/_matrix/key/v2/server", Bounds::SMALL);
    let answer = client.send_unsigned(server, &request).await?;
    parse_object(&answer).map_err(|_| RequestError::NotJson)
}

/// What a notary says of a server, unchecked. It may give other keys than the
/// one that is asked for, and older ones.
pub async fn from_notary(
    client: &FederationClient,
    notary: &ServerName,
    server: &ServerName,
    key_id: &str,
    minimum_valid_until_ts: u64,
) -> Result<Vec<CanonicalJsonObject>, RequestError> {
    let object = |name: &str, value| {
        CanonicalJsonValue::Object(CanonicalJsonObject::from([(name.to_owned(), value)]))
    };
    let until = ruma::Int::try_from(minimum_valid_until_ts).unwrap_or(ruma::Int::MAX);
    let criteria = object("minimum_valid_until_ts", CanonicalJsonValue::Integer(until));
    let asked = object(server.as_str(), object(key_id, criteria));
    let body = CanonicalJsonObject::from([("server_keys".to_owned(), asked)]);
    let request = Request {
        method: Method::POST,
        uri: "/_matrix/key/v2/query",
        body: Some(&body),
        bounds: Bounds::SMALL,
    };
    let answer = client.send(notary, &request).await?;
    let mut answer = parse_object(&answer).map_err(|_| RequestError::NotJson)?;
    let Some(CanonicalJsonValue::Array(found)) = answer.remove("server_keys") else {
        return Err(RequestError::NotJson);
    };
    let objects = found.into_iter().filter_map(|found| match found {
        CanonicalJsonValue::Object(keys) => Some(keys),
        _ => None,
    });
    Ok(objects.take(NOTARY_ANSWERS_MAX).collect())
}
