//! `info`: what is there, and in what state.

use std::io::{self, Write};
use std::path::Path;

use log_format::file_system::RealFileSystem;
use log_format::recovery::{self, Examination, Verdict};
use serde_json::{Value, json};

use crate::error::{Status, ToolError};
use crate::open::{Partition, partitions};
use crate::record::hex;
use crate::{terminal, time};

/// Prints one block per partition; ends with the worst state's code.
pub fn run(path: &Path, json: bool) -> Result<Status, ToolError> {
    let mut out = io::stdout().lock();
    let mut worst = Status::Clean;
    for partition in partitions(path)? {
        let found = examine(&partition)?;
        let status = status_of(&found.verdict, partition.is_live());
        worst = worst.max(status);
        if json {
            writeln!(out, "{}", to_json(&partition, &found, status)?)?;
        } else {
            print(&mut out, &partition, &found, status)?;
        }
    }
    Ok(worst)
}

/// Looks at a partition as recovery would, without its witnesses from RocksDB.
pub fn examine(partition: &Partition) -> Result<Examination, ToolError> {
    recovery::examine(&RealFileSystem, &partition.dir, None).map_err(|source| ToolError::Io {
        path: partition.dir.clone(),
        source,
    })
}

/// The exit code of a verdict. Beside a live writer a torn tail is a batch that
/// is just being written.
pub fn status_of(verdict: &Verdict, live: bool) -> Status {
    match verdict {
        Verdict::Clean => Status::Clean,
        Verdict::Torn { .. } if live => Status::Clean,
        Verdict::Torn { .. } => Status::Torn,
        Verdict::Corrupt(_) => Status::Corrupt,
        Verdict::Refused { .. } => Status::Refused,
    }
}

/// A verdict in words.
pub fn describe(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Clean => "clean".to_owned(),
        Verdict::Torn {
            segment,
            position,
            cut_bytes,
            fault,
        } => format!(
            "torn: {cut_bytes} bytes behind byte {position} of {} were never acknowledged ({fault}); the next start keeps them aside",
            segment.display()
        ),
        Verdict::Corrupt(evidence) => format!("corrupt: {evidence}"),
        Verdict::Refused { path, why } => format!("refused: {}: {why}", path.display()),
    }
}

fn coloured(status: Status, text: &str) -> String {
    match status {
        Status::Clean => terminal::good(text),
        Status::Torn => terminal::warn(text),
        _ => terminal::bad(text),
    }
}

fn print(
    out: &mut dyn Write,
    partition: &Partition,
    found: &Examination,
    status: Status,
) -> Result<(), ToolError> {
    let root = partition.root()?;
    let live = if partition.is_live() {
        "  open by a server"
    } else {
        ""
    };
    writeln!(out, "{}{live}", terminal::bold(&partition.label()))?;
    if let Some(root) = &root {
        writeln!(
            out,
            "  log id      {}  partitions {}  epoch {}",
            root.log_id, root.partitions, root.epoch
        )?;
    }
    let bytes: u64 = found.segments.iter().map(|segment| segment.bytes).sum();
    writeln!(
        out,
        "  records     {} (offsets {} to {}, synced to {})",
        found.end - found.begin,
        found.begin,
        found.end,
        found.synced_end
    )?;
    writeln!(
        out,
        "  files       {} segments, {}, {} checkpoints",
        found.segments.len(),
        terminal::bytes(bytes),
        found.checkpoints.len()
    )?;
    if found.end > found.begin {
        writeln!(out, "  last record {}", time::show(found.time_us))?;
    }
    writeln!(out, "  link        {}", hex(&found.link))?;
    writeln!(
        out,
        "  state       {}",
        coloured(status, &describe(&found.verdict))
    )?;
    for segment in &found.segments {
        let name = segment
            .path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let state = if segment.seal.is_some() {
            "sealed"
        } else {
            "active"
        };
        let end = segment
            .seal
            .as_ref()
            .map_or(found.end, |(seal, _)| seal.end);
        writeln!(
            out,
            "    {}  {state}  {:>8} records  {:>10}",
            terminal::name(&name),
            end - segment.header.base,
            terminal::bytes(segment.bytes)
        )?;
    }
    Ok(())
}

fn to_json(partition: &Partition, found: &Examination, status: Status) -> Result<Value, ToolError> {
    let root = partition.root()?;
    let segments: Vec<Value> = found
        .segments
        .iter()
        .map(|segment| {
            json!({
                "file": segment.path.file_name().map(|name| name.to_string_lossy()),
                "base": segment.header.base,
                "end": segment.seal.as_ref().map_or(found.end, |(seal, _)| seal.end),
                "bytes": segment.bytes,
                "sealed": segment.seal.is_some(),
            })
        })
        .collect();
    Ok(json!({
        "topic": partition.topic.map(|topic| topic.name()),
        "partition": partition.number,
        "log_id": root.as_ref().map(|root| root.log_id.to_string()),
        "epoch": root.as_ref().map(|root| root.epoch),
        "begin": found.begin,
        "end": found.end,
        "synced": found.synced_end,
        "link": hex(&found.link),
        "checkpoints": found.checkpoints.len(),
        "live": partition.is_live(),
        "status": status as u8,
        "state": describe(&found.verdict),
        "segments": segments,
    }))
}
