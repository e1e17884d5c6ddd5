//! The protocol as pure functions: identifiers, JSON, events, room versions,
//! authorization, state resolution, filters, push rules.
//!
//! Nothing here does I/O, reads a clock or makes randomness; what is random or
//! timed comes in as an argument. Follows the Matrix specification 1.19.

pub mod auth_rules;
pub mod build;
pub mod canonical_json;
pub mod citing;
pub mod client_event;
pub mod event;
pub mod filter;
pub mod history_visibility;
pub mod ids;
pub mod policy;
pub mod push_rules;
pub mod redaction;
pub mod relation;
pub mod room_version;
pub mod server_acl;
pub mod server_keys;
pub mod signing;
pub mod state_res;
#[cfg(test)]
mod tests;
pub mod x_matrix;

// The log records carry these two, so that they mean the same on disk and in memory.
pub use log_format::record::output::{Membership, Visibility};
pub use room_version::RoomVersion;
