//! Holds docs/security-tests.md to the sources: each test that it names is there,
//! each test that is named by a row is in it, and no row is without a test.
//!
//! Reads files only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const TABLE: &str = "docs/security-tests.md";

/// Beginnings of tests that are named by a row.
const PREFIXES: [&str; 10] = [
    "cve_",
    "ghsa_",
    "rustsec_",
    "pr_",
    "msc",
    "synapse_",
    "continuwuity_",
    "tuwunel_",
    "spec_",
    "sec_",
];

/// A row: what it is about, and what shows it.
#[derive(Debug)]
struct Row {
    line: usize,
    ids: String,
    tests: BTreeSet<String>,
    is_for_later: bool,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn each_named_test_is_there_and_each_test_of_a_row_is_named() {
    let tests = tests_of(&root());
    let rows = rows(&fs::read_to_string(root().join(TABLE)).unwrap());
    let named: BTreeSet<&String> = rows.iter().flat_map(|row| &row.tests).collect();
    let mut wrong = Vec::new();
    for row in &rows {
        for test in row.tests.iter().filter(|test| !tests.contains_key(*test)) {
            wrong.push(format!("{TABLE}:{}: no test is named {test}", row.line));
        }
    }
    for (test, file) in &tests {
        if is_named_by_a_row(test) && !named.contains(test) {
            wrong.push(format!("{file}: {test} is missing in {TABLE}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// By its id, or by what it says in place of one, unless it waits for its feature.
#[test]
fn each_row_has_a_test_named_by_its_id() {
    let rows = rows(&fs::read_to_string(root().join(TABLE)).unwrap());
    assert!(rows.len() > 50, "{} rows", rows.len());
    let mut wrong = Vec::new();
    for row in rows.iter().filter(|row| !row.is_for_later) {
        let prefixes = row.ids.split(',').map(prefix_of);
        // A row without an id has words in its place, and tests by any name.
        let ids: Vec<String> = prefixes.filter(|id| is_named_by_a_row(id)).collect();
        let is_named = |test: &String| ids.iter().any(|id| test.starts_with(id));
        let is_shown = match ids.is_empty() {
            true => !row.tests.is_empty(),
            false => row.tests.iter().any(is_named),
        };
        if !is_shown {
            wrong.push(format!("{TABLE}:{}: no test of {}", row.line, row.ids));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn is_named_by_a_row(name: &str) -> bool {
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// `CVE-2025-49090` makes `cve_2025_49090_`.
fn prefix_of(id: &str) -> String {
    let id = id.trim().to_ascii_lowercase();
    id.replace(|c: char| !c.is_ascii_alphanumeric(), "_") + "_"
}

/// The rows of all tables. The first cell is the ids, the last the tests: in
/// backticks, with what each shows.
fn rows(text: &str) -> Vec<Row> {
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| line.starts_with('|'));
    let lines = lines.filter(|(_, line)| !line.starts_with("| id ") && !line.starts_with("| ---"));
    let rows = lines.map(|(index, line)| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        let [ids, _, shown] = cells[..] else {
            panic!("{TABLE}:{}: not three cells", index + 1);
        };
        let quoted = shown.split('`').skip(1).step_by(2);
        Row {
            line: index + 1,
            ids: ids.trim().to_owned(),
            tests: quoted.map(str::to_owned).collect(),
            is_for_later: shown.trim_start().starts_with("later: "),
        }
    });
    rows.collect()
}

/// Every test function, with its file.
fn tests_of(root: &Path) -> BTreeMap<String, String> {
    let mut tests = BTreeMap::new();
    for folder in ["src", "tests", "tools", "log-format"] {
        for file in rust_files(&root.join(folder)) {
            let text = fs::read_to_string(&file).unwrap();
            let name = file.strip_prefix(root).unwrap().display().to_string();
            for test in tests_in(&text) {
                tests.insert(test, name.clone());
            }
        }
    }
    tests
}

/// Functions that stand below a test attribute.
fn tests_in(text: &str) -> Vec<String> {
    let mut tests = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some(function) = line.strip_prefix("async fn ").or(line.strip_prefix("fn ")) {
            let name = function.split(['(', '<']).next().unwrap_or_default();
            tests.extend(is_test.then(|| name.to_owned()));
            is_test = false;
        }
    }
    tests
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn tables_and_tests_are_read() {
    let text = "| id | what | shown by |\n| --- | --- | --- |\n\
        | CVE-1-2, X | a | `cve_1_2_b` (c); `d` |\n| Y | b | later: no keys yet |\n";
    let rows = rows(text);
    assert_eq!(rows.len(), 2);
    let tests: Vec<&str> = rows[0].tests.iter().map(String::as_str).collect();
    assert_eq!((rows[0].line, tests), (3, vec!["cve_1_2_b", "d"]));
    assert_eq!(prefix_of(" CVE-1-2"), "cve_1_2_");
    assert!(rows[1].is_for_later && !rows[0].is_for_later);
    let code = "#[test]\n/// x\nfn one() {\nfn two() {\n#[tokio::test(a)]\nasync fn three() {";
    assert_eq!(tests_in(code), ["one", "three"]);
}
