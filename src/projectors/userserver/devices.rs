//! Devices and their tokens.

use log_format::codec;
use log_format::record::input::{
    InputDeviceLoggedIn, InputDeviceRenamed, InputDevicesRemoved, InputTokensRefreshed,
};
use log_format::record::output::Reason;
use ruma::OwnedDeviceId;

use super::accounts;
use super::fold::{UserFold, Verdict};
use super::rows::{self, AccountRow, DeviceRow};
use super::sessions::{DeviceTokens, SessionChange};
use crate::storage::columns::DEVICES;
use crate::storage::overlay::StoreError;

/// A new device, or new tokens for a known one, whose old tokens end.
///
/// A known device keeps its display name (client-server API, `POST /login`,
/// `initial_device_display_name`).
pub(super) fn logged_in(fold: &mut UserFold<'_, '_>) -> Result<Verdict, StoreError> {
    let Some(body) = fold.body::<InputDeviceLoggedIn>() else {
        return Ok(Verdict::rejected(Reason::Malformed));
    };
    let Some(account) = accounts::active(fold)? else {
        return Ok(Verdict::rejected(Reason::NotFound));
    };
    let known = device(fold, &body.device_id)?;
    let display_name = match &known {
        Some(known) => known.display_name.clone(),
        None => body.display_name,
    };
    let row = DeviceRow {
        display_name,
        tokens: body.tokens,
        previous_refresh: None,
    };
    replace(fold, &account, &body.device_id, known, row);
    Ok(Verdict::with_devices(vec![body.device_id]))
}

/// The old access token ends at once. The refresh token that was spent stays
/// good for the same again until one of the new tokens is used.
pub(super) fn refreshed(fold: &mut UserFold<'_, '_>) -> Result<Verdict, StoreError> {
    let Some(body) = fold.body::<InputTokensRefreshed>() else {
        return Ok(Verdict::rejected(Reason::Malformed));
    };
    let account = accounts::active(fold)?;
    let known = device(fold, &body.device_id)?;
    let (Some(account), Some(known)) = (account, known) else {
        return Ok(Verdict::rejected(Reason::NotFound));
    };
    let spendable = [known.tokens.refresh, known.previous_refresh];
    if !spendable.contains(&Some(body.spent)) {
        return Ok(Verdict::rejected(Reason::NotFound));
    }
    let mut tokens = body.tokens;
    let mut previous_refresh = Some(body.spent);
    if tokens.refresh.is_none() {
        // Without a new one the old refresh token can be used again.
        tokens.refresh = Some(body.spent);
        previous_refresh = None;
    }
    let row = DeviceRow {
        display_name: known.display_name.clone(),
        tokens,
        previous_refresh,
    };
    replace(fold, &account, &body.device_id, Some(known), row);
    Ok(Verdict::accepted())
}

/// Devices that are not there (any more) are left out; that is no error.
pub(super) fn removed(fold: &mut UserFold<'_, '_>) -> Result<Verdict, StoreError> {
    let Some(body) = fold.body::<InputDevicesRemoved>() else {
        return Ok(Verdict::rejected(Reason::Malformed));
    };
    let Some(device_ids) = body.device_ids else {
        let removed = remove_all_but(fold, body.except.as_deref())?;
        return Ok(Verdict::with_devices(removed));
    };
    let mut removed = Vec::new();
    for device_id in device_ids {
        if remove(fold, &device_id)? {
            removed.push(device_id);
        }
    }
    Ok(Verdict::with_devices(removed))
}

/// Another display name, or none; tokens and sessions stay.
pub(super) fn renamed(fold: &mut UserFold<'_, '_>) -> Result<Verdict, StoreError> {
    let Some(body) = fold.body::<InputDeviceRenamed>() else {
        return Ok(Verdict::rejected(Reason::Malformed));
    };
    let Some(known) = device(fold, &body.device_id)? else {
        return Ok(Verdict::rejected(Reason::NotFound));
    };
    let row = codec::encode(&DeviceRow {
        display_name: body.display_name,
        ..known
    });
    let key = rows::named_key(fold.record.partition, fold.user.as_str(), &body.device_id);
    fold.tables.put(DEVICES, key.as_bytes(), row);
    Ok(Verdict::accepted())
}

/// Removes the user's devices but one; their ids in order.
pub(super) fn remove_all_but(
    fold: &mut UserFold<'_, '_>,
    except: Option<&str>,
) -> Result<Vec<String>, StoreError> {
    let prefix = rows::user_key(fold.record.partition, fold.user.as_str());
    let found = fold
        .tables
        .range(DEVICES, prefix.as_bytes(), None, false, usize::MAX)?;
    let mut removed = Vec::new();
    for (key, _) in found {
        let device_id = rows::name_in(DEVICES, &key, &prefix)?;
        if Some(device_id.as_str()) != except && remove(fold, &device_id)? {
            removed.push(device_id);
        }
    }
    Ok(removed)
}

fn device(fold: &UserFold<'_, '_>, device_id: &str) -> Result<Option<DeviceRow>, StoreError> {
    let key = rows::named_key(fold.record.partition, fold.user.as_str(), device_id);
    rows::read_row(fold.tables, DEVICES, &key)
}

fn remove(fold: &mut UserFold<'_, '_>, device_id: &str) -> Result<bool, StoreError> {
    let Some(known) = device(fold, device_id)? else {
        return Ok(false);
    };
    let key = rows::named_key(fold.record.partition, fold.user.as_str(), device_id);
    fold.tables.delete(DEVICES, key.as_bytes());
    fold.changes.push(SessionChange::Ended(known));
    Ok(true)
}

fn replace(
    fold: &mut UserFold<'_, '_>,
    account: &AccountRow,
    device_id: &str,
    known: Option<DeviceRow>,
    row: DeviceRow,
) {
    let key = rows::named_key(fold.record.partition, fold.user.as_str(), device_id);
    fold.tables
        .put(DEVICES, key.as_bytes(), codec::encode(&row));
    fold.changes.extend(known.map(SessionChange::Ended));
    fold.changes
        .push(SessionChange::Begun(Box::new(DeviceTokens {
            user_id: fold.user.clone(),
            device_id: OwnedDeviceId::from(device_id),
            guest: account.guest,
            admin: account.admin,
            row,
        })));
}
