//! An order in which each event comes behind what authorises it, found while the
//! events come. What can go on goes on; held is only what waits for its
//! authorities, or what nothing wanted has led to yet.
//!
//! Events are numbers here: of each that came or was named its id is kept once.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use ruma::{EventId, OwnedEventId};

/// Events that are kept track of, those that are only named by others among them.
/// Ours: an answer has at most 200,000 of the state and as many that authorise
/// it, and honest ones name few that are in neither.
const EVENTS_MAX: usize = 500_000;

/// An event's number.
pub type Number = u32;

/// More events are named than are kept track of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {EVENTS_MAX} events are named")]
pub struct TooMany;

/// See the module.
#[derive(Default)]
pub struct Order {
    numbers: HashMap<OwnedEventId, Number>,
    nodes: Vec<Node>,
    ready: VecDeque<Number>,
    /// The room is known, or its create event is ready. From version 12 on no
    /// other event cites that one, and all come behind it.
    is_begun: bool,
    /// Bytes of the events that are held.
    held_bytes: usize,
    /// Nodes before it are not held any more; see [`Order::cut`].
    cut_from: usize,
}

#[derive(Default)]
struct Node {
    held: Option<Held>,
    /// It is wanted for itself, or something wanted leads to it.
    is_wanted: bool,
    /// It is here, went on, or is not waited for any more.
    is_settled: bool,
    is_create: bool,
    /// Authorities of it that are not settled.
    waits_for: u32,
    /// Those that wait for it.
    awaited_by: Vec<Number>,
}

struct Held {
    json: Bytes,
    authorities: Box<[Number]>,
}

impl Order {
    /// `is_begun`: the room has its create event already.
    pub fn new(is_begun: bool) -> Order {
        Order {
            is_begun,
            ..Order::default()
        }
    }

    /// The number of an event, and whether it has one only now; then
    /// [`Order::is_here`] is to be called if it need not come.
    pub fn number(&mut self, id: &EventId) -> Result<(Number, bool), TooMany> {
        if let Some(number) = self.numbers.get(id) {
            return Ok((*number, false));
        }
        let number = Number::try_from(self.nodes.len()).map_err(|_| TooMany)?;
        if self.nodes.len() == EVENTS_MAX {
            return Err(TooMany);
        }
        self.numbers.insert(id.to_owned(), number);
        self.nodes.push(Node::default());
        Ok((number, true))
    }

    /// An event is here already: nothing waits for it, and nothing is done if it
    /// comes.
    pub fn is_here(&mut self, number: Number) {
        self.settle(number);
    }

    /// An event came, whose authorities have numbers. A second one of its id is
    /// dropped: the first wins.
    pub fn add(&mut self, number: Number, authorities: &[Number], is_create: bool, json: Bytes) {
        let mut waits_for = 0;
        let Some(node) = self.nodes.get(number as usize) else {
            return;
        };
        if node.is_settled || node.held.is_some() {
            return;
        }
        let mut authorities: Vec<Number> = authorities.to_vec();
        authorities.sort_unstable();
        authorities.dedup();
        authorities.retain(|authority| *authority != number);
        for authority in &authorities {
            if let Some(authority) = self.nodes.get_mut(*authority as usize)
                && !authority.is_settled
            {
                authority.awaited_by.push(number);
                waits_for += 1;
            }
        }
        self.held_bytes += json.len();
        let mut is_wanted = false;
        if let Some(node) = self.nodes.get_mut(number as usize) {
            is_wanted = std::mem::take(&mut node.is_wanted);
            node.waits_for = waits_for;
            node.is_create = is_create;
            node.held = Some(Held {
                json,
                authorities: authorities.into(),
            });
        }
        if is_wanted {
            self.want(number);
        }
    }

    /// An event is wanted, and with it what authorises it, and so on.
    pub fn want(&mut self, number: Number) {
        let mut wanted = vec![number];
        while let Some(number) = wanted.pop() {
            let Some(node) = self.nodes.get_mut(number as usize) else {
                continue;
            };
            if std::mem::replace(&mut node.is_wanted, true) {
                continue;
            }
            if let Some(held) = &node.held {
                wanted.extend(&*held.authorities);
            }
            self.go_on(number);
        }
    }

