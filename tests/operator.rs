//! What an operator does with mqadmin: settings that change while the broker runs and survive it,
//! permissions taken and given back, questions to clients that stay silent; and how soon a group
//! learns of its members.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::time::{Duration, Instant};

use common::client::Pull;
use common::{Client, Frame, Gantry, code, ext, fresh, reply, until};
use serde_json::{Value, json};

const UPDATE_CONFIG: i32 = 25;
const WIPE_WRITE: i32 = 205;
const ADD_WRITE: i32 = 327;
const CONSUMER_STATUS: i32 = 223;
const ASK_STATUS: i32 = 221;
const RUNNING_INFO: i32 = 307;
const CLONE_OFFSETS: i32 = 314;
const UPDATE_NAMESRV_CONFIG: i32 = 318;
const FORBIDDEN: i32 = 353;
const CONSUME_TIMEOUT: i32 = 207;

fn update(client: &mut Client, text: &str) -> Frame {
    client.call(UPDATE_CONFIG, &[], text.as_bytes())
}

fn heartbeat(client: &mut Client, id: &str, group: &str, topic: &str, model: &str) {
    let body = json!({"clientID": id, "producerDataSet": [],
        "consumerDataSet": [{"groupName": group, "consumeType": "CONSUME_PASSIVELY",
            "messageModel": model, "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET",
            "unitMode": false, "subscriptionDataSet": [{"topic": topic, "subString": "*",
                "tagsSet": [], "codeSet": [], "subVersion": 1_700_000_000_000_i64,
                "expressionType": "TAG", "classFilterMode": false}]}]});
    let body = body.to_string();
    client
        .call(code::HEART_BEAT, &[], body.as_bytes())
        .expect(0);
}

fn perm(gantry: &Gantry, topic: &str) -> i64 {
    let fields = ext(&[("topic", topic)]);
    let route = gantry.namesrv_client().call(code::ROUTE, &fields, b"");
    let json: Value = serde_json::from_slice(&route.expect(0).body).unwrap();
    json["queueDatas"][0]["perm"].as_i64().unwrap()
}

#[test]
fn a_changed_setting_takes_effect_at_once_and_survives_restarts() {
    let mut gantry = Gantry::up(&[]);
    let mut client = gantry.client();
    let topic = fresh("live");
    client.create_topic(&topic, 1);
    let body = [b'x'; 200];
    client.send(&topic, 0, &body, &[]).expect(0);
    let answer = update(
        &mut client,
        "maxMessageSize=100\nautoCreateTopicEnable=false\n",
    );
    assert_eq!(answer.expect(0).remark, "");
    let refused = reply::MESSAGE_ILLEGAL;
    client.send(&topic, 0, &body, &[]).expect(refused);
    let unknown = client.send(&fresh("none"), 0, b"x", &[]);
    assert_eq!(unknown.code, reply::TOPIC_NOT_EXIST);
    let later = update(&mut client, "listenPort=10921\nnoSuchKey=1\n").expect(0);
    assert!(
        later.remark.contains("after a restart: listenPort"),
        "{}",
        later.remark
    );
    assert!(later.remark.contains("noSuchKey"), "{}", later.remark);
    update(&mut client, "maxMessageSize=-1").expect(reply::SYSTEM_ERROR);
    // What would stop the next start is refused now.
    update(&mut client, "brokerRole=SLAVE").expect(reply::SYSTEM_ERROR);

    gantry.kill9();
    gantry.start();
    gantry.await_ready();
    // The harness gives the port on the command line, which is stronger.
    let mut client = gantry.client();
    client.send(&topic, 0, &body, &[]).expect(refused);
    let shown = client.call(code::GET_BROKER_CONFIG, &[], b"").expect(0);
    for line in [
        "maxMessageSize=100\n",
        "autoCreateTopicEnable=false\n",
        "listenPort=10911\n",
    ] {
        assert!(shown.text().contains(line), "{line}");
    }
    update(&mut client, "maxMessageSize=4194304").expect(0);
    client.send(&topic, 0, &body, &[]).expect(0);
    let kept = gantry.dir().join("data/changed.properties");
    let kept = std::fs::read_to_string(kept).unwrap();
    assert!(
        !kept.contains("maxMessageSize"),
        "back to the default: {kept}"
    );
}

