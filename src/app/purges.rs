//! What an operator may do with a room: have it purged, and ask how far that is.

use ruma::{OwnedRoomId, RoomId};
use serde::{Deserialize, Serialize};

use crate::query::purges::PurgeStage;
use crate::query::rooms::QueryError;
use crate::writers::client::room_purge::RoomPurger;

/// What is to be done.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    /// Have it purged.
    Begin { room_id: OwnedRoomId },
    /// How far is it?
    Look { room_id: OwnedRoomId },
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Response {
    /// So many local users are still in it.
    Leaving {
        members: u64,
    },
    Dropping,
    Complete,
    Refused {
        why: String,
    },
}

/// Does it. That a room is to be purged is durable when the answer comes; the
/// rest goes on by itself.
pub async fn perform(purger: &RoomPurger, request: Request) -> Response {
    let refused = |why: String| Response::Refused { why };
    let room_id = match request {
        Request::Look { room_id } => room_id,
        Request::Begin { room_id } => match purger.begin(&room_id).await {
            Ok(()) => room_id,
            Err(error) => return refused(format!("{room_id}: {error}")),
        },
    };
    look(purger, &room_id).unwrap_or_else(|error| refused(error.to_string()))
}

fn look(purger: &RoomPurger, room_id: &RoomId) -> Result<Response, QueryError> {
    Ok(match purger.stage(room_id)? {
        Some(PurgeStage::Leaving) => Response::Leaving {
            members: purger.local_members(room_id)?.len() as u64,
        },
        Some(PurgeStage::Dropping) => Response::Dropping,
        Some(PurgeStage::Complete(_)) => Response::Complete,
        None => Response::Refused {
            why: format!("{room_id} is not being purged"),
        },
    })
}
