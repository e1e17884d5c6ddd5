//! The typed bodies of records as JSON, a line per kind.
//!
//! Hashes of tokens and passwords are said to be there, and not shown.

use log_format::codec::{self, CodecError};
use log_format::record::ephemeral::{EphemeralPresence, EphemeralTyping};
use log_format::record::input::{
    Emitted, InputAccountCreated, InputAccountDeactivated, InputAliasCreated, InputDelivery,
    InputDeviceLoggedIn, InputDeviceRenamed, InputDevicesRemoved, InputFilter,
    InputOutsideMembership, InputProfileField, InputReceipt, InputReport, InputRoomEvent,
    InputRoomPublished, InputRoomPurged, InputRoomResumed, InputServerKeys, InputStateAbandoned,
    InputStateBegin, InputStateChunk, InputStateCommit, InputTokensRefreshed, PurgeStep,
    ReceiptType, Tokens, Transaction,
};
use log_format::record::output::{
    MembershipChange, Origin, OutputAlias, OutputDelivery, OutputOutsideMembership, OutputReceipt,
    OutputRoomEvent, OutputRoomGap, OutputRoomPublished, OutputRoomPurged, OutputRoomState,
    OutputServerKeys, OutputUser, StateChange,
};
use log_format::record::{Envelope, Kind};
use serde_json::{Value, json};

/// The decided part of an output record, which tools show in their tables.
pub struct Decided {
    pub origin: Origin,
    pub decision: log_format::record::output::Decision,
    pub reason: log_format::record::output::Reason,
}

/// The decision that an output record holds; `None` for input records.
pub fn decided(record: &Envelope<'_>) -> Option<Decided> {
    let of = |origin, decision, reason| Decided {
        origin,
        decision,
        reason,
    };
    Some(match record.kind {
        Kind::OutputRoomEvent => {
            let body: OutputRoomEvent = codec::decode(record.body).ok()?;
            of(body.origin, body.decision, body.reason)
        }
        Kind::OutputRoomPublished => {
            let body: OutputRoomPublished = codec::decode(record.body).ok()?;
            of(body.origin, body.decision, body.reason)
        }
        Kind::OutputRoomPurged => {
            let body: OutputRoomPurged = codec::decode(record.body).ok()?;
            of(body.origin, body.decision, body.reason)
        }
        Kind::OutputUser => {
            let body: OutputUser = codec::decode(record.body).ok()?;
            of(body.origin, body.decision, body.reason)
        }
        Kind::OutputAlias => {
            let body: OutputAlias = codec::decode(record.body).ok()?;
            of(body.origin, body.decision, body.reason)
        }
        Kind::OutputReceipt => {
            let body: OutputReceipt = codec::decode(record.body).ok()?;
            of(body.origin, body.decision, body.reason)
        }
        Kind::OutputServerKeys => {
            let body: OutputServerKeys = codec::decode(record.body).ok()?;
            of(body.origin, body.decision, body.reason)
        }
        Kind::OutputOutsideMembership => {
            let body: OutputOutsideMembership = codec::decode(record.body).ok()?;
            of(body.origin, body.decision, body.reason)
        }
        Kind::OutputDelivery => {
            let body: OutputDelivery = codec::decode(record.body).ok()?;
            of(body.origin, body.decision, body.reason)
        }
        _ => return None,
    })
}

/// Where an output record comes from; `None` for input records.
pub fn origin_of(record: &Envelope<'_>) -> Option<Origin> {
    match record.kind {
        Kind::OutputRoomState => {
            let body: OutputRoomState = codec::decode(record.body).ok()?;
            Some(body.origin)
        }
        Kind::OutputRoomGap => {
            let body: OutputRoomGap = codec::decode(record.body).ok()?;
            Some(body.origin)
        }
        _ => decided(record).map(|decided| decided.origin),
    }
}

