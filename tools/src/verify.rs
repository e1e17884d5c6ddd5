//! `verify`: does every byte check out?
//!
//! Offline, the tool knows fewer witnesses than the server does: it has no
//! RocksDB to ask how far the log must reach, and says so.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use ed25519_dalek::VerifyingKey;
use indicatif::{ProgressBar, ProgressStyle};
use log_format::checkpoint::KEYS_FILE_NAME;
use log_format::file_system::RealFileSystem;
use log_format::recovery::Verdict;
use log_format::verify as format_verify;
use serde_json::json;

use crate::error::{Status, ToolError};
use crate::open::{Partition, partitions};
use crate::{info, terminal};

/// How deep to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(format_verify::Level);

impl Level {
    /// The deepest level that was asked for; all of it without a flag.
    pub fn chosen(crc: bool, chain: bool, signatures: bool) -> Level {
        Level(match (crc, chain, signatures) {
            (_, _, true) | (false, false, false) => format_verify::Level::Signatures,
            (_, true, false) => format_verify::Level::Chain,
            (true, false, false) => format_verify::Level::Crc,
        })
    }

    fn name(self) -> &'static str {
        match self.0 {
            format_verify::Level::Crc => "crc",
            format_verify::Level::Chain => "chain",
            format_verify::Level::Signatures => "signatures",
        }
    }
}

/// Checks every partition that PATH names; ends with the worst state's code.
pub fn run(path: &Path, level: Level, keys: &[String], json: bool) -> Result<Status, ToolError> {
    let trusted: Vec<VerifyingKey> = keys
        .iter()
        .map(|hex| parse_key(hex))
        .collect::<Result<_, _>>()?;
    let mut out = io::stdout().lock();
    let mut worst = Status::Clean;
    for partition in partitions(path)? {
        let keys = if trusted.is_empty() {
            keys_beside(&partition)?
        } else {
            trusted.clone()
        };
        worst = worst.max(verify(&mut out, &partition, level, &keys, json)?);
    }
    if !json {
        writeln!(
            out,
            "{}",
            terminal::dim(
                "offline the log alone is checked: how far it must reach, only the server's store knows"
            )
        )?;
    }
    Ok(worst)
}

fn verify(
    out: &mut dyn Write,
    partition: &Partition,
    level: Level,
    keys: &[VerifyingKey],
    json: bool,
) -> Result<Status, ToolError> {
    let found = info::examine(partition)?;
    let mut status = info::status_of(&found.verdict, partition.is_live());
    let mut report = format_verify::Report::default();
    if !matches!(found.verdict, Verdict::Refused { .. }) {
        let total: u64 = found.segments.iter().map(|segment| segment.bytes).sum();
        let bar = progress(total, json);
        report = format_verify::verify(&RealFileSystem, &partition.dir, level.0, keys, |read| {
            bar.set_position(read)
        })?;
        bar.finish_and_clear();
    }
    if !report.faults.is_empty() {
        status = status.max(Status::Corrupt);
    }
    let faults: Vec<String> = report.faults.iter().map(ToString::to_string).collect();
    if json {
        let value = json!({
            "topic": partition.topic.map(|topic| topic.name()),
            "partition": partition.number,
            "level": level.name(),
            "records": report.records,
            "bytes": report.bytes,
            "segments": report.segments,
            "checkpoints": report.checkpoints,
            "status": status as u8,
            "state": info::describe(&found.verdict),
            "faults": faults,
        });
        writeln!(out, "{value}")?;
        return Ok(status);
    }
    let mark = if status == Status::Clean {
        terminal::good("✓")
    } else {
        terminal::bad("✗")
    };
    writeln!(
        out,
        "{mark} {}  {} records in {} segments, {}, {} checkpoints ({})",
        terminal::bold(&partition.label()),
        report.records,
        report.segments,
        terminal::bytes(report.bytes),
        report.checkpoints,
        level.name(),
    )?;
    if status != Status::Clean && !matches!(found.verdict, Verdict::Clean) {
        writeln!(out, "  {}", info::describe(&found.verdict))?;
    }
    for fault in faults {
        writeln!(out, "  {}", terminal::bad(&fault))?;
    }
    Ok(status)
}

fn progress(total: u64, json: bool) -> ProgressBar {
    if json || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total);
    let style =
        ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn parse_key(hex: &str) -> Result<VerifyingKey, ToolError> {
    let wrong = || ToolError::Key(hex.to_owned());
    let digits: Option<Vec<u8>> = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    let bytes: [u8; 32] = digits
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(wrong)?;
    VerifyingKey::from_bytes(&bytes).map_err(|_| wrong())
}

/// The public keys that lie beside the partition: a convenience that finds
/// accidents; against an attacker give the key with `--key`.
fn keys_beside(partition: &Partition) -> Result<Vec<VerifyingKey>, ToolError> {
    let path = partition.dir.join(KEYS_FILE_NAME);
    match std::fs::read_to_string(&path) {
        Ok(text) => text.split_whitespace().map(parse_key).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(ToolError::Io { path, source }),
    }
}
