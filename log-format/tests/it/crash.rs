//! Power cuts at random moments: what was acknowledged is there afterwards. And
//! the proof that this test has teeth: with syncs that lie it fails.

use log_format::{Pending, WriterConfig};

use crate::fake::{FakeFs, Random};
use crate::support::{assert_same, dir, open, read_all, record, small_segments};

/// Writes until a random moment, cuts the power, recovers, and goes on, some
/// times over. Returns the first acknowledged record that was lost, if one was.
fn lives_through_power_cuts(
    seed: u64,
    config: &WriterConfig,
    syncs_lie: bool,
) -> Result<(), String> {
    let mut random = Random::new(seed);
    let mut fs = FakeFs::new();
    let mut records: Vec<Pending> = Vec::new();
    for life in 0..4 {
        fs.set_syncs_lie(syncs_lie);
        let (mut writer, _) = open(&fs.shared(), config).map_err(|error| error.to_string())?;
        // In every other run spares are filled beside the appends, now and then.
        let filler = writer.filler().filter(|_| seed % 2 == 1);
        if writer.end() > records.len() as u64 {
            return Err(format!(
                "life {life}: {} records from nowhere",
                writer.end()
            ));
        }
        records.truncate(writer.end() as usize);
        let read = read_all(&fs.shared(), &dir(), writer.end());
        assert_same(&read, &records);
        let mut acknowledged = records.len();
        for _ in 0..random.below(40) {
            let number = records.len() as u64;
            let count = 1 + random.below(4);
            let size = random.below(2000) as usize;
            let batch: Vec<_> = (0..count).map(|at| record(number + at, size)).collect();
            writer.append(&batch).expect("appends");
            records.extend(batch);
            if let Some(filler) = &filler {
                for _ in 0..random.below(3) {
                    filler.step().expect("fills");
                }
            }
            if random.below(4) > 0 {
                writer.sync().expect("syncs");
                acknowledged = records.len();
                if random.below(4) == 0 {
                    writer.idle_commit().expect("idles");
                }
            }
        }
        let after = fs.crash(random.next());
        drop(writer);
        let recovered = open(&after.shared(), config).map_err(|error| error.to_string())?;
        if (recovered.0.end() as usize) < acknowledged {
            return Err(format!(
                "life {life}: {acknowledged} acknowledged, {} left",
                recovered.0.end()
            ));
        }
        drop(recovered);
        fs = after;
    }
    Ok(())
}

#[test]
fn nothing_acknowledged_is_lost() {
    for zero_fill in [true, false] {
        for seed in 0..400 {
            let config = small_segments(zero_fill);
            let lived = lives_through_power_cuts(seed, &config, false);
            assert_eq!(lived, Ok(()), "seed {seed}, zero-fill {zero_fill}");
        }
    }
}

#[test]
fn without_syncs_the_same_test_fails() {
    let config = small_segments(true);
    let lost = (0..20).filter(|seed| lives_through_power_cuts(*seed, &config, true).is_err());
    assert!(lost.count() > 10, "a lying disk must be noticed");
    // And with the writer's own test switch.
    let config = WriterConfig {
        sync: log_format::SyncMode::Off,
        ..small_segments(true)
    };
    let lost = (0..20).filter(|seed| lives_through_power_cuts(*seed, &config, false).is_err());
    assert!(lost.count() > 5, "the switch must be noticed");
}
