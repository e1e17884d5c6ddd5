//! Bodies of the records that writers append to *input*.
//!
//! A body holds what the fold needs and the routing fields of the envelope do
//! not say. Event JSON is never in a body: the redacted form is the envelope's
//! skeleton, the full form its erasable body part.

use bincode::{Decode, Encode};

use super::output::Membership;

/// A signing key that a writer used to verify an event. Projectors trust the
/// writer's verdict and hold no keys; this says what the verdict rested on.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct VerifiedKey {
    /// The server whose key it is.
    pub server: String,
    /// For example `ed25519:a1`.
    pub key_id: String,
    /// Milliseconds since the epoch; `u64::MAX` for our own keys.
    pub valid_until_ms: u64,
}

/// Who sent an event with which transaction id, so that sync can echo it to
/// that device alone.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Transaction {
    pub device_id: String,
    pub txn_id: String,
}

/// How an event relates to the room's graph.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Placement {
    /// A new event at the end of the room, or a fork of it.
    New,
    /// Known, but without a place in the graph.
    Outlier,
    /// Older than what is known: its place in the room is before this event's.
    /// It moves neither the forward extremities nor current state. With
    /// [`super::Source::Backfill`] it is part of a chunk that leads back from that
    /// event; with [`super::Source::Federation`] it stands alone, and more is
    /// missing in between.
    Backfill { before: String },
    /// A new event with which our users come back to a room that none of them
    /// was in: the state given for it replaces what the room was frozen at, and
    /// it becomes the only forward extremity, behind a gap.
    Rejoin,
}

/// Body of [`super::Kind::InputRoomEvent`]. Room id, event id, sender, type,
/// state key and room version are the envelope's routing fields.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputRoomEvent {
    pub placement: Placement,
    /// Copied from the event, so that a fold of a plain message parses no JSON.
    pub depth: u64,
    pub prev_events: Vec<String>,
    pub auth_events: Vec<String>,
    /// The event that an `m.room.redaction` redacts, from wherever its room version keeps it.
    pub redacts: Option<String>,
    /// `m.relates_to` as far as indexes need it.
    pub relation: Option<Relation>,
    /// `content.membership` of an `m.room.member` event.
    pub membership: Option<String>,
    pub transaction: Option<Transaction>,
    pub verified_with: Vec<VerifiedKey>,
    /// Records of one request that succeed or fail as one carry the same
    /// number of records here, and their index within it; 0 of 1 alone.
    pub batch_index: u32,
    pub batch_count: u32,
}

/// `m.relates_to` of an event.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Relation {
    pub rel_type: String,
    pub event_id: String,
}

/// Body of [`super::Kind::InputRoomPublished`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputRoomPublished {
    pub published: bool,
}

/// Names one state that a writer gives, chosen by the writer at random.
pub type GivenState = [u8; 16];

/// Body of [`super::Kind::InputStateBegin`]: another server told us the state
/// before an event whose history we lack (`/state_ids`, `/send_join`). The
/// state's events come before it as outliers, their auth events first.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputStateBegin {
    pub given: GivenState,
    /// The event before which the room had this state.
    pub event_id: String,
}

/// Body of [`super::Kind::InputStateChunk`]: some of a given state's events.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputStateChunk {
    pub given: GivenState,
    pub event_ids: Vec<String>,
}

/// Body of [`super::Kind::InputStateCommit`]: the given state is complete, and
/// is the state before its event from here on.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputStateCommit {
    pub given: GivenState,
}

/// Body of [`super::Kind::InputStateAbandoned`]: the given state will never be
/// complete; what was kept of it is dropped.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputStateAbandoned {
    pub given: GivenState,
}

/// Body of [`super::Kind::InputRoomResumed`]: the work for which a room waited
/// was done aside. The fold of this record takes or repeats its result and goes
/// on with the records that wait.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputRoomResumed {
    /// *Input* offset of the record at which the room began to wait.
    pub cause: u64,
    /// BLAKE3 of the result: a fold of the same projector version that comes to
    /// another one stops.
    pub digest: [u8; 32],
    pub projector_version: u32,
}

/// How far a user read, and who may know (client-server API, *Receipts*).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub enum ReceiptType {
    /// `m.read`: shown to everybody in the room.
    Read,
    /// `m.read.private`: shown to nobody but the user.
    ReadPrivate,
}

/// Body of [`super::Kind::InputReceipt`]; the user is the envelope's `sender`,
/// the event that was read its `event_id`, `ts` its `origin_ts_ms`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputReceipt {
    pub receipt_type: ReceiptType,
    /// `thread_id`: `main`, or the event id of a thread's root; none for a
    /// receipt of the room as a whole.
    pub thread: Option<String>,
    /// The event's place in its room, copied by the writer so that the fold can
    /// tell a step back from one forward; none where the event is not known here.
    pub place: Option<[u8; 16]>,
}

/// Body of [`super::Kind::InputOutsideMembership`]: what one of our users is to a
/// room that we are not in, as far as we were told. Room, version and the member
/// event's id are the envelope's, as are its `sender` (who invites) and
/// `state_key` (the user). Its skeleton is the redacted event; the body part is a
/// JSON object: `event`, the PDU, if there is one, and `state`, the stripped state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputOutsideMembership {
    /// `Invite` or `Knock`; `Leave` or `Ban` end one.
    pub membership: Membership,
}

