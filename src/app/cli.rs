//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Engram, a Matrix homeserver whose source of truth is an append-only log.
///
/// Without a verb it serves, on http://127.0.0.1:8008 with the data in ./data
/// unless configured otherwise.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
First steps:
  engram                             start with the default configuration
  engram user create alice           create an account (asks for the password)
  engram config > engram.toml        write the commented configuration
  engram --config engram.toml        start with it

Every key of the configuration can also be set by ENGRAM__SECTION__KEY.

Exit codes: 0 fine, 1 failed or a difference was found, 2 wrong arguments or
configuration, 3 the data folder is in use, 4 the log is damaged, 5 a write or
flush of the log failed while serving."
)]
pub struct Cli {
    /// The configuration file (TOML); without one, defaults and environment.
    #[arg(long, short, global = true, value_name = "FILE", env = "ENGRAM_CONFIG")]
    pub config: Option<PathBuf>,
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Serve clients and servers until SIGTERM or SIGINT (the default).
    ///
    /// SIGTERM and SIGINT close the doors, make everything durable and exit 0.
    Serve,
    /// Print the configuration with comments, or check a file.
    Config(ConfigArguments),
}

#[derive(Debug, Args)]
pub struct ConfigArguments {
    /// Check the file given by --config, and the environment, and print nothing if they are right.
    #[arg(long)]
    pub check: bool,
    /// Print what is in force (file and environment merged) instead of the defaults.
    #[arg(long, conflicts_with = "check")]
    pub effective: bool,
}
