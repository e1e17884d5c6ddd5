//! Starts the real server in a folder of its own and talks to it over loopback.
//!
//! Nothing here knows the server's insides: it is configured by environment
//! variables, found by `run/addresses.json`, driven by HTTP and signals.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// A start that takes longer has failed. Debug builds on a busy machine are slow.
const START_MAX: Duration = Duration::from_secs(60);
/// A clean stop that takes longer has failed.
const STOP_MAX: Duration = Duration::from_secs(30);

/// Settings of a server that is not started yet.
pub struct Builder {
    environment: BTreeMap<String, String>,
    folder: Option<tempfile::TempDir>,
}

impl Builder {
    /// Sets a key, such as `LOG__PARTITIONS`.
    pub fn set(mut self, key: &str, value: impl ToString) -> Builder {
        self.environment
            .insert(format!("ENGRAM__{key}"), value.to_string());
        self
    }

    /// Starts the server and waits until it answers.
    pub async fn start(self) -> Server {
        let mut server = self.prepare();
        server.start().await;
        server
    }

    /// The server's folder and settings, without a process.
    pub fn prepare(self) -> Server {
        let folder = self.folder.unwrap_or_else(|| tempfile::tempdir().unwrap());
        let mut environment = self.environment;
        let data_dir = folder.path().join("data");
        environment.insert("ENGRAM__DATA_DIR".into(), data_dir.display().to_string());
        Server {
            folder: Some(folder),
            environment,
            data_dir,
            child: None,
            addresses: None,
        }
    }
}

/// A server that can be stopped, killed and started again on the same data.
pub struct Server {
    folder: Option<tempfile::TempDir>,
    environment: BTreeMap<String, String>,
    pub data_dir: PathBuf,
    child: Option<Child>,
    addresses: Option<Value>,
}

impl Server {
    /// Settings for tests: every port free, anyone may register, no rate limits,
    /// and no presence, so that no sync ends because somebody came.
    pub fn builder() -> Builder {
        let builder = Builder {
            environment: BTreeMap::new(),
            folder: None,
        };
        builder
            .set("SERVER_NAME", "hs.test")
            .set("CLIENT__BIND", "127.0.0.1:0")
            .set("TELEMETRY__METRICS_BIND", "127.0.0.1:0")
            .set("REGISTRATION__OPEN", true)
            .set("RATE_LIMITS__ENABLED", false)
            .set("PRESENCE__ENABLED", false)
    }

    /// Starts the process and waits for `run/addresses.json` of this process.
    pub async fn start(&mut self) {
        let command = self.command(&["serve"]);
        self.start_by(command).await;
    }

    /// Starts it with its data on a disk of its own of so many bytes, which
    /// goes away with the process. None where the system does not allow that.
    pub async fn start_on_small_disk(&mut self, bytes: u64) -> Option<()> {
        let allowed = Command::new("unshare").args(["-rm", "true"]).status();
        if !allowed.is_ok_and(|status| status.success()) {
            return None;
        }
        std::fs::create_dir_all(&self.data_dir).unwrap();
        let mut command = Command::new("unshare");
        command
            .args(["-rm", "sh", "-c"])
            .arg("mount -t tmpfs -o size=$0 tmpfs \"$1\" && shift && exec \"$@\"")
            .arg(bytes.to_string())
            .arg(&self.data_dir)
            .args([env!("CARGO_BIN_EXE_engram"), "serve"]);
        self.equip(&mut command);
        self.start_by(command).await;
        Some(())
    }

    /// The data folder as a process of ours sees it.
    fn seen_by(&self, pid: u32) -> PathBuf {
        let mut path = PathBuf::from(format!("/proc/{pid}/root"));
        path.extend(self.data_dir.components().skip(1));
        path
    }

    /// The data folder as the running server sees it.
    pub fn live_data_dir(&self) -> PathBuf {
        self.seen_by(self.pid())
    }

    async fn start_by(&mut self, mut command: Command) {
        assert!(self.child.is_none(), "the server runs already");
        let child = command.spawn().unwrap();
        let pid = child.id();
        self.child = Some(child);
        let begun = Instant::now();
        loop {
            // As the process sees it: its data may be on a disk of its own.
            if let Some(addresses) = read_addresses(&self.seen_by(pid), pid) {
                self.addresses = Some(addresses);
                return;
            }
            if let Some(status) = self
                .child
                .as_mut()
                .and_then(|child| child.try_wait().unwrap())
            {
                panic!(
                    "the server ended at its start with {status}\n{}",
                    self.output()
                );
            }
            assert!(
                begun.elapsed() < START_MAX,
                "the server did not come up\n{}",
                self.output()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A command of the same binary with the same settings; its output goes to [`Server::output`].
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_engram"));
        command.args(arguments);
        self.equip(&mut command);
        command
    }

    /// Gives a command the server's settings and the file for its output.
    fn equip(&self, command: &mut Command) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .unwrap();
        command
            .envs(&self.environment)
            .current_dir(self.folder())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
    }

    /// Changes a setting for the next start.
    pub fn set(&mut self, key: &str, value: impl ToString) {
        self.environment
            .insert(format!("ENGRAM__{key}"), value.to_string());
    }

    /// The folder that holds the data folder; also the working directory.
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().unwrap().path()
    }

    fn log_file(&self) -> PathBuf {
        self.folder().join("server.log")
    }

