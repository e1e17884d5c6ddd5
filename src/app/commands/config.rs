//! `engram config`: the commented configuration, or a check of one.

use std::io::Write as _;

use crate::app::cli::ConfigArguments;
use crate::app::exit::Exit;
use crate::config::{Config, print};

/// Prints the default; with `--effective` what is in force; with `--check` nothing,
/// since a wrong configuration did not get here.
pub fn run(config: &Config, arguments: &ConfigArguments) -> Result<(), Exit> {
    if arguments.check {
        return Ok(());
    }
    let text = if arguments.effective {
        print::to_toml(config)
    } else {
        print::to_toml(&Config::default())
    };
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()) {
        // `engram config | head` closes the pipe, which is no failure.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Exit::failed(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}
