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
mod batch;
mod events;
pub mod fold;
mod heads;
mod judge;
mod redaction;
mod rows;
mod state;
#[cfg(test)]
mod tests;

pub use answers::{RoomServerOptions, RoomTables};
pub use fold::RoomServer;
