//! Sessions by token hash, in memory: the one look-up of every request. And the
//! few users who asked to be erased: of each event that is shown it is asked
//! whether its sender is one.
//!
//! Loaded from the tables at start, kept current by the fold's publish.

use std::collections::BTreeSet;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dashmap::DashMap;
use log_format::record::input::TokenHash;
use parking_lot::RwLock;
use ruma::{OwnedDeviceId, OwnedUserId, UserId};

use super::rows::{self, AccountRow, DeviceRow};
use crate::query::users::Session;
use crate::storage::columns::{ACCOUNTS, DEVICES, ERASED_USERS};
use crate::storage::keys::{Key, RowReader};
use crate::storage::open::Store;
use crate::storage::overlay::StoreError;

/// Token hashes to who they speak for.
#[derive(Default)]
pub struct Sessions {
    access: DashMap<TokenHash, Access>,
    refresh: DashMap<TokenHash, Refresh>,
    /// Replaced as a whole when somebody comes to it.
    erased: RwLock<Arc<BTreeSet<OwnedUserId>>>,
}

struct Access {
    session: Arc<Session>,
    /// Whether the token has been used since this process knows it. Not stored:
    /// after a restart a spent refresh token is good again until the first use.
    used: AtomicBool,
}

struct Refresh {
    user_id: OwnedUserId,
    device_id: OwnedDeviceId,
    /// A token that was spent already: good until this access token is used.
    unless_used: Option<TokenHash>,
}

/// A device with the account that its sessions are of.
pub struct DeviceTokens {
    pub user_id: OwnedUserId,
    pub device_id: OwnedDeviceId,
    pub guest: bool,
    pub admin: bool,
    pub row: DeviceRow,
}

/// What a fold did to sessions, in its order.
pub enum SessionChange {
    /// These tokens are no longer the device's.
    Ended(DeviceRow),
    /// These are.
    Begun(Box<DeviceTokens>),
    /// The user asked to be erased.
    Erased(OwnedUserId),
}

impl Sessions {
    /// All sessions of a store.
    pub fn load(store: &Store, partitions: u32) -> Result<Sessions, StoreError> {
        let sessions = Sessions::default();
        let mut erased = BTreeSet::new();
        for partition in 0..partitions {
            store.scan(ERASED_USERS, Key::of(partition).as_bytes(), |key, _| {
                erased.insert(user_key(key)?);
                Ok::<(), StoreError>(())
            })?;
            // Devices of an account lie together, so it is read once.
            let mut account: Option<(OwnedUserId, AccountRow)> = None;
            store.scan(DEVICES, Key::of(partition).as_bytes(), |key, value| {
                let (user_id, device_id) = device_key(key)?;
                if account.as_ref().is_none_or(|(known, _)| *known != user_id) {
                    let key = rows::user_key(partition, user_id.as_str());
                    let row = rows::read_row(store, ACCOUNTS, &key)?;
                    account = row.map(|row| (user_id.clone(), row));
                }
                if let Some((_, account)) = &account {
                    sessions.begin(DeviceTokens {
                        user_id,
                        device_id,
                        guest: account.guest,
                        admin: account.admin,
                        row: rows::decode_row(DEVICES, value)?,
                    });
                }
                Ok::<(), StoreError>(())
            })?;
        }
        *sessions.erased.write() = Arc::new(erased);
        Ok(sessions)
    }

    /// Applies what a group of folds did.
    pub fn apply(&self, changes: impl Iterator<Item = SessionChange>) {
        for change in changes {
            match change {
                SessionChange::Ended(row) => self.end(&row),
                SessionChange::Begun(device) => self.begin(*device),
                SessionChange::Erased(user) => {
                    let mut erased = self.erased.write();
                    Arc::make_mut(&mut erased).insert(user);
                }
            }
        }
    }

    /// Users who asked to be erased.
    pub fn erased(&self) -> Arc<BTreeSet<OwnedUserId>> {
        self.erased.read().clone()
    }

    /// The session of an access token, which counts as used from now on.
    pub fn session(&self, access: &TokenHash) -> Option<Arc<Session>> {
        let found = self.access.get(access)?;
        if !found.used.load(Ordering::Relaxed) {
            found.used.store(true, Ordering::Relaxed);
        }
        Some(found.session.clone())
    }

    /// The device of a refresh token that may be spent.
    pub fn refresh_session(&self, refresh: &TokenHash) -> Option<(OwnedUserId, OwnedDeviceId)> {
        let (user_id, device_id, unless_used) = {
            let found = self.refresh.get(refresh)?;
            (
                found.user_id.clone(),
                found.device_id.clone(),
                found.unless_used,
            )
        };
        let spent = unless_used.is_some_and(|access| {
            let access = self.access.get(&access);
            access.is_none_or(|access| access.used.load(Ordering::Relaxed))
        });
        (!spent).then_some((user_id, device_id))
    }

    fn begin(&self, device: DeviceTokens) {
        let tokens = &device.row.tokens;
        let session = Arc::new(Session {
            user_id: device.user_id.clone(),
            device_id: device.device_id.clone(),
            expires_ms: tokens.access_expires_ms,
            guest: device.guest,
            admin: device.admin,
        });
        let spent = device
            .row
            .previous_refresh
            .map(|hash| (hash, Some(tokens.access)));
        let current = tokens.refresh.map(|hash| (hash, None));
        for (hash, unless_used) in spent.into_iter().chain(current) {
            let refresh = Refresh {
                user_id: device.user_id.clone(),
                device_id: device.device_id.clone(),
                unless_used,
            };
            self.refresh.insert(hash, refresh);
        }
        let access = Access {
            session,
            used: AtomicBool::new(false),
        };
        self.access.insert(tokens.access, access);
    }

    fn end(&self, row: &DeviceRow) {
        self.access.remove(&row.tokens.access);
        let refresh = [row.tokens.refresh, row.previous_refresh];
        for hash in refresh.into_iter().flatten() {
            self.refresh.remove(&hash);
        }
    }
}

/// The user of a key of the table of those who asked to be erased.
fn user_key(key: &[u8]) -> Result<OwnedUserId, StoreError> {
    let mut row = RowReader::new(ERASED_USERS, key);
    row.take(2)?;
    let user = row.key_text()?;
    UserId::parse(user).map_err(|_| row.error("key names no user"))
}

/// User and device of a key of the device table.
fn device_key(key: &[u8]) -> Result<(OwnedUserId, OwnedDeviceId), StoreError> {
    let read = || {
        let (len, rest) = key.get(2..)?.split_first_chunk::<2>()?;
        let (user, device) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        let user = UserId::parse(std::str::from_utf8(user).ok()?).ok()?;
        Some((user, OwnedDeviceId::from(std::str::from_utf8(device).ok()?)))
    };
    read().ok_or_else(|| StoreError::Row {
        table: DEVICES.name,
        why: "key names no user and device".to_owned(),
    })
}
