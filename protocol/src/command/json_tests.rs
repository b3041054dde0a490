use proptest::prelude::*;

use super::*;
use crate::command::FLAG_REPLY;

fn parse(header: &[u8]) -> Result<HeaderView<'_>, HeaderError> {
    HeaderView::parse(HeaderEncoding::Json, header)
}

fn parsed(header: &[u8]) -> HeaderView<'_> {
    parse(header).unwrap()
}

const NO_EXT: Option<std::iter::Empty<(&str, ExtValue<'_>)>> = None;

fn written(parts: &HeaderParts<'_>, ext: Option<&[(&str, ExtValue<'_>)]>) -> String {
    let mut out = BytesMut::new();
    write(&mut out, parts, ext.map(|fields| fields.iter().copied()));
    String::from_utf8(out.to_vec()).unwrap()
}

/// Texts are broken into lines here; on the wire they have none.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect()
}

fn reply(code: i32, remark: Option<&str>) -> HeaderParts<'_> {
    let (language, version, opaque, flag) = (Language::Java, 513, -7, FLAG_REPLY);
    HeaderParts {
        code,
        language,
        version,
        opaque,
        flag,
        remark,
    }
}

#[test]
fn a_java_header() {
    let view = parsed(
        br#"{"code":310,"extFields":{"a":"pg","i":"k\u0001v\u0002"},"flag":0,"language":"JAVA",
            "opaque":-12,"serializeTypeCurrentRPC":"JSON","version":513}"#,
    );
    assert_eq!(
        (view.code, view.flag, view.opaque, view.version),
        (310, 0, -12, 513)
    );
    assert_eq!(view.language, Language::Java);
    assert_eq!(view.ext("a"), Some("pg"));
    assert_eq!(view.ext("i"), Some("k\u{1}v\u{2}"));
    assert_eq!(view.remark, None);
    assert!(!view.is_reply() && !view.is_oneway());
}

/// Traps 96 and 101, and the C++ rows of the dialect table: numbers as ext values, empty signature
/// fields, a newline at the end.
#[test]
fn trap_96_101_the_cpp_client() {
    let header =
        b"{\"code\":11,\"language\":\"CPP\",\"version\":\"275\",\"opaque\":4294,\"flag\":0,\
        \"remark\":\"\",\"extFields\":{\"AccessKey\":\"\",\"Signature\":\"\",\"OnsChannel\":\"\",\
        \"queueId\":3,\"sysFlag\":6,\"consumerGroup\":\"g\",\"ok\":true,\"rate\":1.5}}\n";
    let view = parsed(header);
    assert_eq!(view.language, Language::Cpp);
    assert_eq!(view.version, 275, "a number as text");
    assert_eq!(view.ext("queueId"), Some("3"));
    assert_eq!(view.ext("ok"), Some("true"));
    assert_eq!(view.ext("rate"), Some("1.5"));
    assert_eq!(
        view.ext("Signature"),
        Some(""),
        "trap 103: present and empty"
    );
}

/// Trap 10: any language, by name or number.
#[test]
fn trap_10_languages() {
    let cases: [(&str, Language); 7] = [
        ("\"GO\"", Language::Go),
        ("\"NODE_JS\"", Language::NodeJs),
        ("\"KOTLIN\"", Language::Other),
        ("9", Language::Go),
        ("99", Language::Other),
        ("null", Language::Other),
        ("{\"a\":[1]}", Language::Other),
    ];
    for (sent, language) in cases {
        let header = format!("{{\"language\":{sent},\"code\":1}}");
        assert_eq!(parsed(header.as_bytes()).language, language, "{sent}");
    }
}

