//! Who may see an event: the one decision that every reader and every door
//! asks for (client-server API, *Room history visibility*).
//!
//! The rules are [`crate::matrix::history_visibility`]; here is what they ask
//! of a room, looked up once for all events of a request. What holds *at* an
//! event is read from the state at it, by id, so forks need no order. State
//! that is not known means not visible, and is no error.

mod memberships;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::cell::OnceCell;
use std::sync::Arc;

use log_format::record::output::{Decision, Membership, Visibility};
use ruma::{EventId, RoomId, ServerName, UserId};
use serde::Deserialize;

use self::memberships::Memberships;
use super::ids::{Place, StateId};
use super::rooms::{QueryError, RoomHead, Rooms, StateKey, StoredEvent};
use super::unwanted::Unwanted;
use crate::matrix::RoomVersion;
use crate::matrix::canonical_json::{parse_stored_object, to_bytes};
use crate::matrix::history_visibility::{HISTORY_VISIBILITY_TYPE, Sight, Standing, visibility_of};
use crate::matrix::ids::domain_of;
use crate::matrix::redaction::{REDACTION_TYPE, redact, takes_effect};

/// Who looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Viewer<'a> {
    User(&'a UserId),
    /// Sees what one of its users sees.
    Server(&'a ServerName),
}

impl Viewer<'_> {
    /// Whether an event is of the viewer's own membership.
    fn owns(self, event: &StoredEvent) -> bool {
        let Some(member) = event.state_key.as_deref() else {
            return false;
        };
        &*event.kind == "m.room.member"
            && match self {
                Viewer::User(user) => member == user.as_str(),
                Viewer::Server(server) => domain_of(member) == Some(server.as_str()),
            }
    }
}

/// How the last stay of a user in a room stands, as current state tells it: by
/// the member event that is current, the one that this one replaced, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// Joined now.
    Joined,
    /// Joined last by the event at `joined`, and no more since that at `left`,
    /// behind which the room had this state.
    Left {
        joined: Place,
        left: Place,
        state: StateId,
    },
    /// Not joined, and no stay is known.
    Never,
}

/// The place from which one viewer looks at one room. Keeps what it looked up,
/// so make one for each request and room, and none for longer.
pub struct Viewpoint<'a> {
    rooms: &'a dyn Rooms,
    viewer: Viewer<'a>,
    head: OnceCell<Option<Arc<RoomHead>>>,
    memberships: Memberships<'a>,
    unwanted: Unwanted,
    /// See [`Viewpoint::without_memberships`].
    no_memberships: bool,
}

