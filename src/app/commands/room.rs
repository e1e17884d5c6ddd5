//! `engram room` and `engram rooms`: through the running server, or, if none
//! runs, from the store and the log, which are only read.

use std::sync::Arc;

use log_format::Topic;

use super::{purge, room_text};
use crate::app::admin;
use crate::app::cli::{RoomArguments, RoomVerb, RoomsArguments};
use crate::app::data_dir::DataDir;
use crate::app::exit::Exit;
use crate::app::foundation::{self, Tables};
use crate::app::rooms::{Desk, Request, Response};
use crate::clock;
use crate::config::Config;
use crate::logs::ReadOnlyLog;
use crate::logs::log::Log;
use crate::projectors::start::witnesses;

/// Shows one room, or purges it.
pub fn room(config: &Config, arguments: &RoomArguments) -> Result<(), Exit> {
    if let Some(RoomVerb::Purge(arguments)) = &arguments.verb {
        return purge::run(config, arguments);
    }
    let Some(room_id) = arguments.room_id.clone() else {
        return Err(Exit::usage("which room?".to_owned()));
    };
    let request = Request::Room { room_id };
    match ask(config, request)? {
        Response::Room(report) if arguments.json => print_json(&report),
        Response::Room(report) => {
            print!("{}", room_text::room(&report, clock::now_ms()));
            Ok(())
        }
        other => Err(refused(other)),
    }
}

/// Lists rooms.
pub fn rooms(config: &Config, arguments: &RoomsArguments) -> Result<(), Exit> {
    let request = Request::Rooms {
        by: arguments.by,
        limit: arguments.limit,
    };
    match ask(config, request)? {
        Response::Rooms { rooms, .. } if arguments.json => print_json(&rooms),
        Response::Rooms { rooms, total } => {
            print!("{}", room_text::rooms(&rooms, total));
            Ok(())
        }
        other => Err(refused(other)),
    }
}

pub(super) fn print_json(value: &impl serde::Serialize) -> Result<(), Exit> {
    let text = serde_json::to_string(value).map_err(|error| Exit::failed(error.to_string()))?;
    println!("{text}");
    Ok(())
}

fn refused(response: Response) -> Exit {
    match response {
        Response::Refused { why } => Exit::failed(why),
        Response::Room(_) | Response::Rooms { .. } => super::misunderstood(),
    }
}

fn ask(config: &Config, request: Request) -> Result<Response, Exit> {
    let data_dir = DataDir::at(&config.identity.data_dir);
    match super::ask_running(&data_dir, &admin::Request::Room(request.clone()))? {
        Some(admin::Response::Room(response)) => Ok(response),
        Some(_) => Err(super::misunderstood()),
        None => Ok(desk_beside(config, &data_dir)?.answer(&request)),
    }
}

/// Answers from what lies on disk of a stopped server, without changing it.
pub(super) fn desk_beside(config: &Config, data_dir: &DataDir) -> Result<Desk, Exit> {
    if !data_dir.exists() {
        let folder = config.identity.data_dir.display();
        return Err(Exit::failed(format!("no server ever ran in {folder}")));
    }
    let settings = foundation::log_settings(config, data_dir, None);
    let options = foundation::store_options(config);
    let store = Arc::new(foundation::open_beside(data_dir, &options)?);
    let input = ReadOnlyLog::open(&settings, Topic::Input)
        .map_err(|error| foundation::log_exit(&error))?
        .ok_or_else(|| Exit::failed(format!("{} has no logs", data_dir.logs().display())))?;
    let log_id = input.log_id();
    let input: Arc<dyn Log> = Arc::new(input);
    let tables = Tables::load(config, &store, &input, log_id)?;
    let partitions = input.partitions();
    let folded = witnesses(&store, partitions);
    let ends = (0..partitions).map(|partition| input.end(partition));
    let unfolded: u64 = ends
        .zip(folded)
        .map(|(end, applied)| end.saturating_sub(applied.map_or(0, |applied| applied.input_end)))
        .sum();
    Ok(Desk {
        rooms: tables.rooms,
        store,
        server_name: config.identity.server_name.clone(),
        partitions,
        unfolded: Box::new(move || unfolded),
    })
}
