//! One cell of the matrix: a user who looks at a room, what the model says that
//! they may be told, and the words by which events are found in any answer.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Value, json};

use super::model::{Event, Standing};
use super::story::{MARK, Room};
use crate::harness::{Answer, Api, escape};
use crate::rooms::of_room;

/// What a user may know of a room, worked out by the model.
pub struct Sight {
    pub standing: Standing,
    /// Of how many events the state is made that is current to the user.
    pub current: Option<usize>,
    /// By event: whether they see it.
    pub seen: Vec<bool>,
    /// By event: whether they may be told of it.
    pub known: Vec<bool>,
    /// The events that they see, in order, up to their leave.
    pub visible: Vec<usize>,
    /// The same beyond it: those that the whole world may read.
    pub visible_beyond: Vec<usize>,
    /// Events that ones that they know of replaced: these tell the ids.
    pub replaced: Vec<bool>,
    /// Events of their own membership, of which they are always told.
    pub own: Vec<usize>,
    pub membership: String,
}

impl Sight {
    pub fn of(room: &Room, actor: &str, user: &str) -> Sight {
        let history = &room.history;
        let count = history.events.len();
        // "After this API is called, however, a user will no longer be able to
        // retrieve history for this room." (*Leaving rooms*): they look like
        // anybody from outside.
        let user = match actor {
            "left_forgot" => "@nobody:hs.test",
            _ => user,
        };
        let seen: Vec<bool> = (0..count)
            .map(|index| history.may_see(user, index))
            .collect();
        let standing = history.standing(user);
        let end = match standing {
            Standing::Left(index) => index + 1,
            _ => count,
        };
        let mut known = history.known(&seen);
        let own = history.of_key("m.room.member", user);
        for index in &own {
            known[*index] = true;
        }
        Sight {
            standing,
            current: history.current_to(user),
            visible: (0..end).filter(|index| seen[*index]).collect(),
            visible_beyond: (0..count).filter(|index| seen[*index]).collect(),
            replaced: history.replaced(&known),
            known,
            seen,
            own,
            membership: history.membership(count, user).to_owned(),
        }
    }

    /// Whether they may know that the room exists and what it is called
    /// (*Room Summaries*, *Spaces*); the rooms end with the join rule `invite`.
    pub fn knows_of_room(&self, room: &Room) -> bool {
        room.history.is_world_readable() || ["join", "invite"].contains(&&*self.membership)
    }
}

/// Where an answer names an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    pub room: usize,
    pub event: usize,
    /// By a word of its content, and not only by its id.
    pub by_content: bool,
}

/// All events of all rooms by id and by word.
#[derive(Default)]
pub struct Words {
    words: HashMap<String, Named>,
}

impl Words {
    pub fn of(rooms: &[Room]) -> Words {
        let mut words = HashMap::new();
        for (room, told) in rooms.iter().enumerate() {
            for (index, event) in told.history.events.iter().enumerate() {
                let named = |by_content| Named {
                    room,
                    event: index,
                    by_content,
                };
                words.insert(event.id.clone(), named(false));
                for mark in marks(&event.content.to_string()) {
                    words.insert(mark.to_owned(), named(true));
                }
            }
        }
        Words { words }
    }

    /// Every event that an answer names, in keys as in values.
    pub fn named_in(&self, answer: &Value) -> BTreeSet<Named> {
        let mut named = BTreeSet::new();
        self.collect(answer, &mut named);
        named
    }

    fn collect(&self, value: &Value, named: &mut BTreeSet<Named>) {
        match value {
            Value::String(text) => self.collect_text(text, named),
            Value::Array(values) => {
                for value in values {
                    self.collect(value, named);
                }
            }
            Value::Object(fields) => {
                for (key, value) in fields {
                    self.collect_text(key, named);
                    self.collect(value, named);
                }
            }
            _ => {}
        }
    }

    fn collect_text(&self, text: &str, named: &mut BTreeSet<Named>) {
        named.extend(self.words.get(text));
        named.extend(marks(text).filter_map(|mark| self.words.get(mark)));
    }
}

fn marks(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices(MARK).filter_map(|(begin, _)| {
        let mark = &text[begin..];
        mark.find('.').map(|end| &mark[..=end])
    })
}

/// A user in front of a room.
pub struct Cell<'a> {
    pub room: &'a Room,
    pub room_index: usize,
    pub actor: &'static str,
    pub api: &'a Api,
    pub sight: &'a Sight,
    pub words: &'a Words,
    pub faults: Vec<String>,
}

