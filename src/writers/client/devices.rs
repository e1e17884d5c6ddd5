//! Devices and their tokens: login, refresh, logout.

use log_format::record::Kind;
use log_format::record::input::{
    InputDeviceLoggedIn, InputDeviceRenamed, InputTokensRefreshed, Tokens,
};
use log_format::record::output::Reason;
use ruma::{OwnedDeviceId, OwnedUserId, UserId};

use super::accounts::{AccountError, Accounts, devices_removed};
use super::user_data::user_record;
use crate::clock::now_ms;
use crate::crypto::random;
use crate::crypto::tokens::{TokenUse, generate, hash};
use crate::limits::{DEVICE_NAME_BYTES_MAX, ID_BYTES_MAX};
use crate::writers::submit::SubmitError;

/// What a client asks of the device that it logs in.
#[derive(Clone, Debug, Default)]
pub struct DeviceRequest {
    /// None: one is made up.
    pub device_id: Option<String>,
    /// For a device that is not known yet.
    pub initial_display_name: Option<String>,
    /// The client can refresh, so its access token may expire.
    pub refreshable: bool,
}

/// Tokens as the client gets them. They are kept nowhere.
pub struct GrantedTokens {
    pub access_token: String,
    pub refresh_token: Option<String>,
    pub expires_in_ms: Option<u64>,
}

impl DeviceRequest {
    /// Checks what can be said without the user, before any password is hashed.
    pub fn check(&self) -> Result<(), AccountError> {
        if let Some(id) = &self.device_id {
            let printable = !id.chars().any(char::is_control);
            if id.is_empty() || id.len() > ID_BYTES_MAX || !printable {
                return Err(AccountError::InvalidDeviceId);
            }
        }
        check_name(self.initial_display_name.as_deref().unwrap_or(""))
    }
}

fn check_name(name: &str) -> Result<(), AccountError> {
    match name.len() > DEVICE_NAME_BYTES_MAX {
        true => Err(AccountError::DisplayNameTooLong {
            max_bytes: DEVICE_NAME_BYTES_MAX,
        }),
        false => Ok(()),
    }
}

impl Accounts {
    /// Logs a device in; tokens that it had before end.
    pub async fn log_in(
        &self,
        user: &UserId,
        request: DeviceRequest,
    ) -> Result<(OwnedDeviceId, GrantedTokens), AccountError> {
        request.check()?;
        let device_id = request.device_id.unwrap_or_else(random::device_id);
        let known = self.users.devices(user).into_iter();
        let known = known.into_iter().find(|it| it.device_id == *device_id);
        let display_name = match known {
            Some(device) => device.display_name,
            None => request.initial_display_name,
        };
        let (granted, tokens) = self.grant(request.refreshable);
        let body = InputDeviceLoggedIn {
            device_id: device_id.clone(),
            display_name,
            tokens,
        };
        let record = user_record(Kind::InputDeviceLoggedIn, user, &body, None, |it| it);
        match self.submit(user, vec![record]).await {
            // The account was closed while the password was being checked.
            Err(SubmitError::Refused(Reason::NotFound)) => Err(AccountError::WrongCredentials),
            Err(other) => Err(other.into()),
            Ok(()) => Ok((device_id.into(), granted)),
        }
    }

    /// Gives a device another display name; an empty one takes its name away, and
    /// none leaves it as it is.
    ///
    /// Errors: `UnknownDevice`, `DisplayNameTooLong`.
    pub async fn rename_device(
        &self,
        user: &UserId,
        device_id: &str,
        name: Option<String>,
    ) -> Result<(), AccountError> {
        let mut devices = self.users.devices(user).into_iter();
        let known = devices.find(|device| device.device_id == *device_id);
        let known = known.ok_or(AccountError::UnknownDevice)?;
        let Some(name) = name else {
            return Ok(());
        };
        check_name(&name)?;
        let display_name = Some(name).filter(|name| !name.is_empty());
        if known.display_name == display_name {
            return Ok(());
        }
        let body = InputDeviceRenamed {
            device_id: device_id.to_owned(),
            display_name,
        };
        let record = user_record(Kind::InputDeviceRenamed, user, &body, None, |it| it);
        match self.submit(user, vec![record]).await {
            // It was logged out meanwhile.
            Err(SubmitError::Refused(Reason::NotFound)) => Err(AccountError::UnknownDevice),
            done => Ok(done?),
        }
    }

    /// Exchanges a refresh token for new tokens.
    ///
    /// Errors: `UnknownRefreshToken`, also if another refresh was faster.
    pub async fn refresh(&self, refresh_token: &str) -> Result<GrantedTokens, AccountError> {
        let spent = hash(TokenUse::Refresh, refresh_token);
        let owner: Option<(OwnedUserId, OwnedDeviceId)> = self.users.refresh_session(&spent);
        let (user, device) = owner.ok_or(AccountError::UnknownRefreshToken)?;
        let (granted, tokens) = self.grant(true);
        let body = InputTokensRefreshed {
            device_id: device.as_str().to_owned(),
            spent,
            tokens,
        };
        let record = user_record(Kind::InputTokensRefreshed, &user, &body, None, |it| it);
        match self.submit(&user, vec![record]).await {
            Err(SubmitError::Refused(_)) => Err(AccountError::UnknownRefreshToken),
            Err(other) => Err(other.into()),
            Ok(()) => Ok(granted),
        }
    }

    /// Removes devices; those that do not exist are removed already. None: all.
    pub async fn remove_devices(
        &self,
        user: &UserId,
        device_ids: Option<Vec<String>>,
    ) -> Result<(), AccountError> {
        let record = devices_removed(user, device_ids, None);
        match self.submit(user, vec![record]).await {
            Err(SubmitError::Refused(Reason::NotFound)) => Ok(()),
            other => Ok(other?),
        }
    }

    /// New tokens and their hashes. An access token expires only if the client can refresh.
    fn grant(&self, refreshable: bool) -> (GrantedTokens, Tokens) {
        let access_token = generate();
        let refresh_token = refreshable.then(generate);
        let lifetime_ms = u64::try_from(self.access_token_lifetime.as_millis()).unwrap_or(u64::MAX);
        let expires_in_ms = refreshable.then_some(lifetime_ms);
        let tokens = Tokens {
            access: hash(TokenUse::Access, &access_token),
            access_expires_ms: expires_in_ms.map(|after| now_ms().saturating_add(after)),
            refresh: refresh_token
                .as_deref()
                .map(|it| hash(TokenUse::Refresh, it)),
        };
        let granted = GrantedTokens {
            access_token,
            refresh_token,
            expires_in_ms,
        };
        (granted, tokens)
    }
}
