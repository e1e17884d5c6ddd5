//! Each endpoint that we serve to other servers against each request that none of
//! them should make (security tests S3 and S11): it is refused with the error of
//! the specification, in time, and a healthy room goes on.
//!
//! What bodies of the wrong shape lead to is in `nonsense.rs`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engram::crypto::signing_key::ServerKey;
use engram::matrix::canonical_json::{CanonicalJsonObject, to_bytes};
use engram::matrix::x_matrix::SignedRequest;
use reqwest::Method;
use ruma::{OwnedServerName, ServerName};
use serde_json::{Value, json};

use super::super::fake::{Fake, object};
use super::super::receiving::public_room;
use super::peer::{Lie, Peer};
use super::raw::{self, Slowly};
use super::stage::{BODY_IDLE_SECONDS, BODY_SECONDS, Stage};
use super::transport::Transport;
use crate::harness::escape;

/// No answer takes longer that waits for nobody. Debug builds are slow.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// Paths that anybody may ask.
const PUBLIC: [&str; 7] = [
    "/_matrix/federation/v1/version",
    // Whoever asks has a token of a user.
    "/_matrix/federation/v1/openid/userinfo",
    "/_matrix/key/v2/server",
    "/_matrix/key/v2/server/{keyId}",
    "/_matrix/key/v2/query/{serverName}",
    "/_matrix/key/v2/query/{serverName}/{keyId}",
    "/_matrix/key/v2/query",
];

/// A server that is not there.
const NOBODY: &str = "127.0.0.1:1";

/// A request that is no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Hostile {
    // Who asks?
    Unsigned,
    OtherKey,
    UnknownKeyId,
    OtherDestination,
    OtherUri,
    OtherMethod,
    /// The signature of another request, whose body was another.
    OtherBody,
    InAnothersName,
    InOurName,
    InNobodysName,
    TwoHeaders,
    NoXMatrix,
    // What is asked?
    WrongMethod,
    HalfAnId,
    LongId,
    NulInId,
    ManyParameters,
    NegativeLimit,
    LimitBeyondRange,
    UnknownVersion,
    // About what?
    UnknownRoom,
    RoomOfOthers,
    RoomThatExcludesIt,
    // In what body?
    NotJson,
    NotUtf8,
    NoObject,
    Deep,
    ManyKeys,
    Huge,
    Drip,
    Standstill,
    Endless,
    CutShort,
}

const ALL: [Hostile; 33] = {
    use Hostile::*;
    [
        Unsigned,
        OtherKey,
        UnknownKeyId,
        OtherDestination,
        OtherUri,
        OtherMethod,
        OtherBody,
        InAnothersName,
        InOurName,
        InNobodysName,
        TwoHeaders,
        NoXMatrix,
        WrongMethod,
        HalfAnId,
        LongId,
        NulInId,
        ManyParameters,
        NegativeLimit,
        LimitBeyondRange,
        UnknownVersion,
        UnknownRoom,
        RoomOfOthers,
        RoomThatExcludesIt,
        NotJson,
        NotUtf8,
        NoObject,
        Deep,
        ManyKeys,
        Huge,
        Drip,
        Standstill,
        Endless,
        CutShort,
    ]
};

#[derive(Clone, Debug)]
struct Endpoint {
    method: Method,
    path: &'static str,
}

impl Endpoint {
    /// All of them, from the table of the routes.
    fn all() -> Vec<Endpoint> {
        let paths = engram::api::client::routes::routes().paths.into_iter();
        let paths = paths.filter(|path| {
            path.starts_with("/_matrix/federation/") || path.starts_with("/_matrix/key/")
        });
        let mut endpoints = Vec::new();
        for path in paths {
            let word = path.split('/').nth(4).unwrap_or_default();
            let method = match word {
                "get_missing_events" | "publicRooms" => Method::POST,
                "query" if path.ends_with("/key/v2/query") => Method::POST,
                "invite" | "exchange_third_party_invite" | "send" => Method::PUT,
                _ if word.starts_with("send_") => Method::PUT,
                _ => Method::GET,
            };
            if word == "publicRooms" {
                endpoints.push(Endpoint {
                    method: Method::GET,
                    path,
                });
            }
            endpoints.push(Endpoint { method, path });
        }
        endpoints
    }

    fn is_public(&self) -> bool {
        PUBLIC.contains(&self.path)
    }

    fn has_body(&self) -> bool {
        self.method != Method::GET
    }

    fn has(&self, part: &str) -> bool {
        self.path.contains(part)
    }

