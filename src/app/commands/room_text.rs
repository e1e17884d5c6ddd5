//! Rooms as text for people: coloured on a terminal, plain elsewhere.

use std::fmt::Write as _;

use console::style;

use crate::app::rooms::{MembersReport, PowerReport, RoomLine, RoomReport};

/// Memberships in the order in which people ask for them.
const WORDS: [&str; 5] = ["join", "invite", "knock", "leave", "ban"];
/// Longest name in a table.
const NAME_CHARS: usize = 40;

/// Lines of one room. `now_ms` tells how old its extremities are.
pub fn room(report: &RoomReport, now_ms: u64) -> String {
    let mut text = format!(
        "{}  version {}  created by {}\n",
        style(&report.room_id).bold(),
        report.version,
        report.creators.join(" ")
    );
    for (label, value) in [("name", &report.name), ("topic", &report.topic)] {
        if let Some(value) = value {
            field(&mut text, label, &printable(value));
        }
    }
    field(&mut text, "join rule", &printable(&report.join_rule));
    field(&mut text, "visibility", &report.history_visibility);
    for word in WORDS {
        if let Some(members) = report.members.get(word) {
            let label = format!("members {word}");
            field(&mut text, &label, &names(members));
        }
    }
    power(&mut text, &report.power);
    extremities(&mut text, report, now_ms);
    let state = format!("id {}, {} entries", report.state_id, report.state_entries);
    field(&mut text, "current state", &state);
    let per_state = report.state_row_bytes / report.states.max(1);
    let size = format!(
        "{} states in {} of rows, {per_state} bytes each, before compression",
        report.states,
        bytes(report.state_row_bytes)
    );
    field(&mut text, "states", &size);
    let events = format!("{} events", report.timeline_events);
    field(&mut text, "timeline", &events);
    waits(&mut text, report);
    text
}

fn field(text: &mut String, label: &str, value: &str) {
    let label = format!("{label:14}");
    // Writing to a string does not fail.
    let _ = writeln!(text, "  {} {value}", style(label).cyan());
}

fn names(members: &MembersReport) -> String {
    let more = members.count - members.first.len() as u64;
    let more = match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "{} ({} of this server)  {}{more}",
        members.count,
        members.local,
        members.first.join(" ")
    )
}

fn power(text: &mut String, power: &PowerReport) {
    let levels = power.users.iter();
    let levels = levels.map(|(user, level)| format!("{user} {level}"));
    let unlimited = power.unlimited.iter();
    let unlimited = unlimited.map(|user| format!("{user} above all"));
    let users: Vec<String> = unlimited.chain(levels).collect();
    let more = match power.users_count - power.users.len() as u64 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    field(text, "power", &format!("{}{more}", users.join("  ")));
    let levels = power.levels.iter().chain(&power.events);
    let levels: Vec<String> = levels
        .map(|(name, level)| format!("{} {level}", printable(name)))
        .collect();
    field(text, "power needed", &levels.join("  "));
}

fn extremities(text: &mut String, report: &RoomReport, now_ms: u64) {
    let count = report.extremities_count;
    let shown = match count {
        0..=9 => count.to_string(),
        _ => style(count).yellow().to_string(),
    };
    field(text, "extremities", &shown);
    for extremity in &report.extremities {
        let age = match extremity.origin_server_ts {
            Some(at) => age(now_ms.saturating_sub(at)),
            None => "unknown age".to_owned(),
        };
        let _ = writeln!(
            text,
            "    {}  depth {}  {age}  {}",
            extremity.event_id,
            extremity.depth,
            extremity.sender.as_deref().unwrap_or("-")
        );
    }
    let left = count.saturating_sub(report.extremities.len() as u64);
    if left > 0 {
        let _ = writeln!(text, "    and {left} less deep ones");
    }
}

fn waits(text: &mut String, report: &RoomReport) {
    let waits = &report.waits;
    if let Some(offset) = waits.parked_at {
        let why = format!("for work done aside, since input offset {offset}");
        field(text, "waits", &style(why).yellow().to_string());
    }
    if waits.events > 0 {
        let why = format!("{} events for others that are missing", waits.events);
        field(text, "waits", &style(why).yellow().to_string());
    }
    if report.unfolded > 0 {
        let why = format!(
            "{} durable records of the log are not in this answer yet",
            report.unfolded
        );
        field(text, "not folded", &style(why).yellow().to_string());
    }
}

/// A table of rooms.
pub fn rooms(rooms: &[RoomLine], total: u64) -> String {
    let width = rooms
        .iter()
        .map(|room| room.room_id.chars().count())
        .max()
        .unwrap_or(0)
        .max("room".len());
    let head = format!(
        "{:width$}  {:>7}  {:>11}  {:>7}  {:>7}  {:>7}  name",
        "room", "version", "extremities", "joined", "invited", "state"
    );
    let mut text = format!("{}\n", style(head).bold());
    for room in rooms {
        let name = printable(room.name.as_deref().unwrap_or_default());
        let name: String = name.chars().take(NAME_CHARS).collect();
        let line = format!(
            "{:width$}  {:>7}  {:>11}  {:>7}  {:>7}  {:>7}  {name}",
            room.room_id,
            room.version,
            room.extremities,
            room.joined_members,
            room.invited_members,
            room.state_entries,
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let _ = writeln!(text, "{} of {total} rooms", rooms.len());
    text
}

/// Others choose these texts, so control characters must not reach the terminal.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// `3 min ago`, in the largest unit that fits.
pub fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    let units = [(86_400, "days"), (3600, "h"), (60, "min")];
    let unit = units.iter().find(|(length, _)| seconds >= *length);
    match unit {
        Some((length, name)) => format!("{} {name} ago", seconds / length),
        None => format!("{seconds} s ago"),
    }
}

/// `3.2 MiB`.
fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB"] {
        if value < 1024.0 {
            return format!("{value:.1} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_ages_and_names_are_readable() {
        assert_eq!(age(59_999), "59 s ago");
        assert_eq!(age(7_200_000), "2 h ago");
        assert_eq!(age(200_000_000), "2 days ago");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
        assert_eq!(printable("a\u{1b}[31mb"), "a\\u{1b}[31mb");
    }
}
