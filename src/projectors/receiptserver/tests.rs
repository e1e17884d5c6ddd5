//! Records in, receipts out, over a real RocksDB, against a naive model.

use std::collections::BTreeMap;
use std::sync::Arc;

use log_format::codec;
use log_format::record::input::{InputReceipt, ReceiptType};
use log_format::record::output::{Decision, OutputReceipt, Reason};
use log_format::record::{Envelope, Kind, NewEnvelope, Source};
use proptest::prelude::*;
use ruma::{EventId, RoomId, UserId};

use super::{ReceiptAnswers, ReceiptProjector};
use crate::projectors::fold::{FoldInput, Projector};
use crate::query::ids::Place;
use crate::query::receipts::{Receipt, ReceiptThread, Receipts};
use crate::storage::open::{Store, StoreOptions};
use crate::storage::overlay::Overlay;

const ROOM: &str = "!room:hs";

/// A receipt that a writer appends.
#[derive(Clone, Debug)]
struct Sent {
    room: &'static str,
    user: &'static str,
    receipt_type: ReceiptType,
    thread: Option<&'static str>,
    /// The place of the event, which its id names.
    place: u8,
    place_known: bool,
    ts: u64,
}

impl Sent {
    fn event_id(&self) -> String {
        format!("${}", self.place)
    }

    fn body(&self) -> InputReceipt {
        InputReceipt {
            receipt_type: self.receipt_type,
            thread: self.thread.map(str::to_owned),
            place: self
                .place_known
                .then(|| Place(self.place.into()).to_bytes()),
        }
    }
}

struct House {
    store: Arc<Store>,
    projector: ReceiptProjector,
    answers: ReceiptAnswers,
    offset: u64,
    _folder: tempfile::TempDir,
}

impl House {
    fn new() -> House {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(folder.path(), &StoreOptions::default()).unwrap());
        House {
            projector: ReceiptProjector::default(),
            answers: ReceiptAnswers::new(store.clone(), 1),
            store,
            offset: 0,
            _folder: folder,
        }
    }

    fn fold(&mut self, envelope: &NewEnvelope<'_>) -> (Decision, Reason) {
        let payload = envelope.encode(Kind::InputReceipt, Source::Client);
        let envelope = Envelope::parse(&payload).unwrap();
        let record = FoldInput {
            partition: 0,
            offset: self.offset,
            time_us: 1,
            envelope: &envelope,
        };
        self.offset += 1;
        let mut tables = Overlay::new(self.store.as_ref());
        let folded = self.projector.fold(&record, &mut tables).unwrap();
        let mut batch = self.store.batch();
        batch.apply(tables.into_writes()).unwrap();
        self.store.write(batch).unwrap();
        let [output] = &folded.output[..] else {
            panic!("one record leads to one record");
        };
        let output = Envelope::parse(&output.payload).unwrap();
        let body: OutputReceipt = codec::decode(output.body).unwrap();
        let outcome = folded.outcome.unwrap();
        assert_eq!(
            (body.decision, body.reason),
            (outcome.decision, outcome.reason)
        );
        assert_eq!(output.event_id, envelope.event_id);
        let stamped = self.projector.stamps().len();
        assert_eq!(stamped == 1, outcome.decision == Decision::Accepted);
        (outcome.decision, outcome.reason)
    }

    fn send(&mut self, sent: &Sent) -> Decision {
        let (body, event_id) = (codec::encode(&sent.body()), sent.event_id());
        let envelope = NewEnvelope {
            origin_ts_ms: sent.ts,
            key: sent.room,
            room_id: Some(sent.room),
            sender: Some(sent.user),
            event_id: Some(&event_id),
            body: &body,
            ..NewEnvelope::default()
        };
        let (decision, reason) = self.fold(&envelope);
        assert_eq!(reason, Reason::None);
        decision
    }
}

fn sent() -> impl Strategy<Value = Sent> {
    let room = prop::sample::select(vec![ROOM, "!room2:hs"]);
    let user = prop::sample::select(vec!["@a:hs", "@ab:hs", "@b:other"]);
    let kind = prop::sample::select(vec![ReceiptType::Read, ReceiptType::ReadPrivate]);
    let thread = prop::sample::select(vec![None, Some("main"), Some("$root")]);
    (room, user, kind, thread, 0u8..6, any::<bool>(), 0u64..4).prop_map(
        |(room, user, receipt_type, thread, place, place_known, ts)| Sent {
            room,
            user,
            receipt_type,
            thread,
            place,
            place_known,
            ts,
        },
    )
}

type Slot = (
    &'static str,
    &'static str,
    ReceiptType,
    Option<&'static str>,
);

