//! An order in which each event comes behind what authorises it.

use std::collections::HashMap;

use bytes::Bytes;
use ruma::{OwnedEventId, RoomId};

use crate::matrix::RoomVersion;
use crate::matrix::canonical_json::{Numbers, parse_object_with};
use crate::matrix::event::Pdu;

/// Which events are wanted for themselves.
#[derive(Clone, Copy, Debug)]
pub struct Roots<'a> {
    /// So many of the first.
    pub first: usize,
    /// And those that something else cites.
    pub cited: &'a [OwnedEventId],
}

/// Events of one room, told apart and ordered.
#[derive(Debug, Default, PartialEq)]
pub struct Order {
    /// The id of each, in the order given; none of what is no event of the room.
    pub ids: Vec<Option<OwnedEventId>>,
    /// Indices: each event once, behind those of its `auth_events` that are here.
    pub authorities_first: Vec<usize>,
}

impl Order {
    /// Reads each event once and keeps no more than its id and its authorities,
    /// as numbers. With `roots`, what leads to none of them is left out.
    pub fn of(
        version: RoomVersion,
        room: &RoomId,
        events: &[Bytes],
        roots: Option<Roots<'_>>,
    ) -> Order {
        let mut ids = Vec::with_capacity(events.len());
        let mut creates = Vec::new();
        let mut numbers: HashMap<OwnedEventId, usize> = HashMap::new();
        let mut cited: Vec<Box<[OwnedEventId]>> = Vec::new();
        for event in events {
            let pdu = read(version, room, event);
            if pdu
                .as_ref()
                .is_some_and(|pdu| &*pdu.kind == "m.room.create")
            {
                creates.push(ids.len());
            }
            let (id, authorities) = pdu.map(|pdu| (pdu.event_id, pdu.auth_events)).unzip();
            if let Some(id) = &id {
                numbers.entry(id.clone()).or_insert(ids.len());
            }
            cited.push(authorities.unwrap_or_default().into());
            ids.push(id);
        }
        let authorities: Vec<Vec<usize>> = cited
            .into_iter()
            .map(|cited| {
                cited
                    .iter()
                    .filter_map(|id| numbers.get(id).copied())
                    .collect()
            })
            .collect();
        let first = |index: &usize| match ids.get(*index) {
            Some(Some(id)) => numbers.get(id) == Some(index),
            _ => false,
        };
        let is_root = |index: &usize| {
            let named = |roots: Roots<'_>| match ids.get(*index) {
                Some(Some(id)) => *index < roots.first || roots.cited.contains(id),
                _ => false,
            };
            roots.is_none_or(named)
        };
        // The room begins with its create event, which from version 12 on no other
        // event cites.
        let starts = creates.into_iter().chain(0..events.len());
        let starts = starts.filter(first).filter(is_root);
        let authorities_first = depth_first(starts, &authorities);
        Order {
            ids,
            authorities_first,
        }
    }
}

fn read(version: RoomVersion, room: &RoomId, event: &[u8]) -> Option<Pdu> {
    let object = parse_object_with(event, Numbers::Kept).ok()?;
    let pdu = Pdu::from_object(version, object).ok()?;
    (pdu.room_id == room).then_some(pdu)
}