impl Cell<'_> {
    pub fn fault(&mut self, what: impl std::fmt::Display) {
        let (actor, room) = (self.actor, &self.room.name);
        self.faults.push(format!("{actor} in {room}: {what}"));
    }

    pub fn expect(&mut self, holds: bool, what: impl std::fmt::Display) {
        if !holds {
            self.fault(what);
        }
    }

    /// GET under the room. None if guests may not ask this at all.
    pub async fn get(&self, rest: &str) -> Option<Answer> {
        self.at(&of_room(&self.room.id, rest)).await
    }

    /// GET under the room of an endpoint that came with `v1`.
    pub async fn get_v1(&self, rest: &str) -> Option<Answer> {
        let room = escape(&self.room.id);
        self.at(&format!("/_matrix/client/v1/rooms/{room}/{rest}"))
            .await
    }

    pub async fn at(&self, path: &str) -> Option<Answer> {
        open_to(self.actor, self.api.get(path).await)
    }

    /// The body of a 200, in which nothing may be that the user may not know.
    /// Any other answer must be the refusal given, and say nothing at all.
    pub fn told(
        &mut self,
        what: &str,
        answer: Option<Answer>,
        may: bool,
        refusals: &[u16],
    ) -> Option<Value> {
        let answer = answer?;
        let status = answer.status.as_u16();
        if !may {
            self.expect(
                refusals.contains(&status),
                format!("{what} answers {status} {}", answer.text),
            );
            let named = self.words.named_in(&answer.body);
            self.expect(named.is_empty(), format!("{what} tells of {named:?}"));
            return None;
        }
        if status != 200 {
            self.fault(format!(
                "{what} answers {status} {} and should tell",
                answer.text
            ));
            return None;
        }
        self.leaks(what, &answer.body);
        Some(answer.body)
    }

    /// Reports what an answer names and the user may not know.
    pub fn leaks(&mut self, what: &str, body: &Value) {
        for named in self.words.named_in(body) {
            let event = &self.room.history.events[named.event];
            // A reply that the user sees names the message that it is to, and a
            // piece of state the one before.
            let is_named = event.id == self.room.root && !self.sight.visible.is_empty()
                || self.sight.replaced[named.event];
            let may_know = named.room == self.room_index
                && (self.sight.known[named.event] || is_named && !named.by_content);
            if !may_know {
                let (index, kind) = (named.event, &event.kind);
                self.fault(format!("{what} leaks event {index} ({kind}): {named:?}"));
            }
        }
    }

    /// Where the events of a list stand in the room.
    pub fn indices(&mut self, what: &str, events: &Value) -> Vec<usize> {
        let mut indices = Vec::new();
        for event in events.as_array().into_iter().flatten() {
            let id = event["event_id"].as_str().unwrap_or_default();
            match self.index_of(id) {
                Some(index) => indices.push(index),
                None => self.fault(format!("{what} gives an unknown event {event}")),
            }
        }
        indices
    }

    pub fn index_of(&self, event_id: &str) -> Option<usize> {
        let mut events = self.room.history.events.iter();
        events.position(|event| event.id == event_id)
    }

    /// Holds events against those wanted, in order.
    pub fn same(&mut self, what: &str, found: &[usize], wanted: &[usize]) {
        if found != wanted {
            self.fault(format!("{what} gives {found:?} and should give {wanted:?}"));
        }
    }

    /// Holds events against those that the user sees up to their leave; what the
    /// whole world may read may follow.
    pub fn is_visible(&mut self, what: &str, found: &[usize]) {
        let sight = self.sight;
        let beyond = sight.visible_beyond.get(..found.len());
        if found.len() < sight.visible.len() || Some(found) != beyond {
            self.same(what, found, &sight.visible);
        }
    }

    /// Holds a selection of events, in order, against that of the events which
    /// the user sees: up to their leave, or also of what the whole world may
    /// read beyond it.
    pub fn is_selection(&mut self, what: &str, found: &[usize], selected: impl Fn(&Event) -> bool) {
        let events = &self.room.history.events;
        let select = |from: &[usize]| -> Vec<usize> {
            let from = from.iter().copied();
            from.filter(|index| selected(&events[*index])).collect()
        };
        if found != select(&self.sight.visible_beyond) {
            self.same(what, found, &select(&self.sight.visible));
        }
    }

    /// Holds a piece of timeline of sync, which tells the user always of their
    /// own membership, against the end of what they see.
    pub fn is_end_of_visible(&mut self, what: &str, found: &[usize], whole: bool) {
        let sight = self.sight;
        let is_seen = |index: &usize| sight.seen[*index] || !sight.own.contains(index);
        let found: Vec<usize> = found.iter().copied().filter(is_seen).collect();
        let visible = &sight.visible;
        let from = visible.len().saturating_sub(found.len());
        if found != visible[from..] || (found.is_empty() && !visible.is_empty() && whole) {
            self.fault(format!("{what} gives {found:?} of {visible:?}"));
        }
    }

    /// Holds a state against that made of the first `count` events.
    pub fn is_state(&mut self, what: &str, mut found: Vec<usize>, count: usize) {
        found.sort_unstable();
        let wanted = self.room.history.state(count);
        self.same(what, &found, &wanted);
    }
}

/// None if the answer is that guests may not ask this.
pub fn open_to(actor: &str, answer: Answer) -> Option<Answer> {
    let is_closed = actor == "guest" && answer.body["errcode"] == "M_GUEST_ACCESS_FORBIDDEN";
    (!is_closed).then_some(answer)
}

/// Keeps of a list of indices those that a later one of the same state entry
/// does not replace: what a client makes of `state` and then `timeline`.
pub fn folded(room: &Room, told: &[usize]) -> Vec<usize> {
    let mut state: HashMap<(&str, &str), usize> = HashMap::new();
    for index in told {
        let event = &room.history.events[*index];
        if let Some(state_key) = &event.state_key {
            state.insert((&event.kind, state_key), *index);
        }
    }
    state.into_values().collect()
}

/// What a client that knows no better may be shown of an invite or a knock.
///
/// Source: client-server API, *Stripped state*.
pub const STRIPPED: [&str; 8] = [
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
    "m.room.member",
];

/// A body that asks a search for everything said in one room.
pub fn search_in(room: &str, word: &str) -> Value {
    json!({ "search_categories": { "room_events": {
        "search_term": word,
        "filter": { "rooms": [room], "limit": 100 },
        "order_by": "recent",
        "event_context": { "before_limit": 2, "after_limit": 2, "include_profile": true },
        "include_state": true,
    } } })
}
