//! The receipt server: the projector of read receipts, keyed by room.
//!
//! It knows neither rooms nor accounts: who may send which receipt is for the
//! writer, which also copies the event's place into the record. Here a receipt
//! moves forward or is dropped. Only of a room that was purged it is told, by
//! the room server, which drops the receipts with the rest of the room.

mod answers;
mod fold;
mod rows;
#[cfg(test)]
mod tests;

pub use answers::ReceiptAnswers;
pub use fold::ReceiptProjector;
pub use rows::keys_of_room;
