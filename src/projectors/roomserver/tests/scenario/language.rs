//! The language of the scenario files, as `tests/rooms/README.md` describes it:
//! from text to steps. Nothing is run here.

use crate::matrix::RoomVersion;
use crate::matrix::auth_rules::Rule;

/// One story about one room, told in several versions.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub file: String,
    pub name: String,
    pub versions: Vec<RoomVersion>,
    pub steps: Vec<Step>,
}

/// A line that does or checks something.
#[derive(Clone, Debug)]
pub struct Step {
    pub line: usize,
    /// The versions in which the step is taken.
    pub versions: Vec<RoomVersion>,
    pub kind: StepKind,
    pub expected: Vec<Expected>,
}

#[derive(Clone, Debug)]
pub enum StepKind {
    Event(Box<EventSpec>),
    /// Feeds an event that was made before.
    Feed(String),
    /// Gives the state before an event, as `/state_ids` would.
    Give {
        before: String,
        state: Vec<String>,
    },
    /// An entry of a state.
    State {
        at: StateAt,
        kind: String,
        state_key: String,
        event: Option<String>,
    },
    Extremities(Vec<String>),
    /// What became of an event by now.
    Decision {
        event: String,
        word: String,
    },
    /// The redaction that applies to an event.
    Redacted {
        event: String,
        by: Option<String>,
    },
    /// The last fed event's output names these as missing.
    Gap {
        prev: Vec<String>,
        auth: Vec<String>,
    },
}

#[derive(Clone, Debug)]
pub enum StateAt {
    Current,
    Before(String),
    After(String),
}

/// What is done with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It is fed to the room server at once.
    Fold,
    /// It is only made.
    Later,
    /// The rules judge it by what it cites and by current state, without the fold.
    Judge,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    New,
    Outlier,
    Backfill(String),
}

#[derive(Clone, Debug)]
pub struct EventSpec {
    pub name: String,
    pub used: Use,
    pub kind: String,
    pub state_key: Option<String>,
    pub sender: String,
    pub content: String,
    /// `prev_events`; the room's extremities if none are named.
    pub after: Option<Vec<String>>,
    /// `auth_events`; what the specification selects if none are named.
    pub auth: Option<Vec<String>>,
    /// Added to and taken from what is selected.
    pub auth_more: Vec<String>,
    pub auth_less: Vec<String>,
    pub redacts: Option<String>,
    pub depth: Option<u64>,
    pub ts: Option<u64>,
    pub place: Place,
    /// Whether a client of this server made it.
    pub local: bool,
    /// Of a create event: the server in its room's id, if not the sender's.
    pub room_server: Option<String>,
    /// Cited events that a judge takes for rejected, or for another room's.
    pub rejected: Vec<String>,
    pub foreign: Vec<String>,
    /// The judge knows no room.
    pub nowhere: bool,
    /// The judge is told another room id than the room's.
    pub elsewhere: bool,
    /// The state key is left out of a type that always has one.
    pub stateless: bool,
}

/// What should become of an event in some versions.
#[derive(Clone, Debug)]
pub struct Expected {
    pub versions: Vec<RoomVersion>,
    /// `accepted`, `rejected`, `soft-failed`, `outlier` or `duplicate`.
    pub word: String,
    /// The rule that refuses it.
    pub rule: Option<Rule>,
}

