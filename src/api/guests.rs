//! Which requests a guest may make (client-server API, *Guest Access*). What is
//! not listed is closed to them, so that an endpoint that is new is, too.

use http::Method;

/// Prefixes of paths that name a version.
const VERSIONS: [&str; 3] = [
    "/_matrix/client/v3",
    "/_matrix/client/r0",
    "/_matrix/client/v1",
];

/// Method and path, as in the table of routes, behind the version.
///
/// Beyond the specification's list: joining by alias, which differs from the
/// join that it lists by a look-up only; what the server can do, which clients
/// ask for first; and logging out.
const ALLOWED: [(Method, &str); 33] = [
    // Retrieving events and media.
    (Method::GET, "/rooms/{roomId}/state"),
    (Method::GET, "/rooms/{roomId}/state/{eventType}"),
    (Method::GET, "/rooms/{roomId}/state/{eventType}/"),
    (Method::GET, "/rooms/{roomId}/state/{eventType}/{stateKey}"),
    (Method::GET, "/rooms/{roomId}/context/{eventId}"),
    (Method::GET, "/rooms/{roomId}/event/{eventId}"),
    (Method::GET, "/rooms/{roomId}/messages"),
    (Method::GET, "/rooms/{roomId}/members"),
    (Method::GET, "/rooms/{roomId}/initialSync"),
    (Method::GET, "/sync"),
    (Method::GET, "/events"),
    (Method::GET, "/media/download/{serverName}/{mediaId}"),
    (
        Method::GET,
        "/media/download/{serverName}/{mediaId}/{fileName}",
    ),
    (Method::GET, "/media/thumbnail/{serverName}/{mediaId}"),
    // Sending events.
    (Method::POST, "/rooms/{roomId}/join"),
    (Method::POST, "/join/{roomIdOrAlias}"),
    (Method::POST, "/rooms/{roomId}/leave"),
    (Method::PUT, "/rooms/{roomId}/send/{eventType}/{txnId}"),
    (Method::PUT, "/rooms/{roomId}/state/{eventType}"),
    (Method::PUT, "/rooms/{roomId}/state/{eventType}/"),
    (Method::PUT, "/rooms/{roomId}/state/{eventType}/{stateKey}"),
    (Method::PUT, "/sendToDevice/{eventType}/{txnId}"),
    // Their own account. Of the profile they change the display name alone.
    (Method::PUT, "/profile/{userId}/{keyName}"),
    (Method::DELETE, "/profile/{userId}/{keyName}"),
    (Method::GET, "/devices"),
    (Method::GET, "/devices/{deviceId}"),
    (Method::PUT, "/devices/{deviceId}"),
    (Method::GET, "/account/whoami"),
    (Method::GET, "/capabilities"),
    (Method::POST, "/logout"),
    // End-to-end encryption.
    (Method::POST, "/keys/upload"),
    (Method::POST, "/keys/query"),
    (Method::POST, "/keys/claim"),
];

/// Whether a guest may make this request; `path` is that of the table of routes.
pub fn may_call(method: &Method, path: &str) -> bool {
    let versions = VERSIONS.iter();
    let Some(path) = versions.filter_map(|it| path.strip_prefix(it)).next() else {
        return false;
    };
    let mut allowed = ALLOWED.iter();
    allowed.any(|(wanted, pattern)| wanted == method && *pattern == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_is_closed() {
        let state = "/_matrix/client/r0/rooms/{roomId}/state";
        assert!(may_call(&Method::GET, state));
        assert!(!may_call(&Method::POST, state));
        assert!(!may_call(&Method::GET, "/rooms/{roomId}/state"));
        assert!(!may_call(&Method::POST, "/_matrix/client/v3/createRoom"));
        assert!(!may_call(
            &Method::GET,
            "/_matrix/client/v3/voip/turnServer"
        ));
        assert!(!may_call(&Method::GET, "/_matrix/client/v3"));
    }
}
