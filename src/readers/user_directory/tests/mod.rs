//! Tests of the directory as a whole: records in, users out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use log_format::codec;
use log_format::record::envelope::Part;
use log_format::record::output::{
    Decision, Membership, MembershipChange, OutputRoomState, OutputUser, Reason, Visibility,
};
use log_format::record::{Kind, NewEnvelope, Source};
use ruma::{OwnedUserId, RoomId, UserId, user_id};
use serde_json::json;

use crate::logs::log::{Log, partition_of};
use crate::query::tokens::Epoch;
use crate::readers::client_sync::tests::world::{World, origin, user};
use crate::readers::run::Reader;
use crate::readers::store::Write;
use crate::readers::store::memory::MemoryStore;
use crate::readers::user_directory::{FoundUser, Ports, UserDirectory};
use crate::storage::batch::Writes;
use crate::storage::columns::Table;
use crate::storage::overlay::{Read, StoreError};

struct Directory {
    world: World,
    store: Arc<dyn Write>,
    directory: UserDirectory,
}

fn open(world: &World, store: &Arc<dyn Write>, epoch: u32) -> UserDirectory {
    let ports = Ports {
        store: store.clone(),
        rooms: world.rooms.clone(),
        users: world.users.clone(),
        output: world.log.clone(),
    };
    let server = ruma::server_name!("here").to_owned();
    UserDirectory::open(ports, server, Epoch(epoch)).expect("tables open")
}

impl Directory {
    fn new(partitions: u32) -> Directory {
        let world = World::new(partitions);
        let store: Arc<dyn Write> = Arc::new(MemoryStore::default());
        Directory {
            directory: open(&world, &store, 1),
            world,
            store,
        }
    }

    fn restart(&mut self, epoch: u32) {
        self.directory = open(&self.world, &self.store, epoch);
    }

    /// A record about an account, and the account as the window shows it.
    fn account(&self, user: &UserId, kind: Kind, field: Option<&str>, value: Option<&str>) {
        let json = value.map(|value| json!(value).to_string());
        self.world.users.change(user, kind, field, json.as_deref());
        let body = codec::encode(&OutputUser {
            origin: origin(0, 0, true),
            decision: Decision::Accepted,
            reason: Reason::None,
            kind: kind.number(),
            devices: Vec::new(),
            name: field.map(str::to_owned),
        });
        let envelope = NewEnvelope {
            key: user.as_str(),
            body: &body,
            body_part: match &json {
                Some(json) => Part::Present(json.as_bytes()),
                None => Part::Absent,
            },
            ..NewEnvelope::default()
        };
        let partition = partition_of(user.as_str(), self.world.log.partitions());
        self.world
            .log
            .append(partition, Kind::OutputUser, Source::Client, &envelope);
    }

    fn register(&self, name: &str, display_name: Option<&str>) -> OwnedUserId {
        let user = user(name);
        self.account(&user, Kind::InputAccountCreated, None, None);
        if display_name.is_some() {
            self.rename(&user, display_name);
        }
        user
    }

    fn rename(&self, user: &UserId, display_name: Option<&str>) {
        let kind = Kind::InputProfileField;
        self.account(user, kind, Some("displayname"), display_name);
    }

    fn join_as(&mut self, room: &RoomId, user: &UserId, name: &str) {
        let content = json!({"membership": "join", "displayname": name, "avatar_url": "mxc://x/y"});
        self.world
            .state(room, user, "m.room.member", user.as_str(), content);
    }

    fn fold(&self) {
        for partition in 0..self.world.log.partitions() {
            loop {
                let next = self.directory.cursor(partition);
                let records = self.world.log.read(partition, next, 0).expect("in memory");
                if records.is_empty() {
                    break;
                }
                self.directory.fold(partition, &records).expect("folds");
            }
        }
    }

    fn found(&self, searcher: &UserId, term: &str) -> Vec<FoundUser> {
        self.fold();
        let found = self.directory.find(searcher, term, 10).expect("an answer");
        assert!(!found.limited);
        found.users
    }

    fn find(&self, searcher: &UserId, term: &str) -> Vec<String> {
        let found = self.found(searcher, term).into_iter();
        found
            .map(|user| user.user_id.localpart().to_owned())
            .collect()
    }
}

#[test]
fn users_are_found_by_beginnings_of_words_of_their_names() {
    let mut directory = Directory::new(3);
    let alice = directory.register("alice", Some("Alice in Wonderland"));
    let bob = directory.register("bob.builder", Some("Łukasz 田中"));
    let room = directory.world.create("a", &alice, Visibility::Shared);
    directory.world.member(&room, &bob, &bob, "join");
    let carol = directory.register("carol", None);
    directory.world.member(&room, &carol, &carol, "join");
    for (term, expected) in [
        ("ALI", vec!["alice"]),
        ("wonder", vec!["alice"]),
        ("land", vec![]),
        ("in alice", vec!["alice"]),
        ("alice bob", vec![]),
        ("build", vec!["bob.builder"]),
        ("lukasz", vec!["bob.builder"]),
        ("田中", vec!["bob.builder"]),
        ("@bob.b", vec!["bob.builder"]),
        ("bob.builder:HERE", vec!["bob.builder"]),
        ("@bob.builder:elsewhere", vec![]),
        ("", vec![]),
        ("@", vec![]),
        ("?", vec![]),
    ] {
        assert_eq!(directory.find(&carol, term), expected, "{term}");
    }
}

