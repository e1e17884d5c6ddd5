//! `GET /rooms/{roomId}/hierarchy` (*Discovering rooms within spaces*).
//!
//! The tree is walked from its root anew for each page: a page token says how
//! many rooms were given before, so it outlives restarts and holds nothing here.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ruma::{OwnedRoomId, OwnedServerName, RoomId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use super::summary::{Summary, content, may_know_of_elsewhere, summarise};
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{Path, Query};
use crate::api::{Api, ApiState};
use crate::limits::{SPACE_CHILDREN_MAX, SPACE_DEPTH_MAX, SPACE_ROOMS_MAX, SPACE_WALK_MAX};
use crate::query::ids::EventSn;
use crate::query::joining::may_know_of;
use crate::query::rooms::{RoomHead, StateKey};
use crate::writers::federation::queries::SummedUp;

const CHILD: &str = "m.space.child";
const SPACE: &str = "m.space";
/// Rooms of which one request asks other servers; what lies behind is not shown.
/// A client waits.
const ASKED_MAX: usize = 20;
/// Servers of a child that are tried.
const VIA_MAX: usize = 5;
/// Begins a page token; see [`Page`].
const PAGE_PREFIX: &str = "h1_";

#[derive(Deserialize)]
pub struct HierarchyQuery {
    #[serde(default)]
    suggested_only: bool,
    limit: Option<u64>,
    max_depth: Option<u64>,
    from: Option<String>,
}

#[derive(Serialize)]
pub struct Hierarchy {
    rooms: Vec<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

/// A room as it is shown: one that we know, or one that another server described.
#[derive(Serialize)]
#[serde(untagged)]
enum Shown {
    Here(Box<Room>),
    Elsewhere(Arc<SummedUp>),
}

/// `SpaceHierarchyRoomsChunk`.
#[derive(Serialize)]
struct Room {
    #[serde(flatten)]
    summary: Summary,
    children_state: Vec<Box<RawValue>>,
}

/// `GET /_matrix/client/v1/rooms/{roomId}/hierarchy`
pub async fn hierarchy(
    State(api): State<ApiState>,
    auth: Auth,
    Path(room_id): Path<OwnedRoomId>,
    Query(query): Query<HierarchyQuery>,
) -> Result<Json<Hierarchy>, ApiError> {
    if query.limit == Some(0) {
        return Err(ApiError::InvalidParam("limit must be above zero".into()));
    }
    let page = Page {
        given: 0,
        suggested_only: query.suggested_only,
        max_depth: query.max_depth,
        root: Page::digest(&room_id),
    };
    let given = match &query.from {
        None => 0,
        Some(token) => page.given_by(token)?,
    };
    let limit = query.limit.and_then(|limit| usize::try_from(limit).ok());
    let limit = limit.unwrap_or(SPACE_ROOMS_MAX).min(SPACE_ROOMS_MAX);
    let depth = query
        .max_depth
        .and_then(|depth| usize::try_from(depth).ok());
    let mut walk = Walk {
        api: &api,
        user: auth.user_id(),
        suggested_only: query.suggested_only,
        max_depth: depth.unwrap_or(SPACE_DEPTH_MAX).min(SPACE_DEPTH_MAX),
        seen: HashSet::new(),
        asked: 0,
        due: vec![Due {
            room_id,
            depth: 0,
            via: Vec::new(),
        }],
    };
    let mut rooms = Vec::new();
    let mut found = 0_u64;
    while let Some(room) = walk.next().await? {
        // Each step reads some events; others get their turn in between.
        tokio::task::yield_now().await;
        found += 1;
        // Given before; that it may be seen was checked again.
        if found <= given {
            continue;
        }
        if rooms.len() == limit {
            let next = Page {
                given: found - 1,
                ..page
            };
            return Ok(Json(Hierarchy {
                rooms,
                next_batch: Some(next.encode()),
            }));
        }
        rooms.push(room.shown(&api)?);
    }
    if found == 0 {
        return Err(ApiError::Forbidden("You are not allowed to view this room"));
    }
    Ok(Json(Hierarchy {
        rooms,
        next_batch: None,
    }))
}

/// A way through the tree, depth first, each room once.
struct Walk<'a> {
    api: &'a Api,
    user: &'a UserId,
    suggested_only: bool,
    max_depth: usize,
    /// Rooms that were come by, whether the user may know of them or not.
    seen: HashSet<OwnedRoomId>,
    /// Rooms of which other servers were asked.
    asked: usize,
    /// What is still to be visited, the next one last.
    due: Vec<Due>,
}

