//! A room server that is slow and obvious: a whole map for the state after
//! each event, nothing interned, nothing remembered that could be worked out.
//! It decides what the fold must decide, with none of the fold's code.
//!
//! Resolution is ruma's where ruma has the algorithm; authorisation is
//! [`auth_rules`] over maps. Who is judged when is not decided here: the model
//! is asked about one event after the other.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use log_format::record::input::Placement;
use log_format::record::output::{Decision, Membership, Reason};
use ruma::events::{StateEventType, TimelineEventType};
use ruma::state_res::utils::event_id_set::EventIdSet;
use ruma::{MilliSecondsSinceUnixEpoch, OwnedEventId, UInt, UserId};
use serde_json::value::RawValue;

use super::harness::Draft;
use crate::matrix::RoomVersion;
use crate::matrix::auth_rules::{
    self, AuthEvent, AuthState, CitedEvent, CreateInfo, EventContent, JoinRule, MemberContent,
    PowerLevels, PowerLevelsView, ThirdPartyInvite,
};
use crate::matrix::canonical_json::CanonicalJsonObject;
use crate::matrix::state_res::{self, AuthGraph, Conflict, ResolutionEvent, Work};

/// Type and state key to event id.
pub type Map = BTreeMap<(String, String), String>;

/// What became of an event, and the states at it, if they can be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub decision: Decision,
    pub reason: Reason,
    pub before: Option<Map>,
    pub after: Option<Map>,
}

/// An event that the model was told.
pub struct Known {
    pub draft: Arc<Draft>,
    content: CanonicalJsonObject,
    raw: Box<RawValue>,
    kind: TimelineEventType,
    auth_ids: Vec<OwnedEventId>,
    prev_ids: Vec<OwnedEventId>,
    pub verdict: Verdict,
}

/// See the module.
pub struct Model {
    version: RoomVersion,
    create: CreateInfo,
    pub known: BTreeMap<String, Known>,
    by_id: BTreeMap<OwnedEventId, String>,
    /// Resolving is most of the work, and the same is asked often.
    resolved: RefCell<BTreeMap<BTreeSet<Map>, Map>>,
}

impl Known {
    fn new(draft: Arc<Draft>, verdict: Verdict) -> Known {
        let mut content = draft.content.clone();
        let rules = draft.version.rules().unwrap();
        if let Some(target) = &draft.redacts
            && rules.redaction.content_field_redacts
        {
            content["redacts"] = serde_json::json!(target);
        }
        let ids = |ids: &[String]| {
            let read = ids.iter().map(|id| OwnedEventId::try_from(&**id));
            read.collect::<Result<Vec<_>, _>>().unwrap()
        };
        Known {
            raw: serde_json::value::to_raw_value(&content).unwrap(),
            content: serde_json::from_value(content).unwrap(),
            kind: TimelineEventType::from(draft.kind.as_str()),
            auth_ids: ids(&draft.auth_events),
            prev_ids: ids(&draft.prev_events),
            draft,
            verdict,
        }
    }

    fn key(&self) -> Option<(String, String)> {
        let state_key = self.draft.state_key.clone()?;
        Some((self.draft.kind.clone(), state_key))
    }

    fn event(&self) -> AuthEvent<'_> {
        AuthEvent {
            event_id: &self.draft.id,
            room_id: &self.draft.room,
            sender: <&UserId>::try_from(self.draft.sender.as_str()).unwrap(),
            kind: &self.draft.kind,
            state_key: self.draft.state_key.as_deref(),
            content: EventContent::Parsed(&self.content),
            prev_events_count: self.draft.prev_events.len(),
            first_prev_event: self.draft.prev_events.first().map(String::as_str),
            redacts: self.draft.redacts.as_deref(),
        }
    }
}

impl ruma::state_res::Event for Known {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.draft.id
    }
    fn room_id(&self) -> Option<&ruma::RoomId> {
        Some(&self.draft.room)
    }
    fn sender(&self) -> &UserId {
        <&UserId>::try_from(self.draft.sender.as_str()).unwrap()
    }
    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(UInt::try_from(self.draft.origin_ts_ms).unwrap())
    }
    fn event_type(&self) -> &TimelineEventType {
        &self.kind
    }
    fn content(&self) -> &RawValue {
        &self.raw
    }
    fn state_key(&self) -> Option<&str> {
        self.draft.state_key.as_deref()
    }
    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.prev_ids.iter())
    }
    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.auth_ids.iter())
    }
    fn redacts(&self) -> Option<&OwnedEventId> {
        None
    }
    fn rejected(&self) -> bool {
        false
    }
}

