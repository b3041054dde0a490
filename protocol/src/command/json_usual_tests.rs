//! The short road against the whole grammar.

use proptest::prelude::*;

use super::super::json::parse_any;
use super::*;
use crate::frame::HeaderEncoding;

fn usual(header: &[u8]) -> Option<HeaderView<'_>> {
    let mut view = HeaderView::empty(HeaderEncoding::Json);
    read(header, &mut view).then_some(view)
}

const SEND: &str = concat!(
    r#"{"code":310,"extFields":{"a":"pg","b":"T","#,
    r#""i":"KEYS\u0001k1 k2\u0002WAIT\u0001true\u0002","g":"1732300000000","queueId":"3","e":""},"#,
    r#""flag":0,"language":"JAVA","opaque":-12,"remark":"r","#,
    r#""serializeTypeCurrentRPC":"JSON","version":513}"#
);

#[test]
fn a_send_takes_the_short_road() {
    let view = usual(SEND.as_bytes()).expect("nothing unusual in it");
    assert_eq!((view.code, view.opaque, view.version), (310, -12, 513));
    assert_eq!(view.ext("i"), Some("KEYS\u{1}k1 k2\u{2}WAIT\u{1}true\u{2}"));
    assert_eq!(view.ext("e"), Some(""));
    assert_eq!(parse_any(SEND.as_bytes()), Ok(view));
}

#[test]
fn what_is_unusual_is_left_to_the_grammar() {
    for header in [
        "",
        "{",
        "{}",
        r#"{"code":1"#,
        r#"{"code":"1"}"#,
        r#"{"code":null}"#,
        r#"{"code":99999999999}"#,
        r#"{ "code":1}"#,
        r#"{"code":1,"extFields":{"a":1}}"#,
        r#"{"code":1,"extFields":{"a":null}}"#,
        r#"{"code":1,"extFields":{"a":{"b":"c"}}}"#,
        r#"{"code":1,"extFields":{"a":"\n"},"version":1}"#,
        r#"{"code":1,"extFields":{"a":"\\u0001"},"version":1}"#,
        r#"{"code":1,"other":"x"}"#,
        r#"{"code":1,"extFields":null}"#,
    ] {
        assert_eq!(usual(header.as_bytes()), None, "{header}");
    }
    let many = r"\u0001".repeat(200);
    let many = format!(r#"{{"code":1,"extFields":{{"i":"{many}"}}}}"#);
    assert_eq!(usual(many.as_bytes()), None);
}

proptest! {
    /// However densely they lie, and wherever the bytes end.
    #[test]
    fn marks_are_found(
        bytes in prop::collection::vec(prop::sample::select(br#""\\abc"#.to_vec()), 0..600),
    ) {
        let mut marks = Marks {
            places: [0; MARKS_MAX + NOTED],
            count: 0,
        };
        let is_mark = |at: &usize| matches!(bytes[*at], b'"' | b'\\');
        let wanted: Vec<usize> = (0..bytes.len()).filter(is_mark).collect();
        prop_assert_eq!(marks.find(&bytes), wanted.len() <= MARKS_MAX);
        if wanted.len() <= MARKS_MAX {
            let found = marks.places[..marks.count].iter().copied().map(usize::from);
            prop_assert!(found.eq(wanted));
        }
    }

    /// Bytes of a good header changed here and there: whatever the short road takes, it reads as
    /// the grammar does.
    #[test]
    fn it_reads_what_the_grammar_reads(
        changes in prop::collection::vec(
            (0..SEND.len(), prop::sample::select(br#"{}[]":,\u0012 ax-"#.to_vec())),
            0..4,
        ),
        cut in prop::option::of(0..SEND.len()),
    ) {
        let mut header = SEND.as_bytes().to_vec();
        for (at, byte) in changes {
            header[at] = byte;
        }
        header.truncate(cut.unwrap_or(header.len()));
        if let Some(view) = usual(&header) {
            prop_assert_eq!(parse_any(&header), Ok(view));
        }
    }
}