    /// Whether a request says something that this one looks at.
    fn takes(&self, hostile: Hostile) -> bool {
        use Hostile::*;
        match hostile {
            Unsigned | OtherKey | UnknownKeyId | OtherDestination | OtherUri | OtherMethod
            | InAnothersName | InOurName | InNobodysName | TwoHeaders | NoXMatrix => {
                !self.is_public()
            }
            OtherBody => !self.is_public() && self.has_body(),
            WrongMethod | ManyParameters => true,
            HalfAnId | LongId | NulInId => self.has("{"),
            NegativeLimit | LimitBeyondRange => self.method == Method::GET && !self.is_public(),
            UnknownVersion => self.has("make_join") || self.has("make_knock"),
            // To a room that we are not in users are invited all the time.
            UnknownRoom => self.has("{roomId}") && !self.has("/invite/"),
            RoomOfOthers | RoomThatExcludesIt => {
                let is_asked = self.has("{roomId}") && !self.has("/invite/");
                // Whoever knocks, joins or leaves is not there before.
                is_asked && (hostile == RoomThatExcludesIt || self.is_for_members())
            }
            NotJson | NotUtf8 | NoObject | Deep | ManyKeys | Huge | Drip | Standstill | Endless
            | CutShort => self.has_body(),
        }
    }

    fn is_for_members(&self) -> bool {
        !self.has("make_") && !self.has("send_") && !self.has("hierarchy")
    }

    /// The path with what it names; and what a query must have.
    fn uri(&self, room: &str, event: &str, user: &str) -> String {
        let path = self
            .path
            .replace("{roomId}", &escape(room))
            .replace("{eventId}", &escape(event))
            .replace("{userId}", &escape(user))
            .replace("{txnId}", "a-transaction")
            .replace("{serverName}", "b.test")
            .replace("{keyId}", "ed25519%3Aa");
        let query = match self.path.split('/').nth(4).unwrap_or_default() {
            "state" | "state_ids" => format!("?event_id={}", escape(event)),
            "backfill" => format!("?v={}&limit=10", escape(event)),
            "timestamp_to_event" => "?ts=1&dir=f".to_owned(),
            "make_join" | "make_knock" => "?ver=11".to_owned(),
            "query" if self.has("profile") => format!("?user_id={}", escape("@carl:a.test")),
            "query" if self.has("directory") => "?room_alias=%23x%3Aa.test".to_owned(),
            _ => String::new(),
        };
        path + &query
    }
}

/// Who asks, and about what.
struct Asker<'a> {
    stage: &'a Stage,
    fake: &'a Fake,
    address: SocketAddr,
    /// A room that it is not in, one that excludes it, and an event of the first.
    room: String,
    closed: String,
    event: String,
}

/// What was answered: a status, and a code if there was one. No status if the
/// connection ended before.
type Answered = (Option<u16>, String);

