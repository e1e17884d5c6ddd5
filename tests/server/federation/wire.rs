//! The network between two servers: a TCP proxy that can be cut and mended.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Passes on what comes to `address`, while it is whole.
pub struct Wire {
    pub address: SocketAddr,
    cut: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Wire {
    /// Listens at a port of the system's choice.
    pub async fn to(target: SocketAddr) -> Wire {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, is_cut) = watch::channel(false);
        let accepting = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let is_cut = is_cut.clone();
                if !*is_cut.borrow() {
                    tokio::spawn(pass(near, target, is_cut));
                }
            }
        });
        Wire {
            address,
            cut,
            accepting,
        }
    }

    /// Ends all connections and refuses new ones.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    pub fn mend(&self) {
        self.cut.send_replace(false);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(mut near: TcpStream, target: SocketAddr, mut is_cut: watch::Receiver<bool>) {
    let Ok(mut far) = TcpStream::connect(target).await else {
        return;
    };
    tokio::select! {
        _ = copy_bidirectional(&mut near, &mut far) => {}
        // The sender goes with the test.
        _ = is_cut.wait_for(|cut| *cut) => {}
    }
}
