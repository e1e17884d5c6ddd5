//! A user of ours joins a room that lives elsewhere (server-server API, *Joining
//! Rooms*).
//!
//! A join goes on by itself when its client goes away, and whoever asks for the
//! same one waits for it. What a crash leaves of it are outliers, which nobody
//! sees and which say nothing of the room's state; the given state and the join
//! are one batch of the log. So a retry finds a room that we are not in, and
//! begins anew: what it appends again is dropped as a repeat.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use futures_util::FutureExt;
use futures_util::future::Shared;
use log_format::record::Source;
use log_format::record::input::Placement;
use log_format::record::output::Decision;
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName};
use tokio::time::{Instant, timeout_at};

use super::budget::Budget;
use super::given_state::enough_to_join;
use super::given_state::intake::Intake;
use super::pdu_checks::CheckedPdu;
use super::remote_rooms::{RemoteRoomError, RemoteRooms, Signed};
use crate::matrix::canonical_json::{
    CanonicalJsonObject, CanonicalJsonValue, Numbers, parse_object_with,
};
use crate::matrix::event::Pdu;
use crate::outbound::federation::handshakes::{self, Handshake};
use crate::outbound::federation::state_answer::Part;

/// Rooms whose doors are remembered before idle ones are forgotten.
const DOORS_MAX: usize = 1_024;

/// How long it is looked for what an answer lacks.
const ABSENT_MAX: Duration = Duration::from_secs(60);
/// Servers that are asked for it beside the one that gave the answer.
const OTHER_SERVERS: usize = 2;
/// Auth chains that are fetched for it before it is seen what they brought.
const CHAINS_AT_A_TIME: usize = 4;

/// What became of a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinOutcome {
    /// The user is in the room.
    Joined,
    /// Somebody else of ours was faster: the user can be joined here.
    Here,
}

type JoinResult = Result<JoinOutcome, RemoteRoomError>;
/// A join that runs, for all who wait for it.
pub type RunningJoin = Shared<Pin<Box<dyn Future<Output = JoinResult> + Send>>>;

/// A join that a user asks for.
#[derive(Clone, Debug)]
pub struct JoinRequest {
    pub room: OwnedRoomId,
    pub user: OwnedUserId,
    /// Servers to join through, the best first.
    pub servers: Vec<OwnedServerName>,
    /// Of the member event, without the membership.
    pub content: CanonicalJsonObject,
    /// The room is one that we know, but nobody of ours may let the user in.
    pub needs_voucher: bool,
}

/// Forgets a join when it has ended, whoever still waits for it: the next one is
/// another.
struct Running {
    key: (OwnedRoomId, OwnedUserId),
    joins: Arc<DashMap<(OwnedRoomId, OwnedUserId), RunningJoin>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.joins.remove(&self.key);
    }
}

impl RemoteRooms {
    /// Joins, and answers once the join is durable and folded.
    pub async fn join(&self, request: JoinRequest) -> JoinResult {
        let key = (request.room.clone(), request.user.clone());
        let running = self
            .joins
            .entry(key)
            .or_insert_with(|| self.start(request))
            .clone();
        running.await
    }

    fn start(&self, request: JoinRequest) -> RunningJoin {
        let this = self.clone();
        // A task of its own: it does not end with who waits for it.
        let task = tokio::spawn(async move {
            let _running = Running {
                key: (request.room.clone(), request.user.clone()),
                joins: this.joins.clone(),
            };
            this.join_by_any(&request).await
        });
        let joined = task.map(|ended| ended.unwrap_or(Err(RemoteRoomError::Stopping)));
        let joined: Pin<Box<dyn Future<Output = JoinResult> + Send>> = Box::pin(joined);
        joined.shared()
    }

