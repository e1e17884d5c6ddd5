//! The timeline section: the newest events of a room that the user may see and
//! wants, from where they were last told.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::SyncError;
use super::history::RoomHistory;
use super::rows::TimelineRow;
use super::visible::Judge;
use crate::matrix::client_event::content_has_url;
use crate::matrix::filter::RoomEventFilter;
use crate::query::ids::{EventSn, Place};
use crate::query::rooms::{StateKey, StoredEvent};
use crate::query::tokens::TimelineToken;

const CREATE: &str = "m.room.create";
/// Events of a room if the filter says nothing.
const LIMIT_DEFAULT: usize = 10;
/// Events of a room that a filter may ask for.
const LIMIT_MAX: usize = 100;
/// Rows that are looked through for events that pass the filter; what lies
/// behind them is for `/messages`, and the timeline is limited.
const SCAN_ROWS_MAX: usize = 1_000;

/// An event that is shown.
pub struct Shown {
    pub offset: u64,
    pub event: Arc<StoredEvent>,
}

/// What is shown of a room's timeline.
pub struct Timeline {
    /// In the order of *output*.
    pub shown: Vec<Shown>,
    /// Whether there is more between what the client has and what is shown.
    pub limited: bool,
    /// Just before the first event shown; behind the last one if there is none.
    prev: Option<(Place, bool)>,
}

impl Timeline {
    /// One that shows nothing.
    pub fn empty(limited: bool) -> Timeline {
        Timeline {
            shown: Vec::new(),
            limited,
            prev: None,
        }
    }

    /// One that shows nothing of `[from, to)`, for who wants no events: limited if
    /// there are any.
    pub fn hidden(history: &RoomHistory<'_>, from: u64, to: u64) -> Result<Timeline, SyncError> {
        let newest = history.timeline_before(0, to, 1)?;
        let newest = newest.first();
        Ok(Timeline {
            shown: Vec::new(),
            limited: newest.is_some_and(|row| row.offset >= from),
            prev: newest.map(|row| (row.place, true)),
        })
    }

    /// Loads what the user may see in `[from, to)`.
    pub fn load(
        history: &RoomHistory<'_>,
        judge: &Judge<'_>,
        filter: &RoomEventFilter,
        from: u64,
        to: u64,
    ) -> Result<Timeline, SyncError> {
        let limit = filter.limit(LIMIT_DEFAULT).min(LIMIT_MAX);
        let wanted = filter.matches_room(&history.room_id);
        let mut shown = Vec::new();
        let mut limited = false;
        let mut scanned = 0;
        let mut end = to;
        let mut newer = None;
        let mut oldest_kind = None;
        let mut all_read = false;
        'pages: loop {
            if !wanted {
                break;
            }
            let mut rows = history.timeline_before(from, end, limit + 1)?;
            let Some(oldest) = rows.last() else {
                all_read = true;
                break;
            };
            end = oldest.offset;
            scanned += rows.len();
            let whole = rows.len() <= limit;
            let gap = cut_at_gap(&mut rows, &mut newer);
            for (row, event) in events_of(history, rows)? {
                oldest_kind = Some(event.kind.clone());
                if !filter.matches(&event.sender, &event.kind, || content_has_url(&event.json))
                    || !judge.tells(&event, row.offset)?
                {
                    continue;
                }
                if shown.len() == limit {
                    limited = true;
                    break 'pages;
                }
                shown.push(Shown {
                    offset: row.offset,
                    event,
                });
            }
            if gap {
                limited = true;
                break;
            }
            if whole {
                all_read = true;
                break;
            }
            if scanned >= SCAN_ROWS_MAX {
                limited = true;
                break;
            }
        }
        if all_read {
            // A room whose first event here is not its creation began elsewhere.
            let began_elsewhere = from == 0 && oldest_kind.is_some_and(|kind| &*kind != CREATE);
            limited = began_elsewhere || is_behind_gap(history, newer, from)?;
        }
        shown.reverse();
        let shown = with_early_redactions(history, judge, filter, shown)?;
        let prev = match shown.first() {
            Some(first) => Some((first.event.place, false)),
            None => {
                let newest = history.timeline_before(0, to, 1)?;
                newest.first().map(|row| (row.place, true))
            }
        };
        Ok(Timeline {
            shown,
            limited,
            prev,
        })
    }

    /// Gives up what would leave a client with wrong state, where it applies the
    /// timeline to the state section: a state event that is shown last for its
    /// key, and does not hold the key in current state. State resolution chose
    /// another (or none), or the user may not see the one that holds it now.
    ///
    /// The timeline then begins behind such an event, and is limited: the client
    /// finds the event with `/messages`, where nothing is applied. To show it and
    /// repeat the right one in `state` would not do, as clients apply that first;
    /// to leave it out of a timeline that claims to have no gap would hide it for
    /// good. With `use_state_after` nothing is given up.
    pub fn settle(&mut self, history: &RoomHistory<'_>, to: u64) -> Result<(), SyncError> {
        let mut last: BTreeMap<StateKey, (usize, EventSn)> = BTreeMap::new();
        for (index, shown) in self.shown.iter().enumerate() {
            let Some(state_key) = &shown.event.state_key else {
                continue;
            };
            // The timeline of a room left goes on behind what its state tells.
            if shown.offset < to {
                let key = StateKey::new(&shown.event.kind, state_key);
                last.insert(key, (index, shown.event.event));
            }
        }
        if last.is_empty() {
            return Ok(());
        }
        let state = history.state_id_at(to)?;
        let mut misleads = None;
        for (key, (index, event)) in last {
            let holder = history.rooms.state_entry(&history.room_id, state, &key)?;
            if holder != Some(event) {
                misleads = misleads.max(Some(index));
            }
        }
        if let Some(index) = misleads {
            let behind = self.shown.split_off(index + 1);
            let newest = self.shown.last().map(|shown| shown.event.place);
            self.shown = behind;
            self.limited = true;
            self.prev = match self.shown.first() {
                Some(first) => Some((first.event.place, false)),
                None => newest.map(|place| (place, true)),
            };
        }
        Ok(())
    }

    /// Offset of the first event shown, or the end if none is.
    pub fn start(&self, to: u64) -> u64 {
        self.shown.first().map_or(to, |first| first.offset)
    }

    /// The events shown.
    pub fn events(&self) -> impl Iterator<Item = &Arc<StoredEvent>> {
        self.shown.iter().map(|shown| &shown.event)
    }

    /// Where `/messages` continues into the past.
    pub fn prev_batch(&self, vector: &[crate::query::ids::OutputOffset]) -> Option<String> {
        let (place, behind) = self.prev?;
        let token = match behind {
            true => TimelineToken::after(place, vector),
            false => TimelineToken::before(place, vector),
        };
        Some(token.encode())
    }
}

