//! Accounts, devices, tokens, profiles, account data and filters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use log_format::record::input::TokenHash;
use ruma::{
    OwnedDeviceId, OwnedRoomAliasId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomAliasId,
    RoomId, UserId,
};

use super::ids::OutputOffset;

/// Who a valid access token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub user_id: OwnedUserId,
    pub device_id: OwnedDeviceId,
    /// Compared with the clock at the door; none never expires.
    pub expires_ms: Option<u64>,
    pub guest: bool,
    pub admin: bool,
}

/// A local account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// PHC string; none where no password login is possible.
    pub password_hash: Option<String>,
    pub guest: bool,
    pub admin: bool,
    pub deactivated: bool,
    /// What they said is given to no other server any more.
    pub erased: bool,
}

/// A device of a local account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub device_id: OwnedDeviceId,
    pub display_name: Option<String>,
}

/// One piece of account data, with where it last changed.
#[derive(Clone, Debug)]
pub struct AccountDatum {
    pub event_type: String,
    /// Content as JSON.
    pub content: Arc<str>,
    /// *Output* offset of the change, in the user's partition.
    pub changed_at: OutputOffset,
}

/// An alias of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    pub alias: OwnedRoomAliasId,
    pub room_id: OwnedRoomId,
    pub creator: OwnedUserId,
    pub servers: Vec<OwnedServerName>,
}

/// The user server's and alias server's tables, read-only. Every answer
/// contains all records whose outcome was published.
pub trait Users: Send + Sync {
    /// Users of this server who closed their accounts and asked to be erased: what
    /// they said is shown redacted to who was not in the room at that time
    /// (client-server API, *Account deactivation*, `erase`).
    fn erased(&self) -> Arc<BTreeSet<OwnedUserId>> {
        Arc::default()
    }
    /// One look-up in memory.
    fn session(&self, access: &TokenHash) -> Option<Arc<Session>>;
    /// User and device whose *current* refresh token this is.
    fn refresh_session(&self, refresh: &TokenHash) -> Option<(OwnedUserId, OwnedDeviceId)>;
    fn account(&self, user: &UserId) -> Option<Account>;
    fn devices(&self, user: &UserId) -> Vec<Device>;
    /// Profile fields; values are JSON.
    fn profile(&self, user: &UserId) -> BTreeMap<String, String>;
    /// Global account data with no room, else that room's.
    fn account_data(
        &self,
        user: &UserId,
        room: Option<&RoomId>,
        event_type: &str,
    ) -> Option<AccountDatum>;
    fn all_account_data(&self, user: &UserId, room: Option<&RoomId>) -> Vec<AccountDatum>;
    /// The definition as JSON.
    fn filter(&self, user: &UserId, filter_id: &str) -> Option<Arc<str>>;
    /// Whether the user forgot the room since they last left it.
    fn forgot(&self, user: &UserId, room: &RoomId) -> bool;
    fn alias(&self, alias: &RoomAliasId) -> Option<Alias>;
    fn aliases_of(&self, room: &RoomId) -> Vec<OwnedRoomAliasId>;
}
