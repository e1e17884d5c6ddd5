//! Who is told what of a room (security test S2): every endpoint of the client
//! API that tells of rooms, walked through by everybody who could look at rooms
//! of every history visibility, and held against a model that is written from
//! the specification's text.
//!
//! `endpoints.tsv` says which check looks at which path. A new endpoint that is
//! not listed there fails a test.

mod cell;
mod leaving;
mod model;
mod of_rooms;
mod of_users;
mod redacted;
mod servers;
mod story;
mod table;
mod wrong_room;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use self::cell::{Cell, Sight, Words};
use self::of_users::{Before, User};
use self::story::{ACTORS, Cast, Room, Visibilities};
use crate::harness::{Api, Server, escape};

const SEARCH: &str = "/_matrix/client/v3/search";
/// Search follows what is said as it can; later than this it has failed.
const SEARCH_MAX: Duration = Duration::from_secs(20);

/// Each visibility alone, what stands for none, and changes between them.
fn visibilities() -> Vec<Visibilities> {
    let visibility = |value: &str| json!({ "history_visibility": value });
    let mut all: Vec<Visibilities> = [json!({}), visibility("org.example.secret")]
        .into_iter()
        .map(|at_first| Visibilities {
            at_first,
            later: None,
        })
        .collect();
    let names = ["world_readable", "shared", "invited", "joined"];
    for (first, at_first) in names.iter().enumerate() {
        let names = names.into_iter().enumerate();
        let later = names.map(|(then, later)| (then != first).then_some(later));
        all.extend(later.map(|later| Visibilities {
            at_first: visibility(at_first),
            later,
        }));
    }
    all
}

/// All rooms with all who look at them.
struct World {
    cast: Cast,
    rooms: Vec<Room>,
    words: Words,
    before: BTreeMap<&'static str, Before>,
}

async fn world(server: &Server) -> World {
    let cast = story::cast(server).await;
    let mut before = BTreeMap::new();
    for (name, api) in &cast {
        before.insert(*name, Before::of(name, api).await);
    }
    let cast = Arc::new(cast);
    let told: Vec<_> = visibilities()
        .into_iter()
        .enumerate()
        .map(|(number, visibilities)| {
            let cast = cast.clone();
            tokio::spawn(async move { story::tell(&cast, number, &visibilities).await })
        })
        .collect();
    let mut rooms = Vec::new();
    for room in told {
        rooms.push(room.await.expect("the story is told"));
    }
    if table::has_path(SEARCH) {
        for room in &rooms {
            search_follows(&cast["creator"], room).await;
        }
    }
    World {
        words: Words::of(&rooms),
        cast: Arc::into_inner(cast).expect("all stories are told"),
        rooms,
        before,
    }
}

