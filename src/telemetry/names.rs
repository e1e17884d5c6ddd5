//! Every metric: name, unit and meaning in one place, so that a dashboard can
//! rely on them. Label values are bounded: routes, topics, kinds, never ids.

/// A metric.
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
}

/// How a metric is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    /// Seconds.
    Seconds,
    /// A number of things.
    Count,
}

/// From the hand-over of a batch to its durability, by `topic`.
pub const APPEND_SECONDS: &str = "engram_log_append_seconds";
/// One flush of the disk, by `topic`.
pub const SYNC_SECONDS: &str = "engram_log_sync_seconds";
/// Records that one flush made durable, by `topic`.
pub const BATCH_RECORDS: &str = "engram_log_batch_records";
/// Records appended, by `topic`.
pub const APPENDED_RECORDS: &str = "engram_log_appended_records_total";
/// Payload bytes appended, by `topic`.
pub const APPENDED_BYTES: &str = "engram_log_appended_bytes_total";
/// Segments begun, by `topic`.
pub const SEGMENT_ROLLS: &str = "engram_log_segment_rolls_total";
/// Durable *input* records that are not projected yet, by `partition`.
pub const PROJECTION_LAG: &str = "engram_projection_lag_records";
/// *Output* records that the sync reader has not read yet, by `partition`.
pub const SYNC_LAG: &str = "engram_sync_lag_records";
/// Long polls that wait for something to happen.
pub const SYNC_WAITERS: &str = "engram_sync_waiters";
/// *Output* records that the search index does not show yet.
pub const SEARCH_LAG: &str = "engram_search_lag_records";
/// *Output* records that the user directory has not read yet.
pub const DIRECTORY_LAG: &str = "engram_user_directory_lag_records";
/// Payload bytes of *ephemeral* that wait to be written.
pub const EPHEMERAL_QUEUED_BYTES: &str = "engram_ephemeral_queued_bytes";
/// Users who type, each room counted.
pub const TYPING_USERS: &str = "engram_typing_users";
/// Local users who are online or unavailable, or were a moment ago.
pub const PRESENT_USERS: &str = "engram_present_users";
/// From a request's head to its answer's head, by `route`, `method`, `status`.
pub const REQUEST_SECONDS: &str = "engram_http_request_seconds";
/// Flushes of the store to disk.
pub const STORE_FLUSHES: &str = "engram_store_flushes_total";
/// Written rows that are in memory only.
pub const STORE_MEMTABLE_BYTES: &str = "engram_store_memtable_bytes";
/// Blocks of the store held in memory.
pub const STORE_CACHE_BYTES: &str = "engram_store_cache_bytes";
/// The store's files on disk.
pub const STORE_FILE_BYTES: &str = "engram_store_file_bytes";
/// A family of the store on disk, by `family`.
pub const STORE_FAMILY_BYTES: &str = "engram_store_family_bytes";
/// Accepted events in *output*.
pub const ROOM_EVENTS: &str = "engram_room_events";
/// Entries of current state that changed, in *output*.
pub const STATE_CHANGES: &str = "engram_state_changes";
/// Room states on disk, by entry of current state that changed.
pub const STATE_BYTES_PER_CHANGE: &str = "engram_state_bytes_per_change";
/// Room states on disk, by accepted event.
pub const STATE_BYTES_PER_EVENT: &str = "engram_state_bytes_per_event";
/// The whole store on disk, by accepted event.
pub const STORE_BYTES_PER_EVENT: &str = "engram_store_bytes_per_event";
/// Snapshots made.
pub const SNAPSHOTS: &str = "engram_snapshots_total";
/// Rooms that wait for work which is done aside.
pub const ROOMS_PARKED: &str = "engram_rooms_parked";
/// Work that was done aside for rooms.
pub const ROOM_WORK: &str = "engram_room_work_total";
/// Transactions of other servers that were taken in.
pub const TRANSACTIONS_RECEIVED: &str = "engram_federation_transactions_received_total";
/// Events of other servers, by `result`.
pub const PDUS_RECEIVED: &str = "engram_federation_pdus_received_total";
/// EDUs of other servers.
pub const EDUS_RECEIVED: &str = "engram_federation_edus_received_total";
/// EDUs, or parts of them, that were dropped, by `reason`.
pub const EDUS_DROPPED: &str = "engram_federation_edus_dropped_total";
/// Gaps before events of other servers, by `result`.
pub const GAPS: &str = "engram_federation_gaps_total";
/// Events that filled gaps.
pub const GAP_EVENTS: &str = "engram_federation_gap_events_total";
/// Bodies of transactions that are at work or wait.
pub const RECEIVING_BYTES: &str = "engram_federation_receiving_bytes";
/// Transactions to other servers that ended, by `result`: taken, refused for what
/// is in them, or failed.
pub const TRANSACTIONS: &str = "engram_federation_transactions_total";
/// Transactions that are on their way to other servers.
pub const TRANSACTIONS_IN_FLIGHT: &str = "engram_federation_transactions_in_flight";
/// Events that a server refused so often that they are not sent to it any more.
pub const EVENTS_GIVEN_UP: &str = "engram_federation_events_given_up_total";
/// Events that wait to be sent, over all servers.
pub const EVENTS_TO_SEND: &str = "engram_federation_events_waiting";
/// Servers whose last transaction failed.
pub const SERVERS_FAILING: &str = "engram_federation_servers_failing";
/// Servers that the federation sender has in memory: those with which something
/// goes on.
pub const DESTINATIONS: &str = "engram_federation_destinations";
/// *Output* records that the federation sender has not read yet.
pub const SENDER_LAG: &str = "engram_federation_sender_lag_records";
/// Seconds since the epoch at which the process started.
pub const STARTED: &str = "engram_started_time_seconds";

