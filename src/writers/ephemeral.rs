//! Records of *ephemeral*: how they are made, appended, and waited for.
//!
//! Whoever learns that somebody types or is there appends it here: the setters
//! of local clients, and whoever takes in what other servers tell. What comes
//! from elsewhere is checked before: users of the server that sent it, and for
//! typing, in the room.

use std::sync::Arc;
use std::time::Duration;

use log_format::codec;
use log_format::record::ephemeral::{EphemeralPresence, EphemeralTyping, PresenceState};
use log_format::record::{Kind, NewEnvelope, Part, Source};
use ruma::{RoomId, UserId};
use tokio::time::timeout;

use crate::clock::{now_ms, now_us};
use crate::crypto::random;
use crate::logs::ephemeral::PARTITION;
use crate::logs::log::{Append, AppendError, AppendTicket, NewRecord};
use crate::query::ephemeral::Ephemeral;
use crate::query::ids::EphemeralOffset;

/// How long a request waits for what it told to be seen. It takes a millisecond,
/// unless something is broken, and nothing is lost by not waiting.
const FOLD_MAX: Duration = Duration::from_secs(1);

/// Appends to *ephemeral*. Cheap to clone.
#[derive(Clone)]
pub struct EphemeralWriter {
    log: Arc<dyn Append>,
    window: Arc<dyn Ephemeral>,
}

/// A record on its way.
pub struct Pending {
    ticket: AppendTicket,
    window: Arc<dyn Ephemeral>,
}

impl EphemeralWriter {
    pub fn new(log: Arc<dyn Append>, window: Arc<dyn Ephemeral>) -> EphemeralWriter {
        EphemeralWriter { log, window }
    }

    /// What was told so far.
    pub fn window(&self) -> &Arc<dyn Ephemeral> {
        &self.window
    }

    /// Queues a record. The order of calls is the order in the log.
    pub fn enqueue(&self, record: NewRecord) -> Result<Pending, AppendError> {
        Ok(Pending {
            ticket: self.log.enqueue(PARTITION, vec![record])?,
            window: self.window.clone(),
        })
    }
}

impl Pending {
    /// Waits until the record is in the answers of the query window.
    pub async fn finish(self) -> Result<(), AppendError> {
        let appended = self.ticket.await?;
        let folded = self.window.wait_beyond(EphemeralOffset(appended.last()));
        if timeout(FOLD_MAX, folded).await.is_err() {
            tracing::warn!("what was told of a user is not seen yet");
        }
        Ok(())
    }
}

/// A user begins or ceases to type.
pub fn typing_record(room: &RoomId, user: &UserId, typing: bool, source: Source) -> NewRecord {
    let body = codec::encode(&EphemeralTyping { typing });
    let envelope = NewEnvelope {
        received_us: now_us(),
        origin_ts_ms: now_ms(),
        key: room.as_str(),
        room_id: Some(room.as_str()),
        sender: Some(user.as_str()),
        body: &body,
        ..NewEnvelope::default()
    };
    NewRecord::new(Kind::EphemeralTyping, source, &envelope)
}

/// What is told of a user's presence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub state: PresenceState,
    pub status_msg: Option<Box<str>>,
    /// Milliseconds since the epoch.
    pub last_active_ms: Option<u64>,
    pub currently_active: bool,
}

/// A user's presence, in place of the one before.
pub fn presence_record(user: &UserId, shown: &Shown, source: Source) -> NewRecord {
    let body = codec::encode(&EphemeralPresence {
        presence: shown.state,
        last_active_ms: shown.last_active_ms,
        currently_active: shown.currently_active,
    });
    let status_msg = shown.status_msg.as_deref();
    let envelope = NewEnvelope {
        received_us: now_us(),
        origin_ts_ms: now_ms(),
        key: user.as_str(),
        sender: Some(user.as_str()),
        body: &body,
        body_part: status_msg.map_or(Part::Absent, |text| Part::Present(text.as_bytes())),
        salt: random::bytes(),
        ..NewEnvelope::default()
    };
    NewRecord::new(Kind::EphemeralPresence, source, &envelope)
}