/// Reads a file. Errors name file and line.
pub fn parse(file: &str, text: &str) -> Result<Vec<Scenario>, String> {
    let mut scenarios: Vec<Scenario> = Vec::new();
    let mut versions = RoomVersion::all().collect::<Vec<_>>();
    for (index, raw) in text.lines().enumerate() {
        let line = index + 1;
        let trimmed = raw.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let fail = |why: String| format!("{file}:{line}: {why}");
        let words = Words::of(trimmed).map_err(fail)?;
        let done = if raw.starts_with(char::is_whitespace) {
            match scenarios.last_mut().and_then(|last| last.steps.last_mut()) {
                Some(step) => modify(step, words),
                None => Err("nothing that this line could belong to".to_owned()),
            }
        } else if words.first() == "versions" {
            let list = parse_versions(words.rest(1));
            match (list, scenarios.last_mut()) {
                (Err(why), _) => Err(why),
                (Ok(list), Some(last)) if last.steps.is_empty() => {
                    last.versions = list;
                    Ok(())
                }
                (Ok(_), Some(_)) => Err("versions come first in a scenario".to_owned()),
                (Ok(list), None) => {
                    versions = list;
                    Ok(())
                }
            }
        } else if words.first() == "scenario" {
            scenarios.push(Scenario {
                file: file.to_owned(),
                name: words.rest(1).join(" "),
                versions: versions.clone(),
                steps: Vec::new(),
            });
            Ok(())
        } else {
            match scenarios.last_mut() {
                Some(scenario) => step(words).map(|kinds| {
                    scenario.steps.extend(kinds.into_iter().map(|kind| Step {
                        line,
                        versions: scenario.versions.clone(),
                        kind,
                        expected: Vec::new(),
                    }));
                }),
                None => Err("a scenario must begin first".to_owned()),
            }
        };
        done.map_err(fail)?;
    }
    Ok(scenarios)
}

/// The words of a line, and the JSON that ends it.
struct Words {
    words: Vec<String>,
    json: Option<String>,
}

impl Words {
    fn of(line: &str) -> Result<Words, String> {
        let (head, json) = match line.find(" {") {
            Some(at) => (&line[..at], Some(line[at + 1..].to_owned())),
            None => (line, None),
        };
        let unquote = |word: &str| match word {
            "\"\"" => String::new(),
            other => other.to_owned(),
        };
        let words: Vec<String> = head.split_whitespace().map(unquote).collect();
        Ok(Words { words, json })
    }

    fn first(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    fn rest(&self, from: usize) -> &[String] {
        self.words.get(from..).unwrap_or_default()
    }

    /// Names, with or without commas between them; `none` is the empty list.
    fn names(&self, from: usize) -> Vec<String> {
        names(self.rest(from))
    }

    fn json(&self) -> String {
        self.json.clone().unwrap_or_else(|| "{}".to_owned())
    }
}

fn names(words: &[String]) -> Vec<String> {
    let names = words
        .iter()
        .map(|word| word.trim_end_matches(',').to_owned());
    names.filter(|name| name != "none").collect()
}

/// `1-5`, `7`, `1-2,6-12`, `all`.
fn parse_versions(words: &[String]) -> Result<Vec<RoomVersion>, String> {
    let text = words.concat();
    if text == "all" {
        return Ok(RoomVersion::all().collect());
    }
    let version =
        |name: &str| RoomVersion::parse(name).ok_or_else(|| format!("{name:?} is no room version"));
    let mut list = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (version(from)?, version(to)?);
        list.extend(RoomVersion::all().filter(|version| (from..=to).contains(version)));
    }
    Ok(list)
}

