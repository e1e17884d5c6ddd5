//! Writers turn a request into checked records, append them, and answer from
//! the fold's outcome. They ask the query window and never touch a table.

pub mod client;
pub mod ephemeral;
pub mod federation;
pub mod room_work;
pub mod submit;
#[cfg(test)]
pub(crate) mod testing;
