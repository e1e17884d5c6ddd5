//! Random rooms against a model that is slow and obviously right: what all
//! answers together told a client is what the rooms hold.

use std::collections::{BTreeMap, BTreeSet};

use log_format::record::output::{Membership, Timeline, Visibility};
use proptest::prelude::*;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::{Value, json};

use super::fake_rooms::{Fate, How};
use super::world::{World, request, user};
use crate::query::ids::StateId;
use crate::query::rooms::StateKey;
use crate::readers::client_sync::StateSection;

pub const USERS: [&str; 4] = ["ann", "ben", "cid", "dot"];
pub const ROOMS: [&str; 3] = ["one", "two", "three"];
const KINDS: [&str; 3] = ["m.room.topic", "m.room.name", "x.any"];
pub const VISIBILITIES: [&str; 4] = ["shared", "joined", "invited", "world_readable"];
pub const WORDS: [&str; 5] = ["join", "leave", "invite", "ban", "knock"];

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
        request.state_section = StateSection::of(self.after);
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

/// What the model knows of one record of a room, for one user.
pub struct Fact {
    pub id: String,
    /// It shows at the end of the timeline.
    pub live: bool,
    /// By the state at the event, whether or not they joined later.
    pub visible: bool,
    pub shared: bool,
    pub own_member_event: bool,
    /// The user's in current state behind the record.
    pub membership: Option<Membership>,
}

pub fn facts(world: &World, room: &RoomId, user: &UserId) -> Vec<Fact> {
    let rooms = world.rooms.rooms.read();
    let Some(room) = rooms.get(room) else {
        return Vec::new();
    };
    let mut facts: Vec<Fact> = Vec::new();
    for (index, event) in room.events.iter().enumerate() {
        let own =
            &*event.kind == "m.room.member" && event.state_key.as_deref() == Some(user.as_str());
        let (before, after) = (event.state_before, event.state_after);
        let visibilities = match &*event.kind {
            "m.room.history_visibility" => vec![room.visibility(before), room.visibility(after)],
            _ => vec![room.visibility(before)],
        };
        let memberships = [room.membership(before, user), room.membership(after, user)];
        let is = |membership| memberships.contains(&Some(membership));
        let current = room.membership(room.currents[index], user);
        let had = facts.last().and_then(|fact| fact.membership);
        facts.push(Fact {
            id: event.event_id.to_string(),
            live: room.timelines[index] == Timeline::Live,
            visible: visibilities.contains(&Visibility::WorldReadable)
                || is(Membership::Join)
                || (visibilities.contains(&Visibility::Invited) && is(Membership::Invite)),
            shared: visibilities.contains(&Visibility::Shared),
            own_member_event: own,
            // Whose entry a resolution took away has left.
            membership: current.or(had.map(|_| Membership::Leave)),
        });
    }
    facts
}

/// Ids of events that a client which always syncs is told, in their order: of
/// each stay what they may see, and likewise what lies before a stay. How a stay
/// ends, and own membership events outside of one, are told in sections that
/// come and go: these are left out of the comparison, unless the user leaves by
/// an event of their own.
pub fn expected(facts: &[Fact]) -> (Vec<String>, BTreeSet<String>) {
    let joined = |fact: &Fact| fact.membership == Some(Membership::Join);
    let (mut told, mut unsure) = (Vec::new(), BTreeSet::new());
    for (index, fact) in facts.iter().enumerate().filter(|(_, fact)| fact.live) {
        let ends_stay = index > 0 && joined(&facts[index - 1]) && !joined(fact);
        let leaves = matches!(fact.membership, Some(Membership::Leave | Membership::Ban));
        if ends_stay && !(fact.own_member_event && leaves) {
            unsure.insert(fact.id.clone());
            continue;
        }
        if fact.own_member_event {
            match joined(fact) || ends_stay {
                true => told.push(fact.id.clone()),
                false => drop(unsure.insert(fact.id.clone())),
            }
            continue;
        }
        let joins_later = facts[index..].iter().any(joined);
        if joins_later && (fact.visible || fact.shared) {
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
                    let id = held.event(*sn).event_id.to_string();
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
pub fn may_become(now: Option<Membership>, word: &str) -> bool {
    use Membership::{Ban, Invite, Join, Knock, Leave};
    match word {
        "join" => now != Some(Ban),
        "leave" => matches!(now, Some(Join | Invite | Knock | Ban)),
        "ban" => true,
        _ => matches!(now, None | Some(Leave)),
    }
}

/// An event on an old state, whatever becomes of it, and a resolution that gives
/// some keys to other events, or to none.
pub fn fork(
    world: &mut World,
    room: &RoomId,
    (far, local): (&UserId, &UserId),
    (index, what, detail): (usize, u8, u8),
) {
    let spread = index * 31 + usize::from(detail);
    let how = {
        let rooms = world.rooms.rooms.read();
        let held = &rooms[room];
        let state_events: Vec<_> = held.events[1..]
            .iter()
            .filter_map(|event| Some((&event.kind, event.state_key.as_ref()?, &event.event_id)))
            .collect();
        let resolves = (0..usize::from(what / 12 % 4)).map(|nth| {
            let (kind, state_key, id) = state_events[(spread * 7 + nth * 13) % state_events.len()];
            let stays = !(spread + nth).is_multiple_of(5);
            (StateKey::new(kind, state_key), stays.then(|| id.clone()))
        });
        let old = held.states.len() - 1 - spread % held.states.len().min(6);
        How {
            // The first state is that before there was a room.
            on: (detail % 4 != 0).then_some(StateId(old.max(1) as u64)),
            fate: [Fate::Live, Fate::Loses, Fate::SoftFailed, Fate::History][spread % 4],
            resolves: resolves.collect(),
            parts: spread % 3,
            behind_gap: spread.is_multiple_of(11),
            ..How::default()
        }
    };
    let topic = json!({ "topic": index });
    match what % 12 {
        8 => world.send(room, far, "m.room.message", None, topic, how),
        9 => {
            let word = WORDS[usize::from(detail) % WORDS.len()];
            let content = json!({ "membership": word });
            world.send(
                room,
                far,
                "m.room.member",
                Some(local.as_str()),
                content,
                how,
            )
        }
        10 => {
            let word = VISIBILITIES[usize::from(detail) % VISIBILITIES.len()];
            let content = json!({ "history_visibility": word });
            world.send(
                room,
                far,
                "m.room.history_visibility",
                Some(""),
                content,
                how,
            )
        }
        _ => {
            let kind = KINDS[usize::from(detail) % KINDS.len()];
            world.send(room, far, kind, Some(""), topic, how)
        }
    };
}

/// One step: what it does, to whom, where, and a detail.
pub type Step = (u8, u8, u8, u8);

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
        match what % 12 {
            0 | 1 => drop(world.say(&room, &far, "hello")),
            2 => {
                let topic = json!({"topic": index});
                let kind = KINDS[*detail as usize % KINDS.len()];
                world.state(&room, &far, kind, "", topic);
            }
            3 => {
                let word = VISIBILITIES[*detail as usize % VISIBILITIES.len()];
                let word = json!({"history_visibility": word});
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
            7 => {
                // Between any two records, also the parts of one change.
                world.fold_some(*detail as usize % 8);
                world.restart(detail % 2 == 0);
            }
            _ => {
                // For the same reason as above, as a resolution may do the same.
                for client in &mut clients {
                    client.sync(&world, limit, lazy).await;
                }
                fork(
                    &mut world,
                    &room,
                    (&far, &users[who]),
                    (index, *what, *detail),
                );
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
