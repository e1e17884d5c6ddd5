//! Settings: one commented TOML file, each key overridable from the environment.
//!
//! [`sections`] is the one place where a key gets its name, type, default and
//! comment; the printed default, the parser and the error messages are made
//! from it. [`load`] merges default, file and environment, [`setting`] reads and
//! writes single values.

pub mod load;
pub mod print;
pub mod sections;
pub mod setting;
pub mod values;

pub use load::{ConfigError, load};
pub use sections::Config;

#[cfg(test)]
mod tests;
