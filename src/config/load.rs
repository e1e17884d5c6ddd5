//! Merging defaults, file and environment, and saying precisely what is wrong.

use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::sections::{Config, SECTIONS, SetError};
use super::setting::Raw;

/// Prefix of the variables that set keys.
const PREFIX: &str = "ENGRAM__";

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: {source}", path = path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    /// Everything that is wrong, not only the first.
    #[error("{}", lines(.0))]
    Wrong(Vec<Problem>),
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub place: Place,
    pub message: String,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Line from 1.
    File {
        path: PathBuf,
        line: usize,
    },
    Variable(String),
    /// Keys that do not go together.
    Whole,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File { path, line } => write!(out, "{}:{line}: ", path.display())?,
            Place::Variable(name) => write!(out, "{name}: ")?,
            Place::Whole => (),
        }
        out.write_str(&self.message)
    }
}

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    lines.join("\n")
}

/// Loads the file, if there is one, over the defaults and the environment over both.
///
/// Errors: every unknown key, every wrong value and every combination that
/// cannot be served, with file and line or variable, and what was expected.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let mut config = Config::default();
    let mut problems = Vec::new();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        apply_file(&mut config, path, &text, &mut problems);
    }
    let mut variables: Vec<(String, String)> = environment
        .into_iter()
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect();
    variables.sort();
    for (name, value) in &variables {
        apply_variable(&mut config, name, value, &mut problems);
    }
    if problems.is_empty() {
        check(&config, &mut problems);
    }
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(ConfigError::Wrong(problems))
    }
}

/// The variable that sets a key.
pub fn variable(section: &str, key: &str) -> String {
    if section.is_empty() {
        return format!("{PREFIX}{}", key.to_uppercase());
    }
    format!("{PREFIX}{}__{}", section.to_uppercase(), key.to_uppercase())
}

fn apply_file(config: &mut Config, path: &Path, text: &str, problems: &mut Vec<Problem>) {
    let mut report = |at: usize, message: String| {
        let before = text.get(..at).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let path = path.to_owned();
        problems.push(Problem {
            place: Place::File { path, line },
            message,
        });
    };
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            return report(at, format!("not TOML: {}", error.message()));
        }
    };
    for (name, value) in table.get_ref() {
        let is_section = SECTIONS
            .iter()
            .any(|(section, _)| *section == name.get_ref());
        match value.get_ref() {
            DeValue::Table(keys) if is_section && !name.get_ref().is_empty() => {
                for (key, value) in keys {
                    let raw = Raw::Toml(value.get_ref());
                    if let Some(message) = set(config, name.get_ref(), key.get_ref(), raw) {
                        report(key.span().start, message);
                    }
                }
            }
            _ if is_section => report(
                name.span().start,
                format!("{name} is a section, write [{name}]", name = name.get_ref()),
            ),
            value => {
                if let Some(message) = set(config, "", name.get_ref(), Raw::Toml(value)) {
                    report(name.span().start, message);
                }
            }
        }
    }
}

fn apply_variable(config: &mut Config, name: &str, value: &str, problems: &mut Vec<Problem>) {
    let rest = name.strip_prefix(PREFIX).unwrap_or_default().to_lowercase();
    let (section, key) = rest.split_once("__").unwrap_or(("", &rest));
    if let Some(message) = set(config, section, key, Raw::Env(value)) {
        problems.push(Problem {
            place: Place::Variable(name.to_owned()),
            message,
        });
    }
}

/// Sets a key; on failure what is wrong.
fn set(config: &mut Config, section: &str, key: &str, raw: Raw<'_>) -> Option<String> {
    let shown = if section.is_empty() {
        key.to_owned()
    } else {
        format!("{section}.{key}")
    };
    let Some(target) = config.section_mut(section) else {
        return Some(format!(
            "unknown section [{section}], there are {}",
            section_names()
        ));
    };
    match target.set(key, raw) {
        Ok(()) => None,
        Err(SetError::Expected(expected)) => Some(format!("{shown} takes {expected}")),
        Err(SetError::EnvironmentOnly) => Some(format!(
            "{shown} is a test switch, only {} sets it",
            variable(section, key)
        )),
        Err(SetError::UnknownKey) => {
            let keys: Vec<&str> = target.keys().iter().map(|key| key.name).collect();
            let mut message = format!("unknown key {shown}, there are {}", keys.join(", "));
            if section.is_empty() {
                message.push_str(&format!(" and the sections {}", section_names()));
            }
            Some(message)
        }
    }
}

fn section_names() -> String {
    let names: Vec<&str> = SECTIONS
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !name.is_empty())
        .collect();
    names.join(", ")
}

/// What no single key can tell.
fn check(config: &Config, problems: &mut Vec<Problem>) {
    let mut wrong = |message: &str| {
        problems.push(Problem {
            place: Place::Whole,
            message: message.to_owned(),
        });
    };
    let federation = &config.federation;
    if federation.tls_cert.is_some() != federation.tls_key.is_some() {
        wrong("federation.tls_cert and federation.tls_key belong together, only one is set");
    }
    if federation.bind.is_some() && federation.tls_cert.is_none() && !federation.allow_plain {
        wrong(
            "federation.bind is set without federation.tls_cert and federation.tls_key: other \
             servers only speak TLS. Set both, or unset federation.bind and let a reverse proxy \
             with TLS forward port 8448 to client.bind",
        );
    }
    let segment = config.log.segment_bytes.0;
    if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment) {
        wrong("log.segment_bytes must be from 64 KiB to 1 GiB");
    }
    if let Some(url) = &config.client.public_url
        && !(url.starts_with("https://") || url.starts_with("http://"))
    {
        wrong("client.public_url must begin with https:// or http://");
    }
}

/// Tests use small segments to see many rolls; positions within a segment are 32 bits.
const SEGMENT_BYTES_MIN: u64 = 64 << 10;
const SEGMENT_BYTES_MAX: u64 = 1 << 30;
