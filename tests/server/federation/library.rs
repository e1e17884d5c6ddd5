//! What a server of the test's own knows of rooms, and tells those who ask for
//! it: truly, or with a lie.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use engram::crypto::signing_key::ServerKey;
use engram::matrix::canonical_json::to_bytes;
use http::{StatusCode, Uri};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Neighbourhood;
use super::fake::{FAR, Fake, answer, own_keys};

/// Turns what would be answered to a path into something else.
type Lie = Arc<dyn Fn(&str, Value) -> Value + Send + Sync>;

/// See the module. Cheap to clone.
#[derive(Clone, Default)]
pub struct Library {
    shelves: Arc<Mutex<Shelves>>,
    is_held: Arc<watch::Sender<bool>>,
}

#[derive(Default)]
struct Shelves {
    events: BTreeMap<String, Known>,
    /// Paths that were asked for, without keys.
    asked: Vec<String>,
    lie: Option<Lie>,
}

struct Known {
    json: Value,
    prev: Vec<String>,
    auth: Vec<String>,
    state_before: Vec<String>,
}

impl Library {
    /// A server that answers from this library.
    pub async fn serve(&self, neighbourhood: &Neighbourhood, name: &'static str) -> Fake {
        let keys = own_keys(name, &ServerKey::from_seed([3; 32], "fake"), FAR);
        let keys = Arc::new(to_bytes(&keys));
        let library = self.clone();
        Fake::start(neighbourhood, name, move |request: Request| {
            let (keys, library) = (keys.clone(), library.clone());
            async move {
                if request.uri().path() == "/_matrix/key/v2/server" {
                    return answer(StatusCode::OK, keys.to_vec());
                }
                library.answer(request).await
            }
        })
        .await
    }

    /// Adds an event, and the state before it as ids.
    pub fn add(&self, id: &str, json: &Value, state_before: Vec<String>) {
        let ids = |key: &str| {
            let ids = json[key].as_array().expect("a list").iter();
            let ids = ids.map(|id| id.as_str().or(id[0].as_str()).expect("an id"));
            ids.map(str::to_owned).collect()
        };
        let known = Known {
            json: json.clone(),
            prev: ids("prev_events"),
            auth: ids("auth_events"),
            state_before,
        };
        self.shelves.lock().events.insert(id.to_owned(), known);
    }

    /// From now on answers are what this makes of them.
    pub fn lie(&self, lie: impl Fn(&str, Value) -> Value + Send + Sync + 'static) {
        self.shelves.lock().lie = Some(Arc::new(lie));
    }

    /// Whether nothing is answered until that is over.
    pub fn hold(&self, is_held: bool) {
        self.is_held.send_replace(is_held);
    }

    /// How often something was asked for whose path has this in it.
    pub fn asked(&self, what: &str) -> usize {
        let shelves = self.shelves.lock();
        let asked = shelves.asked.iter().filter(|path| path.contains(what));
        asked.count()
    }

    async fn answer(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        // Its other end lives as long as the library.
        let _ = self.is_held.subscribe().wait_for(|held| !held).await;
        let found = self.find(&parts.uri, &body);
        let path = parts.uri.path().to_owned();
        let mut shelves = self.shelves.lock();
        shelves.asked.push(path.clone());
        let lie = shelves.lie.clone();
        drop(shelves);
        let told = match (found, lie) {
            (found, Some(lie)) => lie(&path, found.unwrap_or(Value::Null)),
            (Some(found), None) => found,
            (None, None) => Value::Null,
        };
        match told {
            Value::Null => answer(
                StatusCode::NOT_FOUND,
                br#"{"errcode":"M_NOT_FOUND"}"#.to_vec(),
            ),
            told => answer(StatusCode::OK, told.to_string().into_bytes()),
        }
    }

    /// What is answered in truth; none if it is not known.
    pub fn find(&self, uri: &Uri, body: &Value) -> Option<Value> {
        let url = reqwest::Url::parse(&format!("https://host{uri}")).unwrap();
        let named = |key: &str| {
            let mut pairs = url.query_pairs();
            Some(pairs.find(|(name, _)| name == key)?.1.into_owned())
        };
        let last = url.path_segments().and_then(|mut parts| parts.next_back());
        let event = named("event_id").or_else(|| named("v"));
        let event = event.or_else(|| Some(unescape(last?))).unwrap_or_default();
        self.shelves.lock().find(uri.path(), &event, body)
    }