/// The body of a record.
pub fn json(record: &Envelope<'_>) -> Result<Value, CodecError> {
    let bytes = record.body;
    Ok(match record.kind {
        Kind::InputRoomEvent => room_event(&codec::decode(bytes)?),
        Kind::InputRoomPublished => {
            let body: InputRoomPublished = codec::decode(bytes)?;
            json!({ "published": body.published })
        }
        Kind::InputStateBegin => {
            let body: InputStateBegin = codec::decode(bytes)?;
            json!({ "given": hex(&body.given), "event_id": body.event_id })
        }
        Kind::InputStateChunk => {
            let body: InputStateChunk = codec::decode(bytes)?;
            json!({ "given": hex(&body.given), "event_ids": body.event_ids })
        }
        Kind::InputStateCommit => {
            let body: InputStateCommit = codec::decode(bytes)?;
            json!({ "given": hex(&body.given) })
        }
        Kind::InputStateAbandoned => {
            let body: InputStateAbandoned = codec::decode(bytes)?;
            json!({ "given": hex(&body.given) })
        }
        Kind::InputRoomResumed => {
            let body: InputRoomResumed = codec::decode(bytes)?;
            json!({
                "cause": body.cause,
                "digest": hex(&body.digest),
                "projector_version": body.projector_version,
            })
        }
        Kind::InputAccountCreated => {
            let body: InputAccountCreated = codec::decode(bytes)?;
            json!({ "password": hidden(body.password_hash.is_some()), "guest": body.guest, "admin": body.admin })
        }
        Kind::InputPasswordSet => json!({ "password": hidden(true) }),
        Kind::InputAccountDeactivated => {
            let body: InputAccountDeactivated = codec::decode(bytes)?;
            json!({ "erase": body.erase })
        }
        Kind::InputDeviceLoggedIn => {
            let body: InputDeviceLoggedIn = codec::decode(bytes)?;
            json!({
                "device_id": body.device_id,
                "display_name": body.display_name,
                "tokens": tokens(&body.tokens),
            })
        }
        Kind::InputTokensRefreshed => {
            let body: InputTokensRefreshed = codec::decode(bytes)?;
            json!({ "device_id": body.device_id, "tokens": tokens(&body.tokens) })
        }
        Kind::InputDevicesRemoved => {
            let body: InputDevicesRemoved = codec::decode(bytes)?;
            json!({ "device_ids": body.device_ids, "except": body.except })
        }
        Kind::InputProfileField => {
            let body: InputProfileField = codec::decode(bytes)?;
            json!({ "field": body.field })
        }
        Kind::InputFilter => {
            let body: InputFilter = codec::decode(bytes)?;
            json!({ "filter_id": body.filter_id })
        }
        Kind::InputAliasCreated => {
            let body: InputAliasCreated = codec::decode(bytes)?;
            json!({ "servers": body.servers })
        }
        Kind::InputAccountData | Kind::InputRoomForgotten | Kind::InputAliasRemoved => json!({}),
        Kind::InputRoomPurged => {
            let body: InputRoomPurged = codec::decode(bytes)?;
            json!({ "step": purge_step(body.step) })
        }
        Kind::InputReceipt => {
            let body: InputReceipt = codec::decode(bytes)?;
            json!({
                "receipt_type": receipt_type(body.receipt_type),
                "thread": body.thread,
                "place": body.place.map(|place| hex(&place)),
            })
        }
        Kind::InputDeviceRenamed => {
            let body: InputDeviceRenamed = codec::decode(bytes)?;
            json!({ "device_id": body.device_id, "display_name": body.display_name })
        }
        Kind::InputReport => {
            let body: InputReport = codec::decode(bytes)?;
            json!({ "about": body.about, "score": body.score })
        }
        Kind::EphemeralTyping => {
            let body: EphemeralTyping = codec::decode(bytes)?;
            json!({ "typing": body.typing })
        }
        Kind::EphemeralPresence => {
            let body: EphemeralPresence = codec::decode(bytes)?;
            json!({
                "presence": body.presence.as_str(),
                "last_active_ms": body.last_active_ms,
                "currently_active": body.currently_active,
            })
        }
        Kind::OutputRoomEvent => output_room_event(&codec::decode(bytes)?),
        Kind::OutputRoomPublished => {
            let body: OutputRoomPublished = codec::decode(bytes)?;
            let mut value = decision(record);
            value["published"] = json!(body.published);
            value
        }
        Kind::OutputRoomPurged => {
            let body: OutputRoomPurged = codec::decode(bytes)?;
            let mut value = decision(record);
            value["step"] = json!(purge_step(body.step));
            value["room_sn"] = json!(body.room_sn);
            value["users"] = json!(body.users);
            value["finished"] = json!(body.finished);
            value
        }
        Kind::OutputRoomState => {
            let body: OutputRoomState = codec::decode(bytes)?;
            let mut value = origin(&body.origin);
            value["room_sn"] = json!(body.room_sn);
            value["state_delta"] = body.state_delta.iter().map(state_change).collect();
            value["memberships"] = body.memberships.iter().map(membership).collect();
            value
        }
        Kind::OutputRoomGap => {
            let body: OutputRoomGap = codec::decode(bytes)?;
            let mut value = origin(&body.origin);
            value["room_sn"] = json!(body.room_sn);
            value["prev_events"] = json!(body.prev_events);
            value["auth_events"] = json!(body.auth_events);
            value
        }
        Kind::OutputReceipt => {
            let body: OutputReceipt = codec::decode(bytes)?;
            let mut value = decision(record);
            value["receipt_type"] = json!(receipt_type(body.receipt_type));
            value["thread"] = json!(body.thread);
            value["place"] = json!(body.place.map(|place| hex(&place)));
            value
        }
        Kind::OutputUser => {
            let body: OutputUser = codec::decode(bytes)?;
            let mut value = decision(record);
            value["kind"] = kind_name(body.kind);
            value["devices"] = json!(body.devices);
            value["name"] = json!(body.name);
            value
        }
        Kind::OutputAlias => {
            let body: OutputAlias = codec::decode(bytes)?;
            let mut value = decision(record);
            value["kind"] = kind_name(body.kind);
            value
        }
        Kind::InputServerKeys => {
            let body: InputServerKeys = codec::decode(bytes)?;
            json!({ "fetched_ms": body.fetched_ms })
        }
        Kind::InputOutsideMembership => {
            let body: InputOutsideMembership = codec::decode(bytes)?;
            json!({ "membership": body.membership.as_str() })
        }
        Kind::OutputOutsideMembership => {
            let body: OutputOutsideMembership = codec::decode(bytes)?;
            let mut value = decision(record);
            value["room_sn"] = json!(body.room_sn);
            value["membership"] = json!(body.membership.as_str());
            value
        }
        Kind::InputDelivery => {
            let body: InputDelivery = codec::decode(bytes)?;
            let emitted = |at: &Emitted| json!([at.src_offset, at.src_sub]);
            let acknowledged = body.acknowledged.iter().map(|partition| {
                json!({
                    "partition": partition.partition,
                    "upto": emitted(&partition.upto),
                    "next": partition.next.as_ref().map(emitted),
                })
            });
            json!({
                "acknowledged": acknowledged.collect::<Vec<_>>(),
                "failures": body.failures,
                "retry_at_ms": body.retry_at_ms,
            })
        }
        Kind::OutputServerKeys | Kind::OutputDelivery => decision(record),
    })
}

