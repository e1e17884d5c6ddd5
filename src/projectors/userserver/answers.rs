//! Answers from the user server's and the alias server's tables.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use log_format::record::input::TokenHash;
use log_format::record::output::Membership;
use ruma::{OwnedDeviceId, OwnedRoomAliasId, OwnedUserId, RoomAliasId, RoomId, UserId};

use super::rows::{self, AccountRow, DeviceRow, ForgottenRow};
use super::sessions::Sessions;
use crate::logs::log::partition_of;
use crate::matrix::history_visibility::membership_of;
use crate::projectors::aliasserver::rows as alias_rows;
use crate::query::ids::{EventSn, OutputOffset};
use crate::query::rooms::{QueryError, Rooms, StateKey};
use crate::query::users::{Account, AccountDatum, Alias, Device, Session, Users};
use crate::storage::columns::{
    ACCOUNT_DATA, ACCOUNTS, DEVICES, FILTERS, FORGOTTEN, PROFILES, Table,
};
use crate::storage::overlay::{Read, StoreError};

/// Memberships of one user that are looked at in search of the one that they
/// forgot. Who was banned and unbanned more often is told of the room again.
const MEMBERSHIPS_WALKED_MAX: usize = 50;

/// The window into users and aliases.
pub struct UserAnswers {
    store: Arc<dyn Read>,
    sessions: Arc<Sessions>,
    /// Asked whether a forgotten room was entered again.
    rooms: Arc<dyn Rooms>,
    partitions: u32,
}

impl UserAnswers {
    /// A window over a store of so many partitions.
    pub fn new(
        store: Arc<dyn Read>,
        sessions: Arc<Sessions>,
        rooms: Arc<dyn Rooms>,
        partitions: u32,
    ) -> UserAnswers {
        UserAnswers {
            store,
            sessions,
            rooms,
            partitions,
        }
    }

    fn partition(&self, key: &str) -> u32 {
        partition_of(key, self.partitions)
    }

    /// Every row under a user's prefix, with the name that its key ends in.
    fn named<T>(
        &self,
        table: Table,
        user: &UserId,
        read: impl Fn(&[u8]) -> Result<T, StoreError>,
    ) -> Result<Vec<(String, T)>, StoreError> {
        let prefix = rows::user_key(self.partition(user.as_str()), user.as_str());
        let found = self
            .store
            .range(table, prefix.as_bytes(), None, false, usize::MAX)?;
        let named = found.into_iter();
        named
            .map(|(key, value)| Ok((rows::name_in(table, &key, &prefix)?, read(&value)?)))
            .collect()
    }

    fn still_forgotten(&self, user: &UserId, room: &RoomId) -> Result<bool, QueryError> {
        let partition = self.partition(user.as_str());
        let key = rows::named_key(partition, user.as_str(), room.as_str());
        let row: Option<ForgottenRow> = rows::read_row(self.store.as_ref(), FORGOTTEN, &key)
            .map_err(|error| QueryError::Store(error.to_string()))?;
        let Some(row) = row else {
            return Ok(false);
        };
        match self.rooms.membership(room, user)? {
            None => return Ok(true),
            Some(Membership::Join | Membership::Invite | Membership::Knock) => return Ok(false),
            Some(Membership::Leave | Membership::Ban) => {}
        }
        let Some(seen) = row.membership_event else {
            return Ok(true);
        };
        let Some(head) = self.rooms.head(room)? else {
            return Ok(true);
        };
        let member = StateKey::new("m.room.member", user.as_str());
        self.only_out_since(room, head.state.get(&member).copied(), &seen)
    }

    /// Whether a user who is out of a room was nowhere else since the membership
    /// event that they saw when they forgot it: banned, say, or unbanned. Goes
    /// back from the current event by what each replaced.
    fn only_out_since(
        &self,
        room: &RoomId,
        current: Option<EventSn>,
        seen: &str,
    ) -> Result<bool, QueryError> {
        let mut next = current;
        for _ in 0..MEMBERSHIPS_WALKED_MAX {
            let Some(event) = next else {
                // What they saw is not among what led here.
                return Ok(current.is_none());
            };
            let Some(event) = self.rooms.events(room, &[event])?.pop() else {
                return Ok(true);
            };
            if event.event_id.as_str() == seen {
                return Ok(true);
            }
            match membership_of(&event.json) {
                Some(Membership::Leave | Membership::Ban) => next = event.replaces,
                _ => return Ok(false),
            }
        }
        Ok(false)
    }
}

/// The answer of a read; a store that fails is reported, and answers as if
/// nothing were there.
fn or_nothing<T: Default, E: std::fmt::Display>(what: &'static str, read: Result<T, E>) -> T {
    read.unwrap_or_else(|error| {
        tracing::error!(what, %error, "store could not be read");
        T::default()
    })
}

