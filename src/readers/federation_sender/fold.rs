//! Folds *output* into this reader's rows: which servers are in which room, and
//! what waits for whom.
//!
//! An event that entered here costs one row for each other server in its room,
//! however many members these have; a room without other servers costs a look at
//! a set in memory.
//!
//! Which events are ours to send: those that our users, our operator or our
//! application services made, and those for which we are the resident server
//! (`send_join`, `send_leave`, `send_knock`), which their writers mark the same
//! way ([`Source::Internal`], with the server that handed them in as `origin`).
//! What came in a transaction, or as history, was sent to everybody by whoever
//! made it.
//!
//! Server ACLs are no matter here: the specification has them kept by whoever
//! receives (server-server API, *Server Access Control Lists*), and a server that
//! is denied still has to learn by which event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use log_format::codec;
use log_format::record::input::{Emitted, ReceiptType};
use log_format::record::output::{
    Decision, Membership, MembershipChange, OutputReceipt, OutputRoomEvent, OutputRoomState,
    Timeline,
};
use log_format::record::{Envelope, Kind, Source};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, ServerName, UserId};

use super::destination::Destination;
use super::destinations::Destinations;
use super::edus::{About, Said};
use super::queue::{self, NEWEST_ONLY_ABOVE};
use super::rows::{self, Queued, Tip};
use super::servers::Federated;
use crate::logs::log::{LogRecord, PartitionId};
use crate::readers::run::ReaderError;
use crate::storage::columns::{SENDER_QUEUE, SENDER_SERVERS, SENDER_TIPS};
use crate::storage::overlay::{Overlay, StoreError};

const MEMBER: &str = "m.room.member";
/// Tips of a room that are remembered: as many as one event can build on.
const TIPS_MAX: usize = crate::limits::PREV_EVENTS_MAX;

/// Who came to a room.
#[derive(Default)]
pub struct Arrivals {
    /// Servers none of whose users was in it.
    pub servers: BTreeSet<OwnedServerName>,
    /// Users of ours.
    pub users: BTreeSet<OwnedUserId>,
}

/// What a group leads to in memory, once its rows are written.
#[derive(Default)]
pub struct News {
    pub arrivals: BTreeMap<OwnedRoomId, Arrivals>,
    /// Rows that were added for a server.
    pub queued: BTreeMap<OwnedServerName, (Arc<Destination>, u64)>,
    /// Those whose queues are to be thinned out: by one, since each may have a
    /// hundred rows, and thousands may be behind at once.
    pub behind: BTreeMap<OwnedServerName, Arc<Destination>>,
    pub receipts: Vec<(OwnedServerName, Arc<About>, Arc<Said>)>,
    /// How many rows that is, so that a group can be written before it is too large.
    pub rows: usize,
}

/// One group of records on its way into rows.
pub struct Group<'a, 's> {
    pub partition: PartitionId,
    pub rows: Overlay<'s>,
    pub server_name: &'a ServerName,
    pub destinations: &'a Destinations,
    pub federated: &'a Federated,
    /// What is true for a while and stands below this offset was told by an earlier
    /// process, or is lost.
    pub told_from: u64,
    pub news: News,
}

impl Group<'_, '_> {
    /// Folds one record.
    pub fn fold(&mut self, record: &LogRecord) -> Result<(), ReaderError> {
        let offset = record.offset;
        let envelope = record
            .envelope()
            .map_err(|source| ReaderError::Envelope { offset, source })?;
        let body = |source| ReaderError::Body { offset, source };
        match envelope.kind {
            Kind::OutputRoomEvent => {
                let event: OutputRoomEvent = codec::decode(envelope.body).map_err(body)?;
                self.room_event(record, &envelope, &event)
            }
            Kind::OutputRoomState => {
                let part: OutputRoomState = codec::decode(envelope.body).map_err(body)?;
                let room = envelope.room_id.ok_or(missing(offset, "room id"))?;
                Ok(self.memberships(offset, room, &part.memberships)?)
            }
            // What waits of the room is found to be gone when its turn comes.
            Kind::OutputRoomPurged => {
                let room = envelope.room_id.ok_or(missing(offset, "room id"))?;
                Ok(self.forget(room)?)
            }
            Kind::OutputReceipt => {
                if offset < self.told_from {
                    return Ok(());
                }
                let receipt: OutputReceipt = codec::decode(envelope.body).map_err(body)?;
                self.receipt(&envelope, &receipt)
            }
            _ => Ok(()),
        }
    }

