//! The read-only window into what the projectors derived.
//!
//! Traits and answer types: projectors implement them, writers, readers and
//! doors ask them. Beside them stands what every reader and door would else
//! decide again: who may see an event, and how it is shown to whom. Nobody here
//! knows RocksDB or the log.

pub mod authority;
pub mod begun_states;
pub mod deliveries;
pub mod ephemeral;
pub mod graph;
pub mod ids;
pub mod joining;
pub mod notified;
pub mod outcome;
pub mod outside;
pub mod parked;
pub mod policy_servers;
pub mod purges;
pub mod receipts;
pub mod relations;
pub mod rooms;
pub mod served;
pub mod server_acls;
pub mod server_keys;
pub mod shown;
pub mod stripped;
#[cfg(test)]
pub mod testing;
pub mod threads;
pub mod tokens;
pub mod unwanted;
pub mod users;
pub mod visibility;
