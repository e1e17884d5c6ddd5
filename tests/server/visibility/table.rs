//! The table of endpoints against the router and the specification: an endpoint
//! that tells of rooms stands in the matrix, any other says why it need not.

use std::collections::{BTreeMap, BTreeSet};

use crate::endpoints;

const TABLE: &str = include_str!("endpoints.tsv");
/// The check of paths that tell nothing of rooms.
const NOTHING: &str = "-";

/// The checks of the table whose paths the router has, each once.
pub fn checks() -> BTreeSet<&'static str> {
    let built = built();
    let rows = rows().into_iter();
    let rows = rows.filter(|(path, row)| row.check != NOTHING && built.contains_key(path));
    rows.map(|(_, row)| row.check).collect()
}

/// The paths of the router that are said to tell nothing of rooms.
pub fn silent_paths() -> Vec<&'static str> {
    let rows = rows();
    let built = built().into_iter();
    let silent = built.filter(|(key, _)| rows.get(key).is_some_and(|row| row.check == NOTHING));
    silent.map(|(_, path)| path).collect()
}

/// Every path of the router.
pub fn all_paths() -> impl Iterator<Item = &'static str> {
    built().into_values()
}

/// Those that take a room and an event of it.
pub fn paths_of_events() -> impl Iterator<Item = &'static str> {
    all_paths().filter(|path| path.contains("{roomId}") && path.contains("{eventId}"))
}

/// Whether the router has a path.
pub fn has_path(path: &str) -> bool {
    built().contains_key(&nameless(path))
}

struct Row {
    check: &'static str,
    reason: &'static str,
}

/// Rows by path, whatever its parameters are called.
fn rows() -> BTreeMap<String, Row> {
    let lines = TABLE.lines().filter(|line| !line.starts_with('#'));
    let mut rows = BTreeMap::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let mut columns = line.splitn(3, '\t');
        let path = columns.next().unwrap_or_default();
        let check = columns.next().unwrap_or_else(|| panic!("no check: {line}"));
        let reason = columns.next().unwrap_or_default();
        let double = rows.insert(nameless(path), Row { check, reason });
        assert!(double.is_none(), "{path} is listed twice");
    }
    rows
}

/// The paths of the router. Those for older clients have the same handlers.
fn built() -> BTreeMap<String, &'static str> {
    let paths = engram::api::client::routes::routes().paths.into_iter();
    let paths = paths.filter(|path| !path.starts_with("/_matrix/client/r0/"));
    paths.map(|path| (nameless(path), path)).collect()
}

/// A path without the names of its parameters.
fn nameless(path: &str) -> String {
    let parts = path.split('/').map(|part| match part.starts_with('{') {
        true => "{}",
        false => part,
    });
    parts.collect::<Vec<_>>().join("/")
}

#[test]
fn each_path_is_in_the_matrix_or_tells_nothing_of_rooms() {
    let rows = rows();
    let specified = endpoints::specified_paths();
    let known: BTreeSet<String> = specified.map(nameless).chain(built().into_keys()).collect();
    let missing: Vec<&String> = known
        .iter()
        .filter(|path| !rows.contains_key(*path))
        .collect();
    assert!(
        missing.is_empty(),
        "not in tests/server/visibility/endpoints.tsv: add the check that holds each of them \
         against the model, or the reason why it tells nothing of rooms: {missing:#?}"
    );
    for (path, row) in &rows {
        assert!(known.contains(path), "{path} is no path of the router");
        let has_reason = !row.reason.is_empty();
        assert_eq!(has_reason, row.check == NOTHING, "{path}: {}", row.reason);
    }
}