impl Asker<'_> {
    fn user(&self) -> String {
        format!("@mallory:{}", self.fake.name)
    }

    /// A body that is of the right form, where one is taken.
    fn body(&self, endpoint: &Endpoint, room: &str) -> CanonicalJsonObject {
        let member = json!({
            "type": "m.room.member", "room_id": room, "sender": self.user(),
            "state_key": self.user(), "content": { "membership": "join" }, "depth": 5,
            "origin_server_ts": 1, "prev_events": [self.event], "auth_events": [self.event],
            "hashes": { "sha256": "x" }, "signatures": {},
        });
        object(&match endpoint.path.split('/').nth(4).unwrap_or_default() {
            "get_missing_events" => json!({ "earliest_events": [], "latest_events": [self.event] }),
            "send" => json!({ "origin": self.fake.name, "origin_server_ts": 1, "pdus": [] }),
            "query" => json!({ "server_keys": { "b.test": {} } }),
            "publicRooms" => json!({}),
            _ => member,
        })
    }

    async fn ask(&self, endpoint: &Endpoint, hostile: Hostile) -> Answered {
        use Hostile::*;
        let room = match hostile {
            UnknownRoom => "!nobodys:b.test",
            RoomThatExcludesIt => &self.closed,
            _ => &self.room,
        };
        let mut uri = endpoint.uri(room, &self.event, &self.user());
        let body = endpoint.has_body().then(|| self.body(endpoint, room));
        let mut method = endpoint.method.clone();
        match hostile {
            WrongMethod => method = Method::DELETE,
            HalfAnId => uri = endpoint.uri("!", "$", "@"),
            LongId => {
                let long = "x".repeat(300);
                uri = endpoint.uri(
                    &format!("!{long}:a"),
                    &format!("${long}"),
                    &format!("@{long}:a"),
                );
            }
            NulInId => uri = endpoint.uri("!\0:a", "$\0", "@\0:a"),
            ManyParameters => uri = with_query(&uri, &"a=b&".repeat(10_000)),
            NegativeLimit => uri = with_query(&uri, "limit=-1&ts=-1&min_depth=-1&"),
            LimitBeyondRange => {
                uri = with_query(&uri, "limit=9223372036854775808&max_depth=1e400&");
            }
            UnknownVersion => uri = uri.replace("ver=11", "ver=no-version"),
            _ => {}
        }
        let header = self.header(hostile, &method, &uri, body.as_ref());
        if let Some(slowly) = slowly(hostile) {
            return self.slowly(&method, &uri, &header, slowly).await;
        }
        let url = format!("https://a.test:8448{uri}");
        let mut request = self.fake.http().request(method, url);
        for header in &header {
            request = request.header("Authorization", header);
        }
        if let Some(body) = body {
            request = request.body(self.bytes(hostile, &body));
        }
        let Ok(answer) = request.send().await else {
            return (None, String::new());
        };
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap_or_default();
        self.stage.common.watch.look(&uri, &body);
        let errcode = body["errcode"].as_str().unwrap_or_default();
        (Some(status), errcode.to_owned())
    }

    /// What is sent in place of a body.
    fn bytes(&self, hostile: Hostile, body: &CanonicalJsonObject) -> Vec<u8> {
        match hostile {
            Hostile::NotJson => b"{\"a\":".to_vec(),
            Hostile::NotUtf8 => b"{\"a\":\"\xff\"}".to_vec(),
            Hostile::NoObject => b"[]".to_vec(),
            Hostile::Deep => {
                let (open, close) = ("[".repeat(10_000), "]".repeat(10_000));
                format!("{{\"a\":{open}{close}}}").into_bytes()
            }
            Hostile::ManyKeys => {
                // As many as fit into the smallest body that an endpoint takes.
                let keys = (0..4_000).map(|n| format!("\"{n}\":0"));
                format!("{{{}}}", keys.collect::<Vec<_>>().join(",")).into_bytes()
            }
            Hostile::Huge => vec![b' '; 13 << 20],
            _ => to_bytes(body),
        }
    }

    /// The headers that say who asks.
    fn header(
        &self,
        hostile: Hostile,
        method: &Method,
        uri: &str,
        body: Option<&CanonicalJsonObject>,
    ) -> Vec<String> {
        let other = object(&json!({ "other": 1 }));
        let another: OwnedServerName = match hostile {
            Hostile::InAnothersName => "b.test".try_into().expect("a name"),
            Hostile::InOurName => "a.test".try_into().expect("a name"),
            Hostile::InNobodysName => NOBODY.try_into().expect("a name"),
            _ => self.fake.name.clone(),
        };
        let to = match hostile {
            Hostile::OtherDestination => "b.test",
            _ => "a.test",
        };
        let key = match hostile {
            Hostile::OtherKey => ServerKey::from_seed([4; 32], "fake"),
            Hostile::UnknownKeyId => ServerKey::from_seed([3; 32], "other"),
            _ => ServerKey::from_seed([3; 32], "fake"),
        };
        let signed = SignedRequest {
            method: match hostile {
                Hostile::OtherMethod => "PATCH",
                _ => method.as_str(),
            },
            uri: match hostile {
                Hostile::OtherUri => "/_matrix/federation/v1/other",
                _ => uri,
            },
            origin: &another,
            destination: <&ServerName>::try_from(to).expect("a name"),
            content: match hostile {
                Hostile::OtherBody => Some(&other),
                _ => body,
            },
        };
        let header = signed.authorization(&key);
        match hostile {
            Hostile::Unsigned => vec![],
            Hostile::NoXMatrix => vec![header.replace("X-Matrix", "Bearer")],
            Hostile::TwoHeaders => vec![header.clone(), header],
            _ => vec![header],
        }
    }

    async fn slowly(
        &self,
        method: &Method,
        uri: &str,
        header: &[String],
        slowly: Slowly,
    ) -> Answered {
        let header = header.first().map(String::as_str).unwrap_or_default();
        let head = format!(
            "{method} {uri} HTTP/1.1\r\nHost: a.test\r\nAuthorization: {header}\r\n\
             Content-Type: application/json\r\n"
        );
        let address = self.address;
        let sent = tokio::task::spawn_blocking(move || raw::send(address, &head, slowly));
        let (status, took) = sent.await.expect("sent");
        let most = match slowly {
            Slowly::Standstill => Duration::from_secs(BODY_IDLE_SECONDS) + ANSWER_MAX,
            _ => Duration::from_secs(BODY_SECONDS) + ANSWER_MAX,
        };
        assert!(took < most, "{slowly:?} {uri} took {took:?}");
        (status, String::new())
    }
}

fn slowly(hostile: Hostile) -> Option<Slowly> {
    match hostile {
        Hostile::Drip => Some(Slowly::Drip),
        Hostile::Standstill => Some(Slowly::Standstill),
        Hostile::Endless => Some(Slowly::Endless),
        Hostile::CutShort => Some(Slowly::CutShort),
        _ => None,
    }
}

