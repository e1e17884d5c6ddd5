//! How much disk an event and a state change take, in the logs and in the store.
//!
//! What happened is counted in *output*. How large the store is only the server
//! knows, which leaves it in `space.json` in the data folder.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use log_format::codec;
use log_format::partition::Topic;
use log_format::record::output::{Decision, OutputRoomEvent, OutputRoomState};
use log_format::record::{Envelope, Kind};
use log_format::{StoredRecord, segment};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::ToolError;
use crate::open::Partition;
use crate::{terminal, time};

/// The file that a server leaves at each flush of its store.
pub const FILE_NAME: &str = "space.json";
/// The family of the store that holds room states.
const STATE_FAMILY: &str = "state";

/// Sizes of the store at some time.
#[derive(Deserialize)]
struct StoreSizes {
    time_us: u64,
    /// Ends of *output* by partition at that time.
    output_ends: Vec<u64>,
    families: BTreeMap<String, FamilySize>,
}

#[derive(Deserialize)]
struct FamilySize {
    file_bytes: u64,
}

/// What was counted.
pub struct Space {
    sizes: Result<StoreSizes, String>,
    /// Bytes of segment files by topic.
    files: BTreeMap<&'static str, u64>,
    /// Accepted events.
    events: u64,
    /// Entries of current state that changed.
    state_changes: u64,
    /// Of these, what the store held when its sizes were taken.
    stored_events: u64,
    stored_changes: u64,
    saw_output: bool,
}

impl Space {
    /// Looks for the sizes that belong to the log.
    pub fn beside(partitions: &[Partition]) -> Result<Space, ToolError> {
        let mut space = Space {
            sizes: sizes(partitions.first()),
            files: BTreeMap::new(),
            events: 0,
            state_changes: 0,
            stored_events: 0,
            stored_changes: 0,
            saw_output: false,
        };
        for partition in partitions {
            space.saw_output |= partition.topic == Some(Topic::Output);
            let topic = partition.topic.map_or("?", Topic::name);
            *space.files.entry(topic).or_default() += segment_bytes(&partition.dir)?;
        }
        Ok(space)
    }

    /// Counts a record.
    pub fn add(&mut self, partition: u32, found: &StoredRecord, envelope: &Envelope<'_>) {
        let (events, changes) = counts(envelope);
        self.events += events;
        self.state_changes += changes;
        let ends = self.sizes.as_ref().map(|sizes| &sizes.output_ends);
        let end = ends.ok().and_then(|ends| ends.get(partition as usize));
        if end.is_some_and(|end| found.offset < *end) {
            self.stored_events += events;
            self.stored_changes += changes;
        }
    }

    /// Bytes of the whole store, and of its states.
    fn stored(sizes: &StoreSizes) -> (u64, u64) {
        let all = sizes.families.values().map(|family| family.file_bytes);
        let state = sizes.families.get(STATE_FAMILY);
        (all.sum(), state.map_or(0, |family| family.file_bytes))
    }