/// A room to be visited.
struct Due {
    room_id: OwnedRoomId,
    depth: usize,
    /// Servers that are said to be in it.
    via: Vec<OwnedServerName>,
}

/// A room that was visited, with its children as they are shown.
enum Visited {
    Here(Arc<RoomHead>, Vec<Box<RawValue>>),
    Elsewhere(Arc<SummedUp>),
}

impl Visited {
    fn shown(self, api: &Api) -> Result<Shown, ApiError> {
        Ok(match self {
            Visited::Here(head, children_state) => Shown::Here(Box::new(Room {
                summary: summarise(api, &head)?,
                children_state,
            })),
            Visited::Elsewhere(told) => Shown::Elsewhere(told),
        })
    }
}

impl Walk<'_> {
    /// The next room that the user may know of, with its children as they are
    /// shown. None at the end, and where the bound of one walk is reached.
    async fn next(&mut self) -> Result<Option<Visited>, ApiError> {
        while let Some(due) = self.due.pop() {
            if self.seen.len() == SPACE_WALK_MAX {
                return Ok(None);
            }
            if !self.seen.insert(due.room_id.clone()) {
                continue;
            }
            let head = self.api.rooms.head(&due.room_id)?;
            let head = head.filter(|head| self.api.remote.lives_here(head));
            let visited = match head {
                Some(head) => self.visit(head, due.depth)?,
                // Rooms that we are not in are for their servers to describe.
                None => self.visit_elsewhere(due).await?,
            };
            if visited.is_some() {
                return Ok(visited);
            }
        }
        Ok(None)
    }

    fn visit(&mut self, head: Arc<RoomHead>, depth: usize) -> Result<Option<Visited>, ApiError> {
        if !may_know_of(&*self.api.rooms, &head, Some(self.user))? {
            return Ok(None);
        }
        let children = children(self.api, &head, self.suggested_only)?;
        self.descend(&children, depth);
        let shown = children.into_iter().map(|child| child.shown).collect();
        Ok(Some(Visited::Here(head, shown)))
    }

    async fn visit_elsewhere(&mut self, due: Due) -> Result<Option<Visited>, ApiError> {
        let maker = due.room_id.server_name().map(ToOwned::to_owned);
        let servers: Vec<_> = due.via.into_iter().chain(maker).collect();
        if self.asked == ASKED_MAX || servers.is_empty() {
            return Ok(None);
        }
        self.asked += 1;
        let told = self.api.queries.room(&due.room_id, servers).await;
        let Some(told) = told else {
            return Ok(None);
        };
        if !may_know_of_elsewhere(self.api, self.user, &told)? {
            return Ok(None);
        }
        let mut told = SummedUp::clone(&told);
        let mut children: Vec<Child> = Vec::new();
        if told.room.room_type.as_deref() == Some(SPACE) {
            let read = told.children_state.iter().filter_map(|child| {
                let json = serde_json::to_vec(child).ok()?;
                Child::read(&json).filter(|_| child.kind == CHILD)
            });
            children.extend(read.filter(|child| child.suggested || !self.suggested_only));
            children.sort_by(|a, b| a.rank().cmp(&b.rank()));
        }
        self.descend(&children, due.depth);
        let counts = |key: &str| children.iter().any(|child| child.room_id == *key);
        told.children_state.retain(|child| counts(&child.state_key));
        Ok(Some(Visited::Elsewhere(Arc::new(told))))
    }

    fn descend(&mut self, children: &[Child], depth: usize) {
        if depth < self.max_depth {
            let below = children.iter().rev();
            self.due.extend(below.map(|child| Due {
                room_id: child.room_id.clone(),
                depth: depth + 1,
                via: child.via.clone(),
            }));
        }
    }
}

