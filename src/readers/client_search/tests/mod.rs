//! Tests of client search as a whole: records in, results out.

mod edits;
mod finding;
mod model;
mod sights;
mod surviving;
mod world;
