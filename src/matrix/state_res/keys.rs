//! State keys as small numbers, with what a resolution knows of each.

use std::collections::HashMap;
use std::sync::Arc;

use super::events::Node;

/// A state key's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(u32);

pub(super) const POWER_LEVELS: Slot = Slot(0);
pub(super) const JOIN_RULES: Slot = Slot(1);

/// The keys that were met, numbered in that order. Looked up, never listed by
/// a hash's order.
#[derive(Debug)]
pub(super) struct Keys {
    member: Arc<str>,
    members: HashMap<Arc<str>, Slot>,
    others: HashMap<Arc<str>, HashMap<Arc<str>, Slot>>,
    slots: Vec<Held>,
}

/// What is known of a key.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub kind: Arc<str>,
    pub state_key: Arc<str>,
    /// Whether the states disagree on it.
    pub is_conflicted: bool,
    /// What the resolution has put there so far.
    pub resolved: Option<Node>,
    /// What all states agree on; none while nobody asked.
    pub agreed: Option<Option<Node>>,
}

const MEMBER: &str = "m.room.member";

impl Keys {
    pub(super) fn new() -> Keys {
        let mut keys = Keys {
            member: MEMBER.into(),
            members: HashMap::new(),
            others: HashMap::new(),
            slots: Vec::new(),
        };
        // In the order of the constants above.
        keys.slot("m.room.power_levels", "");
        keys.slot("m.room.join_rules", "");
        keys
    }

    /// The number of a key, a new one if it was not met yet.
    pub(super) fn slot(&mut self, kind: &str, state_key: &str) -> Slot {
        if kind == MEMBER {
            return self.member(state_key);
        }
        let known = self.others.get(kind).and_then(|keys| keys.get(state_key));
        if let Some(slot) = known {
            return *slot;
        }
        let (kind, state_key): (Arc<str>, Arc<str>) = (kind.into(), state_key.into());
        let slot = self.add(kind.clone(), state_key.clone());
        self.others.entry(kind).or_default().insert(state_key, slot);
        slot
    }

    /// The number of a user's membership.
    pub(super) fn member(&mut self, user: &str) -> Slot {
        if let Some(slot) = self.members.get(user) {
            return *slot;
        }
        let user: Arc<str> = user.into();
        let slot = self.add(self.member.clone(), user.clone());
        self.members.insert(user, slot);
        slot
    }

    pub(super) fn at(&self, slot: Slot) -> &Held {
        &self.slots[slot.0 as usize]
    }

    pub(super) fn at_mut(&mut self, slot: Slot) -> &mut Held {
        &mut self.slots[slot.0 as usize]
    }

    /// Every key that was met.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &Held)> {
        (0..).map(Slot).zip(&self.slots)
    }

    fn add(&mut self, kind: Arc<str>, state_key: Arc<str>) -> Slot {
        let slot = Slot(self.slots.len() as u32);
        self.slots.push(Held {
            kind,
            state_key,
            is_conflicted: false,
            resolved: None,
            agreed: None,
        });
        slot
    }
}
