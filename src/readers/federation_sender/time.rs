//! Time, as the sender goes by it: the wall clock, or a test's.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::clock;

/// A future that resolves after some time.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Tells the time, and lets it pass.
pub trait Time: Send + Sync {
    /// Milliseconds since the epoch.
    fn now_ms(&self) -> u64;
    /// Resolves once so much time has passed.
    fn sleep(&self, time: Duration) -> Sleep;
}

/// The wall clock.
pub struct WallClock;

impl Time for WallClock {
    fn now_ms(&self) -> u64 {
        clock::now_ms()
    }

    fn sleep(&self, time: Duration) -> Sleep {
        Box::pin(tokio::time::sleep(time))
    }
}
