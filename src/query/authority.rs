//! What the auth rules read of a room's current state, parsed once per change.

use ruma::OwnedEventId;

/// The events that authorise others, as of one room state. The room server
/// extends it by their parsed contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    pub create_event: OwnedEventId,
    pub power_levels_event: Option<OwnedEventId>,
    pub join_rules_event: Option<OwnedEventId>,
}