    /// What all processes of this server printed.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// SIGKILL, as a crash would.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the server runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM; waits for the end.
    pub async fn terminate(&mut self) -> ExitStatus {
        signal(self.pid(), "TERM");
        self.wait().await
    }

    /// Waits until the process ends by itself.
    pub async fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the server runs");
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if begun.elapsed() > STOP_MAX {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("the server did not stop\n{}", self.output());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Address and port of a listener.
    pub fn listener(&self, name: &str) -> &str {
        let address = self.addresses.as_ref().and_then(|all| all[name].as_str());
        address.unwrap_or_else(|| panic!("no {name} listener"))
    }

    fn address(&self, name: &str) -> String {
        format!("http://{}", self.listener(name))
    }

    /// A client without a token.
    pub fn api(&self) -> Api {
        Api::new(self.address("client"))
    }

    /// The listener of `/metrics` and `/health`.
    pub fn metrics(&self) -> Api {
        Api::new(self.address("metrics"))
    }

    /// Registers a user with the password of [`password`], and logs them in.
    pub async fn register(&self, name: &str) -> Api {
        let body = json!({
            "username": name, "password": password(name), "auth": { "type": "m.login.dummy" },
        });
        let answer = self
            .api()
            .post("/_matrix/client/v3/register", body)
            .await
            .ok();
        let mut api = self.api();
        api.token = answer["access_token"].as_str().map(str::to_owned);
        api.user_id = answer["user_id"].as_str().unwrap().to_owned();
        api
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let output = self.output();
            let start = output.len().saturating_sub(6000);
            let start = (start..output.len())
                .find(|at| output.is_char_boundary(*at))
                .unwrap_or(0);
            eprintln!("--- server output ---\n{}", &output[start..]);
        }
    }
}

/// The password under which [`Server::register`] registers a user.
pub fn password(name: &str) -> String {
    format!("{name}'s password")
}

/// Sends a signal by the system's `kill`.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill")
        .arg(format!("-{name}"))
        .arg(pid.to_string())
        .status();
    assert!(status.unwrap().success());
}

fn read_addresses(data_dir: &Path, pid: u32) -> Option<Value> {
    let text = std::fs::read(data_dir.join("run/addresses.json")).ok()?;
    let addresses: Value = serde_json::from_slice(&text).ok()?;
    (addresses["pid"].as_u64() == Some(u64::from(pid))).then_some(addresses)
}

/// An HTTP client, with the token of a user once there is one.
#[derive(Clone)]
pub struct Api {
    base: String,
    http: reqwest::Client,
    pub token: Option<String>,
    pub user_id: String,
}

/// An answer, read as a whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    /// `Null` where the body is no JSON.
    pub body: Value,
    pub text: String,
}

impl Answer {
    /// The body of a 200; panics with the answer otherwise.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        self.body
    }

    /// Asserts status and Matrix error code.
    #[track_caller]
    pub fn refused(self, status: u16, errcode: &str) -> Value {
        let found = (self.status.as_u16(), self.body["errcode"].as_str());
        assert_eq!(found, (status, Some(errcode)), "{}", self.text);
        self.body
    }
}

impl Api {
    fn new(base: String) -> Api {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(60))
            .build()
            .unwrap();
        Api {
            base,
            http,
            token: None,
            user_id: String::new(),
        }
    }

    /// Sends a request; fails where no answer came, as after a crash.
    pub async fn try_request(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> reqwest::Result<Answer> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Answer { status, body, text })
    }

    pub async fn request(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.try_request(method, path, body).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.request(Method::POST, path, Some(body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.request(Method::PUT, path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.request(Method::DELETE, path, None).await
    }

    /// A request with a body that is not JSON, or not meant to be.
    pub async fn raw(&self, method: Method, path: &str, body: Vec<u8>) -> Answer {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.base))
            .body(body);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { status, body, text }
    }

    /// Creates a room and returns its id.
    pub async fn create_room(&self, body: Value) -> String {
        let room = self.post("/_matrix/client/v3/createRoom", body).await.ok();
        room["room_id"].as_str().unwrap().to_owned()
    }

    pub async fn join(&self, room: &str) -> Answer {
        self.post(
            &format!("/_matrix/client/v3/join/{}", escape(room)),
            json!({}),
        )
        .await
    }

    /// Sends a text under a transaction id that was not used before.
    pub async fn send_text(&self, room: &str, text: &str) -> String {
        static TRANSACTIONS: AtomicU64 = AtomicU64::new(0);
        let txn = format!("h{}", TRANSACTIONS.fetch_add(1, Ordering::Relaxed));
        self.send(room, &txn, json!({ "msgtype": "m.text", "body": text }))
            .await
    }

    /// Sends an `m.room.message` under the transaction id given.
    pub async fn send(&self, room: &str, txn: &str, content: Value) -> String {
        let path = format!(
            "/_matrix/client/v3/rooms/{}/send/m.room.message/{}",
            escape(room),
            escape(txn)
        );
        let answer = self.put(&path, content).await.ok();
        answer["event_id"].as_str().unwrap().to_owned()
    }

    /// `/sync` with query parameters such as `since=…&timeout=0`.
    pub async fn sync(&self, query: &str) -> Value {
        self.get(&format!("/_matrix/client/v3/sync?{query}"))
            .await
            .ok()
    }
}

/// Percent-encodes a path segment.
pub fn escape(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