    /// The state before an event that is here, and what authorises it, as a
    /// resident tells who joins there.
    pub fn joined(&self, event: &str) -> Value {
        let shelves = self.shelves.lock();
        let known = shelves.events.get(event).expect("an event");
        let state = known.state_before.iter().cloned().collect();
        let (chain, state) = (shelves.chain(&state), state);
        json!({ "state": shelves.json(&state), "auth_chain": shelves.json(&chain) })
    }
}

impl Shelves {
    fn find(&self, path: &str, event: &str, body: &Value) -> Option<Value> {
        let of = |what: &str| path.starts_with(&format!("/_matrix/federation/v1/{what}/"));
        let json = |ids: &BTreeSet<String>| self.json(ids);
        if of("get_missing_events") {
            return Some(self.missing(body));
        }
        let known = self.events.get(event)?;
        let state: BTreeSet<String> = known.state_before.iter().cloned().collect();
        if of("event") {
            Some(json!({ "origin": "x", "origin_server_ts": 1, "pdus": [known.json] }))
        } else if of("state_ids") {
            Some(json!({ "pdu_ids": state, "auth_chain_ids": self.chain(&state) }))
        } else if of("state") {
            Some(json!({ "pdus": json(&state), "auth_chain": json(&self.chain(&state)) }))
        } else if of("event_auth") {
            let chain = self.chain(&BTreeSet::from([event.to_owned()]));
            Some(json!({ "auth_chain": json(&chain) }))
        } else if of("backfill") {
            Some(json!({ "origin": "x", "origin_server_ts": 1, "pdus": self.before(event) }))
        } else {
            None
        }
    }

    fn json(&self, ids: &BTreeSet<String>) -> Vec<Value> {
        let known = ids.iter().filter_map(|id| self.events.get(id));
        known.map(|known| known.json.clone()).collect()
    }

    /// Server-server API, *backfill*: an event and up to a hundred before it.
    fn before(&self, event: &str) -> Vec<Value> {
        let mut queue = VecDeque::from([event.to_owned()]);
        let mut found: Vec<String> = Vec::new();
        while let Some(id) = queue.pop_front().filter(|_| found.len() < 100) {
            if let (Some(known), false) = (self.events.get(&id), found.contains(&id)) {
                queue.extend(known.prev.iter().cloned());
                found.push(id);
            }
        }
        let events = found.iter().map(|id| self.events[id].json.clone());
        events.collect()
    }

    /// Server-server API, *get_missing_events*: back from the latest, breadth first.
    fn missing(&self, body: &Value) -> Value {
        let ids = |key: &str| -> BTreeSet<String> {
            let ids = body[key].as_array().into_iter().flatten();
            ids.filter_map(|id| id.as_str())
                .map(str::to_owned)
                .collect()
        };
        let (earliest, latest) = (ids("earliest_events"), ids("latest_events"));
        let limit = body["limit"].as_u64().unwrap_or(10) as usize;
        let mut queue: VecDeque<String> = latest.iter().cloned().collect();
        let mut found: Vec<String> = Vec::new();
        while let Some(known) = queue.pop_front().and_then(|id| self.events.get(&id)) {
            for id in &known.prev {
                let is_new = !earliest.contains(id) && !latest.contains(id) && !found.contains(id);
                if is_new && self.events.contains_key(id) && found.len() < limit {
                    found.push(id.clone());
                    queue.push_back(id.clone());
                }
            }
        }
        let events = found.iter().rev().map(|id| &self.events[id].json);
        json!({ "events": events.collect::<Vec<_>>() })
    }

    fn chain(&self, of: &BTreeSet<String>) -> BTreeSet<String> {
        let mut chain = BTreeSet::new();
        let mut queue: Vec<String> = of.iter().cloned().collect();
        while let Some(id) = queue.pop() {
            for id in self
                .events
                .get(&id)
                .into_iter()
                .flat_map(|known| &known.auth)
            {
                if chain.insert(id.clone()) {
                    queue.push(id.clone());
                }
            }
        }
        chain
    }
}

pub fn unescape(text: &str) -> String {
    let pairs = format!("x={}", text.replace('+', "%2B"));
    let url = reqwest::Url::parse(&format!("https://host/?{pairs}")).unwrap();
    let value = url
        .query_pairs()
        .next()
        .map(|(_, value)| value.into_owned());
    value.unwrap_or_default()
}
