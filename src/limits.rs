//! Bounds on what the server accepts, keeps or waits for, each with its reason.
//!
//! Only constants live here. A bound that an operator may change is a setting
//! whose default is the constant of this file.

/// Largest PDU in bytes, as canonical JSON with signatures, inclusive
/// (client-server API, *Size limits*).
pub const PDU_BYTES_MAX: usize = 65_536;
/// Largest user id, room id, room alias or event id in bytes, sigil and domain
/// included (appendices, *Identifier grammar*). Bytes, not characters: a limit
/// in characters would let ids through that peers refuse.
pub const ID_BYTES_MAX: usize = 255;
/// Largest event type in bytes (client-server API, *Size limits*).
pub const EVENT_TYPE_BYTES_MAX: usize = 255;
/// Largest state key in bytes (client-server API, *Size limits*).
pub const STATE_KEY_BYTES_MAX: usize = 255;
/// Most `auth_events` of a PDU (server-server API, PDU definitions).
pub const AUTH_EVENTS_MAX: usize = 10;
/// Most `prev_events` of a PDU (server-server API, PDU definitions).
pub const PREV_EVENTS_MAX: usize = 20;
/// Largest magnitude of an integer: 2^53 - 1 (appendices, *Canonical JSON*).
pub const INTEGER_MAX: i64 = (1 << 53) - 1;

/// Deepest nesting of arrays and objects. Ours: no known event needs more than
/// a dozen levels, and parsers recurse.
pub const JSON_DEPTH_MAX: usize = 100;
/// Most keys of one object. Ours: keeps hostile objects from making sorted
/// maps slow; the largest power levels events seen have some thousands.
pub const JSON_OBJECT_KEYS_MAX: usize = 10_000;

/// Most PDUs in one transaction (server-server API, *Transactions*).
pub const TRANSACTION_PDUS_MAX: usize = 50;
/// Most EDUs in one transaction (server-server API, *Transactions*).
pub const TRANSACTION_EDUS_MAX: usize = 100;
/// Largest EDU or to-device content in bytes; peers refuse larger ones.
pub const EDU_BYTES_MAX: usize = 65_536;
/// Largest body of a federation `/send` in bytes: 200 events of 64 KiB.
pub const SEND_BODY_BYTES_MAX: usize = 12_500 * 1024;
/// Largest JSON body of other requests in bytes. Ours: fits key uploads.
pub const JSON_BODY_BYTES_MAX: usize = 1024 * 1024;
/// Largest body of `/login` and `/register` in bytes. Ours: nothing in it is
/// large, and these requests come from strangers.
pub const LOGIN_BODY_BYTES_MAX: usize = 64 * 1024;

/// Shortest password in characters.
pub const PASSWORD_CHARS_MIN: usize = 8;
/// Longest password in characters: bounds the bytes that Argon2 reads.
pub const PASSWORD_CHARS_MAX: usize = 512;
/// Longest display name in bytes.
pub const DISPLAY_NAME_BYTES_MAX: usize = 256;
/// Longest avatar URL in bytes.
pub const AVATAR_URL_BYTES_MAX: usize = 1_000;
/// Longest status message of a presence in bytes. Ours: a line of text, which
/// goes to everybody who shares a room.
pub const STATUS_MSG_BYTES_MAX: usize = 1_000;
/// Longest display name of a device in bytes.
pub const DEVICE_NAME_BYTES_MAX: usize = 100;
/// Largest profile of a user, all fields together, in bytes
/// (client-server API, *Profiles*).
pub const PROFILE_BYTES_MAX: usize = 65_536;
/// Longest name of a profile field in bytes (client-server API, *Profiles*).
pub const PROFILE_FIELD_NAME_BYTES_MAX: usize = 255;
/// Most devices of a user.
pub const DEVICES_PER_USER_MAX: usize = 100;
/// Most filters of a user.
pub const FILTERS_PER_USER_MAX: usize = 1_000;
/// Most keys of account data of a user, rooms included.
pub const ACCOUNT_DATA_KEYS_MAX: usize = 1_000;
/// Largest content of one account data key in bytes.
pub const ACCOUNT_DATA_BYTES_MAX: usize = 65_536;
/// Most push rules of a user, the predefined ones included.
pub const PUSH_RULES_MAX: usize = 10_000;
/// Largest push rule in bytes, as JSON. Ours: bounds what its patterns cost.
pub const PUSH_RULE_BYTES_MAX: usize = 1_024;
/// All push rules of a user in bytes, as JSON. Ours: they are one piece of
/// account data, which one record of the log has to hold.
pub const PUSH_RULES_BYTES_MAX: usize = 1_000_000;

