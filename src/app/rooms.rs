//! What an operator may ask about rooms, answered from the query window and the
//! store, by a running server or beside a stopped one.

use std::collections::BTreeMap;
use std::sync::Arc;

use log_format::record::output::Membership;
use ruma::{OwnedRoomId, OwnedServerName, RoomId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cli::RoomOrder;
use crate::query::authority::{Levels, Power};
use crate::query::ids::Place;
use crate::query::rooms::{Direction, QueryError, RoomHead, Rooms, StateKey};
use crate::storage::columns::{self, Family, ROOM_IDS, STATE_NODES};
use crate::storage::keys::Key;
use crate::storage::open::Store;
use crate::storage::overlay::StoreError;

/// Names, extremities and users with power that a report lists; further ones are counted.
const LISTED_MAX: usize = 50;
/// Rows of the timeline that are counted at a time.
const PAGE_ROWS: usize = 4096;

const MEMBERSHIPS: [Membership; 5] = [
    Membership::Join,
    Membership::Invite,
    Membership::Knock,
    Membership::Leave,
    Membership::Ban,
];

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    Room { room_id: OwnedRoomId },
    Rooms { by: RoomOrder, limit: u32 },
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Response {
    Room(Box<RoomReport>),
    Rooms { rooms: Vec<RoomLine>, total: u64 },
    Refused { why: String },
}

/// A room as an operator sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoomReport {
    pub room_id: String,
    pub version: String,
    /// One; from version 12 on all that stand above every level.
    pub creators: Vec<String>,
    pub name: Option<String>,
    pub topic: Option<String>,
    pub join_rule: String,
    pub history_visibility: String,
    /// The deepest first.
    pub extremities: Vec<ExtremityReport>,
    pub extremities_count: u64,
    /// Id of current state, and its entries.
    pub state_id: u64,
    pub state_entries: u64,
    /// By the specification's word; only memberships that somebody has.
    pub members: BTreeMap<String, MembersReport>,
    pub power: PowerReport,
    pub timeline_events: u64,
    /// States that the room ever had.
    pub states: u64,
    /// Bytes of rows that hold them, before compression.
    pub state_row_bytes: u64,
    pub waits: WaitsReport,
    /// Durable records of *input* (of all rooms) that the answer does not contain yet.
    pub unfolded: u64,
}

/// A forward extremity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtremityReport {
    pub event_id: String,
    pub depth: u64,
    pub sender: Option<String>,
    /// Milliseconds since the epoch, as its sender wrote it.
    pub origin_server_ts: Option<u64>,
}

/// Users with one membership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersReport {
    pub count: u64,
    /// How many of them are of this server.
    pub local: u64,
    /// The first by user id, those of this server before others.
    pub first: Vec<String>,
}

/// Who has what power, and what needs how much, with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerReport {
    /// Users above every level: the creators, from room version 12 on.
    pub unlimited: Vec<String>,
    /// Users with a level of their own, highest first.
    pub users: Vec<(String, i64)>,
    pub users_count: u64,
    /// By name, as in `m.room.power_levels`.
    pub levels: BTreeMap<String, i64>,
    pub events: BTreeMap<String, i64>,
}

/// What the room waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitsReport {
    /// *Input* offset since which its records wait for work that is done aside.
    pub parked_at: Option<u64>,
    /// Events that wait for others that are missing.
    pub events: u64,
}

/// A room in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomLine {
    pub room_id: String,
    pub version: String,
    pub name: Option<String>,
    pub extremities: u64,
    pub joined_members: u64,
    pub invited_members: u64,
    pub state_entries: u64,
}

