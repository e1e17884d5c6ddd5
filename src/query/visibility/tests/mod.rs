//! The one decision against a model written from the specification's rules.

mod graph;
mod model;
mod sights;
