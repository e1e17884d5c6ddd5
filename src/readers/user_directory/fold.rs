//! Folds *output* into the directory's rows.
//!
//! A plain message costs nothing. A change of members costs a row for each of
//! them, and of those of other servers a look at their event and at their other
//! rooms here.

use std::collections::{BTreeMap, BTreeSet};

use log_format::codec;
use log_format::record::output::{
    Decision, Membership, MembershipChange, OutputRoomEvent, OutputRoomPurged, OutputRoomState,
    OutputUser, StateChange, Visibility,
};
use log_format::record::{Envelope, Kind};
use ruma::{EventId, RoomId, ServerName, UserId};
use serde_json::Value;

use super::rows::{self, MemberRow, NameRow, OpenRow};
use crate::logs::log::{LogRecord, PartitionId};
use crate::matrix::client_event::content_of;
use crate::matrix::history_visibility::{HISTORY_VISIBILITY_TYPE, visibility_of};
use crate::query::ids::RoomSn;
use crate::query::rooms::{QueryError, Rooms, StateKey, StoredEvent};
use crate::readers::purges;
use crate::readers::run::ReaderError;
use crate::readers::words::words;
use crate::storage::columns::{
    DIRECTORY_MEMBERS, DIRECTORY_NAMES, DIRECTORY_OPEN, DIRECTORY_WORDS, Table,
};
use crate::storage::overlay::{Overlay, Read, StoreError};

const MEMBER: &str = "m.room.member";
const JOIN_RULES: &str = "m.room.join_rules";

/// Rooms of a user of another server whose names for them are looked at.
pub const NAMED_ROOMS_MAX: usize = 256;

/// One group of records on its way into rows.
pub struct Group<'a, 's> {
    partition: PartitionId,
    rows: Overlay<'s>,
    rooms: &'a dyn Rooms,
    server_name: &'a ServerName,
    /// Rooms that became open to anybody, or closed.
    opened: BTreeMap<RoomSn, bool>,
}

impl<'a, 's> Group<'a, 's> {
    pub fn new(
        partition: PartitionId,
        rows: Overlay<'s>,
        rooms: &'a dyn Rooms,
        server_name: &'a ServerName,
    ) -> Group<'a, 's> {
        Group {
            partition,
            rows,
            rooms,
            server_name,
            opened: BTreeMap::new(),
        }
    }

    /// The rows to be written, and the rooms that became open or closed.
    pub fn finish(self) -> (Overlay<'s>, BTreeMap<RoomSn, bool>) {
        (self.rows, self.opened)
    }

    /// Folds one record.
    pub fn fold(&mut self, record: &LogRecord) -> Result<(), ReaderError> {
        let offset = record.offset;
        let envelope = record
            .envelope()
            .map_err(|source| ReaderError::Envelope { offset, source })?;
        let decoded = |source| ReaderError::Body { offset, source };
        match envelope.kind {
            Kind::OutputRoomEvent => {
                let body: OutputRoomEvent = codec::decode(envelope.body).map_err(decoded)?;
                let room = RoomSn(body.room_sn);
                self.state_changes(&envelope, room, &body.state_delta, &body.memberships)
            }
            Kind::OutputRoomState => {
                let body: OutputRoomState = codec::decode(envelope.body).map_err(decoded)?;
                let room = RoomSn(body.room_sn);
                self.state_changes(&envelope, room, &body.state_delta, &body.memberships)
            }
            Kind::OutputUser => {
                let body = codec::decode(envelope.body).map_err(decoded)?;
                Ok(self.user(&envelope, &body)?)
            }
            Kind::OutputRoomPurged => match purges::dropped(record, &envelope)? {
                Some(purged) => self.purged(&envelope, &purged),
                None => Ok(()),
            },
            // The rest tells nothing of who is who.
            _ => Ok(()),
        }
    }

