//! `m.receipt` (server-server API, *Receipts*): how far users of another server
//! have read.

use log_format::record::Source;
use log_format::record::input::ReceiptType;
use log_format::record::output::Decision;
use ruma::{EventId, OwnedEventId, RoomId, ServerName};

use super::{Dropped, Edus, room_id, text, user_of};
use crate::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use crate::query::ids::Place;
use crate::query::receipts::ReceiptThread;
use crate::query::rooms::RoomHead;
use crate::writers::client::receipt_setter::NewReceipt;

impl Edus {
    pub(super) async fn receipts(
        &self,
        origin: &ServerName,
        content: &CanonicalJsonObject,
    ) -> Result<(), Dropped> {
        for (room, receipts) in content {
            if let Err(dropped) = self.receipts_in(origin, room, receipts).await {
                dropped.count();
            }
        }
        Ok(())
    }

    async fn receipts_in(
        &self,
        origin: &ServerName,
        room: &str,
        receipts: &CanonicalJsonValue,
    ) -> Result<(), Dropped> {
        let room = room_id(room)?;
        let head = self.open_room(origin, &room)?;
        // Private receipts stay with their server; of other types nothing is known.
        let read = receipts.as_object().and_then(|types| types.get("m.read"));
        let Some(read) = read.and_then(CanonicalJsonValue::as_object) else {
            return Err(Dropped::Malformed);
        };
        let mut new = Vec::new();
        for (user, receipt) in read {
            match self.receipt(origin, &head, user, receipt) {
                Ok(receipt) => new.push(receipt),
                Err(dropped) => dropped.count(),
            }
        }
        let set = self.parts.receipts.set(&room, Source::Federation, new);
        set.await.map_err(|error| {
            tracing::debug!(%error, "receipts of another server are dropped");
            Dropped::NotWritten
        })
    }

    fn receipt(
        &self,
        origin: &ServerName,
        head: &RoomHead,
        user: &str,
        receipt: &CanonicalJsonValue,
    ) -> Result<NewReceipt, Dropped> {
        let user = user_of(origin, user)?;
        let receipt = receipt.as_object().ok_or(Dropped::Malformed)?;
        let data = receipt.get("data").and_then(CanonicalJsonValue::as_object);
        let data = data.ok_or(Dropped::Malformed)?;
        let events = receipt
            .get("event_ids")
            .and_then(CanonicalJsonValue::as_array);
        let event = events.and_then(|events| events.first()?.as_str());
        let event_id = event.and_then(|event| OwnedEventId::try_from(event).ok());
        let event_id = event_id.ok_or(Dropped::Malformed)?;
        let thread = match data.get("thread_id") {
            None => ReceiptThread::Unthreaded,
            Some(_) => {
                ReceiptThread::parse(Some(text(data, "thread_id")?)).ok_or(Dropped::Malformed)?
            }
        };
        let ts = match data.get("ts") {
            Some(CanonicalJsonValue::Integer(ts)) => u64::try_from(i64::from(*ts)).ok(),
            _ => None,
        };
        if !head.authority.is_joined(&user) {
            return Err(Dropped::NotThere);
        }
        Ok(NewReceipt {
            user,
            receipt_type: ReceiptType::Read,
            thread,
            place: self.place(&head.room_id, &event_id)?,
            event_id,
            ts: ts.ok_or(Dropped::Malformed)?,
        })
    }

    /// Where an event stands in the room; none if it is not known (yet).
    fn place(&self, room: &RoomId, event: &EventId) -> Result<Option<Place>, Dropped> {
        let Some(stored) = self.parts.rooms.event(room, event)? else {
            return Ok(None);
        };
        match stored.decision {
            Decision::Accepted | Decision::Duplicate => Ok(Some(stored.place)),
            Decision::Outlier => Ok(None),
            // Nobody reads what is shown to nobody.
            Decision::Rejected | Decision::SoftFailed => Err(Dropped::NotThere),
        }
    }
}