/// All metrics.
pub const ALL: &[Metric] = &[
    metric(
        APPEND_SECONDS,
        Kind::Seconds,
        "From the hand-over of a batch to its durability.",
    ),
    metric(SYNC_SECONDS, Kind::Seconds, "One flush of the disk."),
    metric(
        BATCH_RECORDS,
        Kind::Count,
        "Records that one flush made durable.",
    ),
    metric(APPENDED_RECORDS, Kind::Counter, "Records appended."),
    metric(APPENDED_BYTES, Kind::Counter, "Payload bytes appended."),
    metric(SEGMENT_ROLLS, Kind::Counter, "Segments begun."),
    metric(
        PROJECTION_LAG,
        Kind::Gauge,
        "Durable input records that are not projected yet.",
    ),
    metric(
        SYNC_LAG,
        Kind::Gauge,
        "Output records that the sync reader has not read yet.",
    ),
    metric(
        SYNC_WAITERS,
        Kind::Gauge,
        "Long polls that wait for something to happen.",
    ),
    metric(
        SEARCH_LAG,
        Kind::Gauge,
        "Output records that the search index does not show yet.",
    ),
    metric(
        DIRECTORY_LAG,
        Kind::Gauge,
        "Output records that the user directory has not read yet.",
    ),
    metric(
        EPHEMERAL_QUEUED_BYTES,
        Kind::Gauge,
        "Payload bytes of typing and presence that wait to be written.",
    ),
    metric(
        TYPING_USERS,
        Kind::Gauge,
        "Users who type, each room counted.",
    ),
    metric(
        PRESENT_USERS,
        Kind::Gauge,
        "Local users who are online or unavailable.",
    ),
    metric(
        REQUEST_SECONDS,
        Kind::Seconds,
        "From a request's head to its answer's head.",
    ),
    metric(
        STORE_FLUSHES,
        Kind::Counter,
        "Flushes of the store to disk.",
    ),
    metric(
        STORE_MEMTABLE_BYTES,
        Kind::Gauge,
        "Written rows that are in memory only.",
    ),
    metric(
        STORE_CACHE_BYTES,
        Kind::Gauge,
        "Blocks of the store held in memory.",
    ),
    metric(STORE_FILE_BYTES, Kind::Gauge, "The store's files on disk."),
    metric(
        STORE_FAMILY_BYTES,
        Kind::Gauge,
        "A family of the store on disk.",
    ),
    metric(ROOM_EVENTS, Kind::Gauge, "Accepted events in output."),
    metric(
        STATE_CHANGES,
        Kind::Gauge,
        "Entries of current state that changed, in output.",
    ),
    metric(
        STATE_BYTES_PER_CHANGE,
        Kind::Gauge,
        "Room states on disk, by entry of current state that changed.",
    ),
    metric(
        STATE_BYTES_PER_EVENT,
        Kind::Gauge,
        "Room states on disk, by accepted event.",
    ),
    metric(
        STORE_BYTES_PER_EVENT,
        Kind::Gauge,
        "The whole store on disk, by accepted event.",
    ),
    metric(SNAPSHOTS, Kind::Counter, "Snapshots made."),
    metric(
        ROOMS_PARKED,
        Kind::Gauge,
        "Rooms that wait for work which is done aside.",
    ),
    metric(
        ROOM_WORK,
        Kind::Counter,
        "Work that was done aside for rooms.",
    ),
    metric(
        TRANSACTIONS_RECEIVED,
        Kind::Counter,
        "Transactions of other servers that were taken in.",
    ),
    metric(PDUS_RECEIVED, Kind::Counter, "Events of other servers."),
    metric(EDUS_RECEIVED, Kind::Counter, "EDUs of other servers."),
    metric(
        EDUS_DROPPED,
        Kind::Counter,
        "EDUs of other servers, or parts of them, that were dropped.",
    ),
    metric(GAPS, Kind::Counter, "Gaps before events of other servers."),
    metric(GAP_EVENTS, Kind::Counter, "Events that filled gaps."),
    metric(
        RECEIVING_BYTES,
        Kind::Gauge,
        "Bodies of transactions that are at work or wait.",
    ),
    metric(
        TRANSACTIONS,
        Kind::Counter,
        "Transactions to other servers that ended.",
    ),
    metric(
        TRANSACTIONS_IN_FLIGHT,
        Kind::Gauge,
        "Transactions that are on their way to other servers.",
    ),
    metric(
        EVENTS_GIVEN_UP,
        Kind::Counter,
        "Events that a server refused so often that they are not sent to it any more.",
    ),
    metric(
        EVENTS_TO_SEND,
        Kind::Gauge,
        "Events that wait to be sent to other servers.",
    ),
    metric(
        SERVERS_FAILING,
        Kind::Gauge,
        "Servers whose last transaction failed.",
    ),
    metric(
        DESTINATIONS,
        Kind::Gauge,
        "Servers that the federation sender has in memory.",
    ),
    metric(
        SENDER_LAG,
        Kind::Gauge,
        "Output records that the federation sender has not read yet.",
    ),
    metric(
        STARTED,
        Kind::Gauge,
        "Seconds since the epoch at which the process started.",
    ),
];

const fn metric(name: &'static str, kind: Kind, help: &'static str) -> Metric {
    Metric { name, kind, help }
}
