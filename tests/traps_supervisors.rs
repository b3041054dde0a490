//! Traps about retries, transactions and timers, each by its number; the table of all is in
//! `tests/README.md`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::time::{Duration, Instant};

use common::client::send_ext;
use common::{Client, Frame, Gantry, Record, code, ext, fresh, records, reply, until};
use serde_json::json;

const SEND_BACK: i32 = 36;
const END: i32 = 37;
const CHECK: i32 = 39;
const SAVE_GROUP: i32 = 200;
const RECALL: i32 = 370;
const LEVELS: &str = "messageDelayLevel=1s 1s 1s 1s 1s 1s";

fn body(record: &Record) -> String {
    String::from_utf8(record.body.clone()).unwrap()
}

fn physical(sent: &Frame) -> i64 {
    i64::from_str_radix(&sent.ext["msgId"][16..], 16).unwrap()
}

fn max(client: &mut Client, topic: &str) -> i64 {
    client.offset(code::MAX_OFFSET, topic, 0, &[])
}

fn send_back(client: &mut Client, group: &str, at: i64, limit: Option<&str>) {
    let mut fields = ext(&[
        ("group", group),
        ("offset", &at.to_string()),
        ("delayLevel", "1"),
        ("originMsgId", "any"),
        ("originTopic", "any"),
        ("unitMode", "false"),
    ]);
    if let Some(limit) = limit {
        fields.extend(ext(&[("maxReconsumeTimes", limit)]));
    }
    let told = client.call(SEND_BACK, &fields, b"");
    told.expect(reply::SUCCESS);
}

/// The offset of a message sent back is its place in the log; the request's limit of tries wins
/// over the group's, in both directions.
#[test]
fn trap_79_a_send_back_names_the_place_in_the_log_and_its_own_limit_wins() {
    let gantry = Gantry::up(&[LEVELS]);
    let mut client = gantry.client();
    let (topic, group) = (fresh("back"), fresh("back-group"));
    let (again, dead) = (format!("%RETRY%{group}"), format!("%DLQ%{group}"));
    client.create_topic(&topic, 1);
    let config = json!({"groupName": group, "consumeEnable": true,
        "consumeFromMinEnable": true, "consumeBroadcastEnable": true, "retryQueueNums": 1,
        "retryMaxTimes": 1, "brokerId": 0, "whichBrokerWhenConsumeSlowly": 1,
        "notifyConsumerIdsChangedEnable": true});
    let saved = client.call(SAVE_GROUP, &[], config.to_string().as_bytes());
    saved.expect(reply::SUCCESS);
    let mut places = Vec::new();
    for text in ["zero", "one", "two"] {
        let sent = client.send(&topic, 0, text.as_bytes(), &[]);
        places.push(physical(&sent.expect(reply::SUCCESS)));
    }
    // Its queue offset is 1, which is no place of a record.
    send_back(&mut client, &group, places[1], None);
    let tries = until(10, "the first try", || {
        let tries = client.drain(&again, 0, 0);
        (!tries.is_empty()).then_some(tries)
    });
    assert_eq!(body(&tries[0]), "one");
    // Tried once: the group would give it up now, the request doesn't.
    send_back(&mut client, &group, tries[0].physical_offset, Some("5"));
    let tries = until(10, "the second try", || {
        let tries = client.drain(&again, 0, 0);
        (tries.len() == 2).then_some(tries)
    });
    assert_eq!(body(&tries[1]), "one");
    // Never tried: the group would go on, the request doesn't.
    send_back(&mut client, &group, places[2], Some("0"));
    let given_up = client.drain(&dead, 0, 0);
    assert_eq!(given_up.iter().map(body).collect::<Vec<_>>(), ["two"]);
    send_back(&mut client, &group, tries[1].physical_offset, None);
    assert_eq!(max(&mut client, &dead), 2);
}

