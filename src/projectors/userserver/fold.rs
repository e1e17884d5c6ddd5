//! The user server's fold: one record in, its rows and one *output* record out.

use log_format::codec;
use log_format::record::envelope::Part;
use log_format::record::output::{Decision, OutputUser, Reason};
use log_format::record::{Kind, NewEnvelope};
use ruma::{OwnedUserId, UserId};

use super::rows::{self, RefusedAccountRow};
use super::sessions::{SessionChange, Sessions};
use super::{accounts, devices, personal, reports};
use crate::logs::log::NewRecord;
use crate::projectors::fold::{FoldError, FoldInput, Folded, Projector, Stamp};
use crate::storage::columns::REFUSED_ACCOUNTS;
use crate::storage::overlay::{Overlay, StoreError};
use std::sync::Arc;

/// The projector of one lane.
pub struct UserProjector {
    sessions: Arc<Sessions>,
    changes: Vec<SessionChange>,
    stamps: Vec<Stamp>,
}

/// What a user's record is folded with.
pub(super) struct UserFold<'a, 'b> {
    pub record: &'a FoldInput<'a>,
    pub user: OwnedUserId,
    pub tables: &'a mut Overlay<'b>,
    pub changes: &'a mut Vec<SessionChange>,
    pub stamps: &'a mut Vec<Stamp>,
}

/// What one of the folds made of a record.
pub(super) struct Verdict {
    pub decision: Decision,
    pub reason: Reason,
    pub devices: Vec<String>,
    pub name: Option<String>,
}

impl Verdict {
    pub fn accepted() -> Verdict {
        Verdict {
            decision: Decision::Accepted,
            reason: Reason::None,
            devices: Vec::new(),
            name: None,
        }
    }

    pub fn rejected(reason: Reason) -> Verdict {
        Verdict {
            decision: Decision::Rejected,
            reason,
            ..Verdict::accepted()
        }
    }

    pub fn with_devices(devices: Vec<String>) -> Verdict {
        Verdict {
            devices,
            ..Verdict::accepted()
        }
    }

    pub fn named(name: String) -> Verdict {
        Verdict {
            name: Some(name),
            ..Verdict::accepted()
        }
    }
}

impl UserFold<'_, '_> {
    /// The record's typed body; none if it is not one.
    pub fn body<T: bincode::Decode<()>>(&self) -> Option<T> {
        codec::decode(self.record.envelope.body).ok()
    }
}

impl UserProjector {
    /// A projector that publishes into `sessions`, which all lanes share.
    pub fn new(sessions: Arc<Sessions>) -> UserProjector {
        UserProjector {
            sessions,
            changes: Vec::new(),
            stamps: Vec::new(),
        }
    }

