//! `state`: a room's current state as of any moment.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use log_format::record::output::StateChangeCause;
use serde_json::{Value, json};

use crate::error::{Status, ToolError};
use crate::moment::Moment;
use crate::room::RoomLog;
use crate::room::contents::{Body, Contents, Told};
use crate::room::fold::{Entry, Key, Last, MEMBER, RoomFold};
use crate::room::summary::{NAMED_MAX, Summary, words};
use crate::{record, terminal, time};

/// Characters of content that a line of the table shows.
const CONTENT_CHARS: usize = 80;
/// Extremities that are listed for people.
const EXTREMITIES_MAX: usize = 20;

/// Prints the state: a summary and a table, or one JSON object.
pub fn run(
    path: &Path,
    room_id: &str,
    at: &Moment,
    event_type: Option<&str>,
    json: bool,
) -> Result<Status, ToolError> {
    let log = RoomLog::open(path, room_id)?;
    let below = at.below(&log.partition, &log.reader, log.end)?;
    let mut fold = RoomFold::default();
    fold.fold_below(&log, below)?;
    let Some(last) = fold.last else {
        return Err(ToolError::NoRoom(room_id.to_owned()));
    };
    let contents = Contents::find(&log, &fold)?;
    let view = View {
        log: &log,
        fold: &fold,
        last,
        summary: Summary::of(&fold, &contents)?,
        contents: &contents,
        event_type,
    };
    let mut out = BufWriter::new(io::stdout().lock());
    if json {
        view.write_json(&mut out)?;
    } else {
        view.print(&mut out)?;
    }
    out.flush()?;
    Ok(log.warn_of_doubt(&fold))
}

struct View<'a> {
    log: &'a RoomLog,
    fold: &'a RoomFold,
    last: Last,
    summary: Summary,
    contents: &'a Contents<'a>,
    event_type: Option<&'a str>,
}

impl View<'_> {
    fn entries(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        let wanted = self.event_type;
        let all = self.fold.state.iter();
        all.filter(move |(key, _)| wanted.is_none_or(|wanted| &*key.0 == wanted))
    }

    /// Writes entry by entry, so that a large room is never in memory as JSON.
    fn write_json(&self, out: &mut dyn Write) -> Result<(), ToolError> {
        let mut head = self.summary.to_json();
        head["room_id"] = json!(self.log.room_id);
        head["extremities"] = json!(self.fold.extremities);
        head["at"] = json!({
            "partition": self.log.partition.number,
            "output_offset": self.last.output_offset,
            "input_offset": self.last.input_offset,
            "time": time::show(self.last.time_us),
        });
        head["purged_at"] = json!(self.fold.purged_at);
        head["misfits"] = json!(self.fold.misfits);
        let head = head.to_string();
        // The object stays open for the entries.
        out.write_all(head.strip_suffix('}').unwrap_or(&head).as_bytes())?;
        out.write_all(b",\"state\":[")?;
        for (number, (key, entry)) in self.entries().enumerate() {
            if number > 0 {
                out.write_all(b",")?;
            }
            let told = self.contents.of(entry)?;
            write!(out, "{}", entry_json(key, entry, &told))?;
        }
        writeln!(out, "]}}")?;
        Ok(())
    }

    fn print(&self, out: &mut dyn Write) -> Result<(), ToolError> {
        if self.event_type.is_none() {
            self.print_summary(out)?;
            writeln!(out)?;
        }
        let members: u64 = self.summary.members.values().map(|some| some.count).sum();
        // A crowd is told by the summary; who wants it all names the type.
        let is_crowd = self.event_type.is_none() && members > NAMED_MAX as u64;
        for (key, entry) in self.entries() {
            if !(is_crowd && &*key.0 == MEMBER) {
                self.print_entry(out, key, entry)?;
            }
        }
        if is_crowd {
            let text = format!("and {members} of {MEMBER}: --type {MEMBER} lists them");
            writeln!(out, "{}", terminal::dim(&text))?;
        }
        Ok(())
    }

    fn print_summary(&self, out: &mut dyn Write) -> io::Result<()> {
        let summary = &self.summary;
        let or_dash = |text: &Option<String>| {
            text.as_deref()
                .map_or_else(|| "-".to_owned(), record::printable)
        };
        writeln!(
            out,
            "{}  version {}  created by {}",
            terminal::bold(&record::printable(&self.log.room_id)),
            or_dash(&summary.room_version),
            or_dash(&summary.creator),
        )?;
        let at = format!(
            "{} offset {} (input {})  {}",
            self.log.partition.label(),
            self.last.output_offset,
            self.last.input_offset,
            time::show(self.last.time_us)
        );
        field(out, "as of", &at)?;
        if let Some(offset) = self.fold.purged_at {
            let text = format!("by the operator, at offset {offset}: the log alone knows it");
            field(out, "purged", &text)?;
            return Ok(());
        }
        field(out, "extremities", &extremities(&self.fold.extremities))?;
        self.print_members(out)?;
        match &summary.power_levels {
            Some(levels) => print_levels(out, &summary.unlimited, levels)?,
            None => field(out, "power", "not set")?,
        }
        field(out, "join rule", &set_or(&summary.join_rule, "invite"))?;
        let visibility = set_or(&summary.history_visibility, "shared");
        field(out, "visibility", &visibility)?;
        for (label, text) in [("name", &summary.name), ("topic", &summary.topic)] {
            if let Some(text) = text {
                field(out, label, &record::printable(text))?;
            }
        }
        Ok(())
    }

    fn print_members(&self, out: &mut dyn Write) -> io::Result<()> {
        for word in words() {
            let Some(members) = self.summary.members.get(word) else {
                continue;
            };
            let names: Vec<String> = members
                .first
                .iter()
                .map(|name| record::printable(name))
                .collect();
            let more = members.count - members.first.len() as u64;
            let more = match more {
                0 => String::new(),
                more => terminal::dim(&format!(" and {more} more")),
            };
            let text = format!("{}  {}{more}", members.count, names.join(" "));
            field(out, &format!("members {word}"), &text)?;
        }
        Ok(())
    }

    fn print_entry(&self, out: &mut dyn Write, key: &Key, entry: &Entry) -> Result<(), ToolError> {
        let told = self.contents.of(entry)?;
        write!(
            out,
            "{} {}",
            terminal::name(&record::printable(&key.0)),
            record::printable(&key.1)
        )?;
        if let Some(membership) = entry.membership {
            write!(out, " {}", terminal::bold(membership.as_str()))?;
        }
        if entry.cause == StateChangeCause::Resolution {
            write!(out, " {}", terminal::warn("by resolution"))?;
        }
        writeln!(
            out,
            "  {}",
            terminal::dim(&format!("since offset {}", entry.since))
        )?;
        let sender = told.sender.as_deref().unwrap_or("-");
        write!(
            out,
            "    {} by {}  ",
            record::printable(&entry.event_id),
            record::printable(sender)
        )?;
        match &told.body {
            Body::Whole => {}
            Body::Redacted(by) => {
                let text = format!("redacted by {}: ", record::printable(by));
                write!(out, "{}", terminal::warn(&text))?;
            }
            other => write!(out, "{}", terminal::warn(&format!("{}: ", other.name())))?,
        }
        writeln!(out, "{}", shortened(&told.content))?;
        Ok(())
    }
}