    async fn join_by_any(&self, request: &JoinRequest) -> JoinResult {
        let door = self.door(&request.room);
        let _open = door.lock().await;
        if !request.needs_voucher && self.is_here(&request.room)? {
            return Ok(JoinOutcome::Here);
        }
        let seen = self.parts.rooms.outside(&request.room, &request.user)?;
        let servers = self.candidates(&request.room, &request.servers, seen.as_ref());
        let mut worst: Option<RemoteRoomError> = None;
        for server in &servers {
            let why = match self.join_by(server, &servers, request).await {
                Ok(()) => return Ok(JoinOutcome::Joined),
                Err(why) if !why.is_of_the_server() => return Err(why),
                Err(why) => why,
            };
            tracing::info!(room = %request.room, %server, %why, "join through this server failed");
            if worst
                .as_ref()
                .is_none_or(|worst| worst.weight() < why.weight())
            {
                worst = Some(why);
            }
        }
        Err(worst.unwrap_or(RemoteRoomError::NoServer))
    }

    fn door(&self, room: &RoomId) -> Arc<tokio::sync::Mutex<()>> {
        if self.doors.len() > DOORS_MAX {
            self.doors.retain(|_, door| Arc::strong_count(door) > 1);
        }
        self.doors.entry(room.to_owned()).or_default().clone()
    }

    async fn join_by(
        &self,
        server: &ServerName,
        others: &[OwnedServerName],
        request: &JoinRequest,
    ) -> Result<(), RemoteRoomError> {
        let (room, user) = (&*request.room, &*request.user);
        let began = Instant::now();
        let content = request.content.clone();
        let signed = self
            .prepare(server, Handshake::Join, (room, user), content)
            .await?;
        let event_id = &*signed.built.event_id;
        tracing::info!(%room, %server, version = %signed.version.as_str(), "joining a room of other servers");
        let ids = (room, event_id);
        let mut answer =
            handshakes::send_join(&self.parts.client, server, ids, &signed.object).await?;
        let ours = Pdu::from_object(signed.version, signed.object.clone());
        let ours = ours.map_err(|error| RemoteRoomError::Build(error.to_string()))?;
        let mut intake = self.given.intake(room, signed.version, server)?;
        intake.want(&ours.auth_events)?;
        intake.take(&mut answer).await?;
        let came = (answer.bytes(), answer.fields().clone());
        drop(answer);
        tracing::info!(
            %room, %server, events = intake.came(), bytes = came.0, ms = began.elapsed().as_millis(),
            "room's state has come"
        );
        let fields = came.1;
        if fields.members_omitted {
            return Err(RemoteRoomError::BadAnswer("members are left out"));
        }
        let join = self.countersigned(server, &signed, fields.event).await?;
        self.seek_absent(&mut intake, server, others).await?;
        let state = enough_to_join(intake.finish().await?)?;
        self.commit(server, room, join, &state).await?;
        tracing::info!(%room, %server, ms = began.elapsed().as_millis(), "joined");
        Ok(())
    }

