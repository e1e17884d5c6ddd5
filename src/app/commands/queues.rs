//! `engram federation queues`: through the running server, or, if none runs,
//! from the store, which is only read.

use std::fmt::Write as _;

use console::style;

use super::room::{desk_beside, print_json};
use super::room_text::{age, printable};
use crate::app::admin;
use crate::app::cli::QueuesArguments;
use crate::app::data_dir::DataDir;
use crate::app::exit::Exit;
use crate::app::queues::{self, QueueLine, Request, Response};
use crate::clock;
use crate::config::Config;

/// Longest error in a table.
const ERROR_CHARS: usize = 80;

/// Lists queues.
pub fn run(config: &Config, arguments: &QueuesArguments) -> Result<(), Exit> {
    let request = Request {
        troubled: arguments.troubled,
    };
    match ask(config, request)? {
        Response::Queues { queues, .. } if arguments.json => print_json(&queues),
        Response::Queues { queues, total } => {
            print!("{}", text(&queues, total, clock::now_ms()));
            Ok(())
        }
        Response::Refused { why } => Err(Exit::failed(why)),
    }
}

fn ask(config: &Config, request: Request) -> Result<Response, Exit> {
    let data_dir = DataDir::at(&config.identity.data_dir);
    match super::ask_running(&data_dir, &admin::Request::Queues(request))? {
        Some(admin::Response::Queues(response)) => Ok(response),
        Some(_) => Err(super::misunderstood()),
        None => {
            let desk = desk_beside(config, &data_dir)?;
            Ok(queues::answer_beside(&desk, request))
        }
    }
}

/// A table, the longest queue first.
fn text(queues: &[QueueLine], total: u64, now_ms: u64) -> String {
    let names = queues.iter().map(|queue| queue.destination.as_str().len());
    let width = names.max().unwrap_or(0).max("destination".len());
    let head = format!(
        "{:width$}  {:>7}  {:>8}  {:>12}  {:>10}  last error",
        "destination", "waiting", "failures", "last success", "next try"
    );
    let mut text = format!("{}\n", style(head).bold());
    for queue in queues {
        let success = queue.last_success_ms.map_or_else(
            || "never".to_owned(),
            |success| age(now_ms.saturating_sub(success)),
        );
        let next = queue.next_try_ms.map(|next| match next > now_ms {
            true => format!("in {}", span(next - now_ms)),
            false => "now".to_owned(),
        });
        let error = printable(queue.last_error.as_deref().unwrap_or_default());
        let error: String = error.chars().take(ERROR_CHARS).collect();
        let line = format!(
            "{:width$}  {:>7}  {:>8}  {:>12}  {:>10}  {error}",
            queue.destination,
            queue.waiting,
            queue.failures,
            success,
            next.unwrap_or_default(),
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let _ = writeln!(text, "{} of {total} servers", queues.len());
    text
}

/// `3 min`: a time to come, in the largest unit that fits.
fn span(ms: u64) -> String {
    age(ms).trim_end_matches(" ago").to_owned()
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[test]
    fn a_table_says_who_is_away_for_how_long_and_why() {
        let away = QueueLine {
            destination: server_name!("b.test").to_owned(),
            waiting: 12,
            failures: 3,
            last_success_ms: Some(1_000_000),
            next_try_ms: Some(1_000_000 + 3 * 3_600_000 + 61_000),
            last_error: Some("no answer\u{1b}[31m within 10 s".to_owned()),
        };
        let fresh = QueueLine {
            destination: server_name!("long.name.example:8448").to_owned(),
            waiting: 0,
            failures: 0,
            last_success_ms: None,
            next_try_ms: None,
            last_error: None,
        };
        let text = text(&[away, fresh], 7, 1_000_000 + 3 * 3_600_000);
        let text = console::strip_ansi_codes(&text);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1],
            "b.test                       12         3       3 h ago    in 1 min  no answer\\u{1b}[31m within 10 s"
        );
        assert_eq!(
            lines[2],
            "long.name.example:8448        0         0         never"
        );
        assert_eq!(lines[3], "2 of 7 servers");
    }
}
