//! The tool's tests, in one binary.

mod inspect;
mod rooms;
mod space;
mod story;
mod support;
mod trace;
