//! Which server is asking: every request of the server-server API is signed
//! (*Request Authentication*).

use axum::extract::{FromRequest, FromRequestParts, Request};
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::request::Parts;
use ruma::OwnedServerName;

use crate::api::ApiState;
use crate::api::errors::ApiError;
use crate::api::extract::read_body_within;
use crate::matrix::canonical_json::{CanonicalJsonObject, Numbers, parse_object_with};
use crate::matrix::x_matrix::{Credentials, CredentialsError, SignedRequest};
use crate::writers::federation::keyring::KeyError;

/// Why we do not know which server is asking.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    #[error("no Authorization header")]
    Missing,
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// A server does not ask itself.
    #[error("the request claims to come from us")]
    FromUs,
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the signature is wrong")]
    Wrong,
}

/// A signed request without a body.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The server that asks. What it may see or do is for the handler to decide.
    pub origin: OwnedServerName,
}

/// A signed request with a JSON object, of at most `BYTES_MAX` bytes.
#[derive(Clone, Debug)]
pub struct SignedJson<const BYTES_MAX: usize> {
    pub origin: OwnedServerName,
    pub body: CanonicalJsonObject,
    /// How long the body was as it came.
    pub bytes: usize,
}

impl FromRequestParts<ApiState> for Signed {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<Signed, ApiError> {
        let origin = verify(parts, api, None).await?;
        Ok(Signed { origin })
    }
}

impl<const BYTES_MAX: usize> FromRequest<ApiState> for SignedJson<BYTES_MAX> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &ApiState) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        // The header is looked at before a body is read for it.
        credentials(&parts, api)?;
        let request = Request::from_parts(parts.clone(), body);
        let body = read_body_within(request, BYTES_MAX, api.settings.server_bodies).await?;
        let bytes = body.len();
        let body = object(&body)?;
        let origin = verify(&parts, api, Some(&body)).await?;
        Ok(SignedJson {
            origin,
            body,
            bytes,
        })
    }
}

/// The body, as it was signed. Events of old room versions may have numbers that
/// canonical JSON lacks; whoever reads them decides about these.
fn object(body: &Bytes) -> Result<CanonicalJsonObject, ApiError> {
    parse_object_with(body, Numbers::Kept).map_err(|error| match error.kind.is_syntax() {
        true => ApiError::NotJson,
        false => ApiError::BadJson("Content is no object of the kind that servers exchange".into()),
    })
}

fn credentials(parts: &Parts, api: &ApiState) -> Result<Credentials, SignatureError> {
    let mut headers = parts.headers.get_all(AUTHORIZATION).iter();
    let header = headers.next().ok_or(SignatureError::Missing)?;
    // Of two headers nobody could say which one a proxy has looked at.
    let header = match (header.to_str(), headers.next()) {
        (Ok(header), None) => header,
        _ => return Err(CredentialsError::Malformed.into()),
    };
    let claimed = Credentials::parse(header, &api.settings.server_name)?;
    match api.keyring.own().is(&claimed.origin) {
        true => Err(SignatureError::FromUs),
        false => Ok(claimed),
    }
}

async fn verify(
    parts: &Parts,
    api: &ApiState,
    body: Option<&CanonicalJsonObject>,
) -> Result<OwnedServerName, SignatureError> {
    let claimed = credentials(parts, api)?;
    let request = SignedRequest {
        method: parts.method.as_str(),
        uri: parts.uri.path_and_query().map_or("/", |uri| uri.as_str()),
        origin: &claimed.origin,
        destination: &api.settings.server_name,
        content: body,
    };
    let key = api.keyring.for_request(&claimed.origin, &claimed.key_id);
    match request.is_signed(&claimed, &key.await?) {
        true => {
            api.ears.heard_from(&claimed.origin);
            Ok(claimed.origin)
        }
        false => Err(SignatureError::Wrong),
    }
}
