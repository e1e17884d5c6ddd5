//! Accounts: registration, passwords, deactivation, and whose password it is.

use std::sync::Arc;
use std::time::Duration;

use log_format::record::input::{
    InputAccountCreated, InputAccountDeactivated, InputDevicesRemoved, InputPasswordSet,
    InputProfileField,
};
use log_format::record::output::Reason;
use log_format::record::{Kind, NewEnvelope};
use ruma::{DeviceId, OwnedServerName, OwnedUserId, UserId};
use serde_json::Value;

use super::passwords::{HashFailed, Passwords};
use super::user_data::user_record;
use crate::crypto::random;
use crate::limits::{PASSWORD_CHARS_MAX, PASSWORD_CHARS_MIN};
use crate::logs::log::NewRecord;
use crate::query::users::Users;
use crate::writers::submit::{SubmitError, Submitter};

/// Why an account or device is not what the request wants it to be.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    #[error("user id is taken")]
    UserInUse,
    #[error("user name is not a valid localpart")]
    InvalidUsername,
    #[error("password is shorter than {min} characters")]
    WeakPassword { min: usize },
    #[error("password is longer than {max} characters")]
    PasswordTooLong { max: usize },
    #[error("device id is not acceptable")]
    InvalidDeviceId,
    #[error("device display name is longer than {max_bytes} bytes")]
    DisplayNameTooLong { max_bytes: usize },
    /// No such user, no password, or a wrong one: the same to the outside.
    #[error("user or password is wrong")]
    WrongCredentials,
    /// Said only to who knows the password that the account had.
    #[error("account is deactivated")]
    Deactivated,
    #[error("user has no such device")]
    UnknownDevice,
    #[error("refresh token is not known or spent")]
    UnknownRefreshToken,
    #[error("password hash could not be made")]
    PasswordHash,
    #[error(transparent)]
    Submit(#[from] SubmitError),
}

impl From<HashFailed> for AccountError {
    fn from(_: HashFailed) -> AccountError {
        AccountError::PasswordHash
    }
}

/// The writer of accounts and devices (the latter in [`super::devices`]).
#[derive(Clone)]
pub struct Accounts {
    server_name: OwnedServerName,
    pub(super) access_token_lifetime: Duration,
    pub(super) users: Arc<dyn Users>,
    pub(super) submitter: Submitter,
    passwords: Arc<Passwords>,
}

impl Accounts {
    pub fn new(
        server_name: OwnedServerName,
        access_token_lifetime: Duration,
        users: Arc<dyn Users>,
        submitter: Submitter,
        passwords: Arc<Passwords>,
    ) -> Accounts {
        Accounts {
            server_name,
            access_token_lifetime,
            users,
            submitter,
            passwords,
        }
    }

    /// The user id that a registration under `username` would get; capitals
    /// become small letters, without a name one is made up.
    ///
    /// Errors: `InvalidUsername` (appendices, *User Identifiers*), `UserInUse`.
    pub fn available(&self, username: Option<&str>) -> Result<OwnedUserId, AccountError> {
        let user = match username {
            Some(name) => self.local_user(&name.to_ascii_lowercase()),
            None => self.local_user(&random::user_localpart()),
        };
        let user = user.ok_or(AccountError::InvalidUsername)?;
        match self.users.account(&user) {
            Some(_) => Err(AccountError::UserInUse),
            None => Ok(user),
        }
    }

    fn local_user(&self, localpart: &str) -> Option<OwnedUserId> {
        if localpart.is_empty() || localpart.starts_with('_') {
            return None;
        }
        let user = UserId::parse(format!("@{localpart}:{}", self.server_name)).ok()?;
        user.validate_strict().is_ok().then_some(user)
    }

    /// The local user whom a login names by user id or localpart, in any case
    /// of letters. None for users of other servers and what is no name.
    pub fn user_of(&self, name: &str) -> Option<OwnedUserId> {
        if !name.starts_with('@') {
            return UserId::parse_with_server_name(name.to_lowercase(), &self.server_name).ok();
        }
        let user = UserId::parse(name).ok()?;
        if user.server_name() != self.server_name {
            return None;
        }
        self.user_of(user.localpart())
    }

    /// Checks what a new password must be.
    pub fn check_new_password(&self, password: &str) -> Result<(), AccountError> {
        let chars = password.chars().count();
        if chars < PASSWORD_CHARS_MIN {
            return Err(AccountError::WeakPassword {
                min: PASSWORD_CHARS_MIN,
            });
        }
        if chars > PASSWORD_CHARS_MAX {
            return Err(AccountError::PasswordTooLong {
                max: PASSWORD_CHARS_MAX,
            });
        }
        Ok(())
    }

