//! Finds users for one who searches.

use std::collections::{BTreeSet, HashSet};

use ruma::{OwnedUserId, UserId};

use super::UserDirectory;
use super::fold::{NAMED_ROOMS_MAX, whole_id, words_of};
use super::rows::{self, MemberRow};
use crate::logs::log::PartitionId;
use crate::query::ids::RoomSn;
use crate::readers::words::words;
use crate::storage::columns::{DIRECTORY_MEMBERS, DIRECTORY_WORDS};
use crate::storage::overlay::{Read, StoreError};

/// Rows of words that one search reads; of a shorter beginning of a word, the
/// users are found whose words come first.
const SCANNED_MAX: usize = 2_000;
/// Users that are found before they are ranked and cut to the limit.
const RANKED_MAX: usize = 200;
/// Rows that are read at a time.
const PAGE_ROWS: usize = 256;
/// Most words of a search term.
const TERM_WORDS_MAX: usize = 16;
/// Rooms of the searcher that count.
const OWN_ROOMS_MAX: usize = 20_000;

/// A user, with the profile that the searcher may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundUser {
    pub user_id: OwnedUserId,
    pub display_name: Option<String>,
    pub avatar_url: Option<String>,
}

/// Who was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundUsers {
    /// The closest first.
    pub users: Vec<FoundUser>,
    /// There may be more.
    pub limited: bool,
}

type RoomIx = (PartitionId, RoomSn);

/// What is looked for.
enum Wanted {
    /// User ids that begin so.
    Id(String),
    /// Each must begin a word.
    Words(Vec<String>),
}

impl Wanted {
    fn parse(term: &str) -> Option<Wanted> {
        let term = term.trim();
        if term.starts_with('@') || term.contains(':') {
            let id = term.trim_start_matches('@').to_lowercase();
            return (!id.is_empty()).then_some(Wanted::Id(id));
        }
        let mut words: Vec<String> = words(term).into_iter().map(|word| word.text).collect();
        words.sort();
        words.dedup();
        words.truncate(TERM_WORDS_MAX);
        (!words.is_empty()).then_some(Wanted::Words(words))
    }

    /// What narrows the search most: the longest word.
    fn key(&self) -> &str {
        match self {
            Wanted::Id(id) => id,
            Wanted::Words(words) => {
                let longest = words.iter().max_by_key(|word| word.len());
                longest.map_or("", String::as_str)
            }
        }
    }

    fn matches(&self, words: &BTreeSet<String>) -> bool {
        let begins = |wanted: &String| words.iter().any(|word| word.starts_with(wanted.as_str()));
        match self {
            Wanted::Id(id) => begins(id),
            Wanted::Words(wanted) => wanted.iter().all(begins),
        }
    }

    /// Smaller is closer: whole words before beginnings.
    fn distance(&self, user: &UserId, words: &BTreeSet<String>) -> usize {
        match self {
            Wanted::Id(id) => usize::from(*id != whole_id(user)),
            Wanted::Words(wanted) => {
                let is_whole = |word: &&String| !words.contains(*word);
                wanted.iter().filter(is_whole).count()
            }
        }
    }
}

