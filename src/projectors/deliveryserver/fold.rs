//! The delivery server's fold: what was acknowledged only grows, and the newest
//! record says how it stands with a server.

use log_format::codec;
use log_format::record::input::InputDelivery;
use log_format::record::output::{Decision, OutputDelivery, Reason};
use log_format::record::{Kind, NewEnvelope};
use ruma::ServerName;

use super::rows::{self, ProgressRow};
use crate::logs::log::NewRecord;
use crate::projectors::fold::{FoldError, FoldInput, Folded, Projector};
use crate::storage::columns::DELIVERIES;
use crate::storage::overlay::{Overlay, StoreError};

/// The projector of one lane. It holds nothing: answers come from the table.
#[derive(Default)]
pub struct DeliveryProjector;

impl Projector for DeliveryProjector {
    fn fold(
        &mut self,
        record: &FoldInput<'_>,
        tables: &mut Overlay<'_>,
    ) -> Result<Folded, FoldError> {
        let (decision, reason) = match delivery(record) {
            Some((server, body)) => {
                keep(record, server, body, tables)?;
                (Decision::Accepted, Reason::None)
            }
            None => (Decision::Rejected, Reason::Malformed),
        };
        let body = codec::encode(&OutputDelivery {
            origin: record.origin(),
            decision,
            reason,
        });
        let output = NewEnvelope {
            body: &body,
            ..record.envelope.to_new()
        };
        let output = NewRecord::new(Kind::OutputDelivery, record.envelope.source, &output);
        Ok(Folded::decided(vec![output], decision, reason))
    }

    fn publish(&mut self) {}
}

/// What a record says, and of which server.
fn delivery<'a>(record: &FoldInput<'a>) -> Option<(&'a ServerName, InputDelivery)> {
    let envelope = record.envelope;
    if envelope.kind != Kind::InputDelivery {
        return None;
    }
    let server = <&ServerName>::try_from(envelope.key).ok()?;
    Some((server, codec::decode(envelope.body).ok()?))
}

fn keep(
    record: &FoldInput<'_>,
    server: &ServerName,
    body: InputDelivery,
    tables: &mut Overlay<'_>,
) -> Result<(), StoreError> {
    let (partition, server) = (record.partition, server.as_str());
    let mut row = rows::pending_row(tables, partition, server)?;
    for said in body.acknowledged {
        let known = row.progress.get(&said.partition);
        // What was acknowledged stays so, whoever appends what out of order.
        if known.is_none_or(|known| known.upto <= said.upto) {
            let progress = ProgressRow {
                upto: said.upto,
                next: said.next,
            };
            row.progress.insert(said.partition, progress);
        }
    }
    row.failures = body.failures;
    row.retry_at_ms = body.retry_at_ms;
    if body.failures == 0 {
        row.succeeded_ms = row.succeeded_ms.max(record.envelope.received_us / 1000);
    }
    let key = rows::key(partition, server);
    tables.put(DELIVERIES, key.as_bytes(), codec::encode(&row));
    Ok(())
}
