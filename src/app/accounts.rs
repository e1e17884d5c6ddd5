//! What an operator may do with accounts, whether through the control socket or
//! in the process of the command itself.

use serde::{Deserialize, Serialize};

use crate::writers::client::accounts::{AccountError, Accounts};

/// What is to be done.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    Create {
        name: String,
        password: String,
        admin: bool,
    },
    SetPassword {
        name: String,
        password: String,
    },
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Response {
    Done { user_id: String },
    Refused { why: String },
}

/// Does it; the answer comes when it is durable.
pub async fn perform(accounts: &Accounts, request: Request) -> Response {
    let done = match request {
        Request::Create {
            name,
            password,
            admin,
        } => create(accounts, &name, password, admin).await,
        Request::SetPassword { name, password } => set_password(accounts, &name, password).await,
    };
    match done {
        Ok(user_id) => Response::Done { user_id },
        Err(error) => Response::Refused {
            why: error.to_string(),
        },
    }
}

async fn create(
    accounts: &Accounts,
    name: &str,
    password: String,
    admin: bool,
) -> Result<String, AccountError> {
    let user = accounts.available(Some(name))?;
    accounts.check_new_password(&password)?;
    accounts.create(&user, Some(password), admin).await?;
    Ok(user.to_string())
}

async fn set_password(
    accounts: &Accounts,
    name: &str,
    password: String,
) -> Result<String, AccountError> {
    let user = accounts
        .user_of(name)
        .ok_or(AccountError::InvalidUsername)?;
    accounts.check_new_password(&password)?;
    accounts.set_password(&user, password, true, None).await?;
    Ok(user.to_string())
}