#[test]
fn a_name_servers_changed_setting_survives_restarts() {
    let mut gantry = Gantry::namesrv_alone(&[]);
    let topics = |gantry: &Gantry| {
        gantry
            .namesrv_client()
            .call(code::ALL_TOPICS, &[], b"")
            .code
    };
    assert_eq!(topics(&gantry), reply::SUCCESS);
    let change = b"enableAllTopicList=false";
    let mut client = gantry.namesrv_client();
    client.call(UPDATE_NAMESRV_CONFIG, &[], change).expect(0);
    assert_eq!(topics(&gantry), reply::SYSTEM_ERROR);
    gantry.kill9();
    gantry.start();
    gantry.await_line("ready:");
    assert_eq!(topics(&gantry), reply::SYSTEM_ERROR);
}

#[test]
fn write_permission_is_wiped_and_restored() {
    let gantry = Gantry::up(&["brokerName=wiped"]);
    let mut client = gantry.client();
    let topic = fresh("wipe");
    client.create_topic(&topic, 1);
    let named = ext(&[("brokerName", "wiped")]);
    let wiped = gantry
        .namesrv_client()
        .call(WIPE_WRITE, &named, b"")
        .expect(0);
    assert!(wiped.number("wipeTopicCount") > 0);
    assert_eq!(perm(&gantry, &topic), 4);
    let added = gantry
        .namesrv_client()
        .call(ADD_WRITE, &named, b"")
        .expect(0);
    assert!(added.number("addTopicCount") > 0);
    assert_eq!(perm(&gantry, &topic), 6);
    // The broker's own way: its answer comes when the name server knows.
    update(&mut client, "brokerPermission=4").expect(0);
    assert_eq!(perm(&gantry, &topic), 4);
    update(&mut client, "brokerPermission=2").expect(0);
    client
        .pull(&Pull::new(&topic, 0, 0))
        .expect(reply::NO_PERMISSION);
    update(&mut client, "brokerPermission=5").expect(reply::SYSTEM_ERROR);
    update(&mut client, "brokerPermission=6").expect(0);
    assert_eq!(perm(&gantry, &topic), 6);
    client.send(&topic, 0, b"x", &[]).expect(0);
    client.pull(&Pull::new(&topic, 0, 0)).expect(0);
}

#[test]
fn a_group_is_forbidden_a_topic_and_allowed_it_again() {
    let mut gantry = Gantry::up(&[]);
    let (topic, group) = (fresh("forbid"), fresh("g"));
    let mut client = gantry.client();
    client.create_topic(&topic, 1);
    client.send(&topic, 0, b"x", &[]).expect(0);
    let pull = |client: &mut Client| {
        heartbeat(client, "one", &group, &topic, "CLUSTERING");
        let mut pull = Pull::new(&topic, 0, 0);
        (pull.group, pull.sys_flag) = (&group, 0);
        client.pull(&pull).code
    };
    let readable = |client: &mut Client, change: Option<&str>| {
        let mut fields = vec![("group", &*group), ("topic", &*topic)];
        fields.extend(change.map(|to| ("readable", to)));
        let answer = client.call(FORBIDDEN, &ext(&fields), b"").expect(0);
        let json: Value = serde_json::from_slice(&answer.body).unwrap();
        json["readable"].as_bool().unwrap()
    };
    assert_eq!(pull(&mut client), 0);
    assert!(readable(&mut client, None));
    assert!(!readable(&mut client, Some("false")));
    assert_eq!(pull(&mut client), reply::NO_PERMISSION);
    gantry.kill9();
    gantry.start();
    gantry.await_ready();
    let mut client = gantry.client();
    assert_eq!(pull(&mut client), reply::NO_PERMISSION);
    assert!(readable(&mut client, Some("true")));
    assert_eq!(pull(&mut client), 0);
}

