//! `engram user create|passwd`: through the running server, or, if none runs,
//! through the log in this process.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};

use crate::app::accounts::{Request, Response, perform};
use crate::app::admin;
use crate::app::cli::UserVerb;
use crate::app::data_dir::DataDir;
use crate::app::exit::Exit;
use crate::app::house::House;
use crate::config::Config;

/// Longest line that is read as a password.
const PASSWORD_BYTES_MAX: u64 = 4096;

/// Asks for the password and does it.
pub fn run(config: &Config, verb: UserVerb) -> Result<(), Exit> {
    let (request, done) = match verb {
        UserVerb::Create { name, admin } => {
            let password = password()?;
            let request = Request::Create {
                name,
                password,
                admin,
            };
            (request, "created")
        }
        UserVerb::Passwd { name } => {
            let password = password()?;
            (
                Request::SetPassword { name, password },
                "has a new password; all devices are logged out",
            )
        }
    };
    let data_dir = DataDir::at(&config.identity.data_dir);
    let asked = admin::Request::Account(request.clone());
    let response = match super::ask_running(&data_dir, &asked)? {
        Some(admin::Response::Account(response)) => response,
        Some(_) => return Err(super::misunderstood()),
        None => offline(config, request)?,
    };
    match response {
        Response::Done { user_id } => {
            println!("{user_id} {done}");
            Ok(())
        }
        Response::Refused { why } => Err(Exit::failed(why)),
    }
}

/// Builds the house without doors, so that the log's own fold says whether the
/// name is free.
fn offline(config: &Config, request: Request) -> Result<Response, Exit> {
    super::runtime()?.block_on(async {
        let house = House::open(config).await?;
        let response = perform(house.accounts(), request).await;
        house.close().await?;
        Ok(response)
    })
}

fn password() -> Result<String, Exit> {
    if !io::stdin().is_terminal() {
        let mut line = String::new();
        io::stdin()
            .lock()
            .take(PASSWORD_BYTES_MAX)
            .read_line(&mut line)
            .map_err(|error| Exit::failed(format!("standard input: {error}")))?;
        return Ok(line.trim_end_matches(['\n', '\r']).to_owned());
    }
    let terminal = console::Term::stderr();
    let ask = |prompt: &str| {
        terminal
            .write_str(prompt)
            .and_then(|()| terminal.read_secure_line())
            .map_err(|error| Exit::failed(format!("terminal: {error}")))
    };
    let first = ask("Password: ")?;
    if ask("Again: ")? != first {
        return Err(Exit::failed("the two passwords are not the same"));
    }
    Ok(first)
}
