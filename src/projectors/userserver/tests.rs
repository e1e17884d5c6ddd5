//! Records in, sessions and answers out, over a real RocksDB.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use log_format::codec;
use log_format::record::envelope::Part;
use log_format::record::input::*;
use log_format::record::output::{Decision, Membership, OutputUser, Reason};
use log_format::record::{Envelope, Kind, NewEnvelope, Source};
use ruma::{OwnedUserId, RoomId, UserId};

use super::{Sessions, UserAnswers, UserProjector};
use crate::logs::log::NewRecord;
use crate::projectors::aliasserver::AliasProjector;
use crate::projectors::fold::{FoldInput, Projector};
use crate::query::rooms::*;
use crate::query::testing::FewRooms;
use crate::query::users::Users;
use crate::storage::open::{Store, StoreOptions};
use crate::storage::overlay::Overlay;

const ALICE: &str = "@alice:hs";
const ROOM: &str = "!room:hs";

/// A room window that knows one membership.
#[derive(Default)]
struct OneMembership(Mutex<Option<Membership>>);

impl FewRooms for OneMembership {
    fn membership(&self, _: &RoomId, _: &UserId) -> Result<Option<Membership>, QueryError> {
        Ok(*self.0.lock().unwrap())
    }
}

struct House {
    store: Arc<Store>,
    sessions: Arc<Sessions>,
    users: UserProjector,
    rooms: Arc<OneMembership>,
    answers: UserAnswers,
    offset: u64,
    _folder: tempfile::TempDir,
}

impl House {
    fn new() -> House {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(folder.path(), &StoreOptions::default()).unwrap());
        let sessions = Arc::new(Sessions::default());
        let rooms = Arc::new(OneMembership::default());
        House {
            users: UserProjector::new(sessions.clone()),
            answers: UserAnswers::new(store.clone(), sessions.clone(), rooms.clone(), 1),
            rooms,
            sessions,
            store,
            offset: 0,
            _folder: folder,
        }
    }

    fn fold<T: bincode::Encode>(
        &mut self,
        kind: Kind,
        body: &T,
        envelope: NewEnvelope<'_>,
    ) -> (Decision, Reason, NewRecord) {
        let body = codec::encode(body);
        let envelope = NewEnvelope {
            body: &body,
            ..envelope
        };
        let payload = envelope.encode(kind, Source::Client);
        let envelope = Envelope::parse(&payload).unwrap();
        let record = FoldInput {
            partition: 0,
            offset: self.offset,
            time_us: 1,
            envelope: &envelope,
        };
        self.offset += 1;
        let mut tables = Overlay::new(self.store.as_ref());
        let folded = match kind {
            Kind::InputAliasCreated | Kind::InputAliasRemoved => {
                AliasProjector.fold(&record, &mut tables)
            }
            _ => self.users.fold(&record, &mut tables),
        };
        let mut folded = folded.unwrap();
        let mut batch = self.store.batch();
        batch.apply(tables.into_writes()).unwrap();
        self.store.write(batch).unwrap();
        self.users.publish();
        {
            let outcome = folded.outcome.expect("decided");
            (outcome.decision, outcome.reason, folded.output.remove(0))
        }
    }

    /// Folds a record of Alice that must be accepted.
    fn accept<T: bincode::Encode>(&mut self, kind: Kind, body: &T) {
        let (decision, reason, _) = self.fold(kind, body, of(ALICE));
        assert_eq!((decision, reason), (Decision::Accepted, Reason::None));
    }

    fn register(&mut self) {
        let body = InputAccountCreated {
            password_hash: Some("$argon2id$".to_owned()),
            guest: false,
            admin: true,
        };
        self.accept(Kind::InputAccountCreated, &body);
    }

    fn log_in(&mut self, device_id: &str, access: u8, refresh: u8) {
        let body = InputDeviceLoggedIn {
            device_id: device_id.to_owned(),
            display_name: Some(format!("name {access}")),
            tokens: tokens(access, Some(refresh)),
        };
        self.accept(Kind::InputDeviceLoggedIn, &body);
    }

    fn refresh(&mut self, spent: u8, access: u8, refresh: Option<u8>) -> Decision {
        let body = InputTokensRefreshed {
            device_id: "A".to_owned(),
            spent: [spent; 32],
            tokens: tokens(access, refresh),
        };
        self.fold(Kind::InputTokensRefreshed, &body, of(ALICE)).0
    }

    /// Access tokens that are good, asked without using them.
    fn good(&self, access: u8) -> bool {
        let reloaded = Sessions::load(&self.store, 1).unwrap();
        let stored = reloaded.session(&[access; 32]).is_some();
        assert_eq!(stored, self.answers.session(&[access; 32]).is_some());
        stored
    }
}

