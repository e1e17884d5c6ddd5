//! Redactions: applied to an event as it is served, whichever of the two comes
//! first. The auth rules go on reading the event as it was accepted.
//!
//! Source: room version 3, *Handling redactions*. In versions 1 and 2 the auth
//! rules themselves decide (rule 11), and what they allowed takes effect.

pub use crate::matrix::redaction::REDACTION_TYPE as REDACTION;

use super::heads::Head;
use super::judge::{Case, Event};
use super::rows::{self, EarlyRedaction, EventRow};
use super::scope::{Scope, Stop};
use super::state::StateNode;
use crate::matrix::RoomVersion;
use crate::matrix::auth_rules::{PowerLevels, PowerLevelsView};
use crate::matrix::redaction::may_redact_any;
use crate::query::ids::EventSn;
use crate::storage::columns::{EARLY_REDACTIONS, EVENT_IDS};
use crate::storage::overlay::Overlay;

/// Redactions that wait for one event and have no power, each of another server.
const WAITING_MAX: usize = 32;

impl Event<'_> {
    /// Whether the event, if it is a redaction, may redact what others sent: by
    /// the level that its sender had in the state before it.
    pub(super) fn may_redact(
        &self,
        head: &Head,
        version: RoomVersion,
        before: &StateNode,
        scope: &Scope<'_, '_>,
    ) -> Result<bool, Stop> {
        if self.kind != REDACTION {
            return Ok(false);
        }
        let authority = &head.shown.authority;
        if before.id == head.node.id {
            return Ok(may_redact_any(version, self.sender, &authority.view()));
        }
        let entry = scope.states().entry(before.id, "m.room.power_levels", "")?;
        let levels = match entry.and_then(|entry| entry.event) {
            None => None,
            Some(sn) => {
                let event = scope.shared.events.accepted(self.partition, sn)?;
                PowerLevels::parse(version, &event.content).ok()
            }
        };
        let view = PowerLevelsView::new(&authority.create_info, levels.as_ref());
        Ok(may_redact_any(version, self.sender, &view))
    }

    /// Applies an accepted redaction, or leaves it waiting for its event.
    /// Returns the event whose row changed.
    pub(super) fn redact(
        &self,
        head: &mut Head,
        has_power: bool,
        scope: &mut Scope<'_, '_>,
    ) -> Result<Vec<EventSn>, Stop> {
        let Some(target) = self.body.redacts.as_deref() else {
            return Ok(vec![]);
        };
        if self.kind != REDACTION {
            return Ok(vec![]);
        }
        let tables = &mut *scope.tables;
        let key = rows::room_text_key(self.partition, head.shown.room, target);
        let Some(known) = rows::find_number(&*tables, EVENT_IDS, &key)?.map(EventSn) else {
            let waiting = tables.get(EARLY_REDACTIONS, key.as_ref())?;
            let mut waiting = match waiting {
                Some(bytes) => rows::read_early_redactions(&bytes)?,
                None => vec![],
            };
            // One with power does for all; and one of each server, if none has.
            let domain = self.sender.server_name().as_str();
            let adds = match has_power {
                true => waiting.iter().all(|early| !early.has_power),
                false => {
                    waiting.len() < WAITING_MAX
                        && waiting
                            .iter()
                            .all(|early| !early.has_power && early.sender_domain.as_ref() != domain)
                }
            };
            if adds {
                waiting.push(EarlyRedaction {
                    event: self.sn,
                    has_power,
                    sender_domain: self.sender.server_name().as_str().into(),
                });
                let row = rows::early_redactions(&waiting);
                tables.put(EARLY_REDACTIONS, key.as_ref(), row);
                head.early_redactions += 1;
            }
            return Ok(vec![]);
        };
        let Some(mut row) = EventRow::load(&*tables, self.partition, known)? else {
            return Ok(vec![]);
        };
        let events = &scope.shared.events;
        let allowed = row.redacted_by.is_none()
            && (has_power
                || events.sender(self.partition, known)?.server_name()
                    == self.sender.server_name());
        if !allowed {
            return Ok(vec![]);
        }
        row.redacted_by = Some(self.sn);
        row.store(tables, self.partition, known);
        Ok(vec![known])
    }

    /// The redaction that came before this event became part of the room and
    /// takes effect: on the event as it was kept, or when it was not known.
    pub(super) fn redacted_by(
        &self,
        head: &mut Head,
        case: &Case<'_>,
        tables: &mut Overlay<'_>,
    ) -> Result<Option<EventSn>, Stop> {
        let kept = case.prior.as_ref().and_then(|row| row.redacted_by);
        match kept {
            Some(redaction) => Ok(Some(redaction)),
            None => self.take_early_redaction(head, tables),
        }
    }

    /// The redaction that waited for this event and takes effect, if one did.
    fn take_early_redaction(
        &self,
        head: &mut Head,
        tables: &mut Overlay<'_>,
    ) -> Result<Option<EventSn>, Stop> {
        if head.early_redactions == 0 {
            return Ok(None);
        }
        let key = rows::room_text_key(self.partition, head.shown.room, self.event_id.as_str());
        let Some(bytes) = tables.get(EARLY_REDACTIONS, key.as_ref())? else {
            return Ok(None);
        };
        let waiting = rows::read_early_redactions(&bytes)?;
        tables.delete(EARLY_REDACTIONS, key.as_ref());
        head.early_redactions = head.early_redactions.saturating_sub(waiting.len() as u64);
        let domain = self.sender.server_name().as_str();
        let found = waiting
            .iter()
            .find(|redaction| redaction.has_power || redaction.sender_domain.as_ref() == domain);
        Ok(found.map(|redaction| redaction.event))
    }
}
