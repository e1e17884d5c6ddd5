//! A file per verb of the command line.

pub mod config;
pub mod replay;
pub mod serve;
pub mod user;

use super::exit::Exit;

/// The runtime on which a verb runs.
fn runtime() -> Result<tokio::runtime::Runtime, Exit> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Exit::failed(format!("async runtime: {error}")))
}
