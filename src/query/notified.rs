//! Of which events a user is notified: by their push rules, in the room as it is
//! (client-server API, *Push Notifications*). One place decides it for counts,
//! for lists of notifications, and for what is pushed.
//!
//! An event is parsed once, whoever asks, and each set of rules is asked of it
//! once; most users have the same. Whether a user may see the event, and wants
//! to, is for [`super::visibility`].

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use quick_cache::Weighter;
use quick_cache::unsync::Cache;
use ruma::{EventId, OwnedEventId, OwnedUserId, RoomId, UserId};

use super::ids::{EventSn, OutputOffset, RoomSn};
use super::rooms::{QueryError, Rooms, StateKey, StoredEvent};
use super::threads::thread_root;
use super::users::Users;
use crate::matrix::client_event::content_of;
use crate::matrix::push_rules::{Plan, PushEvent, PushRoom, Reader, Rules, Ruleset, Verdict};

/// The account data that holds a user's rules.
pub const PUSH_RULES: &str = "m.push_rules";

/// Users whose compiled rules are remembered; the rules themselves are shared.
const USERS_MAX: usize = 10_000;
/// Sets of rules among which equal ones are looked for.
const SHARED_MAX: usize = 10_000;
/// Events that are remembered, and the memory that they may take together, in
/// bytes: some seconds of a busy server.
const EVENTS_MAX: usize = 2_000;
const EVENTS_BYTES_MAX: u64 = 32 << 20;
/// Bytes that an event takes in memory for each byte of JSON, and besides.
const BYTES_PER_BYTE: u64 = 4;
const BYTES_PER_EVENT: u64 = 2_000;
/// Sets of rules whose plans are kept of one event. Of more, the oldest is
/// given up: they are asked again.
const PLANS_MAX: usize = 64;

/// The rules of a user.
pub fn ruleset_of(users: &dyn Users, user: &UserId) -> Ruleset {
    let datum = users.account_data(user, None, PUSH_RULES);
    Ruleset::of_user(user, datum.as_ref().map(|datum| &*datum.content))
}

/// Judges events. Shared by all that do.
pub struct Notified {
    rooms: Arc<dyn Rooms>,
    users: Arc<dyn Users>,
    rules: Mutex<KnownRules>,
    judged: Mutex<Cache<OwnedEventId, Arc<Judged>, EventWeight>>,
}

struct KnownRules {
    /// With where the user's rules last changed.
    by_user: Cache<OwnedUserId, (Option<OutputOffset>, Arc<Rules>)>,
    shared: HashSet<Arc<Rules>>,
}

#[derive(Clone)]
struct EventWeight;

impl Weighter<OwnedEventId, Arc<Judged>> for EventWeight {
    fn weight(&self, _: &OwnedEventId, judged: &Arc<Judged>) -> u64 {
        judged.bytes
    }
}

impl Notified {
    pub fn new(rooms: Arc<dyn Rooms>, users: Arc<dyn Users>) -> Notified {
        Notified {
            rooms,
            users,
            rules: Mutex::new(KnownRules {
                by_user: Cache::new(USERS_MAX),
                shared: HashSet::new(),
            }),
            judged: Mutex::new(Cache::with_weighter(
                EVENTS_MAX,
                EVENTS_BYTES_MAX,
                EventWeight,
            )),
        }
    }

    /// The rules of a user as they are now, compiled.
    pub fn rules(&self, user: &UserId) -> Arc<Rules> {
        let datum = self.users.account_data(user, None, PUSH_RULES);
        let changed_at = datum.as_ref().map(|datum| datum.changed_at);
        if let Some((known_at, rules)) = self.rules.lock().by_user.get(user)
            && *known_at == changed_at
        {
            return rules.clone();
        }
        let ruleset = Ruleset::of_user(user, datum.as_ref().map(|datum| &*datum.content));
        let rules = Rules::compile(&ruleset, user);
        let mut known = self.rules.lock();
        let rules = match known.shared.get(&rules) {
            Some(same) => same.clone(),
            None => known.share(rules),
        };
        let entry = (changed_at, rules.clone());
        known.by_user.insert(user.to_owned(), entry);
        rules
    }

