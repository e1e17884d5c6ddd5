//! `tail`: the last records, and those to come.
//!
//! Following waits for the file system's notifications and never polls. Of
//! *input* only what is synced is shown; *output* is derived and synced lazily,
//! so what of it could still be taken back by a crash is marked by a `~`.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::Path;

use inotify::{Inotify, WatchMask};
use log_format::partition::Topic;
use log_format::read::EndScan;
use log_format::{PartitionReader, StoredRecord};

use crate::error::{Status, ToolError};
use crate::filter::Filter;
use crate::open::{Partition, for_each, partitions};
use crate::record::{self, Style};
use crate::terminal;

struct Followed {
    partition: Partition,
    reader: PartitionReader,
    scan: EndScan,
    next: u64,
}

/// Prints the last `lines` records of each partition, then follows if asked.
pub fn run(
    path: &Path,
    lines: u64,
    follow: bool,
    filter: &Filter,
    json: bool,
) -> Result<Status, ToolError> {
    let style = Style::new(json, false);
    let mut out = io::stdout().lock();
    // Watching begins before the first look, so that nothing falls in between.
    let mut watch = Inotify::init()?;
    let mut followed = Vec::new();
    for partition in partitions(path)? {
        if follow {
            watch.watches().add(
                &partition.dir,
                WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO,
            )?;
        }
        let (reader, end) = partition.open()?;
        for found in last(&reader, end, lines, filter)? {
            record::print(&mut out, &partition, &found, style)?;
        }
        followed.push(Followed {
            partition,
            reader,
            scan: EndScan::default(),
            next: end,
        });
    }
    out.flush()?;
    if !follow {
        return Ok(Status::Clean);
    }
    let mut buffer = [0; 4096];
    loop {
        for one in &mut followed {
            one.print_new(&mut out, filter, style)?;
        }
        out.flush()?;
        watch.read_events_blocking(&mut buffer)?;
    }
}

impl Followed {
    fn print_new(
        &mut self,
        out: &mut dyn Write,
        filter: &Filter,
        style: Style,
    ) -> Result<(), ToolError> {
        let end = self.reader.find_end(&mut self.scan)?;
        // An input log without a server beside it is shown whole: nobody will sync it.
        let input = self.partition.topic == Some(Topic::Input) && self.partition.is_live();
        let below = if input { end.synced } else { end.written };
        let partition = &self.partition;
        for_each(&self.reader, self.next, below, |found| {
            if fits(&found, filter) {
                if found.offset >= end.synced && style == Style::Line {
                    write!(out, "{} ", terminal::warn("~"))?;
                }
                record::print(out, partition, &found, style)?;
            }
            Ok(true)
        })?;
        self.next = self.next.max(below);
        Ok(())
    }
}

fn fits(record: &StoredRecord, filter: &Filter) -> bool {
    record
        .envelope()
        .map_or_else(|_| filter.is_empty(), |envelope| filter.fits(&envelope))
}

/// The last records that fit, oldest first, looking back in growing steps.
fn last(
    reader: &PartitionReader,
    end: u64,
    lines: u64,
    filter: &Filter,
) -> Result<Vec<StoredRecord>, ToolError> {
    let mut below = end;
    let mut step = lines.max(256);
    let mut kept: VecDeque<StoredRecord> = VecDeque::new();
    while below > reader.begin() && (kept.len() as u64) < lines {
        let from = below.saturating_sub(step).max(reader.begin());
        let mut part = VecDeque::new();
        for_each(reader, from, below, |found| {
            if fits(&found, filter) {
                part.push_back(found);
                if part.len() as u64 + kept.len() as u64 > lines {
                    part.pop_front();
                }
            }
            Ok(true)
        })?;
        part.append(&mut kept);
        kept = part;
        below = from;
        step = (step * 4).min(1 << 16);
    }
    Ok(kept.into())
}
