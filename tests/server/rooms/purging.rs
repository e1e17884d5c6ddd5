//! Rooms that the operator has purged, through the command line: gone from all
//! that is served, and kept gone by restarts, replays and crashes.

use std::process::{Output, Stdio};
use std::time::Duration;

use engram::storage::columns::{
    DIRECTORY_MEMBERS, DIRECTORY_OPEN, EVENT_IDS, EVENTS, RECEIPTS, RELATIONS_BY_TYPE,
    RELATIONS_CHILDREN, RELATIONS_OF, RELATIONS_PARENTS, RELATIONS_REPLIERS, RELATIONS_THREADS,
    RELATIONS_TIMES, ROOM_IDS, SYNC_PURGED, SYNC_RECEIPTS, SYNC_RECEIPTS_AT, SYNC_ROOMS,
    SYNC_TIMELINE,
};
use engram::storage::open::{Store, StoreOptions};
use engram::storage::overlay::Read as _;
use serde_json::{Value, json};

use super::{act, of_room};
use crate::commands::run;
use crate::harness::{Api, Server, escape};
use crate::search;

#[track_caller]
fn said(output: Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(output: Output, says: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains(says), "{error}");
}

/// Alice and Bob in a room that can be found in every way, and in another one.
struct House {
    server: Server,
    alice: Api,
    bob: Api,
    /// Meets Alice in the room alone.
    carol: Api,
    room: String,
    other: String,
    message: String,
    /// Where Bob stood before anything was purged.
    since: String,
}

const ALIAS: &str = "#tea:hs.test";

impl House {
    async fn new() -> House {
        let server = Server::builder().set("LOG__PARTITIONS", 2).start().await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let carol = server.register("carol").await;
        let made = json!({
            "preset": "public_chat", "visibility": "public",
            "name": "Tea", "room_alias_name": "tea",
        });
        let room = alice.create_room(made).await;
        let other = alice.create_room(json!({ "preset": "private_chat" })).await;
        for member in [&bob, &carol] {
            member.join(&room).await.ok();
        }
        act(&alice, &other, "invite", Some(&bob)).await.ok();
        bob.join(&other).await.ok();
        let message = alice.send_text(&room, "a wombat in the teapot").await;
        let reply = json!({
            "body": "in which?", "msgtype": "m.text",
            "m.relates_to": { "rel_type": "m.thread", "event_id": message },
        });
        bob.send(&room, "reply", reply).await;
        let receipt = of_room(&room, &format!("receipt/m.read/{}", escape(&message)));
        bob.post(&receipt, json!({})).await.ok();
        let kept = alice.send_text(&other, "another wombat").await;
        search::finds(&bob, "wombat", &[&message, &kept]).await;
        let since = bob.sync("timeout=0").await;
        assert!(since["rooms"]["join"][&room].is_object());
        House {
            since: since["next_batch"].as_str().unwrap().to_owned(),
            server,
            alice,
            bob,
            carol,
            room,
            other,
            message,
        }
    }

    /// After a start of the server, which may listen elsewhere.
    fn reconnect(&mut self) {
        for user in [&mut self.alice, &mut self.bob, &mut self.carol] {
            let mut api = self.server.api();
            api.token = user.token.clone();
            api.user_id = user.user_id.clone();
            *user = api;
        }
    }

    /// Nothing that is served knows the room.
    async fn is_gone(&self) {
        let (room, bob) = (&self.room, &self.bob);
        let message = escape(&self.message);
        for path in [
            "messages?dir=b".to_owned(),
            "state".to_owned(),
            "members".to_owned(),
            format!("event/{message}"),
            format!("context/{message}"),
            "threads".to_owned(),
        ] {
            let answer = bob.get(&of_room(room, &path)).await;
            assert!(
                matches!(answer.status.as_u16(), 403 | 404),
                "{path}: {}",
                answer.text
            );
        }
        let relations = format!(
            "/_matrix/client/v1/rooms/{}/relations/{message}",
            escape(room)
        );
        let relations = bob.get(&relations).await;
        assert!(
            matches!(relations.status.as_u16(), 403 | 404),
            "{}",
            relations.text
        );
        let send = of_room(room, "send/m.room.message/late");
        let sent = bob.put(&send, json!({ "body": "hello?", "msgtype": "m.text" }));
        assert!(matches!(sent.await.status.as_u16(), 403 | 404));
        let joined = bob.get("/_matrix/client/v3/joined_rooms").await.ok();
        assert_eq!(joined["joined_rooms"], json!([self.other]));
        let all = json!({ "room": { "include_leave": true } }).to_string();
        let whole = bob
            .sync(&format!("timeout=0&filter={}", escape(&all)))
            .await;
        for section in ["join", "leave", "invite"] {
            assert!(
                whole["rooms"][section][room].is_null(),
                "{section}: {whole}"
            );
        }
        assert!(whole["rooms"]["join"][&self.other].is_object());
        let published = bob.get("/_matrix/client/v3/publicRooms").await.ok();
        assert_eq!(published["chunk"], json!([]));
        let alias = format!("/_matrix/client/v3/directory/room/{}", escape(ALIAS));
        bob.get(&alias).await.refused(404, "M_NOT_FOUND");
        // Alice is still met in the other room, Carol nowhere.
        assert_eq!(self.people(&self.alice, "bob").await, ["@bob:hs.test"]);
        assert!(self.people(&self.alice, "carol").await.is_empty());
        let found = search::now(bob, "wombat").await;
        assert!(!found.contains(&self.message), "{found:?}");
    }

    async fn people(&self, asker: &Api, name: &str) -> Vec<String> {
        let asked = json!({ "search_term": name });
        let found = asker.post("/_matrix/client/v3/user_directory/search", asked);
        let found = found.await.ok();
        let found = found["results"].as_array().unwrap().iter();
        found
            .map(|user| user["user_id"].as_str().unwrap().to_owned())
            .collect()
    }

