//! `GET /_matrix/federation/v1/query/{profile,directory}` (server-server API,
//! *Querying for information*).

use reqwest::Url;
use ruma::{OwnedRoomId, OwnedServerName, RoomAliasId, UserId};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::client::{Bounds, FederationClient, Request};
use crate::outbound::answer::RequestError;

/// Where an alias leads.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Directory {
    pub room_id: OwnedRoomId,
    pub servers: Vec<OwnedServerName>,
}

/// The profile of a user, whole or one field of it, from the user's server.
pub async fn profile(
    client: &FederationClient,
    user: &UserId,
    field: Option<&str>,
) -> Result<Map<String, Value>, RequestError> {
    let mut parameters = vec![("user_id", user.as_str())];
    parameters.extend(field.map(|field| ("field", field)));
    let uri = uri("/_matrix/federation/v1/query/profile", &parameters);
    let request = Request::get(&uri, Bounds::SMALL);
    client.ask(user.server_name(), &request).await
}

/// Where an alias leads, from the alias's server.
pub async fn directory(
    client: &FederationClient,
    alias: &RoomAliasId,
) -> Result<Directory, RequestError> {
    let parameters = [("room_alias", alias.as_str())];
    let uri = uri("/_matrix/federation/v1/query/directory", &parameters);
    let request = Request::get(&uri, Bounds::SMALL);
    client.ask(alias.server_name(), &request).await
}

/// A path with a query, percent-encoded.
pub(super) fn uri(path: &str, parameters: &[(&str, &str)]) -> String {
    // The host is of no matter: only what follows it is used.
    let url = Url::parse_with_params("https://host/", parameters);
    let query = url.as_ref().ok().and_then(Url::query);
    format!("{path}?{}", query.unwrap_or_default())
}

/// One segment of a path, percent-encoded.
pub(super) fn segment(text: &str) -> String {
    let mut url = Url::parse("https://host/").ok();
    if let Some(Ok(mut segments)) = url.as_mut().map(Url::path_segments_mut) {
        segments.clear().push(text);
    }
    url.map_or_else(String::new, |url| {
        url.path().trim_start_matches('/').to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_encoded() {
        for (text, encoded) in [
            ("!a:hs", "!a:hs"),
            ("$a/b?c#d%e ä", "$a%2Fb%3Fc%23d%25e%20%C3%A4"),
            ("/", "%2F"),
        ] {
            assert_eq!(segment(text), encoded);
        }
    }

    #[test]
    fn parameters_are_encoded() {
        let parameters = [("user_id", "@a+b/c:hs"), ("field", "a b&c=d#e?ä")];
        assert_eq!(
            uri("/p", &parameters),
            "/p?user_id=%40a%2Bb%2Fc%3Ahs&field=a+b%26c%3Dd%23e%3F%C3%A4"
        );
    }
}
