//! Every key with its type, default and comment.
//!
//! A new key is a line here and nothing else: `engram config` prints it, the
//! file and `ENGRAM__SECTION__KEY` set it, errors name what it expects.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ruma::{OwnedServerName, RoomVersionId};

use super::setting::{Raw, Setting};
use super::values::{AddressRange, ByteSize, Count, LogFilter, LogFormat, Secret, StaticAddress};

/// What is known of a key besides its current value.
pub struct Key {
    pub name: &'static str,
    /// Lines of comment.
    pub comment: &'static [&'static str],
    /// What the key takes, in words.
    pub expected: String,
    /// The current value as TOML; none where the key is not set.
    pub value: Option<String>,
    /// Test switches that no file may set.
    pub env_only: bool,
}

/// Why a key was not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetError {
    /// The section has no such key.
    UnknownKey,
    /// The key is a test switch and was in a file.
    EnvironmentOnly,
    /// The value is not what the key takes; in words, what it does.
    Expected(String),
}

/// A table of the file. The section with the empty name is the file's top.
pub trait Section {
    /// Its keys in the order in which they are printed.
    fn keys(&self) -> Vec<Key>;
    /// Sets one key.
    fn set(&mut self, key: &str, raw: Raw<'_>) -> Result<(), SetError>;
}

macro_rules! section {
    (@env_only) => { false };
    (@env_only env_only) => { true };
    (
        $(#[doc = $about:literal])*
        $section:ident {
            $( $(#[doc = $comment:literal])* $key:ident: $type:ty = $default:expr $(, $env_only:ident)?; )*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $section {
            $( $(#[doc = $comment])* pub $key: $type, )*
        }

        impl Default for $section {
            fn default() -> $section {
                $section { $( $key: $default, )* }
            }
        }

        impl Section for $section {
            fn keys(&self) -> Vec<Key> {
                vec![ $( Key {
                    name: stringify!($key),
                    comment: &[$($comment),*],
                    expected: <$type as Setting>::expected(),
                    value: self.$key.to_toml(),
                    env_only: section!(@env_only $($env_only)?),
                }, )* ]
            }

            fn set(&mut self, key: &str, raw: Raw<'_>) -> Result<(), SetError> {
                match key {
                    $( stringify!($key) => {
                        if section!(@env_only $($env_only)?) && matches!(raw, Raw::Toml(_)) {
                            return Err(SetError::EnvironmentOnly);
                        }
                        self.$key = <$type as Setting>::read(raw)
                            .ok_or_else(|| SetError::Expected(<$type as Setting>::expected()))?;
                        Ok(())
                    } )*
                    _ => Err(SetError::UnknownKey),
                }
            }
        }
    };
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

fn default_server_name() -> OwnedServerName {
    #[allow(clippy::expect_used, reason = "a literal that parses")]
    OwnedServerName::try_from("localhost").expect("localhost is a server name")
}

section! {
    /// Who this server is and where it keeps everything.
    Identity {
        /// The name behind the colon of every user and room of this server. It can
        /// never be changed once there is data; changing it is refused at start.
        server_name: OwnedServerName = default_server_name();
        /// Folder of the logs, the derived store, the signing keys and media. It is
        /// created with mode 0700. Backups must contain it, except for `store/`.
        data_dir: PathBuf = PathBuf::from("data");
        /// Whom users may turn to when the server refuses work, as a URI such as
        /// "mailto:admin@example.org". Unset: postmaster at the server's name.
        admin_contact: Option<String> = None;
    }
}

section! {
    /// The listener for clients: plain HTTP, meant for the loopback interface or a
    /// reverse proxy. It answers the whole API.
    Client {
        /// Port 0 takes any free port; `run/addresses.json` in the data folder tells which.
        bind: SocketAddr = loopback(8008);
        /// The address under which clients reach this server from outside, for
        /// `/.well-known/matrix/client`. Unset: clients are told nothing there.
        public_url: Option<String> = None;
        /// Take a client's address from the last entry of `X-Forwarded-For`. Only behind a
        /// reverse proxy that sets it, or anyone can pretend to be anyone to the rate limits.
        trust_forwarded_for: bool = false;
        /// Lifetime in seconds of access tokens of clients that can refresh them.
        access_token_seconds: Count<60, 31_536_000> = Count(3600);
    }
}

section! {
    /// The listener for other servers: TLS. It answers the whole API as well.
    Federation {
        /// Unset: no listener for other servers. The usual value is "[::]:8448".
        bind: Option<SocketAddr> = None;
        /// Certificate chain, PEM. Read again on SIGHUP.
        tls_cert: Option<PathBuf> = None;
        /// Private key of the certificate, PEM.
        tls_key: Option<PathBuf> = None;
        /// Certificates that are trusted beside the system's when we connect to
        /// other servers, PEM.
        extra_ca: Option<PathBuf> = None;
        /// Servers that are reached at a fixed address instead of by discovery:
        /// { "other.example" = "10.0.0.7:8448" }. In the environment: other.example=10.0.0.7:8448
        static_hosts: BTreeMap<OwnedServerName, StaticAddress> = BTreeMap::new();
        /// Told at /.well-known/matrix/server of this listener and the client's: the name
        /// (and port) at which other servers find us. Unset: nothing is told.
        delegate_to: Option<OwnedServerName> = None;
        /// Other servers may read the directory of our public rooms: those that their
        /// owners published.
        public_rooms: bool = true;
        /// Servers that are asked for the signing keys of those that do not answer.
        notaries: Vec<OwnedServerName> = Vec::new();
        /// Address ranges that we never connect to on behalf of a remote name.
        deny_addresses: Vec<AddressRange> = AddressRange::private();
        /// Longest time in seconds to connect to another server, TLS included.
        connect_seconds: Count<1, 600> = Count(10);
        /// Longest time in seconds that another server may take to answer, to the last byte.
        /// Requests for which others wait, such as those for keys, wait less.
        answer_seconds: Count<1, 3_600> = Count(60);
        /// The same where the answer is the state of a room: when we join one, above all.
        state_seconds: Count<1, 3_600> = Count(900);
        /// Longest time in seconds that the body of another server's request may stand still.
        body_idle_seconds: Count<1, 600> = Count(30);
        /// Longest time in seconds that the body of another server's request may take in all.
        body_seconds: Count<1, 3_600> = Count(240);
        /// Test switch: serve the federation listener without TLS. Never for real use.
        allow_plain: bool = false, env_only;
    }
}

section! {
    /// Rooms.
    Rooms {
        /// Version of rooms whose creator asks for none: 10, 11 or 12.
        default_version: RoomVersionId = RoomVersionId::V12;
    }
}

section! {
    /// Who may create an account through the client API. `engram user create`
    /// works in any case.
    Registration {
        /// Anyone may register. Leave this off on a server that the internet can reach.
        open: bool = false;
        /// Whoever knows this token may register, also while `open` is off.
        token: Option<Secret> = None;
        /// Anyone may get an account of a guest, who reads rooms that the world may read and
        /// joins those that admit guests.
        guests: bool = false;
    }
}

section! {
    /// Full-text search.
    Search {
        /// Index messages, so that users can search them: some hundred bytes on disk for each.
        /// Messages in encrypted rooms are never indexed.
        enabled: bool = true;
    }
}

section! {
    /// TURN server for voice and video calls.
    Turn {
        /// Its addresses, such as "turn:turn.example.org?transport=udp". Empty: none.
        uris: Vec<String> = Vec::new();
        /// The secret that it shares with this server (coturn: `static-auth-secret`).
        secret: Option<Secret> = None;
        /// How long in seconds a client may use the password that it gets.
        user_lifetime: Count<60, 31_536_000> = Count(86_400);
    }
}

section! {
    /// Whom people may ask for help; served at `/.well-known/matrix/support`.
    Support {
        /// Address of a page for users of this server.
        page: Option<String> = None;
        /// Matrix user who administrates this server.
        admin_matrix_id: Option<String> = None;
        /// E-mail address of who administrates this server.
        admin_email: Option<String> = None;
        /// Matrix user to whom security problems may be told.
        security_matrix_id: Option<String> = None;
        /// E-mail address to which security problems may be told.
        security_email: Option<String> = None;
    }
}

section! {
    /// Who is there: told to those who share a room.
    Presence {
        /// Off, nobody is told who is online, and nothing of it is kept.
        enabled: bool = true;
        /// Seconds without activity after which an online user counts as unavailable.
        idle_seconds: Count<1, 86_400> = Count(300);
        /// Seconds without a sync after which a user counts as offline.
        offline_seconds: Count<1, 3_600> = Count(30);
    }
}

section! {
    /// Limits against clients that ask too often.
    RateLimits {
        /// Requests beyond the limits are answered 429 M_LIMIT_EXCEEDED.
        enabled: bool = true;
    }
}

section! {
    /// The append-only logs, which are the truth.
    Log {
        /// Partitions of each log. Fixed when the logs are created. One is right for one disk.
        partitions: Count<1, 256> = Count(1);
        /// Lanes in which rooms are projected side by side; 0 takes one per processor.
        lanes: Count<0, 64> = Count(0);
        /// Size of a segment file.
        segment_bytes: ByteSize = ByteSize(64 << 20);
        /// Appends are refused below so much free disk space, and accepted again above it.
        reserve_bytes: ByteSize = ByteSize(256 << 20);
        /// Test switch: with `false` nothing is flushed to disk before it is acknowledged,
        /// so a power cut loses acknowledged messages. UNSAFE, never for real use.
        sync: bool = true, env_only;
        /// Test switch: writes down which records a flush has returned for, so that a crash
        /// test can cut what a power cut could have taken.
        synced_marker: bool = false, env_only;
    }
}

section! {
    /// Snapshots of the derived store. A start after a crash, and a rebuild, begin
    /// at the newest one that fits.
    Snapshots {
        /// Time between two snapshots in seconds; 0 makes none by time.
        interval_seconds: Count<0, 31_536_000> = Count(6 * 3600);
        /// Records between two snapshots; 0 makes none by count.
        interval_records: Count<0, 1_000_000_000> = Count(1_000_000);
        /// How many are kept.
        keep: Count<1, 100> = Count(2);
        /// Make one at a clean stop.
        at_stop: bool = true;
    }
}

section! {
    /// The derived store (RocksDB).
    Store {
        /// Memory of the block cache, index and filters included.
        cache_bytes: ByteSize = ByteSize(32 << 20);
        /// Size at which written rows leave memory for disk.
        memtable_bytes: ByteSize = ByteSize(16 << 20);
        /// Longest time in seconds that written rows stay in memory only.
        flush_seconds: Count<1, 86_400> = Count(30);
    }
}

section! {
    /// What is kept in memory beside the store's cache.
    Caches {
        /// Active rooms with their current state. The largest part of the server's memory.
        heads_bytes: ByteSize = ByteSize(64 << 20);
        /// Events as they are served.
        events_bytes: ByteSize = ByteSize(32 << 20);
        /// Events as the authorization rules read them.
        auth_events_bytes: ByteSize = ByteSize(8 << 20);
    }
}

section! {
    /// What the server says about itself.
    Telemetry {
        /// What is logged: error, warn, info, debug or trace, or directives such as
        /// "info,engram::logs=debug".
        log_level: LogFilter = LogFilter::default();
        /// "text" for people, "json" for machines.
        log_format: LogFormat = LogFormat::Text;
        /// Where `/metrics` (Prometheus) and `/health` are served. They show no content
        /// but tell how busy the server is, so keep them off the internet. Empty: nowhere.
        metrics_bind: Option<SocketAddr> = Some(loopback(8009));
    }
}

/// All settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    pub identity: Identity,
    pub client: Client,
    pub federation: Federation,
    pub rooms: Rooms,
    pub registration: Registration,
    pub search: Search,
    pub turn: Turn,
    pub support: Support,
    pub presence: Presence,
    pub rate_limits: RateLimits,
    pub log: Log,
    pub snapshots: Snapshots,
    pub store: Store,
    pub caches: Caches,
    pub telemetry: Telemetry,
}

/// Name and comment of each section, in the order in which they are printed.
pub const SECTIONS: [(&str, &str); 15] = [
    ("", ""),
    (
        "client",
        "The listener for clients: plain HTTP, for the loopback interface or a reverse proxy.",
    ),
    (
        "federation",
        "The listener for other servers (TLS), and how we reach them.",
    ),
    ("rooms", "Rooms."),
    (
        "registration",
        "Who may create an account. `engram user create` works in any case.",
    ),
    ("search", "Full-text search of messages."),
    (
        "turn",
        "TURN server that clients are sent to for voice and video calls.",
    ),
    (
        "support",
        "Whom people may ask for help; served at `/.well-known/matrix/support`.",
    ),
    (
        "presence",
        "Who is online, idle or offline: told to those who share a room.",
    ),
    ("rate_limits", "Limits against clients that ask too often."),
    ("log", "The append-only logs, which are the truth."),
    (
        "snapshots",
        "Snapshots of the derived store, from which a start after a crash goes on.",
    ),
    ("store", "The derived store (RocksDB)."),
    ("caches", "What is kept in memory beside the store's cache."),
    ("telemetry", "What the server says about itself."),
];

impl Config {
    /// The section of that name.
    pub fn section(&self, name: &str) -> Option<&dyn Section> {
        Some(match name {
            "" => &self.identity,
            "client" => &self.client,
            "federation" => &self.federation,
            "rooms" => &self.rooms,
            "registration" => &self.registration,
            "search" => &self.search,
            "turn" => &self.turn,
            "support" => &self.support,
            "presence" => &self.presence,
            "rate_limits" => &self.rate_limits,
            "log" => &self.log,
            "snapshots" => &self.snapshots,
            "store" => &self.store,
            "caches" => &self.caches,
            "telemetry" => &self.telemetry,
            _ => return None,
        })
    }

    /// The section of that name, to be changed.
    pub fn section_mut(&mut self, name: &str) -> Option<&mut dyn Section> {
        Some(match name {
            "" => &mut self.identity,
            "client" => &mut self.client,
            "federation" => &mut self.federation,
            "rooms" => &mut self.rooms,
            "registration" => &mut self.registration,
            "search" => &mut self.search,
            "turn" => &mut self.turn,
            "support" => &mut self.support,
            "presence" => &mut self.presence,
            "rate_limits" => &mut self.rate_limits,
            "log" => &mut self.log,
            "snapshots" => &mut self.snapshots,
            "store" => &mut self.store,
            "caches" => &mut self.caches,
            "telemetry" => &mut self.telemetry,
            _ => return None,
        })
    }
}
