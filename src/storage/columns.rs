//! The catalogue of column families and of the tables within them.
//!
//! Families are few and follow access patterns; a table is a leading tag byte
//! of the key, with one owner that writes it. Every key continues with the
//! partition as `u16` big-endian, then as stated; numbers in keys are written
//! such that byte order is their order ([`super::keys::Key`]).

/// A column family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Applied offsets, versions, epochs, the output tail. Point look-ups.
    Meta,
    /// Room server: rows by interned id.
    Rooms,
    /// Room server: looked up by event id, idempotency key, user.
    Index,
    /// Room server: state nodes and the history of each key.
    State,
    /// User server, alias server, receipt server, key server and delivery server.
    Users,
    /// Client sync reader.
    ClientSync,
    /// Relations reader.
    Relations,
    /// User directory reader.
    UserDirectory,
    /// Federation sender.
    FederationSender,
}

impl Family {
    /// Every family.
    pub const ALL: [Family; 9] = [
        Family::Meta,
        Family::Rooms,
        Family::Index,
        Family::State,
        Family::Users,
        Family::ClientSync,
        Family::Relations,
        Family::UserDirectory,
        Family::FederationSender,
    ];

    /// Its name in RocksDB.
    pub fn name(self) -> &'static str {
        match self {
            Family::Meta => "meta",
            Family::Rooms => "rooms",
            Family::Index => "index",
            Family::State => "state",
            Family::Users => "users",
            Family::ClientSync => "client_sync",
            Family::Relations => "relations",
            Family::UserDirectory => "user_directory",
            Family::FederationSender => "federation_sender",
        }
    }
}

/// A table: family, tag, owner and whether the state digest covers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    pub family: Family,
    pub tag: u8,
    pub name: &'static str,
    /// The folder in `src/` whose code alone writes it.
    pub owner: &'static str,
    /// Caches and bookkeeping are not digested.
    pub digested: bool,
}

const fn table(
    family: Family,
    tag: u8,
    name: &'static str,
    owner: &'static str,
    digested: bool,
) -> Table {
    Table {
        family,
        tag,
        name,
        owner,
        digested,
    }
}

/// `partition` → applied input offset and link, output offset and link, projector version.
pub const APPLIED: Table = table(Family::Meta, 1, "applied", "projectors", false);
/// `partition | output offset` → what completes the tail of *output* after a crash.
pub const OUTPUT_TAIL: Table = table(Family::Meta, 2, "output_tail", "projectors", false);
/// Reader name → its cursor, one per partition.
pub const CURSORS: Table = table(Family::Meta, 3, "cursors", "readers", false);
/// Store version and output epoch.
pub const STORE: Table = table(Family::Meta, 4, "store", "projectors", false);

const ROOM_SERVER: &str = "projectors/roomserver";

/// `room sn` → what of the room changes with each event: extremities, last
/// place, current state, counts.
pub const ROOMS: Table = table(Family::Rooms, 1, "rooms", ROOM_SERVER, true);
/// `event sn` → the event's row, without its JSON.
pub const EVENTS: Table = table(Family::Rooms, 2, "events", ROOM_SERVER, true);
/// `room sn | place` → event sn, for events that are part of the timeline.
pub const TIMELINE: Table = table(Family::Rooms, 3, "timeline", ROOM_SERVER, true);

/// `room sn` → since which record the room waits for work done aside.
pub const PARKED: Table = table(Family::Rooms, 4, "parked", ROOM_SERVER, true);
/// `room sn | sequence` → offset of a record that waits until its room goes on.
pub const PARKED_RECORDS: Table = table(Family::Rooms, 5, "parked_records", ROOM_SERVER, true);
/// `room sn | given state` → the event it is the state before;
/// `room sn | given state | input offset` → a chunk of it.
pub const GIVEN_STATES: Table = table(Family::Rooms, 6, "given_states", ROOM_SERVER, true);
/// `room sn | event id` → the state that was given for before it.
pub const STATES_BEFORE: Table = table(Family::Rooms, 7, "states_before", ROOM_SERVER, true);

