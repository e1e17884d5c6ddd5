//! One record as a line of a table, as JSON, or field by field.

use std::io::{self, Write};

use log_format::StoredRecord;
use log_format::record::{Envelope, EnvelopeError, Part};
use serde_json::{Map, Value, json};

use crate::open::Partition;
use crate::{body, terminal, time};

/// How records are printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Line,
    Json { bodies: bool },
}

impl Style {
    pub fn new(json: bool, bodies: bool) -> Style {
        if json {
            Style::Json { bodies }
        } else {
            Style::Line
        }
    }
}

/// Prints one record.
pub fn print(
    out: &mut dyn Write,
    partition: &Partition,
    record: &StoredRecord,
    style: Style,
) -> io::Result<()> {
    match (record.envelope(), style) {
        (Ok(envelope), Style::Line) => line(out, partition, record, &envelope),
        (Ok(envelope), Style::Json { bodies }) => {
            writeln!(out, "{}", to_json(partition, record, &envelope, bodies))
        }
        (Err(error), Style::Line) => writeln!(
            out,
            "{} {}",
            place(partition, record),
            terminal::bad(&error.to_string())
        ),
        (Err(error), Style::Json { .. }) => {
            writeln!(out, "{}", unreadable(partition, record, &error))
        }
    }
}

fn place(partition: &Partition, record: &StoredRecord) -> String {
    let place = format!("{}:{:<8}", partition.label(), record.offset);
    format!(
        "{} {}",
        terminal::name(&place),
        terminal::dim(&time::show(record.time_us))
    )
}

fn line(
    out: &mut dyn Write,
    partition: &Partition,
    record: &StoredRecord,
    envelope: &Envelope<'_>,
) -> io::Result<()> {
    write!(
        out,
        "{} {}",
        place(partition, record),
        terminal::bold(envelope.kind.name())
    )?;
    if let Some(decided) = body::decided(envelope) {
        let name = decided.decision.name();
        let shown = match decided.decision {
            log_format::record::output::Decision::Accepted => terminal::good(name),
            log_format::record::output::Decision::Rejected => terminal::bad(name),
            _ => terminal::warn(name),
        };
        write!(out, " {shown}")?;
    }
    if let Some(origin) = body::origin_of(envelope) {
        write!(out, " src={}", origin.src_offset)?;
        if origin.about != origin.src_offset {
            write!(out, " about={}", origin.about)?;
        }
    }
    let fields = [
        ("", envelope.event_type),
        ("state_key=", envelope.state_key),
        ("", envelope.event_id),
        ("room=", envelope.room_id),
        ("sender=", envelope.sender),
        (
            "key=",
            Some(envelope.key)
                .filter(|key| envelope.room_id != Some(*key) && envelope.sender != Some(*key)),
        ),
    ];
    for (label, value) in fields {
        if let Some(value) = value {
            write!(out, " {label}{}", printable(value))?;
        }
    }
    if record.erased {
        write!(out, " {}", terminal::warn("erased"))?;
    }
    writeln!(
        out,
        " {}",
        terminal::dim(&format!("{} B", record.payload.len()))
    )
}

/// Others choose these strings, so control characters must not reach the terminal.
pub fn printable(text: &str) -> String {
    if text.is_empty() {
        return "\"\"".to_owned();
    }
    text.chars()
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect()
            } else {
                vec![c]
            }
        })
        .collect()
}

fn unreadable(partition: &Partition, record: &StoredRecord, error: &EnvelopeError) -> Value {
    json!({
        "topic": partition.topic.map(|topic| topic.name()),
        "partition": partition.number,
        "offset": record.offset,
        "time": time::show(record.time_us),
        "kind": record.kind_number,
        "error": error.to_string(),
    })
}

/// All fields of a record.
pub fn to_json(
    partition: &Partition,
    record: &StoredRecord,
    envelope: &Envelope<'_>,
    bodies: bool,
) -> Value {
    let mut value = json!({
        "topic": partition.topic.map(|topic| topic.name()),
        "partition": partition.number,
        "offset": record.offset,
        "time": time::show(record.time_us),
        "time_us": record.time_us,
        "kind": envelope.kind.name(),
        "source": envelope.source.name(),
        "flags": envelope.flags,
        "received_us": envelope.received_us,
        "origin_ts_ms": envelope.origin_ts_ms,
        "key": envelope.key,
        "bytes": record.payload.len(),
        "digest": hex(&record.digest),
        "erased": record.erased,
    });
    let optional = [
        ("room_id", envelope.room_id),
        ("event_id", envelope.event_id),
        ("sender", envelope.sender),
        ("type", envelope.event_type),
        ("state_key", envelope.state_key),
        ("room_version", envelope.room_version),
        ("origin", envelope.origin),
        ("trace_id", envelope.trace_id),
    ];
    for (name, field) in optional {
        if let Some(field) = field {
            value[name] = json!(field);
        }
    }
    if envelope.idempotency != [0; 16] {
        value["idempotency"] = json!(hex(&envelope.idempotency));
    }
    value["body"] =
        body::json(envelope).unwrap_or_else(|error| json!({ "error": error.to_string() }));
    if bodies {
        let parts = [
            ("auth_extract", &envelope.auth_extract),
            ("skeleton", &envelope.skeleton),
            ("event", &envelope.body_part),
        ];
        for (name, part) in parts {
            value[name] = part_json(part);
        }
    }
    value
}

fn part_json(part: &Part<'_>) -> Value {
    match part {
        Part::Absent => Value::Null,
        Part::Erased(digest) => json!({ "erased": hex(digest) }),
        Part::Present(bytes) => {
            serde_json::from_slice(bytes).unwrap_or_else(|_| json!({ "hex": hex(bytes) }))
        }
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Prints JSON as an indented list of fields, for people.
pub fn print_fields(
    out: &mut dyn Write,
    value: &Map<String, Value>,
    indent: usize,
) -> io::Result<()> {
    for (name, field) in value {
        let label = terminal::name(&format!("{:indent$}{name}", ""));
        match field {
            Value::Null => {}
            Value::Object(fields) if !fields.is_empty() => {
                writeln!(out, "{label}")?;
                print_fields(out, fields, indent + 2)?;
            }
            Value::String(text) => writeln!(out, "{label}  {}", printable(text))?,
            other => writeln!(out, "{label}  {other}")?,
        }
    }
    Ok(())
}