    fn purge(&self) -> Output {
        run(&self.server, &["room", "purge", &self.room, "--yes"], "")
    }

    fn rooms(&self) -> Vec<String> {
        let listed = said(run(&self.server, &["rooms", "--json"], ""));
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let listed = listed.as_array().unwrap().iter();
        listed
            .map(|room| room["room_id"].as_str().unwrap().to_owned())
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purged_room_is_gone_and_stays_gone() {
    let mut house = House::new().await;
    let (room, since) = (house.room.clone(), house.since.clone());
    assert_eq!(
        house.people(&house.alice, "carol").await,
        ["@carol:hs.test"]
    );
    refused(
        run(
            &house.server,
            &["room", "purge", "!no:hs.test", "--yes"],
            "",
        ),
        "no such room",
    );
    let unasked = run(&house.server, &["room", "purge", &room], "");
    assert_eq!(unasked.status.code(), Some(2), "nobody was asked");
    assert!(house.rooms().contains(&room));

    assert_eq!(said(house.purge()), format!("{room} is purged\n"));
    house.is_gone().await;
    assert_eq!(house.rooms(), [house.other.clone()]);
    refused(run(&house.server, &["room", &room], ""), "not known");
    refused(house.purge(), "no such room");
    // A client that was away is told once that it is not in there any more.
    let query = |since: &str| format!("timeout=0&since={}", escape(since));
    let next = house.bob.sync(&query(&since)).await;
    assert!(next["rooms"]["leave"][&room].is_object(), "{next}");
    assert!(next["rooms"]["join"][&room].is_null(), "{next}");
    let after = house
        .bob
        .sync(&query(next["next_batch"].as_str().unwrap()))
        .await;
    assert!(after["rooms"]["leave"][&room].is_null(), "{after}");

    house.server.kill();
    house.server.start().await;
    house.reconnect();
    house.is_gone().await;
    let next = house.bob.sync(&query(&since)).await;
    assert!(next["rooms"]["leave"][&room].is_object(), "{next}");
    said(run(&house.server, &["replay", "--verify"], ""));
    house.server.terminate().await;
    said(run(&house.server, &["replay", "--from-scratch"], ""));
    // The readers' tables too are made again from what the log holds.
    std::fs::remove_dir_all(house.server.data_dir.join("search")).unwrap();
    house.server.start().await;
    house.reconnect();
    house.is_gone().await;
    search::finds(&house.bob, "teapot", &[]).await;
    assert_eq!(house.rooms(), [house.other.clone()]);
    let next = house.bob.sync(&query(&since)).await;
    assert!(next["rooms"]["leave"][&room].is_object(), "{next}");

    // The alias is free again.
    let again = json!({ "preset": "public_chat", "room_alias_name": "tea" });
    house.alice.create_room(again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_is_purged_beside_a_stopped_server() {
    let mut house = House::new().await;
    house.server.terminate().await;
    assert_eq!(said(house.purge()), format!("{} is purged\n", house.room));
    house.server.start().await;
    house.reconnect();
    house.is_gone().await;
    house.server.terminate().await;
    // The readers hold nothing of it either: of the other room, which nobody read
    // up to anything and in which nothing relates to anything, there is this much.
    let store = house.server.data_dir.join("store");
    let store = Store::open_read_only(&store, &StoreOptions::default()).unwrap();
    let rows = |table| store.range(table, &[], None, false, 100).unwrap().len();
    for table in [
        RELATIONS_CHILDREN,
        RELATIONS_BY_TYPE,
        RELATIONS_PARENTS,
        RELATIONS_OF,
        RELATIONS_THREADS,
        RELATIONS_REPLIERS,
        SYNC_RECEIPTS,
        SYNC_RECEIPTS_AT,
        RECEIPTS,
    ] {
        assert_eq!(rows(table), 0, "{}", table.name);
    }
    for (table, left) in [
        (ROOM_IDS, 1),
        (SYNC_ROOMS, 1),
        (SYNC_PURGED, 3),
        (DIRECTORY_MEMBERS, 2),
        (DIRECTORY_OPEN, 1),
    ] {
        assert_eq!(rows(table), left, "{}", table.name);
    }
    let events = rows(EVENTS);
    assert!((5..20).contains(&events), "{events} events");
    for table in [EVENT_IDS, SYNC_TIMELINE, RELATIONS_TIMES] {
        assert_eq!(rows(table), events, "{}", table.name);
    }
}

/// The process dies between the records of a purge, wherever it is just then; the
/// next one goes on without being asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_goes_on_after_a_crash() {
    let mut house = House::new().await;
    for number in 0..400 {
        let content = json!({ "body": format!("message {number}"), "msgtype": "m.text" });
        house
            .alice
            .send(&house.room, &format!("many{number}"), content)
            .await;
    }
    let arguments = ["room", "purge", &house.room, "--yes"];
    let mut command = house.server.command(&arguments);
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Until the room's users begin to leave it.
    while !house
        .bob
        .get(&of_room(&house.room, "state"))
        .await
        .status
        .is_client_error()
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    house.server.kill();
    child.wait().unwrap();
    house.server.start().await;
    house.reconnect();
    let begun = std::time::Instant::now();
    while house.rooms().contains(&house.room) {
        assert!(begun.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What is left of it is waited for, if anything is.
    let rest = house.purge();
    let error = String::from_utf8_lossy(&rest.stderr);
    assert!(
        rest.status.success() || error.contains("no such room"),
        "{error}"
    );
    house.is_gone().await;
    said(run(&house.server, &["replay", "--verify"], ""));
}
