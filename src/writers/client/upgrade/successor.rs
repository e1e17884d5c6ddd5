//! The successor of a room: which events it begins with.
//!
//! Copied is what the specification recommends, and beside it bans and, in
//! spaces, the children: a successor that lets the banned in again, or that has
//! lost its rooms, is not what anybody asked for.

use log_format::record::output::Membership;
use ruma::{EventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::Value;

use super::levels::{self, Levels};
use super::{CANONICAL_ALIAS, POWER_LEVELS};
use crate::logs::log::NewRecord;
use crate::matrix::RoomVersion;
use crate::matrix::auth_rules::JoinRule;
use crate::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use crate::query::ids::EventSn;
use crate::query::rooms::{RoomHead, StateKey};
use crate::writers::client::event_builder::Draft;
use crate::writers::client::membership::{member_event, profile};
use crate::writers::client::room_error::RoomWriteError;
use crate::writers::client::room_presets::{has_privileged_creators, text};
use crate::writers::client::room_state::{RoomState, canonical_content};
use crate::writers::client::room_writer::RoomWriter;

/// State with an empty key that a successor has as well, in the order in which
/// it is set. Power levels are set before, by rules of their own.
const COPIED: [&str; 9] = [
    "m.room.server_acl",
    "m.room.encryption",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.guest_access",
    "m.room.history_visibility",
    "m.room.join_rules",
    CANONICAL_ALIAS,
];
const SPACE_CHILD: &str = "m.space.child";

/// Bans, and children of a space, that a successor takes over: each is an event
/// of the batch that makes the room.
const BANS_MAX: usize = 1_000;
const CHILDREN_MAX: usize = 1_000;

/// A room to be.
pub struct Successor {
    room_id: OwnedRoomId,
    version: RoomVersion,
    /// The create event is the first.
    drafts: Vec<Draft>,
    /// Built already, where the room's id follows from its events.
    built: Option<Vec<NewRecord>>,
}

impl Successor {
    /// Plans the successor of a room as it is now.
    pub fn plan(
        writer: &RoomWriter,
        old: &RoomHead,
        creator: &UserId,
        version: RoomVersion,
        additional_creators: &[OwnedUserId],
    ) -> Result<Successor, RoomWriteError> {
        let old_room = Old {
            state: RoomState::new(&**writer.rooms(), old),
            creator,
            version,
        };
        let drafts = old_room.drafts(writer, additional_creators)?;
        let (room_id, built) = match writer.new_room_id(version)? {
            Some(room_id) => (room_id, None),
            None => {
                let (room_id, batch) = writer.build_room(version, None, &drafts)?;
                (room_id, Some(batch))
            }
        };
        Ok(Successor {
            room_id,
            version,
            drafts,
            built,
        })
    }

    pub fn room_id(&self) -> &RoomId {
        &self.room_id
    }

    /// The room's events. Its create event names the tombstone, but for version
    /// 12, where that would be a circle.
    pub fn build(
        mut self,
        writer: &RoomWriter,
        tombstone: &EventId,
    ) -> Result<(OwnedRoomId, Vec<NewRecord>), RoomWriteError> {
        if let Some(built) = self.built {
            return Ok((self.room_id, built));
        }
        let create = self.drafts.first_mut();
        let predecessor = create.and_then(|create| create.content.get_mut("predecessor"));
        if let Some(CanonicalJsonValue::Object(predecessor)) = predecessor {
            predecessor.extend(text("event_id", tombstone.as_str()));
        }
        writer.build_room(self.version, Some(self.room_id), &self.drafts)
    }
}

/// What is asked of the old room.
struct Old<'a> {
    state: RoomState<'a>,
    creator: &'a UserId,
    version: RoomVersion,
}

