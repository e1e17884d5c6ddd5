//! `engram serve`: opens the house, then the doors; leaves in the reverse order.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;

use crate::api::ops;
use crate::app::admin;
use crate::app::data_dir::{self, DataDir};
use crate::app::doors::{Addresses, Doors, OpenDoors};
use crate::app::exit::{Exit, LOG_FAILED};
use crate::app::house::{Failure, House};
use crate::app::shutdown::{Asked, Signals};
use crate::app::tasks;
use crate::clock;
use crate::config::Config;
use crate::telemetry::{metrics, names};

/// How long requests in flight may take at a stop. Long polls end by themselves
/// or are cut off; their clients ask again.
const GRACE: Duration = Duration::from_secs(3);
/// The same after a failure, when no write can succeed any more.
const GRACE_AFTER_FAILURE: Duration = Duration::from_millis(300);
/// How long transactions under way to other servers may take at a stop, from when
/// the doors begin to close. What takes longer is repeated at the next start.
const SENDING_GRACE: Duration = Duration::from_secs(5);

/// Serves until a signal or a failure.
pub fn run(config: &Config, file: Option<&Path>) -> Result<(), Exit> {
    // Before anything takes a handle of a metric.
    let recorder = metrics::install().map_err(|error| Exit::failed(error.to_string()))?;
    ::metrics::gauge!(names::STARTED).set(clock::now_ms() as f64 / 1000.0);
    super::runtime()?.block_on(async {
        let mut signals = Signals::install().map_err(|error| Exit::failed(error.to_string()))?;
        let identity = &config.identity;
        let (folder, lock) = DataDir::open(&identity.data_dir, &identity.server_name)?;
        remove_addresses(&folder)?;
        let doors = Doors::bind(config).await?;
        let house = tokio::select! {
            house = House::open_locked(config, folder, lock) => house?,
            // What is open by then is left as after a crash, which loses nothing.
            () = stop_asked(&mut signals) => return Ok(()),
        };
        let addresses = doors
            .addresses()
            .map_err(|error| Exit::failed(error.to_string()))?;
        let router = crate::api::router(house.api.clone());
        let ops = ops::router(recorder.clone());
        let doors = doors
            .open(&router, ops)
            .map_err(|error| Exit::failed(error.to_string()))?;
        let socket = admin::listen(&house.data_dir.admin_socket())
            .map_err(|error| Exit::failed(format!("control socket: {error}")))?;
        let mut running = tasks::start(&house, recorder);
        let desk = admin::Desk {
            accounts: house.accounts().clone(),
            rooms: house.rooms.clone(),
            purger: house.purger.clone(),
            sender: house.readers.sender.clone(),
        };
        running.push(tokio::spawn(admin::serve(socket, desk)));
        write_addresses(&house.data_dir, &addresses)?;
        greet(config, file, &addresses);
        until_the_end(house, doors, signals, running).await
    })
}

async fn stop_asked(signals: &mut Signals) {
    while signals.next().await != Asked::Stop {}
}

async fn until_the_end(
    mut house: House,
    mut doors: OpenDoors,
    mut signals: Signals,
    running: Vec<JoinHandle<()>>,
) -> Result<(), Exit> {
    let failure = loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::Stop => break None,
                Asked::Reload => doors.reload_certificate().await,
            },
            failure = house.failed() => break Some(failure),
            error = doors.failed() => break Some(Failure::Part(format!("a listener: {error}"))),
        }
    };
    let exit = failure.map(|failure| match failure {
        Failure::Log(why) => Exit::with(LOG_FAILED, format!("the log failed: {why}")),
        Failure::Part(why) => Exit::failed(why),
    });
    let folder = house.data_dir.clone();
    match exit {
        None => {
            tracing::info!("stopping");
            house.readers.sync.release();
            let sender = &house.readers.sender;
            tokio::join!(doors.close(GRACE), sender.leave(SENDING_GRACE));
            end(running).await;
            house.close().await?;
            // Tidiness only: readers of these check which process wrote them.
            let _ = remove_addresses(&folder);
            let _ = std::fs::remove_file(folder.admin_socket());
            tracing::info!("stopped");
            Ok(())
        }
        Some(exit) => {
            tracing::error!(why = %exit.message, "cannot go on, stopping");
            doors.close(GRACE_AFTER_FAILURE).await;
            end(running).await;
            house.abandon().await;
            Err(exit)
        }
    }
}

async fn end(running: Vec<JoinHandle<()>>) {
    for task in running {
        task.abort();
        // Aborted, or ended before; nothing is left to be told.
        let _ = task.await;
    }
}

fn remove_addresses(folder: &DataDir) -> Result<(), Exit> {
    match std::fs::remove_file(folder.addresses()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Exit::failed(format!("addresses.json: {error}")))
        }
        _ => Ok(()),
    }
}

/// Tells other programs where this process listens; written when it answers.
fn write_addresses(folder: &DataDir, addresses: &Addresses) -> Result<(), Exit> {
    let text = json!({
        "pid": std::process::id(),
        "client": addresses.client,
        "federation": addresses.federation,
        "metrics": addresses.metrics,
    });
    data_dir::replace(&folder.addresses(), text.to_string().as_bytes())
        .map_err(|error| Exit::failed(format!("addresses.json: {error}")))
}

/// Tells a person what to do next.
fn greet(config: &Config, file: Option<&Path>, addresses: &Addresses) {
    let program = std::env::args()
        .next()
        .unwrap_or_else(|| "engram".to_owned());
    let with_file = file.map_or(String::new(), |file| {
        format!(" --config {}", file.display())
    });
    let client = match &config.client.public_url {
        Some(url) => url.clone(),
        None => format!("http://{}", addresses.client),
    };
    let mut text = format!(
        "\nEngram {} is ready and serves {}\n\n  \
         Homeserver address for clients:  {client}\n  \
         First account:                   {program}{with_file} user create NAME --admin\n",
        env!("CARGO_PKG_VERSION"),
        config.identity.server_name,
    );
    if config.registration.open {
        text.push_str("  Registration:                    open, anyone who reaches this address may register\n");
    } else if config.registration.token.is_some() {
        text.push_str("  Registration:                    with the token of registration.token\n");
    }
    if let Some(address) = addresses.federation {
        text.push_str(&format!("  Other servers:                   {address}\n"));
    }
    if let Some(address) = addresses.metrics {
        text.push_str(&format!(
            "  Metrics and health:              http://{address}/metrics, /health\n"
        ));
    }
    // A closed standard output is no reason to stop serving.
    let _ = writeln!(std::io::stdout(), "{text}");
}
