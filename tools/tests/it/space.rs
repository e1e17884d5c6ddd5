//! `stats`: disk per event and per state change.

use log_format::record::output::Membership;
use serde_json::{Value, json};

use crate::story::{Story, member, message};
use crate::support::{lines, run};

const ROOM: &str = "!room:hs.test";
const ALICE: &str = "@alice:hs.test";

/// A data folder with three accepted events, one of which changed the state.
fn data_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut story = Story::begin(&folder.path().join("log"));
    story.decide(ROOM, &member("$join", ALICE, ALICE, None, Membership::Join));
    story.decide(ROOM, &message("$one", ALICE));
    story.decide(ROOM, &message("$two", ALICE));
    story.end();
    folder
}

fn space(folder: &tempfile::TempDir) -> Value {
    lines(folder.path(), &["stats", "log", "--json"])[0]["space"].clone()
}

#[test]
fn sizes_of_the_store_are_set_against_what_it_held() {
    let folder = data_folder();
    let sizes = json!({
        "time_us": 1_795_428_000_000_000_u64,
        // The last message came after the sizes were taken.
        "output_ends": [2],
        "families": {
            "state": { "file_bytes": 300, "memtable_bytes": 5 },
            "rooms": { "file_bytes": 700, "memtable_bytes": 5 },
        },
    });
    std::fs::write(folder.path().join("space.json"), sizes.to_string()).unwrap();
    let found = space(&folder);
    assert_eq!(found["events"], 3);
    assert_eq!(found["state_changes"], 1);
    let file_bytes = found["file_bytes"]["output"].as_u64().unwrap();
    let per_event = found["file_bytes_per_event"]["output"].as_f64().unwrap();
    assert!((per_event - file_bytes as f64 / 3.0).abs() < 0.1, "{found}");
    let store = &found["store"];
    assert_eq!(store["events"], 2);
    assert_eq!(store["bytes"], 1000);
    assert_eq!(store["bytes_per_event"], 500.0);
    assert_eq!(store["state_bytes_per_change"], 300.0);
    assert_eq!(store["state_bytes_per_event"], 150.0);
    let text = run(folder.path(), &["stats", "log"]).stdout;
    let text = String::from_utf8(text).unwrap();
    for line in [
        "3 accepted events, 1 state changes",
        "300.0 bytes of state per state change, 150.0 bytes per event",
        "500.0 bytes of store per event",
        "2026-11-23T10:00:00",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn what_is_missing_is_said() {
    let folder = data_folder();
    let missing = |folder| {
        space(folder)["store"]["missing"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert!(missing(&folder).contains("is not there"));
    std::fs::write(folder.path().join("space.json"), "{").unwrap();
    assert!(missing(&folder).contains("cannot be read"));
    let text = run(folder.path(), &["stats", "log"]).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("sizes of the store"), "{text}");
    assert!(text.contains("3 accepted events"), "{text}");
}
