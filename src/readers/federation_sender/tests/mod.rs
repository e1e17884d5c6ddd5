//! The sender against servers that a test plays: their answers, their absence,
//! and our own crashes.

mod crashes;
mod crowds;
mod folding;
mod hours;
mod trouble;
mod world;
