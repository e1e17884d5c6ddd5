//! What a user asked not to be told of: messages and invites of those whom they
//! ignore (client-server API, *Ignoring Users*), and invites altogether
//! (*Invite permission*). One place decides it for all readers and doors.
//!
//! How to use it: read the list once for a request with [`Unwanted::of`], and
//! hand it to each [`Viewpoint`](super::visibility::Viewpoint) that shows events
//! to the user (`Viewpoint::without`; `RoomView::open` does it): `may_see` then
//! says no to what is unwanted, so whoever asks it has nothing else to do. Where
//! events of many users are counted or listed without a viewpoint, ask
//! [`Unwanted::event`]; before an invite is shown, [`Unwanted::invite_from`].
//!
//! It also knows of whom the user is shown less because *they* asked for it:
//! those who had themselves erased ([`Unwanted::is_erased`]).

use std::collections::BTreeSet;
use std::sync::Arc;

use ruma::{OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::ids::OutputOffset;
use super::rooms::StoredEvent;
use super::users::Users;

const IGNORED_USERS: &str = "m.ignored_user_list";
const INVITE_PERMISSION: &str = "m.invite_permission_config";

/// What one user does not want to be told of. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Unwanted {
    /// None for the many who ignore nobody.
    ignored: Option<Arc<BTreeSet<OwnedUserId>>>,
    ignored_at: Option<OutputOffset>,
    all_invites: bool,
    erased: Arc<BTreeSet<OwnedUserId>>,
}

impl Unwanted {
    /// Reads the user's account data: two look-ups. What is misshapen there
    /// counts as not there.
    pub fn of(users: &dyn Users, user: &UserId) -> Unwanted {
        let ignored = users.account_data(user, None, IGNORED_USERS);
        Unwanted {
            ignored_at: ignored.as_ref().map(|list| list.changed_at),
            ignored: ignored.and_then(|list| ignored_users(user, &list.content)),
            all_invites: blocks_invites(users, user),
            erased: users.erased(),
        }
    }

    /// Whom the user ignores; none if nobody.
    pub fn ignored(&self) -> Option<&BTreeSet<OwnedUserId>> {
        self.ignored.as_deref()
    }

    /// Where the list of those whom the user ignores last changed, in the
    /// partition of the user; none if there never was one.
    pub fn ignored_at(&self) -> Option<OutputOffset> {
        self.ignored_at
    }

    /// Whether the user ignores another.
    pub fn is_ignored(&self, other: &UserId) -> bool {
        let ignored = self.ignored.as_deref();
        ignored.is_some_and(|ignored| ignored.contains(other))
    }

    /// Whether somebody asked to be erased.
    pub fn is_erased(&self, other: &UserId) -> bool {
        self.erased.contains(other)
    }

    /// Whether an event is kept from the user: of whom they ignore, unless it is
    /// state, which rooms would not look right without.
    pub fn event(&self, event: &StoredEvent) -> bool {
        event.state_key.is_none() && self.is_ignored(&event.sender)
    }

    /// Whether an invite is kept from the user.
    pub fn invite_from(&self, inviter: &UserId) -> bool {
        self.all_invites || self.is_ignored(inviter)
    }
}

/// Whether invites of a user are refused (`m.invite_permission_config`). A
/// missing, invalid or unsupported value allows them.
pub fn blocks_invites(users: &dyn Users, user: &UserId) -> bool {
    let datum = users.account_data(user, None, INVITE_PERMISSION);
    datum.is_some_and(|datum| says_block(&datum.content))
}

fn says_block(content: &str) -> bool {
    #[derive(Deserialize)]
    struct Config {
        default_action: Value,
    }
    serde_json::from_str(content).is_ok_and(|config: Config| config.default_action == "block")
}

/// Nobody can ignore themselves: they would lose sight of what they write.
fn ignored_users(user: &UserId, content: &str) -> Option<Arc<BTreeSet<OwnedUserId>>> {
    #[derive(Deserialize)]
    struct List {
        ignored_users: Map<String, Value>,
    }
    let list: List = serde_json::from_str(content).ok()?;
    let named = list.ignored_users.into_iter();
    let ignored: BTreeSet<OwnedUserId> = named
        .filter_map(|(named, _)| OwnedUserId::try_from(named).ok())
        .filter(|named| named != user)
        .collect();
    (!ignored.is_empty()).then(|| Arc::new(ignored))
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_well_formed_wishes_count() {
        let me = user_id!("@me:hs");
        let content = json!({ "ignored_users": { "@a:hs": {}, "@me:hs": {}, "nobody": {} } });
        let ignored = ignored_users(me, &content.to_string()).unwrap();
        assert_eq!(ignored.iter().collect::<Vec<_>>(), [user_id!("@a:hs")]);
        for content in [json!({}), json!({ "ignored_users": ["@a:hs"] }), json!([])] {
            assert!(ignored_users(me, &content.to_string()).is_none());
        }
        assert!(says_block(r#"{ "default_action": "block" }"#));
        for content in [json!({}), json!({ "default_action": ["block"] }), json!(1)] {
            assert!(!says_block(&content.to_string()));
        }
    }

    #[test]
    fn invites_are_unwanted_of_some_or_of_all() {
        let other = user_id!("@a:hs");
        let unwanted = Unwanted {
            ignored: Some(Arc::new(BTreeSet::from([other.to_owned()]))),
            ..Unwanted::default()
        };
        assert!(unwanted.is_ignored(other));
        assert!(unwanted.invite_from(other));
        assert!(!unwanted.invite_from(user_id!("@b:hs")));
        let none = Unwanted {
            all_invites: true,
            ..Unwanted::default()
        };
        assert!(none.invite_from(user_id!("@b:hs")));
    }
}
