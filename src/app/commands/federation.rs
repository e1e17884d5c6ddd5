//! `engram federation`: look at another server as this one would see it, and
//! change this one's signing key.

use std::sync::Arc;

use console::style;
use ruma::ServerName;
use serde::Serialize;

use crate::app::cli::{CheckArguments, FederationVerb};
use crate::app::data_dir::DataDir;
use crate::app::exit::Exit;
use crate::app::{old_keys, outbound};
use crate::clock;
use crate::config::Config;
use crate::crypto::signing_key::ServerKey;
use crate::matrix::server_keys::{ServerKeys, Validity};
use crate::outbound::answer::RequestError;
use crate::outbound::federation::discovery::Step as Found;
use crate::outbound::federation::{FederationClient, server_keys, version};

/// Runs one of the verbs.
pub fn run(config: &Config, verb: &FederationVerb) -> Result<(), Exit> {
    match verb {
        FederationVerb::Check(arguments) => check(config, arguments),
        FederationVerb::Queues(arguments) => super::queues::run(config, arguments),
        FederationVerb::RotateKey => rotate_key(config),
    }
}

/// One step on the way to another server.
#[derive(Serialize)]
struct Step {
    name: &'static str,
    ok: bool,
    /// What was found, or what went wrong.
    said: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
}

impl Step {
    fn fine(name: &'static str, said: impl Into<String>) -> Step {
        Step {
            name,
            ok: true,
            said: said.into(),
            hint: None,
        }
    }

    fn wrong(name: &'static str, said: impl Into<String>, hint: &'static str) -> Step {
        Step {
            name,
            ok: false,
            said: said.into(),
            hint: Some(hint),
        }
    }

    fn of(name: &'static str, error: &RequestError) -> Step {
        Step::wrong(name, error.to_string(), hint(error))
    }
}

fn check(config: &Config, arguments: &CheckArguments) -> Result<(), Exit> {
    // Nothing that is asked here is signed, so any key will do.
    let client = outbound::federation_client(config, Arc::new(ServerKey::generate()))?;
    let steps = super::runtime()?.block_on(steps(&client, &arguments.server));
    if arguments.json {
        super::room::print_json(&steps)?;
    } else {
        steps.iter().for_each(show);
    }
    match steps.iter().all(|step| step.ok) {
        true => Ok(()),
        false => Err(Exit::failed(format!(
            "{} cannot be reached",
            arguments.server
        ))),
    }
}

fn show(step: &Step) {
    let mark = match step.ok {
        true => style("✓").green(),
        false => style("✗").red(),
    };
    println!("{mark} {:<10} {}", step.name, step.said);
    if let Some(hint) = step.hint {
        println!("  {:<10} {}", "", style(hint).dim());
    }
}

async fn steps(client: &FederationClient, server: &ServerName) -> Vec<Step> {
    let route = client.route(server).await;
    let found = match &route.step {
        Found::Static(address) => format!("at {address}, by federation.static_hosts"),
        Found::Literal => "the name is an address".to_owned(),
        Found::Port => "the name has a port".to_owned(),
        Found::Delegated(to) => format!("/.well-known/matrix/server delegates to {to}"),
        Found::Itself(why) => format!("no delegation ({why}), asked under its own name"),
    };
    let mut steps = vec![Step::fine("name", found)];
    match client.addresses(&route).await {
        Ok(addresses) => {
            let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            steps.push(Step::fine("address", addresses.join(", ")));
        }
        Err(error) => {
            steps.push(Step::of("address", &error));
            return steps;
        }
    }
    let answered = match version::version(client, server).await {
        Ok(runs) => {
            steps.push(Step::fine(
                "version",
                format!("{} {}", runs.name, runs.version),
            ));
            true
        }
        // It answers, and does not tell: servers may.
        Err(error @ (RequestError::Refused(_) | RequestError::NotJson)) => {
            steps.push(Step::fine("version", format!("not told ({error})")));
            true
        }
        Err(error) => {
            steps.push(Step::of("connection", &error));
            false
        }
    };
    if answered {
        steps.push(keys(client, server).await);
    }
    steps
}

async fn keys(client: &FederationClient, server: &ServerName) -> Step {
    let now = clock::now_ms();
    let json = match server_keys::own(client, server).await {
        Ok(json) => json,
        Err(error) => return Step::of("keys", &error),
    };
    let keys = match ServerKeys::check(json, server, now) {
        Ok(keys) => keys,
        Err(error) => {
            let hint = "its signatures cannot be trusted; its operator has to look at it";
            return Step::wrong("keys", error.to_string(), hint);
        }
    };
    let current = keys.keys.iter();
    let current = current.filter(|(_, key)| matches!(key.validity, Validity::Until(_)));
    let ids: Vec<&str> = current.map(|(id, _)| id.as_str()).collect();
    let ids = ids.join(", ");
    match keys.valid_until_ts.checked_sub(now) {
        Some(left) => Step::fine(
            "keys",
            format!("{ids}, good for {} hours", left / 3_600_000),
        ),
        None => Step::wrong(
            "keys",
            format!("{ids}, not valid any more"),
            "compare the clocks of both servers: one of them is wrong, or its keys are served from a cache",
        ),
    }
}

/// What an operator can do about a request that failed.
fn hint(error: &RequestError) -> &'static str {
    match error {
        RequestError::Dns(_) => {
            "look the name up with `getent hosts`; if it is a name of your own network, give its address in federation.static_hosts"
        }
        RequestError::Denied(_) => {
            "allow the range in federation.deny_addresses if this server is meant to be reached there"
        }
        RequestError::Connection(_) => {
            "try `curl -v https://HOST:PORT/_matrix/federation/v1/version`; a certificate of a private authority is trusted by federation.extra_ca"
        }
        RequestError::Timeout(_) | RequestError::TooSlow => {
            "a firewall may drop the connection, on either side"
        }
        RequestError::TooLarge { .. } | RequestError::NotJson => {
            "something else than a Matrix server answers there; look at its reverse proxy"
        }
        RequestError::Refused(_) => "look at the other server's reverse proxy and its log",
    }
}

fn rotate_key(config: &Config) -> Result<(), Exit> {
    let identity = &config.identity;
    let folder = DataDir::at(&identity.data_dir);
    if !folder.exists() {
        let folder = identity.data_dir.display();
        return Err(Exit::failed(format!("no server ever ran in {folder}")));
    }
    // Held to the end: a running server would go on signing with the old key.
    let (folder, _lock) = DataDir::open(&identity.data_dir, &identity.server_name)?;
    let (old, new) = old_keys::rotate(&folder)?;
    println!("{old} signs no more and stays published; {new} signs from the next start on");
    Ok(())
}
