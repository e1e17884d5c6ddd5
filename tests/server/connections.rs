//! What one connection may ask for at a time, and how long a head of a request may
//! be (docs/security-tests.md, HTTP/2): our numbers, not the defaults of libraries.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::Server;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_STREAM_AND_HEADERS: u8 = 5;
/// `GET http /`, by the static table of HPACK.
const GET: [u8; 3] = [0x82, 0x86, 0x84];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

async fn speak_http2(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    stream
}

async fn status(address: SocketAddr, headers: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("GET /_matrix/client/versions HTTP/1.1\r\nhost: x\r\n{headers}");
    let head = format!("{head}connection: close\r\n\r\n");
    // The server may have answered before all of it is there.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()[9..].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn rustsec_2026_0258_a_connection_has_bounds_of_ours() {
    let server = Server::builder().start().await;
    let address: SocketAddr = server.listener("client").parse().unwrap();

    let mut stream = speak_http2(address).await;
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], SETTINGS);
    let mut settings = vec![0; usize::from(head[2])];
    stream.read_exact(&mut settings).await.unwrap();
    let of = |id: u16| {
        let found = settings
            .chunks(6)
            .find(|pair| pair[..2] == id.to_be_bytes());
        found.map(|pair| u32::from_be_bytes(pair[2..].try_into().unwrap()))
    };
    assert_eq!(of(3), Some(100), "streams at a time: {settings:?}");
    assert_eq!(of(6), Some(32 * 1024), "bytes of a head: {settings:?}");

    // A head that goes on for ever is not waited for.
    let mut stream = speak_http2(address).await;
    stream.write_all(&frame(HEADERS, 0, 1, &GET)).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let closed = tokio::spawn(async move {
        let mut bytes = [0; 4096];
        while matches!(reading.read(&mut bytes).await, Ok(1..)) {}
    });
    let mut field = vec![0, 1, b'a', 100];
    field.extend([b'x'; 100]);
    let more = frame(CONTINUATION, 0, 1, &field.repeat(150));
    let mut sent = 0;
    while !closed.is_finished() && sent < 2_000 && writing.write_all(&more).await.is_ok() {
        sent += 1;
        tokio::task::yield_now().await;
    }
    timeout(Duration::from_secs(10), closed)
        .await
        .expect("is closed")
        .unwrap();
    assert!(sent < 2_000, "32 MB of headers were taken");

    // Requests that are taken back at once keep nobody out.
    let mut stream = speak_http2(address).await;
    for number in 0..5_000_u32 {
        let id = 2 * number + 1;
        let mut both = frame(HEADERS, END_STREAM_AND_HEADERS, id, &GET);
        both.extend(frame(RESET, 0, id, &8_u32.to_be_bytes()));
        if stream.write_all(&both).await.is_err() {
            break;
        }
    }
    assert_eq!(status(address, "").await, "200");

    let lines = |count: usize| {
        (0..count)
            .map(|n| format!("x-{n}: y\r\n"))
            .collect::<String>()
    };
    assert_eq!(status(address, &lines(90)).await, "200");
    assert_eq!(status(address, &lines(101)).await, "431");
    let long = format!("x: {}\r\n", "y".repeat(40 * 1024));
    assert_eq!(status(address, &long).await, "431");
}
