//! When to flush the memtables: on a slow timer, and when writing pauses. (On
//! size, RocksDB does it by itself.)

/// How long a flush that failed is not tried again. RocksDB goes on by itself
/// once there is room, but waits for flushes that were asked for meanwhile, so
/// that asking often would keep it from ever doing so.
const AFTER_FAILURE_US: u64 = 20_000_000;

/// Decides from batch counts and times that the caller reads; it has no clock.
#[derive(Debug)]
pub(super) struct FlushSchedule {
    interval_us: u64,
    idle_us: u64,
    flushed_batches: u64,
    seen_batches: u64,
    /// When the oldest unflushed batch was first seen.
    oldest_us: Option<u64>,
    /// When the count was last seen to grow.
    newest_us: u64,
    /// Until when nothing is due, because a flush failed.
    not_before_us: u64,
}

impl FlushSchedule {
    pub fn new(interval_us: u64, idle_us: u64) -> FlushSchedule {
        FlushSchedule {
            interval_us,
            idle_us,
            flushed_batches: 0,
            seen_batches: 0,
            oldest_us: None,
            newest_us: 0,
            not_before_us: 0,
        }
    }

    /// Whether a flush is due, `batches` having been written so far.
    pub fn is_due(&mut self, batches: u64, now_us: u64) -> bool {
        if batches == self.flushed_batches {
            return false;
        }
        if batches != self.seen_batches {
            self.seen_batches = batches;
            self.newest_us = now_us;
        }
        if now_us < self.not_before_us {
            return false;
        }
        let oldest_us = *self.oldest_us.get_or_insert(now_us);
        now_us.saturating_sub(oldest_us) >= self.interval_us
            || now_us.saturating_sub(self.newest_us) >= self.idle_us
    }

    /// A flush failed.
    pub fn failed(&mut self, now_us: u64) {
        self.not_before_us = now_us.saturating_add(AFTER_FAILURE_US);
    }

    /// Everything up to the batch with this number is on disk.
    pub fn flushed(&mut self, batches: u64) {
        self.flushed_batches = batches;
        self.oldest_us = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_when_idle_or_old_and_never_without_writes() {
        let mut schedule = FlushSchedule::new(100, 10);
        assert!(!schedule.is_due(0, 1000));
        assert!(!schedule.is_due(1, 1001));
        assert!(!schedule.is_due(2, 1010), "still writing");
        assert!(schedule.is_due(2, 1020), "idle");
        schedule.flushed(2);
        assert!(!schedule.is_due(2, 5000));
        let mut batches = 2;
        for now in (6000..6099).step_by(5) {
            batches += 1;
            assert!(!schedule.is_due(batches, now), "busy at {now}");
        }
        assert!(schedule.is_due(batches + 1, 6100), "old");
        schedule.failed(6100);
        assert!(!schedule.is_due(batches + 1, 6100 + AFTER_FAILURE_US - 1));
        assert!(schedule.is_due(batches + 1, 6100 + AFTER_FAILURE_US));
    }
}
