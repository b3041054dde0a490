use proptest::prelude::*;

use super::*;

#[test]
fn one_element() {
    let element = BatchElement {
        flag: 9,
        body: b"hi",
        properties: "k\u{1}v\u{2}",
    };
    let mut body = Vec::new();
    encode_batch_element(&element, &mut body).unwrap();
    let wanted = [
        &[0, 0, 0, 28, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9][..],
        &[0, 0, 0, 2, b'h', b'i', 0, 4, b'k', 1, b'v', 2],
    ];
    assert_eq!(body, wanted.concat());
    let read: Vec<_> = BatchIter::new(&body).unwrap().collect();
    assert_eq!(read, [Ok(element)]);
}

#[test]
fn malformed_batches_are_refused() {
    assert_eq!(BatchIter::new(&[]).err(), Some(BatchError::Empty));
    let element = BatchElement {
        flag: 0,
        body: b"hi",
        properties: "k\u{1}v\u{2}",
    };
    let mut good = Vec::new();
    encode_batch_element(&element, &mut good).unwrap();
    encode_batch_element(&element, &mut good).unwrap();
    for (at, value) in [
        (3, 0),
        (3, 21),
        (3, 29),
        (0, 0xFF),
        (19, 3),
        (16, 0xFF),
        (23, 3),
    ] {
        let mut bad = good.clone();
        bad[at] = value;
        assert!(
            BatchIter::new(&bad).unwrap().any(|e| e.is_err()),
            "byte {at} = {value}"
        );
    }
    good.pop();
    let last = BatchIter::new(&good).unwrap().last().unwrap();
    assert_eq!(
        last,
        Err(BatchError::Malformed {
            index: 1,
            part: "size"
        })
    );
}

#[test]
fn properties_beyond_their_length_field_are_refused() {
    let properties = "p".repeat(PROPERTIES_BYTES_MAX + 1);
    let element = BatchElement {
        flag: 0,
        body: b"",
        properties: &properties,
    };
    let mut out = Vec::new();
    assert!(encode_batch_element(&element, &mut out).is_err());
    assert!(out.is_empty());
}

proptest! {
    #[test]
    fn batches_are_split_as_they_were_joined(
        elements in prop::collection::vec(
            (any::<i32>(), prop::collection::vec(any::<u8>(), 0..50), ".{0,30}"), 1..20,
        ),
    ) {
        let mut body = Vec::new();
        for (flag, bytes, properties) in &elements {
            let element = BatchElement { flag: *flag, body: bytes, properties };
            encode_batch_element(&element, &mut body).unwrap();
        }
        let read: Result<Vec<_>, _> = BatchIter::new(&body).unwrap().collect();
        let read = read.unwrap();
        prop_assert_eq!(read.len(), elements.len());
        for (element, (flag, bytes, properties)) in read.iter().zip(&elements) {
            prop_assert_eq!((element.flag, element.body), (*flag, bytes.as_slice()));
            prop_assert_eq!(element.properties, properties.as_str());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]
    #[test]
    fn random_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 1..90)) {
        let _ = BatchIter::new(&bytes).unwrap().count();
        if bytes.len() >= 4 {
            let size = u32::try_from(bytes.len()).unwrap();
            bytes[..4].copy_from_slice(&size.to_be_bytes());
            let _ = BatchIter::new(&bytes).unwrap().count();
        }
    }
}
