//! Puts together what is true for minutes: the projection of *ephemeral*, the
//! setters of typing and presence, and the tasks that these need.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::config::Config;
use crate::logs::EphemeralLog;
use crate::logs::log::Log;
use crate::projectors::ephemeral::EphemeralProjection;
use crate::query::rooms::Rooms;
use crate::readers::client_sync::ClientSync;
use crate::writers::client::presence_setter::{PresenceSetter, Timing};
use crate::writers::client::typing_setter::TypingSetter;
use crate::writers::ephemeral::EphemeralWriter;
use crate::writers::federation::edus::RemotePresence;

/// The parts, not running yet.
pub struct Momentary {
    pub projection: Arc<EphemeralProjection>,
    pub typing: TypingSetter,
    pub presence: PresenceSetter,
    /// Of users of other servers; none where the operator has no presence.
    pub remote_presence: Option<RemotePresence>,
}

impl Momentary {
    /// Folds what the log holds of an earlier process.
    pub fn new(
        config: &Config,
        log: &Arc<EphemeralLog>,
        rooms: &Arc<impl Rooms + 'static>,
    ) -> Momentary {
        let presence = &config.presence;
        let projection = EphemeralProjection::open(log.clone(), presence.enabled);
        let projection = Arc::new(projection);
        let writer = EphemeralWriter::new(log.clone(), projection.clone());
        let timing = Timing {
            idle_after: Duration::from_secs(u64::from(presence.idle_seconds.0)),
            offline_after: Duration::from_secs(u64::from(presence.offline_seconds.0)),
        };
        let server = &config.identity.server_name;
        let remote_presence = presence
            .enabled
            .then(|| RemotePresence::new(server, writer.clone()));
        Momentary {
            remote_presence,
            typing: TypingSetter::new(rooms.clone(), writer.clone()),
            presence: PresenceSetter::new(presence.enabled, timing, server, writer),
            projection,
        }
    }

    /// Starts the tasks; they end when their handles are aborted.
    pub fn run<L: Log + 'static>(
        self,
        sync: &Arc<ClientSync>,
        output: &Arc<L>,
    ) -> Vec<JoinHandle<()>> {
        let leavers = (0..output.partitions()).map(|partition| {
            let typing = self.typing.clone();
            tokio::spawn(typing.follow(output.clone(), partition))
        });
        let mut tasks: Vec<_> = leavers.collect();
        tasks.push(tokio::spawn(self.projection.follow()));
        tasks.push(tokio::spawn(sync.clone().follow_ephemeral()));
        tasks.push(tokio::spawn(self.typing.run()));
        tasks.push(tokio::spawn(self.presence.run()));
        tasks.extend(self.remote_presence.map(|it| tokio::spawn(it.run())));
        tasks
    }
}
