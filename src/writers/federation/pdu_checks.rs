//! The checks of an event from elsewhere that need no room: its format, its
//! signatures and its hash (server-server API, *Checks performed on receipt of a
//! PDU*, steps 1 to 3), and the record that it becomes.
//!
//! Keys are fetched once for all events of a call, and only for those whose keys
//! are not known. Events are read and verified on threads that may block, as many
//! as there are processors.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread::available_parallelism;

use bytes::Bytes;
use futures_util::future::join_all;
use log_format::codec;
use log_format::record::envelope::{Part, flags};
use log_format::record::input::{InputRoomEvent, Placement, VerifiedKey};
use log_format::record::{Kind, NewEnvelope, Source};
use ruma::{OwnedEventId, OwnedServerName, ServerName};
use tokio::task::{JoinError, spawn_blocking};

use super::keyring::{KeyError, Keyring};
use crate::clock::now_us;
use crate::crypto::random;
use crate::limits::INTEGER_MAX;
use crate::logs::log::NewRecord;
use crate::matrix::RoomVersion;
use crate::matrix::canonical_json::{
    CanonicalJsonObject, CanonicalJsonValue, Numbers, parse_object_with, to_bytes,
};
use crate::matrix::event::{Pdu, PduError, Written, id_of};
use crate::matrix::server_keys::{KnownKey, Validity};
use crate::matrix::signing::{Verified, VerifyError, servers_that_must_sign, verify_signed};
use crate::query::rooms::QueryError;
use crate::writers::client::event_builder::relation;

/// Events that one thread verifies at a time, at least: some 1 ms. The 50 of a
/// transaction are spread over a few threads.
const EVENTS_PER_THREAD: usize = 16;
/// Key ids of one server that an event's signatures are tried with. Ours: an
/// event needs one, and nobody has many keys at a time.
const KEY_IDS_MAX: usize = 8;

/// Why an event from elsewhere is dropped.
#[derive(Debug, thiserror::Error)]
pub enum PduRefusal {
    #[error(transparent)]
    Format(#[from] PduError),
    #[error(transparent)]
    Signature(#[from] VerifyError),
    /// A key that it is signed with could not be had, so nobody can tell.
    #[error("{0}")]
    Keys(Arc<KeyError>),
    #[error("its verification panicked")]
    Panicked,
}

/// An event whose format is sound and whose signatures hold. What the room says
/// of it is for the fold.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckedPdu {
    /// In its redacted form if `is_redacted`.
    pub pdu: Pdu,
    /// The content is not what was signed: only the redacted form counts.
    pub is_redacted: bool,
    /// The keys that the verdict rests on.
    pub verified_with: Vec<VerifiedKey>,
    /// Canonical bytes of the event, and of its redacted form.
    json: Vec<u8>,
    skeleton: Vec<u8>,
}

impl CheckedPdu {
    /// An event whose signatures the caller verified with these keys.
    pub fn of(pdu: Pdu, verified_with: Vec<VerifiedKey>) -> CheckedPdu {
        CheckedPdu {
            json: pdu.to_bytes(),
            skeleton: pdu.skeleton(),
            pdu,
            is_redacted: false,
            verified_with,
        }
    }

    /// Canonical bytes of the event.
    pub fn bytes(&self) -> &[u8] {
        &self.json
    }

