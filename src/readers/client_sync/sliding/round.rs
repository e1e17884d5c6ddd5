//! One look at what is new for a connection: which rooms, then what of each.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use log_format::record::output::Membership;
use ruma::{OwnedRoomId, RoomId};

use super::super::history::Newest;
use super::super::memory::{Memory, RoomIx, Standing, UserSlot};
use super::super::room::Candidate;
use super::super::{ClientSync, SyncError};
use super::body::{Body, ListBody, RoomBody};
use super::connection::{News, ROOMS_MAX, RoomKey, RoomSent};
use super::connections::Opened;
use super::extensions::{Extending, ExtensionsBody};
use super::lists::{ListSet, UserFacts, Windows, is_listed, key_of, rooms_outside};
use super::request::{Rule, SlidingRequest};
use super::required_state::Wanted;
use super::room::{Due, Teller};
use crate::clock;
use crate::logs::log::partition_of;
use crate::matrix::client_event::content_of;
use crate::query::rooms::StateKey;
use crate::query::tokens::SyncToken;
use crate::query::unwanted::Unwanted;

/// Rooms that one answer tells of; the others follow in the next one.
const ROOMS_TOLD_MAX: usize = 500;
const DIRECT: &str = "m.direct";
const TAG: &str = "m.tag";
const SPACE_CHILD: &str = "m.space.child";

/// A request at its connection, round by round until there is news.
pub struct Round {
    sync: Arc<ClientSync>,
    pub request: Arc<SlidingRequest>,
    pub opened: Opened,
    /// Position of the client; none if it begins.
    pub since: Option<SyncToken>,
}

/// What a round found that may have to be told, as of one look at memory.
pub struct Plan {
    token: SyncToken,
    due: Vec<Due>,
    windows: Arc<Windows>,
    unwanted: Unwanted,
}

impl Plan {
    pub fn rooms_due(&self) -> usize {
        self.due.len()
    }
}

/// A finished round.
pub struct Answer {
    pub token: SyncToken,
    pub news: News,
    counts: Vec<u64>,
    rooms: BTreeMap<OwnedRoomId, RoomBody>,
    extensions: ExtensionsBody,
}

impl Answer {
    /// Whether it says nothing that the client waits for.
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty() && self.extensions.is_empty()
    }

    /// The same to a request that nobody waits for any more.
    pub fn without_news(self) -> Answer {
        Answer {
            rooms: BTreeMap::new(),
            extensions: ExtensionsBody::default(),
            ..self
        }
    }

    pub fn into_json(self, request: &SlidingRequest, pos: &str) -> Result<String, SyncError> {
        let lists = request.lists.iter().zip(&self.counts);
        let body = Body {
            pos,
            txn_id: request.txn_id.as_deref(),
            lists: lists
                .map(|((name, _), count)| (name.as_str(), ListBody { count: *count }))
                .collect(),
            rooms: &self.rooms,
            extensions: &self.extensions,
        };
        Ok(serde_json::to_string(&body)?)
    }
}

impl Round {
    pub fn new(
        sync: Arc<ClientSync>,
        request: Arc<SlidingRequest>,
        opened: Opened,
        since: Option<SyncToken>,
    ) -> Round {
        Round {
            sync,
            request,
            opened,
            since,
        }
    }

    /// Finds the rooms that may have news: from memory alone, unless something
    /// changed that lists depend on.
    pub fn plan(&mut self) -> Result<Plan, SyncError> {
        if self.sync.stopped.load(Ordering::Acquire) {
            return Err(SyncError::Stopped);
        }
        let sync = self.sync.clone();
        let unwanted = Unwanted::of(&*sync.users, &self.request.user);
        let cache = self.opened.lists.clone();
        let mut cache = cache.lock();
        let told = &self.opened.connection.told;
        let is_current = cache.is_current(&sync.memory.read(), &self.request.lists, told);
        if !is_current {
            cache.facts = Arc::new(self.facts(&cache.facts, &unwanted)?);
        }
        let memory = sync.memory.read();
        let token = sync.token(&memory, self.since.as_ref());
        let Some(user) = memory.user(&self.request.user) else {
            return Ok(Plan {
                token,
                due: Vec::new(),
                windows: Arc::default(),
                unwanted,
            });
        };
        let windows = cache.windows(&memory, user, &self.request.lists, told);
        let facts = cache.facts.clone();
        drop(cache);
        let due = self.due(&memory, user, &windows, &facts)?;
        Ok(Plan {
            token,
            due,
            windows,
            unwanted,
        })
    }

