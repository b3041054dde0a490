//! What a send costs before and after its rules. Not right or wrong: printed by
//! `cargo test --release -p gantry-protocol timing -- --ignored --nocapture`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::*;
use crate::command::writer::write_reply;
use crate::frame::HeaderEncoding::Json;
use crate::message::{EncodedRecord, RecordParts, body_crc};
use crate::message_id::UniqueIdMaker;
use crate::properties::{BrokerProperties, rewrite_for_send};

/// Rounds of one batch, and batches: the best one is shown, since other work shares the machine.
const ROUNDS: u32 = 50_000;
const BATCHES: u32 = 40;

fn properties() -> String {
    let pairs = [
        ("KEYS", "order-4711"),
        ("UNIQ_KEY", "7F0000010A2B18B4AAC2123456780001"),
        ("CLUSTER", "DefaultCluster"),
        ("WAIT", "true"),
        ("TAGS", "TagA"),
        ("trace", "0123456789abcdef0123456789abcdef"),
    ];
    let mut out = Vec::new();
    for (name, value) in pairs {
        crate::properties::append(&mut out, name, value);
    }
    String::from_utf8(out).unwrap()
}

/// A header as Java sends it, about 570 bytes.
fn header() -> Vec<u8> {
    let properties = properties()
        .replace('\u{1}', "\\u0001")
        .replace('\u{2}', "\\u0002");
    let text = format!(
        r#"{{"code":310,"extFields":{{"a":"producer_group_name","b":"TopicTest","c":"TBW102",
        "d":"4","e":"3","f":"0","g":"1732300000000","h":"0","i":"{properties}","j":"0",
        "k":"false","l":"0","m":"false","n":"broker-a"}},"flag":0,"language":"JAVA",
        "opaque":123456,"serializeTypeCurrentRPC":"JSON","version":513}}"#
    );
    text.lines().map(str::trim).collect::<String>().into_bytes()
}

fn per_round(mut round: impl FnMut()) -> Duration {
    let batch = |_| {
        let begun = Instant::now();
        for _ in 0..ROUNDS {
            round();
        }
        begun.elapsed() / ROUNDS
    };
    (0..BATCHES).map(batch).min().unwrap_or_default()
}

#[test]
#[ignore = "a measurement"]
fn timing_of_a_send() {
    let header = header();
    let parse = per_round(|| {
        black_box(HeaderView::parse(Json, black_box(&header)).unwrap());
    });
    let typed = per_round(|| {
        let view = HeaderView::parse(Json, black_box(&header)).unwrap();
        black_box(SendHeader::parse(&view).unwrap());
    });
    println!(
        "header of {} bytes: parsed {parse:?}, with typed fields {typed:?}",
        header.len()
    );

    let broker = BrokerProperties::new("DefaultRegion", true, "DefaultCluster");
    let sent = properties();
    let mut scratch = Vec::with_capacity(4096);
    let mut maker = UniqueIdMaker::new([127, 0, 0, 1].into(), 1, 1);
    let rewrite = per_round(|| {
        scratch.clear();
        black_box(rewrite_for_send(
            black_box(&sent),
            &broker,
            || maker.next(1),
            &mut scratch,
        ));
    });
    println!("properties of {} bytes: rewritten {rewrite:?}", sent.len());
}

#[test]
#[ignore = "a measurement"]
fn timing_of_a_record_and_its_reply() {
    let mut out = bytes::BytesMut::with_capacity(4096);
    let reply = per_round(|| {
        out.clear();
        let ext = [
            ("msgId", ExtValue::Str("7F00000100002A9F0000000000000100")),
            ("queueId", ExtValue::Int(3)),
            ("queueOffset", ExtValue::Int(123_456)),
            (
                "transactionId",
                ExtValue::Str("7F0000010A2B18B4AAC2123456780001"),
            ),
            ("MSG_REGION", ExtValue::Str("DefaultRegion")),
            ("TRACE_ON", ExtValue::Str("true")),
        ];
        write_reply(&mut out, Json, 1, 0, None, Some(black_box(&ext)), &[]).unwrap();
    });
    println!("reply of {} bytes: written {reply:?}", out.len());

    let body = vec![7; 1024];
    let properties = properties();
    let parts = RecordParts {
        topic: "TopicTest",
        queue_id: 3,
        flag: 0,
        queue_offset: 1,
        physical_offset: 2,
        sys_flag: 0,
        born_timestamp: 3,
        born_host: "10.0.0.1:5".parse().unwrap(),
        store_timestamp: 4,
        store_host: "10.0.0.2:10911".parse().unwrap(),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: &body,
        body_crc: 0,
        properties: properties.as_bytes(),
    };
    let record = per_round(|| {
        out.clear();
        let crc = RecordParts {
            body_crc: body_crc(black_box(&body)),
            ..parts
        };
        EncodedRecord::new(&crc).unwrap().write(&mut out);
    });
    println!(
        "record of {} bytes: crc, head and copy {record:?}",
        out.len()
    );
}
