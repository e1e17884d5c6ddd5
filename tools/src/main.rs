//! `engram-log`: looks into Engram's logs, offline or beside a running server.
//!
//! It only reads. Its one dependency of ours is the crate `log-format`.

mod body;
mod cat;
mod cli;
mod diff;
mod error;
mod filter;
mod info;
mod moment;
mod open;
mod record;
mod room;
mod show;
mod space;
mod state;
mod stats;
mod tail;
mod terminal;
mod time;
mod trace;
mod verify;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = match cli::parse() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    match cli::run(arguments) {
        Ok(status) => ExitCode::from(status as u8),
        // Whoever closed the pipe has seen enough (`engram-log cat … | head`).
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("engram-log: {error}");
            ExitCode::from(error.status() as u8)
        }
    }
}