#[test]
fn a_silent_or_absent_client_is_an_answer() {
    let gantry = Gantry::up(&[]);
    let (topic, group) = (fresh("silent"), fresh("g"));
    let (mut one, mut two, mut operator) = (gantry.client(), gantry.client(), gantry.client());
    one.create_topic(&topic, 1);
    heartbeat(&mut one, "one", &group, &topic, "CLUSTERING");
    heartbeat(&mut two, "two", &group, &topic, "CLUSTERING");
    let ask = |id: &str| ext(&[("consumerGroup", &group), ("clientId", id)]);
    let absent = operator.call(RUNNING_INFO, &ask("nobody"), b"");
    assert_eq!(absent.code, reply::SYSTEM_ERROR);
    assert!(absent.remark.contains("not online"), "{}", absent.remark);
    // A client that goes away while it is asked.
    let opaque = operator.post(RUNNING_INFO, &ask("two"), b"");
    operator.flush().unwrap();
    two.await_push(RUNNING_INFO);
    drop(two);
    let gone = operator.reply_to(opaque).unwrap();
    assert_eq!(gone.code, reply::SYSTEM_ERROR);
    assert!(gone.remark.contains("closed"), "{}", gone.remark);
    // 223 asks all members; one that answers is enough.
    let fields = ext(&[("topic", &topic), ("group", &group)]);
    let opaque = operator.post(CONSUMER_STATUS, &fields, b"");
    operator.flush().unwrap();
    let question = one.await_push(ASK_STATUS);
    assert_eq!(question.ext["topic"], topic);
    let table = format!(
        "{{\"messageQueueTable\":{{{{\"brokerName\":\"b\",\"queueId\":0,\"topic\":\"{topic}\"}}:7}}}}"
    );
    one.answer(&question, 0, table.as_bytes());
    let status = operator.reply_to(opaque).unwrap().expect(0).text();
    assert!(
        status.contains("\"one\":{{") && status.contains("}:7"),
        "{status}"
    );
    // A client that never answers costs ten seconds and nobody else anything.
    let begun = Instant::now();
    let opaque = operator.post(RUNNING_INFO, &ask("one"), b"");
    operator.flush().unwrap();
    one.send(&topic, 0, b"meanwhile", &[]).expect(0);
    operator
        .stream()
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let late = operator.reply_to(opaque).unwrap();
    assert_eq!(late.code, CONSUME_TIMEOUT);
    let took = begun.elapsed().as_secs();
    assert!((9..=12).contains(&took), "{took} s");
}

#[test]
fn positions_are_copied_to_another_group() {
    let gantry = Gantry::up(&[]);
    let (topic, from, to) = (fresh("clone"), fresh("from"), fresh("to"));
    let mut client = gantry.client();
    client.create_topic(&topic, 2);
    heartbeat(&mut client, "one", &from, &topic, "CLUSTERING");
    heartbeat(&mut client, "one", &to, &topic, "CLUSTERING");
    for queue in ["0", "1"] {
        let offset = if queue == "0" { "3" } else { "5" };
        let commit = ext(&[
            ("consumerGroup", &from),
            ("topic", &topic),
            ("queueId", queue),
            ("commitOffset", offset),
        ]);
        client
            .call(code::UPDATE_CONSUMER_OFFSET, &commit, b"")
            .expect(0);
    }
    let fields = ext(&[
        ("srcGroup", &from),
        ("destGroup", &to),
        ("topic", &topic),
        ("offline", "false"),
    ]);
    client.call(CLONE_OFFSETS, &fields, b"").expect(0);
    let at = |client: &mut Client, queue: i32| {
        let group = [("consumerGroup", &*to)];
        client.offset(code::QUERY_CONSUMER_OFFSET, &topic, queue, &group)
    };
    assert_eq!((at(&mut client, 0), at(&mut client, 1)), (3, 5));
}

