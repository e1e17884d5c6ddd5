//! Tests of client sync as a whole: records in, answers out.

mod model;
mod sections;
mod world;
