//! `show`: every field of one record.

use std::io::{self, Write};
use std::path::Path;

use serde_json::Value;

use crate::error::{Status, ToolError};
use crate::open::one_partition;
use crate::record;

const HEX_COLUMNS: usize = 16;

/// Prints the record at an offset.
pub fn run(
    path: &Path,
    offset: u64,
    number: Option<u32>,
    hex: bool,
    json: bool,
) -> Result<Status, ToolError> {
    let partition = one_partition(path, number)?;
    let (reader, end) = partition.open()?;
    if offset < reader.begin() || offset >= end {
        return Err(ToolError::NoOffset {
            path: path.to_owned(),
            offset,
            begin: reader.begin(),
            end,
        });
    }
    let found = reader.read_one(offset)?;
    let mut out = io::stdout().lock();
    match found.envelope() {
        Err(error) => writeln!(out, "offset {offset}: {error}")?,
        Ok(envelope) => {
            let value = record::to_json(&partition, &found, &envelope, true);
            match &value {
                Value::Object(fields) if !json => record::print_fields(&mut out, fields, 0)?,
                _ => writeln!(out, "{value}")?,
            }
        }
    }
    if hex {
        for (row, bytes) in found.payload.chunks(HEX_COLUMNS).enumerate() {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x} ")).collect();
            let text: String = bytes
                .iter()
                .map(|byte| {
                    if byte.is_ascii_graphic() {
                        *byte as char
                    } else {
                        '.'
                    }
                })
                .collect();
            writeln!(out, "{:08x}  {digits:<48} {text}", row * HEX_COLUMNS)?;
        }
    }
    Ok(Status::Clean)
}
