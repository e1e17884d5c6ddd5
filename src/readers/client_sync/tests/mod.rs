//! Tests of client sync as a whole: records in, answers out.

mod fake_rooms;
mod model;
mod redactions;
mod resolution;
mod sections;
mod world;
