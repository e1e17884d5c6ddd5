//! The summary of a joined room: how many are in it, and by whom to name it.

use ruma::UserId;
use serde::Serialize;

use log_format::record::output::Membership;

use super::SyncError;
use super::history::RoomHistory;
use crate::matrix::client_event::content_of;
use crate::matrix::history_visibility::membership_of;
use crate::query::ids::EventSn;
use crate::query::rooms::{StateKey, StateMap};

/// Heroes of a room (client-server API, *Room summary*).
const HEROES: usize = 5;
/// Member events that are loaded at a time in search of heroes.
const PAGE: usize = 16;

/// `RoomSummary`; what is none is left out.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    #[serde(rename = "m.heroes", skip_serializing_if = "Option::is_none")]
    pub heroes: Option<Vec<String>>,
    #[serde(
        rename = "m.joined_member_count",
        skip_serializing_if = "Option::is_none"
    )]
    pub joined: Option<u64>,
    #[serde(
        rename = "m.invited_member_count",
        skip_serializing_if = "Option::is_none"
    )]
    pub invited: Option<u64>,
}

impl Summary {
    /// The summary of a room whose members are new to the client or changed.
    ///
    /// The counts are the room server's newest; should they be ahead of this
    /// answer, then the next one brings the change with the same counts again.
    pub fn load(
        history: &RoomHistory<'_>,
        state: &StateMap,
        user: &UserId,
    ) -> Result<Summary, SyncError> {
        let head = history.rooms.head(&history.room_id)?;
        let named = holds(history, state, "m.room.name", "name")?
            || holds(history, state, "m.room.canonical_alias", "alias")?;
        Ok(Summary {
            heroes: match named {
                true => None,
                false => Some(heroes(history, state, user)?),
            },
            joined: head.as_ref().map(|head| head.joined_members),
            invited: head.as_ref().map(|head| head.invited_members),
        })
    }

    pub fn is_empty(&self) -> bool {
        self.heroes.is_none() && self.joined.is_none() && self.invited.is_none()
    }
}

/// Whether a state event has a text that is not empty.
fn holds(
    history: &RoomHistory<'_>,
    state: &StateMap,
    kind: &str,
    field: &str,
) -> Result<bool, SyncError> {
    let Some(event) = state.get(&StateKey::new(kind, "")) else {
        return Ok(false);
    };
    let Some(event) = history.rooms.events(&history.room_id, &[*event])?.pop() else {
        return Ok(false);
    };
    let content: serde_json::Value = serde_json::from_str(content_of(&event.json)?)?;
    let text = content.get(field).and_then(serde_json::Value::as_str);
    Ok(text.is_some_and(|text| !text.is_empty()))
}

/// The first members in the order in which they came: joined or invited ones,
/// and if there are none, those who were.
fn heroes(
    history: &RoomHistory<'_>,
    state: &StateMap,
    user: &UserId,
) -> Result<Vec<String>, SyncError> {
    let first = StateKey::new("m.room.member", "");
    let mut members: Vec<EventSn> = state
        .range(first..)
        .take_while(|(key, _)| &*key.kind == "m.room.member")
        .filter(|(key, _)| &*key.state_key != user.as_str())
        .map(|(_, event)| *event)
        .collect();
    members.sort_unstable();
    let (mut present, mut gone) = (Vec::new(), Vec::new());
    for page in members.chunks(PAGE) {
        for event in history.rooms.events(&history.room_id, page)? {
            let Some(member) = event.state_key.as_deref() else {
                continue;
            };
            match membership_of(&event.json) {
                Some(Membership::Join | Membership::Invite) => present.push(member.to_owned()),
                _ if gone.len() < HEROES => gone.push(member.to_owned()),
                _ => {}
            }
            if present.len() == HEROES {
                return Ok(present);
            }
        }
    }
    Ok(if present.is_empty() { gone } else { present })
}