fn of(key: &str) -> NewEnvelope<'_> {
    NewEnvelope {
        key,
        sender: Some(ALICE),
        ..NewEnvelope::default()
    }
}

fn tokens(access: u8, refresh: Option<u8>) -> Tokens {
    Tokens {
        access: [access; 32],
        access_expires_ms: Some(7),
        refresh: refresh.map(|refresh| [refresh; 32]),
    }
}

fn alice() -> OwnedUserId {
    UserId::parse(ALICE).unwrap()
}

#[test]
fn a_login_on_a_known_device_ends_its_old_tokens_and_keeps_its_name() {
    let mut house = House::new();
    house.register();
    house.log_in("A", 1, 101);
    house.log_in("B", 2, 102);
    house.log_in("A", 3, 103);
    assert!(!house.good(1) && house.good(2) && house.good(3));
    assert!(house.answers.refresh_session(&[101; 32]).is_none());
    let session = house.answers.session(&[3; 32]).unwrap();
    assert_eq!(session.user_id, ALICE);
    assert_eq!((session.admin, session.expires_ms), (true, Some(7)));
    let devices = house.answers.devices(&alice());
    let names: Vec<_> = devices
        .iter()
        .map(|it| it.display_name.as_deref())
        .collect();
    assert_eq!(names, [Some("name 1"), Some("name 2")]);
}

/// Source: client-server API, *Refreshing access tokens*.
#[test]
fn a_spent_refresh_token_is_good_until_a_new_token_is_used() {
    let mut house = House::new();
    house.register();
    house.log_in("A", 1, 101);
    assert_eq!(house.refresh(101, 2, Some(102)), Decision::Accepted);
    assert!(
        house.answers.session(&[1; 32]).is_none(),
        "old access token"
    );
    // The answer was lost: the client asks again with what it has.
    assert!(house.answers.refresh_session(&[101; 32]).is_some());
    assert_eq!(house.refresh(101, 3, Some(103)), Decision::Accepted);
    assert!(house.answers.session(&[2; 32]).is_none());
    assert!(house.answers.refresh_session(&[102; 32]).is_none());
    // Now it has the new one and uses it.
    assert!(house.answers.session(&[3; 32]).is_some());
    assert!(house.answers.refresh_session(&[101; 32]).is_none());
    assert!(house.answers.refresh_session(&[103; 32]).is_some());
    assert_eq!(house.refresh(103, 4, Some(104)), Decision::Accepted);
    assert_eq!(house.refresh(101, 5, Some(105)), Decision::Rejected);
    // Without a new refresh token the old one is kept.
    assert_eq!(house.refresh(104, 6, None), Decision::Accepted);
    assert!(house.answers.session(&[6; 32]).is_some());
    assert!(house.answers.refresh_session(&[104; 32]).is_some());
}

#[test]
fn logging_out_and_deactivating_end_sessions() {
    let mut house = House::new();
    house.register();
    for (device_id, access) in [("A", 1), ("B", 2), ("C", 3)] {
        house.log_in(device_id, access, access + 100);
    }
    let all_but_b = InputDevicesRemoved {
        device_ids: None,
        except: Some("B".to_owned()),
    };
    let (_, _, output) = house.fold(Kind::InputDevicesRemoved, &all_but_b, of(ALICE));
    let envelope = Envelope::parse(&output.payload).unwrap();
    let output: OutputUser = codec::decode(envelope.body).unwrap();
    assert_eq!(output.devices, ["A", "C"]);
    assert!(!house.good(1) && house.good(2) && !house.good(3));
    house.accept(
        Kind::InputAccountDeactivated,
        &InputAccountDeactivated { erase: true },
    );
    assert!(!house.good(2));
    let account = house.answers.account(&alice()).unwrap();
    assert!(account.deactivated && account.password_hash.is_none());
    let again = InputDeviceLoggedIn {
        device_id: "A".to_owned(),
        display_name: None,
        tokens: tokens(4, None),
    };
    let (decision, reason, _) = house.fold(Kind::InputDeviceLoggedIn, &again, of(ALICE));
    assert_eq!((decision, reason), (Decision::Rejected, Reason::NotFound));
    // The name stays taken.
    let created = InputAccountCreated {
        password_hash: None,
        guest: false,
        admin: false,
    };
    let (_, reason, _) = house.fold(Kind::InputAccountCreated, &created, of(ALICE));
    assert_eq!(reason, Reason::Taken);
}

