//! Large rooms as many servers make them together: members, messages, and forks
//! that disagree and are merged. The same for the same seed.

use std::collections::VecDeque;

use engram::matrix::RoomVersion;
use serde_json::json;

use crate::graph::{CREATOR, Drafted, Graph, Say, Tip};
use crate::records::Random;

/// How large.
#[derive(Clone, Copy)]
pub struct Size {
    pub members: u64,
    /// In all, joins included.
    pub events: u64,
    pub forks: u64,
}

/// A room whose events come one after the other. Half of the members are there
/// before anybody speaks; the others join among the messages.
pub struct BigRoom {
    size: Size,
    random: Random,
    pub graph: Graph,
    pub end: Tip,
    /// Where late servers still are.
    old: VecDeque<Tip>,
    due: VecDeque<Drafted>,
    joined: u64,
    made: u64,
    forks: u64,
}

pub fn member(number: u64) -> String {
    format!("@member{number}:server{}.org", number % 97)
}

impl BigRoom {
    pub fn new(size: Size, version: RoomVersion, seed: u64) -> BigRoom {
        let mut random = Random(seed);
        let (graph, made, end) = Graph::create("big", version, &mut random);
        BigRoom {
            size,
            random,
            graph,
            end,
            old: VecDeque::new(),
            due: made.into(),
            joined: 0,
            made: 0,
            forks: 0,
        }
    }

    fn say(&mut self, say: Say<'_>) {
        let (event, tip) = self.graph.event(&mut self.random, say, &self.end);
        self.due.push_back(event);
        self.old.push_back(std::mem::replace(&mut self.end, tip));
        if self.old.len() > 30 {
            self.old.pop_front();
        }
    }

    fn somebody(&mut self) -> String {
        member(self.random.below(self.joined.max(1)))
    }

    fn join(&mut self) {
        let user = member(self.joined);
        self.joined += 1;
        self.say(Say::member(&user, &user, "join"));
    }

    /// Another server missed the last events, and says otherwise.
    fn fork(&mut self) {
        let back = self.random.below(self.old.len() as u64) as usize;
        let mut side = self.old[back].clone();
        for number in 0..1 + self.random.below(5) {
            let somebody = self.somebody();
            let topic = json!({ "topic": format!("fork {} {number}", self.forks) });
            let say = match self.random.below(6) {
                0 => Say::state(CREATOR, "m.room.topic", "", topic),
                1 => {
                    let levels = self.graph.levels(&[(&somebody, 50)]);
                    Say::state(CREATOR, "m.room.power_levels", "", levels)
                }
                2 => Say::member(CREATOR, &somebody, "ban"),
                3 if side.membership(&somebody) == "join" => {
                    Say::member(&somebody, &somebody, "join")
                }
                _ => Say::message(CREATOR, "aside".to_owned()),
            };
            let (event, tip) = self.graph.event(&mut self.random, say, &side);
            self.due.push_back(event);
            side = tip;
        }
        let name = json!({ "name": format!("fork {}", self.forks) });
        self.say(Say::state(CREATOR, "m.room.name", "", name));
        let topic = json!({ "topic": format!("near {}", self.forks) });
        self.say(Say::state(CREATOR, "m.room.topic", "", topic));
        self.end = Tip::of(&[&self.end, &side]);
        self.say(Say::message(CREATOR, "merged".to_owned()));
        self.forks += 1;
    }
}

impl Iterator for BigRoom {
    type Item = Drafted;

    fn next(&mut self) -> Option<Drafted> {
        if self.made >= self.size.events {
            return None;
        }
        self.made += 1;
        if let Some(event) = self.due.pop_front() {
            return Some(event);
        }
        let Size {
            members,
            events,
            forks,
        } = self.size;
        // Joins and forks keep pace with the events behind the first half.
        let due = |all: u64, begun: u64| {
            let past = self.made.saturating_sub(members / 2);
            begun + (all - begun) * past / (events - members / 2).max(1)
        };
        let (joins_due, forks_due) = (due(members, members / 2), due(forks, 0));
        if self.joined < joins_due {
            self.join();
        } else if self.forks < forks_due {
            self.fork();
        } else {
            let user = self.somebody();
            match self.end.membership(&user) {
                "join" => {
                    let body = format!("hello {}", self.random.next());
                    self.say(Say::message(&user, body));
                }
                _ => self.say(Say::message(CREATOR, "hello".to_owned())),
            }
        }
        self.due.pop_front()
    }
}