/// A state as the rules read it.
struct Facts<'a> {
    create: &'a CreateInfo,
    levels: Option<PowerLevels>,
    held: BTreeMap<(&'a str, &'a str), &'a Known>,
}

impl AuthState for Facts<'_> {
    fn create(&self) -> Option<&CreateInfo> {
        Some(self.create)
    }
    fn power_levels(&self) -> Option<&PowerLevels> {
        self.levels.as_ref()
    }
    fn join_rule(&self) -> JoinRule {
        let held = self.held.get(&("m.room.join_rules", ""));
        held.map_or(JoinRule::Invite, |known| JoinRule::parse(&known.content))
    }
    fn membership(&self, user: &UserId) -> Option<Membership> {
        let held = self.held.get(&("m.room.member", user.as_str()))?;
        Membership::parse(held.content.get("membership")?.as_str()?)
    }
    fn third_party_invite(&self, token: &str) -> Option<ThirdPartyInvite> {
        let held = self.held.get(&("m.room.third_party_invite", token))?;
        let sender = held.event().sender.to_owned();
        Some(ThirdPartyInvite::parse(sender, &held.content))
    }
}

impl Model {
    /// A room that begins with its create event.
    pub fn new(create: Arc<Draft>) -> Model {
        let version = RoomVersion::try_from(&create.version).unwrap();
        let after = Map::from([(
            ("m.room.create".into(), String::new()),
            create.id.to_string(),
        )]);
        let accepted = Verdict {
            decision: Decision::Accepted,
            reason: Reason::None,
            before: Some(Map::new()),
            after: Some(after),
        };
        let known = Known::new(create.clone(), accepted);
        let info = CreateInfo::parse(
            version,
            create.id.clone(),
            create.room.clone(),
            known.event().sender.to_owned(),
            &known.content,
        );
        let id = create.id.to_string();
        Model {
            version,
            create: info.unwrap(),
            by_id: BTreeMap::from([(create.id.clone(), id.clone())]),
            known: BTreeMap::from([(id, known)]),
            resolved: RefCell::default(),
        }
    }

    fn facts<'a>(&'a self, ids: impl Iterator<Item = &'a String>) -> Option<Facts<'a>> {
        let mut facts = Facts {
            create: &self.create,
            levels: None,
            held: BTreeMap::new(),
        };
        for id in ids {
            let known = &self.known[id];
            let state_key = known.draft.state_key.as_deref().unwrap_or("\u{0}");
            let key = (known.draft.kind.as_str(), state_key);
            if key == ("m.room.power_levels", "") {
                facts.levels = Some(PowerLevels::parse(self.version, &known.content).ok()?);
            }
            facts.held.insert(key, known);
        }
        Some(facts)
    }

