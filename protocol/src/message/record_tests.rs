use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::message::{RecordIter, RecordView};

fn sample<'a>() -> RecordParts<'a> {
    RecordParts {
        topic: "T",
        queue_id: 0,
        flag: 0,
        queue_offset: 0,
        physical_offset: 0,
        sys_flag: 0,
        born_timestamp: 0,
        born_host: "127.0.0.1:5".parse().unwrap(),
        store_timestamp: 0,
        store_host: "127.0.0.1:10911".parse().unwrap(),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: b"hi",
        body_crc: 0,
        properties: b"k\x01v\x02",
    }
}

fn bytes_of(parts: &RecordParts<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    EncodedRecord::new(parts).unwrap().write(&mut out);
    out
}

/// The worked sample of the notes, byte for byte what Java's encoder writes.
#[test]
fn the_worked_sample() {
    let hex = "00000062daa320a7000000000000000000000000000000000000000000000000000000000000\
        000000000000000000007f000001000000050000000000000000\
        7f00000100002a9f000000000000000000000000000000026869015400046b017602";
    let hex: String = hex.split_whitespace().collect();
    let wanted: Vec<u8> = (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect();
    let bytes = bytes_of(&sample());
    assert_eq!(bytes.len(), 98);
    assert_eq!(bytes, wanted);
    assert_eq!(record_len(&sample()), Ok(98));
}

/// Trap 44: the top bit of the CRC is cleared, and it is taken of the stored bytes.
#[test]
fn trap_44_body_crc() {
    assert_eq!(body_crc(b"123456789"), 0xCBF4_3926 & 0x7FFF_FFFF);
    let bytes = bytes_of(&RecordParts {
        body_crc: body_crc(b"hi"),
        ..sample()
    });
    assert!(RecordView::parse(&bytes).unwrap().body_is_intact());
}

/// Trap 46: what does not fit its length is an error, never cut.
#[test]
fn trap_46_limits() {
    let properties = vec![b'p'; PROPERTIES_BYTES_MAX + 1];
    let most = RecordParts {
        properties: &properties[1..],
        ..sample()
    };
    assert_eq!(
        RecordView::parse(&bytes_of(&most))
            .unwrap()
            .properties
            .len(),
        32_767
    );
    let over = RecordParts {
        properties: &properties,
        ..sample()
    };
    assert!(matches!(
        record_len(&over),
        Err(RecordError::PropertiesTooLong { .. })
    ));
    let topic = "t".repeat(TOPIC_V2_BYTES_MAX + 1);
    let over = RecordParts {
        topic: &topic,
        ..sample()
    };
    assert!(matches!(
        EncodedRecord::new(&over),
        Err(RecordError::TopicTooLong { .. })
    ));
}

#[test]
fn long_topics_take_the_second_layout() {
    for (length, magic) in [(127, MAGIC_V1), (128, MAGIC_V2), (255, MAGIC_V2)] {
        let topic = "t".repeat(length);
        let bytes = bytes_of(&RecordParts {
            topic: &topic,
            ..sample()
        });
        let view = RecordView::parse(&bytes).unwrap();
        assert_eq!((view.magic, view.topic), (magic, topic.as_str()));
    }
}

#[test]
fn the_queue_offset_is_replaced_in_place() {
    let born_host = "[2001:db8::9]:9".parse().unwrap();
    for born_host in [sample().born_host, born_host] {
        let parts = RecordParts {
            born_host,
            ..sample()
        };
        let mut record = EncodedRecord::new(&parts).unwrap();
        record.set_place(5, 6);
        let mut bytes = Vec::new();
        record.write(&mut bytes);
        let view = RecordView::parse(&bytes).unwrap();
        assert_eq!((view.queue_offset, view.physical_offset), (5, 6));
        RecordView::patch_queue_offset(&mut bytes, 2).unwrap();
        let view = RecordView::parse(&bytes).unwrap();
        assert_eq!((view.queue_offset, view.physical_offset), (2, 6));
        assert_eq!((view.born_host, view.body), (born_host, &b"hi"[..]));
    }
    assert!(RecordView::patch_queue_offset(&mut [0; 20], 1).is_err());
}

/// Trap 65: a wrong length is noticed, not skipped over.
#[test]
fn trap_65_lengths_must_add_up() {
    let good = bytes_of(&sample());
    for (at, value) in [(3, 97), (3, 99), (87, 3), (90, 2), (93, 5)] {
        let mut bad = good.clone();
        bad[at] = value;
        bad.push(0);
        assert!(RecordView::parse(&bad).is_err(), "byte {at} = {value}");
    }
    let mut two = good.clone();
    two.extend_from_slice(&good);
    assert_eq!(RecordIter::new(&two).flatten().count(), 2);
    two.pop();
    let read: Vec<bool> = RecordIter::new(&two).map(|record| record.is_ok()).collect();
    assert_eq!(read, [true, false]);
    let mut blank = good;
    blank[4..8].copy_from_slice(&0xCBD4_3194_u32.to_be_bytes());
    assert_eq!(
        RecordView::parse(&blank),
        Err(RecordError::UnknownMagic(0xCBD4_3194))
    );
}

fn host() -> impl Strategy<Value = SocketAddr> {
    (any::<std::net::IpAddr>(), any::<u16>())
        .prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port))
}

