//! Time that passes when a test says so.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use super::super::time::{Sleep, Time};

/// Wall-clock time at which a test begins.
const BEGAN_MS: u64 = 1_700_000_000_000;
/// Turns that every task gets before time goes on: more than any chain of one
/// waking another is long.
const TURNS: usize = 48;

/// The clock, and who sleeps until when.
#[derive(Default)]
pub struct Hours(Arc<Mutex<Passed>>);

#[derive(Default)]
struct Passed {
    ms: u64,
    /// What the wall clock is ahead of its time.
    ahead: u64,
    sleepers: BTreeMap<(u64, u64), Waker>,
    count: u64,
}

impl Time for Hours {
    fn now_ms(&self) -> u64 {
        let passed = self.0.lock();
        BEGAN_MS + passed.ms + passed.ahead
    }

    fn sleep(&self, time: Duration) -> Sleep {
        let hours = self.0.clone();
        let key = {
            let mut passed = hours.lock();
            passed.count += 1;
            (passed.ms + time.as_millis() as u64, passed.count)
        };
        let guard = Sleeper { hours, key };
        Box::pin(poll_fn(move |context| {
            let mut passed = guard.hours.lock();
            if passed.ms >= guard.key.0 {
                return Poll::Ready(());
            }
            passed.sleepers.insert(guard.key, context.waker().clone());
            Poll::Pending
        }))
    }
}

struct Sleeper {
    hours: Arc<Mutex<Passed>>,
    key: (u64, u64),
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.hours.lock().sleepers.remove(&self.key);
    }
}

impl Hours {
    /// Sets the wall clock so far ahead of its time.
    pub fn set_ahead(&self, by: Duration) {
        self.0.lock().ahead = by.as_millis() as u64;
    }

    /// Lets time pass, and whoever sleeps wake up in order.
    pub async fn pass(&self, time: Duration) {
        let end = self.0.lock().ms + time.as_millis() as u64;
        loop {
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
            let mut passed = self.0.lock();
            let first = passed.sleepers.keys().next().copied();
            let Some((at, _)) = first.filter(|(at, _)| *at <= end) else {
                passed.ms = end;
                return;
            };
            passed.ms = passed.ms.max(at);
            let later = passed.sleepers.split_off(&(at + 1, 0));
            let due = std::mem::replace(&mut passed.sleepers, later);
            drop(passed);
            due.into_values().for_each(Waker::wake);
        }
    }
}
