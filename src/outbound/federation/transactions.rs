//! `PUT /_matrix/federation/v1/send/{txnId}`: events and ephemeral news for
//! another server (server-server API, *Transactions*).

use std::time::Duration;

use reqwest::Method;
use ruma::ServerName;
use serde_json::{Map, Value};

use super::client::{Bounds, FederationClient, Request};
use crate::matrix::canonical_json::CanonicalJsonObject;
use crate::outbound::answer::RequestError;

/// An answer names 50 events and what was wrong with each.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// The other server may have to fetch what our events build on before it answers.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What is sent at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Of characters that need no encoding in a path.
    pub id: String,
    pub body: CanonicalJsonObject,
}

/// An event that the other server took in the transaction and did not want.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub event_id: String,
    pub why: String,
}

/// Sends a transaction. An answer means that the other server has it; the events
/// that it refuses are none that it would take another time.
pub async fn send(
    client: &FederationClient,
    destination: &ServerName,
    transaction: &Transaction,
) -> Result<Vec<Refused>, RequestError> {
    let uri = format!("/_matrix/federation/v1/send/{}", transaction.id);
    let request = Request {
        method: Method::PUT,
        uri: &uri,
        body: Some(&transaction.body),
        bounds: Bounds {
            answer_bytes_max: ANSWER_BYTES_MAX,
            timeout: TIMEOUT,
        },
    };
    let answer = client.deliver(destination, &request).await?;
    // It said 200, and what it says beside that is for the log only.
    let answer: Map<String, Value> = serde_json::from_slice(&answer).unwrap_or_default();
    Ok(refused(&answer))
}

fn refused(answer: &Map<String, Value>) -> Vec<Refused> {
    let results = answer.get("pdus").and_then(Value::as_object);
    let results = results.into_iter().flatten();
    let refused = results.filter_map(|(event_id, result)| {
        let why = result.get("error")?;
        Some(Refused {
            event_id: event_id.clone(),
            why: why.as_str().unwrap_or_default().to_owned(),
        })
    });
    refused.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whatever_they_are() {
        let read = |answer: &str| refused(&serde_json::from_str(answer).unwrap_or_default());
        for nothing in [
            "",
            "[]",
            "{}",
            r#"{"pdus":[]}"#,
            r#"{"pdus":{"$a":{},"$b":1}}"#,
        ] {
            assert_eq!(read(nothing), []);
        }
        let one = Refused {
            event_id: "$b".to_owned(),
            why: "no".to_owned(),
        };
        assert_eq!(read(r#"{"pdus":{"$a":{},"$b":{"error":"no"}}}"#), [one]);
    }
}
