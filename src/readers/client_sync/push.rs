//! What the push rules make of an event, as far as counts need it.

use ruma::UserId;
use serde_json::value::RawValue;

use super::SyncError;
use super::history::RoomHistory;
use super::memory::Standing;
use crate::matrix::client_event::content_of;
use crate::matrix::push_rules::{PushEvent, PushRoom, Ruleset, Verdict, default_ruleset};
use crate::query::rooms::StoredEvent;

/// The content of `m.push_rules` where the user has set none.
pub fn default_content(user: &UserId) -> Result<String, SyncError> {
    #[derive(serde::Serialize)]
    struct Content {
        global: Ruleset,
    }
    Ok(serde_json::to_string(&Content {
        global: default_ruleset(user),
    })?)
}

/// The rules of one user in one room.
pub struct Evaluator<'a> {
    user: &'a UserId,
    display_name: String,
    rules: Ruleset,
    /// None where the room server no longer has the room.
    room: Option<PushRoom>,
}

impl<'a> Evaluator<'a> {
    /// The default rules, with the user's name in the room, the room's size and
    /// its power levels as they are now.
    pub fn new(
        history: &RoomHistory<'_>,
        user: &'a UserId,
        standing: &Standing,
    ) -> Result<Evaluator<'a>, SyncError> {
        let room = history.rooms.head(&history.room_id)?.map(|head| {
            let authority = &head.authority;
            let levels = authority.power.as_deref();
            PushRoom::new(
                &head.room_id,
                head.joined_members,
                &authority.create_info,
                levels,
            )
        });
        let own: Vec<_> = standing.event.into_iter().collect();
        let own = history.rooms.events(&history.room_id, &own)?.pop();
        let name = match own {
            Some(own) => display_name(content_of(&own.json)?),
            None => None,
        };
        Ok(Evaluator {
            user,
            display_name: name.unwrap_or_else(|| user.localpart().to_owned()),
            rules: default_ruleset(user),
            room,
        })
    }

    /// Judges an event. One that is no JSON object notifies nobody.
    pub fn evaluate(&mut self, event: &StoredEvent) -> Verdict {
        let parsed = serde_json::from_slice::<Box<RawValue>>(&event.json);
        let (Ok(json), Some(room)) = (parsed, &mut self.room) else {
            return Verdict::default();
        };
        let event = PushEvent::new(json, &event.sender);
        room.verdict(&event, self.user, &self.display_name, &self.rules)
    }
}

fn display_name(content: &str) -> Option<String> {
    let content: serde_json::Value = serde_json::from_str(content).ok()?;
    Some(content.get("displayname")?.as_str()?.to_owned())
}
