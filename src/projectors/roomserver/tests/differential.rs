//! Random rooms, told to the fold in random orders and groups: everything that
//! it decides is what the model decides ([`super::model`]).
//!
//! `ROOM_CASES` is the number of rooms; one store serves all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use log_format::codec;
use log_format::record::input::Placement;
use log_format::record::output::{Decision, Membership, OutputRoomEvent};
use log_format::record::{Envelope, Kind, Source};
use ruma::{OwnedEventId, OwnedRoomId, RoomVersionId};
use serde_json::{Value, json};

use super::harness::{Draft, House, Outcome};
use super::model::{Map, Model};
use super::parked::resumed;
use crate::projectors::roomserver::rows;
use crate::projectors::roomserver::state::RoomStates;
use crate::query::ids::{EventSn, RoomSn, StateId};
use crate::query::parked::ParkedWork;
use crate::query::rooms::Rooms;
use crate::storage::columns::USER_ROOMS;
use crate::storage::overlay::Read;

const USERS: [&str; 5] = [
    "@alice:hs",
    "@bob:hs2",
    "@carol:hs3",
    "@dave:hs3",
    "@erin:hs4",
];

/// Random numbers that are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }
}

/// A room as its servers made it, each event after those that it builds on.
struct Graph {
    version: RoomVersionId,
    events: Vec<Arc<Draft>>,
    /// Every event cites what the state before it says.
    is_honest: bool,
}

fn blank(version: &RoomVersionId, room: &OwnedRoomId, id: String) -> Draft {
    Draft {
        room: room.clone(),
        version: version.clone(),
        id: OwnedEventId::try_from(id).unwrap(),
        sender: USERS[0].to_owned(),
        kind: "m.room.create".to_owned(),
        state_key: None,
        content: json!({}),
        prev_events: vec![],
        auth_events: vec![],
        depth: 1,
        redacts: None,
        origin_ts_ms: 1,
        idempotency: [0; 16],
        placement: Placement::New,
        source: Source::Federation,
        batch: (0, 1),
    }
}

impl Graph {
    /// The same number makes the same room but for the ids of the room and its
    /// create event: `copy` tells those apart.
    fn random(case: u64, copy: usize) -> Graph {
        let mut dice = Dice(case);
        let version = RoomVersionId::try_from(&*(case % 12 + 1).to_string()).unwrap();
        let rules = version.rules().unwrap().authorization;
        let create_id = format!("$create-{case}-{copy}");
        let room = match rules.room_create_event_id_as_room_id {
            true => format!("!{}", &create_id[1..]),
            false => format!("!room-{case}-{copy}:hs"),
        };
        let room = OwnedRoomId::try_from(room).unwrap();
        let create = Draft {
            state_key: Some(String::new()),
            content: match rules.use_room_create_sender {
                true => json!({ "room_version": version }),
                false => json!({ "room_version": version, "creator": USERS[0] }),
            },
            ..blank(&version, &room, create_id)
        };
        let create = Arc::new(create);
        let mut model = Model::new(create.clone());
        let mut graph = Graph {
            version: version.clone(),
            events: vec![create],
            is_honest: !dice.one_in(3),
        };
        let creators = rules.explicitly_privilege_room_creators;
        let levels = match creators {
            true => json!({ "users": { USERS[1]: 50 } }),
            false => json!({ "users": { USERS[0]: 100, USERS[1]: 50 } }),
        };
        let mut begin = vec![
            ("m.room.member", USERS[0], json!({ "membership": "join" })),
            ("m.room.power_levels", "", levels),
            ("m.room.join_rules", "", json!({ "join_rule": "public" })),
        ];
        for user in &USERS[1..1 + dice.below(4)] {
            begin.push(("m.room.member", user, json!({ "membership": "join" })));
        }
        for (kind, state_key, content) in begin {
            let mut draft = blank(&version, &room, graph.next_id(&mut dice));
            let own = kind == "m.room.member";
            draft.sender = if own { state_key } else { USERS[0] }.to_owned();
            draft.kind = kind.to_owned();
            draft.state_key = Some(state_key.to_owned());
            draft.content = content;
            let last = graph.events.last().unwrap().id.to_string();
            graph.add(&mut model, draft, vec![last], &mut dice);
        }
        for _ in 0..6 + dice.below(14) {
            let mut draft = blank(&version, &room, graph.next_id(&mut dice));
            graph.act(&mut draft, creators, &mut dice);
            let parents = graph.parents(&mut dice);
            graph.add(&mut model, draft, parents, &mut dice);
        }
        graph
    }