/// The next word of code 40, and how long it took.
fn told(member: &mut Client, group: &str, since: Instant, what: &str) {
    let push = member.await_push(code::NOTIFY_CONSUMER_IDS);
    assert_eq!(push.ext["consumerGroup"], group, "{what}");
    let took = since.elapsed();
    assert!(took < Duration::from_secs(1), "{what}: {took:?}");
}

#[test]
fn a_group_hears_of_its_members_within_a_second() {
    let gantry = Gantry::up(&[]);
    let (topic, group) = (
        format!("ns%{}", fresh("join")),
        format!("ns%{}", fresh("g")),
    );
    let mut one = gantry.client();
    one.create_topic(&topic, 4);
    heartbeat(&mut one, "one", &group, &topic, "CLUSTERING");
    one.await_push(code::NOTIFY_CONSUMER_IDS);
    for round in 0..5 {
        let mut two = gantry.client();
        let since = Instant::now();
        heartbeat(&mut two, "two", &group, &topic, "CLUSTERING");
        told(&mut one, &group, since, "a member joins");
        told(&mut two, &group, since, "a member hears of itself");
        let since = Instant::now();
        if round % 2 == 0 {
            let goodbye = ext(&[("clientID", "two"), ("consumerGroup", &group)]);
            two.call(code::UNREGISTER_CLIENT, &goodbye, b"").expect(0);
            told(&mut one, &group, since, "a member leaves");
            continue;
        }
        // Its process dies: the kernel closes the connection, nobody says goodbye.
        drop(two);
        told(&mut one, &group, since, "a member dies");
        let list = one.call(code::CONSUMER_LIST, &ext(&[("consumerGroup", &group)]), b"");
        assert!(!list.expect(0).text().contains("two"));
    }
}

#[test]
fn a_broadcasting_group_is_not_told_and_everyone_reads_everything() {
    let gantry = Gantry::up(&[]);
    let (topic, group) = (fresh("broad"), fresh("g"));
    let (mut one, mut two) = (gantry.client(), gantry.client());
    one.create_topic(&topic, 1);
    for member in [("one", &mut one), ("two", &mut two)] {
        heartbeat(member.1, member.0, &group, &topic, "BROADCASTING");
    }
    one.send(&topic, 0, b"to all", &[]).expect(0);
    for member in [&mut one, &mut two] {
        let mut pull = Pull::new(&topic, 0, 0);
        (pull.group, pull.sys_flag) = (&group, 0);
        let got = until(5, "it is there", || {
            let got = member.pull(&pull);
            (got.code == 0).then_some(got)
        });
        assert_eq!(common::records(&got.body)[0].body, b"to all");
        assert!(member.pushed.is_empty(), "trap 77: {:?}", member.pushed);
    }
}

#[test]
fn fewer_read_than_write_queues_and_the_other_way_round() {
    let gantry = Gantry::up(&[]);
    let mut client = gantry.client();
    for (read, write) in [(1, 3), (3, 1)] {
        let topic = format!("ns%{}", fresh("counts"));
        let fields = ext(&[
            ("topic", &topic),
            ("defaultTopic", "TBW102"),
            ("readQueueNums", &read.to_string()),
            ("writeQueueNums", &write.to_string()),
            ("perm", "6"),
            ("topicFilterType", "SINGLE_TAG"),
            ("topicSysFlag", "0"),
            ("order", "false"),
        ]);
        client.call(code::CREATE_TOPIC, &fields, b"").expect(0);
        for queue in 0..4 {
            // A queue below either count is taken: it drains while a topic shrinks.
            let sent = client.send(&topic, queue, b"x", &[]).code;
            let taken = if queue < read.max(write) {
                0
            } else {
                reply::INVALID_PARAMETER
            };
            assert_eq!(sent, taken, "send to {queue} of {read}/{write}");
            let pulled = client.pull(&Pull::new(&topic, queue, 0)).code;
            let wanted = if queue < read {
                0
            } else {
                reply::INVALID_PARAMETER
            };
            assert_eq!(pulled, wanted, "trap 37: pull {queue} of {read}/{write}");
        }
    }
}