impl Old<'_> {
    fn drafts(
        &self,
        writer: &RoomWriter,
        additional_creators: &[OwnedUserId],
    ) -> Result<Vec<Draft>, RoomWriteError> {
        let mut copied = Vec::new();
        for kind in COPIED {
            if let Some(content) = self.state.canonical(kind, "")? {
                let content = self.fitting(kind, content);
                copied.push(Draft::state(self.creator, kind, "", content));
            }
        }
        copied.extend(self.children()?);
        let has_bans = self.banned().next().is_some();
        let mut creators = vec![self.creator.to_owned()];
        if has_privileged_creators(self.version) {
            creators.extend(additional_creators.iter().cloned());
        }
        let levels = self.levels(&creators, &copied, has_bans)?;
        let bans = self.bans(&creators, &levels)?;

        let mut joined = profile(&**writer.users(), self.creator);
        joined.extend(text("membership", "join"));
        let mut drafts = vec![
            self.create(additional_creators)?,
            member_event(self.creator, self.creator, joined),
            Draft::state(self.creator, POWER_LEVELS, "", levels.first),
        ];
        drafts.extend(copied);
        drafts.extend(bans);
        let last = levels.last.into_iter();
        drafts.extend(last.map(|content| Draft::state(self.creator, POWER_LEVELS, "", content)));
        Ok(drafts)
    }

    fn create(&self, additional_creators: &[OwnedUserId]) -> Result<Draft, RoomWriteError> {
        let old = self.state.canonical("m.room.create", "")?;
        let mut old = old.unwrap_or_default();
        let mut content = text("room_version", self.version.as_str());
        for field in ["type", "m.federate"] {
            content.extend(old.remove_entry(field));
        }
        let predecessor = text("room_id", self.state.head.room_id.as_str());
        content.insert(
            "predecessor".into(),
            CanonicalJsonValue::Object(predecessor),
        );
        if !self.version.rules().authorization.use_room_create_sender {
            content.extend(text("creator", self.creator.as_str()));
        }
        let mut named: Vec<CanonicalJsonValue> = Vec::new();
        for user in additional_creators {
            let user = CanonicalJsonValue::String(user.to_string());
            if user.as_str() != Some(self.creator.as_str()) && !named.contains(&user) {
                named.push(user);
            }
        }
        if has_privileged_creators(self.version) && !named.is_empty() {
            content.insert(
                "additional_creators".into(),
                CanonicalJsonValue::Array(named),
            );
        }
        Ok(Draft::state(self.creator, "m.room.create", "", content))
    }

    /// A content as the new version has a use for it: join rules that it does
    /// not know would let nobody in, not even by invitation.
    fn fitting(&self, kind: &str, content: CanonicalJsonObject) -> CanonicalJsonObject {
        if kind != "m.room.join_rules" {
            return content;
        }
        let rules = &self.version.rules().authorization;
        let is_known = match JoinRule::parse(&content) {
            JoinRule::Public | JoinRule::Invite | JoinRule::Other => true,
            JoinRule::Knock => rules.knocking,
            JoinRule::Restricted => rules.restricted_join_rule,
            JoinRule::KnockRestricted => rules.knock_restricted_join_rule,
        };
        match is_known {
            true => content,
            false => text("join_rule", JoinRule::Invite.as_str()),
        }
    }

    fn levels(
        &self,
        creators: &[OwnedUserId],
        copied: &[Draft],
        has_bans: bool,
    ) -> Result<Levels, RoomWriteError> {
        let mut kinds: Vec<&str> = copied.iter().map(|draft| &*draft.kind).collect();
        kinds.push(POWER_LEVELS);
        let request = levels::Request {
            old: &self.state.head.authority,
            content: self.state.canonical(POWER_LEVELS, "")?,
            version: self.version,
            creators,
            kinds: &kinds,
            has_bans,
        };
        Ok(request.levels())
    }

    /// The children of a space; none in other rooms.
    fn children(&self) -> Result<Vec<Draft>, RoomWriteError> {
        let create = self.state.content("m.room.create", "")?;
        let kind = create.as_ref().and_then(|create| create.get("type"));
        if kind.and_then(Value::as_str) != Some("m.space") {
            return Ok(Vec::new());
        }
        let head = self.state.head;
        let first = StateKey::new(SPACE_CHILD, "");
        let entries = head.state.range(first..);
        let entries: Vec<EventSn> = entries
            .take_while(|(key, _)| &*key.kind == SPACE_CHILD)
            .map(|(_, event)| *event)
            .collect();
        let mut drafts = Vec::new();
        for event in self.state.rooms.events(&head.room_id, &entries)? {
            let content = canonical_content(&event.json);
            // One without servers to ask is a child no more.
            let content = content.filter(|content| content.contains_key("via"));
            let (Some(content), Some(child)) = (content, &event.state_key) else {
                continue;
            };
            drafts.push(Draft::state(self.creator, SPACE_CHILD, child, content));
            if drafts.len() == CHILDREN_MAX {
                break;
            }
        }
        Ok(drafts)
    }

    fn banned(&self) -> impl Iterator<Item = (&OwnedUserId, EventSn)> {
        let members = &self.state.head.authority.members;
        members
            .iter()
            .filter(|(_, member)| member.membership == Membership::Ban)
            .map(|(user, member)| (user, member.event))
    }

    /// The bans that the creator may repeat.
    fn bans(
        &self,
        creators: &[OwnedUserId],
        levels: &Levels,
    ) -> Result<Vec<Draft>, RoomWriteError> {
        let head = self.state.head;
        let allowed =
            |user: &OwnedUserId| !creators.contains(user) && levels.may_ban(user.as_str());
        let banned: Vec<EventSn> = self
            .banned()
            .filter(|(user, _)| allowed(user))
            .map(|(_, event)| event)
            .collect();
        if banned.len() > BANS_MAX {
            let room = &head.room_id;
            tracing::warn!(%room, bans = banned.len(), "not all bans are carried into the successor");
        }
        let mut drafts = Vec::new();
        let kept = banned.get(..BANS_MAX).unwrap_or(&banned);
        for event in self.state.rooms.events(&head.room_id, kept)? {
            let (Some(user), Some(mut old)) = (&event.state_key, canonical_content(&event.json))
            else {
                continue;
            };
            let mut content = text("membership", "ban");
            content.extend(old.remove_entry("reason"));
            drafts.push(Draft::state(self.creator, "m.room.member", user, content));
        }
        Ok(drafts)
    }
}