    /// Looks for what authorises events of an answer and is not in it, first with
    /// the server that gave the answer, then with others that may be in the room.
    /// What nobody has is missing: the fold judges what cites it.
    async fn seek_absent(
        &self,
        intake: &mut Intake<'_>,
        server: &ServerName,
        others: &[OwnedServerName],
    ) -> Result<(), RemoteRoomError> {
        let until = Instant::now() + ABSENT_MAX;
        let mut budget = Budget::default();
        let others = others.iter().map(|other| &**other);
        let others = others.filter(|other| *other != server);
        let tellers = std::iter::once(server).chain(others.take(OTHER_SERVERS));
        for server in tellers {
            // What came may lead to more that is absent.
            loop {
                let absent = intake.absent();
                if absent.is_empty() {
                    return Ok(());
                }
                let waiting = intake.that_wait_for(&absent, CHAINS_AT_A_TIME);
                let teller = self.teller(server, intake.room(), intake.version());
                let found = teller.authorities(&absent, &waiting, &mut budget);
                let found = match timeout_at(until, found).await {
                    Ok(Ok(found)) => found,
                    Ok(Err(error)) => {
                        tracing::info!(%server, %error, "what authorises a room's state is not told");
                        break;
                    }
                    Err(_) => return Ok(()),
                };
                let found = found.into_iter().map(|event| (Part::AuthChain, event));
                intake.add(found.collect()).await?;
                let left = intake.absent();
                tracing::info!(
                    room = %intake.room(), %server, absent = absent.len(), left = left.len(),
                    "asked for what authorises a room's state"
                );
                if left == absent {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Our join with the signature of the resident, where the room asks for one.
    /// Of what the resident sends nothing but signatures is taken over.
    async fn countersigned(
        &self,
        server: &ServerName,
        signed: &Signed,
        theirs: Option<Bytes>,
    ) -> Result<CheckedPdu, RemoteRoomError> {
        let mut object = signed.object.clone();
        let theirs = theirs.and_then(|bytes| parse_object_with(&bytes, Numbers::Kept).ok());
        // Where nobody vouches for the user nobody need sign but us.
        if let (Some(theirs), true) = (theirs, signed.is_vouched_for) {
            add_signatures(&mut object, &theirs, server);
        }
        let checked = self.checks.check(signed.version, object).await;
        let checked = checked
            .map_err(|_| RemoteRoomError::BadAnswer("the join is not signed by the resident"))?;
        match checked.pdu.event_id == signed.built.event_id && !checked.is_redacted {
            true => Ok(checked),
            false => Err(RemoteRoomError::BadAnswer("the join is another event")),
        }
    }

    /// Appends the join with the state before it, whose events are here.
    async fn commit(
        &self,
        server: &ServerName,
        room: &RoomId,
        join: CheckedPdu,
        state: &[OwnedEventId],
    ) -> Result<(), RemoteRoomError> {
        let (version, event_id) = (join.pdu.version, &join.pdu.event_id);
        // That the state begins with its create event is the fold's to say, which
        // knows the room by it; that nobody told us another version is ours.
        let head = self.parts.rooms.head(room)?;
        let head = head.ok_or(RemoteRoomError::BadAnswer("the state has no create event"))?;
        if head.authority.create_info.version != version {
            return Err(RemoteRoomError::BadAnswer("the room has another version"));
        }
        // Frozen as it was when the last of ours left: nothing of it goes on.
        let is_frozen = !head.extremities.is_empty() && !self.lives_here(&head);
        let placement = match is_frozen {
            false => Placement::New,
            true => Placement::Rejoin,
        };
        let record = join.record(placement, Source::Federation, server);
        let given = &self.given;
        let decided = given.give_and_append(room, event_id, state, record).await?;
        match decided.outcome.decision {
            Decision::Accepted => Ok(()),
            _ => Err(RemoteRoomError::BadAnswer(
                "its state does not allow the join",
            )),
        }
    }
}

/// Adds the signatures of another server to an event of ours.
pub(super) fn add_signatures(
    event: &mut CanonicalJsonObject,
    theirs: &CanonicalJsonObject,
    server: &ServerName,
) {
    let theirs = theirs.get("signatures").and_then(|value| value.as_object());
    let theirs = theirs.and_then(|theirs| theirs.get(server.as_str()));
    let ours = event
        .get_mut("signatures")
        .and_then(CanonicalJsonValue::as_object_mut);
    if let (Some(theirs), Some(ours)) = (theirs, ours) {
        ours.entry(server.to_string())
            .or_insert_with(|| theirs.clone());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::matrix::canonical_json::parse_object;

    #[test]
    fn nothing_but_foreign_signatures_is_taken_over() {
        let object = |json: serde_json::Value| parse_object(json.to_string().as_bytes()).unwrap();
        let mut ours = object(json!({
            "type": "m.room.member", "content": {"membership": "join"},
            "signatures": {"a": {"ed25519:1": "ours"}},
        }));
        let theirs = object(json!({
            "type": "m.room.power_levels", "content": {"membership": "ban"}, "more": 1,
            "signatures": {"a": {"ed25519:1": "forged"}, "b": {"ed25519:x": "theirs"}, "c": {}},
        }));
        let (a, b) = (ruma::server_name!("a"), ruma::server_name!("b"));
        add_signatures(&mut ours, &theirs, a);
        add_signatures(&mut ours, &theirs, b);
        let expected = object(json!({
            "type": "m.room.member", "content": {"membership": "join"},
            "signatures": {"a": {"ed25519:1": "ours"}, "b": {"ed25519:x": "theirs"}},
        }));
        assert_eq!(ours, expected);
        add_signatures(&mut ours, &object(json!({"signatures": []})), b);
        assert_eq!(ours, expected);
    }
}