/// What consumers in order give up is a dead letter at once: another try would come out of order.
#[test]
fn trap_80_while_a_group_holds_queue_locks_its_retries_are_dead_letters() {
    let gantry = Gantry::up(&[LEVELS]);
    let mut client = gantry.client();
    let (topic, group) = (fresh("orderly"), fresh("orderly-group"));
    let (again, dead) = (format!("%RETRY%{group}"), format!("%DLQ%{group}"));
    client.create_topic(&topic, 1);
    client.beat("c", &group, &topic).expect(reply::SUCCESS);
    let broker = client.call(code::GET_BROKER_CONFIG, &[], b"").text();
    let name = broker
        .lines()
        .find_map(|line| line.strip_prefix("brokerName="));
    let queue = json!({"topic": topic, "brokerName": name.unwrap(), "queueId": 0});
    let locks = json!({"consumerGroup": group, "clientId": "c", "mqSet": [queue]}).to_string();
    let mut fields = send_ext(&again, 0, &[("DELAY", "1")], false);
    for (name, value) in &mut fields {
        if name == "j" {
            "1".clone_into(value);
        }
    }
    let locked = client.call(code::LOCK_BATCH, &[], locks.as_bytes());
    assert!(locked.expect(reply::SUCCESS).text().contains(&topic));
    let sent = client.call(code::SEND_V2, &fields, b"in order");
    sent.expect(reply::SUCCESS);
    until(5, "the dead letter", || {
        let letters = client.drain(&dead, 0, 0);
        (letters.iter().map(body).collect::<Vec<_>>() == ["in order"]).then_some(())
    });
    let freed = client.call(code::UNLOCK_BATCH, &[], locks.as_bytes());
    freed.expect(reply::SUCCESS);
    let sent = client.call(code::SEND_V2, &fields, b"any order");
    sent.expect(reply::SUCCESS);
    until(10, "the try", || {
        let tries = client.drain(&again, 0, 0);
        (tries.iter().map(body).collect::<Vec<_>>() == ["any order"]).then_some(())
    });
    assert_eq!(max(&mut client, &dead), 1);
}

fn join(client: &mut Client, id: &str, group: &str) {
    let body = json!({"clientID": id, "consumerDataSet": [],
        "producerDataSet": [{"groupName": group}]});
    let beat = body.to_string();
    let told = client.call(code::HEART_BEAT, &[], beat.as_bytes());
    told.expect(reply::SUCCESS);
}

fn send_half(
    client: &mut Client,
    topic: &str,
    queue: i32,
    group: &str,
    more: &[(&str, &str)],
) -> Frame {
    let half = [("TRAN_MSG", "true"), ("PGROUP", group)];
    let unique = [("UNIQ_KEY", topic)];
    let mut fields = send_ext(
        topic,
        queue,
        &[&half[..], &unique[..], more].concat(),
        false,
    );
    let born = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    for (name, value) in &mut fields {
        match name.as_str() {
            "f" => "4".clone_into(value),
            "g" => *value = born.as_millis().to_string(),
            _ => {}
        }
    }
    let sent = client.call(code::SEND_V2, &fields, b"half");
    sent.expect(reply::SUCCESS)
}

/// A client answers a check by what the header says; a wrong number there, and its commit fails.
#[test]
fn trap_82_a_check_names_the_half_record_and_its_body_the_real_queue() {
    let gantry = Gantry::up(&["transactionTimeOut=500", "transactionCheckInterval=300"]);
    let mut client = gantry.client();
    let (topic, group) = (fresh("asked"), fresh("askers"));
    client.create_topic(&topic, 2);
    join(&mut client, "a", &group);
    // Another message and another half before it: no number is right by being 0.
    client.send(&topic, 1, b"plain", &[]).expect(reply::SUCCESS);
    let other = fresh("other");
    client.create_topic(&other, 2);
    send_half(&mut client, &other, 1, "nobody", &[]);
    let sent = send_half(&mut client, &topic, 1, &group, &[]);
    let check = client.await_push(CHECK);
    assert_eq!(check.ext["commitLogOffset"], physical(&sent).to_string());
    assert_eq!(check.ext["tranStateTableOffset"], sent.ext["queueOffset"]);
    let asked = &records(&check.body)[0];
    assert_eq!((&asked.topic, asked.queue_id), (&topic, 1));
    let commit = ext(&[
        ("producerGroup", &group),
        ("tranStateTableOffset", &check.ext["tranStateTableOffset"]),
        ("commitLogOffset", &check.ext["commitLogOffset"]),
        ("commitOrRollback", "8"),
        ("fromTransactionCheck", "true"),
        ("msgId", &check.ext["msgId"]),
    ]);
    client.call(END, &commit, b"").expect(reply::SUCCESS);
    let all: Vec<String> = client.drain(&topic, 1, 0).iter().map(body).collect();
    assert_eq!(all, ["plain", "half"]);
}

