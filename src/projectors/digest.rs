//! State digests: whether two stores say the same.
//!
//! [`state_digest`] covers every row of every digested table, so it is equal
//! only for the same log. [`logical_digests`] says the same by room, user and
//! alias without offsets or interned ids, so it is equal also between logs of
//! different numbers of partitions.

use std::collections::BTreeMap;

use log_format::codec;
use log_format::record::output::{
    OutputAlias, OutputDelivery, OutputOutsideMembership, OutputReceipt, OutputRoomEvent,
    OutputRoomGap, OutputRoomPublished, OutputRoomPurged, OutputRoomState, OutputServerKeys,
    OutputUser,
};
use log_format::record::{Envelope, Kind};

use super::output_log::READ_BYTES;
use crate::logs::log::{Log, ReadError};
use crate::storage::columns::{self, Table};
use crate::storage::open::Store;
use crate::storage::overlay::{Read, StoreError};

/// A BLAKE3 digest of state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// The tables that are digested, ordered by family and tag.
pub fn digested_tables() -> Vec<Table> {
    let mut tables: Vec<Table> = columns::ALL
        .iter()
        .filter(|table| table.digested)
        .copied()
        .collect();
    tables.sort_by_key(|table| (table.family, table.tag));
    tables
}

/// Digest of the store's content.
///
/// Shape: blake3("engram state v1", then for each table in order of family and
/// tag: len u64 and name, and for each row in order of key: len u64 and key, len
/// u64 and value). Lengths are little-endian.
pub fn state_digest(store: &Store) -> Result<Digest, StoreError> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"engram state v1");
    for table in digested_tables() {
        put(&mut hasher, table.name.as_bytes());
        store.scan(table, &[], |key, value| {
            put(&mut hasher, key);
            put(&mut hasher, value);
            Ok::<(), StoreError>(())
        })?;
    }
    Ok(Digest(*hasher.finalize().as_bytes()))
}

fn put(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

/// The first row in which two stores differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowDifference {
    pub table: &'static str,
    pub key: Vec<u8>,
    pub what: &'static str,
}

impl std::fmt::Display for RowDifference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = self.key.escape_ascii();
        write!(f, "table {}, key {key}: {}", self.table, self.what)
    }
}

/// The first difference between what is `stored` and what was `replayed`, by
/// table and key.
pub fn first_difference(
    stored: &Store,
    replayed: &Store,
) -> Result<Option<RowDifference>, StoreError> {
    for table in digested_tables() {
        let difference = first_difference_in(table, stored, replayed)?;
        if difference.is_some() {
            return Ok(difference);
        }
    }
    Ok(None)
}

/// Rows compared at a time.
const ROWS_COMPARED: usize = 1024;

fn first_difference_in(
    table: Table,
    stored: &Store,
    replayed: &Store,
) -> Result<Option<RowDifference>, StoreError> {
    let mut from: Option<Vec<u8>> = None;
    loop {
        let rows = |store: &Store| store.range(table, &[], from.as_deref(), false, ROWS_COMPARED);
        let (left, right) = (rows(stored)?, rows(replayed)?);
        let difference = |key: &[u8], what| {
            Some(RowDifference {
                table: table.name,
                key: key.to_vec(),
                what,
            })
        };
        for (left, right) in left.iter().zip(&right) {
            if left.0 < right.0 {
                return Ok(difference(&left.0, "only in the store"));
            }
            if left.0 > right.0 {
                return Ok(difference(&right.0, "only in the replay"));
            }
            if left.1 != right.1 {
                return Ok(difference(&left.0, "values differ"));
            }
        }
        let common = left.len().min(right.len());
        if let Some((key, _)) = left.get(common) {
            return Ok(difference(key, "only in the store"));
        }
        if let Some((key, _)) = right.get(common) {
            return Ok(difference(key, "only in the replay"));
        }
        let Some((last, _)) = left.last().filter(|_| left.len() == ROWS_COMPARED) else {
            return Ok(None);
        };
        let mut next = last.to_vec();
        next.push(0);
        from = Some(next);
    }
}

/// Why logical digests could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LogicalError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("output record at offset {offset} of partition {partition} does not decode")]
    Record { partition: u32, offset: u64 },
}

