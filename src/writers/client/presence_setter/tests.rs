//! Presence by what devices do, with a clock that the test moves.

use std::sync::atomic::Ordering;

use log_format::record::ephemeral::PresenceState::*;
use ruma::{device_id, server_name, user_id};

use super::tracked::*;
use super::*;
use crate::query::ephemeral::Presence;
use crate::query::ephemeral::fake::Silence;
use crate::query::ids::EphemeralOffset;
use crate::writers::testing::Forgetful;

const TIMING: Timing = Timing {
    idle_after: Duration::from_secs(300),
    offline_after: Duration::from_secs(30),
};

/// A user, and the time of theirs.
struct Stage {
    tracked: Tracked,
    now: Moment,
    claims: u64,
}

impl Stage {
    fn new() -> Stage {
        let now = Moment {
            at: Instant::now() + Duration::from_secs(100_000),
            ms: 1_700_000_000_000,
        };
        Stage {
            tracked: Tracked::found(None, now),
            now,
            claims: 0,
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.now.at += Duration::from_secs(seconds);
        self.now.ms += seconds * 1_000;
    }

    fn begin(&mut self, device: &str, unavailable: bool) -> u64 {
        self.claims += 1;
        let device = <&DeviceId>::from(device);
        self.tracked
            .sync_began(device, unavailable, self.claims, self.now)
    }

    fn end(&mut self, device: &str, claim: u64) {
        let device = <&DeviceId>::from(device);
        self.tracked.sync_ended(device, claim, self.now, TIMING);
    }

    fn sync(&mut self, device: &str, unavailable: bool) {
        let claim = self.begin(device, unavailable);
        self.end(device, claim);
    }

    fn set(&mut self, state: PresenceState, status: Option<&str>) {
        self.claims += 1;
        let device = device_id!("A");
        let status = status.map(Box::from);
        let times = (self.now, TIMING);
        self.tracked.set(device, state, status, self.claims, times);
    }

    /// State, whether currently active, and in how many seconds it may change.
    fn shown(&mut self) -> (PresenceState, bool, Option<u64>) {
        let (shown, next) = self.tracked.shown(self.now, TIMING);
        let next = next.map(|next| next.duration_since(self.now.at).as_secs());
        (shown.state, shown.currently_active, next)
    }
}

#[test]
fn who_syncs_is_there_and_goes_idle_and_offline() {
    let mut stage = Stage::new();
    assert_eq!(stage.shown(), (Offline, false, None));
    let claim = stage.begin("A", false);
    assert_eq!(stage.shown(), (Online, true, Some(60)));
    stage.pass(60);
    assert_eq!(stage.shown(), (Online, false, Some(240)));
    // To sync on is no activity.
    stage.end("A", claim);
    assert_eq!(stage.shown(), (Online, false, Some(30)));
    stage.pass(20);
    let claim = stage.begin("A", false);
    assert_eq!(stage.shown(), (Online, false, Some(220)));
    stage.pass(220);
    assert_eq!(stage.shown(), (Unavailable, false, None));
    stage.end("A", claim);
    let claim = stage.begin("A", false);
    assert_eq!(stage.shown(), (Unavailable, false, None));
    stage.tracked.acted(stage.now);
    assert_eq!(stage.shown(), (Online, true, Some(60)));
    stage.end("A", claim);
    stage.pass(29);
    assert_eq!(stage.shown(), (Online, true, Some(1)));
    stage.pass(1);
    assert_eq!(stage.shown(), (Offline, false, None));
    assert!(!stage.tracked.is_there());
    let active = stage.now.ms - 30_000;
    assert_eq!(stage.tracked.last_active_ms(), Some(active));
}

#[test]
fn of_several_devices_the_most_present_counts() {
    let mut stage = Stage::new();
    stage.sync("A", true);
    assert_eq!(stage.shown(), (Unavailable, false, Some(30)));
    stage.sync("B", false);
    assert_eq!(stage.shown(), (Online, true, Some(30)));
    stage.pass(20);
    stage.sync("A", true);
    stage.pass(10);
    // B is gone.
    assert_eq!(stage.shown(), (Unavailable, false, Some(20)));
    // A client that says idle no more is an activity.
    stage.sync("A", false);
    assert_eq!(stage.shown(), (Online, true, Some(30)));
}

#[test]
fn what_users_set_lasts_until_they_do_something() {
    let mut stage = Stage::new();
    stage.sync("A", false);
    stage.set(Unavailable, Some("lunch"));
    assert_eq!(stage.shown(), (Unavailable, false, Some(30)));
    stage.sync("A", false);
    assert_eq!(stage.shown(), (Unavailable, false, Some(30)), "it syncs on");
    let (shown, _) = stage.tracked.shown(stage.now, TIMING);
    assert_eq!(shown.status_msg.as_deref(), Some("lunch"));
    stage.tracked.acted(stage.now);
    assert_eq!(stage.shown().0, Online);
    // The message belongs to the presence that is set.
    stage.set(Online, None);
    let (shown, _) = stage.tracked.shown(stage.now, TIMING);
    assert_eq!(shown.status_msg, None);
    // Offline at once, whatever is being answered; the next sync says otherwise.
    let claim = stage.begin("A", false);
    stage.set(Offline, None);
    assert_eq!(stage.shown(), (Offline, false, None));
    stage.end("A", claim);
    assert_eq!(stage.shown(), (Offline, false, None));
    stage.sync("A", false);
    assert_eq!(stage.shown().0, Online);
    // Without any sync it lasts as long as one.
    let mut stage = Stage::new();
    stage.set(Online, None);
    assert_eq!(stage.shown(), (Online, true, Some(30)));
    stage.pass(30);
    assert_eq!(stage.shown().0, Offline);
}

#[test]
fn only_what_differs_is_written() {
    let mut stage = Stage::new();
    stage.sync("A", false);
    let (shown, _) = stage.tracked.shown(stage.now, TIMING);
    assert!(stage.tracked.differs(&shown));
    stage.tracked.told = shown;
    let mut written = Vec::new();
    for second in 0..50 {
        stage.pass(1);
        stage.sync("A", false);
        stage.tracked.acted(stage.now);
        let (shown, _) = stage.tracked.shown(stage.now, TIMING);
        if stage.tracked.differs(&shown) {
            stage.tracked.told = shown;
            written.push(second);
        }
    }
    assert_eq!(written, [19, 39], "how recently they were active");
}

#[test]
fn devices_have_some_time_to_come_back_after_a_restart() {
    let now = Stage::new().now;
    let known = Presence {
        user_id: ruma::user_id!("@ann:hs").to_owned(),
        state: Online,
        status_msg: Some("here".into()),
        last_active_ms: Some(now.ms - 100_000),
        currently_active: false,
        changed_at: EphemeralOffset(0),
        written_at: EphemeralOffset(0),
    };
    let stage = || Stage {
        tracked: Tracked::left_behind(&known, now, TIMING),
        now,
        claims: 0,
    };
    let mut gone = stage();
    assert_eq!(gone.shown(), (Online, false, Some(30)));
    let (shown, _) = gone.tracked.shown(now, TIMING);
    assert!(!gone.tracked.differs(&shown), "nothing is to be told");
    gone.pass(30);
    assert_eq!(gone.shown(), (Offline, false, None));
    let mut back = stage();
    back.pass(10);
    back.begin("A", false);
    back.begin("B", false);
    back.pass(60);
    assert_eq!(back.shown(), (Online, false, Some(130)), "no activity");
}

#[test]
fn claims_are_bounded() {
    let mut stage = Stage::new();
    let claim = stage.begin("first", false);
    for device in 0..100 {
        stage.pass(1);
        stage.sync(&format!("D{device}"), true);
    }
    // That of a sync which is being answered stays.
    assert_eq!(stage.shown().0, Online);
    stage.end("first", claim);
    stage.pass(30);
    assert_eq!(stage.shown(), (Offline, false, None));
}

fn setter(enabled: bool) -> (PresenceSetter, Arc<Forgetful>) {
    let log = Arc::<Forgetful>::default();
    let writer = EphemeralWriter::new(log.clone(), Arc::new(Silence));
    let setter = PresenceSetter::new(enabled, TIMING, server_name!("hs"), writer);
    (setter, log)
}

#[tokio::test]
async fn what_could_not_be_told_is_told_later() {
    let (setter, log) = setter(true);
    let (ann, device) = (user_id!("@ann:hs"), device_id!("A"));
    let written = || log.appended.lock().len();
    log.is_full.store(true, Ordering::Relaxed);
    // The sync goes on all the same.
    let syncing = setter.sync(ann, device, Online).await;
    assert_eq!((syncing.is_some(), written()), (true, 0));
    let refused = setter.set(ann, device, Online, None).await;
    assert!(matches!(
        refused,
        Err(SubmitError::Append(AppendError::DiskFull))
    ));
    log.is_full.store(false, Ordering::Relaxed);
    let mut now = moment();
    now.at += RETRY_AFTER;
    setter.settle_due(now);
    assert_eq!(written(), 1);
    for _ in 0..10 {
        drop(setter.sync(ann, device, Online).await);
    }
    assert_eq!(written(), 1, "syncing on is no news");
    // Gone: told as offline, and forgotten a little later.
    drop(syncing);
    now = moment();
    now.at += TIMING.offline_after;
    setter.settle_due(now);
    assert_eq!((written(), setter.count()), (2, 1));
    now.at += LINGERS_FOR;
    setter.settle_due(now);
    assert_eq!((written(), setter.count()), (2, 0));
}

#[tokio::test]
async fn switched_off_nothing_is_kept() {
    let (setter, log) = setter(false);
    let (ann, device) = (user_id!("@ann:hs"), device_id!("A"));
    assert!(setter.sync(ann, device, Online).await.is_none());
    setter.acted(ann);
    setter
        .set(ann, device, Online, None)
        .await
        .expect("nothing is done");
    assert_eq!((setter.count(), log.appended.lock().len()), (0, 0));
}