    /// Makes an event ready that is wanted and waits for nothing.
    fn go_on(&mut self, number: Number) {
        let Some(node) = self.nodes.get(number as usize) else {
            return;
        };
        if !node.is_wanted || node.held.is_none() || node.waits_for > 0 {
            return;
        }
        match node.is_create {
            true => {
                self.is_begun = true;
                self.ready.push_front(number);
            }
            false => self.ready.push_back(number),
        }
    }

    fn settle(&mut self, number: Number) {
        let Some(node) = self.nodes.get_mut(number as usize) else {
            return;
        };
        if std::mem::replace(&mut node.is_settled, true) {
            return;
        }
        for waiting in std::mem::take(&mut node.awaited_by) {
            if let Some(node) = self.nodes.get_mut(waiting as usize) {
                node.waits_for = node.waits_for.saturating_sub(1);
            }
            self.go_on(waiting);
        }
    }

    /// The next event that can go on.
    pub fn pop(&mut self) -> Option<(Number, Bytes)> {
        if !self.is_begun {
            return None;
        }
        loop {
            let number = self.ready.pop_front()?;
            let held = self.nodes.get_mut(number as usize);
            if let Some(held) = held.and_then(|node| node.held.take()) {
                self.held_bytes -= held.json.len();
                self.settle(number);
                return Some((number, held.json));
            }
        }
    }

    /// What something wanted leads to and did not come.
    pub fn absent(&self) -> Vec<OwnedEventId> {
        let absent = self.numbers.iter().filter(|(_, number)| {
            let node = self.nodes.get(**number as usize);
            node.is_some_and(|node| node.is_wanted && !node.is_settled && node.held.is_none())
        });
        let mut absent: Vec<_> = absent.map(|(id, _)| id.clone()).collect();
        absent.sort_unstable();
        absent
    }

    /// Some of those that wait for one of the events, each once.
    pub fn that_wait_for(&self, ids: &[OwnedEventId], count: usize) -> Vec<OwnedEventId> {
        let numbers = ids.iter().filter_map(|id| self.numbers.get(id));
        let nodes = numbers.filter_map(|number| self.nodes.get(*number as usize));
        let mut waiting: Vec<Number> = Vec::new();
        for first in nodes.filter_map(|node| node.awaited_by.first()) {
            if !waiting.contains(first) && waiting.len() < count {
                waiting.push(*first);
            }
        }
        let named =
            |(id, number): (&OwnedEventId, &Number)| waiting.contains(number).then(|| id.clone());
        self.numbers.iter().filter_map(named).collect()
    }

    /// Nothing more comes: nothing waits any more for what is absent.
    pub fn close(&mut self) {
        self.is_begun = true;
        for number in 0..self.nodes.len() {
            let is_absent = |node: &Node| !node.is_settled && node.held.is_none();
            if self.nodes.get(number).is_some_and(is_absent) {
                self.settle(number as Number);
            }
        }
    }

    /// Where all that is left waits for itself, which only ids that are no hashes
    /// allow, lets one of them go on; false if nothing wanted is left.
    pub fn cut(&mut self) -> bool {
        while let Some(node) = self.nodes.get_mut(self.cut_from) {
            if node.is_wanted && node.held.is_some() {
                node.waits_for = 0;
                self.go_on(self.cut_from as Number);
                return true;
            }
            self.cut_from += 1;
        }
        false
    }

