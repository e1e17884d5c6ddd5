//! Records: what a frame's payload says.
//!
//! [`envelope`] is the hand-written outer shape that every reader understands,
//! [`input`], [`ephemeral`] and [`output`] are the typed bodies, [`tags`] their numbers. Event
//! JSON inside stays opaque bytes.

pub mod envelope;
pub mod ephemeral;
pub mod input;
pub mod output;
pub mod tags;

pub use envelope::{Envelope, EnvelopeError, NewEnvelope, Part};
pub use tags::{Kind, Source};
