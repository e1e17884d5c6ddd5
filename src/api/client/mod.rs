//! The client-server API: one table of routes, one file per section.

pub mod account;
pub mod account_data;
pub mod content;
pub mod create_room;
pub mod devices;
pub mod directory;
pub mod discovery;
pub mod filters;
pub mod login;
pub mod membership;
pub mod messages;
pub mod pages;
pub mod profile;
pub mod public_rooms;
pub mod push_rules;
pub mod receipts;
pub mod register;
pub mod render;
pub mod room_state;
pub mod rooms;
pub mod routes;
pub mod send;
pub mod sync;
pub mod upgrade;
pub mod visible;
