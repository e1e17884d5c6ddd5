//! What is told beside events and is true for a while: typing, receipts,
//! presence (server-server API, *EDUs*). Of each only the latest is kept, in
//! memory, and no more than a bound: what is lost nobody misses for long.

use std::collections::BTreeMap;
use std::sync::Arc;

use log_format::record::ephemeral::PresenceState;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde_json::{Value, json};

use crate::limits::TRANSACTION_EDUS_MAX;

/// Bytes that wait for one server, and as many may be on their way to it.
const BYTES_MAX: usize = 44 * 1024;
/// Bytes that wait for a server that is not reached. Thousands may be away at a
/// time, and with what could not be delivered each is to cost 64 KiB at most.
const BYTES_MAX_IF_FAILING: usize = 12 * 1024;
/// What an entry takes beside its texts: pointers, and its share of the map.
const ENTRY_BYTES: usize = 128;

/// What an EDU is about: a later one of the same replaces it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    Typing {
        room_id: OwnedRoomId,
        user_id: OwnedUserId,
    },
    Receipt {
        room_id: OwnedRoomId,
        user_id: OwnedUserId,
        /// `main` or the root of a thread; none for the room as a whole.
        thread: Option<Box<str>>,
    },
    Presence {
        user_id: OwnedUserId,
    },
}

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Typing(bool),
    Receipt {
        event_id: OwnedEventId,
        /// When, in milliseconds since the epoch.
        ts: u64,
    },
    Presence {
        state: PresenceState,
        status_msg: Option<Box<str>>,
        /// In milliseconds since the epoch.
        last_active_ms: Option<u64>,
        currently_active: bool,
    },
}

/// What waits for one server, or goes to it. What is told to many servers is in
/// memory once, and counted in full for each, since any may be the last to have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edus {
    latest: BTreeMap<Arc<About>, Arc<Said>>,
    bytes: usize,
}

impl Edus {
    pub fn is_empty(&self) -> bool {
        self.latest.is_empty()
    }

    /// Keeps what is said, in place of what was said before of the same; drops it
    /// where too much waits already.
    pub fn add(&mut self, about: Arc<About>, said: Arc<Said>) {
        self.add_within(BYTES_MAX, about, said);
    }

    /// [`Edus::add`], for a server that is not reached.
    pub fn add_if_failing(&mut self, about: Arc<About>, said: Arc<Said>) {
        // Nobody is there to see who types.
        if !matches!(*about, About::Typing { .. }) {
            self.add_within(BYTES_MAX_IF_FAILING, about, said);
        }
    }

    fn add_within(&mut self, bytes_max: usize, about: Arc<About>, said: Arc<Said>) {
        if let Some(before) = self.latest.remove(&about) {
            self.bytes -= bytes(&about, &before);
        }
        let more = bytes(&about, &said);
        if self.bytes + more <= bytes_max {
            self.bytes += more;
            self.latest.insert(about, said);
        }
    }

    /// What one transaction takes.
    pub fn take(&mut self) -> Edus {
        let mut taken = Edus::default();
        // All presence is one EDU, and sorts last.
        let mut others = TRANSACTION_EDUS_MAX - 1;
        while let Some(first) = self.latest.first_entry() {
            if !matches!(**first.key(), About::Presence { .. }) {
                if others == 0 {
                    break;
                }
                others -= 1;
            }
            let (about, said) = first.remove_entry();
            self.bytes -= bytes(&about, &said);
            taken.add(about, said);
        }
        taken
    }

    /// Keeps what a server may still want that was not reached.
    pub fn cut_down(&mut self) {
        for (about, said) in std::mem::take(self).latest {
            self.add_if_failing(about, said);
        }
    }

    /// Says that nobody types who did in `late`, which was taken long after it was
    /// first sent: what they did since was not told.
    pub fn end_typing(&mut self, late: &Edus) {
        for (about, said) in &late.latest {
            if **said == Said::Typing(true) && !self.latest.contains_key(about) {
                self.add(about.clone(), Arc::new(Said::Typing(false)));
            }
        }
    }

    /// As they stand in a transaction.
    pub fn to_json(&self, now_ms: u64) -> Vec<Value> {
        let mut push = Vec::new();
        let mut edus = Vec::new();
        for (about, said) in &self.latest {
            match (&**about, &**said) {
                (About::Typing { room_id, user_id }, Said::Typing(typing)) => {
                    let content =
                        json!({ "room_id": room_id, "user_id": user_id, "typing": typing });
                    edus.push(edu("m.typing", content));
                }
                (
                    About::Receipt {
                        room_id,
                        user_id,
                        thread,
                    },
                    Said::Receipt { event_id, ts },
                ) => {
                    // A user may have a receipt in each thread, and an EDU has
                    // room for one: each is an EDU of its own.
                    let mut data = json!({ "ts": ts });
                    if let Some(thread) = thread {
                        data["thread_id"] = json!(thread);
                    }
                    let one = json!({ "event_ids": [event_id], "data": data });
                    let of_user = json!({ user_id.as_str(): one });
                    let content = json!({ room_id.as_str(): { "m.read": of_user } });
                    edus.push(edu("m.receipt", content));
                }
                (About::Presence { user_id }, Said::Presence { .. }) => {
                    push.extend(presence(user_id, said, now_ms));
                }
                // Nobody says of one what is said of another.
                _ => (),
            }
        }
        if !push.is_empty() {
            edus.push(edu("m.presence", json!({ "push": push })));
        }
        edus
    }
}