    /// Ids in no order.
    fn next_id(&self, dice: &mut Dice) -> String {
        format!("${:03}-{}", dice.below(1000), self.events.len())
    }

    fn parents(&self, dice: &mut Dice) -> Vec<String> {
        let mut parents = vec![];
        for _ in 0..[1, 1, 1, 2, 2, 3][dice.below(6)] {
            let back = match dice.one_in(4) {
                true => dice.below(self.events.len() - 3),
                false => dice.below(4.min(self.events.len())),
            };
            parents.push(self.events[self.events.len() - 1 - back].id.to_string());
        }
        // Nothing forbids to name one twice.
        if !dice.one_in(4) {
            parents.sort();
            parents.dedup();
        }
        parents
    }

    fn act(&self, draft: &mut Draft, creators: bool, dice: &mut Dice) {
        // Who has power acts more often.
        let sender = USERS[[0, 0, 0, 1, 1, 2, 3, 4][dice.below(8)]];
        draft.sender = sender.to_owned();
        draft.origin_ts_ms = 1 + dice.below(5) as u64;
        let target = dice.of(&USERS);
        let levels = |dice: &mut Dice| {
            let mut users = json!({});
            for user in &USERS[usize::from(creators)..] {
                if !dice.one_in(3) {
                    users[*user] = json!(dice.of(&[0, 50, 50, 60, 100]));
                }
            }
            if !creators && !dice.one_in(6) {
                users[USERS[0]] = json!(100);
            }
            let mut content = json!({ "users": users });
            for name in [
                "ban",
                "kick",
                "invite",
                "redact",
                "events_default",
                "state_default",
            ] {
                if dice.one_in(5) {
                    content[name] = json!(dice.of(&[0, 50, 100]));
                }
            }
            content
        };
        let member = |word: &str| json!({ "membership": word });
        let (kind, state_key, content): (&str, Option<&str>, Value) = match dice.below(22) {
            0..=3 => ("m.room.power_levels", Some(""), levels(dice)),
            4 | 5 => ("m.room.member", Some(target), member("ban")),
            6 | 7 => ("m.room.member", Some(target), member("leave")),
            8 | 9 => ("m.room.member", Some(target), member("invite")),
            10..=12 => ("m.room.member", Some(sender), member("join")),
            13 => ("m.room.member", Some(sender), member("leave")),
            14 => ("m.room.member", Some(sender), member("knock")),
            15 | 16 => {
                let rule = dice.of(&["public", "invite", "knock", "private"]);
                let content = json!({ "join_rule": rule });
                ("m.room.join_rules", Some(""), content)
            }
            17 | 18 => {
                let topic = json!({ "topic": dice.below(9) });
                ("m.room.topic", Some(""), topic)
            }
            19 => {
                let word = dice.of(&["joined", "shared", "world_readable"]);
                let content = json!({ "history_visibility": word });
                ("m.room.history_visibility", Some(""), content)
            }
            20 => {
                let target = &self.events[1 + dice.below(self.events.len() - 1)];
                draft.redacts = Some(target.id.to_string());
                ("m.room.redaction", None, json!({}))
            }
            _ => ("m.room.message", None, json!({ "body": "text" })),
        };
        draft.kind = kind.to_owned();
        draft.state_key = state_key.map(str::to_owned);
        draft.content = content;
    }

