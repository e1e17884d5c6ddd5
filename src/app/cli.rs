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
    /// Rebuild the database and the output log from the input log, or verify them.
    ///
    /// The server must be stopped, except for --verify. Ends with the state
    /// digest, which is the same for the same log on any machine.
    Replay(ReplayArguments),
    /// Print the configuration with comments, or check a file.
    Config(ConfigArguments),
    /// Create accounts and set passwords, whether the server runs or not.
    #[command(subcommand)]
    User(UserVerb),
}

#[derive(Debug, Args)]
pub struct ReplayArguments {
    /// Begin at the first record, instead of the newest snapshot that fits.
    #[arg(long)]
    pub from_scratch: bool,
    /// Change nothing: fold the log beside what is on disk, print the digest, and
    /// name the first difference (exit code 1). The server may run.
    #[arg(long)]
    pub verify: bool,
}

/// The password is asked for on the terminal; if standard input is no terminal,
/// it is its first line. It is never an argument, which others could see.
#[derive(Debug, Subcommand)]
pub enum UserVerb {
    /// Create an account.
    Create {
        /// The part of the user id before the colon, such as `alice`.
        name: String,
        /// The user may administrate the server.
        #[arg(long)]
        admin: bool,
    },
    /// Set a new password and log out all devices of the user.
    Passwd {
        /// The part of the user id before the colon, or the whole id.
        name: String,
    },
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
