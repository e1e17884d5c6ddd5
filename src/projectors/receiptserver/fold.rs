//! The receipt server's fold: a receipt moves forward, or nothing happens.

use log_format::codec;
use log_format::record::input::{InputReceipt, ReceiptType};
use log_format::record::output::{Decision, OutputReceipt, Reason};
use log_format::record::{Kind, NewEnvelope};
use ruma::{EventId, RoomId, UserId};

use super::rows::{self, KEY_TEXT_BYTES_MAX, ReceiptRow};
use crate::logs::log::NewRecord;
use crate::projectors::fold::{FoldError, FoldInput, Folded, Projector, Stamp};
use crate::projectors::roomserver::is_gone;
use crate::query::ids::Place;
use crate::query::receipts::{ReceiptThread, moves_forward};
use crate::storage::columns::RECEIPTS;
use crate::storage::overlay::{Overlay, StoreError};

/// The projector of one lane. Answers come from the table.
#[derive(Default)]
pub struct ReceiptProjector {
    stamps: Vec<Stamp>,
}

impl Projector for ReceiptProjector {
    fn fold(
        &mut self,
        record: &FoldInput<'_>,
        tables: &mut Overlay<'_>,
    ) -> Result<Folded, FoldError> {
        let envelope = record.envelope;
        let body = (envelope.kind == Kind::InputReceipt)
            .then(|| codec::decode::<InputReceipt>(envelope.body).ok())
            .flatten();
        let (decision, reason) = match &body {
            None => (Decision::Rejected, Reason::Malformed),
            Some(body) => self.receipt(record, body, tables)?,
        };
        // Nothing is read of a body that does not decode; one that was refused
        // needs no more than its place in the sequence.
        let said = body.unwrap_or(InputReceipt {
            receipt_type: ReceiptType::Read,
            thread: None,
            place: None,
        });
        let body = codec::encode(&OutputReceipt {
            origin: record.origin(),
            decision,
            reason,
            receipt_type: said.receipt_type,
            thread: said.thread,
            place: said.place,
        });
        let output = NewEnvelope {
            body: &body,
            ..envelope.to_new()
        };
        let output = NewRecord::new(Kind::OutputReceipt, envelope.source, &output);
        Ok(Folded::decided(vec![output], decision, reason))
    }

    fn publish(&mut self) {}

    fn stamps(&mut self) -> Vec<Stamp> {
        std::mem::take(&mut self.stamps)
    }
}

impl ReceiptProjector {
    fn receipt(
        &mut self,
        record: &FoldInput<'_>,
        body: &InputReceipt,
        tables: &mut Overlay<'_>,
    ) -> Result<(Decision, Reason), StoreError> {
        let envelope = record.envelope;
        let fits = |text: &&str| text.len() <= KEY_TEXT_BYTES_MAX;
        let room = Some(envelope.key)
            .filter(fits)
            .filter(|room| RoomId::parse(room).is_ok())
            .filter(|room| envelope.room_id == Some(room));
        let user = envelope
            .sender
            .filter(fits)
            .filter(|user| UserId::parse(user).is_ok());
        let event_id = envelope
            .event_id
            .filter(|event| EventId::parse(event).is_ok());
        let thread = ReceiptThread::parse(body.thread.as_deref());
        let (Some(room), Some(user), Some(event_id), Some(thread)) = (room, user, event_id, thread)
        else {
            return Ok((Decision::Rejected, Reason::Malformed));
        };
        if is_gone(&*tables, record.partition, room)? {
            return Ok((Decision::Rejected, Reason::UnknownRoom));
        }
        let key = rows::key(
            record.partition,
            (room, user),
            body.receipt_type,
            thread.as_thread_id(),
        );
        let row = ReceiptRow {
            changed_at: record.offset,
            place: body.place.map(Place::from_bytes),
            ts: envelope.origin_ts_ms,
            event_id: event_id.to_owned(),
        };
        if let Some(before) = tables.get(RECEIPTS, key.as_bytes())? {
            let before = ReceiptRow::decode(&before)?;
            if !moves_forward((before.place, before.ts), (row.place, row.ts)) {
                return Ok((Decision::Duplicate, Reason::None));
            }
        }
        tables.put(RECEIPTS, key.as_bytes(), row.encode());
        self.stamps.push(Stamp {
            input_offset: record.offset,
            table: RECEIPTS,
            key: key.as_bytes().to_vec(),
        });
        Ok((Decision::Accepted, Reason::None))
    }
}
