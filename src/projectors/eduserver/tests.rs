//! Who types, by the records that say so.

use log_format::record::{Kind, NewEnvelope, Source};

use super::*;
use crate::query::ephemeral::Changes;

/// Folds records of `(room, user, typing)` from an offset on.
fn fold(table: &mut TypingTable, mut offset: u64, records: &[(&str, &str, bool)]) -> u64 {
    for (room, user, typing) in records {
        let body = codec::encode(&EphemeralTyping { typing: *typing });
        let new = NewEnvelope {
            key: room,
            room_id: Some(room),
            sender: Some(user),
            body: &body,
            ..NewEnvelope::default()
        };
        let payload = new.encode(Kind::EphemeralTyping, Source::Client);
        let envelope = Envelope::parse(&payload).expect("was just encoded");
        table.fold(EphemeralOffset(offset), &envelope);
        offset += 1;
    }
    offset
}

fn told(table: &TypingTable, since: Since, began: u64) -> Vec<(String, Vec<String>)> {
    let changes = Changes {
        typing: table.changes(since, EphemeralOffset(began)),
        ..Changes::default()
    };
    let rooms = changes.typing.iter().map(|room| {
        let users = room.typing().map(ToString::to_string).collect();
        (room.room_id.to_string(), users)
    });
    rooms.collect()
}

fn said(room: &str, users: &[&str]) -> (String, Vec<String>) {
    (
        room.to_owned(),
        users.iter().map(|user| (*user).to_owned()).collect(),
    )
}

const ANN: &str = "@ann:hs";
const BEN: &str = "@ben:hs";

#[test]
fn changes_are_told_once_and_whole() {
    let mut table = TypingTable::default();
    let at = |offset| Since::Offset(EphemeralOffset(offset));
    fold(&mut table, 5, &[("!a:hs", BEN, true), ("!b:hs", BEN, true)]);
    fold(&mut table, 7, &[("!a:hs", ANN, true)]);
    let all = [said("!b:hs", &[BEN]), said("!a:hs", &[ANN, BEN])];
    assert_eq!(told(&table, at(0), 0), all);
    assert_eq!(told(&table, Since::Nothing, 0), all);
    assert_eq!(told(&table, at(7), 0), all[1..]);
    assert!(told(&table, at(8), 0).is_empty());
    // What says nothing new changes nothing.
    fold(
        &mut table,
        8,
        &[("!a:hs", ANN, true), ("!c:hs", ANN, false)],
    );
    assert!(told(&table, at(8), 0).is_empty());
    // The end is a change as well, but nothing for who knows nothing.
    fold(&mut table, 10, &[("!b:hs", BEN, false)]);
    assert_eq!(told(&table, at(8), 0), [said("!b:hs", &[])]);
    assert_eq!(told(&table, Since::Nothing, 0), all[1..]);
    assert_eq!(told(&table, Since::OtherBoot, 11), all[1..]);
    assert_eq!(
        told(&table, Since::OtherBoot, 10),
        [all[1].clone(), said("!b:hs", &[])]
    );
}

#[test]
fn who_ceased_to_type_is_remembered_for_a_while() {
    let mut table = TypingTable::default();
    let users: Vec<String> = (0..100).map(|n| format!("@u{n:03}:hs")).collect();
    let records = users.iter().flat_map(|user| {
        let record = |typing| ("!a:hs", user.as_str(), typing);
        [record(true), record(false)]
    });
    let records: Vec<_> = records.chain([("!a:hs", ANN, true)]).collect();
    let end = fold(&mut table, 0, &records);
    let room = table.room(ruma::room_id!("!a:hs")).expect("is known");
    assert_eq!(room.users.len(), QUIET_USERS_MAX + 1);
    assert_eq!(room.typing().collect::<Vec<_>>(), [ANN]);
    assert_eq!(room.changed_at, EphemeralOffset(end - 1));
    assert!(room.users.contains_key(ruma::user_id!("@u099:hs")));
}

#[test]
fn what_cannot_be_read_changes_nothing() {
    let mut table = TypingTable::default();
    fold(
        &mut table,
        0,
        &[("room", ANN, true), ("!a:hs", "ann", true)],
    );
    let new = NewEnvelope {
        key: "!a:hs",
        sender: Some(ANN),
        body: b"?",
        ..NewEnvelope::default()
    };
    let payload = new.encode(Kind::EphemeralTyping, Source::Federation);
    let envelope = Envelope::parse(&payload).expect("was just encoded");
    table.fold(EphemeralOffset(3), &envelope);
    assert!(told(&table, Since::Offset(EphemeralOffset(0)), 0).is_empty());
}
