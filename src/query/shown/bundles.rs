//! What relates to an event, bundled with it under `unsigned` (client-server
//! API, *Aggregations of child events*).
//!
//! All events of an answer are looked up at once; one that nothing relates to
//! costs no more than that. Annotations are not bundled, and state events get
//! nothing (*Server-side aggregation of m.annotation relationships*).

use std::collections::HashMap;
use std::sync::Arc;

use ruma::{EventId, OwnedEventId, UserId};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Show, ShowError};
use crate::matrix::client_event::FormatError;
use crate::matrix::relation::{REFERENCE, REPLACE, Relation, THREAD};
use crate::query::ids::{EventSn, Place};
use crate::query::relations::{Children, InRoom, Relations, Summary, ThreadSummary};
use crate::query::rooms::{Direction, QueryError, StoredEvent};
use crate::query::visibility::{Stay, Viewpoint};

/// Edits of an event that are looked at until one is found that the viewer may
/// see: whoever sees an event sees nearly always what its sender made of it.
const EDITS_MAX: usize = 16;
/// References that are bundled with an event, the earliest ones: the use of them
/// is key verification, which has a handful. All are found with `/relations`.
const REFERENCES_MAX: usize = 100;
/// The same where many events of an answer have references, which share
/// [`REFERENCES_SHARED`]: each of them is loaded.
const REFERENCES_MIN: usize = 10;
const REFERENCES_SHARED: usize = 1_000;
/// Replies of a thread that are looked at for one that the viewer may see.
const REPLIES_MAX: usize = 500;
/// Replies that are looked at together, behind the first.
const REPLIES_STEP: usize = 32;

/// `m.relations` as JSON, for the events that have it.
pub(super) type Bundles = HashMap<EventSn, String>;

/// Which events are given bundles.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// Those of an answer.
    Outer,
    /// The newest reply of a thread, which begins no thread.
    InThread,
}

#[derive(Default, Serialize)]
struct Bundle {
    #[serde(rename = "m.reference", skip_serializing_if = "Option::is_none")]
    reference: Option<References>,
    #[serde(rename = "m.replace", skip_serializing_if = "Option::is_none")]
    replace: Option<Box<RawValue>>,
    #[serde(rename = "m.thread", skip_serializing_if = "Option::is_none")]
    thread: Option<BundledThread>,
}

impl Bundle {
    fn is_empty(&self) -> bool {
        self.reference.is_none() && self.replace.is_none() && self.thread.is_none()
    }
}

#[derive(Serialize)]
struct References {
    chunk: Vec<Reference>,
}

#[derive(Serialize)]
struct Reference {
    event_id: OwnedEventId,
}

#[derive(Serialize)]
struct BundledThread {
    latest_event: Box<RawValue>,
    count: u64,
    current_user_participated: bool,
}

/// Bundles what relates to events of one room.
pub(super) fn bundles<'e>(
    show: &Show<'_>,
    events: impl Iterator<Item = &'e StoredEvent>,
    level: Level,
) -> Result<Bundles, ShowError> {
    let mut found = Bundles::new();
    let Some(relations) = show.relations else {
        return Ok(found);
    };
    let parents: Vec<&StoredEvent> = events.filter(|event| event.state_key.is_none()).collect();
    let Some(first) = parents.first() else {
        return Ok(found);
    };
    let bundling = Bundling {
        show,
        relations,
        room: InRoom {
            room_id: show.viewpoint.room_id(),
            room: first.room,
        },
        level,
    };
    let ids: Vec<&EventId> = parents.iter().map(|parent| &*parent.event_id).collect();
    let summaries = relations.bundled(bundling.room, &ids)?;
    let referenced = summaries.iter().filter(|summary| summary.references > 0);
    let references = REFERENCES_SHARED / referenced.count().max(1);
    let references = references.clamp(REFERENCES_MIN, REFERENCES_MAX);
    for (parent, summary) in parents.into_iter().zip(summaries) {
        if !summary.is_bundled() {
            continue;
        }
        let bundle = bundling.bundle(parent, &summary, references)?;
        if !bundle.is_empty() {
            let bundle = serde_json::to_string(&bundle).map_err(FormatError::from)?;
            found.insert(parent.event, bundle);
        }
    }
    Ok(found)
}

struct Bundling<'a> {
    show: &'a Show<'a>,
    relations: &'a dyn Relations,
    room: InRoom<'a>,
    level: Level,
}

