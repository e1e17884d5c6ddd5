//! The command line: verbs, options, help.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::error::{Status, ToolError};
use crate::filter::Filter;
use crate::moment::Moment;
use crate::{cat, diff, info, show, state, stats, tail, trace, verify};

/// Looks into Engram's logs, offline or beside a running server. Never writes.
///
/// PATH is a data folder's `log/`, a topic in it (`log/input`), a partition
/// (`log/input/p0000`) or one segment file.
///
/// Exit codes: 0 clean, 1 torn tail, 2 corrupt, 3 refused, 4 could not be read,
/// 64 wrong usage.
#[derive(Parser)]
#[command(name = "engram-log", version, max_term_width = 100)]
pub struct Cli {
    /// Print JSON, one value per line, instead of tables.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Segments, offsets, sizes and the state of each partition.
    Info { path: PathBuf },
    /// Records, oldest first.
    ///
    /// Example: engram-log cat data/log/input --type m.room.member --since 2h
    Cat {
        path: PathBuf,
        #[command(flatten)]
        range: Range,
        #[command(flatten)]
        filter: Filter,
        /// Stop after this many records.
        #[arg(long)]
        limit: Option<u64>,
        /// With --json: show skeletons and bodies too.
        #[arg(long)]
        bodies: bool,
    },
    /// The last records; with -f go on as they are appended.
    Tail {
        path: PathBuf,
        /// How many records to begin with.
        #[arg(short = 'n', long, default_value_t = 10)]
        lines: u64,
        /// Follow the log. Of *input*, only what is synced is shown.
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        filter: Filter,
    },
    /// Every field of one record.
    Show {
        path: PathBuf,
        offset: u64,
        /// Which partition, where PATH holds several.
        #[arg(long)]
        partition: Option<u32>,
        /// The payload's bytes as well.
        #[arg(long)]
        hex: bool,
    },
    /// What became of an event: input record, decision, output record, state delta.
    Trace { path: PathBuf, event_id: String },
    /// A room's current state as of any moment, folded from *output*.
    ///
    /// Tells version, creator, extremities, members, power levels and the like,
    /// then every entry. Content that was redacted, even after the moment, or
    /// erased is not shown.
    #[command(after_help = STATE_EXAMPLES)]
    State {
        /// For example '!abc:example.org'; in quotes, as shells take `!` for themselves.
        room_id: String,
        /// The data folder, its log/, or log/output.
        #[arg(default_value = "data")]
        path: PathBuf,
        /// The moment: an *output* offset (120), an *input* offset (in:90), a time
        /// (2026-11-23T10:00:00Z, 2026-11-23) or an age (15m, 2h, 3d).
        ///
        /// What it names is still part of the state; without it, the last record.
        #[arg(long, value_name = "OFFSET|TIME", default_value = "end")]
        at: Moment,
        /// Only entries of this event type, all of them.
        #[arg(long = "type", value_name = "TYPE")]
        event_type: Option<String>,
    },
    /// What changed in a room's current state between two moments.
    ///
    /// For each entry that is not as it was: the events, memberships, why (an
    /// event, or a resolution of forks), by whom and when it last changed.
    #[command(after_help = DIFF_EXAMPLES)]
    Diff {
        /// For example '!abc:example.org'; in quotes, as shells take `!` for themselves.
        room_id: String,
        /// The first moment: OFFSET, in:OFFSET, or a time, as of `state --at`.
        from: Moment,
        /// The second moment, written likewise, or `end`.
        to: Moment,
        /// The data folder, its log/, or log/output.
        #[arg(default_value = "data")]
        path: PathBuf,
    },
    /// Check the log. Without a flag: everything that the files allow.
    Verify {
        path: PathBuf,
        /// Frames and checksums.
        #[arg(long)]
        crc: bool,
        /// Also payload digests, chain links and seals.
        #[arg(long)]
        chain: bool,
        /// Also the signatures of the checkpoints.
        #[arg(long)]
        signatures: bool,
        /// A public key to trust (64 hex digits), instead of those that lie beside the log.
        #[arg(long, value_name = "HEX")]
        key: Vec<String>,
    },
    /// Records by kind, room and day; bytes per event and per state change.
    ///
    /// How large the store is comes from `space.json` in the data folder, which the
    /// server writes when it flushes; PATH must lie in that folder then.
    Stats {
        path: PathBuf,
        /// How many rooms to list.
        #[arg(long, default_value_t = 10)]
        rooms: usize,
    },
}

const STATE_EXAMPLES: &str = "\
Examples:
  engram-log state '!abc:example.org'                      now, of the log in ./data
  engram-log state '!abc:example.org' --at 2h              two hours ago
  engram-log state '!abc:example.org' --at in:90           after input record 90
  engram-log state '!abc:example.org' --type m.room.member every member
  engram-log state '!abc:example.org' /srv/engram --json   for scripts: one object";

const DIFF_EXAMPLES: &str = "\
Examples:
  engram-log diff '!abc:example.org' 1d end                since yesterday
  engram-log diff '!abc:example.org' 118 120               between two output offsets
  engram-log diff '!abc:example.org' 2026-11-22 2026-11-23 /srv/engram --json";

/// Which records, by place or by time.
#[derive(Args, Default)]
pub struct Range {
    /// First offset.
    #[arg(long)]
    pub from: Option<u64>,
    /// Offset behind the last.
    #[arg(long)]
    pub to: Option<u64>,
    /// First time: `2026-11-23T10:00:00Z`, seconds since the epoch, or `90s`, `15m`, `2h`, `3d` ago.
    #[arg(long, value_parser = crate::time::parse)]
    pub since: Option<u64>,
    /// Time behind the last, written likewise.
    #[arg(long, value_parser = crate::time::parse)]
    pub until: Option<u64>,
}

/// Reads the arguments; prints help or the error itself.
pub fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| {
        let _ = error.print();
        // 2 means corrupt here, so clap's own code for wrong usage will not do.
        if error.use_stderr() {
            ExitCode::from(Status::Usage as u8)
        } else {
            ExitCode::SUCCESS
        }
    })
}

/// Runs the verb.
pub fn run(cli: Cli) -> Result<Status, ToolError> {
    let json = cli.json;
    match cli.verb {
        Verb::Info { path } => info::run(&path, json),
        Verb::Cat {
            path,
            range,
            filter,
            limit,
            bodies,
        } => cat::run(&path, &range, &filter, limit, json, bodies),
        Verb::Tail {
            path,
            lines,
            follow,
            filter,
        } => tail::run(&path, lines, follow, &filter, json),
        Verb::Show {
            path,
            offset,
            partition,
            hex,
        } => show::run(&path, offset, partition, hex, json),
        Verb::Trace { path, event_id } => trace::run(&path, &event_id, json),
        Verb::State {
            room_id,
            path,
            at,
            event_type,
        } => state::run(&path, &room_id, &at, event_type.as_deref(), json),
        Verb::Diff {
            room_id,
            from,
            to,
            path,
        } => diff::run(&path, &room_id, &from, &to, json),
        Verb::Verify {
            path,
            crc,
            chain,
            signatures,
            key,
        } => {
            let level = verify::Level::chosen(crc, chain, signatures);
            verify::run(&path, level, &key, json)
        }
        Verb::Stats { path, rooms } => stats::run(&path, rooms, json),
    }
}