/// The children of a space in their order; a room that is no space has none.
pub fn children(api: &Api, head: &RoomHead, suggested_only: bool) -> Result<Vec<Child>, ApiError> {
    let create = content(api, head, "m.room.create")?;
    let kind = create.as_ref().and_then(|create| create.get("type"));
    if kind.and_then(Value::as_str) != Some(SPACE) {
        return Ok(Vec::new());
    }
    let first = StateKey::new(CHILD, "");
    let entries: Vec<EventSn> = head
        .state
        .range(first..)
        .take_while(|(key, _)| &*key.kind == CHILD)
        .map(|(_, event)| *event)
        .take(SPACE_CHILDREN_MAX)
        .collect();
    let events = api.rooms.events(&head.room_id, &entries)?;
    let children = events.iter().filter_map(|event| Child::read(&event.json));
    let mut children: Vec<Child> = children
        .filter(|child| child.suggested || !suggested_only)
        .collect();
    children.sort_by(|a, b| a.rank().cmp(&b.rank()));
    Ok(children)
}

/// An `m.space.child` that counts.
pub struct Child {
    pub room_id: OwnedRoomId,
    via: Vec<OwnedServerName>,
    suggested: bool,
    order: Option<String>,
    origin_server_ts: u64,
    /// The event as it is shown of a space.
    pub shown: Box<RawValue>,
}

impl Child {
    /// Reads the event; none if it makes no room a child.
    fn read(pdu: &[u8]) -> Option<Child> {
        #[derive(Deserialize)]
        struct Event {
            state_key: String,
            sender: String,
            #[serde(default)]
            origin_server_ts: u64,
            content: Map<String, Value>,
        }
        #[derive(Serialize)]
        struct Stripped<'a> {
            #[serde(rename = "type")]
            kind: &'static str,
            state_key: &'a str,
            sender: &'a str,
            origin_server_ts: u64,
            content: &'a Map<String, Value>,
        }
        let event: Event = serde_json::from_slice(pdu).ok()?;
        let via = event.content.get("via")?.as_array()?;
        if via.is_empty() || !via.iter().all(Value::is_string) {
            return None;
        }
        let via_servers = via.iter().filter_map(Value::as_str);
        let via_servers = via_servers.filter_map(|server| OwnedServerName::try_from(server).ok());
        let via_servers = via_servers.take(VIA_MAX).collect();
        let shown = to_raw_value(&Stripped {
            kind: CHILD,
            state_key: &event.state_key,
            sender: &event.sender,
            origin_server_ts: event.origin_server_ts,
            content: &event.content,
        });
        let order = event.content.get("order").and_then(Value::as_str);
        Some(Child {
            suggested: event.content.get("suggested") == Some(&Value::Bool(true)),
            order: order.filter(|order| is_order(order)).map(str::to_owned),
            origin_server_ts: event.origin_server_ts,
            shown: shown.ok()?,
            via: via_servers,
            room_id: OwnedRoomId::try_from(event.state_key).ok()?,
        })
    }

    /// Children with an `order` come first, by it; then by time, then by room id
    /// (*Ordering of children within a space*).
    fn rank(&self) -> (bool, Option<&str>, u64, &RoomId) {
        let order = self.order.as_deref();
        (order.is_none(), order, self.origin_server_ts, &self.room_id)
    }
}

/// Whether an `order` is one: up to 50 printable ASCII characters.
fn is_order(order: &str) -> bool {
    (1..=50).contains(&order.len()) && order.bytes().all(|byte| (0x20..=0x7E).contains(&byte))
}

/// Where a page begins, and for which request: a token is good for the same
/// root, depth and choice only.
#[derive(Clone, Copy)]
struct Page {
    given: u64,
    suggested_only: bool,
    max_depth: Option<u64>,
    root: [u8; 8],
}

impl Page {
    fn digest(room: &RoomId) -> [u8; 8] {
        let mut digest = [0; 8];
        let mut hasher = blake3::Hasher::new_derive_key("engram space hierarchy page");
        hasher.update(room.as_str().as_bytes());
        hasher.finalize_xof().fill(&mut digest);
        digest
    }