    fn allows<'a>(&'a self, state: impl Iterator<Item = &'a String>, event: &Known) -> bool {
        let facts = self.facts(state);
        facts.is_some_and(|facts| auth_rules::check(self.version, &event.event(), &facts).is_ok())
    }

    /// What a state says that an event should cite.
    pub fn auth_events(&self, state: &Map, draft: &Draft) -> Vec<String> {
        let content: CanonicalJsonObject = serde_json::from_value(draft.content.clone()).unwrap();
        let member = match draft.kind.as_str() {
            "m.room.member" => MemberContent::parse(&content).ok(),
            _ => None,
        };
        let sender = <&UserId>::try_from(draft.sender.as_str()).unwrap();
        let state_key = draft.state_key.as_deref();
        let kind = &draft.kind;
        let keys = auth_rules::auth_types_for_event(self.version, kind, sender, state_key, member);
        let held = keys.iter().map(|key| {
            let key = (key.kind.to_owned(), key.state_key.to_string());
            state.get(&key).cloned()
        });
        held.flatten().collect()
    }

    /// The state before an event that builds on these; none if it cannot be told.
    pub fn before(&self, prev_events: &[String]) -> Option<Map> {
        let after = |id: &String| self.known.get(id)?.verdict.after.clone();
        let states: Option<BTreeSet<Map>> = prev_events.iter().map(after).collect();
        states.map(|states| self.resolve(&states))
    }

    /// What the room ends with: accepted events that no other accepted one
    /// builds on, be it through events that are not accepted.
    pub fn extremities(&self) -> BTreeSet<String> {
        let is_accepted = |id: &str| {
            let known = self.known.get(id);
            known.is_some_and(|known| known.verdict.decision == Decision::Accepted)
        };
        let accepted = self.known.keys().filter(|id| is_accepted(id));
        let mut ends: BTreeSet<String> = accepted.cloned().collect();
        for id in ends.clone() {
            let mut todo = self.known[&id].draft.prev_events.clone();
            while let Some(id) = todo.pop() {
                ends.remove(&id);
                if let Some(known) = self.known.get(&id)
                    && !is_accepted(&id)
                {
                    todo.extend(known.draft.prev_events.iter().cloned());
                }
            }
        }
        ends
    }

    /// The state that all ends of the room make.
    pub fn current(&self) -> Map {
        let ends = self.extremities().into_iter();
        self.before(&ends.collect::<Vec<_>>()).unwrap()
    }

    /// Whether judging the event would change what became of it for what is
    /// known by now: none such must be left when a fold has ended.
    pub fn is_overdue(&self, id: &str) -> bool {
        let known = &self.known[id];
        let (draft, verdict) = (&known.draft, &known.verdict);
        let cites_well = || {
            let mut cited = draft.auth_events.iter().map(|id| self.known.get(id));
            cited.all(|cited| {
                cited.is_some_and(|cited| cited.verdict.decision != Decision::Rejected)
            })
        };
        let lacks_state = verdict.before.is_none() && draft.placement != Placement::Outlier;
        let waits_for_authority = verdict.decision == Decision::Rejected
            && matches!(
                verdict.reason,
                Reason::MissingAuthEvents | Reason::RejectedAuthEvent
            );
        lacks_state && self.before(&draft.prev_events).is_some()
            || waits_for_authority && cites_well()
    }

    /// Judges an event that came, or that waited.
    pub fn judge(&mut self, draft: &Arc<Draft>) -> Verdict {
        let id = draft.id.to_string();
        if let Some(known) = self.known.get(&id) {
            let again = match known.verdict.decision {
                Decision::Outlier => draft.placement != Placement::Outlier,
                Decision::Rejected => {
                    let has_state = known.verdict.after.is_some();
                    matches!(
                        known.verdict.reason,
                        Reason::MissingAuthEvents | Reason::RejectedAuthEvent
                    ) || !has_state && draft.placement != Placement::Outlier
                }
                _ => false,
            };
            if !again {
                return Verdict {
                    decision: Decision::Duplicate,
                    reason: Reason::None,
                    before: None,
                    after: None,
                };
            }
        }
        let nothing = Verdict {
            decision: Decision::Outlier,
            reason: Reason::None,
            before: None,
            after: None,
        };
        let mut event = Known::new(draft.clone(), nothing);
        event.verdict = self.verdict(&event);
        let verdict = event.verdict.clone();
        self.by_id.insert(draft.id.clone(), id.clone());
        self.known.insert(id, event);
        verdict
    }

    fn verdict(&self, event: &Known) -> Verdict {
        let draft = &event.draft;
        let refused = self.refused_by_cited(event);
        let unknown = |decision, reason| Verdict {
            decision,
            reason,
            before: None,
            after: None,
        };
        if draft.placement == Placement::Outlier {
            return match refused {
                Some(reason) => unknown(Decision::Rejected, reason),
                None => unknown(Decision::Outlier, Reason::None),
            };
        }
        let Some(before) = self.before(&draft.prev_events) else {
            return match refused {
                Some(reason) => unknown(Decision::Rejected, reason),
                None => unknown(Decision::Outlier, Reason::MissingEvents),
            };
        };
        let by_state = || (!self.allows(before.values(), event)).then_some(Reason::Forbidden);
        if let Some(reason) = refused.or_else(by_state) {
            return Verdict {
                decision: Decision::Rejected,
                reason,
                before: Some(before.clone()),
                after: Some(before),
            };
        }
        let mut after = before.clone();
        after.extend(event.key().map(|key| (key, draft.id.to_string())));
        let (decision, reason) = match self.allows(self.current().values(), event) {
            true => (Decision::Accepted, Reason::None),
            false => (Decision::SoftFailed, Reason::Forbidden),
        };
        Verdict {
            decision,
            reason,
            before: Some(before),
            after: Some(after),
        }
    }

    fn refused_by_cited(&self, event: &Known) -> Option<Reason> {
        let mut cited = vec![];
        for id in &event.draft.auth_events {
            cited.push(self.known.get(id));
        }
        if cited.iter().any(Option::is_none) {
            return Some(Reason::MissingAuthEvents);
        }
        let cited: Vec<&Known> = cited.into_iter().flatten().collect();
        let is_rejected = |known: &&&Known| known.verdict.decision == Decision::Rejected;
        if cited.iter().any(|known| is_rejected(&known)) {
            return Some(Reason::RejectedAuthEvent);
        }
        let list: Vec<CitedEvent<'_>> = cited
            .iter()
            .map(|known| CitedEvent {
                kind: &known.draft.kind,
                state_key: known.draft.state_key.as_deref().unwrap_or("\u{0}"),
                room_id: &known.draft.room,
                rejected: false,
            })
            .collect();
        let well_chosen =
            auth_rules::check_auth_events(self.version, &event.event(), &list).is_ok();
        let allowed = well_chosen && self.allows(event.draft.auth_events.iter(), event);
        (!allowed).then_some(Reason::Forbidden)
    }

    /// Events that are served redacted, of those that are part of the room.
    pub fn redacted(&self) -> BTreeSet<String> {
        let accepted = |known: &&Known| known.verdict.decision == Decision::Accepted;
        let redactions = self.known.values().filter(accepted);
        let redactions = redactions.filter(|known| known.draft.kind == "m.room.redaction");
        let mut redacted = BTreeSet::new();
        for redaction in redactions {
            let Some(target) = &redaction.draft.redacts else {
                continue;
            };
            let Some(known) = self.known.get(target).filter(accepted) else {
                continue;
            };
            let rules = &self.version.rules().authorization;
            let before = redaction.verdict.before.as_ref().unwrap();
            let facts = self.facts(before.values()).unwrap();
            let view = PowerLevelsView::new(&self.create, facts.levels.as_ref());
            let (event, of) = (redaction.event(), known.event());
            if rules.special_case_room_redaction
                || view.can_redact_others(event.sender)
                || event.sender.server_name() == of.sender.server_name()
            {
                redacted.insert(target.clone());
            }
        }
        redacted
    }

    /// Joined and invited members, and everyone's membership, of a state.
    pub fn members(&self, state: &Map) -> BTreeMap<String, Membership> {
        let members = state
            .iter()
            .filter(|((kind, _), _)| kind == "m.room.member");
        let of = |id: &String| {
            let word = self.known[id].content.get("membership").unwrap();
            Membership::parse(word.as_str().unwrap()).unwrap()
        };
        members
            .map(|((_, user), id)| (user.clone(), of(id)))
            .collect()
    }

    fn resolve(&self, states: &BTreeSet<Map>) -> Map {
        if states.len() < 2 {
            return states.first().cloned().unwrap_or_default();
        }
        if let Some(known) = self.resolved.borrow().get(states) {
            return known.clone();
        }
        let resolved = match self.version.rules().state_res.v2_rules() {
            Some(rules) if !self.has_join_without_rules() => self.resolve_by_ruma(rules, states),
            _ => self.resolve_by_ours(states),
        };
        let mut all = self.resolved.borrow_mut();
        all.insert(states.clone(), resolved.clone());
        resolved
    }

    /// Whether somebody joined without citing join rules: ruma refuses what the
    /// default rule allows here (see the tests of `state_res`).
    fn has_join_without_rules(&self) -> bool {
        let create = self.create.event_id.as_str();
        let is_rules = |id: &String| {
            let known = self.known.get(id);
            known.is_some_and(|known| known.draft.kind == "m.room.join_rules")
        };
        self.known.values().any(|known| {
            known.draft.content["membership"] == "join"
                && known.draft.prev_events != [create]
                && !known.draft.auth_events.iter().any(is_rules)
        })
    }

    fn auth_chain(&self, of: &String) -> BTreeSet<String> {
        let mut chain = BTreeSet::new();
        let mut todo = self.known[of].draft.auth_events.clone();
        while let Some(id) = todo.pop() {
            if chain.insert(id.clone()) {
                todo.extend(self.known[&id].draft.auth_events.iter().cloned());
            }
        }
        chain
    }

    fn resolve_by_ruma(
        &self,
        v2: &ruma::room_version_rules::StateResolutionV2Rules,
        states: &BTreeSet<Map>,
    ) -> Map {
        let id = |id: &String| self.known[id].draft.id.clone();
        let map = |state: &Map| -> ruma::state_res::StateMap<OwnedEventId> {
            let entry = |((kind, key), event): (&(String, String), &String)| {
                (
                    (StateEventType::from(kind.as_str()), key.clone()),
                    id(event),
                )
            };
            state.iter().map(entry).collect()
        };
        let mut chains: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for state in states {
            for event in state.values() {
                let chain = || self.auth_chain(event);
                chains.entry(event.clone()).or_insert_with(chain);
            }
        }
        let full_chain = |state: &Map| -> EventIdSet<OwnedEventId> {
            let all: BTreeSet<&String> = state.values().flat_map(|id| &chains[id]).collect();
            all.into_iter().map(id).collect()
        };
        let maps: Vec<_> = states.iter().map(map).collect();
        let full_chains = states.iter().map(full_chain).collect();
        // By the definition: between two conflicting events lies what one
        // reaches and what reaches the other.
        let subgraph = |conflicted: &ruma::state_res::StateMap<Vec<OwnedEventId>>| {
            let named: BTreeSet<String> = conflicted
                .values()
                .flatten()
                .map(|id| id.to_string())
                .collect();
            let reached: BTreeSet<String> =
                named.iter().flat_map(|id| self.auth_chain(id)).collect();
            let is_between = |event: &&String| {
                let reaches = || self.auth_chain(event).iter().any(|id| named.contains(id));
                named.contains(*event) || (reached.contains(*event) && reaches())
            };
            Some(self.known.keys().filter(is_between).map(id).collect())
        };
        let resolved = ruma::state_res::resolve(
            &self.version.rules().authorization,
            v2,
            &maps,
            full_chains,
            |id: &ruma::EventId| self.by_id.get(id).map(|id| &self.known[id]),
            subgraph,
        );
        let name = |((kind, key), id): ((StateEventType, String), OwnedEventId)| {
            ((kind.to_string(), key), id.to_string())
        };
        resolved.unwrap().into_iter().map(name).collect()
    }

    /// By our own algorithm, but over whole maps.
    fn resolve_by_ours(&self, states: &BTreeSet<Map>) -> Map {
        let ids: Vec<&String> = self.known.keys().collect();
        let number = |id: &String| ids.binary_search(&id).unwrap() as u64;
        let keys: BTreeSet<&(String, String)> =
            states.iter().flat_map(|state| state.keys()).collect();
        let mut conflict = Conflict::new(states.len());
        for key in &keys {
            let held = states.iter().enumerate();
            let held = held.map(|(index, state)| (index as u32, state.get(*key).map(number)));
            conflict.push(None, held);
        }
        let mut room = Numbered {
            model: self,
            ids: &ids,
        };
        let graph = AuthGraph::new();
        let mut work = Work::new(u64::MAX);
        let resolved =
            state_res::resolve(&self.create, &conflict, &graph, &mut room, &mut work).unwrap();
        let mut map = Map::new();
        for (key, entry) in keys.iter().zip(&resolved.entries) {
            map.extend(entry.map(|entry| ((*key).clone(), ids[entry as usize].clone())));
        }
        for added in &resolved.added {
            let id = ids[*added as usize];
            map.extend(self.known[id].key().map(|key| (key, id.clone())));
        }
        map
    }
}