/// Longest reason of a report in bytes. Ours: people read it.
pub const REPORT_REASON_BYTES_MAX: usize = 16 * 1024;

/// Longest `timeout` of `/sync` in milliseconds; proxies cut longer waits.
pub const SYNC_TIMEOUT_MS_MAX: u64 = 90_000;
/// Most `/sync` requests of a device at a time: more is a client gone wild.
pub const SYNCS_PER_DEVICE_MAX: usize = 3;
/// Most events on one page of `/messages`, `/context`, `/search` or a filter.
pub const PAGE_EVENTS_MAX: usize = 500;
/// Events on a page where the client names no number (client-server API).
pub const PAGE_EVENTS_DEFAULT: usize = 10;
/// Most events answered to one `/backfill`.
pub const BACKFILL_EVENTS_MAX: usize = 100;
/// Most events answered to one `/get_missing_events`.
pub const MISSING_EVENTS_MAX: usize = 20;
/// Most rooms on one page of a space's hierarchy.
pub const SPACE_ROOMS_MAX: usize = 50;
/// How far below a space its hierarchy is walked.
pub const SPACE_DEPTH_MAX: usize = 50;
/// Children of one space that are looked at. Ours: the largest known spaces have
/// some hundred.
pub const SPACE_CHILDREN_MAX: usize = 1_000;
/// Rooms of a hierarchy that one request comes by; what lies behind is not shown.
/// Ours: a page begins its walk at the root.
pub const SPACE_WALK_MAX: usize = 2_000;
/// Most rooms on one page of the public rooms.
pub const PUBLIC_ROOMS_MAX: usize = 100;

/// Most names in one list of a filter (`types`, `rooms`, ...). Ours: a filter
/// is compared with every event of a sync.
pub const FILTER_LIST_MAX: usize = 1_000;
/// Longest filter definition in bytes. Ours.
pub const FILTER_BYTES_MAX: usize = 64 * 1024;

/// Work that deciding about one event may take while other rooms wait for it,
/// in steps of about 5 µs (an event looked at, a state entry changed): some 20 ms.
/// Above it the room is parked. Counted from the inputs, never from a clock, so
/// that every replay parks alike.
pub const ROOM_WORK_INLINE_MAX: u64 = 4_000;
/// Work that deciding about one event may take at all, done aside: some tens of
/// seconds, and some hundred MiB. What needs more is refused.
pub const ROOM_WORK_ASIDE_MAX: u64 = 5_000_000;
/// Records that one record may release: events that waited for it, or records
/// of a parked room. More wait for the next one.
pub const RELEASED_RECORDS_MAX: usize = 64;
/// Rows of a purged room that one record drops: some milliseconds, in which the
/// other rooms wait. Part of what makes replays equal.
pub const PURGED_ROWS_MAX: usize = 512;

// What is measured in the same unit must fit into what contains it.
const _: () = assert!(EVENT_TYPE_BYTES_MAX + STATE_KEY_BYTES_MAX < PDU_BYTES_MAX);
const _: () = assert!(PAGE_EVENTS_DEFAULT <= PAGE_EVENTS_MAX);
const _: () = assert!(PASSWORD_CHARS_MIN < PASSWORD_CHARS_MAX);
const _: () = assert!(LOGIN_BODY_BYTES_MAX > 4 * PASSWORD_CHARS_MAX);