/// `room id` → room sn.
pub const ROOM_IDS: Table = table(Family::Index, 1, "room_ids", ROOM_SERVER, true);
/// `room sn | event id` → event sn.
pub const EVENT_IDS: Table = table(Family::Index, 2, "event_ids", ROOM_SERVER, true);
/// `room sn | idempotency key` → event sn.
pub const IDEMPOTENCY: Table = table(Family::Index, 3, "idempotency", ROOM_SERVER, true);
/// `user id | room id` → membership and the event that gave it.
pub const USER_ROOMS: Table = table(Family::Index, 4, "user_rooms", ROOM_SERVER, true);
/// `room id` → nothing, for rooms in the published directory.
pub const PUBLISHED: Table = table(Family::Index, 5, "published", ROOM_SERVER, true);
/// `room sn | event id` → redactions that wait for the event they redact.
pub const EARLY_REDACTIONS: Table = table(Family::Index, 6, "early_redactions", ROOM_SERVER, true);

/// `room sn | event id | input offset` → what of that event the record waits for.
pub const WAITING: Table = table(Family::Index, 7, "waiting", ROOM_SERVER, true);

/// `user id | room id` → an invite or a knock seen from outside, or its end.
pub const OUTSIDE: Table = table(Family::Index, 8, "outside", ROOM_SERVER, true);
/// `room id | user id` → nothing, for each row of [`OUTSIDE`].
pub const OUTSIDE_USERS: Table = table(Family::Index, 9, "outside_users", ROOM_SERVER, true);
/// `0 | room id` → how far the purge of the room has come;
/// `1 | room id` → where it was complete. See `purge.rs` there.
pub const PURGES: Table = table(Family::Index, 20, "purges", ROOM_SERVER, true);

/// `room sn | state id` → parent, branch, digest and what changed.
pub const STATE_NODES: Table = table(Family::State, 1, "state_nodes", ROOM_SERVER, true);
/// `room sn | head of a state's digest` → state id.
pub const STATE_DIGESTS: Table = table(Family::State, 2, "state_digests", ROOM_SERVER, true);
/// `room sn | type | state key` → interned key.
pub const STATE_KEYS: Table = table(Family::State, 3, "state_keys", ROOM_SERVER, true);
/// `room sn | interned key | branch | state id` → event sn.
pub const STATE_HISTORY: Table = table(Family::State, 4, "state_history", ROOM_SERVER, true);
/// `room sn | branch` → branch and state it leaves.
pub const STATE_BRANCHES: Table = table(Family::State, 5, "state_branches", ROOM_SERVER, true);
/// `room sn | event sn` → auth events, of each state event that is not rejected.
pub const AUTH_EDGES: Table = table(Family::State, 6, "auth_edges", ROOM_SERVER, true);

const USER_SERVER: &str = "projectors/userserver";
const ALIAS_SERVER: &str = "projectors/aliasserver";

/// `user id` → password hash and flags.
pub const ACCOUNTS: Table = table(Family::Users, 1, "accounts", USER_SERVER, true);
/// `user id | device id` → display name and token hashes.
pub const DEVICES: Table = table(Family::Users, 2, "devices", USER_SERVER, true);
/// `user id | field` → value as JSON.
pub const PROFILES: Table = table(Family::Users, 3, "profiles", USER_SERVER, true);
/// `user id | room id or nothing | type` → *output* offset of the change, content as JSON.
pub const ACCOUNT_DATA: Table = table(Family::Users, 4, "account_data", USER_SERVER, true);
/// `user id | filter id` → definition as JSON.
pub const FILTERS: Table = table(Family::Users, 5, "filters", USER_SERVER, true);
/// `user id | room id` → the membership event that was current when it was forgotten.
pub const FORGOTTEN: Table = table(Family::Users, 6, "forgotten", USER_SERVER, true);
/// `user id` → the last refused registration, to refuse what came with it.
pub const REFUSED_ACCOUNTS: Table = table(Family::Users, 7, "refused_accounts", USER_SERVER, true);
/// `input offset` → what a user reported to the people who run the server.
pub const REPORTS: Table = table(Family::Users, 8, "reports", USER_SERVER, true);
/// `user id` → nothing: who closed their account and asked to be erased.
pub const ERASED_USERS: Table = table(Family::Users, 9, "erased_users", USER_SERVER, true);
/// `alias` → room, creator, servers.
pub const ALIASES: Table = table(Family::Users, 16, "aliases", ALIAS_SERVER, true);
/// `room id | alias` → nothing.
pub const ROOM_ALIASES: Table = table(Family::Users, 17, "room_aliases", ALIAS_SERVER, true);

const RECEIPT_SERVER: &str = "projectors/receiptserver";

/// `room id | user id | receipt type | thread` → *output* offset of the change,
/// event, place, time.
pub const RECEIPTS: Table = table(Family::Users, 24, "receipts", RECEIPT_SERVER, true);

