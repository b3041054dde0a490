use proptest::prelude::*;

use super::*;
use crate::error::BodyError;

fn text_of(value: &Value, keys: IntegerKeys) -> String {
    String::from_utf8(to_bytes(value, keys).to_vec()).unwrap()
}

/// Traps 18 and 21: integer keys bare or quoted, single quotes, bare names, trailing bytes.
#[test]
fn trap_21_the_dialect_of_fastjson() {
    let forms: [&[u8]; 4] = [
        br#"{"offsetTable":{"0":5,"1":6}}"#,
        br"{offsetTable:{0:5,1:6}}",
        br"{'offsetTable':{0:5L,'1':6,},} trailing",
        b"\n{ \"offsetTable\" : { 0 : '5' , 1 : 6.0 } }\n\0\0",
    ];
    for form in forms {
        let value = parse(form).unwrap();
        let table = value.get("offsetTable").unwrap();
        assert_eq!(table.get("0").and_then(Value::as_i64), Some(5), "{form:?}");
        assert_eq!(table.get("1").and_then(Value::as_i64), Some(6), "{form:?}");
    }
}

/// Traps 21 and 22: whole objects as keys, read and written raw.
#[test]
fn trap_22_objects_as_keys() {
    let bytes = br#"{"offsetTable":{{"brokerName":"b0","queueId":0,"topic":"T"}:5}}"#;
    let value = parse(bytes).unwrap();
    let (key, offset) = &value.get("offsetTable").unwrap().entries()[0];
    assert_eq!(
        (key.text("topic").as_deref(), offset.as_i64()),
        (Some("T"), Some(5))
    );
    for keys in [IntegerKeys::Quoted, IntegerKeys::Bare] {
        assert_eq!(text_of(&value, keys).as_bytes(), bytes);
    }
}

/// Traps 17 to 19: both spellings of integer keys, no whitespace.
#[test]
fn trap_17_19_integer_keys() {
    let value = Value::object([
        ("a", Value::map([(0_i64, "x:1"), (-1, "y")])),
        ("b", Value::Null),
    ]);
    assert_eq!(
        text_of(&value, IntegerKeys::Quoted),
        r#"{"a":{"0":"x:1","-1":"y"}}"#
    );
    assert_eq!(
        text_of(&value, IntegerKeys::Bare),
        r#"{"a":{0:"x:1",-1:"y"}}"#
    );
}

/// Traps 96 to 99: numbers as texts and texts as numbers.
#[test]
fn trap_96_99_conversions() {
    let value = parse(br#"{"a":"12","b":12,"c":12.0,"d":true,"e":"TRUE","f":1,"g":1.5,"h":null}"#);
    let value = value.unwrap();
    for name in ["a", "b", "c"] {
        assert_eq!(value.int_or(name, 0), 12, "{name}");
    }
    for name in ["d", "e", "f"] {
        assert!(value.bool_or(name, false), "{name}");
    }
    assert_eq!(value.get("g").unwrap().as_i64(), None);
    assert_eq!(value.get("g").unwrap().as_f64(), Some(1.5));
    assert_eq!(value.get("h"), None, "trap 25: null is absent");
    assert_eq!(value.text("b").as_deref(), Some("12"));
    assert_eq!(
        text_of(&Value::list([0.0, 1.5]), IntegerKeys::Quoted),
        "[0.0,1.5]"
    );
}

#[test]
fn texts() {
    let value = parse(r#"["\"\\\/\n\u4e2d\ud83d\ude00é", 'it"s', "\ud800"]"#.as_bytes()).unwrap();
    let texts: Vec<_> = value.elements().iter().filter_map(Value::as_text).collect();
    assert_eq!(texts, ["\"\\/\n\u{4e2d}\u{1F600}é", "it\"s", "\u{FFFD}"]);
}

#[test]
fn bounds() {
    let deep = "[".repeat(DEPTH_MAX + 1);
    assert_eq!(parse(deep.as_bytes()), Err(BodyError::TooDeep(DEPTH_MAX)));
    let keys = "{".repeat(100_000);
    assert_eq!(parse(keys.as_bytes()), Err(BodyError::TooDeep(DEPTH_MAX)));
    let many = format!("[{}", "0,".repeat(VALUES_MAX));
    assert_eq!(
        parse(many.as_bytes()),
        Err(BodyError::TooManyValues(VALUES_MAX))
    );
    for bad in [
        "",
        "{",
        "{a",
        "{\"a\":",
        "[1",
        "\"abc",
        "nope",
        "{1:}",
        "\"\\u12\"",
        "\"\\",
    ] {
        assert!(parse(bad.as_bytes()).is_err(), "{bad}");
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<String>().prop_map(Value::Text),
        Just(Value::Null),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::List),
            prop::collection::vec((any::<String>(), inner), 0..6).prop_map(Value::map),
        ]
    })
}

proptest! {
    #[test]
    fn values_are_read_as_written(value in any_value()) {
        let bytes = to_bytes(&value, IntegerKeys::Quoted);
        prop_assert_eq!(parse(&bytes).unwrap(), value);
        prop_assert!(serde_json::from_slice::<serde_json::Value>(&bytes).is_ok());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn almost_json_never_panics(
        text in r#"([{}\[\]:,'"\\]|\\u[0-9d]{0,4}|null|-?[0-9.]{1,3}|a){0,40}"#,
    ) {
        let _ = parse(text.as_bytes());
    }
}
