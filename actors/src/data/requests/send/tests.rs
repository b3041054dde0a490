use std::sync::Arc;

use gantry_protocol::body::FilterType;
use gantry_protocol::message::{BatchElement, RecordIter, encode_batch_element};
use gantry_protocol::request::send::SendHeader;

use crate::data::testing::{
    TestBroker, ext, pull_frame, pull_header, records, request_frame, send_frame, send_header,
    topic,
};
use crate::seam::{CatalogChange, ToControl, ToData};

fn refused(header: &SendHeader<'_>, body: &[u8]) -> (i32, String) {
    let broker = TestBroker::new(1, 1, |_| {});
    broker.request(&send_frame(9, header, body));
    let reply = broker.reply();
    assert_eq!(reply.opaque, 9);
    assert_eq!(ext(&reply, "MSG_REGION"), "DefaultRegion");
    (reply.code, reply.remark.unwrap_or_default())
}

fn code_of(header: &SendHeader<'_>, body: &[u8]) -> i32 {
    refused(header, body).0
}

/// The body of a batch of one message.
fn batch_of_one(properties: &str) -> bytes::BytesMut {
    let mut body = bytes::BytesMut::new();
    let element = BatchElement {
        flag: 0,
        body: b"x",
        properties,
    };
    encode_batch_element(&element, &mut body).unwrap();
    body
}

#[test]
fn each_refusal_has_its_code() {
    let plain = send_header("T");
    assert_eq!(
        code_of(
            &SendHeader {
                queue_id: 4,
                ..plain
            },
            b"x"
        ),
        29
    );
    assert_eq!(code_of(&send_header("SCHEDULE_TOPIC_XXXX"), b"x"), 16);
    assert_eq!(code_of(&send_header("rmq_sys_wheel_timer"), b"x"), 16);
    assert_eq!(code_of(&send_header("a b"), b"x"), 29);
}

#[test]
fn trap_104_an_empty_body_gets_1() {
    assert_eq!(code_of(&send_header("T"), b""), 1);
}

#[test]
fn trap_46_what_the_record_cannot_hold_gets_13() {
    let long = "k\u{1}".to_owned() + &"v".repeat(32_800) + "\u{2}";
    assert_eq!(
        code_of(
            &SendHeader {
                properties: &long,
                ..send_header("T")
            },
            b"x"
        ),
        13
    );
    // Fits as sent, not with what the broker adds.
    let edge = "k\u{1}".to_owned() + &"v".repeat(32_700) + "\u{2}";
    assert_eq!(
        code_of(
            &SendHeader {
                properties: &edge,
                ..send_header("T")
            },
            b"x"
        ),
        13
    );
    assert_eq!(code_of(&send_header(&"t".repeat(128)), b"x"), 13);
    assert_eq!(code_of(&send_header("T"), &vec![0; (4 << 20) + 1]), 13);
}

#[test]
fn what_is_not_built_is_refused_and_not_retried() {
    let plain = send_header("T");
    assert_eq!(
        code_of(
            &SendHeader {
                sys_flag: 4,
                ..plain
            },
            b"x"
        ),
        13
    );
    let broker = TestBroker::new(1, 1, |_| {});
    let later = SendHeader {
        properties: "DELAY\u{1}0\u{2}",
        ..plain
    };
    broker.request(&send_frame(1, &later, b"x"));
    assert_eq!(broker.reply().code, 0);
}

#[test]
fn trap_43_a_negative_queue_is_chosen_among_the_write_queues() {
    let broker = TestBroker::new(1, 1, |_| {});
    let header = SendHeader {
        queue_id: -1,
        ..send_header("T")
    };
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..64 {
        broker.request(&send_frame(n, &header, b"x"));
        seen.insert(ext(&broker.reply(), "queueId").to_owned());
    }
    assert_eq!(seen.len(), 4);
}

#[test]
fn traps_39_40_the_header_makes_a_batch() {
    let broker = TestBroker::new(1, 1, |_| {});
    let mut body = bytes::BytesMut::new();
    for text in ["a", "b", "c"] {
        let properties = "TAGS\u{1}TagA\u{2}UNIQ_KEY\u{1}U\u{2}";
        let element = BatchElement {
            flag: 3,
            body: text.as_bytes(),
            properties,
        };
        encode_batch_element(&element, &mut body).unwrap();
    }
    let header = SendHeader {
        batch: true,
        ..send_header("T")
    };
    broker.request(&send_frame(1, &header, &body));
    let reply = broker.reply();
    assert_eq!(reply.code, 0, "{reply:?}");
    assert_eq!(ext(&reply, "msgId").split(',').count(), 3);
    assert_eq!(ext(&reply, "queueOffset"), "0");
    assert!(
        reply
            .ext
            .unwrap()
            .iter()
            .all(|(name, _)| name != "transactionId")
    );
    broker.request(&pull_frame(2, &pull_header("T", 0, 0)));
    let found = records(&broker.reply().body);
    assert_eq!(
        found,
        [
            (0, "a".to_owned()),
            (1, "b".to_owned()),
            (2, "c".to_owned())
        ]
    );
    let bad = SendHeader {
        batch: true,
        ..send_header("T")
    };
    broker.request(&send_frame(3, &bad, b"not a batch at all"));
    assert_eq!(broker.reply().code, 13);
}