/// A producer of another group has no answer, and the transaction would never end.
#[test]
fn trap_83_nobody_but_the_half_s_own_group_is_asked() {
    let gantry = Gantry::up(&["transactionTimeOut=300", "transactionCheckInterval=200"]);
    let (topic, group) = (fresh("mine"), fresh("mine-group"));
    let mut stranger = gantry.client();
    stranger.create_topic(&topic, 1);
    join(&mut stranger, "stranger", &fresh("strangers"));
    // Even though the stranger's connection has sent it.
    send_half(&mut stranger, &topic, 0, &group, &[]);
    let patience = Some(Duration::from_secs(2));
    stranger.stream().set_read_timeout(patience).unwrap();
    let heard = stranger.next_frame();
    assert!(heard.is_err(), "a stranger is asked: {heard:?}");
    let mut own = gantry.client();
    join(&mut own, "own", &group);
    assert_eq!(records(&own.await_push(CHECK).body)[0].topic, topic);
}

/// With the defaults the first check comes after 6 s at the earliest, and a message may ask for
/// longer peace.
#[test]
fn trap_112_no_check_comes_before_its_time_and_immunity_counts() {
    let gantry = Gantry::up(&["transactionTimeOut=1500", "transactionCheckInterval=200"]);
    let (soon, later) = (fresh("soon"), fresh("later"));
    let mut client = gantry.client();
    let group = fresh("patient");
    join(&mut client, "p", &group);
    let immune = [("CHECK_IMMUNITY_TIME_IN_SECONDS", "3")];
    for (topic, more) in [(&soon, &[][..]), (&later, &immune[..])] {
        client.create_topic(topic, 1);
        send_half(&mut client, topic, 0, &group, more);
    }
    let sent = Instant::now();
    let mut seen = Vec::new();
    while !seen.contains(&later) {
        let asked = records(&client.await_push(CHECK).body)[0].topic.clone();
        let least = if asked == soon { 1_300 } else { 2_800 };
        let took = sent.elapsed();
        assert!(
            took > Duration::from_millis(least),
            "{asked} after {took:?}"
        );
        assert!(took < Duration::from_secs(6), "{asked} after {took:?}");
        seen.push(asked);
    }
    assert_eq!(seen[0], soon);
}

/// 5.5.0 refuses recalls unless `recallMessageEnable` is set; the message comes all the same.
#[test]
fn trap_90_a_recall_is_refused_unless_it_was_enabled() {
    let gantry = Gantry::up(&[]);
    let mut client = gantry.client();
    let topic = fresh("kept");
    client.create_topic(&topic, 1);
    let timer = [("TIMER_DELAY_MS", "1500"), ("UNIQ_KEY", "u")];
    let sent = client.send(&topic, 0, b"kept", &timer);
    let handle = sent.expect(reply::SUCCESS).ext["recallHandle"].clone();
    let recall = ext(&[("topic", &topic), ("recallHandle", &handle)]);
    let told = client.call(RECALL, &recall, b"");
    told.expect(reply::NO_PERMISSION);
    until(5, "the message", || {
        (max(&mut client, &topic) == 1).then_some(())
    });
}
