//! Frames captured from unmodified clients against Apache RocketMQ 5.5.0 (`tests/golden`, made by
//! `tests/golden/capture`): every one is read, written again, and read as the same.
//!
//! Where the writer claims Java's order the bytes are compared, too; the one difference is the
//! field `serializeTypeCurrentRPC`, which Java adds and nobody reads.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use bytes::BytesMut;
use gantry_protocol::message::{
    BatchIter, EncodedRecord, RecordIter, RecordParts, encode_batch_element,
};
use gantry_protocol::request::pull::PullHeader;
use gantry_protocol::request::send::SendHeader;
use gantry_protocol::request::transaction::{CheckTransactionState, EndTransaction};
use gantry_protocol::{Command, Frame, HeaderEncoding, HeaderView, code, properties, take_frame};

/// One line of `index.tsv` with the file's bytes.
struct Golden {
    client: String,
    file: String,
    kind: String,
    code: i32,
    name: String,
    bytes: Vec<u8>,
}

impl Golden {
    fn place(&self) -> String {
        format!("{}/{} ({})", self.client, self.file, self.name)
    }

    fn frame(&self) -> Frame {
        let mut buffered = BytesMut::from(&self.bytes[..]);
        let frame = take_frame(&mut buffered).unwrap_or_else(|e| panic!("{}: {e}", self.place()));
        assert!(buffered.is_empty(), "{}: bytes left over", self.place());
        frame.unwrap_or_else(|| panic!("{}: not a whole frame", self.place()))
    }

    /// Whether the codes of the frame are this request's, not a reply's.
    fn is_request(&self) -> bool {
        self.kind == "request" || self.kind == "push"
    }

    fn is_java(&self) -> bool {
        self.client.starts_with("java") || self.client.starts_with("apache") || self.kind == "reply"
    }
}

fn all() -> Vec<Golden> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let index = fs::read_to_string(dir.join("index.tsv")).unwrap();
    let rows = index.lines().skip(1).map(|line| {
        let cells: Vec<&str> = line.split('\t').collect();
        let [client, file, kind, code, name, size] = cells[..] else {
            panic!("index: {line}")
        };
        let bytes = fs::read(dir.join(client).join(file)).unwrap();
        assert_eq!(bytes.len().to_string(), size, "{client}/{file}");
        Golden {
            client: client.to_owned(),
            file: file.to_owned(),
            kind: kind.to_owned(),
            code: code.parse().unwrap(),
            name: name.to_owned(),
            bytes,
        }
    });
    rows.collect()
}

#[test]
fn the_index_and_the_folders_hold_the_same() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let listed: BTreeSet<String> = all()
        .iter()
        .map(|g| format!("{}/{}", g.client, g.file))
        .collect();
    let mut found = BTreeSet::new();
    for folder in fs::read_dir(dir).unwrap().map(|e| e.unwrap()) {
        for file in fs::read_dir(folder.path()).into_iter().flatten() {
            let name = file.unwrap().file_name().into_string().unwrap();
            if Path::new(&name).extension().is_some_and(|e| e == "frame") {
                found.insert(format!("{}/{name}", folder.file_name().to_string_lossy()));
            }
        }
    }
    assert_eq!(listed, found);
    assert!(listed.len() > 300, "{} frames", listed.len());
    let clients: BTreeSet<String> = all().into_iter().map(|g| g.client).collect();
    for wanted in [
        "java-5.5.0-json",
        "java-5.5.0-binary",
        "java-4.9.8",
        "go-2.1.2",
    ] {
        assert!(clients.contains(wanted), "no frames of {wanted}");
    }
}

#[test]
fn every_frame_is_read_written_and_read_as_the_same() {
    for golden in all() {
        let command = Command::from_frame(&golden.frame())
            .unwrap_or_else(|e| panic!("{}: {e}", golden.place()));
        if golden.is_request() {
            // The pop codes do not fit the binary header; the capture has none of them.
            assert_eq!(command.code, golden.code, "{}", golden.place());
            assert!(!command.is_reply(), "{}", golden.place());
        } else {
            assert!(command.is_reply(), "{}", golden.place());
        }
        for encoding in [HeaderEncoding::Json, HeaderEncoding::Binary] {
            let wide = command.code > i32::from(i16::MAX);
            if encoding == HeaderEncoding::Binary && wide {
                continue;
            }
            let mut out = BytesMut::new();
            let mut written = Command {
                encoding,
                ..command.clone()
            };
            // The binary header has one form for an empty and an absent text.
            if encoding == HeaderEncoding::Binary {
                written.remark = written.remark.filter(|text| !text.is_empty());
                written
                    .ext
                    .iter_mut()
                    .for_each(|ext| ext.retain(|(_, v)| !v.is_empty()));
            }

            written.encode(&mut out).unwrap();
            let again = Command::from_frame(&take_frame(&mut out).unwrap().unwrap()).unwrap();
            assert_eq!(again, written, "{}", golden.place());
        }
    }
}

