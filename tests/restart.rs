//! An ordered stop and a new start: everything is as it was.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::time::{Duration, Instant};

use common::client::Pull;
use common::process::run;
use common::{Client, Gantry, Record, code, ext, fresh, records, reply, until};

/// Enough for several segments of 8 MiB.
const BIG_COUNT: usize = 400;
const BIG_BYTES: usize = 60_000;

fn restart(gantry: &mut Gantry, signal: &str) {
    assert!(
        gantry.stop(signal).success(),
        "an ordered stop ends with success"
    );
    gantry.start();
    gantry.await_ready();
}

/// Sends numbered bodies one by one; a refusal because the disk is behind is tried again.
fn fill(client: &mut Client, topic: &str, queue: i32, count: usize, bytes: usize) {
    for n in 0..count {
        let mut body = format!("{n}:").into_bytes();
        body.resize(bytes.max(body.len()), b'f');
        let key = format!("key-{n}");
        let props = [
            ("KEYS", key.as_str()),
            ("TAGS", if n % 2 == 0 { "even" } else { "odd" }),
        ];
        until(30, "the send is taken", || {
            let answer = client.send(topic, queue, &body, &props);
            (answer.code != reply::SYSTEM_BUSY).then(|| answer.expect(reply::SUCCESS))
        });
    }
}

#[test]
fn messages_are_the_same_bytes_after_every_kind_of_stop() {
    let mut gantry = Gantry::up(&[]);
    let (topic, small) = (fresh("kept"), fresh("small"));
    let mut client = gantry.client();
    client.create_topic(&topic, 1);
    client.create_topic(&small, 3);
    fill(&mut client, &topic, 0, BIG_COUNT, BIG_BYTES);
    for queue in 0..3 {
        fill(&mut client, &small, queue, 50, 10);
    }
    let before: Vec<Record> = client.drain(&topic, 0, 0);
    let before_small: Vec<Record> = client.drain(&small, 1, 0);
    assert_eq!((before.len(), before_small.len()), (BIG_COUNT, 50));
    drop(client);
    for (round, signal) in ["TERM", "INT", "KILL"].into_iter().enumerate() {
        if signal == "KILL" {
            gantry.kill9();
            gantry.start();
            gantry.await_ready();
        } else {
            restart(&mut gantry, signal);
        }
        let mut client = gantry.client();
        assert!(client.drain(&topic, 0, 0) == before, "after {signal}");
        assert!(client.drain(&small, 1, 0) == before_small, "after {signal}");
        // New messages go on behind the old ones, in a queue that this test does not compare.
        let sent = client.send(&small, 2, b"more", &[]).expect(reply::SUCCESS);
        assert_eq!(
            sent.number("queueOffset"),
            50 + i64::try_from(round).unwrap()
        );
        // Filter, key index and times work on what was read back.
        let odd = Pull::new(&small, 1, 0).tagged("odd").at_most(5);
        let odd = records(&client.pull(&odd).expect(reply::SUCCESS).body);
        assert_eq!(
            odd.iter().map(|r| r.queue_offset).collect::<Vec<_>>(),
            [1, 3, 5, 7, 9]
        );
        let time = before[200].store_timestamp;
        let text = time.to_string();
        let at = client.offset(code::SEARCH_OFFSET, &topic, 0, &[("timestamp", &text)]);
        let expected = before
            .iter()
            .position(|r| r.store_timestamp >= time)
            .unwrap();
        assert_eq!(usize::try_from(at).unwrap(), expected);
        let by_key = ext(&[
            ("topic", &topic),
            ("key", "key-123"),
            ("maxNum", "8"),
            ("beginTimestamp", "0"),
            ("endTimestamp", "9223372036854775807"),
        ]);
        let found = client
            .call(code::QUERY_MESSAGE, &by_key, b"")
            .expect(reply::SUCCESS);
        assert!(
            records(&found.body) == [before[123].clone()],
            "key after {signal}"
        );
        let viewed = ext(&[("offset", &before[7].physical_offset.to_string())]);
        let viewed = client
            .call(code::VIEW_MESSAGE, &viewed, b"")
            .expect(reply::SUCCESS);
        assert!(
            records(&viewed.body) == [before[7].clone()],
            "by offset after {signal}"
        );
    }
}

