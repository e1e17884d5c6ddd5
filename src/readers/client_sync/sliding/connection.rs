//! What one connection was told: a value that each answer replaces as a whole.
//!
//! The client confirms an answer by asking from its position. Until then its
//! news stand beside what was confirmed, so that a request which is repeated,
//! since the answer was lost, is told everything again.

use bincode::{Decode, Encode};
use imbl::{HashSet, OrdMap};
use log_format::record::output::Membership;

use super::extensions::ExtensionsTold;
use super::required_state::Wanted;
use crate::logs::log::PartitionId;
use crate::query::ids::RoomSn;

/// Rooms that a connection keeps; one that met more starts over.
pub const ROOMS_MAX: usize = 10_000;
/// Different combinations of rules that a connection keeps; one that used more
/// starts over. Clients have a handful.
pub const CONFIGS_MAX: usize = 256;
/// What all of them may take in memory, and in the connection's row, in bytes.
const CONFIGS_BYTES_MAX: usize = 512 * 1024;
/// Members that are remembered of a connection; then it begins anew, and some
/// are told once more.
const MEMBERS_MAX: usize = 5_000;

/// A room, as it is found again after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomKey {
    pub partition: PartitionId,
    pub room: RoomSn,
}

/// How far a room was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RoomSent {
    /// Everything below this *output* offset was told.
    pub to: u64,
    /// Since which offset lazy loading remembers members: behind the last gap in
    /// the timeline, where clients drop theirs.
    pub members_from: u64,
    /// Index in [`Told::configs`] of the state that is kept up to date.
    pub config: u16,
    /// The timeline limit in force then.
    pub limit: u16,
    /// How many of the newest events the client holds; `u16::MAX` is all.
    pub held: u16,
    /// Receipts that changed below this *output* offset were told; none if none
    /// ever were.
    pub receipts_to: Option<u64>,
    /// Since which offset the client may hold state that it was not told the
    /// changes of: it wanted less then. None if it never did.
    pub narrowed_at: Option<u64>,
    /// The user's membership as it was told.
    pub membership: Membership,
    /// Told as a direct chat.
    pub is_dm: bool,
}

impl RoomSent {
    pub fn is_joined(&self) -> bool {
        self.membership == Membership::Join
    }

    /// Told from outside: nothing of what is in the room.
    pub fn is_outside(&self) -> bool {
        matches!(self.membership, Membership::Invite | Membership::Knock)
    }
}

/// What the client has.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub rooms: OrdMap<RoomKey, RoomSent>,
    /// Only grows, so that indexes stay good.
    pub configs: Vec<Wanted>,
    /// Hashes of room and member whose event was told by lazy loading. In
    /// memory only: after a restart they are told once more.
    pub members: HashSet<u64>,
    pub extensions: ExtensionsTold,
    /// Rooms in which somebody typed when that was told last; none before the
    /// first time. In memory only: after a restart all that is current is told.
    pub typing: Option<HashSet<RoomKey>>,
}

impl Told {
    /// Index of a combination of rules; none if there are too many.
    pub fn intern(&mut self, wanted: Wanted) -> Option<u16> {
        if let Some(known) = self.configs.iter().position(|known| *known == wanted) {
            return u16::try_from(known).ok();
        }
        let bytes = self.configs_bytes() + wanted.bytes();
        if self.configs.len() == CONFIGS_MAX || bytes > CONFIGS_BYTES_MAX {
            return None;
        }
        self.configs.push(wanted);
        u16::try_from(self.configs.len() - 1).ok()
    }

    fn configs_bytes(&self) -> usize {
        self.configs.iter().map(Wanted::bytes).sum()
    }

    pub fn config(&self, index: u16) -> Option<&Wanted> {
        self.configs.get(usize::from(index))
    }

    /// Whether a room that was told by one combination of rules may have more to
    /// tell by another.
    pub fn expands(&self, before: u16, now: u16) -> bool {
        let covers = |before: &Wanted| self.config(now).is_none_or(|now| before.covers(now));
        before != now && !self.config(before).is_some_and(covers)
    }

    /// Adds what an answer told.
    pub fn apply(&mut self, news: &News) {
        for (room, sent) in &news.rooms {
            self.rooms.insert(*room, *sent);
        }
        if self.members.len() + news.members.len() > MEMBERS_MAX {
            self.members = HashSet::new();
        }
        self.members.extend(news.members.iter().copied());
        self.extensions = news.extensions;
        if let Some(rooms) = &news.typing {
            let told = self.typing.get_or_insert_default();
            for (room, is_typing) in rooms {
                match is_typing {
                    true => told.insert(*room),
                    false => told.remove(room),
                };
            }
        }
    }
}

