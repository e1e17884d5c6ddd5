//! `m.presence` (server-server API, *Presence*): who is there elsewhere.
//!
//! What a server tells of a user holds until it tells something else, and no
//! longer than half an hour: a server that went away would leave its users
//! online for ever.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use log_format::record::Source;
use log_format::record::ephemeral::PresenceState;
use parking_lot::Mutex;
use ruma::{OwnedUserId, ServerName, UserId};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clock::now_ms;
use crate::limits::STATUS_MSG_BYTES_MAX;
use crate::logs::log::AppendError;
use crate::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use crate::query::ephemeral::{Presence, Since};
use crate::writers::client::deadlines::{self, Deadlines};
use crate::writers::ephemeral::{EphemeralWriter, Shown, presence_record};

/// How long what is told of a user who is there holds. Servers tell it again
/// every 25 minutes or so.
const HOLDS_FOR: Duration = Duration::from_secs(30 * 60);
/// Users of other servers who are there at a time, some 300 bytes each.
const USERS_MAX: usize = 100_000;
/// By how much the time of the last action moves before that is news by itself.
const NEWS_AFTER_MS: u64 = 60 * 1000;
/// When it is tried again to tell what could not be told.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The writer of other servers' presence. Cheap to clone.
#[derive(Clone)]
pub struct RemotePresence {
    inner: Arc<Inner>,
}

struct Inner {
    ephemeral: EphemeralWriter,
    /// Users who are there, and until when. Held while a record is queued, so
    /// that the log has the order of what is decided here.
    there: Mutex<Deadlines<OwnedUserId>>,
    /// Notified when the next end moves forward.
    earlier: Notify,
}

impl RemotePresence {
    /// Users of other servers than `own` who were there when the process before
    /// ended are so for a while.
    pub fn new(own: &ServerName, ephemeral: EphemeralWriter) -> RemotePresence {
        let mut there = Deadlines::default();
        let until = Instant::now() + HOLDS_FOR;
        for known in ephemeral.window().changes(Since::Nothing).presence {
            if known.user_id.server_name() != own && known.state != PresenceState::Offline {
                there.set(known.user_id.clone(), until);
            }
        }
        RemotePresence {
            inner: Arc::new(Inner {
                ephemeral,
                there: Mutex::new(there),
                earlier: Notify::new(),
            }),
        }
    }

    /// A user's server tells of them, who `shares` a room with us, or may in a
    /// moment: such users leave half of the places to others. What is no news
    /// costs no record.
    pub fn tell(&self, user: &UserId, shown: Shown, shares: bool) -> Result<(), AppendError> {
        let users_max = match shares {
            true => USERS_MAX,
            false => USERS_MAX / 2,
        };
        let mut there = self.inner.there.lock();
        let is_there = shown.state != PresenceState::Offline;
        if is_there && !there.contains(&user.to_owned()) && there.len() >= users_max {
            return Err(AppendError::Overloaded);
        }
        let known = self.inner.ephemeral.window().presence_of(user);
        if is_news(known.as_deref(), &shown) {
            let record = presence_record(user, &shown, Source::Federation);
            self.inner.ephemeral.enqueue(record)?;
        }
        match is_there {
            true => {
                if there.set(user.to_owned(), Instant::now() + HOLDS_FOR) {
                    self.inner.earlier.notify_waiters();
                }
            }
            false => drop(there.clear(&user.to_owned())),
        }
        Ok(())
    }

    /// Lets users go offline of whom nothing is told any more, until it is dropped.
    pub async fn run(self) {
        let next = || self.inner.there.lock().next();
        deadlines::keep(&self.inner.earlier, next, |now| self.end_due(now)).await;
    }

    fn end_due(&self, now: Instant) {
        let mut there = self.inner.there.lock();
        for user in there.take_due(now) {
            let known = self.inner.ephemeral.window().presence_of(&user);
            let gone = Shown {
                state: PresenceState::Offline,
                status_msg: known.as_ref().and_then(|known| known.status_msg.clone()),
                last_active_ms: known.as_ref().and_then(|known| known.last_active_ms),
                currently_active: false,
            };
            let record = presence_record(&user, &gone, Source::Internal);
            match self.inner.ephemeral.enqueue(record) {
                // Nothing more is told before the process ends.
                Ok(_) | Err(AppendError::Closed) => (),
                Err(_) => drop(there.set(user, now + RETRY_AFTER)),
            }
        }
    }
}

fn is_news(known: Option<&Presence>, shown: &Shown) -> bool {
    let Some(known) = known else {
        return shown.state != PresenceState::Offline || shown.status_msg.is_some();
    };
    let moved = match (known.last_active_ms, shown.last_active_ms) {
        (Some(before), Some(now)) => now.saturating_sub(before) >= NEWS_AFTER_MS,
        (None, now) => now.is_some(),
        (Some(_), None) => false,
    };
    known.state != shown.state
        || known.status_msg != shown.status_msg
        || known.currently_active != shown.currently_active
        || moved
}

/// The last update of each user, by user: the others are over already.
pub(super) fn last_of_each(pushed: &[CanonicalJsonValue]) -> Vec<&CanonicalJsonObject> {
    let mut last = BTreeMap::new();
    for told in pushed.iter().filter_map(CanonicalJsonValue::as_object) {
        let user = told.get("user_id").and_then(CanonicalJsonValue::as_str);
        last.insert(user, told);
    }
    last.into_values().collect()
}

/// What an update says; none if it is malformed. A status message that is too
/// long is left out.
pub(super) fn shown(told: &CanonicalJsonObject) -> Option<Shown> {
    let state = match told.get("presence")?.as_str()? {
        "online" => PresenceState::Online,
        "unavailable" => PresenceState::Unavailable,
        "offline" => PresenceState::Offline,
        _ => return None,
    };
    let status_msg = match told.get("status_msg") {
        None | Some(CanonicalJsonValue::Null) => None,
        Some(CanonicalJsonValue::String(text)) => Some(text.as_str()),
        Some(_) => return None,
    };
    let status_msg =
        status_msg.filter(|text| !text.is_empty() && text.len() <= STATUS_MSG_BYTES_MAX);
    let ago = match told.get("last_active_ago") {
        None => None,
        Some(CanonicalJsonValue::Integer(ago)) => u64::try_from(i64::from(*ago)).ok(),
        Some(_) => return None,
    };
    let active = told.get("currently_active");
    let active = active
        .and_then(CanonicalJsonValue::as_bool)
        .unwrap_or(false);
    Some(Shown {
        state,
        status_msg: status_msg.map(Into::into),
        last_active_ms: ago.map(|ago| now_ms().saturating_sub(ago)),
        currently_active: active && state == PresenceState::Online,
    })
}
