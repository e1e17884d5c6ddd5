//! One record of every kind, with every field set somewhere.

use log_format::Pending;
use log_format::codec::encode;
use log_format::record::ephemeral::*;
use log_format::record::input::*;
use log_format::record::output::*;
use log_format::record::{Envelope, Kind, NewEnvelope, Part, Source};

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn origin(src_offset: u64) -> Origin {
    Origin {
        src_offset,
        about: src_offset / 2,
        src_sub: 2,
        src_last: true,
        projector_version: 7,
    }
}

fn tokens() -> Tokens {
    Tokens {
        access: [1; 32],
        access_expires_ms: Some(1_700_000_300_000),
        refresh: Some([2; 32]),
    }
}

fn transaction() -> Transaction {
    Transaction {
        device_id: "DEVICE".to_owned(),
        txn_id: "m1".to_owned(),
    }
}

fn state_change() -> StateChange {
    StateChange {
        kind: "m.room.member".to_owned(),
        state_key: "@user:example.org".to_owned(),
        from: None,
        to: text("$join"),
        cause: StateChangeCause::Resolution,
    }
}

fn membership_change() -> MembershipChange {
    MembershipChange {
        user_id: "@user:example.org".to_owned(),
        from: Some(Membership::Invite),
        to: Membership::Join,
    }
}

fn body(kind: Kind) -> Vec<u8> {
    match kind {
        Kind::InputRoomEvent => encode(&InputRoomEvent {
            placement: Placement::Backfill {
                before: "$later".to_owned(),
            },
            depth: 12,
            prev_events: vec!["$a".to_owned(), "$b".to_owned()],
            auth_events: vec!["$create".to_owned()],
            redacts: text("$gone"),
            relation: Some(Relation {
                rel_type: "m.thread".to_owned(),
                event_id: "$root".to_owned(),
            }),
            membership: text("join"),
            transaction: Some(transaction()),
            verified_with: vec![VerifiedKey {
                server: "example.org".to_owned(),
                key_id: "ed25519:a1".to_owned(),
                valid_until_ms: u64::MAX,
            }],
            batch_index: 1,
            batch_count: 3,
        }),
        Kind::InputRoomPublished => encode(&InputRoomPublished { published: true }),
        Kind::InputStateBegin => encode(&InputStateBegin {
            given: [4; 16],
            event_id: "$join".to_owned(),
        }),
        Kind::InputStateChunk => encode(&InputStateChunk {
            given: [4; 16],
            event_ids: vec!["$create".to_owned(), "$join".to_owned()],
        }),
        Kind::InputStateCommit => encode(&InputStateCommit { given: [4; 16] }),
        Kind::InputStateAbandoned => encode(&InputStateAbandoned { given: [5; 16] }),
        Kind::InputRoomResumed => encode(&InputRoomResumed {
            cause: 17,
            digest: [6; 32],
            projector_version: 7,
        }),
        Kind::InputRoomPurged => encode(&InputRoomPurged {
            step: PurgeStep::Begin,
        }),
        Kind::InputAccountCreated => encode(&InputAccountCreated {
            password_hash: text("$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA"),
            guest: false,
            admin: true,
        }),
        Kind::InputPasswordSet => encode(&InputPasswordSet {
            password_hash: "$argon2id$".to_owned(),
        }),
        Kind::InputAccountDeactivated => encode(&InputAccountDeactivated { erase: true }),
        Kind::InputDeviceLoggedIn => encode(&InputDeviceLoggedIn {
            device_id: "DEVICE".to_owned(),
            display_name: text("Zoë's laptop"),
            tokens: tokens(),
        }),
        Kind::InputTokensRefreshed => encode(&InputTokensRefreshed {
            device_id: "DEVICE".to_owned(),
            spent: [3; 32],
            tokens: Tokens {
                refresh: None,
                ..tokens()
            },
        }),
        Kind::InputDevicesRemoved => encode(&InputDevicesRemoved {
            device_ids: Some(vec!["A".to_owned(), "B".to_owned()]),
            except: None,
        }),
        Kind::InputProfileField => encode(&InputProfileField {
            field: "displayname".to_owned(),
        }),
        Kind::InputAccountData => encode(&InputAccountData {}),
        Kind::InputFilter => encode(&InputFilter {
            filter_id: "f1".to_owned(),
        }),
        Kind::InputRoomForgotten => encode(&InputRoomForgotten {}),
        Kind::InputDeviceRenamed => encode(&InputDeviceRenamed {
            device_id: "DEVICE".to_owned(),
            display_name: text("Phone"),
        }),
        Kind::InputReport => encode(&InputReport {
            about: text("@troll:example.org"),
            score: Some(-100),
        }),
        Kind::InputReceipt => encode(&InputReceipt {
            receipt_type: ReceiptType::ReadPrivate,
            thread: text("main"),
            place: Some([8; 16]),
        }),
        Kind::InputOutsideMembership => encode(&InputOutsideMembership {
            membership: Membership::Knock,
        }),
        Kind::OutputOutsideMembership => encode(&OutputOutsideMembership {
            origin: origin(8),
            decision: Decision::Accepted,
            reason: Reason::None,
            room_sn: 4,
            membership: Membership::Ban,
        }),
        Kind::EphemeralTyping => encode(&EphemeralTyping { typing: true }),
        Kind::EphemeralPresence => encode(&EphemeralPresence {
            presence: PresenceState::Unavailable,
            last_active_ms: Some(1_700_000_000_000),
            currently_active: true,
        }),
        Kind::InputServerKeys => encode(&InputServerKeys {
            fetched_ms: 1_700_000_000_000,
        }),
        Kind::OutputServerKeys => encode(&OutputServerKeys {
            origin: origin(6),
            decision: Decision::Accepted,
            reason: Reason::None,
        }),
        Kind::InputDelivery => encode(&InputDelivery {
            acknowledged: vec![Acknowledged {
                partition: 1,
                upto: Emitted {
                    src_offset: 17,
                    src_sub: 0,
                },
                next: Some(Emitted {
                    src_offset: 300,
                    src_sub: 2,
                }),
            }],
            failures: 3,
            retry_at_ms: 1_700_000_040_000,
        }),
        Kind::OutputDelivery => encode(&OutputDelivery {
            origin: origin(7),
            decision: Decision::Accepted,
            reason: Reason::None,
        }),
        Kind::InputAliasCreated => encode(&InputAliasCreated {
            servers: vec!["example.org".to_owned()],
        }),
        Kind::InputAliasRemoved => encode(&InputAliasRemoved {}),
        Kind::OutputRoomEvent => encode(&OutputRoomEvent {
            origin: origin(0),
            decision: Decision::SoftFailed,
            reason: Reason::Forbidden,
            room_sn: 4,
            event_sn: 5,
            place: [9; 16],
            state_before: 10,
            state_after: 11,
            current_state: 12,
            state_delta: vec![state_change()],
            memberships: vec![membership_change()],
            extremities: vec!["$join".to_owned()],
            visibility: Visibility::Invited,
            timeline: Timeline::History,
            redacts: None,
            thread: text("$root"),
            transaction: Some(transaction()),
        }),
        Kind::OutputReceipt => encode(&OutputReceipt {
            origin: origin(4),
            decision: Decision::Accepted,
            reason: Reason::None,
            receipt_type: ReceiptType::Read,
            thread: None,
            place: Some([8; 16]),
        }),
        Kind::OutputRoomPurged => encode(&OutputRoomPurged {
            origin: origin(6),
            decision: Decision::Accepted,
            reason: Reason::None,
            step: PurgeStep::Drop,
            room_sn: 3,
            users: vec!["@user:example.org".to_owned()],
            finished: true,
        }),
        Kind::OutputRoomPublished => encode(&OutputRoomPublished {
            origin: origin(1),
            decision: Decision::Accepted,
            reason: Reason::None,
            published: true,
        }),
        Kind::OutputRoomState => encode(&OutputRoomState {
            origin: origin(2),
            room_sn: 4,
            state_delta: vec![state_change()],
            memberships: vec![membership_change()],
        }),
        Kind::OutputRoomGap => encode(&OutputRoomGap {
            origin: origin(3),
            room_sn: 4,
            prev_events: vec!["$before".to_owned()],
            auth_events: vec!["$levels".to_owned()],
        }),
        Kind::OutputUser => encode(&OutputUser {
            origin: origin(5),
            decision: Decision::Rejected,
            reason: Reason::Taken,
            kind: Kind::InputDeviceLoggedIn.number(),
            devices: vec!["DEVICE".to_owned()],
            name: text("displayname"),
        }),
        Kind::OutputAlias => encode(&OutputAlias {
            origin: origin(13),
            decision: Decision::Duplicate,
            reason: Reason::NotFound,
            kind: Kind::InputAliasRemoved.number(),
        }),
    }
}