/// Ext fields that name a group's place in queue 4.
fn at_queue(group: &str, topic: &str, more: &[(&str, &str)]) -> Vec<(String, String)> {
    let base = [("consumerGroup", group), ("topic", topic), ("queueId", "4")];
    ext(&base
        .into_iter()
        .chain(more.iter().copied())
        .collect::<Vec<_>>())
}

/// A heartbeat of one consumer without subscriptions: the group is known from then on.
fn join_group(client: &mut Client, group: &str) {
    let consumer = serde_json::json!({"groupName": group, "consumeType": "CONSUME_PASSIVELY",
        "messageModel": "CLUSTERING", "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET",
        "unitMode": false, "subscriptionDataSet": []});
    let body = serde_json::json!({"clientID": "c", "producerDataSet": [],
        "consumerDataSet": [consumer]});
    client
        .call(code::HEART_BEAT, &[], body.to_string().as_bytes())
        .expect(0);
}

#[test]
fn offsets_topics_and_groups_survive() {
    let mut gantry = Gantry::up(&[]);
    let (topic, deleted, group) = (fresh("t"), fresh("gone"), fresh("g"));
    let mut client = gantry.client();
    client.create_topic(&topic, 5);
    client.create_topic(&deleted, 1);
    fill(&mut client, &topic, 4, 10, 20);
    fill(&mut client, &deleted, 0, 10, 20);
    let named = ext(&[("topic", &deleted)]);
    client
        .call(code::DELETE_TOPIC_IN_BROKER, &named, b"")
        .expect(0);
    join_group(&mut client, &group);
    client
        .call(
            code::UPDATE_CONSUMER_OFFSET,
            &at_queue(&group, &topic, &[("commitOffset", "7")]),
            b"",
        )
        .expect(0);
    drop(client);
    restart(&mut gantry, "TERM");
    let mut client = gantry.client();
    let known = client
        .call(
            code::QUERY_CONSUMER_OFFSET,
            &at_queue(&group, &topic, &[]),
            b"",
        )
        .expect(0);
    assert_eq!(known.number("offset"), 7);
    let mut namesrv = gantry.namesrv_client();
    let route = namesrv
        .call(code::ROUTE, &ext(&[("topic", &topic)]), b"")
        .expect(0)
        .text();
    assert!(route.contains("\"readQueueNums\":5"), "{route}");
    let retry = format!("%RETRY%{group}");
    namesrv
        .call(code::ROUTE, &ext(&[("topic", &retry)]), b"")
        .expect(0);
    let gone = namesrv.call(code::ROUTE, &named, b"");
    assert_eq!(gone.code, reply::TOPIC_NOT_EXIST);
    client.create_topic(&deleted, 1);
    assert_eq!(client.offset(code::MAX_OFFSET, &deleted, 0, &[]), 0);
}

/// Commits an offset of queue 4; the broker is killed more than a second later and starts again.
fn commit_and_kill(gantry: &mut Gantry, group: &str, topic: &str, offset: i64) {
    let offset = offset.to_string();
    let commit = at_queue(group, topic, &[("commitOffset", &offset)]);
    gantry
        .client()
        .call(code::UPDATE_CONSUMER_OFFSET, &commit, b"")
        .expect(0);
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    gantry.kill9();
    gantry.start();
    gantry.await_ready();
}

/// The offset a group has committed of queue 4.
fn committed(gantry: &Gantry, group: &str, topic: &str) -> i64 {
    let query = at_queue(group, topic, &[]);
    let known = gantry
        .client()
        .call(code::QUERY_CONSUMER_OFFSET, &query, b"")
        .expect(0);
    known.number("offset")
}

#[test]
fn an_offset_committed_a_second_ago_survives_a_kill() {
    let mut gantry = Gantry::up(&[]);
    let (topic, group) = (fresh("t"), fresh("g"));
    let mut client = gantry.client();
    client.create_topic(&topic, 5);
    fill(&mut client, &topic, 4, 10, 20);
    join_group(&mut client, &group);
    commit_and_kill(&mut gantry, &group, &topic, 9);
    assert_eq!(committed(&gantry, &group, &topic), 9);
}

