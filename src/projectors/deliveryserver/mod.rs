//! The delivery server: the projector of what other servers acknowledged of what
//! they are sent, keyed by server name. It holds no queue: what is still to be
//! sent follows from *output* and from what is here.

pub mod answers;
pub mod fold;
pub mod rows;
#[cfg(test)]
mod tests;

pub use answers::DeliveryAnswers;
pub use fold::DeliveryProjector;
