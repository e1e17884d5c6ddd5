//! A room comes to be known: with its create event, made here or told by another
//! server.

use std::sync::Arc;

use log_format::record::input::Placement;
use log_format::record::output::{Decision, Reason, Visibility};

use super::heads::Head;
use super::judge::{Case, Event, Joint, Judged};
use super::purge;
use super::rows;
use super::scope::{Cited, Scope, Stop};
use super::state::StateNode;
use crate::matrix::auth_rules::{self, CreateInfo};
use crate::matrix::ids;
use crate::query::authority::Authority;
use crate::query::ids::{Place, RoomSn, StateId};
use crate::query::rooms::{RoomHead, StateMap};
use crate::storage::columns::ROOM_IDS;

impl Event<'_> {
    /// An event of a room that is not known: its create event, or refused. As an
    /// outlier it makes the room known from outside, with no state of its own
    /// until one is given.
    pub(super) fn create_room(&self, scope: &mut Scope<'_, '_>) -> Result<(Judged, Head), Stop> {
        let (mut head, case) = self.new_head().map_err(Stop::Refuse)?;
        // Else what is left of the room that was would be taken for this one's.
        if purge::is_going_on(&*scope.tables, self.partition, self.room_id)? {
            return Err(Stop::Refuse(Reason::RoomExists));
        }
        let key = rows::room_id_key(self.partition, self.room_id.as_str());
        scope
            .tables
            .put(ROOM_IDS, key.as_ref(), rows::number(self.sn.0));
        let judged = match self.body.placement {
            Placement::New => {
                self.accept(&mut head, &case, &StateNode::EMPTY, Joint::Seamless, scope)?
            }
            Placement::Outlier | Placement::Backfill { .. } | Placement::Rejoin => {
                let kept = (Decision::Outlier, Reason::None);
                let judged = self.keep_unplaced(&mut head, &case, kept, None, scope)?;
                head.store(scope.tables, self.partition);
                judged
            }
        };
        Ok((judged, head))
    }

    /// The head before the create event: a room with nothing in it.
    fn new_head(&self) -> Result<(Head, Case<'_>), Reason> {
        if self.kind != "m.room.create" {
            return Err(Reason::UnknownRoom);
        }
        let event = self.to_judge().map_err(|_| Reason::Malformed)?;
        let content = event.content.load().map_err(|_| Reason::Malformed)?;
        let version = auth_rules::room_version_of(&content).map_err(|_| Reason::Malformed)?;
        let named = self.envelope.room_version.unwrap_or(version.as_str());
        let sound = named == version.as_str()
            && self.state_key == Some("")
            && self.body.prev_events.is_empty()
            && self.body.auth_events.is_empty();
        if !sound {
            return Err(Reason::Malformed);
        }
        let info = CreateInfo::parse(
            version,
            self.event_id.to_owned(),
            self.room_id.to_owned(),
            self.sender.to_owned(),
            &content,
        );
        let info = info.map_err(|_| Reason::Forbidden)?;
        let authority = Authority::of_create(self.sn, info);
        auth_rules::check(version, &event, &authority).map_err(|_| Reason::Forbidden)?;
        let made = ids::room_id_of_create(self.event_id).ok();
        if version.room_id_is_create_hash() && made.as_deref() != Some(self.room_id) {
            return Err(Reason::Forbidden);
        }
        let shown = RoomHead {
            room_id: self.room_id.to_owned(),
            room: RoomSn(self.sn.0),
            version: version.id(),
            extremities: Arc::new([]),
            last_place: Place::START,
            state_id: StateId::EMPTY,
            state: StateMap::new(),
            authority: Arc::new(authority),
            visibility: Visibility::Shared,
            joined_members: 0,
            invited_members: 0,
            servers: imbl::OrdMap::new(),
        };
        let head = Head {
            shown,
            node: StateNode::EMPTY,
            early_redactions: 0,
            waiting: 0,
            given_states: 0,
            parked: None,
        };
        let case = Case {
            version,
            event,
            content: None,
            cited: Cited::default(),
            prior: None,
            waiters: vec![],
        };
        Ok((head, case))
    }
}
