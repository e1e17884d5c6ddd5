//! The presence server: the projector of who is there. In memory alone; over a
//! restart it knows what *ephemeral* still holds.
//!
//! How presence follows from what a user's devices do is for the writer. Here a
//! record replaces the one before; whether clients are told of it is decided by
//! what it changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use log_format::codec;
use log_format::record::Envelope;
use log_format::record::ephemeral::{EphemeralPresence, PresenceState};
use ruma::{OwnedUserId, UserId};

use crate::query::ephemeral::{Presence, Since};
use crate::query::ids::EphemeralOffset;

/// Users who are remembered beyond those who are there; they are some 200 bytes each.
const ABSENT_USERS_MAX: usize = 100_000;

/// Presence, by user.
#[derive(Default)]
pub struct PresenceTable {
    users: BTreeMap<OwnedUserId, Arc<Presence>>,
    /// Users by the newest change that clients are told of: one entry for each.
    by_change: BTreeMap<EphemeralOffset, OwnedUserId>,
    /// The same of those who are not offline.
    present: BTreeMap<EphemeralOffset, OwnedUserId>,
}

impl PresenceTable {
    /// Folds a record. One that cannot be read changes nothing.
    pub fn fold(&mut self, offset: EphemeralOffset, envelope: &Envelope<'_>) {
        let body = codec::decode::<EphemeralPresence>(envelope.body).ok();
        let user = OwnedUserId::try_from(envelope.key).ok();
        let status_msg = envelope.body_part.bytes().map(std::str::from_utf8);
        let (Some(body), Some(user), Ok(status_msg)) = (body, user, status_msg.transpose()) else {
            return;
        };
        let mut new = Presence {
            user_id: user.clone(),
            state: body.presence,
            status_msg: status_msg.map(Box::from),
            last_active_ms: body.last_active_ms,
            currently_active: body.currently_active,
            changed_at: offset,
            written_at: offset,
        };
        if let Some(before) = self.users.get(&user) {
            if !is_news(before, &new) {
                new.changed_at = before.changed_at;
                self.users.insert(user, Arc::new(new));
                return;
            }
            self.by_change.remove(&before.changed_at);
            self.present.remove(&before.changed_at);
        }
        if new.state != PresenceState::Offline {
            self.present.insert(offset, user.clone());
        }
        self.by_change.insert(offset, user.clone());
        self.users.insert(user, Arc::new(new));
        self.forget_absent();
    }

    /// Users who changed, in the order of their changes. `began` is where the
    /// log stood when the process began.
    pub fn changes(&self, since: Since, began: EphemeralOffset) -> Vec<Arc<Presence>> {
        let known = |(_, user): (&EphemeralOffset, &OwnedUserId)| self.users.get(user).cloned();
        match since {
            Since::Offset(offset) => self.by_change.range(offset..).filter_map(known).collect(),
            Since::Nothing => self.present.iter().filter_map(known).collect(),
            Since::OtherBoot => {
                let before = self.present.range(..began);
                let after = self.by_change.range(began..);
                before.chain(after).filter_map(known).collect()
            }
        }
    }

    /// Users with a status message whose record lies below an offset.
    pub fn statuses_before(&self, before: EphemeralOffset) -> Vec<Arc<Presence>> {
        let users = self.users.values();
        let old = users.filter(|user| user.status_msg.is_some() && user.written_at < before);
        old.cloned().collect()
    }

    pub fn user(&self, user: &UserId) -> Option<Arc<Presence>> {
        self.users.get(user).cloned()
    }

    fn forget_absent(&mut self) {
        if self.users.len() - self.present.len() <= ABSENT_USERS_MAX {
            return;
        }
        let mut oldest = self.by_change.iter();
        let absent = oldest.find(|(offset, _)| !self.present.contains_key(offset));
        if let Some((offset, user)) = absent.map(|(offset, user)| (*offset, user.clone())) {
            self.by_change.remove(&offset);
            self.users.remove(&user);
        }
    }
}

/// Whether clients are told. Not of how recently an active user was active
/// (client-server API, *Last active ago*).
fn is_news(before: &Presence, new: &Presence) -> bool {
    before.state != new.state
        || before.status_msg != new.status_msg
        || before.currently_active != new.currently_active
        || (!new.currently_active && before.last_active_ms != new.last_active_ms)
}

#[cfg(test)]
mod tests;
