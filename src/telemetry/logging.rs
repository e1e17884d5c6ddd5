//! Log lines: `tracing` to standard error, as text or as JSON.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// What libraries say about their own inner steps, several lines an event; an
/// explicit directive of the configuration wins.
const QUIET: &str = "ruma_state_res=warn,ruma_signatures=warn";

/// Installs the subscriber for the whole process. A second call changes nothing.
///
/// `filter` is directives as the configuration checked them; `json` chooses
/// lines for machines.
pub fn init(filter: &str, json: bool) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(format!("{QUIET},{filter}")))
        .with_writer(std::io::stderr);
    // Only tests call this twice, and they do not care which subscriber won.
    let _ = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder
            .with_ansi(std::io::stderr().is_terminal())
            .try_init()
    };
}
