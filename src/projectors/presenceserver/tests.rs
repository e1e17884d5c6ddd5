//! Who is there, by the records that say so.

use log_format::record::{Kind, NewEnvelope, Part, Source};

use super::PresenceState::*;
use super::*;

fn fold(table: &mut PresenceTable, offset: u64, user: &str, new: (PresenceState, u64, bool)) {
    fold_with(table, offset, user, new, None);
}

fn fold_with(
    table: &mut PresenceTable,
    offset: u64,
    user: &str,
    (presence, last_active_ms, currently_active): (PresenceState, u64, bool),
    status_msg: Option<&str>,
) {
    let body = codec::encode(&EphemeralPresence {
        presence,
        last_active_ms: Some(last_active_ms),
        currently_active,
    });
    let new = NewEnvelope {
        key: user,
        body: &body,
        body_part: status_msg.map_or(Part::Absent, |text| Part::Present(text.as_bytes())),
        ..NewEnvelope::default()
    };
    let payload = new.encode(Kind::EphemeralPresence, Source::Client);
    let envelope = Envelope::parse(&payload).expect("was just encoded");
    table.fold(EphemeralOffset(offset), &envelope);
}

fn told(table: &PresenceTable, since: Since, began: u64) -> Vec<String> {
    let changes = table.changes(since, EphemeralOffset(began));
    let told = changes
        .iter()
        .map(|presence| format!("{} {}", presence.user_id, presence.state.as_str()));
    told.collect()
}

const ANN: &str = "@ann:hs";
const BEN: &str = "@ben:hs";

#[test]
fn changes_are_told_once() {
    let mut table = PresenceTable::default();
    let at = |offset| Since::Offset(EphemeralOffset(offset));
    fold(&mut table, 0, ANN, (Online, 1_000, true));
    fold(&mut table, 1, BEN, (Offline, 500, false));
    assert_eq!(
        told(&table, at(0), 0),
        ["@ann:hs online", "@ben:hs offline"]
    );
    assert_eq!(told(&table, Since::Nothing, 0), ["@ann:hs online"]);
    assert_eq!(told(&table, Since::OtherBoot, 2), ["@ann:hs online"]);
    assert_eq!(
        told(&table, Since::OtherBoot, 1),
        ["@ann:hs online", "@ben:hs offline"]
    );
    // That an active user is active still is known without being told.
    fold(&mut table, 2, ANN, (Online, 9_000, true));
    assert!(told(&table, at(2), 0).is_empty());
    let ann = table.user(ruma::user_id!("@ann:hs")).expect("is known");
    assert_eq!(ann.last_active_ms, Some(9_000));
    assert_eq!(ann.changed_at, EphemeralOffset(0));
    fold(&mut table, 3, ANN, (Online, 9_000, false));
    fold_with(&mut table, 4, BEN, (Offline, 500, false), Some("away"));
    assert_eq!(
        told(&table, at(2), 0),
        ["@ann:hs online", "@ben:hs offline"]
    );
    fold(&mut table, 5, ANN, (Offline, 9_000, false));
    assert_eq!(told(&table, Since::Nothing, 0), [""; 0]);
    assert_eq!(told(&table, at(5), 0), ["@ann:hs offline"]);
}

#[test]
fn a_status_is_found_before_its_record_goes() {
    let mut table = PresenceTable::default();
    fold(&mut table, 0, ANN, (Online, 1, true));
    fold_with(&mut table, 1, BEN, (Offline, 1, false), Some("away"));
    let found = |table: &PresenceTable, before| {
        let found = table.statuses_before(EphemeralOffset(before));
        let users = found.iter().map(|user| user.user_id.to_string());
        users.collect::<Vec<_>>()
    };
    assert_eq!(found(&table, 1), [""; 0]);
    assert_eq!(found(&table, 2), [BEN]);
    // Written again it is no news, and is found no more.
    fold_with(&mut table, 2, BEN, (Offline, 1, false), Some("away"));
    assert_eq!(found(&table, 2), [""; 0]);
    let since = Since::Offset(EphemeralOffset(2));
    assert_eq!(told(&table, since, 0), [""; 0]);
}

#[test]
fn what_cannot_be_read_changes_nothing() {
    let mut table = PresenceTable::default();
    fold(&mut table, 0, "ann", (Online, 1, true));
    let new = NewEnvelope {
        key: ANN,
        body: b"?",
        ..NewEnvelope::default()
    };
    let payload = new.encode(Kind::EphemeralPresence, Source::Federation);
    let envelope = Envelope::parse(&payload).expect("was just encoded");
    table.fold(EphemeralOffset(1), &envelope);
    assert_eq!(told(&table, Since::Nothing, 0), [""; 0]);
}
