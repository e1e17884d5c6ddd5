//! Whether a user or a server may see an event (client-server API, *Room
//! history visibility*, *Server behaviour*).
//!
//! Pure: the caller brings the state at the event. State that is not known is
//! no input of this: such events are not visible at all.

use super::{Membership, Visibility};

/// What decides whether one user sees one event.
///
/// *Before* and *after* differ only where the event itself changes the value:
/// visibility on `m.room.history_visibility`, membership on the user's own
/// `m.room.member`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    pub visibility_before: Visibility,
    pub visibility_after: Visibility,
    pub membership_before: Option<Membership>,
    pub membership_after: Option<Membership>,
    /// Whether the user joined at any point after the event was sent.
    pub joined_later: bool,
}

impl Sight {
    /// The sight of an event that changes neither visibility nor the user's membership.
    pub fn unchanged(
        visibility: Visibility,
        membership: Option<Membership>,
        joined_later: bool,
    ) -> Sight {
        Sight {
            visibility_before: visibility,
            visibility_after: visibility,
            membership_before: membership,
            membership_after: membership,
            joined_later,
        }
    }

    /// Whether the user may see the event: seen from before it or from after it.
    pub fn may_see(self) -> bool {
        let visibilities = [self.visibility_before, self.visibility_after];
        let memberships = [self.membership_before, self.membership_after];
        visibilities.into_iter().any(|visibility| {
            memberships
                .into_iter()
                .any(|membership| allows(visibility, membership, self.joined_later))
        })
    }
}

/// The five rules, in their order.
fn allows(visibility: Visibility, membership: Option<Membership>, joined_later: bool) -> bool {
    match (visibility, membership) {
        (Visibility::WorldReadable, _) => true,
        (_, Some(Membership::Join)) => true,
        (Visibility::Shared, _) => joined_later,
        (Visibility::Invited, Some(Membership::Invite)) => true,
        (Visibility::Invited | Visibility::Joined, _) => false,
    }
}

/// Whether a server may be given an event: if one of its users may see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerSight {
    pub visibility: Visibility,
    /// A user of the server was joined at the event or is by it.
    pub joined_at_event: bool,
    /// A user of the server was invited at the event or is by it.
    pub invited_at_event: bool,
    /// A user of the server joined after the event, or is joined now.
    pub joined_later: bool,
}

impl ServerSight {
    pub fn may_see(self) -> bool {
        if self.joined_at_event {
            return true;
        }
        match self.visibility {
            Visibility::WorldReadable => true,
            Visibility::Shared => self.joined_later,
            Visibility::Invited => self.invited_at_event,
            Visibility::Joined => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VISIBILITIES: [Visibility; 4] = [
        Visibility::WorldReadable,
        Visibility::Shared,
        Visibility::Invited,
        Visibility::Joined,
    ];

    #[test]
    fn the_table_of_the_specification() {
        let sees = |visibility, membership, later| {
            Sight::unchanged(visibility, membership, later).may_see()
        };
        for later in [false, true] {
            for visibility in VISIBILITIES {
                assert!(sees(visibility, Some(Membership::Join), later));
                for outside in [
                    None,
                    Some(Membership::Leave),
                    Some(Membership::Ban),
                    Some(Membership::Knock),
                ] {
                    let expected = match visibility {
                        Visibility::WorldReadable => true,
                        Visibility::Shared => later,
                        Visibility::Invited | Visibility::Joined => false,
                    };
                    assert_eq!(
                        sees(visibility, outside, later),
                        expected,
                        "{visibility:?} {outside:?}"
                    );
                }
            }
            assert!(sees(Visibility::Invited, Some(Membership::Invite), later));
            assert!(!sees(Visibility::Joined, Some(Membership::Invite), later));
            assert_eq!(
                sees(Visibility::Shared, Some(Membership::Invite), later),
                later
            );
        }
    }

    #[test]
    fn a_change_of_visibility_is_seen_from_either_side() {
        for (before, after) in [
            (Visibility::WorldReadable, Visibility::Joined),
            (Visibility::Joined, Visibility::WorldReadable),
        ] {
            let sight = Sight {
                visibility_before: before,
                visibility_after: after,
                ..Sight::unchanged(before, None, false)
            };
            assert!(sight.may_see());
        }
    }

    #[test]
    fn own_joins_and_leaves_are_always_seen() {
        for (before, after) in [
            (None, Membership::Join),
            (Some(Membership::Join), Membership::Leave),
            (Some(Membership::Join), Membership::Ban),
        ] {
            let sight = Sight {
                membership_before: before,
                membership_after: Some(after),
                ..Sight::unchanged(Visibility::Joined, None, false)
            };
            assert!(sight.may_see());
        }
        let invite = Sight {
            membership_after: Some(Membership::Invite),
            ..Sight::unchanged(Visibility::Joined, None, false)
        };
        assert!(!invite.may_see());
    }

    #[test]
    fn a_server_sees_what_one_of_its_users_sees() {
        for visibility in VISIBILITIES {
            for bits in 0..8_u8 {
                let [joined_at_event, invited_at_event, joined_later] =
                    [1, 2, 4].map(|bit| bits & bit != 0);
                let server = ServerSight {
                    visibility,
                    joined_at_event,
                    invited_at_event,
                    joined_later,
                };
                let users = [
                    joined_at_event.then_some((Some(Membership::Join), false)),
                    invited_at_event.then_some((Some(Membership::Invite), false)),
                    joined_later.then_some((None, true)),
                ];
                let one_sees = users.into_iter().flatten().any(|(membership, later)| {
                    Sight::unchanged(visibility, membership, later).may_see()
                });
                // World-readable events are for everybody, users or none.
                let expected = one_sees || visibility == Visibility::WorldReadable;
                assert_eq!(server.may_see(), expected, "{server:?}");
            }
        }
    }
}
