//! `trace`: what became of an event.
//!
//! The log has no index by event id, so this reads all of it once, in bounded
//! memory; the routing fields are found without decoding a body.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use log_format::codec;
use log_format::partition::Topic;
use log_format::record::input::{InputStateBegin, InputStateChunk};
use log_format::record::output::OutputRoomGap;
use log_format::record::{Envelope, Kind};
use log_format::{PartitionReader, StoredRecord};
use serde_json::{Value, json};

use crate::error::{Status, ToolError};
use crate::open::{Partition, for_each, partitions};
use crate::{body, record, terminal, time};

/// Prints the event's input records, the decisions about them, and their effects.
pub fn run(path: &Path, event_id: &str, json: bool) -> Result<Status, ToolError> {
    let mut found: Vec<(usize, StoredRecord)> = Vec::new();
    let mut folded = Folded::default();
    let all = partitions(path)?;
    for (number, partition) in all.iter().enumerate() {
        let (reader, end) = partition.open()?;
        if partition.topic == Some(Topic::Output) {
            folded.note_end(partition.number, &reader, end)?;
        }
        for_each(&reader, reader.begin(), end, |record| {
            if record
                .envelope()
                .is_ok_and(|envelope| concerns(&envelope, event_id))
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
    if !json {
        print_undecided(&mut out, &all, &found, &folded)?;
    }
    Ok(Status::Clean)
}

/// Whether a record is the event's, a decision about it, or names it as part of
/// a state that was given, or as missing.
fn concerns(envelope: &Envelope<'_>, event_id: &str) -> bool {
    if envelope.event_id == Some(event_id) {
        return true;
    }
    let names = |ids: &[String]| ids.iter().any(|id| id == event_id);
    match envelope.kind {
        Kind::InputStateBegin => codec::decode::<InputStateBegin>(envelope.body)
            .is_ok_and(|body| body.event_id == event_id),
        Kind::InputStateChunk => {
            codec::decode::<InputStateChunk>(envelope.body).is_ok_and(|body| names(&body.event_ids))
        }
        Kind::OutputRoomGap => codec::decode::<OutputRoomGap>(envelope.body)
            .is_ok_and(|body| names(&body.prev_events) || names(&body.auth_events)),
        _ => false,
    }
}

/// Up to where *output* shows that *input* was folded.
#[derive(Default)]
struct Folded {
    /// Source of the last *output* record by partition.
    sources: BTreeMap<u32, u64>,
    looked: bool,
}

impl Folded {
    fn note_end(
        &mut self,
        partition: u32,
        reader: &PartitionReader,
        end: u64,
    ) -> Result<(), ToolError> {
        self.looked = true;
        if end > reader.begin() {
            let last = reader.read_one(end - 1)?;
            let origin = last
                .envelope()
                .ok()
                .and_then(|envelope| body::origin_of(&envelope));
            let source = origin.map(|origin| origin.src_offset);
            self.sources
                .extend(source.map(|source| (partition, source)));
        }
        Ok(())
    }
}

/// Says of each *input* record of the event that nothing decided about, why.
fn print_undecided(
    out: &mut dyn Write,
    all: &[Partition],
    found: &[(usize, StoredRecord)],
    folded: &Folded,
) -> io::Result<()> {
    let number_of = |index: usize| all.get(index).map(|partition| partition.number);
    let decided: Vec<(Option<u32>, u64)> = found
        .iter()
        .filter_map(|(index, stored)| {
            let decided = body::decided(&stored.envelope().ok()?)?;
            Some((number_of(*index), decided.origin.about))
        })
        .collect();
    for (index, stored) in found {
        let number = number_of(*index);
        if stored.kind() != Some(Kind::InputRoomEvent) || decided.contains(&(number, stored.offset))
        {
            continue;
        }
        let source = number.and_then(|number| folded.sources.get(&number));
        let why = if !folded.looked {
            "PATH holds no output topic: decision not looked for"
        } else if source.is_some_and(|source| *source > stored.offset) {
            "not decided: it waits for events that are missing, or its room for work done aside"
        } else {
            "not decided yet"
        };
        let text = format!("input offset {}: {why}", stored.offset);
        writeln!(out, "{}", terminal::warn(&text))?;
    }
    Ok(())
}

/// The fields of a body that tell the story, by kind.
fn fields(kind: Option<Kind>) -> &'static [&'static str] {
    match kind {
        Some(Kind::OutputRoomEvent) => &[
            "decision",
            "reason",
            "src_offset",
            "place",
            "timeline",
            "state_before",
            "state_after",
            "current_state",
            "memberships",
            "extremities",
            "visibility",
            "redacts",
        ],
        Some(Kind::OutputRoomGap) => &["src_offset", "prev_events", "auth_events"],
        Some(Kind::OutputRoomState) => &["src_offset", "memberships"],
        Some(Kind::InputStateBegin) => &["given", "event_id"],
        // The chunk may name thousands; that it names this one is the point.
        Some(Kind::InputStateChunk) => &["given"],
        _ => &[
            "placement",
            "depth",
            "prev_events",
            "auth_events",
            "redacts",
            "relation",
            "transaction",
        ],
    }
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
    let body = &value["body"];
    if body["about"].is_null() {
        for name in ["room_id", "type", "state_key", "sender", "source", "event"] {
            print_field(out, name, &value[name])?;
        }
    } else if body["about"] != body["src_offset"] {
        // It waited: what ended that is the source, what it is about came before.
        print_field(out, "about", &body["about"])?;
    }
    if matches!(stored.kind(), Some(Kind::OutputRoomGap)) {
        print_field(out, "event_id", &value["event_id"])?;
    }
    for name in fields(stored.kind()) {
        print_field(out, name, &body[*name])?;
    }
    for change in body["state_delta"].as_array().into_iter().flatten() {
        let key = json!([change["type"], change["state_key"]]);
        let event = |field: &str| record::printable(change[field].as_str().unwrap_or("nothing"));
        writeln!(
            out,
            "  {} {key}: {} -> {} ({})",
            terminal::name("state"),
            event("from"),
            event("to"),
            event("cause").to_lowercase()
        )?;
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