/// What a receipt is worth: the highest that was ever sent is the one that stands.
fn worth(sent: &Sent) -> (bool, u64) {
    match sent.place_known {
        true => (true, sent.place.into()),
        false => (false, sent.ts),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Of all receipts for one thing the furthest stands, the first of equals;
    /// each query says the same.
    #[test]
    fn receipts_never_go_back(history in prop::collection::vec(sent(), 1..60)) {
        let mut house = House::new();
        let mut model: BTreeMap<Slot, Sent> = BTreeMap::new();
        for sent in &history {
            let slot = (sent.room, sent.user, sent.receipt_type, sent.thread);
            let moves = model.get(&slot).is_none_or(|old| worth(sent) > worth(old));
            let decision = house.send(sent);
            prop_assert_eq!(decision == Decision::Accepted, moves);
            prop_assert_eq!(decision == Decision::Duplicate, !moves);
            if moves {
                model.insert(slot, sent.clone());
            }
        }
        for room in [ROOM, "!room2:hs"] {
            let room_id = <&RoomId>::try_from(room).unwrap();
            let mut paged = Vec::new();
            loop {
                let after = paged.last().map(|(user, _): &(ruma::OwnedUserId, _)| user.clone());
                let page = house.answers.receipts_in(room_id, after.as_deref(), 1).unwrap();
                if page.is_empty() {
                    break;
                }
                prop_assert_eq!(page.len(), 1);
                paged.extend(page);
            }
            prop_assert_eq!(&paged, &house.answers.receipts_in(room_id, None, 9).unwrap());
            for user in ["@a:hs", "@ab:hs", "@b:other"] {
                let user_id = <&UserId>::try_from(user).unwrap();
                let expected: Vec<_> = model
                    .iter()
                    .filter(|((of, by, ..), _)| (*of, *by) == (room, user))
                    .map(|((.., kind, thread), sent)| expected(*kind, *thread, sent))
                    .collect();
                let mut told = house.answers.of_user(room_id, user_id).unwrap();
                let in_room = paged.iter().find(|(of, _)| of == user_id);
                prop_assert_eq!(in_room.map_or(&[][..], |(_, told)| told), &told[..]);
                for receipt in &told {
                    let one = house.answers.receipt(
                        room_id, user_id, receipt.receipt_type, &receipt.thread,
                    );
                    prop_assert_eq!(one.unwrap(), Some(receipt.clone()));
                }
                told.iter_mut().for_each(|receipt| receipt.changed_at.0 = 0);
                told.sort_by(|a, b| (a.receipt_type, &a.thread).cmp(&(b.receipt_type, &b.thread)));
                let mut expected = expected;
                expected.sort_by(|a, b| (a.receipt_type, &a.thread).cmp(&(b.receipt_type, &b.thread)));
                prop_assert_eq!(told, expected);
            }
        }
    }
}

fn expected(receipt_type: ReceiptType, thread: Option<&str>, sent: &Sent) -> Receipt {
    let event_id = sent.event_id();
    Receipt {
        receipt_type,
        thread: ReceiptThread::parse(thread).unwrap(),
        event_id: <&EventId>::try_from(event_id.as_str()).unwrap().to_owned(),
        place: sent.place_known.then(|| Place(sent.place.into())),
        ts: sent.ts,
        changed_at: crate::query::ids::OutputOffset(0),
    }
}

#[test]
fn what_no_writer_appends_is_refused() {
    let mut house = House::new();
    let body = |thread: Option<&str>| {
        codec::encode(&InputReceipt {
            receipt_type: ReceiptType::Read,
            thread: thread.map(str::to_owned),
            place: None,
        })
    };
    let (sound, empty_thread) = (body(None), body(Some("")));
    let envelope = NewEnvelope {
        key: ROOM,
        room_id: Some(ROOM),
        sender: Some("@a:hs"),
        event_id: Some("$event"),
        body: &sound,
        ..NewEnvelope::default()
    };
    let long_user = format!("@{}:hs", "a".repeat(70_000));
    let spoilt = [
        NewEnvelope {
            body: b"?",
            ..envelope.clone()
        },
        NewEnvelope {
            body: &empty_thread,
            ..envelope.clone()
        },
        NewEnvelope {
            room_id: Some("!other:hs"),
            ..envelope.clone()
        },
        NewEnvelope {
            sender: None,
            ..envelope.clone()
        },
        NewEnvelope {
            sender: Some(&long_user),
            ..envelope.clone()
        },
        NewEnvelope {
            event_id: Some("event"),
            ..envelope.clone()
        },
    ];
    for envelope in &spoilt {
        let outcome = house.fold(envelope);
        assert_eq!(outcome, (Decision::Rejected, Reason::Malformed));
    }
    let room = <&RoomId>::try_from(ROOM).unwrap();
    assert_eq!(house.answers.receipts_in(room, None, 9).unwrap(), []);
    assert_eq!(house.fold(&envelope), (Decision::Accepted, Reason::None));
}
