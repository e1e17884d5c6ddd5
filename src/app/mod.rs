//! Builds the house and starts it; holds no logic of its own.
//!
//! [`cli`] is what the command line takes, [`commands`] a file per verb,
//! [`exit`] what the process's exit code says.

pub mod accounts;
pub mod admin;
pub mod cli;
pub mod commands;
pub mod data_dir;
pub mod doors;
pub mod exit;
pub mod foundation;
pub mod house;
mod momentary;
pub mod old_keys;
pub mod outbound;
pub mod purges;
pub mod queues;
pub mod reports;
pub mod rooms;
pub mod shutdown;
pub mod space;
pub mod tasks;

use std::process::ExitCode;

use clap::Parser as _;

use self::cli::{Cli, Verb};
use self::exit::Exit;
use crate::config::values::LogFormat;
use crate::telemetry::logging;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // Two providers may be compiled in by dependencies; without a choice the
    // first TLS connection would panic. An error says that one was chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            eprintln!("engram: {}", exit.message);
            ExitCode::from(exit.code)
        }
    }
}

fn run(cli: Cli) -> Result<(), Exit> {
    let config = crate::config::load(cli.config.as_deref(), std::env::vars())
        .map_err(|error| Exit::usage(error.to_string()))?;
    let telemetry = &config.telemetry;
    let json = telemetry.log_format == LogFormat::Json;
    logging::init(telemetry.log_level.as_str(), json);
    match cli.verb.unwrap_or(Verb::Serve) {
        Verb::Config(arguments) => commands::config::run(&config, &arguments),
        Verb::Serve => commands::serve::run(&config, cli.config.as_deref()),
        Verb::Replay(arguments) => commands::replay::run(&config, &arguments),
        Verb::User(verb) => commands::user::run(&config, verb),
        Verb::Room(arguments) => commands::room::room(&config, &arguments),
        Verb::Rooms(arguments) => commands::room::rooms(&config, &arguments),
        Verb::Federation(verb) => commands::federation::run(&config, &verb),
        Verb::Reports(arguments) => commands::reports::run(&config, &arguments),
    }
}
