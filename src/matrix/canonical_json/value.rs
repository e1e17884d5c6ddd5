//! JSON values with sorted keys.
//!
//! Unlike ruma's type of the same name, this one can hold the numbers that
//! events of room versions 1 to 5 may have and canonical JSON does not.

use std::collections::BTreeMap;

use ruma::Int;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Numbers, OddNumber, parse_value_with};

/// An object; its keys are sorted by code point, as canonical JSON wants them.
pub type CanonicalJsonObject = BTreeMap<String, CanonicalJsonValue>;

/// A JSON value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CanonicalJsonValue {
    #[default]
    Null,
    Bool(bool),
    /// From -(2^53) + 1 to 2^53 - 1.
    Integer(Int),
    /// Any other number; only in events of room versions 1 to 5.
    Number(OddNumber),
    String(String),
    Array(Vec<CanonicalJsonValue>),
    Object(CanonicalJsonObject),
}

impl CanonicalJsonValue {
    /// Whether every number in it is one that canonical JSON has.
    pub fn is_canonical(&self) -> bool {
        match self {
            CanonicalJsonValue::Number(_) => false,
            CanonicalJsonValue::Array(values) => values.iter().all(Self::is_canonical),
            CanonicalJsonValue::Object(object) => object.values().all(Self::is_canonical),
            CanonicalJsonValue::Null
            | CanonicalJsonValue::Bool(_)
            | CanonicalJsonValue::Integer(_)
            | CanonicalJsonValue::String(_) => true,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            CanonicalJsonValue::Bool(value) => Some(*value),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            CanonicalJsonValue::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_array(&self) -> Option<&[CanonicalJsonValue]> {
        match self {
            CanonicalJsonValue::Array(values) => Some(values),
            _ => None,
        }
    }

    pub fn as_object(&self) -> Option<&CanonicalJsonObject> {
        match self {
            CanonicalJsonValue::Object(object) => Some(object),
            _ => None,
        }
    }

    pub fn as_object_mut(&mut self) -> Option<&mut CanonicalJsonObject> {
        match self {
            CanonicalJsonValue::Object(object) => Some(object),
            _ => None,
        }
    }
}

impl Serialize for CanonicalJsonValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            CanonicalJsonValue::Null => serializer.serialize_unit(),
            CanonicalJsonValue::Bool(value) => serializer.serialize_bool(*value),
            CanonicalJsonValue::Integer(value) => serializer.serialize_i64(i64::from(*value)),
            CanonicalJsonValue::Number(number) => number.serialize(serializer),
            CanonicalJsonValue::String(text) => serializer.serialize_str(text),
            CanonicalJsonValue::Array(values) => values.serialize(serializer),
            CanonicalJsonValue::Object(object) => object.serialize(serializer),
        }
    }
}

/// Strict about numbers, as what servers sign today must be.
impl<'de> Deserialize<'de> for CanonicalJsonValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let text = value.to_string();
        parse_value_with(text.as_bytes(), Numbers::Strict).map_err(D::Error::custom)
    }
}
