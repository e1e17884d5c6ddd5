//! Auth graphs: which events each state event cites as its authority, in the
//! tables and, for rooms that resolved lately, in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use log_format::codec;
use log_format::record::input::InputRoomEvent;
use quick_cache::unsync::Cache;

use super::judge::{Case, Event};
use super::rows;
use super::scope::{Prior, Scope, Stop};
use crate::matrix::state_res::{AuthGraph, AuthKind, ResolutionEvent};
use crate::query::ids::{EventSn, RoomSn};
use crate::storage::columns::AUTH_EDGES;
use crate::storage::keys::{RowReader, RowWriter};
use crate::storage::overlay::{Read, StoreError};

/// Graphs that a lane keeps are not larger than this, all together.
const GRAPHS_BYTES_MAX: usize = 32 << 20;
/// Events that a lane keeps parsed for resolutions.
const EVENTS_KEPT: usize = 4_096;
/// Rows read at a time.
const PAGE_ROWS: usize = 4_096;

/// Kinds by their number in a row.
const KINDS: [AuthKind; 6] = [
    AuthKind::Create,
    AuthKind::PowerLevels,
    AuthKind::JoinRules,
    AuthKind::Member,
    AuthKind::ThirdPartyInvite,
    AuthKind::Other,
];

type AtEvent = (u32, EventSn);

/// What a lane keeps in memory for resolutions.
pub struct AuthGraphs {
    /// By room; with when it was used last.
    graphs: BTreeMap<RoomSn, (u64, Arc<AuthGraph>)>,
    bytes: usize,
    clock: u64,
    /// A room whose graph was added to since [`AuthGraphs::begin`].
    touched: Option<RoomSn>,
    events: Cache<AtEvent, Arc<ResolutionEvent>>,
}

impl Default for AuthGraphs {
    fn default() -> AuthGraphs {
        AuthGraphs {
            graphs: BTreeMap::new(),
            bytes: 0,
            clock: 0,
            touched: None,
            events: Cache::new(EVENTS_KEPT),
        }
    }
}

impl AuthGraphs {
    /// Drops what is kept of a room.
    pub fn forget(&mut self, room: RoomSn) {
        if let Some((_, graph)) = self.graphs.remove(&room) {
            self.bytes = self.bytes.saturating_sub(graph.size_bytes());
        }
    }

    /// A decision begins that may be called off.
    pub fn begin(&mut self) {
        self.touched = None;
    }

    /// It was called off: what it added is dropped.
    pub fn take_back(&mut self) {
        if let Some(room) = self.touched.take() {
            self.forget(room);
        }
    }

    /// An event that was parsed before.
    pub fn event(&self, at: AtEvent) -> Option<Arc<ResolutionEvent>> {
        self.events.get(&at).cloned()
    }

    /// Keeps a parsed event.
    pub fn keep_event(&mut self, at: AtEvent, event: Arc<ResolutionEvent>) {
        self.events.insert(at, event);
    }

    fn get(&mut self, room: RoomSn) -> Option<Arc<AuthGraph>> {
        self.clock += 1;
        let (used, graph) = self.graphs.get_mut(&room)?;
        *used = self.clock;
        Some(graph.clone())
    }

    fn put(&mut self, room: RoomSn, graph: Arc<AuthGraph>) {
        self.forget(room);
        self.bytes += graph.size_bytes();
        self.graphs.insert(room, (self.clock, graph));
        while self.bytes > GRAPHS_BYTES_MAX && self.graphs.len() > 1 {
            let oldest = self.graphs.iter().min_by_key(|(_, (used, _))| *used);
            let Some(oldest) = oldest.map(|(room, _)| *room) else {
                break;
            };
            self.forget(oldest);
        }
    }

    fn add(&mut self, room: RoomSn, event: EventSn, kind: AuthKind, auth_events: &[EventSn]) {
        let Some((_, graph)) = self.graphs.get_mut(&room) else {
            return;
        };
        self.touched = Some(room);
        let before = graph.size_bytes();
        let cited: Vec<u64> = auth_events.iter().map(|sn| sn.0).collect();
        Arc::make_mut(graph).insert(event.0, kind, &cited);
        self.bytes = self.bytes + graph.size_bytes() - before;
    }
}

