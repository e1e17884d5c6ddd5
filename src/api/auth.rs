//! Who is asking, and from where: access token to session, and the client's address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts, MatchedPath};
use http::header::{AUTHORIZATION, USER_AGENT};
use http::request::Parts;
use log_format::record::input::TokenHash;
use ruma::{DeviceId, UserId};

use super::ApiState;
use super::errors::ApiError;
use super::guests;
use crate::clock::now_ms;
use crate::crypto::tokens::{TokenUse, hash};
use crate::query::users::Session;

/// A valid session. A handler that takes this is closed to everybody else, and
/// to guests but where [`guests`] lists it.
#[derive(Clone, Debug)]
pub struct Auth(pub Arc<Session>, TokenHash);

impl Auth {
    pub fn user_id(&self) -> &UserId {
        &self.0.user_id
    }

    pub fn device_id(&self) -> &DeviceId {
        &self.0.device_id
    }

    /// Hash of the access token, by which to ask whether the session goes on.
    pub fn token_hash(&self) -> &TokenHash {
        &self.1
    }

    /// Refuses what a user asks about or for another user's private data.
    pub fn must_be(&self, user: &UserId) -> Result<(), ApiError> {
        if self.user_id() == user {
            Ok(())
        } else {
            Err(ApiError::Forbidden("This belongs to another user"))
        }
    }
}

impl FromRequestParts<ApiState> for Auth {
    type Rejection = ApiError;

    /// Look-ups in memory; expiry is compared with the clock here, not in the fold.
    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<Auth, ApiError> {
        let token = access_token(parts).ok_or(ApiError::MissingToken)?;
        let access = hash(TokenUse::Access, token);
        let session = api.users.session(&access);
        let session = session.ok_or(ApiError::UnknownToken { soft_logout: false })?;
        match session.expires_ms {
            Some(expires_ms) if expires_ms <= now_ms() => {
                return Err(ApiError::UnknownToken { soft_logout: true });
            }
            _ => {}
        }
        let path = parts.extensions.get::<MatchedPath>();
        let path = path.map_or("", MatchedPath::as_str);
        if session.guest && !guests::may_call(&parts.method, path) {
            return Err(ApiError::GuestForbidden);
        }
        let agent = parts.headers.get(USER_AGENT);
        let agent = agent.and_then(|agent| agent.to_str().ok());
        let address = client_address(parts, api);
        let (user, device) = (&session.user_id, &session.device_id);
        api.sightings.note(user, device, address, agent, now_ms());
        Ok(Auth(session, access))
    }
}

/// A valid session, or none where no token was given. A token that is not valid
/// is refused here too.
#[derive(Clone, Debug)]
pub struct MaybeAuth(pub Option<Auth>);

impl FromRequestParts<ApiState> for MaybeAuth {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<MaybeAuth, ApiError> {
        match Auth::from_request_parts(parts, api).await {
            Ok(auth) => Ok(MaybeAuth(Some(auth))),
            Err(ApiError::MissingToken) => Ok(MaybeAuth(None)),
            Err(other) => Err(other),
        }
    }
}

/// The token of the header (any case of `Bearer`), else of the `access_token`
/// query parameter, which versions before 1.20 allow.
fn access_token(parts: &Parts) -> Option<&str> {
    if let Some(header) = parts.headers.get(AUTHORIZATION) {
        let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
        let token = token.trim();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token);
    }
    // Our tokens need no percent-decoding: their alphabet is URL-safe.
    let mut pairs = parts.uri.query()?.split('&');
    let token = pairs.find_map(|pair| pair.strip_prefix("access_token="))?;
    (!token.is_empty()).then_some(token)
}

/// The client's address, for rate limits and sightings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

impl FromRequestParts<ApiState> for ClientAddress {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        api: &ApiState,
    ) -> Result<ClientAddress, Self::Rejection> {
        Ok(ClientAddress(client_address(parts, api)))
    }
}

fn client_address(parts: &Parts, api: &ApiState) -> IpAddr {
    if api.settings.trust_forwarded_for
        && let Some(address) = forwarded_for(parts)
    {
        return address;
    }
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |info| info.0.ip())
}

/// The last entry is the one that our own proxy wrote; those before it are the client's claim.
fn forwarded_for(parts: &Parts) -> Option<IpAddr> {
    let header = parts
        .headers
        .get_all("x-forwarded-for")
        .iter()
        .next_back()?;
    header
        .to_str()
        .ok()?
        .rsplit(',')
        .next()?
        .trim()
        .parse()
        .ok()
}
