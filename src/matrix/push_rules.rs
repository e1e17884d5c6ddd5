//! Push rules: the default ruleset, and what a ruleset says of an event.
//!
//! The conditions are ruma's. An event is flattened once and then asked for
//! every user of the room; see client-server API, *Push notifications*.

use futures_util::FutureExt;
use ruma::power_levels::NotificationPowerLevels;
pub use ruma::push::Ruleset;
use ruma::push::{Action, FlattenedJson, PushConditionPowerLevelsCtx, PushConditionRoomCtx};
use ruma::room_version_rules::RoomPowerLevelsRules;
use ruma::serde::Raw;
use ruma::{Int, UInt};
use serde_json::value::RawValue;

use super::auth_rules::{CreateInfo, PowerLevels};
use super::ids::{OwnedUserId, RoomId, UserId};

/// The rules of a user who changed none (client-server API, *Predefined rules*).
pub fn default_ruleset(user: &UserId) -> Ruleset {
    Ruleset::server_default(user)
}

/// What an event means to one user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Counts as a notification, and is pushed.
    pub notify: bool,
    /// Counts as a highlight too.
    pub highlight: bool,
}

/// An event as the conditions read it; shared by all users of its room.
pub struct PushEvent {
    flattened: FlattenedJson,
    sender: OwnedUserId,
}

impl PushEvent {
    /// `event` is the event in client format.
    pub fn new(event: Box<RawValue>, sender: &UserId) -> PushEvent {
        let raw: Raw<ruma::events::AnySyncTimelineEvent> = Raw::from_json(event);
        PushEvent {
            flattened: FlattenedJson::from_raw(&raw),
            sender: sender.to_owned(),
        }
    }
}

/// What the conditions read of a room; made once, asked for each of its users.
pub struct PushRoom {
    context: PushConditionRoomCtx,
}

impl PushRoom {
    /// The room at an event. `user` stands for nobody yet.
    pub fn new(
        room: &RoomId,
        joined_members: u64,
        create: &CreateInfo,
        levels: Option<&PowerLevels>,
    ) -> PushRoom {
        let rules = &create.version.rules().authorization;
        let mut notifications = NotificationPowerLevels::new();
        if let Some(level) = levels.and_then(|levels| levels.notifications.get("room")) {
            notifications.room = int(*level);
        }
        let mut users: std::collections::BTreeMap<OwnedUserId, Int> = levels
            .into_iter()
            .flat_map(|levels| &levels.users)
            .map(|(user, level)| (user.clone(), int(*level)))
            .collect();
        if levels.is_none() {
            // As the auth rules have it while a room has no power levels.
            users.extend(
                create
                    .creators
                    .iter()
                    .map(|creator| (creator.clone(), int(100))),
            );
        }
        let power_levels = PushConditionPowerLevelsCtx::new(
            users,
            int(levels.and_then(|levels| levels.users_default).unwrap_or(0)),
            notifications,
            RoomPowerLevelsRules::new(rules, create.creators.iter().cloned()),
        );
        let context = PushConditionRoomCtx::new(
            room.to_owned(),
            UInt::try_from(joined_members).unwrap_or(UInt::MAX),
            create.sender.clone(),
            String::new(),
        );
        PushRoom {
            context: context.with_power_levels(power_levels),
        }
    }

    /// What an event means to a user with these rules. Events of the user's own
    /// mean nothing. The first enabled rule that applies decides.
    pub fn verdict(
        &mut self,
        event: &PushEvent,
        user: &UserId,
        display_name: &str,
        ruleset: &Ruleset,
    ) -> Verdict {
        if event.sender == user {
            return Verdict::default();
        }
        self.actions(event, user, display_name, ruleset)
            .map_or_else(Verdict::default, |actions| Verdict {
                notify: actions.iter().any(Action::should_notify),
                highlight: actions.iter().any(Action::is_highlight),
            })
    }

    /// The actions of the rule that applies to an event of another user.
    pub fn actions<'r>(
        &mut self,
        event: &PushEvent,
        user: &UserId,
        display_name: &str,
        ruleset: &'r Ruleset,
    ) -> Option<&'r [Action]> {
        self.context.user_id = user.to_owned();
        display_name.clone_into(&mut self.context.user_display_name);
        let applies = |rule: &ruma::push::AnyPushRuleRef<'_>| {
            // Ready at once: no condition that this build knows waits for anything.
            rule.applies(&event.flattened, &self.context)
                .now_or_never()
                .unwrap_or(false)
        };
        ruleset.iter().find(applies).map(|rule| rule.actions())
    }
}

/// Levels are within the range of canonical JSON, or were strings beyond it.
fn int(level: i64) -> Int {
    Int::new_saturating(level)
}