    fn room_event(
        &mut self,
        record: &LogRecord,
        envelope: &Envelope<'_>,
        event: &OutputRoomEvent,
    ) -> Result<(), ReaderError> {
        let offset = record.offset;
        let room = envelope.room_id.ok_or(missing(offset, "room id"))?;
        self.memberships(offset, room, &event.memberships)?;
        // Also of a room in which no other server is yet.
        let uninvited = match is_ours(envelope, event) {
            true => self.uninvited(envelope, event),
            false => None,
        };
        if !self.federated.has(self.partition, room) && uninvited.is_none() {
            return Ok(());
        }
        // Those that have just left are among them: they are to hear of it.
        let (mut servers, left) = self.servers_of(room)?;
        if is_ours(envelope, event) {
            servers.extend(uninvited);
            let handed_in = envelope.origin.and_then(|name| name.try_into().ok());
            if let Some(origin) = handed_in {
                servers.remove::<ServerName>(origin);
            }
            let event_id = envelope.event_id.ok_or(missing(offset, "event id"))?;
            let queued = Queued {
                at: Emitted {
                    src_offset: event.origin.src_offset,
                    src_sub: event.origin.src_sub,
                },
                room_id: OwnedRoomId::try_from(room).map_err(|_| missing(offset, "room id"))?,
                event_id: OwnedEventId::try_from(event_id)
                    .map_err(|_| missing(offset, "event id"))?,
                time_ms: record.time_us / 1000,
            };
            self.enqueue(&queued, &servers, &event.extremities)?;
        }
        for server in left {
            let key = rows::server_key(self.partition, room, &server);
            self.rows.delete(SENDER_SERVERS, key.as_bytes());
        }
        if self.is_deserted(room)? {
            self.federated.remove(self.partition, room);
            let key = rows::tips_key(self.partition, room);
            self.rows.delete(SENDER_TIPS, key.as_bytes());
        }
        Ok(())
    }

    /// Counts joined members by server. A server whose last one leaves stays,
    /// with none, until the room's next event.
    fn memberships(
        &mut self,
        offset: u64,
        room: &str,
        changes: &[MembershipChange],
    ) -> Result<(), StoreError> {
        for change in changes {
            let joins = change.to == Membership::Join;
            if joins == (change.from == Some(Membership::Join)) {
                continue;
            }
            let is_news = joins && offset >= self.told_from;
            let Some(server) = self.other_server(&change.user_id) else {
                if is_news && let Ok(user) = OwnedUserId::try_from(&*change.user_id) {
                    self.arrivals(room, |arrivals| arrivals.users.insert(user));
                }
                continue;
            };
            let key = rows::server_key(self.partition, room, &server);
            let count = self.rows.get(SENDER_SERVERS, key.as_bytes())?;
            let count = count.map_or(Ok(0), |row| rows::count(&row))?;
            if is_news && count == 0 {
                self.arrivals(room, |arrivals| arrivals.servers.insert(server));
            }
            let count = match joins {
                true => count + 1,
                false => count.saturating_sub(1),
            };
            let row = rows::encode_count(count);
            self.rows.put(SENDER_SERVERS, key.as_bytes(), row);
            self.federated.add(self.partition, room);
        }
        Ok(())
    }

    fn arrivals(&mut self, room: &str, enter: impl FnOnce(&mut Arrivals) -> bool) {
        if let Ok(room) = OwnedRoomId::try_from(room) {
            enter(self.news.arrivals.entry(room).or_default());
        }
    }

    fn other_server(&self, user_id: &str) -> Option<OwnedServerName> {
        let user = <&UserId>::try_from(user_id).ok()?;
        let server = user.server_name();
        (server != self.server_name).then(|| server.to_owned())
    }

    /// The servers of a room, and which of them have left.
    fn servers_of(
        &self,
        room: &str,
    ) -> Result<(BTreeSet<OwnedServerName>, Vec<OwnedServerName>), StoreError> {
        let prefix = rows::servers_key(self.partition, room);
        let page = self
            .rows
            .range(SENDER_SERVERS, prefix.as_bytes(), None, false, usize::MAX)?;
        let mut servers = BTreeSet::new();
        let mut left = Vec::new();
        for (key, value) in &page {
            let server = rows::server_of(key)?;
            if rows::count(value)? == 0 {
                left.push(server.clone());
            }
            servers.insert(server);
        }
        Ok((servers, left))
    }

    /// Drops what is kept of a room.
    fn forget(&mut self, room: &str) -> Result<(), StoreError> {
        for server in self.servers_of(room)?.0 {
            let key = rows::server_key(self.partition, room, &server);
            self.rows.delete(SENDER_SERVERS, key.as_bytes());
        }
        let key = rows::tips_key(self.partition, room);
        self.rows.delete(SENDER_TIPS, key.as_bytes());
        self.federated.remove(self.partition, room);
        Ok(())
    }

    fn is_deserted(&self, room: &str) -> Result<bool, StoreError> {
        let prefix = rows::servers_key(self.partition, room);
        let first = self
            .rows
            .range(SENDER_SERVERS, prefix.as_bytes(), None, false, 1)?;
        Ok(first.is_empty())
    }