    /// The *input* record of the event, as `origin` handed it to us.
    pub fn record(&self, placement: Placement, source: Source, origin: &ServerName) -> NewRecord {
        let pdu = &self.pdu;
        let ids = |ids: &[ruma::OwnedEventId]| ids.iter().map(ToString::to_string).collect();
        let body = codec::encode(&InputRoomEvent {
            placement,
            // Versions up to 5 allow any integer, and none is believed: what
            // exceeds the integers of JSON is as deep as can be.
            depth: pdu.depth.min(INTEGER_MAX.unsigned_abs()),
            prev_events: ids(&pdu.prev_events),
            auth_events: ids(&pdu.auth_events),
            redacts: pdu.redacts.as_ref().map(ToString::to_string),
            relation: relation(pdu.content()),
            membership: match &*pdu.kind {
                "m.room.member" => pdu.content_str("membership").map(str::to_owned),
                _ => None,
            },
            transaction: None,
            verified_with: self.verified_with.clone(),
            batch_index: 0,
            batch_count: 1,
        });
        let extract = pdu.auth_extract();
        let envelope = NewEnvelope {
            flags: match self.is_redacted {
                true => flags::CONTENT_HASH_MISMATCH,
                false => 0,
            },
            received_us: now_us(),
            origin_ts_ms: pdu.origin_server_ts,
            key: pdu.room_id.as_str(),
            room_id: Some(pdu.room_id.as_str()),
            event_id: Some(pdu.event_id.as_str()),
            sender: Some(pdu.sender.as_str()),
            event_type: Some(&pdu.kind),
            state_key: pdu.state_key.as_deref(),
            room_version: Some(pdu.version.as_str()),
            origin: Some(origin.as_str()),
            body: &body,
            auth_extract: match &extract {
                Some(extract) => Part::Present(extract),
                None => Part::Absent,
            },
            skeleton: Part::Present(&self.skeleton),
            body_part: Part::Present(&self.json),
            salt: random::bytes(),
            ..NewEnvelope::default()
        };
        NewRecord::new(Kind::InputRoomEvent, source, &envelope)
    }
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct PduChecks {
    keyring: Arc<Keyring>,
}

/// Keys by server and key id, or why a server's could not be had.
type Keys = BTreeMap<OwnedServerName, Result<BTreeMap<String, KnownKey>, Arc<KeyError>>>;

/// What is asked of a server's keys: by key id, the newest event signed with it.
type Wanted = BTreeMap<OwnedServerName, BTreeMap<String, u64>>;

/// An event whose format is sound, and who signed it.
#[derive(Debug)]
pub struct ReadPdu {
    pub pdu: Pdu,
    written: Written,
    /// Servers and key ids of the signatures that it needs.
    signed_with: Vec<(OwnedServerName, String)>,
}

/// What can be said of an event before anybody is asked for keys.
#[derive(Debug)]
pub enum AtHand {
    Checked(CheckedPdu),
    /// With its id, if what came can be given one.
    Refused(Option<OwnedEventId>, PduRefusal),
    /// A key that it is signed with is not known.
    NoKeys(ReadPdu),
}

impl ReadPdu {
    /// Canonical bytes of the event.
    pub fn bytes(&self) -> &[u8] {
        &self.written.json
    }
}

impl AtHand {
    fn refused(pdu: &Pdu, why: impl Into<PduRefusal>) -> AtHand {
        AtHand::Refused(Some(pdu.event_id.clone()), why.into())
    }
}

impl PduChecks {
    pub fn new(keyring: Arc<Keyring>) -> PduChecks {
        PduChecks { keyring }
    }

    /// [`PduChecks::check_all`] of one event.
    pub async fn check(
        &self,
        version: RoomVersion,
        event: CanonicalJsonObject,
    ) -> Result<CheckedPdu, PduRefusal> {
        let mut checked = self.check_all(version, vec![event]).await;
        checked.pop().unwrap_or(Err(PduRefusal::Panicked))
    }

    /// Checks events of one room version; the answers are in their order, each
    /// on its own. Holds all of them: whoever has many calls it with some
    /// hundreds at a time.
    pub async fn check_all(
        &self,
        version: RoomVersion,
        events: Vec<CanonicalJsonObject>,
    ) -> Vec<Result<CheckedPdu, PduRefusal>> {
        let at_hand = self.check_at_hand(version, events).await;
        self.complete(version, at_hand).await
    }

    /// [`PduChecks::check_all`] of events as they came.
    pub async fn check_raw(
        &self,
        version: RoomVersion,
        events: Vec<Bytes>,
    ) -> Vec<Result<CheckedPdu, PduRefusal>> {
        let (count, keyring) = (events.len(), self.keyring.clone());
        let at_hand = on_threads(events, move |json| {
            match parse_object_with(&json, Numbers::Kept) {
                Ok(event) => at_hand(&keyring, version, event),
                Err(error) => AtHand::Refused(None, PduError::from(error).into()),
            }
        });
        let at_hand = at_hand.await.unwrap_or_else(|_| panicked(count));
        self.complete(version, at_hand).await
    }

