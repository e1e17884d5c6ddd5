//! Keys, hashes and randomness: the only place that touches secrets as bytes.
//!
//! Pure but for the key file and the system's randomness. Nothing here logs,
//! and no type here prints what it holds.

pub mod openid;
pub mod passwords;
pub mod random;
pub mod sha1;
pub mod signing_key;
pub mod tokens;

pub use signing_key::{KeyFileError, ServerKey};
