//! Sliding sync in the world of the reader's tests.

mod client;
mod connections;
mod details;
mod extensions;
mod model;
mod rooms;
