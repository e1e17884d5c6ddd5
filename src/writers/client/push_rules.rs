//! Push rules (client-server API, *Push Rules: API*). They are the account data
//! `m.push_rules`, changed rule by rule; so every device hears of a change by
//! `/sync`, and what a user has is what clients see.

use ruma::UserId;

use super::user_data::{UserData, UserDataError};
use crate::limits::PUSH_RULES_BYTES_MAX;
use crate::matrix::push_rules::{RuleError, Ruleset};
use crate::query::notified::{PUSH_RULES, ruleset_of};

impl UserData {
    /// Changes a user's rules, in the user's turn: of two changes at once
    /// neither loses the other's. What changes nothing is not written.
    ///
    /// Errors: what `change` says; `TooLarge` for all rules together.
    pub async fn change_push_rules(
        &self,
        user: &UserId,
        change: impl FnOnce(&mut Ruleset) -> Result<(), RuleError> + Send,
    ) -> Result<(), UserDataError> {
        let _turn = self.turn(user).await;
        let before = ruleset_of(&*self.users, user);
        let mut rules = before.clone();
        change(&mut rules)?;
        if rules == before {
            return Ok(());
        }
        let content = rules.content();
        if content.len() > PUSH_RULES_BYTES_MAX {
            return Err(UserDataError::TooLarge {
                max_bytes: PUSH_RULES_BYTES_MAX,
            });
        }
        self.append_account_data(user, None, PUSH_RULES, &content)
            .await
    }
}