    /// What can be said with the keys that are known: nobody is asked for any.
    pub async fn check_at_hand(
        &self,
        version: RoomVersion,
        events: Vec<CanonicalJsonObject>,
    ) -> Vec<AtHand> {
        let (count, keyring) = (events.len(), self.keyring.clone());
        let at_hand = on_threads(events, move |event| at_hand(&keyring, version, event));
        at_hand.await.unwrap_or_else(|_| panicked(count))
    }

    /// Goes on with the events, of one room version, whose keys are not known.
    pub async fn complete(
        &self,
        version: RoomVersion,
        events: Vec<AtHand>,
    ) -> Vec<Result<CheckedPdu, PduRefusal>> {
        let mut wanted = Wanted::new();
        for event in &events {
            let AtHand::NoKeys(event) = event else {
                continue;
            };
            for (server, key_id) in &event.signed_with {
                let newest = wanted.entry(server.clone()).or_default();
                let newest = newest.entry(key_id.clone()).or_default();
                *newest = (*newest).max(event.pdu.origin_server_ts);
            }
        }
        if wanted.is_empty() {
            return events.into_iter().map(settled).collect();
        }
        let keys = Arc::new(self.keys(version, wanted).await);
        let count = events.len();
        let verified = on_threads(events, move |event| match event {
            AtHand::NoKeys(event) => verify(event, &keys),
            event => settled(event),
        });
        let panicked = |_| (0..count).map(|_| Err(PduRefusal::Panicked)).collect();
        verified.await.unwrap_or_else(panicked)
    }

    /// The keys that are wanted, each server's fetched once if need be.
    async fn keys(&self, version: RoomVersion, wanted: Wanted) -> Keys {
        let fetches = wanted.into_iter().map(|(server, ids)| async move {
            let keys = self.keys_of(version, &server, &ids).await;
            (server, keys.map_err(Arc::new))
        });
        join_all(fetches).await.into_iter().collect()
    }

