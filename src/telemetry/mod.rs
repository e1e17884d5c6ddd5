//! What the server says about itself: log lines and metrics.
//!
//! No secret and no message content is ever handed to either.

pub mod logging;
pub mod metrics;
pub mod names;