fn hidden(there: bool) -> Value {
    if there {
        json!("(hash, not shown)")
    } else {
        Value::Null
    }
}

fn receipt_type(kind: ReceiptType) -> &'static str {
    match kind {
        ReceiptType::Read => "m.read",
        ReceiptType::ReadPrivate => "m.read.private",
    }
}

fn purge_step(step: PurgeStep) -> &'static str {
    match step {
        PurgeStep::Begin => "begin",
        PurgeStep::Drop => "drop",
    }
}

fn kind_name(number: u16) -> Value {
    Kind::from_number(number).map_or_else(|| json!(number), |kind| json!(kind.name()))
}

fn tokens(tokens: &Tokens) -> Value {
    json!({
        "access": hidden(true),
        "access_expires_ms": tokens.access_expires_ms,
        "refresh": hidden(tokens.refresh.is_some()),
    })
}

fn transaction(transaction: &Option<Transaction>) -> Value {
    transaction.as_ref().map_or(
        Value::Null,
        |transaction| json!({ "device_id": transaction.device_id, "txn_id": transaction.txn_id }),
    )
}

fn room_event(body: &InputRoomEvent) -> Value {
    let keys: Vec<Value> = body
        .verified_with
        .iter()
        .map(|key| json!({ "server": key.server, "key_id": key.key_id, "valid_until_ms": key.valid_until_ms }))
        .collect();
    json!({
        "placement": format!("{:?}", body.placement),
        "depth": body.depth,
        "prev_events": body.prev_events,
        "auth_events": body.auth_events,
        "redacts": body.redacts,
        "relation": body.relation.as_ref().map(|relation| {
            json!({ "rel_type": relation.rel_type, "event_id": relation.event_id })
        }),
        "membership": body.membership,
        "transaction": transaction(&body.transaction),
        "verified_with": keys,
        "batch": [body.batch_index, body.batch_count],
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn origin(origin: &Origin) -> Value {
    json!({
        "src_offset": origin.src_offset,
        "about": origin.about,
        "src_sub": origin.src_sub,
        "src_last": origin.src_last,
        "projector_version": origin.projector_version,
    })
}

fn decision(record: &Envelope<'_>) -> Value {
    decided(record).map_or(json!({}), |decided| {
        let mut value = origin(&decided.origin);
        value["decision"] = json!(decided.decision.name());
        value["reason"] = json!(format!("{:?}", decided.reason));
        value
    })
}

fn output_room_event(body: &OutputRoomEvent) -> Value {
    let mut value = origin(&body.origin);
    value["decision"] = json!(body.decision.name());
    value["reason"] = json!(format!("{:?}", body.reason));
    value["room_sn"] = json!(body.room_sn);
    value["event_sn"] = json!(body.event_sn);
    value["place"] = json!(hex(&body.place));
    value["state_before"] = json!(body.state_before);
    value["state_after"] = json!(body.state_after);
    value["current_state"] = json!(body.current_state);
    value["state_delta"] = body.state_delta.iter().map(state_change).collect();
    value["memberships"] = body.memberships.iter().map(membership).collect();
    value["extremities"] = json!(body.extremities);
    value["visibility"] = json!(body.visibility.as_str());
    value["timeline"] = json!(format!("{:?}", body.timeline));
    value["redacts"] = json!(body.redacts);
    value["thread"] = json!(body.thread);
    value["transaction"] = transaction(&body.transaction);
    value
}

fn state_change(change: &StateChange) -> Value {
    json!({
        "type": change.kind,
        "state_key": change.state_key,
        "from": change.from,
        "to": change.to,
        "cause": format!("{:?}", change.cause),
    })
}

fn membership(change: &MembershipChange) -> Value {
    json!({
        "user_id": change.user_id,
        "from": change.from.map(|from| from.as_str()),
        "to": change.to.as_str(),
    })
}
