//! The logs: topics of partitions that are appended to and followed by offset.
//!
//! [`log`] is the port that writers, projectors and readers know; everything
//! else here is the embedded implementation of it on the crate `log-format`.

pub mod log;
