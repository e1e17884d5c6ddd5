//! Every client-server endpoint of the specification is there, or is listed in
//! `later.tsv` with the reason. In neither, in both, or listed although it works
//! fails: no endpoint is missing by accident.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::json;

use crate::harness::{Answer, Server, escape};

/// Method and path of each endpoint, one a line, as in the specification.
const SPECIFICATION: &str = include_str!("specification.tsv");
/// Method, path and reason of each endpoint that is not built yet.
const LATER: &str = include_str!("later.tsv");

type Endpoint = (Method, &'static str);

fn lines(file: &'static str) -> impl Iterator<Item = (Endpoint, &'static str)> {
    let lines = file.lines().filter(|line| !line.starts_with('#'));
    lines.filter(|line| !line.is_empty()).map(|line| {
        let mut columns = line.splitn(3, '\t');
        let method = columns.next().unwrap().parse().unwrap();
        let path = columns.next().unwrap_or_else(|| panic!("no path: {line}"));
        ((method, path), columns.next().unwrap_or("").trim())
    })
}

/// The path of each endpoint.
pub fn specified_paths() -> impl Iterator<Item = &'static str> {
    lines(SPECIFICATION).map(|((_, path), _)| path)
}

fn listed() -> BTreeMap<(String, &'static str), &'static str> {
    let mut listed = BTreeMap::new();
    for ((method, path), reason) in lines(LATER) {
        assert!(
            !reason.is_empty(),
            "{method} {path} is listed without a reason"
        );
        let double = listed.insert((method.to_string(), path), reason);
        assert!(double.is_none(), "{method} {path} is listed twice");
    }
    listed
}

/// Whether the answer is of a path or method that the router does not have.
fn unknown(answer: &Answer) -> bool {
    answer.body["errcode"] == "M_UNRECOGNIZED" && matches!(answer.status.as_u16(), 404 | 405)
}

#[tokio::test]
async fn each_endpoint_of_the_specification_is_built_or_listed() {
    let server = Server::builder().start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({ "name": "Endpoints" })).await;
    let event = alice.send_text(&room, "hello").await;
    let nobody = server.api();
    let listed = listed();
    let mut seen = BTreeSet::new();
    let mut wrong = vec![];
    for ((method, path), _) in lines(SPECIFICATION) {
        let concrete = path
            .replace("{userId}", &escape(&alice.user_id))
            .replace("{roomId}", &escape(&room))
            .replace("{roomIdOrAlias}", &escape(&room))
            .replace("{roomAlias}", &escape("#x:hs.test"))
            .replace("{eventId}", &escape(&event))
            .replace("{type}", "org.example.x")
            .replace("{eventType}", "m.room.message")
            .replace("{relType}", "m.thread")
            .replace("{keyName}", "displayname");
        let concrete = fill(&concrete);
        // Without a token nothing is changed; what anybody may read is read as well.
        let mut answers = vec![
            nobody
                .request(method.clone(), &concrete, Some(json!({})))
                .await,
        ];
        if method == Method::GET {
            answers.push(alice.get(&format!("{concrete}?timeout=0")).await);
        }
        for answer in &answers {
            if answer.status.is_server_error() {
                wrong.push(format!("{method} {path} answers {}", answer.text));
            }
        }
        let key = (method.to_string(), path);
        let missing = answers.iter().any(unknown);
        match (missing, listed.get(&key)) {
            (true, None) => wrong.push(format!(
                "{method} {path} is not in the router: build it, or list it in \
                 tests/server/endpoints/later.tsv with the reason"
            )),
            (false, Some(reason)) => wrong.push(format!(
                "{method} {path} works, so delete its line in \
                 tests/server/endpoints/later.tsv (\"{reason}\")"
            )),
            _ => {}
        }
        seen.insert(key);
    }
    for key in listed.keys().filter(|key| !seen.contains(*key)) {
        wrong.push(format!(
            "{} {} is listed in later.tsv, and the specification has no such endpoint",
            key.0, key.1
        ));
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// Replaces what parameters are left by a word.
fn fill(path: &str) -> String {
    let parts = path.split('/');
    let parts: Vec<_> = parts
        .map(|part| if part.starts_with('{') { "x" } else { part })
        .collect();
    parts.join("/")
}
