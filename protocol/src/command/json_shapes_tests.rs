//! Headers read by their shape against the whole grammar.

use proptest::prelude::*;

use super::super::json::parse_any;
use super::*;
use crate::frame::HeaderEncoding;

const SEND: &str = concat!(
    r#"{"code":310,"extFields":{"a":"pg","b":"Topic","#,
    r#""i":"KEYS\u0001k1 k2\u0002WAIT\u0001true\u0002","g":"1732300000000","queueId":"3","e":""},"#,
    r#""flag":0,"language":"JAVA","opaque":1234,"#,
    r#""serializeTypeCurrentRPC":"JSON","version":513}"#
);

fn shape_of(header: &str) -> Shape {
    let view = parse_any(header.as_bytes()).expect("a good header");
    Shape::of(header, &view).expect("nothing unusual in it")
}

/// By the kept shape, if it is like it.
fn read_by<'a>(shape: &Shape, header: &'a str) -> Option<HeaderView<'a>> {
    let mut view = HeaderView::empty(HeaderEncoding::Json);
    (shape.admits(header.as_bytes()) && shape.read(header, &mut view).is_some()).then_some(view)
}

#[test]
fn the_next_send_of_a_client_is_read_by_the_last_ones_shape() {
    let next = SEND
        .replace("k1 k2", "k3 \u{e9}")
        .replace("Topic", "T{:,}")
        .replace("1234", "9007");
    let view = read_by(&shape_of(SEND), &next).expect("the same shape");
    assert_eq!(view.opaque, 9007);
    assert_eq!(view.ext("b"), Some("T{:,}"));
    assert_eq!(
        view.ext("i"),
        Some("KEYS\u{1}k3 \u{e9}\u{2}WAIT\u{1}true\u{2}")
    );
    assert_eq!(parse_any(next.as_bytes()), Ok(view));
}

#[test]
fn another_shape_is_not_read() {
    let shape = shape_of(SEND);
    for (part, other) in [
        ("310", "311"),
        ("\"a\"", "\"c\""),
        ("k1 k2", "k1\"k2"),
        ("k1 k2", "k1\\k2"),
        ("0001k1", "0002k1"),
        ("1234", "12-4"),
        ("1234", "12345"),
        ("JAVA", "RUBY"),
        ("513}", "513]"),
    ] {
        let header = SEND.replacen(part, other, 1);
        assert_ne!(header, SEND);
        assert_eq!(read_by(&shape, &header), None, "{header}");
    }
}

#[test]
fn what_is_unusual_is_not_kept() {
    for header in [
        r#"{"code":1,"version":1}"#,
        r#"{"code":1,"opaque":-3}"#,
        r#"{"code":1,"opaque":3,"opaque":4}"#,
        r#"{"code":1,"opaque":3,"remark":"r"}"#,
    ] {
        let view = parse_any(header.as_bytes()).unwrap();
        assert!(Shape::of(header, &view).is_none(), "{header}");
    }
}

#[test]
fn a_shape_is_kept_after_some_headers_of_its_length() {
    let read_here = |header: &'static str| {
        let mut view = HeaderView::empty(HeaderEncoding::Json);
        read(header, &mut view)
    };
    let view = parse_any(SEND.as_bytes()).unwrap();
    for _ in 0..MISSES_MAX {
        assert!(!read_here(SEND));
        note(SEND, &view);
    }
    assert!(read_here(SEND));
    assert!(!read_here(&SEND[1..]));
}

proptest! {
    /// Bytes of a good header changed here and there: what the shape takes, it reads as the
    /// grammar does.
    #[test]
    fn it_reads_what_the_grammar_reads(
        changes in prop::collection::vec(
            (0..SEND.len(), prop::sample::select(br#"{}[]":,\u0012 ax-"#.to_vec())),
            0..4,
        ),
    ) {
        let mut header = SEND.as_bytes().to_vec();
        for (at, byte) in changes {
            header[at] = byte;
        }
        let header = String::from_utf8(header).unwrap();
        if let Some(view) = read_by(&shape_of(SEND), &header) {
            prop_assert_eq!(parse_any(header.as_bytes()), Ok(view));
        }
    }
}
