//! Accounts: created once, their password replaced, closed for good.

use log_format::codec;
use log_format::record::input::{InputAccountCreated, InputAccountDeactivated, InputPasswordSet};
use log_format::record::output::{Decision, Reason};

use super::devices;
use super::fold::{UserFold, Verdict};
use super::rows::{self, AccountRow};
use super::sessions::SessionChange;
use crate::storage::columns::{ACCOUNT_DATA, ACCOUNTS, ERASED_USERS, FILTERS, FORGOTTEN, PROFILES};
use crate::storage::overlay::StoreError;

/// The user's account, if it can still be used.
pub(super) fn active(fold: &UserFold<'_, '_>) -> Result<Option<AccountRow>, StoreError> {
    let key = rows::user_key(fold.record.partition, fold.user.as_str());
    let account: Option<AccountRow> = rows::read_row(fold.tables, ACCOUNTS, &key)?;
    Ok(account.filter(|account| !account.deactivated))
}

fn put(fold: &mut UserFold<'_, '_>, account: &AccountRow) {
    let key = rows::user_key(fold.record.partition, fold.user.as_str());
    fold.tables
        .put(ACCOUNTS, key.as_bytes(), codec::encode(account));
}

/// A deactivated account's name stays taken.
pub(super) fn created(fold: &mut UserFold<'_, '_>) -> Result<Verdict, StoreError> {
    let Some(body) = fold.body::<InputAccountCreated>() else {
        return Ok(Verdict::rejected(Reason::Malformed));
    };
    let key = rows::user_key(fold.record.partition, fold.user.as_str());
    if fold.tables.get(ACCOUNTS, key.as_bytes())?.is_some() {
        return Ok(Verdict::rejected(Reason::Taken));
    }
    let account = AccountRow {
        password_hash: body.password_hash,
        guest: body.guest,
        admin: body.admin,
        deactivated: false,
        erased: false,
    };
    put(fold, &account);
    Ok(Verdict::accepted())
}

/// A guest who is given a password is a guest no more.
pub(super) fn password_set(fold: &mut UserFold<'_, '_>) -> Result<Verdict, StoreError> {
    let Some(body) = fold.body::<InputPasswordSet>() else {
        return Ok(Verdict::rejected(Reason::Malformed));
    };
    let Some(mut account) = active(fold)? else {
        return Ok(Verdict::rejected(Reason::NotFound));
    };
    account.password_hash = Some(body.password_hash);
    let was_guest = std::mem::replace(&mut account.guest, false);
    put(fold, &account);
    // Sessions say of themselves whether they are a guest's.
    let ended = match was_guest {
        true => devices::remove_all_but(fold, None)?,
        false => Vec::new(),
    };
    Ok(Verdict::with_devices(ended))
}

/// Ends the account, its devices and their tokens; with `erase` also what it
/// kept for itself and its profile, and what it said is shown to those alone who
/// were there.
pub(super) fn deactivated(fold: &mut UserFold<'_, '_>) -> Result<Verdict, StoreError> {
    let Some(body) = fold.body::<InputAccountDeactivated>() else {
        return Ok(Verdict::rejected(Reason::Malformed));
    };
    let key = rows::user_key(fold.record.partition, fold.user.as_str());
    let account: Option<AccountRow> = rows::read_row(fold.tables, ACCOUNTS, &key)?;
    let Some(account) = account else {
        return Ok(Verdict::rejected(Reason::NotFound));
    };
    let known = account.deactivated;
    let closed = AccountRow {
        password_hash: None,
        deactivated: true,
        erased: account.erased || body.erase,
        ..account
    };
    put(fold, &closed);
    let devices = devices::remove_all_but(fold, None)?;
    if body.erase {
        fold.tables.put(ERASED_USERS, key.as_bytes(), Vec::new());
        let erased = SessionChange::Erased(fold.user.clone());
        fold.changes.push(erased);
        for table in [PROFILES, ACCOUNT_DATA, FILTERS, FORGOTTEN] {
            let found = fold
                .tables
                .range(table, key.as_bytes(), None, false, usize::MAX)?;
            for (row, _) in found {
                fold.tables.delete(table, &row);
            }
        }
    }
    let mut verdict = Verdict::with_devices(devices);
    if known && !body.erase {
        verdict.decision = Decision::Duplicate;
    }
    Ok(verdict)
}