/// Each node once, behind those that it leads to. A circle, which only ids that
/// are no hashes allow, is cut where the walk meets it.
fn depth_first(starts: impl Iterator<Item = usize>, edges: &[Vec<usize>]) -> Vec<usize> {
    let mut seen = vec![false; edges.len()];
    let mut order = Vec::with_capacity(edges.len());
    // A node, and how many of its edges were taken.
    let mut path: Vec<(usize, usize)> = Vec::new();
    for start in starts {
        if std::mem::replace(&mut seen[start], true) {
            continue;
        }
        path.push((start, 0));
        while let Some((node, taken)) = path.last_mut() {
            match edges[*node].get(*taken) {
                Some(next) => {
                    *taken += 1;
                    if !std::mem::replace(&mut seen[*next], true) {
                        path.push((*next, 0));
                    }
                }
                None => {
                    order.push(*node);
                    path.pop();
                }
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str, auth: &[&str]) -> Bytes {
        let auth: Vec<String> = auth.iter().map(|id| format!(r#"["{id}",{{}}]"#)).collect();
        let json = format!(
            r#"{{"event_id":"{id}","room_id":"!r:hs","sender":"@a:hs","type":"x","content":{{}},
            "depth":1,"origin_server_ts":1,"prev_events":[],"auth_events":[{}],"hashes":{{}},
            "signatures":{{}}}}"#,
            auth.join(",")
        );
        json.into_bytes().into()
    }

    fn order(events: &[Bytes]) -> (Vec<String>, Vec<usize>) {
        let order = Order::of(RoomVersion::V2, ruma::room_id!("!r:hs"), events, None);
        let name = |id: Option<OwnedEventId>| id.map_or_else(String::new, |id| id.to_string());
        (
            order.ids.into_iter().map(name).collect(),
            order.authorities_first,
        )
    }

    #[test]
    fn authorities_come_first() {
        let events = [
            event("$d:hs", &["$c:hs", "$a:hs"]),
            event("$b:hs", &["$a:hs"]),
            event("$c:hs", &["$b:hs", "$unknown:hs"]),
            event("$a:hs", &[]),
        ];
        let (ids, order) = order(&events);
        assert_eq!(ids, ["$d:hs", "$b:hs", "$c:hs", "$a:hs"]);
        assert_eq!(order, [3, 1, 2, 0]);
    }

    #[test]
    fn what_is_no_event_of_the_room_is_left_out_and_circles_end() {
        let other = String::from_utf8(event("$o:hs", &[]).to_vec()).expect("UTF-8");
        let events = [
            Bytes::from_static(b"{"),
            other.replace("!r:hs", "!other:hs").into_bytes().into(),
            event("$a:hs", &["$b:hs"]),
            event("$b:hs", &["$a:hs"]),
            event("$b:hs", &[]),
            event("$self:hs", &["$self:hs"]),
        ];
        let (ids, mut order) = order(&events);
        assert_eq!(ids, ["", "", "$a:hs", "$b:hs", "$b:hs", "$self:hs"]);
        assert_eq!(order, [3, 2, 5]);
        order.sort();
        order.dedup();
        assert_eq!(order.len(), 3);
    }

    #[test]
    fn what_nothing_wanted_leads_to_is_left_out() {
        let mut create = String::from_utf8(event("$create:hs", &[]).to_vec()).expect("UTF-8");
        create = create.replace(r#""type":"x""#, r#""type":"m.room.create""#);
        let events = [
            event("$state:hs", &["$a:hs"]),
            event("$a:hs", &[]),
            create.into_bytes().into(),
            event("$stranger:hs", &["$a:hs"]),
            event("$cited:hs", &[]),
        ];
        let cited = [OwnedEventId::try_from("$cited:hs").expect("an id")];
        let roots = |first| Roots {
            first,
            cited: &cited,
        };
        let room = ruma::room_id!("!r:hs");
        let order = |first| Order::of(RoomVersion::V2, room, &events, Some(roots(first)));
        assert_eq!(order(1).authorities_first, [1, 0, 4]);
        // The create event comes before all others, whoever cites it.
        assert_eq!(order(3).authorities_first, [2, 1, 0, 4]);
    }

    #[test]
    fn a_long_chain_takes_no_stack() {
        let count = 20_000;
        let id = |n: usize| format!("${n}:hs");
        let events: Vec<Bytes> = (0..count).map(|n| event(&id(n), &[&id(n + 1)])).collect();
        let (_, order) = order(&events);
        assert_eq!(order, (0..count).rev().collect::<Vec<_>>());
    }
}
