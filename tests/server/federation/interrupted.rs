//! A join that is interrupted: by a kill of the server at several stages, after
//! which it is there or not and can be done again, or by a client that goes away,
//! which stops nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use engram::crypto::ServerKey;
use engram::matrix::canonical_json::to_bytes;
use futures_util::{StreamExt, stream};
use http::StatusCode;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Neighbourhood;
use super::elsewhere::join_by;
use super::fake::{FAR, Fake, answer, own_keys};
use super::made_up::{MadeUp, ROOM};
use crate::harness::{Api, Server, escape};

/// Several batches of what is checked at a time.
const MEMBERS: usize = 1_500;
/// Parts in which the answer is sent.
const PARTS: usize = 20;

/// Where the resident stops for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    BeforeTheTemplate,
    /// After so many parts of the answer.
    After(usize),
    Never,
}

/// A resident that stops in the middle.
#[derive(Clone)]
struct Resident {
    room: Arc<(String, String)>,
    stop: Arc<Mutex<Stop>>,
    /// Whether it has come to where it stops.
    stopped: watch::Sender<bool>,
    /// Whether it may go on.
    goes_on: watch::Sender<bool>,
}

impl Resident {
    fn new() -> Resident {
        let room = MadeUp::with_members(MEMBERS);
        Resident {
            room: Arc::new((room.template().to_string(), room.joined())),
            stop: Arc::new(Mutex::new(Stop::Never)),
            stopped: watch::Sender::new(false),
            goes_on: watch::Sender::new(false),
        }
    }

    fn stop_at(&self, stop: Stop) {
        *self.stop.lock() = stop;
        self.stopped.send_replace(false);
        self.goes_on.send_replace(false);
    }

    async fn has_stopped(&self) {
        let mut stopped = self.stopped.subscribe();
        stopped.wait_for(|stopped| *stopped).await.unwrap();
    }

    /// Stops here if that is where it is to be.
    async fn pass(&self, place: Stop) {
        if *self.stop.lock() == place {
            self.stopped.send_replace(true);
            let mut goes_on = self.goes_on.subscribe();
            goes_on.wait_for(|goes_on| *goes_on).await.unwrap();
        }
    }

    async fn answer(self, request: Request) -> Response {
        let path = request.uri().path();
        if path == "/_matrix/key/v2/server" {
            let keys = own_keys("c.test", &ServerKey::from_seed([3; 32], "fake"), FAR);
            return answer(StatusCode::OK, to_bytes(&keys));
        }
        if path.contains("/make_join/") {
            self.pass(Stop::BeforeTheTemplate).await;
            return answer(StatusCode::OK, self.room.0.clone().into_bytes());
        }
        if !path.contains("/send_join/") {
            return answer(StatusCode::OK, b"{}".to_vec());
        }
        let bytes = Bytes::from(self.room.1.clone());
        let size = bytes.len().div_ceil(PARTS);
        let parts = stream::iter(0..PARTS).then(move |part| {
            let (this, bytes) = (self.clone(), bytes.clone());
            async move {
                this.pass(Stop::After(part)).await;
                let from = part * size;
                Ok::<_, std::io::Error>(bytes.slice(from..bytes.len().min(from + size)))
            }
        });
        Response::new(Body::from_stream(parts))
    }
}

struct Scene {
    b: Server,
    bob: Api,
    resident: Resident,
    _c: Fake,
}

async fn scene() -> Scene {
    let neighbourhood = Neighbourhood::new();
    let b = neighbourhood.builder("b.test").start().await;
    let bob = b.register("bob").await;
    let resident = Resident::new();
    let told = resident.clone();
    let c = Fake::start(&neighbourhood, "c.test", move |request: Request| {
        told.clone().answer(request)
    });
    Scene {
        b,
        bob,
        resident,
        _c: c.await,
    }
}

async fn joined_rooms(bob: &Api) -> Value {
    let rooms = bob.get("/_matrix/client/v3/joined_rooms").await.ok();
    rooms["joined_rooms"].clone()
}

/// The room is there as a whole, and can be used.
async fn is_whole(bob: &Api) {
    let path = format!("/_matrix/client/v3/rooms/{}/joined_members", escape(ROOM));
    let members = bob.get(&path).await.ok();
    assert_eq!(members["joined"].as_object().unwrap().len(), MEMBERS + 2);
    assert_eq!(joined_rooms(bob).await, json!([ROOM]));
    bob.send_text(ROOM, "hello").await;
}

