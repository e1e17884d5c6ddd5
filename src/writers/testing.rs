//! In-memory stand-ins for the ports: a log that keeps nothing, and a user
//! server that folds what is appended at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use log_format::codec;
use log_format::record::input::*;
use log_format::record::output::{Decision, Reason};
use log_format::record::{Envelope, Kind};
use parking_lot::Mutex;
use ruma::{
    EventId, OwnedDeviceId, OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomAliasId, RoomId, UserId,
};

use crate::logs::log::*;
use crate::query::graph::{RoomGraph, StateDifference};
use crate::query::ids::{EventSn, OutputOffset, Place, StateId};
use crate::query::outcome::{Outcome, OutcomeFuture, Outcomes};
use crate::query::rooms::*;
use crate::query::testing::FewRooms;
use crate::query::tokens::{PositionError, SyncPositions, SyncToken};
use crate::query::users::*;

/// Ports of a server whose records are folded the moment they are appended.
#[derive(Default)]
pub struct World {
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    accounts: BTreeMap<OwnedUserId, Account>,
    devices: BTreeMap<(OwnedUserId, OwnedDeviceId), (Option<String>, Tokens)>,
    profiles: BTreeMap<OwnedUserId, BTreeMap<String, String>>,
    account_data: BTreeMap<(OwnedUserId, Option<String>, String), Arc<str>>,
    filters: BTreeMap<(OwnedUserId, String), Arc<str>>,
    outcomes: Vec<Reason>,
    refuse_next: Option<AppendError>,
    panic_on_account: bool,
}

impl World {
    /// The next append fails this way.
    pub fn refuse_next(&self, error: AppendError) {
        self.tables.lock().refuse_next = Some(error);
    }

    /// Look-ups of accounts panic from now on.
    pub fn break_accounts(&self) {
        self.tables.lock().panic_on_account = true;
    }

    /// Lets all access tokens have expired.
    pub fn expire_tokens(&self) {
        for (_, tokens) in self.tables.lock().devices.values_mut() {
            tokens.access_expires_ms = tokens.access_expires_ms.map(|_| 1);
        }
    }

    /// How many records were appended.
    pub fn appended(&self) -> usize {
        self.tables.lock().outcomes.len()
    }
}

impl Tables {
    fn fold(&mut self, record: &NewRecord) -> Reason {
        let envelope = Envelope::parse(&record.payload).unwrap();
        assert_eq!(envelope.digest(), record.digest);
        // Rooms and aliases are not folded here: there are none.
        let Ok(user) = UserId::parse(envelope.key) else {
            return Reason::UnknownRoom;
        };
        if record.kind != Kind::InputAccountCreated
            && self.accounts.get(&user).is_none_or(|it| it.deactivated)
        {
            return Reason::NotFound;
        }
        let content = envelope.body_part.bytes();
        let content = content.map(|bytes| std::str::from_utf8(bytes).unwrap());
        match record.kind {
            Kind::InputAccountCreated => {
                let body: InputAccountCreated = codec::decode(envelope.body).unwrap();
                if self.accounts.contains_key(&user) {
                    return Reason::Taken;
                }
                let account = Account {
                    password_hash: body.password_hash,
                    guest: body.guest,
                    admin: body.admin,
                    deactivated: false,
                    erased: false,
                };
                self.accounts.insert(user, account);
            }
            Kind::InputPasswordSet => {
                let body: InputPasswordSet = codec::decode(envelope.body).unwrap();
                let account = self.accounts.get_mut(&user).unwrap();
                account.password_hash = Some(body.password_hash);
                account.guest = false;
            }
            Kind::InputAccountDeactivated => {
                self.accounts.get_mut(&user).unwrap().deactivated = true;
            }
            Kind::InputDeviceLoggedIn => {
                let body: InputDeviceLoggedIn = codec::decode(envelope.body).unwrap();
                let key = (user, body.device_id.into());
                self.devices.insert(key, (body.display_name, body.tokens));
            }
            Kind::InputTokensRefreshed => {
                let body: InputTokensRefreshed = codec::decode(envelope.body).unwrap();
                let device = self.devices.get_mut(&(user, body.device_id.into()));
                match device.filter(|(_, tokens)| tokens.refresh == Some(body.spent)) {
                    Some((_, tokens)) => *tokens = body.tokens,
                    None => return Reason::NotFound,
                }
            }
            Kind::InputDevicesRemoved => {
                let body: InputDevicesRemoved = codec::decode(envelope.body).unwrap();
                self.devices.retain(|(owner, device), _| {
                    let goes = match &body.device_ids {
                        Some(ids) => ids.iter().any(|id| id == device.as_str()),
                        None => body.except.as_deref() != Some(device.as_str()),
                    };
                    *owner != user || !goes
                });
            }
            Kind::InputDeviceRenamed => {
                let body: InputDeviceRenamed = codec::decode(envelope.body).unwrap();
                match self.devices.get_mut(&(user, body.device_id.into())) {
                    Some((name, _)) => *name = body.display_name,
                    None => return Reason::NotFound,
                }
            }
            Kind::InputProfileField => {
                let body: InputProfileField = codec::decode(envelope.body).unwrap();
                let profile = self.profiles.entry(user).or_default();
                match content {
                    Some(json) => profile.insert(body.field, json.to_owned()),
                    None => profile.remove(&body.field),
                };
            }
            Kind::InputAccountData => {
                let room = envelope.room_id.map(str::to_owned);
                let event_type = envelope.event_type.unwrap().to_owned();
                let key = (user, room, event_type);
                self.account_data.insert(key, content.unwrap().into());
            }
            Kind::InputFilter => {
                let body: InputFilter = codec::decode(envelope.body).unwrap();
                let key = (user, body.filter_id);
                self.filters.insert(key, content.unwrap().into());
            }
            other => panic!("{other:?} is not folded here"),
        }
        Reason::None
    }
}

