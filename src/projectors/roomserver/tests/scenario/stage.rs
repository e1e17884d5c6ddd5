//! Plays one scenario in one version: makes its events as a correct server
//! would, feeds them to the room server, and compares what became of them.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use log_format::codec;
use log_format::record::envelope::Part;
use log_format::record::input::{
    InputRoomEvent, InputStateBegin, InputStateChunk, InputStateCommit, Placement,
};
use log_format::record::output::{Decision, OutputRoomGap};
use log_format::record::{Envelope, Kind, NewEnvelope, Source};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, UserId, server_name};

use super::super::harness::House;
use super::language::{EventSpec, Expected, Place, Scenario, StateAt, Step, StepKind, Use};
use crate::crypto::ServerKey;
use crate::crypto::signing_key::BASE64;
use crate::logs::log::NewRecord;
use crate::matrix::auth_rules::rule::switch;
use crate::matrix::auth_rules::{
    self, AuthEvent, AuthKey, AuthState, CitedEvent, CreateInfo, JoinRule, MemberContent,
    PowerLevels, Rule, ThirdPartyInvite, auth_types_for_event,
};
use crate::matrix::build::{BuiltEvent, EventRef, ProtoEvent, build_and_sign};
use crate::matrix::canonical_json::{
    CanonicalJsonObject, CanonicalJsonValue, Numbers, parse_object_with, to_bytes,
};
use crate::matrix::event::Pdu;
use crate::matrix::signing::{reference_hash, sign_json};
use crate::matrix::{Membership, RoomVersion};
use crate::query::rooms::{Rooms, StateKey};

/// A disagreement of a scenario with the room server.
#[derive(Clone, Debug)]
pub struct Failure {
    pub file: String,
    pub line: usize,
    pub version: RoomVersion,
    pub scenario: String,
    pub what: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Failure { file, line, .. } = self;
        let (version, scenario) = (self.version, &self.scenario);
        write!(
            f,
            "tests/rooms/{file}:{line} (version {version}, {scenario}): {}",
            self.what
        )
    }
}

/// An event that the scenario named.
struct Made {
    pdu: Pdu,
    built: BuiltEvent,
    place: Placement,
    local: bool,
}

/// A room server, and the rooms that were played on it.
pub struct Stage {
    pub house: House,
    rooms: u64,
    key: ServerKey,
}

impl Stage {
    pub fn new() -> Stage {
        Stage {
            house: House::new(),
            rooms: 0,
            key: ServerKey::from_seed([11; 32], "1"),
        }
    }

    /// Plays a scenario up to the first disagreement. Also tells which rules
    /// decided about any of its events.
    ///
    /// `names_count`: whether a refusal must be by the rule that is named.
    pub fn play(
        &mut self,
        scenario: &Scenario,
        version: RoomVersion,
        names_count: bool,
    ) -> (BTreeSet<Rule>, Result<(), Failure>) {
        self.rooms += 1;
        let mut play = Play {
            stage: self,
            version,
            names_count,
            made: BTreeMap::new(),
            room: None,
            creator: String::new(),
            gap: None,
            clock: 1_000_000,
            given: 0,
            seen: BTreeSet::new(),
        };
        let _ = switch::take_seen();
        let result = scenario
            .steps
            .iter()
            .filter(|step| step.versions.contains(&version))
            .try_for_each(|step| {
                play.step(step).map_err(|what| Failure {
                    file: scenario.file.clone(),
                    line: step.line,
                    version,
                    scenario: scenario.name.clone(),
                    what,
                })
            });
        (play.seen, result)
    }
}

struct Play<'a> {
    stage: &'a mut Stage,
    version: RoomVersion,
    names_count: bool,
    made: BTreeMap<String, Made>,
    room: Option<OwnedRoomId>,
    creator: String,
    /// Of the event fed last.
    gap: Option<OutputRoomGap>,
    clock: u64,
    given: u8,
    seen: BTreeSet<Rule>,
}

