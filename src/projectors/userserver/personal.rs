//! What a user keeps: profile, account data, filters, forgotten rooms.

use log_format::codec;
use log_format::record::envelope::Part;
use log_format::record::input::{
    InputAccountData, InputFilter, InputProfileField, InputRoomForgotten,
};
use log_format::record::output::Reason;

use super::accounts;
use super::fold::{UserFold, Verdict};
use super::rows::{self, ForgottenRow};
use crate::projectors::fold::Stamp;
use crate::storage::columns::{ACCOUNT_DATA, FILTERS, FORGOTTEN, PROFILES};
use crate::storage::keys::Key;
use crate::storage::overlay::StoreError;

/// A field without a value is removed. One whose value was erased from the log
/// was replaced later, so it is as good as removed here.
pub(super) fn profile_field(fold: &mut UserFold<'_, '_>) -> Result<Verdict, StoreError> {
    let Some(body) = fold.body::<InputProfileField>() else {
        return Ok(Verdict::rejected(Reason::Malformed));
    };
    if accounts::active(fold)?.is_none() {
        return Ok(Verdict::rejected(Reason::NotFound));
    }
    let key = rows::named_key(fold.record.partition, fold.user.as_str(), &body.field);
    match fold.record.envelope.body_part.bytes() {
        Some(value) => fold.tables.put(PROFILES, key.as_bytes(), value.to_vec()),
        None => fold.tables.delete(PROFILES, key.as_bytes()),
    }
    Ok(Verdict::named(body.field))
}

pub(super) fn account_data(fold: &mut UserFold<'_, '_>) -> Result<Verdict, StoreError> {
    let envelope = fold.record.envelope;
    let body = fold.body::<InputAccountData>();
    let (Some(InputAccountData {}), Some(event_type)) = (body, envelope.event_type) else {
        return Ok(Verdict::rejected(Reason::Malformed));
    };
    if envelope.room_id.is_some_and(too_long) {
        return Ok(Verdict::rejected(Reason::Malformed));
    }
    if accounts::active(fold)?.is_none() {
        return Ok(Verdict::rejected(Reason::NotFound));
    }
    let prefix =
        rows::account_data_prefix(fold.record.partition, fold.user.as_str(), envelope.room_id);
    let key = prefix.bytes(event_type.as_bytes());
    match envelope.body_part {
        Part::Present(content) => put_stamped(fold, key, content),
        Part::Erased(_) => fold.tables.delete(ACCOUNT_DATA, key.as_bytes()),
        Part::Absent => return Ok(Verdict::rejected(Reason::Malformed)),
    }
    Ok(Verdict::accepted())
}

/// The row begins with the *output* offset of the change, see [`Stamp`].
fn put_stamped(fold: &mut UserFold<'_, '_>, key: Key, content: &[u8]) {
    let input_offset = fold.record.offset;
    let mut row = Vec::with_capacity(content.len() + 8);
    row.extend_from_slice(&input_offset.to_be_bytes());
    row.extend_from_slice(content);
    fold.tables.put(ACCOUNT_DATA, key.as_bytes(), row);
    fold.stamps.push(Stamp {
        input_offset,
        table: ACCOUNT_DATA,
        key: key.as_bytes().to_vec(),
    });
}

pub(super) fn filter(fold: &mut UserFold<'_, '_>) -> Result<Verdict, StoreError> {
    let body = fold.body::<InputFilter>();
    let (Some(body), Some(definition)) = (body, fold.record.envelope.body_part.bytes()) else {
        return Ok(Verdict::rejected(Reason::Malformed));
    };
    if accounts::active(fold)?.is_none() {
        return Ok(Verdict::rejected(Reason::NotFound));
    }
    let key = rows::named_key(fold.record.partition, fold.user.as_str(), &body.filter_id);
    fold.tables
        .put(FILTERS, key.as_bytes(), definition.to_vec());
    Ok(Verdict::named(body.filter_id))
}

/// Forgetting a room lasts until the user's membership in it changes. This
/// projector cannot see memberships, so the row names the membership event
/// that the writer saw (the envelope's `event_id`), and who asks compares.
pub(super) fn room_forgotten(fold: &mut UserFold<'_, '_>) -> Result<Verdict, StoreError> {
    let body = fold.body::<InputRoomForgotten>();
    let (Some(InputRoomForgotten {}), Some(room_id)) = (body, fold.record.envelope.room_id) else {
        return Ok(Verdict::rejected(Reason::Malformed));
    };
    if accounts::active(fold)?.is_none() {
        return Ok(Verdict::rejected(Reason::NotFound));
    }
    let row = ForgottenRow {
        membership_event: fold.record.envelope.event_id.map(str::to_owned),
    };
    let key = rows::named_key(fold.record.partition, fold.user.as_str(), room_id);
    fold.tables
        .put(FORGOTTEN, key.as_bytes(), codec::encode(&row));
    Ok(Verdict::accepted())
}

fn too_long(text: &str) -> bool {
    text.len() > rows::KEY_TEXT_BYTES_MAX
}
