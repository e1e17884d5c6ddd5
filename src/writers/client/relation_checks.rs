//! What a message may not relate to, and how: no thread within a thread, no
//! annotation twice. All other relations that break a rule are sent and ignored
//! (client-server API, *Forming relationships between events*).

use std::sync::Arc;

use dashmap::DashMap;
use ruma::{EventId, OwnedEventId, RoomId};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::event_builder::Draft;
use super::messages::hide_unknown_room;
use super::room_error::RoomWriteError;
use super::room_writer::RoomWriter;
use super::sequencer::ClientTransaction;
use crate::matrix::canonical_json::{CanonicalJsonObject, to_bytes};
use crate::matrix::relation::{ANNOTATION, Relation, THREAD};
use crate::query::relations::{Annotation, InRoom};
use crate::query::rooms::RoomHead;

/// What must be seen to before a message is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Check {
    Nothing,
    /// It replies in the thread of this root.
    Thread(OwnedEventId),
    /// It annotates this event by a key.
    Annotation(OwnedEventId, String),
}

impl Check {
    /// Of a message with this content.
    pub(super) fn of(content: &CanonicalJsonObject) -> Check {
        let Some(relates_to) = content.get_key_value("m.relates_to") else {
            return Check::Nothing;
        };
        let alone = CanonicalJsonObject::from([(relates_to.0.clone(), relates_to.1.clone())]);
        let alone = to_bytes(&alone);
        let relation = std::str::from_utf8(&alone).ok();
        let Some(relation) = relation.and_then(Relation::of_content) else {
            return Check::Nothing;
        };
        let Ok(parent) = EventId::parse(&*relation.parent) else {
            return Check::Nothing;
        };
        match (&*relation.rel_type, relation.key) {
            (THREAD, _) => Check::Thread(parent),
            (ANNOTATION, Some(key)) => Check::Annotation(parent, key.into_owned()),
            _ => Check::Nothing,
        }
    }
}

/// Who annotates what, now: one request at a time for each sender, event, type
/// and key, so that of two at once the second sees the first.
#[derive(Default)]
pub(super) struct Annotating {
    turns: DashMap<Turn, Arc<Mutex<()>>>,
}

type Turn = [u8; 32];

/// Held while a request annotates.
struct Held<'a> {
    annotating: &'a Annotating,
    turn: Turn,
    lock: Option<OwnedMutexGuard<()>>,
}

impl Annotating {
    async fn enter(&self, room: &RoomId, parent: &EventId, annotation: Annotation<'_>) -> Held<'_> {
        let mut hasher = blake3::Hasher::new();
        for part in [
            room.as_str(),
            parent.as_str(),
            annotation.sender,
            annotation.kind,
            annotation.key,
        ] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        let turn = *hasher.finalize().as_bytes();
        // Released before the wait: it locks a part of the map.
        let lock = self.turns.entry(turn).or_default().clone();
        let mut held = Held {
            annotating: self,
            turn,
            lock: None,
        };
        held.lock = Some(lock.lock_owned().await);
        held
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        drop(self.lock.take());
        // Whoever waits holds the lock too; nobody can begin to meanwhile.
        let unused = |_: &Turn, lock: &Arc<Mutex<()>>| Arc::strong_count(lock) == 1;
        self.annotating.turns.remove_if(&self.turn, unused);
    }
}

impl RoomWriter {
    /// Sends a message that [`Check::of`] its content has something to say about.
    pub(super) async fn send_checked(
        &self,
        check: Check,
        room_id: &RoomId,
        draft: &Draft,
        transaction: Option<&ClientTransaction>,
    ) -> Result<OwnedEventId, RoomWriteError> {
        match check {
            Check::Nothing => {}
            Check::Thread(root) => self.check_root(room_id, draft, &root)?,
            Check::Annotation(parent, key) => {
                return self
                    .annotate(&parent, &key, room_id, draft, transaction)
                    .await;
            }
        }
        let sent = self.sequencer().send(room_id, draft, transaction);
        sent.await.map_err(hide_unknown_room)
    }

