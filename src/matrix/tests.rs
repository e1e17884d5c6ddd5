//! Hostile events: whatever another server sends, reading it never panics, costs
//! bounded time, and what passes means the same in each of its forms.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use ruma::{server_name, user_id};

use super::RoomVersion;
use super::auth_rules::tests::room;
use super::auth_rules::{AuthEvent, EventContent, check, check_auth_events};
use super::build::{EventRef, ProtoEvent, build_and_sign};
use super::canonical_json::parse_stored_object;
use super::event::Pdu;
use super::ids::{OwnedEventId, OwnedRoomId};
use super::signing::{
    Verified, content_hash, hash_and_sign_event, reference_hash, servers_that_must_sign,
    verify_event,
};
use crate::crypto::ServerKey;

fn key() -> ServerKey {
    ServerKey::from_seed([7; 32], "1")
}

/// Type, state key and content of good events of each kind that the rules read.
const KINDS: [(&str, Option<&str>, &str); 8] = [
    (
        "m.room.message",
        None,
        r#"{"body":"x","n":[1,-2,null,true]}"#,
    ),
    (
        "m.room.create",
        Some(""),
        r#"{"creator":"@admin:hs","room_version":"6","additional_creators":["@b:hs"]}"#,
    ),
    (
        "m.room.member",
        Some("@new:hs"),
        r#"{"membership":"invite","third_party_invite":{"signed":{"mxid":"@new:hs","token":"t","signatures":{"x":{"ed25519:0":"AAAA"}}}}}"#,
    ),
    (
        "m.room.member",
        Some("@admin:hs"),
        r#"{"membership":"join","join_authorised_via_users_server":"@mod:hs"}"#,
    ),
    (
        "m.room.power_levels",
        Some(""),
        r#"{"users":{"@mod:hs":50,"@c:hs":1},"events":{"m.x":7},"notifications":{"room":50},"ban":50,"invite":0}"#,
    ),
    (
        "m.room.join_rules",
        Some(""),
        r#"{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"!a:b"}]}"#,
    ),
    ("m.room.redaction", None, r#"{"reason":"x"}"#),
    ("m.room.aliases", Some("hs"), r#"{"aliases":["x"]}"#),
];

/// A good event of this kind, as another server would send it.
fn good(version: RoomVersion, kind: usize) -> Vec<u8> {
    let (kind, state_key, content) = KINDS[kind];
    let create = kind == "m.room.create";
    let id = |id: &str| EventRef {
        event_id: OwnedEventId::try_from(id).expect("valid"),
        hash: Some("aGFzaA".into()),
    };
    let room_id = match version.room_id_is_create_hash() {
        true => "!create",
        false => "!room:hs",
    };
    let proto = ProtoEvent {
        room_id: (!(create && version.room_id_is_create_hash()))
            .then(|| OwnedRoomId::try_from(room_id).expect("valid")),
        sender: user_id!("@admin:hs").to_owned(),
        kind: kind.into(),
        state_key: state_key.map(Into::into),
        content: parse_stored_object(content.as_bytes()).expect("parses"),
        redacts: (kind == "m.room.redaction")
            .then(|| OwnedEventId::try_from("$target:hs").expect("valid")),
        prev_events: if create { vec![] } else { vec![id("$p:hs")] },
        auth_events: if create { vec![] } else { vec![id("$a:hs")] },
        depth: 7,
        origin_server_ts: 1_700_000_000_000,
        event_localpart: Some("e".into()),
    };
    let built = build_and_sign(version, proto, server_name!("hs"), &key());
    built.expect("builds").json
}

/// One way to spoil some bytes.
#[derive(Clone, Debug)]
enum Spoil {
    Flip(prop::sample::Index, u8),
    Remove(prop::sample::Index, usize),
    Insert(prop::sample::Index, &'static str),
    /// Another value for one of the values.
    Replace(prop::sample::Index, &'static str),
    Double(prop::sample::Index, usize),
}

const PIECES: [&str; 28] = [
    "null",
    "true",
    "-1",
    "0",
    "1.5",
    "1e400",
    "-0",
    "9007199254740992",
    "99999999999999999999999",
    "\"\"",
    "\"\\ud800\"",
    "\"\\u0000\"",
    "[]",
    "{}",
    "[[[[]]]]",
    "{\"a\":{\"b\":1}}",
    "\"@\"",
    "\"$\"",
    "\"!\"",
    "\"@a:b\"",
    "\"leave\"",
    "\"12\"",
    ",",
    ":",
    "\"",
    "}",
    "{\"signed\":{}}",
    "\u{fffd}",
];

fn spoil() -> impl Strategy<Value = Spoil> {
    let at = any::<prop::sample::Index>();
    let piece = prop::sample::select(PIECES.to_vec());
    prop_oneof![
        1 => (at.clone(), any::<u8>()).prop_map(|(at, byte)| Spoil::Flip(at, byte)),
        1 => (at.clone(), 1..40_usize).prop_map(|(at, len)| Spoil::Remove(at, len)),
        1 => (at.clone(), piece.clone()).prop_map(|(at, piece)| Spoil::Insert(at, piece)),
        6 => (at.clone(), piece).prop_map(|(at, piece)| Spoil::Replace(at, piece)),
        1 => (at, 1..60_usize).prop_map(|(at, len)| Spoil::Double(at, len)),
    ]
}

/// Where values stand: behind each colon, up to what ends a simple value.
fn value_at(bytes: &[u8], at: prop::sample::Index) -> Option<(usize, usize)> {
    let colons: Vec<usize> = (0..bytes.len().saturating_sub(1))
        .filter(|index| bytes[*index] == b':' && bytes[index - usize::from(*index > 0)] == b'"')
        .collect();
    if colons.is_empty() {
        return None;
    }
    let start = colons[at.index(colons.len())] + 1;
    let mut depth = 0_i32;
    let mut quoted = false;
    for (index, byte) in bytes.iter().enumerate().skip(start) {
        match byte {
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => depth += 1,
            b'}' | b']' if !quoted && depth > 0 => depth -= 1,
            b',' | b'}' | b']' if !quoted && depth == 0 => return Some((start, index)),
            _ => {}
        }
    }
    None
}

fn apply(bytes: &mut Vec<u8>, spoil: &Spoil) {
    let len = bytes.len();
    if len == 0 {
        return;
    }
    match spoil {
        Spoil::Flip(at, byte) => bytes[at.index(len)] = *byte,
        Spoil::Remove(at, count) => {
            let start = at.index(len);
            bytes.drain(start..(start + count).min(len));
        }
        Spoil::Insert(at, piece) => {
            let at = at.index(len);
            bytes.splice(at..at, piece.bytes());
        }
        Spoil::Replace(at, piece) => {
            if let Some((start, end)) = value_at(bytes, *at) {
                bytes.splice(start..end, piece.bytes());
            }
        }
        Spoil::Double(at, count) => {
            let start = at.index(len);
            let part = bytes[start..(start + count).min(len)].to_vec();
            bytes.splice(start..start, part);
        }
    }
}

/// Everything that is done with an event from outside. Whether it was one.
fn read(version: RoomVersion, bytes: &[u8]) -> bool {
    let Ok(pdu) = Pdu::parse(version, bytes) else {
        return false;
    };
    let rules = version.rules();
    let public = *key().verifying_key().as_bytes();
    let _ = content_hash(pdu.object());
    let verified = verify_event(version, pdu.object(), |_, _| Some(public));

    // Each form of the event says the same of it.
    let again = Pdu::parse(version, &pdu.to_bytes()).expect("its own bytes");
    assert_eq!(again, pdu);
    let redacted = pdu.redacted();
    assert_eq!(redacted.event_id, pdu.event_id);
    assert_eq!(redacted.room_id, pdu.room_id);
    assert_eq!(Pdu::parse(version, &pdu.skeleton()).as_ref(), Ok(&redacted));
    assert_eq!(redacted.redacted(), redacted);
    assert_eq!(
        reference_hash(rules, pdu.object()),
        reference_hash(rules, redacted.object())
    );
    // A third-party invite needs no signature of its sender, but before version 11
    // its redacted form no longer shows that it is one.
    let needed = servers_that_must_sign(version, pdu.object());
    if verified.is_ok() && needed == servers_that_must_sign(version, redacted.object()) {
        let of_redacted = verify_event(version, redacted.object(), |_, _| Some(public));
        assert!(of_redacted.is_ok(), "a redacted event keeps its signatures");
    }

    // The rules say the same of what stays when the body is erased.
    let state = room(version);
    let event = AuthEvent::from(&pdu);
    let (skeleton, extract) = (pdu.skeleton(), pdu.auth_extract());
    let erased = AuthEvent {
        content: EventContent::Skeleton {
            skeleton: &skeleton,
            auth_extract: extract.as_deref(),
        },
        ..event
    };
    let _ = check_auth_events(version, &event, &[]);
    assert_eq!(
        check(version, &event, &state).is_ok(),
        check(version, &erased, &state).is_ok(),
        "{}",
        String::from_utf8_lossy(bytes)
    );
    true
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]
    /// Spoiled events of all versions.
    #[test]
    fn cve_2025_30355_no_event_is_too_strange_to_read(
        version in 1_u8..=12,
        kind in 0..KINDS.len(),
        spoils in proptest::collection::vec(spoil(), 0..4),
        signed_again: bool,
    ) {
        let version = RoomVersion::parse(&version.to_string()).expect("known");
        let mut bytes = good(version, kind);
        for spoil in &spoils {
            apply(&mut bytes, spoil);
        }
        // What is strange and yet signed gets further.
        if signed_again && let Ok(mut object) = parse_stored_object(&bytes) {
            hash_and_sign_event(version, &mut object, server_name!("hs"), &key());
            bytes = super::canonical_json::to_bytes(&object);
        }
        let read = read(version, &bytes);
        prop_assert!(read || !spoils.is_empty(), "a good event was refused");
    }

    /// Bytes that are nothing at all.
    #[test]
    fn no_bytes_are_too_strange_to_read(version in 1_u8..=12, bytes: Vec<u8>) {
        let version = RoomVersion::parse(&version.to_string()).expect("known");
        prop_assert!(!read(version, &bytes));
    }
}

/// Numbers that canonical JSON does not have: in by versions 1 to 5, with hashes
/// and signatures over their text, and out from version 6.
#[test]
fn cve_2020_26890_strange_numbers_are_for_old_versions() {
    for version in RoomVersion::all() {
        let text = String::from_utf8(good(version, 0)).expect("is UTF-8");
        let text = text.replace("[1,-2,null,true]", "[1.0,5E20]");
        let text = text.replace("\"depth\":7", "\"depth\":9223372036854775807");
        let mut object = parse_stored_object(text.as_bytes()).expect("parses");
        hash_and_sign_event(version, &mut object, server_name!("hs"), &key());
        let bytes = super::canonical_json::to_bytes(&object);
        let parsed = Pdu::parse(version, &bytes);
        if version > RoomVersion::V5 {
            assert!(parsed.is_err(), "{version}");
            continue;
        }
        let pdu = parsed.expect("valid");
        assert_eq!(pdu.depth, i64::MAX.unsigned_abs());
        let bytes = String::from_utf8(pdu.to_bytes()).expect("is UTF-8");
        assert!(bytes.contains("[1.0,5e+20]"), "{bytes}");
        let public = *key().verifying_key().as_bytes();
        assert_eq!(
            verify_event(version, pdu.object(), |_, _| Some(public)),
            Ok(Verified::Whole)
        );
        assert!(read(version, bytes.as_bytes()));
    }
}

/// The largest and most tangled bodies that get in at all.
#[test]
fn large_events_take_bounded_time() {
    let many =
        |piece: &str, around: &str| around.replace("PIECE", &piece.repeat(60_000 / piece.len()));
    let bodies = [
        many("[", "PIECE"),
        many("{\"a\":", "PIECE"),
        many("\\u0000", "\"PIECE\""),
        many("1,", "[PIECE1]"),
        many("9", "PIECE"),
        many("0", "1.PIECE1"),
        many("[],", "[PIECE[]]"),
        many("\\", "\"PIECE\""),
    ];
    for version in RoomVersion::all() {
        let text = String::from_utf8(good(version, 0)).expect("is UTF-8");
        for body in &bodies {
            let text = text.replace("[1,-2,null,true]", body);
            let begun = Instant::now();
            read(version, text.as_bytes());
            // A thousand times what it takes, so that no slow machine fails.
            assert!(begun.elapsed() < Duration::from_secs(5), "{}", &body[..20]);
        }
    }
}