fn with_query(uri: &str, more: &str) -> String {
    match uri.split_once('?') {
        Some((path, query)) => format!("{path}?{more}{query}"),
        None => format!("{uri}?{more}"),
    }
}

/// Whether an answer is the one of the specification.
fn is_right(endpoint: &Endpoint, hostile: Hostile, (status, errcode): &Answered) -> bool {
    use Hostile::*;
    let is = |wanted: u16, code: &str| *status == Some(wanted) && errcode == code;
    let is_refused = matches!(status, Some(400..=499));
    match hostile {
        Unsigned | OtherKey | UnknownKeyId | OtherDestination | OtherUri | OtherMethod
        | OtherBody | InAnothersName | InOurName | InNobodysName | TwoHeaders | NoXMatrix => {
            is(401, "M_UNAUTHORIZED")
        }
        WrongMethod => is(405, "M_UNRECOGNIZED"),
        HalfAnId | LongId | NulInId => *status < Some(500),
        // It may do without them.
        ManyParameters | NegativeLimit | LimitBeyondRange => *status < Some(500),
        UnknownVersion => is(400, "M_INCOMPATIBLE_ROOM_VERSION"),
        UnknownRoom if endpoint.is_for_members() || endpoint.has("make_") => {
            is(403, "M_FORBIDDEN") || is(404, "M_NOT_FOUND")
        }
        RoomOfOthers if endpoint.has("exchange") => is_refused,
        RoomOfOthers => is(403, "M_FORBIDDEN"),
        RoomThatExcludesIt if endpoint.has("exchange") => is_refused,
        RoomThatExcludesIt if endpoint.has("send_") => is_refused,
        RoomThatExcludesIt => is(403, "M_FORBIDDEN") || is(404, "M_NOT_FOUND"),
        UnknownRoom => is_refused,
        NotJson | NotUtf8 => is(400, "M_NOT_JSON"),
        NoObject | Deep => is(400, "M_BAD_JSON"),
        // It is not what was signed.
        ManyKeys => is(401, "M_UNAUTHORIZED") || endpoint.is_public(),
        Huge => is(413, "M_TOO_LARGE"),
        Drip | Standstill => *status == Some(408),
        // Whoever still writes may not come to read what is answered.
        Endless => matches!(status, None | Some(413 | 408)),
        CutShort => matches!(status, None | Some(400)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_no_request_of_others_does_harm() {
    let stage = Arc::new(Stage::set_up().await);
    let peer = Peer::start(&stage.common).await;
    // A notary that knows its keys would help.
    let nothing = Lie::Transport(Transport::NotFound);
    stage
        .common
        .of_notary
        .lock()
        .insert(NOBODY.to_owned(), nothing);
    let room = public_room(&stage.carl, "11").await;
    let closed = public_room(&stage.carl, "11").await;
    let acl = json!({ "allow": ["*"], "deny": ["127.0.0.1"], "allow_ip_literals": false });
    let path = format!(
        "/_matrix/client/v3/rooms/{}/state/m.room.server_acl/",
        escape(&closed)
    );
    stage.carl.put(&path, acl).await.ok();
    let event = stage.carl.send_text(&room, "not for others").await;
    let asker = Asker {
        stage: &stage,
        fake: &peer.fake,
        address: (stage.common.neighbourhood.address("a.test"), 8448).into(),
        room,
        closed,
        event,
    };
    let (begun, before) = (Instant::now(), stage.peak_mib());
    let endpoints = Endpoint::all();
    let mut asked: BTreeMap<Hostile, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for hostile in ALL {
        let takers: Vec<_> = endpoints.iter().filter(|one| one.takes(hostile)).collect();
        asked.insert(hostile, takers.len());
        let asks = takers.into_iter().map(async |endpoint| {
            let begun = Instant::now();
            let answered = asker.ask(endpoint, hostile).await;
            let is_right = is_right(endpoint, hostile, &answered);
            let is_fast = begun.elapsed() < 2 * ANSWER_MAX;
            let what = format!(
                "{hostile:?} {} {}: {answered:?}",
                endpoint.method, endpoint.path
            );
            (!is_right || !is_fast).then_some(what)
        });
        wrong.extend(
            futures_util::future::join_all(asks)
                .await
                .into_iter()
                .flatten(),
        );
        stage.is_healthy().await;
    }
    assert!(wrong.is_empty(), "{} requests: {wrong:#?}", wrong.len());
    let peak = stage.peak_mib();
    println!("{asked:?}");
    let requests: usize = asked.values().sum();
    println!(
        "{requests} requests to {} endpoints in {:?}, {before} to {peak} MiB; signed: {:?}",
        endpoints.len(),
        begun.elapsed(),
        stage.common.watch.report()
    );
    assert!(peak < super::MEMORY_MIB_MAX, "{peak} MiB");
    assert!(endpoints.len() > 25, "the routes are read: {endpoints:?}");
}
