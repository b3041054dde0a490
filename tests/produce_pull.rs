//! Sending in all its forms, and pulling back exactly that: offsets, refusals, filters, waiting.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "test numbers"
)]

mod common;

use std::time::{Duration, Instant};

use common::client::{Pull, send_ext};
use common::record::{batch_element, crc31};
use common::{Client, Frame, Gantry, Record, code, ext, fresh, properties, records, reply};

/// A server with one topic of `queues` queues.
fn with_topic(stem: &str, queues: i32) -> (Gantry, Client, String) {
    let gantry = Gantry::up(&[]);
    let mut client = gantry.client();
    let topic = fresh(stem);
    client.create_topic(&topic, queues);
    (gantry, client, topic)
}

/// The single record at an offset.
fn read_one(client: &mut Client, topic: &str, queue: i32, offset: i64) -> Record {
    let pull = Pull::new(topic, queue, offset).at_most(1);
    let got = common::until(5, "the message is readable", || {
        let got = client.pull(&pull);
        (got.code == reply::SUCCESS).then_some(got)
    });
    let mut all = records(&got.body);
    assert_eq!(all.len(), 1);
    all.remove(0)
}

/// A send as code 10 spells it.
fn long_names(topic: &str, queue: i32, props: &str) -> Vec<(String, String)> {
    ext(&[
        ("producerGroup", "test-producers"),
        ("topic", topic),
        ("defaultTopic", "TBW102"),
        ("defaultTopicQueueNums", "4"),
        ("queueId", &queue.to_string()),
        ("sysFlag", "0"),
        ("bornTimestamp", "1700000000000"),
        ("flag", "7"),
        ("properties", props),
        ("reconsumeTimes", "0"),
        ("unitMode", "false"),
        ("maxReconsumeTimes", "0"),
    ])
}

/// A single send's reply and its record say the same and hold what was sent.
fn check_single(gantry: &Gantry, client: &mut Client, topic: &str, sent: &Frame, body: &[u8]) {
    let offset = sent.number("queueOffset");
    let record = read_one(client, topic, sent.number("queueId") as i32, offset);
    assert_eq!(record.body, body);
    assert_eq!(record.body_crc, crc31(body));
    assert_eq!(
        (record.topic.as_str(), record.queue_offset),
        (topic, offset)
    );
    assert_eq!((record.flag, record.born_timestamp), (7, 1_700_000_000_000));
    assert_eq!((record.sys_flag, record.reconsume_times), (0, 0));
    assert_eq!(record.properties["KEYS"], "k1 k2");
    assert_eq!(record.properties["TAGS"], "TagA");
    assert_eq!(record.properties["UNIQ_KEY"], sent.ext["transactionId"]);
    assert_eq!(sent.ext["MSG_REGION"], "DefaultRegion");
    assert_eq!(sent.ext["TRACE_ON"], "true");
    // The id carries the store host and the physical offset, and the record the same.
    let id = &sent.ext["msgId"];
    assert_eq!(id.len(), 32, "{id}");
    let std::net::IpAddr::V4(ip) = gantry.ip() else {
        panic!("IPv4")
    };
    let octets = u32::from(ip);
    assert_eq!(
        id[..16],
        format!("{octets:08X}{:08X}", gantry.broker().port())
    );
    assert_eq!(
        i64::from_str_radix(&id[16..], 16).unwrap(),
        record.physical_offset
    );
    assert_eq!(
        record.store_host,
        (ip.octets(), i32::from(gantry.broker().port()))
    );
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    assert!((now.as_millis() as i64 - record.store_timestamp).abs() < 60_000);
    // And the message is found by that physical offset.
    let fields = ext(&[
        ("offset", &record.physical_offset.to_string()),
        ("topic", topic),
    ]);
    let viewed = client
        .call(code::VIEW_MESSAGE, &fields, b"")
        .expect(reply::SUCCESS);
    assert_eq!(records(&viewed.body), [record]);
}

#[test]
fn both_spellings_of_a_send_store_the_same_record() {
    let (gantry, mut client, topic) = with_topic("spell", 2);
    let props = [
        ("KEYS", "k1 k2"),
        ("TAGS", "TagA"),
        ("UNIQ_KEY", "0123456789ABCDEF"),
    ];
    let v2 = client
        .send(&topic, 1, b"letters", &props)
        .expect(reply::SUCCESS);
    assert_eq!((v2.number("queueId"), v2.number("queueOffset")), (1, 0));
    assert_eq!(v2.ext["transactionId"], "0123456789ABCDEF");
    check_single(&gantry, &mut client, &topic, &v2, b"letters");
    // Without a unique key the broker makes one.
    let fields = long_names(&topic, 1, &properties(&props[..2]));
    let v1 = client
        .call(code::SEND, &fields, b"names")
        .expect(reply::SUCCESS);
    assert_eq!((v1.number("queueId"), v1.number("queueOffset")), (1, 1));
    assert!(v1.ext["transactionId"].len() >= 32, "{:?}", v1.ext);
    check_single(&gantry, &mut client, &topic, &v1, b"names");
}

