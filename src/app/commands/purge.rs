//! `engram room purge`: through the running server, or, if none runs, through
//! the log in this process.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use crate::app::admin;
use crate::app::cli::PurgeArguments;
use crate::app::data_dir::DataDir;
use crate::app::exit::Exit;
use crate::app::house::House;
use crate::app::purges::{Request, Response, perform};
use crate::config::Config;

/// How often is looked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Has the room purged, and waits until it is.
pub fn run(config: &Config, arguments: &PurgeArguments) -> Result<(), Exit> {
    let room_id = arguments.room_id.clone();
    if !arguments.yes {
        confirm(&format!(
            "Remove {room_id} with all that is kept of it? It cannot be undone."
        ))?;
    }
    let data_dir = DataDir::at(&config.identity.data_dir);
    if !data_dir.exists() {
        let folder = config.identity.data_dir.display();
        return Err(Exit::failed(format!("no server ever ran in {folder}")));
    }
    let begin = Request::Begin {
        room_id: room_id.clone(),
    };
    let Some(begun) = ask(&data_dir, begin.clone())? else {
        return offline(config, begin);
    };
    let mut shown = Shown::default();
    let mut response = begun;
    while !shown.show(&response)? {
        std::thread::sleep(LOOK_EVERY);
        let look = Request::Look {
            room_id: room_id.clone(),
        };
        response = ask(&data_dir, look)?.ok_or_else(|| {
            Exit::failed("the server was stopped; it goes on when it starts again")
        })?;
    }
    println!("{room_id} is purged");
    Ok(())
}

fn ask(data_dir: &DataDir, request: Request) -> Result<Option<Response>, Exit> {
    match super::ask_running(data_dir, &admin::Request::Purge(request))? {
        None => Ok(None),
        Some(admin::Response::Purge(response)) => Ok(Some(response)),
        Some(_) => Err(super::misunderstood()),
    }
}

/// Builds the house without doors: its own parts do the work.
fn offline(config: &Config, begin: Request) -> Result<(), Exit> {
    super::runtime()?.block_on(async {
        let house = House::open(config).await?;
        let purged = wait_for(&house, begin).await;
        house.close().await?;
        let room_id = purged?;
        println!("{room_id} is purged");
        Ok(())
    })
}

async fn wait_for(house: &House, begin: Request) -> Result<String, Exit> {
    let (Request::Begin { room_id } | Request::Look { room_id }) = begin.clone();
    let mut shown = Shown::default();
    let mut response = perform(&house.purger, begin).await;
    while !shown.show(&response)? {
        tokio::time::sleep(LOOK_EVERY).await;
        let look = Request::Look {
            room_id: room_id.clone(),
        };
        response = perform(&house.purger, look).await;
    }
    Ok(room_id.to_string())
}

/// What was printed last.
#[derive(Default)]
struct Shown(String);

impl Shown {
    /// Says on standard error how far it is; whether it is complete.
    fn show(&mut self, response: &Response) -> Result<bool, Exit> {
        let text = match response {
            Response::Complete => return Ok(true),
            Response::Refused { why } => return Err(Exit::failed(why.clone())),
            Response::Leaving { members } => format!("{members} local users are to leave"),
            Response::Dropping => "dropping what is kept of it".to_owned(),
        };
        if text != self.0 {
            eprintln!("{text}");
            self.0 = text;
        }
        Ok(false)
    }
}

fn confirm(question: &str) -> Result<(), Exit> {
    if !io::stdin().is_terminal() {
        return Err(Exit::usage(
            "nobody is here to be asked: say --yes if you mean it".to_owned(),
        ));
    }
    let terminal = console::Term::stderr();
    let answer = terminal
        .write_str(&format!("{question} Type `yes`: "))
        .and_then(|()| terminal.read_line());
    match answer {
        Ok(answer) if answer.trim() == "yes" => Ok(()),
        Ok(_) => Err(Exit::failed("nothing was removed")),
        Err(error) => Err(Exit::failed(format!("terminal: {error}"))),
    }
}
