//! Requests of local clients, as checked records of *input*.

pub mod account_data;
pub mod accounts;
pub mod aliases;
pub mod authorize;
pub mod create_room;
pub mod devices;
pub mod event_builder;
pub mod filters;
pub mod follow_ups;
pub mod leave_all;
pub mod membership;
pub mod messages;
pub mod passwords;
pub mod profile;
pub mod push_rules;
pub mod receipt_setter;
mod relation_checks;
pub mod room_error;
pub mod room_presets;
pub mod room_state;
pub mod room_writer;
pub mod sequencer;
pub mod tags;
pub mod upgrade;
pub mod user_data;
