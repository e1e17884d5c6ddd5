//! An answer that holds the state of a room and what authorises it, read event by
//! event while it comes. What is held of it is one event in part, however large
//! the room is; whoever takes the events decides what is kept.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::SemaphorePermit;

use crate::limits::PDU_BYTES_MAX;
use crate::outbound::answer::RequestError;
use crate::outbound::json_stream::{Form, ObjectReader, Piece, Wanted};
use crate::outbound::streamed::{Body, Pace};

/// Events of the state of a room, and as many of what authorises it. The largest
/// known rooms have some 100,000 members.
pub const STATE_EVENTS_MAX: usize = 200_000;
/// Bytes of an event as it is written by others, who may escape what we do not.
const EVENT_BYTES_MAX: usize = 2 * PDU_BYTES_MAX;
/// The whole state of a room, of which member events of some 1 KiB are the most,
/// and what authorises it; the other server has to look all of it up.
pub const PACE: Pace = Pace {
    bytes_max: 256 * 1024 * 1024,
    begin_max: Duration::from_secs(300),
    idle_max: Duration::from_secs(30),
    time_max: Duration::from_secs(900),
    bytes_per_second_min: 4 * 1024,
};

/// Bytes without an event at their end that are passed over: fields that nobody
/// asked for are shorter, and an event is too. Whoever sends more sends no state.
const PASSED_OVER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// In which list an event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    State,
    /// Of what authorises the state, and what authorises that, and so on.
    AuthChain,
}

/// How an answer names what it holds.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// The list of the state's events; the other one is the auth chain.
    pub state: &'static str,
    pub wanted: Wanted,
}

/// `PUT send_join`.
pub const OF_A_JOIN: Names = Names {
    state: "state",
    wanted: wanted(&["state", "auth_chain"], &[EVENT, OMITTED]),
};
/// `GET state`.
pub const OF_A_STATE: Names = Names {
    state: "pdus",
    wanted: wanted(&["pdus", "auth_chain"], &[]),
};

const EVENT: &str = "event";
const OMITTED: &str = "members_omitted";

const fn wanted(lists: &'static [&'static str], fields: &'static [&'static str]) -> Wanted {
    Wanted {
        lists,
        fields,
        elements_max: STATE_EVENTS_MAX,
        piece_bytes_max: EVENT_BYTES_MAX,
    }
}

/// See the module. Events are unread and unchecked; one that is too large is no
/// bytes at all.
pub struct StateAnswer<'c> {
    body: Body,
    reader: ObjectReader,
    pieces: VecDeque<Piece>,
    state: &'static str,
    fields: Fields,
    /// Bytes since the last event.
    passed_over: usize,
    /// Held while the answer comes.
    _permit: Option<SemaphorePermit<'c>>,
}

/// What else stands in the answer; whole once all events were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// The join with the resident's signature, if it needs one.
    pub event: Option<Bytes>,
    /// Members are missing from the state.
    pub members_omitted: bool,
}