impl UserDirectory {
    /// Users whom the searcher may find by a term.
    pub fn find(
        &self,
        searcher: &UserId,
        term: &str,
        limit: usize,
    ) -> Result<FoundUsers, StoreError> {
        let Some(wanted) = Wanted::parse(term) else {
            return Ok(FoundUsers::default());
        };
        let own_rooms = self.rooms_of(searcher)?;
        let mut seen = HashSet::new();
        let mut ranked = Vec::new();
        let (mut scanned, mut is_cut) = (0, false);
        'scan: for partition in 0..self.partitions {
            let prefix = rows::words_prefix(partition, wanted.key());
            let mut from: Option<Vec<u8>> = None;
            loop {
                let page = self.store.range(
                    DIRECTORY_WORDS,
                    &prefix,
                    from.as_deref(),
                    false,
                    PAGE_ROWS,
                )?;
                for (key, _) in &page {
                    scanned += 1;
                    if scanned > SCANNED_MAX || ranked.len() >= RANKED_MAX {
                        is_cut = true;
                        break 'scan;
                    }
                    let user = rows::user_of_word(DIRECTORY_WORDS, key)?;
                    if seen.insert(user.to_owned())
                        && let Some(found) = self.look_up(user, searcher, &own_rooms, &wanted)?
                    {
                        ranked.push(found);
                    }
                }
                match page.last() {
                    Some((last, _)) if page.len() == PAGE_ROWS => {
                        from = Some([last.as_ref(), &[0]].concat());
                    }
                    _ => break,
                }
            }
        }
        ranked.sort_by(|(a, one), (b, other)| {
            let key = |user: &FoundUser| (user.display_name.is_none(), user.user_id.clone());
            a.cmp(b).then_with(|| key(one).cmp(&key(other)))
        });
        let limited = is_cut || ranked.len() > limit;
        let users = ranked.into_iter().take(limit).map(|(_, user)| user);
        Ok(FoundUsers {
            users: users.collect(),
            limited,
        })
    }

    /// A user who matches and whom the searcher may find, with how far off the
    /// match is.
    fn look_up(
        &self,
        user: &UserId,
        searcher: &UserId,
        own_rooms: &HashSet<RoomIx>,
        wanted: &Wanted,
    ) -> Result<Option<(usize, FoundUser)>, StoreError> {
        // Nobody shares a room with themselves: they are found where anybody is.
        let nothing = HashSet::new();
        let own_rooms = match user == searcher {
            true => &nothing,
            false => own_rooms,
        };
        let found = match user.server_name() == self.server_name {
            true => self.local(user, own_rooms)?,
            false => self.remote(user, own_rooms, wanted)?,
        };
        let Some(found) = found else {
            return Ok(None);
        };
        let words = words_of(user, found.display_name.as_deref());
        let matches = wanted.matches(&words);
        Ok(matches.then(|| (wanted.distance(user, &words), found)))
    }

    fn local(
        &self,
        user: &UserId,
        own_rooms: &HashSet<RoomIx>,
    ) -> Result<Option<FoundUser>, StoreError> {
        let shared = self.each_shared(user, own_rooms, 1)?;
        let account = self.users.account(user);
        if shared.is_empty() || account.is_none_or(|account| account.deactivated) {
            return Ok(None);
        }
        let profile = self.users.profile(user);
        let text = |field: &str| {
            let text: String = serde_json::from_str(profile.get(field)?).ok()?;
            (!text.is_empty()).then_some(text)
        };
        Ok(Some(FoundUser {
            user_id: user.to_owned(),
            display_name: text("displayname"),
            avatar_url: text("avatar_url"),
        }))
    }

    /// By the name in a room that the searcher may look into, best one that matches.
    fn remote(
        &self,
        user: &UserId,
        own_rooms: &HashSet<RoomIx>,
        wanted: &Wanted,
    ) -> Result<Option<FoundUser>, StoreError> {
        let shared = self.each_shared(user, own_rooms, NAMED_ROOMS_MAX)?;
        let is_match =
            |row: &&MemberRow| wanted.matches(&words_of(user, row.display_name.as_deref()));
        let row = shared.iter().find(is_match);
        Ok(row.map(|row| FoundUser {
            user_id: user.to_owned(),
            display_name: row.display_name.clone(),
            avatar_url: row.avatar_url.clone(),
        }))
    }

    /// At most `limit` rows of a user in rooms of the searcher, or that anybody
    /// may look into.
    fn each_shared(
        &self,
        user: &UserId,
        own_rooms: &HashSet<RoomIx>,
        limit: usize,
    ) -> Result<Vec<MemberRow>, StoreError> {
        let mut shared = Vec::new();
        self.each_room(user, |room, value| {
            if own_rooms.contains(&room) || self.open_rooms.read().contains(&room) {
                shared.push(rows::decode(DIRECTORY_MEMBERS, value)?);
            }
            Ok(shared.len() < limit)
        })?;
        Ok(shared)
    }

    fn rooms_of(&self, user: &UserId) -> Result<HashSet<RoomIx>, StoreError> {
        let mut all = HashSet::new();
        self.each_room(user, |room, _| {
            all.insert(room);
            Ok(all.len() < OWN_ROOMS_MAX)
        })?;
        Ok(all)
    }

    /// Calls `each` with the rooms that a user is in, until it says no.
    fn each_room(
        &self,
        user: &UserId,
        mut each: impl FnMut(RoomIx, &[u8]) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        for partition in 0..self.partitions {
            let prefix = rows::user_key(partition, user);
            let mut from: Option<Vec<u8>> = None;
            // Most users share one of their first rooms, if any.
            let mut size = 8;
            loop {
                let store: &dyn Read = self.store.as_ref();
                let page = store.range(DIRECTORY_MEMBERS, &prefix, from.as_deref(), false, size)?;
                for (key, value) in &page {
                    let room = rows::room_of(DIRECTORY_MEMBERS, key)?;
                    if !each((partition, room), value)? {
                        return Ok(());
                    }
                }
                match page.last() {
                    Some((last, _)) if page.len() == size => {
                        from = Some([last.as_ref(), &[0]].concat());
                    }
                    _ => break,
                }
                size = PAGE_ROWS;
            }
        }
        Ok(())
    }
}