    /// The server of a user whose invitation or knock this event ends: it is not
    /// in the room, and hears of it only from us. An invitation itself goes there
    /// by `/invite`, before it enters the room.
    fn uninvited(
        &self,
        envelope: &Envelope<'_>,
        event: &OutputRoomEvent,
    ) -> Option<OwnedServerName> {
        if envelope.event_type != Some(MEMBER) {
            return None;
        }
        let target = envelope.state_key?;
        let mut changes = event.memberships.iter();
        let own = changes.find(|change| change.user_id == target)?;
        let was_asked = matches!(own.from, Some(Membership::Invite | Membership::Knock));
        let is_out = matches!(own.to, Membership::Leave | Membership::Ban);
        (was_asked && is_out)
            .then(|| self.other_server(target))
            .flatten()
    }

    fn enqueue(
        &mut self,
        queued: &Queued,
        servers: &BTreeSet<OwnedServerName>,
        extremities: &[String],
    ) -> Result<(), ReaderError> {
        let closed = self.close_tips(queued, extremities)?;
        for server in servers {
            let destination = match self.news.queued.get(server) {
                Some((destination, _)) => destination.clone(),
                None => self.destinations.of(server)?,
            };
            let line = *destination.state().line(self.partition);
            if line.has(queued.at) {
                continue;
            }
            let key = rows::queued_key(self.partition, server, queued.at);
            self.rows.put(SENDER_QUEUE, key.as_bytes(), queued.encode());
            self.news.rows += 1;
            let added = self.news.queued.entry(server.clone());
            let (_, added) = added.or_insert_with(|| (destination.clone(), 0));
            *added += 1;
            let waiting = line.waiting + *added;
            if line.newest_only {
                let gone = queue::replace(&mut self.rows, self.partition, &destination, &closed)?;
                destination.state().line(self.partition).waiting = waiting.saturating_sub(gone);
                *added = 0;
            } else if waiting > NEWEST_ONLY_ABOVE && queue::is_behind(&destination.state(), waiting)
            {
                self.news.behind.insert(server.clone(), destination);
            }
        }
        Ok(())
    }

    /// Enters an event among the tips of its room; those that it builds on are
    /// none any more, and are returned.
    fn close_tips(
        &mut self,
        queued: &Queued,
        extremities: &[String],
    ) -> Result<Vec<Tip>, StoreError> {
        let key = rows::tips_key(self.partition, queued.room_id.as_str());
        let before = self.rows.get(SENDER_TIPS, key.as_bytes())?;
        let before = before.map_or(Ok(vec![]), |row| rows::tips(&row))?;
        let is_open = |tip: &Tip| extremities.iter().any(|id| **id == *tip.event_id);
        let (mut open, mut closed): (Vec<Tip>, Vec<Tip>) = before.into_iter().partition(is_open);
        while open.len() >= TIPS_MAX {
            closed.push(open.remove(0));
        }
        open.push(Tip {
            at: queued.at,
            event_id: queued.event_id.as_str().into(),
        });
        let row = rows::encode_tips(&open);
        self.rows.put(SENDER_TIPS, key.as_bytes(), row);
        Ok(closed)
    }

    /// A receipt of ours goes to the servers of the room, if everybody may see it.
    fn receipt(
        &mut self,
        envelope: &Envelope<'_>,
        receipt: &OutputReceipt,
    ) -> Result<(), ReaderError> {
        let (Some(room), Some(user), Some(event_id)) =
            (envelope.room_id, envelope.sender, envelope.event_id)
        else {
            return Ok(());
        };
        let is_news = receipt.decision == Decision::Accepted
            && receipt.receipt_type == ReceiptType::Read
            && self.federated.has(self.partition, room);
        let (Ok(room_id), Ok(user_id), Ok(event_id)) = (
            OwnedRoomId::try_from(room),
            OwnedUserId::try_from(user),
            OwnedEventId::try_from(event_id),
        ) else {
            return Ok(());
        };
        if !is_news || user_id.server_name() != self.server_name {
            return Ok(());
        }
        let about = Arc::new(About::Receipt {
            room_id,
            user_id,
            thread: receipt.thread.as_deref().map(Into::into),
        });
        let said = Arc::new(Said::Receipt {
            event_id,
            ts: envelope.origin_ts_ms,
        });
        for server in self.servers_of(room)?.0 {
            let told = (server, about.clone(), said.clone());
            self.news.receipts.push(told);
        }
        Ok(())
    }
}

/// Whether an event is for us to send: see the head of this file.
fn is_ours(envelope: &Envelope<'_>, event: &OutputRoomEvent) -> bool {
    let entered_here = match envelope.source {
        Source::Client | Source::Appservice | Source::Internal => true,
        Source::Federation | Source::Backfill => false,
    };
    entered_here && event.decision == Decision::Accepted && event.timeline == Timeline::Live
}

fn missing(offset: u64, what: &'static str) -> ReaderError {
    ReaderError::Field { offset, what }
}
