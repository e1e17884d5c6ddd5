//! `engram replay`: makes store and *output* again from *input*; with `--verify`
//! folds beside what is on disk and compares.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use log_format::Topic;
use parking_lot::Mutex;

use crate::app::cli::ReplayArguments;
use crate::app::data_dir::DataDir;
use crate::app::exit::{Exit, FAILED};
use crate::app::foundation::{self, Tables};
use crate::config::Config;
use crate::crypto::signing_key::ServerKey;
use crate::logs::log::Log;
use crate::logs::{InputLog, OutputLog, ReadOnlyLog};
use crate::projectors::digest::Digest;
use crate::projectors::output_log::{EmbeddedOutput, OutputLog as OutputPort};
use crate::projectors::rebuild::{self, Progress};
use crate::projectors::run::epoch;
use crate::projectors::start::{Report, discard_store, fit};
use crate::storage::open::Store;

/// Time between two lines where standard error is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// Replays or verifies.
pub fn run(config: &Config, arguments: &ReplayArguments) -> Result<(), Exit> {
    if arguments.verify {
        return verify(config);
    }
    let identity = &config.identity;
    let (data_dir, _lock) = DataDir::open(&identity.data_dir, &identity.server_name)?;
    let begun = Instant::now();
    let (digest, records) = replay(config, &data_dir, arguments.from_scratch)?;
    let seconds = begun.elapsed().as_secs_f64().max(1e-6);
    eprintln!("replayed {records} records in {seconds:.1} s");
    println!("state digest {digest}");
    Ok(())
}

fn failed(error: impl std::fmt::Display) -> Exit {
    Exit::failed(error.to_string())
}

/// The digest, and how many records were folded.
fn replay(config: &Config, data_dir: &DataDir, from_scratch: bool) -> Result<(Digest, u64), Exit> {
    let folders = foundation::folders(data_dir);
    let options = foundation::store_options(config);
    let snapshots = foundation::snapshots(config, &folders.snapshots, &options);
    let key = ServerKey::load_or_generate(&data_dir.checkpoint_key()).map_err(failed)?;
    let settings = foundation::log_settings(config, data_dir, Some(&key));
    let (input, recoveries) =
        InputLog::open(&settings, &[]).map_err(|error| foundation::log_exit(&error))?;
    for (partition, recovery) in recoveries.iter().enumerate() {
        foundation::report_recovery(partition, recovery);
    }
    let (output, _) = OutputLog::open(&settings, input.log_id(), epoch())
        .map_err(|error| foundation::log_exit(&error))?;
    let output = EmbeddedOutput::new(Arc::new(output));
    discard_store(&folders).map_err(failed)?;
    let store = Store::open(&folders.store, &options).map_err(failed)?;
    let mut report = Report::default();
    let store = fit(
        store,
        &folders,
        &options,
        (!from_scratch).then_some(&snapshots),
        &input,
        &output,
        &mut report,
    )
    .map_err(failed)?;
    for note in &report.notes {
        eprintln!("{note}");
    }
    let log_id = input.log_id();
    let input: Arc<dyn Log> = Arc::new(input);
    let output: Arc<dyn OutputPort> = Arc::new(output);
    let tables = Tables::load(config, &store, &input, log_id)?;
    let lanes = foundation::lane_count(config);
    let show = Show::new();
    let digest = rebuild::replay(
        &store,
        &input,
        &output,
        &|_| tables.lanes(lanes),
        &|progress| show.at(progress),
    )
    .map_err(failed)?;
    Ok((digest, show.finish()))
}

fn verify(config: &Config) -> Result<(), Exit> {
    let data_dir = DataDir::at(&config.identity.data_dir);
    let settings = foundation::log_settings(config, &data_dir, None);
    let options = foundation::store_options(config);
    let open = |topic| {
        let log = ReadOnlyLog::open(&settings, topic);
        let log = log.map_err(|error| foundation::log_exit(&error))?;
        let missing = || Exit::failed(format!("{} has no logs", data_dir.logs().display()));
        log.map(Arc::new).ok_or_else(missing)
    };
    // The store first: a running server goes on, and the logs hold at least what
    // the store was made from.
    let stored = foundation::open_beside(&data_dir, &options)?;
    let input = open(Topic::Input)?;
    let log_id = input.log_id();
    let input: Arc<dyn Log> = input;
    let output: Arc<dyn Log> = open(Topic::Output)?;
    let folder = scratch_folder(&data_dir)?;
    let scratch = Arc::new(Store::open(&folder.path().join("store"), &options).map_err(failed)?);
    let tables = Tables::load(config, &scratch, &input, log_id)?;
    let lanes = foundation::lane_count(config);
    let show = Show::new();
    let verified = rebuild::verify(
        &stored,
        &scratch,
        &input,
        &output,
        &|_| tables.lanes(lanes),
        &|progress| show.at(progress),
    )
    .map_err(failed)?;
    show.finish();
    println!("state digest {}", verified.stored);
    match verified.difference {
        None => {
            println!("{} records replayed, no difference", verified.records);
            Ok(())
        }
        Some(difference) => Err(Exit::with(
            FAILED,
            format!(
                "replay gives {}; first difference: {difference}",
                verified.replayed
            ),
        )),
    }
}

/// A folder that is removed when dropped, on the same disk as the data.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What remains is overwritten by the next verification.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn scratch_folder(data_dir: &DataDir) -> Result<Scratch, Exit> {
    let path = data_dir.scratch(std::process::id());
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path)
        .map_err(|error| failed(format!("{}: {error}", path.display())))?;
    Ok(Scratch(path))
}

/// Progress: a bar on a terminal, else a line now and then.
struct Show {
    bar: Option<ProgressBar>,
    begun: Instant,
    last: Mutex<(Instant, Progress)>,
}

impl Show {
    fn new() -> Show {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let style = "{bar:40} {human_pos}/{human_len} records  {per_sec}  {eta} left";
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style);
            }
            bar
        });
        let begun = Instant::now();
        let none = Progress { done: 0, total: 0 };
        Show {
            bar,
            begun,
            last: Mutex::new((begun, none)),
        }
    }

    /// Called from several threads, now and then.
    fn at(&self, progress: Progress) {
        let mut last = self.last.lock();
        // Partitions report side by side, so a report may be overtaken.
        last.1.total = progress.total;
        last.1.done = last.1.done.max(progress.done);
        if let Some(bar) = &self.bar {
            bar.set_length(progress.total);
            bar.set_position(last.1.done);
        } else if last.0.elapsed() >= LINE_EVERY {
            last.0 = Instant::now();
            let rate = last.1.done as f64 / self.begun.elapsed().as_secs_f64();
            let left = (last.1.total - last.1.done) as f64 / rate.max(1.0);
            let (done, total) = (last.1.done, last.1.total);
            eprintln!("{done}/{total} records, {rate:.0}/s, {left:.0} s left");
        }
    }

    /// Ends the bar; how many records there were.
    fn finish(&self) -> u64 {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.last.lock().1.done
    }
}
