//! Requests that no HTTP client makes: bodies that come slowly, or have no end.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::super::pem;

/// How a body comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slowly {
    /// A byte every 200 ms, without an end.
    Drip,
    /// One byte, and nothing more.
    Standstill,
    /// As fast as it goes, without an end.
    Endless,
    /// Half of what was announced, and then the connection is gone.
    CutShort,
}

/// Whoever is not answered in this time is not answered.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Sends a request with such a body to `a.test`; the status, if there was an answer
/// before the connection ended, and how long it took.
pub fn send(address: SocketAddr, head: &str, slowly: Slowly) -> (Option<u16>, Duration) {
    let begun = Instant::now();
    let mut stream = connect(address).expect("a connection");
    let length = match slowly {
        Slowly::CutShort => "Content-Length: 1000",
        _ => "Transfer-Encoding: chunked",
    };
    let head = format!("{head}{length}\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("the head is sent");
    let sent = match slowly {
        Slowly::CutShort => {
            let sent = stream.write_all(&[b' '; 500]);
            stream.conn.send_close_notify();
            sent
        }
        _ => stream.write_all(b"1\r\n{\r\n"),
    };
    sent.expect("a part of the body is sent");
    let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
    let mut answer = Vec::new();
    while begun.elapsed() < WAIT_MAX && !answer.contains(&b'\n') {
        let more: &[u8] = match slowly {
            Slowly::Drip => b"1\r\n \r\n",
            Slowly::Endless => chunk.as_bytes(),
            Slowly::Standstill | Slowly::CutShort => b"",
        };
        // Where more is not taken, an answer may have come all the same.
        let is_taken = stream.write_all(more).and_then(|()| stream.flush()).is_ok();
        let wait = match slowly {
            Slowly::Endless if is_taken => Duration::from_millis(1),
            _ => Duration::from_millis(200),
        };
        stream.sock.set_read_timeout(Some(wait)).expect("a time");
        let mut bytes = [0; 1024];
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&bytes[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    (status, begun.elapsed())
}

fn connect(address: SocketAddr) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(pem("test_ca.pem")).expect("a certificate");
    roots.add(ca).expect("a certificate");
    let config = ClientConfig::builder().with_root_certificates(roots);
    let config = Arc::new(config.with_no_client_auth());
    let name = "a.test".try_into().expect("a name");
    let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
    Ok(StreamOwned::new(connection, TcpStream::connect(address)?))
}
