//! Rooms as graphs: who authorises whom, and how states differ.

use std::collections::BTreeSet;

use ruma::{EventId, OwnedRoomId, RoomId};

use super::ids::{EventSn, StateId};
use super::rooms::{QueryError, StateKey};

/// An entry in which two states differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDifference {
    pub key: StateKey,
    pub from: Option<EventSn>,
    pub to: Option<EventSn>,
}

/// Questions about a room's graph. A room that is not known has none.
pub trait RoomGraph: Send + Sync {
    /// The rooms that know an event of this id: one, but for ids of room versions
    /// 1 and 2, which their servers choose. Costs a look-up for each room.
    fn rooms_with(&self, event: &EventId) -> Result<Vec<OwnedRoomId>, QueryError>;

    /// The auth chains of events: what they cite as their authority, what that
    /// cites, and so on; without the events themselves, unless another cites them.
    fn auth_chain(&self, room: &RoomId, of: &[EventSn]) -> Result<BTreeSet<EventSn>, QueryError>;

    /// The auth difference of sets of events: what is in the full auth chain
    /// (the set itself included) of some but not of all of them.
    fn auth_difference(
        &self,
        room: &RoomId,
        sets: &[Vec<EventSn>],
    ) -> Result<BTreeSet<EventSn>, QueryError> {
        let mut union = BTreeSet::new();
        let mut common: Option<BTreeSet<EventSn>> = None;
        for set in sets {
            let mut chain = self.auth_chain(room, set)?;
            chain.extend(set);
            common = Some(match common {
                None => chain.clone(),
                Some(common) => common.intersection(&chain).copied().collect(),
            });
            union.extend(chain);
        }
        let common = common.unwrap_or_default();
        Ok(union.difference(&common).copied().collect())
    }

    /// What must change for one state to become another, by key; none if either
    /// is not known.
    fn state_difference(
        &self,
        room: &RoomId,
        from: StateId,
        to: StateId,
    ) -> Result<Option<Vec<StateDifference>>, QueryError>;
}
