//! The room server: the only projector of rooms.
//!
//! It folds the events of *input* into the tables of rooms and annotated
//! *output* ([`fold`]), and answers the query window from them ([`answers`]).
//! It knows no clock, no network and no key: what it needs is in the records.

mod accept;
mod accepted_event;
mod annotate;
pub mod answers;
mod auth;
mod auth_chain;
mod batch;
mod create;
mod current_state;
mod divergence;
mod events;
pub mod fold;
mod given;
mod heads;
mod judge;
mod merge;
mod outside;
mod parked;
mod purge;
mod redaction;
mod resume;
mod rows;
mod scope;
mod state;
#[cfg(test)]
mod tests;
mod turn;
mod waiting;

pub use answers::{RoomServerOptions, RoomTables};
pub use fold::RoomServer;
pub use purge::is_gone;