impl Log for World {
    fn partitions(&self) -> u32 {
        1
    }

    fn end(&self, _: PartitionId) -> u64 {
        self.tables.lock().outcomes.len() as u64
    }

    fn begin(&self, _: PartitionId) -> u64 {
        self.end(0)
    }

    fn read(&self, _: PartitionId, _: u64, _: usize) -> Result<Vec<LogRecord>, ReadError> {
        Ok(Vec::new())
    }

    fn link_before(&self, _: PartitionId, _: u64) -> Result<[u8; 32], ReadError> {
        Ok([0; 32])
    }

    fn wait_beyond(&self, _: PartitionId, _: u64) -> Waiting<'_> {
        Box::pin(std::future::pending())
    }

    fn trim(&self, _: PartitionId, _: u64) -> Result<(), ReadError> {
        Ok(())
    }
}

impl Append for World {
    fn enqueue(
        &self,
        partition: PartitionId,
        batch: Vec<NewRecord>,
    ) -> Result<AppendTicket, AppendError> {
        let mut tables = self.tables.lock();
        if let Some(error) = tables.refuse_next.take() {
            return Err(error);
        }
        let first = tables.outcomes.len() as u64;
        for record in &batch {
            let reason = tables.fold(record);
            tables.outcomes.push(reason);
        }
        let count = batch.len() as u32;
        let appended = Appended {
            partition,
            first,
            count,
        };
        Ok(Box::pin(std::future::ready(Ok(appended))))
    }
}

/// An *ephemeral* log that nobody reads.
#[derive(Default)]
pub struct Forgetful {
    /// What was appended.
    pub appended: Mutex<Vec<NewRecord>>,
    /// Refuses what comes, as on a full disk.
    pub is_full: AtomicBool,
}

impl Log for Forgetful {
    fn partitions(&self) -> u32 {
        1
    }

    fn end(&self, _: PartitionId) -> u64 {
        0
    }

    fn begin(&self, _: PartitionId) -> u64 {
        0
    }

    fn read(&self, _: PartitionId, _: u64, _: usize) -> Result<Vec<LogRecord>, ReadError> {
        Ok(Vec::new())
    }

    fn link_before(&self, _: PartitionId, _: u64) -> Result<[u8; 32], ReadError> {
        Ok([0; 32])
    }

    fn wait_beyond(&self, _: PartitionId, _: u64) -> Waiting<'_> {
        Box::pin(std::future::pending())
    }

    fn trim(&self, _: PartitionId, _: u64) -> Result<(), ReadError> {
        Ok(())
    }
}

impl Append for Forgetful {
    fn enqueue(
        &self,
        partition: PartitionId,
        batch: Vec<NewRecord>,
    ) -> Result<AppendTicket, AppendError> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(AppendError::DiskFull);
        }
        let count = batch.len() as u32;
        self.appended.lock().extend(batch);
        let appended = Appended {
            partition,
            first: 0,
            count,
        };
        Ok(Box::pin(std::future::ready(Ok(appended))))
    }
}