fn presence(user_id: &OwnedUserId, said: &Said, now_ms: u64) -> Option<Value> {
    let Said::Presence {
        state,
        status_msg,
        last_active_ms,
        currently_active,
    } = said
    else {
        return None;
    };
    let mut update = json!({
        "user_id": user_id,
        "presence": state.as_str(),
        "last_active_ago": now_ms.saturating_sub(last_active_ms.unwrap_or(0)),
        "currently_active": currently_active,
    });
    if let Some(status) = status_msg {
        update["status_msg"] = json!(status);
    }
    Some(update)
}

fn edu(kind: &str, content: Value) -> Value {
    json!({ "edu_type": kind, "content": content })
}

fn bytes(about: &About, said: &Said) -> usize {
    let of_text = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
    let about = match about {
        About::Typing { room_id, user_id } => room_id.as_str().len() + user_id.as_str().len(),
        About::Receipt {
            room_id,
            user_id,
            thread,
        } => room_id.as_str().len() + user_id.as_str().len() + of_text(thread),
        About::Presence { user_id } => user_id.as_str().len(),
    };
    let said = match said {
        Said::Typing(_) => 0,
        Said::Receipt { event_id, .. } => event_id.as_str().len(),
        Said::Presence { status_msg, .. } => of_text(status_msg),
    };
    ENTRY_BYTES + about + said
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn user(number: usize) -> OwnedUserId {
        OwnedUserId::try_from(format!("@user{number}:a.test")).unwrap()
    }

    fn room(number: usize) -> OwnedRoomId {
        OwnedRoomId::try_from(format!("!room{number}:a.test")).unwrap()
    }

    fn receipt(number: usize, thread: &str, ts: u64) -> (Arc<About>, Arc<Said>) {
        let about = Arc::new(About::Receipt {
            room_id: room(number),
            user_id: user(number),
            thread: (!thread.is_empty()).then(|| thread.into()),
        });
        let event_id = OwnedEventId::try_from(format!("$event{ts}")).unwrap();
        (about, Arc::new(Said::Receipt { event_id, ts }))
    }

    fn typing(number: usize, typing: bool) -> (Arc<About>, Arc<Said>) {
        let about = About::Typing {
            room_id: room(number),
            user_id: user(number),
        };
        (Arc::new(about), Arc::new(Said::Typing(typing)))
    }

    #[test]
    fn the_latest_replaces_what_is_older_and_not_what_is_newer() {
        let mut edus = Edus::default();
        for (about, said) in [
            receipt(1, "", 1),
            receipt(1, "main", 2),
            receipt(1, "", 3),
            typing(1, true),
            typing(1, false),
        ] {
            edus.add(about, said);
        }
        assert_eq!(edus.latest.len(), 3);
        let mut taken = edus.take();
        assert!(edus.is_empty());
        let (about, said) = receipt(1, "", 3);
        assert_eq!(taken.latest.get(&about), Some(&said));
        taken.cut_down();
        assert_eq!(taken.latest.len(), 2);
    }

    #[test]
    fn who_typed_long_ago_does_not_any_more() {
        let mut late = Edus::default();
        let mut since = Edus::default();
        for number in 1..4 {
            let (about, said) = typing(number, number < 3);
            late.add(about, said);
        }
        let (about, said) = typing(2, true);
        since.add(about, said);
        since.end_typing(&late);
        let said = |number| {
            let (about, _) = typing(number, true);
            since.latest.get(&about).map(|said| (**said).clone())
        };
        assert_eq!(said(1), Some(Said::Typing(false)));
        assert_eq!(said(2), Some(Said::Typing(true)));
        assert_eq!(said(3), None);
    }

    #[test]
    fn what_waits_is_bounded_and_leaves_in_transactions_that_are_allowed() {
        let mut edus = Edus::default();
        for number in 0..1_000 {
            let (about, said) = receipt(number, "main", 1);
            edus.add(about, said);
            let about = About::Presence {
                user_id: user(number),
            };
            let said = Said::Presence {
                state: PresenceState::Online,
                status_msg: Some("x".repeat(1_000).into()),
                last_active_ms: Some(5),
                currently_active: false,
            };
            edus.add(Arc::new(about), Arc::new(said));
        }
        assert!(edus.bytes <= BYTES_MAX);
        let mut failing = edus.clone();
        failing.cut_down();
        assert!(failing.bytes <= BYTES_MAX_IF_FAILING);
        assert!(edus.latest.len() > 40);
        let mut sent = 0;
        while !edus.is_empty() {
            let taken = edus.take();
            assert!(taken.to_json(10).len() <= TRANSACTION_EDUS_MAX);
            sent += taken.latest.len();
        }
        assert!(sent > 40);
        assert_eq!(edus, Edus::default());
    }

    proptest! {
        #[test]
        fn bytes_are_counted_right(
            ops in prop::collection::vec((0usize..4, 0usize..3, any::<bool>()), 0..60),
        ) {
            let mut edus = Edus::default();
            for (number, op, flag) in ops {
                match op {
                    0 => {
                        let (about, said) = typing(number, flag);
                        edus.add(about, said);
                    }
                    1 => {
                        let (about, said) = receipt(number, "main", number as u64);
                        edus.add(about, said);
                    }
                    2 if flag => drop(edus.take()),
                    2 => edus.cut_down(),
                    _ => {
                        let (about, said) = receipt(number, "", number as u64);
                        edus.add_if_failing(about, said);
                    }
                }
                let counted: usize = edus.latest.iter().map(|(about, said)| bytes(about, said)).sum();
                prop_assert_eq!(edus.bytes, counted);
            }
        }
    }
}