/// What one answer told.
#[derive(Clone, Debug, Default)]
pub struct News {
    pub rooms: Vec<(RoomKey, RoomSent)>,
    pub members: Vec<u64>,
    /// How far extensions are told with it.
    pub extensions: ExtensionsTold,
    /// Rooms whose typing it told, and whether anybody does; none where the
    /// extension is not asked for.
    pub typing: Option<Vec<(RoomKey, bool)>>,
}

/// A connection as of its newest answer.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Names its rows; another one after each start from nothing.
    pub number: u64,
    /// What was confirmed, and the position it was given with; none before the
    /// first confirmation.
    pub position: Option<String>,
    pub told: Told,
    /// The newest answer, which may have been lost.
    pub pending: Option<(String, News)>,
    /// Rooms of `told` whose rows are not written yet.
    pub unwritten: Vec<(RoomKey, RoomSent)>,
}

impl Connection {
    pub fn new(number: u64) -> Connection {
        Connection {
            number,
            position: None,
            told: Told::default(),
            pending: None,
            unwritten: Vec::new(),
        }
    }

    /// The connection as the client has it that asks from `pos`; none if that is
    /// neither of the two newest positions.
    pub fn at(&self, pos: &str) -> Option<Connection> {
        let mut connection = self.clone();
        match connection.pending.take() {
            Some((position, news)) if position == pos => {
                connection.told.apply(&news);
                connection.unwritten.extend(news.rooms);
                connection.position = Some(position);
            }
            _ if self.position.as_deref() == Some(pos) => {}
            _ => return None,
        }
        Some(connection)
    }

    /// Roughly what it takes in memory, in units of 64 bytes.
    pub fn weight(&self) -> u64 {
        let configs = self.told.configs_bytes() / 64;
        (self.told.rooms.len() + self.told.members.len() / 4 + configs + 16) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(to: u64) -> RoomSent {
        RoomSent {
            to,
            members_from: 0,
            config: 0,
            limit: 1,
            held: 1,
            receipts_to: None,
            narrowed_at: None,
            membership: Membership::Join,
            is_dm: false,
        }
    }

    fn news(room: u64, to: u64) -> News {
        let key = RoomKey {
            partition: 0,
            room: RoomSn(room),
        };
        News {
            rooms: vec![(key, sent(to))],
            members: vec![room],
            extensions: ExtensionsTold::default(),
            typing: None,
        }
    }

    #[test]
    fn an_answer_counts_once_its_position_comes_back() {
        let mut first = Connection::new(1);
        first.pending = Some(("a".to_owned(), news(1, 10)));
        assert!(first.at("x").is_none());
        let mut confirmed = first.at("a").expect("pending");
        assert_eq!(confirmed.told.rooms.len(), 1);
        assert!(confirmed.told.members.contains(&1));
        confirmed.pending = Some(("b".to_owned(), news(2, 20)));
        // The answer was lost: what it told is told again.
        let repeated = confirmed.at("a").expect("the one before");
        assert_eq!(repeated.told.rooms.len(), 1);
        assert!(repeated.pending.is_none());
        let next = confirmed.at("b").expect("pending");
        assert_eq!(next.told.rooms.len(), 2);
        assert!(next.at("a").is_none(), "older positions are gone");
    }

    #[test]
    fn rules_are_kept_once_and_bounded() {
        let mut told = Told::default();
        assert_eq!(told.intern(Wanted::default()), Some(0));
        assert_eq!(told.intern(Wanted::default()), Some(0));
        told.configs = vec![Wanted::default(); CONFIGS_MAX];
        let other: super::super::required_state::Wire =
            serde_json::from_str("[[\"a\", \"\"]]").expect("pairs");
        let other = other.parse(ruma::user_id!("@me:here"));
        assert_eq!(told.intern(Wanted::combine([&other].into_iter())), None);
        // However few there are, they do not take more than their bytes.
        told.configs.clear();
        let mut kept = 0;
        for name in 'a'..='z' {
            let pairs = vec![[name.to_string(), "x".repeat(100_000)]];
            let wire: super::super::required_state::Wire =
                serde_json::from_value(serde_json::json!(pairs)).expect("pairs");
            let wanted = Wanted::combine([&wire.parse(ruma::user_id!("@me:here"))].into_iter());
            kept += usize::from(told.intern(wanted).is_some());
        }
        assert_eq!(kept, CONFIGS_BYTES_MAX / 100_000);
    }
}
