//! The newest rows of a room's timeline in memory: what most answers tell of a
//! room is in them, and need not be read from the store once for each member.

use std::collections::VecDeque;

use super::rows::TimelineRow;

/// Rows that are kept of a room, of 32 bytes each. Whoever waits needs one or
/// two; who comes back after a while has the rest read from the store.
const ROWS_MAX: usize = 8;

/// All rows of a room from an offset on, the oldest first.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    from: u64,
    rows: VecDeque<TimelineRow>,
}

impl Recent {
    /// Knows that there are no rows at or behind `from`.
    pub fn new(from: u64) -> Recent {
        Recent {
            from,
            rows: VecDeque::new(),
        }
    }

    /// Adds the row that is the newest now.
    pub fn push(&mut self, row: TimelineRow) {
        if self.rows.len() == ROWS_MAX
            && let Some(oldest) = self.rows.pop_front()
        {
            self.from = oldest.offset + 1;
        }
        self.rows.push_back(row);
    }

    /// A copy of what an answer needs that tells on from `since`: the rows from
    /// there on, and the one before them.
    pub fn since(&self, since: u64) -> Recent {
        let older = self.rows.partition_point(|row| row.offset < since);
        let begin = older.saturating_sub(1);
        let from = match self.rows.get(begin) {
            Some(row) if begin > 0 => row.offset,
            _ => self.from,
        };
        Recent {
            from,
            rows: self.rows.range(begin..).copied().collect(),
        }
    }

    /// The newest rows in `[from, to)`, newest first, at most `limit`; none if
    /// there may be others.
    pub fn before(&self, from: u64, to: u64, limit: usize) -> Option<Vec<TimelineRow>> {
        let rows = self.rows.iter().rev();
        let found: Vec<_> = rows
            .skip_while(|row| row.offset >= to)
            .take_while(|row| row.offset >= from)
            .take(limit)
            .copied()
            .collect();
        (found.len() == limit || self.from <= from).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::ids::{EventSn, Place};

    fn row(offset: u64) -> TimelineRow {
        TimelineRow {
            offset,
            event: EventSn(offset),
            place: Place::FIRST,
        }
    }

    fn offsets(rows: Option<Vec<TimelineRow>>) -> Option<Vec<u64>> {
        rows.map(|rows| rows.iter().map(|row| row.offset).collect())
    }

    #[test]
    fn what_it_answers_is_what_all_rows_would_answer() {
        let mut recent = Recent::new(5);
        let mut all = Vec::new();
        for offset in (5..60).step_by(3) {
            recent.push(row(offset));
            all.push(offset);
            for since in [0, 5, 6, 20, offset, offset + 1] {
                let copy = recent.since(since);
                for (from, to, limit) in [
                    (since, offset + 1, 11),
                    (since, offset, 2),
                    (0, since, 1),
                    (since, since, 3),
                    (0, 60, 4),
                ] {
                    let truth = all.iter().rev().filter(|at| (from..to).contains(*at));
                    let truth: Vec<u64> = truth.copied().take(limit).collect();
                    for told in [&recent, &copy] {
                        let told = offsets(told.before(from, to, limit));
                        assert!(told.is_none_or(|told| told == truth), "{from} {to} {limit}");
                    }
                }
                // What waits is told without the store.
                if since + 12 > offset && since > 5 {
                    assert!(copy.before(since, offset + 1, 11).is_some());
                    assert!(copy.before(0, since, 1).is_some());
                }
            }
        }
    }
}
