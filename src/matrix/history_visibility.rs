//! Whether a user or a server may see an event (client-server API, *Room
//! history visibility*, *Server behaviour*).
//!
//! Pure: the caller brings what holds at the event, see
//! [`crate::query::visibility`]. State that is not known is no input of this:
//! such events are not visible at all.

use std::borrow::Cow;

use serde::Deserialize;

use super::{Membership, Visibility};

/// Type of the state event that sets the visibility.
pub const HISTORY_VISIBILITY_TYPE: &str = "m.room.history_visibility";

/// What a viewer is in one state of a room: a user, or a server by its users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The user, or a user of the server, is joined.
    pub joined: bool,
    /// The user, or a user of the server, is invited.
    pub invited: bool,
}

impl Standing {
    /// The standing of one user.
    pub fn of(membership: Option<Membership>) -> Standing {
        Standing {
            joined: membership == Some(Membership::Join),
            invited: membership == Some(Membership::Invite),
        }
    }

    /// Of either: of two states, or of two users.
    pub fn or(self, other: Standing) -> Standing {
        Standing {
            joined: self.joined || other.joined,
            invited: self.invited || other.invited,
        }
    }
}

/// What decides whether a viewer sees an event.
///
/// *Before* and *after* differ only where the event itself changes the value:
/// visibility on `m.room.history_visibility`, standing on the viewer's own
/// `m.room.member`. Either of the two suffices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Before the event and after it.
    pub visibility: (Visibility, Visibility),
    /// Before the event or after it.
    pub standing: Standing,
    /// Whether the viewer joined at any point after the event was sent.
    pub joined_later: bool,
}

impl Sight {
    /// Whether the viewer may see the event.
    pub fn may_see(self) -> bool {
        let (before, after) = self.visibility;
        self.allows(before) || self.allows(after)
    }

    /// The five rules, in their order.
    fn allows(self, visibility: Visibility) -> bool {
        match visibility {
            Visibility::WorldReadable => true,
            _ if self.standing.joined => true,
            Visibility::Shared => self.joined_later,
            Visibility::Invited => self.standing.invited,
            Visibility::Joined => false,
        }
    }
}

/// `content.history_visibility` of a PDU; `shared` for what is not understood.
pub fn visibility_of(pdu: &[u8]) -> Visibility {
    #[derive(Deserialize)]
    struct Pdu<'a> {
        #[serde(borrow)]
        content: Content<'a>,
    }
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(borrow)]
        history_visibility: Cow<'a, str>,
    }
    let pdu: Result<Pdu<'_>, _> = serde_json::from_slice(pdu);
    pdu.map_or(Visibility::Shared, |pdu| {
        Visibility::parse(&pdu.content.history_visibility)
    })
}

/// `content.membership` of a PDU; none for what is no membership.
pub fn membership_of(pdu: &[u8]) -> Option<Membership> {
    #[derive(Deserialize)]
    struct Pdu<'a> {
        #[serde(borrow)]
        content: Content<'a>,
    }
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(borrow)]
        membership: Cow<'a, str>,
    }
    let pdu: Pdu<'_> = serde_json::from_slice(pdu).ok()?;
    Membership::parse(&pdu.content.membership)
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
    const MEMBERSHIPS: [Option<Membership>; 6] = [
        None,
        Some(Membership::Join),
        Some(Membership::Invite),
        Some(Membership::Knock),
        Some(Membership::Leave),
        Some(Membership::Ban),
    ];

    fn unchanged(
        visibility: Visibility,
        membership: Option<Membership>,
        joined_later: bool,
    ) -> Sight {
        Sight {
            visibility: (visibility, visibility),
            standing: Standing::of(membership),
            joined_later,
        }
    }

    #[test]
    fn the_table_of_the_specification() {
        for later in [false, true] {
            for visibility in VISIBILITIES {
                for membership in MEMBERSHIPS {
                    let expected = match (visibility, membership) {
                        (Visibility::WorldReadable, _) => true,
                        (_, Some(Membership::Join)) => true,
                        (Visibility::Shared, _) => later,
                        (Visibility::Invited, Some(Membership::Invite)) => true,
                        (Visibility::Invited | Visibility::Joined, _) => false,
                    };
                    let seen = unchanged(visibility, membership, later).may_see();
                    assert_eq!(seen, expected, "{visibility:?} {membership:?} {later}");
                }
            }
        }
    }

    #[test]
    fn a_change_of_visibility_is_seen_from_either_side() {
        for membership in MEMBERSHIPS {
            for later in [false, true] {
                for before in VISIBILITIES {
                    for after in VISIBILITIES {
                        let sight = Sight {
                            visibility: (before, after),
                            ..unchanged(before, membership, later)
                        };
                        let either = unchanged(before, membership, later).may_see()
                            || unchanged(after, membership, later).may_see();
                        assert_eq!(sight.may_see(), either);
                    }
                }
            }
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
                standing: Standing::of(before).or(Standing::of(Some(after))),
                ..unchanged(Visibility::Joined, None, false)
            };
            assert!(sight.may_see());
        }
        let invite = Sight {
            standing: Standing::of(None).or(Standing::of(Some(Membership::Invite))),
            ..unchanged(Visibility::Joined, None, false)
        };
        assert!(!invite.may_see());
    }

    #[test]
    fn a_server_sees_what_one_of_its_users_sees() {
        for visibility in VISIBILITIES {
            for one in MEMBERSHIPS {
                for other in MEMBERSHIPS {
                    let server = Sight {
                        standing: Standing::of(one).or(Standing::of(other)),
                        ..unchanged(visibility, None, false)
                    };
                    let users = [one, other];
                    let sees = |membership| unchanged(visibility, membership, false).may_see();
                    assert_eq!(server.may_see(), users.into_iter().any(sees));
                }
            }
        }
    }

    #[test]
    fn contents_that_say_nothing_have_defaults() {
        for (content, visibility, membership) in [
            (
                r#"{"history_visibility":"joined"}"#,
                Visibility::Joined,
                None,
            ),
            (r#"{"history_visibility":"else"}"#, Visibility::Shared, None),
            (r#"{"history_visibility":1}"#, Visibility::Shared, None),
            (
                r#"{"membership":"b\u0061n"}"#,
                Visibility::Shared,
                Some(Membership::Ban),
            ),
            (r#"{"membership":"gone"}"#, Visibility::Shared, None),
            (r#"[]"#, Visibility::Shared, None),
        ] {
            let pdu = format!(r#"{{"content":{content},"type":"x"}}"#);
            assert_eq!(visibility_of(pdu.as_bytes()), visibility, "{content}");
            assert_eq!(membership_of(pdu.as_bytes()), membership, "{content}");
        }
        assert_eq!(membership_of(b"{}"), None);
        assert_eq!(visibility_of(b""), Visibility::Shared);
    }
}
