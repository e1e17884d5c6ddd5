//! Which records to show.

use clap::Args;
use log_format::record::{Envelope, Kind};

/// Every option given must fit.
#[derive(Args, Default)]
pub struct Filter {
    /// Room id.
    #[arg(long)]
    room: Option<String>,
    /// User id of the sender.
    #[arg(long)]
    sender: Option<String>,
    /// Event type, for example `m.room.member`.
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Record kind, for example `room_event`; several are alternatives.
    #[arg(long, value_parser = parse_kind)]
    kind: Vec<Kind>,
    /// Event id.
    #[arg(long, value_name = "EVENT_ID")]
    event: Option<String>,
}

fn parse_kind(name: &str) -> Result<Kind, String> {
    Kind::ALL
        .into_iter()
        .find(|kind| kind.name() == name)
        .ok_or_else(|| {
            let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            format!("kinds are {}", names.join(", "))
        })
}

impl Filter {
    /// Whether a record is wanted.
    pub fn fits(&self, record: &Envelope<'_>) -> bool {
        let same = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        same(&self.room, record.room_id)
            && same(&self.sender, record.sender)
            && same(&self.event_type, record.event_type)
            && same(&self.event, record.event_id)
            && (self.kind.is_empty() || self.kind.contains(&record.kind))
    }

    /// Whether every record is wanted, also those that this version cannot read.
    pub fn is_empty(&self) -> bool {
        let Filter {
            room,
            sender,
            event_type,
            kind,
            event,
        } = self;
        [room, sender, event_type, event]
            .into_iter()
            .all(Option::is_none)
            && kind.is_empty()
    }
}
