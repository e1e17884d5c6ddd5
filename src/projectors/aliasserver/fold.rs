//! The alias server's fold: the first to create an alias has it.

use log_format::codec;
use log_format::record::input::{InputAliasCreated, InputAliasRemoved};
use log_format::record::output::{Decision, OutputAlias, Reason};
use log_format::record::{Kind, NewEnvelope};
use ruma::{OwnedServerName, RoomAliasId, RoomId, UserId};

use super::rows::{self, AliasRow};
use crate::logs::log::NewRecord;
use crate::projectors::fold::{FoldError, FoldInput, Folded, Projector};
use crate::storage::columns::{ALIASES, ROOM_ALIASES};
use crate::storage::overlay::{Overlay, StoreError};

/// The projector of one lane. It holds nothing: answers come from the tables.
#[derive(Default)]
pub struct AliasProjector;

impl Projector for AliasProjector {
    fn fold(
        &mut self,
        record: &FoldInput<'_>,
        tables: &mut Overlay<'_>,
    ) -> Result<Folded, FoldError> {
        let reason = match record.envelope.kind {
            Kind::InputAliasCreated => created(record, tables)?,
            Kind::InputAliasRemoved => removed(record, tables)?,
            _ => Reason::Malformed,
        };
        let decision = match reason {
            Reason::None => Decision::Accepted,
            _ => Decision::Rejected,
        };
        let body = codec::encode(&OutputAlias {
            origin: record.origin(),
            decision,
            reason,
            kind: record.envelope.kind.number(),
        });
        let output = NewEnvelope {
            body: &body,
            ..record.envelope.to_new()
        };
        let output = NewRecord::new(Kind::OutputAlias, record.envelope.source, &output);
        Ok(Folded::decided(vec![output], decision, reason))
    }

    fn publish(&mut self) {}
}

fn created(record: &FoldInput<'_>, tables: &mut Overlay<'_>) -> Result<Reason, StoreError> {
    let envelope = record.envelope;
    let body = codec::decode::<InputAliasCreated>(envelope.body).ok();
    let valid = RoomAliasId::parse(envelope.key).is_ok()
        && envelope
            .room_id
            .is_some_and(|room| RoomId::parse(room).is_ok())
        && envelope
            .sender
            .is_some_and(|user| UserId::parse(user).is_ok());
    let (Some(body), Some(room_id), Some(creator), true) =
        (body, envelope.room_id, envelope.sender, valid)
    else {
        return Ok(Reason::Malformed);
    };
    let mut servers = body.servers.iter();
    if !servers.all(|server| OwnedServerName::try_from(server.as_str()).is_ok()) {
        return Ok(Reason::Malformed);
    }
    if rows::read_row(tables, record.partition, envelope.key)?.is_some() {
        return Ok(Reason::Taken);
    }
    let row = AliasRow {
        room_id: room_id.to_owned(),
        creator: creator.to_owned(),
        servers: body.servers,
    };
    let key = rows::alias_key(record.partition, envelope.key);
    tables.put(ALIASES, key.as_bytes(), codec::encode(&row));
    let of_room = rows::room_prefix(record.partition, room_id).bytes(envelope.key.as_bytes());
    tables.put(ROOM_ALIASES, of_room.as_bytes(), Vec::new());
    Ok(Reason::None)
}

fn removed(record: &FoldInput<'_>, tables: &mut Overlay<'_>) -> Result<Reason, StoreError> {
    let envelope = record.envelope;
    if codec::decode::<InputAliasRemoved>(envelope.body).is_err() {
        return Ok(Reason::Malformed);
    }
    let Some(row) = rows::read_row(tables, record.partition, envelope.key)? else {
        return Ok(Reason::NotFound);
    };
    let key = rows::alias_key(record.partition, envelope.key);
    tables.delete(ALIASES, key.as_bytes());
    let of_room = rows::room_prefix(record.partition, &row.room_id).bytes(envelope.key.as_bytes());
    tables.delete(ROOM_ALIASES, of_room.as_bytes());
    Ok(Reason::None)
}
