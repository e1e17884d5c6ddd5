//! Random events of rooms that many servers write at once, the same for the
//! same seed: forks that disagree, merges, events out of order or never told,
//! states given by other servers, history found later, and soft failures.

use std::collections::VecDeque;

use engram::matrix::RoomVersion;
use log_format::record::Source;
use log_format::record::input::Placement;
use serde_json::json;

use crate::graph::{CREATOR, Drafted, Graph, Say, Tip, new_id};
use crate::records::{Keyed, Random, hash};

/// The versions that differ in what the fold looks at.
const VERSIONS: [RoomVersion; 6] = [
    RoomVersion::V1,
    RoomVersion::V2,
    RoomVersion::V6,
    RoomVersion::V10,
    RoomVersion::V11,
    RoomVersion::V12,
];
const ENDS_MAX: usize = 5;
/// Places that a late server may still build on.
const OLD_MAX: usize = 40;
const GUESTS: u64 = 14;

/// A room whose records come one at a time.
pub struct ForkedRoom {
    graph: Graph,
    ends: Vec<Tip>,
    old: VecDeque<Tip>,
    /// Events that may be redacted.
    said: Vec<String>,
    /// What comes next.
    due: VecDeque<Keyed>,
    /// What comes some time.
    held: Vec<Keyed>,
}

impl ForkedRoom {
    /// A room and the records that make it.
    pub fn create(number: u64, random: &mut Random) -> (ForkedRoom, Vec<Keyed>) {
        let version = VERSIONS[number as usize % VERSIONS.len()];
        let (graph, made, tip) = Graph::create(&format!("fork{number}"), version, random);
        let room = ForkedRoom {
            graph,
            ends: vec![tip],
            old: VecDeque::new(),
            said: vec![],
            due: VecDeque::new(),
            held: vec![],
        };
        let records = made.iter().map(Drafted::keyed).collect();
        (room, records)
    }

    /// The next record.
    pub fn next(&mut self, random: &mut Random) -> Keyed {
        loop {
            if let Some(record) = self.due.pop_front() {
                return record;
            }
            if !self.held.is_empty() && random.below(6) == 0 {
                let at = random.below(self.held.len() as u64) as usize;
                return self.held.swap_remove(at);
            }
            self.act(random);
        }
    }

    /// Where the next event builds on; the ends that it retires are taken.
    fn base(&mut self, random: &mut Random) -> Tip {
        let pick = |random: &mut Random, count: usize| random.below(count as u64) as usize;
        match random.below(12) {
            0..7 => {
                let end = pick(random, self.ends.len());
                self.ends.swap_remove(end)
            }
            7..9 => {
                let count = self.ends.len().min(2 + pick(random, 2));
                let from = pick(random, self.ends.len() - count + 1);
                let taken: Vec<Tip> = self.ends.drain(from..from + count).collect();
                Tip::of(&taken.iter().collect::<Vec<_>>())
            }
            _ if !self.old.is_empty() => {
                let old = pick(random, self.old.len());
                self.old[old].clone()
            }
            _ => self.ends[0].clone(),
        }
    }

    fn end_at(&mut self, tip: Tip) {
        self.old.push_back(tip.clone());
        if self.old.len() > OLD_MAX {
            self.old.pop_front();
        }
        self.ends.push(tip);
        while self.ends.len() > ENDS_MAX {
            let (second, first) = (self.ends.remove(1), self.ends.remove(0));
            self.ends.push(Tip::of(&[&first, &second]));
        }
    }

    fn deliver(&mut self, random: &mut Random, event: &Drafted) {
        match random.below(8) {
            0 => self.held.push(event.keyed()),
            1 => self.due.extend([event.keyed(), event.keyed()]),
            _ => self.due.push_back(event.keyed()),
        }
    }

    fn say(&mut self, random: &mut Random, say: Say<'_>, base: &Tip) -> Drafted {
        let is_sensible = is_sensible(&say, base);
        let (mut event, tip) = self.graph.event(random, say, base);
        if random.below(40) == 0 {
            event.source = Source::Client;
            event
                .idempotency
                .copy_from_slice(&hash(random.next())[..16]);
        }
        self.end_at(match is_sensible {
            true => tip,
            false => base.clone(),
        });
        event
    }