#[test]
fn what_a_user_keeps_reads_back() {
    let mut house = House::new();
    house.register();
    let with = |content: &'static str| NewEnvelope {
        body_part: Part::Present(content.as_bytes()),
        ..of(ALICE)
    };
    let field = |field: &str| InputProfileField {
        field: field.to_owned(),
    };
    house.fold(
        Kind::InputProfileField,
        &field("displayname"),
        with(r#""Alice""#),
    );
    house.fold(Kind::InputProfileField, &field("m.tz"), with(r#""UTC""#));
    house.fold(Kind::InputProfileField, &field("m.tz"), of(ALICE));
    let profile = BTreeMap::from([("displayname".to_owned(), r#""Alice""#.to_owned())]);
    assert_eq!(house.answers.profile(&alice()), profile);

    let room = RoomId::parse(ROOM).unwrap();
    for room_id in [None, Some(ROOM)] {
        let envelope = NewEnvelope {
            event_type: Some("m.tag"),
            room_id,
            ..with(if room_id.is_none() {
                "{}"
            } else {
                r#"{"a":1}"#
            })
        };
        house.fold(Kind::InputAccountData, &InputAccountData {}, envelope);
    }
    let global = house.answers.account_data(&alice(), None, "m.tag").unwrap();
    assert_eq!(&*global.content, "{}");
    let of_room = house.answers.all_account_data(&alice(), Some(&room));
    assert_eq!(of_room.len(), 1);
    assert_eq!(
        (&*of_room[0].content, of_room[0].event_type.as_str()),
        (r#"{"a":1}"#, "m.tag")
    );

    let filter = InputFilter {
        filter_id: "f".to_owned(),
    };
    house.fold(Kind::InputFilter, &filter, with(r#"{"room":{}}"#));
    assert_eq!(
        house.answers.filter(&alice(), "f").as_deref(),
        Some(r#"{"room":{}}"#)
    );
    assert!(house.answers.filter(&alice(), "g").is_none());
    assert!(house.sessions.session(&[1; 32]).is_none());
}

#[test]
fn forgetting_ends_when_the_user_comes_back() {
    let mut house = House::new();
    house.register();
    let room = RoomId::parse(ROOM).unwrap();
    *house.rooms.0.lock().unwrap() = Some(Membership::Leave);
    assert!(!house.answers.forgot(&alice(), &room));
    let envelope = NewEnvelope {
        room_id: Some(ROOM),
        ..of(ALICE)
    };
    house.fold(Kind::InputRoomForgotten, &InputRoomForgotten {}, envelope);
    assert!(house.answers.forgot(&alice(), &room));
    *house.rooms.0.lock().unwrap() = Some(Membership::Invite);
    assert!(!house.answers.forgot(&alice(), &room));
}

#[test]
fn an_alias_belongs_to_the_first_who_made_it() {
    let mut house = House::new();
    let alias = "#a:hs";
    let created = InputAliasCreated {
        servers: vec!["hs".to_owned()],
    };
    let with_room = |room_id| NewEnvelope {
        room_id: Some(room_id),
        ..of(alias)
    };
    let mut make = |room_id| {
        let (_, reason, _) = house.fold(Kind::InputAliasCreated, &created, with_room(room_id));
        reason
    };
    assert_eq!(make(ROOM), Reason::None);
    assert_eq!(make("!other:hs"), Reason::Taken);
    assert_eq!(make("no room"), Reason::Malformed);
    let room = RoomId::parse(ROOM).unwrap();
    let id = ruma::RoomAliasId::parse(alias).unwrap();
    let found = house.answers.alias(&id).unwrap();
    assert_eq!(
        (found.room_id, found.creator.as_str()),
        (room.clone(), ALICE)
    );
    assert_eq!(house.answers.aliases_of(&room), std::slice::from_ref(&id));
    house.fold(Kind::InputAliasRemoved, &InputAliasRemoved {}, of(alias));
    assert!(house.answers.alias(&id).is_none());
    assert!(house.answers.aliases_of(&room).is_empty());
    let (_, reason, _) = house.fold(Kind::InputAliasRemoved, &InputAliasRemoved {}, of(alias));
    assert_eq!(reason, Reason::NotFound);
}

#[test]
fn a_renamed_device_keeps_its_tokens() {
    let mut house = House::new();
    house.register();
    house.log_in("A", 1, 101);
    let rename = |device: &str, name: Option<&str>| InputDeviceRenamed {
        device_id: device.to_owned(),
        display_name: name.map(str::to_owned),
    };
    house.accept(Kind::InputDeviceRenamed, &rename("A", Some("Laptop")));
    let names = |house: &House| house.answers.devices(&alice())[0].display_name.clone();
    assert_eq!(names(&house).as_deref(), Some("Laptop"));
    assert!(house.good(1));
    house.accept(Kind::InputDeviceRenamed, &rename("A", None));
    assert_eq!(names(&house), None);
    let (decision, reason, _) = house.fold(Kind::InputDeviceRenamed, &rename("B", None), of(ALICE));
    assert_eq!((decision, reason), (Decision::Rejected, Reason::NotFound));
}

#[test]
fn a_guest_with_a_password_is_a_guest_no_more() {
    let mut house = House::new();
    let guest = InputAccountCreated {
        password_hash: None,
        guest: true,
        admin: false,
    };
    house.accept(Kind::InputAccountCreated, &guest);
    house.log_in("A", 1, 101);
    assert!(house.answers.session(&[1; 32]).unwrap().guest);
    let password = InputPasswordSet {
        password_hash: "$argon2id$".to_owned(),
    };
    house.accept(Kind::InputPasswordSet, &password);
    assert!(!house.answers.account(&alice()).unwrap().guest);
    assert!(!house.good(1));
    house.log_in("A", 2, 102);
    assert!(!house.answers.session(&[2; 32]).unwrap().guest);
    // Of a user, it ends nothing.
    house.accept(Kind::InputPasswordSet, &password);
    assert!(house.good(2));
}

#[test]
fn reports_are_listed_newest_first() {
    let mut house = House::new();
    let about = |user: Option<&str>| InputReport {
        about: user.map(str::to_owned),
        score: None,
    };
    let room = |reason: &'static [u8], received_us| NewEnvelope {
        received_us,
        room_id: Some(ROOM),
        event_id: Some("$event"),
        body_part: Part::Present(reason),
        ..of(ALICE)
    };
    let (_, reason, _) = house.fold(Kind::InputReport, &about(None), room(b"who?", 1));
    assert_eq!(reason, Reason::NotFound);
    house.register();
    house.fold(Kind::InputReport, &about(None), room(b"rude", 2));
    let later = NewEnvelope {
        received_us: 3,
        ..of(ALICE)
    };
    house.fold(Kind::InputReport, &about(Some("@troll:hs")), later);
    let (_, reason, _) = house.fold(Kind::InputReport, &about(None), of(ALICE));
    assert_eq!(reason, Reason::Malformed, "it is about nothing");

    let listed = |limit| super::reports::newest(&*house.store, 1, limit).unwrap();
    let [troll, rude] = &*listed(10) else {
        panic!("{:?}", listed(10));
    };
    assert!(rude.offset < troll.offset);
    assert_eq!(rude.row.received_us, 2);
    assert_eq!(rude.row.reporter, ALICE);
    assert_eq!(rude.row.room_id.as_deref(), Some(ROOM));
    assert_eq!(rude.row.event_id.as_deref(), Some("$event"));
    assert_eq!(rude.row.reason.as_deref(), Some("rude"));
    assert_eq!(troll.row.about.as_deref(), Some("@troll:hs"));
    assert_eq!(troll.row.reason, None);
    assert_eq!(listed(1), std::slice::from_ref(troll));
}