#[test]
fn profiles_are_followed_until_the_account_ends() {
    let mut directory = Directory::new(2);
    let alice = directory.register("alice", None);
    let bob = directory.register("bob", Some("Robert"));
    let room = directory.world.create("a", &alice, Visibility::Shared);
    directory.world.member(&room, &bob, &bob, "join");
    assert_eq!(directory.find(&alice, "rob"), ["bob"]);
    directory.rename(&bob, Some("Bobby"));
    assert!(directory.find(&alice, "rob").is_empty());
    assert_eq!(directory.find(&alice, "bobby"), ["bob"]);
    assert_eq!(
        directory.found(&alice, "bobby")[0].display_name.as_deref(),
        Some("Bobby")
    );
    directory.rename(&bob, None);
    assert!(directory.find(&alice, "bobby").is_empty());
    assert_eq!(directory.find(&alice, "bob"), ["bob"]);
    directory.account(&bob, Kind::InputAccountDeactivated, None, None);
    assert!(directory.find(&alice, "bob").is_empty());
}

#[test]
fn one_finds_whom_one_shares_a_room_with_and_who_is_in_open_rooms() {
    let mut directory = Directory::new(2);
    let [alice, bob, eve] = ["alice", "bob", "eve"].map(|name| directory.register(name, None));
    let room = directory.world.create("a", &bob, Visibility::Shared);
    assert!(directory.find(&alice, "bob").is_empty());
    directory.world.member(&room, &alice, &alice, "join");
    assert_eq!(directory.find(&alice, "bob"), ["bob"]);
    assert!(directory.find(&eve, "bob").is_empty());
    directory.world.member(&room, &bob, &eve, "invite");
    assert!(directory.find(&eve, "bob").is_empty());
    directory.world.member(&room, &alice, &alice, "leave");
    assert!(directory.find(&alice, "bob").is_empty());
    let rule = |rule: &str| json!({"join_rule": rule});
    let world = &mut directory.world;
    world.state(&room, &bob, "m.room.join_rules", "", rule("public"));
    assert_eq!(directory.find(&eve, "bob"), ["bob"]);
    let world = &mut directory.world;
    world.state(&room, &bob, "m.room.join_rules", "", rule("invite"));
    assert!(directory.find(&eve, "bob").is_empty());
    let readable = json!({"history_visibility": "world_readable"});
    let world = &mut directory.world;
    world.state(&room, &bob, "m.room.history_visibility", "", readable);
    assert_eq!(directory.find(&eve, "bob"), ["bob"]);
    directory.restart(1);
    assert_eq!(directory.find(&eve, "bob"), ["bob"]);
}

#[test]
fn names_of_other_servers_users_stay_in_their_rooms() {
    let mut directory = Directory::new(2);
    let [alice, bob] = ["alice", "bob"].map(|name| directory.register(name, None));
    let remote = user_id!("@rita:far");
    let private = directory.world.create("a", &alice, Visibility::Shared);
    let other = directory.world.create("b", &bob, Visibility::Shared);
    directory.join_as(&private, remote, "Secret Nick");
    directory.join_as(&other, remote, "Rita");
    assert_eq!(directory.find(&alice, "secret"), ["rita"]);
    assert!(directory.find(&bob, "secret").is_empty());
    let seen = directory.found(&bob, "rita").remove(0);
    assert_eq!(seen.display_name.as_deref(), Some("Rita"));
    assert_eq!(seen.avatar_url.as_deref(), Some("mxc://x/y"));
    let seen = directory.found(&alice, "rita").remove(0);
    assert_eq!(seen.display_name.as_deref(), Some("Secret Nick"));
    directory.join_as(&private, remote, "Open Nick");
    assert!(directory.find(&alice, "secret").is_empty());
    assert_eq!(directory.find(&alice, "open"), ["rita"]);
    directory.world.member(&private, remote, remote, "leave");
    assert!(directory.find(&alice, "rita").is_empty());
    assert_eq!(directory.find(&bob, "rita"), ["rita"]);
}

