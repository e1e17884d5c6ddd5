//! Events and rooms as conditions read them.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::condition::Path;
use crate::matrix::auth_rules::{CreateInfo, Level, PowerLevels, PowerLevelsView};
use crate::matrix::ids::{EventId, OwnedUserId, RoomId, UserId};

/// Power that notifications of a kind take where the room does not say
/// (`m.room.power_levels`, `notifications`).
const NOTIFICATION_LEVEL: i64 = 50;

/// An event, parsed once for all who are asked for.
#[derive(Clone, Debug)]
pub struct PushEvent {
    /// What clients see of it, but for `unsigned`.
    properties: Map<String, Value>,
    sender: OwnedUserId,
}

impl PushEvent {
    /// Reads a PDU. One that is none notifies nobody.
    pub fn parse(
        pdu: &[u8],
        event_id: &EventId,
        room: &RoomId,
        sender: &UserId,
    ) -> Result<PushEvent, serde_json::Error> {
        #[derive(Deserialize)]
        struct Pdu {
            content: Value,
            origin_server_ts: Option<Value>,
            redacts: Option<Value>,
            state_key: Option<Value>,
            #[serde(rename = "type")]
            event_type: Value,
        }
        let pdu: Pdu = serde_json::from_slice(pdu)?;
        let optional = [
            ("origin_server_ts", pdu.origin_server_ts),
            ("redacts", pdu.redacts),
            ("state_key", pdu.state_key),
        ];
        let always = [
            ("content", pdu.content),
            ("event_id", event_id.as_str().into()),
            ("room_id", room.as_str().into()),
            ("sender", sender.as_str().into()),
            ("type", pdu.event_type),
        ];
        let optional = optional
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        let properties = always.into_iter().chain(optional);
        Ok(PushEvent {
            properties: properties
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            sender: sender.to_owned(),
        })
    }

    pub fn sender(&self) -> &UserId {
        &self.sender
    }

    pub(super) fn property(&self, path: &Path) -> Option<&Value> {
        let mut names = path.names();
        let first = self.properties.get(names.next()?)?;
        names.try_fold(first, |value, name| value.as_object()?.get(name))
    }

    pub(super) fn text(&self, path: &Path) -> Option<&str> {
        self.property(path)?.as_str()
    }

    /// `content.body`.
    pub(super) fn body(&self) -> Option<&str> {
        self.properties.get("content")?.get("body")?.as_str()
    }
}

/// What conditions read of a room.
#[derive(Clone, Debug)]
pub struct PushRoom {
    pub joined_members: u64,
    pub create: Arc<CreateInfo>,
    /// None while the room has none.
    pub levels: Option<Arc<PowerLevels>>,
}

impl PushRoom {
    /// Whether somebody has the power for notifications of a kind (`room`: of
    /// everybody).
    pub(super) fn may_notify(&self, sender: &UserId, kind: &str) -> bool {
        let levels = self.levels.as_deref();
        let needed = levels.and_then(|levels| levels.notifications.get(kind));
        let level = PowerLevelsView::new(&self.create, levels).user_level(sender);
        level >= Level::Finite(needed.copied().unwrap_or(NOTIFICATION_LEVEL))
    }
}
