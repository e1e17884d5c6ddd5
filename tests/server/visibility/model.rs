//! Who may see what, slowly and obviously: the text of the specification's
//! *Room history visibility* over a room told as a list of events, one after
//! the other. It knows nothing of the server.

use serde_json::Value;

/// One event as the room's creator was given it.
#[derive(Debug)]
pub struct Event {
    pub id: String,
    pub kind: String,
    pub state_key: Option<String>,
    pub content: Value,
}

impl Event {
    pub fn read(json: &Value) -> Event {
        let text = |key: &str| json[key].as_str().map(str::to_owned);
        Event {
            id: text("event_id").expect("an event has an id"),
            kind: text("type").expect("an event has a type"),
            state_key: text("state_key"),
            content: json["content"].clone(),
        }
    }

    fn is(&self, kind: &str, state_key: &str) -> bool {
        self.kind == kind && self.state_key.as_deref() == Some(state_key)
    }
}

/// How a user stands to a room now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Standing {
    Joined,
    /// Was joined; the event at this index ended that.
    Left(usize),
    /// Was never joined.
    Outside,
}

/// A room from its first event to its last. States are named by how many
/// events they are made of.
pub struct History {
    pub events: Vec<Event>,
}

impl History {
    /// The event that holds a piece of state, of the first `count` events.
    pub fn held(&self, count: usize, kind: &str, state_key: &str) -> Option<&Event> {
        let mut newest_first = self.events[..count].iter().rev();
        newest_first.find(|event| event.is(kind, state_key))
    }

    /// The indices of the events that are the state of the first `count`.
    pub fn state(&self, count: usize) -> Vec<usize> {
        let stands = |index: &usize| {
            let event = &self.events[*index];
            let Some(state_key) = &event.state_key else {
                return false;
            };
            let later = &self.events[index + 1..count];
            !later.iter().any(|later| later.is(&event.kind, state_key))
        };
        (0..count).filter(stands).collect()
    }

    /// The indices of all events that set a piece of state.
    pub fn of_key(&self, kind: &str, state_key: &str) -> Vec<usize> {
        let events = self.events.iter().enumerate();
        let events = events.filter(|(_, event)| event.is(kind, state_key));
        events.map(|(index, _)| index).collect()
    }

    /// By event: whether one of those given came in its place.
    pub fn replaced(&self, by: &[bool]) -> Vec<bool> {
        let mut replaced = vec![false; by.len()];
        for (index, event) in self
            .events
            .iter()
            .enumerate()
            .filter(|(index, _)| by[*index])
        {
            let Some(state_key) = &event.state_key else {
                continue;
            };
            let earlier = self.of_key(&event.kind, state_key).into_iter();
            if let Some(before) = earlier.take_while(|earlier| *earlier < index).last() {
                replaced[before] = true;
            }
        }
        replaced
    }

    /// "By default if no `history_visibility` is set, or if the value is not
    /// understood, the visibility is assumed to be `shared`."
    pub fn visibility(&self, count: usize) -> &str {
        let event = self.held(count, "m.room.history_visibility", "");
        let value = event.and_then(|event| event.content["history_visibility"].as_str());
        match value {
            Some(value @ ("world_readable" | "shared" | "invited" | "joined")) => value,
            _ => "shared",
        }
    }

    /// Empty for who has no membership.
    pub fn membership(&self, count: usize, user: &str) -> &str {
        let event = self.held(count, "m.room.member", user);
        event
            .and_then(|event| event.content["membership"].as_str())
            .unwrap_or("")
    }

    pub fn is_world_readable(&self) -> bool {
        self.visibility(self.events.len()) == "world_readable"
    }

    /// "The rules governing whether a user is allowed to see an event depend on
    /// the state of the room *at that event*."
    pub fn may_see(&self, user: &str, index: usize) -> bool {
        let event = &self.events[index];
        let mut visibilities = vec![self.visibility(index)];
        if event.is("m.room.history_visibility", "") {
            // "[…] if the `history_visibility` before *or* after the event
            // would allow them to see it."
            visibilities.push(self.visibility(index + 1));
        }
        let mut memberships = vec![self.membership(index, user)];
        if event.is("m.room.member", user) {
            // "[…] if their `membership` before *or* after the event would
            // allow them to see it."
            memberships.push(self.membership(index + 1, user));
        }
        let later = index + 1..=self.events.len();
        let joined_later = later.into_iter().any(|count| {
            self.membership(count, user) == "join" && self.membership(count - 1, user) != "join"
        });
        visibilities.iter().any(|visibility| {
            let mut memberships = memberships.iter();
            memberships.any(|membership| allows(visibility, membership, joined_later))
        })
    }

    /// How the user stands to the room at its end. "After a user has left a
    /// room, they may see any events which they were allowed to see before they
    /// left the room, but no events received after they left."
    pub fn standing(&self, user: &str) -> Standing {
        let was_joined = |count: &usize| self.membership(*count, user) == "join";
        match (0..=self.events.len()).rev().find(was_joined) {
            None => Standing::Outside,
            Some(count) if count == self.events.len() => Standing::Joined,
            Some(count) => Standing::Left(count),
        }
    }

    /// Of how many events the state is made that is current to the user; none
    /// if they may read no state at all. "If the user has left the room then
    /// the state is taken from the state of the room when they left." (*Getting
    /// events for a room*)
    pub fn current_to(&self, user: &str) -> Option<usize> {
        match self.standing(user) {
            Standing::Joined => Some(self.events.len()),
            Standing::Left(index) => Some(index + 1),
            Standing::Outside => self.is_world_readable().then_some(self.events.len()),
        }
    }

    /// Of which events the user may be told at all: those that they see, and
    /// what is state at one of them or just before it.
    pub fn known(&self, seen: &[bool]) -> Vec<bool> {
        let mut known = seen.to_vec();
        for index in (0..seen.len()).filter(|index| seen[*index]) {
            for count in [index, index + 1] {
                for held in self.state(count) {
                    known[held] = true;
                }
            }
        }
        known
    }
}

/// "1. If the `history_visibility` was set to `world_readable`, allow. […]"
fn allows(visibility: &str, membership: &str, joined_later: bool) -> bool {
    if visibility == "world_readable" {
        return true;
    }
    if membership == "join" {
        return true;
    }
    if visibility == "shared" && joined_later {
        return true;
    }
    if membership == "invite" && visibility == "invited" {
        return true;
    }
    false
}