#[test]
fn a_stop_answers_what_waits_and_says_what_it_did() {
    let mut gantry = Gantry::up(&[]);
    let topic = fresh("held");
    let mut client = gantry.client();
    client.create_topic(&topic, 1);
    client.post(
        code::PULL,
        &Pull::new(&topic, 0, 0).waiting(20_000).ext(),
        b"",
    );
    client.flush().unwrap();
    let from = std::time::Instant::now();
    assert!(gantry.stop("INT").success());
    assert!(
        from.elapsed().as_secs() < 10,
        "a held pull keeps the process for {:?}",
        from.elapsed()
    );
    // Answered or closed; not left hanging.
    let _ = client.next_reply();
    assert!(!gantry.log().trim().is_empty(), "no report");
}

#[test]
fn one_data_folder_serves_one_process() {
    let gantry = Gantry::up(&[]);
    let data = gantry.dir().join("data");
    let ip = common::process::fresh_ip().to_string();
    let args = ["up", "--data", data.to_str().unwrap(), "--listen", &ip];
    let (ok, out, err) = run(&args, b"");
    assert!(!ok, "a second process on the same data: {out}");
    let said = format!("{out}{err}");
    assert!(
        said.contains(data.to_str().unwrap()),
        "it does not name the folder: {said}"
    );
    // And the first one is not disturbed.
    gantry
        .client()
        .send(&fresh("fine"), 0, b"x", &[])
        .expect(reply::SUCCESS);
}

#[test]
fn a_taken_port_is_named() {
    let gantry = Gantry::up(&[]);
    let scratch = common::process::Scratch::new();
    let ip = gantry.ip().to_string();
    let data = scratch.path().join("data").display().to_string();
    let (ok, out, err) = run(&["up", "--data", &data, "--listen", &ip], b"");
    assert!(!ok);
    let said = format!("{out}{err}");
    assert!(
        said.contains("10911") || said.contains("9876") || said.contains("10909"),
        "{said}"
    );
    assert!(said.contains("(gantry) has it"), "{said}");
}

/// Starts a process and asks it to stop as soon as it would hear that: how long the stop took.
fn stopped_while_it_starts(gantry: &mut Gantry) -> Duration {
    gantry.start();
    until(10, "it catches SIGTERM", || {
        gantry.catches_term().then_some(())
    });
    let begun = Instant::now();
    assert!(gantry.stop("TERM").success(), "an ordered stop");
    let log = gantry.log();
    assert!(log.contains("stopped before it was up"), "{log}");
    assert!(!log.contains("ready:"), "{log}");
    begun.elapsed()
}

#[test]
fn a_start_that_waits_for_its_port_can_be_stopped() {
    let mut gantry = Gantry::prepared(&[]);
    let _taken = std::net::TcpListener::bind(gantry.broker()).unwrap();
    let took = stopped_while_it_starts(&mut gantry);
    assert!(took < Duration::from_secs(2), "{took:?}");
}

/// What was made of a new store by then is no obstacle to the next start.
#[test]
fn a_start_that_recovers_can_be_stopped() {
    let mut gantry = Gantry::prepared(&["shardCount=16"]);
    let took = stopped_while_it_starts(&mut gantry);
    assert!(took < Duration::from_secs(5), "{took:?}");
    gantry.start();
    gantry.await_ready();
    gantry
        .client()
        .send(&fresh("later"), 0, b"x", &[])
        .expect(0);
}

#[test]
fn a_restart_keeps_answers_in_step_with_the_log() {
    // Many short lives with a little traffic each: offsets go on without a gap or a repeat.
    let mut gantry = Gantry::up(&[]);
    let topic = fresh("lives");
    gantry.client().create_topic(&topic, 1);
    for life in 0..6_i64 {
        let mut client = gantry.client();
        for n in 0..20_i64 {
            let sent = client
                .send(&topic, 0, &[u8::try_from(n).unwrap()], &[])
                .expect(0);
            assert_eq!(sent.number("queueOffset"), life * 20 + n);
        }
        drop(client);
        if life % 2 == 0 {
            restart(&mut gantry, "TERM");
        } else {
            gantry.kill9();
            gantry.start();
            gantry.await_ready();
        }
    }
    let all = until(5, "all are readable", || {
        let all = gantry.client().drain(&topic, 0, 0);
        (all.len() == 120).then_some(all)
    });
    for (at, record) in all.iter().enumerate() {
        assert_eq!(record.body, [u8::try_from(at % 20).unwrap()]);
    }
}