fn sample(number: u64, kind: Kind) -> Pending {
    let is_event = matches!(kind, Kind::InputRoomEvent | Kind::OutputRoomEvent);
    let event = |part| {
        if is_event {
            Part::Present(part)
        } else {
            Part::Absent
        }
    };
    let carries_body = is_event
        || matches!(
            kind,
            Kind::InputProfileField
                | Kind::InputAccountData
                | Kind::InputFilter
                | Kind::InputReport
                | Kind::InputServerKeys
                | Kind::InputOutsideMembership
                | Kind::EphemeralPresence
        );
    let body = body(kind);
    let payload = NewEnvelope {
        flags: u32::from(number == 14),
        received_us: 1_700_000_000_000_000 + number,
        origin_ts_ms: 1_700_000_000_000,
        idempotency: [number as u8; 16],
        key: "!room:example.org",
        room_id: Some("!room:example.org"),
        event_id: is_event.then_some("$event"),
        sender: Some("@zoë:example.org"),
        event_type: Some("m.room.message"),
        state_key: is_event.then_some(""),
        room_version: is_event.then_some("12"),
        origin: is_event.then_some("example.org"),
        trace_id: Some("00f067aa0ba902b7"),
        body: &body,
        auth_extract: event(b"{\"membership\":\"join\"}"),
        skeleton: event(b"{\"type\":\"m.room.message\"}"),
        body_part: if carries_body {
            Part::Present(b"{\"body\":\"a message that may be erased\"}")
        } else {
            Part::Absent
        },
        salt: [number as u8 + 100; 32],
    }
    .encode(
        kind,
        if number.is_multiple_of(2) {
            Source::Client
        } else {
            Source::Federation
        },
    );
    let digest = Envelope::parse(&payload).expect("just encoded").digest();
    Pending {
        kind,
        time_us: 1_700_000_000_000_000 + 10 * number,
        payload,
        digest,
    }
}

/// The `number`-th of an endless row of records of all kinds.
pub fn numbered(number: u64) -> Pending {
    sample(number, Kind::ALL[number as usize % Kind::ALL.len()])
}

/// A record of each kind, in the order of their numbers.
pub fn every_kind() -> Vec<Pending> {
    (0..)
        .zip(Kind::ALL)
        .map(|(number, kind)| sample(number, kind))
        .collect()
}