impl Outcomes for World {
    fn outcome(&self, batch: Appended) -> OutcomeFuture<'_> {
        let tables = self.tables.lock();
        let folded = &tables.outcomes[batch.first as usize..=batch.last() as usize];
        let refused = folded.iter().find(|reason| **reason != Reason::None);
        let decision = match refused {
            Some(_) => Decision::Rejected,
            None => Decision::Accepted,
        };
        let outcome = Outcome {
            decision,
            reason: refused.copied().unwrap_or(Reason::None),
            duplicate_of: None,
            visible_at: OutputOffset(batch.last() + 1),
        };
        Box::pin(std::future::ready(Ok(outcome)))
    }
}

impl Users for World {
    fn session(&self, access: &TokenHash) -> Option<Arc<Session>> {
        let tables = self.tables.lock();
        let mut devices = tables.devices.iter();
        let ((user, device), (_, tokens)) = devices.find(|(_, (_, t))| t.access == *access)?;
        let account = tables.accounts.get(user)?;
        Some(Arc::new(Session {
            user_id: user.clone(),
            device_id: device.clone(),
            expires_ms: tokens.access_expires_ms,
            guest: account.guest,
            admin: account.admin,
        }))
    }

    fn refresh_session(&self, refresh: &TokenHash) -> Option<(OwnedUserId, OwnedDeviceId)> {
        let tables = self.tables.lock();
        let mut devices = tables.devices.iter();
        let (key, _) = devices.find(|(_, (_, t))| t.refresh == Some(*refresh))?;
        Some(key.clone())
    }

    fn account(&self, user: &UserId) -> Option<Account> {
        let tables = self.tables.lock();
        assert!(!tables.panic_on_account, "the test wants a panic");
        tables.accounts.get(user).cloned()
    }

    fn devices(&self, user: &UserId) -> Vec<Device> {
        let tables = self.tables.lock();
        let mine = tables
            .devices
            .iter()
            .filter(|((owner, _), _)| owner == user);
        mine.map(|((_, id), (name, _))| Device {
            device_id: id.clone(),
            display_name: name.clone(),
        })
        .collect()
    }

    fn profile(&self, user: &UserId) -> BTreeMap<String, String> {
        let tables = self.tables.lock();
        tables.profiles.get(user).cloned().unwrap_or_default()
    }

    fn account_data(
        &self,
        user: &UserId,
        room: Option<&RoomId>,
        event_type: &str,
    ) -> Option<AccountDatum> {
        let data = self.all_account_data(user, room);
        data.into_iter().find(|it| it.event_type == event_type)
    }

    fn all_account_data(&self, user: &UserId, room: Option<&RoomId>) -> Vec<AccountDatum> {
        let tables = self.tables.lock();
        let room = room.map(|room| room.to_string());
        let mine = tables.account_data.iter();
        mine.filter(|((owner, of, _), _)| owner == user && *of == room)
            .map(|((_, _, event_type), content)| AccountDatum {
                event_type: event_type.clone(),
                content: content.clone(),
                changed_at: OutputOffset(0),
            })
            .collect()
    }

    fn filter(&self, user: &UserId, filter_id: &str) -> Option<Arc<str>> {
        let key = (user.to_owned(), filter_id.to_owned());
        self.tables.lock().filters.get(&key).cloned()
    }

    fn forgot(&self, _: &UserId, _: &RoomId) -> bool {
        false
    }

    fn alias(&self, _: &RoomAliasId) -> Option<Alias> {
        None
    }

    fn aliases_of(&self, _: &RoomId) -> Vec<OwnedRoomAliasId> {
        Vec::new()
    }
}

/// A room server that knows no room.
impl RoomGraph for World {
    fn rooms_with(&self, _: &EventId) -> Result<Vec<OwnedRoomId>, QueryError> {
        Ok(vec![])
    }

    fn auth_chain(&self, _: &RoomId, _: &[EventSn]) -> Result<BTreeSet<EventSn>, QueryError> {
        Ok(BTreeSet::new())
    }

    fn state_difference(
        &self,
        _: &RoomId,
        _: StateId,
        _: StateId,
    ) -> Result<Option<Vec<StateDifference>>, QueryError> {
        Ok(None)
    }
}

impl FewRooms for World {}

impl SyncPositions for World {
    fn place_of(&self, _: &RoomId, _: &SyncToken) -> Result<Option<Place>, PositionError> {
        Ok(None)
    }

    fn state_of(&self, _: &RoomId, _: &SyncToken) -> Result<Option<StateId>, PositionError> {
        Ok(None)
    }
}