#[test]
fn trap_40_a_batch_is_stored_as_messages_of_its_own() {
    let (_gantry, mut client, topic) = with_topic("batch", 1);
    client
        .send(&topic, 0, b"before", &[])
        .expect(reply::SUCCESS);
    let mut body = Vec::new();
    for n in 0..5 {
        let key = format!("key{n}");
        let props = properties(&[("KEYS", &key), ("TAGS", "T"), ("WAIT", "true")]);
        body.extend(batch_element(format!("element {n}").as_bytes(), &props));
    }
    let fields = send_ext(&topic, 0, &[], true);
    let sent = client
        .call(code::SEND_BATCH, &fields, &body)
        .expect(reply::SUCCESS);
    assert_eq!(sent.number("queueOffset"), 1);
    assert!(!sent.ext.contains_key("transactionId"), "{:?}", sent.ext);
    let ids: Vec<&str> = sent.ext["msgId"].split(',').collect();
    assert_eq!(ids.len(), 5);
    client.send(&topic, 0, b"after", &[]).expect(reply::SUCCESS);
    common::until(5, "all are readable", || {
        (client.offset(code::MAX_OFFSET, &topic, 0, &[]) == 7).then_some(())
    });
    let all = client.drain(&topic, 0, 0);
    let bodies: Vec<&[u8]> = all.iter().map(|r| &r.body[..]).collect();
    let expected: [&[u8]; 7] = [
        b"before",
        b"element 0",
        b"element 1",
        b"element 2",
        b"element 3",
        b"element 4",
        b"after",
    ];
    assert_eq!(bodies, expected);
    for (n, record) in all[1..6].iter().enumerate() {
        assert_eq!(record.queue_offset, 1 + n as i64);
        assert_eq!(record.body_crc, crc31(&record.body));
        assert_eq!(record.properties["KEYS"], format!("key{n}"));
        assert_eq!(
            i64::from_str_radix(&ids[n][16..], 16).unwrap(),
            record.physical_offset
        );
    }
    // A batch that lies about the length of an element stores nothing and is answered.
    let mut lying = batch_element(b"x", "");
    lying[3] = 200;
    let answer = client.call(code::SEND_BATCH, &fields, &lying);
    assert_ne!(answer.code, reply::SUCCESS);
    assert_eq!(client.offset(code::MAX_OFFSET, &topic, 0, &[]), 7);
}

#[test]
fn trap_5_a_oneway_send_is_stored_and_never_answered() {
    let (_gantry, mut client, topic) = with_topic("oneway", 1);
    for n in 0..10 {
        client.post_oneway(code::SEND_V2, &send_ext(&topic, 0, &[], false), &[n]);
    }
    // The next reply on the connection belongs to the next request.
    let opaque = client.post(code::SEND_V2, &send_ext(&topic, 0, &[], false), b"asked");
    client.flush().unwrap();
    assert_eq!(
        client.next_reply().unwrap().expect(reply::SUCCESS).opaque,
        opaque
    );
    common::until(5, "eleven messages", || {
        (client.offset(code::MAX_OFFSET, &topic, 0, &[]) == 11).then_some(())
    });
    // One after the other on one connection: Gantry stores them in the order sent.
    let bodies: Vec<Vec<u8>> = client
        .drain(&topic, 0, 0)
        .into_iter()
        .map(|r| r.body)
        .collect();
    assert_eq!(
        bodies[..10],
        (0..10).map(|n| vec![n]).collect::<Vec<_>>()[..]
    );
}