proptest! {
    #[test]
    fn records_are_read_as_written(
        topic in "[a-zA-Z%|_-]{1,200}",
        queue_id in any::<i32>(),
        flag in any::<i32>(),
        offsets in any::<(i64, i64, i64)>(),
        sys_flag in any::<i32>(),
        times in any::<(i64, i64)>(),
        born_host in host(),
        store_host in host(),
        reconsume_times in any::<i32>(),
        body in prop::collection::vec(any::<u8>(), 0..300),
        properties in ".{0,100}",
    ) {
        let parts = RecordParts {
            topic: &topic,
            queue_id,
            flag,
            queue_offset: offsets.0,
            physical_offset: offsets.1,
            sys_flag,
            born_timestamp: times.0,
            born_host,
            store_timestamp: times.1,
            store_host,
            reconsume_times,
            prepared_transaction_offset: offsets.2,
            body: &body,
            body_crc: body_crc(&body),
            properties: properties.as_bytes(),
        };
        let bytes = bytes_of(&parts);
        prop_assert_eq!(bytes.len(), record_len(&parts).unwrap() as usize);
        prop_assert_eq!(EncodedRecord::new(&parts).unwrap().record_bytes() as usize, bytes.len());
        let view = RecordView::parse(&bytes).unwrap();
        prop_assert_eq!((view.topic, view.body, view.properties), (&*topic, &*body, &*properties));
        prop_assert_eq!((view.queue_id, view.flag), (queue_id, flag));
        prop_assert_eq!((view.queue_offset, view.physical_offset), (offsets.0, offsets.1));
        prop_assert_eq!((view.born_host, view.store_host), (born_host, store_host));
        prop_assert_eq!((view.born_timestamp, view.store_timestamp), times);
        prop_assert_eq!(view.sys_flag & !0x30, sys_flag & !0x30);
        prop_assert_eq!(view.reconsume_times, reconsume_times);
        prop_assert_eq!(view.prepared_transaction_offset, offsets.2);
        prop_assert!(view.body_is_intact());
    }

    #[test]
    fn damaged_records_never_panic(at in 0_usize..98, value in any::<u8>(), cut in 0_usize..98) {
        let mut bytes = bytes_of(&sample());
        bytes[at] = value;
        let _ = RecordView::parse(&bytes);
        let _ = RecordView::parse(&bytes[..cut]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..160)) {
        let mut bytes = bytes;
        let _ = RecordIter::new(&bytes).count();
        // With a plausible size and magic the fields behind them are reached.
        if bytes.len() >= 8 {
            let size = u32::try_from(bytes.len()).unwrap();
            bytes[..4].copy_from_slice(&size.to_be_bytes());
            bytes[4..8].copy_from_slice(&MAGIC_V1.to_be_bytes());
            let _ = RecordIter::new(&bytes).count();
        }
    }
}
