//! Engram: a Matrix homeserver whose source of truth is an append-only log.
//!
//! Modules in floor order (see ARCHITECTURE.md); `tests/floor_plan.rs` holds
//! the walls between them.

pub mod api;
pub mod app;
pub mod clock;
pub mod config;
pub mod crypto;
pub mod limits;
pub mod logs;
pub mod matrix;
pub mod outbound;
pub mod projectors;
pub mod query;
pub mod readers;
pub mod storage;
pub mod telemetry;
pub mod writers;
