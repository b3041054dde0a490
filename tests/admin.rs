//! The admin codes that clients and the tools around them rely on: topics, groups, offsets,
//! queries, locks, and who is told about whom.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::time::Duration;

use common::client::Pull;
use common::{Client, Frame, Gantry, code, ext, fresh, records, reply, until};
use serde_json::{Value, json};

fn with_topic(stem: &str, queues: i32) -> (Gantry, Client, String) {
    let gantry = Gantry::up(&[]);
    let mut client = gantry.client();
    let topic = fresh(stem);
    client.create_topic(&topic, queues);
    (gantry, client, topic)
}

/// The answer to code 17 for this name.
fn create(client: &mut Client, topic: &str, perm: &str) -> Frame {
    let fields = ext(&[
        ("topic", topic),
        ("defaultTopic", "TBW102"),
        ("readQueueNums", "3"),
        ("writeQueueNums", "2"),
        ("perm", perm),
        ("topicFilterType", "SINGLE_TAG"),
        ("topicSysFlag", "0"),
        ("order", "false"),
    ]);
    client.call(code::CREATE_TOPIC, &fields, b"")
}

fn route(gantry: &Gantry, topic: &str) -> Frame {
    gantry
        .namesrv_client()
        .call(code::ROUTE, &ext(&[("topic", topic)]), b"")
}

#[test]
fn topics_are_made_changed_and_deleted() {
    let gantry = Gantry::up(&[]);
    let mut client = gantry.client();
    let topic = fresh("made");
    create(&mut client, &topic, "6").expect(0);
    // The name server knows it when the answer is there, and so does every later change.
    let queues = |topic: &str| -> Value {
        let answer = route(&gantry, topic).expect(0);
        let json: Value = serde_json::from_slice(&answer.body).unwrap();
        json["queueDatas"][0].clone()
    };
    let made = queues(&topic);
    assert_eq!(
        (&made["readQueueNums"], &made["writeQueueNums"]),
        (&json!(3), &json!(2))
    );
    create(&mut client, &topic, "4").expect(0);
    assert_eq!(queues(&topic)["perm"], 4);
    for bad in [
        "",
        "sp ace",
        "x/y",
        &"n".repeat(200),
        "TBW102",
        "SCHEDULE_TOPIC_XXXX",
    ] {
        assert_ne!(
            create(&mut client, bad, "6").code,
            reply::SUCCESS,
            "'{bad}' was made"
        );
    }
    create(&mut client, &topic, "6").expect(0);
    client.send(&topic, 1, b"x", &[]).expect(0);
    let named = ext(&[("topic", &topic)]);
    client
        .call(code::DELETE_TOPIC_IN_BROKER, &named, b"")
        .expect(0);
    gantry
        .namesrv_client()
        .call(code::DELETE_TOPIC_IN_NAMESRV, &named, b"")
        .expect(0);
    assert_eq!(route(&gantry, &topic).code, reply::TOPIC_NOT_EXIST);
    assert_eq!(
        client.pull(&Pull::new(&topic, 1, 0)).code,
        reply::TOPIC_NOT_EXIST
    );
    // Made again, it is empty.
    create(&mut client, &topic, "6").expect(0);
    client
        .pull(&Pull::new(&topic, 1, 0))
        .expect(reply::PULL_NOT_FOUND);
    let sent = client.send(&topic, 1, b"new", &[]).expect(0);
    assert_eq!(sent.number("queueOffset"), 0);
    let all = client.drain(&topic, 1, 0);
    assert_eq!(
        all.iter().map(|r| &r.body[..]).collect::<Vec<_>>(),
        [b"new"]
    );
}

#[test]
fn permissions_are_kept_to() {
    let (gantry, mut client, topic) = with_topic("perm", 1);
    client.send(&topic, 0, b"x", &[]).expect(0);
    create(&mut client, &topic, "2").expect(0);
    assert_eq!(
        client.pull(&Pull::new(&topic, 0, 0)).code,
        reply::NO_PERMISSION
    );
    create(&mut client, &topic, "4").expect(0);
    let json: Value = serde_json::from_slice(&route(&gantry, &topic).expect(0).body).unwrap();
    assert_eq!(json["queueDatas"][0]["perm"], 4);
    client.pull(&Pull::new(&topic, 0, 0)).expect(0);
}

