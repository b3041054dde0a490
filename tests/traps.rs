//! Traps for brokers of this protocol that no other suite springs, each by its number; the table of
//! all of them is in `tests/README.md`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::time::{Duration, Instant};

use common::client::{Pull, send_ext};
use common::record::batch_element;
use common::{Client, Gantry, code, ext, fresh, properties, records, reply, until};
use serde_json::Value;

fn with_topic(stem: &str, queues: i32) -> (Gantry, Client, String) {
    let gantry = Gantry::up(&[]);
    let mut client = gantry.client();
    let topic = fresh(stem);
    client.create_topic(&topic, queues);
    (gantry, client, topic)
}

fn readable(client: &mut Client, topic: &str, queue: i32, count: i64) {
    until(5, "all are readable", || {
        (client.offset(code::MAX_OFFSET, topic, queue, &[]) == count).then_some(())
    });
}

/// Java unboxes these without a look, and asks slave 1 when nobody is suggested.
#[test]
fn traps_3_63_replies_of_sends_and_pulls_have_all_their_numbers() {
    let (_gantry, mut client, topic) = with_topic("numbers", 1);
    let sent = client.send(&topic, 0, b"x", &[]).expect(reply::SUCCESS);
    assert_eq!((sent.number("queueId"), sent.number("queueOffset")), (0, 0));
    client
        .send(&topic, 0, b"x", &[("TAGS", "other")])
        .expect(reply::SUCCESS);
    readable(&mut client, &topic, 0, 2);
    let rows = [
        (Pull::new(&topic, 0, 0), reply::SUCCESS),
        (Pull::new(&topic, 0, 2), reply::PULL_NOT_FOUND),
        (Pull::new(&topic, 0, 0).tagged("none"), reply::PULL_RETRY),
        (Pull::new(&topic, 0, 9), reply::PULL_OFFSET_MOVED),
        (Pull::new(&topic, 0, -1), reply::PULL_OFFSET_MOVED),
    ];
    for (pull, code) in rows {
        let got = client.pull(&pull).expect(code);
        assert_eq!((got.number("minOffset"), got.number("maxOffset")), (0, 2));
        assert_eq!(got.number("suggestWhichBrokerId"), 0, "{:?}", got.ext);
        assert!((0..=2).contains(&got.number("nextBeginOffset")));
    }
}

#[test]
fn trap_12_a_held_pull_holds_up_nothing_else_on_its_connection() {
    let (gantry, mut client, topic) = with_topic("held", 4);
    let group = fresh("holders");
    client.beat("holder", &group, &topic).expect(reply::SUCCESS);
    let mut held = Vec::new();
    for queue in 0..4 {
        let pull = Pull::new(&topic, queue, 0).waiting(15_000);
        held.push(client.post(code::PULL, &pull.ext(), b""));
    }
    client.flush().unwrap();
    // Longer than this the clients do not wait for what follows.
    let end = Instant::now() + Duration::from_secs(3);
    client.beat("holder", &group, &topic).expect(reply::SUCCESS);
    let fields = ext(&[
        ("consumerGroup", &group),
        ("topic", &topic),
        ("queueId", "0"),
        ("commitOffset", "0"),
    ]);
    client
        .call(code::UPDATE_CONSUMER_OFFSET, &fields, b"")
        .expect(reply::SUCCESS);
    let list = ext(&[("consumerGroup", &group)]);
    client
        .call(code::CONSUMER_LIST, &list, b"")
        .expect(reply::SUCCESS);
    client
        .pull(&Pull::new(&topic, 0, 0))
        .expect(reply::PULL_NOT_FOUND);
    assert!(Instant::now() < end);
    // The last one held is answered first: they do not hold up each other either.
    for queue in (0..4).rev() {
        gantry
            .client()
            .send(&topic, queue, b"x", &[])
            .expect(reply::SUCCESS);
        client
            .reply_to(held.pop().unwrap())
            .unwrap()
            .expect(reply::SUCCESS);
    }
}

#[test]
fn trap_39_the_field_m_says_whether_it_is_a_batch_not_the_code() {
    let (_gantry, mut client, topic) = with_topic("m", 2);
    let mut body = batch_element(b"one", "");
    body.extend(batch_element(b"two", ""));
    let batch = send_ext(&topic, 0, &[], true);
    client
        .call(code::SEND_V2, &batch, &body)
        .expect(reply::SUCCESS);
    let single = send_ext(&topic, 1, &[], false);
    client
        .call(code::SEND_BATCH, &single, &body)
        .expect(reply::SUCCESS);
    readable(&mut client, &topic, 0, 2);
    readable(&mut client, &topic, 1, 1);
    let bodies = |records: Vec<common::Record>| -> Vec<Vec<u8>> {
        records.into_iter().map(|r| r.body).collect()
    };
    assert_eq!(bodies(client.drain(&topic, 0, 0)), [b"one", b"two"]);
    assert_eq!(bodies(client.drain(&topic, 1, 0)), [body]);
}

