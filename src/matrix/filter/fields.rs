//! `event_fields`: which fields of events a client wants
//! (appendices, *Dot-separated property paths*).

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::limits::FILTER_LIST_MAX;

/// Paths to the wanted fields, each as a list of property names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventFields(Vec<Vec<Box<str>>>);

impl EventFields {
    /// The event with the wanted fields alone. What is not there stays away.
    pub fn project(&self, event: &RawValue) -> Result<Box<RawValue>, serde_json::Error> {
        let event: Map<String, Value> = serde_json::from_str(event.get())?;
        let mut wanted = Map::new();
        for path in &self.0 {
            copy_path(&event, &mut wanted, path);
        }
        serde_json::value::to_raw_value(&wanted)
    }
}

fn copy_path(from: &Map<String, Value>, to: &mut Map<String, Value>, path: &[Box<str>]) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    let Some(value) = from.get(&**first) else {
        return;
    };
    if rest.is_empty() {
        to.insert(first.to_string(), value.clone());
        return;
    }
    let Value::Object(inner) = value else { return };
    let mut copied = match to.remove(&**first) {
        Some(Value::Object(copied)) => copied,
        _ => Map::new(),
    };
    copy_path(inner, &mut copied, rest);
    if !copied.is_empty() {
        to.insert(first.to_string(), Value::Object(copied));
    }
}

/// Splits at dots; `\.` and `\\` stand for a dot and a backslash in a name.
fn split_path(path: &str) -> Vec<Box<str>> {
    let mut names = Vec::new();
    let mut name = String::new();
    let mut chars = path.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '.' => names.push(std::mem::take(&mut name).into_boxed_str()),
            '\\' => match chars.next_if(|next| matches!(next, '.' | '\\')) {
                Some(escaped) => name.push(escaped),
                None => name.push('\\'),
            },
            c => name.push(c),
        }
    }
    names.push(name.into_boxed_str());
    names
}

impl<'de> Deserialize<'de> for EventFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<EventFields, D::Error> {
        let paths: Vec<String> = Vec::deserialize(deserializer)?;
        if paths.len() > FILTER_LIST_MAX {
            return Err(serde::de::Error::custom(format_args!(
                "event_fields has more than {FILTER_LIST_MAX} entries"
            )));
        }
        Ok(EventFields(
            paths.iter().map(|path| split_path(path)).collect(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_fields_are_kept() {
        let event = r#"{"type":"m.x","sender":"@a:hs","content":{"body":"b","m.relates_to":{"event_id":"$e","k":1},"a\\b":2}}"#;
        let event = RawValue::from_string(event.to_owned()).expect("is JSON");
        for (paths, expected) in [
            (r#"["type","sender"]"#, r#"{"sender":"@a:hs","type":"m.x"}"#),
            (r#"["content.body"]"#, r#"{"content":{"body":"b"}}"#),
            (
                r#"["content.m\\.relates_to.event_id","content.body"]"#,
                r#"{"content":{"body":"b","m.relates_to":{"event_id":"$e"}}}"#,
            ),
            (r#"["content.a\\\\b"]"#, r#"{"content":{"a\\b":2}}"#),
            (r#"["nothing","content.nothing","type.x",""]"#, "{}"),
        ] {
            let fields: EventFields = serde_json::from_str(paths).expect(paths);
            let projected: Value =
                serde_json::from_str(fields.project(&event).expect("projects").get())
                    .expect("is JSON");
            let expected: Value = serde_json::from_str(expected).expect("is JSON");
            assert_eq!(projected, expected, "{paths}");
        }
    }

    #[test]
    fn other_escapes_are_literal() {
        assert_eq!(
            split_path(r"a\x.b\\.c\.d\"),
            [r"a\x".into(), r"b\".into(), Box::from("c.d\\")]
        );
    }
}