/// Removes what the Java dialect adds to JSON: objects as map keys become text keys.
fn plain(text: &str) -> Value {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("{{").or_else(|| rest.find(",{\"brokerName\"")) {
        out.push_str(&rest[..=at]);
        let key = &rest[at + 1..];
        let end = key.find('}').unwrap();
        out.push_str(&json!(&key[..=end]).to_string());
        rest = &key[end + 1..];
    }
    out.push_str(rest);
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"))
}

/// The entry of a queue in an offset table.
fn of_queue(table: &Value, queue: i32) -> Value {
    let wanted = format!("\"queueId\":{queue},");
    let entries = table["offsetTable"].as_object().unwrap();
    let found = entries.iter().find(|(key, _)| key.contains(&wanted));
    found
        .unwrap_or_else(|| panic!("no queue {queue} in {table}"))
        .1
        .clone()
}

#[test]
fn topic_and_consume_stats_count_what_is_there() {
    let (_gantry, mut client, topic) = with_topic("stats", 2);
    for n in 0..5 {
        client.send(&topic, 0, &[n], &[]).expect(0);
    }
    let named = ext(&[("topic", &topic)]);
    let stats = until(5, "the stats show five", || {
        let stats = plain(&client.call(code::TOPIC_STATS, &named, b"").expect(0).text());
        (of_queue(&stats, 0)["maxOffset"] == 5).then_some(stats)
    });
    assert_eq!(of_queue(&stats, 0)["minOffset"], 0);
    assert!(of_queue(&stats, 0)["lastUpdateTimestamp"].as_i64().unwrap() > 1_700_000_000_000);
    assert_eq!(of_queue(&stats, 1)["maxOffset"], 0);
    let group = fresh("g");
    heartbeat(&mut client, &fresh("c"), &group, &topic);
    let update = ext(&[
        ("consumerGroup", &group),
        ("topic", &topic),
        ("queueId", "0"),
        ("commitOffset", "2"),
    ]);
    client
        .call(code::UPDATE_CONSUMER_OFFSET, &update, b"")
        .expect(0);
    let asked = ext(&[("consumerGroup", &group), ("topic", &topic)]);
    let stats = plain(
        &client
            .call(code::CONSUME_STATS, &asked, b"")
            .expect(0)
            .text(),
    );
    let queue = of_queue(&stats, 0);
    assert_eq!(
        (&queue["brokerOffset"], &queue["consumerOffset"]),
        (&json!(5), &json!(2))
    );
}

/// Registers one consumer by heartbeat.
fn heartbeat(client: &mut Client, id: &str, group: &str, topic: &str) {
    let body = json!({"clientID": id, "producerDataSet": [{"groupName": "producers"}],
        "consumerDataSet": [{"groupName": group, "consumeType": "CONSUME_PASSIVELY",
            "messageModel": "CLUSTERING", "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET",
            "unitMode": false, "subscriptionDataSet": [{"topic": topic, "subString": "*",
                "tagsSet": [], "codeSet": [], "subVersion": 1_700_000_000_000_i64,
                "expressionType": "TAG", "classFilterMode": false}]}]});
    let answer = client
        .call(code::HEART_BEAT, &[], body.to_string().as_bytes())
        .expect(0);
    assert!(
        answer.header["version"].as_i64().unwrap() >= 232,
        "SQL92 clients look at it"
    );
}

fn members(client: &mut Client, group: &str) -> Vec<String> {
    let answer = client.call(code::CONSUMER_LIST, &ext(&[("consumerGroup", group)]), b"");
    if answer.code != reply::SUCCESS {
        // Never an empty list: the clients' strategies refuse it.
        assert_eq!(answer.code, reply::SYSTEM_ERROR);
        return Vec::new();
    }
    let json: Value = serde_json::from_slice(&answer.body).unwrap();
    let mut ids: Vec<String> = json["consumerIdList"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap().to_owned())
        .collect();
    assert!(!ids.is_empty());
    ids.sort();
    ids
}

