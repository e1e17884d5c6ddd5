//! Records of one request that stand or fall as one: createRoom.
//!
//! They follow each other in the log and are folded together at the last of
//! them, so that nothing of a refused one is ever in the tables or in *output*
//! as accepted. The earlier ones are read from the log again, not kept: a
//! group, or the process, may end between them.

use log_format::codec;
use log_format::record::Kind;
use log_format::record::input::InputRoomEvent;
use log_format::record::output::{Decision, Origin, Reason};

use super::fold::{RoomServer, malformed, refused};
use super::judge::Event;
use crate::logs::log::LogRecord;
use crate::projectors::fold::{FoldError, FoldInput, Folded};
use crate::storage::overlay::Overlay;

/// Most records of one batch. A createRoom has about ten and its invites.
const BATCH_RECORDS_MAX: u32 = 1_000;

impl RoomServer {
    /// Folds the batch that this record ends; nothing for an earlier record of it.
    pub(super) fn fold_batch(
        &mut self,
        record: &FoldInput<'_>,
        body: InputRoomEvent,
        tables: &mut Overlay<'_>,
    ) -> Result<Folded, FoldError> {
        let (index, count) = (body.batch_index, body.batch_count);
        if index >= count || count > BATCH_RECORDS_MAX || u64::from(index) > record.offset {
            return Ok(malformed(record, body));
        }
        if index + 1 < count {
            return Ok(Folded {
                output: vec![],
                decision: Decision::Accepted,
                reason: Reason::None,
                duplicate_of: None,
            });
        }
        let earlier = self.earlier(record, index)?;
        let mut bodies = vec![];
        for (at, earlier) in earlier.iter().enumerate() {
            let envelope = earlier.envelope().map_err(|source| FoldError::Envelope {
                offset: earlier.offset,
                source,
            })?;
            let read = codec::decode::<InputRoomEvent>(envelope.body).ok();
            let belongs = |read: &InputRoomEvent| {
                envelope.kind == Kind::InputRoomEvent
                    && envelope.room_id == record.envelope.room_id
                    && (read.batch_index as usize, read.batch_count) == (at, count)
            };
            match read.filter(belongs) {
                Some(read) => bodies.push((envelope, read)),
                None => return Ok(malformed(record, body)),
            }
        }
        bodies.push((record.envelope.clone(), body));
        self.fold_together(record, bodies, tables)
    }

    /// The records before this one that belong to its batch.
    fn earlier(&self, record: &FoldInput<'_>, index: u32) -> Result<Vec<LogRecord>, FoldError> {
        let mut found: Vec<LogRecord> = vec![];
        let mut next = record.offset - u64::from(index);
        while next < record.offset {
            let read = self.shared.events.records_from(record.partition, next)?;
            let read = read
                .into_iter()
                .take_while(|read| read.offset < record.offset);
            let before = found.len();
            found.extend(read);
            if found.len() == before {
                break;
            }
            next = found.last().map_or(next, |last| last.offset + 1);
        }
        Ok(found)
    }

    fn fold_together(
        &mut self,
        record: &FoldInput<'_>,
        bodies: Vec<(log_format::record::Envelope<'_>, InputRoomEvent)>,
        tables: &mut Overlay<'_>,
    ) -> Result<Folded, FoldError> {
        let first = record.offset - (bodies.len() as u64 - 1);
        let room_id = record.envelope.room_id.unwrap_or_default();
        let saved = ruma::OwnedRoomId::try_from(room_id)
            .ok()
            .map(|room_id| (self.group.heads.get(&room_id).cloned(), room_id));
        let (fresh, changed) = (self.group.fresh.len(), self.group.changed.len());
        let mut above = Overlay::new(&*tables);
        let mut judged = vec![];
        let mut refusal = None;
        for ((envelope, body), offset) in bodies.iter().zip(first..) {
            let Some(event) = Event::read(record.partition, offset, envelope, body) else {
                refusal = Some(Reason::Malformed);
                break;
            };
            let verdict = self.judge(&event, &mut above)?;
            if verdict.annotation.decision == Decision::Rejected {
                refusal = Some(verdict.annotation.reason);
                break;
            }
            judged.push(verdict);
        }
        let writes = above.into_writes();
        let last = bodies.len() as u32 - 1;
        let origin = |sub: u32| Origin {
            src_sub: sub,
            src_last: sub == last,
            ..record.origin()
        };
        if let Some(reason) = refusal {
            // Take back what the others did: the tables never saw it.
            self.group.fresh.truncate(fresh);
            self.group.changed.truncate(changed);
            self.known.clear();
            match saved {
                Some((Some(head), room_id)) => drop(self.group.heads.insert(room_id, head)),
                Some((None, room_id)) => drop(self.group.heads.remove(&room_id)),
                None => {}
            }
            let mut output = vec![];
            for ((sub, (envelope, body)), offset) in (0..).zip(bodies).zip(first..) {
                let source = FoldInput {
                    offset,
                    envelope: &envelope,
                    ..*record
                };
                output.extend(refused(&source, body, reason, origin(sub)).output);
            }
            return Ok(Folded {
                output,
                decision: Decision::Rejected,
                reason,
                duplicate_of: None,
            });
        }
        tables.absorb(writes);
        let duplicate_of = judged
            .iter()
            .find_map(|verdict| verdict.duplicate_of.clone());
        let repeated = judged
            .iter()
            .all(|verdict| verdict.annotation.decision == Decision::Duplicate);
        let output = (0..)
            .zip(judged.into_iter().zip(bodies))
            .map(|(sub, (verdict, (envelope, body)))| {
                verdict.annotation.record(&envelope, body, origin(sub))
            })
            .collect();
        Ok(Folded {
            output,
            decision: match repeated {
                true => Decision::Duplicate,
                false => Decision::Accepted,
            },
            reason: Reason::None,
            duplicate_of: duplicate_of.filter(|_| repeated),
        })
    }
}
