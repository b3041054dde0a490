use super::*;

#[test]
fn a_run_is_known_by_its_place_its_bytes_and_its_store() {
    let header = RunHeader {
        payload_bytes: 5,
        records_count: 1,
        epoch: 3,
        sequence: 9,
        position: FilePosition(8192),
        committed: FilePosition(77),
    };
    let bytes = header.encode(42, &[b"he", b"llo"]);
    let found = RunHeader::peek(&bytes, FilePosition(8192)).unwrap();
    assert_eq!(found, header);
    assert!(found.verify(42, &bytes, &[b"hello"]));
    assert!(!found.verify(43, &bytes, &[b"hello"]));
    assert!(!found.verify(42, &bytes, &[b"hellO"]));
    assert_eq!(RunHeader::peek(&bytes, FilePosition(4096)), None);
    assert_eq!(RunHeader::peek(&bytes[..63], FilePosition(8192)), None);
    let mut flipped = bytes;
    flipped[20] ^= 1;
    let found = RunHeader::peek(&flipped, FilePosition(8192)).unwrap();
    assert!(!found.verify(42, &flipped, &[b"hello"]));
    assert_eq!(header.end(), FilePosition(8192 + 64 + 5));
}

#[test]
fn entries_end_at_rubbish() {
    let head = EntryHead {
        record_bytes: 100,
        key: QueueKey::new(7, 3),
        tags_code: -5,
        keys_count: 1,
    };
    let mut payload = head.encode().to_vec();
    payload.extend_from_slice(&99u64.to_le_bytes());
    // The record's check, which the run's own makes good.
    payload.extend_from_slice(&[0; 4]);
    let mut record = vec![0; 100];
    record[27] = 6;
    record[63] = 8;
    payload.extend_from_slice(&record);
    payload.extend_from_slice(&[9; 30]);
    let found: Vec<_> = entries(&payload, FilePosition(1000)).collect();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].head, head);
    assert_eq!(found[0].position, FilePosition(1032));
    assert_eq!(found[0].queue_offset, QueueOffset(6));
    assert_eq!(found[0].store_time, StoreTimestamp(8));
    assert_eq!(found[0].hashes().collect::<Vec<_>>(), [99]);
}

#[test]
fn identities_say_when_they_are_newer() {
    let identity = Identity {
        id: 5,
        segment_bytes: 6,
        shard: 7,
    };
    let mut block = vec![0; IDENTITY_BYTES];
    identity.encode(IdentityKind::Shard, &mut block);
    assert_eq!(Identity::decode(IdentityKind::Shard, &block), Ok(identity));
    let wrong = Identity::decode(IdentityKind::Store, &block);
    assert_eq!(wrong, Err(IdentityError::Damaged));
    block[4] = 2;
    assert_eq!(
        Identity::decode(IdentityKind::Shard, &block),
        Err(IdentityError::Newer(2))
    );
}

#[test]
fn names_go_both_ways() {
    let start = FilePosition(256 << 20);
    assert_eq!(segment_start(&segment_name(start)), Some(start));
    assert_eq!(segment_start("x.log"), None);
    assert_eq!(spare_number(&spare_name(12)), Some(12));
}

#[test]
fn headers_refuse_other_bytes() {
    let tail = TailHeader {
        store_id: 1,
        ring_bytes: 2,
        epoch: 3,
    };
    let mut bytes = tail.encode();
    assert_eq!(TailHeader::decode(&bytes), Some(tail));
    bytes[9] ^= 1;
    assert_eq!(TailHeader::decode(&bytes), None);
    let checkpoint = CheckpointHeader {
        epoch: 1,
        sequence: 4,
        ..CheckpointHeader::default()
    };
    let bytes = checkpoint.encode(9, 77);
    assert_eq!(CheckpointHeader::decode(&bytes, 9), Some((checkpoint, 77)));
    assert_eq!(CheckpointHeader::decode(&bytes, 8), None);
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").unwrap();
        out
    })
}

