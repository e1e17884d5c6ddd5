//! `/.well-known/matrix/server`: to whom a host delegates (server-server API,
//! *Resolving server names*, step 3).
//!
//! What a host says is remembered for as long as it says, within bounds; that it
//! says nothing, for a while that grows with each time.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use reqwest::header::{CACHE_CONTROL, HeaderMap, LOCATION};
use reqwest::{Client, StatusCode, Url};
use ruma::OwnedServerName;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::outbound::addresses::AddressFilter;
use crate::outbound::answer::{RequestError, body};

/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 50 * 1024;
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 5;
/// Time for all of it.
const TIME_MAX: Duration = Duration::from_secs(10);
/// How long an answer is remembered that does not say.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);
const REMEMBERED_MIN: Duration = Duration::from_secs(5 * 60);
const REMEMBERED_MAX: Duration = Duration::from_secs(48 * 60 * 60);
/// How long it is remembered that a host says nothing, the first time.
const SILENCE_MIN: Duration = Duration::from_secs(5 * 60);
const SILENCE_MAX: Duration = Duration::from_secs(60 * 60);
/// Hosts that are remembered.
const HOSTS: usize = 4_096;

/// What a host delegates to, or why it is taken to delegate to nobody.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WellKnownError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("the answer has no m.server that is a server name")]
    NoServer,
    #[error("a redirect leads to nowhere, to something else than https, or is one too many")]
    Redirect,
}

/// Asks and remembers.
pub struct WellKnown {
    http: Result<Client, RequestError>,
    filter: AddressFilter,
    known: Cache<String, Arc<Mutex<Entry>>>,
}

#[derive(Default)]
struct Entry {
    /// The newest answer, of whatever kind.
    answer: Option<Answer>,
    /// Silences in a row.
    silences: u32,
    /// The last delegation, for while the host does not answer.
    delegated: Option<(Instant, OwnedServerName)>,
}

struct Answer {
    until: Instant,
    found: Result<OwnedServerName, WellKnownError>,
}

impl WellKnown {
    /// `http` resolves through the same filter, and follows no redirects by itself.
    pub(super) fn new(http: Result<Client, RequestError>, filter: AddressFilter) -> WellKnown {
        WellKnown {
            http,
            filter,
            known: Cache::new(HOSTS),
        }
    }

    /// The name to which a host delegates, from memory where it is known. Those
    /// who ask for the same host at the same time wait for one request.
    pub async fn delegated(&self, host: &str) -> Result<OwnedServerName, WellKnownError> {
        let host = host.to_ascii_lowercase();
        let entry = self
            .known
            .get_or_insert_with(&host, || Ok::<_, WellKnownError>(Arc::default()))?;
        let mut entry = entry.lock().await;
        let now = Instant::now();
        if let Some(answer) = entry.answer.as_ref().filter(|answer| now < answer.until) {
            return answer.found.clone();
        }
        let asked = timeout(TIME_MAX, self.ask(&host)).await;
        let asked = asked.unwrap_or(Err(RequestError::Timeout(TIME_MAX).into()));
        entry.remember(asked, Instant::now())
    }

    /// Asks the host, now.
    async fn ask(&self, host: &str) -> Result<(OwnedServerName, Duration), WellKnownError> {
        let http = self.http.as_ref().map_err(RequestError::clone)?;
        let url = format!("https://{host}/.well-known/matrix/server");
        let mut url = Url::parse(&url).map_err(|_| WellKnownError::Redirect)?;
        for _ in 0..=REDIRECTS_MAX {
            self.check(&url)?;
            let response = http.get(url.clone()).send().await;
            let response = response.map_err(|error| RequestError::of(&error, TIME_MAX))?;
            if response.status().is_redirection() {
                let next = location(response.headers()).and_then(|next| url.join(next).ok());
                url = next.ok_or(WellKnownError::Redirect)?;
                continue;
            }
            let remembered = lifetime(response.headers());
            if response.status() != StatusCode::OK {
                return Err(WellKnownError::NoServer);
            }
            let body = body(response, ANSWER_BYTES_MAX, TIME_MAX).await?;
            return Ok((
                server_in(&body).ok_or(WellKnownError::NoServer)?,
                remembered,
            ));
        }
        Err(WellKnownError::Redirect)
    }

    /// A literal address never comes to the resolver, so it is looked at here.
    fn check(&self, url: &Url) -> Result<(), WellKnownError> {
        if url.scheme() != "https" {
            return Err(WellKnownError::Redirect);
        }
        match literal(url) {
            Some(address) => Ok(self.filter.check(address).map_err(RequestError::from)?),
            None => Ok(()),
        }
    }
}

