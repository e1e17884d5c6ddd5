//! The scenario files of `tests/rooms/`, one runner for all, and the check that
//! no authorization rule could be left out without one of them noticing.

mod language;
mod mutation;
mod stage;

use std::fs;
use std::path::Path;

use language::Scenario;
use stage::Stage;

/// Every scenario, by file name.
fn scenarios() -> Vec<Scenario> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rooms");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "txt"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no scenarios in {}", folder.display());
    let mut scenarios = Vec::new();
    for path in files {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap();
        match language::parse(&name, &text) {
            Ok(parsed) => scenarios.extend(parsed),
            Err(why) => panic!("tests/rooms/{why}"),
        }
    }
    scenarios
}

/// `SCENARIO=text` plays those alone whose file or name has the text in it.
fn is_wanted(scenario: &Scenario) -> bool {
    std::env::var("SCENARIO").map_or(true, |text| {
        scenario.file.contains(&text) || scenario.name.contains(&text)
    })
}

#[test]
fn cve_2022_31152_every_scenario_comes_out_as_written() {
    let mut stage = Stage::new();
    let mut failures = Vec::new();
    let mut played = 0;
    for scenario in scenarios().iter().filter(|scenario| is_wanted(scenario)) {
        for &version in &scenario.versions {
            played += 1;
            let (_, result) = stage.play(scenario, version, true);
            failures.extend(result.err().map(|failure| failure.to_string()));
        }
    }
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n"));
    assert!(played > 0, "nothing was played");
}
