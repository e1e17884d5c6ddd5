//! `stats`: how many records of what, where, and how large.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};

use crate::error::{Status, ToolError};
use crate::open::{for_each, partitions};
use crate::space::Space;
use crate::{record, terminal, time};

/// Rooms that are counted one by one; records of further rooms are counted together.
const ROOMS_MAX: usize = 100_000;
const BAR_WIDTH: usize = 40;

#[derive(Clone, Copy, Default)]
struct Count {
    records: u64,
    bytes: u64,
}

impl Count {
    fn add(&mut self, bytes: u64) {
        self.records += 1;
        self.bytes += bytes;
    }

    fn to_json(self) -> Value {
        json!({ "records": self.records, "bytes": self.bytes })
    }
}

#[derive(Default)]
struct Stats {
    all: Count,
    kinds: BTreeMap<String, Count>,
    days: BTreeMap<String, Count>,
    rooms: HashMap<String, Count>,
    /// Records of rooms beyond `ROOMS_MAX`.
    other_rooms: Count,
    /// Records with an event, by topic: bytes per event of each.
    events: BTreeMap<&'static str, Count>,
}

/// Prints the counts of everything that PATH names.
pub fn run(path: &Path, rooms: usize, json: bool) -> Result<Status, ToolError> {
    let mut stats = Stats::default();
    let partitions = partitions(path)?;
    let mut space = Space::beside(&partitions)?;
    for partition in &partitions {
        let (reader, end) = partition.open()?;
        let (from, below) = partition.offsets(&reader, end, &crate::cli::Range::default())?;
        let topic = partition.topic.map_or("?", |topic| topic.name());
        for_each(&reader, from, below, |found| {
            stats.add(topic, &found);
            if let Ok(envelope) = found.envelope() {
                space.add(partition.number, &found, &envelope);
            }
            Ok(true)
        })?;
    }
    let mut out = io::stdout().lock();
    if json {
        let mut value = stats.to_json(rooms);
        value["space"] = space.to_json();
        writeln!(out, "{value}")?;
    } else {
        stats.print(&mut out, rooms)?;
        space.print(&mut out)?;
    }
    Ok(Status::Clean)
}

impl Stats {
    fn add(&mut self, topic: &'static str, found: &log_format::StoredRecord) {
        let bytes = found.payload.len() as u64;
        self.all.add(bytes);
        self.days
            .entry(time::day(found.time_us))
            .or_default()
            .add(bytes);
        let Ok(envelope) = found.envelope() else {
            self.kinds
                .entry(format!("kind {:#06x}", found.kind_number))
                .or_default()
                .add(bytes);
            return;
        };
        match self.kinds.get_mut(envelope.kind.name()) {
            Some(count) => count.add(bytes),
            None => self
                .kinds
                .entry(envelope.kind.name().to_owned())
                .or_default()
                .add(bytes),
        }
        if envelope.event_id.is_some() {
            self.events.entry(topic).or_default().add(bytes);
        }
        let Some(room) = envelope.room_id else { return };
        let room_is_counted = self.rooms.contains_key(room);
        if !room_is_counted && self.rooms.len() < ROOMS_MAX {
            self.rooms.insert(room.to_owned(), Count::default());
        }
        self.rooms
            .get_mut(room)
            .unwrap_or(&mut self.other_rooms)
            .add(bytes);
    }

    /// The busiest rooms, first by records, then by name.
    fn busiest(&self, count: usize) -> Vec<(&str, Count)> {
        let mut rooms: Vec<(&str, Count)> = self
            .rooms
            .iter()
            .map(|(room, count)| (room.as_str(), *count))
            .collect();
        rooms.sort_by(|a, b| b.1.records.cmp(&a.1.records).then(a.0.cmp(b.0)));
        rooms.truncate(count);
        rooms
    }

    fn to_json(&self, rooms: usize) -> Value {
        let table = |counts: &BTreeMap<String, Count>| -> Value {
            counts
                .iter()
                .map(|(name, count)| (name.clone(), count.to_json()))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        let busiest: Vec<Value> = self
            .busiest(rooms)
            .into_iter()
            .map(|(room, count)| json!({ "room_id": room, "records": count.records, "bytes": count.bytes }))
            .collect();
        let events: serde_json::Map<String, Value> = self
            .events
            .iter()
            .map(|(topic, count)| {
                (
                    (*topic).to_owned(),
                    json!(count.bytes / count.records.max(1)),
                )
            })
            .collect();
        json!({
            "all": self.all.to_json(),
            "kinds": table(&self.kinds),
            "days": table(&self.days),
            "rooms": busiest,
            "rooms_counted": self.rooms.len(),
            "records_of_other_rooms": self.other_rooms.records,
            "payload_bytes_per_event": events,
        })
    }

    fn print(&self, out: &mut dyn Write, rooms: usize) -> io::Result<()> {
        writeln!(
            out,
            "{} records, {} of payload",
            self.all.records,
            terminal::bytes(self.all.bytes)
        )?;
        for (topic, count) in &self.events {
            let per_event = count.bytes / count.records.max(1);
            writeln!(
                out,
                "{per_event} bytes of payload per event in {topic} ({} events)",
                count.records
            )?;
        }
        chart(
            out,
            "kind",
            self.kinds
                .iter()
                .map(|(name, count)| (name.as_str(), *count)),
        )?;
        chart(
            out,
            "day",
            self.days
                .iter()
                .map(|(name, count)| (name.as_str(), *count)),
        )?;
        let busiest = self.busiest(rooms);
        let title = format!("room ({} of {})", busiest.len(), self.rooms.len());
        chart(out, &title, busiest.into_iter())?;
        if self.other_rooms.records > 0 {
            writeln!(
                out,
                "  and {} records of rooms beyond the first {ROOMS_MAX}",
                self.other_rooms.records
            )?;
        }
        Ok(())
    }
}

fn chart<'a>(
    out: &mut dyn Write,
    title: &str,
    rows: impl Iterator<Item = (&'a str, Count)> + Clone,
) -> io::Result<()> {
    let most = rows
        .clone()
        .map(|(_, count)| count.records)
        .max()
        .unwrap_or(0);
    let width = rows
        .clone()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    writeln!(out, "\n{}", terminal::bold(title))?;
    for (name, count) in rows {
        let label = format!("{:width$}", record::printable(name));
        writeln!(
            out,
            "  {} {:>10} {:>10}  {}",
            terminal::name(&label),
            count.records,
            terminal::bytes(count.bytes),
            terminal::bar(count.records, most, BAR_WIDTH),
        )?;
    }
    Ok(())
}