    fn encode(self) -> String {
        let mut bytes = Vec::with_capacity(26);
        bytes.extend(self.root);
        bytes.push(u8::from(self.suggested_only));
        // Nobody can ask for the greatest depth, so it can stand for none.
        bytes.extend(self.max_depth.unwrap_or(u64::MAX).to_be_bytes());
        bytes.extend(self.given.to_be_bytes());
        format!("{PAGE_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// How many rooms were given before a token of this request.
    fn given_by(self, token: &str) -> Result<u64, ApiError> {
        let unknown = || ApiError::InvalidParam("from is no token of this server".into());
        let bytes = token.strip_prefix(PAGE_PREFIX).ok_or_else(unknown)?;
        let bytes = URL_SAFE_NO_PAD.decode(bytes).map_err(|_| unknown())?;
        let (rest, given) = bytes.split_last_chunk::<8>().ok_or_else(unknown)?;
        let given = u64::from_be_bytes(*given);
        let expected = Page { given, ..self };
        if expected.encode() == token {
            return Ok(given);
        }
        Err(match rest.get(..8) == Some(&self.root[..]) {
            true => ApiError::InvalidParam(
                "suggested_only and max_depth cannot change on paginated requests".into(),
            ),
            false => unknown(),
        })
    }
}

#[cfg(test)]
mod tests {
    use ruma::room_id;
    use serde_json::json;

    use super::*;

    fn child(key: &str, ts: u64, content: Value) -> Option<Child> {
        let pdu = json!({
            "type": CHILD, "state_key": key, "sender": "@a:hs", "origin_server_ts": ts,
            "content": content,
        });
        Child::read(&serde_json::to_vec(&pdu).unwrap())
    }

    /// The example of the specification, and ties.
    #[test]
    fn children_have_the_order_of_the_specification() {
        let via = ["hs"];
        let mut children: Vec<Child> = [
            ("!e:hs", 1640641000000, json!({ "via": via })),
            ("!d:hs", 1640741000000, json!({ "via": via })),
            (
                "!c:hs",
                1640841000000,
                json!({ "via": via, "order": "first" }),
            ),
            (
                "!a:hs",
                1640141000000,
                json!({ "via": via, "order": "aaaa" }),
            ),
            ("!b:hs", 1640341000000, json!({ "via": via, "order": " " })),
            (
                "!g:hs",
                1640741000000,
                json!({ "via": via, "order": "\u{7f}" }),
            ),
            (
                "!f:hs",
                1640741000000,
                json!({ "via": via, "order": "x".repeat(51) }),
            ),
            (
                "!h:hs",
                1640741000001,
                json!({ "via": via, "order": "first" }),
            ),
        ]
        .into_iter()
        .map(|(key, ts, content)| child(key, ts, content).unwrap())
        .collect();
        children.sort_by(|a, b| a.rank().cmp(&b.rank()));
        let order: Vec<&str> = children
            .iter()
            .map(|child| child.room_id.as_str())
            .collect();
        assert_eq!(
            order,
            [
                "!b:hs", "!a:hs", "!h:hs", "!c:hs", "!e:hs", "!d:hs", "!f:hs", "!g:hs"
            ]
        );
    }

    #[test]
    fn what_names_no_server_is_no_child() {
        for content in [
            json!({}),
            json!({ "via": [] }),
            json!({ "via": "hs" }),
            json!({ "via": [1] }),
        ] {
            assert!(child("!a:hs", 1, content).is_none());
        }
        assert!(child("no room", 1, json!({ "via": ["hs"] })).is_none());
    }

    #[test]
    fn a_token_is_good_for_its_own_request() {
        let page = |max_depth, suggested_only| Page {
            given: 50,
            suggested_only,
            max_depth,
            root: Page::digest(room_id!("!a:hs")),
        };
        let token = page(Some(3), true).encode();
        assert_eq!(page(Some(3), true).given_by(&token).unwrap(), 50);
        let other = Page {
            root: Page::digest(room_id!("!b:hs")),
            ..page(Some(3), true)
        };
        for other in [
            page(None, true),
            page(Some(3), false),
            page(Some(4), true),
            other,
        ] {
            assert!(other.given_by(&token).is_err());
        }
        for token in ["", "h1_", "h1_AAAA", "p1_50", "h1_!"] {
            assert!(page(None, false).given_by(token).is_err());
        }
    }
}
