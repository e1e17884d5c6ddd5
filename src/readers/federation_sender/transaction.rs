//! Puts a transaction together: events as they may be served, or what is told
//! beside events, and an id that is a function of it.
//!
//! Never both. Events are durable, and after a crash the transaction that was
//! under way is put together again, the same to the last byte. What is true for a
//! while is in memory alone: it goes with the process, and a transaction of it is
//! repeated as it was until it is answered, or never.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ruma::ServerName;
use serde_json::Value;

use super::edus::Edus;
use super::rows::Queued;
use crate::limits::INTEGER_MAX;
use crate::matrix::canonical_json::{
    CanonicalJsonObject, CanonicalJsonValue, parse_stored_object, parse_value, write_value,
};
use crate::outbound::federation::transactions::Transaction;
use crate::query::rooms::{QueryError, Rooms};
use log_format::record::output::Decision;

/// Bytes of the digest that a transaction's id is made from.
const ID_BYTES: usize = 18;

/// Looks up what waits. An event that was purged since, or that is no part of its
/// room any more, is left out; one that was redacted goes out in its redacted form.
pub fn look_up(
    rooms: &dyn Rooms,
    queued: &[Queued],
) -> Result<Vec<CanonicalJsonObject>, QueryError> {
    let mut found = Vec::with_capacity(queued.len());
    for queued in queued {
        let event = rooms.event(&queued.room_id, &queued.event_id)?;
        let Some(event) = event.filter(|event| event.decision == Decision::Accepted) else {
            continue;
        };
        match parse_stored_object(&event.json) {
            Ok(mut json) => {
                // What others put there is not signed, and not ours to tell.
                json.remove("unsigned");
                found.push(json);
            }
            Err(error) => {
                tracing::error!(event_id = %queued.event_id, %error, "event cannot be sent");
            }
        }
    }
    Ok(found)
}

/// The two ends of a transaction.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a> {
    pub origin: &'a ServerName,
    pub destination: &'a ServerName,
}

/// A transaction of events: `pdus` is what [`look_up`] found of `queued`.
///
/// Id and time are functions of what was queued, and the events are stored bytes:
/// what a failure or a crash has repeated is the same to the last byte, unless one
/// of the events was redacted or purged since. A server that has had it drops it.
pub fn of_events(ends: Ends<'_>, queued: &[Queued], pdus: Vec<CanonicalJsonObject>) -> Transaction {
    let mut id = Id::new(ends);
    for queued in queued {
        id.add(queued.room_id.as_bytes());
        id.add(queued.event_id.as_bytes());
    }
    let time_ms = queued.last().map_or(0, |last| last.time_ms);
    let pdus = pdus.into_iter().map(CanonicalJsonValue::Object).collect();
    Transaction {
        id: id.finish(),
        body: body(ends, time_ms, pdus),
    }
}

/// A transaction of what is true for a while. Id and bytes are functions of that
/// and of the time, at which it was put together first.
pub fn of_edus(ends: Ends<'_>, edus: &Edus, time_ms: u64) -> Transaction {
    let mut id = Id::new(ends);
    id.add(&time_ms.to_le_bytes());
    let edus: Vec<CanonicalJsonValue> =
        edus.to_json(time_ms).iter().filter_map(canonical).collect();
    for edu in &edus {
        let mut bytes = Vec::new();
        write_value(&mut bytes, edu);
        id.add(&bytes);
    }
    let mut body = body(ends, time_ms, vec![]);
    body.insert("edus".to_owned(), CanonicalJsonValue::Array(edus));
    Transaction {
        id: id.finish(),
        body,
    }
}

fn body(ends: Ends<'_>, time_ms: u64, pdus: Vec<CanonicalJsonValue>) -> CanonicalJsonObject {
    let time = i64::try_from(time_ms).unwrap_or(INTEGER_MAX);
    let time = ruma::Int::new(time.min(INTEGER_MAX)).unwrap_or_default();
    let origin = CanonicalJsonValue::String(ends.origin.to_string());
    let time = CanonicalJsonValue::Integer(time);
    CanonicalJsonObject::from([
        ("origin".to_owned(), origin),
        ("origin_server_ts".to_owned(), time),
        ("pdus".to_owned(), CanonicalJsonValue::Array(pdus)),
    ])
}

/// The id of a transaction in the making: a digest of whom it is for and what is
/// in it.
struct Id(blake3::Hasher);

impl Id {
    fn new(ends: Ends<'_>) -> Id {
        let mut id = Id(blake3::Hasher::new());
        id.add(ends.destination.as_bytes());
        id
    }

    fn add(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn finish(&self) -> String {
        let mut id = [0; ID_BYTES];
        self.0.finalize_xof().fill(&mut id);
        URL_SAFE_NO_PAD.encode(id)
    }
}

/// An EDU of ours: its numbers are times, which canonical JSON has room for.
fn canonical(edu: &Value) -> Option<CanonicalJsonValue> {
    parse_value(edu.to_string().as_bytes()).ok()
}
