//! One look at what is new for a connection: which rooms, then what of each.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use log_format::record::output::Membership;
use ruma::{OwnedRoomId, RoomId};

use super::super::answer::receipts_at;
use super::super::history::Newest;
use super::super::memory::{Memory, RoomIx, Standing, UserSlot};
use super::super::room::Candidate;
use super::super::{ClientSync, SyncError};
use super::body::{Body, ListBody, RoomBody};
use super::connection::{News, ROOMS_MAX, RoomKey, RoomSent};
use super::connections::Opened;
use super::extensions::{Extending, ExtensionsBody};
use super::lists::{ListSet, UserFacts, Windows, is_listed, key_of, rooms_outside};
use super::receipts::{ReceiptsBody, ReceiptsDue};
use super::request::{Dialect, Rule, SlidingRequest};
use super::required_state::Wanted;
use super::room::{Due, Teller};
use crate::clock;
use crate::logs::log::partition_of;
use crate::matrix::client_event::content_of;
use crate::query::ephemeral::Changes;
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
    receipts_due: Vec<ReceiptsDue>,
    windows: Arc<Windows>,
    unwanted: Unwanted,
    /// Where the reader stands. Behind `token`, if it has fallen behind what the
    /// client was told: what lies between is to be told later.
    cursors: Box<[u64]>,
    /// Of *ephemeral*.
    changes: Changes,
}

impl Plan {
    pub fn rooms_due(&self) -> usize {
        self.due.len() + self.receipts_due.len()
    }
}

