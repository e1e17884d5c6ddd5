//! `m.room.canonical_alias`: the aliases that it names must point at its room
//! (client-server API, *PUT state*: `M_BAD_ALIAS`, `M_INVALID_PARAM`).

use ruma::{OwnedRoomAliasId, RoomAliasId};
use serde_json::Value;

use super::room_error::RoomWriteError;
use super::room_state::RoomState;
use crate::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use crate::query::users::Users;

pub(super) const CANONICAL_ALIAS: &str = "m.room.canonical_alias";

/// Aliases that one event may add at a time.
const NEW_ALIASES_MAX: usize = 100;

/// Checks an event that replaces that of a room: what was in that one is not
/// asked about again.
pub(super) fn check(
    state: &RoomState<'_>,
    users: &dyn Users,
    content: &CanonicalJsonObject,
) -> Result<(), RoomWriteError> {
    let before = state.content(CANONICAL_ALIAS, "")?;
    let before = before.unwrap_or_default();
    let mut known: Vec<&str> = Vec::new();
    known.extend(before.get("alias").and_then(Value::as_str));
    let alternatives = before.get("alt_aliases").and_then(Value::as_array);
    known.extend(alternatives.into_iter().flatten().filter_map(Value::as_str));
    for alias in new_aliases(content, &known)? {
        match users.alias(&alias) {
            Some(found) if found.room_id == state.head.room_id => {}
            _ => return Err(RoomWriteError::BadAlias(alias)),
        }
    }
    Ok(())
}

/// Checks an event of a room to be, which has at most one alias.
pub(super) fn check_new(
    own: Option<&OwnedRoomAliasId>,
    content: &CanonicalJsonObject,
) -> Result<(), RoomWriteError> {
    let known: Vec<&str> = own.iter().map(|alias| alias.as_str()).collect();
    match new_aliases(content, &known)?.into_iter().next() {
        Some(alias) => Err(RoomWriteError::BadAlias(alias)),
        None => Ok(()),
    }
}

/// The aliases that an event names beside those that are known.
fn new_aliases(
    content: &CanonicalJsonObject,
    known: &[&str],
) -> Result<Vec<OwnedRoomAliasId>, RoomWriteError> {
    let mut named: Vec<&CanonicalJsonValue> = Vec::new();
    named.extend(content.get("alias"));
    match content.get("alt_aliases") {
        None | Some(CanonicalJsonValue::Null) => {}
        Some(CanonicalJsonValue::Array(aliases)) => named.extend(aliases),
        Some(_) => {
            return Err(RoomWriteError::BadJson("alt_aliases is no list".into()));
        }
    }
    let mut new = Vec::new();
    for alias in named {
        let alias = match alias {
            CanonicalJsonValue::Null => continue,
            CanonicalJsonValue::String(alias) => alias,
            _ => return Err(RoomWriteError::BadJson("an alias is no text".into())),
        };
        if known.contains(&alias.as_str()) {
            continue;
        }
        if new.len() == NEW_ALIASES_MAX {
            return Err(RoomWriteError::InvalidParam("too many new aliases".into()));
        }
        let Ok(alias) = RoomAliasId::parse(alias) else {
            return Err(RoomWriteError::InvalidParam(
                "an alias is not well formed".into(),
            ));
        };
        new.push(alias);
    }
    Ok(new)
}
