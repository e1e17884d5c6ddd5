//! Puts a transaction together: the events as they may be served, what is told
//! beside them, and an id that is a function of both.

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

/// An event as it goes out.
pub struct Pdu<'a> {
    pub queued: &'a Queued,
    pub json: CanonicalJsonObject,
}

/// Looks up what waits. An event that was purged since, or that is no part of its
/// room any more, is left out; one that was redacted goes out in its redacted form.
pub fn look_up<'a>(rooms: &dyn Rooms, queued: &'a [Queued]) -> Result<Vec<Pdu<'a>>, QueryError> {
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
                found.push(Pdu { queued, json });
            }
            Err(error) => {
                tracing::error!(event_id = %queued.event_id, %error, "event cannot be sent");
            }
        }
    }
    Ok(found)
}

/// A transaction of these events and EDUs.
///
/// With events in it, id and time are functions of the events alone: what a crash
/// or a failure repeats has the same id, and differs at most in its EDUs, which
/// are not repeated with it. A server that has had it drops it, whole.
pub fn transaction(
    origin: &ServerName,
    destination: &ServerName,
    pdus: Vec<Pdu<'_>>,
    edus: &Edus,
    now_ms: u64,
) -> Transaction {
    let mut hasher = blake3::Hasher::new();
    let mut said = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    said(destination.as_str());
    let mut ts = now_ms;
    let mut events = Vec::with_capacity(pdus.len());
    for pdu in pdus {
        said(pdu.queued.room_id.as_str());
        said(pdu.queued.event_id.as_str());
        ts = pdu.queued.time_ms;
        events.push(CanonicalJsonValue::Object(pdu.json));
    }
    let edus: Vec<CanonicalJsonValue> = edus.to_json(now_ms).iter().filter_map(canonical).collect();
    if events.is_empty() {
        let mut bytes = now_ms.to_le_bytes().to_vec();
        edus.iter().for_each(|edu| write_value(&mut bytes, edu));
        hasher.update(&bytes);
    }
    let mut id = [0; ID_BYTES];
    hasher.finalize_xof().fill(&mut id);
    let ts = i64::try_from(ts).unwrap_or(INTEGER_MAX).min(INTEGER_MAX);
    let ts = ruma::Int::new(ts).unwrap_or_default();
    let mut body = CanonicalJsonObject::from([
        (
            "origin".to_owned(),
            CanonicalJsonValue::String(origin.to_string()),
        ),
        (
            "origin_server_ts".to_owned(),
            CanonicalJsonValue::Integer(ts),
        ),
        ("pdus".to_owned(), CanonicalJsonValue::Array(events)),
    ]);
    if !edus.is_empty() {
        body.insert("edus".to_owned(), CanonicalJsonValue::Array(edus));
    }
    Transaction {
        id: URL_SAFE_NO_PAD.encode(id),
        body,
    }
}

/// An EDU of ours: its numbers are times, which canonical JSON has room for.
fn canonical(edu: &Value) -> Option<CanonicalJsonValue> {
    parse_value(edu.to_string().as_bytes()).ok()
}
