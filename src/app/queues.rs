//! What waits for other servers, for an operator: told by a running server, or
//! read beside a stopped one.

use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};

use super::rooms::Desk;
use crate::projectors::deliveryserver::DeliveryAnswers;
use crate::readers::federation_sender::overview::{Queue, queues};
use crate::readers::federation_sender::{FederationSender, OpenError};

/// Servers in one answer, within what the control socket takes: each is some
/// hundred bytes, and an error of at most a kilobyte.
const LISTED_MAX: usize = 10_000;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Leave out servers for which nothing waits and whose last transaction went well.
    pub troubled: bool,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Response {
    Queues {
        /// Those for which most waits first.
        queues: Vec<QueueLine>,
        /// How many there are; the list may be shorter.
        total: u64,
    },
    Refused {
        why: String,
    },
}

/// A server as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueLine {
    pub destination: OwnedServerName,
    /// Events that wait.
    pub waiting: u64,
    /// Attempts in a row that failed.
    pub failures: u32,
    /// Milliseconds since the epoch; none if it never acknowledged anything.
    pub last_success_ms: Option<u64>,
    /// Milliseconds since the epoch; none if it is sent to as soon as there is
    /// something.
    pub next_try_ms: Option<u64>,
    /// Known to a running server alone, of its own attempts.
    pub last_error: Option<String>,
}

/// Answers of the running sender.
pub fn answer(sender: &FederationSender, request: Request) -> Response {
    respond(sender.queues(), request)
}

/// Answers from what lies on the disk.
pub fn answer_beside(desk: &Desk, request: Request) -> Response {
    let deliveries = DeliveryAnswers::new(desk.store.clone(), desk.partitions);
    respond(queues(&*desk.store, &deliveries, desk.partitions), request)
}

fn respond(queues: Result<Vec<Queue>, OpenError>, request: Request) -> Response {
    let mut queues = match queues {
        Ok(queues) => queues,
        Err(error) => {
            return Response::Refused {
                why: error.to_string(),
            };
        }
    };
    queues.retain(|queue| !request.troubled || queue.waiting > 0 || queue.failures > 0);
    // Equal ones stay in the order of their names.
    queues.sort_by_key(|queue| std::cmp::Reverse((queue.waiting, queue.failures)));
    let total = queues.len() as u64;
    queues.truncate(LISTED_MAX);
    Response::Queues {
        queues: queues.into_iter().map(line).collect(),
        total,
    }
}

fn line(queue: Queue) -> QueueLine {
    let time = |ms: u64| (ms > 0).then_some(ms);
    QueueLine {
        destination: queue.server,
        waiting: queue.waiting,
        failures: queue.failures,
        last_success_ms: time(queue.succeeded_ms),
        next_try_ms: time(queue.retry_at_ms),
        last_error: queue.error.map(Into::into),
    }
}
