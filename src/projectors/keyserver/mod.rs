//! The key server: the projector of the signing keys that other servers
//! publish, keyed by server name.

pub mod answers;
pub mod fold;
pub mod rows;

pub use answers::KeyAnswers;
pub use fold::KeyProjector;
