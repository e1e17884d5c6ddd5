//! Room versions: which exist here, and the rules of each.

use std::fmt;

use ruma::RoomVersionId;
use ruma::room_version_rules::RoomVersionRules;

/// A room version that this server implements, 1 to 12.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomVersion(u8);

/// One row of rules per version.
static RULES: [RoomVersionRules; 12] = [
    RoomVersionRules::V1,
    RoomVersionRules::V2,
    RoomVersionRules::V3,
    RoomVersionRules::V4,
    RoomVersionRules::V5,
    RoomVersionRules::V6,
    RoomVersionRules::V7,
    RoomVersionRules::V8,
    RoomVersionRules::V9,
    RoomVersionRules::V10,
    RoomVersionRules::V11,
    RoomVersionRules::V12,
];

const NAMES: [&str; 12] = [
    "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12",
];

impl RoomVersion {
    pub const V1: RoomVersion = RoomVersion(1);
    pub const V2: RoomVersion = RoomVersion(2);
    pub const V3: RoomVersion = RoomVersion(3);
    pub const V4: RoomVersion = RoomVersion(4);
    pub const V5: RoomVersion = RoomVersion(5);
    pub const V6: RoomVersion = RoomVersion(6);
    pub const V7: RoomVersion = RoomVersion(7);
    pub const V8: RoomVersion = RoomVersion(8);
    pub const V9: RoomVersion = RoomVersion(9);
    pub const V10: RoomVersion = RoomVersion(10);
    pub const V11: RoomVersion = RoomVersion(11);
    pub const V12: RoomVersion = RoomVersion(12);

    /// The version of rooms whose creator names none (specification, *Room versions*).
    pub const DEFAULT: RoomVersion = RoomVersion::V12;

    /// Every version, oldest first. All of them may be created.
    pub fn all() -> impl Iterator<Item = RoomVersion> {
        (1..=12).map(RoomVersion)
    }

    /// Reads a version's name; none for one that this server does not know.
    pub fn parse(name: &str) -> Option<RoomVersion> {
        RoomVersion::all().find(|version| version.as_str() == name)
    }

    /// The version's name in events and requests.
    pub fn as_str(self) -> &'static str {
        NAMES[usize::from(self.0) - 1]
    }

    /// The same version as ruma's type.
    pub fn id(self) -> RoomVersionId {
        RoomVersionId::try_from(self.as_str()).expect("ruma knows versions 1 to 12")
    }

    /// What distinguishes the version.
    pub fn rules(self) -> &'static RoomVersionRules {
        &RULES[usize::from(self.0) - 1]
    }

    /// Whether the room id is the create event's id with another sigil (version 12).
    pub fn room_id_is_create_hash(self) -> bool {
        self.rules().authorization.room_create_event_id_as_room_id
    }

    /// Whether events carry an `event_id` of their own (versions 1 and 2).
    pub fn has_event_id_field(self) -> bool {
        self.rules().event_format.require_event_id
    }
}

impl TryFrom<&RoomVersionId> for RoomVersion {
    type Error = UnknownRoomVersion;

    fn try_from(id: &RoomVersionId) -> Result<RoomVersion, UnknownRoomVersion> {
        RoomVersion::parse(id.as_str()).ok_or_else(|| UnknownRoomVersion(id.as_str().into()))
    }
}

impl fmt::Display for RoomVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RoomVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RoomVersion({})", self.as_str())
    }
}

/// A room version that this server does not implement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("room version {0:?} is not supported")]
pub struct UnknownRoomVersion(pub Box<str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_rules_belong_together() {
        for version in RoomVersion::all() {
            assert_eq!(RoomVersion::parse(version.as_str()), Some(version));
            assert_eq!(RoomVersion::try_from(&version.id()), Ok(version));
            let theirs = version.id().rules().expect("ruma knows it");
            assert_eq!(format!("{:?}", version.rules()), format!("{theirs:?}"));
        }
        assert_eq!(RoomVersion::all().count(), 12);
        for name in ["0", "13", "", "01", "org.matrix.hydra.11"] {
            assert_eq!(RoomVersion::parse(name), None);
        }
        assert!(
            RoomVersion::V12.room_id_is_create_hash() && !RoomVersion::V11.room_id_is_create_hash()
        );
        assert!(RoomVersion::V2.has_event_id_field() && !RoomVersion::V3.has_event_id_field());
    }
}
