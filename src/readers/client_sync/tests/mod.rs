//! Tests of client sync as a whole: records in, answers out.

pub mod fake_rooms;
mod gaps;
pub mod model;
mod momentary;
mod redactions;
mod resolution;
mod sections;
pub mod world;
