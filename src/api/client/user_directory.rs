//! `POST /user_directory/search`: users by name (*User Directory*).

use axum::Json as Answer;
use axum::extract::State;
use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};

use crate::api::ApiState;
use crate::api::auth::{Auth, ClientAddress};
use crate::api::errors::ApiError;
use crate::api::extract::Json;
use crate::api::rate_limit::Limit;
use crate::query::rooms::QueryError;
use crate::readers::user_directory::FoundUser;

/// Users where the client names no number (client-server API).
const USERS_DEFAULT: u64 = 10;
/// Most users of an answer. Ours: clients show a list to pick from.
const USERS_MAX: u64 = 50;
/// Longest search term in bytes. Ours: longer than any name.
const TERM_BYTES_MAX: usize = 512;

#[derive(Deserialize)]
pub struct SearchBody {
    search_term: String,
    limit: Option<u64>,
}

#[derive(Serialize)]
pub struct SearchAnswer {
    results: Vec<User>,
    limited: bool,
}

#[derive(Serialize)]
struct User {
    user_id: OwnedUserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<String>,
}

impl From<FoundUser> for User {
    fn from(found: FoundUser) -> User {
        User {
            user_id: found.user_id,
            display_name: found.display_name,
            avatar_url: found.avatar_url.filter(|url| url.starts_with("mxc://")),
        }
    }
}

/// `POST /_matrix/client/v3/user_directory/search`
pub async fn search(
    State(api): State<ApiState>,
    auth: Auth,
    ClientAddress(address): ClientAddress,
    Json(body): Json<SearchBody>,
) -> Result<Answer<SearchAnswer>, ApiError> {
    api.rate_limits.check_address(Limit::LookUp, address)?;
    if body.search_term.len() > TERM_BYTES_MAX {
        return Err(ApiError::InvalidParam("search_term is too long".into()));
    }
    let limit = body.limit.unwrap_or(USERS_DEFAULT).min(USERS_MAX) as usize;
    let found = api
        .user_directory
        .find(auth.user_id(), &body.search_term, limit)
        .map_err(|error| QueryError::Store(error.to_string()))?;
    Ok(Answer(SearchAnswer {
        results: found.users.into_iter().map(User::from).collect(),
        limited: found.limited,
    }))
}
