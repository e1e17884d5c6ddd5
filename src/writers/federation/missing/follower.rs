//! Gaps that the room server met all the same: of an event whose past did not come
//! while its server waited for the answer, of one of a parked room, whose past
//! nobody looked for, or of one that builds on what was refused.
//!
//! It follows *output* and does what the receiver does before the append, then
//! appends the event once more. Doing that twice changes nothing, so it keeps no
//! cursor: a start looks again at the newest records.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use log_format::codec;
use log_format::record::input::Placement;
use log_format::record::output::{Decision, OutputRoomGap};
use log_format::record::{Kind, Source};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, ServerName};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{GapError, MissingEvents};
use crate::logs::log::{Log, LogRecord, PartitionId, ReadError};
use crate::matrix::RoomVersion;
use crate::matrix::canonical_json::parse_stored_object;
use crate::query::rooms::StoredEvent;
use crate::writers::federation::past::has_state;

/// Newest records of a partition that a start looks at again.
const LOOKED_AT_AGAIN: u64 = 10_000;
/// Payload bytes of one read.
const GROUP_BYTES: usize = 256 * 1024;
/// Gaps that are seen to. Further ones are left to the next event that needs the
/// same.
const WAITING_MAX: usize = 256;
/// The same of one server.
const WAITING_OF_ONE_SERVER: usize = 8;
/// How long a gap waits for its turn and is filled, each time that it is tried.
const TRY_MAX: Duration = Duration::from_secs(240);
/// How often one event's gap is tried, and the pause before it is tried again.
const TRIES_MAX: u32 = 3;
const RETRY_AFTER: Duration = Duration::from_secs(20);
/// Events whose gap was tried that are remembered.
const TRIED_MAX: usize = 4_096;

/// An event that waits for its past.
#[derive(Clone, Debug)]
struct Waiting {
    room: OwnedRoomId,
    event: OwnedEventId,
    /// Who sent it.
    origin: Option<OwnedServerName>,
    /// Whether `prev_events` are missing, not only what authorises it.
    has_no_state: bool,
}

/// How many gaps of each server are seen to.
#[derive(Clone, Default)]
struct Crowd {
    of: Arc<Mutex<HashMap<Option<OwnedServerName>, usize>>>,
}

/// A place in the crowd, free again when dropped.
struct InCrowd {
    crowd: Crowd,
    server: Option<OwnedServerName>,
}

impl Crowd {
    fn enter(&self, server: Option<&ServerName>) -> Option<InCrowd> {
        let server = server.map(ToOwned::to_owned);
        let mut of = self.of.lock();
        let count = of.entry(server.clone()).or_default();
        if *count >= WAITING_OF_ONE_SERVER {
            return None;
        }
        *count += 1;
        let crowd = self.clone();
        Some(InCrowd { crowd, server })
    }
}

impl Drop for InCrowd {
    fn drop(&mut self) {
        let mut of = self.crowd.of.lock();
        if let Some(count) = of.get_mut(&self.server) {
            *count = count.saturating_sub(1);
        }
        of.retain(|_, count| *count > 0);
    }
}

impl MissingEvents {
    /// Follows one partition of *output* until it is dropped.
    pub async fn follow(self, output: Arc<dyn Log>, partition: PartitionId) {
        let end = output.end(partition);
        let mut next = end
            .saturating_sub(LOOKED_AT_AGAIN)
            .max(output.begin(partition));
        let tried: Cache<OwnedEventId, ()> = Cache::new(TRIED_MAX);
        let crowd = Crowd::default();
        let mut tasks = JoinSet::new();
        loop {
            output.wait_beyond(partition, next).await;
            while tasks.try_join_next().is_some() {}
            let records = match output.read(partition, next, GROUP_BYTES) {
                Ok(records) => records,
                Err(ReadError::Trimmed { begin, .. }) => {
                    next = begin;
                    continue;
                }
                Err(error) => {
                    tracing::error!(partition, %error, "output could not be followed");
                    return;
                }
            };
            next = records.last().map_or(next, |last| last.offset + 1);
            for waiting in records.iter().filter_map(waiting) {
                // That it is appended again may lead to the same record again.
                let is_new = tried.get(&waiting.event).is_none();
                if !is_new || tasks.len() >= WAITING_MAX {
                    continue;
                }
                let Some(place) = crowd.enter(waiting.origin.as_deref()) else {
                    continue;
                };
                tried.insert(waiting.event.clone(), ());
                let this = self.clone();
                tasks.spawn(async move {
                    this.try_often(&waiting).await;
                    drop(place);
                });
            }
        }
    }

    async fn try_often(&self, waiting: &Waiting) {
        for _ in 0..TRIES_MAX {
            let Err(error) = self.bring_in(waiting).await else {
                return;
            };
            tracing::debug!(room = %waiting.room, event = %waiting.event, %error, "a gap stays");
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// Fetches what an event that is kept aside waits for, and appends it again.
    async fn bring_in(&self, waiting: &Waiting) -> Result<(), GapError> {
        let parts = &self.inner.parts;
        let Some(head) = parts.rooms.head(&waiting.room)? else {
            return Ok(());
        };
        let Some(stored) = parts.rooms.event(&waiting.room, &waiting.event)? else {
            return Ok(());
        };
        let version = RoomVersion::try_from(&head.version).ok();
        let (Some(version), Ok(json)) = (version, parse_stored_object(&stored.json)) else {
            return Ok(());
        };
        if !head.is_resident(&parts.own) || !is_left_out(&stored, waiting) {
            return Ok(());
        }
        // It was checked when it came; what the verdict rests on is recorded anew.
        let Ok(event) = parts.checks.check(version, json).await else {
            return Ok(());
        };
        let sender = stored.sender.server_name();
        let origin = waiting.origin.as_deref().unwrap_or(sender);
        let deadline = Instant::now() + TRY_MAX;
        self.fill(origin, &head, &event, Some(deadline)).await?;
        let record = event.record(Placement::New, Source::Federation, origin);
        let record = parts.policies.sought(&head, record).await;
        let appended = parts
            .submitter
            .enqueue(waiting.room.as_str(), vec![record])?;
        appended.durable().await?;
        Ok(())
    }
}

/// Whether the event is still no part of the room for want of its past. Events
/// that were fetched as outliers are where they belong.
fn is_left_out(stored: &StoredEvent, waiting: &Waiting) -> bool {
    match stored.decision {
        Decision::Outlier => waiting.has_no_state,
        Decision::Rejected => waiting.has_no_state || has_state(stored),
        Decision::Accepted | Decision::SoftFailed | Decision::Duplicate => false,
    }
}

fn waiting(record: &LogRecord) -> Option<Waiting> {
    let envelope = record.envelope().ok()?;
    if envelope.kind != Kind::OutputRoomGap {
        return None;
    }
    let gap: OutputRoomGap = codec::decode(envelope.body).ok()?;
    Some(Waiting {
        room: OwnedRoomId::try_from(envelope.room_id?).ok()?,
        // One of a given state names none.
        event: <&EventId>::try_from(envelope.event_id?).ok()?.to_owned(),
        origin: envelope
            .origin
            .and_then(|origin| OwnedServerName::try_from(origin).ok()),
        has_no_state: !gap.prev_events.is_empty(),
    })
}
