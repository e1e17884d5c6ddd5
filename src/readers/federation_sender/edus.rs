//! What is told beside events and is true for a while: typing, receipts,
//! presence (server-server API, *EDUs*). Of each only the latest is kept, in
//! memory, and no more than a bound: what is lost nobody misses for long.

use std::collections::BTreeMap;

use log_format::record::ephemeral::PresenceState;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde_json::{Value, json};

use crate::limits::TRANSACTION_EDUS_MAX;

/// Rooms and users who began or ceased to type since the last transaction.
const TYPING_MAX: usize = 50;
/// Receipts that wait, each of some 300 bytes: 20 KiB.
const RECEIPTS_MAX: usize = 64;
/// Users whose presence waits, each of some 150 bytes and a line of text at most:
/// 30 KiB for the usual, 64 KiB if all of them have long status messages.
const PRESENCE_MAX: usize = 64;

/// Whose receipt, and of what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReceiptOf {
    pub room_id: OwnedRoomId,
    pub user_id: OwnedUserId,
    /// `main` or the root of a thread; none for the room as a whole.
    pub thread: Option<Box<str>>,
}

/// Up to where, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptTo {
    pub event_id: OwnedEventId,
    pub ts: u64,
}

/// A user's presence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceNow {
    pub state: PresenceState,
    pub status_msg: Option<Box<str>>,
    /// In milliseconds since the epoch.
    pub last_active_ms: Option<u64>,
    pub currently_active: bool,
}

/// What waits for one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edus {
    typing: BTreeMap<(OwnedRoomId, OwnedUserId), bool>,
    receipts: BTreeMap<ReceiptOf, ReceiptTo>,
    presence: BTreeMap<OwnedUserId, PresenceNow>,
}

impl Edus {
    pub fn is_empty(&self) -> bool {
        self.typing.is_empty() && self.receipts.is_empty() && self.presence.is_empty()
    }

    /// A user began or ceased to type.
    pub fn typing(&mut self, room_id: OwnedRoomId, user_id: OwnedUserId, typing: bool) {
        let full = self.typing.len() >= TYPING_MAX;
        let key = (room_id, user_id);
        if !full || self.typing.contains_key(&key) {
            self.typing.insert(key, typing);
        }
    }

    /// A user read up to an event.
    pub fn receipt(&mut self, of: ReceiptOf, to: ReceiptTo) {
        keep(&mut self.receipts, RECEIPTS_MAX, of, to);
    }

    /// A user's presence changed.
    pub fn presence(&mut self, user_id: OwnedUserId, now: PresenceNow) {
        keep(&mut self.presence, PRESENCE_MAX, user_id, now);
    }

    /// What one transaction takes.
    pub fn take(&mut self) -> Edus {
        let mut taken = Edus {
            typing: std::mem::take(&mut self.typing),
            presence: std::mem::take(&mut self.presence),
            receipts: BTreeMap::new(),
        };
        // All presence is one EDU.
        let mut room = TRANSACTION_EDUS_MAX.saturating_sub(taken.typing.len() + 1);
        while room > 0
            && let Some((of, to)) = self.receipts.pop_first()
        {
            taken.receipts.insert(of, to);
            room -= 1;
        }
        taken
    }

    /// Gives back what was not sent, but for what is newer by now. Who types is
    /// not worth telling a second time.
    pub fn put_back(&mut self, taken: Edus) {
        for (of, to) in taken.receipts {
            if !self.receipts.contains_key(&of) {
                self.receipt(of, to);
            }
        }
        for (user_id, now) in taken.presence {
            if !self.presence.contains_key(&user_id) {
                self.presence(user_id, now);
            }
        }
    }

    /// Forgets who types: nobody is there to see it.
    pub fn drop_typing(&mut self) {
        self.typing.clear();
    }

    /// As they stand in a transaction.
    pub fn to_json(&self, now_ms: u64) -> Vec<Value> {
        let typing = self.typing.iter().map(|((room_id, user_id), typing)| {
            let content = json!({ "room_id": room_id, "user_id": user_id, "typing": typing });
            edu("m.typing", content)
        });
        let mut edus: Vec<Value> = typing.collect();
        edus.extend(self.receipts.iter().map(receipt));
        if !self.presence.is_empty() {
            let push = self.presence.iter().map(|(user_id, now)| {
                let last_active = now.last_active_ms.unwrap_or(0);
                let mut update = json!({
                    "user_id": user_id,
                    "presence": now.state.as_str(),
                    "last_active_ago": now_ms.saturating_sub(last_active),
                    "currently_active": now.currently_active,
                });
                if let Some(status) = &now.status_msg {
                    update["status_msg"] = json!(status);
                }
                update
            });
            let push: Vec<Value> = push.collect();
            edus.push(edu("m.presence", json!({ "push": push })));
        }
        edus
    }
}

/// Keeps the latest of each key; of too many, those that are there.
fn keep<K: Ord, V>(kept: &mut BTreeMap<K, V>, max: usize, key: K, value: V) {
    if kept.len() < max || kept.contains_key(&key) {
        kept.insert(key, value);
    }
}

fn edu(kind: &str, content: Value) -> Value {
    json!({ "edu_type": kind, "content": content })
}

/// A user may have a receipt in each thread, and an EDU has room for one: each
/// is an EDU of its own.
fn receipt((of, to): (&ReceiptOf, &ReceiptTo)) -> Value {
    let mut data = json!({ "ts": to.ts });
    if let Some(thread) = &of.thread {
        data["thread_id"] = json!(thread);
    }
    let one = json!({ "event_ids": [to.event_id], "data": data });
    let of_user = json!({ of.user_id.as_str(): one });
    edu(
        "m.receipt",
        json!({ of.room_id.as_str(): { "m.read": of_user } }),
    )
}
