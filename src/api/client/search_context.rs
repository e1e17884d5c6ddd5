//! What stands around a result of `/search`, and who its people were then
//! (*Server Side Search*, `event_context`).

use std::collections::BTreeMap;

use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::pages::{token, walk};
use super::render::show;
use super::visible::RoomView;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::matrix::client_event::content_of;
use crate::matrix::filter::RoomEventFilter;
use crate::query::rooms::{Direction, StoredEvent};

/// Events on each side where the client names no number (client-server API).
const SIDE_DEFAULT: usize = 5;
/// Events around all results of an answer together. Ours: as many as some pages
/// of `/messages`.
const AROUND_MAX: usize = 2_000;

/// `event_context` of a request.
#[derive(Clone, Copy, Deserialize)]
pub struct EventContext {
    before_limit: Option<u64>,
    after_limit: Option<u64>,
    #[serde(default)]
    include_profile: bool,
}

/// The same within what an answer may hold.
pub struct Around {
    before: usize,
    after: usize,
    include_profile: bool,
}

impl EventContext {
    /// What each of so many results gets.
    pub fn bounded(&self, results: usize) -> Around {
        let most = AROUND_MAX / 2 / results.max(1);
        let side = |asked: Option<u64>| {
            let asked = asked.map(|asked| usize::try_from(asked).unwrap_or(usize::MAX));
            asked.unwrap_or(SIDE_DEFAULT).min(most)
        };
        Around {
            before: side(self.before_limit),
            after: side(self.after_limit),
            include_profile: self.include_profile,
        }
    }
}

#[derive(Serialize)]
pub struct Context {
    start: String,
    end: String,
    events_before: Vec<Box<RawValue>>,
    events_after: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile_info: Option<BTreeMap<OwnedUserId, Profile>>,
}

#[derive(Default, Serialize)]
struct Profile {
    #[serde(skip_serializing_if = "Option::is_none")]
    displayname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<String>,
}

/// The events around a result that the user may see.
pub fn of(
    view: &RoomView<'_>,
    auth: &Auth,
    event: &StoredEvent,
    around: &Around,
) -> Result<Context, ApiError> {
    let all = RoomEventFilter::default();
    let place = event.place;
    let before = walk(view, place, None, Direction::Backward, around.before, &all)?;
    let after = walk(view, place, None, Direction::Forward, around.after, &all)?;
    let shown = show(view, auth);
    let profile_info = match around.include_profile {
        false => None,
        true => {
            let events = before.events.iter().chain(&after.events);
            let events = events.map(|event| &**event).chain([event]);
            Some(profiles(view, events)?)
        }
    };
    Ok(Context {
        start: token(before.last.unwrap_or(place), false),
        end: token(after.last.unwrap_or(place), true),
        events_before: shown.timeline(&before.events)?,
        events_after: shown.timeline(&after.events)?,
        profile_info,
    })
}

/// Names and avatars of who sent events, each as of the last of theirs.
fn profiles<'e>(
    view: &RoomView<'_>,
    events: impl Iterator<Item = &'e StoredEvent>,
) -> Result<BTreeMap<OwnedUserId, Profile>, ApiError> {
    let mut last: BTreeMap<&OwnedUserId, &StoredEvent> = BTreeMap::new();
    for event in events {
        let known = last.entry(&event.sender).or_insert(event);
        if known.place < event.place {
            *known = event;
        }
    }
    let mut profiles = BTreeMap::new();
    for (sender, event) in last {
        let member = view.state_event_at(event.state_after, "m.room.member", sender.as_str())?;
        let profile = member.map(|member| profile(&member)).unwrap_or_default();
        profiles.insert(sender.clone(), profile);
    }
    Ok(profiles)
}

fn profile(member: &StoredEvent) -> Profile {
    let content = content_of(&member.json).ok();
    let content = content.and_then(|content| serde_json::from_str::<Value>(content).ok());
    let text = |key: &str| Some(content.as_ref()?.get(key)?.as_str()?.to_owned());
    Profile {
        displayname: text("displayname"),
        avatar_url: text("avatar_url").filter(|url| url.starts_with("mxc://")),
    }
}