/// The model's events by number.
struct Numbered<'a> {
    model: &'a Model,
    ids: &'a [&'a String],
}

impl state_res::Room for Numbered<'_> {
    type Error = Infallible;

    fn event(&mut self, id: u64) -> Result<Option<Arc<ResolutionEvent>>, Infallible> {
        let known = &self.model.known[self.ids[id as usize]];
        let draft = &known.draft;
        let create = self.model.create.event_id.as_str();
        let first = draft.prev_events.first();
        Ok(Some(Arc::new(ResolutionEvent {
            event_id: draft.id.clone(),
            sender: known.event().sender.to_owned(),
            kind: draft.kind.as_str().into(),
            state_key: draft.state_key.as_deref().unwrap().into(),
            content: known.content.clone(),
            origin_server_ts: draft.origin_ts_ms,
            depth: draft.depth,
            auth_events: draft
                .auth_events
                .iter()
                .map(|id| self.ids.binary_search(&id).unwrap() as u64)
                .collect(),
            prev_events_count: draft.prev_events.len(),
            first_prev_is_create: first.is_some_and(|id| id == create),
            redacts: None,
            rejected: false,
        })))
    }

    fn agreed(&mut self, _: &str, _: &str) -> Result<Option<u64>, Infallible> {
        Ok(None)
    }

    fn each_agreed(&mut self, _: &mut dyn FnMut(u64)) -> Result<(), Infallible> {
        Ok(())
    }
}
