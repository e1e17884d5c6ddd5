//! What must follow from a decision and is no part of it: guests leave a room
//! that no longer admits them, whoever or whatever changed that; and a change of
//! a profile that a crash kept from the user's rooms is carried on.
//!
//! It follows *output* and writes as users do. Doing something twice changes
//! nothing, so it keeps no cursor: a start looks again at the newest records.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use log_format::codec;
use log_format::record::output::{
    Decision, OutputRoomEvent, OutputRoomState, OutputUser, StateChange,
};
use log_format::record::{Envelope, Kind};
use ruma::{OwnedRoomId, OwnedUserId};

use super::joins::GUEST_ACCESS;
use super::room_error::RoomWriteError;
use super::room_writer::RoomWriter;
use crate::logs::log::{AppendError, Log, LogRecord, PartitionId, ReadError};
use crate::writers::submit::SubmitError;

/// Newest records of a partition that a start looks at again. What was going on
/// when the process ended began within the last seconds, so behind this.
const LOOKED_AT_AGAIN: u64 = 10_000;
/// Payload bytes of one read.
const GROUP_BYTES: usize = 256 * 1024;
/// How long it waits after a failure that may pass, a full disk for instance.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// After so many failures it is given up, so that it does not hold up what
/// comes behind it for ever.
const FAILURES_MAX: u32 = 10;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum FollowUp {
    RemoveGuests(OwnedRoomId),
    ShowProfile(OwnedUserId),
}

/// Follows one partition of *output* until it is dropped, or until nothing more
/// is accepted. Takes nothing from the server's answers: it runs beside them.
pub async fn follow(rooms: RoomWriter, output: Arc<dyn Log>, partition: PartitionId) {
    // A change of a profile is carried on by the request that made it, but for
    // one of an earlier process.
    let own = output.end(partition);
    let mut next = own
        .saturating_sub(LOOKED_AT_AGAIN)
        .max(output.begin(partition));
    loop {
        output.wait_beyond(partition, next).await;
        let (due, read_to) = match read(&*output, partition, next, own) {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(partition, %error, "output could not be followed");
                return;
            }
        };
        next = read_to;
        for follow_up in due {
            if !carry_out(&rooms, &follow_up).await {
                return;
            }
        }
    }
}

fn read(
    output: &dyn Log,
    partition: PartitionId,
    from: u64,
    own: u64,
) -> Result<(BTreeSet<FollowUp>, u64), ReadError> {
    let records = output.read(partition, from, GROUP_BYTES)?;
    let next = records.last().map_or(from, |last| last.offset + 1);
    let due = records
        .iter()
        .filter_map(|record| follow_up(record, record.offset < own));
    Ok((due.collect(), next))
}

/// What a record asks for. One that cannot be read asks for nothing: the readers
/// say so and stop the server.
fn follow_up(record: &LogRecord, is_earlier: bool) -> Option<FollowUp> {
    let envelope = record.envelope().ok()?;
    match envelope.kind {
        Kind::OutputRoomEvent => {
            let body: OutputRoomEvent = codec::decode(envelope.body).ok()?;
            remove_guests(&envelope, &body.state_delta)
        }
        Kind::OutputRoomState => {
            let body: OutputRoomState = codec::decode(envelope.body).ok()?;
            remove_guests(&envelope, &body.state_delta)
        }
        Kind::OutputUser if is_earlier => {
            let body: OutputUser = codec::decode(envelope.body).ok()?;
            let is_shown = matches!(body.name.as_deref(), Some("displayname" | "avatar_url"));
            let is_profile = body.kind == Kind::InputProfileField.number();
            if !is_profile || !is_shown || body.decision != Decision::Accepted {
                return None;
            }
            Some(FollowUp::ShowProfile(envelope.key.try_into().ok()?))
        }
        _ => None,
    }
}

fn remove_guests(envelope: &Envelope<'_>, delta: &[StateChange]) -> Option<FollowUp> {
    let mut delta = delta.iter();
    delta.find(|change| change.kind == GUEST_ACCESS && change.state_key.is_empty())?;
    Some(FollowUp::RemoveGuests(envelope.room_id?.try_into().ok()?))
}

/// Does it, again after a failure: for as long as the disk is full, else some
/// times. False if nothing more is accepted.
async fn carry_out(rooms: &RoomWriter, follow_up: &FollowUp) -> bool {
    let mut failures = 0;
    while failures < FAILURES_MAX {
        let done = match follow_up {
            FollowUp::RemoveGuests(room) => rooms.remove_guests(room).await,
            FollowUp::ShowProfile(user) => rooms.propagate_profile(user).await,
        };
        match done {
            Ok(()) => return true,
            Err(
                RoomWriteError::Stopping
                | RoomWriteError::Submit(
                    SubmitError::Append(AppendError::Closed) | SubmitError::Outcome(_),
                ),
            ) => return false,
            Err(error) => {
                tracing::warn!(?follow_up, %error, "a follow-up failed");
                match error {
                    RoomWriteError::Submit(SubmitError::Append(AppendError::DiskFull)) => {}
                    _ => failures += 1,
                }
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
    true
}
