//! `engram-log` as a user runs it, on logs that `log-format` wrote.

use std::process::Command;

use ed25519_dalek::SigningKey;
use log_format::codec;
use log_format::partition::Topic;
use log_format::record::input::{InputDeviceLoggedIn, InputRoomEvent, Placement, Tokens};
use log_format::record::output::{
    Decision, Origin, OutputRoomEvent, Reason, StateChange, StateChangeCause, Timeline, Visibility,
};
use log_format::record::{Kind, NewEnvelope, Part};
use log_format::{Pending, WriterConfig};
use serde_json::Value;

use crate::support::{FIRST_TIME_US, ROOM, SEGMENT_BYTES, lines, pending, run, writer};

fn event(number: u64) -> Pending {
    let body = codec::encode(&InputRoomEvent {
        placement: Placement::New,
        depth: number,
        prev_events: vec![format!("$event{}", number.saturating_sub(1))],
        auth_events: Vec::new(),
        redacts: None,
        relation: None,
        membership: None,
        transaction: None,
        verified_with: Vec::new(),
        batch_index: 0,
        batch_count: 1,
    });
    let id = format!("$event{number}");
    let json = format!(r#"{{"content":{{"body":"number {number}"}},"type":"m.room.message"}}"#);
    let envelope = NewEnvelope {
        key: ROOM,
        room_id: Some(ROOM),
        event_id: Some(&id),
        sender: Some(if number.is_multiple_of(2) {
            "@even:hs.test"
        } else {
            "@odd:hs.test"
        }),
        event_type: Some("m.room.message"),
        body: &body,
        skeleton: Part::Present(br#"{"content":{}}"#),
        body_part: Part::Present(json.as_bytes()),
        salt: [7; 32],
        ..NewEnvelope::default()
    };
    pending(
        Kind::InputRoomEvent,
        FIRST_TIME_US + number * 1_000_000,
        &envelope,
    )
}

fn decision(number: u64) -> Pending {
    let body = codec::encode(&OutputRoomEvent {
        origin: Origin {
            src_offset: number,
            about: number,
            src_sub: 0,
            src_last: true,
            projector_version: 1,
        },
        decision: Decision::Accepted,
        reason: Reason::None,
        room_sn: 0,
        event_sn: number,
        place: [0x80; 16],
        state_before: 3,
        state_after: 4,
        current_state: 4,
        state_delta: vec![StateChange {
            kind: "m.room.topic".to_owned(),
            state_key: String::new(),
            from: None,
            to: Some(format!("$event{number}")),
            cause: StateChangeCause::Event,
        }],
        memberships: vec![],
        extremities: vec![format!("$event{number}")],
        visibility: Visibility::Shared,
        timeline: Timeline::Live,
        redacts: None,
        thread: None,
        transaction: None,
    });
    let id = format!("$event{number}");
    let envelope = NewEnvelope {
        key: ROOM,
        room_id: Some(ROOM),
        event_id: Some(&id),
        body: &body,
        ..NewEnvelope::default()
    };
    pending(
        Kind::OutputRoomEvent,
        FIRST_TIME_US + number * 1_000_000,
        &envelope,
    )
}

/// A log of so many events in several segments, closed.
fn log(events: u64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::from_bytes(&[5; 32]);
    let config = WriterConfig {
        checkpoint_key: Some(key),
        ..WriterConfig::input(SEGMENT_BYTES)
    };
    let mut input = writer(folder.path(), Topic::Input, config);
    let mut output = writer(
        folder.path(),
        Topic::Output,
        WriterConfig::output(SEGMENT_BYTES),
    );
    let numbers: Vec<u64> = (0..events).collect();
    for batch in numbers.chunks(100) {
        input
            .append(
                &batch
                    .iter()
                    .map(|number| event(*number))
                    .collect::<Vec<_>>(),
            )
            .unwrap();
        input.sync().unwrap();
        output
            .append(
                &batch
                    .iter()
                    .map(|number| decision(*number))
                    .collect::<Vec<_>>(),
            )
            .unwrap();
    }
    let secret = codec::encode(&InputDeviceLoggedIn {
        device_id: "DEVICE".to_owned(),
        display_name: None,
        tokens: Tokens {
            access: [0xAB; 32],
            access_expires_ms: None,
            refresh: None,
        },
    });
    let login = NewEnvelope {
        key: "@odd:hs.test",
        sender: Some("@odd:hs.test"),
        body: &secret,
        ..NewEnvelope::default()
    };
    input
        .append(&[pending(
            Kind::InputDeviceLoggedIn,
            FIRST_TIME_US + events * 1_000_000,
            &login,
        )])
        .unwrap();
    input.sync().unwrap();
    input.idle_commit().unwrap();
    output.sync().unwrap();
    folder
}

#[test]
fn info_names_every_partition_and_segment() {
    let folder = log(1000);
    let found = lines(folder.path(), &["info", ".", "--json"]);
    assert_eq!(found.len(), 2);
    assert_eq!(found[0]["topic"], "input");
    assert_eq!(found[0]["end"], 1001);
    assert_eq!(found[0]["synced"], 1001);
    assert!(
        found[0]["segments"].as_array().unwrap().len() > 1,
        "the test wants several segments"
    );
    assert_eq!(found[1]["end"], 1000);
    let text = String::from_utf8(run(folder.path(), &["info", "."]).stdout).unwrap();
    assert!(
        text.contains("input/p0000") && text.contains("clean"),
        "{text}"
    );
}

#[test]
fn cat_takes_ranges_and_filters() {
    let folder = log(300);
    let path = folder.path();
    let by_offset = lines(
        path,
        &["cat", "input", "--from", "10", "--to", "20", "--json"],
    );
    let offsets: Vec<u64> = by_offset
        .iter()
        .map(|record| record["offset"].as_u64().unwrap())
        .collect();
    assert_eq!(offsets, (10..20).collect::<Vec<_>>());
    assert_eq!(
        by_offset[0]["event"],
        Value::Null,
        "bodies are shown only on demand"
    );

    let odd = lines(
        path,
        &[
            "cat",
            "input",
            "--sender",
            "@odd:hs.test",
            "--kind",
            "room_event",
            "--json",
            "--bodies",
        ],
    );
    assert_eq!(odd.len(), 150);
    assert_eq!(odd[0]["event"]["content"]["body"], "number 1");

    let from_second = (FIRST_TIME_US / 1_000_000 + 290).to_string();
    assert_eq!(
        lines(
            path,
            &[
                "cat",
                "input",
                "--since",
                &from_second,
                "--type",
                "m.room.message",
                "--json"
            ]
        )
        .len(),
        10
    );
    assert_eq!(
        lines(path, &["cat", "input", "--event", "$event7", "--json"]).len(),
        1
    );
    assert_eq!(
        lines(path, &["cat", "input", "--limit", "3", "--json"]).len(),
        3
    );
    assert_eq!(
        lines(path, &["cat", ".", "--room", ROOM, "--json"]).len(),
        600
    );
    assert_eq!(
        lines(path, &["tail", "input", "-n", "2", "--json"]).len(),
        2
    );
}

#[test]
fn one_segment_can_be_named() {
    let folder = log(1000);
    let info = lines(folder.path(), &["info", "input", "--json"]);
    let segment = &info[0]["segments"][1];
    let path = format!("input/p0000/{}", segment["file"].as_str().unwrap());
    let records = lines(folder.path(), &["cat", &path, "--json"]);
    assert_eq!(records[0]["offset"], segment["base"]);
    assert_eq!(
        records.last().unwrap()["offset"].as_u64().unwrap() + 1,
        segment["end"].as_u64().unwrap()
    );
}

#[test]
fn show_and_trace_tell_all_and_hide_secrets() {
    let folder = log(50);
    let path = folder.path();
    let shown = lines(path, &["show", "input", "7", "--json"]);
    assert_eq!(shown[0]["event"]["content"]["body"], "number 7");
    assert_eq!(shown[0]["body"]["depth"], 7);
    let hex = String::from_utf8(run(path, &["show", "input", "7", "--hex"]).stdout).unwrap();
    assert!(hex.contains("00000000  01 00 01 00"), "{hex}");

    let secret = String::from_utf8(run(path, &["show", "input", "50"]).stdout).unwrap();
    assert!(
        secret.contains("DEVICE") && !secret.contains("abab") && !secret.contains("171"),
        "{secret}"
    );

    let traced = lines(path, &["trace", ".", "$event7", "--json"]);
    assert_eq!(traced.len(), 2);
    assert_eq!(traced[1]["body"]["decision"], "accepted");
    let text = String::from_utf8(run(path, &["trace", ".", "$event7"]).stdout).unwrap();
    assert!(text.contains("nothing -> $event7"), "{text}");
    assert_eq!(
        run(path, &["trace", ".", "$unknown"]).status.code(),
        Some(4)
    );
}

#[test]
fn stats_count_by_kind_room_and_day() {
    let folder = log(100);
    let stats = &lines(folder.path(), &["stats", ".", "--json"])[0];
    assert_eq!(stats["kinds"]["room_event"]["records"], 100);
    assert_eq!(stats["kinds"]["output_room_event"]["records"], 100);
    assert_eq!(stats["days"]["2026-11-23"]["records"], 201);
    assert_eq!(stats["rooms"][0]["room_id"], ROOM);
    assert!(stats["payload_bytes_per_event"]["input"].as_u64().unwrap() > 100);
    let text = String::from_utf8(run(folder.path(), &["stats", "."]).stdout).unwrap();
    assert!(text.contains('█'), "{text}");
}

#[test]
fn exit_codes_tell_clean_torn_corrupt_and_refused() {
    let folder = log(1000);
    let path = folder.path();
    for level in ["--crc", "--chain", "--signatures"] {
        assert_eq!(
            run(path, &["verify", ".", level]).status.code(),
            Some(0),
            "{level}"
        );
    }
    let other_key = SigningKey::from_bytes(&[6; 32]).verifying_key().to_bytes();
    let other_key: String = other_key.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        run(path, &["verify", "input", "--key", &other_key])
            .status
            .code(),
        Some(2),
        "signed by another key"
    );

    let segments = &lines(path, &["info", "input", "--json"])[0]["segments"];
    let first = path
        .join("input/p0000")
        .join(segments[0]["file"].as_str().unwrap());
    let last = segments.as_array().unwrap().last().unwrap()["file"]
        .as_str()
        .unwrap();
    let last = path.join("input/p0000").join(last);

    // Garbage behind the last batch was never acknowledged.
    let whole = std::fs::read(&last).unwrap();
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut torn = whole.clone();
    torn.truncate(end.next_multiple_of(8));
    torn.extend_from_slice(&[0xFF; 100]);
    std::fs::write(&last, &torn).unwrap();
    assert_eq!(run(path, &["verify", "input"]).status.code(), Some(1));
    std::fs::write(&last, &whole).unwrap();

    // A flipped bit in a sealed segment was.
    let mut permissions = std::fs::metadata(&first).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    std::fs::set_permissions(&first, permissions).unwrap();
    let mut bytes = std::fs::read(&first).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&first, &bytes).unwrap();
    let verified = run(path, &["verify", "input"]);
    assert_eq!(verified.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&verified.stdout).contains("at byte"),
        "the place is named"
    );

    assert_eq!(run(path, &["verify", "nowhere"]).status.code(), Some(4));
    std::fs::create_dir(path.join("empty")).unwrap();
    assert_eq!(run(path, &["verify", "empty"]).status.code(), Some(3));
    assert_eq!(run(path, &["no-such-verb"]).status.code(), Some(64));
}