fn field(out: &mut dyn Write, label: &str, text: &str) -> io::Result<()> {
    writeln!(out, "  {} {text}", terminal::name(&format!("{label:14}")))
}

fn set_or(value: &Option<String>, default: &str) -> String {
    match value {
        Some(value) => record::printable(value),
        None => format!("{default} {}", terminal::dim("(not set)")),
    }
}

fn extremities(all: &[String]) -> String {
    let shown: Vec<String> = all
        .iter()
        .take(EXTREMITIES_MAX)
        .map(|event_id| record::printable(event_id))
        .collect();
    let more = match all.len().saturating_sub(EXTREMITIES_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}  {}{more}", all.len(), shown.join(" "))
}

/// Users by falling power, then what needs how much.
fn print_levels(out: &mut dyn Write, unlimited: &[String], levels: &Value) -> io::Result<()> {
    let users = levels["users"].as_object();
    let mut users: Vec<(&String, &Value)> = users.into_iter().flatten().collect();
    users.sort_by_key(|(name, level)| {
        (
            std::cmp::Reverse(level.as_i64().unwrap_or(0)),
            name.as_str(),
        )
    });
    let above_all = unlimited
        .iter()
        .map(|name| format!("{} above all", record::printable(name)));
    let named = users.iter().take(NAMED_MAX);
    let named = named.map(|(name, level)| format!("{} {level}", record::printable(name)));
    let named: Vec<String> = above_all.chain(named).collect();
    let more = match users.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    field(out, "power", &format!("{}{more}", named.join("  ")))?;
    let needs: Vec<String> = levels
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, level)| level.is_number() || level.is_string())
        .map(|(name, level)| format!("{} {level}", record::printable(name)))
        .collect();
    field(out, "power needed", &needs.join("  "))
}

/// Content as one line that ends.
fn shortened(content: &Value) -> String {
    let text = record::printable(&content.to_string());
    match text.char_indices().nth(CONTENT_CHARS) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

fn entry_json(key: &Key, entry: &Entry, told: &Told) -> Value {
    let mut value = json!({
        "type": key.0,
        "state_key": key.1,
        "event_id": entry.event_id,
        "sender": told.sender,
        "origin_server_ts": told.origin_ts_ms,
        "since": entry.since,
        "cause": cause(entry.cause),
        "body": told.body.name(),
        "content": told.content,
    });
    if let Some(membership) = entry.membership {
        value["membership"] = json!(membership.as_str());
    }
    if let Body::Redacted(by) = &told.body {
        value["redacted_by"] = json!(by);
    }
    value
}

/// The cause of a change as the tools write it.
pub fn cause(cause: StateChangeCause) -> &'static str {
    match cause {
        StateChangeCause::Event => "event",
        StateChangeCause::Resolution => "resolution",
    }
}
