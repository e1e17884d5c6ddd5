//! Moments in a partition of *output*, as people name them.

use std::str::FromStr;

use log_format::PartitionReader;

use crate::error::ToolError;
use crate::open::Partition;
use crate::{body, time};

/// A point between two records; the record that it names is still before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Behind the last record.
    End,
    /// Behind the *output* record at this offset.
    Output(u64),
    /// Behind what the fold of the *input* record at this offset put out.
    Input(u64),
    /// Behind the last record of this microsecond since the epoch.
    Time(u64),
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Moment, String> {
        let number = |digits: &str| digits.parse::<u64>().ok();
        let found = match text.split_once(':') {
            None if text == "end" => Some(Moment::End),
            Some(("in", offset)) => number(offset).map(Moment::Input),
            Some(("out", offset)) => number(offset).map(Moment::Output),
            _ => number(text).map(Moment::Output),
        };
        found
            .or_else(|| time::parse(text).ok().map(Moment::Time))
            .ok_or_else(|| {
                "write an offset in output (120), one in input (in:90), `end`, \
                 or a time: 2026-11-23T10:00:00Z, 2026-11-23, 90s, 15m, 2h, 3d ago"
                    .to_owned()
            })
    }
}

impl Moment {
    /// The *output* offset behind the moment.
    ///
    /// `end` is the partition's. Errors: an *output* offset that is not there.
    pub fn below(
        &self,
        partition: &Partition,
        reader: &PartitionReader,
        end: u64,
    ) -> Result<u64, ToolError> {
        let begin = reader.begin();
        match *self {
            Moment::End => Ok(end),
            Moment::Output(offset) if (begin..end).contains(&offset) => Ok(offset + 1),
            Moment::Output(offset) => Err(ToolError::NoOffset {
                path: partition.dir.clone(),
                offset,
                begin,
                end,
            }),
            Moment::Time(time_us) => Ok(reader.offset_at_time(time_us.saturating_add(1), end)?),
            Moment::Input(offset) => behind_source(reader, begin, end, offset),
        }
    }
}

/// The first *output* offset whose record comes from a later *input* record.
/// Sources rise along *output*, so halving finds it.
fn behind_source(
    reader: &PartitionReader,
    begin: u64,
    end: u64,
    source: u64,
) -> Result<u64, ToolError> {
    let (mut low, mut high) = (begin, end);
    while low < high {
        let middle = low + (high - low) / 2;
        let found = reader.read_one(middle)?;
        let origin = found
            .envelope()
            .ok()
            .and_then(|envelope| body::origin_of(&envelope));
        // A record that this version cannot read says nothing; look before it.
        match origin {
            Some(origin) if origin.src_offset <= source => low = middle + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_read() {
        let read = |text: &str| text.parse::<Moment>();
        assert_eq!(read("120"), Ok(Moment::Output(120)));
        assert_eq!(read("out:120"), Ok(Moment::Output(120)));
        assert_eq!(read("in:90"), Ok(Moment::Input(90)));
        assert_eq!(read("end"), Ok(Moment::End));
        assert_eq!(
            read("2026-11-23T10:00:00Z"),
            Ok(Moment::Time(1_795_428_000_000_000))
        );
        assert!(matches!(read("2h"), Ok(Moment::Time(_))));
        for wrong in ["", "in:", "in:x", "yesterday", "-1"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