impl Play<'_> {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        match &step.kind {
            StepKind::Event(spec) => {
                if spec.kind == "m.room.create" && spec.used == Use::Fold {
                    self.creator = spec.sender.clone();
                }
                let made = self.make(spec)?;
                self.made.insert(spec.name.clone(), made);
                match spec.used {
                    Use::Later => Ok(()),
                    Use::Fold => self.feed(&spec.name, &step.expected),
                    Use::Judge => {
                        let judged = self.judge(spec);
                        self.compare(judged, &step.expected)
                    }
                }
            }
            StepKind::Feed(name) => self.feed(name, &step.expected),
            StepKind::Give { before, state } => self.give(before, state),
            StepKind::State {
                at,
                kind,
                state_key,
                event,
            } => {
                let found = self.state(at, &StateKey::new(kind, &self.user(state_key)))?;
                self.same(self.name_of(found.as_ref()), event.clone())
            }
            StepKind::Extremities(names) => {
                let head = self.stage.house.head(self.room()?);
                let found = head.extremities.iter();
                let found = found.filter_map(|tip| self.name_of(Some(&tip.event_id)));
                let found: BTreeSet<String> = found.collect();
                self.same(found, names.iter().cloned().collect())
            }
            StepKind::Decision { event, word } => {
                let id = &self.made(event)?.built.event_id;
                let event = self.stage.house.tables.event(self.room()?, id);
                let event = event.map_err(|error| error.to_string())?;
                let found = event.map_or("unknown", |event| event.decision.name());
                self.same(found, word.as_str())
            }
            StepKind::Redacted { event, by } => {
                let stored = self
                    .stage
                    .house
                    .event(self.room()?, &self.made(event)?.built.event_id);
                let found = match stored.redacted_by {
                    None => None,
                    Some(sn) => {
                        let events = self.stage.house.tables.events(self.room()?, &[sn]);
                        let events = events.map_err(|error| error.to_string())?;
                        self.name_of(events.first().map(|event| &event.event_id))
                    }
                };
                self.same(found, by.clone())
            }
            StepKind::Gap { prev, auth } => {
                let ids = |names: &[String]| -> Result<BTreeSet<String>, String> {
                    let ids = names.iter().map(|name| self.made(name));
                    ids.map(|made| Ok(made?.built.event_id.to_string()))
                        .collect()
                };
                let expected = (ids(prev)?, ids(auth)?);
                let found = self.gap.clone().map_or_else(Default::default, |gap| {
                    let set = |ids: Vec<String>| ids.into_iter().collect::<BTreeSet<String>>();
                    (set(gap.prev_events), set(gap.auth_events))
                });
                self.same(found, expected)
            }
        }
    }

    fn same<T: PartialEq + std::fmt::Debug>(&self, found: T, expected: T) -> Result<(), String> {
        match found == expected {
            true => Ok(()),
            false => Err(format!("expected {expected:?}, got {found:?}")),
        }
    }

    fn room(&self) -> Result<&OwnedRoomId, String> {
        self.room.as_ref().ok_or("there is no room yet".to_owned())
    }

    fn made(&self, name: &str) -> Result<&Made, String> {
        self.made
            .get(name)
            .ok_or_else(|| format!("{name:?} is no event"))
    }

    fn name_of(&self, id: Option<&OwnedEventId>) -> Option<String> {
        let id = id?;
        let mut named = self.made.iter();
        let named = named.find(|(_, made)| made.built.event_id == *id);
        Some(named.map_or_else(|| id.to_string(), |(name, _)| name.clone()))
    }

    fn user(&self, word: &str) -> String {
        match word {
            "@creator" => self.creator.clone(),
            other => other.to_owned(),
        }
    }

    fn state(&self, at: &StateAt, key: &StateKey) -> Result<Option<OwnedEventId>, String> {
        let tables = &self.stage.house.tables;
        let room = self.room()?;
        let stored = |name: &String| -> Result<_, String> {
            Ok(self
                .stage
                .house
                .event(room, &self.made(name)?.built.event_id))
        };
        let state_id = match at {
            StateAt::Current => self.stage.house.head(room).state_id,
            StateAt::Before(event) => stored(event)?.state_before,
            StateAt::After(event) => stored(event)?.state_after,
        };
        let text = |error: crate::query::rooms::QueryError| error.to_string();
        let Some(sn) = tables.state_entry(room, state_id, key).map_err(text)? else {
            return Ok(None);
        };
        let events = tables.events(room, &[sn]).map_err(text)?;
        Ok(events.first().map(|event| event.event_id.clone()))
    }

    /// Feeds an event and compares its decision.
    fn feed(&mut self, name: &str, expected: &[Expected]) -> Result<(), String> {
        let made = self.made(name)?;
        let room = made.built.room_id.clone();
        let record = self.record(made);
        let _ = switch::take_seen();
        let outcome = self.stage.house.fold_group(vec![record]).pop();
        let outcome = outcome.ok_or("nothing was decided")?;
        let seen = switch::take_seen();
        self.seen.extend(seen.iter().copied());
        let gap = outcome.folded.output.iter().find_map(|record| {
            let envelope = Envelope::parse(&record.payload).ok()?;
            match envelope.kind {
                Kind::OutputRoomGap => codec::decode::<OutputRoomGap>(envelope.body).ok(),
                _ => None,
            }
        });
        self.gap = gap;
        let decision = outcome.verdict().0;
        if decision == Decision::Accepted && self.room.is_none() {
            self.room = Some(room);
        }
        let shown = format!("{:?}", outcome.verdict().1);
        self.compare((decision.name(), shown, seen), expected)
    }

    fn compare(
        &self,
        (word, reason, seen): (&str, String, BTreeSet<Rule>),
        expected: &[Expected],
    ) -> Result<(), String> {
        let wanted = expected
            .iter()
            .find(|wanted| wanted.versions.contains(&self.version));
        let (wanted, rule) = match wanted {
            Some(wanted) => (wanted.word.as_str(), wanted.rule),
            None => ("accepted", None),
        };
        let by = rule.filter(|_| self.names_count);
        if word == wanted && by.is_none_or(|rule| seen.contains(&rule)) {
            return Ok(());
        }
        let by = by.map_or_else(String::new, |rule| format!(" by {rule}"));
        let seen: Vec<&str> = seen.iter().map(|rule| rule.name()).collect();
        Err(format!(
            "expected {wanted}{by}, got {word} ({reason}; rules that decided: {seen:?})"
        ))
    }

    /// What the rules alone say, of what the event cites and of current state.
    fn judge(&mut self, spec: &EventSpec) -> (&'static str, String, BTreeSet<Rule>) {
        let made = &self.made[&spec.name];
        let elsewhere = OwnedRoomId::try_from("!elsewhere:hs").expect("valid");
        let room = match spec.elsewhere {
            true => elsewhere.clone(),
            false => made.built.room_id.clone(),
        };
        let event = AuthEvent {
            room_id: &room,
            state_key: made.pdu.state_key.as_deref().filter(|_| !spec.stateless),
            ..AuthEvent::from(&made.pdu)
        };
        let by_id = |id: &OwnedEventId| {
            let mut named = self.made.iter();
            named.find(|(_, made)| made.built.event_id == *id)
        };
        let cited: Vec<CitedEvent<'_>> = made
            .pdu
            .auth_events
            .iter()
            .filter_map(by_id)
            .map(|(name, made)| CitedEvent {
                kind: &made.pdu.kind,
                state_key: made.pdu.state_key.as_deref().unwrap_or_default(),
                room_id: match spec.foreign.contains(name) {
                    true => &elsewhere,
                    false => &made.built.room_id,
                },
                rejected: spec.rejected.contains(name),
            })
            .collect();
        let _ = switch::take_seen();
        let judged =
            auth_rules::check_auth_events(self.version, &event, &cited).and_then(|()| match &self
                .room
            {
                Some(room) if !spec.nowhere => {
                    let head = self.stage.house.head(room);
                    auth_rules::check(self.version, &event, &*head.authority)
                }
                _ => auth_rules::check(self.version, &event, &Nowhere),
            });
        let seen = switch::take_seen();
        self.seen.extend(seen.iter().copied());
        match judged {
            Ok(()) => ("accepted", String::new(), seen),
            Err(error) => ("rejected", error.to_string(), seen),
        }
    }

    /// Gives the state before an event, as another server would tell it.
    fn give(&mut self, before: &str, state: &[String]) -> Result<(), String> {
        self.given += 1;
        let mut given = [self.given; 16];
        given[..8].copy_from_slice(&self.stage.rooms.to_be_bytes());
        let room = self.made(before)?.built.room_id.clone();
        let ids = state.iter().map(|name| self.made(name));
        let event_ids: Result<Vec<String>, String> = ids
            .map(|made| Ok(made?.built.event_id.to_string()))
            .collect();
        let event_id = self.made(before)?.built.event_id.to_string();
        let record = |kind: Kind, body: Vec<u8>| {
            let envelope = NewEnvelope {
                key: room.as_str(),
                room_id: Some(room.as_str()),
                body: &body,
                ..NewEnvelope::default()
            };
            NewRecord::new(kind, Source::Federation, &envelope)
        };
        let begin = codec::encode(&InputStateBegin { given, event_id });
        let chunk = codec::encode(&InputStateChunk {
            given,
            event_ids: event_ids?,
        });
        let commit = codec::encode(&InputStateCommit { given });
        let records = vec![
            record(Kind::InputStateBegin, begin),
            record(Kind::InputStateChunk, chunk),
            record(Kind::InputStateCommit, commit),
        ];
        for outcome in self.stage.house.fold_group(records) {
            self.same(outcome.verdict().0, Decision::Accepted)?;
        }
        Ok(())
    }
}

