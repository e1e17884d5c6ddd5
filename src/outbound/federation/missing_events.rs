//! `POST /_matrix/federation/v1/get_missing_events/{roomId}` (server-server API,
//! *Retrieving missing events*).

use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use ruma::{EventId, RoomId, ServerName};
use serde::Deserialize;

use super::client::{Bounds, FederationClient, Request};
use super::queries::segment;
use super::raw_events::{self, Events};
use crate::limits::{MISSING_EVENTS_MAX, PDU_BYTES_MAX};
use crate::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use crate::outbound::answer::RequestError;

/// Events that are taken from one answer; more than were asked for come from
/// servers that count otherwise.
const ANSWER_EVENTS_MAX: usize = 2 * MISSING_EVENTS_MAX;
/// A sender waits for the outcome, and there are other servers to ask.
const BOUNDS: Bounds = Bounds {
    answer_bytes_max: (ANSWER_EVENTS_MAX + 1) * PDU_BYTES_MAX,
    timeout: Duration::from_secs(20),
};

/// Events between what is known and some others.
#[derive(Clone, Copy, Debug)]
pub struct Between<'a> {
    /// What is known already: the walk back ends there.
    pub earliest: &'a [&'a EventId],
    /// What the walk begins at; not among the answers.
    pub latest: &'a [&'a EventId],
}

/// Asks a server for up to [`MISSING_EVENTS_MAX`] events, unchecked, oldest first
/// if the server does as it should.
pub async fn missing_events(
    client: &FederationClient,
    server: &ServerName,
    room: &RoomId,
    between: Between<'_>,
) -> Result<Vec<Bytes>, RequestError> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        events: Events<'a, ANSWER_EVENTS_MAX>,
    }
    let uri = format!(
        "/_matrix/federation/v1/get_missing_events/{}",
        segment(room.as_str())
    );
    let body = body(between);
    let request = Request {
        method: Method::POST,
        uri: &uri,
        body: Some(&body),
        bounds: BOUNDS,
    };
    let answer = client.send(server, &request).await?;
    let read: Answer<'_> = raw_events::read(&answer)?;
    Ok(read.events.within(&answer))
}

fn body(between: Between<'_>) -> CanonicalJsonObject {
    let ids = |ids: &[&EventId]| {
        let ids = ids.iter();
        let ids = ids.map(|id| CanonicalJsonValue::String(id.to_string()));
        CanonicalJsonValue::Array(ids.collect())
    };
    let limit = ruma::Int::try_from(MISSING_EVENTS_MAX).unwrap_or(ruma::Int::MAX);
    CanonicalJsonObject::from([
        ("earliest_events".to_owned(), ids(between.earliest)),
        ("latest_events".to_owned(), ids(between.latest)),
        ("limit".to_owned(), CanonicalJsonValue::Integer(limit)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::canonical_json::to_bytes;

    #[test]
    fn the_request_names_both_ends() {
        let (known, new) = (ruma::event_id!("$a"), ruma::event_id!("$b"));
        let body = body(Between {
            earliest: &[known],
            latest: &[new, known],
        });
        let json = String::from_utf8(to_bytes(&body)).expect("UTF-8");
        assert_eq!(
            json,
            r#"{"earliest_events":["$a"],"latest_events":["$b","$a"],"limit":20}"#
        );
    }
}
