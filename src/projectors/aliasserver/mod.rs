//! The alias server: the projector of room aliases, keyed by alias.

pub mod fold;
pub mod rows;

pub use fold::AliasProjector;
