//! Bodies of the records that projectors append to *output*.

use bincode::{Decode, Encode};

use super::input::{PurgeStep, ReceiptType, Transaction};

/// What the fold decided about its source record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Decision {
    /// Applied.
    Accepted,
    /// Allowed by its auth events but not by current state: kept, never shown
    /// (server-server API, *Soft failure*).
    SoftFailed,
    /// Refused; `reason` says why. A refused local event is not kept.
    Rejected,
    /// Kept without a place in the graph.
    Outlier,
    /// Known before; adds nothing.
    Duplicate,
}

impl Decision {
    /// The name under which tools show it.
    pub fn name(self) -> &'static str {
        match self {
            Decision::Accepted => "accepted",
            Decision::SoftFailed => "soft-failed",
            Decision::Rejected => "rejected",
            Decision::Outlier => "outlier",
            Decision::Duplicate => "duplicate",
        }
    }
}

/// Why a record was refused. Numbers are for ever, as record kinds are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Reason {
    /// Not refused.
    None,
    /// The auth rules of the room version do not allow the event.
    Forbidden,
    /// The room is not known and the event does not create it.
    UnknownRoom,
    /// The room exists already.
    RoomExists,
    /// A `prev_event` or `auth_event` is not known.
    MissingEvents,
    /// The event builds on one that the fold refused; build it anew.
    Rebase,
    /// The record is not one that a correct writer makes.
    Malformed,
    /// The user id, alias or token was taken in the meantime.
    Taken,
    /// What the record acts on does not exist (any more).
    NotFound,
    /// Deciding about the event takes more work than any event may cost.
    TooMuchWork,
    /// An auth event is not known.
    MissingAuthEvents,
    /// An auth event was itself rejected.
    RejectedAuthEvent,
}

/// Where an output record comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Origin {
    /// Offset in *input*, of the partition with the same number, at whose fold
    /// this was emitted.
    pub src_offset: u64,
    /// Offset of the record that it is about: an earlier one if that had to
    /// wait, for work done aside or for an event that was missing.
    pub about: u64,
    /// Which of the records emitted at that offset, from 0.
    pub src_sub: u32,
    /// Whether it is the last of them.
    pub src_last: bool,
    pub projector_version: u32,
}

/// One entry of a room's current state that changed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StateChange {
    pub kind: String,
    pub state_key: String,
    /// Event id that held the key before.
    pub from: Option<String>,
    /// Event id that holds it now; none where resolution removed the key.
    pub to: Option<String>,
    pub cause: StateChangeCause,
}

/// Why a state entry changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum StateChangeCause {
    /// The event itself.
    Event,
    /// State resolution.
    Resolution,
}

/// The `membership` of a user in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Membership {
    Join,
    Invite,
    Knock,
    Leave,
    Ban,
}

impl Membership {
    /// The specification's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Membership::Join => "join",
            Membership::Invite => "invite",
            Membership::Knock => "knock",
            Membership::Leave => "leave",
            Membership::Ban => "ban",
        }
    }

    /// Reads the specification's word.
    pub fn parse(word: &str) -> Option<Membership> {
        [
            Membership::Join,
            Membership::Invite,
            Membership::Knock,
            Membership::Leave,
            Membership::Ban,
        ]
        .into_iter()
        .find(|membership| membership.as_str() == word)
    }
}

/// A user's membership changed in current state.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MembershipChange {
    pub user_id: String,
    /// None where the user had no member event in current state.
    pub from: Option<Membership>,
    /// `Leave` also where resolution removed the user's member event.
    pub to: Membership,
}

/// `m.room.history_visibility` (client-server API, *History visibility*).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Visibility {
    WorldReadable,
    /// Also the value where the room sets none.
    Shared,
    Invited,
    Joined,
}

impl Visibility {
    /// Reads the specification's word; anything else counts as `shared`.
    pub fn parse(word: &str) -> Visibility {
        match word {
            "world_readable" => Visibility::WorldReadable,
            "invited" => Visibility::Invited,
            "joined" => Visibility::Joined,
            _ => Visibility::Shared,
        }
    }

    /// The specification's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Visibility::WorldReadable => "world_readable",
            Visibility::Shared => "shared",
            Visibility::Invited => "invited",
            Visibility::Joined => "joined",
        }
    }
}

/// Where an event shows in the room's timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Timeline {
    /// Nowhere: it was not accepted.
    Outside,
    /// At its end, as news.
    Live,
    /// In its past: found later, it is no news to anybody.
    History,
}

