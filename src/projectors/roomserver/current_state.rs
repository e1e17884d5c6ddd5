//! Current state moves: the head, the members' rooms, and what *output* says of it.

use std::sync::Arc;

use log_format::record::output::{
    Membership, MembershipChange, StateChange, StateChangeCause, Visibility,
};

use ruma::UserId;

use super::auth;
use super::events::EventError;
use super::heads::{self, Head};
use super::outside;
use super::rows;
use super::scope::{Scope, Stop};
use super::state::{Change, StateNode};
use crate::matrix::RoomVersion;
use crate::query::ids::EventSn;
use crate::query::rooms::StateKey;
use crate::storage::columns::USER_ROOMS;

/// How current state changed, as *output* tells it.
#[derive(Default)]
pub struct StateDelta {
    pub changes: Vec<StateChange>,
    pub memberships: Vec<MembershipChange>,
}

impl Head {
    /// Makes `node` the current state, to which `changes` lead from the old one.
    /// `event` is the one whose fold it is; what it did not set itself, state
    /// resolution did.
    pub(super) fn move_to(
        &mut self,
        node: StateNode,
        changes: &[Change],
        event: EventSn,
        scope: &mut Scope<'_, '_>,
    ) -> Result<StateDelta, Stop> {
        let mut delta = StateDelta::default();
        let version = self.shown.authority.create_info.version;
        for change in changes {
            if changes.len() > 1 {
                scope.effort.charge(1)?;
            }
            let key = scope.state_key(change.key)?;
            let cause = match change.to == Some(event) {
                true => StateChangeCause::Event,
                false => StateChangeCause::Resolution,
            };
            delta.changes.push(StateChange {
                kind: key.kind.as_ref().to_owned(),
                state_key: key.state_key.as_ref().to_owned(),
                from: scope.event_id(change.from)?,
                to: scope.event_id(change.to)?,
                cause,
            });
            let key = Arc::new(key);
            match change.to {
                Some(to) => self.shown.state.insert(key.clone(), to),
                None => self.shown.state.remove(&key),
            };
            match key.kind.as_ref() {
                "m.room.member" => {
                    let moved = self.move_member(&key, change, scope)?;
                    // The event's own member first.
                    match cause {
                        StateChangeCause::Event => delta.memberships.splice(0..0, moved).count(),
                        StateChangeCause::Resolution => {
                            delta.memberships.extend(moved);
                            0
                        }
                    };
                }
                "m.room.history_visibility" if key.state_key.is_empty() => {
                    self.shown.visibility = scope.visibility_of(change.to)?;
                }
                "m.room.power_levels" | "m.room.join_rules" | "m.room.third_party_invite" => {
                    self.learn(version, &key, change.to, scope)?;
                }
                _ => {}
            }
        }
        self.node = node;
        self.shown.state_id = node.id;
        Ok(delta)
    }

    fn learn(
        &mut self,
        version: RoomVersion,
        key: &StateKey,
        to: Option<EventSn>,
        scope: &Scope<'_, '_>,
    ) -> Result<(), Stop> {
        let authority = Arc::make_mut(&mut self.shown.authority);
        match to {
            None => auth::forget(authority, key),
            Some(sn) => {
                let event = scope.shared.events.accepted(scope.partition, sn)?;
                auth::learn(authority, version, sn, &event)
                    .map_err(|_| EventError::NotAnEvent(sn.0))?;
            }
        }
        Ok(())
    }

    /// Counts a user's server in or out as the user joins or is joined no more.
    fn count_server(&mut self, user: &str, from: Option<Membership>, to: Option<Membership>) {
        let [was, is] = [from, to].map(|membership| membership == Some(Membership::Join));
        let Some(user) = <&UserId>::try_from(user).ok().filter(|_| was != is) else {
            return;
        };
        let servers = &mut self.shown.servers;
        let joined = servers.get(user.server_name()).copied().unwrap_or(0);
        match is {
            true => drop(servers.insert(user.server_name().to_owned(), joined + 1)),
            false if joined > 1 => drop(servers.insert(user.server_name().to_owned(), joined - 1)),
            false => drop(servers.remove(user.server_name())),
        }
    }

    fn move_member(
        &mut self,
        key: &StateKey,
        change: &Change,
        scope: &mut Scope<'_, '_>,
    ) -> Result<Option<MembershipChange>, Stop> {
        let authority = Arc::make_mut(&mut self.shown.authority);
        let entry = change
            .to
            .and_then(|sn| heads::member_entry(key, change.membership, sn));
        let row = rows::user_room_key(scope.partition, &key.state_key, scope.room_id.as_str());
        let (from, to) = match entry {
            Some((user, member)) => {
                let value = rows::user_room(member.membership, member.event);
                scope.tables.put(USER_ROOMS, row.as_ref(), value);
                let from = authority.members.insert(user, member);
                (from, Some(member.membership))
            }
            None => {
                let Ok(user) = <&UserId>::try_from(key.state_key.as_ref()) else {
                    return Ok(None);
                };
                scope.tables.delete(USER_ROOMS, row.as_ref());
                (authority.members.remove(user), None)
            }
        };
        let room_id = scope.room_id.as_str();
        outside::end(scope.tables, scope.partition, &key.state_key, room_id)?;
        let from = from.map(|member| member.membership);
        let count = |total: &mut u64, counted: Membership| {
            *total += u64::from(to == Some(counted));
            *total -= u64::from(from == Some(counted)).min(*total);
        };
        count(&mut self.shown.joined_members, Membership::Join);
        self.count_server(&key.state_key, from, to);
        count(&mut self.shown.invited_members, Membership::Invite);
        Ok(Some(MembershipChange {
            user_id: key.state_key.as_ref().to_owned(),
            from,
            // Who has no member event is as good as one who left.
            to: to.unwrap_or(Membership::Leave),
        }))
    }
}

impl Scope<'_, '_> {
    /// An interned key: that of the event which set it first.
    pub(super) fn state_key(&self, key: u64) -> Result<StateKey, Stop> {
        Ok(self.shared.events.state_key(self.partition, EventSn(key))?)
    }

    fn event_id(&self, event: Option<EventSn>) -> Result<Option<String>, Stop> {
        Ok(match event {
            None => None,
            Some(sn) => {
                let id = self.shared.events.event_id(self.partition, sn)?;
                Some(id.to_string())
            }
        })
    }

    /// The visibility that an `m.room.history_visibility` event sets.
    pub(super) fn visibility_of(&self, event: Option<EventSn>) -> Result<Visibility, Stop> {
        let Some(sn) = event else {
            return Ok(Visibility::Shared);
        };
        let event = self.shared.events.accepted(self.partition, sn)?;
        let word = event.content.get("history_visibility");
        Ok(Visibility::parse(
            word.and_then(|word| word.as_str()).unwrap_or_default(),
        ))
    }
}
