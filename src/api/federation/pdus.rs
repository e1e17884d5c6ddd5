//! Answers that hold many events: written from the bytes that are stored, some
//! hundred events at a time, as fast as the other side takes them. A room of any
//! size costs the memory of its events' interned ids, and nothing is parsed.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::unfold;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use log_format::record::output::Decision;
use ruma::OwnedRoomId;
use serde_json::{Map, Value};
use tokio::task::spawn_blocking;

use crate::query::ids::EventSn;
use crate::query::rooms::{QueryError, Rooms, StoredEvent};

/// Events that are read and written at a time: some 100 KiB.
const STEP_EVENTS: usize = 128;

/// What is written of events, in their order; some may be left out.
pub type Form = Arc<dyn Fn(&[Arc<StoredEvent>]) -> Result<Vec<Bytes>, QueryError> + Send + Sync>;

/// An array of the answer.
pub struct Section {
    pub name: &'static str,
    pub events: Vec<EventSn>,
    pub form: Form,
}

/// The whole event, unless it was rejected: nobody is given such.
pub fn whole() -> Form {
    Arc::new(|events| Ok(served(events).map(|event| event.json.clone()).collect()))
}

/// The event's id, as JSON.
pub fn id() -> Form {
    Arc::new(|events| {
        let ids = served(events).filter_map(|event| serde_json::to_vec(&event.event_id).ok());
        Ok(ids.map(Bytes::from).collect())
    })
}

fn served(events: &[Arc<StoredEvent>]) -> impl Iterator<Item = &Arc<StoredEvent>> {
    let events = events.iter();
    events.filter(|event| event.decision != Decision::Rejected)
}

/// An object with these fields, and then these arrays.
pub fn answer(
    rooms: Arc<dyn Rooms>,
    room_id: OwnedRoomId,
    fields: Map<String, Value>,
    sections: Vec<Section>,
) -> Response {
    answer_within(("", ""), rooms, room_id, fields, sections)
}

/// [`answer`] between two texts.
pub fn answer_within(
    (before, behind): (&'static str, &'static str),
    rooms: Arc<dyn Rooms>,
    room_id: OwnedRoomId,
    fields: Map<String, Value>,
    sections: Vec<Section>,
) -> Response {
    let mut opening = before.as_bytes().to_vec();
    let object = serde_json::to_vec(&fields).unwrap_or_else(|_| b"{}".to_vec());
    opening.extend_from_slice(object.strip_suffix(b"}").unwrap_or(b"{"));
    let writing = Writing {
        rooms,
        room_id,
        due: sections.into(),
        done: 0,
        is_first: fields.is_empty(),
        out: opening,
        behind,
        is_over: false,
    };
    let chunks = unfold(Some(writing), |writing| async {
        let mut writing = writing?;
        // The answer breaks off where an event cannot be read: what was sent is
        // no JSON, so nobody takes it for a whole one.
        let stepped = spawn_blocking(move || writing.step().map(|chunk| (chunk, writing))).await;
        match stepped {
            Ok(Ok((chunk, writing))) => {
                let rest = (!writing.is_over).then_some(writing);
                Some((Ok(chunk), rest))
            }
            Ok(Err(error)) => Some((Err(io::Error::other(error.to_string())), None)),
            Err(error) => Some((Err(io::Error::other(error.to_string())), None)),
        }
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

struct Writing {
    rooms: Arc<dyn Rooms>,
    room_id: OwnedRoomId,
    due: VecDeque<Section>,
    /// Events of the first section that are written or left out.
    done: usize,
    /// Nothing stands before the next comma.
    is_first: bool,
    out: Vec<u8>,
    /// Follows the object.
    behind: &'static str,
    is_over: bool,
}

impl Writing {
    /// The next piece of the answer.
    fn step(&mut self) -> Result<Bytes, QueryError> {
        let Some(section) = self.due.front() else {
            self.out.push(b'}');
            self.out.extend_from_slice(self.behind.as_bytes());
            self.is_over = true;
            return Ok(std::mem::take(&mut self.out).into());
        };
        if self.done == 0 {
            if !self.is_first {
                self.out.push(b',');
            }
            self.out.push(b'"');
            self.out.extend_from_slice(section.name.as_bytes());
            self.out.extend_from_slice(b"\":[");
            self.is_first = true;
        }
        let rest = section.events.get(self.done..).unwrap_or_default();
        let step = rest.get(..STEP_EVENTS.min(rest.len())).unwrap_or_default();
        let events = self.rooms.events(&self.room_id, step)?;
        for written in (section.form)(&events)? {
            if !self.is_first {
                self.out.push(b',');
            }
            self.out.extend_from_slice(&written);
            self.is_first = false;
        }
        self.done += step.len();
        if self.done >= section.events.len() {
            self.out.push(b']');
            self.due.pop_front();
            self.done = 0;
            self.is_first = false;
        }
        Ok(std::mem::take(&mut self.out).into())
    }
}
