use proptest::prelude::*;

use super::*;
use crate::frame::HeaderEncoding;

fn parse(header: &[u8]) -> Result<HeaderView<'_>, HeaderError> {
    HeaderView::parse(HeaderEncoding::Binary, header)
}

#[test]
fn the_layout() {
    let parts = HeaderParts {
        code: 10,
        language: Language::Go,
        version: 317,
        opaque: -2,
        flag: 2,
        remark: Some("hi"),
    };
    let mut out = BytesMut::new();
    write(
        &mut out,
        &parts,
        Some([("k", ExtValue::Int(7))].into_iter()),
    );
    let wanted = [
        &[0, 10, 9, 1, 61][..],
        &[255, 255, 255, 254],
        &[0, 0, 0, 2],
        &[0, 0, 0, 2, b'h', b'i'],
        &[0, 0, 0, 8, 0, 1, b'k', 0, 0, 0, 1, b'7'],
    ];
    assert_eq!(&out[..], wanted.concat());
    let view = parse(&out).unwrap();
    assert_eq!(
        (view.code, view.version, view.opaque, view.flag),
        (10, 317, -2, 2)
    );
    assert_eq!(
        (view.language, view.remark.as_deref()),
        (Language::Go, Some("hi"))
    );
    assert_eq!(view.ext("k"), Some("7"));
    assert!(view.is_oneway());
}

/// Trap 9: codes of the pop family are cut to 16 bits and mapped back.
#[test]
fn trap_9_codes_of_the_pop_family() {
    let codes = [
        200_050, 200_051, 200_052, 200_053, 200_054, 200_055, 200_151, 310, 904,
    ];
    for code in codes {
        let (language, version, opaque, flag) = (Language::Java, 513, 1, 0);
        let parts = HeaderParts {
            code,
            language,
            version,
            opaque,
            flag,
            remark: None,
        };
        let mut out = BytesMut::new();
        write(
            &mut out,
            &parts,
            None::<std::iter::Empty<(&str, ExtValue<'_>)>>,
        );
        assert_eq!(parse(&out).unwrap().code, code);
    }
}

#[test]
fn empty_keys_and_values_are_no_fields() {
    let parts = HeaderParts {
        code: 1,
        language: Language::Java,
        version: 1,
        opaque: 1,
        flag: 0,
        remark: Some(""),
    };
    let ext = [
        ("", ExtValue::Str("v")),
        ("k", ExtValue::Str("")),
        ("a", ExtValue::Str("b")),
    ];
    let mut out = BytesMut::new();
    write(&mut out, &parts, Some(ext.into_iter()));
    let view = parse(&out).unwrap();
    assert_eq!(
        (view.ext.len(), view.ext("a"), view.remark.as_deref()),
        (1, Some("b"), None)
    );
}

#[test]
fn lengths_that_lie_are_refused() {
    let head = [0, 10, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    for tail in [
        &[0xFF, 0xFF, 0xFF, 0xFF][..],
        &[0, 0, 0, 1],
        &[0, 0, 0, 0, 0x7F, 0xFF, 0xFF, 0xFF],
        &[0, 0, 0, 0, 0, 0, 0, 2, 0, 9],
        &[0, 0, 0, 0, 0, 0, 0, 7, 0, 1, b'k', 0xFF, 0xFF, 0xFF, 0xFF],
    ] {
        assert!(parse(&[&head[..], tail].concat()).is_err(), "{tail:?}");
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        code in 0_u16..3000,
        opaque in any::<i32>(),
        remark in "[a-zé中]{0,20}",
        ext in prop::collection::vec(("[a-z中]{1,9}", ".{1,40}"), 0..24),
    ) {
        let parts = HeaderParts {
            code: i32::from(code),
            language: Language::Java,
            version: 513,
            opaque,
            flag: 1,
            remark: Some(&remark),
        };
        let mut out = BytesMut::new();
        let fields = ext.iter().map(|(k, v)| (k.as_str(), ExtValue::Str(v)));
        write(&mut out, &parts, Some(fields));
        let view = parse(&out).unwrap();
        prop_assert_eq!((view.code, view.opaque), (i32::from(code), opaque));
        prop_assert_eq!(view.remark.as_deref().unwrap_or_default(), remark.as_str());
        prop_assert_eq!(view.ext.len(), ext.len());
        for ((k, v), (key, value)) in view.ext.iter().zip(&ext) {
            prop_assert_eq!((k, v), (key.as_str(), value.as_str()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let _ = parse(&bytes);
    }
}

fn ext_of(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut ext = Vec::new();
    for (name, value) in fields {
        ext.put_u16(u16::try_from(name.len()).unwrap());
        ext.put_slice(name);
        ext.put_u32(u32::try_from(value.len()).unwrap());
        ext.put_slice(value);
    }
    let mut header = vec![0, 10, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    header.put_u32(u32::try_from(ext.len()).unwrap());
    header.put_slice(&ext);
    header
}

/// Texts are checked many at a time; what comes out is what each alone would give.
#[test]
fn texts_are_those_of_each_field_alone() {
    let long = "ä".repeat(700);
    let values: [&[u8]; 9] = [
        b"1",
        // Its length is no UTF-8, nor is the next one's.
        &[b'p'; 200],
        long.as_bytes(),
        b"bad \xff",
        // Cut inside a letter: with the length behind it, it would be one.
        b"cut \xc3",
        b"\x80",
        "gr\u{fc}n".as_bytes(),
        &[b'q'; 0x80],
        b"last",
    ];
    let names: Vec<Vec<u8>> = (0..values.len())
        .map(|number| vec![b'n'; 1 + number * 40])
        .collect();
    let fields: Vec<(&[u8], &[u8])> = names.iter().map(Vec::as_slice).zip(values).collect();
    let header = ext_of(&fields);
    let view = parse(&header).unwrap();
    assert_eq!(view.ext.len(), fields.len());
    for ((name, value), (wanted_name, wanted)) in view.ext.iter().zip(&fields) {
        assert_eq!(name, &String::from_utf8_lossy(wanted_name));
        assert_eq!(value, &String::from_utf8_lossy(wanted));
    }
    // A name of 0xa9nn bytes completes the letter before it.
    let name = vec![b'n'; 0xa900];
    let header = ext_of(&[(b"a", b"cut \xc3"), (&name, b"v")]);
    let view = parse(&header).unwrap();
    assert_eq!(view.ext("a"), Some("cut \u{fffd}"));
}
