//! `engram reports`: through the running server, or, if none runs, from the
//! store and the log, which are only read.

use std::fmt::Write as _;

use super::room::desk_beside;
use super::room_text::{age, printable};
use crate::app::admin;
use crate::app::cli::ReportsArguments;
use crate::app::data_dir::DataDir;
use crate::app::exit::Exit;
use crate::app::reports::{self, ReportLine, Request, Response};
use crate::clock;
use crate::config::Config;

/// Lists reports.
pub fn run(config: &Config, arguments: &ReportsArguments) -> Result<(), Exit> {
    let request = Request {
        limit: arguments.limit,
    };
    match ask(config, request)? {
        Response::Reports { reports, .. } if arguments.json => {
            let text = serde_json::to_string(&reports);
            println!("{}", text.map_err(|error| Exit::failed(error.to_string()))?);
            Ok(())
        }
        Response::Reports { reports, unfolded } => {
            print!("{}", text(&reports, clock::now_ms()));
            if unfolded > 0 {
                println!("{unfolded} records of the log are not in the database yet");
            }
            Ok(())
        }
        Response::Refused { why } => Err(Exit::failed(why)),
    }
}

fn ask(config: &Config, request: Request) -> Result<Response, Exit> {
    let data_dir = DataDir::at(&config.identity.data_dir);
    match super::ask_running(&data_dir, &admin::Request::Reports(request.clone()))? {
        Some(admin::Response::Reports(response)) => Ok(response),
        Some(_) => Err(super::misunderstood()),
        None => {
            let desk = desk_beside(config, &data_dir)?;
            Ok(reports::answer(&desk, &request))
        }
    }
}

/// A paragraph for each report.
fn text(reports: &[ReportLine], now_ms: u64) -> String {
    let mut text = String::new();
    for report in reports {
        let when = age(now_ms.saturating_sub(report.received_ms));
        let _ = writeln!(text, "{when}, by {}", printable(&report.reporter));
        let lines = [
            ("room", &report.room_id),
            ("event", &report.event_id),
            ("sender", &report.sender),
            ("user", &report.user_id),
            ("reason", &report.reason),
        ];
        for (name, value) in lines {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                let _ = writeln!(text, "  {name:<8}{}", printable(value));
            }
        }
    }
    if reports.is_empty() {
        text.push_str("no reports\n");
    }
    text
}