/// For each room, user and alias (its partition key), a digest of everything
/// that was decided about it, in order: event ids, decisions, state changes and
/// content; no offsets, no interned ids.
pub fn logical_digests(output: &dyn Log) -> Result<BTreeMap<String, Digest>, LogicalError> {
    let mut digests: BTreeMap<String, Digest> = BTreeMap::new();
    for partition in 0..output.partitions() {
        let mut at = output.begin(partition);
        loop {
            let records = output.read(partition, at, READ_BYTES)?;
            let Some(last) = records.last() else { break };
            at = last.offset + 1;
            for record in &records {
                let bad = || LogicalError::Record {
                    partition,
                    offset: record.offset,
                };
                let envelope = record.envelope().map_err(|_| bad())?;
                let said = logical(&envelope).ok_or_else(bad)?;
                let digest = digests.entry(envelope.key.to_owned());
                let digest = digest.or_insert(Digest([0; 32]));
                let mut hasher = blake3::Hasher::new();
                hasher.update(&digest.0);
                hasher.update(&said);
                digest.0 = *hasher.finalize().as_bytes();
            }
        }
    }
    Ok(digests)
}

/// What a record says, without where it stands.
fn logical(envelope: &Envelope<'_>) -> Option<Vec<u8>> {
    let mut said = match envelope.kind {
        Kind::OutputRoomEvent => {
            let body: OutputRoomEvent = codec::decode(envelope.body).ok()?;
            codec::encode(&(
                (body.decision, body.reason, body.place, body.state_delta),
                (body.memberships, body.extremities, body.visibility),
                (body.timeline, body.redacts, body.thread, body.transaction),
            ))
        }
        Kind::OutputRoomPublished => {
            let body: OutputRoomPublished = codec::decode(envelope.body).ok()?;
            codec::encode(&(body.decision, body.reason, body.published))
        }
        Kind::OutputRoomPurged => {
            let body: OutputRoomPurged = codec::decode(envelope.body).ok()?;
            codec::encode(&(
                body.decision,
                body.reason,
                body.step,
                body.users,
                body.finished,
            ))
        }
        Kind::OutputRoomState => {
            let body: OutputRoomState = codec::decode(envelope.body).ok()?;
            codec::encode(&(body.state_delta, body.memberships))
        }
        Kind::OutputRoomGap => {
            let body: OutputRoomGap = codec::decode(envelope.body).ok()?;
            codec::encode(&(body.prev_events, body.auth_events))
        }
        Kind::OutputReceipt => {
            let body: OutputReceipt = codec::decode(envelope.body).ok()?;
            codec::encode(&(
                body.decision,
                body.reason,
                body.receipt_type,
                body.thread,
                body.place,
            ))
        }
        Kind::OutputUser => {
            let body: OutputUser = codec::decode(envelope.body).ok()?;
            codec::encode(&(
                body.decision,
                body.reason,
                body.kind,
                body.devices,
                body.name,
            ))
        }
        Kind::OutputAlias => {
            let body: OutputAlias = codec::decode(envelope.body).ok()?;
            codec::encode(&(body.decision, body.reason, body.kind))
        }
        Kind::OutputOutsideMembership => {
            let body: OutputOutsideMembership = codec::decode(envelope.body).ok()?;
            codec::encode(&(body.decision, body.reason, body.membership))
        }
        Kind::OutputServerKeys => {
            let body: OutputServerKeys = codec::decode(envelope.body).ok()?;
            codec::encode(&(body.decision, body.reason))
        }
        Kind::OutputDelivery => {
            let body: OutputDelivery = codec::decode(envelope.body).ok()?;
            codec::encode(&(body.decision, body.reason))
        }
        _ => return None,
    };
    let routing = [
        envelope.room_id,
        envelope.event_id,
        envelope.sender,
        envelope.event_type,
        envelope.state_key,
    ];
    for text in routing {
        said.extend(codec::encode(&text.map(str::to_owned)));
    }
    for part in [&envelope.skeleton, &envelope.body_part] {
        let digest = part.bytes().map(|bytes| *blake3::hash(bytes).as_bytes());
        said.extend(digest.unwrap_or_default());
    }
    Some(said)
}
