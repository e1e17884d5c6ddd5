//! Random histories against the simplest log there is, a `Vec`.

use log_format::{PartitionReader, Pending, Recovery, WriterConfig};
use proptest::prelude::*;

use crate::fake::FakeFs;
use crate::support::{assert_same, dir, open, read_all, record};

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<u16>),
    Sync,
    Idle,
    Reopen,
    PowerCut(u64),
    /// The process dies: all that was written is there, synced or not.
    Kill,
    Read {
        from: u8,
        max_bytes: u16,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(0_u16..3000, 1..6).prop_map(Step::Append),
        4 => Just(Step::Sync),
        2 => Just(Step::Idle),
        1 => Just(Step::Reopen),
        1 => any::<u64>().prop_map(Step::PowerCut),
        1 => Just(Step::Kill),
        2 => (any::<u8>(), any::<u16>()).prop_map(|(from, max_bytes)| Step::Read { from, max_bytes }),
    ]
}

/// The model: what was appended, up to where each batch goes, what is durable.
#[derive(Default)]
struct Model {
    records: Vec<Pending>,
    batch_ends: Vec<usize>,
    durable: usize,
}

impl Model {
    /// After a power cut some whole batches behind the durable ones are there.
    fn cut_to(&mut self, end: usize) {
        assert!(
            end >= self.durable,
            "{} were durable, {end} are left",
            self.durable
        );
        assert!(
            end == 0 || self.batch_ends.contains(&end),
            "half a batch survived, up to {end}"
        );
        self.records.truncate(end);
        self.batch_ends.retain(|batch_end| *batch_end <= end);
        self.durable = end;
    }
}

fn run(steps: Vec<Step>, zero_fill: bool, segment_bytes: u64) {
    let config = WriterConfig {
        zero_fill,
        fill_step_bytes: 8 << 10,
        ..WriterConfig::input(segment_bytes)
    };
    let mut fs = FakeFs::new();
    let mut model = Model::default();
    let (mut writer, _) = open(&fs.shared(), &config).expect("opens");
    let mut reader = PartitionReader::open_in(fs.shared(), &dir()).expect("opens");
    for step in steps {
        match step {
            Step::Append(sizes) => {
                let first = model.records.len();
                let batch: Vec<_> = sizes
                    .iter()
                    .enumerate()
                    .map(|(at, size)| record((first + at) as u64, usize::from(*size)))
                    .collect();
                let offsets = writer.append(&batch).expect("appends");
                model.records.extend(batch);
                assert_eq!(offsets, first as u64..model.records.len() as u64);
                model.batch_ends.push(model.records.len());
                // A roll makes what it seals durable.
                model.durable = model.durable.max(writer.durable_end() as usize);
            }
            Step::Sync => {
                model.durable = writer.sync().expect("syncs") as usize;
                assert_eq!(model.durable, model.records.len());
            }
            Step::Idle => writer.idle_commit().expect("idles"),
            Step::Read { from, max_bytes } => {
                let below = model.records.len() as u64;
                let from = u64::from(from).min(below);
                let read = reader
                    .read(from, below, usize::from(max_bytes) + 1)
                    .expect("reads");
                assert_eq!(read.is_empty(), from == below);
                for (record, expected) in read.iter().zip(&model.records[from as usize..]) {
                    assert_eq!(record.payload, expected.payload);
                }
                let link = reader.link_at(from).expect("has it");
                if from == below {
                    assert_eq!(link, writer.link());
                }
            }
            Step::Reopen | Step::Kill | Step::PowerCut(_) => {
                let link = writer.link();
                drop(writer);
                if let Step::PowerCut(seed) = step {
                    fs = fs.crash(seed);
                }
                let (reopened, recovery) = open(&fs.shared(), &config).expect("recovers");
                writer = reopened;
                if !matches!(step, Step::PowerCut(_)) {
                    assert_eq!(
                        recovery,
                        Recovery::Clean {
                            end: model.records.len() as u64
                        }
                    );
                    assert_eq!(writer.link(), link);
                }
                model.cut_to(recovery.end() as usize);
                reader = PartitionReader::open_in(fs.shared(), &dir()).expect("opens");
            }
        }
    }
    assert_same(
        &read_all(&fs.shared(), &dir(), writer.end()),
        &model.records,
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_gives_what_a_vec_would(
        steps in prop::collection::vec(step(), 1..60),
        zero_fill in any::<bool>(),
        segment_bytes in prop_oneof![Just(16_u64 << 10), Just(64 << 10), Just(1 << 20)],
    ) {
        run(steps, zero_fill, segment_bytes);
    }
}
