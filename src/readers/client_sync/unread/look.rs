//! Looking at the events that no count has seen yet.

use std::collections::BTreeSet;
use std::sync::Arc;

use ruma::{EventId, OwnedEventId};

use super::Asked;
use super::counted::Counted;
use crate::matrix::push_rules::{Reader, Rules, Verdict};
use crate::matrix::redaction::REDACTION_TYPE;
use crate::query::notified::{Judged, Notified};
use crate::query::receipts::ReadUpTo;
use crate::query::rooms::StoredEvent;
use crate::query::visibility::redacted_target;
use crate::readers::client_sync::SyncError;
use crate::readers::client_sync::timeline::events_of;

/// Events that one look goes back over: some 20 ms where none is in memory.
/// Only who comes back to a room after more of them misses any, or who is
/// counted there for the first time.
pub const EVENTS_MAX: usize = 2_000;
/// Rows that one range read takes.
const PAGE_ROWS: usize = 128;

/// The root of a thread as its plain id.
fn id_of(thread: Option<&Arc<OwnedEventId>>) -> Option<&EventId> {
    thread.map(|root| -> &EventId { root })
}

/// A look of one user at a room.
pub struct Look<'a> {
    pub asked: &'a Asked<'a>,
    pub notified: &'a Notified,
    pub read: &'a ReadUpTo,
}

/// What a look found, the newest first.
#[derive(Default)]
struct Found {
    notifications: Vec<(Option<Arc<OwnedEventId>>, u64, bool)>,
    /// Threads in which the user said something.
    said_in: BTreeSet<Option<Arc<OwnedEventId>>>,
}

impl Look<'_> {
    /// Counts on to where is asked for; gives how many events were looked at.
    pub fn on(&self, counted: &mut Counted) -> Result<usize, SyncError> {
        let asked = self.asked;
        let (from, mut end) = (counted.to, asked.to);
        let mut found = Found::default();
        let mut rules = None;
        let mut looked = 0;
        'pages: while looked < EVENTS_MAX {
            let rows = asked.history.timeline_before(from, end, PAGE_ROWS)?;
            let Some(oldest) = rows.last() else { break };
            end = oldest.offset;
            looked += rows.len();
            let is_last = rows.len() < PAGE_ROWS;
            for (row, event) in events_of(asked.history, rows)? {
                if self.read.everywhere() >= Some(row.place) {
                    // So is all that came before.
                    break 'pages;
                }
                if &*event.kind == REDACTION_TYPE {
                    self.forget_redacted(counted, &event, from)?;
                }
                let rules = rules.get_or_insert_with(|| self.notified.rules(asked.user));
                self.at(&mut found, row.offset, &event, rules)?;
            }
            if is_last {
                break;
            }
        }
        for thread in &found.said_in {
            counted.read_thread(id_of(thread.as_ref()));
        }
        for (thread, offset, highlight) in found.notifications.into_iter().rev() {
            counted.add(id_of(thread.as_ref()), offset, highlight);
        }
        counted.to = asked.to;
        Ok(looked)
    }

    fn at(
        &self,
        found: &mut Found,
        offset: u64,
        event: &Arc<StoredEvent>,
        rules: &Arc<Rules>,
    ) -> Result<(), SyncError> {
        let asked = self.asked;
        let Some(judged) = self.notified.judged(&asked.history.room_id, event)? else {
            return Ok(());
        };
        let thread = judged.thread();
        if event.sender == asked.user {
            // Who says something has read what was said before.
            if event.state_key.is_none() && &*event.kind != REDACTION_TYPE {
                found.said_in.insert(thread.cloned());
            }
            return Ok(());
        }
        let is_read = self.read.in_thread(id_of(thread)) >= Some(event.place);
        if is_read || found.said_in.contains(&thread.cloned()) {
            return Ok(());
        }
        let verdict = self.verdict(&judged, rules);
        // Few state events notify; of the others nobody asks who sees them.
        if verdict.notify && asked.judge.tells(event, offset)? {
            let notification = (thread.cloned(), offset, verdict.highlight);
            found.notifications.push(notification);
        }
        Ok(())
    }

    fn verdict(&self, judged: &Judged, rules: &Arc<Rules>) -> Verdict {
        let asked = self.asked;
        let room = &asked.history.room_id;
        let reader = Reader {
            user: asked.user,
            display_name: &|| self.notified.name_of(room, asked.user),
        };
        judged.verdict(rules, &reader)
    }

    /// What was counted before it was redacted counts no more.
    fn forget_redacted(
        &self,
        counted: &mut Counted,
        redaction: &StoredEvent,
        from: u64,
    ) -> Result<(), SyncError> {
        let history = self.asked.history;
        let Some(target) = redacted_target(&redaction.json).filter(|_| counted.len() > 0) else {
            return Ok(());
        };
        let Some(target) = history.rooms.event(&history.room_id, target)? else {
            return Ok(());
        };
        if target.redacted_by.is_none() {
            return Ok(());
        }
        let row = history.newest_up_to(target.place, counted.joined_at, from)?;
        if let Some(row) = row.filter(|row| row.event == target.event) {
            counted.forget(row.offset);
        }
        Ok(())
    }
}