    /// An event that can be asked about, by its rows as of now. None of one that
    /// was redacted, which notifies nobody, and of a room that is gone.
    pub fn judged(
        &self,
        room: &RoomId,
        event: &StoredEvent,
    ) -> Result<Option<Arc<Judged>>, QueryError> {
        if event.redacted_by.is_some() {
            return Ok(None);
        }
        let event_id: &EventId = &event.event_id;
        if let Some(judged) = self.judged.lock().get(event_id)
            && judged.event_is(event)
        {
            return Ok(Some(judged.clone()));
        }
        let Some(head) = self.rooms.head(room)? else {
            return Ok(None);
        };
        let parsed = PushEvent::parse(&event.json, event_id, room, &event.sender);
        let Ok(parsed) = parsed else {
            // Kept as it came from elsewhere, and of no use to rules.
            return Ok(None);
        };
        let judged = Arc::new(Judged {
            room: event.room,
            sn: event.event,
            thread: thread_root(&*self.rooms, room, event)?.map(Arc::new),
            event: parsed,
            circumstances: PushRoom {
                joined_members: head.joined_members,
                create: head.authority.create_info.clone(),
                levels: head.authority.power.clone(),
            },
            plans: Mutex::default(),
            bytes: event.json.len() as u64 * BYTES_PER_BYTE + BYTES_PER_EVENT,
        });
        self.judged
            .lock()
            .insert(event_id.to_owned(), judged.clone());
        Ok(Some(judged))
    }

    /// The name of a user in a room as it is now; nothing if they have none, or
    /// it cannot be read: then no rule is about it.
    pub fn name_of(&self, room: &RoomId, user: &UserId) -> String {
        self.display_name(room, user).unwrap_or_else(|error| {
            tracing::warn!(%error, "name of a member could not be read");
            String::new()
        })
    }

    fn display_name(&self, room: &RoomId, user: &UserId) -> Result<String, QueryError> {
        let Some(head) = self.rooms.head(room)? else {
            return Ok(String::new());
        };
        let key = StateKey::new("m.room.member", user.as_str());
        let own: Vec<EventSn> = head.state.get(&key).copied().into_iter().collect();
        let own = self.rooms.events(room, &own)?.pop();
        Ok(own.and_then(|own| name_in(&own.json)).unwrap_or_default())
    }
}

impl KnownRules {
    fn share(&mut self, rules: Rules) -> Arc<Rules> {
        if self.shared.len() >= SHARED_MAX {
            self.shared.retain(|rules| Arc::strong_count(rules) > 1);
        }
        let rules = Arc::new(rules);
        if self.shared.len() < SHARED_MAX {
            self.shared.insert(rules.clone());
        }
        rules
    }
}

/// `displayname` of a membership event.
fn name_in(pdu: &[u8]) -> Option<String> {
    let content: serde_json::Value = serde_json::from_str(content_of(pdu).ok()?).ok()?;
    Some(content.get("displayname")?.as_str()?.to_owned())
}

/// An event, with what rules say of it in its room. The room is as it was when
/// the event was first judged: soon after it came, if anybody waits for it.
pub struct Judged {
    room: RoomSn,
    sn: EventSn,
    event: PushEvent,
    circumstances: PushRoom,
    /// Root of the thread that the event is in, if it is in one.
    thread: Option<Arc<OwnedEventId>>,
    plans: Mutex<Vec<(Arc<Rules>, Arc<Plan>)>>,
    bytes: u64,
}

impl Judged {
    /// Two rooms may have events of one id.
    fn event_is(&self, event: &StoredEvent) -> bool {
        self.sn == event.event && self.room == event.room
    }

    /// Root of the thread that the event is in; none for the main timeline.
    pub fn thread(&self) -> Option<&Arc<OwnedEventId>> {
        self.thread.as_ref()
    }

    /// What the event means to a user with these rules.
    pub fn verdict(&self, rules: &Arc<Rules>, reader: &Reader<'_>) -> Verdict {
        rules.verdict(&self.plan(rules), &self.event, reader)
    }

    /// The actions of the rule that applies, as JSON.
    pub fn actions<'r>(&self, rules: &'r Arc<Rules>, reader: &Reader<'_>) -> Option<&'r str> {
        rules.actions(&self.plan(rules), &self.event, reader)
    }

    /// Rules that are the same are the same allocation.
    fn plan(&self, rules: &Arc<Rules>) -> Arc<Plan> {
        let mut plans = self.plans.lock();
        let known = plans.iter().find(|(known, _)| Arc::ptr_eq(known, rules));
        if let Some((_, plan)) = known {
            return plan.clone();
        }
        // Made in the lock: whoever waits for it would make the same.
        let plan = Arc::new(rules.plan(&self.event, &self.circumstances));
        if plans.len() == PLANS_MAX {
            plans.remove(0);
        }
        plans.push((rules.clone(), plan.clone()));
        plan
    }
}
