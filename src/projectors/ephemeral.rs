//! The projection of *ephemeral*: one task that follows it and folds each record
//! into the memory of the EDU server or of the presence server.
//!
//! Nothing of it reaches a table, *output* or the state digest. A start folds
//! what the log still holds, so that what was told before a restart is not
//! forgotten by it.

use std::sync::Arc;

use log_format::record::Kind;
use parking_lot::RwLock;
use ruma::{RoomId, UserId};
use tokio::sync::watch;

use super::eduserver::TypingTable;
use super::presenceserver::PresenceTable;
use crate::logs::ephemeral::PARTITION;
use crate::logs::log::{Log, LogRecord, ReadError};
use crate::query::ephemeral::{Changes, Ephemeral, Presence, Since, TypingRoom, Waiting};
use crate::query::ids::EphemeralOffset;

/// Payload bytes of one read.
const GROUP_BYTES: usize = 256 * 1024;

/// The memory of both servers, and the task's place in the log.
pub struct EphemeralProjection {
    log: Arc<dyn Log>,
    /// Presence is switched off: its records are passed over.
    without_presence: bool,
    /// Where the log stood when the process began.
    began: EphemeralOffset,
    tables: RwLock<Tables>,
    /// Offset behind the last record in `tables`, for those who wait.
    folded: watch::Sender<EphemeralOffset>,
}

#[derive(Default)]
struct Tables {
    typing: TypingTable,
    presence: PresenceTable,
    next: EphemeralOffset,
}

impl EphemeralProjection {
    /// Folds what the log holds. What cannot be read of it is passed over: it is
    /// of an earlier process, and was never flushed.
    pub fn open(log: Arc<dyn Log>, presence: bool) -> EphemeralProjection {
        let end = EphemeralOffset(log.end(PARTITION));
        let begin = EphemeralOffset(log.begin(PARTITION));
        let projection = EphemeralProjection {
            began: end,
            without_presence: !presence,
            tables: RwLock::default(),
            folded: watch::Sender::new(begin),
            log,
        };
        projection.tables.write().next = begin;
        if let Err(error) = projection.catch_up() {
            tracing::warn!(%error, "ephemeral log of an earlier process cannot be read");
            projection.tables.write().next = end;
        }
        projection
    }

    /// Folds all that is new.
    pub fn catch_up(&self) -> Result<(), ReadError> {
        loop {
            let next = self.tables.read().next.0;
            match self.log.read(PARTITION, next, GROUP_BYTES) {
                Ok(records) if records.is_empty() => return Ok(()),
                Ok(records) => self.fold(&records),
                Err(ReadError::Trimmed { begin, .. }) => {
                    self.tables.write().next = EphemeralOffset(begin);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Follows the log until it is dropped, or cannot go on.
    pub async fn follow(self: Arc<Self>) {
        loop {
            let next = self.tables.read().next.0;
            self.log.wait_beyond(PARTITION, next).await;
            if let Err(error) = self.catch_up() {
                tracing::error!(%error, "ephemeral log cannot be followed");
                return;
            }
        }
    }

    fn fold(&self, records: &[LogRecord]) {
        let mut tables = self.tables.write();
        for record in records {
            let offset = EphemeralOffset(record.offset);
            // What is no envelope says nothing.
            let Ok(envelope) = record.envelope() else {
                continue;
            };
            match envelope.kind {
                Kind::EphemeralTyping => tables.typing.fold(offset, &envelope),
                Kind::EphemeralPresence if !self.without_presence => {
                    tables.presence.fold(offset, &envelope);
                }
                _ => {}
            }
        }
        if let Some(last) = records.last() {
            tables.next = EphemeralOffset(last.offset + 1);
        }
        let next = tables.next;
        // Who is woken asks for the tables.
        drop(tables);
        self.folded.send_replace(next);
    }
}

impl Ephemeral for EphemeralProjection {
    fn keeps_presence(&self) -> bool {
        !self.without_presence
    }

    fn changes(&self, since: Since) -> Changes {
        let tables = self.tables.read();
        Changes {
            to: tables.next,
            typing: tables.typing.changes(since, self.began),
            presence: tables.presence.changes(since, self.began),
        }
    }

    fn typing_in(&self, room: &RoomId) -> Option<Arc<TypingRoom>> {
        self.tables.read().typing.room(room)
    }

    fn presence_of(&self, user: &UserId) -> Option<Arc<Presence>> {
        self.tables.read().presence.user(user)
    }

    fn statuses_before(&self, before: EphemeralOffset) -> Vec<Arc<Presence>> {
        self.tables.read().presence.statuses_before(before)
    }

    fn wait_beyond(&self, offset: EphemeralOffset) -> Waiting<'_> {
        let mut folded = self.folded.subscribe();
        Box::pin(async move {
            // The sender lives in `self`, which outlives this future.
            let _ = folded.wait_for(|end| *end > offset).await;
        })
    }
}
