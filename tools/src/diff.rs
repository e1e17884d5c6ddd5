//! `diff`: what changed in a room's current state between two moments.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use log_format::StoredRecord;
use log_format::record::output::Membership;
use serde_json::{Value, json};

use crate::error::{Status, ToolError};
use crate::moment::Moment;
use crate::room::RoomLog;
use crate::room::fold::{Entry, Key, KeyChange, Last, RoomFold};
use crate::state::cause;
use crate::{record, terminal, time};

/// Prints the changes by key, or one JSON object.
pub fn run(
    path: &Path,
    room_id: &str,
    from: &Moment,
    to: &Moment,
    json: bool,
) -> Result<Status, ToolError> {
    let log = RoomLog::open(path, room_id)?;
    let first = from.below(&log.partition, &log.reader, log.end)?;
    let second = to.below(&log.partition, &log.reader, log.end)?;
    if first > second {
        return Err(ToolError::Moments);
    }
    let mut fold = RoomFold::default();
    fold.fold_below(&log, first)?;
    let begun = fold.last;
    fold.note_changes();
    fold.fold_below(&log, second)?;
    if fold.last.is_none() {
        return Err(ToolError::NoRoom(room_id.to_owned()));
    }
    let changes = fold.changes();
    let mut out = BufWriter::new(io::stdout().lock());
    if json {
        write!(
            out,
            "{{\"room_id\":{},\"from\":{},\"to\":{},\"changes\":[",
            json!(room_id),
            moment_json(begun),
            moment_json(fold.last)
        )?;
    } else {
        print_head(&mut out, &log, begun, fold.last, changes.len())?;
    }
    for (number, (key, change)) in changes.iter().enumerate() {
        let told = Told::of(&log, key, change, fold.state.get(key))?;
        match (json, number) {
            (false, _) => told.print(&mut out)?,
            (true, 0) => write!(out, "{}", told.to_json())?,
            (true, _) => write!(out, ",{}", told.to_json())?,
        }
    }
    if json {
        writeln!(out, "]}}")?;
    }
    out.flush()?;
    Ok(log.warn_of_doubt(&fold))
}

fn moment_json(last: Option<Last>) -> Value {
    last.map_or(Value::Null, |last| {
        json!({
            "output_offset": last.output_offset,
            "input_offset": last.input_offset,
            "time": time::show(last.time_us),
        })
    })
}

fn print_head(
    out: &mut dyn Write,
    log: &RoomLog,
    from: Option<Last>,
    to: Option<Last>,
    changes: usize,
) -> io::Result<()> {
    let shown = |last: Option<Last>| {
        last.map_or_else(
            || "before the room".to_owned(),
            |last| format!("offset {} {}", last.output_offset, time::show(last.time_us)),
        )
    };
    let entries = if changes == 1 { "entry" } else { "entries" };
    writeln!(
        out,
        "{}  {} -> {}  {changes} {entries} changed",
        terminal::bold(&record::printable(&log.room_id)),
        shown(from),
        shown(to)
    )
}

/// A change with the decision that made it last.
struct Told<'a> {
    key: &'a Key,
    change: &'a KeyChange,
    now: Option<&'a Entry>,
    decision: StoredRecord,
}

impl<'a> Told<'a> {
    fn of(
        log: &RoomLog,
        key: &'a Key,
        change: &'a KeyChange,
        now: Option<&'a Entry>,
    ) -> Result<Told<'a>, ToolError> {
        Ok(Told {
            key,
            change,
            now,
            decision: log.reader.read_one(change.last)?,
        })
    }

    /// Event and sender of the decision.
    fn by(&self) -> (Option<String>, Option<String>) {
        let envelope = self.decision.envelope().ok();
        let text = |text: Option<&str>| text.map(str::to_owned);
        envelope.map_or((None, None), |envelope| {
            (text(envelope.event_id), text(envelope.sender))
        })
    }

    fn to_json(&self) -> Value {
        let id = |entry: Option<&Entry>| entry.map(|entry| entry.event_id.clone());
        let (event_id, sender) = self.by();
        let mut value = json!({
            "type": self.key.0,
            "state_key": self.key.1,
            "from": id(self.change.before.as_ref()),
            "to": id(self.now),
            "cause": cause(self.change.cause),
            "by_event": event_id,
            "by": sender,
            "time": time::show(self.decision.time_us),
            "output_offset": self.change.last,
            "times": self.change.times,
        });
        if let Some((before, now)) = self.membership() {
            value["membership"] = json!({ "from": before, "to": now });
        }
        value
    }

    /// The membership before and now, of member events.
    fn membership(&self) -> Option<(Option<&'static str>, Option<&'static str>)> {
        let word = |entry: Option<&Entry>| entry?.membership.map(Membership::as_str);
        let (before, now) = (word(self.change.before.as_ref()), word(self.now));
        (before.is_some() || now.is_some()).then_some((before, now))
    }

    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let sign = match (&self.change.before, self.now) {
            (None, _) => terminal::good("+"),
            (_, None) => terminal::bad("-"),
            _ => terminal::warn("~"),
        };
        write!(
            out,
            "{sign} {} {}",
            terminal::name(&record::printable(&self.key.0)),
            record::printable(&self.key.1)
        )?;
        if let Some((before, now)) = self.membership() {
            let words = format!("{} -> {}", before.unwrap_or("-"), now.unwrap_or("-"));
            write!(out, "  {}", terminal::bold(&words))?;
        }
        let shown = |entry: Option<&Entry>| {
            entry.map_or_else(
                || "nothing".to_owned(),
                |entry| record::printable(&entry.event_id),
            )
        };
        writeln!(
            out,
            "\n    {} -> {}",
            shown(self.change.before.as_ref()),
            shown(self.now)
        )?;
        let (event_id, sender) = self.by();
        let or_dash = |text: Option<String>| record::printable(text.as_deref().unwrap_or("-"));
        let why = format!(
            "{} {} of {} at {}, offset {}",
            cause(self.change.cause),
            or_dash(event_id),
            or_dash(sender),
            time::show(self.decision.time_us),
            self.change.last
        );
        let times = match self.change.times {
            1 => String::new(),
            times => format!(", the last of {times} changes"),
        };
        writeln!(out, "    {}", terminal::dim(&format!("{why}{times}")))
    }
}
