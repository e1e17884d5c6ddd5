//! Search over HTTP: messages by their words, users by their names.
//!
//! Both follow what is sent by a moment, so tests ask until the answer is the
//! one that they wait for, or a deadline has passed.

mod asking;
mod lasting;
mod people;
mod seeing;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Answer, Api};

/// By then an index that follows at all has followed, also on a busy machine.
const FOLLOWED_MAX: Duration = Duration::from_secs(30);

/// One search by criteria, with `next_batch` if there is one.
pub async fn ask(api: &Api, criteria: Value, next_batch: Option<&str>) -> Answer {
    let query = next_batch.map_or(String::new(), |token| format!("?next_batch={token}"));
    let body = json!({ "search_categories": { "room_events": criteria } });
    api.post(&format!("/_matrix/client/v3/search{query}"), body)
        .await
}

/// The results of a search that must succeed.
pub async fn results(api: &Api, criteria: Value) -> Value {
    let answer = ask(api, criteria, None).await.ok();
    answer["search_categories"]["room_events"].clone()
}

/// Event ids of results, in their order.
pub fn ids(results: &Value) -> Vec<String> {
    let results = results["results"].as_array().unwrap().iter();
    results
        .map(|result| result["result"]["event_id"].as_str().unwrap().to_owned())
        .collect()
}

/// Event ids found by a term, as they are now.
pub async fn now(api: &Api, term: &str) -> Vec<String> {
    ids(&results(api, json!({ "search_term": term })).await)
}

/// Asks until a term finds exactly these events, in whatever order.
#[track_caller]
pub fn finds<'a>(
    api: &'a Api,
    term: &'a str,
    expected: &'a [&'a str],
) -> impl Future<Output = ()> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        let begun = Instant::now();
        loop {
            let mut found = now(api, term).await;
            found.sort_unstable();
            if found == expected {
                return;
            }
            assert!(
                begun.elapsed() < FOLLOWED_MAX,
                "{caller}: {term} finds {found:?} instead of {expected:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