impl<'c> StateAnswer<'c> {
    pub fn new(
        body: Body,
        permit: Option<SemaphorePermit<'c>>,
        names: Names,
        form: Form,
    ) -> StateAnswer<'c> {
        StateAnswer {
            body,
            reader: ObjectReader::new(names.wanted, form),
            pieces: VecDeque::new(),
            state: names.state,
            fields: Fields::default(),
            passed_over: 0,
            _permit: permit,
        }
    }

    /// The next event; none at the end of an answer that is whole.
    pub async fn next(&mut self) -> Result<Option<(Part, Bytes)>, RequestError> {
        loop {
            while let Some(piece) = self.pieces.pop_front() {
                match piece.of {
                    EVENT => self.fields.event = Some(piece.json),
                    OMITTED => self.fields.members_omitted = &*piece.json == b"true",
                    of if of == self.state => return Ok(Some((Part::State, piece.json))),
                    _ => return Ok(Some((Part::AuthChain, piece.json))),
                }
            }
            let Some(part) = self.body.part().await? else {
                let ended = self.reader.finish();
                return ended.map(|()| None).map_err(|_| RequestError::NotJson);
            };
            let pieces = &mut self.pieces;
            let read = self.reader.push(&part, |piece| pieces.push_back(piece));
            read.map_err(|error| {
                tracing::debug!(%error, "the state of a room cannot be read");
                RequestError::NotJson
            })?;
            self.passed_over = match self.pieces.is_empty() {
                true => self.passed_over + part.len(),
                false => 0,
            };
            if self.passed_over > PASSED_OVER_BYTES_MAX {
                return Err(RequestError::NotJson);
            }
        }
    }

    /// Up to so many of the next events, and not many more bytes than so many;
    /// none at the end.
    pub async fn some(
        &mut self,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Part, Bytes)>, RequestError> {
        let mut events = Vec::new();
        let mut bytes = 0;
        while events.len() < events_max && bytes < bytes_max {
            let Some(event) = self.next().await? else {
                break;
            };
            bytes += event.1.len();
            events.push(event);
        }
        Ok(events)
    }

    /// What else stands in it, as far as it was read.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// How many bytes of it came.
    pub fn bytes(&self) -> usize {
        self.body.bytes()
    }

    /// How much of it came, in percent, if it is said how much will come.
    pub fn percent(&self) -> Option<u64> {
        let announced = self.body.announced().filter(|announced| *announced > 0)?;
        Some(self.body.bytes() as u64 * 100 / announced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(json: &'static str, names: Names, form: Form) -> StateAnswer<'static> {
        let response = http::Response::new(json);
        let body = Body::new(response.into(), PACE).expect("is small");
        StateAnswer::new(body, None, names, form)
    }

    async fn all(answer: &mut StateAnswer<'_>) -> Result<Vec<(Part, Bytes)>, RequestError> {
        let mut events = Vec::new();
        while let Some(event) = answer.next().await? {
            events.push(event);
        }
        Ok(events)
    }

    #[tokio::test]
    async fn a_join_is_read_in_either_form_and_order() {
        let second = r#"{"origin":"b","auth_chain":[{"c":3}],"state":[{"a":1},{"b":2}],
            "event":{"d":4},"members_omitted":false}"#;
        let mut answer_2 = answer(second, OF_A_JOIN, Form::Bare);
        let events = all(&mut answer_2).await.expect("reads");
        let parts: Vec<_> = events.iter().map(|(part, _)| *part).collect();
        assert_eq!(parts, [Part::AuthChain, Part::State, Part::State]);
        let fields = answer_2.fields();
        assert_eq!(fields.event.as_deref(), Some(&br#"{"d":4}"#[..]));
        assert!(!fields.members_omitted);
        assert_eq!(answer_2.percent(), Some(100));
        let first = r#"[200,{"state":[{}],"auth_chain":[],"members_omitted":true}]"#;
        let mut answer_1 = answer(first, OF_A_JOIN, Form::Pair);
        assert_eq!(all(&mut answer_1).await.expect("reads").len(), 1);
        assert!(answer_1.fields().members_omitted && answer_1.fields().event.is_none());
    }

    #[tokio::test]
    async fn much_that_is_no_state_is_no_answer() {
        for (more, is_read) in [(0, true), (PASSED_OVER_BYTES_MAX, false)] {
            let much = " ".repeat(more);
            let json = format!(r#"{{"x":"{much}","state":[],"auth_chain":[]}}"#);
            let body = Body::new(http::Response::new(json).into(), PACE).expect("is small");
            let mut answer = StateAnswer::new(body, None, OF_A_JOIN, Form::Bare);
            assert_eq!(all(&mut answer).await.is_ok(), is_read, "{more}");
        }
    }

    #[tokio::test]
    async fn what_is_cut_off_or_not_asked_for_is_no_answer() {
        for (json, names) in [
            (r#"{"state":[],"auth_chain":[]"#, OF_A_JOIN),
            (r#"{"state":[],"auth_chain":[]}x"#, OF_A_JOIN),
            (r#"{"pdus":[],"auth_chain":[]}"#, OF_A_JOIN),
            (r#"{"state":[],"auth_chain":[]}"#, OF_A_STATE),
            (r#"[200,{"state":[],"auth_chain":[]}]"#, OF_A_JOIN),
            ("", OF_A_STATE),
        ] {
            let mut answer = answer(json, names, Form::Bare);
            let refused = all(&mut answer).await;
            assert!(matches!(refused, Err(RequestError::NotJson)), "{json}");
        }
        let mut whole = answer(r#"{"pdus":[{}],"auth_chain":[]}"#, OF_A_STATE, Form::Bare);
        assert_eq!(whole.some(10, 10).await.expect("reads").len(), 1);
        assert_eq!(whole.some(10, 10).await.expect("reads").len(), 0);
    }
}
