//! Objects as they come, in parts of every size, against what serde_json says.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::limits::JSON_DEPTH_MAX;

const WANTED: Wanted = Wanted {
    lists: &["state", "chain"],
    elements_max: 3,
    fields: &["event", "flag"],
    piece_bytes_max: 40,
};

type Told = Vec<(&'static str, String)>;

/// What is told of a text that comes in parts of some size.
fn read(text: &[u8], form: Form, part: usize) -> Result<Told, StreamError> {
    let mut reader = ObjectReader::new(WANTED, form);
    let mut told = Vec::new();
    for part in text.chunks(part) {
        reader.push(part, |piece| {
            let json = String::from_utf8(piece.json.to_vec()).expect("UTF-8");
            told.push((piece.of, json));
        })?;
    }
    reader.finish().map(|()| told)
}

/// The same, however it is cut.
fn whole(text: &str, form: Form) -> Result<Told, StreamError> {
    let told = read(text.as_bytes(), form, usize::MAX);
    for part in 1..8 {
        assert_eq!(read(text.as_bytes(), form, part), told, "{text} by {part}");
    }
    told
}

fn bare(text: &str) -> Result<Told, StreamError> {
    whole(text, Form::Bare)
}

#[test]
fn elements_and_fields_are_told_as_they_came() {
    let text = r#" {"x":{"state":[1]},"state":[ {"a": "]}\""} , [2,[3]],-1.5e+7 ],
        "flag" :true,"event":{"b":{}}, "y":"\u00e4", "chain":[ ] } "#;
    let expected = [
        ("state", r#"{"a": "]}\""}"#),
        ("state", "[2,[3]]"),
        ("state", "-1.5e+7"),
        ("flag", "true"),
        ("event", r#"{"b":{}}"#),
    ];
    let expected: Told = expected.map(|(of, json)| (of, json.to_owned())).to_vec();
    assert_eq!(bare(text), Ok(expected.clone()));
    assert_eq!(whole(&format!("[200,{text}]"), Form::Pair), Ok(expected));
}

#[test]
fn what_is_not_of_the_form_is_refused() {
    use StreamError as E;
    let rest = r#""chain":[]"#;
    for (text, why) in [
        ("", E::Truncated),
        ("{", E::Truncated),
        ("[]", E::Shape),
        ("1", E::Shape),
        ("{}", E::Missing("state")),
        (r#"{"state":[]}"#, E::Missing("chain")),
        (r#"{"state":{},"chain":[]}"#, E::Shape),
        (r#"{"state":null,"chain":[]}"#, E::Shape),
        (r#"{"state":[],"state":[],"#, E::Repeated("state")),
        (r#"{"flag":1,"flag":1,"#, E::Repeated("flag")),
        (r#"{"state":[1,2,3,4],"#, E::TooLong("state")),
        (r#"{"state":[1,],"#, E::Syntax),
        (r#"{"state":[1 2],"#, E::Syntax),
        (r#"{"state":[}"#, E::Syntax),
        (r#"{"state":[1}"#, E::Syntax),
        (r#"{"state":[01]"#, E::Syntax),
        (r#"{"state":[1.]"#, E::Syntax),
        (r#"{"state":[nul]"#, E::Syntax),
        (r#"{"x":"\x""#, E::Syntax),
        (r#"{"x":"\u12g""#, E::Syntax),
        ("{\"x\":\"\n\"", E::Syntax),
        (r#"{,"#, E::Syntax),
        (r#"{"x"}"#, E::Syntax),
        (r#"{1:2}"#, E::Syntax),
        (r#"{"state":[],"chain":[]"#, E::Truncated),
        (r#"{"state":["#, E::Truncated),
    ] {
        assert_eq!(bare(text), Err(why), "{text}");
    }
    let behind = format!(r#"{{"state":[],{rest}}}x"#);
    assert_eq!(bare(&behind), Err(E::Syntax));
    let twice = format!(r#"{{"state":[],{rest}}}{{}}"#);
    assert_eq!(bare(&twice), Err(E::Syntax));
    for pair in ["{}", "[{}", r#"["x""#, "[200,200", "[200,[", "[-1"] {
        let refused = whole(pair, Form::Pair);
        assert_eq!(refused, Err(E::Shape), "{pair}");
    }
    let more = format!(r#"[200,{{"state":[],{rest}}},1]"#);
    assert_eq!(whole(&more, Form::Pair), Err(E::Shape));
}

#[test]
fn nesting_and_sizes_have_bounds() {
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"x":{open}{close},"state":[],"chain":[]}}"#)
    };
    assert_eq!(bare(&nested(JSON_DEPTH_MAX - 1)), Ok(vec![]));
    assert_eq!(bare(&nested(JSON_DEPTH_MAX)), Err(StreamError::TooDeep));
    let endless = "[".repeat(1_000_000);
    assert_eq!(
        read(
            format!(r#"{{"x":{endless}"#).as_bytes(),
            Form::Bare,
            1 << 16
        ),
        Err(StreamError::TooDeep)
    );
    // A key or a value of any length that nobody asked for is not kept.
    let long = "k".repeat(1_000_000);
    let text = format!(r#"{{"{long}":"{long}","state":["{long}",1],"chain":[]}}"#);
    let mut reader = ObjectReader::new(WANTED, Form::Bare);
    let mut told = Vec::new();
    for part in text.as_bytes().chunks(1_000) {
        reader
            .push(part, |piece| told.push(piece.json))
            .expect("reads");
        assert!(reader.key.capacity() <= 2 * KEY_BYTES_MAX);
        let kept = reader.piece.as_ref().map_or(0, |piece| piece.json.len());
        assert!(kept <= WANTED.piece_bytes_max);
    }
    assert_eq!(reader.finish(), Ok(()));
    // What was too large counts, and is no JSON.
    assert_eq!(told, [&b""[..], b"1"]);
}

/// Values of all kinds, small ones.
fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e9..1e9_f64).prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,3}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// What serde_json reads is read alike, and what it refuses is refused.
    #[test]
    fn it_reads_what_serde_json_reads(
        state in prop::collection::vec(values(), 0..=3),
        other in values(),
        part in 1_usize..20,
        change in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let whole = json!({ "other": other, "state": state, "chain": [], "flag": other });
        let mut text = whole.to_string().into_bytes();
        if let Some((at, byte)) = change {
            let at = at.index(text.len());
            text[at] = byte;
        }
        let mut reader = ObjectReader::new(
            Wanted { piece_bytes_max: 1 << 20, ..WANTED },
            Form::Bare,
        );
        let mut told: Vec<(&str, Bytes)> = Vec::new();
        let pushed: Result<(), StreamError> = text.chunks(part).try_for_each(|part| {
            reader.push(part, |piece| told.push((piece.of, piece.json)))
        });
        let read = pushed.and_then(|()| reader.finish());
        let known: Result<Value, _> = serde_json::from_slice(&text);
        match (read, known) {
            (Ok(()), Ok(known)) => {
                let of = |name: &str| -> Vec<Value> {
                    let named = told.iter().filter(|(of, _)| *of == name);
                    named
                        .map(|(_, json)| serde_json::from_slice(json).expect("JSON"))
                        .collect()
                };
                prop_assert_eq!(&Value::from(of("state")), &known["state"]);
                prop_assert_eq!(of("flag").pop(), known.get("flag").cloned());
            }
            // That strings are Unicode is for whoever reads a piece.
            (Ok(()), Err(_)) => prop_assert!(
                std::str::from_utf8(&text).is_err() || has_lone_surrogate(&text)
                    || has_huge_number(&text)
            ),
            // A changed name, or one that is there twice now.
            (Err(why), Ok(_)) => prop_assert!(matches!(
                why,
                StreamError::Missing(_) | StreamError::Repeated(_) | StreamError::Shape
                    | StreamError::TooLong(_)
            ), "{why}"),
            (Err(_), Err(_)) => {}
        }
    }

    /// Nothing makes it panic, and where it is cut makes no difference.
    #[test]
    fn any_bytes_are_read_or_refused(
        text in prop::collection::vec(
            prop::sample::select(&b"{}[]\",:\\u0019.-+eE tfnrueals\"state\"\x00\xff"[..]),
            0..60,
        ),
        part in 1_usize..9,
    ) {
        let whole = read_lossy(&text, usize::MAX);
        prop_assert_eq!(read_lossy(&text, part), whole);
    }
}

fn read_lossy(text: &[u8], part: usize) -> Result<Vec<Piece>, StreamError> {
    let mut reader = ObjectReader::new(WANTED, Form::Bare);
    let mut told = Vec::new();
    for part in text.chunks(part) {
        reader.push(part, |piece| told.push(piece))?;
    }
    reader.finish().map(|()| told)
}

fn has_lone_surrogate(text: &[u8]) -> bool {
    String::from_utf8_lossy(text)
        .to_lowercase()
        .contains("\\ud")
}

/// `1e999` is JSON, but no number that serde_json takes.
fn has_huge_number(text: &[u8]) -> bool {
    text.iter().any(|byte| matches!(byte, b'e' | b'E'))
}
