//! What the table holds after records in whatever order.

use std::sync::Arc;

use log_format::codec;
use log_format::record::input::{Acknowledged, Emitted, InputDelivery};
use log_format::record::output::{Decision, Reason};
use log_format::record::{Envelope, Kind, NewEnvelope, Source};
use ruma::server_name;

use super::{DeliveryAnswers, DeliveryProjector};
use crate::logs::log::partition_of;
use crate::projectors::fold::{FoldInput, FoldOutcome, Projector};
use crate::query::deliveries::{Deliveries, Delivery, Progress};
use crate::readers::store::Write;
use crate::readers::store::memory::MemoryStore;
use crate::storage::overlay::Overlay;

const PARTITIONS: u32 = 3;

fn at(src_offset: u64, src_sub: u32) -> Emitted {
    Emitted {
        src_offset,
        src_sub,
    }
}

fn fold(store: &MemoryStore, server: &str, received_ms: u64, body: &InputDelivery) -> FoldOutcome {
    let body = codec::encode(body);
    let envelope = NewEnvelope {
        key: server,
        received_us: received_ms * 1000,
        body: &body,
        ..NewEnvelope::default()
    };
    let payload = envelope.encode(Kind::InputDelivery, Source::Internal);
    let envelope = Envelope::parse(&payload).expect("what was encoded parses");
    let mut tables = Overlay::new(store);
    let record = FoldInput {
        partition: partition_of(server, PARTITIONS),
        offset: 1,
        time_us: 0,
        envelope: &envelope,
    };
    let folded = DeliveryProjector.fold(&record, &mut tables);
    store.write(tables.into_writes()).expect("memory");
    let folded = folded.expect("folds");
    assert_eq!(folded.output.len(), 1);
    folded.outcome.expect("decided at once")
}

fn acknowledges(partition: u32, upto: Emitted, next: Option<Emitted>) -> InputDelivery {
    InputDelivery {
        acknowledged: vec![Acknowledged {
            partition,
            upto,
            next,
        }],
        failures: 0,
        retry_at_ms: 0,
    }
}

#[test]
fn what_was_acknowledged_is_never_taken_back() {
    let store = Arc::new(MemoryStore::default());
    let answers = DeliveryAnswers::new(store.clone(), PARTITIONS);
    let server = server_name!("b.test");
    assert_eq!(answers.delivery(server).unwrap(), Delivery::default());
    fold(
        &store,
        "b.test",
        10,
        &acknowledges(0, at(5, 1), Some(at(9, 0))),
    );
    fold(&store, "b.test", 11, &acknowledges(2, at(1, 0), None));
    fold(&store, "b.test", 12, &acknowledges(0, at(5, 0), None));
    let failed = InputDelivery {
        acknowledged: vec![],
        failures: 4,
        retry_at_ms: 77,
    };
    fold(&store, "b.test", 13, &failed);
    fold(&store, "c.test", 13, &failed);
    let known = answers.delivery(server).unwrap();
    let of = |upto, next| Progress { upto, next };
    assert_eq!(
        known,
        Delivery {
            progress: [(0, of(at(5, 1), Some(at(9, 0)))), (2, of(at(1, 0), None))].into(),
            failures: 4,
            retry_at_ms: 77,
            succeeded_ms: 12,
        }
    );
    let mut servers = answers.servers().unwrap();
    servers.sort();
    assert_eq!(servers, [server_name!("b.test"), server_name!("c.test")]);
}

#[test]
fn a_record_of_no_server_is_malformed() {
    let store = MemoryStore::default();
    let outcome = fold(&store, "no server", 1, &acknowledges(0, at(1, 0), None));
    assert_eq!(
        outcome,
        FoldOutcome::of(Decision::Rejected, Reason::Malformed)
    );
    assert!(store.same_rows(&MemoryStore::default()));
}