    fn act(&mut self, random: &mut Random) {
        let base = self.base(random);
        let guest = format!("@guest{}:other.org", random.below(GUESTS));
        let target = format!("@guest{}:other.org", random.below(GUESTS));
        let joined: Vec<String> = (0..GUESTS)
            .map(|number| format!("@guest{number}:other.org"))
            .filter(|user| base.membership(user) == "join")
            .collect();
        let actor = match random.below(20) {
            0 => guest.clone(),
            1..10 if !joined.is_empty() => {
                joined[random.below(joined.len() as u64) as usize].clone()
            }
            _ => CREATOR.to_owned(),
        };
        // Now and then one without power tries.
        let mighty = match random.below(4) {
            0 => actor.clone(),
            _ => CREATOR.to_owned(),
        };
        let word = |random: &mut Random| format!("word {}", random.below(1000));
        let say = match random.below(26) {
            0..2 => {
                let content = json!({ "topic": word(random) });
                Say::state(&mighty, "m.room.topic", "", content)
            }
            2..7 => Say::member(&guest, &guest, "join"),
            7 => Say::member(&actor, &target, "invite"),
            8..10 => Say::member(&mighty, &target, "ban"),
            10 => Say::member(&mighty, &target, "leave"),
            11..13 => {
                let level = [0, 50, 50, 100][random.below(4) as usize];
                let users = [(guest.as_str(), 50), (target.as_str(), level)];
                let levels = self.graph.levels(&users);
                Say::state(&mighty, "m.room.power_levels", "", levels)
            }
            13 => {
                let rule = ["public", "public", "invite", "knock"][random.below(4) as usize];
                let content = json!({ "join_rule": rule });
                Say::state(&mighty, "m.room.join_rules", "", content)
            }
            14 => {
                let word = ["shared", "joined", "invited", "world_readable"];
                let word = word[random.below(4) as usize];
                let content = json!({ "history_visibility": word });
                Say::state(&mighty, "m.room.history_visibility", "", content)
            }
            15 if !self.said.is_empty() => {
                let at = random.below(self.said.len() as u64) as usize;
                let target = self.said.swap_remove(at);
                self.redaction(&actor, target)
            }
            16 => return self.redact_early(random, &base),
            20 if !joined.is_empty() => {
                let user = &joined[random.below(joined.len() as u64) as usize];
                return self.ban_and_talk(random, user, &base);
            }
            17 => return self.tell_outlier(random, &base),
            18..20 => return self.give_state(random, &base),
            _ => Say::message(&actor, word(random)),
        };
        let is_message = say.state_key.is_none() && say.redacts.is_none();
        let event = self.say(random, say, &base);
        if is_message {
            self.said.push(event.id.to_string());
        }
        self.deliver(random, &event);
    }

    fn redaction<'a>(&self, actor: &'a str, target: String) -> Say<'a> {
        Say {
            sender: actor,
            kind: "m.room.redaction",
            state_key: None,
            content: json!({ "reason": "none" }),
            redacts: Some(target),
        }
    }

    /// A redaction that comes before the message, which may never come.
    fn redact_early(&mut self, random: &mut Random, base: &Tip) {
        let say = Say::message(CREATOR, "to be redacted".to_owned());
        let (message, tip) = self.graph.event(random, say, base);
        let say = self.redaction(CREATOR, message.id.to_string());
        let redaction = self.say(random, say, base);
        self.due.push_back(redaction.keyed());
        if random.below(4) != 0 {
            self.held.push(message.keyed());
            self.end_at(tip);
        }
    }

    /// Somebody is banned, and says something as if that had not happened.
    fn ban_and_talk(&mut self, random: &mut Random, user: &str, base: &Tip) {
        let ban = self.say(random, Say::member(CREATOR, user, "ban"), base);
        let late = Say::message(user, "late".to_owned());
        let (late, _) = self.graph.event(random, late, base);
        self.due.extend([ban.keyed(), late.keyed()]);
    }

    /// An event that is first known as what others cite.
    fn tell_outlier(&mut self, random: &mut Random, base: &Tip) {
        let user = format!("@guest{}:other.org", random.below(GUESTS));
        let event = self.say(random, Say::member(&user, &user, "join"), base);
        self.due.push_back(event.as_outlier().keyed());
        self.held.push(event.keyed());
    }

    /// An event behind one that is not told, with the state before it; and that
    /// one as history, some time or never.
    fn give_state(&mut self, random: &mut Random, base: &Tip) {
        let topic = json!({ "topic": "behind the gap" });
        let untold = match random.below(2) {
            0 => Say::message(CREATOR, "not told".to_owned()),
            _ => Say::state(CREATOR, "m.room.topic", "", topic),
        };
        let (hole, after) = self.graph.event(random, untold, base);
        let say = Say::message(CREATOR, "behind the gap".to_owned());
        let (event, tip) = self.graph.event(random, say, &after);
        if hole.state_key.is_some() {
            self.due.push_back(hole.as_outlier().keyed());
        }
        let mut given = [0; 16];
        given.copy_from_slice(&hash(random.next())[..16]);
        let mut ids: Vec<_> = after.state.values().map(|held| held.id.clone()).collect();
        let is_whole = random.below(8) != 0;
        if !is_whole {
            ids.push(new_id(self.graph.version, random));
        }
        self.due.extend(self.graph.give(given, &event.id, &ids, 5));
        let is_known = match random.below(8) {
            0 => {
                self.due.push_back(self.graph.abandon(given));
                false
            }
            1 => false,
            _ => {
                self.due.push_back(self.graph.commit(given));
                is_whole
            }
        };
        let is_told = random.below(6) != 0;
        if is_told {
            self.due.push_back(event.keyed());
        }
        // Not many build on what nobody can place, or they would all wait.
        if is_told && is_known {
            self.end_at(tip);
        } else {
            self.end_at(base.clone());
        }
        if random.below(2) == 0 {
            let history = Drafted {
                placement: Placement::Backfill {
                    before: event.id.to_string(),
                },
                source: Source::Backfill,
                ..hole
            };
            self.due.push_back(history.keyed());
        }
    }
}

/// Whether others would build on an event: not on most of those that the rules
/// may refuse, or all that follows would be refused with them.
fn is_sensible(say: &Say<'_>, base: &Tip) -> bool {
    let membership = base.membership(say.sender);
    let is_join = say.state_key == Some(say.sender) && say.kind == "m.room.member";
    let is_public = base.word("m.room.join_rules", "") == "public";
    match (say.sender == CREATOR, say.state_key) {
        (true, _) => membership == "join",
        (false, None) => membership == "join",
        (false, Some(_)) if is_join => match membership {
            "join" | "invite" => true,
            "ban" => false,
            _ => is_public,
        },
        (false, Some(_)) => false,
    }
}
