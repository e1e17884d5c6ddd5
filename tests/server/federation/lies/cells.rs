//! One lie about one request: what makes us ask, what the lie leads to, and what
//! it must not have changed.

use std::time::{Duration, Instant};

use engram::matrix::RoomVersion;
use engram::matrix::canonical_json::CanonicalJsonValue;
use engram::matrix::signing::hash_and_sign_event;
use reqwest::Method;
use serde_json::{Value, json};

use super::super::fake::object;
use super::super::guest::{Guest, transaction};
use super::super::receiving::public_room;
use super::super::visitor::membership;
use super::fetches::Fetch;
use super::front::Way;
use super::peer::{Lie, Peer, Place, policy_key};
use super::stage::{ANSWER_SECONDS, Stage};
use super::transport::Transport;
use crate::harness::{Answer, escape};

/// A lie, and how it is told.
#[derive(Clone, Copy, Debug)]
pub enum How {
    /// Not at all: what the lies are measured by.
    Truth,
    /// In the answer.
    Told(Lie),
    /// By the connection.
    Connection(Way),
    /// By a certificate for another name.
    Impostor,
}

impl How {
    pub fn name(&self) -> String {
        match self {
            How::Truth => "Truth".to_owned(),
            How::Told(lie) => lie.name(),
            How::Connection(way) => format!("{way:?}"),
            How::Impostor => "Impostor".to_owned(),
        }
    }

    fn is_usable(&self) -> bool {
        match self {
            How::Truth => true,
            How::Told(lie) => lie.is_usable(),
            How::Connection(_) | How::Impostor => false,
        }
    }
}

/// What whoever made us ask was told.
struct Outcome {
    status: u16,
    body: Value,
    /// What went before, which does not count.
    began: Instant,
}

/// The time in which a request must be given up that asks one server for one thing
/// after another, each within [`ANSWER_SECONDS`]: twice that, and what a debug
/// build on a busy machine takes.
fn ends_within(steps: u64) -> Duration {
    Duration::from_secs(2 * steps * ANSWER_SECONDS + 15)
}

/// Tells one lie.
pub async fn tell(stage: &Stage, fetch: Fetch, how: How, number: usize) {
    let what = format!("{fetch:?} x {}", how.name());
    let peer = match how {
        How::Impostor => Peer::impostor(&stage.common).await,
        How::Truth | How::Told(_) | How::Connection(_) => Peer::start(&stage.common).await,
    };
    let cell = Cell {
        stage,
        peer: &peer,
        fetch,
        how,
        number,
    };
    let (outcome, steps) = cell.provoke().await;
    let took = outcome.began.elapsed();
    assert!(took < ends_within(steps), "{what} took {took:?}");
    cell.judge(&what, &outcome);
    assert_eq!(peer.strange(), [""; 0], "{what}");
    stage.is_healthy().await;
    stage.keep(peer.front);
}

struct Cell<'a> {
    stage: &'a Stage,
    peer: &'a Peer,
    fetch: Fetch,
    how: How,
    /// One that is another for each lie.
    number: usize,
}