/// Drops rows from before a gap in the room's history: another server told us
/// the state behind it, and what lies in it is for `/messages` to find. Rows are
/// newest first; `newer` is the place of the one before them.
fn cut_at_gap(rows: &mut Vec<TimelineRow>, newer: &mut Option<Place>) -> bool {
    for index in 0..rows.len() {
        let Some(row) = rows.get(index) else { break };
        if newer.is_some_and(|newer| newer.is_behind_gap(row.place)) {
            rows.truncate(index);
            return true;
        }
        *newer = Some(row.place);
    }
    false
}

/// Whether the oldest event of a stretch stands behind a gap.
fn is_behind_gap(
    history: &RoomHistory<'_>,
    oldest: Option<Place>,
    from: u64,
) -> Result<bool, SyncError> {
    let Some(oldest) = oldest else {
        return Ok(false);
    };
    let before = history.timeline_before(0, from, 1)?;
    let mut before = before.iter();
    Ok(before.any(|before| oldest.is_behind_gap(before.place)))
}

/// Adds redactions that came before their events and so took effect with them:
/// until then they were told to nobody (room version 3, *Handling redactions*).
fn with_early_redactions(
    history: &RoomHistory<'_>,
    judge: &Judge<'_>,
    filter: &RoomEventFilter,
    shown: Vec<Shown>,
) -> Result<Vec<Shown>, SyncError> {
    let redacted = shown.iter().filter_map(|shown| shown.event.redacted_by);
    let redactions: Vec<EventSn> = redacted.collect();
    if redactions.is_empty() {
        return Ok(shown);
    }
    let redactions = history.rooms.events(&history.room_id, &redactions)?;
    let is_shown = |event: EventSn| shown.iter().any(|shown| shown.event.event == event);
    let mut all = Vec::with_capacity(shown.len());
    let mut due: BTreeMap<EventSn, Arc<StoredEvent>> = redactions
        .into_iter()
        .filter(|redaction| !is_shown(redaction.event))
        .map(|redaction| (redaction.event, redaction))
        .collect();
    for shown in shown {
        let (offset, place) = (shown.offset, shown.event.place);
        let redaction = shown.event.redacted_by.and_then(|event| due.remove(&event));
        all.push(shown);
        let Some(event) = redaction.filter(|redaction| redaction.place < place) else {
            continue;
        };
        if filter.matches(&event.sender, &event.kind, || content_has_url(&event.json))
            && judge.tells(&event, offset)?
        {
            all.push(Shown { offset, event });
        }
    }
    Ok(all)
}

/// The events of rows, in the same order. One that the room server no longer
/// has (its room was purged) is left out.
pub fn events_of(
    history: &RoomHistory<'_>,
    rows: Vec<TimelineRow>,
) -> Result<Vec<(TimelineRow, Arc<StoredEvent>)>, SyncError> {
    let ids: Vec<_> = rows.iter().map(|row| row.event).collect();
    let mut events = history
        .rooms
        .events(&history.room_id, &ids)?
        .into_iter()
        .peekable();
    let paired = rows.into_iter().filter_map(|row| {
        let event = events.next_if(|event| event.event == row.event)?;
        Some((row, event))
    });
    Ok(paired.collect())
}
