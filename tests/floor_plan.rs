//! Holds the walls between the floors: which folder of `src/` may name which.
//!
//! Reads every source file, resolves `crate::…` and `super::…` paths to the
//! top-level folder they lead to, and compares with the table below (layout,
//! *Floor plan*; ARCHITECTURE.md draws it). Prints file, line and rule.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that all others above may name; among one another only `limits`.
const GROUND: [&str; 5] = ["crypto", "config", "telemetry", "clock", "limits"];

/// A folder of `src/`: what it may name beside itself and (unless it is ground) the ground.
struct Room {
    name: &'static str,
    may_name: &'static [&'static str],
    /// Ground folders that it must not name all the same.
    except: &'static [&'static str],
    /// External names that must not occur in it.
    never: &'static [&'static str],
    rule: &'static str,
}

const ROOMS: [Room; 14] = [
    Room {
        name: "api",
        may_name: &["writers", "readers", "query", "matrix"],
        except: &[],
        never: &["rocksdb", "reqwest"],
        rule: "doors ask query, wait on readers and hand writes to writers; they know no log and no store",
    },
    Room {
        name: "writers",
        may_name: &["logs", "query", "outbound", "blobs", "matrix"],
        except: &[],
        never: &["rocksdb", "axum", "reqwest"],
        rule: "writers append and ask; they never touch a table, a projector, a reader or a door",
    },
    Room {
        name: "projectors",
        may_name: &["logs", "storage", "query", "matrix"],
        except: &["clock"],
        never: &[
            "axum",
            "reqwest",
            "rocksdb",
            "SystemTime",
            "Instant",
            "HashMap",
            "HashSet",
            "rand",
        ],
        rule: "projectors are pure: no clock, no network, no randomness, no order of a hash map",
    },
    Room {
        name: "readers",
        may_name: &["logs", "query", "storage", "outbound", "blobs", "matrix"],
        except: &[],
        never: &["axum", "rocksdb", "reqwest"],
        rule: "readers follow output and keep their own tables",
    },
    Room {
        name: "logs",
        may_name: &["matrix"],
        except: &[],
        never: &["rocksdb", "axum", "reqwest"],
        rule: "the logs know nothing of who appends and who follows",
    },
    Room {
        name: "query",
        may_name: &["matrix"],
        except: &[],
        never: &["rocksdb", "axum", "reqwest"],
        rule: "the window is traits and answers only",
    },
    Room {
        name: "storage",
        may_name: &["matrix"],
        except: &[],
        never: &["axum", "reqwest"],
        rule: "the store holds bytes and does not know what they mean",
    },
    Room {
        name: "outbound",
        may_name: &["matrix"],
        except: &[],
        never: &["rocksdb", "axum"],
        rule: "outbound speaks HTTP to others and nothing else",
    },
    Room {
        name: "matrix",
        may_name: &[],
        except: &["config", "telemetry", "clock"],
        never: &[
            "tokio",
            "rocksdb",
            "axum",
            "reqwest",
            "SystemTime",
            "Instant",
        ],
        rule: "the protocol is pure functions",
    },
    ground("crypto"),
    ground("config"),
    ground("telemetry"),
    ground("clock"),
    ground("limits"),
];

const fn ground(name: &'static str) -> Room {
    Room {
        name,
        may_name: &[],
        except: &["crypto", "config", "telemetry", "clock"],
        never: &["rocksdb", "axum", "reqwest"],
        rule: "ground folders name nothing but limits",
    }
}

/// What crosses a wall on purpose: beginning of the file, name, reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "query/",
        "logs::log",
        "an outcome is asked by `Appended`, which is a plain value of the port",
    ),
    (
        "projectors/roomserver/heads.rs",
        "HashMap",
        "a cache of heads: looked up by key; what it evicts is read back and changes no outcome",
    ),
];

