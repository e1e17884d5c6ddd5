//! What a stored event cites, read from its bytes without the rest of it.

use std::borrow::Cow;

use ruma::OwnedEventId;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// What an event builds on and who authorises it. Ids that are none are left out:
/// what is stored was checked when it came in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cited {
    pub prev_events: Vec<OwnedEventId>,
    pub auth_events: Vec<OwnedEventId>,
    pub depth: u64,
}

impl Cited {
    /// Reads a PDU of any room version.
    pub fn by(pdu: &[u8]) -> Cited {
        #[derive(Deserialize)]
        struct Pdu<'a> {
            #[serde(borrow, default)]
            prev_events: Vec<Reference<'a>>,
            #[serde(borrow, default)]
            auth_events: Vec<Reference<'a>>,
            #[serde(default)]
            depth: serde_json::Value,
        }
        /// An id, or in versions 1 and 2 a pair of id and hashes.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Reference<'a> {
            Id(#[serde(borrow)] Cow<'a, str>),
            Pair(#[serde(borrow)] Cow<'a, str>, IgnoredAny),
        }
        fn ids(references: Vec<Reference<'_>>) -> Vec<OwnedEventId> {
            let ids = references.into_iter().filter_map(|reference| {
                let (Reference::Id(id) | Reference::Pair(id, _)) = reference;
                OwnedEventId::try_from(&*id).ok()
            });
            ids.collect()
        }
        let Ok(pdu) = serde_json::from_slice::<Pdu<'_>>(pdu) else {
            return Cited::default();
        };
        Cited {
            prev_events: ids(pdu.prev_events),
            auth_events: ids(pdu.auth_events),
            depth: pdu.depth.as_u64().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_of_every_version_are_read() {
        let old = br#"{"auth_events":[["$a:hs",{"sha256":"x"}]],"depth":7,
            "prev_events":[["$b:hs",{}],["$c:hs",{"sha256":"y"}]],"content":{"x":[1]}}"#;
        let cited = Cited::by(old);
        assert_eq!(cited.auth_events, ["$a:hs"]);
        assert_eq!(cited.prev_events, ["$b:hs", "$c:hs"]);
        assert_eq!(cited.depth, 7);
        let new =
            br#"{"auth_events":["$a"],"prev_events":["$\u0062"],"depth":18446744073709551616}"#;
        let cited = Cited::by(new);
        assert_eq!((cited.auth_events.len(), cited.depth), (1, 0));
        assert_eq!(cited.prev_events, ["$b"]);
        assert_eq!(Cited::by(b"{"), Cited::default());
    }
}