#[test]
fn messages_of_a_topic_with_several_tags_say_so() {
    let broker = TestBroker::new(1, 1, |_| {});
    let mut entry = topic("M", 2, 1).as_ref().clone();
    entry.config.filter_type = FilterType::MultiTag;
    let entry = Arc::new(entry);
    broker.tell_all(|| ToData::Catalog(CatalogChange::TopicPut(Arc::clone(&entry))));
    let batch = batch_of_one("");
    for (name, wanted) in [("M", 2), ("T", 0)] {
        for is_batch in [false, true] {
            let header = SendHeader {
                batch: is_batch,
                ..send_header(name)
            };
            broker.request(&send_frame(1, &header, &batch));
            assert_eq!(broker.reply().code, 0);
        }
        broker.request(&pull_frame(2, &pull_header(name, 0, 0)));
        let pulled = broker.reply().body;
        let flags: Vec<_> = RecordIter::new(&pulled)
            .map(|record| record.unwrap().sys_flag & 2)
            .collect();
        assert_eq!(flags, [wanted; 2], "{name}");
    }
}

#[test]
fn unknown_topics_are_parked_in_order_and_resumed() {
    let broker = TestBroker::new(1, 1, |_| {});
    let header = send_header("New");
    broker.request(&send_frame(1, &header, b"first"));
    broker.request(&send_frame(2, &header, b"second"));
    assert!(broker.replies().is_empty());
    let asked = broker.world.take_control();
    let [
        ToControl::EnsureTopic {
            ticket,
            topic: name,
            default_topic,
            ..
        },
    ] = &asked[..]
    else {
        panic!("{asked:?}");
    };
    assert_eq!(name, "New");
    assert_eq!(default_topic.as_deref(), Some("TBW102"));
    broker.tell_all(|| ToData::Catalog(CatalogChange::TopicPut(topic("New", 9, 4))));
    // The topic is known, but those before it still wait.
    broker.request(&send_frame(3, &header, b"third"));
    let ticket = *ticket;
    broker.tell_all(|| ToData::Resolved {
        ticket,
        outcome: Ok(()),
    });
    let offsets: Vec<(i32, String)> = broker
        .replies()
        .iter()
        .map(|reply| (reply.opaque, ext(reply, "queueOffset").to_owned()))
        .collect();
    assert_eq!(
        offsets,
        [
            (1, "0".to_owned()),
            (2, "1".to_owned()),
            (3, "2".to_owned())
        ]
    );
}

#[test]
fn parked_sends_are_told_when_the_topic_is_refused_or_time_is_up() {
    let broker = TestBroker::new(1, 1, |_| {});
    broker.request(&send_frame(1, &send_header("New"), b"x"));
    let asked = broker.world.take_control();
    let [ToControl::EnsureTopic { ticket, .. }] = asked[..] else {
        panic!()
    };
    let refusal = crate::refusal::Refusal::new(17, "no");
    broker.tell_all(|| ToData::Resolved {
        ticket,
        outcome: Err(refusal.clone()),
    });
    assert_eq!(broker.reply().code, 17);
    broker.request(&send_frame(2, &send_header("Never"), b"x"));
    broker.pass_ms(3_000);
    let reply = broker.reply();
    assert_eq!(reply.code, 2);
    let remark = reply.remark.unwrap();
    assert!(remark.starts_with("[TIMEOUT_CLEAN_QUEUE]"), "{remark}");
    for part in [
        "stage parked",
        "topic Never",
        "waited 3000 ms",
        "1 requests",
    ] {
        assert!(remark.contains(part), "no {part} in {remark}");
    }
}

#[test]
fn a_full_road_names_the_topic_and_its_queue() {
    let broker = TestBroker::new(2, 2, |_| {});
    broker.world.roads_are_full.set(true);
    let mut refused = Vec::new();
    for queue_id in 0..4 {
        let header = SendHeader {
            queue_id,
            ..send_header("T")
        };
        broker.request(&send_frame(queue_id, &header, b"x"));
        broker.request(&pull_frame(queue_id, &pull_header("T", queue_id, 0)));
        let codes = broker.replies().into_iter().filter(|reply| reply.code == 2);
        refused.extend(codes.map(|reply| (queue_id, reply.remark.unwrap())));
    }
    assert!(refused.len() >= 4, "{refused:?}");
    for (queue, remark) in refused {
        assert!(remark.contains("stage mesh"), "{remark}");
        assert!(
            remark.contains(&format!("topic T queue {queue}")),
            "{remark}"
        );
    }
}