#[test]
fn sends_that_break_a_rule_are_refused_with_the_right_code() {
    let (_gantry, mut client, topic) = with_topic("refuse", 2);
    let send = |client: &mut Client, topic: &str, queue: i32, body: &[u8]| {
        client.send(topic, queue, body, &[]).code
    };
    assert_eq!(send(&mut client, &topic, 2, b"x"), reply::INVALID_PARAMETER);
    assert_eq!(
        send(&mut client, &topic, 1, &vec![0; (4 << 20) + 1]),
        reply::MESSAGE_ILLEGAL
    );
    assert_eq!(
        send(&mut client, "SCHEDULE_TOPIC_XXXX", 0, b"x"),
        reply::NO_PERMISSION
    );
    assert_eq!(
        send(&mut client, "RMQ_SYS_TRANS_HALF_TOPIC", 0, b"x"),
        reply::NO_PERMISSION
    );
    let long = "p".repeat(33_000);
    let answer = client.send(&topic, 0, b"x", &[("long", &long)]);
    assert_eq!(answer.code, reply::MESSAGE_ILLEGAL, "{}", answer.remark);
    // No such topic, and a default topic that does not exist or does not hand down.
    for default in ["no-such-default", topic.as_str()] {
        let mut fields = send_ext("nowhere", 0, &[], false);
        fields.iter_mut().find(|(k, _)| k == "c").unwrap().1 = default.to_owned();
        let answer = client.call(code::SEND_V2, &fields, b"x");
        assert_eq!(answer.code, reply::TOPIC_NOT_EXIST, "{}", answer.remark);
    }
    // None of it was stored.
    for queue in 0..2 {
        assert_eq!(client.offset(code::MAX_OFFSET, &topic, queue, &[]), 0);
    }
}

#[test]
fn the_largest_message_that_is_allowed_is_stored() {
    let (_gantry, mut client, topic) = with_topic("largest", 1);
    let body = vec![b'm'; 4 << 20];
    let keys = "k".repeat(30_000);
    client
        .send(&topic, 0, &body, &[("KEYS", &keys)])
        .expect(reply::SUCCESS);
    let records = client.drain(&topic, 0, 0);
    assert_eq!(records.len(), 1);
    assert!(records[0].body == body);
}

#[test]
fn trap_43_queue_minus_one_lets_the_broker_choose() {
    let (_gantry, mut client, topic) = with_topic("anyqueue", 4);
    let mut used = std::collections::BTreeSet::new();
    for _ in 0..60 {
        let sent = client.send(&topic, -1, b"x", &[]).expect(reply::SUCCESS);
        assert!((0..4).contains(&sent.number("queueId")));
        used.insert(sent.number("queueId"));
    }
    assert!(used.len() > 1, "60 messages, all in queue {used:?}");
}

#[test]
fn an_unknown_topic_is_made_from_the_default_topic_and_routed_at_once() {
    let gantry = Gantry::up(&[]);
    let topic = fresh("auto");
    let sent = gantry
        .client()
        .send(&topic, 3, b"first", &[])
        .expect(reply::SUCCESS);
    assert_eq!((sent.number("queueId"), sent.number("queueOffset")), (3, 0));
    let mut namesrv = gantry.namesrv_client();
    let route = namesrv
        .call(code::ROUTE, &ext(&[("topic", &topic)]), b"")
        .expect(reply::SUCCESS);
    let route: serde_json::Value = serde_json::from_slice(&route.body).unwrap();
    let queues = &route["queueDatas"][0];
    // As many queues as the producer asked for (4 of the 8 of TBW102), and the right to hand
    // down is not inherited.
    assert_eq!(queues["writeQueueNums"], 4);
    assert_eq!(queues["readQueueNums"], 4);
    assert_eq!(queues["perm"], 6);
    let address = format!("{}", gantry.broker());
    assert_eq!(
        route["brokerDatas"][0]["brokerAddrs"]["0"],
        address.as_str()
    );
}