/// How far the purge of a room is to go with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum PurgeStep {
    /// The operator wants the room to go. It is still there, and its local users
    /// leave it first; a start finds the purge and goes on with it.
    Begin,
    /// The room is gone from here on, and with each such record some more of
    /// what was kept of it, until nothing is left.
    Drop,
}

/// Body of [`super::Kind::InputRoomPurged`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputRoomPurged {
    pub step: PurgeStep,
}

/// Body of [`super::Kind::InputAccountCreated`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputAccountCreated {
    /// PHC string of Argon2id; none for accounts that cannot log in by password.
    pub password_hash: Option<String>,
    pub guest: bool,
    pub admin: bool,
}

/// Body of [`super::Kind::InputPasswordSet`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputPasswordSet {
    /// PHC string of Argon2id.
    pub password_hash: String,
}

/// Body of [`super::Kind::InputAccountDeactivated`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputAccountDeactivated {
    pub erase: bool,
}

/// BLAKE3 of a token, keyed for its use. The token itself is never on disk.
pub type TokenHash = [u8; 32];

/// Access and refresh token of one device, as hashes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Tokens {
    pub access: TokenHash,
    /// Milliseconds since the epoch; none for tokens that do not expire.
    pub access_expires_ms: Option<u64>,
    pub refresh: Option<TokenHash>,
}

/// Body of [`super::Kind::InputDeviceLoggedIn`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputDeviceLoggedIn {
    pub device_id: String,
    pub display_name: Option<String>,
    pub tokens: Tokens,
}

/// Body of [`super::Kind::InputTokensRefreshed`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputTokensRefreshed {
    pub device_id: String,
    /// The refresh token that was spent. The fold refuses the record if it is
    /// no longer the device's, so two racing refreshes cannot both win.
    pub spent: TokenHash,
    pub tokens: Tokens,
}

/// Body of [`super::Kind::InputDevicesRemoved`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputDevicesRemoved {
    /// None: all devices of the user but `except`.
    pub device_ids: Option<Vec<String>>,
    /// Kept when `device_ids` is none.
    pub except: Option<String>,
}

/// Body of [`super::Kind::InputProfileField`]. The new value, as JSON, is the
/// envelope's body part; without one the field is removed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputProfileField {
    /// `displayname`, `avatar_url` or a custom field.
    pub field: String,
}

/// Body of [`super::Kind::InputAccountData`]. The content, as JSON, is the
/// envelope's body part; the type is the envelope's `type`, the room its `room_id`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputAccountData {}

/// Body of [`super::Kind::InputFilter`]. The definition is the envelope's body part.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputFilter {
    /// Chosen by the writer: a hash of the definition, so that the same filter
    /// posted twice gets the same id.
    pub filter_id: String,
}

/// Body of [`super::Kind::InputRoomForgotten`]. The room is the envelope's `room_id`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputRoomForgotten {}

/// Body of [`super::Kind::InputDeviceRenamed`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputDeviceRenamed {
    pub device_id: String,
    /// None: the device has no name any more.
    pub display_name: Option<String>,
}

/// Body of [`super::Kind::InputReport`]. The reporter is the key; room and
/// event, if it is about them, are the envelope's; the reason that was given is
/// its body part.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputReport {
    /// The user who is reported.
    pub about: Option<String>,
    /// From -100, most offensive, to 0.
    pub score: Option<i32>,
}

/// Body of [`super::Kind::InputAliasCreated`]; the partition key is the alias,
/// the room the envelope's `room_id`, the creator its `sender`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputAliasCreated {
    /// Servers to join through, ours first.
    pub servers: Vec<String>,
}

/// Body of [`super::Kind::InputAliasRemoved`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputAliasRemoved {}

/// Body of [`super::Kind::InputServerKeys`]; the partition key is the server's
/// name. What it published, as canonical JSON with its signature, is the
/// envelope's body part. The writer has checked that signature.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputServerKeys {
    /// When it was fetched, in milliseconds since the epoch: the keys are valid
    /// for a bounded time from then on.
    pub fetched_ms: u64,
}

/// An *output* record, named by what does not change when *output* is made anew:
/// the offset in *input*, of the partition with the same number, at whose fold it
/// was emitted, and which of the records of that fold it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Emitted {
    pub src_offset: u64,
    pub src_sub: u32,
}

/// How far a server has acknowledged what it is sent of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Acknowledged {
    pub partition: u32,
    /// The last event; all before it need not be sent (again).
    pub upto: Emitted,
    /// The last event of the transaction that comes next, so that a crash repeats
    /// it as it was; none if nothing waited: the next event is one by itself.
    pub next: Option<Emitted>,
}

/// Body of [`super::Kind::InputDelivery`]; the partition key is the name of the
/// server that is sent to.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputDelivery {
    /// Of the partitions in which something was acknowledged.
    pub acknowledged: Vec<Acknowledged>,
    /// Attempts that failed since the last one that did not.
    pub failures: u32,
    /// Not tried again before then, in milliseconds since the epoch.
    pub retry_at_ms: u64,
}
