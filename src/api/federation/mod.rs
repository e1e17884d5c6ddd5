//! The server-server API: one table of routes, one file per section.

pub mod auth;
pub mod handshakes;
pub mod history;
pub mod invites;
pub mod joins;
pub mod knocks;
pub mod leaves;
pub mod pdus;
pub mod public_rooms;
pub mod queries;
pub mod routes;
pub mod server_keys;
pub mod spaces;
pub mod third_party;
pub mod transactions;
pub mod version;