    /// The parts of a large change are taken as they come: the directory is
    /// right again when the last of them is folded.
    fn state_changes(
        &mut self,
        envelope: &Envelope<'_>,
        room: RoomSn,
        deltas: &[StateChange],
        memberships: &[MembershipChange],
    ) -> Result<(), ReaderError> {
        if deltas.is_empty() && memberships.is_empty() {
            return Ok(());
        }
        let room_id = envelope
            .room_id
            .and_then(|room| <&RoomId>::try_from(room).ok());
        let Some(room_id) = room_id else {
            return Ok(());
        };
        for delta in deltas.iter().filter(|delta| delta.state_key.is_empty()) {
            if matches!(&*delta.kind, JOIN_RULES | HISTORY_VISIBILITY_TYPE) {
                self.openness(room_id, room, delta)?;
            }
        }
        for change in memberships {
            if let Ok(user) = <&UserId>::try_from(&*change.user_id) {
                self.member(room_id, room, user, change.to)?;
            }
        }
        Ok(())
    }

    /// Nobody meets anybody in a room that is gone.
    fn purged(
        &mut self,
        envelope: &Envelope<'_>,
        purged: &OutputRoomPurged,
    ) -> Result<(), ReaderError> {
        let room = RoomSn(purged.room_sn);
        let room_id = envelope
            .room_id
            .and_then(|room| <&RoomId>::try_from(room).ok());
        let Some(room_id) = room_id else {
            return Ok(());
        };
        for user in &purged.users {
            if let Ok(user) = <&UserId>::try_from(&**user) {
                self.member(room_id, room, user, Membership::Leave)?;
            }
        }
        let key = rows::room_key(self.partition, room);
        self.rows.delete(DIRECTORY_OPEN, &key);
        self.opened.insert(room, false);
        Ok(())
    }

    fn openness(
        &mut self,
        room_id: &RoomId,
        room: RoomSn,
        delta: &StateChange,
    ) -> Result<(), ReaderError> {
        let to = delta.to.as_deref();
        let to = to.and_then(|event| <&EventId>::try_from(event).ok());
        let event = match to {
            None => None,
            Some(to) => self.rooms.event(room_id, to)?,
        };
        let key = rows::room_key(self.partition, room);
        let mut row: OpenRow = self.read(DIRECTORY_OPEN, &key)?.unwrap_or_default();
        if delta.kind == JOIN_RULES {
            row.is_public = event.is_some_and(|event| {
                text_of(&event, "join_rule").is_some_and(|rule| rule == "public")
            });
        } else {
            row.is_readable =
                event.is_some_and(|event| visibility_of(&event.json) == Visibility::WorldReadable);
        }
        self.rows.put(DIRECTORY_OPEN, &key, codec::encode(&row));
        self.opened.insert(room, row.is_open());
        Ok(())
    }

    /// Counts the users of this server in a room.
    fn count_local(&mut self, room: RoomSn, was_in: bool, is_in: bool) -> Result<(), ReaderError> {
        if was_in == is_in {
            return Ok(());
        }
        let key = rows::room_key(self.partition, room);
        let mut row: OpenRow = self.read(DIRECTORY_OPEN, &key)?.unwrap_or_default();
        row.local_members = match is_in {
            true => row.local_members.saturating_add(1),
            false => row.local_members.saturating_sub(1),
        };
        self.rows.put(DIRECTORY_OPEN, &key, codec::encode(&row));
        self.opened.insert(room, row.is_open());
        Ok(())
    }

    fn member(
        &mut self,
        room_id: &RoomId,
        room: RoomSn,
        user: &UserId,
        to: Membership,
    ) -> Result<(), ReaderError> {
        let key = rows::member_key(self.partition, user, room);
        let is_local = user.server_name() == self.server_name;
        let before = match is_local {
            true => BTreeSet::new(),
            false => self.words_of_remote(user)?,
        };
        if is_local {
            let was_in = Read::get(&self.rows, DIRECTORY_MEMBERS, &key)?.is_some();
            self.count_local(room, was_in, to == Membership::Join)?;
        }
        match to {
            Membership::Join => {
                let row = match is_local {
                    true => MemberRow::default(),
                    false => self.named(room_id, user)?,
                };
                self.rows.put(DIRECTORY_MEMBERS, &key, codec::encode(&row));
            }
            _ => self.rows.delete(DIRECTORY_MEMBERS, &key),
        }
        if !is_local {
            let after = self.words_of_remote(user)?;
            self.reword(user, &before, &after);
        }
        Ok(())
    }