/// The layouts of `docs/STORAGE.md` as bytes that were put together outside of this program.
#[test]
fn golden_layouts_of_format_1() {
    let run = RunHeader {
        payload_bytes: 5,
        records_count: 1,
        epoch: 3,
        sequence: 9,
        position: FilePosition(8192),
        committed: FilePosition(77),
    };
    assert_eq!(
        hex(&run.encode(42, &[b"hello"])),
        "4752554e400000000500000001000000030000000000000009000000000000000020000000000000\
         4d000000000000000000000000000000000000009b77f7e4"
    );
    let entry = EntryHead {
        record_bytes: 100,
        key: QueueKey::new(7, 3),
        tags_code: -5,
        keys_count: 1,
    };
    assert_eq!(
        hex(&entry.encode()),
        "6400000007000000fbffffffffffffff03000100"
    );
    let identity = Identity {
        id: 5,
        segment_bytes: 8 << 20,
        shard: 7,
    };
    let mut block = vec![1; IDENTITY_BYTES];
    identity.encode(IdentityKind::Shard, &mut block);
    assert_eq!(
        hex(&block[..40]),
        "47534844010000000500000000000000000080000000000007000000000000000000000047d2a46a"
    );
    assert!(block[40..].iter().all(|byte| *byte == 0));
    let tail = TailHeader {
        store_id: 1,
        ring_bytes: 65_536,
        epoch: 3,
    };
    assert_eq!(
        hex(&tail.encode()),
        "4754414901000000010000000000000000000100000000000300000000000000b5a3d80200000000"
    );
    let checkpoint = CheckpointHeader {
        epoch: 2,
        position: FilePosition(4096),
        sequence: 5,
        index_bytes: 6,
        keys_bytes: 7,
        is_suspect: false,
    };
    assert_eq!(
        hex(&checkpoint.encode(9, 0x77)),
        "47434b50010000000200000000000000001000000000000005000000000000000600000000000000\
         070000000000000077000000b35031360000000000000000"
    );
    let suspect = CheckpointHeader {
        is_suspect: true,
        ..checkpoint
    };
    let bytes = suspect.encode(9, 0x77);
    assert!(hex(&bytes).ends_with("b35031360100000000000000"));
    let read = CheckpointHeader::decode(&bytes, 9);
    assert_eq!(read, Some((suspect, 0x77)));
}

/// A record as `RocketMQ` stores it and a pull returns it.
#[test]
fn golden_layout_of_a_record() {
    let parts = gantry_protocol::message::RecordParts {
        topic: "T",
        queue_id: 3,
        flag: 7,
        queue_offset: 5,
        physical_offset: 0x1234,
        sys_flag: 0,
        born_timestamp: 1000,
        born_host: "127.0.0.1:5".parse().unwrap(),
        store_timestamp: 2000,
        store_host: "127.0.0.2:10911".parse().unwrap(),
        reconsume_times: 2,
        prepared_transaction_offset: 9,
        body: b"body",
        body_crc: gantry_protocol::message::body_crc(b"body"),
        properties: b"KEYS\x01k\x02",
    };
    let encoded = gantry_protocol::message::EncodedRecord::new(&parts).unwrap();
    let mut record = Vec::new();
    encoded.write(&mut record);
    assert_eq!(
        hex(&record),
        "00000067daa320a75ba80bb20000000300000007000000000000000500000000000012340000000000000000\
         000003e87f0000010000000500000000000007d07f00000200002a9f00000002000000000000000900000004\
         626f6479015400074b455953016b02"
    );
    assert_eq!(
        record_fields(&record),
        Some((QueueOffset(5), StoreTimestamp(2000)))
    );
    assert_eq!(record_peek(&record), Some((103, 0x1234)));
}

#[test]
fn a_record_is_intact_or_not() {
    use gantry_protocol::message::{EncodedRecord, RecordParts, body_crc};
    for host in ["1.2.3.4:5", "[2001:db8::1]:5"] {
        let parts = RecordParts {
            topic: "T",
            queue_id: 1,
            flag: 2,
            queue_offset: 3,
            physical_offset: 4,
            sys_flag: 0,
            born_timestamp: 5,
            born_host: host.parse().unwrap(),
            store_timestamp: 6,
            store_host: "5.6.7.8:9".parse().unwrap(),
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: b"body",
            body_crc: body_crc(b"body"),
            properties: b"k\x01v\x02",
        };
        let encoded = EncodedRecord::new(&parts).unwrap();
        let (mut summed, mut record) = (Vec::new(), Vec::new());
        encoded.put_head(&mut summed);
        encoded.put_end(&mut summed);
        let [seed, another] = [42, 43].map(RecordSeed::of);
        let check = seed.check(&summed);
        // The two ways there are, whatever the size.
        let long = [7; 2 * record::SUMMED_TOGETHER_BYTES];
        for at in [0, 1, 88, record::SUMMED_TOGETHER_BYTES, long.len()] {
            let (head, rest) = long.split_at(at);
            assert_eq!(seed.check_of_two(head, rest), seed.check(&long));
            assert_eq!(seed.check_of_two(head, &[]), seed.check(head));
        }
        encoded.write(&mut record);
        assert!(record_is_intact(seed, &check, &record));
        assert!(
            !record_is_intact(another, &check, &record),
            "another store's"
        );
        assert!(!record_is_intact(seed, &check[..3], &record));
        for at in 0..record.len() {
            record[at] ^= 4;
            assert!(!record_is_intact(seed, &check, &record), "byte {at}");
            record[at] ^= 4;
        }
        for len in 0..record.len() {
            assert!(!record_is_intact(seed, &check, &record[..len]));
        }
    }
}