    /// Looks up what lists depend on beside memory.
    fn facts(&self, before: &UserFacts, unwanted: &Unwanted) -> Result<UserFacts, SyncError> {
        let (sync, request) = (&self.sync, &self.request);
        let filters = || request.lists.iter().map(|(_, list)| &list.filters);
        let told = &self.opened.connection.told;
        let (data_at, outside) = {
            let memory = sync.memory.read();
            let Some(user) = memory.user(&request.user) else {
                return Ok(UserFacts::default());
            };
            (user.account_data_at, rooms_outside(&memory, user, told))
        };
        let mut facts = UserFacts {
            data_at,
            ..UserFacts::default()
        };
        let same_data = before.data_at == data_at;
        facts.direct = match same_data {
            true => before.direct.clone(),
            false => Arc::new(self.direct_rooms()),
        };
        if filters().any(|filters| filters.asks_tags()) {
            facts.tags = match before.tags.clone().filter(|_| same_data) {
                Some(tags) => Some(tags),
                None => Some(Arc::new(self.tags()?)),
            };
        }
        let spaces = filters()
            .filter_map(|filters| filters.spaces.as_ref())
            .flatten();
        for space in spaces {
            let Ok(space) = OwnedRoomId::try_from(space.as_str()) else {
                continue;
            };
            self.add_space(before, &mut facts, space)?;
        }
        for (room, standing) in outside {
            let is_hidden = match standing.membership {
                Membership::Invite => self.is_unwanted(&room, &standing, unwanted)?,
                _ => sync.users.forgot(&request.user, &room),
            };
            if is_hidden {
                facts.hidden.insert(room);
            }
        }
        Ok(facts)
    }

    /// Rooms that the user calls direct chats (client-server API, `m.direct`).
    fn direct_rooms(&self) -> HashSet<OwnedRoomId> {
        let datum = self
            .sync
            .users
            .account_data(&self.request.user, None, DIRECT);
        // What is misshapen there counts as not there.
        let by_user = datum.and_then(|datum| {
            serde_json::from_str::<HashMap<String, Vec<String>>>(&datum.content).ok()
        });
        let rooms = by_user.into_iter().flatten().flat_map(|(_, rooms)| rooms);
        rooms
            .filter_map(|room| OwnedRoomId::try_from(room).ok())
            .collect()
    }

    fn tags(&self) -> Result<HashMap<OwnedRoomId, BTreeSet<String>>, SyncError> {
        let (sync, user) = (&self.sync, &self.request.user);
        let mut tags = HashMap::new();
        let partition = partition_of(user.as_str(), sync.output.partitions());
        let data = sync.changed_account_data(user, partition, 0, u64::MAX)?;
        for (room, types) in data {
            let Some(room) = room.filter(|_| types.contains(TAG)) else {
                continue;
            };
            let datum = sync.users.account_data(user, Some(&room), TAG);
            let content = datum
                .and_then(|datum| serde_json::from_str::<serde_json::Value>(&datum.content).ok());
            let named = content
                .as_ref()
                .and_then(|content| content.get("tags")?.as_object());
            let named = named.into_iter().flat_map(|tags| tags.keys().cloned());
            tags.insert(room, named.collect());
        }
        Ok(tags)
    }