    fn add(&mut self, model: &mut Model, mut draft: Draft, parents: Vec<String>, dice: &mut Dice) {
        let depth = |id: &String| {
            let mut events = self.events.iter();
            events.find(|event| event.id.as_str() == id).unwrap().depth
        };
        draft.depth = parents.iter().map(depth).max().unwrap() + 1;
        let before = model.before(&parents).unwrap();
        draft.auth_events = model.auth_events(&before, &draft);
        draft.prev_events = parents;
        if !self.is_honest && self.events.len() > 4 && dice.one_in(4) {
            let other = dice.of(&self.events).id.to_string();
            match dice.below(3) {
                0 => draft.auth_events.push(other),
                1 => {
                    draft.auth_events.pop();
                }
                _ => {
                    // Another event of the same kind.
                    let kinds: Vec<_> = self
                        .events
                        .iter()
                        .filter(|event| event.state_key.is_some() && event.kind != "m.room.create")
                        .collect();
                    let chosen = dice.of(&kinds);
                    let key = |event: &Draft| (event.kind.clone(), event.state_key.clone());
                    let same = |id: &String| {
                        let mut events = self.events.iter();
                        let event = events.find(|event| event.id.as_str() == id).unwrap();
                        key(event) == key(chosen)
                    };
                    draft.auth_events.retain(|id| !same(id));
                    draft.auth_events.push(chosen.id.to_string());
                }
            }
        }
        let draft = Arc::new(draft);
        model.judge(&draft);
        self.events.push(draft);
    }

    /// The events in an order in which other servers might tell them.
    fn delivery(&self, dice: &mut Dice) -> Vec<Draft> {
        let mut order: Vec<(usize, usize)> = vec![];
        let jitter = dice.of(&[1, 3, 10, 1000]);
        for (index, _) in self.events.iter().enumerate().skip(1) {
            order.push((index + dice.below(jitter), index));
            if dice.one_in(10) {
                order.push((index + dice.below(2 * jitter), index));
            }
        }
        order.sort_by_key(|(at, _)| *at);
        let mut told = vec![(*self.events[0]).clone()];
        let mut seen = BTreeSet::new();
        for (_, index) in order {
            let draft = &self.events[index];
            let mut draft = (**draft).clone();
            if !self.is_honest && seen.insert(index) && dice.one_in(8) {
                // Told as part of somebody's authority first.
                draft.placement = Placement::Outlier;
                told.push(draft.clone());
                draft.placement = Placement::New;
                if dice.one_in(2) {
                    continue;
                }
            }
            told.push(draft);
        }
        // Those that were told as outliers only.
        if !self.is_honest {
            told.extend(self.events[1..].iter().map(|draft| (**draft).clone()));
        }
        told
    }

    /// A message on top of all that nothing builds on.
    fn last(&self) -> Draft {
        let built_on: BTreeSet<&String> = self
            .events
            .iter()
            .flat_map(|event| &event.prev_events)
            .collect();
        let create = &self.events[0];
        let mut draft = blank(&self.version, &create.room, "$last".to_owned());
        let ends = self.events.iter().map(|event| event.id.to_string());
        draft.prev_events = ends.filter(|id| !built_on.contains(id)).collect();
        draft.kind = "m.room.message".to_owned();
        draft.depth = 1000;
        draft
    }
}

/// What is compared, and what is known of ids so far.
struct Compared<'a> {
    case: String,
    model: Model,
    names: BTreeMap<EventSn, String>,
    by_offset: BTreeMap<u64, Arc<Draft>>,
    room: RoomSn,
    /// Current state and members as the output says.
    told: Map,
    members: BTreeMap<String, Membership>,
    house: &'a House,
}

