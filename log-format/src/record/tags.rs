//! Every record kind that was ever written, with its number.
//!
//! A number is given once and never reused: a record written by the first
//! version of Engram is readable by the last. FORMAT.md, section *Record kinds*,
//! holds the same table with each kind's partition key.

/// What a record says, as the `u16` at byte 2 of its payload.
///
/// *Input* kinds lie below `0x4000`, *ephemeral* kinds from there, *output* kinds
/// from `0x8000`, so that a record's topic can be told from its kind alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Kind {
    // Keyed by room id.
    /// A PDU that a writer accepted: [`super::input::InputRoomEvent`].
    InputRoomEvent = 0x0001,
    /// A room entered or left the published directory.
    InputRoomPublished = 0x0002,
    /// A state that another server told us begins.
    InputStateBegin = 0x0003,
    /// Some of a given state's events.
    InputStateChunk = 0x0004,
    /// A given state is complete.
    InputStateCommit = 0x0005,
    /// A given state will not be completed.
    InputStateAbandoned = 0x0006,
    /// The work for which a room waited was done aside.
    InputRoomResumed = 0x0007,
    /// A user read a room up to an event.
    InputReceipt = 0x0008,
    /// A user's invite to or knock on a room that no user of ours is in, or its end.
    InputOutsideMembership = 0x0009,
    /// The operator has a room removed, step by step.
    InputRoomPurged = 0x000A,

    // Keyed by user id.
    /// An account came to be.
    InputAccountCreated = 0x0101,
    /// A password was set or replaced.
    InputPasswordSet = 0x0102,
    /// An account was closed for good.
    InputAccountDeactivated = 0x0103,
    /// A device logged in (new or again).
    InputDeviceLoggedIn = 0x0104,
    /// A device exchanged its refresh token for new tokens.
    InputTokensRefreshed = 0x0105,
    /// Devices logged out; their tokens end.
    InputDevicesRemoved = 0x0106,
    /// A profile field was set or removed.
    InputProfileField = 0x0107,
    /// Global or per-room account data was set.
    InputAccountData = 0x0108,
    /// A sync filter was stored.
    InputFilter = 0x0109,
    /// A user forgot a room that they had left.
    InputRoomForgotten = 0x010A,
    /// A device got another display name.
    InputDeviceRenamed = 0x010B,
    /// A user reported an event, a room or another user to the operator.
    InputReport = 0x010C,

    // Keyed by alias.
    /// A room alias was created.
    InputAliasCreated = 0x0201,
    /// A room alias was removed.
    InputAliasRemoved = 0x0202,

    // Keyed by server name.
    /// Another server published its signing keys.
    InputServerKeys = 0x0301,
    /// What another server acknowledged of what it is sent, and when it is tried again.
    InputDelivery = 0x0302,

    // Of the topic *ephemeral*, which has numbers of its own.
    /// A user began or ceased to type; keyed by room id.
    EphemeralTyping = 0x4001,
    /// A user's presence; keyed by user id.
    EphemeralPresence = 0x4101,

    /// The room server's decision about one [`Kind::InputRoomEvent`].
    OutputRoomEvent = 0x8001,
    /// A room entered or left the published directory.
    OutputRoomPublished = 0x8002,
    /// A part of a change of current state.
    OutputRoomState = 0x8003,
    /// The room server met an event whose past it lacks.
    OutputRoomGap = 0x8004,
    /// The receipt server's decision about one [`Kind::InputReceipt`].
    OutputReceipt = 0x8005,
    /// The room server's decision about one [`Kind::InputOutsideMembership`].
    OutputOutsideMembership = 0x8006,
    /// The room server's decision about one [`Kind::InputRoomPurged`].
    OutputRoomPurged = 0x8007,
    /// The user server's decision about any of the user kinds.
    OutputUser = 0x8101,
    /// The alias server's decision about any of the alias kinds.
    OutputAlias = 0x8201,
    /// The key server's decision about one [`Kind::InputServerKeys`].
    OutputServerKeys = 0x8301,
    /// The delivery server's decision about one [`Kind::InputDelivery`].
    OutputDelivery = 0x8302,
}

