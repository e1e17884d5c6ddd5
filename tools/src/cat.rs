//! `cat`: records of a range, filtered.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::cli::Range;
use crate::error::{Status, ToolError};
use crate::filter::Filter;
use crate::open::{for_each, partitions};
use crate::record::{self, Style};

/// Prints what fits, partition after partition.
pub fn run(
    path: &Path,
    range: &Range,
    filter: &Filter,
    limit: Option<u64>,
    json: bool,
    bodies: bool,
) -> Result<Status, ToolError> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut left = limit.unwrap_or(u64::MAX);
    let style = Style::new(json, bodies);
    for partition in partitions(path)? {
        let (reader, end) = partition.open()?;
        let (from, below) = partition.offsets(&reader, end, range)?;
        for_each(&reader, from, below, |found| {
            let fits = match found.envelope() {
                Ok(envelope) => filter.fits(&envelope),
                Err(_) => filter.is_empty(),
            };
            if fits && left > 0 {
                record::print(&mut out, &partition, &found, style)?;
                left -= 1;
            }
            Ok(left > 0)
        })?;
    }
    out.flush()?;
    Ok(Status::Clean)
}