    /// The head, for who is in the room: others learn nothing of its events.
    fn head_for(
        &self,
        room_id: &RoomId,
        draft: &Draft,
    ) -> Result<Option<Arc<RoomHead>>, RoomWriteError> {
        let head = self.rooms().head(room_id)?;
        Ok(head.filter(|head| head.authority.is_joined(&draft.sender)))
    }

    /// Refuses a thread whose root relates to another event (*Validation of
    /// m.thread relationships*).
    fn check_root(
        &self,
        room_id: &RoomId,
        draft: &Draft,
        root: &EventId,
    ) -> Result<(), RoomWriteError> {
        if self.head_for(room_id, draft)?.is_none() {
            return Ok(());
        }
        let root = self.rooms().event(room_id, root)?;
        match root.is_some_and(|root| Relation::of_event(&root.json).is_some()) {
            true => Err(RoomWriteError::NestedThread),
            false => Ok(()),
        }
    }

    /// Sends an annotation that the sender has not sent yet (*Avoiding duplicate
    /// annotations*). A repeat of the request gives the first one's event id.
    async fn annotate(
        &self,
        parent: &EventId,
        key: &str,
        room_id: &RoomId,
        draft: &Draft,
        transaction: Option<&ClientTransaction>,
    ) -> Result<OwnedEventId, RoomWriteError> {
        let annotation = Annotation {
            sender: draft.sender.as_str(),
            kind: &draft.kind,
            key,
        };
        let _turn = self.annotating().enter(room_id, parent, annotation).await;
        if let Some(transaction) = transaction
            && let Some(sent) = self
                .rooms()
                .transaction(room_id, &transaction.idempotency)?
        {
            return Ok(sent);
        }
        let relations = self.relations();
        // Whoever had the turn before is known from here on.
        relations.passed(Some(room_id)).await;
        if let Some(head) = self.head_for(room_id, draft)?
            && relations.is_annotated(InRoom::of(&head), parent, annotation)?
        {
            return Err(RoomWriteError::DuplicateAnnotation);
        }
        let sent = self.sequencer().send(room_id, draft, transaction);
        sent.await.map_err(hide_unknown_room)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::matrix::canonical_json::parse_object;

    fn check(content: Value) -> Check {
        Check::of(&parse_object(content.to_string().as_bytes()).unwrap())
    }

    #[test]
    fn only_threads_and_annotations_are_looked_into() {
        let to = |rel_type: &str, key: Value| {
            check(json!({ "body": "x", "m.relates_to": {
                "rel_type": rel_type, "event_id": "$e", "key": key } }))
        };
        let parent = || EventId::parse("$e").unwrap();
        assert_eq!(to("m.thread", Value::Null), Check::Thread(parent()));
        assert_eq!(
            to("m.annotation", json!("k")),
            Check::Annotation(parent(), "k".into())
        );
        assert_eq!(to("m.annotation", Value::Null), Check::Nothing);
        assert_eq!(to("m.replace", Value::Null), Check::Nothing);
        assert_eq!(check(json!({ "m.relates_to": 1 })), Check::Nothing);
        assert_eq!(check(json!({ "body": "x" })), Check::Nothing);
    }

    #[tokio::test]
    async fn turns_are_taken_one_by_one_and_forgotten() {
        let annotating = Arc::new(Annotating::default());
        let (room, parent) = (ruma::room_id!("!r:hs"), ruma::event_id!("$e"));
        let annotation = |key| Annotation {
            sender: "@a:hs",
            kind: "m.reaction",
            key,
        };
        let first = annotating.enter(room, parent, annotation("x")).await;
        let other = annotating.enter(room, parent, annotation("y")).await;
        let waiting = {
            let annotating = annotating.clone();
            tokio::spawn(async move {
                let _held = annotating.enter(room, parent, annotation("x")).await;
            })
        };
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
        drop(other);
        assert!(annotating.turns.is_empty());
    }
}
