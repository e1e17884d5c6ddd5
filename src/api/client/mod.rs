//! The client-server API: one table of routes, one file per section.

pub mod account;
pub mod account_data;
pub mod devices;
pub mod discovery;
pub mod filters;
pub mod login;
pub mod profile;
pub mod push_rules;
pub mod register;
pub mod routes;
