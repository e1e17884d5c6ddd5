//! The body of `PUT /send`, bounded in number and told apart by room.

use ruma::{OwnedRoomId, ServerName};

use crate::limits::{TRANSACTION_EDUS_MAX, TRANSACTION_PDUS_MAX};
use crate::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};

/// Why a body is no transaction. Nothing of it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    #[error("origin is not the server that signed the request")]
    OtherOrigin,
    #[error("{0} is not an array")]
    NotAnArray(&'static str),
    #[error("there are more than {max} {what}")]
    TooMany { what: &'static str, max: usize },
}

/// What a server sends at a time.
#[derive(Debug, Default, PartialEq)]
pub struct Transaction {
    /// Events by room, the rooms in the order of their first event, and the
    /// events of each in theirs.
    pub rooms: Vec<(OwnedRoomId, Vec<CanonicalJsonObject>)>,
    pub edus: Vec<CanonicalJsonValue>,
}

impl Transaction {
    /// Reads the body of a request that `origin` signed.
    ///
    /// What names no room cannot be told what it is (the room's version says how
    /// an event is named), and is left out as if it had not been sent.
    pub fn read(
        origin: &ServerName,
        mut body: CanonicalJsonObject,
    ) -> Result<Transaction, TransactionError> {
        let named = body.get("origin");
        if named.is_some_and(|named| named.as_str() != Some(origin.as_str())) {
            return Err(TransactionError::OtherOrigin);
        }
        let pdus = list(&mut body, "pdus", TRANSACTION_PDUS_MAX)?;
        let edus = list(&mut body, "edus", TRANSACTION_EDUS_MAX)?;
        let mut rooms: Vec<(OwnedRoomId, Vec<CanonicalJsonObject>)> = Vec::new();
        for pdu in pdus {
            let CanonicalJsonValue::Object(pdu) = pdu else {
                continue;
            };
            let room = pdu.get("room_id").and_then(|room| room.as_str());
            let Some(Ok(room)) = room.map(OwnedRoomId::try_from) else {
                continue;
            };
            match rooms.iter_mut().find(|(known, _)| *known == room) {
                Some((_, events)) => events.push(pdu),
                None => rooms.push((room, vec![pdu])),
            }
        }
        Ok(Transaction { rooms, edus })
    }
}

fn list(
    body: &mut CanonicalJsonObject,
    what: &'static str,
    max: usize,
) -> Result<Vec<CanonicalJsonValue>, TransactionError> {
    match body.remove(what) {
        None => Ok(Vec::new()),
        Some(CanonicalJsonValue::Array(list)) if list.len() <= max => Ok(list),
        Some(CanonicalJsonValue::Array(_)) => Err(TransactionError::TooMany { what, max }),
        Some(_) => Err(TransactionError::NotAnArray(what)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::matrix::canonical_json::parse_object;

    fn read(body: &str) -> Result<Transaction, TransactionError> {
        let body = parse_object(body.as_bytes()).expect("parses");
        Transaction::read(ruma::server_name!("a.test"), body)
    }

    #[test]
    fn events_are_told_apart_by_room_in_their_order() {
        let body = r#"{"origin":"a.test","pdus":[
            {"room_id":"!b:x","n":1},{"room_id":"!a:x","n":2},{"room_id":"!b:x","n":3},
            {"n":4},5,{"room_id":6},{"room_id":"no room"}],"edus":[7,{}]}"#;
        let read = read(body).expect("reads");
        let rooms: Vec<(&str, Vec<String>)> = read
            .rooms
            .iter()
            .map(|(room, events)| {
                let numbers = events.iter().map(number);
                (room.as_str(), numbers.collect())
            })
            .collect();
        let one = |text: &str| text.to_owned();
        assert_eq!(
            rooms,
            [("!b:x", vec![one("1"), one("3")]), ("!a:x", vec![one("2")])]
        );
        assert_eq!(read.edus.len(), 2);
        assert_eq!(self::read("{}"), Ok(Transaction::default()));
    }

    #[test]
    fn cve_2020_26257_the_origin_of_the_body_is_that_of_the_signature() {
        for body in [r#"{"origin":"b.test"}"#, r#"{"origin":7}"#] {
            assert_eq!(read(body), Err(TransactionError::OtherOrigin));
        }
    }

    #[test]
    fn a_transaction_is_bounded_in_number() {
        for (what, max) in [("pdus", 50), ("edus", 100)] {
            let list = |count: usize| format!(r#"{{"{what}":[{}]}}"#, vec!["{}"; count].join(","));
            assert!(read(&list(max)).is_ok());
            let refused = Err(TransactionError::TooMany { what, max });
            assert_eq!(read(&list(max + 1)), refused);
            let other = format!(r#"{{"{what}":{{}}}}"#);
            assert_eq!(read(&other), Err(TransactionError::NotAnArray(what)));
        }
    }

    /// What may stand where an event should, with the number of its place in it.
    fn pdu() -> impl Strategy<Value = Option<&'static str>> {
        prop_oneof![
            Just(Some("!a:x")),
            Just(Some("!b:x")),
            Just(Some("!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM")),
            Just(Some("no room")),
            Just(None),
        ]
    }

    proptest! {
        /// Every event of a room is there once, in its order, and nothing else is.
        #[test]
        fn whatever_is_sent_is_told_apart(pdus in vec(pdu(), 0..60), edus in 0..110_usize) {
            let events = pdus.iter().enumerate().map(|(n, room)| match room {
                Some(room) => format!(r#"{{"n":{n},"room_id":"{room}"}}"#),
                None => n.to_string(),
            });
            let events: Vec<String> = events.collect();
            let body = format!(
                r#"{{"pdus":[{}],"edus":[{}]}}"#,
                events.join(","),
                vec!["null"; edus].join(",")
            );
            let fits = pdus.len() <= TRANSACTION_PDUS_MAX && edus <= TRANSACTION_EDUS_MAX;
            let read = read(&body);
            prop_assert_eq!(read.is_ok(), fits);
            let Ok(read) = read else { return Ok(()) };
            prop_assert_eq!(read.edus.len(), edus);
            let mut seen = Vec::new();
            for (room, events) in &read.rooms {
                prop_assert!(!events.is_empty() && !seen.contains(room));
                seen.push(room.clone());
                let of_room = pdus.iter().enumerate();
                let of_room = of_room.filter(|(_, other)| **other == Some(room.as_str()));
                let expected: Vec<String> = of_room.map(|(n, _)| n.to_string()).collect();
                let found: Vec<String> = events.iter().map(number).collect();
                prop_assert_eq!(found, expected);
            }
            let named = pdus.iter().flatten().filter(|room| room.starts_with('!'));
            let named: BTreeSet<&str> = named.copied().collect();
            prop_assert_eq!(seen.len(), named.len());
        }

        /// No JSON makes it panic, or hold more than is allowed.
        #[test]
        fn nothing_that_is_json_breaks_it(
            keys in vec(prop_oneof!["pdus", "edus", "origin", "[a-z]{0,8}"], 0..6),
            values in vec("null|true|-?[1-9]|\"[a-z!:]{0,8}\"|\\[\\]|\\{\\}|\\[\\{\\}\\]", 6),
        ) {
            let mut body = std::collections::BTreeMap::new();
            body.extend(keys.into_iter().zip(values));
            let members: Vec<String> = body
                .iter()
                .map(|(key, value)| format!("\"{key}\":{value}"))
                .collect();
            if let Ok(read) = read(&format!("{{{}}}", members.join(","))) {
                prop_assert!(read.rooms.len() <= TRANSACTION_PDUS_MAX);
            }
        }
    }

    fn number(event: &CanonicalJsonObject) -> String {
        match event["n"] {
            CanonicalJsonValue::Integer(number) => number.to_string(),
            _ => unreachable!("all have one"),
        }
    }
}
