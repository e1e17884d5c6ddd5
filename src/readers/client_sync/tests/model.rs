//! Random rooms against a model that is slow and obviously right: what all
//! answers together told a client is what the rooms hold.

use std::collections::{BTreeMap, BTreeSet};

use log_format::record::output::{Membership, Visibility};
use proptest::prelude::*;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::{Value, json};

use super::world::{World, request, user};

const USERS: [&str; 4] = ["ann", "ben", "cid", "dot"];
const ROOMS: [&str; 3] = ["one", "two", "three"];
const WORDS: [&str; 5] = ["join", "leave", "invite", "ban", "knock"];

/// What a client knows of a room.
#[derive(Default)]
struct View {
    /// Type and state key to event id.
    state: BTreeMap<(String, String), String>,
    timeline: Vec<String>,
    gap: bool,
}

/// A client that believes what it is told.
struct Client {
    user: OwnedUserId,
    since: Option<String>,
    after: bool,
    rooms: BTreeMap<OwnedRoomId, View>,
    /// In which section each room was last seen.
    section: BTreeMap<OwnedRoomId, &'static str>,
}

impl Client {
    async fn sync(&mut self, world: &World, limit: u32, lazy: bool) {
        world.fold();
        let filter = json!({"room": {
            "timeline": {"limit": limit},
            "state": {"lazy_load_members": lazy},
        }});
        let mut request = request(&self.user, self.since.as_deref(), filter);
        request.use_state_after = self.after;
        let answer = world.ask(request).await.expect("an answer");
        let token = answer["next_batch"].as_str().expect("a token");
        self.since = Some(token.to_owned());
        for section in ["join", "invite", "knock", "leave"] {
            let rooms = answer["rooms"][section].as_object();
            for (room, told) in rooms.into_iter().flatten() {
                let room = RoomId::parse(room).expect("a room id");
                self.section.insert(room.clone(), section);
                let view = self.rooms.entry(room).or_default();
                apply(view, told, self.after);
            }
        }
    }
}

fn apply(view: &mut View, told: &Value, after: bool) {
    let state = if after { "state_after" } else { "state" };
    let other = if after { "state" } else { "state_after" };
    assert!(told.get(other).is_none());
    let set = |view: &mut View, event: &Value| {
        if let Some(key) = event["state_key"].as_str() {
            let kind = event["type"].as_str().expect("a type").to_owned();
            let id = event["event_id"].as_str().expect("an id").to_owned();
            view.state.insert((kind, key.to_owned()), id);
        }
    };
    for event in told[state]["events"].as_array().into_iter().flatten() {
        set(view, event);
    }
    let events = told["timeline"]["events"].as_array();
    for event in events.into_iter().flatten() {
        if !after {
            set(view, event);
        }
        let id = event["event_id"].as_str().expect("an id");
        view.timeline.push(id.to_owned());
    }
    view.gap |= told["timeline"]["limited"] == true;
}

/// What the model knows of one event.
struct Fact {
    id: String,
    membership: Option<Membership>,
    visibility: Visibility,
    own_member_event: bool,
}

fn facts(world: &World, room: &RoomId, user: &UserId) -> Vec<Fact> {
    let rooms = world.rooms.rooms.read();
    let (mut membership, mut visibility) = (None, Visibility::Shared);
    let mut facts = Vec::new();
    for event in rooms.get(room).into_iter().flat_map(|room| &room.events) {
        let pdu: Value = serde_json::from_slice(&event.json).expect("JSON");
        let content = &pdu["content"];
        let own =
            &*event.kind == "m.room.member" && event.state_key.as_deref() == Some(user.as_str());
        if own {
            membership = content["membership"].as_str().and_then(Membership::parse);
        }
        facts.push(Fact {
            id: event.event_id.to_string(),
            membership,
            visibility,
            own_member_event: own,
        });
        if &*event.kind == "m.room.history_visibility" {
            let word = content["history_visibility"].as_str().unwrap_or_default();
            let next = Visibility::parse(word);
            // Seen with the more open of the two.
            let fact = facts.last_mut().expect("just pushed");
            fact.visibility = more_open(visibility, next);
            visibility = next;
        }
    }
    facts
}

fn more_open(a: Visibility, b: Visibility) -> Visibility {
    let openness = |visibility| match visibility {
        Visibility::WorldReadable => 3,
        Visibility::Shared => 2,
        Visibility::Invited => 1,
        Visibility::Joined => 0,
    };
    if openness(a) >= openness(b) { a } else { b }
}

/// Ids of events that a client which always syncs is told, in their order: all
/// of each stay with the event that ended it, and what lies before a stay as
/// far as visibility allows. Own membership events outside of a stay are told
/// in sections that come and go, and are left out of the comparison.
fn expected(facts: &[Fact]) -> (Vec<String>, BTreeSet<String>) {
    let joined = |fact: &Fact| fact.membership == Some(Membership::Join);
    let (mut told, mut unsure) = (Vec::new(), BTreeSet::new());
    for (index, fact) in facts.iter().enumerate() {
        let ends_stay = fact.own_member_event && index > 0 && joined(&facts[index - 1]);
        if joined(fact) || ends_stay {
            told.push(fact.id.clone());
            continue;
        }
        if fact.own_member_event {
            unsure.insert(fact.id.clone());
            continue;
        }
        let joins_later = facts[index..].iter().any(joined);
        let visible = match fact.visibility {
            Visibility::WorldReadable | Visibility::Shared => true,
            Visibility::Invited => fact.membership == Some(Membership::Invite),
            Visibility::Joined => false,
        };
        if joins_later && visible {
            told.push(fact.id.clone());
        }
    }
    (told, unsure)
}

