//! The body of an answer, part by part as it comes, within bounds of bytes, time
//! and slowness. Only the time counts in which we wait for the other side: whoever
//! reads may take theirs, and does not read on meanwhile.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Response;
use tokio::time::{Instant, timeout};

use super::answer::RequestError;

/// How much may come, and how slowly.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub bytes_max: usize,
    /// Until the answer begins: the other side may have to look much up.
    pub begin_max: Duration,
    /// Between two parts of it.
    pub idle_max: Duration,
    /// For all parts.
    pub time_max: Duration,
    /// Bytes that have to come in each second, once `idle_max` has passed: who
    /// sends a byte now and then would hold us up for `time_max`.
    pub bytes_per_second_min: u64,
}

impl Pace {
    /// The same, with no time longer than the operator allows.
    pub fn within(self, most: Duration) -> Pace {
        Pace {
            begin_max: self.begin_max.min(most),
            idle_max: self.idle_max.min(most),
            time_max: self.time_max.min(most),
            ..self
        }
    }
}

/// See the module.
pub struct Body {
    response: Response,
    /// How much was said to come, before any of it did.
    announced: Option<u64>,
    pace: Pace,
    progress: Progress,
}

/// What has come, and how long it was waited for.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    bytes: usize,
    waited: Duration,
}

impl Body {
    pub fn new(response: Response, pace: Pace) -> Result<Body, RequestError> {
        let announced = response.content_length();
        if announced.is_some_and(|bytes| bytes > pace.bytes_max as u64) {
            return Err(RequestError::TooLarge {
                max_bytes: pace.bytes_max,
            });
        }
        Ok(Body {
            response,
            announced,
            pace,
            progress: Progress::default(),
        })
    }

    /// How much is said to come in all, if it is said.
    pub fn announced(&self) -> Option<u64> {
        self.announced
    }

    /// How much has come.
    pub fn bytes(&self) -> usize {
        self.progress.bytes
    }

    /// The next part; none at the end.
    pub async fn part(&mut self) -> Result<Option<Bytes>, RequestError> {
        let began = Instant::now();
        let part = timeout(self.pace.idle_max, self.response.chunk()).await;
        let part = part.map_err(|_| RequestError::Timeout(self.pace.idle_max))?;
        let part = part.map_err(|error| RequestError::of(&error, self.pace.idle_max))?;
        let Some(part) = part else {
            return Ok(None);
        };
        self.progress.bytes += part.len();
        self.progress.waited += began.elapsed();
        self.progress.check(&self.pace)?;
        Ok(Some(part))
    }
}

impl Progress {
    fn check(&self, pace: &Pace) -> Result<(), RequestError> {
        if self.bytes > pace.bytes_max {
            return Err(RequestError::TooLarge {
                max_bytes: pace.bytes_max,
            });
        }
        if self.waited > pace.time_max {
            return Err(RequestError::Timeout(pace.time_max));
        }
        let counted = self.waited.saturating_sub(pace.idle_max);
        match self.bytes as u64 / pace.bytes_per_second_min.max(1) < counted.as_secs() {
            true => Err(RequestError::TooSlow),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        bytes_max: 1_000_000,
        begin_max: Duration::from_secs(1),
        idle_max: Duration::from_secs(10),
        time_max: Duration::from_secs(100),
        bytes_per_second_min: 1_000,
    };

    fn check(bytes: usize, seconds: u64) -> Result<(), RequestError> {
        let waited = Duration::from_secs(seconds);
        Progress { bytes, waited }.check(&PACE)
    }

    #[test]
    fn what_is_too_much_or_too_slow_ends() {
        assert!(check(1_000_000, 0).is_ok());
        assert!(matches!(
            check(1_000_001, 0),
            Err(RequestError::TooLarge { .. })
        ));
        // At first nobody counts.
        assert!(check(1, 10).is_ok());
        assert!(check(20_000, 30).is_ok());
        assert!(matches!(check(19_000, 30), Err(RequestError::TooSlow)));
        assert!(check(1_000_000, 100).is_ok());
        assert!(matches!(
            check(1_000_000, 101),
            Err(RequestError::Timeout(_))
        ));
    }
}