impl Entry {
    fn remember(
        &mut self,
        asked: Result<(OwnedServerName, Duration), WellKnownError>,
        now: Instant,
    ) -> Result<OwnedServerName, WellKnownError> {
        let (found, lifetime) = match asked {
            Ok((server, lifetime)) => {
                self.silences = 0;
                self.delegated = Some((now, server.clone()));
                (Ok(server), lifetime)
            }
            Err(error) => {
                let doubled = SILENCE_MIN * 2_u32.pow(self.silences.min(8));
                self.silences += 1;
                // A host that cannot be reached has not taken back what it said.
                let unreachable = matches!(error, WellKnownError::Request(_));
                let before = self.delegated.take_if(|(since, _)| {
                    !unreachable || now.duration_since(*since) >= REMEMBERED_MAX
                });
                drop(before);
                let found = match &self.delegated {
                    Some((_, server)) => Ok(server.clone()),
                    None => Err(error),
                };
                (found, doubled.min(SILENCE_MAX))
            }
        };
        self.answer = Some(Answer {
            until: now + lifetime,
            found: found.clone(),
        });
        found
    }
}

/// The address in a URL that has one in place of a name.
pub(super) fn literal(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok()
}

fn location(headers: &HeaderMap) -> Option<&str> {
    headers.get(LOCATION)?.to_str().ok()
}

fn server_in(body: &[u8]) -> Option<OwnedServerName> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(rename = "m.server")]
        server: OwnedServerName,
    }
    let body: Body = serde_json::from_slice(body).ok()?;
    Some(body.server)
}

/// How long an answer with these headers is remembered.
fn lifetime(headers: &HeaderMap) -> Duration {
    let control = headers.get(CACHE_CONTROL);
    let control = control.and_then(|value| value.to_str().ok()).unwrap_or("");
    let mut lifetime = REMEMBERED;
    for directive in control.split(',').map(str::trim) {
        let directive = directive.to_ascii_lowercase();
        if matches!(directive.as_str(), "no-store" | "no-cache") {
            return REMEMBERED_MIN;
        }
        let seconds = directive.strip_prefix("max-age=");
        if let Some(seconds) = seconds.and_then(|seconds| seconds.trim_matches('"').parse().ok()) {
            lifetime = Duration::from_secs(seconds);
        }
    }
    lifetime.clamp(REMEMBERED_MIN, REMEMBERED_MAX)
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[test]
    fn lifetimes_are_within_bounds() {
        let of = |control: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, control.parse().expect("header"));
            lifetime(&headers)
        };
        assert_eq!(lifetime(&HeaderMap::new()), REMEMBERED);
        assert_eq!(of("public, max-age=3600"), Duration::from_secs(3600));
        assert_eq!(of("Max-Age=1"), REMEMBERED_MIN);
        assert_eq!(of("max-age=99999999"), REMEMBERED_MAX);
        assert_eq!(of("max-age=99999999999999999999999"), REMEMBERED);
        assert_eq!(of("max-age=9999, no-store"), REMEMBERED_MIN);
    }

    #[test]
    fn servers_are_named_by_the_grammar() {
        let named = server_in(br#"{"m.server":"hs.example:443","more":1}"#);
        assert_eq!(named.as_deref(), Some(server_name!("hs.example:443")));
        for bad in [
            &b"{}"[..],
            b"[]",
            b"x",
            br#"{"m.server":""}"#,
            br#"{"m.server":"a/b"}"#,
        ] {
            assert_eq!(server_in(bad), None);
        }
    }

    #[test]
    fn addresses_are_seen_however_they_are_written() {
        for (url, address) in [
            ("https://127.0.0.1:8448/", Some("127.0.0.1")),
            ("https://2130706433/", Some("127.0.0.1")),
            ("https://0x7f.1/", Some("127.0.0.1")),
            ("https://[::1]/", Some("::1")),
            ("https://hs.example/", None),
        ] {
            let address = address.map(|address| address.parse().expect("address"));
            assert_eq!(literal(&Url::parse(url).expect(url)), address, "{url}");
        }
    }

    #[test]
    fn silence_is_remembered_longer_each_time_and_delegations_outlast_it() {
        let mut entry = Entry::default();
        let mut now = Instant::now();
        let silent = || Err(WellKnownError::Request(RequestError::NotJson));
        for minutes in [5, 10, 20, 40, 60, 60] {
            assert!(entry.remember(silent(), now).is_err());
            let answer = entry.answer.as_ref().expect("remembered");
            assert_eq!(answer.until - now, Duration::from_secs(minutes * 60));
            now = answer.until;
        }
        let server = server_name!("hs").to_owned();
        let said = Ok((server.clone(), REMEMBERED));
        assert!(entry.remember(said, now).is_ok());
        // Not reachable: what it said holds, for a while.
        assert_eq!(
            entry.remember(silent(), now + REMEMBERED).ok(),
            Some(server.clone())
        );
        assert!(entry.remember(silent(), now + REMEMBERED_MAX).is_err());
        // Reachable, and it says nothing any more.
        assert!(entry.remember(Ok((server, REMEMBERED)), now).is_ok());
        assert!(entry.remember(Err(WellKnownError::NoServer), now).is_err());
    }
}
