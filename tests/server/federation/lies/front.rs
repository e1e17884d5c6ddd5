//! What stands in front of a server: connections that go wrong before there is
//! any HTTP on them.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Open,
    /// It is closed at once.
    Closed,
    /// It is accepted, and nothing is ever said.
    Mute,
    /// Something else than TLS is spoken, without an end.
    NotTls,
    /// It breaks in the middle of the handshake.
    Cut,
}

impl Way {
    /// Those that lie.
    pub const LIES: [Way; 4] = [Way::Closed, Way::Mute, Way::NotTls, Way::Cut];
}

/// Bytes of the answering side of a handshake that come through.
const CUT_AFTER: u64 = 100;

/// See the module.
pub struct Front {
    way: Arc<Mutex<Way>>,
    accepting: JoinHandle<()>,
}

impl Front {
    /// Passes what comes to `listener` on to another address.
    pub fn before(listener: std::net::TcpListener, target: SocketAddr) -> Front {
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let way = Arc::new(Mutex::new(Way::Open));
        let ways = way.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let way = *ways.lock();
                tokio::spawn(go(way, near, target));
            }
        });
        Front { way, accepting }
    }

    /// From now on this becomes of new connections.
    pub fn set(&self, way: Way) {
        *self.way.lock() = way;
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn go(way: Way, mut near: TcpStream, target: SocketAddr) {
    let mut bytes = [0; 4096];
    match way {
        Way::Closed => {}
        Way::Mute => while near.read(&mut bytes).await.is_ok_and(|read| read > 0) {},
        Way::NotTls => {
            bytes.fill(b'x');
            while near.write_all(&bytes).await.is_ok() {}
        }
        Way::Open => {
            let far = TcpStream::connect(target).await;
            if let Ok(mut far) = far {
                let _ = copy_bidirectional(&mut near, &mut far).await;
            }
        }
        Way::Cut => {
            let Ok(far) = TcpStream::connect(target).await else {
                return;
            };
            let (from, mut to) = far.into_split();
            let (mut near_from, mut near_to) = near.into_split();
            let there = tokio::io::copy(&mut near_from, &mut to);
            let mut some = from.take(CUT_AFTER);
            let back = tokio::io::copy(&mut some, &mut near_to);
            tokio::select! {
                _ = there => {}
                _ = back => {}
            }
        }
    }
}
