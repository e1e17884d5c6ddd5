//! What a fold decides from facts kept up to date is what the rules say of the
//! same room read back from its tables.

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use super::harness::*;
use log_format::record::output::{Decision, Reason};

fn level() -> impl Strategy<Value = i64> {
    prop_oneof![
        Just(-1i64),
        Just(0),
        Just(49),
        Just(50),
        Just(51),
        Just(100)
    ]
}

fn levels() -> impl Strategy<Value = Value> {
    let optional = || prop::option::of(level());
    (
        prop::option::weighted(0.7, (level(), optional())),
        optional(),
        optional(),
        prop::option::of((level(), level())),
    )
        .prop_map(|(bob, users_default, events_default, events)| {
            let mut content = json!({ "users": { ALICE: 100 } });
            if let Some((bob, carol)) = bob {
                content["users"][BOB] = json!(bob);
                if let Some(carol) = carol {
                    content["users"][CAROL] = json!(carol);
                }
            }
            if let Some(level) = users_default {
                content["users_default"] = json!(level);
            }
            if let Some(level) = events_default {
                content["events_default"] = json!(level);
            }
            if let Some((message, redaction)) = events {
                content["events"] =
                    json!({ "m.room.message": message, "m.room.redaction": redaction });
            }
            content
        })
}

/// Every sender and type, folded and asked of the rules directly.
#[test]
fn plain_messages_are_judged_as_the_rules_do() {
    let versions = prop_oneof![Just("10"), Just("11"), Just("12")];
    // One store, and a room for each case: opening costs more than a case.
    let house = RefCell::new(House::new());
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let outcome = runner.run(
        &(versions, levels(), any::<bool>()),
        |(version, levels, federates)| compare(&mut house.borrow_mut(), version, levels, federates),
    );
    outcome.unwrap();
}

fn compare(
    house: &mut House,
    version: &str,
    mut levels: Value,
    federates: bool,
) -> Result<(), TestCaseError> {
    let mut create = house.create_draft(version, ALICE);
    create.content["m.federate"] = json!(federates);
    let room = create.room.clone();
    house.fold(&create).accepted();
    house.member(&room, ALICE, ALICE, "join").accepted();
    let public = json!({ "join_rule": "public" });
    house
        .state(&room, ALICE, "m.room.join_rules", "", public)
        .accepted();
    for user in [BOB, CAROL] {
        house.member(&room, user, user, "join");
    }
    if version == "12" {
        levels["users"].as_object_mut().unwrap().remove(ALICE);
    }
    house
        .state(&room, ALICE, "m.room.power_levels", "", levels)
        .accepted();
    for sender in [ALICE, BOB, CAROL, "@dave:hs"] {
        for kind in ["m.room.message", "m.room.redaction", "m.other"] {
            let draft = house.draft(&room, sender, kind, None, json!({}));
            let expected = match house.rules_allow(&draft) {
                true => (Decision::Accepted, Reason::None),
                false => (Decision::Rejected, Reason::Forbidden),
            };
            prop_assert_eq!(
                house.fold(&draft).verdict(),
                expected,
                "{} {}",
                sender,
                kind
            );
        }
    }
    Ok(())
}