    /// The children of a space that the user is joined to.
    fn add_space(
        &self,
        before: &UserFacts,
        facts: &mut UserFacts,
        space: OwnedRoomId,
    ) -> Result<(), SyncError> {
        let sync = &self.sync;
        let is_joined = {
            let memory = sync.memory.read();
            let ix = memory.room_ix(&space);
            let user = memory.user(&self.request.user);
            let standing = ix.and_then(|ix| user?.rooms.get(&ix));
            standing.is_some_and(|standing| standing.membership == Membership::Join)
        };
        let head = match is_joined {
            true => sync.rooms.head(&space)?,
            false => None,
        };
        let Some(head) = head else { return Ok(()) };
        let known = before.spaces.get(&space);
        if let Some((state, children)) = known.filter(|(state, _)| *state == head.state_id) {
            facts.spaces.insert(space, (*state, children.clone()));
            return Ok(());
        }
        let first = StateKey::new(SPACE_CHILD, "");
        let children = head.state.range(first..);
        let events: Vec<_> = children
            .take_while(|(key, _)| &*key.kind == SPACE_CHILD)
            .map(|(_, event)| *event)
            .collect();
        let events = sync.rooms.events(&space, &events)?;
        let children = events.iter().filter(|event| names_servers(&event.json));
        let children =
            children.filter_map(|event| OwnedRoomId::try_from(event.state_key.as_deref()?).ok());
        let children = Arc::new(children.collect());
        facts.spaces.insert(space, (head.state_id, children));
        Ok(())
    }

    fn is_unwanted(
        &self,
        room: &RoomId,
        standing: &Standing,
        unwanted: &Unwanted,
    ) -> Result<bool, SyncError> {
        let invite: Vec<_> = standing.event.into_iter().collect();
        let invite = self.sync.rooms.events(room, &invite)?.pop();
        Ok(invite.is_some_and(|invite| unwanted.invite_from(&invite.sender)))
    }

    /// The rooms of lists and subscriptions that may have news.
    fn due(
        &mut self,
        memory: &Memory,
        user: &UserSlot,
        windows: &Windows,
        facts: &UserFacts,
    ) -> Result<Vec<Due>, SyncError> {
        let request = self.request.clone();
        // Each with the index of its subscription, if it has one.
        let mut rooms: Vec<(RoomIx, ListSet, Option<usize>)> = Vec::new();
        let mut listed: HashMap<RoomIx, ListSet> = HashMap::new();
        if !request.subscriptions.is_empty() {
            listed.extend(windows.rooms.iter().copied());
        }
        let mut subscribed = HashSet::new();
        for (index, room) in request.subscriptions.keys().enumerate() {
            if let Some(ix) = memory.room_ix(room) {
                let lists = listed.get(&ix).copied().unwrap_or_default();
                rooms.push((ix, lists, Some(index)));
                subscribed.insert(ix);
            }
        }
        let others = windows
            .rooms
            .iter()
            .filter(|(ix, _)| !subscribed.contains(ix));
        rooms.extend(others.map(|(ix, lists)| (*ix, *lists, None)));

        let mut combined: HashMap<(ListSet, Option<usize>), (u16, u16)> = HashMap::new();
        let mut due = Vec::new();
        for (ix, lists, subscription) in rooms {
            let slot = memory.room(ix);
            let Some(standing) = user.rooms.get(&ix) else {
                continue;
            };
            let told = &mut self.opened.connection.told;
            let may_know = standing.has_joined || is_listed(standing, slot, told);
            if !may_know || facts.hidden.contains(&slot.room_id) {
                continue;
            }
            let (config, timeline_limit) = match combined.get(&(lists, subscription)) {
                Some(known) => *known,
                None => {
                    let rules = rules_of(&request, lists, subscription);
                    let limit = rules
                        .iter()
                        .map(|rule| rule.timeline_limit)
                        .max()
                        .unwrap_or(0);
                    let wanted = Wanted::combine(rules.iter().map(|rule| &rule.required_state));
                    let config = told.intern(wanted).ok_or(SyncError::UnknownPosition)?;
                    combined.insert((lists, subscription), (config, limit));
                    (config, limit)
                }
            };
            let sent = told.rooms.get(&key_of(slot)).copied();
            let is_dm = facts.direct.contains(&slot.room_id);
            let is_due = sent.is_none_or(|sent: RoomSent| {
                let joined = standing.membership == Membership::Join;
                standing.changed_at >= sent.to
                    || (joined && slot.last_change >= sent.to)
                    || sent.is_dm != is_dm
                    || (standing.has_joined && told.expands(sent.config, config))
                    || (standing.has_joined
                        && timeline_limit > sent.limit
                        && timeline_limit > sent.held)
            });
            if !is_due {
                continue;
            }
            due.push(Due {
                candidate: Candidate {
                    room_id: slot.room_id.clone(),
                    partition: slot.partition,
                    room: slot.room,
                    standing: *standing,
                    newest: Newest {
                        timeline: slot.newest.timeline.since(sent.map_or(0, |sent| sent.to)),
                        ..slot.newest
                    },
                },
                bumped_us: slot.traits.bumped_us,
                lists,
                config,
                timeline_limit,
                is_dm,
                sent,
            });
        }
        due.truncate(ROOMS_TOLD_MAX);
        Ok(due)
    }

