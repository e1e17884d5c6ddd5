//! Projectors: pure folds of *input* into tables and *output*.
//!
//! No clock, no randomness, no network, no order of a hash map: the same input
//! gives the same tables and the same output, on any machine, with any number
//! of lanes. What is true for minutes is folded beside that, into memory alone
//! ([`ephemeral`]).

pub mod aliasserver;
pub mod applied;
pub mod deliveryserver;
pub mod digest;
pub mod eduserver;
pub mod engine;
pub mod ephemeral;
pub mod fold;
pub mod keyserver;
pub mod lanes;
pub mod outcomes;
pub mod output_log;
pub mod presenceserver;
pub mod rebuild;
pub mod receiptserver;
pub mod roomserver;
pub mod run;
pub mod snapshots;
pub mod start;
pub mod tail;
pub mod userserver;
