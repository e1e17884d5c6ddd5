//! Readers follow *output*, each from its own durable cursor, and keep tables
//! of their own. They never read another's tables, and a fold uses nothing but
//! the record, the reader's tables and facts that never change.

pub mod client_search;
pub mod client_sync;
pub mod federation_sender;
pub mod purges;
pub mod relations;
pub mod run;
pub mod store;
pub mod user_directory;
pub mod words;