/// Tests of a folder build its neighbours or fakes of them.
fn is_test(modules: &[String]) -> bool {
    modules.iter().any(|module| module == "tests")
}

/// Folders and files of `src/` that the table does not govern.
const UNGOVERNED: [&str; 3] = ["app", "main", "lib"];

#[test]
fn every_folder_stays_on_its_floor() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut violations = Vec::new();
    for file in rust_files(&source) {
        let relative = file.strip_prefix(&source).unwrap();
        let modules = module_path(relative);
        let text = fs::read_to_string(&file).unwrap();
        let top = modules.first().map_or("lib", String::as_str);
        if UNGOVERNED.contains(&top) || is_test(&modules) {
            continue;
        }
        let Some(room) = ROOMS.iter().find(|room| room.name == top) else {
            panic!("src/{top} is not in the floor plan; give it a row in tests/floor_plan.rs");
        };
        for named in names(&text, &modules) {
            let excepted = EXCEPTIONS.iter().any(|(place, name, _)| {
                relative.to_string_lossy().starts_with(place) && named.path.starts_with(name)
            });
            if !excepted && !allowed(room, &named) {
                violations.push(format!(
                    "src/{}:{}: `{}`: {}",
                    relative.display(),
                    named.line,
                    named.path,
                    room.rule
                ));
            }
        }
    }
    assert!(
        violations.is_empty(),
        "walls are broken:\n{}",
        violations.join("\n")
    );
}

fn allowed(room: &Room, named: &Named) -> bool {
    if named.external {
        return !room.never.contains(&named.path.as_str());
    }
    let target = named.path.split("::").next().unwrap_or_default();
    target == room.name
        || room.may_name.contains(&target)
        || (GROUND.contains(&target) && !room.except.contains(&target))
}

/// A path of our own crate (from its root), or the first word of another's.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    line: usize,
    path: String,
    external: bool,
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// `storage/columns.rs` is `storage::columns`, `storage/mod.rs` is `storage`.
fn module_path(relative: &Path) -> Vec<String> {
    let mut modules: Vec<String> = relative
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if modules.last().is_some_and(|last| last == "mod") {
        modules.pop();
    }
    modules
}

/// Every crate path and every external first word of a source text.
fn names(text: &str, modules: &[String]) -> Vec<Named> {
    let tokens = tokens(text);
    let word = |at: usize| tokens.get(at).map_or("", |(_, token)| token.as_str());
    let mut found = Vec::new();
    let mut inline: Vec<usize> = Vec::new(); // brace depths at which inline modules began
    let mut depth = 0;
    let mut at = 0;
    while at < tokens.len() {
        let line = tokens[at].0;
        match word(at) {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                inline.retain(|begun| *begun <= depth);
            }
            "mod" if word(at + 2) == "{" => inline.push(depth + 1),
            "crate" if word(at + 1) == "::" => {
                found.extend(
                    targets(&tokens, at + 2, &[])
                        .into_iter()
                        .map(|path| own(line, path)),
                );
            }
            "super" if word(at + 1) == "::" && word(at.wrapping_sub(1)) != "::" => {
                let mut ups = 1;
                while word(at + 2 * ups) == "super" && word(at + 2 * ups + 1) == "::" {
                    ups += 1;
                }
                let height = modules.len() + inline.len();
                // What stays below the top folder cannot leave it.
                if ups >= height {
                    let paths = targets(&tokens, at + 2 * ups, &[]);
                    found.extend(paths.into_iter().map(|path| own(line, path)));
                }
                at += 2 * ups - 1;
            }
            name if name.chars().next().is_some_and(char::is_alphabetic) => {
                found.push(Named {
                    line,
                    path: name.to_owned(),
                    external: true,
                });
            }
            _ => (),
        }
        at += 1;
    }
    found
}

fn own(line: usize, path: String) -> Named {
    Named {
        line,
        path,
        external: false,
    }
}

