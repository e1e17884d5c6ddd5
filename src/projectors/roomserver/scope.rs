//! What the fold of one record works with: the room's tables, ids for new
//! states, and how much work it may still do.

use log_format::record::Envelope;
use log_format::record::output::{Decision, Reason};
use ruma::RoomId;
use smallvec::SmallVec;

use super::answers::RoomTables;
use super::auth_chain::AuthGraphs;
use super::events::EventError;
use super::fold::KnownIds;
use super::rows::{self, EventRow};
use super::state::{RoomStates, StateIds, StateNode};
use crate::limits::ROOM_WORK_ASIDE_MAX;
use crate::projectors::fold::FoldError;
use crate::query::ids::{EventSn, RoomSn};
use crate::query::rooms::StateMap;
use crate::storage::columns::EVENT_IDS;
use crate::storage::overlay::{Overlay, StoreError};

/// Why an event goes no further.
#[derive(Debug)]
pub enum Stop {
    Fail(FoldError),
    Refuse(Reason),
    /// There is more to do than other rooms should wait for.
    Wait,
}

impl From<FoldError> for Stop {
    fn from(error: FoldError) -> Stop {
        Stop::Fail(error)
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Stop {
        Stop::Fail(error.into())
    }
}

impl From<EventError> for Stop {
    fn from(error: EventError) -> Stop {
        Stop::Fail(error.into())
    }
}

/// Work that one event may still cost, in steps as
/// [`crate::limits::ROOM_WORK_INLINE_MAX`] has them. Counted from what the event and the room say, so
/// that caches and clocks do not decide what a replay does.
#[derive(Clone, Debug)]
pub struct Effort {
    left: u64,
    aside: bool,
}

impl Effort {
    /// While other rooms wait.
    pub fn inline(steps: u64) -> Effort {
        Effort {
            left: steps,
            aside: false,
        }
    }

    /// While only this room waits.
    pub fn aside() -> Effort {
        Effort {
            left: ROOM_WORK_ASIDE_MAX,
            aside: true,
        }
    }

    /// Steps that are left.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Takes steps; stops the event if there are not so many.
    pub fn charge(&mut self, steps: u64) -> Result<(), Stop> {
        match self.left.checked_sub(steps) {
            Some(left) => self.left = left,
            None => return Err(self.exhausted()),
        }
        Ok(())
    }

    /// How an event ends for which the work does not suffice.
    pub fn exhausted(&self) -> Stop {
        match self.aside {
            true => Stop::Refuse(Reason::TooMuchWork),
            false => Stop::Wait,
        }
    }
}

/// See the module.
pub struct Scope<'s, 't> {
    pub shared: &'s RoomTables,
    pub partition: u32,
    pub room: RoomSn,
    pub room_id: &'s RoomId,
    /// Current state before this fold.
    pub node: StateNode,
    pub state: StateMap,
    pub known: &'s mut KnownIds,
    pub graphs: &'s mut AuthGraphs,
    pub tables: &'s mut Overlay<'t>,
    pub ids: &'s mut StateIds,
    pub effort: Effort,
}

/// An event that others refer to.
pub enum Prior {
    Unknown,
    Accepted(EventSn),
    Other(EventSn, EventRow),
}

/// What an event cites as its authority.
#[derive(Default)]
pub struct Cited {
    pub events: SmallVec<[EventSn; 6]>,
    pub missing: Vec<String>,
    pub rejected: Vec<String>,
}

impl Scope<'_, '_> {
    /// The room's states.
    pub fn states(&self) -> RoomStates<'_> {
        RoomStates {
            tables: &*self.tables,
            partition: self.partition,
            room: self.room,
        }
    }

    /// An event of the room by its id.
    pub fn prior(&mut self, id: &str) -> Result<Prior, Stop> {
        if let Some((partition, room, sn)) = self.known.get(id)
            && (*partition, *room) == (self.partition, self.room)
        {
            return Ok(Prior::Accepted(*sn));
        }
        let key = rows::room_text_key(self.partition, self.room, id);
        let Some(sn) = rows::find_number(&*self.tables, EVENT_IDS, &key)?.map(EventSn) else {
            return Ok(Prior::Unknown);
        };
        let Some(row) = EventRow::load(&*self.tables, self.partition, sn)? else {
            return Ok(Prior::Unknown);
        };
        if row.decision != Decision::Accepted {
            return Ok(Prior::Other(sn, row));
        }
        self.remember(id, sn);
        Ok(Prior::Accepted(sn))
    }

    /// Spares later look-ups of an accepted event.
    pub fn remember(&mut self, id: &str, sn: EventSn) {
        self.known
            .insert(Box::from(id), (self.partition, self.room, sn));
    }

    /// Looks up auth events.
    pub fn cited(&mut self, ids: &[String]) -> Result<Cited, Stop> {
        let mut cited = Cited::default();
        for id in ids {
            match self.prior(id)? {
                Prior::Unknown => cited.missing.push(id.clone()),
                Prior::Accepted(sn) => cited.events.push(sn),
                Prior::Other(sn, row) => match row.decision {
                    Decision::Rejected => cited.rejected.push(id.clone()),
                    _ => cited.events.push(sn),
                },
            }
        }
        Ok(cited)
    }

    /// The record of an event of the room.
    pub fn read<T>(
        &self,
        event: EventSn,
        read: impl FnOnce(&Envelope<'_>) -> Option<T>,
    ) -> Result<T, Stop> {
        Ok(self.shared.events.read(self.partition, event, read)?)
    }
}
