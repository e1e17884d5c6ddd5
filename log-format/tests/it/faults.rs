//! Any call to the disk may fail: for each N, the N-th call of a fixed scenario
//! fails, once or from then on. Never a wrong acknowledgement, and the next start
//! is clean (reliability figures R5 and R6).

use log_format::{AppendError, OpenError, Pending, Recovery, WriterConfig};

use crate::fake::{Failure, FakeFs, Plan, Random};
use crate::support::{assert_same, dir, open, read_all, record, small_segments};

/// What the scenario had been told when it ended.
#[derive(Default)]
struct Told {
    /// Records whose sync returned.
    acknowledged: usize,
    /// Records whose append returned, in order; those refused are not among them.
    appended: Vec<Pending>,
    closed: bool,
}

/// Appends with rolls, idle frames and a reopening in the middle; with `filling`
/// the next segment is made beside them.
fn scenario(fs: &FakeFs, config: &WriterConfig, filling: bool) -> Told {
    let mut told = Told::default();
    for half in 0..2 {
        let (mut writer, recovery) = match open(&fs.shared(), config) {
            Ok(opened) => opened,
            Err(OpenError::Io { .. }) => return told,
            Err(other) => panic!("{other}"),
        };
        assert!(recovery.end() as usize >= told.acknowledged);
        told.appended.truncate(recovery.end() as usize);
        let filler = writer.filler().filter(|_| filling);
        for number in 0..30 {
            let batch: Vec<_> = (0..1 + number % 3)
                .map(|at| record((told.appended.len() + at) as u64, 700 + 100 * half))
                .collect();
            if let Some(filler) = &filler {
                // A spare that fails is given up, and the writer does without.
                let _ = filler.step();
            }
            let appended = writer.append(&batch).and_then(|_| {
                told.appended.extend(batch);
                writer.sync()
            });
            match appended {
                Ok(end) => {
                    assert_eq!(end as usize, told.appended.len());
                    told.acknowledged = told.appended.len();
                }
                Err(AppendError::Full) => assert!(!writer.is_poisoned()),
                Err(AppendError::OutcomeUnknown(_)) => {
                    told.closed = true;
                    // Fail-stop: nothing after it is ever acknowledged.
                    assert!(matches!(
                        writer.append(&[record(0, 1)]),
                        Err(AppendError::Poisoned)
                    ));
                    assert!(matches!(writer.sync(), Err(AppendError::Poisoned)));
                    return told;
                }
                Err(other) => panic!("{other}"),
            }
            if number % 4 == 0 {
                match writer.idle_commit() {
                    Ok(()) | Err(AppendError::Full) => {}
                    Err(_) => return told,
                }
            }
        }
    }
    told
}

/// The log holds what was acknowledged, and nothing that was not appended.
fn check(fs: &FakeFs, config: &WriterConfig, told: &Told, what: &str) {
    fs.plan(None);
    let (mut writer, recovery) =
        open(&fs.shared(), config).unwrap_or_else(|error| panic!("{what}: {error}"));
    let end = recovery.end() as usize;
    assert!(
        end >= told.acknowledged,
        "{what}: {} acknowledged, {end} left",
        told.acknowledged
    );
    // A batch whose outcome is unknown may be there as a whole.
    let known = &told.appended[..end.min(told.appended.len())];
    let read = read_all(&fs.shared(), &dir(), end as u64);
    assert_same(&read[..known.len()], known);
    assert!(
        end <= told.appended.len() + 3,
        "{what}: {end} of {}",
        told.appended.len()
    );
    let next = record(end as u64, 50);
    writer.append(std::slice::from_ref(&next)).expect("appends");
    writer.sync().expect("syncs");
    drop(writer);
    let (writer, recovery) = open(&fs.shared(), config).expect("reopens");
    assert_eq!(
        recovery,
        Recovery::Clean {
            end: end as u64 + 1
        },
        "{what}"
    );
    drop(writer);
}