impl Kind {
    /// Every kind, in the order of its number.
    pub const ALL: [Kind; 39] = [
        Kind::InputRoomEvent,
        Kind::InputRoomPublished,
        Kind::InputStateBegin,
        Kind::InputStateChunk,
        Kind::InputStateCommit,
        Kind::InputStateAbandoned,
        Kind::InputRoomResumed,
        Kind::InputReceipt,
        Kind::InputOutsideMembership,
        Kind::InputRoomPurged,
        Kind::InputAccountCreated,
        Kind::InputPasswordSet,
        Kind::InputAccountDeactivated,
        Kind::InputDeviceLoggedIn,
        Kind::InputTokensRefreshed,
        Kind::InputDevicesRemoved,
        Kind::InputProfileField,
        Kind::InputAccountData,
        Kind::InputFilter,
        Kind::InputRoomForgotten,
        Kind::InputDeviceRenamed,
        Kind::InputReport,
        Kind::InputAliasCreated,
        Kind::InputAliasRemoved,
        Kind::InputServerKeys,
        Kind::InputDelivery,
        Kind::EphemeralTyping,
        Kind::EphemeralPresence,
        Kind::OutputRoomEvent,
        Kind::OutputRoomPublished,
        Kind::OutputRoomState,
        Kind::OutputRoomGap,
        Kind::OutputReceipt,
        Kind::OutputOutsideMembership,
        Kind::OutputRoomPurged,
        Kind::OutputUser,
        Kind::OutputAlias,
        Kind::OutputServerKeys,
        Kind::OutputDelivery,
    ];

    /// The kind with this number, if there is one.
    pub fn from_number(number: u16) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u16 == number)
    }

    /// The number as it stands in the payload.
    pub fn number(self) -> u16 {
        self as u16
    }

    /// The name under which tools show and filter this kind.
    pub fn name(self) -> &'static str {
        match self {
            Kind::InputRoomEvent => "room_event",
            Kind::InputRoomPublished => "room_published",
            Kind::InputStateBegin => "state_begin",
            Kind::InputStateChunk => "state_chunk",
            Kind::InputStateCommit => "state_commit",
            Kind::InputStateAbandoned => "state_abandoned",
            Kind::InputRoomResumed => "room_resumed",
            Kind::InputReceipt => "receipt",
            Kind::InputOutsideMembership => "outside_membership",
            Kind::InputRoomPurged => "room_purged",
            Kind::InputAccountCreated => "account_created",
            Kind::InputPasswordSet => "password_set",
            Kind::InputAccountDeactivated => "account_deactivated",
            Kind::InputDeviceLoggedIn => "device_logged_in",
            Kind::InputTokensRefreshed => "tokens_refreshed",
            Kind::InputDevicesRemoved => "devices_removed",
            Kind::InputProfileField => "profile_field",
            Kind::InputAccountData => "account_data",
            Kind::InputFilter => "filter",
            Kind::InputRoomForgotten => "room_forgotten",
            Kind::InputDeviceRenamed => "device_renamed",
            Kind::InputReport => "report",
            Kind::InputAliasCreated => "alias_created",
            Kind::InputAliasRemoved => "alias_removed",
            Kind::InputServerKeys => "server_keys",
            Kind::InputDelivery => "delivery",
            Kind::EphemeralTyping => "typing",
            Kind::EphemeralPresence => "presence",
            Kind::OutputRoomEvent => "output_room_event",
            Kind::OutputRoomPublished => "output_room_published",
            Kind::OutputRoomState => "output_room_state",
            Kind::OutputRoomGap => "output_room_gap",
            Kind::OutputReceipt => "output_receipt",
            Kind::OutputOutsideMembership => "output_outside_membership",
            Kind::OutputRoomPurged => "output_room_purged",
            Kind::OutputUser => "output_user",
            Kind::OutputAlias => "output_alias",
            Kind::OutputServerKeys => "output_server_keys",
            Kind::OutputDelivery => "output_delivery",
        }
    }
}

/// Which road a record took into the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Source {
    /// A local client's request.
    Client = 1,
    /// Another server's transaction, or an event that it gave by itself.
    Federation = 2,
    /// History fetched on demand, chunk by chunk.
    Backfill = 3,
    /// An application service.
    Appservice = 4,
    /// The server itself or its operator; also a member event that another server
    /// had us bring into a room (`/send_join` and its like), which then is for us
    /// to send to the others. The envelope's origin names that server.
    Internal = 5,
}

impl Source {
    /// The source with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Source> {
        [
            Source::Client,
            Source::Federation,
            Source::Backfill,
            Source::Appservice,
            Source::Internal,
        ]
        .into_iter()
        .find(|source| *source as u8 == number)
    }

    /// The name under which tools show it.
    pub fn name(self) -> &'static str {
        match self {
            Source::Client => "client",
            Source::Federation => "federation",
            Source::Backfill => "backfill",
            Source::Appservice => "appservice",
            Source::Internal => "internal",
        }
    }
}