const KEY_SERVER: &str = "projectors/keyserver";

/// `server name` → the keys that it published, and its newest answer.
pub const SERVER_KEYS: Table = table(Family::Users, 40, "server_keys", KEY_SERVER, true);

const DELIVERY_SERVER: &str = "projectors/deliveryserver";

/// `server name` → what the server acknowledged, and when it is tried again.
pub const DELIVERIES: Table = table(Family::Users, 41, "deliveries", DELIVERY_SERVER, true);

const CLIENT_SYNC: &str = "readers/client_sync";

/// `room sn | output offset` → an event of the room's timeline.
pub const SYNC_TIMELINE: Table = table(Family::ClientSync, 1, "sync_timeline", CLIENT_SYNC, false);
/// `room sn | output offset` → how the room's current state changed.
pub const SYNC_STATE: Table = table(Family::ClientSync, 2, "sync_state", CLIENT_SYNC, false);
/// `user id | room sn | output offset` → membership of a local user from then on.
pub const SYNC_MEMBERS: Table = table(Family::ClientSync, 3, "sync_members", CLIENT_SYNC, false);
/// `room sn` → room id and last change.
pub const SYNC_ROOMS: Table = table(Family::ClientSync, 4, "sync_rooms", CLIENT_SYNC, false);
/// `user id | output offset` → which account data changed.
pub const SYNC_DATA: Table = table(Family::ClientSync, 5, "sync_data", CLIENT_SYNC, false);
/// `user id | room id | type` → offset of its row in [`SYNC_DATA`].
pub const SYNC_DATA_AT: Table = table(Family::ClientSync, 6, "sync_data_at", CLIENT_SYNC, false);
/// `room sn | output offset` → a receipt that everybody in the room is shown.
pub const SYNC_RECEIPTS: Table = table(Family::ClientSync, 16, "sync_receipts", CLIENT_SYNC, false);
/// `user id | room sn | output offset` → a receipt that the user alone is shown.
pub const SYNC_OWN_RECEIPTS: Table = table(
    Family::ClientSync,
    17,
    "sync_own_receipts",
    CLIENT_SYNC,
    false,
);
/// `room sn | user id | receipt type | thread` → offset of its row in one of these.
pub const SYNC_RECEIPTS_AT: Table = table(
    Family::ClientSync,
    18,
    "sync_receipts_at",
    CLIENT_SYNC,
    false,
);

/// `user id | output offset` → room id of one that the operator had purged.
pub const SYNC_PURGED: Table = table(Family::ClientSync, 20, "sync_purged", CLIENT_SYNC, false);

/// `user id | room sn` → what the user has not read, as far as it was counted.
pub const SYNC_UNREAD: Table = table(Family::ClientSync, 24, "sync_unread", CLIENT_SYNC, false);

/// `user id | device id | connection id` → a connection of sliding sync.
pub const SLIDING_CONNECTIONS: Table = table(
    Family::ClientSync,
    32,
    "sliding_connections",
    CLIENT_SYNC,
    false,
);
/// `connection | partition | room sn` → how far the room was told on it.
pub const SLIDING_ROOMS: Table = table(Family::ClientSync, 33, "sliding_rooms", CLIENT_SYNC, false);

const RELATIONS: &str = "readers/relations";

/// `room sn | parent | place` → an event that relates to it.
pub const RELATIONS_CHILDREN: Table = relations(1, "relations_children");
/// `room sn | parent | rel_type | place` → the same.
pub const RELATIONS_BY_TYPE: Table = relations(2, "relations_by_type");
/// `room sn | parent` → how many of each kind relate to it.
pub const RELATIONS_PARENTS: Table = relations(3, "relations_parents");
/// `room sn | event id` → to what the event relates, to undo it when it is redacted.
pub const RELATIONS_OF: Table = relations(4, "relations_of");
/// `room sn | parent | sender | type | origin_server_ts | event id` → event sn of an edit.
pub const RELATIONS_EDITS: Table = relations(5, "relations_edits");
/// `room sn | parent | digest of sender, type and key | place` → nothing, for annotations.
pub const RELATIONS_ANNOTATIONS: Table = relations(6, "relations_annotations");
/// `room sn | place of the newest reply` → root of the thread.
pub const RELATIONS_THREADS: Table = relations(7, "relations_threads");
/// `room sn | root | sender` → how many replies of the thread are theirs.
pub const RELATIONS_REPLIERS: Table = relations(8, "relations_repliers");
/// `room sn | origin_server_ts | place` → event sn, for events of the timeline.
pub const RELATIONS_TIMES: Table = relations(9, "relations_times");

