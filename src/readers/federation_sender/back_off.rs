//! When a server that was not reached is tried again.

use std::time::Duration;

use ruma::ServerName;

/// After the first failure: a restart takes as long.
const FIRST: Duration = Duration::from_secs(5);
/// The longest: whoever comes back speaks to us, and is tried at once then.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest pause between attempts at a server that speaks to us all the time.
const LONGEST_IF_HEARD: Duration = Duration::from_secs(10 * 60);
/// How often the pause is doubled before it is the longest.
const DOUBLINGS_MAX: u32 = 15;

/// How long to wait after so many failures in a row. Spread by a quarter either
/// way, differently for each server and time, so that servers that went away
/// together are not all asked together; the same for the same, so that it can be
/// told beforehand.
pub fn pause(server: &ServerName, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(DOUBLINGS_MAX);
    let pause = (FIRST * (1 << doublings)).min(LONGEST);
    let mut hasher = blake3::Hasher::new();
    hasher.update(server.as_bytes());
    hasher.update(&failures.to_le_bytes());
    let spread = hasher.finalize().as_bytes()[0];
    // From three to five quarters.
    pause * 3 / 4 + pause * u32::from(spread) / (2 * 255)
}

/// How long after the last attempt a server that speaks to us is tried again:
/// some speak to us and are never reached.
pub fn pause_if_heard(server: &ServerName, failures: u32) -> Duration {
    (pause(server, failures) / 8).min(LONGEST_IF_HEARD)
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[test]
    fn pauses_grow_from_seconds_to_a_day() {
        let server = server_name!("b.test");
        let mut before = Duration::ZERO;
        for failures in 1..=15 {
            let pause = pause(server, failures);
            assert!(pause > before, "{failures}");
            before = pause * 4 / 5;
        }
        assert!(pause(server, 1) < Duration::from_secs(7));
        for failures in [16, 100, u32::MAX] {
            let hours = pause(server, failures).as_secs() / 3600;
            assert!((18..=30).contains(&hours), "{failures}: {hours} h");
        }
    }

    #[test]
    fn servers_are_spread() {
        let names = (0..50).map(|number| format!("server{number}.test"));
        let pauses = names.map(|name| pause(<&ServerName>::try_from(name.as_str()).unwrap(), 8));
        let different: std::collections::BTreeSet<_> = pauses.collect();
        assert!(different.len() > 30);
    }
}