    async fn keys_of(
        &self,
        version: RoomVersion,
        server: &ServerName,
        ids: &BTreeMap<String, u64>,
    ) -> Result<BTreeMap<String, KnownKey>, KeyError> {
        let own = self.keyring.own();
        if own.is(server) {
            return Ok(own.keys());
        }
        let wanted = |keys: &BTreeMap<String, KnownKey>| {
            let is_good = |(id, at): (&String, &u64)| {
                keys.get(id).is_some_and(|key| is_good(version, key, *at))
            };
            ids.iter().all(is_good)
        };
        let first = ids.keys().next().map_or("", String::as_str);
        match self
            .keyring
            .with(server, first, |stored| wanted(&stored.keys))
            .await
        {
            Ok(stored) => Ok(stored.keys.clone()),
            // Some of the events may be signed with what is known.
            Err(error) => match self.keyring.known(server)? {
                Some(stored) => Ok(stored.keys.clone()),
                None => Err(error),
            },
        }
    }
}

/// Whether a key may have signed an event of that time.
fn is_good(version: RoomVersion, key: &KnownKey, origin_server_ts: u64) -> bool {
    match version.rules().enforce_key_validity {
        true => key.is_good_for_event(origin_server_ts),
        false => !key.is_published(),
    }
}

/// Servers and key ids of the signatures that an event needs.
fn signed_with(pdu: &Pdu) -> Result<Vec<(OwnedServerName, String)>, PduRefusal> {
    let mut signed_with = Vec::new();
    for server in servers_that_must_sign(pdu.version, pdu.object())? {
        let ids = key_ids(pdu, &server);
        let Ok(name) = OwnedServerName::try_from(&*server) else {
            return Err(VerifyError::Unsigned(server).into());
        };
        if ids.is_empty() {
            return Err(VerifyError::Unsigned(server).into());
        }
        let ids = ids.into_iter().map(str::to_owned);
        signed_with.extend(ids.map(|id| (name.clone(), id)));
    }
    Ok(signed_with)
}

/// Reads an event and verifies it if its keys are known.
fn at_hand(keyring: &Keyring, version: RoomVersion, event: CanonicalJsonObject) -> AtHand {
    let (pdu, written) = match Pdu::read(version, event) {
        Ok(read) => read,
        Err((error, event)) => return AtHand::Refused(id_of(version, &event), error.into()),
    };
    let signed_with = match signed_with(&pdu) {
        Ok(signed_with) => signed_with,
        Err(refusal) => return AtHand::refused(&pdu, refusal),
    };
    let event = ReadPdu {
        pdu,
        written,
        signed_with,
    };
    match keys_at_hand(keyring, &event) {
        Ok(Some(keys)) => {
            let event_id = event.pdu.event_id.clone();
            match verify(event, &keys) {
                Ok(checked) => AtHand::Checked(checked),
                Err(refusal) => AtHand::Refused(Some(event_id), refusal),
            }
        }
        Ok(None) => AtHand::NoKeys(event),
        Err(error) => AtHand::refused(&event.pdu, PduRefusal::Keys(Arc::new(error.into()))),
    }
}

/// The keys of an event's servers, if all that it is signed with are known.
fn keys_at_hand(keyring: &Keyring, event: &ReadPdu) -> Result<Option<Keys>, QueryError> {
    let mut keys = Keys::new();
    let (version, at) = (event.pdu.version, event.pdu.origin_server_ts);
    let own = keyring.own();
    for (server, key_id) in &event.signed_with {
        if own.is(server) {
            keys.insert(server.clone(), Ok(own.keys()));
            continue;
        }
        let Some(stored) = keyring.known(server)? else {
            return Ok(None);
        };
        let known = stored.keys.get(key_id);
        if !known.is_some_and(|key| is_good(version, key, at)) {
            return Ok(None);
        }
        if !keys.contains_key(server) {
            keys.insert(server.clone(), Ok(stored.keys.clone()));
        }
    }
    Ok(Some(keys))
}

/// The verdict on an event that waits for nobody.
fn settled(event: AtHand) -> Result<CheckedPdu, PduRefusal> {
    match event {
        AtHand::Checked(event) => Ok(event),
        AtHand::Refused(_, refusal) => Err(refusal),
        AtHand::NoKeys(_) => Err(PduRefusal::Panicked),
    }
}

/// The ids of the keys with which a server signed an event.
fn key_ids<'a>(pdu: &'a Pdu, server: &str) -> BTreeSet<&'a str> {
    let signatures = match pdu.object().get("signatures") {
        Some(CanonicalJsonValue::Object(signatures)) => signatures.get(server),
        _ => None,
    };
    let Some(CanonicalJsonValue::Object(signatures)) = signatures else {
        return BTreeSet::new();
    };
    let ids = signatures.keys().filter(|id| id.starts_with("ed25519:"));
    ids.take(KEY_IDS_MAX).map(String::as_str).collect()
}

fn known<'a>(
    keys: &'a Keys,
    server: &str,
) -> Option<&'a Result<BTreeMap<String, KnownKey>, Arc<KeyError>>> {
    keys.get(<&ServerName>::try_from(server).ok()?)
}

fn verify(event: ReadPdu, keys: &Keys) -> Result<CheckedPdu, PduRefusal> {
    let ReadPdu { pdu, written, .. } = event;
    let version = pdu.version;
    let at = pdu.origin_server_ts;
    let mut verified_with = Vec::new();
    for server in servers_that_must_sign(version, pdu.object())? {
        let known = match known(keys, &server) {
            Some(Ok(known)) => known,
            Some(Err(error)) => return Err(PduRefusal::Keys(error.clone())),
            None => return Err(VerifyError::Unsigned(server).into()),
        };
        for id in key_ids(&pdu, &server) {
            if let Some(key) = known.get(id).filter(|key| is_good(version, key, at)) {
                let (Validity::Until(until) | Validity::Expired(until)) = key.validity;
                verified_with.push(VerifiedKey {
                    server: server.to_string(),
                    key_id: id.to_owned(),
                    valid_until_ms: until,
                });
            }
        }
    }
    let verified = verify_signed(version, pdu.object(), &written.signed, |server, id| {
        let known = known(keys, server)?.as_ref().ok()?;
        let key = known.get(id).filter(|key| is_good(version, key, at))?;
        // No more than were counted as what the verdict rests on.
        let counted = |used: &VerifiedKey| used.server == server && used.key_id == id;
        verified_with.iter().any(counted).then_some(key.key)
    })?;
    let is_redacted = verified == Verified::RedactedOnly;
    let skeleton = to_bytes(&written.redacted);
    let (pdu, json) = match is_redacted {
        true => (pdu.redacted(), skeleton.clone()),
        false => (pdu, written.json),
    };
    Ok(CheckedPdu {
        pdu,
        is_redacted,
        verified_with,
        json,
        skeleton,
    })
}