#[test]
fn tail_follows_a_live_writer() {
    use std::io::{BufRead, BufReader};
    let folder = tempfile::tempdir().unwrap();
    let mut input = writer(
        folder.path(),
        Topic::Input,
        WriterConfig::input(SEGMENT_BYTES),
    );
    let mut child = Command::new(env!("CARGO_BIN_EXE_engram-log"))
        .args(["tail", "-f", "--json", "input"])
        .current_dir(folder.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    for number in 0..600 {
        input.append(&[event(number)]).unwrap();
        input.sync().unwrap();
        input.idle_commit().unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let record: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            record["offset"], number,
            "records are shown once each, across segments"
        );
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A million records are read in memory that does not grow with them.
#[test]
fn a_million_records_need_little_memory() {
    const RECORDS: u64 = 1_000_000;
    const ADDRESS_SPACE_KIB: u64 = 128 << 10;
    let folder = tempfile::tempdir().unwrap();
    let mut input = writer(folder.path(), Topic::Input, WriterConfig::output(64 << 20));
    let template = event(0);
    let mut next = 0;
    while next < RECORDS {
        let end = (next + 4000).min(RECORDS);
        let batch: Vec<Pending> = (next..end)
            .map(|number| Pending {
                time_us: FIRST_TIME_US + number,
                ..template.clone()
            })
            .collect();
        input.append(&batch).unwrap();
        next = end;
    }
    input.sync().unwrap();
    drop(input);
    let verbs = [
        "stats input --json",
        "verify input --chain --json",
        "cat input --event $none --json",
        "tail input -n 5 --json",
    ];
    for verb in verbs {
        let command = format!(
            "ulimit -v {ADDRESS_SPACE_KIB}; exec \"$0\" {}",
            verb.replace('$', "\\$")
        );
        let output = Command::new("sh")
            .args(["-c", &command, env!("CARGO_BIN_EXE_engram-log")])
            .current_dir(folder.path())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{verb}: {errors}");
        if verb.starts_with("stats") {
            let stats: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(stats["all"]["records"], RECORDS);
        }
    }
}
