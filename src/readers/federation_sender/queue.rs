//! What waits for one server: taken in order, thinned out where it is too much.
//!
//! A server that was away for long is not sent all that it missed: of each room
//! it gets our newest event, and asks for what that builds on
//! (`get_missing_events`). "Newest" are those of our events that none of our
//! later ones builds on, so that nothing is left out that nothing leads to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use log_format::record::input::Emitted;
use ruma::ServerName;

use super::destination::{Destination, State};
use super::rows::{self, Queued, Tip};
use crate::limits::TRANSACTION_PDUS_MAX;
use crate::logs::log::PartitionId;
use crate::readers::store::{Write, scan};
use crate::storage::columns::{SENDER_QUEUE, SENDER_TIPS};
use crate::storage::overlay::{Overlay, Read, StoreError};

/// Events above which a server that cannot be reached is sent the newest of each
/// room only: two transactions are faster sent than asked for.
pub const NEWEST_ONLY_ABOVE: u64 = 100;
/// The same for a server that can be reached, and does not keep up: what it
/// would take in order would be hours old.
const NEWEST_ONLY_FOR_ALL_ABOVE: u64 = 10_000;
/// Rows that one range read takes.
const PAGE_ROWS: usize = 1024;

/// Whether so much waits that only the newest is to be kept.
pub fn is_behind(state: &State, waiting: u64) -> bool {
    let most = match state.failures {
        0 => NEWEST_ONLY_FOR_ALL_ABOVE,
        _ => NEWEST_ONLY_ABOVE,
    };
    waiting > most
}

/// A transaction's worth of what waits behind `after`, at most up to `upto`.
pub fn read(
    store: &dyn Read,
    partition: PartitionId,
    server: &ServerName,
    after: Option<Emitted>,
    upto: Option<Emitted>,
) -> Result<Vec<Queued>, StoreError> {
    let prefix = rows::queue_key(partition, server);
    let from = after.map(|after| {
        let mut from = rows::queued_key(partition, server, after)
            .as_bytes()
            .to_vec();
        // The smallest key behind it.
        from.push(0);
        from
    });
    let page = store.range(
        SENDER_QUEUE,
        prefix.as_bytes(),
        from.as_deref(),
        false,
        TRANSACTION_PDUS_MAX,
    )?;
    let mut found = Vec::with_capacity(page.len());
    for (key, value) in &page {
        let queued = Queued::decode(key, value)?;
        if upto.is_some_and(|upto| queued.at > upto) {
            break;
        }
        found.push(queued);
    }
    Ok(found)
}

/// The first event that waits behind `after`.
pub fn first(
    store: &dyn Read,
    partition: PartitionId,
    server: &ServerName,
    after: Option<Emitted>,
) -> Result<Option<Emitted>, StoreError> {
    let some = read(store, partition, server, after, None)?;
    Ok(some.first().map(|first| first.at))
}

/// Counts what waits for a server. What it acknowledged (up to `upto`) waits only
/// where a crash took its removal back, and is removed.
pub fn settle(
    store: &dyn Write,
    partition: PartitionId,
    server: &ServerName,
    upto: Option<Emitted>,
) -> Result<u64, StoreError> {
    let prefix = rows::queue_key(partition, server);
    let mut rows = Overlay::new(store);
    let mut waiting = 0;
    scan(store, SENDER_QUEUE, prefix.as_bytes(), |key, _| {
        let (_, at) = rows::queued_at(key)?;
        match upto.is_some_and(|upto| at <= upto) {
            true => rows.delete(SENDER_QUEUE, key),
            false => waiting += 1,
        }
        Ok(())
    })?;
    if !rows.is_empty() {
        store.write(rows.into_writes())?;
    }
    Ok(waiting)
}

/// Takes the events out of a thinned queue that a newer one of their room leads
/// to. Returns how many those were.
pub fn replace(
    rows: &mut Overlay<'_>,
    partition: PartitionId,
    destination: &Arc<Destination>,
    closed: &[Tip],
) -> Result<u64, StoreError> {
    let fixed = fix_next(rows, partition, destination)?;
    let mut gone = 0;
    for tip in closed {
        let key = rows::queued_key(partition, &destination.name, tip.at);
        // What is being tried stays as it is, so that a repeat is the same.
        if Some(tip.at) > fixed && rows.get(SENDER_QUEUE, key.as_bytes())?.is_some() {
            rows.delete(SENDER_QUEUE, key.as_bytes());
            gone += 1;
        }
    }
    Ok(gone)
}

/// Leaves the newest events of each room, behind what is being tried.
pub fn thin_out(
    store: &dyn Write,
    partition: PartitionId,
    destination: &Arc<Destination>,
) -> Result<(), StoreError> {
    let mut rows = Overlay::new(store);
    let fixed = fix_next(&rows, partition, destination)?;
    destination.state().line(partition).newest_only = true;
    let prefix = rows::queue_key(partition, &destination.name);
    let mut tips: BTreeMap<String, BTreeSet<Emitted>> = BTreeMap::new();
    let mut from: Option<Vec<u8>> = None;
    let (mut kept, mut dropped) = (0, 0_u64);
    loop {
        let page = rows.range(
            SENDER_QUEUE,
            prefix.as_bytes(),
            from.as_deref(),
            false,
            PAGE_ROWS,
        )?;
        for (key, value) in &page {
            let queued = Queued::decode(key, value)?;
            let room = queued.room_id.as_str();
            if !tips.contains_key(room) {
                tips.insert(room.to_owned(), tips_of(&rows, partition, room)?);
            }
            let is_tip = tips.get(room).is_some_and(|tips| tips.contains(&queued.at));
            if is_tip || Some(queued.at) <= fixed {
                kept += 1;
            } else {
                rows.delete(SENDER_QUEUE, key);
                dropped += 1;
            }
        }
        let Some((last, _)) = page.last().filter(|_| page.len() == PAGE_ROWS) else {
            break;
        };
        from = Some([last.as_ref(), &[0]].concat());
    }
    // Thousands may be so at the same time: `federation queues` tells of them.
    tracing::debug!(
        server = %destination.name, kept, dropped,
        "server is behind: it will be sent the newest event of each room, and may ask for the others"
    );
    store.write(rows.into_writes())?;
    destination.state().line(partition).waiting = kept;
    Ok(())
}

fn tips_of(
    rows: &Overlay<'_>,
    partition: PartitionId,
    room: &str,
) -> Result<BTreeSet<Emitted>, StoreError> {
    let row = rows.get(SENDER_TIPS, rows::tips_key(partition, room).as_bytes())?;
    let tips = row.map_or(Ok(vec![]), |row| rows::tips(&row))?;
    Ok(tips.into_iter().map(|tip| tip.at).collect())
}

/// Settles what the next transaction is, if nobody has yet: the first event.
fn fix_next(
    rows: &Overlay<'_>,
    partition: PartitionId,
    destination: &Arc<Destination>,
) -> Result<Option<Emitted>, StoreError> {
    if let Some(next) = destination.state().line(partition).next {
        return Ok(Some(next));
    }
    let prefix = rows::queue_key(partition, &destination.name);
    let first = rows.range(SENDER_QUEUE, prefix.as_bytes(), None, false, 1)?;
    let Some((key, _)) = first.first() else {
        return Ok(None);
    };
    let (_, at) = rows::queued_at(key)?;
    let mut state = destination.state();
    let line = state.line(partition);
    // The courier may have settled it in the meantime, on the same event or on
    // one behind.
    line.next = line.next.max(Some(at));
    Ok(line.next)
}
