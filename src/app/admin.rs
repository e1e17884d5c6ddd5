//! The control socket of a running server: `run/admin.sock`.
//!
//! One request a connection: a line of JSON in, a line of JSON out. Who may open
//! the socket (mode 0600 in a folder of mode 0700) owns the data anyway, so there
//! is no further authentication.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::{accounts, purges, queues, reports, rooms};
use crate::readers::federation_sender::FederationSender;
use crate::writers::client::accounts::Accounts;
use crate::writers::client::room_purge::RoomPurger;

/// Longest request.
const REQUEST_BYTES_MAX: u64 = 64 << 10;
/// Longest answer: a long list of rooms, or of reports.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(30);
/// A longer path does not fit into a socket's address.
const ADDRESS_BYTES_MAX: usize = 100;

/// What an operator asks for.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Account(accounts::Request),
    Room(rooms::Request),
    Reports(reports::Request),
    Purge(purges::Request),
    Queues(queues::Request),
}

/// The answer to a request of the same kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    Account(accounts::Response),
    Room(rooms::Response),
    Reports(reports::Response),
    Purge(purges::Response),
    Queues(queues::Response),
}

/// Who answers.
#[derive(Clone)]
pub struct Desk {
    pub accounts: Accounts,
    pub rooms: Arc<rooms::Desk>,
    pub purger: RoomPurger,
    pub sender: Arc<FederationSender>,
}

impl Desk {
    async fn perform(&self, request: Request) -> Response {
        match request {
            Request::Account(request) => {
                Response::Account(accounts::perform(&self.accounts, request).await)
            }
            Request::Purge(request) => {
                Response::Purge(purges::perform(&self.purger, request).await)
            }
            Request::Queues(request) => {
                let sender = self.sender.clone();
                let answered = spawn_blocking(move || queues::answer(&sender, request)).await;
                let refused = |_| queues::Response::Refused {
                    why: "looking at queues panicked, see the server's log".to_owned(),
                };
                Response::Queues(answered.unwrap_or_else(refused))
            }
            Request::Room(request) => {
                let rooms = self.rooms.clone();
                let answered = spawn_blocking(move || rooms.answer(&request)).await;
                let refused = |_| rooms::Response::Refused {
                    why: "looking at rooms panicked, see the server's log".to_owned(),
                };
                Response::Room(answered.unwrap_or_else(refused))
            }
            Request::Reports(request) => {
                let rooms = self.rooms.clone();
                let answered = spawn_blocking(move || reports::answer(&rooms, &request)).await;
                let refused = |_| reports::Response::Refused {
                    why: "looking at reports panicked, see the server's log".to_owned(),
                };
                Response::Reports(answered.unwrap_or_else(refused))
            }
        }
    }
}

/// A path of a socket that is short enough for an address, as long as this lives.
struct Address {
    path: PathBuf,
    /// Kept open: `path` goes through its number.
    _folder: Option<File>,
}

impl Address {
    fn of(path: &Path) -> io::Result<Address> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        if path.as_os_str().len() <= ADDRESS_BYTES_MAX {
            return Ok(Address {
                path: path.to_owned(),
                _folder: None,
            });
        }
        let folder = File::open(folder)?;
        let short = format!("/proc/self/fd/{}", folder.as_raw_fd());
        Ok(Address {
            path: Path::new(&short).join(name),
            _folder: Some(folder),
        })
    }
}

/// Opens the socket in place of one that an earlier process left. The caller
/// holds the lock of the data folder, so no other server listens there.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => (),
    }
    let listener = StdListener::bind(Address::of(path)?.path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Answers until dropped.
pub async fn serve(listener: UnixListener, desk: Desk) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let desk = desk.clone();
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, &desk).await {
                        tracing::warn!(%error, "request on the control socket not answered");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "control socket");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, desk: &Desk) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut read = tokio::io::BufReader::new(read.take(REQUEST_BYTES_MAX));
    timeout(PATIENCE, read.read_line(&mut line)).await??;
    let request: Request = serde_json::from_str(&line)?;
    let mut response = serde_json::to_vec(&desk.perform(request).await)?;
    response.push(b'\n');
    write.write_all(&response).await
}

/// Asks the running server.
///
/// Errors: `NotFound` or `ConnectionRefused` if none runs.
pub fn ask(path: &Path, request: &Request) -> io::Result<Response> {
    let mut stream = StdStream::connect(Address::of(path)?.path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}