    /// Creates an account; none as password makes one without password login.
    /// Until the user chooses another display name, others are shown the local
    /// part of the user id, as most servers have it. `admin`: the user may administrate the server; only the operator says so.
    ///
    /// Errors: `UserInUse`, also if another registration was faster.
    pub async fn create(
        &self,
        user: &UserId,
        password: Option<String>,
        admin: bool,
    ) -> Result<(), AccountError> {
        let password_hash = match password {
            Some(password) => Some(self.passwords.hash(password).await?),
            None => None,
        };
        let body = InputAccountCreated {
            password_hash,
            guest: false,
            admin,
        };
        // Where the account is refused, what came with it is, too.
        let idempotency: [u8; 16] = random::bytes();
        let account = user_record(Kind::InputAccountCreated, user, &body, None, |envelope| {
            NewEnvelope {
                idempotency,
                ..envelope
            }
        });
        let body = InputProfileField {
            field: "displayname".to_owned(),
        };
        let name = Value::from(user.localpart()).to_string();
        let name = user_record(
            Kind::InputProfileField,
            user,
            &body,
            Some(&name),
            |envelope| NewEnvelope {
                idempotency,
                ..envelope
            },
        );
        match self.submit(user, vec![account, name]).await {
            Err(SubmitError::Refused(Reason::Taken)) => Err(AccountError::UserInUse),
            other => Ok(other?),
        }
    }

    /// Creates an account for a guest: no password, a name made up.
    pub async fn create_guest(&self) -> Result<OwnedUserId, AccountError> {
        let user = self.available(None)?;
        let body = InputAccountCreated {
            password_hash: None,
            guest: true,
            admin: false,
        };
        let record = user_record(Kind::InputAccountCreated, &user, &body, None, |it| it);
        match self.submit(&user, vec![record]).await {
            Err(SubmitError::Refused(Reason::Taken)) => Err(AccountError::UserInUse),
            other => Ok(other.map(|()| user)?),
        }
    }

    /// Makes a guest a user like others, who keeps name and rooms. With the
    /// password the fold ends the guest's devices.
    ///
    /// Errors: `UserInUse` if the account is no guest's (any more).
    pub async fn upgrade_guest(
        &self,
        guest: &UserId,
        password: String,
    ) -> Result<(), AccountError> {
        match self.users.account(guest) {
            Some(account) if account.guest && !account.deactivated => {}
            _ => return Err(AccountError::UserInUse),
        }
        self.set_password(guest, password, true, None).await
    }

    /// Checks a password; none as user takes the same time and fails.
    ///
    /// Errors: `WrongCredentials`; `Deactivated` if the password is right but
    /// the account is closed.
    pub async fn check_password(
        &self,
        user: Option<&UserId>,
        password: String,
    ) -> Result<(), AccountError> {
        let account = user.and_then(|user| self.users.account(user));
        let phc = account.as_ref().and_then(|it| it.password_hash.clone());
        // Longer ones were never set, and hashing them would cost the server.
        let too_long = password.chars().count() > PASSWORD_CHARS_MAX;
        let password = if too_long { String::new() } else { password };
        let fits = self.passwords.verify(password, phc).await? && !too_long;
        match account {
            // A fold may drop the hash of a closed account; then whoever asks
            // learns no more than that there was one.
            Some(account) if account.deactivated && (fits || account.password_hash.is_none()) => {
                Err(AccountError::Deactivated)
            }
            Some(_) if fits => Ok(()),
            _ => Err(AccountError::WrongCredentials),
        }
    }

    /// Sets a new password and, if asked, logs out all devices but `keep`.
    pub async fn set_password(
        &self,
        user: &UserId,
        new_password: String,
        logout_devices: bool,
        keep: Option<&DeviceId>,
    ) -> Result<(), AccountError> {
        let body = InputPasswordSet {
            password_hash: self.passwords.hash(new_password).await?,
        };
        let mut batch = vec![user_record(
            Kind::InputPasswordSet,
            user,
            &body,
            None,
            |it| it,
        )];
        if logout_devices {
            batch.push(devices_removed(user, None, keep));
        }
        Ok(self.submit(user, batch).await?)
    }

    /// Closes an account for good: profile, devices and tokens go with it.
    /// Leaving the rooms is the caller's, before this.
    pub async fn deactivate(&self, user: &UserId, erase: bool) -> Result<(), AccountError> {
        let clear = |(field, _)| {
            let body = InputProfileField { field };
            user_record(Kind::InputProfileField, user, &body, None, |it| it)
        };
        let mut batch: Vec<_> = self.users.profile(user).into_iter().map(clear).collect();
        batch.push(devices_removed(user, None, None));
        let body = InputAccountDeactivated { erase };
        // Last: the fold takes nothing more for a closed account.
        let kind = Kind::InputAccountDeactivated;
        batch.push(user_record(kind, user, &body, None, |it| it));
        Ok(self.submit(user, batch).await?)
    }

    pub(super) async fn submit(
        &self,
        user: &UserId,
        batch: Vec<NewRecord>,
    ) -> Result<(), SubmitError> {
        self.submitter.submit(user.as_str(), batch).await?;
        Ok(())
    }
}

/// Removes these devices, or with none all but `except`.
pub(super) fn devices_removed(
    user: &UserId,
    device_ids: Option<Vec<String>>,
    except: Option<&DeviceId>,
) -> NewRecord {
    let body = InputDevicesRemoved {
        device_ids,
        except: except.map(|device| device.as_str().to_owned()),
    };
    user_record(Kind::InputDevicesRemoved, user, &body, None, |it| it)
}
