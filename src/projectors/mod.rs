//! Projectors: pure folds of *input* into tables and *output*.
//!
//! No clock, no randomness, no network, no order of a hash map: the same input
//! gives the same tables and the same output, on any machine, with any number
//! of lanes.

pub mod fold;
pub mod roomserver;