/// When the last of ours has left, nobody tells us who is in the room.
#[test]
fn who_is_in_a_room_that_we_left_is_not_found() {
    let mut directory = Directory::new(2);
    let [alice, bob, eve] = ["alice", "bob", "eve"].map(|name| directory.register(name, None));
    let room = directory.world.create("a", &alice, Visibility::Shared);
    let rule = json!({"join_rule": "public"});
    let world = &mut directory.world;
    world.state(&room, &alice, "m.room.join_rules", "", rule);
    directory.join_as(&room, user_id!("@rita:far"), "Rita");
    directory.world.member(&room, &bob, &bob, "join");
    // The same again, with another name, is no other member.
    directory.join_as(&room, &bob, "Bobby");
    assert_eq!(directory.find(&eve, "rita"), ["rita"]);
    directory.world.member(&room, &alice, &alice, "leave");
    assert_eq!(directory.find(&eve, "rita"), ["rita"], "bob is there");
    directory.world.member(&room, &bob, &bob, "leave");
    assert!(directory.find(&eve, "rita").is_empty());
    for epoch in [1, 2] {
        directory.restart(epoch);
        assert!(directory.find(&eve, "rita").is_empty(), "{epoch}");
    }
    directory.world.member(&room, &eve, &eve, "join");
    assert_eq!(directory.find(&alice, "rita"), ["rita"]);
}

#[test]
fn closer_matches_come_first_and_the_limit_is_told() {
    let mut directory = Directory::new(1);
    let alice = directory.register("alice", None);
    let room = directory.world.create("a", &alice, Visibility::Shared);
    for (name, display_name) in [
        ("annabel", None),
        ("zoe", Some("Ann Other")),
        ("ann", None),
        ("anne", Some("Anne")),
    ] {
        let user = directory.register(name, display_name);
        directory.world.member(&room, &user, &user, "join");
    }
    assert_eq!(
        directory.find(&alice, "ann"),
        ["zoe", "ann", "anne", "annabel"]
    );
    for (limit, limited) in [(4, false), (3, true), (0, true)] {
        let found = directory.directory.find(&alice, "ann", limit).unwrap();
        assert_eq!((found.users.len(), found.limited), (limit, limited));
    }
}

#[test]
fn one_finds_oneself_where_anybody_does() {
    let mut directory = Directory::new(1);
    let alice = directory.register("alice", None);
    let room = directory.world.create("a", &alice, Visibility::Shared);
    assert!(directory.find(&alice, "alice").is_empty());
    let rule = json!({"join_rule": "public"});
    let world = &mut directory.world;
    world.state(&room, &alice, "m.room.join_rules", "", rule);
    assert_eq!(directory.find(&alice, "alice"), ["alice"]);
}

#[test]
fn a_restart_and_a_rebuild_find_the_same() {
    let mut directory = Directory::new(2);
    let alice = directory.register("alice", Some("Al"));
    let bob = directory.register("bob", None);
    let room = directory.world.create("a", &alice, Visibility::Shared);
    directory.world.member(&room, &bob, &bob, "join");
    directory.join_as(&room, user_id!("@rita:far"), "Al Far");
    let before = directory.found(&bob, "al");
    assert_eq!(before.len(), 2);
    for epoch in [1, 2] {
        directory.restart(epoch);
        assert_eq!(directory.found(&bob, "al"), before, "{epoch}");
    }
}

/// A store that counts how often it is read.
struct Counting {
    inner: MemoryStore,
    reads: AtomicUsize,
}

impl Read for Counting {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.inner.get(table, key)
    }

    fn range(
        &self,
        table: Table,
        prefix: &[u8],
        from: Option<&[u8]>,
        reverse: bool,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.inner.range(table, prefix, from, reverse, limit)
    }
}

impl Write for Counting {
    fn write(&self, writes: Writes) -> Result<(), StoreError> {
        self.inner.write(writes)
    }

    fn remove(&self, prefixes: &[(Table, Vec<u8>)]) -> Result<(), StoreError> {
        self.inner.remove(prefixes)
    }
}

#[test]
fn thousands_who_match_cost_as_much_as_some_hundred() {
    let mut directory = Directory::new(1);
    let store = Arc::new(Counting {
        inner: MemoryStore::default(),
        reads: AtomicUsize::new(0),
    });
    directory.store = store.clone();
    directory.restart(1);
    let alice = directory.register("alice", None);
    let members: Vec<String> = (0..5_000)
        .map(|index| {
            directory
                .register(&format!("user{index}"), None)
                .to_string()
        })
        .chain([alice.to_string()])
        .collect();
    let memberships = members.iter().map(|user_id| MembershipChange {
        user_id: user_id.clone(),
        from: None,
        to: Membership::Join,
    });
    let body = codec::encode(&OutputRoomState {
        origin: origin(1, 0, true),
        room_sn: 1,
        state_delta: Vec::new(),
        memberships: memberships.collect(),
    });
    let envelope = NewEnvelope {
        key: "!a:here",
        room_id: Some("!a:here"),
        body: &body,
        ..NewEnvelope::default()
    };
    let log = &directory.world.log;
    log.append(0, Kind::OutputRoomState, Source::Client, &envelope);
    directory.fold();
    store.reads.store(0, Ordering::Relaxed);
    let found = directory.directory.find(&alice, "user", 10).unwrap();
    assert_eq!((found.users.len(), found.limited), (10, true));
    let reads = store.reads.load(Ordering::Relaxed);
    assert!(reads < 250, "{reads} reads");
    // Who matches no more than the beginning of a word is found by more of it.
    assert_eq!(directory.find(&alice, "user4999"), ["user4999"]);
}
