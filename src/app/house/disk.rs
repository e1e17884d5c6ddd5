//! Opens what lies on disk, in the order of log.md, settled rule 2: store (a
//! witness of what was durable), *input*, *output*; then makes them fit.

use std::sync::Arc;

use log_format::LogId;

use crate::app::data_dir::DataDir;
use crate::app::exit::Exit;
use crate::app::foundation;
use crate::config::Config;
use crate::crypto::signing_key::ServerKey;
use crate::logs::{EphemeralLog, InputLog, OutputLog};
use crate::projectors::output_log::EmbeddedOutput;
use crate::projectors::run::epoch;
use crate::projectors::start::{Report, fit, open_store, witnesses};
use crate::storage::open::Store;

/// What lies on disk, made to fit together.
pub struct Opened {
    pub input: Arc<InputLog>,
    pub ephemeral: Arc<EphemeralLog>,
    pub output: Arc<EmbeddedOutput>,
    pub output_id: LogId,
    pub store: Arc<Store>,
}

/// Opens store and logs and makes them fit. Blocks.
pub fn open(config: &Config, data_dir: &DataDir, key: &ServerKey) -> Result<Opened, Exit> {
    let failed = |error: &dyn std::fmt::Display| Exit::failed(error.to_string());
    let folders = foundation::folders(data_dir);
    let options = foundation::store_options(config);
    let snapshots = foundation::snapshots(config, &data_dir.snapshots(), &options);
    let log_settings = foundation::log_settings(config, data_dir, Some(key));
    let mut report = Report::default();
    let store = open_store(&folders, &options, &mut report).map_err(|error| failed(&error))?;
    let known: Vec<_> = witnesses(&store, config.log.partitions.0)
        .into_iter()
        .map(|applied| applied.map(foundation::witness))
        .collect();
    let (input, recoveries) =
        InputLog::open(&log_settings, &known).map_err(|error| foundation::log_exit(&error))?;
    for (partition, recovery) in recoveries.iter().enumerate() {
        foundation::report_recovery(partition, recovery);
    }
    let ephemeral =
        EphemeralLog::open(&log_settings).map_err(|error| foundation::log_exit(&error))?;
    let (output, _) = OutputLog::open(&log_settings, input.log_id(), epoch())
        .map_err(|error| foundation::log_exit(&error))?;
    let output_id = output.log_id();
    let output = EmbeddedOutput::new(Arc::new(output));
    let store = fit(
        store,
        &folders,
        &options,
        Some(&snapshots),
        &input,
        &output,
        &mut report,
    )
    .map_err(|error| failed(&error))?;
    for note in &report.notes {
        tracing::warn!("{note}");
    }
    if report.completed > 0 {
        tracing::info!(
            records = report.completed,
            "output completed from the store"
        );
    }
    Ok(Opened {
        input: Arc::new(input),
        ephemeral: Arc::new(ephemeral),
        output: Arc::new(output),
        output_id,
        store,
    })
}