fn check(world: &World, client: &Client, lazy: bool) {
    for room in ROOMS {
        let room = RoomId::parse(format!("!{room}:here")).expect("a plain name");
        let facts = facts(world, &room, &client.user);
        let view = client.rooms.get(&room);
        let membership = facts.last().and_then(|fact| fact.membership);
        if let Some(membership) = membership {
            let section = match membership {
                Membership::Join => "join",
                Membership::Invite => "invite",
                Membership::Knock => "knock",
                Membership::Leave | Membership::Ban => "leave",
            };
            assert_eq!(client.section.get(&room), Some(&section), "{}", client.user);
        }
        let (told, unsure) = expected(&facts);
        let seen: Vec<String> = view
            .into_iter()
            .flat_map(|view| view.timeline.iter().cloned())
            .filter(|id| !unsure.contains(id))
            .collect();
        let who = format!("{} in {room}", client.user);
        match view.is_some_and(|view| view.gap) {
            false => assert_eq!(seen, told, "{who}"),
            true => {
                let mut rest = told.iter();
                let in_order = seen.iter().all(|id| rest.any(|told| told == id));
                assert!(in_order, "{who}: {seen:?} is not in the order of {told:?}");
            }
        }
        if membership == Some(Membership::Join) {
            let rooms = world.rooms.rooms.read();
            let held = &rooms[&room];
            let mut truth: BTreeMap<_, _> = held
                .current
                .iter()
                .map(|(key, sn)| {
                    let event = held.events.iter().find(|event| event.event == *sn);
                    let id = event.expect("stored").event_id.to_string();
                    ((key.kind.to_string(), key.state_key.to_string()), id)
                })
                .collect();
            let mut state = view.expect("joined").state.clone();
            if lazy {
                // Members may be missing, but none may be wrong.
                let known = state.clone();
                truth.retain(|key, _| key.0 != "m.room.member" || known.contains_key(key));
                assert!(state.contains_key(&("m.room.member".into(), client.user.to_string())));
            }
            state.retain(|key, _| truth.contains_key(key));
            assert_eq!(state, truth, "{who}");
        }
    }
}

/// Which membership may follow which (client-server API, *Room membership*).
fn may_become(now: Option<Membership>, word: &str) -> bool {
    use Membership::{Ban, Invite, Join, Knock, Leave};
    match word {
        "join" => now != Some(Ban),
        "leave" => matches!(now, Some(Join | Invite | Knock | Ban)),
        "ban" => true,
        _ => matches!(now, None | Some(Leave)),
    }
}

/// One step: what it does, to whom, where, and a detail.
type Step = (u8, u8, u8, u8);

async fn run(steps: &[Step], partitions: u32, limit: u32, after: bool, lazy: bool) {
    let mut world = World::new(partitions);
    let users: Vec<OwnedUserId> = USERS.iter().map(|name| user(name)).collect();
    let far = UserId::parse("@far:there").expect("a plain name");
    let mut clients: Vec<Client> = users
        .iter()
        .map(|user| Client {
            user: user.clone(),
            since: None,
            after,
            rooms: BTreeMap::new(),
            section: BTreeMap::new(),
        })
        .collect();
    for client in &mut clients {
        client.sync(&world, limit, lazy).await;
    }
    for room in ROOMS {
        world.create(room, &far, Visibility::Shared);
    }
    for (index, (what, who, room, detail)) in steps.iter().enumerate() {
        let who = *who as usize % USERS.len();
        let name = ROOMS[*room as usize % ROOMS.len()];
        let room = RoomId::parse(format!("!{name}:here")).expect("a plain name");
        match what % 8 {
            0 | 1 => drop(world.say(&room, &far, "hello")),
            2 => {
                let topic = json!({"topic": index});
                let kind = ["m.room.topic", "m.room.name", "x.any"][*detail as usize % 3];
                world.state(&room, &far, kind, "", topic);
            }
            3 => {
                let words = ["shared", "joined", "invited", "world_readable"];
                let word = json!({"history_visibility": words[*detail as usize % 4]});
                world.state(&room, &far, "m.room.history_visibility", "", word);
            }
            4 | 5 => {
                let word = WORDS[*detail as usize % WORDS.len()];
                let now = facts(&world, &room, &users[who]);
                let now = now.last().and_then(|fact| fact.membership);
                if !may_become(now, word) {
                    continue;
                }
                // An answer has one section for a room: that of an invite hides
                // how an earlier stay ended. So that is told first here.
                if word == "invite" || word == "knock" {
                    clients[who].sync(&world, limit, lazy).await;
                }
                world.member(&room, &users[who], &users[who], word);
            }
            6 => clients[who].sync(&world, limit, lazy).await,
            _ => {
                world.fold();
                world.restart(detail % 2 == 0);
            }
        }
    }
    for client in &mut clients {
        client.sync(&world, limit, lazy).await;
        // Nothing new: nothing is told, and the token stays good.
        let before = client.since.clone();
        client.sync(&world, limit, lazy).await;
        assert_eq!(client.since, before);
        check(&world, client, lazy);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn all_answers_together_tell_what_the_rooms_hold(
        steps in proptest::collection::vec(any::<Step>(), 1..80),
        partitions in 1u32..4,
        small in any::<bool>(),
        after in any::<bool>(),
        lazy in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let limit = if small { 2 } else { 100 };
        runtime.expect("a runtime").block_on(run(&steps, partitions, limit, after, lazy));
    }
}