/// Traps 11 and 25: null is absent.
#[test]
fn trap_11_nulls() {
    let view = parsed(br#"{"code":1,"remark":null,"opaque":null,"extFields":{"a":null,"b":"x"}}"#);
    assert_eq!((view.remark.as_deref(), view.opaque), (None, 0));
    assert_eq!((view.ext("a"), view.ext("b")), (None, Some("x")));
    assert!(parsed(br#"{"code":1,"extFields":null}"#).ext.is_empty());
}

/// Trap 6: opaque is signed.
#[test]
fn trap_6_negative_opaque() {
    assert_eq!(
        parsed(br#"{"opaque":-2147483648,"code":1}"#).opaque,
        i32::MIN
    );
}

#[test]
fn order_repeats_and_junk_do_not_matter() {
    let view = parsed(
        br#" { "junk" : {"deep":[{"x":"}]"},[],null]} , "version":1, "code" : 5, "code":"6",
             "extFields":{"k":"1","k":"2","nested":{"a":[1,2]}, }, }trailing"#,
    );
    assert_eq!((view.code, view.version), (6, 1));
    assert_eq!(view.ext("k"), Some("2"));
    assert_eq!(view.ext("nested"), Some(r#"{"a":[1,2]}"#));
}

#[test]
fn escapes() {
    let view = parsed(br#"{"code":1,"remark":"\"\\\/\b\f\n\r\t\u4e2d\ud83d\ude00\ud83dx\udc00"}"#);
    let wanted = "\"\\/\u{8}\u{c}\n\r\t\u{4e2d}\u{1F600}\u{FFFD}x\u{FFFD}";
    assert_eq!(view.remark.as_deref(), Some(wanted));
    assert!(matches!(
        parsed(br#"{"code":1,"remark":"plain"}"#).remark,
        Some(Cow::Borrowed(_))
    ));
}

#[test]
fn bytes_that_are_not_utf8_are_replaced() {
    let view = parsed(b"{\"code\":1,\"extFields\":{\"a\":\"\xC4\xE3\",\"b\":\"ok\"}}");
    assert_eq!(view.ext("a"), Some("\u{FFFD}\u{FFFD}"));
    assert_eq!(view.ext("b"), Some("ok"));
}

#[test]
fn what_is_no_header_is_refused() {
    let deep = format!("{{\"x\":{}", "[".repeat(DEPTH_MAX + 1));
    let cases: [&[u8]; 12] = [
        b"",
        b"[]",
        b"{",
        b"{}",
        b"{\"code\"",
        b"{\"code\":",
        b"{\"code\":\"x\"}",
        b"{\"code\":99999999999}",
        b"{\"code\":1,\"remark\":\"abc",
        b"{\"code\":1,\"remark\":\"\\u12\"}",
        b"{\"code\":1 \"flag\":2}",
        deep.as_bytes(),
    ];
    for header in cases {
        assert!(
            parse(header).is_err(),
            "{}",
            String::from_utf8_lossy(header)
        );
    }
    assert_eq!(parse(b"{\"flag\":1}"), Err(HeaderError::NoCode));
    assert_eq!(parse(deep.as_bytes()), Err(HeaderError::TooDeep(DEPTH_MAX)));
    let many = "\"k\":1,".repeat(EXT_FIELDS_MAX + 1);
    let header = format!("{{\"code\":1,\"extFields\":{{{many}}}}}");
    assert_eq!(
        parse(header.as_bytes()),
        Err(HeaderError::TooManyFields(EXT_FIELDS_MAX))
    );
}

/// Traps 1 and 2: text values only, and an empty object when there are no fields.
#[test]
fn trap_1_2_written_as_java_writes_it() {
    let fields = [("queueId", ExtValue::Int(3)), ("TRACE_ON", true.into())];
    assert_eq!(
        written(&reply(0, None), Some(&fields)),
        one_line(
            r#"
            {"code":0,"extFields":{"queueId":"3","TRACE_ON":"true"},"flag":1,
            "language":"JAVA","opaque":-7,"version":513}"#
        ),
    );
    assert_eq!(
        written(&reply(0, None), Some(&[])),
        r#"{"code":0,"extFields":{},"flag":1,"language":"JAVA","opaque":-7,"version":513}"#,
    );
    let mut out = BytesMut::new();
    write(&mut out, &reply(17, Some("a\"b\\c\n\u{1}")), NO_EXT);
    let wanted = r#"
        {"code":17,"flag":1,"language":"JAVA","opaque":-7,"remark":"a\"b\\c\n\u0001",
        "version":513}"#;
    assert_eq!(&out[..], one_line(wanted).as_bytes());
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        code in any::<i32>(),
        opaque in any::<i32>(),
        flag in 0_i32..4,
        version in any::<u16>(),
        language in 0_u8..14,
        remark in prop::option::of(any::<String>()),
        ext in prop::option::of(prop::collection::vec((any::<String>(), any::<String>()), 0..24)),
    ) {
        let parts = HeaderParts {
            code,
            opaque,
            flag,
            version: i32::from(version),
            language: Language::from_number(language),
            remark: remark.as_deref(),
        };
        let mut out = BytesMut::new();
        let fields = ext.as_ref().map(|e| e.iter().map(|(k, v)| (k.as_str(), ExtValue::Str(v))));
        write(&mut out, &parts, fields);
        let strict: serde_json::Value = serde_json::from_slice(&out).unwrap();
        prop_assert_eq!(strict["code"].as_i64(), Some(i64::from(code)));
        let view = parse(&out).unwrap();
        prop_assert_eq!((view.code, view.opaque, view.flag), (code, opaque, flag));
        prop_assert_eq!((view.version, view.language), (i32::from(version), parts.language));
        prop_assert_eq!(view.remark.as_deref(), remark.as_deref());
        let ext = ext.unwrap_or_default();
        prop_assert_eq!(view.ext.len(), ext.len());
        for ((k, v), (key, value)) in view.ext.iter().zip(&ext) {
            prop_assert_eq!((k, v), (key.as_str(), value.as_str()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
    }

    /// Near misses: bytes out of the alphabet of headers.
    #[test]
    fn almost_headers_never_panic(
        text in r#"\{("code"|"extFields"|"remark"|[{}\[\]",:\\0-9unltrue ]){0,60}"#,
    ) {
        let _ = parse(text.as_bytes());
    }
}