impl Compared<'_> {
    fn state(&self, id: u64) -> Map {
        let states = RoomStates {
            tables: &*self.house.store,
            partition: 0,
            room: self.room,
        };
        let map = states.map(StateId(id)).unwrap();
        let named = |sn: &EventSn| self.names[sn].clone();
        let entries = map.iter();
        entries
            .map(|(key, sn)| ((key.kind.to_string(), key.state_key.to_string()), named(sn)))
            .collect()
    }

    /// One record of output, against what the model says of its event.
    fn compare(&mut self, told: &OutputRoomEvent, count_before: usize) {
        let draft = self.by_offset[&told.origin.about].clone();
        let case = format!("{} {} ({} known)", self.case, draft.id, count_before);
        let verdict = self.model.judge(&draft);
        assert_eq!(
            (told.decision, told.reason),
            (verdict.decision, verdict.reason),
            "{case}: {draft:?}"
        );
        if verdict.decision == Decision::Duplicate {
            return;
        }
        let sn = EventSn(told.event_sn);
        self.names.entry(sn).or_insert_with(|| draft.id.to_string());
        let before = verdict.before.unwrap_or_default();
        assert_eq!(
            self.state(told.state_before),
            before,
            "{case}: state before"
        );
        let after = verdict.after.unwrap_or_default();
        assert_eq!(self.state(told.state_after), after, "{case}: state after");
        let extremities: BTreeSet<String> = told.extremities.iter().cloned().collect();
        assert_eq!(extremities, self.model.extremities(), "{case}: extremities");
        for change in &told.state_delta {
            let key = (change.kind.clone(), change.state_key.clone());
            assert_eq!(self.told.get(&key), change.from.as_ref(), "{case}: from");
            match &change.to {
                Some(to) => self.told.insert(key, to.clone()),
                None => self.told.remove(&key),
            };
        }
        let current = self.model.current();
        assert_eq!(self.told, current, "{case}: current state as told");
        assert_eq!(
            self.state(told.current_state),
            current,
            "{case}: current state"
        );
        for change in &told.memberships {
            let held = self.members.insert(change.user_id.clone(), change.to);
            // Who has no member event any more is told to have left.
            let or_left = |held: Option<Membership>| held.unwrap_or(Membership::Leave);
            assert_eq!(or_left(held), or_left(change.from), "{case}: membership");
        }
    }

    fn compare_head(&self) {
        let case = &self.case;
        let room_id = &self.model.known.values().next().unwrap().draft.room;
        let head = self.house.head(room_id);
        let members = self.model.members(&self.model.current());
        let count = |of| members.values().filter(|held| **held == of).count() as u64;
        assert_eq!(head.joined_members, count(Membership::Join), "{case}");
        assert_eq!(head.invited_members, count(Membership::Invite), "{case}");
        let mut servers = imbl::OrdMap::new();
        for (user, _) in members
            .iter()
            .filter(|(_, held)| **held == Membership::Join)
        {
            let user = <&ruma::UserId>::try_from(&**user).unwrap();
            *servers.entry(user.server_name().to_owned()).or_insert(0) += 1;
        }
        assert_eq!(head.servers, servers, "{case}");
        for user in USERS {
            let key = rows::user_room_key(0, user, room_id.as_str());
            let row = self.house.store.get(USER_ROOMS, key.as_ref()).unwrap();
            let row = row.map(|row| rows::read_user_room(&row).unwrap().0);
            assert_eq!(row, members.get(user).copied(), "{case}: rooms of {user}");
            let user_id = <&ruma::UserId>::try_from(user).unwrap();
            assert_eq!(head.authority.membership(user_id), row, "{case}: {user}");
            let told = self.members.get(user).copied();
            let left = row.unwrap_or(Membership::Leave);
            assert_eq!(
                told.unwrap_or(Membership::Leave),
                left,
                "{case}: told of {user}"
            );
        }
        let redacted = self.model.redacted();
        for (id, known) in &self.model.known {
            if known.verdict.decision == Decision::Accepted {
                let stored = self.house.event(room_id, &known.draft.id);
                let is_redacted = stored.redacted_by.is_some();
                assert_eq!(
                    is_redacted,
                    redacted.contains(id),
                    "{case}: redaction of {id}"
                );
            }
        }
    }
}

fn output(outcome: &Outcome) -> Vec<OutputRoomEvent> {
    let mut told = vec![];
    for record in &outcome.folded.output {
        let envelope = Envelope::parse(&record.payload).unwrap();
        if envelope.kind == Kind::OutputRoomEvent {
            told.push(codec::decode(envelope.body).unwrap());
        }
    }
    told
}

