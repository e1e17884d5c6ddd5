//! Leaves out one authorization rule at a time and looks whether a scenario
//! comes out otherwise. A rule that nobody misses is not tested.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::language::{Scenario, StepKind};
use super::stage::Stage;
use crate::matrix::RoomVersion;
use crate::matrix::auth_rules::Rule;
use crate::matrix::auth_rules::rule::switch;

/// The scenarios in which a rule decided, by version.
type Deciding = BTreeMap<(Rule, RoomVersion), Vec<usize>>;

/// Rules that cannot be missed in a version, and why.
const REDUNDANT: [(Rule, RoomVersion, &str); 1] = [(
    Rule::PowerLevelsFirst,
    RoomVersion::V12,
    "only creators may send the first power levels, and no level is above theirs",
)];

/// Puts the rule back however the test ends.
struct Off;

impl Drop for Off {
    fn drop(&mut self) {
        switch::turn_off(None);
    }
}

/// Whether the scenario expects a refusal by this rule.
fn mentions(scenario: &Scenario, rule: Rule) -> bool {
    let mut expected = scenario.steps.iter().flat_map(|step| &step.expected);
    expected.any(|expected| expected.rule == Some(rule))
}

/// Plays everything once and notes where which rule decided.
fn survey(stage: &mut Stage, scenarios: &[Scenario]) -> Deciding {
    let mut deciding = Deciding::new();
    for (index, scenario) in scenarios.iter().enumerate() {
        for &version in &scenario.versions {
            let (seen, result) = stage.play(scenario, version, false);
            if let Err(failure) = result {
                panic!("{failure}");
            }
            for rule in seen {
                deciding.entry((rule, version)).or_default().push(index);
            }
        }
    }
    for ((rule, _), found) in &mut deciding {
        // Those that are about the rule first, then the shortest.
        found.sort_by_key(|index| {
            let scenario = &scenarios[*index];
            let events = |step: &&super::language::Step| matches!(step.kind, StepKind::Event(_));
            let length = scenario.steps.iter().filter(events).count();
            (!mentions(scenario, *rule), length)
        });
    }
    deciding
}

#[test]
fn continuwuity_6185841b6_no_rule_can_be_left_out_unnoticed() {
    let scenarios = super::scenarios();
    let mut stage = Stage::new();
    let deciding = survey(&mut stage, &scenarios);
    let mut unnoticed: BTreeMap<Rule, BTreeSet<RoomVersion>> = BTreeMap::new();
    let _off = Off;
    for rule in Rule::all() {
        for version in RoomVersion::all().filter(|version| rule.is_in(*version)) {
            let candidates = deciding.get(&(rule, version)).cloned().unwrap_or_default();
            let missed = candidates.into_iter().any(|index| {
                switch::turn_off(Some(rule));
                let play = || stage.play(&scenarios[index], version, false).1;
                let result = catch_unwind(AssertUnwindSafe(play));
                switch::turn_off(None);
                if result.is_err() {
                    stage = Stage::new();
                }
                !matches!(result, Ok(Ok(())))
            });
            let redundant = REDUNDANT
                .iter()
                .any(|(of, at, _)| (*of, *at) == (rule, version));
            assert!(
                !(missed && redundant),
                "{rule} is not redundant in {version}"
            );
            if !missed && !redundant {
                unnoticed.entry(rule).or_default().insert(version);
            }
        }
    }
    let lines: Vec<String> = unnoticed
        .iter()
        .map(|(rule, versions)| format!("{rule} in {versions:?}"))
        .collect();
    assert!(
        lines.is_empty(),
        "rules that no scenario misses:\n{}\n",
        lines.join("\n")
    );
}

#[test]
fn rules_decide_only_in_versions_that_have_them() {
    let scenarios = super::scenarios();
    let deciding = survey(&mut Stage::new(), &scenarios);
    for (rule, version) in deciding.keys() {
        assert!(rule.is_in(*version), "{rule} decided in version {version}");
    }
}
