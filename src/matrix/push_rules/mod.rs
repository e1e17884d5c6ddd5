//! Push rules (client-server API, *Push Rules*): what users set, and what a set
//! of rules says of an event.
//!
//! A [`Ruleset`] is what clients see and change. For judging it is compiled
//! ([`Rules`]), with the user's own id taken out, so that all who changed
//! nothing share one set; of an event the set is asked once ([`Rules::plan`]),
//! and what is left to ask for each user is next to nothing.

mod change;
mod compile;
mod condition;
mod defaults;
mod event;
pub mod glob;
mod judge;
mod ruleset;
#[cfg(test)]
mod tests;

pub use change::{NewRule, Position, RuleError};
pub use compile::Rules;
pub use event::{PushEvent, PushRoom};
pub use judge::{Plan, Reader, Verdict};
pub use ruleset::{Kind, Rule, Ruleset};