#[test]
fn what_java_wrote_is_written_byte_for_byte() {
    let mut compared = 0;
    for golden in all().iter().filter(|g| g.is_java()) {
        let frame = golden.frame();
        let mut command = Command::from_frame(&frame).unwrap();
        let mut expected = golden.bytes.clone();
        if frame.encoding == HeaderEncoding::Json {
            let header = String::from_utf8(frame.header.to_vec()).unwrap();
            if !header.contains("\"extFields\"") {
                command.ext = None;
            }
            let ours = header.replace(",\"serializeTypeCurrentRPC\":\"JSON\"", "");
            let length = 4 + ours.len() + frame.body.len();
            expected = u32::try_from(length).unwrap().to_be_bytes().to_vec();
            expected.extend(u32::try_from(ours.len()).unwrap().to_be_bytes());
            expected.extend(ours.as_bytes());
            expected.extend(&frame.body[..]);
        }
        let empty_value = b"\0\x0Aattributes\0\0\0\0";
        if golden
            .bytes
            .windows(empty_value.len())
            .any(|w| w == empty_value)
        {
            // Java writes an empty value into the binary header and reads none from it; so do we.
            continue;
        }
        let mut out = BytesMut::new();
        command.encode(&mut out).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&out),
            String::from_utf8_lossy(&expected),
            "{}",
            golden.place()
        );
        assert!(out[..] == expected[..], "{}", golden.place());
        compared += 1;
    }
    assert!(compared > 250, "only {compared} compared");
}

#[test]
fn every_code_is_in_the_table_under_its_name() {
    for golden in all() {
        let name = code::request_name(golden.code);
        assert_eq!(name, Some(golden.name.as_str()), "{}", golden.place());
    }
}

#[test]
fn typed_headers_are_read_and_written_as_the_same() {
    let (mut sends, mut pulls, mut ends, mut checks) = (0, 0, 0, 0);
    for golden in all().iter().filter(|g| g.is_request()) {
        let frame = golden.frame();
        let view = HeaderView::parse(frame.encoding, &frame.header).unwrap();
        let mut again = Command::request(golden.code, 1);
        match golden.code {
            10 | 310 | 320 | 324 | 325 => {
                let header = SendHeader::parse(&view).unwrap();
                assert_eq!(header.batch, golden.code == 320, "{}", golden.place());
                for (name, value) in header.to_ext(golden.code) {
                    again = again.with_ext(name, value);
                }
                assert_eq!(
                    SendHeader::parse(&again.view()).unwrap(),
                    header,
                    "{}",
                    golden.place()
                );
                sends += 1;
            }
            11 | 361 => {
                let header = PullHeader::parse(&view).unwrap();
                for (name, value) in header.to_ext() {
                    again = again.with_ext(name, value);
                }
                assert_eq!(
                    PullHeader::parse(&again.view()).unwrap(),
                    header,
                    "{}",
                    golden.place()
                );
                pulls += 1;
            }
            37 => {
                let header = EndTransaction::parse(&view).unwrap();
                assert_eq!(header.to_ext().len(), view.ext.len(), "{}", golden.place());
                for (name, value) in header.to_ext() {
                    again = again.with_ext(name, value);
                }
                assert_eq!(EndTransaction::parse(&again.view()).unwrap(), header);
                ends += 1;
            }
            39 => {
                let header = CheckTransactionState::parse(&view).unwrap();
                assert_eq!(header.to_ext().len(), view.ext.len(), "{}", golden.place());
                for (name, value) in header.to_ext() {
                    again = again.with_ext(name, value);
                }
                assert_eq!(CheckTransactionState::parse(&again.view()).unwrap(), header);
                checks += 1;
            }
            _ => {}
        }
    }
    assert!(sends >= 10 && pulls >= 8, "{sends} sends, {pulls} pulls");
    assert!(ends >= 4 && checks >= 4, "{ends} ends, {checks} checks");
}

#[test]
fn batches_are_split_and_joined_to_the_same_bytes() {
    let mut count = 0;
    for golden in all()
        .iter()
        .filter(|g| g.kind == "request" && g.code == 320)
    {
        let body = golden.frame().body;
        let mut joined = Vec::new();
        for element in BatchIter::new(&body).unwrap() {
            let element = element.unwrap_or_else(|e| panic!("{}: {e}", golden.place()));
            assert!(!element.body.is_empty());
            encode_batch_element(&element, &mut joined).unwrap();
            count += 1;
        }
        assert!(joined[..] == body[..], "{}", golden.place());
    }
    assert!(count >= 8, "only {count} elements");
}

#[test]
fn stored_records_are_read_and_written_to_the_same_bytes() {
    let mut count = 0;
    let with_records = |g: &&Golden| g.kind == "reply" && [11, 12, 33, 361].contains(&g.code);
    for golden in all().iter().filter(with_records) {
        let body = golden.frame().body;
        let mut written = Vec::new();
        for record in RecordIter::new(&body) {
            let record = record.unwrap_or_else(|e| panic!("{}: {e}", golden.place()));
            assert!(record.body_is_intact(), "{}", golden.place());
            assert!(properties::get(record.properties, "UNIQ_KEY").is_some());
            let parts = RecordParts {
                topic: record.topic,
                queue_id: record.queue_id,
                flag: record.flag,
                queue_offset: record.queue_offset,
                physical_offset: record.physical_offset,
                sys_flag: record.sys_flag,
                born_timestamp: record.born_timestamp,
                born_host: record.born_host,
                store_timestamp: record.store_timestamp,
                store_host: record.store_host,
                reconsume_times: record.reconsume_times,
                prepared_transaction_offset: record.prepared_transaction_offset,
                body: record.body,
                body_crc: record.body_crc,
                properties: record.properties.as_bytes(),
            };
            EncodedRecord::new(&parts).unwrap().write(&mut written);
            count += 1;
        }
        assert!(written[..] == body[..], "{}", golden.place());
    }
    assert!(count >= 10, "only {count} records");
}