#[test]
fn every_call_may_fail() {
    for (zero_fill, filling) in [(true, false), (true, true), (false, false)] {
        let config = small_segments(zero_fill);
        let fs = FakeFs::new();
        fs.plan(None);
        let told = scenario(&fs, &config, filling);
        assert_eq!(told.acknowledged, told.appended.len());
        let calls = fs.calls();
        assert!(calls > 150, "the scenario makes {calls} calls");
        let mut closed = 0;
        for at_call in 1..=calls {
            for failure in [Failure::Io, Failure::Full, Failure::ShortWrite] {
                for for_ever in [false, true] {
                    let what = format!(
                        "call {at_call} {failure:?} for ever {for_ever}, zero-fill {zero_fill}, \
                         filling {filling}"
                    );
                    let fs = FakeFs::new();
                    fs.plan(Some(Plan {
                        at_call,
                        failure,
                        for_ever,
                    }));
                    let told = scenario(&fs, &config, filling);
                    closed += u64::from(told.closed);
                    let mut random = Random::new(at_call);
                    let after = fs.crash(random.next());
                    check(&fs, &config, &told, &what);
                    check(&after, &config, &told, &format!("{what}, power cut"));
                }
            }
        }
        assert!(closed > 100, "failures closed the log {closed} times");
    }
}

#[test]
fn recovery_may_be_interrupted_anywhere() {
    let config = small_segments(true);
    for seed in 0..30 {
        // A torn tail: synced records, then a batch that only half survives.
        let torn = FakeFs::new();
        let (mut writer, _) = open(&torn.shared(), &config).expect("opens");
        let records: Vec<_> = (0..20).map(|number| record(number, 800)).collect();
        writer.append(&records).expect("appends");
        writer.sync().expect("syncs");
        writer.append(&[record(20, 5000)]).expect("appends");
        drop(writer);
        let torn = torn.crash(seed);
        for at_call in 1.. {
            let fs = torn.copy();
            fs.plan(Some(Plan {
                at_call,
                failure: Failure::Io,
                for_ever: true,
            }));
            let opened = open(&fs.shared(), &config).map(|_| ());
            let done = opened.is_ok();
            let after = fs.crash(seed * 1000 + at_call);
            let (writer, recovery) = open(&after.shared(), &config).expect("opens");
            assert!(
                (20..=21).contains(&recovery.end()),
                "seed {seed} call {at_call}"
            );
            drop(writer);
            assert_same(&read_all(&after.shared(), &dir(), 20), &records);
            if done {
                break;
            }
        }
    }
}

#[test]
fn a_full_disk_refuses_keeps_reading_and_recovers_without_a_restart() {
    for zero_fill in [true, false] {
        let config = small_segments(zero_fill);
        let fs = FakeFs::new();
        let (mut writer, _) = open(&fs.shared(), &config).expect("opens");
        let mut records: Vec<Pending> = Vec::new();
        let mut refused = 0;
        for round in 0..20 {
            fs.set_room(Some(40_000));
            loop {
                let next = record(records.len() as u64, 600);
                match writer.append(std::slice::from_ref(&next)) {
                    Ok(_) => {
                        writer.sync().expect("what was taken is made durable");
                        records.push(next);
                    }
                    Err(AppendError::Full) => break,
                    Err(other) => panic!("{other}"),
                }
            }
            refused += 1;
            assert!(!writer.is_poisoned(), "round {round}");
            assert_same(
                &read_all(&fs.shared(), &dir(), records.len() as u64),
                &records,
            );
            fs.set_room(None);
            let next = record(records.len() as u64, 600);
            writer
                .append(std::slice::from_ref(&next))
                .expect("there is room again");
            writer.sync().expect("syncs");
            records.push(next);
        }
        assert_eq!(refused, 20);
        drop(writer);
        let (_, recovery) = open(&fs.shared(), &config).expect("reopens");
        assert_eq!(
            recovery,
            Recovery::Clean {
                end: records.len() as u64
            }
        );
    }
}
