//! The summary of a joined room: how many are in it, and by whom to name it.
//!
//! All members are told nearly the same, so it is made once for each state of a
//! room, and made from the one before where that is cheaper.

use std::sync::Arc;

use log_format::record::output::Membership;
use parking_lot::Mutex;
use quick_cache::unsync::Cache;
use ruma::{OwnedUserId, UserId};
use serde::Serialize;

use super::SyncError;
use super::history::{ChangedKeys, RoomHistory};
use crate::logs::log::PartitionId;
use crate::matrix::client_event::content_of;
use crate::matrix::history_visibility::membership_of;
use crate::query::ids::{EventSn, RoomSn, StateId};
use crate::query::rooms::StateKey;

const MEMBER: &str = "m.room.member";
/// Heroes of a room (client-server API, *Room summary*).
const HEROES: usize = 5;
/// Members that are remembered: the heroes, and one more in whose place whoever
/// asks may stand.
const FIRST_MAX: usize = HEROES + 1;
/// Rooms that are remembered, of some 600 bytes each.
const ROOMS_MAX: usize = 10_000;
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
    pub fn is_empty(&self) -> bool {
        self.heroes.is_none() && self.joined.is_none() && self.invited.is_none()
    }
}

/// What is the same for all members.
#[derive(Clone, Debug)]
struct Shared {
    /// Offset behind the last change that it knows.
    to: u64,
    /// The room has a name or an alias.
    named: bool,
    first: First,
}

/// The first members in the order in which they came.
#[derive(Clone, Debug, Default)]
struct First {
    /// Joined or invited, at most [`FIRST_MAX`].
    present: Vec<(EventSn, OwnedUserId)>,
    /// Those who were. Exact only where there are not two of the others.
    gone: Vec<(EventSn, OwnedUserId)>,
}

/// Summaries of rooms that were asked for lately.
pub struct Summaries {
    shared: Mutex<Cache<(PartitionId, RoomSn), Arc<Shared>>>,
}

impl Default for Summaries {
    fn default() -> Summaries {
        Summaries {
            shared: Mutex::new(Cache::new(ROOMS_MAX)),
        }
    }
}

impl Summaries {
    /// The summary of a room whose members are new to the client or changed, as
    /// of `to` or later.
    ///
    /// The counts are the room server's newest; should they be ahead of this
    /// answer, then the next one brings the change with the same counts again.
    pub fn of(
        &self,
        history: &RoomHistory<'_>,
        to: u64,
        user: &UserId,
    ) -> Result<Summary, SyncError> {
        let shared = self.shared(history, to)?;
        let head = history.rooms.head(&history.room_id)?;
        Ok(Summary {
            heroes: (!shared.named).then(|| shared.first.heroes(user)),
            joined: head.as_ref().map(|head| head.joined_members),
            invited: head.as_ref().map(|head| head.invited_members),
        })
    }

    fn shared(&self, history: &RoomHistory<'_>, to: u64) -> Result<Arc<Shared>, SyncError> {
        let key = (history.partition, history.room);
        let known = self.shared.lock().get(&key).cloned();
        let made = match known {
            Some(known) if known.to >= to => return Ok(known),
            Some(known) => known.renewed(history, to)?,
            None => Shared::make(history, to)?,
        };
        let made = Arc::new(made);
        self.shared.lock().insert(key, made.clone());
        Ok(made)
    }
}

impl Shared {
    fn make(history: &RoomHistory<'_>, to: u64) -> Result<Shared, SyncError> {
        let state = history.state_id_at(to)?;
        Ok(Shared {
            to,
            named: is_named(history, state)?,
            first: First::of(history, state)?,
        })
    }

    /// As of a later offset.
    fn renewed(&self, history: &RoomHistory<'_>, to: u64) -> Result<Shared, SyncError> {
        let mut changed = history.changed(self.to, to)?;
        let state = history.state_id_at(to)?;
        let mut shared = Shared {
            to,
            // A redaction takes a name away and changes no state.
            named: is_named(history, state)?,
            ..self.clone()
        };
        changed.retain(|key| &*key.kind == MEMBER);
        if !shared.first.outlasts(history, state, &changed)? {
            shared.first = First::of(history, state)?;
        }
        Ok(shared)
    }
}