/// Waits until search, which follows as it can, has found all that was said.
async fn search_follows(creator: &Api, room: &Room) {
    let events = room.history.events.iter();
    let said = events
        .filter(|event| event.kind == "m.room.message")
        .count();
    let begun = Instant::now();
    loop {
        let body = cell::search_in(&room.id, story::COMMON_WORD);
        let answer = creator.post(SEARCH, body).await.ok();
        let results = &answer["search_categories"]["room_events"]["results"];
        if results.as_array().is_some_and(|found| found.len() == said) {
            return;
        }
        assert!(begun.elapsed() < SEARCH_MAX, "search does not follow");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Walks one user through all endpoints; gives what is wrong.
async fn walk(world: &World, actor: &'static str) -> Vec<String> {
    let api = &world.cast[actor];
    let sights: Vec<Sight> = world
        .rooms
        .iter()
        .map(|room| Sight::of(room, actor, &api.user_id))
        .collect();
    let rooms = world.rooms.iter().zip(&sights).enumerate();
    let mut cells: Vec<Cell<'_>> = rooms
        .map(|(room_index, (room, sight))| Cell {
            room,
            room_index,
            actor,
            api,
            sight,
            words: &world.words,
            faults: Vec::new(),
        })
        .collect();
    let checks = table::checks().into_iter();
    for check in checks.filter(|check| !check.starts_with(servers::PREFIX)) {
        let mut user = User {
            cells: &mut cells,
            actor,
            api,
            before: &world.before[actor],
            cast: &world.cast,
        };
        if of_users::check(check, &mut user).await {
            continue;
        }
        for cell in &mut cells {
            let exists = of_rooms::check(check, cell).await;
            assert!(exists, "endpoints.tsv names the check {check}");
        }
    }
    cells.into_iter().flat_map(|cell| cell.faults).collect()
}

/// Asks all paths that are said to tell nothing of rooms about every room.
async fn ask_the_silent(world: &World) -> Vec<String> {
    let api = &world.cast["creator"];
    let mut faults = Vec::new();
    for room in &world.rooms {
        for path in table::silent_paths() {
            let answer = api.get(&fill(path, room, &api.user_id)).await;
            let named = world.words.named_in(&answer.body);
            if !named.is_empty() {
                faults.push(format!("{path} tells of {named:?}, see endpoints.tsv"));
            }
        }
    }
    faults
}

/// A path with its parameters filled in.
fn fill(path: &str, room: &Room, user: &str) -> String {
    path.replace("{userId}", &escape(user))
        .replace("{roomId}", &escape(&room.id))
        .replace("{roomIdOrAlias}", &escape(&room.id))
        .replace("{roomAlias}", &escape(&room.alias))
        .replace("{eventId}", &escape(&room.root))
        .replace("{eventType}", "m.room.message")
        .replace("{type}", "m.direct")
        .replace("{keyName}", "displayname")
        .replace(['{', '}'], "")
}

/// Without a token only what rooms look like from outside is told, and of these
/// rooms only of those that are world readable.
async fn ask_without_a_token(server: &Server, world: &World) -> Vec<String> {
    let nobody = server.api();
    let mut faults = Vec::new();
    for (index, room) in world.rooms.iter().enumerate() {
        let current = room.history.state(room.history.events.len());
        for path in engram::api::client::routes::routes().paths {
            let user = &world.cast["creator"].user_id;
            let answer = nobody.get(&fill(path, room, user)).await;
            for named in world.words.named_in(&answer.body) {
                let kind = &*room.history.events[named.event].kind;
                let is_shown = ["m.room.name", "m.room.topic"].contains(&kind);
                let is_current = named.room == index && current.contains(&named.event);
                if !(room.history.is_world_readable() && is_shown && is_current) {
                    faults.push(format!("{path} tells nobody of {named:?} in {}", room.name));
                }
            }
        }
    }
    faults
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_everybody_is_told_what_the_rules_let_them_see() {
    let server = Server::builder()
        .set("REGISTRATION__GUESTS", true)
        .set("PRESENCE__ENABLED", true)
        .start()
        .await;
    let world = Arc::new(world(&server).await);
    let walks: Vec<_> = ACTORS
        .into_iter()
        .map(|actor| {
            let world = world.clone();
            tokio::spawn(async move { walk(&world, actor).await })
        })
        .collect();
    let mut faults = Vec::new();
    for walk in walks {
        faults.extend(walk.await.expect("the walk ends"));
    }
    faults.extend(ask_the_silent(&world).await);
    faults.extend(ask_without_a_token(&server, &world).await);
    assert!(faults.is_empty(), "{}", summary(&faults));
}

/// One fault of each kind, with how many there are: one mistake makes many.
fn summary(faults: &[String]) -> String {
    let mut kinds: BTreeMap<String, (usize, &str)> = BTreeMap::new();
    for fault in faults {
        let (_, what) = fault.split_once(": ").unwrap_or(("", fault));
        let kind = what.split(|letter: char| letter.is_ascii_digit()).next();
        let (count, _) = kinds
            .entry(kind.unwrap_or_default().to_owned())
            .or_insert((0, fault));
        *count += 1;
    }
    let lines = kinds.values();
    let lines = lines.map(|(count, example)| format!("{count} times: {example}"));
    let lines: Vec<String> = lines.collect();
    format!("{} faults\n{}", faults.len(), lines.join("\n"))
}