/// Folds a room in one order, compared record by record. Returns the state
/// before its last event.
fn run(house: &mut House, graph: &Graph, case: String, dice: &mut Dice) -> Option<Map> {
    let last = graph.last();
    let mut delivery = graph.delivery(dice);
    delivery.push(last.clone());
    let create = Arc::new(delivery[0].clone());
    let offset = house.log.len() as u64;
    let room_id = create.room.clone();
    let mut model = Some(Model::new(create.clone()));
    let mut known = BTreeMap::from([(EventSn(offset), create.id.to_string())]);
    let mut current = model.as_ref().unwrap().current();
    let mut members = BTreeMap::new();
    let mut by_offset: BTreeMap<u64, Arc<Draft>> = BTreeMap::new();
    let mut rest = delivery.as_slice();
    while !rest.is_empty() {
        let count = (1 + dice.below(4) * dice.below(4)).min(rest.len());
        let (group, others) = rest.split_at(count);
        rest = others;
        if dice.one_in(20) {
            house.restart();
        }
        let first = house.log.len() as u64;
        for (index, draft) in group.iter().enumerate() {
            by_offset.insert(first + index as u64, Arc::new(draft.clone()));
        }
        let records: Vec<_> = group.iter().map(Draft::record).collect();
        let mut outcomes = house.fold_group(records);
        // What is done aside is done at once.
        while let Some(cause) = house.tables.waits(&room_id).unwrap().parked_at {
            let done = house.tables.prepare(&room_id, cause.0).unwrap().unwrap();
            if dice.one_in(2) {
                // Then the fold finds nothing that was prepared.
                house.restart();
            }
            let record = resumed(&room_id, cause.0, done.digest);
            outcomes.extend(house.fold_group(vec![record]));
        }
        let mut compared = Compared {
            case: case.clone(),
            model: model.take().unwrap(),
            names: known,
            by_offset,
            room: RoomSn(offset),
            told: current,
            members,
            house,
        };
        for outcome in outcomes.iter().filter(|outcome| outcome.offset != offset) {
            for told in output(outcome) {
                compared.compare(&told, (outcome.offset - offset) as usize);
            }
        }
        for id in compared.model.known.keys() {
            let overdue = compared.model.is_overdue(id);
            assert!(!overdue, "{case}: {id} was not judged again");
        }
        compared.compare_head();
        (model, known, current) = (Some(compared.model), compared.names, compared.told);
        (by_offset, members) = (compared.by_offset, compared.members);
    }
    let before = format!("{:?}", house.head(&room_id));
    if dice.one_in(4) {
        house.restart();
        assert_eq!(format!("{:?}", house.head(&room_id)), before, "{case}");
    }
    let model = model.unwrap();
    assert!(
        model.known.contains_key(last.id.as_str()),
        "{case}: {last:?}"
    );
    if graph.is_honest {
        for (id, known) in &model.known {
            let verdict = &known.verdict;
            assert!(
                verdict.after.is_some(),
                "{case}: {id} has no state: {verdict:?}"
            );
        }
    }
    model.known[last.id.as_str()].verdict.before.clone()
}

#[test]
fn every_decision_is_that_of_the_model() {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        text.parse::<u64>().ok()
    };
    let cases = number("ROOM_CASES").unwrap_or(500);
    let first = number("ROOM_CASE").unwrap_or(0);
    // In one of them nearly all work is done aside.
    let mut houses = [House::new(), House::with_inline_work(2)];
    for case in first..first + cases {
        let mut dice = Dice(!case);
        let mut ends = vec![];
        for (copy, house) in houses.iter_mut().enumerate() {
            let graph = Graph::random(case, copy);
            let name = format!("case {case}, copy {copy}, version {}", graph.version);
            let before = run(house, &graph, name, &mut dice);
            // The id of the create event differs between copies.
            let before = before.map(|mut state| {
                state.remove(&("m.room.create".to_owned(), String::new()));
                state
            });
            if graph.is_honest {
                ends.push(before.unwrap());
            }
        }
        assert!(
            ends.windows(2).all(|two| two[0] == two[1]),
            "case {case}: the order of arrival decides about the state: {ends:?}"
        );
    }
}
