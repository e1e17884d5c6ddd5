//! What the server's benches share: a server process on a fresh data folder, a
//! blocking HTTP client that costs next to nothing, and percentiles.

#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Clock ticks per second of `/proc/PID/stat`, fixed by the Linux ABI.
const TICKS_PER_SECOND: u64 = 100;

/// A running server; killed when dropped.
pub struct Server {
    process: Child,
    pub address: String,
    pub data_dir: PathBuf,
    _folder: tempfile::TempDir,
}

impl Server {
    /// Starts the bench profile's `engram` on free ports and waits until it answers.
    pub fn start() -> Server {
        Server::start_with(&[])
    }

    /// The same with more settings, by the names of their environment variables.
    pub fn start_with(settings: &[(&str, &str)]) -> Server {
        let folder = tempfile::tempdir().expect("temporary folder");
        let data_dir = folder.path().join("data");
        let process = Command::new(env!("CARGO_BIN_EXE_engram"))
            .arg("serve")
            .env("ENGRAM__SERVER_NAME", "bench.test")
            .env("ENGRAM__DATA_DIR", &data_dir)
            .env("ENGRAM__CLIENT__BIND", "127.0.0.1:0")
            .env("ENGRAM__TELEMETRY__METRICS_BIND", "127.0.0.1:0")
            .env("ENGRAM__REGISTRATION__OPEN", "true")
            .env("ENGRAM__RATE_LIMITS__ENABLED", "false")
            .envs(settings.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("engram starts");
        let address = wait_for_address(&data_dir.join("run/addresses.json"));
        Server {
            process,
            address,
            data_dir,
            _folder: folder,
        }
    }

    /// Processor time that the server has used so far.
    pub fn cpu(&self) -> Duration {
        cpu_of(&self.process.id().to_string())
    }

    /// Waits until the server has done what there was to do: it used next to no
    /// processor time for a while.
    pub fn await_quiet(&self) {
        const WHILE: Duration = Duration::from_millis(100);
        loop {
            let before = self.cpu();
            std::thread::sleep(WHILE);
            if self.cpu().saturating_sub(before) < WHILE / 5 {
                return;
            }
        }
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))
            .unwrap_or_default();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap_or_default();
        line.split_whitespace()
            .nth(1)
            .and_then(|kib| kib.parse::<u64>().ok())
            .unwrap_or(0)
            * 1024
    }

    /// A connection of its own.
    pub fn client(&self) -> Client {
        Client::connect(&self.address)
    }

    /// Registers a user; gives the access token.
    pub fn register(&self, name: &str) -> String {
        let body = json!({
            "username": name, "password": "a bench password", "auth": { "type": "m.login.dummy" },
        });
        let answer = self
            .client()
            .call("POST", "/_matrix/client/v3/register", None, &body);
        answer["access_token"]
            .as_str()
            .expect("registered")
            .to_owned()
    }
}

/// Processor time that a process has used so far; `self` is this one.
pub fn cpu_of(process: &str) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: u64 = [11, 12]
        .iter()
        .filter_map(|at| fields.get(*at)?.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn wait_for_address(file: &Path) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        let parsed = std::fs::read(file)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        if let Some(address) = parsed.as_ref().and_then(|value| value["client"].as_str()) {
            return address.to_owned();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the server did not come up");
}

/// A keep-alive HTTP/1.1 connection.
pub struct Client {
    stream: BufReader<TcpStream>,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Client {
    pub fn connect(address: &str) -> Client {
        let stream = TcpStream::connect(address).expect("connects");
        stream.set_nodelay(true).expect("nodelay");
        Client {
            stream: BufReader::new(stream),
            request: Vec::new(),
            answer: Vec::new(),
        }
    }

    /// Sends one request of a user; gives the status and leaves the body in
    /// `self.body()`.
    pub fn send(&mut self, method: &str, path: &str, token: Option<&str>, body: &[u8]) -> u16 {
        let bearer = token.map(|token| format!("Bearer {token}"));
        self.request(method, path, bearer.as_deref(), body)
    }

    /// [`Client::send`] with any `Authorization` header.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        authorization: Option<&str>,
        body: &[u8],
    ) -> u16 {
        self.request.clear();
        write!(
            self.request,
            "{method} {path} HTTP/1.1\r\nHost: bench.test\r\n"
        )
        .expect("memory");
        if let Some(authorization) = authorization {
            write!(self.request, "Authorization: {authorization}\r\n").expect("memory");
        }
        write!(
            self.request,
            "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .expect("memory");
        self.request.extend_from_slice(body);
        self.stream
            .get_mut()
            .write_all(&self.request)
            .expect("request is written");
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("status line");
        let status = line
            .split_whitespace()
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or(0);
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line).expect("header");
            let header = line.trim_end();
            if header.is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        self.answer.resize(length, 0);
        self.stream.read_exact(&mut self.answer).expect("body");
        status
    }

    pub fn answer_bytes(&self) -> usize {
        self.answer.len()
    }

    pub fn body(&self) -> Value {
        serde_json::from_slice(&self.answer).unwrap_or(Value::Null)
    }

    /// A request that must succeed, outside of what is measured.
    pub fn call(&mut self, method: &str, path: &str, token: Option<&str>, body: &Value) -> Value {
        let bytes = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        let status = self.send(method, path, token, &bytes);
        let answer = self.body();
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer
    }
}

/// Latencies of one scenario.
pub struct Latencies(Vec<Duration>);

impl Latencies {
    pub fn new(mut all: Vec<Duration>) -> Latencies {
        all.sort_unstable();
        Latencies(all)
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The latency that `percent` of the requests stayed within, in milliseconds.
    pub fn percentile_ms(&self, percent: f64) -> f64 {
        let at =
            ((self.0.len() as f64 * percent / 100.0) as usize).min(self.0.len().saturating_sub(1));
        self.0
            .get(at)
            .map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
    }
}

/// Bytes that a folder takes on disk, holes and zero-filled tails of segments aside.
pub fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => folder_bytes(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Median and 99th percentile of a bare 4 KiB overwrite and `fdatasync` on the
/// disk below `folder`, in milliseconds: the floor under every durable answer.
pub fn bare_flush_ms(folder: &Path) -> (f64, f64) {
    let path = folder.join("flush.bench");
    std::fs::write(&path, vec![0; 4 << 20]).expect("file");
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("file");
    file.sync_all().expect("sync");
    let block = [1; 4096];
    let mut all = Vec::new();
    for round in 0..500_u64 {
        use std::os::unix::fs::FileExt;
        let begun = Instant::now();
        file.write_all_at(&block, round * 4096).expect("write");
        file.sync_data().expect("sync");
        all.push(begun.elapsed());
    }
    let _ = std::fs::remove_file(&path);
    let all = Latencies::new(all);
    (all.percentile_ms(50.0), all.percentile_ms(99.0))
}
