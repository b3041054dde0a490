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
        let [head, _, a, b, c, d] = encoded.pieces();
        let check = record_check(42, &[head, a, b, c, d]);
        let mut record: Vec<u8> = encoded.pieces().concat();
        assert!(record_is_intact(42, &check, &record));
        assert!(!record_is_intact(43, &check, &record), "another store's");
        assert!(!record_is_intact(42, &check[..3], &record));
        for at in 0..record.len() {
            record[at] ^= 4;
            assert!(!record_is_intact(42, &check, &record), "byte {at}");
            record[at] ^= 4;
        }
        for len in 0..record.len() {
            assert!(!record_is_intact(42, &check, &record[..len]));
        }
    }
}