/// (queue, offset, tags, most) -> (code, next offset, bodies).
type Row<'a> = ((i32, i64, &'a str, i32), (i32, i64, &'a [u8]));

#[test]
fn every_row_of_the_pull_table() {
    let (_gantry, mut client, topic) = with_topic("table", 2);
    for n in 0..5 {
        let tag = if n < 3 { "A" } else { "B" };
        client
            .send(&topic, 0, &[n], &[("TAGS", tag)])
            .expect(reply::SUCCESS);
    }
    read_one(&mut client, &topic, 0, 4);
    // Queue 1 was never used.
    let rows: [Row<'_>; 14] = [
        ((1, 0, "*", 32), (reply::PULL_NOT_FOUND, 0, &[])),
        ((1, 3, "*", 32), (reply::PULL_OFFSET_MOVED, 0, &[])),
        ((0, -1, "*", 32), (reply::PULL_OFFSET_MOVED, 0, &[])),
        ((0, 5, "*", 32), (reply::PULL_NOT_FOUND, 5, &[])),
        ((0, 6, "*", 32), (reply::PULL_OFFSET_MOVED, 5, &[])),
        ((0, 1 << 40, "*", 32), (reply::PULL_OFFSET_MOVED, 5, &[])),
        ((0, 0, "*", 32), (reply::SUCCESS, 5, &[0, 1, 2, 3, 4])),
        ((0, 2, "*", 32), (reply::SUCCESS, 5, &[2, 3, 4])),
        ((0, 0, "*", 2), (reply::SUCCESS, 2, &[0, 1])),
        ((0, 0, "", 1), (reply::SUCCESS, 1, &[0])),
        ((0, 0, "A", 32), (reply::SUCCESS, 5, &[0, 1, 2])),
        ((0, 0, "B", 32), (reply::SUCCESS, 5, &[3, 4])),
        ((0, 0, "C || B", 1), (reply::SUCCESS, 4, &[3])),
        ((0, 0, "C", 32), (reply::PULL_RETRY, 5, &[])),
    ];
    for ((queue, offset, tags, most), (code, next, bodies)) in rows {
        let what = format!("queue {queue} offset {offset} tags '{tags}' most {most}");
        let got = client.pull(&Pull::new(&topic, queue, offset).tagged(tags).at_most(most));
        assert_eq!(
            (got.code, got.number("nextBeginOffset")),
            (code, next),
            "{what}: {got:?}"
        );
        let max = if queue == 0 { 5 } else { 0 };
        assert_eq!(
            (got.number("minOffset"), got.number("maxOffset")),
            (0, max),
            "{what}"
        );
        assert_eq!(got.number("suggestWhichBrokerId"), 0, "{what}");
        let found: Vec<u8> = records(&got.body).iter().map(|r| r.body[0]).collect();
        assert_eq!(found, bodies, "{what}");
    }
    for (queue, code) in [
        (2, reply::INVALID_PARAMETER),
        (-1, reply::INVALID_PARAMETER),
    ] {
        assert_eq!(
            client.pull(&Pull::new(&topic, queue, 0)).code,
            code,
            "queue {queue}"
        );
    }
    assert_eq!(
        client.pull(&Pull::new("no-such-topic", 0, 0)).code,
        reply::TOPIC_NOT_EXIST
    );
    // Without a subscription in the request there has to be one by heartbeat.
    let group = fresh("strangers");
    let mut stranger = Pull::new(&topic, 0, 0);
    stranger.sys_flag = 0;
    stranger.group = &group;
    assert_eq!(client.pull(&stranger).code, reply::SUBSCRIPTION_NOT_EXIST);
}

/// More than one pull looks at.
const COUNT: i64 = 3_000;

#[test]
fn a_pull_passes_over_long_stretches_of_other_tags() {
    let (_gantry, mut client, topic) = with_topic("stretch", 1);
    for n in 0..COUNT {
        let tag = if n == COUNT - 1 { "wanted" } else { "other" };
        client.post(
            code::SEND_V2,
            &send_ext(&topic, 0, &[("TAGS", tag)], false),
            b"x",
        );
    }
    client.flush().unwrap();
    let mut last = 0;
    for _ in 0..COUNT {
        let sent = client.next_reply().unwrap().expect(reply::SUCCESS);
        last = last.max(sent.number("queueOffset"));
    }
    assert_eq!(last, COUNT - 1);
    // Each answer moves on, and within few steps the one message is found.
    let (mut offset, mut steps, mut found) = (0, 0, 0);
    while offset < COUNT {
        let got = client.pull(&Pull::new(&topic, 0, offset).tagged("wanted"));
        let next = got.number("nextBeginOffset");
        assert!(next > offset, "stuck at {offset}: {got:?}");
        found += records(&got.body).len();
        (offset, steps) = (next, steps + 1);
    }
    assert_eq!(found, 1);
    assert!(steps <= 20, "{steps} pulls for {COUNT} entries");
}

#[test]
fn trap_60_tags_are_hashed_as_java_does() {
    let (_gantry, mut client, topic) = with_topic("hash", 1);
    // Beyond ASCII, beyond the basic plane, and two with one hash ("Aa" and "BB").
    let tags = ["TagA", "标签", "étiquette", "\u{1F680}go", "Aa", "BB"];
    for tag in tags {
        client
            .send(&topic, 0, tag.as_bytes(), &[("TAGS", tag)])
            .expect(reply::SUCCESS);
    }
    client.send(&topic, 0, b"none", &[]).expect(reply::SUCCESS);
    read_one(&mut client, &topic, 0, 6);
    for tag in tags {
        let got = client
            .pull(&Pull::new(&topic, 0, 0).tagged(tag))
            .expect(reply::SUCCESS);
        let bodies: Vec<Vec<u8>> = records(&got.body).into_iter().map(|r| r.body).collect();
        assert!(
            bodies.contains(&tag.as_bytes().to_vec()),
            "{tag}: {bodies:?}"
        );
        // A collision may pass, the client compares the text; nothing else may.
        let most = if tag == "Aa" || tag == "BB" { 2 } else { 1 };
        assert!(bodies.len() <= most, "{tag}: {bodies:?}");
    }
}

#[test]
fn trap_59_a_reply_is_bounded_but_the_first_message_always_comes() {
    let (_gantry, mut client, topic) = with_topic("bounds", 2);
    let big = vec![b'b'; 3 << 20];
    for _ in 0..2 {
        client.send(&topic, 0, &big, &[]).expect(reply::SUCCESS);
    }
    read_one(&mut client, &topic, 0, 1);
    let got = client.pull(&Pull::new(&topic, 0, 0)).expect(reply::SUCCESS);
    let all = records(&got.body);
    assert_eq!((all.len(), got.number("nextBeginOffset")), (1, 1));
    assert!(all[0].body == big);
    let small = vec![b's'; 30_000];
    for _ in 0..20 {
        client.send(&topic, 1, &small, &[]).expect(reply::SUCCESS);
    }
    read_one(&mut client, &topic, 1, 19);
    let got = client.pull(&Pull::new(&topic, 1, 0)).expect(reply::SUCCESS);
    let count = records(&got.body).len() as i64;
    assert!(
        (1..=9).contains(&count) && got.body.len() <= 300_000,
        "{count} messages"
    );
    assert_eq!(got.number("nextBeginOffset"), count);
}

#[test]
fn a_pull_waits_for_a_message_that_matches() {
    let (gantry, mut client, topic) = with_topic("wait", 1);
    let mut waiting = gantry.client();
    let pull = Pull::new(&topic, 0, 0).waiting(15_000).tagged("wanted");
    let opaque = waiting.post(code::PULL, &pull.ext(), b"");
    waiting.flush().unwrap();
    // It is in its place before anything is sent.
    std::thread::sleep(Duration::from_millis(500));
    // The connection is not held up: another request on it is answered meanwhile.
    waiting.call(
        code::MAX_OFFSET,
        &ext(&[("topic", &topic), ("queueId", "0")]),
        b"",
    );
    client
        .send(&topic, 0, b"no", &[("TAGS", "other")])
        .expect(reply::SUCCESS);
    std::thread::sleep(Duration::from_millis(500));
    let from = Instant::now();
    client
        .send(&topic, 0, b"yes", &[("TAGS", "wanted")])
        .expect(reply::SUCCESS);
    let got = waiting.reply_to(opaque).unwrap();
    let took = from.elapsed();
    // An answer to the message of another tag would have had code 20 or an empty body.
    assert_eq!(records(&got.expect(reply::SUCCESS).body)[0].body, b"yes");
    assert!(took < Duration::from_secs(1), "{took:?} after the message");
}

#[test]
fn a_pull_that_waits_in_vain_is_answered_in_time() {
    let (_gantry, mut client, topic) = with_topic("vain", 1);
    let from = Instant::now();
    let got = client.pull(&Pull::new(&topic, 0, 0).waiting(1_000));
    let took = from.elapsed().as_millis();
    assert_eq!(
        (got.code, got.number("nextBeginOffset")),
        (reply::PULL_NOT_FOUND, 0)
    );
    // The peer looks every 5 s, so up to that much later is what clients know.
    assert!((900..7_000).contains(&took), "{took} ms");
    // Without the flag nothing waits.
    let from = Instant::now();
    client
        .pull(&Pull::new(&topic, 0, 0))
        .expect(reply::PULL_NOT_FOUND);
    assert!(from.elapsed().as_millis() < 900);
}

#[test]
fn trap_30_the_vip_port_serves_the_same_queues() {
    let (gantry, mut client, topic) = with_topic("vip", 1);
    let mut vip = Client::connect(gantry.vip());
    let a = vip.send(&topic, 0, b"vip", &[]).expect(reply::SUCCESS);
    let b = client.send(&topic, 0, b"main", &[]).expect(reply::SUCCESS);
    assert_eq!((a.number("queueOffset"), b.number("queueOffset")), (0, 1));
    // Ids name the main port whichever the message came through.
    assert_eq!(a.ext["msgId"][..16], b.ext["msgId"][..16]);
}
