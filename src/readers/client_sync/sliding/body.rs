//! Answers as they are sent (MSC4186, *Response Body*).

use std::collections::BTreeMap;

use ruma::OwnedRoomId;
use serde::Serialize;
use serde_json::value::RawValue;

use super::extensions::ExtensionsBody;

/// The whole answer.
#[derive(Debug, Serialize)]
pub struct Body<'a> {
    pub pos: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub txn_id: Option<&'a str>,
    pub lists: BTreeMap<&'a str, ListBody>,
    pub rooms: &'a BTreeMap<OwnedRoomId, RoomBody>,
    pub extensions: &'a ExtensionsBody,
}

/// `SyncListResult`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ListBody {
    pub count: u64,
}

/// `RoomResult`. What is none has not changed or, in an initial one, is not
/// there. Fields with two spellings are set in the one that the client reads.
#[derive(Debug, Default, Serialize)]
pub struct RoomBody {
    pub bump_stamp: u64,
    pub membership: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heroes: Option<Vec<Hero>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_dm: Option<bool>,
    #[serde(skip_serializing_if = "is_false")]
    pub initial: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub expanded_timeline: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub unstable_expanded_timeline: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub required_state: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_batch: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub limited: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_live: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joined_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invited_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notification_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub highlight_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invite_state: Option<Vec<Box<RawValue>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stripped_state: Option<Vec<Box<RawValue>>>,
}

/// `Hero`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Hero {
    pub user_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub displayname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
}

/// `StateStub`: an entry that was removed.
#[derive(Debug, Serialize)]
pub struct StateStub<'a> {
    #[serde(rename = "type")]
    pub kind: &'a str,
    pub state_key: &'a str,
}

fn is_false(value: &bool) -> bool {
    !value
}