    /// What somebody is called in a room now. It may have changed since the
    /// record; then another comes.
    fn named(&self, room_id: &RoomId, user: &UserId) -> Result<MemberRow, QueryError> {
        let Some(head) = self.rooms.head(room_id)? else {
            return Ok(MemberRow::default());
        };
        let Some(event) = head.state.get(&StateKey::new(MEMBER, user.as_str())) else {
            return Ok(MemberRow::default());
        };
        let event = self.rooms.events(room_id, &[*event])?.pop();
        Ok(event.map_or_else(MemberRow::default, |event| MemberRow {
            display_name: text_of(&event, "displayname"),
            avatar_url: text_of(&event, "avatar_url"),
        }))
    }

    /// Words by which somebody of another server is found, from all rooms of
    /// this partition; none if they are in no room.
    fn words_of_remote(&self, user: &UserId) -> Result<BTreeSet<String>, StoreError> {
        let prefix = rows::user_key(self.partition, user);
        let rows = Read::range(
            &self.rows,
            DIRECTORY_MEMBERS,
            &prefix,
            None,
            false,
            NAMED_ROOMS_MAX,
        )?;
        let mut all = BTreeSet::new();
        for (_, value) in rows {
            let row: MemberRow = rows::decode(DIRECTORY_MEMBERS, &value)?;
            all.extend(words_of(user, row.display_name.as_deref()));
        }
        Ok(all)
    }

    /// Accounts of this server, from their creation on.
    fn user(&mut self, envelope: &Envelope<'_>, body: &OutputUser) -> Result<(), StoreError> {
        let Ok(user) = <&UserId>::try_from(envelope.key) else {
            return Ok(());
        };
        if body.decision != Decision::Accepted {
            return Ok(());
        }
        let key = rows::user_key(self.partition, user);
        let before: Option<NameRow> = self.read(DIRECTORY_NAMES, &key)?;
        let after = match Kind::from_number(body.kind) {
            Some(Kind::InputAccountCreated) => Some(NameRow::default()),
            Some(Kind::InputAccountDeactivated) => None,
            Some(Kind::InputProfileField) if body.name.as_deref() == Some("displayname") => {
                let value = envelope.body_part.bytes();
                let value = value.and_then(|json| serde_json::from_slice::<String>(json).ok());
                // None of an account that is not there any more.
                before.as_ref().map(|_| NameRow {
                    display_name: value.filter(|name| !name.is_empty()),
                })
            }
            _ => return Ok(()),
        };
        let words = |row: &Option<NameRow>| match row {
            None => BTreeSet::new(),
            Some(row) => words_of(user, row.display_name.as_deref()),
        };
        self.reword(user, &words(&before), &words(&after));
        match after {
            None => self.rows.delete(DIRECTORY_NAMES, &key),
            Some(row) => self.rows.put(DIRECTORY_NAMES, &key, codec::encode(&row)),
        }
        Ok(())
    }

    fn reword(&mut self, user: &UserId, before: &BTreeSet<String>, after: &BTreeSet<String>) {
        for word in before.difference(after) {
            let key = rows::word_key(self.partition, word, user);
            self.rows.delete(DIRECTORY_WORDS, &key);
        }
        for word in after.difference(before) {
            let key = rows::word_key(self.partition, word, user);
            self.rows.put(DIRECTORY_WORDS, &key, Vec::new());
        }
    }

    fn read<T: bincode::Decode<()>>(
        &self,
        table: Table,
        key: &[u8],
    ) -> Result<Option<T>, StoreError> {
        let row = self.rows.get(table, key)?;
        row.map(|row| rows::decode(table, &row)).transpose()
    }
}

/// The words by which a user is found: those of the name, those of the user id
/// before the server, and the whole user id without its sigil.
pub fn words_of(user: &UserId, display_name: Option<&str>) -> BTreeSet<String> {
    let texts = [user.localpart(), display_name.unwrap_or_default()];
    let mut all: BTreeSet<String> = texts
        .iter()
        .flat_map(|text| words(text))
        .map(|word| word.text)
        .collect();
    all.insert(whole_id(user));
    all
}

/// A user id without its sigil, in lower case.
pub fn whole_id(user: &UserId) -> String {
    user.as_str().trim_start_matches('@').to_lowercase()
}

/// A text of an event's content, if it is there and not empty.
fn text_of(event: &StoredEvent, key: &str) -> Option<String> {
    let content: Value = serde_json::from_str(content_of(&event.json).ok()?).ok()?;
    let text = content.get(key)?.as_str()?;
    (!text.is_empty()).then(|| text.to_owned())
}