#[test]
fn full_parking_names_the_topic_and_how_long_the_first_waits() {
    let broker = TestBroker::new(1, 1, |_| {});
    let body = vec![0; 12 << 20];
    broker.request(&send_frame(1, &send_header("New"), &body));
    broker.pass_ms(40);
    broker.request(&send_frame(2, &send_header("New"), &body));
    broker.request(&send_frame(3, &send_header("Newer"), &body));
    let remark = broker.reply().remark.unwrap();
    for part in [
        "stage parked",
        "topic Newer",
        "2 requests of",
        "the first for 40 ms",
    ] {
        assert!(remark.contains(part), "no {part} in {remark}");
    }
}

/// A broker with the topics of parked messages.
fn with_parking() -> TestBroker {
    let broker = TestBroker::new(1, 1, |settings| {
        settings.delay_levels_ms = vec![1000, 5000];
    });
    broker.with_parking()
}

#[test]
fn a_delayed_message_is_parked_and_a_row_tells_when_it_is_due() {
    let broker = with_parking();
    let sent = SendHeader {
        properties: "DELAY\u{1}2\u{2}UNIQ_KEY\u{1}u\u{2}",
        queue_id: 1,
        ..send_header("T")
    };
    broker.request(&send_frame(1, &sent, b"later"));
    let reply = broker.reply();
    assert_eq!(reply.code, 0);
    assert_eq!(
        ext(&reply, "queueId"),
        "1",
        "the queue that was asked for is shown"
    );
    broker.request(&pull_frame(2, &pull_header("T", 1, 0)));
    assert!(records(&broker.reply().body).is_empty());
    let rows = broker.owed();
    let [row] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!(row.queue, gantry_storage::units::QueueKey::new(20, 1));
    // The delay runs from the moment of storing; the record bears the time of the core's tick.
    let delay_ms = row.time_ms - row.store_ms;
    assert!((5000..6000).contains(&delay_ms), "{delay_ms}");
}

#[test]
fn a_timed_message_with_a_key_gets_a_recall_handle() {
    let broker = with_parking();
    let timed = "TIMER_DELAY_MS\u{1}9000\u{2}";
    let keyed = format!("{timed}UNIQ_KEY\u{1}u7\u{2}");
    let sent = SendHeader {
        properties: &keyed,
        ..send_header("T")
    };
    broker.request(&send_frame(1, &sent, b"x"));
    let reply = broker.reply();
    let handle = ext(&reply, "recallHandle").to_owned();
    let handle = gantry_protocol::recall_handle::RecallHandle::decode(&handle).unwrap();
    assert_eq!((&*handle.topic, &*handle.unique_key), ("T", "u7"));
    let plain = SendHeader {
        properties: "UNIQ_KEY\u{1}u8\u{2}",
        ..send_header("T")
    };
    broker.request(&send_frame(2, &plain, b"x"));
    let reply = broker.reply();
    let fields = reply.ext.iter().flatten();
    assert!(!fields.into_iter().any(|(name, _)| name == "recallHandle"));
}

#[test]
fn a_batch_of_halves_or_of_late_messages_gets_13_and_is_not_stored() {
    let broker = with_parking();
    let body = batch_of_one("");
    let refused = [
        (4, ""),
        (8, ""),
        (12, ""),
        (0, "TRAN_MSG\u{1}true\u{2}"),
        (0, "DELAY\u{1}3\u{2}"),
        (0, "TIMER_DELAY_SEC\u{1}3\u{2}"),
    ];
    for (sys_flag, properties) in refused {
        let header = SendHeader {
            sys_flag,
            properties,
            batch: true,
            ..send_header("T")
        };
        broker.request(&send_frame(1, &header, &body));
        assert_eq!(broker.reply().code, 13, "{sys_flag} {properties}");
    }
    broker.request(&request_frame(
        30,
        2,
        &[("topic", "T".into()), ("queueId", 0.into())],
        b"",
    ));
    assert_eq!(ext(&broker.reply(), "offset"), "0");
    let plain = SendHeader {
        properties: "DELAY\u{1}0\u{2}",
        batch: true,
        ..send_header("T")
    };
    broker.request(&send_frame(3, &plain, &body));
    assert_eq!(broker.reply().code, 0);
}

#[test]
fn what_clients_would_split_by_themselves_gets_13_and_is_not_stored() {
    let broker = TestBroker::new(1, 1, |_| {});
    let body = batch_of_one("TAGS\u{1}a\u{2}");
    let counted = "INNER_NUM\u{1}2\u{2}";
    for (sys_flag, properties) in [(192, ""), (0x40, ""), (0x80, ""), (0, counted)] {
        for batch in [false, true] {
            let header = SendHeader {
                sys_flag,
                properties,
                batch,
                ..send_header("T")
            };
            broker.request(&send_frame(1, &header, &body));
            assert_eq!(broker.reply().code, 13, "{sys_flag} {properties} {batch}");
        }
    }
    broker.request(&pull_frame(2, &pull_header("T", 0, 0)));
    assert_eq!(broker.reply().code, 19, "nothing was stored");
}