fn datum(event_type: String, row: &[u8]) -> Result<AccountDatum, StoreError> {
    let bad = |why: &str| StoreError::Row {
        table: ACCOUNT_DATA.name,
        why: why.to_owned(),
    };
    let (changed_at, content) = row
        .split_first_chunk::<8>()
        .ok_or_else(|| bad("row is too short"))?;
    Ok(AccountDatum {
        event_type,
        content: text(ACCOUNT_DATA, content)?.into(),
        changed_at: OutputOffset(u64::from_be_bytes(*changed_at)),
    })
}

fn text(table: Table, bytes: &[u8]) -> Result<&str, StoreError> {
    std::str::from_utf8(bytes).map_err(|_| StoreError::Row {
        table: table.name,
        why: "row is not UTF-8".to_owned(),
    })
}

impl Users for UserAnswers {
    fn erased(&self) -> Arc<BTreeSet<OwnedUserId>> {
        self.sessions.erased()
    }

    fn session(&self, access: &TokenHash) -> Option<Arc<Session>> {
        self.sessions.session(access)
    }

    fn refresh_session(&self, refresh: &TokenHash) -> Option<(OwnedUserId, OwnedDeviceId)> {
        self.sessions.refresh_session(refresh)
    }

    fn account(&self, user: &UserId) -> Option<Account> {
        let key = rows::user_key(self.partition(user.as_str()), user.as_str());
        let row: Option<AccountRow> = or_nothing(
            "account",
            rows::read_row(self.store.as_ref(), ACCOUNTS, &key),
        );
        row.map(|row| Account {
            password_hash: row.password_hash,
            guest: row.guest,
            admin: row.admin,
            deactivated: row.deactivated,
            erased: row.erased,
        })
    }

    fn devices(&self, user: &UserId) -> Vec<Device> {
        let found = self.named(DEVICES, user, |row| {
            rows::decode_row::<DeviceRow>(DEVICES, row)
        });
        let devices = or_nothing("devices", found).into_iter();
        devices
            .map(|(device_id, row)| Device {
                device_id: device_id.into(),
                display_name: row.display_name,
            })
            .collect()
    }

    fn profile(&self, user: &UserId) -> BTreeMap<String, String> {
        let found = self.named(PROFILES, user, |row| Ok(text(PROFILES, row)?.to_owned()));
        or_nothing("profile", found).into_iter().collect()
    }

    fn account_data(
        &self,
        user: &UserId,
        room: Option<&RoomId>,
        event_type: &str,
    ) -> Option<AccountDatum> {
        let partition = self.partition(user.as_str());
        let prefix = rows::account_data_prefix(partition, user.as_str(), room.map(RoomId::as_str));
        let key = prefix.bytes(event_type.as_bytes());
        let row = self.store.get(ACCOUNT_DATA, key.as_bytes());
        let read = row.and_then(|row| {
            row.map(|row| datum(event_type.to_owned(), &row))
                .transpose()
        });
        or_nothing("account data", read)
    }

    fn all_account_data(&self, user: &UserId, room: Option<&RoomId>) -> Vec<AccountDatum> {
        let partition = self.partition(user.as_str());
        let prefix = rows::account_data_prefix(partition, user.as_str(), room.map(RoomId::as_str));
        let found = self
            .store
            .range(ACCOUNT_DATA, prefix.as_bytes(), None, false, usize::MAX);
        let read = found.and_then(|found| {
            let rows = found.iter();
            rows.map(|(key, row)| datum(rows::name_in(ACCOUNT_DATA, key, &prefix)?, row))
                .collect()
        });
        or_nothing("account data", read)
    }

    fn filter(&self, user: &UserId, filter_id: &str) -> Option<Arc<str>> {
        let key = rows::named_key(self.partition(user.as_str()), user.as_str(), filter_id);
        let row = or_nothing("filter", self.store.get(FILTERS, key.as_bytes()))?;
        let definition = text(FILTERS, &row).map(|definition| Some(definition.into()));
        or_nothing("filter", definition)
    }

    fn forgot(&self, user: &UserId, room: &RoomId) -> bool {
        or_nothing("forgotten room", self.still_forgotten(user, room))
    }

    fn alias(&self, alias: &RoomAliasId) -> Option<Alias> {
        let partition = self.partition(alias.as_str());
        or_nothing(
            "alias",
            alias_rows::read(self.store.as_ref(), partition, alias),
        )
    }

    fn aliases_of(&self, room: &RoomId) -> Vec<OwnedRoomAliasId> {
        let read = alias_rows::of_room(self.store.as_ref(), self.partitions, room);
        or_nothing("aliases of a room", read)
    }
}
