//! Many clients that wait at once, on one thread: what they cost must be small
//! beside what the server does.

use std::time::Instant;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Answers are read in pieces of this.
const PIECE_BYTES: usize = 4096;

/// One keep-alive connection.
pub struct Waiter {
    stream: TcpStream,
    token: String,
    answer: Vec<u8>,
}

impl Waiter {
    pub async fn connect(address: &str, token: &str) -> Waiter {
        let stream = TcpStream::connect(address).await.expect("connects");
        stream.set_nodelay(true).expect("nodelay");
        Waiter {
            stream,
            token: token.to_owned(),
            answer: Vec::new(),
        }
    }

    /// Sends a `/sync` with this query and does not wait for its answer.
    pub async fn ask(&mut self, query: &str) {
        let request = format!(
            "GET /_matrix/client/v3/sync?{query} HTTP/1.1\r\nHost: bench.test\r\n\
             Authorization: Bearer {}\r\n\r\n",
            self.token
        );
        let written = self.stream.write_all(request.as_bytes()).await;
        written.expect("request is written");
    }

    /// Reads the answer; gives when it was there.
    pub async fn hear(&mut self) -> Instant {
        self.answer.clear();
        self.hear_rest().await
    }

    /// Reads on where [`Waiter::has_heard`] began.
    pub async fn hear_rest(&mut self) -> Instant {
        let (body_at, length) = loop {
            if let Some(head) = head_of(&self.answer) {
                break head;
            }
            self.read_more().await;
        };
        while self.answer.len() < body_at + length {
            self.read_more().await;
        }
        let at = Instant::now();
        self.answer.drain(..body_at);
        at
    }

    /// Whether an answer has begun to come.
    pub fn has_heard(&mut self) -> bool {
        self.answer.clear();
        let mut piece = [0; PIECE_BYTES];
        let read = self.stream.try_read(&mut piece).unwrap_or(0);
        self.answer.extend_from_slice(&piece[..read]);
        read > 0
    }

    /// The token that the last answer gave. Read later than the answer, so that
    /// it costs no time of those who still wait.
    pub fn next(&self) -> String {
        let body: Value = serde_json::from_slice(&self.answer).expect("an answer of sync");
        body["next_batch"].as_str().expect("a token").to_owned()
    }

    async fn read_more(&mut self) {
        let mut piece = [0; PIECE_BYTES];
        let read = self.stream.read(&mut piece).await.expect("answer");
        assert_ne!(read, 0, "the server closed the connection");
        self.answer.extend_from_slice(&piece[..read]);
    }
}

/// Where the body begins, and its length; none while the head is not whole.
fn head_of(answer: &[u8]) -> Option<(usize, usize)> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).expect("a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse().expect("a length"))
    });
    Some((end + 4, length.expect("a length")))
}