    pub fn to_json(&self) -> Value {
        let per_event: serde_json::Map<String, Value> = self
            .files
            .iter()
            .map(|(topic, bytes)| ((*topic).to_owned(), ratio_json(*bytes, self.events)))
            .collect();
        let mut value = json!({
            "events": self.events,
            "state_changes": self.state_changes,
            "file_bytes": self.files,
            "file_bytes_per_event": per_event,
        });
        match &self.sizes {
            Err(why) => value["store"] = json!({ "missing": why }),
            Ok(sizes) => {
                let (all, state) = Space::stored(sizes);
                let families: BTreeMap<&String, u64> = sizes
                    .families
                    .iter()
                    .map(|(name, family)| (name, family.file_bytes))
                    .collect();
                value["store"] = json!({
                    "time": time::show(sizes.time_us),
                    "events": self.stored_events,
                    "state_changes": self.stored_changes,
                    "bytes": all,
                    "families": families,
                    "bytes_per_event": ratio_json(all, self.stored_events),
                    "state_bytes_per_event": ratio_json(state, self.stored_events),
                    "state_bytes_per_change": ratio_json(state, self.stored_changes),
                });
            }
        }
        value
    }

    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "\n{}", terminal::bold("space"))?;
        if !self.saw_output {
            return line(
                out,
                "PATH holds no output topic, which is where events are counted",
            );
        }
        let counted = format!(
            "{} accepted events, {} state changes",
            self.events, self.state_changes
        );
        line(out, &counted)?;
        for (topic, bytes) in &self.files {
            let text = format!(
                "{} of {topic} per event ({} of files, filled ahead)",
                ratio(*bytes, self.events),
                terminal::bytes(*bytes)
            );
            line(out, &text)?;
        }
        let sizes = match &self.sizes {
            Err(why) => return line(out, &terminal::warn(&format!("sizes of the store: {why}"))),
            Ok(sizes) => sizes,
        };
        let (all, state) = Space::stored(sizes);
        let text = format!(
            "{} of state per state change, {} per event ({})",
            ratio(state, self.stored_changes),
            ratio(state, self.stored_events),
            terminal::bytes(state)
        );
        line(out, &text)?;
        let text = format!(
            "{} of store per event ({}, of {} events, as of {})",
            ratio(all, self.stored_events),
            terminal::bytes(all),
            self.stored_events,
            time::show(sizes.time_us)
        );
        line(out, &text)?;
        for (name, family) in &sizes.families {
            let label = terminal::name(&format!("{name:12}"));
            let bytes = terminal::bytes(family.file_bytes);
            let bar = terminal::bar(family.file_bytes, all, 40);
            line(out, &format!("  {label} {bytes:>10}  {bar}"))?;
        }
        Ok(())
    }
}

fn line(out: &mut dyn Write, text: &str) -> io::Result<()> {
    writeln!(out, "  {text}")
}

/// Accepted events and changed entries of current state in a record.
fn counts(envelope: &Envelope<'_>) -> (u64, u64) {
    match envelope.kind {
        Kind::OutputRoomEvent => match codec::decode::<OutputRoomEvent>(envelope.body) {
            Ok(body) => {
                let accepted = body.decision == Decision::Accepted;
                (u64::from(accepted), body.state_delta.len() as u64)
            }
            Err(_) => (0, 0),
        },
        Kind::OutputRoomState => match codec::decode::<OutputRoomState>(envelope.body) {
            Ok(body) => (0, body.state_delta.len() as u64),
            Err(_) => (0, 0),
        },
        _ => (0, 0),
    }
}

fn ratio(bytes: u64, count: u64) -> String {
    match count {
        0 => "- bytes".to_owned(),
        _ => format!("{:.1} bytes", bytes as f64 / count as f64),
    }
}

/// With one decimal; null where nothing was counted.
fn ratio_json(bytes: u64, count: u64) -> Value {
    match count {
        0 => Value::Null,
        _ => json!((bytes as f64 / count as f64 * 10.0).round() / 10.0),
    }
}

/// The data folder is three above a partition: `log/output/p0000`.
fn space_file(partition: &Partition) -> Option<PathBuf> {
    let data = partition.dir.ancestors().nth(3)?;
    Some(data.join(FILE_NAME))
}

fn sizes(partition: Option<&Partition>) -> Result<StoreSizes, String> {
    let Some(path) = partition.and_then(space_file) else {
        return Err("PATH lies in no data folder".to_owned());
    };
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| format!("{} cannot be read: {error}", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(format!(
            "{} is not there; a server writes it when it flushes its store",
            path.display()
        )),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn segment_bytes(dir: &Path) -> Result<u64, ToolError> {
    let failed = |source| ToolError::Io {
        path: dir.to_owned(),
        source,
    };
    let mut bytes = 0;
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if name.to_str().and_then(segment::parse_file_name).is_some() {
            bytes += entry.metadata().map_err(failed)?.len();
        }
    }
    Ok(bytes)
}