/// Whether `client_id` owns queue 4 once it has asked for it.
fn locks_queue_4(gantry: &Gantry, group: &str, topic: &str, client_id: &str) -> bool {
    let asked = ext(&[("topic", topic)]);
    let route = gantry.namesrv_client().call(code::ROUTE, &asked, b"");
    let route: serde_json::Value = serde_json::from_slice(&route.expect(0).body).unwrap();
    let broker = &route["brokerDatas"][0]["brokerName"];
    let body = serde_json::json!({"consumerGroup": group, "clientId": client_id,
        "mqSet": [{"topic": topic, "brokerName": broker, "queueId": 4}]});
    let answer = gantry
        .client()
        .call(code::LOCK_BATCH, &[], body.to_string().as_bytes())
        .expect(0);
    let owned: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    owned["lockOKMQSet"].as_array().unwrap().len() == 1
}

/// Strict order over a death of the broker: the queue has one owner again, whoever asks first, and
/// goes on where the group was, in the order it was sent.
#[test]
fn an_orderly_queue_goes_on_in_order_after_a_kill() {
    let mut gantry = Gantry::up(&[]);
    let (topic, group) = (fresh("orderly"), fresh("g"));
    let mut client = gantry.client();
    client.create_topic(&topic, 5);
    fill(&mut client, &topic, 4, 10, 20);
    join_group(&mut client, &group);
    assert!(locks_queue_4(&gantry, &group, &topic, "one"));
    assert!(!locks_queue_4(&gantry, &group, &topic, "two"));
    commit_and_kill(&mut gantry, &group, &topic, 4);
    assert!(locks_queue_4(&gantry, &group, &topic, "two"));
    assert!(!locks_queue_4(&gantry, &group, &topic, "one"));
    assert_eq!(committed(&gantry, &group, &topic), 4);
    let rest = gantry.client().drain(&topic, 4, 4);
    let numbers: Vec<String> = rest
        .iter()
        .map(|record| {
            String::from_utf8_lossy(&record.body)
                .split(':')
                .next()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(numbers, ["4", "5", "6", "7", "8", "9"]);
}

/// `gantry up | head`, or a collector of logs that has died: the broker goes on, and stops in
/// order.
#[test]
fn nobody_has_to_read_what_it_prints() {
    let mut gantry = Gantry::prepared(&[]);
    gantry.start_unread();
    until(30, "it listens", || {
        std::net::TcpStream::connect(gantry.broker()).ok()
    });
    let topic = fresh("unread");
    let stored = until(30, "a send is taken", || {
        let answer = gantry.client().send(&topic, 0, b"unread", &[]);
        (answer.code == reply::SUCCESS).then_some(answer)
    });
    assert_eq!(stored.number("queueOffset"), 0);
    assert!(gantry.stop("TERM").success(), "an ordered stop");
    gantry.start();
    gantry.await_ready();
    assert_eq!(gantry.client().drain(&topic, 0, 0).len(), 1);
}

/// What is wrong with the tables ends the start and is named; the shards are as they were.
#[test]
fn tables_that_cannot_be_read_end_a_start_and_harm_nothing() {
    let mut gantry = Gantry::up(&[]);
    let topic = fresh("tables");
    let mut client = gantry.client();
    client.create_topic(&topic, 1);
    client.send(&topic, 0, b"kept", &[]).expect(0);
    assert!(gantry.stop("TERM").success());
    let tables = gantry.data().join("tables/tables.redb");
    let whole = std::fs::read(&tables).unwrap();
    std::fs::write(&tables, b"no tables").unwrap();
    gantry.start();
    assert!(!gantry.ends_within(10).success());
    let log = gantry.log();
    assert!(log.contains("tables.redb"), "{log}");
    std::fs::write(&tables, whole).unwrap();
    gantry.start();
    gantry.await_ready();
    let records = gantry.client().drain(&topic, 0, 0);
    assert_eq!(records.len(), 1);
}