impl<'a> Viewpoint<'a> {
    /// The room need not exist: then nothing is visible.
    pub fn new(rooms: &'a dyn Rooms, room: &RoomId, viewer: Viewer<'a>) -> Viewpoint<'a> {
        Viewpoint {
            rooms,
            viewer,
            head: OnceCell::new(),
            memberships: Memberships::new(rooms, room, viewer),
            unwanted: Unwanted::default(),
            no_memberships: false,
        }
    }

    /// With the head that the caller looks at, so that both see the same room.
    pub fn at_head(
        rooms: &'a dyn Rooms,
        head: &Arc<RoomHead>,
        viewer: Viewer<'a>,
    ) -> Viewpoint<'a> {
        let viewpoint = Viewpoint::new(rooms, &head.room_id, viewer);
        Viewpoint {
            head: OnceCell::from(Some(head.clone())),
            ..viewpoint
        }
    }

    /// Hides what the user does not want to be told of, beside what they may not
    /// see. For whatever shows events to clients; a report, say, is about an
    /// event that the reporter may have hidden already.
    pub fn without(self, unwanted: Unwanted) -> Viewpoint<'a> {
        Viewpoint { unwanted, ..self }
    }

    /// Counts no membership: the user gave up what it allowed.
    ///
    /// Source: client-server API, *Leaving rooms*: who forgot a room "will no
    /// longer be able to retrieve history" for it.
    pub fn without_memberships(self) -> Viewpoint<'a> {
        Viewpoint {
            no_memberships: true,
            ..self
        }
    }

    pub fn rooms(&self) -> &'a dyn Rooms {
        self.rooms
    }

    /// What is hidden beside what may not be seen.
    pub fn unwanted(&self) -> &Unwanted {
        &self.unwanted
    }

    pub fn viewer(&self) -> Viewer<'a> {
        self.viewer
    }

    pub fn room_id(&self) -> &RoomId {
        self.memberships.room_id()
    }

    /// Whether the viewer may see an event of the room, and wants to.
    pub fn may_see(&self, event: &StoredEvent) -> Result<bool, QueryError> {
        Ok(!self.unwanted.event(event) && self.may_read_at(event)? && !self.is_withheld(event)?)
    }

    /// [`Viewpoint::may_see`] where the caller knows better whether the viewer
    /// joined after the event.
    pub fn may_see_given(
        &self,
        event: &StoredEvent,
        joined_later: bool,
    ) -> Result<bool, QueryError> {
        Ok(!self.unwanted.event(event)
            && self.is_within(event, || Ok(joined_later))?
            && !self.is_withheld(event)?)
    }

    /// Whether the viewer may know how the room was at an event, whether or not
    /// the event itself is shown.
    pub fn may_read_at(&self, event: &StoredEvent) -> Result<bool, QueryError> {
        self.is_within(event, || self.joined_after(event))
    }

    /// The JSON of an event as the viewer is given it, who may see the event: of
    /// somebody who asked to be erased, what redaction leaves, unless the viewer
    /// was in the room at that time. State is shown whole where it is asked for as
    /// state, since rooms would not look right without.
    ///
    /// Source: client-server API, *Account deactivation*, `erase`.
    pub fn given<'e>(&self, event: &'e StoredEvent) -> Result<Cow<'e, [u8]>, QueryError> {
        if event.redacted_by.is_some() || !self.is_erased(event)? {
            return Ok(Cow::Borrowed(&event.json));
        }
        let damaged = || QueryError::Log(format!("event {} cannot be read", event.event_id));
        let head = self.head()?;
        let version = head.and_then(|head| RoomVersion::parse(head.version.as_str()));
        let object = parse_stored_object(&event.json).ok();
        let (version, object) = version.zip(object).ok_or_else(damaged)?;
        let redacted = redact(&version.rules().redaction, &object);
        Ok(Cow::Owned(to_bytes(&redacted)))
    }

    /// Whether the viewer is given no more of an event than redaction leaves.
    pub fn is_erased(&self, event: &StoredEvent) -> Result<bool, QueryError> {
        if !self.unwanted.is_erased(&event.sender) {
            return Ok(false);
        }
        Ok(self.membership_behind(event)? != Some(Membership::Join))
    }

    /// The user's membership behind an event, its own effect included; none of
    /// a server.
    pub fn membership_behind(&self, event: &StoredEvent) -> Result<Option<Membership>, QueryError> {
        self.memberships.of_user(event.state_after)
    }

    /// How the last stay of the user stands; [`Stay::Never`] of a server.
    pub fn stay(&self) -> Result<Stay, QueryError> {
        match self.viewer {
            Viewer::User(user) => self.memberships.stay(user, self.head()?),
            Viewer::Server(_) => Ok(Stay::Never),
        }
    }

    fn head(&self) -> Result<Option<&Arc<RoomHead>>, QueryError> {
        if let Some(head) = self.head.get() {
            return Ok(head.as_ref());
        }
        let head = self.rooms.head(self.room_id())?;
        Ok(self.head.get_or_init(|| head).as_ref())
    }

    fn joined_after(&self, event: &StoredEvent) -> Result<bool, QueryError> {
        let until = self.memberships.joined_until(self.head()?)?;
        Ok(until.is_some_and(|until| until > event.place))
    }

    /// Asks the cheap questions first: most events are seen without a look at
    /// any state, whatever the size of the room.
    fn is_within(
        &self,
        event: &StoredEvent,
        joined_later: impl FnOnce() -> Result<bool, QueryError>,
    ) -> Result<bool, QueryError> {
        let is_served = match event.decision {
            Decision::Accepted => true,
            // Servers build on what was soft-failed, and are given it
            // (server-server API, *Soft failure*).
            Decision::SoftFailed => matches!(self.viewer, Viewer::Server(_)),
            Decision::Rejected | Decision::Outlier | Decision::Duplicate => false,
        };
        let state_is_known = event.state_after != StateId::EMPTY;
        if !is_served || !state_is_known {
            return Ok(false);
        }
        if event.visibility == Visibility::WorldReadable {
            return Ok(true);
        }
        let visibility = self.visibility(event)?;
        if self.no_memberships {
            let (before, after) = visibility;
            return Ok([before, after].contains(&Visibility::WorldReadable));
        }
        let shared = visibility.0 == Visibility::Shared || visibility.1 == Visibility::Shared;
        let joined_later = shared && joined_later()?;
        if joined_later {
            return Ok(true);
        }
        let standing = self.standing(event.state_after)?;
        let standing = match self.viewer.owns(event) {
            true => standing.or(self.standing(event.state_before)?),
            false => standing,
        };
        let sight = Sight {
            visibility,
            standing,
            joined_later,
        };
        Ok(sight.may_see())
    }

    /// The visibilities before and after an event: the same, but for one that
    /// changes it.
    fn visibility(&self, event: &StoredEvent) -> Result<(Visibility, Visibility), QueryError> {
        if &*event.kind != HISTORY_VISIBILITY_TYPE || event.state_key.as_deref() != Some("") {
            return Ok((event.visibility, event.visibility));
        }
        let key = StateKey::new(HISTORY_VISIBILITY_TYPE, "");
        let room = self.room_id();
        let before = self.rooms.state_entry(room, event.state_before, &key)?;
        let before = match before {
            Some(before) => self.rooms.events(room, &[before])?.pop(),
            None => None,
        };
        let before = before.map_or(Visibility::Shared, |before| visibility_of(&before.json));
        Ok((before, visibility_of(&event.json)))
    }

    fn standing(&self, state: StateId) -> Result<Standing, QueryError> {
        // Only a server's users are found by the head; to load that of a room
        // that nobody uses costs as much as its state.
        let head = match self.viewer {
            Viewer::User(_) => None,
            Viewer::Server(_) => self.head()?,
        };
        self.memberships.standing(state, head)
    }

    /// Whether clients are not told of an event, as it is a redaction without
    /// effect, or one whose target is not known yet.
    ///
    /// Source: room version 3 and later, *Handling redactions*. In versions 1
    /// and 2 the auth rules judge redactions, and clients are told of all that
    /// are accepted. One that comes second to another changes nothing, and is
    /// told if it had the power to: by current levels, as the state at each of
    /// them would cost more than it tells.
    fn is_withheld(&self, event: &StoredEvent) -> Result<bool, QueryError> {
        if &*event.kind != REDACTION_TYPE || !matches!(self.viewer, Viewer::User(_)) {
            return Ok(false);
        }
        let Some(head) = self.head()? else {
            return Ok(true);
        };
        let Some(version) = RoomVersion::parse(head.version.as_str()) else {
            return Ok(true);
        };
        let rules = version.rules();
        if rules.authorization.special_case_room_redaction {
            return Ok(false);
        }
        let Some(target) = redacts(&event.json, rules.redaction.content_field_redacts) else {
            // Redacted itself, it names nothing any more and is only a trace.
            return Ok(event.redacted_by.is_none());
        };
        let Some(target) = self.rooms.event(self.room_id(), target)? else {
            return Ok(true);
        };
        Ok(match target.redacted_by {
            None => true,
            Some(redaction) if redaction == event.event => false,
            Some(_) => !takes_effect(
                version,
                &event.sender,
                &target.sender,
                &head.authority.view(),
            ),
        })
    }
}

/// The event that a redaction names, in whichever way its room version does.
pub fn redacted_target(pdu: &[u8]) -> Option<&EventId> {
    redacts(pdu, true).or_else(|| redacts(pdu, false))
}

/// The event that a redaction names.
fn redacts(pdu: &[u8], in_content: bool) -> Option<&EventId> {
    #[derive(Deserialize)]
    struct Pdu<'a> {
        #[serde(borrow, default)]
        redacts: Option<&'a str>,
        #[serde(borrow)]
        content: Content<'a>,
    }
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(borrow, default)]
        redacts: Option<&'a str>,
    }
    // Text with an escape in it does not read as borrowed, and is no event id.
    let pdu: Pdu<'_> = serde_json::from_slice(pdu).ok()?;
    let target = match in_content {
        true => pdu.content.redacts,
        false => pdu.redacts,
    };
    <&EventId>::try_from(target?).ok()
}
