//! Sliding sync in the world of the reader's tests.

mod client;
mod connections;
mod extensions;
mod rooms;
