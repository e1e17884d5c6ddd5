//! `GET /_matrix/federation/v1/backfill/{roomId}`: events and what precedes them
//! (server-server API, *Backfilling and retrieving missing events*).

use std::time::Duration;

use bytes::Bytes;
use ruma::{EventId, RoomId, ServerName};
use serde::Deserialize;

use super::client::{Bounds, FederationClient, Request};
use super::queries::{segment, uri};
use super::raw_events::{self, Events};
use crate::limits::{BACKFILL_EVENTS_MAX, PDU_BYTES_MAX};
use crate::outbound::answer::RequestError;

/// Events that are taken from one answer; more than were asked for come from
/// servers that count otherwise.
const ANSWER_EVENTS_MAX: usize = 2 * BACKFILL_EVENTS_MAX;
/// A client waits for it.
const BOUNDS: Bounds = Bounds {
    answer_bytes_max: (BACKFILL_EVENTS_MAX + 1) * PDU_BYTES_MAX,
    timeout: Duration::from_secs(20),
};

/// An event and up to [`BACKFILL_EVENTS_MAX`] before it, unread and unchecked, in
/// any order.
pub async fn backfill(
    client: &FederationClient,
    server: &ServerName,
    room: &RoomId,
    from: &EventId,
) -> Result<Vec<Bytes>, RequestError> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        pdus: Events<'a, ANSWER_EVENTS_MAX>,
    }
    let path = format!("/_matrix/federation/v1/backfill/{}", segment(room.as_str()));
    let limit = BACKFILL_EVENTS_MAX.to_string();
    let uri = uri(&path, &[("v", from.as_str()), ("limit", &limit)]);
    let request = Request::get(&uri, BOUNDS);
    let answer = client.send(server, &request).await?;
    let read: Answer<'_> = raw_events::read(&answer)?;
    Ok(read.pdus.within(&answer))
}