/// Body of [`super::Kind::OutputRoomEvent`]. The routing fields are those of the
/// source record, the skeleton, auth extract and body part are copied from it
/// with the same salt (absent when the decision is `Rejected` or `Duplicate`).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OutputRoomEvent {
    pub origin: Origin,
    pub decision: Decision,
    pub reason: Reason,
    /// Interned id of the room: offset of its first *input* record.
    pub room_sn: u64,
    /// Interned id of the event: offset of its first *input* record.
    pub event_sn: u64,
    /// The event's place in its room; big-endian order is room order.
    pub place: [u8; 16],
    /// State ids; equal ids are equal states. 0 where the state is not known.
    pub state_before: u64,
    pub state_after: u64,
    /// The room's current state after this record.
    pub current_state: u64,
    /// How current state changed; the last part of it, if
    /// [`super::Kind::OutputRoomState`] records of the same fold come before.
    pub state_delta: Vec<StateChange>,
    /// Of the users whose member event is in `state_delta`, the event's own first.
    pub memberships: Vec<MembershipChange>,
    /// Forward extremities after this event.
    pub extremities: Vec<String>,
    /// Visibility in force at the event.
    pub visibility: Visibility,
    pub timeline: Timeline,
    pub redacts: Option<String>,
    /// Root of the thread that the event is part of, as of its fold
    /// (client-server API, *Threading*); none in the main timeline.
    pub thread: Option<String>,
    pub transaction: Option<Transaction>,
}

/// Body of [`super::Kind::OutputRoomPublished`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OutputRoomPublished {
    pub origin: Origin,
    pub decision: Decision,
    pub reason: Reason,
    pub published: bool,
}

/// Body of [`super::Kind::OutputRoomState`]: a part of a change of current state
/// that is too large for one record. Readers apply it at the decision's last
/// record, an [`super::Kind::OutputRoomEvent`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OutputRoomState {
    pub origin: Origin,
    pub room_sn: u64,
    pub state_delta: Vec<StateChange>,
    pub memberships: Vec<MembershipChange>,
}

/// Body of [`super::Kind::OutputRoomGap`]: the room server met an event and does
/// not know what it builds on. A writer may fetch that and append it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OutputRoomGap {
    pub origin: Origin,
    pub room_sn: u64,
    /// The `prev_events` that are not known, or whose state is not.
    pub prev_events: Vec<String>,
    /// The `auth_events` that are not known.
    pub auth_events: Vec<String>,
}

/// Body of [`super::Kind::OutputReceipt`]. Routing fields are those of the
/// source record. `Duplicate`: the user had read at least as far.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OutputReceipt {
    pub origin: Origin,
    pub decision: Decision,
    pub reason: Reason,
    pub receipt_type: ReceiptType,
    /// As in [`super::input::InputReceipt`].
    pub thread: Option<String>,
    pub place: Option<[u8; 16]>,
}

/// Body of [`super::Kind::OutputOutsideMembership`]. Routing fields, skeleton and
/// body part are those of the source record.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OutputOutsideMembership {
    pub origin: Origin,
    pub decision: Decision,
    pub reason: Reason,
    /// Interned id of the room, or the offset of this record where it has none.
    pub room_sn: u64,
    pub membership: Membership,
}

/// Body of [`super::Kind::OutputRoomPurged`]. Readers drop what they keep of the
/// room at each accepted one whose step is [`PurgeStep::Drop`]; the first of them
/// is the one at which the room is gone.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OutputRoomPurged {
    pub origin: Origin,
    pub decision: Decision,
    pub reason: Reason,
    pub step: PurgeStep,
    /// 0 where no purge of a room is going on.
    pub room_sn: u64,
    /// Users who had a member event in the room, as far as they were dropped
    /// with this record: what is kept by user is found by them.
    pub users: Vec<String>,
    /// Nothing of the room is left.
    pub finished: bool,
}

/// Body of [`super::Kind::OutputUser`]. Routing fields and body part are those of the source record.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OutputUser {
    pub origin: Origin,
    pub decision: Decision,
    pub reason: Reason,
    /// [`super::Kind`] of the source record.
    pub kind: u16,
    /// Devices that the record added or removed.
    pub devices: Vec<String>,
    /// Profile field or filter id that it set.
    pub name: Option<String>,
}

/// Body of [`super::Kind::OutputAlias`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OutputAlias {
    pub origin: Origin,
    pub decision: Decision,
    pub reason: Reason,
    /// [`super::Kind`] of the source record.
    pub kind: u16,
}

/// Body of [`super::Kind::OutputServerKeys`]. Routing fields and body part are
/// those of the source record.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OutputServerKeys {
    pub origin: Origin,
    pub decision: Decision,
    pub reason: Reason,
}

/// Body of [`super::Kind::OutputDelivery`]. Routing fields are those of the
/// source record.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OutputDelivery {
    pub origin: Origin,
    pub decision: Decision,
    pub reason: Reason,
}