impl Cell<'_> {
    /// The version of the room that is lied about. Lies are made in the form of
    /// these: events are cited by their ids alone.
    fn version(&self) -> RoomVersion {
        let versions = RoomVersion::all().filter(|version| {
            let is_made_here = matches!(
                self.fetch,
                Fetch::MissingEvents
                    | Fetch::StateIds
                    | Fetch::State
                    | Fetch::Event
                    | Fetch::EventAuth
            );
            !version.has_event_id_field() && (is_made_here || !version.room_id_is_create_hash())
        });
        let versions: Vec<RoomVersion> = versions.collect();
        versions[self.number % versions.len()]
    }

    fn judge(&self, what: &str, outcome: &Outcome) {
        let Outcome { status, body, .. } = outcome;
        let was_told = match self.how {
            How::Told(_) if self.fetch == Fetch::Notary => self.stage.notary.asked(self.fetch) > 0,
            How::Told(_) => self.peer.asked(self.fetch) > 0,
            How::Truth | How::Connection(_) | How::Impostor => true,
        };
        assert!(was_told, "{what} was not told: {status} {body}");
        let may_work = self.how.is_usable() || self.fetch.is_done_without();
        let refused = match self.fetch {
            Fetch::Keys | Fetch::Notary => *status == 401,
            // Which is ours to say for how long.
            _ if *status == 429 => body["retry_after_ms"]
                .as_u64()
                .is_some_and(|wait| wait < 60_000),
            _ => matches!(*status, 400 | 403 | 404 | 502),
        };
        let is_right = match self.how {
            How::Truth => *status == 200,
            _ => refused || (may_work && *status == 200),
        };
        assert!(is_right, "{what} ends with {status} {body}");
        // Of what does not pass its checks nothing is signed.
        if matches!(
            self.fetch,
            Fetch::MakeJoin | Fetch::MakeKnock | Fetch::MakeLeave
        ) && !self.how.is_usable()
        {
            let sent = [Fetch::SendJoin, Fetch::SendKnock, Fetch::SendLeave];
            assert!(
                sent.iter().all(|sent| self.peer.asked(*sent) == 0),
                "{what} was signed"
            );
        }
        // What another server says of a token or an account is not of ours.
        let errcode = body["errcode"].as_str().unwrap_or("M_UNKNOWN");
        let codes = [
            "M_UNKNOWN",
            "M_NOT_FOUND",
            "M_FORBIDDEN",
            "M_UNAUTHORIZED",
            "M_LIMIT_EXCEEDED",
            "M_UNSUPPORTED_ROOM_VERSION",
            "M_INCOMPATIBLE_ROOM_VERSION",
        ];
        assert!(codes.contains(&errcode), "{what} ends with {status} {body}");
    }

    /// From here on the lie is told.
    fn begin(&self) -> Instant {
        let name = self.peer.name().to_owned();
        // A notary that knows the keys would help.
        if self.fetch == Fetch::Keys {
            let nothing = Lie::Transport(Transport::NotFound);
            self.stage
                .common
                .of_notary
                .lock()
                .insert(name.clone(), nothing);
        }
        match self.how {
            How::Told(lie) if self.fetch == Fetch::Notary => {
                self.stage.common.of_notary.lock().insert(name, lie);
            }
            How::Told(lie) => self.peer.lie(self.fetch, lie),
            How::Connection(way) => self.peer.front.set(way),
            How::Truth | How::Impostor => {}
        }
        Instant::now()
    }

    /// Makes us ask; and how many questions there are one after the other.
    async fn provoke(&self) -> (Outcome, u64) {
        match self.fetch {
            Fetch::Keys => (self.asks().await, 3),
            Fetch::Notary => {
                self.peer.say(Fetch::Keys, 404, json!({}));
                (self.asks().await, 3)
            }
            Fetch::Version => (self.is_checked().await, 3),
            Fetch::MakeJoin | Fetch::SendJoin => (self.join("join").await, 2),
            Fetch::OldSendJoin => (self.join("join").await, 3),
            Fetch::MakeKnock | Fetch::SendKnock => (self.join("knock").await, 2),
            Fetch::MakeLeave | Fetch::SendLeave | Fetch::OldSendLeave => (self.leave().await, 3),
            Fetch::Invite | Fetch::OldInvite => (self.invite().await, 2),
            Fetch::MissingEvents
            | Fetch::StateIds
            | Fetch::State
            | Fetch::Event
            | Fetch::EventAuth => (self.fills_a_gap().await, 12),
            Fetch::Backfill => (self.reads_back().await, 3),
            Fetch::Timestamp => (self.jumps().await, 3),
            Fetch::Profile | Fetch::Directory | Fetch::PublicRooms | Fetch::Hierarchy => {
                (self.looks_up().await, 1)
            }
            Fetch::Send => (self.talks().await, 2),
            Fetch::PolicySign => (self.is_judged().await, 1),
        }
    }

    /// The peer asks us something, and we have to know its keys.
    async fn asks(&self) -> Outcome {
        let began = self.begin();
        let user = escape(&self.stage.carl.user_id);
        let uri = format!("/_matrix/federation/v1/query/profile?user_id={user}");
        let (status, body) = self.peer.fake.get("a.test", &uri).await;
        Outcome {
            status,
            body,
            began,
        }
    }

    /// The operator has a look at the peer.
    async fn is_checked(&self) -> Outcome {
        let began = self.begin();
        let mut command = self
            .stage
            .a
            .command(&["federation", "check", self.peer.name()]);
        let ended = tokio::task::spawn_blocking(move || command.status());
        let code = ended.await.unwrap().unwrap().code();
        let is_fine = code == Some(0);
        assert!(
            is_fine || (code == Some(1) && !matches!(self.how, How::Truth)),
            "{code:?}"
        );
        Outcome {
            status: 200,
            body: json!({}),
            began,
        }
    }

    /// A room of the peer's, and what it says to who wants to come in or go.
    fn their_room(&self, user: &str) -> Guest<'_> {
        let peer = self.peer;
        let library = peer.told.library.clone();
        let mut room = Guest::found(&peer.fake, library, self.version(), "mallory");
        let first = room.text("theirs 0");
        let sent_at = &first.json["origin_server_ts"];
        let closest = json!({ "event_id": first.id, "origin_server_ts": sent_at });
        peer.say(Fetch::Timestamp, 200, closest);
        for number in 1..5 {
            room.text(&format!("theirs {number}"));
        }
        let tip = room.text("the last");
        for (fetch, membership) in [
            (Fetch::MakeJoin, "join"),
            (Fetch::MakeKnock, "knock"),
            (Fetch::MakeLeave, "leave"),
        ] {
            peer.say(fetch, 200, template(&room, user, membership, &tip.id));
        }
        let joined = peer.told.library.joined(&tip.id);
        peer.say(Fetch::SendJoin, 200, joined.clone());
        peer.say(Fetch::OldSendJoin, 200, json!([200, joined]));
        *peer.told.place.lock() = Some(place(&room));
        room
    }

    async fn join(&self, what: &str) -> Outcome {
        let carl = &self.stage.carl;
        let room = self.their_room(&carl.user_id).room;
        if self.fetch == Fetch::OldSendJoin {
            let unknown = json!({ "errcode": "M_UNRECOGNIZED" });
            self.peer.say(Fetch::SendJoin, 404, unknown);
        }
        let began = self.begin();
        let path = format!(
            "/_matrix/client/v3/{what}/{}?via={}",
            escape(&room),
            self.peer.name()
        );
        let outcome = Outcome::of(carl.post(&path, json!({})).await, began);
        let is_in = membership(carl, &room, &carl.user_id).await;
        let wanted = (outcome.status == 200 && what == "join").then(|| "join".to_owned());
        assert_eq!(is_in, wanted, "{}", self.how.name());
        outcome
    }

    /// The peer invites our user, who does not want to.
    async fn leave(&self) -> Outcome {
        let carl = &self.stage.carl;
        let room = self.their_room(&carl.user_id);
        self.invited(&room).await;
        if self.fetch == Fetch::OldSendLeave {
            let unknown = json!({ "errcode": "M_UNRECOGNIZED" });
            self.peer.say(Fetch::SendLeave, 404, unknown);
        }
        let began = self.begin();
        let path = format!("/_matrix/client/v3/rooms/{}/leave", escape(&room.room));
        let outcome = Outcome::of(carl.post(&path, json!({})).await, began);
        assert_eq!(
            outcome.status, 200,
            "whoever rejects an invite is rid of it"
        );
        outcome
    }

    async fn invited(&self, room: &Guest<'_>) {
        let carl = &self.stage.carl;
        let mut event = object(
            &template(
                room,
                &carl.user_id,
                "invite",
                room.tips[0].event_id.as_str(),
            )["event"],
        );
        event.insert(
            "sender".to_owned(),
            CanonicalJsonValue::String(room.user.clone()),
        );
        let told = &self.peer.told;
        hash_and_sign_event(room.version, &mut event, &told.name, &told.key);
        let pdu = engram::matrix::event::Pdu::from_object(room.version, event.clone()).unwrap();
        let uri = format!(
            "/_matrix/federation/v2/invite/{}/{}",
            escape(&room.room),
            escape(pdu.event_id.as_str())
        );
        let version = room.version.as_str();
        let mut body = object(&json!({ "room_version": version, "invite_room_state": [] }));
        body.insert("event".to_owned(), CanonicalJsonValue::Object(event));
        let (status, answer) = self
            .peer
            .fake
            .send("a.test", Method::PUT, &uri, &body)
            .await;
        assert_eq!(status, 200, "{answer}");
        self.stage.common.watch.look(&uri, &answer);
    }

    /// Our user invites one of the peer's.
    async fn invite(&self) -> Outcome {
        let (carl, peer) = (&self.stage.carl, self.peer);
        let version = match self.fetch {
            Fetch::OldInvite => "2",
            _ => "11",
        };
        if self.fetch == Fetch::OldInvite {
            peer.say(Fetch::Invite, 404, json!({ "errcode": "M_UNRECOGNIZED" }));
        }
        let room = public_room(carl, version).await;
        let (began, user) = (self.begin(), peer.user("mallory"));
        let path = format!("/_matrix/client/v3/rooms/{}/invite", escape(&room));
        let answer = carl.post(&path, json!({ "user_id": user })).await;
        let outcome = Outcome::of(answer, began);
        let invited = (outcome.status == 200).then(|| "invite".to_owned());
        assert_eq!(
            membership(carl, &room, &user).await,
            invited,
            "{}",
            self.how.name()
        );
        outcome
    }

    /// The peer sends an event of whose past we know little.
    async fn fills_a_gap(&self) -> Outcome {
        let (carl, peer) = (&self.stage.carl, self.peer);
        let room = public_room(carl, self.version().as_str()).await;
        let mut guest = Guest::look(&peer.fake, carl, &room, "mallory").await;
        guest.library = peer.told.library.clone();
        let join = guest.member("join");
        guest.sent(&[&join]).await;
        *peer.told.place.lock() = Some(place(&guest));
        let user = guest.user.clone();
        let renamed = json!({ "membership": "join", "displayname": "Renamed" });
        match self.fetch {
            Fetch::EventAuth => {
                guest.event("m.room.member", Some(&user), renamed);
                guest.go_on_from(&join);
            }
            Fetch::State => {
                for number in 0..120 {
                    let content = json!({ "n": number });
                    guest.event("m.test", Some(&number.to_string()), content);
                }
            }
            _ => {
                guest.event("m.room.member", Some(&user), renamed);
                for number in 0..3 {
                    guest.text(&number.to_string());
                }
            }
        }
        if !matches!(self.fetch, Fetch::MissingEvents | Fetch::EventAuth) {
            peer.say(Fetch::MissingEvents, 200, json!({ "events": [] }));
        }
        let last = guest.text("the end");
        let began = self.begin();
        let pdus = json!([last.json]);
        let (status, body) = transaction(&peer.fake, pdus, json!([])).await;
        assert_eq!(status, 200, "{body}");
        let result = &body["pdus"][&last.id];
        let is_taken = *result == json!({});
        let may_be_refused = !matches!(self.how, How::Truth);
        assert!(
            is_taken || (may_be_refused && result["error"].is_string()),
            "{body}"
        );
        // What is told besides has not come in.
        let path = format!("/_matrix/client/v3/rooms/{}/state", escape(&room));
        let state = carl.get(&path).await.ok().to_string();
        assert!(!state.contains("lied"), "{}: {state}", self.how.name());
        carl.send_text(&room, "the room goes on").await;
        Outcome {
            status,
            body,
            began,
        }
    }

    /// Our user is in a room of the peer's.
    async fn joined(&self) -> String {
        let carl = &self.stage.carl;
        let room = self.their_room(&carl.user_id).room;
        let path = format!(
            "/_matrix/client/v3/join/{}?via={}",
            escape(&room),
            self.peer.name()
        );
        carl.post(&path, json!({})).await.ok();
        room
    }

    /// Our user jumps to a time before they came.
    async fn jumps(&self) -> Outcome {
        let (carl, room) = (&self.stage.carl, self.joined().await);
        let truth = self.peer.truth(Fetch::Timestamp);
        let began = self.begin();
        let path = format!(
            "/_matrix/client/v1/rooms/{}/timestamp_to_event?dir=f&ts={}",
            escape(&room),
            truth["origin_server_ts"]
        );
        let outcome = Outcome::of(carl.get(&path).await, began);
        let is_found = outcome.body["event_id"] == truth["event_id"];
        assert!(
            is_found || !matches!(self.how, How::Truth),
            "{}",
            outcome.body
        );
        carl.send_text(&room, "the room goes on").await;
        outcome
    }

    /// Our user reads on beyond when they came.
    async fn reads_back(&self) -> Outcome {
        let (carl, room) = (&self.stage.carl, self.joined().await);
        let began = self.begin();
        let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b", escape(&room));
        let page = carl.get(&path).await;
        let text = page.text.clone();
        let outcome = Outcome::of(page, began);
        let is_read = text.contains("theirs 4");
        assert!(is_read || !matches!(self.how, How::Truth), "{text}");
        assert!(!text.contains("lied"), "{}: {text}", self.how.name());
        carl.send_text(&room, "the room goes on").await;
        outcome
    }

    /// Our user looks up what the peer has.
    async fn looks_up(&self) -> Outcome {
        let (carl, peer) = (&self.stage.carl, self.peer);
        let (name, user) = (peer.name(), escape(&peer.user("mallory")));
        let room = format!("!theirs:{name}");
        let summary = json!({
            "room_id": room, "num_joined_members": 1, "world_readable": true,
            "guest_can_join": false, "join_rule": "public", "name": "Theirs",
        });
        peer.say(Fetch::Profile, 200, json!({ "displayname": "Mallory" }));
        let servers = json!([name]);
        peer.say(
            Fetch::Directory,
            200,
            json!({ "room_id": room, "servers": servers }),
        );
        peer.say(Fetch::PublicRooms, 200, json!({ "chunk": [summary] }));
        let mut whole = summary;
        whole["children_state"] = json!([]);
        let hierarchy = json!({ "room": whole, "children": [], "inaccessible_children": [] });
        peer.say(Fetch::Hierarchy, 200, hierarchy);
        let began = self.begin();
        let client = "/_matrix/client/v3";
        let answer = match self.fetch {
            Fetch::Profile => carl.get(&format!("{client}/profile/{user}")).await,
            Fetch::Directory => {
                let alias = escape(&format!("#theirs:{name}"));
                carl.get(&format!("{client}/directory/room/{alias}")).await
            }
            Fetch::PublicRooms => {
                let path = format!("{client}/publicRooms?server={name}");
                carl.post(&path, json!({})).await
            }
            _ => {
                let path = format!(
                    "/_matrix/client/v1/room_summary/{}?via={name}",
                    escape(&room)
                );
                carl.get(&path).await
            }
        };
        Outcome::of(answer, began)
    }

    /// Our user says something in a room that the peer is in.
    async fn talks(&self) -> Outcome {
        let (carl, peer) = (&self.stage.carl, self.peer);
        let room = public_room(carl, "11").await;
        Guest::enter(&peer.fake, carl, &room, "mallory").await;
        let began = self.begin();
        carl.send_text(&room, "hello").await;
        if matches!(self.how, How::Told(_)) {
            while peer.asked(Fetch::Send) == 0 && began.elapsed() < ends_within(1) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        let answer = carl.send_text(&room, "hello again").await;
        Outcome {
            status: 200,
            body: json!({ "event_id": answer }),
            began,
        }
    }

    /// Our user says something in a room whose policy server the peer is.
    async fn is_judged(&self) -> Outcome {
        let (carl, peer) = (&self.stage.carl, self.peer);
        let room = public_room(carl, "11").await;
        Guest::enter(&peer.fake, carl, &room, "mallory").await;
        let content = json!({
            "via": peer.name(), "public_keys": { "ed25519": policy_key().public_base64() },
        });
        let path = format!("/_matrix/client/v3/rooms/{}", escape(&room));
        carl.put(&format!("{path}/state/m.room.policy/"), content)
            .await
            .ok();
        let began = self.begin();
        let body = json!({ "msgtype": "m.text", "body": "hello" });
        let answer = carl
            .put(&format!("{path}/send/m.room.message/1"), body)
            .await;
        Outcome::of(answer, began)
    }
}

impl Outcome {
    fn of(answer: Answer, began: Instant) -> Outcome {
        Outcome {
            status: answer.status.as_u16(),
            body: answer.body,
            began,
        }
    }
}

fn place(guest: &Guest<'_>) -> Place {
    let tips = guest.tips.iter();
    Place {
        version: guest.version,
        room: guest.room.clone(),
        user: guest.user.clone(),
        tips: tips.map(|tip| tip.event_id.to_string()).collect(),
        cites: [guest.cites("m.room.member"), guest.cites("m.room.topic")],
    }
}

/// What a resident proposes.
fn template(room: &Guest<'_>, user: &str, membership: &str, tip: &str) -> Value {
    json!({
        "room_version": room.version.as_str(),
        "event": {
            "type": "m.room.member", "room_id": room.room, "sender": user, "state_key": user,
            "content": { "membership": membership }, "depth": room.depth,
            "origin_server_ts": 1, "prev_events": [tip],
            "auth_events": room.cited_by_newcomer(),
        },
    })
}
