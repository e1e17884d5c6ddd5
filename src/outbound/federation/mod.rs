//! Requests to other homeservers (server-server API): finding them, signing
//! what we ask, and one file for each kind of request.

pub mod backfill;
pub mod client;
pub mod discovery;
pub mod event;
pub mod handshakes;
pub mod invites;
pub mod listings;
pub mod missing_events;
pub mod policy_sign;
pub mod queries;
pub mod raw_events;
pub mod room_state;
pub mod server_keys;
pub mod state_answer;
pub mod timestamps;
pub mod transactions;
pub mod version;
pub mod well_known;

pub use client::{FederationClient, Patience, Request, Settings};

#[cfg(test)]
mod tests;