/// Making events.
impl Play<'_> {
    /// Makes an event as its sender's server would.
    fn make(&mut self, spec: &EventSpec) -> Result<Made, String> {
        self.clock += 1;
        let sender = OwnedUserId::try_from(self.user(&spec.sender)).map_err(|_| "bad sender")?;
        let is_create = spec.kind == "m.room.create";
        let content = self.content(spec)?;
        let state_key = spec.state_key.as_deref().map(|key| self.user(key));
        let previous = match &spec.after {
            Some(names) => self.ids(names)?,
            None if is_create => Vec::new(),
            None => {
                let head = self.stage.house.head(self.room()?);
                let tips = head.extremities.iter();
                tips.map(|tip| tip.event_id.clone()).collect()
            }
        };
        let auth_events = match &spec.auth {
            Some(names) => self.ids(names)?,
            None => self.select(spec, &sender, state_key.as_deref(), &content, &previous)?,
        };
        let made_by_id = |id: &OwnedEventId| {
            let mut made = self.made.values();
            made.find(|made| made.built.event_id == *id)
        };
        let depths = previous.iter().filter_map(made_by_id);
        let depth = depths.map(|made| made.pdu.depth).max().unwrap_or(0) + 1;
        let reference = |id: &OwnedEventId| EventRef {
            event_id: id.clone(),
            hash: made_by_id(id).map(|made| {
                let hash = reference_hash(self.version.rules(), made.pdu.object());
                BASE64.encode(hash).into()
            }),
        };
        let redacts = match &spec.redacts {
            None => None,
            Some(name) if name.starts_with('$') => {
                Some(OwnedEventId::try_from(name.as_str()).map_err(|_| "bad event id")?)
            }
            Some(name) => Some(self.made(name)?.built.event_id.clone()),
        };
        let proto = ProtoEvent {
            room_id: self.room_id(spec, &sender)?,
            sender: sender.clone(),
            kind: spec.kind.as_str().into(),
            state_key: state_key.map(Into::into),
            content,
            redacts,
            prev_events: previous.iter().map(reference).collect(),
            auth_events: auth_events.iter().map(reference).collect(),
            depth: spec.depth.unwrap_or(depth),
            // From version 12 rooms that are created alike at one time are one.
            origin_server_ts: spec.ts.unwrap_or(match is_create {
                true => self.stage.rooms,
                false => self.clock,
            }),
            event_localpart: Some(format!("{}-{}", spec.name, self.stage.rooms).into()),
        };
        let server = sender.server_name();
        let built = build_and_sign(self.version, proto, server, &self.stage.key);
        let built = built.map_err(|error| error.to_string())?;
        let pdu = Pdu::parse(self.version, &built.json).map_err(|error| error.to_string())?;
        Ok(Made {
            pdu,
            built,
            place: match &spec.place {
                Place::New => Placement::New,
                Place::Outlier => Placement::Outlier,
                Place::Backfill(before) => Placement::Backfill {
                    before: self.made(before)?.built.event_id.to_string(),
                },
            },
            local: spec.local,
        })
    }

    fn ids(&self, names: &[String]) -> Result<Vec<OwnedEventId>, String> {
        let ids = names.iter().map(|name| self.made(name));
        ids.map(|made| Ok(made?.built.event_id.clone())).collect()
    }

    fn room_id(&self, spec: &EventSpec, sender: &UserId) -> Result<Option<OwnedRoomId>, String> {
        let is_create = spec.kind == "m.room.create";
        match (is_create, &self.room) {
            (true, _) if self.version.room_id_is_create_hash() => return Ok(None),
            (false, Some(room)) => return Ok(Some(room.clone())),
            _ => {}
        }
        let own = sender.server_name().as_str();
        let server = spec.room_server.as_deref().unwrap_or(own);
        let id = format!("!room{}:{server}", self.stage.rooms);
        let id = OwnedRoomId::try_from(id).map_err(|_| "bad room id")?;
        Ok(Some(id))
    }

    /// The content, with what differs between versions filled in.
    fn content(&self, spec: &EventSpec) -> Result<CanonicalJsonObject, String> {
        let parse = |text: &str| {
            let parsed = parse_object_with(text.as_bytes(), Numbers::Kept);
            parsed.map_err(|error| format!("content is {error}"))
        };
        let mut content = parse(&self.fill_in(&spec.content)?)?;
        let rules = &self.version.rules().authorization;
        if spec.kind == "m.room.create" {
            let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
            let mut whole = CanonicalJsonObject::new();
            whole.insert("room_version".to_owned(), text(self.version.as_str()));
            if !rules.use_room_create_sender {
                whole.insert("creator".to_owned(), text(&spec.sender));
            }
            whole.extend(content);
            whole.retain(|_, value| *value != CanonicalJsonValue::Null);
            return Ok(whole);
        }
        if spec.kind == "m.room.power_levels"
            && let Some(CanonicalJsonValue::Object(users)) = content.get_mut("users")
            && let Some(level) = users.remove("@creator")
            && !rules.explicitly_privilege_room_creators
        {
            users.insert(self.creator.clone(), level);
        }
        Ok(content)
    }

    /// `$KEY` is a public key, `$SIGNED(mxid,token)` what its owner signed.
    fn fill_in(&self, text: &str) -> Result<String, String> {
        let key = ServerKey::from_seed([12; 32], "0");
        let mut text = text.replace("$KEY", &key.public_base64());
        while let Some(start) = text.find("$SIGNED(") {
            let rest = &text[start + "$SIGNED(".len()..];
            let (inner, after) = rest.split_once(')').ok_or("$SIGNED( has no end")?;
            let (mxid, token) = inner.split_once(',').ok_or("$SIGNED(mxid,token)")?;
            let mut signed = CanonicalJsonObject::new();
            for (key, value) in [("mxid", mxid), ("token", token)] {
                let value = CanonicalJsonValue::String(value.trim().to_owned());
                signed.insert(key.to_owned(), value);
            }
            sign_json(&mut signed, server_name!("id.example"), &key);
            let signed = String::from_utf8(to_bytes(&signed)).map_err(|_| "not text")?;
            text = format!("{}{signed}{after}", &text[..start]);
        }
        Ok(text)
    }

    /// The auth events that the specification selects, out of the states after
    /// `previous` (the first that has the key), or of current state.
    fn select(
        &self,
        spec: &EventSpec,
        sender: &UserId,
        state_key: Option<&str>,
        content: &CanonicalJsonObject,
        previous: &[OwnedEventId],
    ) -> Result<Vec<OwnedEventId>, String> {
        if self.room.is_none() {
            return Ok(Vec::new());
        }
        let member = match spec.kind.as_str() {
            "m.room.member" => MemberContent::parse(content).ok(),
            _ => None,
        };
        let keys = auth_types_for_event(self.version, &spec.kind, sender, state_key, member);
        let mut ids = Vec::new();
        for key in &keys {
            let AuthKey { kind, state_key } = key;
            let key = StateKey::new(kind, state_key);
            let known = previous.iter().filter_map(|id| self.name_of(Some(id)));
            let mut found = None;
            for name in known.filter(|name| self.is_placed(name)) {
                found = found.or(self.state(&StateAt::After(name), &key)?);
            }
            let nothing_known = !previous
                .iter()
                .filter_map(|id| self.name_of(Some(id)))
                .any(|name| self.is_placed(&name));
            if found.is_none() && nothing_known {
                found = self.state(&StateAt::Current, &key)?;
            }
            ids.extend(found);
        }
        let less = self.ids(&spec.auth_less)?;
        ids.retain(|id| !less.contains(id));
        ids.extend(self.ids(&spec.auth_more)?);
        Ok(ids)
    }

    /// Whether the room server knows the state at an event.
    fn is_placed(&self, name: &str) -> bool {
        let (Ok(room), Ok(made)) = (self.room(), self.made(name)) else {
            return false;
        };
        let stored = self.stage.house.tables.event(room, &made.built.event_id);
        matches!(stored, Ok(Some(event)) if event.state_after != crate::query::ids::StateId::EMPTY)
    }

    /// The record that a writer appends for an event.
    fn record(&self, made: &Made) -> NewRecord {
        let (pdu, built) = (&made.pdu, &made.built);
        let ids = |ids: &[OwnedEventId]| ids.iter().map(ToString::to_string).collect();
        let membership = pdu.content_str("membership").map(str::to_owned);
        let body = codec::encode(&InputRoomEvent {
            placement: made.place.clone(),
            depth: pdu.depth,
            prev_events: ids(&pdu.prev_events),
            auth_events: ids(&pdu.auth_events),
            redacts: pdu.redacts.as_ref().map(ToString::to_string),
            relation: None,
            membership: membership.filter(|_| &*pdu.kind == "m.room.member"),
            transaction: None,
            verified_with: vec![],
            batch_index: 0,
            batch_count: 1,
        });
        let envelope = NewEnvelope {
            received_us: 5,
            origin_ts_ms: pdu.origin_server_ts,
            key: built.room_id.as_str(),
            room_id: Some(built.room_id.as_str()),
            event_id: Some(built.event_id.as_str()),
            sender: Some(pdu.sender.as_str()),
            event_type: Some(&pdu.kind),
            state_key: pdu.state_key.as_deref(),
            room_version: Some(self.version.as_str()),
            body: &body,
            auth_extract: match &built.auth_extract {
                Some(extract) => Part::Present(extract),
                None => Part::Absent,
            },
            skeleton: Part::Present(&built.skeleton),
            body_part: Part::Present(&built.json),
            salt: [3; 32],
            ..NewEnvelope::default()
        };
        let source = match made.local {
            true => Source::Client,
            false => Source::Federation,
        };
        NewRecord::new(Kind::InputRoomEvent, source, &envelope)
    }
}

/// No room at all.
struct Nowhere;

impl AuthState for Nowhere {
    fn create(&self) -> Option<&CreateInfo> {
        None
    }
    fn power_levels(&self) -> Option<&PowerLevels> {
        None
    }
    fn join_rule(&self) -> JoinRule {
        JoinRule::Invite
    }
    fn membership(&self, _: &UserId) -> Option<Membership> {
        None
    }
    fn third_party_invite(&self, _: &str) -> Option<ThirdPartyInvite> {
        None
    }
}