fn step(words: Words) -> Result<Vec<StepKind>, String> {
    let rest = words.rest(1);
    Ok(match words.first() {
        "event" => vec![StepKind::Event(event(&words, Use::Fold)?)],
        "later" => vec![StepKind::Event(event(&words, Use::Later)?)],
        "judge" => vec![StepKind::Event(event(&words, Use::Judge)?)],
        "create" => vec![create(&words)?],
        "room" => room(&words)?,
        "join" | "leave" | "ban" | "invite" | "knock" => vec![member(&words)?],
        "feed" => vec![StepKind::Feed(one(rest)?)],
        "give" => {
            let ["before", event, "=", ..] = strs(rest)[..] else {
                return Err("give before EVENT = EVENT…".to_owned());
            };
            vec![StepKind::Give {
                before: event.to_owned(),
                state: words.names(4),
            }]
        }
        "state" => vec![state(rest)?],
        "extremities" => vec![StepKind::Extremities(words.names(1))],
        "decision" => {
            let [event, "=", word] = strs(rest)[..] else {
                return Err("decision EVENT = WORD".to_owned());
            };
            vec![StepKind::Decision {
                event: event.to_owned(),
                word: word.to_owned(),
            }]
        }
        "redacted" => {
            let [event, "by", by] = strs(rest)[..] else {
                return Err("redacted EVENT by EVENT|none".to_owned());
            };
            vec![StepKind::Redacted {
                event: event.to_owned(),
                by: Some(by.to_owned()).filter(|by| by != "none"),
            }]
        }
        "gap" => {
            let split = rest.iter().position(|word| word == "auth");
            let split = split.unwrap_or(rest.len());
            if rest.first().map(String::as_str) != Some("prev") {
                return Err("gap prev EVENT… auth EVENT…".to_owned());
            }
            vec![StepKind::Gap {
                prev: names(&rest[1..split]),
                auth: names(rest.get(split + 1..).unwrap_or_default()),
            }]
        }
        other => return Err(format!("{other:?} is no step")),
    })
}

fn strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn one(words: &[String]) -> Result<String, String> {
    match words {
        [word] => Ok(word.clone()),
        _ => Err("one name is wanted".to_owned()),
    }
}

fn spec(
    name: &str,
    kind: &str,
    state_key: Option<&str>,
    sender: &str,
    content: String,
) -> EventSpec {
    EventSpec {
        name: name.to_owned(),
        used: Use::Fold,
        kind: kind.to_owned(),
        state_key: state_key.map(str::to_owned),
        sender: sender.to_owned(),
        content,
        after: None,
        auth: None,
        auth_more: Vec::new(),
        auth_less: Vec::new(),
        redacts: None,
        depth: None,
        ts: None,
        place: Place::New,
        local: false,
        room_server: None,
        rejected: Vec::new(),
        foreign: Vec::new(),
        nowhere: false,
        elsewhere: false,
        stateless: false,
    }
}

/// `event NAME = TYPE [STATE_KEY] by SENDER CONTENT`
fn event(words: &Words, used: Use) -> Result<Box<EventSpec>, String> {
    let (name, kind, state_key, sender) = match strs(words.rest(1))[..] {
        [name, "=", kind, "by", sender] => (name, kind, None, sender),
        [name, "=", kind, state_key, "by", sender] => (name, kind, Some(state_key), sender),
        _ => return Err("event NAME = TYPE [STATE_KEY] by SENDER CONTENT".to_owned()),
    };
    Ok(Box::new(EventSpec {
        used,
        ..spec(name, kind, state_key, sender, words.json())
    }))
}

/// `create SENDER CONTENT`
fn create(words: &Words) -> Result<StepKind, String> {
    let sender = one(words.rest(1))?;
    let event = spec("create", "m.room.create", Some(""), &sender, words.json());
    Ok(StepKind::Event(Box::new(event)))
}

/// `room SENDER CONTENT`: create, founder's join, power levels, public join rule.
fn room(words: &Words) -> Result<Vec<StepKind>, String> {
    let sender = one(words.rest(1))?;
    let event = |name, kind, key, content: &str| {
        let event = spec(name, kind, Some(key), &sender, content.to_owned());
        StepKind::Event(Box::new(event))
    };
    let join = r#"{"membership":"join"}"#;
    Ok(vec![
        create(words)?,
        event("founder", "m.room.member", &sender, join),
        event(
            "power",
            "m.room.power_levels",
            "",
            r#"{"users":{"@creator":100}}"#,
        ),
        event(
            "rules",
            "m.room.join_rules",
            "",
            r#"{"join_rule":"public"}"#,
        ),
    ])
}

