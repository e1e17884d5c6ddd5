//! What is read, refused and written back, to the byte.

use super::*;

fn canonical(text: &str) -> String {
    let object = parse_object_with(text.as_bytes(), Numbers::Converted).expect(text);
    String::from_utf8(to_bytes(&object)).expect("is UTF-8")
}

fn refused(text: &str) -> JsonErrorKind {
    parse_value(text.as_bytes()).expect_err(text).kind
}

/// Appendices, *Canonical JSON*, *Examples*.
#[test]
fn the_examples_of_the_specification() {
    for (given, expected) in [
        ("{}", "{}"),
        (
            "{\n  \"one\": 1,\n \"two\": \"Two\"\n}",
            r#"{"one":1,"two":"Two"}"#,
        ),
        (r#"{ "b": "2", "a": "1" }"#, r#"{"a":"1","b":"2"}"#),
        (r#"{"b":"2","a":"1"}"#, r#"{"a":"1","b":"2"}"#),
        (
            r#"{"auth": {"success": true, "mxid": "@john.doe:example.com", "profile": {"display_name":
                "John Doe", "three_pids": [{"medium": "email", "address": "john.doe@example.org"},
                {"medium": "msisdn", "address": "123456789"}]}}}"#,
            r#"{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}"#,
        ),
        (r#"{"a": "日本語"}"#, r#"{"a":"日本語"}"#),
        (r#"{"本": 2, "日": 1}"#, r#"{"日":1,"本":2}"#),
        (r#"{"a": "\u65E5"}"#, r#"{"a":"日"}"#),
        (r#"{"a": null}"#, r#"{"a":null}"#),
        (r#"{"a": -0, "b": 1e10}"#, r#"{"a":0,"b":10000000000}"#),
    ] {
        assert_eq!(canonical(given), expected);
    }
}

#[test]
fn strings_are_escaped_as_the_grammar_says() {
    let given = r#"{"a":"\u0000\u0007\b\t\n\u000b\f\r\u001f\"\\\/\u007f\ud83d\ude00"}"#;
    let expected = "{\"a\":\"\\u0000\\u0007\\b\\t\\n\\u000b\\f\\r\\u001f\\\"\\\\/\u{7f}😀\"}";
    assert_eq!(canonical(given), expected);
    assert_eq!(canonical(expected), expected);
}

#[test]
fn numbers_must_be_integers_in_range() {
    assert_eq!(refused("1.0"), JsonErrorKind::NotAnInteger);
    assert_eq!(refused("1e3"), JsonErrorKind::NotAnInteger);
    assert_eq!(refused("-0"), JsonErrorKind::NotAnInteger);
    for text in [
        "9007199254740992",
        "-9007199254740992",
        "99999999999999999999",
        "-9223372036854775808",
    ] {
        assert_eq!(refused(text), JsonErrorKind::OutOfRange, "{text}");
    }
    for text in ["9007199254740991", "-9007199254740991", "0", "-1", "10"] {
        let value = parse_value(text.as_bytes()).expect(text);
        let mut out = Vec::new();
        write_value(&mut out, &value);
        assert_eq!(out, text.as_bytes());
    }
    for text in [
        "01", "-", "+1", "1.", ".5", "1e", "NaN", "Infinity", "0x10", "--1",
    ] {
        assert_eq!(refused(text), JsonErrorKind::Syntax, "{text}");
    }
    for text in ["1.5", "1e-3"] {
        let kind = parse_value_with(text.as_bytes(), Numbers::Converted)
            .expect_err(text)
            .kind;
        assert_eq!(kind, JsonErrorKind::NotAnInteger);
    }
    for text in ["1e400", "1e16", "-1e300"] {
        let kind = parse_value_with(text.as_bytes(), Numbers::Converted)
            .expect_err(text)
            .kind;
        assert!(
            matches!(
                kind,
                JsonErrorKind::OutOfRange | JsonErrorKind::NotAnInteger
            ),
            "{text}: {kind:?}"
        );
    }
}

#[test]
fn old_versions_keep_every_number() {
    let kept = |text: &str| {
        let value = parse_value_with(text.as_bytes(), Numbers::Kept).expect(text);
        let mut out = Vec::new();
        write_value(&mut out, &value);
        let text = String::from_utf8(out).expect("is UTF-8");
        let again = parse_value_with(text.as_bytes(), Numbers::Kept).expect("parses");
        assert_eq!(again, value);
        text
    };
    for (given, expected) in [
        ("1", "1"),
        ("-0", "0"),
        ("9007199254740992", "9007199254740992"),
        (
            "123456789012345678901234567890",
            "123456789012345678901234567890",
        ),
        ("-9223372036854775809", "-9223372036854775809"),
        ("1.0", "1.0"),
        ("5E1", "50.0"),
        (r#"{"b":[1e300],"a":0.5}"#, r#"{"a":0.5,"b":[1e+300]}"#),
    ] {
        assert_eq!(kept(given), expected);
    }
    for infinite in ["1e400", "-1e999"] {
        let error = parse_value_with(infinite.as_bytes(), Numbers::Kept);
        assert_eq!(error.expect_err("infinite").kind, JsonErrorKind::OutOfRange);
    }
    let error = parse_value_with(b"NaN", Numbers::Kept);
    assert_eq!(error.expect_err("no JSON").kind, JsonErrorKind::Syntax);
}

#[test]
fn what_two_parsers_could_read_differently_is_refused() {
    assert_eq!(refused(r#"{"a":1,"a":1}"#), JsonErrorKind::DuplicateKey);
    assert_eq!(
        refused(r#"{"a":1,"\u0061":2}"#),
        JsonErrorKind::DuplicateKey
    );
    for text in [
        r#""\ud800""#,
        r#""\udc00""#,
        r#""\ud800x""#,
        r#""\ud800\u0041""#,
    ] {
        assert_eq!(refused(text), JsonErrorKind::LoneSurrogate, "{text}");
    }
    assert_eq!(
        parse_value(b"\"\xff\"").expect_err("bad").kind,
        JsonErrorKind::NotUtf8
    );
    assert_eq!(
        parse_value(b"\"\xed\xa0\x80\"").expect_err("bad").kind,
        JsonErrorKind::NotUtf8
    );
    for text in [
        "",
        " ",
        "{",
        "[1,]",
        "{\"a\":1,}",
        "{\"a\"}",
        "[1 2]",
        "tru",
        "\"\n\"",
        "\"a",
        "{} {}",
        "\u{feff}{}",
        "{a:1}",
        "'a'",
        "[1]]",
        "\"\\x\"",
    ] {
        assert_eq!(refused(text), JsonErrorKind::Syntax, "{text}");
    }
    assert_eq!(
        parse_object(b"[]").expect_err("no object").kind,
        JsonErrorKind::NotAnObject
    );
}

#[test]
fn nesting_and_width_are_bounded() {
    let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(parse_value(nested(JSON_DEPTH_MAX).as_bytes()).is_ok());
    assert_eq!(refused(&nested(JSON_DEPTH_MAX + 1)), JsonErrorKind::TooDeep);
    assert_eq!(refused(&"[".repeat(1_000_000)), JsonErrorKind::TooDeep);
    assert_eq!(
        refused(&"{\"a\":".repeat(1_000_000)),
        JsonErrorKind::TooDeep
    );
    let wide = |keys: usize| {
        let members: Vec<String> = (0..keys).map(|key| format!("\"{key}\":0")).collect();
        format!("{{{}}}", members.join(","))
    };
    assert!(parse_value(wide(JSON_OBJECT_KEYS_MAX).as_bytes()).is_ok());
    assert_eq!(
        refused(&wide(JSON_OBJECT_KEYS_MAX + 1)),
        JsonErrorKind::TooManyKeys
    );
}

#[test]
fn bytes_are_those_that_serde_json_would_write() {
    let text = r#"{"z":[1,-2,{"b":[],"a":{}}],"é":"\u0001\"","a":true,"n":null}"#;
    let object = parse_object(text.as_bytes()).expect("parses");
    assert_eq!(
        to_bytes(&object),
        serde_json::to_vec(&object).expect("serialises")
    );
}