impl Bundling<'_> {
    fn bundle(
        &self,
        parent: &StoredEvent,
        summary: &Summary,
        references: usize,
    ) -> Result<Bundle, ShowError> {
        let relation = Relation::of_event(&parent.json);
        let is_edit = relation
            .as_ref()
            .is_some_and(|relation| relation.rel_type == REPLACE);
        let mut bundle = Bundle::default();
        if summary.references > 0 {
            bundle.reference = self.references(parent, references)?;
        }
        // Only this is not bundled with what was redacted (*Server-side
        // aggregation of m.replace relationships*).
        if summary.edits > 0 && !is_edit && parent.redacted_by.is_none() {
            bundle.replace = self.replacement(parent)?;
        }
        // Threads do not nest (*Threading*).
        if summary.thread.replies > 0 && relation.is_none() && self.level == Level::Outer {
            bundle.thread = self.thread(parent, &summary.thread)?;
        }
        Ok(bundle)
    }

    fn references(
        &self,
        parent: &StoredEvent,
        limit: usize,
    ) -> Result<Option<References>, ShowError> {
        let viewpoint = self.show.viewpoint;
        let children = self.relations.children(
            self.room,
            Children {
                parent: &parent.event_id,
                rel_type: Some(REFERENCE),
                from: Place::START,
                direction: Direction::Forward,
                limit,
            },
        )?;
        let children: Vec<EventSn> = children.iter().map(|child| child.event).collect();
        let mut chunk = Vec::new();
        for event in viewpoint.rooms().events(self.room.room_id, &children)? {
            if viewpoint.may_see(&event)? {
                let event_id = event.event_id.clone();
                chunk.push(Reference { event_id });
            }
        }
        Ok((!chunk.is_empty()).then_some(References { chunk }))
    }

    /// The most recent valid edit that the viewer may see.
    fn replacement(&self, parent: &StoredEvent) -> Result<Option<Box<RawValue>>, ShowError> {
        let viewpoint = self.show.viewpoint;
        for edit in self.relations.edits(self.room, parent, EDITS_MAX)? {
            let edit = viewpoint.rooms().events(self.room.room_id, &[edit])?.pop();
            let Some(edit) = edit else {
                continue;
            };
            // One that was redacted just now is not known for it yet.
            if edit.redacted_by.is_none() && viewpoint.may_see(&edit)? {
                return Ok(Some(self.show.event_with(&edit, None)?));
            }
        }
        Ok(None)
    }

    fn thread(
        &self,
        root: &StoredEvent,
        summary: &ThreadSummary,
    ) -> Result<Option<BundledThread>, ShowError> {
        let viewpoint = self.show.viewpoint;
        let ignored = match viewpoint.unwanted().ignored() {
            None => 0,
            Some(users) => self
                .relations
                .replies_by(self.room, &root.event_id, users)?,
        };
        let count = summary.replies.saturating_sub(ignored);
        let latest = newest_reply(viewpoint, self.relations, self.room, &root.event_id)?;
        let Some(latest) = latest.filter(|_| count > 0) else {
            return Ok(None);
        };
        let nested = bundles(self.show, std::iter::once(&*latest), Level::InThread)?;
        let nested = nested.get(&latest.event).map(String::as_str);
        Ok(Some(BundledThread {
            latest_event: self.show.event_with(&latest, nested)?,
            count,
            current_user_participated: participates(
                self.show.user,
                self.relations,
                self.room,
                root,
            )?,
        }))
    }
}

/// Whether a user takes part in a thread: by its root, or by a reply.
pub fn participates(
    user: &UserId,
    relations: &dyn Relations,
    room: InRoom<'_>,
    root: &StoredEvent,
) -> Result<bool, QueryError> {
    Ok(root.sender == user || relations.has_replied(room, &root.event_id, user)?)
}

/// The newest reply of a thread that the viewer may see, and wants to; none if
/// there is none among the last hundreds.
pub fn newest_reply(
    viewpoint: &Viewpoint<'_>,
    relations: &dyn Relations,
    room: InRoom<'_>,
    root: &EventId,
) -> Result<Option<Arc<StoredEvent>>, QueryError> {
    let mut from = Place::END;
    let (mut step, mut walked) = (1, 0);
    while walked < REPLIES_MAX {
        let wanted = Children {
            parent: root,
            rel_type: Some(THREAD),
            from,
            direction: Direction::Backward,
            limit: step,
        };
        let replies = relations.children(room, wanted)?;
        let Some(oldest) = replies.last() else {
            return Ok(None);
        };
        from = oldest.place;
        let unwanted = viewpoint.unwanted();
        for reply in &replies {
            if unwanted.is_ignored(&reply.sender) {
                continue;
            }
            let event = viewpoint.rooms().events(room.room_id, &[reply.event])?;
            for event in event {
                if event.redacted_by.is_none() && viewpoint.may_see(&event)? {
                    return Ok(Some(event));
                }
            }
        }
        if walked == 0
            && let Stay::Left { left, .. } = viewpoint.stay()?
            && left != Place::START
        {
            // Who left sees nothing behind it, unless all the world does, and
            // then the first was seen.
            from = from.min(Place(left.0.saturating_add(1)));
        }
        walked += replies.len();
        step = REPLIES_STEP;
    }
    Ok(None)
}