/// Where answers come from.
pub struct Desk {
    pub rooms: Arc<dyn Rooms>,
    pub store: Arc<Store>,
    pub server_name: OwnedServerName,
    pub partitions: u32,
    /// See [`RoomReport::unfolded`].
    pub unfolded: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl Desk {
    /// Answers; reads the store as long as it takes.
    pub fn answer(&self, request: &Request) -> Response {
        let answered = match request {
            Request::Room { room_id } => self.room(room_id).map(|report| match report {
                Some(report) => Response::Room(Box::new(report)),
                None => Response::Refused {
                    why: format!("the room {room_id} is not known here"),
                },
            }),
            Request::Rooms { by, limit } => self.list(*by, *limit as usize),
        };
        answered.unwrap_or_else(|error| Response::Refused {
            why: error.to_string(),
        })
    }

    fn room(&self, room_id: &RoomId) -> Result<Option<RoomReport>, QueryError> {
        let Some(head) = self.rooms.head(room_id)? else {
            return Ok(None);
        };
        let waits = self.rooms.waits(room_id)?;
        let (states, state_row_bytes) = self.state_rows(&head)?;
        let authority = &head.authority;
        let creators = authority.create_info.creators.iter();
        Ok(Some(RoomReport {
            room_id: room_id.to_string(),
            version: head.version.to_string(),
            creators: creators.map(ToString::to_string).collect(),
            name: self.text(&head, "m.room.name", "name")?,
            topic: self.text(&head, "m.room.topic", "topic")?,
            join_rule: authority.join_rule.to_string(),
            history_visibility: head.visibility.as_str().to_owned(),
            extremities: self.extremities(&head)?,
            extremities_count: head.extremities.len() as u64,
            state_id: head.state_id.0,
            state_entries: head.state.len() as u64,
            members: self.members(&head),
            power: power(&head),
            timeline_events: self.timeline_events(room_id)?,
            states,
            state_row_bytes,
            waits: WaitsReport {
                parked_at: waits.parked_at.map(|offset| offset.0),
                events: waits.events,
            },
            unfolded: (self.unfolded)(),
        }))
    }

    /// A field of the content of a state event without state key, as it is served.
    fn text(&self, head: &RoomHead, kind: &str, field: &str) -> Result<Option<String>, QueryError> {
        let Some(event) = head.state.get(&StateKey::new(kind, "")) else {
            return Ok(None);
        };
        let found = self.rooms.events(&head.room_id, &[*event])?;
        let event: Option<Value> = found
            .first()
            .and_then(|event| serde_json::from_slice(&event.json).ok());
        Ok(event.and_then(|event| event["content"][field].as_str().map(str::to_owned)))
    }

    fn extremities(&self, head: &RoomHead) -> Result<Vec<ExtremityReport>, QueryError> {
        let mut deepest: Vec<_> = head.extremities.iter().collect();
        deepest.sort_by(|a, b| b.depth.cmp(&a.depth).then(a.event_id.cmp(&b.event_id)));
        deepest.truncate(LISTED_MAX);
        let mut reports = Vec::with_capacity(deepest.len());
        for extremity in deepest {
            let event = self.rooms.event(&head.room_id, &extremity.event_id)?;
            reports.push(ExtremityReport {
                event_id: extremity.event_id.to_string(),
                depth: extremity.depth,
                sender: event.as_ref().map(|event| event.sender.to_string()),
                origin_server_ts: event.map(|event| event.origin_server_ts),
            });
        }
        Ok(reports)
    }

    fn members(&self, head: &RoomHead) -> BTreeMap<String, MembersReport> {
        let mut members: BTreeMap<String, MembersReport> = BTreeMap::new();
        for membership in MEMBERSHIPS {
            let mut report = MembersReport::default();
            let mut others = vec![];
            let all = head.authority.members.iter();
            for (user, _) in all.filter(|(_, member)| member.membership == membership) {
                let is_local = user.server_name() == self.server_name;
                report.count += 1;
                report.local += u64::from(is_local);
                if is_local && report.first.len() < LISTED_MAX {
                    report.first.push(user.to_string());
                } else if !is_local && others.len() < LISTED_MAX {
                    others.push(user.to_string());
                }
            }
            report.first.append(&mut others);
            report.first.truncate(LISTED_MAX);
            if report.count > 0 {
                members.insert(membership.as_str().to_owned(), report);
            }
        }
        members
    }

    fn timeline_events(&self, room_id: &RoomId) -> Result<u64, QueryError> {
        let mut count = 0;
        let mut from = Place::START;
        loop {
            let page = self
                .rooms
                .timeline(room_id, from, Direction::Forward, PAGE_ROWS)?;
            count += page.len() as u64;
            match page.last() {
                Some((last, _)) if page.len() == PAGE_ROWS => from = *last,
                _ => return Ok(count),
            }
        }
    }

    /// States of a room, and bytes of all rows that hold them. Every table of
    /// that family has the room's interned id behind the partition.
    fn state_rows(&self, head: &RoomHead) -> Result<(u64, u64), StoreError> {
        let partition = log_format::partition::partition_of(head.room_id.as_str(), self.partitions);
        let prefix = Key::of(partition).number(head.room.0);
        let (mut states, mut bytes) = (0, 0);
        for table in columns::ALL {
            if table.family != Family::State {
                continue;
            }
            self.store.scan(
                *table,
                prefix.as_bytes(),
                |key, value| -> Result<(), StoreError> {
                    states += u64::from(*table == STATE_NODES);
                    bytes += (key.len() + 1 + value.len()) as u64;
                    Ok(())
                },
            )?;
        }
        Ok((states, bytes))
    }

    /// The first rooms in an order. Looks at the head of every room.
    fn list(&self, by: RoomOrder, limit: usize) -> Result<Response, QueryError> {
        let mut rooms = vec![];
        for room_id in self.room_ids()? {
            let Some(head) = self.rooms.head(&room_id)? else {
                continue;
            };
            rooms.push(RoomLine {
                room_id: room_id.to_string(),
                version: head.version.to_string(),
                name: None,
                extremities: head.extremities.len() as u64,
                joined_members: head.joined_members,
                invited_members: head.invited_members,
                state_entries: head.state.len() as u64,
            });
        }
        let size = |room: &RoomLine| match by {
            RoomOrder::Extremities => (room.extremities, room.joined_members),
            RoomOrder::Members => (room.joined_members, room.state_entries),
            RoomOrder::State => (room.state_entries, room.joined_members),
        };
        rooms.sort_by(|a, b| size(b).cmp(&size(a)).then(a.room_id.cmp(&b.room_id)));
        let total = rooms.len() as u64;
        rooms.truncate(limit);
        for room in &mut rooms {
            let room_id = RoomId::parse(&room.room_id).ok();
            let head = room_id
                .map(|room_id| self.rooms.head(&room_id))
                .transpose()?;
            if let Some(head) = head.flatten() {
                room.name = self.text(&head, "m.room.name", "name")?;
            }
        }
        Ok(Response::Rooms { rooms, total })
    }

    fn room_ids(&self) -> Result<Vec<OwnedRoomId>, QueryError> {
        let mut found = vec![];
        for partition in 0..self.partitions {
            let prefix = Key::of(partition);
            let prefix = prefix.as_bytes();
            self.store.scan(ROOM_IDS, prefix, |key, _| {
                let text = key.get(prefix.len()..).unwrap_or_default();
                let id = std::str::from_utf8(text)
                    .ok()
                    .and_then(|text| OwnedRoomId::try_from(text).ok());
                let id = id.ok_or_else(|| StoreError::Row {
                    table: ROOM_IDS.name,
                    why: "its key holds no room id".to_owned(),
                });
                found.push(id?);
                Ok::<(), StoreError>(())
            })?;
        }
        Ok(found)
    }
}

fn power(head: &RoomHead) -> PowerReport {
    let authority = &head.authority;
    let levels: &Levels = &authority.levels;
    let mut users: Vec<(String, i64)> = levels
        .users
        .iter()
        .map(|(user, level)| (user.to_string(), *level))
        .collect();
    // Without an event about power the creator has some all the same.
    if let Power::Level(level) = authority.power(&authority.create_sender)
        && level != levels.users_default
        && !levels.users.contains_key(&authority.create_sender)
    {
        users.push((authority.create_sender.to_string(), level));
    }
    users.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    let users_count = users.len() as u64;
    users.truncate(LISTED_MAX);
    let named = [
        ("users_default", levels.users_default),
        ("events_default", levels.events_default),
        ("state_default", levels.state_default),
        ("invite", levels.invite),
        ("kick", levels.kick),
        ("ban", levels.ban),
        ("redact", levels.redact),
    ];
    let creators = authority.create_info.creators.iter();
    PowerReport {
        unlimited: creators
            .filter(|user| authority.power(user) == Power::Infinite)
            .map(ToString::to_string)
            .collect(),
        users,
        users_count,
        levels: named.map(|(name, level)| (name.to_owned(), level)).into(),
        events: levels
            .events
            .iter()
            .take(LISTED_MAX)
            .map(|(kind, level)| (kind.to_string(), *level))
            .collect(),
    }
}