const fn relations(tag: u8, name: &'static str) -> Table {
    table(Family::Relations, tag, name, RELATIONS, false)
}
const USER_DIRECTORY: &str = "readers/user_directory";

/// `word | 0 | user id` → nothing: a word of the user id or of a name.
pub const DIRECTORY_WORDS: Table = table(
    Family::UserDirectory,
    1,
    "directory_words",
    USER_DIRECTORY,
    false,
);
/// `user id | 0` → display name of a user of this server.
pub const DIRECTORY_NAMES: Table = table(
    Family::UserDirectory,
    2,
    "directory_names",
    USER_DIRECTORY,
    false,
);
/// `user id | 0 | room sn` → what a user who is joined is called there.
pub const DIRECTORY_MEMBERS: Table = table(
    Family::UserDirectory,
    3,
    "directory_members",
    USER_DIRECTORY,
    false,
);
/// `room sn` → whether anybody may join it or read it, and how many of ours do.
pub const DIRECTORY_OPEN: Table = table(
    Family::UserDirectory,
    4,
    "directory_open",
    USER_DIRECTORY,
    false,
);

const SENDER: &str = "readers/federation_sender";

/// `room id | server name` → how many users of that server are joined.
pub const SENDER_SERVERS: Table = sender(1, "sender_servers");
/// `server name | input offset | sub-number` → an event that the server is to be sent.
pub const SENDER_QUEUE: Table = sender(2, "sender_queue");
/// `room id` → those of our events that none of our later ones builds on.
pub const SENDER_TIPS: Table = sender(3, "sender_tips");

const fn sender(tag: u8, name: &'static str) -> Table {
    table(Family::FederationSender, tag, name, SENDER, false)
}

/// All tables that this file declares. Owners add theirs beside it.
pub const ALL: &[Table] = &[
    APPLIED,
    OUTPUT_TAIL,
    CURSORS,
    STORE,
    ROOMS,
    EVENTS,
    TIMELINE,
    ROOM_IDS,
    EVENT_IDS,
    IDEMPOTENCY,
    USER_ROOMS,
    PUBLISHED,
    EARLY_REDACTIONS,
    WAITING,
    OUTSIDE,
    OUTSIDE_USERS,
    PURGES,
    PARKED,
    PARKED_RECORDS,
    GIVEN_STATES,
    STATES_BEFORE,
    STATE_NODES,
    STATE_DIGESTS,
    STATE_KEYS,
    STATE_HISTORY,
    STATE_BRANCHES,
    AUTH_EDGES,
    ACCOUNTS,
    DEVICES,
    PROFILES,
    ACCOUNT_DATA,
    FILTERS,
    FORGOTTEN,
    REFUSED_ACCOUNTS,
    REPORTS,
    ERASED_USERS,
    ALIASES,
    ROOM_ALIASES,
    RECEIPTS,
    SERVER_KEYS,
    DELIVERIES,
    SYNC_TIMELINE,
    SYNC_STATE,
    SYNC_MEMBERS,
    SYNC_ROOMS,
    SYNC_DATA,
    SYNC_DATA_AT,
    SYNC_RECEIPTS,
    SYNC_OWN_RECEIPTS,
    SYNC_RECEIPTS_AT,
    SYNC_PURGED,
    SYNC_UNREAD,
    SLIDING_CONNECTIONS,
    SLIDING_ROOMS,
    RELATIONS_CHILDREN,
    RELATIONS_BY_TYPE,
    RELATIONS_PARENTS,
    RELATIONS_OF,
    RELATIONS_EDITS,
    RELATIONS_ANNOTATIONS,
    RELATIONS_THREADS,
    RELATIONS_REPLIERS,
    RELATIONS_TIMES,
    DIRECTORY_WORDS,
    DIRECTORY_NAMES,
    DIRECTORY_MEMBERS,
    DIRECTORY_OPEN,
    SENDER_SERVERS,
    SENDER_QUEUE,
    SENDER_TIPS,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_tables_share_a_tag_or_a_name() {
        for (index, table) in ALL.iter().enumerate() {
            for other in &ALL[index + 1..] {
                assert!(table.family != other.family || table.tag != other.tag);
                assert_ne!(table.name, other.name);
            }
        }
    }
}