#[test]
fn traps_31_71_76_members_are_listed_and_told_about_changes() {
    let (gantry, mut one, topic) = with_topic("members", 1);
    let group = fresh("g");
    assert!(members(&mut one, &group).is_empty());
    let (id_one, id_two) = (format!("1-{group}"), format!("2-{group}"));
    heartbeat(&mut one, &id_one, &group, &topic);
    assert_eq!(members(&mut one, &group), std::slice::from_ref(&id_one));
    // The group's retry topic is made by the heartbeat, routed, with one queue.
    let retry = route(&gantry, &format!("%RETRY%{group}")).expect(0).text();
    assert!(retry.contains("\"readQueueNums\":1"), "{retry}");
    let mut two = gantry.client();
    heartbeat(&mut two, &id_two, &group, &topic);
    assert_eq!(members(&mut one, &group), [id_one.clone(), id_two.clone()]);
    for member in [&mut one, &mut two] {
        let push = member.await_push(code::NOTIFY_CONSUMER_IDS);
        assert_eq!(push.ext["consumerGroup"], group);
        assert_eq!(push.flag & 2, 2, "one-way");
    }
    one.pushed.clear();
    // One leaves in words, the other without.
    let goodbye = ext(&[("clientID", &id_two), ("consumerGroup", &group)]);
    two.call(code::UNREGISTER_CLIENT, &goodbye, b"").expect(0);
    assert_eq!(members(&mut one, &group), std::slice::from_ref(&id_one));
    assert_eq!(
        one.await_push(code::NOTIFY_CONSUMER_IDS).ext["consumerGroup"],
        group
    );
    heartbeat(&mut two, &id_two, &group, &topic);
    one.await_push(code::NOTIFY_CONSUMER_IDS);
    drop(two);
    until(3, "a closed connection is no member", || {
        (members(&mut one, &group) == std::slice::from_ref(&id_one)).then_some(())
    });
    one.await_push(code::NOTIFY_CONSUMER_IDS);
    // A pull without a subscription of its own goes by the group's.
    let mut pull = Pull::new(&topic, 0, 0);
    (pull.group, pull.sys_flag) = (&group, 0);
    one.pull(&pull).expect(reply::PULL_NOT_FOUND);
}

