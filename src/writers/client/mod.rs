//! Requests of local clients, as checked records of *input*.

pub mod account_data;
pub mod accounts;
pub mod devices;
pub mod filters;
pub mod passwords;
pub mod profile;
pub mod user_data;