/// Maps in order, in parallel, on threads that may block.
pub(super) async fn on_threads<T, R, F>(items: Vec<T>, map: F) -> Result<Vec<R>, JoinError>
where
    T: Send + 'static,
    R: Send + 'static,
    F: Fn(T) -> R + Clone + Send + 'static,
{
    let threads = available_parallelism().map_or(1, usize::from);
    let share = items.len().div_ceil(threads).max(EVENTS_PER_THREAD);
    let mut items = items.into_iter();
    let mut running = Vec::new();
    loop {
        let part: Vec<T> = items.by_ref().take(share).collect();
        if part.is_empty() {
            break;
        }
        let map = map.clone();
        running.push(spawn_blocking(move || {
            part.into_iter().map(map).collect::<Vec<R>>()
        }));
    }
    let mut done = Vec::new();
    for part in running {
        done.extend(part.await?);
    }
    Ok(done)
}

fn panicked(count: usize) -> Vec<AtHand> {
    let refusals = (0..count).map(|_| AtHand::Refused(None, PduRefusal::Panicked));
    refusals.collect()
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use log_format::record::Envelope;

    use super::*;
    use crate::crypto::ServerKey;
    use crate::crypto::signing_key::BASE64;
    use crate::matrix::build::{ProtoEvent, build_and_sign};
    use crate::matrix::canonical_json::parse_stored_object;
    use crate::writers::submit::Submitter;
    use crate::writers::testing::World;

    /// Checks of a server `hs`, and its key.
    fn checks() -> PduChecks {
        let world = Arc::new(World::default());
        let submitter = Submitter::new(world.clone(), world);
        PduChecks::new(Arc::new(Keyring::without_others(submitter).0))
    }

    fn event(checks: &PduChecks, version: RoomVersion, sender: &str) -> CanonicalJsonObject {
        let room = match version.room_id_is_create_hash() {
            true => "!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM",
            false => "!room:hs",
        };
        let proto = ProtoEvent {
            room_id: Some(ruma::OwnedRoomId::try_from(room).unwrap()),
            sender: ruma::OwnedUserId::try_from(sender).unwrap(),
            kind: "m.room.message".into(),
            state_key: None,
            content: parse_stored_object(br#"{"body":"hello","msgtype":"m.text"}"#).unwrap(),
            redacts: None,
            prev_events: vec![],
            auth_events: vec![],
            depth: 7,
            origin_server_ts: 1_000,
            event_localpart: version.has_event_id_field().then(|| "local".into()),
        };
        let own = checks.keyring.own();
        let built = build_and_sign(version, proto, &own.server, &own.current).unwrap();
        parse_stored_object(&built.json).unwrap()
    }

    fn set(event: &mut CanonicalJsonObject, path: &[&str], value: CanonicalJsonValue) {
        let (last, path) = path.split_last().unwrap();
        let inner = path
            .iter()
            .fold(event, |object, key| match object.get_mut(*key) {
                Some(CanonicalJsonValue::Object(inner)) => inner,
                _ => panic!("no {key}"),
            });
        inner.insert((*last).to_owned(), value);
    }

    fn text(text: &str) -> CanonicalJsonValue {
        CanonicalJsonValue::String(text.into())
    }

    #[tokio::test]
    async fn cve_2018_16515_each_event_has_a_verdict_of_its_own() {
        let checks = checks();
        for version in RoomVersion::all() {
            let good = event(&checks, version, "@a:hs");
            let mut changed = good.clone();
            set(&mut changed, &["content", "body"], text("forged"));
            let mut resigned = good.clone();
            set(&mut resigned, &["sender"], text("@b:hs"));
            let mut unsigned = good.clone();
            unsigned.insert("signatures".into(), CanonicalJsonValue::Object([].into()));
            let mut formless = good.clone();
            formless.remove("depth");
            let verdicts = checks
                .check_all(
                    version,
                    vec![good.clone(), changed, resigned, unsigned, formless, good],
                )
                .await;
            let told = verdicts.iter().map(|verdict| match verdict {
                Ok(checked) if checked.is_redacted => "redacted",
                Ok(_) => "whole",
                Err(PduRefusal::Signature(VerifyError::Wrong { .. })) => "wrong",
                Err(PduRefusal::Signature(VerifyError::Unsigned(_))) => "unsigned",
                Err(PduRefusal::Format(PduError::Missing("depth"))) => "formless",
                Err(error) => panic!("{version}: {error}"),
            });
            let told: Vec<_> = told.collect();
            assert_eq!(
                told,
                [
                    "whole", "redacted", "wrong", "unsigned", "formless", "whole"
                ],
                "{version}"
            );
            let [Ok(whole), Ok(redacted), ..] = &verdicts[..] else {
                panic!("{version}");
            };
            assert_eq!(whole.pdu.event_id, redacted.pdu.event_id, "{version}");
            assert!(redacted.pdu.content().is_empty(), "{version}");
            assert_eq!(whole.verified_with.len(), 1, "{version}");
        }
    }

    #[tokio::test]
    async fn a_server_that_cannot_be_asked_vouches_for_nothing() {
        let checks = checks();
        let ours = event(&checks, RoomVersion::V11, "@a:hs");
        let mut theirs = ours.clone();
        set(&mut theirs, &["sender"], text("@a:elsewhere.example"));
        let signature = CanonicalJsonValue::Object([("ed25519:1".to_owned(), text("AAAA"))].into());
        set(&mut theirs, &["signatures", "elsewhere.example"], signature);
        let verdicts = checks.check_all(RoomVersion::V11, vec![theirs, ours]).await;
        assert!(matches!(verdicts[0], Err(PduRefusal::Keys(_))));
        assert!(verdicts[1].is_ok());
    }

    /// From version 5 on a key signs for the time in which it was in use; before
    /// that for ever, as the specification has it.
    #[test]
    fn cve_2024_6299_a_key_signs_for_its_own_time() {
        let key = *ServerKey::from_seed([7; 32], "1")
            .verifying_key()
            .as_bytes();
        let known = |validity| KnownKey { key, validity };
        for version in RoomVersion::all() {
            let asks = version >= RoomVersion::V5;
            for validity in [Validity::Until(1_000), Validity::Expired(1_000)] {
                let known = known(validity);
                assert!(is_good(version, &known, 1_000), "{version} {validity:?}");
                assert_eq!(is_good(version, &known, 1_001), !asks, "{version}");
            }
        }
        // And a key that everybody has for no time at all.
        let seed = BASE64.decode("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1");
        let seed = seed.unwrap().try_into().unwrap();
        let published = ServerKey::from_seed(seed, "1");
        let published = KnownKey {
            key: *published.verifying_key().as_bytes(),
            validity: Validity::Until(u64::MAX),
        };
        for version in RoomVersion::all() {
            assert!(!is_good(version, &published, 1), "{version}");
        }
    }

    #[tokio::test]
    async fn cve_2018_10657_the_depth_of_a_record_is_an_integer_of_json() {
        let checks = checks();
        let mut deep = event(&checks, RoomVersion::V5, "@a:hs");
        set(
            &mut deep,
            &["depth"],
            parse_stored_object(br#"{"d":9223372036854775807}"#).unwrap()["d"].clone(),
        );
        let pdu = Pdu::from_object(RoomVersion::V5, deep).unwrap();
        assert_eq!(pdu.depth, 9_223_372_036_854_775_807);
        let checked = CheckedPdu {
            is_redacted: true,
            ..CheckedPdu::of(pdu, vec![])
        };
        let record = checked.record(Placement::New, Source::Federation, ruma::server_name!("o"));
        let envelope = Envelope::parse(&record.payload).unwrap();
        let body: InputRoomEvent = codec::decode(envelope.body).unwrap();
        assert_eq!(body.depth, INTEGER_MAX as u64);
        assert_eq!(envelope.flags, flags::CONTENT_HASH_MISMATCH);
        assert_eq!(envelope.origin, Some("o"));
    }
}
