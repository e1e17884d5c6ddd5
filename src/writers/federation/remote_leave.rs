//! A user of ours rejects an invite to a room that we are not in, or takes back
//! a knock (server-server API, *Leaving Rooms*).

use std::time::Duration;

use ruma::{RoomId, ServerName, UserId};
use tokio::time::timeout;

use super::outside_membership;
use super::remote_rooms::{RemoteRoomError, RemoteRooms};
use crate::matrix::canonical_json::CanonicalJsonObject;
use crate::matrix::event::Pdu;
use crate::outbound::federation::handshakes::{self, Handshake};

/// How long other servers are tried. Whoever rejects an invite is rid of it then,
/// whether they were told or not.
const TELL_MAX: Duration = Duration::from_secs(20);

impl RemoteRooms {
    /// Ends an invite or a knock that is seen from outside; whether there was one.
    ///
    /// The inviting server, or the one that took the knock, puts the leave into
    /// the room. Should it be away, or refuse, then the user's own word ends it
    /// here alone.
    pub async fn leave(
        &self,
        room: &RoomId,
        user: &UserId,
        content: CanonicalJsonObject,
    ) -> Result<bool, RemoteRoomError> {
        let seen = self.parts.rooms.outside(room, user)?;
        let Some(seen) = seen.filter(|seen| seen.is_open()) else {
            return Ok(false);
        };
        let this = self.clone();
        let (room, user) = (room.to_owned(), user.to_owned());
        // It goes on when the client goes away.
        let task = tokio::spawn(async move {
            let servers = this.candidates(&room, &[], Some(&seen));
            let told = timeout(TELL_MAX, async {
                for server in &servers {
                    match this.leave_by(server, (&room, &user), &content).await {
                        Ok(left) => return Some((left, server)),
                        Err(why) => {
                            tracing::info!(%room, %server, %why, "server is not told of a leave");
                        }
                    }
                }
                None
            });
            let told = told.await.ok().flatten();
            let record = told.and_then(|(left, _)| outside_membership::record(&left, &[], None));
            let record = match record {
                Some(record) => record,
                None => outside_membership::ended_here(&room, &user, content),
            };
            let submitter = &this.parts.submitter;
            submitter.submit(room.as_str(), vec![record]).await
        });
        let ended = task.await.map_err(|_| RemoteRoomError::Stopping)?;
        ended.map(|_| true).map_err(RemoteRoomError::from)
    }

    async fn leave_by(
        &self,
        server: &ServerName,
        (room, user): (&RoomId, &UserId),
        content: &CanonicalJsonObject,
    ) -> Result<Pdu, RemoteRoomError> {
        let ids = (room, user);
        let signed = self
            .prepare(server, Handshake::Leave, ids, content.clone())
            .await?;
        let client = &self.parts.client;
        let ids = (room, &*signed.built.event_id);
        handshakes::send_leave(client, server, ids, &signed.object).await?;
        let left = Pdu::from_object(signed.version, signed.object);
        left.map_err(|error| RemoteRoomError::Build(error.to_string()))
    }
}
