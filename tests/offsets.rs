//! Where a queue begins and ends, what was stored when, and how far a group has come.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::time::Duration;

use common::client::Pull;
use common::{Client, Gantry, Record, code, ext, fresh, records, reply};

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

#[test]
fn offsets_by_bound_and_by_time() {
    let (_gantry, mut client, topic) = with_topic("offsets", 2);
    let mut times = Vec::new();
    for n in 0..4 {
        client.send(&topic, 0, &[n], &[]).expect(reply::SUCCESS);
        times.push(read_one(&mut client, &topic, 0, i64::from(n)).store_timestamp);
        std::thread::sleep(Duration::from_millis(30));
    }
    assert_eq!(client.offset(code::MIN_OFFSET, &topic, 0, &[]), 0);
    assert_eq!(client.offset(code::MAX_OFFSET, &topic, 0, &[]), 4);
    assert_eq!(client.offset(code::MAX_OFFSET, &topic, 1, &[]), 0);
    let mut at = |time: i64, more: &[(&str, &str)]| {
        let text = time.to_string();
        let pairs: Vec<(&str, &str)> = [("timestamp", text.as_str())]
            .into_iter()
            .chain(more.iter().copied())
            .collect();
        client.offset(code::SEARCH_OFFSET, &topic, 0, &pairs)
    };
    assert_eq!(at(times[0] - 1_000, &[]), 0);
    assert_eq!(at(times[2], &[]), 2);
    assert_eq!(at(times[1] + 1, &[]), 2);
    assert_eq!(at(times[3] + 60_000, &[]), 4);
    let fields = ext(&[("topic", &topic), ("queueId", "0")]);
    let earliest = client
        .call(code::EARLIEST_STORE_TIME, &fields, b"")
        .expect(reply::SUCCESS);
    assert_eq!(earliest.number("timestamp"), times[0]);
}

#[test]
fn consumer_offsets_are_kept_as_committed() {
    let (_gantry, mut client, topic) = with_topic("commit", 2);
    client.send(&topic, 0, b"x", &[]).expect(reply::SUCCESS);
    let group = fresh("committers");
    let fields = |more: &[(&str, &str)]| {
        let pairs = [
            ("consumerGroup", group.as_str()),
            ("topic", &topic),
            ("queueId", "0"),
        ];
        ext(&pairs
            .into_iter()
            .chain(more.iter().copied())
            .collect::<Vec<_>>())
    };
    let query = |client: &mut Client, more: &[(&str, &str)]| {
        client.call(code::QUERY_CONSUMER_OFFSET, &fields(more), b"")
    };
    // Nothing is known of a queue that was never used, or of a topic that is not there.
    for (topic, queue) in [(topic.as_str(), "1"), ("no-such-topic", "0")] {
        let fields = ext(&[
            ("consumerGroup", &group),
            ("topic", topic),
            ("queueId", queue),
        ]);
        client
            .call(code::QUERY_CONSUMER_OFFSET, &fields, b"")
            .expect(reply::QUERY_NOT_FOUND);
    }
    // A queue whose first message is still there starts new groups at 0, unless they forbid it.
    assert_eq!(
        query(&mut client, &[])
            .expect(reply::SUCCESS)
            .number("offset"),
        0
    );
    query(&mut client, &[("setZeroIfNotFound", "false")]).expect(reply::QUERY_NOT_FOUND);
    // A commit makes it known; a smaller one is taken, too: that is how clients seek back.
    let commit = |client: &mut Client, offset: &str| {
        let update = fields(&[("commitOffset", offset)]);
        client.call(code::UPDATE_CONSUMER_OFFSET, &update, b"").code
    };
    // But it makes no group: one that comes late would bring back one that was deleted.
    assert_eq!(
        commit(&mut client, "1"),
        reply::SUBSCRIPTION_GROUP_NOT_EXIST
    );
    let groups = client.call(code::ALL_GROUPS, &[], b"");
    let groups = groups.expect(reply::SUCCESS).text();
    assert!(!groups.contains(&group), "{groups}");
    let mut heartbeat = consumer_heartbeat(&group, &topic);
    heartbeat["clientID"] = fresh("c").into();
    let body = heartbeat.to_string();
    client
        .call(code::HEART_BEAT, &[], body.as_bytes())
        .expect(reply::SUCCESS);
    for offset in ["1", "0"] {
        assert_eq!(commit(&mut client, offset), reply::SUCCESS);
        let known = query(&mut client, &[("setZeroIfNotFound", "false")]).expect(reply::SUCCESS);
        assert_eq!(known.ext["offset"], offset);
    }
    // Another group knows nothing of it, and a pull with the commit flag commits.
    let mut pull = Pull::new(&topic, 0, 0);
    pull.group = &group;
    (pull.sys_flag, pull.commit) = (4 | 1, 1);
    client.pull(&pull).expect(reply::SUCCESS);
    assert_eq!(query(&mut client, &[]).number("offset"), 1);
}

/// A heartbeat of one clustering push consumer.
fn consumer_heartbeat(group: &str, topic: &str) -> serde_json::Value {
    serde_json::json!({
        "clientID": "c", "producerDataSet": [], "consumerDataSet": [{
            "groupName": group, "consumeType": "CONSUME_PASSIVELY", "messageModel": "CLUSTERING",
            "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET", "unitMode": false,
            "subscriptionDataSet": [{"topic": topic, "subString": "*", "tagsSet": [],
                "codeSet": [], "subVersion": 1, "expressionType": "TAG", "classFilterMode": false}]
        }]
    })
}
