//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ruma::{OwnedRoomId, OwnedServerName};
use serde::{Deserialize, Serialize};

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
    /// Show a room: extremities, members, power levels, size; whether the server runs or not.
    ///
    /// A running server answers as of now. Of a stopped one the database is read,
    /// and what it has not folded yet is counted. `engram-log state` shows the
    /// room's whole state, also as of earlier moments.
    #[command(after_help = ROOM_EXAMPLES)]
    Room(RoomArguments),
    /// List rooms, those with the most forward extremities first.
    ///
    /// Many extremities make each new event of a room costlier; a few are normal
    /// in a room of many servers.
    #[command(after_help = ROOMS_EXAMPLES)]
    Rooms(RoomsArguments),
    /// List what users reported, the newest first.
    ///
    /// Rooms, events and users are shown as they were reported: nobody has checked
    /// that what is said of them is true, or that they exist.
    #[command(after_help = REPORTS_EXAMPLES)]
    Reports(ReportsArguments),
    /// Look at another server as this one would see it; change this one's signing key.
    #[command(subcommand)]
    Federation(FederationVerb),
}

const ROOM_EXAMPLES: &str = "\
Examples:
  engram room '!abc:example.org'
  engram room '!abc:example.org' --json | jq .extremities
  engram-log state '!abc:example.org' --at 2h        the whole state, two hours ago
  engram room purge '!abc:example.org'               remove it, with all that is kept of it";

const ROOMS_EXAMPLES: &str = "\
Examples:
  engram rooms                        the 20 with the most extremities
  engram rooms --by members --limit 5
  engram rooms --limit 10000 --json   for scripts: an array";

const REPORTS_EXAMPLES: &str = "\
Examples:
  engram reports                      the newest 20
  engram reports --limit 10000 --json for scripts: an array";

#[derive(Debug, Args)]
pub struct ReportsArguments {
    /// How many to list.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
    /// Print a JSON array.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum FederationVerb {
    /// Go the way to another server step by step: name, addresses, connection, keys.
    ///
    /// Asks the other server; neither it nor the data folder is changed. Exit code
    /// 1 if a step fails, with a hint what to do about it.
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArguments),
    /// List the servers that are sent to: what waits for each, and since when it fails.
    ///
    /// Asks the running server, or reads what a stopped one left.
    #[command(after_help = QUEUES_EXAMPLES)]
    Queues(QueuesArguments),
    /// Replace the signing key of this server, which must be stopped.
    ///
    /// The old key stays published, so that what it signed can still be verified.
    RotateKey,
}

const CHECK_EXAMPLES: &str = "\
Examples:
  engram federation check matrix.org
  engram federation check matrix.example.org:8448 --json | jq '.[] | select(.ok | not)'";

const QUEUES_EXAMPLES: &str = "\
Examples:
  engram federation queues
  engram federation queues --troubled            only those that fail or are behind
  engram federation queues --json | jq 'map(.waiting) | add'";

#[derive(Debug, Args)]
pub struct QueuesArguments {
    /// Leave out servers for which nothing waits and which take what they are sent.
    #[arg(long)]
    pub troubled: bool,
    /// Print a JSON array.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct CheckArguments {
    /// The name behind the colon of that server's users, such as matrix.org.
    pub server: OwnedServerName,
    /// Print a JSON array of the steps.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct RoomArguments {
    /// For example '!abc:example.org'; in quotes, as shells take `!` for themselves.
    #[arg(required = true)]
    pub room_id: Option<OwnedRoomId>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    #[command(subcommand)]
    pub verb: Option<RoomVerb>,
}

#[derive(Debug, Subcommand)]
pub enum RoomVerb {
    /// Remove a room and all that the database keeps of it, whether the server runs or not.
    ///
    /// Its aliases and its place in the directory go, its local users leave it, and
    /// then its events, states, receipts and all that is found by them are dropped:
    /// it is in no client's list, no search and no directory any more, and neither a
    /// restart nor a replay brings it back. A running server goes on with it if this
    /// command is stopped, and after a restart.
    ///
    /// What the log holds stays in the log: the records of the room, with what was
    /// said in it, can still be read there with engram-log, are part of its backups,
    /// and are folded, to be dropped again, by every replay. Nothing rewrites the log
    /// yet. Other servers keep what they have. Media are not touched, and neither are
    /// settings and reports of users that name the room.
    ///
    /// Whoever makes or joins a room of that id later on finds a new one.
    Purge(PurgeArguments),
}

#[derive(Debug, Args)]
pub struct PurgeArguments {
    /// For example '!abc:example.org'; in quotes, as shells take `!` for themselves.
    pub room_id: OwnedRoomId,
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct RoomsArguments {
    /// What to order by, largest first.
    #[arg(long, value_enum, default_value_t = RoomOrder::Extremities)]
    pub by: RoomOrder,
    /// How many to list.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
    /// Print a JSON array.
    #[arg(long)]
    pub json: bool,
}

/// What a list of rooms is ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoomOrder {
    /// Forward extremities.
    Extremities,
    /// Joined members.
    Members,
    /// Entries of current state.
    State,
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