/// Kills the server once the resident has stopped or the log says something, and
/// answers who asks it after the restart.
async fn killed(scene: &mut Scene, stop: Stop, said: Option<&str>) -> Api {
    let Scene {
        b, bob, resident, ..
    } = scene;
    resident.stop_at(stop);
    let path = format!("/_matrix/client/v3/join/{}?via=c.test", escape(ROOM));
    let joining = bob.try_request(http::Method::POST, &path, Some(json!({})));
    let stage = async {
        match said {
            None => resident.has_stopped().await,
            // Looked for often, so that little happens behind it.
            Some(said) => {
                while !b.output().contains(said) {
                    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = stage => {}
        answered = joining => {
            // It may be faster than we look.
            assert!(said.is_some(), "{stop:?}: {answered:?}");
        }
    }
    b.kill();
    resident.stop_at(Stop::Never);
    b.start().await;
    let mut again = b.api();
    again.token = bob.token.clone();
    again
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_was_killed_is_there_or_can_be_done_again() {
    let stages = [
        (Stop::BeforeTheTemplate, None),
        (Stop::After(0), None),
        (Stop::After(7), None),
        (Stop::After(PARTS - 1), None),
        (Stop::Never, Some("room's state has come")),
    ];
    for (stop, said) in stages {
        let mut scene = scene().await;
        let bob = killed(&mut scene, stop, said).await;
        let rooms = joined_rooms(&bob).await;
        let synced = bob.sync("").await;
        let is_there = rooms == json!([ROOM]);
        assert!(is_there || rooms == json!([]), "{stop:?}: {rooms}");
        assert_eq!(
            synced["rooms"]["join"].get(ROOM).is_some(),
            is_there,
            "{stop:?}"
        );
        if is_there {
            is_whole(&bob).await;
        } else {
            // What came of the room before shows nothing of it to anybody.
            let path = format!("/_matrix/client/v3/rooms/{}/state", escape(ROOM));
            let state = bob.get(&path).await;
            assert_eq!(state.status, 403, "{stop:?}: {}", state.text);
            join_by(&bob, ROOM, "c.test").await.ok();
            is_whole(&bob).await;
        }
    }
}

/// Killed again and again, and joined in the end.
#[tokio::test(flavor = "multi_thread")]
async fn kills_at_every_stage_of_one_join_do_not_add_up() {
    let mut scene = scene().await;
    for part in [3, 9, 15] {
        scene.bob = killed(&mut scene, Stop::After(part), None).await;
        assert_eq!(joined_rooms(&scene.bob).await, json!([]));
    }
    join_by(&scene.bob, ROOM, "c.test").await.ok();
    is_whole(&scene.bob).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_does_not_stop_its_join() {
    let Scene { bob, resident, .. } = &scene().await;
    let since = bob.sync("").await["next_batch"].clone();
    resident.stop_at(Stop::After(7));
    let path = format!("/_matrix/client/v3/join/{}?via=c.test", escape(ROOM));
    tokio::select! {
        answered = bob.post(&path, json!({})) => panic!("{}", answered.text),
        () = resident.has_stopped() => {}
    }
    // Whoever asks again waits for the same.
    resident.goes_on.send_replace(true);
    join_by(bob, ROOM, "c.test").await.ok();
    is_whole(bob).await;
    let query = format!("since={}&timeout=0", since.as_str().unwrap());
    assert!(bob.sync(&query).await["rooms"]["join"].get(ROOM).is_some());
}

/// Nobody waits for the join when it ends: the next one is another all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_nobody_waited_for_is_not_told_again() {
    let Scene { bob, resident, .. } = &scene().await;
    resident.stop_at(Stop::After(7));
    let path = format!("/_matrix/client/v3/join/{}?via=c.test", escape(ROOM));
    tokio::select! {
        answered = bob.post(&path, json!({})) => panic!("{}", answered.text),
        () = resident.has_stopped() => {}
    }
    resident.goes_on.send_replace(true);
    let begun = Instant::now();
    while joined_rooms(bob).await != json!([ROOM]) {
        assert!(begun.elapsed() < Duration::from_secs(60), "never joined");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let leave = format!("/_matrix/client/v3/rooms/{}/leave", escape(ROOM));
    bob.post(&leave, json!({})).await.ok();
    assert_eq!(joined_rooms(bob).await, json!([]));
    join_by(bob, ROOM, "c.test").await.ok();
    assert_eq!(joined_rooms(bob).await, json!([ROOM]));
}