impl First {
    fn of(history: &RoomHistory<'_>, state: StateId) -> Result<First, SyncError> {
        let mut first = First::default();
        let head = history.rooms.head(&history.room_id)?;
        if let Some(head) = head.filter(|head| head.state_id == state) {
            for (user, member) in &head.authority.members {
                first.add(member.event, user, member.membership);
            }
            return Ok(first);
        }
        // An older state: its member events say what they are.
        let whole = history.state_of(state)?;
        let from = StateKey::new(MEMBER, "");
        let members = whole
            .range(from..)
            .take_while(|(key, _)| &*key.kind == MEMBER);
        let mut members: Vec<EventSn> = members.map(|(_, event)| *event).collect();
        members.sort_unstable();
        for page in members.chunks(PAGE) {
            for event in history.rooms.events(&history.room_id, page)? {
                let user = event.state_key.as_deref().map(<&UserId>::try_from);
                if let (Some(Ok(user)), Some(membership)) = (user, membership_of(&event.json)) {
                    first.add(event.event, user, membership);
                }
            }
            if first.present.len() == FIRST_MAX {
                break;
            }
        }
        Ok(first)
    }

    fn add(&mut self, event: EventSn, user: &UserId, membership: Membership) {
        let list = match membership {
            Membership::Join | Membership::Invite => &mut self.present,
            Membership::Leave | Membership::Ban | Membership::Knock => &mut self.gone,
        };
        if list.len() == FIRST_MAX && list.last().is_some_and(|(last, _)| *last < event) {
            return;
        }
        let at = list.partition_point(|(other, _)| *other < event);
        list.insert(at, (event, user.to_owned()));
        list.truncate(FIRST_MAX);
    }

    /// Whether the same are the first where these members changed: there are
    /// enough, none of them changed, and whoever did has come later.
    fn outlasts(
        &self,
        history: &RoomHistory<'_>,
        state: StateId,
        changed: &ChangedKeys,
    ) -> Result<bool, SyncError> {
        if changed.is_empty() {
            return Ok(true);
        }
        let Some((last, _)) = self.present.get(FIRST_MAX - 1) else {
            return Ok(false);
        };
        let is_first = |key: &StateKey| {
            let mut first = self.present.iter();
            first.any(|(_, user)| user.as_str() == &*key.state_key)
        };
        if changed.iter().any(is_first) {
            return Ok(false);
        }
        let held = history.holders(state, changed)?;
        Ok(held.iter().flatten().all(|event| event > last))
    }

    /// The first members in the order in which they came, without the user:
    /// joined or invited ones, and if there are none, those who were.
    fn heroes(&self, user: &UserId) -> Vec<String> {
        let others = |list: &[(EventSn, OwnedUserId)]| -> Vec<String> {
            let others = list.iter().filter(|(_, member)| member != user);
            others
                .take(HEROES)
                .map(|(_, member)| member.to_string())
                .collect()
        };
        let present = others(&self.present);
        match present.is_empty() {
            true => others(&self.gone),
            false => present,
        }
    }
}

/// Whether a change of state can change the summary for a member who stays. Their
/// own member event tells of them alone, who are not among their heroes.
pub fn concerns(key: &StateKey, user: &UserId) -> bool {
    is_name(&key.kind) || (&*key.kind == MEMBER && &*key.state_key != user.as_str())
}

/// State by which a room is named, and whose absence asks for heroes.
pub fn is_name(kind: &str) -> bool {
    kind == "m.room.name" || kind == "m.room.canonical_alias"
}

fn is_named(history: &RoomHistory<'_>, state: StateId) -> Result<bool, SyncError> {
    Ok(holds(history, state, "m.room.name", "name")?
        || holds(history, state, "m.room.canonical_alias", "alias")?)
}

/// Whether a state event has a text that is not empty.
fn holds(
    history: &RoomHistory<'_>,
    state: StateId,
    kind: &str,
    field: &str,
) -> Result<bool, SyncError> {
    let key = StateKey::new(kind, "");
    let event = history.rooms.state_entry(&history.room_id, state, &key)?;
    let Some(event) = event else {
        return Ok(false);
    };
    let Some(event) = history.rooms.events(&history.room_id, &[event])?.pop() else {
        return Ok(false);
    };
    let content: serde_json::Value = serde_json::from_str(content_of(&event.json)?)?;
    let text = content.get(field).and_then(serde_json::Value::as_str);
    Ok(text.is_some_and(|text| !text.is_empty()))
}
