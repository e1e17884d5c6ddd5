//! `trace`: what became of an event.
//!
//! The log has no index by event id, so this reads all of it once, in bounded
//! memory; the routing fields are found without decoding a body.

use std::io::{self, Write};
use std::path::Path;

use log_format::StoredRecord;
use log_format::codec;
use log_format::partition::Topic;
use log_format::record::Kind;
use log_format::record::output::OutputRoomEvent;
use serde_json::{Value, json};

use crate::error::{Status, ToolError};
use crate::open::{Partition, for_each, partitions};
use crate::{record, terminal, time};

/// Prints the event's input records, the decisions about them, and their effects.
pub fn run(path: &Path, event_id: &str, json: bool) -> Result<Status, ToolError> {
    let mut found: Vec<(usize, StoredRecord)> = Vec::new();
    let all = partitions(path)?;
    for (number, partition) in all.iter().enumerate() {
        let (reader, end) = partition.open()?;
        for_each(&reader, reader.begin(), end, |record| {
            if record
                .envelope()
                .is_ok_and(|envelope| envelope.event_id == Some(event_id))
            {
                found.push((number, record));
            }
            Ok(true)
        })?;
    }
    if found.is_empty() {
        return Err(ToolError::NoEvent(event_id.to_owned()));
    }
    let mut out = io::stdout().lock();
    for (number, stored) in &found {
        let Some(partition) = all.get(*number) else {
            continue;
        };
        let Ok(envelope) = stored.envelope() else {
            continue;
        };
        let value = record::to_json(partition, stored, &envelope, true);
        if json {
            writeln!(out, "{value}")?;
        } else {
            print_step(&mut out, partition, stored, &value)?;
        }
    }
    let decided = found
        .iter()
        .any(|(_, record)| record.kind() == Some(Kind::OutputRoomEvent));
    if !decided && !json {
        let looked = all
            .iter()
            .any(|partition| partition.topic == Some(Topic::Output));
        let why = if looked {
            "not decided yet"
        } else {
            "PATH holds no output topic: decision not looked for"
        };
        writeln!(out, "{}", terminal::warn(why))?;
    }
    Ok(Status::Clean)
}

fn print_step(
    out: &mut dyn Write,
    partition: &Partition,
    stored: &StoredRecord,
    value: &Value,
) -> io::Result<()> {
    let place = format!("{} offset {}", partition.label(), stored.offset);
    writeln!(
        out,
        "{}  {}  {}",
        terminal::bold(&place),
        value["kind"].as_str().unwrap_or_default(),
        time::show(stored.time_us)
    )?;
    let fields: &[&str] = match stored.kind() {
        Some(Kind::OutputRoomEvent) => &[
            "decision",
            "reason",
            "src_offset",
            "place",
            "state_before",
            "state_after",
            "memberships",
            "extremities",
            "visibility",
        ],
        _ => &[
            "placement",
            "depth",
            "prev_events",
            "auth_events",
            "redacts",
            "relation",
            "transaction",
        ],
    };
    if stored.kind() != Some(Kind::OutputRoomEvent) {
        for name in ["room_id", "type", "state_key", "sender", "source", "event"] {
            print_field(out, name, &value[name])?;
        }
    }
    for name in fields {
        print_field(out, name, &value["body"][name])?;
    }
    if let Ok(envelope) = stored.envelope()
        && let Ok(body) = codec::decode::<OutputRoomEvent>(envelope.body)
        && stored.kind() == Some(Kind::OutputRoomEvent)
    {
        for change in &body.state_delta {
            let key = json!([change.kind, change.state_key]);
            let from = change.from.as_deref().unwrap_or("nothing");
            let to = change.to.as_deref().unwrap_or("nothing");
            writeln!(
                out,
                "  {} {key}: {} -> {}",
                terminal::name("state"),
                record::printable(from),
                record::printable(to)
            )?;
        }
    }
    writeln!(out)
}

fn print_field(out: &mut dyn Write, name: &str, value: &Value) -> io::Result<()> {
    match value {
        Value::Null => Ok(()),
        Value::String(text) => writeln!(
            out,
            "  {} {}",
            terminal::name(name),
            record::printable(text)
        ),
        other => writeln!(out, "  {} {other}", terminal::name(name)),
    }
}