#[test]
fn traps_74_75_queue_locks_have_one_owner() {
    let (gantry, mut client, topic) = with_topic("locks", 2);
    let name = broker_name(&gantry, &topic);
    let group = fresh("g");
    let mut ask = |code: i32, id: &str, queues: &[i32]| -> Vec<i64> {
        let set: Vec<Value> = queues
            .iter()
            .map(|q| json!({"topic": topic, "brokerName": name, "queueId": q}))
            .collect();
        let body = json!({"consumerGroup": group, "clientId": id, "mqSet": set});
        let answer = client
            .call(code, &[], body.to_string().as_bytes())
            .expect(0);
        if answer.body.is_empty() {
            return Vec::new();
        }
        let json: Value = serde_json::from_slice(&answer.body).unwrap();
        let owned = json["lockOKMQSet"].as_array().unwrap().iter();
        let mut ids: Vec<i64> = owned.map(|q| q["queueId"].as_i64().unwrap()).collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(ask(code::LOCK_BATCH, "one", &[0]), [0]);
    // Exactly what was asked for and is owned: the other one's queue is not in it.
    assert_eq!(ask(code::LOCK_BATCH, "two", &[0, 1]), [1]);
    assert_eq!(ask(code::LOCK_BATCH, "one", &[0]), [0]);
    // Nobody frees another's lock.
    ask(code::UNLOCK_BATCH, "two", &[0]);
    assert_eq!(ask(code::LOCK_BATCH, "two", &[0]), [0_i64; 0]);
    ask(code::UNLOCK_BATCH, "one", &[0]);
    assert_eq!(ask(code::LOCK_BATCH, "two", &[0, 1]), [0, 1]);
}

fn broker_name(gantry: &Gantry, topic: &str) -> String {
    let json: Value = serde_json::from_slice(&route(gantry, topic).expect(0).body).unwrap();
    json["brokerDatas"][0]["brokerName"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn messages_are_found_by_key_and_by_unique_id() {
    let (_gantry, mut client, topic) = with_topic("keys", 2);
    let unique = format!("{:0>32}", std::process::id());
    for n in 0..6_i32 {
        let key = if n % 2 == 0 { "even" } else { "odd" };
        let keys = format!("{key} n{n}");
        let mut props = vec![("KEYS", keys.as_str())];
        if n == 3 {
            props.push(("UNIQ_KEY", &unique));
        }
        client
            .send(&topic, n % 2, n.to_string().as_bytes(), &props)
            .expect(0);
    }
    let mut ask = |key: &str, unique: bool, max: &str, begin: &str| -> Vec<String> {
        let mut fields = ext(&[
            ("topic", &topic),
            ("key", key),
            ("maxNum", max),
            ("beginTimestamp", begin),
            ("endTimestamp", "9223372036854775807"),
        ]);
        if unique {
            fields.extend(ext(&[("_UNIQUE_KEY_QUERY", "true")]));
        }
        let answer = client.call(code::QUERY_MESSAGE, &fields, b"");
        if answer.code != reply::SUCCESS {
            assert_eq!(answer.code, reply::QUERY_NOT_FOUND);
            return Vec::new();
        }
        let found = records(&answer.body).into_iter();
        let mut bodies: Vec<String> = found.map(|r| String::from_utf8(r.body).unwrap()).collect();
        bodies.sort();
        bodies
    };
    until(5, "the index has them", || {
        (ask("n5", false, "32", "0") == ["5"]).then_some(())
    });
    assert_eq!(ask("even", false, "32", "0"), ["0", "2", "4"]);
    assert_eq!(ask("odd", false, "2", "0").len(), 2);
    assert_eq!(ask(&unique, true, "1", "0"), ["3"]);
    assert_eq!(ask("none", false, "32", "0"), [""; 0]);
    assert_eq!(ask("even", false, "32", "9223372036854775000"), [""; 0]);
}

#[test]
fn a_reset_moves_a_group_by_time() {
    let (_gantry, mut client, topic) = with_topic("reset", 1);
    let group = fresh("g");
    heartbeat(&mut client, &fresh("c"), &group, &topic);
    let mut times = Vec::new();
    for n in 0..4_u8 {
        client.send(&topic, 0, &[n], &[]).expect(0);
        let record = until(5, "it is readable", || {
            client.drain(&topic, 0, i64::from(n)).into_iter().next()
        });
        times.push(record.store_timestamp);
        std::thread::sleep(Duration::from_millis(30));
    }
    let at = |more: &[(&str, &str)]| {
        let base = [
            ("consumerGroup", group.as_str()),
            ("topic", &topic),
            ("queueId", "0"),
        ];
        ext(&base
            .into_iter()
            .chain(more.iter().copied())
            .collect::<Vec<_>>())
    };
    let commit = at(&[("commitOffset", "4")]);
    client
        .call(code::UPDATE_CONSUMER_OFFSET, &commit, b"")
        .expect(0);
    let time = times[1].to_string();
    let fields = ext(&[
        ("topic", &topic),
        ("group", &group),
        ("timestamp", &time),
        ("isForce", "true"),
    ]);
    let table = plain(
        &client
            .call(code::RESET_OFFSET, &fields, b"")
            .expect(0)
            .text(),
    );
    assert_eq!(of_queue(&table, 0), 1);
    // It shows in the next query, and the next pull is sent there.
    let query = client
        .call(code::QUERY_CONSUMER_OFFSET, &at(&[]), b"")
        .expect(0);
    assert_eq!(query.number("offset"), 1);
    let mut pull = Pull::new(&topic, 0, 4);
    pull.group = &group;
    let moved = client.pull(&pull).expect(reply::PULL_OFFSET_MOVED);
    assert_eq!(moved.number("nextBeginOffset"), 1);
    // Once: from then on the group reads on as usual.
    pull.offset = 1;
    assert_eq!(records(&client.pull(&pull).expect(0).body).len(), 3);
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let gantry = Gantry::up(&[]);
    let mut client = gantry.client();
    // A code of the table that nothing serves; and what the tools ask for first.
    let answer = client.call(13, &[], b"").expect(reply::NOT_SUPPORTED);
    assert!(answer.remark.contains("13"), "{}", answer.remark);
    for code in [code::GET_BROKER_RUNTIME, code::GET_BROKER_CONFIG] {
        client.call(code, &[], b"").expect(reply::SUCCESS);
    }
}
