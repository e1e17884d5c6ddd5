//! A user of ours knocks on a room that we are not in (server-server API,
//! *Knocking upon a room*).

use ruma::{OwnedServerName, RoomId, ServerName, UserId};

use super::outside_membership;
use super::remote_rooms::{RemoteRoomError, RemoteRooms};
use crate::matrix::canonical_json::CanonicalJsonObject;
use crate::matrix::event::Pdu;
use crate::outbound::federation::handshakes::{self, Handshake};

impl RemoteRooms {
    /// Knocks through one of the servers, and keeps the state that it shows of
    /// the room. A knock that stands already is not made again.
    pub async fn knock(
        &self,
        room: &RoomId,
        user: &UserId,
        servers: &[OwnedServerName],
        content: CanonicalJsonObject,
    ) -> Result<(), RemoteRoomError> {
        let this = self.clone();
        let (room, user, servers) = (room.to_owned(), user.to_owned(), servers.to_vec());
        // It goes on when the client goes away.
        let task = tokio::spawn(async move {
            let seen = this.parts.rooms.outside(&room, &user)?;
            let servers = this.candidates(&room, &servers, seen.as_ref());
            let mut worst: Option<RemoteRoomError> = None;
            for server in &servers {
                let why = match this.knock_by(server, (&room, &user), &content).await {
                    Ok(()) => return Ok(()),
                    Err(why) if !why.is_of_the_server() => return Err(why),
                    Err(why) => why,
                };
                tracing::info!(%room, %server, %why, "knock through this server failed");
                if worst
                    .as_ref()
                    .is_none_or(|worst| worst.weight() < why.weight())
                {
                    worst = Some(why);
                }
            }
            Err(worst.unwrap_or(RemoteRoomError::NoServer))
        });
        task.await.map_err(|_| RemoteRoomError::Stopping)?
    }

    async fn knock_by(
        &self,
        server: &ServerName,
        (room, user): (&RoomId, &UserId),
        content: &CanonicalJsonObject,
    ) -> Result<(), RemoteRoomError> {
        let signed = self
            .prepare(server, Handshake::Knock, (room, user), content.clone())
            .await?;
        let ids = (room, &*signed.built.event_id);
        let client = &self.parts.client;
        let state = handshakes::send_knock(client, server, ids, &signed.object).await?;
        let knock = Pdu::from_object(signed.version, signed.object);
        let knock = knock.map_err(|error| RemoteRoomError::Build(error.to_string()))?;
        let record = outside_membership::record(&knock, &state, Some(server));
        let record = record.ok_or(RemoteRoomError::BadAnswer("it is no knock"))?;
        let submitted = self
            .parts
            .submitter
            .submit(room.as_str(), vec![record])
            .await;
        submitted.map(drop).map_err(RemoteRoomError::from)
    }
}
