//! The key server's fold: keys are added, and never replaced by others under
//! the same id.

use log_format::codec;
use log_format::record::input::InputServerKeys;
use log_format::record::output::{Decision, OutputServerKeys, Reason};
use log_format::record::{Kind, NewEnvelope};
use ruma::ServerName;

use super::rows::{self, KeyRow};
use crate::logs::log::NewRecord;
use crate::matrix::canonical_json::parse_stored_object;
use crate::matrix::server_keys::ServerKeys;
use crate::projectors::fold::{FoldError, FoldInput, Folded, Projector};
use crate::storage::columns::SERVER_KEYS;
use crate::storage::overlay::{Overlay, StoreError};

/// Keys that are kept of one server. Ours: no server needs as many, and each
/// answer may name 200 others.
const KEYS_PER_SERVER_MAX: usize = 1_000;
/// Earlier answers that are kept of one server, of some 1 KiB each and 64 at
/// most. Ours: a server that forgets its old keys may do so a few times.
const OLDER_ANSWERS_MAX: usize = 4;

/// The projector of one lane. It holds nothing: answers come from the table.
#[derive(Default)]
pub struct KeyProjector;

impl Projector for KeyProjector {
    fn fold(
        &mut self,
        record: &FoldInput<'_>,
        tables: &mut Overlay<'_>,
    ) -> Result<Folded, FoldError> {
        let reason = match published(record) {
            Some((body, keys)) => keep(record.partition, &body, keys, tables)?,
            None => Reason::Malformed,
        };
        let decision = match reason {
            Reason::None => Decision::Accepted,
            _ => Decision::Rejected,
        };
        let body = codec::encode(&OutputServerKeys {
            origin: record.origin(),
            decision,
            reason,
        });
        let output = NewEnvelope {
            body: &body,
            ..record.envelope.to_new()
        };
        let output = NewRecord::new(Kind::OutputServerKeys, record.envelope.source, &output);
        Ok(Folded::decided(vec![output], decision, reason))
    }

    fn publish(&mut self) {}
}

/// What a record says, if it is what its writer checked.
fn published(record: &FoldInput<'_>) -> Option<(InputServerKeys, ServerKeys)> {
    let envelope = record.envelope;
    if envelope.kind != Kind::InputServerKeys {
        return None;
    }
    let body = codec::decode::<InputServerKeys>(envelope.body).ok()?;
    let server = <&ServerName>::try_from(envelope.key).ok()?;
    let json = parse_stored_object(envelope.body_part.bytes()?).ok()?;
    let keys = ServerKeys::check(json, server, body.fetched_ms).ok()?;
    Some((body, keys))
}

fn keep(
    partition: u32,
    body: &InputServerKeys,
    keys: ServerKeys,
    tables: &mut Overlay<'_>,
) -> Result<Reason, StoreError> {
    let server = keys.server_name.as_str();
    let mut row = rows::read_row(tables, partition, server)?.unwrap_or_default();
    let newest = body.fetched_ms >= row.fetched_ms;
    for (id, known) in &keys.keys {
        let fresh = KeyRow::of(*known);
        match row.keys.get(id) {
            // Whoever has taken over a name may not speak for what was signed before.
            Some(there) if there.key != fresh.key => return Ok(Reason::Taken),
            Some(_) if !newest => (),
            Some(_) => drop(row.keys.insert(id.clone(), fresh)),
            None if row.keys.len() < KEYS_PER_SERVER_MAX => {
                row.keys.insert(id.clone(), fresh);
            }
            None => return Ok(Reason::TooMuchWork),
        }
    }
    if newest {
        row.fetched_ms = body.fetched_ms;
        let before = std::mem::replace(&mut row.json, keys.to_bytes());
        if names_others(&before, &keys) {
            row.older.insert(0, before);
            row.older.truncate(OLDER_ANSWERS_MAX);
        }
    }
    let key = rows::key(partition, server);
    tables.put(SERVER_KEYS, key.as_bytes(), codec::encode(&row));
    Ok(Reason::None)
}

/// Whether an earlier answer names a key that this one does not.
fn names_others(before: &[u8], now: &ServerKeys) -> bool {
    let Ok(before) = parse_stored_object(before) else {
        return false;
    };
    let lists = ["verify_keys", "old_verify_keys"].into_iter();
    let named = lists.filter_map(|list| before.get(list)?.as_object());
    let mut named = named.flat_map(|list| list.keys());
    named.any(|id| !now.keys.contains_key(id))
}
