//! Speaks HTTP to others: other homeservers now, push gateways and the like later.
//!
//! Every feature that lets a stranger choose where we connect goes through the
//! one address filter here, which is asked with the addresses that are really
//! connected to, after all names are resolved. Nothing here knows a log or a table.

pub mod addresses;
pub mod answer;
pub mod dns;
pub mod federation;
pub mod json_stream;
mod names;
pub mod streamed;