    /// Goes on behind an answer without news: what was looked at for it need not
    /// be looked at again.
    pub fn pass(&mut self, answer: Answer) {
        let connection = &mut self.opened.connection;
        connection.told.apply(&answer.news);
        connection.unwritten.extend(answer.news.rooms);
    }

    /// Tells what a plan found.
    pub fn build(&mut self, plan: Plan) -> Result<Answer, SyncError> {
        let connection = &self.opened.connection;
        let told = &connection.told;
        if told.rooms.len() + plan.due.len() > ROOMS_MAX {
            let (connections, store) = (&self.sync.sliding.connections, &self.sync.store);
            connections.expire(store.as_ref(), &self.opened.key)?;
            return Err(SyncError::UnknownPosition);
        }
        let teller = Teller {
            sync: &self.sync,
            request: &self.request,
            since: self.since.as_ref(),
            token: &plan.token,
            told,
            now_ms: clock::now_ms(),
            unwanted: plan.unwanted,
        };
        let mut news = News::default();
        let mut rooms = BTreeMap::new();
        for due in &plan.due {
            let told = teller.tell(due, &mut news)?;
            let slot = &due.candidate;
            let key = RoomKey {
                partition: slot.partition,
                room: slot.room,
            };
            news.rooms.push((key, told.sent));
            if let Some(body) = told.body {
                rooms.insert(slot.room_id.clone(), body);
            }
        }
        let new = plan.due.iter().filter(|due| due.sent.is_none());
        let new: Vec<_> = new.map(|due| due.candidate.room_id.clone()).collect();
        let extending = Extending {
            sync: &self.sync,
            request: &self.request,
            token: &plan.token,
            told,
        };
        let (extensions, extensions_told) = extending.build(&new)?;
        news.extensions = extensions_told;
        Ok(Answer {
            token: plan.token,
            news,
            counts: plan.windows.counts.clone(),
            rooms,
            extensions,
        })
    }
}

/// The rules that match a room.
fn rules_of(request: &SlidingRequest, lists: ListSet, subscription: Option<usize>) -> Vec<&Rule> {
    let of_lists = request.lists.iter().enumerate();
    let of_lists = of_lists.filter(|(index, _)| lists.contains(*index));
    let of_lists = of_lists.map(|(_, (_, list))| &list.rule);
    let subscribed = subscription.and_then(|index| request.subscriptions.values().nth(index));
    of_lists.chain(subscribed).collect()
}

/// Whether a space names servers through which its child can be joined: without
/// them it is none of its children (client-server API, `m.space.child`).
fn names_servers(pdu: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Content {
        via: Vec<String>,
    }
    let content = content_of(pdu).ok();
    let content = content.and_then(|content| serde_json::from_str::<Content>(content).ok());
    content.is_some_and(|content| !content.via.is_empty())
}