/// The paths that begin at a token: one, or each of a `{…}` group.
fn targets(tokens: &[(usize, String)], at: usize, before: &[&str]) -> Vec<String> {
    let word = |at: usize| tokens.get(at).map_or("", |(_, token)| token.as_str());
    if word(at) != "{" {
        let mut path: Vec<&str> = before.to_vec();
        let mut at = at;
        path.push(word(at));
        while word(at + 1) == "::" && word(at + 2).chars().next().is_some_and(char::is_alphabetic) {
            path.push(word(at + 2));
            at += 2;
        }
        return vec![path.join("::")];
    }
    let (mut depth, mut begins, mut paths, mut at) = (1, true, Vec::new(), at + 1);
    while depth > 0 && at < tokens.len() {
        match word(at) {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 1 => begins = true,
            _ if depth == 1 && begins => {
                paths.extend(targets(tokens, at, before));
                begins = false;
            }
            _ => (),
        }
        at += 1;
    }
    paths
}

/// Words and punctuation with their lines; comments, strings and characters are left out.
fn tokens(text: &str) -> Vec<(usize, String)> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = raw_string(rest) {
            length
        } else if first == '"' {
            string(rest)
        } else if first == '\'' {
            character(rest)
        } else if first.is_alphanumeric() || first == '_' {
            let end = |c: char| !(c.is_alphanumeric() || c == '_');
            let length = rest.find(end).unwrap_or(rest.len());
            tokens.push((line, rest[..length].to_owned()));
            length
        } else if rest.starts_with("::") {
            tokens.push((line, "::".to_owned()));
            2
        } else {
            if !first.is_whitespace() {
                tokens.push((line, first.to_string()));
            }
            first.len_utf8()
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let begin = rest.len() - after.len() + hashes + 1;
    Some(
        rest[begin..]
            .find(&close)
            .map_or(rest.len(), |end| begin + end + close.len()),
    )
}

fn string(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => (),
        }
    }
    rest.len()
}

/// A character literal, or one byte of a lifetime.
fn character(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), _) => rest[3..].find('\'').map_or(rest.len(), |end| end + 4),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let modules = ["readers".to_owned(), "client_sync".to_owned()];
        let names = names(text, &modules).into_iter();
        names
            .filter(|named| !named.external)
            .map(|named| named.path)
            .collect()
    }

    #[test]
    fn paths_are_found_in_every_form() {
        assert_eq!(found("use crate::logs::log::Log;"), ["logs::log::Log"]);
        assert_eq!(
            found("use crate::{logs, query::{a, b}, api::x};"),
            ["logs", "query", "api::x"]
        );
        assert_eq!(found("fn f() -> crate::api::X {}"), ["api::X"]);
        assert_eq!(found("use super::x; use super::super::api::y;"), ["api::y"]);
        assert_eq!(
            found("mod tests { use super::super::x; use super::super::super::api; }"),
            ["api"]
        );
        assert!(
            found("// crate::api::x\n/* crate::api */ \"crate::api\" r#\"crate::api\"#").is_empty()
        );
        assert_eq!(found("let a = '\"'; crate::api::f('\\''); "), ["api::f"]);
    }

    #[test]
    fn a_broken_wall_is_seen() {
        let room = ROOMS.iter().find(|room| room.name == "projectors").unwrap();
        for path in ["api", "writers::submit", "readers", "clock::now_us", "app"] {
            assert!(!allowed(room, &own(1, path.to_owned())), "{path}");
        }
        for path in [
            "logs::log",
            "storage",
            "query::ids",
            "crypto",
            "projectors::fold",
        ] {
            assert!(allowed(room, &own(1, path.to_owned())), "{path}");
        }
        let external = |path: &str| Named {
            line: 1,
            path: path.to_owned(),
            external: true,
        };
        assert!(!allowed(room, &external("HashMap")));
        assert!(allowed(room, &external("BTreeMap")));
    }
}