impl Event<'_> {
    /// Stores what a state event cites.
    pub(super) fn store_edges(&self, case: &Case<'_>, scope: &mut Scope<'_, '_>) {
        if self.state_key.is_none() {
            return;
        }
        let cited = &case.cited.events;
        let kind = AuthKind::of(self.kind, self.state_key.unwrap_or_default());
        let mut row = RowWriter::with_capacity(12);
        row.u8(kind as u8);
        for event in cited {
            // Mostly older than the event: the differences are short.
            row.varint(self.sn.0.wrapping_sub(event.0));
        }
        let key = rows::room_key(self.partition, scope.room).number(self.sn.0);
        scope.tables.put(AUTH_EDGES, key.as_ref(), row.finish());
        scope.graphs.add(scope.room, self.sn, kind, cited);
    }
}

fn read_edges(sn: EventSn, bytes: &[u8]) -> Result<(AuthKind, Vec<EventSn>), StoreError> {
    let mut row = RowReader::new(AUTH_EDGES, bytes);
    let kind = row.u8()?;
    let kind = KINDS.into_iter().find(|known| *known as u8 == kind);
    let kind = kind.ok_or_else(|| row.error("unknown kind of event"))?;
    let mut cited = vec![];
    while !row.is_empty() {
        cited.push(EventSn(sn.0.wrapping_sub(row.varint()?)));
    }
    Ok((kind, cited))
}

/// The room's auth graph.
pub(super) fn graph(scope: &mut Scope<'_, '_>) -> Result<Arc<AuthGraph>, Stop> {
    let room = scope.room;
    if let Some(known) = scope.graphs.get(room) {
        return Ok(known);
    }
    let graph = Arc::new(load(&*scope.tables, scope.partition, room)?);
    scope.graphs.put(room, graph.clone());
    Ok(graph)
}

/// Reads a room's auth graph from the tables.
pub(super) fn load(
    tables: &dyn Read,
    partition: u32,
    room: RoomSn,
) -> Result<AuthGraph, StoreError> {
    let mut graph = AuthGraph::new();
    let prefix = rows::room_key(partition, room);
    let prefix = prefix.as_ref();
    let mut from: Option<Vec<u8>> = None;
    loop {
        let page = tables.range(AUTH_EDGES, prefix, from.as_deref(), false, PAGE_ROWS)?;
        for (key, value) in &page {
            let rest = key.get(prefix.len()..).unwrap_or_default();
            let sn = EventSn(RowReader::new(AUTH_EDGES, rest).number()?);
            let (kind, cited) = read_edges(sn, value)?;
            let cited: Vec<u64> = cited.iter().map(|sn| sn.0).collect();
            graph.insert(sn.0, kind, &cited);
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE_ROWS => {
                from = Some([last.as_ref(), &[0]].concat());
            }
            _ => return Ok(graph),
        }
    }
}

/// What an event cites.
pub(super) fn auth_events(scope: &mut Scope<'_, '_>, sn: EventSn) -> Result<Vec<EventSn>, Stop> {
    let key = rows::room_key(scope.partition, scope.room).number(sn.0);
    if let Some(bytes) = scope.tables.get(AUTH_EDGES, key.as_ref())? {
        return Ok(read_edges(sn, &bytes)?.1);
    }
    let ids = scope.read(sn, |envelope| {
        let body: InputRoomEvent = codec::decode(envelope.body).ok()?;
        Some(body.auth_events)
    })?;
    let mut cited = vec![];
    for id in ids {
        match scope.prior(&id)? {
            Prior::Accepted(sn) | Prior::Other(sn, _) => cited.push(sn),
            Prior::Unknown => {}
        }
    }
    Ok(cited)
}

/// The auth chains of events: all that they cite, and what that cites in turn.
pub(super) fn auth_chain(
    tables: &dyn Read,
    partition: u32,
    room: RoomSn,
    of: &[EventSn],
) -> Result<BTreeSet<EventSn>, StoreError> {
    let mut chain = BTreeSet::new();
    let mut todo = of.to_vec();
    while let Some(sn) = todo.pop() {
        let key = rows::room_key(partition, room).number(sn.0);
        let Some(bytes) = tables.get(AUTH_EDGES, key.as_ref())? else {
            continue;
        };
        for cited in read_edges(sn, &bytes)?.1 {
            if chain.insert(cited) {
                todo.push(cited);
            }
        }
    }
    Ok(chain)
}
