//! The verbs of the command line: what they print, what they leave, how they exit.

use std::io::Write as _;
use std::process::{Output, Stdio};

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Api, Server, escape};

/// Runs a verb with a first line on standard input; the output is the verb's own.
pub fn run(server: &Server, arguments: &[&str], input: &str) -> Output {
    let mut command = server.command(arguments);
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A verb that asks for nothing may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

#[track_caller]
fn stdout(output: Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn fails(output: Output, code: i32, says: &str) {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(error.contains(says), "{error}");
}

async fn login(api: &Api, name: &str, password: &str) -> StatusCode {
    let body = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": name },
        "password": password,
    });
    api.post("/_matrix/client/v3/login", body).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_is_refused_with_file_and_line() {
    let server = Server::builder().prepare();
    let file = server.folder().join("engram.toml");
    let printed = stdout(run(&server, &["config"], ""));
    std::fs::write(&file, &printed).unwrap();
    let path = file.to_str().unwrap();
    assert_eq!(
        stdout(run(&server, &["-c", path, "config", "--check"], "")),
        ""
    );
    std::fs::write(&file, printed.replace("keep = 2", "keep = \"two\"")).unwrap();
    let line = 1 + printed.lines().position(|line| line == "keep = 2").unwrap();
    let expected = format!("engram.toml:{line}: snapshots.keep takes a whole number from 1 to 100");
    for verb in ["serve", "config"] {
        fails(run(&server, &["-c", path, verb], ""), 2, &expected);
    }
    assert!(
        !server.data_dir.exists(),
        "a refused configuration touched the disk"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_are_made_with_and_without_a_running_server() {
    let mut server = Server::builder().set("REGISTRATION__OPEN", false).prepare();
    let made = stdout(run(
        &server,
        &["user", "create", "alice", "--admin"],
        "wonderland\n",
    ));
    assert_eq!(made, "@alice:hs.test created\n");
    fails(
        run(&server, &["user", "create", "alice"], "wonderland\n"),
        1,
        "taken",
    );
    fails(
        run(&server, &["user", "create", "bob"], "short\n"),
        1,
        "shorter",
    );
    server.start().await;
    let api = server.api();
    assert_eq!(login(&api, "alice", "wonderland").await, 200);
    stdout(run(&server, &["user", "create", "bob"], "looking-glass\n"));
    fails(
        run(&server, &["user", "create", "bob"], "looking-glass\n"),
        1,
        "taken",
    );
    assert_eq!(login(&api, "bob", "looking-glass").await, 200);
    stdout(run(&server, &["user", "passwd", "bob"], "another-one\n"));
    assert_eq!(login(&api, "bob", "looking-glass").await, 403);
    assert_eq!(login(&api, "bob", "another-one").await, 200);
    // A socket that a killed server left is no server.
    server.kill();
    stdout(run(
        &server,
        &["user", "passwd", "@alice:hs.test"],
        "third-password\n",
    ));
    server.start().await;
    assert_eq!(login(&server.api(), "alice", "third-password").await, 200);
    assert_eq!(login(&server.api(), "alice", "wonderland").await, 403);
}

/// A room with Alice and Bob, a name and some messages.
async fn room_of_two(server: &Server) -> (Api, String) {
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice
        .create_room(json!({ "preset": "public_chat", "name": "Tea" }))
        .await;
    bob.join(&room).await.ok();
    for number in 0..10 {
        alice.send_text(&room, &format!("message {number}")).await;
    }
    (alice, room)
}

#[track_caller]
fn json_of(output: Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_is_shown_whether_the_server_runs_or_not() {
    let mut server = Server::builder().set("LOG__PARTITIONS", 2).prepare();
    let unknown = ["room", "!nowhere:hs.test"];
    fails(run(&server, &unknown, ""), 1, "no server ever ran");
    server.start().await;
    fails(run(&server, &unknown, ""), 1, "not known");
    let (alice, room) = room_of_two(&server).await;
    let last = alice.send_text(&room, "the last one").await;

    let shown = json_of(run(&server, &["room", &room, "--json"], ""));
    assert_eq!(shown["room_id"], room);
    assert_eq!(shown["name"], "Tea");
    assert_eq!(shown["join_rule"], "public");
    assert_eq!(shown["history_visibility"], "shared");
    assert_eq!(shown["creators"], json!(["@alice:hs.test"]));
    let joined = &shown["members"]["join"];
    assert_eq!(joined["count"], 2);
    assert_eq!(joined["local"], 2);
    assert_eq!(joined["first"], json!(["@alice:hs.test", "@bob:hs.test"]));
    assert_eq!(shown["extremities_count"], 1);
    let extremity = &shown["extremities"][0];
    assert_eq!(extremity["event_id"], last);
    assert_eq!(extremity["sender"], "@alice:hs.test");
    assert_eq!(shown["power"]["levels"]["ban"], 50);
    assert_eq!(shown["waits"], json!({ "parked_at": null, "events": 0 }));
    assert_eq!(shown["unfolded"], 0);
    let events = shown["timeline_events"].as_u64().unwrap();
    assert_eq!(extremity["depth"], events, "a straight line");
    let entries = shown["state_entries"].as_u64().unwrap();
    // Each entry was an event of its own here, and no state came twice.
    assert_eq!(shown["states"], entries);
    assert!(shown["state_row_bytes"].as_u64().unwrap() > 0);
    let text = stdout(run(&server, &["room", &room], ""));
    for line in [
        "members join   2 (2 of this server)",
        "name           Tea",
        &last,
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }

    assert_eq!(server.terminate().await.code(), Some(0));
    let offline = json_of(run(&server, &["room", &room, "--json"], ""));
    assert_eq!(offline, shown);
    fails(run(&server, &unknown, ""), 1, "not known");
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_are_listed_by_what_is_asked() {
    let mut server = Server::builder().start().await;
    let (alice, busy) = room_of_two(&server).await;
    let quiet = alice.create_room(json!({})).await;
    let listed = json_of(run(&server, &["rooms", "--by", "members", "--json"], ""));
    assert_eq!(listed[0]["room_id"], busy);
    assert_eq!(listed[0]["joined_members"], 2);
    assert_eq!(listed[0]["name"], "Tea");
    assert_eq!(listed[1]["room_id"], quiet);
    assert_eq!(listed[1]["extremities"], 1);
    let text = stdout(run(&server, &["rooms", "--limit", "1"], ""));
    assert!(text.contains("1 of 2 rooms"), "{text}");
    // What a killed server left is read, and nothing of it is changed.
    server.kill();
    let rest = json_of(run(&server, &["rooms", "--json"], ""));
    assert!(rest.as_array().unwrap().len() <= 2);
    server.start().await;
    let again = json_of(run(&server, &["rooms", "--by", "members", "--json"], ""));
    assert_eq!(again, listed);
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_are_measured_and_left_for_the_tools() {
    let mut server = Server::builder().start().await;
    let (_, _) = room_of_two(&server).await;
    let metrics = server.metrics().get("/metrics").await.text;
    for line in [
        "engram_store_family_bytes{family=\"state\"}",
        "engram_room_events ",
        "engram_state_changes ",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    server.terminate().await;
    let path = server.data_dir.join("space.json");
    let read = || serde_json::from_slice::<Value>(&std::fs::read(&path).unwrap()).unwrap();
    let left = read();
    assert!(left["families"]["state"]["file_bytes"].as_u64().unwrap() > 0);
    assert!(left["output_ends"][0].as_u64().unwrap() > 20);
    let counted = &left["counted"];
    assert_eq!(counted["ends"], left["output_ends"]);
    // Two rooms' worth of messages and joins; eight state entries at least.
    assert!(counted["events"].as_u64().unwrap() > 15, "{counted}");
    assert!(counted["state_changes"].as_u64().unwrap() >= 8, "{counted}");
    server.start().await;
    server.terminate().await;
    assert_eq!(read()["counted"], *counted, "nothing is counted twice");
}

fn digest(printed: &str) -> &str {
    let line = printed
        .lines()
        .find(|line| line.starts_with("state digest "));
    line.unwrap_or_else(|| panic!("no digest in {printed}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_gives_the_same_digest_in_every_way() {
    let mut server = Server::builder().set("LOG__LANES", 2).start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    for number in 0..20 {
        alice.send_text(&room, &format!("message {number}")).await;
    }
    let token = alice.sync("timeout=0").await["next_batch"].clone();
    let refused = run(&server, &["replay"], "");
    fails(refused, 3, "another engram");
    stdout(run(&server, &["replay", "--verify"], ""));
    assert_eq!(server.terminate().await.code(), Some(0));
    let verified = stdout(run(&server, &["replay", "--verify"], ""));
    let from_snapshot = stdout(run(&server, &["replay"], ""));
    server.set("LOG__LANES", 1);
    let from_scratch = stdout(run(&server, &["replay", "--from-scratch"], ""));
    assert_eq!(digest(&verified), digest(&from_snapshot));
    assert_eq!(digest(&verified), digest(&from_scratch));
    server.start().await;
    let mut again = server.api();
    again.token = alice.token.clone();
    alice_goes_on(&again, &room, &token).await;
}

/// The token that sync gave before the rebuild is good for what comes after it.
async fn alice_goes_on(alice: &Api, room: &str, token: &Value) {
    let sent = alice.send_text(room, "after").await;
    let since = escape(token.as_str().unwrap());
    let next = alice.sync(&format!("timeout=0&since={since}")).await;
    let timeline = &next["rooms"]["join"][room]["timeline"]["events"];
    let events: Vec<_> = timeline
        .as_array()
        .unwrap()
        .iter()
        .map(|event| &event["event_id"])
        .collect();
    assert_eq!(events, [&json!(sent)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let server = Server::builder().set("CLIENT__BIND", address).prepare();
    fails(
        run(&server, &["serve"], ""),
        1,
        &format!("client.bind = {address}"),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_name_or_partition_count_is_refused() {
    let mut server = Server::builder().start().await;
    server.terminate().await;
    server.set("LOG__PARTITIONS", 2);
    fails(run(&server, &["serve"], ""), 2, "1 partitions");
    server.set("LOG__PARTITIONS", 1);
    server.set("SERVER_NAME", "other.test");
    fails(run(&server, &["serve"], ""), 2, "cannot be renamed");
}
