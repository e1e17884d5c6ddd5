//! What the push rules make of an event, as far as counts need it.

use bytes::Bytes;
use futures_util::FutureExt;
use ruma::UserId;
use ruma::push::{PushConditionRoomCtx, Ruleset};
use ruma::serde::Raw;
use serde_json::value::RawValue;

use super::SyncError;
use super::history::RoomHistory;
use super::memory::Standing;
use crate::matrix::client_event::content_of;
use crate::matrix::push_rules::{Verdict, default_ruleset};

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
pub struct Evaluator {
    rules: Ruleset,
    context: PushConditionRoomCtx,
}

impl Evaluator {
    /// The default rules, with the user's name in the room and its size.
    pub fn new(
        history: &RoomHistory<'_>,
        user: &UserId,
        standing: &Standing,
    ) -> Result<Evaluator, SyncError> {
        let head = history.rooms.head(&history.room_id)?;
        let members = head.map_or(0, |head| head.joined_members);
        let own: Vec<_> = standing.event.into_iter().collect();
        let own = history.rooms.events(&history.room_id, &own)?.pop();
        let name = match own {
            Some(own) => display_name(content_of(&own.json)?),
            None => None,
        };
        let context = PushConditionRoomCtx::new(
            history.room_id.clone(),
            ruma::UInt::new_saturating(members),
            user.to_owned(),
            name.unwrap_or_else(|| user.localpart().to_owned()),
        );
        Ok(Evaluator {
            rules: default_ruleset(user),
            context,
        })
    }

    /// Judges a PDU. One that is no JSON object notifies nobody.
    pub fn evaluate(&self, json: &Bytes) -> Verdict {
        let Ok(event) = serde_json::from_slice::<Box<RawValue>>(json) else {
            return Verdict::default();
        };
        let event: Raw<ruma::events::AnySyncTimelineEvent> = Raw::from_json(event);
        // Nothing in these rules waits: the future is ready at once.
        let actions = self.rules.get_actions(&event, &self.context).now_or_never();
        let actions = actions.unwrap_or_default();
        Verdict {
            notify: actions.iter().any(|action| action.should_notify()),
            highlight: actions.iter().any(|action| action.is_highlight()),
        }
    }
}

fn display_name(content: &str) -> Option<String> {
    let content: serde_json::Value = serde_json::from_str(content).ok()?;
    Some(content.get("displayname")?.as_str()?.to_owned())
}
