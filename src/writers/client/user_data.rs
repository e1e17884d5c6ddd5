//! What users keep about themselves: profile, account data, filters. Each is a
//! record keyed by the user, with its JSON as the erasable body part.

use std::sync::Arc;

use log_format::codec;
use log_format::record::{Kind, NewEnvelope, Part, Source};
use ruma::UserId;
use tokio::sync::{Mutex, MutexGuard};

use crate::clock::now_us;
use crate::crypto::random;
use crate::logs::log::{NewRecord, partition_of};
use crate::matrix::push_rules::RuleError;
use crate::query::users::Users;
use crate::writers::submit::{SubmitError, Submitter};

/// Why nothing was stored.
#[derive(Debug, thiserror::Error)]
pub enum UserDataError {
    #[error("profile would exceed {max_bytes} bytes")]
    ProfileTooLarge { max_bytes: usize },
    #[error("content exceeds {max_bytes} bytes")]
    TooLarge { max_bytes: usize },
    #[error("user has {max} {what} already")]
    TooMany { what: &'static str, max: usize },
    #[error(transparent)]
    PushRule(#[from] RuleError),
    #[error(transparent)]
    Submit(#[from] SubmitError),
}

/// The writer of all of them.
#[derive(Clone)]
pub struct UserData {
    pub(super) users: Arc<dyn Users>,
    pub(super) submitter: Submitter,
    turns: Arc<[Mutex<()>]>,
}

/// Users share turns: so many change their data at the same time.
const TURNS: u32 = 64;

impl UserData {
    pub fn new(users: Arc<dyn Users>, submitter: Submitter) -> UserData {
        UserData {
            users,
            submitter,
            turns: (0..TURNS).map(|_| Mutex::new(())).collect(),
        }
    }

    /// Held from the look at what a user has until the change of it is folded,
    /// so that of two changes at once neither loses the other's, nor do both
    /// together pass a bound that each alone keeps.
    pub(super) async fn turn(&self, user: &UserId) -> Option<MutexGuard<'_, ()>> {
        let turn = self
            .turns
            .get(partition_of(user.as_str(), TURNS) as usize)?;
        Some(turn.lock().await)
    }

    pub(super) async fn submit(&self, user: &UserId, record: NewRecord) -> Result<(), SubmitError> {
        let batch = vec![record];
        self.submitter.submit(user.as_str(), batch).await?;
        Ok(())
    }
}

/// A record keyed by a user; `more` adds routing fields to the envelope.
pub(super) fn user_record<'a, B: bincode::Encode>(
    kind: Kind,
    user: &'a UserId,
    body: &B,
    content: Option<&'a str>,
    more: impl FnOnce(NewEnvelope<'a>) -> NewEnvelope<'a>,
) -> NewRecord {
    let body = codec::encode(body);
    let envelope = more(NewEnvelope {
        received_us: now_us(),
        key: user.as_str(),
        sender: Some(user.as_str()),
        body_part: content.map_or(Part::Absent, |json| Part::Present(json.as_bytes())),
        salt: match content {
            Some(_) => random::bytes(),
            None => [0; 32],
        },
        ..NewEnvelope::default()
    });
    NewRecord::new(
        kind,
        Source::Client,
        &NewEnvelope {
            body: &body,
            ..envelope
        },
    )
}
