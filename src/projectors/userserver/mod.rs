//! The user server: the projector of what belongs to one user. Accounts,
//! devices and tokens, profile, account data, filters, forgotten rooms, reports.
//!
//! It reads no table that is keyed by anything but the user.

pub mod accounts;
pub mod answers;
pub mod devices;
pub mod fold;
pub mod personal;
pub mod reports;
pub mod rows;
pub mod sessions;
#[cfg(test)]
mod tests;

pub use answers::UserAnswers;
pub use fold::UserProjector;
pub use sessions::Sessions;
