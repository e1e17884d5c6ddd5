//! A file per verb of the command line.

pub mod config;
pub mod federation;
pub mod purge;
pub mod queues;
pub mod replay;
pub mod reports;
pub mod room;
mod room_text;
pub mod serve;
pub mod user;

use std::io;

use super::admin;
use super::data_dir::DataDir;
use super::exit::Exit;

/// The runtime on which a verb runs.
fn runtime() -> Result<tokio::runtime::Runtime, Exit> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Exit::failed(format!("async runtime: {error}")))
}

/// Asks the server that runs on the data folder; none if none runs.
fn ask_running(
    data_dir: &DataDir,
    request: &admin::Request,
) -> Result<Option<admin::Response>, Exit> {
    match admin::ask(&data_dir.admin_socket(), request) {
        Ok(response) => Ok(Some(response)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(Exit::failed(format!("the running server: {error}"))),
    }
}

/// The running server gave an answer of another kind.
fn misunderstood() -> Exit {
    Exit::failed("the running server did not understand the request; is it of another version?")
}

/// No server runs, or a socket was left by one that was killed.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}