/// `join NAME = USER`, `ban NAME = USER by SENDER`, and so on.
fn member(words: &Words) -> Result<StepKind, String> {
    let (name, target, sender) = match strs(words.rest(1))[..] {
        [name, "=", user] => (name, user, user),
        [name, "=", user, "by", sender] => (name, user, sender),
        _ => return Err("join NAME = USER [by SENDER]".to_owned()),
    };
    let content = format!(r#"{{"membership":"{}"}}"#, words.first());
    let event = spec(name, "m.room.member", Some(target), sender, content);
    Ok(StepKind::Event(Box::new(event)))
}

/// `state [before EVENT | after EVENT] TYPE STATE_KEY = EVENT|none`
fn state(rest: &[String]) -> Result<StepKind, String> {
    let words = strs(rest);
    let (at, words) = match words[..] {
        ["before", event, ..] => (StateAt::Before(event.to_owned()), &words[2..]),
        ["after", event, ..] => (StateAt::After(event.to_owned()), &words[2..]),
        _ => (StateAt::Current, &words[..]),
    };
    let [kind, state_key, "=", event] = words else {
        return Err("state [before|after EVENT] TYPE STATE_KEY = EVENT".to_owned());
    };
    Ok(StepKind::State {
        at,
        kind: (*kind).to_owned(),
        state_key: (*state_key).to_owned(),
        event: Some((*event).to_owned()).filter(|event| event != "none"),
    })
}

/// An indented line: more about the step above it.
fn modify(step: &mut Step, words: Words) -> Result<(), String> {
    match words.first() {
        "expect" => {
            step.expected.push(expected(words.rest(1), &step.versions)?);
            return Ok(());
        }
        "only" => {
            step.versions = parse_versions(words.rest(1))?;
            return Ok(());
        }
        _ => {}
    }
    let StepKind::Event(event) = &mut step.kind else {
        return Err("this line belongs to an event".to_owned());
    };
    let number = |words: &[String]| {
        one(words)?
            .parse()
            .map_err(|_| "a number is wanted".to_owned())
    };
    match words.first() {
        "after" => event.after = Some(words.names(1)),
        "auth" => event.auth = Some(words.names(1)),
        "auth+" => event.auth_more = words.names(1),
        "auth-" => event.auth_less = words.names(1),
        "redacts" => event.redacts = Some(one(words.rest(1))?),
        "depth" => event.depth = Some(number(words.rest(1))?),
        "ts" => event.ts = Some(number(words.rest(1))?),
        "outlier" => event.place = Place::Outlier,
        "backfill" => event.place = Place::Backfill(one(words.rest(2))?),
        "local" => event.local = true,
        "in" => event.room_server = Some(one(words.rest(1))?),
        "rejected" => event.rejected = words.names(1),
        "foreign" => event.foreign = words.names(1),
        "nowhere" => event.nowhere = true,
        "elsewhere" => event.elsewhere = true,
        "stateless" => event.stateless = true,
        other => return Err(format!("{other:?} says nothing about an event")),
    }
    Ok(())
}

/// `expect WORD [by RULE] [in VERSIONS]`
fn expected(words: &[String], versions: &[RoomVersion]) -> Result<Expected, String> {
    let (words, versions) = match words.iter().position(|word| word == "in") {
        Some(at) => (&words[..at], parse_versions(&words[at + 1..])?),
        None => (words, versions.to_vec()),
    };
    let (word, rule) = match strs(words)[..] {
        [word] => (word, None),
        [word, "by", rule] => {
            let named = Rule::parse(rule).ok_or_else(|| format!("{rule:?} is no rule"))?;
            (word, Some(named))
        }
        _ => return Err("expect WORD [by RULE] [in VERSIONS]".to_owned()),
    };
    let words = [
        "accepted",
        "rejected",
        "soft-failed",
        "outlier",
        "duplicate",
    ];
    if !words.contains(&word) {
        return Err(format!("{word:?} is no decision"));
    }
    Ok(Expected {
        versions,
        word: word.to_owned(),
        rule,
    })
}
