//! Where the lies are told: two honest servers with a room that must go on
//! whatever happens, and the measures of the one that is lied to.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::super::elsewhere::join;
use super::super::{Neighbourhood, receiving};
use super::front::{Front, Way};
use super::peer::{Common, Peer};
use crate::harness::{Api, Builder, Server};

/// How long the servers of the table wait for others, in seconds: long enough for
/// an honest answer on a busy machine.
pub const ANSWER_SECONDS: u64 = 3;
/// The same for the bodies of others: how long one may stand still, and take in all.
pub const BODY_IDLE_SECONDS: u64 = 2;
pub const BODY_SECONDS: u64 = 4;
/// A message of the healthy room that takes longer has not come. Debug builds on
/// a busy machine are slow.
const MESSAGE_MAX: Duration = Duration::from_secs(30);

/// See the module.
pub struct Stage {
    pub a: Server,
    _b: Server,
    /// A user of the server that is lied to.
    pub carl: Api,
    pub common: Common,
    pub notary: Peer,
    /// Connections to where nobody may be led to.
    led_inside: Arc<AtomicU32>,
    /// Round trips of the healthy room.
    trips: watch::Receiver<u64>,
    healthy: JoinHandle<()>,
    /// Where peers stood that are gone: nobody gets their name.
    past: Mutex<Vec<Front>>,
}

impl Stage {
    pub async fn set_up() -> Stage {
        let neighbourhood = Neighbourhood::new();
        let (inside, led_inside) = inside();
        let common = Common {
            neighbourhood: neighbourhood.clone(),
            watch: Arc::default(),
            of_notary: Arc::default(),
            inside,
        };
        let notary = Peer::start(&common).await;
        let a = patient(neighbourhood.builder("a.test"));
        let a = a.set("FEDERATION__NOTARIES", notary.name());
        let b = neighbourhood.builder("b.test");
        let (a, b) = tokio::join!(a.start(), b.start());
        let (alice, bob, carl) =
            tokio::join!(a.register("alice"), b.register("bob"), a.register("carl"));
        let room = receiving::public_room(&alice, "11").await;
        join(&bob, &room).await;
        let (counts, trips) = watch::channel(0);
        let healthy = tokio::spawn(go_on(alice, bob, room, counts));
        Stage {
            a,
            _b: b,
            carl,
            common,
            notary,
            led_inside,
            trips,
            healthy,
            past: Mutex::default(),
        }
    }

    /// Waits until a message that is sent from now on has come to either side of
    /// the healthy room.
    pub async fn is_healthy(&self) {
        let mut trips = self.trips.clone();
        let now = *trips.borrow();
        // One may be under way.
        let gone_on = trips.wait_for(|trips| *trips >= now + 2).await;
        assert!(gone_on.is_ok(), "the healthy room stands still");
    }

    /// Keeps the name of a peer that is not needed any more.
    pub fn keep(&self, front: Front) {
        front.set(Way::Closed);
        self.past.lock().push(front);
    }

    /// How often somebody was led to where nobody may be led to.
    pub fn led_inside(&self) -> u32 {
        self.led_inside.load(Ordering::Relaxed)
    }

    /// The most memory that the server had since the last time, in MiB.
    pub fn peak_mib(&self) -> u64 {
        let process = format!("/proc/{}", self.a.pid());
        let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak
            .and_then(|peak| peak.trim().strip_suffix(" kB"))
            .unwrap();
        // Where that is not allowed, the peak is that of all rows before.
        let _ = std::fs::write(format!("{process}/clear_refs"), "5");
        kib.trim().parse::<u64>().unwrap() / 1024
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.healthy.abort();
    }
}

/// A server that waits for others no longer than a test can, and reaches those
/// that are named by an address of loopback.
fn patient(server: Builder) -> Builder {
    server
        .set("FEDERATION__DENY_ADDRESSES", "10.0.0.0/8")
        .set("FEDERATION__CONNECT_SECONDS", ANSWER_SECONDS)
        .set("FEDERATION__ANSWER_SECONDS", ANSWER_SECONDS)
        .set("FEDERATION__STATE_SECONDS", ANSWER_SECONDS)
        .set("FEDERATION__BODY_IDLE_SECONDS", BODY_IDLE_SECONDS)
        .set("FEDERATION__BODY_SECONDS", BODY_SECONDS)
}

/// An address that counts who comes.
fn inside() -> (SocketAddr, Arc<AtomicU32>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let count = Arc::new(AtomicU32::new(0));
    let counts = count.clone();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counts.fetch_add(1, Ordering::Relaxed);
        }
    });
    (address, count)
}

/// Says something on either side of a room, and waits until the other has it.
async fn go_on(alice: Api, bob: Api, room: String, counts: watch::Sender<u64>) {
    let mut seen = [Value::Null, Value::Null];
    for trip in 1.. {
        let ways = [(&alice, &bob), (&bob, &alice)];
        for ((from, to), since) in ways.into_iter().zip(&mut seen) {
            let text = format!("{trip} of {}", from.user_id);
            from.send_text(&room, &text).await;
            comes(to, &room, &text, since).await;
        }
        counts.send_replace(trip);
    }
}

async fn comes(to: &Api, room: &str, text: &str, since: &mut Value) {
    let begun = Instant::now();
    while begun.elapsed() < MESSAGE_MAX {
        let query = match since.as_str() {
            Some(since) => format!("since={since}&timeout=5000"),
            None => String::new(),
        };
        let sync = to.sync(&query).await;
        *since = sync["next_batch"].clone();
        let events = &sync["rooms"]["join"][room]["timeline"]["events"];
        let mut events = events.as_array().into_iter().flatten();
        if events.any(|event| event["content"]["body"] == json!(text)) {
            return;
        }
    }
    panic!("{text} has not come to {}", to.user_id);
}
