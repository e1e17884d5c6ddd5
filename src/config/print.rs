//! The configuration as a commented TOML file.

use std::fmt::Write as _;

use super::sections::{Config, Key, SECTIONS};

const HEADER: &str = "\
# Engram's configuration: all keys with their defaults.
#
# Start from an empty file and write only what you change. Every key can also be
# set by an environment variable, which wins over the file: [client] bind is
# ENGRAM__CLIENT__BIND, a key outside of a section is ENGRAM__KEY, a list is
# comma-separated, a map is a=b,c=d. Check a file by `engram --config FILE config --check`.
";

/// The configuration with a comment on every key. Keys that are not set are
/// shown behind `#`; test switches are left out, see [`test_switches`].
pub fn to_toml(config: &Config) -> String {
    let mut out = String::from(HEADER);
    for (name, about) in SECTIONS {
        let Some(section) = config.section(name) else {
            continue;
        };
        if !name.is_empty() {
            let _ = write!(out, "\n# {about}\n[{name}]\n");
        }
        for key in section.keys().into_iter().filter(|key| !key.env_only) {
            print_key(&mut out, &key);
        }
    }
    out
}

fn print_key(out: &mut String, key: &Key) {
    out.push('\n');
    for line in key.comment {
        let _ = writeln!(out, "#{line}");
    }
    // Writing to a string does not fail.
    let _ = match &key.value {
        Some(value) => writeln!(out, "{} = {value}", key.name),
        None => writeln!(out, "# {} = \"\"", key.name),
    };
}

/// Variables that only tests set, with what they do.
pub fn test_switches(config: &Config) -> String {
    let mut out = String::new();
    for (name, _) in SECTIONS {
        let keys = config.section(name).map(|section| section.keys());
        for key in keys.into_iter().flatten().filter(|key| key.env_only) {
            let variable = super::load::variable(name, key.name);
            let text: Vec<&str> = key.comment.iter().map(|line| line.trim()).collect();
            let _ = writeln!(out, "{variable}: {}", text.join(" "));
        }
    }
    out
}