/// A room that lists or a subscription name.
struct Named {
    room: RoomIx,
    lists: ListSet,
    /// Index of its subscription, if it has one.
    subscription: Option<usize>,
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
        let (changes, _) = sync.changes_since(self.since.as_ref());
        let memory = sync.memory.read();
        let token = sync.token(&memory, self.since.as_ref(), changes.to);
        let Some(user) = memory.user(&self.request.user) else {
            return Ok(Plan {
                token,
                due: Vec::new(),
                receipts_due: Vec::new(),
                windows: Arc::new(Windows::none(self.request.lists.len())),
                unwanted,
                cursors: memory.cursors.clone(),
                changes,
            });
        };
        let windows = cache.windows(&memory, user, &self.request.lists, told);
        let facts = cache.facts.clone();
        drop(cache);
        let rooms = self.rooms(&memory, &windows);
        let due = self.due(&memory, user, &rooms, &facts)?;
        let receipts_due = self.receipts_due(&memory, user, &rooms, &due);
        Ok(Plan {
            token,
            due,
            receipts_due,
            windows,
            unwanted,
            cursors: memory.cursors.clone(),
            changes,
        })
    }

    /// Looks up what lists depend on beside memory.
    fn facts(&self, before: &UserFacts, unwanted: &Unwanted) -> Result<UserFacts, SyncError> {
        let (sync, request) = (&self.sync, &self.request);
        let filters = || request.lists.iter().map(|(_, list)| &list.filters);
        let told = &self.opened.connection.told;
        let (cursors, data_at, outside) = {
            let memory = sync.memory.read();
            let Some(user) = memory.user(&request.user) else {
                return Ok(UserFacts::default());
            };
            let outside = rooms_outside(&memory, user, told);
            (memory.cursors.clone(), user.account_data_at, outside)
        };
        let mut facts = UserFacts {
            cursors,
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
        let inviter = self.sync.inviter(room, &self.request.user, standing)?;
        Ok(inviter.is_some_and(|inviter| unwanted.invite_from(&inviter)))
    }

    /// The rooms of lists and subscriptions.
    fn rooms(&self, memory: &Memory, windows: &Windows) -> Vec<Named> {
        let request = &self.request;
        let mut rooms = Vec::new();
        let mut listed: HashMap<RoomIx, ListSet> = HashMap::new();
        if !request.subscriptions.is_empty() {
            listed.extend(windows.rooms.iter().copied());
        }
        let mut subscribed = HashSet::new();
        for (index, room) in request.subscriptions.keys().enumerate() {
            if let Some(room) = memory.room_ix(room) {
                rooms.push(Named {
                    room,
                    lists: listed.get(&room).copied().unwrap_or_default(),
                    subscription: Some(index),
                });
                subscribed.insert(room);
            }
        }
        let others = windows.rooms.iter();
        let others = others.filter(|(room, _)| !subscribed.contains(room));
        rooms.extend(others.map(|(room, lists)| Named {
            room: *room,
            lists: *lists,
            subscription: None,
        }));
        rooms
    }

    /// Those that may have news.
    fn due(
        &mut self,
        memory: &Memory,
        user: &UserSlot,
        rooms: &[Named],
        facts: &UserFacts,
    ) -> Result<Vec<Due>, SyncError> {
        let request = self.request.clone();
        let tells_counts = request.dialect == Dialect::Unstable;
        let mut combined: HashMap<(ListSet, Option<usize>), (u16, u16)> = HashMap::new();
        let mut due = Vec::new();
        for named in rooms {
            let slot = memory.room(named.room);
            let Some(standing) = user.rooms.get(&named.room) else {
                continue;
            };
            let told = &mut self.opened.connection.told;
            // Who was in a room may subscribe to it, unless they forgot it.
            let may_know = match is_listed(standing, slot, told) {
                true => !facts.hidden.contains(&slot.room_id),
                false => {
                    let users = &self.sync.users;
                    standing.has_joined && !users.forgot(&request.user, &slot.room_id)
                }
            };
            if !may_know {
                continue;
            }
            let (lists, subscription) = (named.lists, named.subscription);
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
                    let config = told.intern(wanted).ok_or(match request.pos {
                        Some(_) => SyncError::UnknownPosition,
                        None => SyncError::TooManyRules,
                    })?;
                    combined.insert((lists, subscription), (config, limit));
                    (config, limit)
                }
            };
            let sent = told.rooms.get(&key_of(slot)).copied();
            let is_dm = facts.direct.contains(&slot.room_id);
            let read_at = receipts_at(user, slot, named.room);
            let is_due = sent.is_none_or(|sent: RoomSent| {
                let joined = standing.membership == Membership::Join;
                standing.changed_at >= sent.to
                    || (joined && slot.last_change >= sent.to)
                    || (joined && tells_counts && read_at >= Some(sent.to))
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
                    receipts_at: read_at,
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

    /// Rooms that the receipts extension is for, that are told with this answer or
    /// were before, and whose receipts changed since.
    fn receipts_due(
        &self,
        memory: &Memory,
        user: &UserSlot,
        rooms: &[Named],
        due: &[Due],
    ) -> Vec<ReceiptsDue> {
        let extension = &self.request.extensions.receipts;
        if !extension.is_enabled() {
            return Vec::new();
        }
        let for_lists = ListSet::of(&self.request.lists, |name| extension.is_for_list(name));
        let told_now: HashSet<RoomKey> = due.iter().map(Due::key).collect();
        let told = &self.opened.connection.told.rooms;
        let is_due = |named: &&Named| {
            let (slot, standing) = (memory.room(named.room), user.rooms.get(&named.room));
            let is_joined = standing.is_some_and(|it| it.membership == Membership::Join);
            let subscribed = named.subscription.is_some();
            let is_wanted = named.lists.meets(for_lists)
                || (subscribed && extension.is_for_room(slot.room_id.as_str()));
            let newest = slot
                .receipts_at
                .max(user.own_receipts.get(&named.room).copied());
            let key = key_of(slot);
            let sent = told.get(&key);
            is_joined
                && is_wanted
                && newest.is_some()
                && (told_now.contains(&key) || sent.is_some_and(|sent| newest >= sent.receipts_to))
        };
        let due = rooms.iter().filter(is_due).map(|named| {
            let slot = memory.room(named.room);
            ReceiptsDue {
                key: key_of(slot),
                room_id: slot.room_id.clone(),
            }
        });
        due.take(ROOMS_TOLD_MAX).collect()
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
        let new = plan.due.iter().filter(|due| due.sent.is_none());
        if told.rooms.len() + new.count() > ROOMS_MAX {
            let (connections, store) = (&self.sync.sliding.connections, &self.sync.store);
            connections.expire(store.as_ref(), &self.opened.key)?;
            return Err(SyncError::UnknownPosition);
        }
        let teller = Teller {
            sync: &self.sync,
            request: &self.request,
            since: self.since.as_ref(),
            token: &plan.token,
            cursors: &plan.cursors,
            told,
            now_ms: clock::now_ms(),
            unwanted: plan.unwanted.clone(),
        };
        let mut news = News::default();
        let mut rooms = BTreeMap::new();
        let mut sent: BTreeMap<RoomKey, RoomSent> = BTreeMap::new();
        for due in &plan.due {
            let told = teller.tell(due, &mut news)?;
            sent.insert(due.key(), told.sent);
            if let Some(body) = told.body {
                rooms.insert(due.candidate.room_id.clone(), body);
            }
        }
        let mut receipts = ReceiptsBody::default();
        for due in &plan.receipts_due {
            let now = sent.get(&due.key).or_else(|| told.rooms.get(&due.key));
            // One that there was no space for is told with its receipts later.
            let Some(now) = now.copied().filter(RoomSent::is_joined) else {
                continue;
            };
            let cursor = plan.cursors.get(due.key.partition as usize).copied();
            let from = now.receipts_to.unwrap_or(0);
            let to = cursor.unwrap_or(0).max(from);
            let user = &self.request.user;
            let event = self.sync.receipts_event(due.key, user, from..to)?;
            let room = due.room_id.clone();
            receipts.rooms.extend(event.map(|event| (room, event)));
            let receipts_to = Some(to);
            sent.insert(due.key, RoomSent { receipts_to, ..now });
        }
        news.rooms = sent.into_iter().collect();
        let new = plan.due.iter().filter(|due| due.sent.is_none());
        let new: Vec<_> = new.map(|due| due.candidate.room_id.clone()).collect();
        let extending = Extending {
            sync: &self.sync,
            request: &self.request,
            cursors: &plan.cursors,
            since: self.since.as_ref(),
            token: &plan.token,
            told,
            windows: &plan.windows,
            unwanted: &plan.unwanted,
        };
        let (mut extensions, extensions_told) =
            extending.build(&new, &plan.changes, &mut news.typing)?;
        extensions.set_receipts(receipts);
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