    /// Bytes of the events that are held.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// The ids of all events, by number.
    pub fn into_ids(self) -> Vec<Option<OwnedEventId>> {
        let mut ids = vec![None; self.nodes.len()];
        for (id, number) in self.numbers {
            if let Some(place) = ids.get_mut(number as usize) {
                *place = Some(id);
            }
        }
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An order that is told events by name, and tells what goes on.
    struct Told {
        order: Order,
        out: Vec<String>,
    }

    impl Told {
        fn new(is_begun: bool) -> Told {
            Told {
                order: Order::new(is_begun),
                out: Vec::new(),
            }
        }

        fn number(&mut self, name: &str) -> Number {
            let id = OwnedEventId::try_from(format!("${name}")).expect("an id");
            self.order.number(&id).expect("few").0
        }

        fn add(&mut self, name: &str, authorities: &[&str], is_wanted: bool) {
            let number = self.number(name);
            let authorities: Vec<_> = authorities.iter().map(|name| self.number(name)).collect();
            let json = Bytes::from(name.to_owned());
            self.order.add(number, &authorities, name == "create", json);
            if is_wanted {
                self.order.want(number);
            }
            self.pop();
        }

        fn pop(&mut self) {
            while let Some((_, json)) = self.order.pop() {
                self.out
                    .push(String::from_utf8(json.to_vec()).expect("a name"));
            }
        }

        fn finish(mut self) -> Vec<String> {
            self.order.close();
            self.pop();
            while self.order.cut() {
                self.pop();
            }
            self.out
        }
    }

    #[test]
    fn authorities_go_first_and_nothing_waits_longer() {
        let mut told = Told::new(false);
        told.add("d", &["c", "a"], true);
        told.add("b", &["a"], true);
        told.add("c", &["b", "unknown"], true);
        told.add("a", &["create"], true);
        assert!(told.out.is_empty());
        told.add("create", &[], true);
        assert_eq!(told.out, ["create", "a", "b"]);
        assert_eq!(told.order.held_bytes(), 2);
        let absent = told.order.absent();
        assert_eq!(absent, ["$unknown"]);
        assert_eq!(told.order.that_wait_for(&absent, 5), ["$c"]);
        assert_eq!(told.finish(), ["create", "a", "b", "c", "d"]);
    }

    #[test]
    fn what_nothing_wanted_leads_to_does_not_go_on() {
        let mut told = Told::new(true);
        told.add("stranger", &["a"], false);
        told.add("a", &["absent"], false);
        told.add("absent_too", &["nobody"], false);
        assert!(told.order.absent().is_empty());
        // It was cited before it came, or came before it was cited.
        let cited = told.number("cited");
        told.order.want(cited);
        told.add("state", &["a"], true);
        told.add("cited", &[], false);
        assert_eq!(told.order.absent(), ["$absent"]);
        let here = told.number("absent");
        told.order.is_here(here);
        told.pop();
        assert_eq!(told.out, ["cited", "a", "state"]);
        assert_eq!(told.finish(), ["cited", "a", "state"]);
    }

    #[test]
    fn a_create_event_that_nobody_cites_comes_before_all() {
        let mut told = Told::new(false);
        told.add("a", &[], true);
        told.add("b", &["a"], true);
        told.add("create", &[], true);
        assert_eq!(told.finish(), ["create", "a", "b"]);
        let mut without = Told::new(false);
        without.add("a", &[], true);
        assert!(without.out.is_empty());
        assert_eq!(without.finish(), ["a"]);
    }

    #[test]
    fn circles_end_and_the_first_of_an_id_wins() {
        let mut told = Told::new(true);
        told.add("a", &["b"], true);
        told.add("b", &["a"], true);
        told.add("self", &["self"], true);
        told.add("c", &["b"], true);
        told.add("self", &["nowhere"], true);
        assert_eq!(told.finish(), ["self", "a", "b", "c"]);
    }

    #[test]
    fn a_long_chain_takes_no_stack() {
        let mut told = Told::new(true);
        let count = 20_000;
        for number in 0..count {
            let (own, next) = (format!("n{number}"), format!("n{}", number + 1));
            told.add(&own, &[&next], number == 0);
        }
        let last = format!("n{count}");
        told.add(&last, &[], false);
        assert_eq!(told.out.len(), count + 1);
        assert_eq!((&*told.out[0], &*told.out[count]), (&*last, "n0"));
    }

    #[test]
    fn numbers_have_an_end() {
        let mut order = Order::new(true);
        order.nodes.resize_with(EVENTS_MAX - 1, Node::default);
        let id = |n: usize| OwnedEventId::try_from(format!("${n}")).expect("an id");
        assert_eq!(order.number(&id(1)), Ok((EVENTS_MAX as Number - 1, true)));
        assert_eq!(order.number(&id(1)), Ok((EVENTS_MAX as Number - 1, false)));
        assert_eq!(order.number(&id(2)), Err(TooMany));
    }
}