    fn decide(
        &mut self,
        record: &FoldInput<'_>,
        tables: &mut Overlay<'_>,
    ) -> Result<Verdict, StoreError> {
        let envelope = record.envelope;
        let user = UserId::parse(envelope.key)
            .ok()
            .filter(|user| user.as_str().len() <= rows::KEY_TEXT_BYTES_MAX);
        let Some(user) = user else {
            return Ok(Verdict::rejected(Reason::Malformed));
        };
        let mut fold = UserFold {
            record,
            user,
            tables,
            changes: &mut self.changes,
            stamps: &mut self.stamps,
        };
        if came_with_refused_account(&fold)? {
            return Ok(Verdict::rejected(Reason::Taken));
        }
        match envelope.kind {
            Kind::InputAccountCreated => {
                let verdict = accounts::created(&mut fold)?;
                if verdict.decision == Decision::Rejected {
                    remember_refusal(&mut fold);
                }
                Ok(verdict)
            }
            Kind::InputPasswordSet => accounts::password_set(&mut fold),
            Kind::InputAccountDeactivated => accounts::deactivated(&mut fold),
            Kind::InputDeviceLoggedIn => devices::logged_in(&mut fold),
            Kind::InputTokensRefreshed => devices::refreshed(&mut fold),
            Kind::InputDevicesRemoved => devices::removed(&mut fold),
            Kind::InputDeviceRenamed => devices::renamed(&mut fold),
            Kind::InputProfileField => personal::profile_field(&mut fold),
            Kind::InputAccountData => personal::account_data(&mut fold),
            Kind::InputFilter => personal::filter(&mut fold),
            Kind::InputRoomForgotten => personal::room_forgotten(&mut fold),
            Kind::InputReport => reports::reported(&mut fold),
            Kind::InputRoomEvent
            | Kind::InputRoomPublished
            | Kind::InputAliasCreated
            | Kind::InputAliasRemoved
            | Kind::InputStateBegin
            | Kind::InputStateChunk
            | Kind::InputStateCommit
            | Kind::InputStateAbandoned
            | Kind::InputRoomResumed
            | Kind::InputReceipt
            | Kind::InputOutsideMembership
            | Kind::InputRoomPurged
            | Kind::InputServerKeys
            | Kind::InputDelivery
            | Kind::EphemeralTyping
            | Kind::EphemeralPresence
            | Kind::OutputReceipt
            | Kind::OutputOutsideMembership
            | Kind::OutputRoomEvent
            | Kind::OutputRoomState
            | Kind::OutputRoomGap
            | Kind::OutputRoomPublished
            | Kind::OutputRoomPurged
            | Kind::OutputUser
            | Kind::OutputAlias
            | Kind::OutputServerKeys
            | Kind::OutputDelivery => Ok(Verdict::rejected(Reason::Malformed)),
        }
    }
}

impl Projector for UserProjector {
    fn fold(
        &mut self,
        record: &FoldInput<'_>,
        tables: &mut Overlay<'_>,
    ) -> Result<Folded, FoldError> {
        let verdict = self.decide(record, tables)?;
        let (decision, reason) = (verdict.decision, verdict.reason);
        let body = codec::encode(&OutputUser {
            origin: record.origin(),
            decision,
            reason,
            kind: record.envelope.kind.number(),
            devices: verdict.devices,
            name: verdict.name,
        });
        let mut output = NewEnvelope {
            body: &body,
            ..record.envelope.to_new()
        };
        if decision != Decision::Accepted {
            output.body_part = Part::Absent;
        }
        let output = NewRecord::new(Kind::OutputUser, record.envelope.source, &output);
        Ok(Folded::decided(vec![output], decision, reason))
    }

    fn publish(&mut self) {
        self.sessions.apply(self.changes.drain(..));
    }

    fn stamps(&mut self) -> Vec<Stamp> {
        std::mem::take(&mut self.stamps)
    }
}

/// Whether the record belongs to the request of a registration that was refused.
///
/// A request may register and log in with one batch under one idempotency key.
/// If somebody else got the name first, the login must fail with it, or it would
/// log in to their account.
fn came_with_refused_account(fold: &UserFold<'_, '_>) -> Result<bool, StoreError> {
    let envelope = fold.record.envelope;
    if envelope.kind == Kind::InputAccountCreated || envelope.idempotency == [0; 16] {
        return Ok(false);
    }
    let key = rows::user_key(fold.record.partition, fold.user.as_str());
    let refused: Option<RefusedAccountRow> = rows::read_row(fold.tables, REFUSED_ACCOUNTS, &key)?;
    Ok(refused.is_some_and(|refused| refused.idempotency == envelope.idempotency))
}

fn remember_refusal(fold: &mut UserFold<'_, '_>) {
    let idempotency = fold.record.envelope.idempotency;
    if idempotency == [0; 16] {
        return;
    }
    let key = rows::user_key(fold.record.partition, fold.user.as_str());
    let row = codec::encode(&RefusedAccountRow { idempotency });
    fold.tables.put(REFUSED_ACCOUNTS, key.as_bytes(), row);
}