#[test]
fn traps_61_64_untagged_messages_are_read_and_every_offset_is_exact() {
    let (_gantry, mut client, topic) = with_topic("exact", 1);
    // 0 untagged, 1 to 3 a batch of a, b, a; then b, a, untagged.
    client.send(&topic, 0, b"0", &[]).expect(reply::SUCCESS);
    let mut body = Vec::new();
    for tag in ["a", "b", "a"] {
        body.extend(batch_element(b"x", &properties(&[("TAGS", tag)])));
    }
    let batch = send_ext(&topic, 0, &[], true);
    client
        .call(code::SEND_BATCH, &batch, &body)
        .expect(reply::SUCCESS);
    for props in [&[("TAGS", "b")][..], &[("TAGS", "a")], &[]] {
        client.send(&topic, 0, b"x", props).expect(reply::SUCCESS);
    }
    readable(&mut client, &topic, 0, 7);
    for (tags, wanted) in [
        ("*", vec![0, 1, 2, 3, 4, 5, 6]),
        ("a", vec![1, 3, 5]),
        ("b", vec![2, 4]),
        ("a || b", vec![1, 2, 3, 4, 5]),
    ] {
        // One by one, from where the reply says: none twice, none left out, none out of place.
        for most in [1, 32] {
            let (mut offset, mut seen) = (0, Vec::new());
            while offset < 7 {
                let pull = Pull::new(&topic, 0, offset).tagged(tags).at_most(most);
                let got = client.pull(&pull);
                let found = records(&got.body);
                let next = got.number("nextBeginOffset");
                assert!(next > offset, "{tags}: {next} after {offset}");
                if let Some(last) = found.last() {
                    assert!(next > last.queue_offset, "{tags}: {next}");
                }
                seen.extend(found.iter().map(|r| r.queue_offset));
                offset = next;
            }
            assert_eq!(seen, wanted, "{tags}, {most} at a time");
        }
    }
}

/// Whoever asks, and over whichever connection: one list, as new as the last heartbeat's answer.
#[test]
fn trap_72_nobody_gets_a_stale_list_of_members() {
    let (gantry, mut first, topic) = with_topic("stale", 1);
    let group = fresh("listed");
    let mut others: Vec<Client> = Vec::new();
    let list = ext(&[("consumerGroup", &group)]);
    let ids = |client: &mut Client| -> Vec<String> {
        let got = client.call(code::CONSUMER_LIST, &list, b"");
        let body: Value = serde_json::from_slice(&got.expect(reply::SUCCESS).body).unwrap();
        let mut ids: Vec<String> = serde_json::from_value(body["consumerIdList"].clone()).unwrap();
        ids.sort();
        ids
    };
    let mut wanted = vec!["id-0".to_owned()];
    first.beat("id-0", &group, &topic).expect(reply::SUCCESS);
    for n in 1..20 {
        let mut next = gantry.client();
        let id = format!("id-{n}");
        next.beat(&id, &group, &topic).expect(reply::SUCCESS);
        wanted.push(id);
        wanted.sort();
        others.push(next);
        assert_eq!(ids(&mut first), wanted);
        assert_eq!(ids(&mut others[(n - 1) / 2]), wanted);
    }
}

/// Level 1 is a second. The reply names the parked record; what arrives goes round no second time.
#[test]
fn traps_50_51_108_a_delayed_message_is_parked_then_wakes_a_held_pull_once() {
    let (gantry, mut client, topic) = with_topic("later", 1);
    let held = client.post(
        code::PULL,
        &Pull::new(&topic, 0, 0).waiting(15_000).ext(),
        b"",
    );
    client.flush().unwrap();
    let began = Instant::now();
    let mut producer = gantry.client();
    let sent = producer
        .send(&topic, 0, b"later", &[("DELAY", "1")])
        .expect(reply::SUCCESS);
    let parked = i64::from_str_radix(&sent.ext["msgId"][16..], 16).unwrap();
    let at = ext(&[("offset", &parked.to_string())]);
    let shown = producer
        .call(code::VIEW_MESSAGE, &at, b"")
        .expect(reply::SUCCESS);
    assert_eq!(records(&shown.body)[0].topic, "SCHEDULE_TOPIC_XXXX");
    let got = client.reply_to(held).unwrap().expect(reply::SUCCESS);
    let took = began.elapsed();
    assert_eq!(records(&got.body)[0].body, b"later");
    assert!(
        took >= Duration::from_millis(900) && took < Duration::from_secs(3),
        "{took:?}"
    );
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(client.offset(code::MAX_OFFSET, &topic, 0, &[]), 1);
}