#[cfg(test)]
mod tests {
    use ruma::push::{NewPushRule, NewSimplePushRule};
    use ruma::{room_id, user_id};
    use serde_json::json;

    use super::super::auth_rules::CreateInfo;
    use super::super::room_version::RoomVersion;
    use super::*;

    fn room(version: RoomVersion, members: u64, levels: Option<&PowerLevels>) -> PushRoom {
        let content = super::super::canonical_json::parse_object(br#"{"creator":"@admin:hs"}"#)
            .expect("parses");
        let create = CreateInfo::parse(
            version,
            ruma::event_id!("$c").to_owned(),
            room_id!("!r:hs").to_owned(),
            user_id!("@admin:hs").to_owned(),
            &content,
        )
        .expect("parses");
        PushRoom::new(room_id!("!r:hs"), members, &create, levels)
    }

    fn message(sender: &UserId, content: serde_json::Value) -> PushEvent {
        event(
            sender,
            json!({"type": "m.room.message", "content": content}),
        )
    }

    fn event(sender: &UserId, mut event: serde_json::Value) -> PushEvent {
        event["sender"] = json!(sender);
        event["room_id"] = json!("!r:hs");
        event["event_id"] = json!("$e");
        PushEvent::new(
            serde_json::value::to_raw_value(&event).expect("is JSON"),
            sender,
        )
    }

    const QUIET: Verdict = Verdict {
        notify: false,
        highlight: false,
    };
    const NOTIFY: Verdict = Verdict {
        notify: true,
        highlight: false,
    };
    const HIGHLIGHT: Verdict = Verdict {
        notify: true,
        highlight: true,
    };

    #[test]
    fn default_rules_notify_and_highlight() {
        let (alice, bob, admin) = (
            user_id!("@alice:hs"),
            user_id!("@bob:hs"),
            user_id!("@admin:hs"),
        );
        let rules = default_ruleset(alice);
        let mut room = room(RoomVersion::V11, 5, None);
        let mut judge = |event: &PushEvent| room.verdict(event, alice, "Alice", &rules);
        let text = |body: &str| json!({"msgtype": "m.text", "body": body});
        assert_eq!(judge(&message(bob, text("hi"))), NOTIFY);
        assert_eq!(judge(&message(alice, text("hi"))), QUIET);
        assert_eq!(
            judge(&message(bob, json!({"msgtype": "m.notice", "body": "hi"}))),
            QUIET
        );
        let mention =
            json!({"msgtype": "m.text", "body": "hi", "m.mentions": {"user_ids": ["@alice:hs"]}});
        assert_eq!(judge(&message(bob, mention)), HIGHLIGHT);
        let whole_room = json!({"msgtype": "m.text", "body": "hi", "m.mentions": {"room": true}});
        assert_eq!(judge(&message(admin, whole_room.clone())), HIGHLIGHT);
        assert_eq!(judge(&message(bob, whole_room)), NOTIFY);
        let member = json!({"type": "m.room.member", "state_key": "@carl:hs", "content": {"membership": "join"}});
        assert_eq!(judge(&event(bob, member)), QUIET);
        let invite = json!({"type": "m.room.member", "state_key": "@alice:hs", "content": {"membership": "invite"}});
        assert_eq!(judge(&event(bob, invite)), NOTIFY);
        let topic = json!({"type": "m.room.topic", "state_key": "", "content": {"topic": "x"}});
        assert_eq!(judge(&event(bob, topic)), QUIET);
    }

    #[test]
    fn creators_of_version_12_may_notify_the_room() {
        let alice = user_id!("@alice:hs");
        let levels = PowerLevels {
            users_default: Some(0),
            ..PowerLevels::default()
        };
        let whole_room = json!({"msgtype": "m.text", "body": "hi", "m.mentions": {"room": true}});
        let event = message(user_id!("@admin:hs"), whole_room);
        for (version, expected) in [(RoomVersion::V11, NOTIFY), (RoomVersion::V12, HIGHLIGHT)] {
            let verdict =
                room(version, 5, Some(&levels)).verdict(&event, alice, "", &default_ruleset(alice));
            assert_eq!(verdict, expected, "{version}");
        }
    }

    #[test]
    fn a_muted_room_is_quiet() {
        let alice = user_id!("@alice:hs");
        let mut rules = default_ruleset(alice);
        let mute = NewPushRule::Room(NewSimplePushRule::new(room_id!("!r:hs").to_owned(), vec![]));
        rules.insert(mute, None, None).expect("inserts");
        let event = message(
            user_id!("@bob:hs"),
            json!({"msgtype": "m.text", "body": "hi"}),
        );
        assert_eq!(
            room(RoomVersion::V11, 5, None).verdict(&event, alice, "", &rules),
            QUIET
        );
    }
}
