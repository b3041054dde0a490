//! Every call that the RocketMQ dashboard makes, and what it reads of the answer: keys that are
//! missing, or figures that don't parse, are exceptions in its pages.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use common::client::Pull;
use common::{Client, Frame, Gantry, code, ext, fresh, until};
use gantry_protocol::fastjson::{self, Value};
use serde_json::json;

const BROKER_CONFIG: i32 = 26;
const ALL_GROUP_CONFIGS: i32 = 201;
const CONSUMER_CONNECTION: i32 = 203;
const PRODUCER_CONNECTION: i32 = 204;
const ALL_TOPICS_OF_CLUSTER: i32 = 224;
const GROUPS_OF_TOPIC: i32 = 300;
const TIME_SPAN: i32 = 303;
const RUNNING_INFO: i32 = 307;
const CONSUME_DIRECTLY: i32 = 309;
const STATS_DATA: i32 = 315;
const BROKER_CONSUME_STATS: i32 = 317;
const NAMESRV_CONFIG: i32 = 319;
const QUEUE_INDEX: i32 = 321;

/// A broker with one topic, one group with one member, 20 messages of which 12 are consumed.
struct Scene {
    gantry: Gantry,
    client: Client,
    topic: String,
    group: String,
    id: String,
}

fn scene() -> Scene {
    let gantry = Gantry::up(&["brokerClusterName=DashCluster"]);
    let mut client = gantry.client();
    let (topic, group) = (fresh("dash"), fresh("dashg"));
    client.create_topic(&topic, 2);
    let id = format!("127.0.0.1@{group}");
    heartbeat(&mut client, &id, &group, &topic);
    for n in 0..20 {
        let sent = client.send(&topic, n % 2, b"body", &[("KEYS", "k")]);
        sent.expect(0);
    }
    for queue in 0..2 {
        let mut pull = Pull::new(&topic, queue, 0);
        (pull.group, pull.sys_flag) = (&group, 0);
        client.pull(&pull).expect(0);
        let commit = ext(&[
            ("consumerGroup", &group),
            ("topic", &topic),
            ("queueId", &queue.to_string()),
            ("commitOffset", "6"),
        ]);
        client
            .call(code::UPDATE_CONSUMER_OFFSET, &commit, b"")
            .expect(0);
    }
    Scene {
        gantry,
        client,
        topic,
        group,
        id,
    }
}

fn heartbeat(client: &mut Client, id: &str, group: &str, topic: &str) {
    let body = json!({"clientID": id, "producerDataSet": [{"groupName": "dash-producers"}],
        "consumerDataSet": [{"groupName": group, "consumeType": "CONSUME_PASSIVELY",
            "messageModel": "CLUSTERING", "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET",
            "unitMode": false, "subscriptionDataSet": [{"topic": topic, "subString": "*",
                "tagsSet": [], "codeSet": [], "subVersion": 1_700_000_000_000_i64,
                "expressionType": "TAG", "classFilterMode": false}]}]});
    let body = body.to_string();
    client
        .call(code::HEART_BEAT, &[], body.as_bytes())
        .expect(0);
}

/// The body in Java's own JSON.
fn body(frame: &Frame) -> Value {
    fastjson::parse(&frame.body).unwrap_or_else(|e| panic!("{e}: {frame:?}"))
}

fn number(value: &Value, name: &str) -> f64 {
    let found = value.get(name).and_then(Value::as_f64);
    found.unwrap_or_else(|| panic!("no number {name} in {value:?}"))
}

fn is(found: f64, wanted: f64) {
    assert!((found - wanted).abs() < 0.01, "{found}, {wanted} is wanted");
}

fn text(value: &Value, name: &str) -> String {
    value
        .text(name)
        .unwrap_or_else(|| panic!("no text {name} in {value:?}"))
}

impl Scene {
    fn ask(&mut self, code: i32, fields: &[(&str, &str)]) -> Value {
        let answer = self.client.call(code, &ext(fields), b"");
        body(&answer.expect(0))
    }
}

#[test]
fn the_cluster_page_reads_every_broker() {
    let mut scene = scene();
    let cluster = scene.gantry.namesrv_client().call(code::CLUSTER, &[], b"");
    let cluster = body(&cluster.expect(0));
    let brokers = cluster.get("brokerAddrTable").unwrap().entries();
    let (name, broker) = &brokers[0];
    assert_eq!(text(broker, "cluster"), "DashCluster");
    let addresses = broker.get("brokerAddrs").unwrap().entries();
    assert_eq!(addresses[0].0.as_i64(), Some(0), "the master has number 0");
    let of_cluster = cluster.get("clusterAddrTable").unwrap();
    let names = of_cluster.texts("DashCluster");
    assert_eq!(names, [name.as_text().unwrap().into_owned()]);
    // Counts come at most a second behind.
    let table = until(5, "twenty messages are counted", || {
        let table = scene.ask(code::GET_BROKER_RUNTIME, &[]);
        let table = table.get("table").unwrap().clone();
        let now = text(&table, "msgPutTotalTodayNow");
        (now == "20" && text(&table, "msgGetTotalTodayNow") == "20").then_some(table)
    });
    for key in [
        "putTps",
        "getTransferredTps",
        "getFoundTps",
        "getMissTps",
        "getTotalTps",
    ] {
        let text = text(&table, key);
        let rates: Vec<f64> = text.split(' ').map(|rate| rate.parse().unwrap()).collect();
        assert_eq!(rates.len(), 3, "{key}={text}");
        if !key.contains("Miss") {
            assert!(rates.iter().all(|rate| *rate > 0.0), "{key}={text}");
        }
    }
    for key in "msgPutTotalTodayMorning msgPutTotalYesterdayMorning msgGetTotalTodayMorning \
                msgGetTotalYesterdayMorning sendThreadPoolQueueSize pullThreadPoolQueueSize \
                ackThreadPoolQueueSize sendThreadPoolQueueHeadWaitTimeMills \
                pullThreadPoolQueueHeadWaitTimeMills ackThreadPoolQueueHeadWaitTimeMills \
                pageCacheLockTimeMills earliestMessageTimeStamp timerReadBehind \
                timerOffsetBehind timerCongestNum bootTimestamp putMessageTimesTotal \
                commitLogMaxOffset commitLogMinOffset"
        .split_whitespace()
    {
        let value = text(&table, key);
        assert!(value.parse::<i64>().is_ok(), "{key}={value}");
    }
    for key in ["commitLogDiskRatio", "timerEnqueueTps", "timerDequeueTps"] {
        let value: f64 = text(&table, key).parse().unwrap();
        assert!((0.0..=1.0).contains(&value), "{key}={value}");
    }
    assert_eq!(text(&table, "brokerVersionDesc"), "V5_5_0");
    assert_eq!(text(&table, "brokerActive"), "true");
    assert!(text(&table, "runtime").starts_with("[ 0 days"));
    let config = scene.client.call(BROKER_CONFIG, &[], b"").expect(0);
    assert!(config.text().contains("brokerClusterName=DashCluster\n"));
    let shown = format!("brokerName={}\n", name.as_text().unwrap());
    assert!(config.text().contains(&shown), "not what stands for it");
    let config = scene.gantry.namesrv_client().call(NAMESRV_CONFIG, &[], b"");
    assert!(config.expect(0).text().contains("listenPort="));
}

#[test]
fn the_topic_page_lists_routes_counts_and_groups() {
    let mut scene = scene();
    let (topic, group) = (scene.topic.clone(), scene.group.clone());
    let mut routes = scene.gantry.namesrv_client();
    let all = body(&routes.call(code::ALL_TOPICS, &[], b"").expect(0));
    assert!(all.texts("topicList").contains(&topic));
    let fields = ext(&[("cluster", "DashCluster")]);
    let of_cluster = body(&routes.call(ALL_TOPICS_OF_CLUSTER, &fields, b"").expect(0));
    assert!(of_cluster.texts("topicList").contains(&topic));
    let named = [("topic", &*topic)];
    let route = body(&routes.call(code::ROUTE, &ext(&named), b"").expect(0));
    let queues = &route.get("queueDatas").unwrap().elements()[0];
    is(number(queues, "writeQueueNums"), 2.0);
    let stats = until(5, "the rate is counted", || {
        let stats = scene.ask(code::TOPIC_STATS, &named);
        (number(&stats, "topicPutTps") > 0.0).then_some(stats)
    });
    let table = stats.get("offsetTable").unwrap().entries();
    assert_eq!(table.len(), 2);
    for (queue, offsets) in table {
        assert_eq!(text(queue, "topic"), topic);
        is(number(offsets, "maxOffset"), 10.0);
        assert!(number(offsets, "lastUpdateTimestamp") > 1e12);
    }
    let groups = scene.ask(GROUPS_OF_TOPIC, &named);
    assert_eq!(groups.texts("groupList"), [group]);
    let index = [
        ("topic", &*topic),
        ("queueId", "1"),
        ("index", "3"),
        ("count", "4"),
    ];
    let rows = scene.ask(QUEUE_INDEX, &index);
    is(number(&rows, "maxQueueIndex"), 10.0);
    let rows = rows.get("queueData").unwrap().elements();
    assert_eq!(rows.len(), 4);
    assert!(number(&rows[0], "physicSize") > 90.0);
    assert!(number(&rows[1], "physicOffset") > number(&rows[0], "physicOffset"));
}

#[test]
fn the_consumer_page_shows_lag_members_and_their_state() {
    let mut scene = scene();
    let (topic, group, id) = (scene.topic.clone(), scene.group.clone(), scene.id.clone());
    let by_group = [("consumerGroup", &*group)];
    let stats = until(5, "the rate is counted", || {
        let stats = scene.ask(code::CONSUME_STATS, &by_group);
        (number(&stats, "consumeTps") > 0.0).then_some(stats)
    });
    let of_topic = |stats: &Value| -> Vec<Value> {
        let rows = stats.get("offsetTable").unwrap().entries().iter();
        let rows = rows.filter(|(queue, _)| text(queue, "topic") == topic);
        rows.map(|(_, row)| row.clone()).collect()
    };
    let rows = of_topic(&stats);
    assert_eq!(rows.len(), 2);
    for row in &rows {
        is(number(row, "brokerOffset"), 10.0);
        is(number(row, "consumerOffset"), 6.0);
        assert!(number(row, "lastTimestamp") > 1e12);
    }
    let whole = scene.ask(BROKER_CONSUME_STATS, &[("isOrder", "false")]);
    is(number(&whole, "totalDiff"), 8.0);
    assert!(text(&whole, "brokerAddr").ends_with(":10911"));
    let mut groups = whole.get("consumeStatsList").unwrap().elements().iter();
    let mine = groups.find_map(|entry| entry.get(&group)).unwrap();
    assert_eq!(of_topic(&mine.elements()[0]).len(), 2);
    let spans = scene.ask(TIME_SPAN, &[("topic", &topic), ("group", &group)]);
    let spans = spans.get("consumeTimeSpanSet").unwrap().elements();
    assert_eq!(spans.len(), 2);
    for span in spans {
        let consumed = number(span, "consumeTimeStamp");
        let (first, last) = (number(span, "minTimeStamp"), number(span, "maxTimeStamp"));
        assert!(first <= consumed && consumed <= last, "{span:?}");
        assert!(number(span, "delayTime") >= 0.0);
    }
    let configs = scene.ask(ALL_GROUP_CONFIGS, &[]);
    let table = configs.get("subscriptionGroupTable").unwrap();
    is(number(table.get(&group).unwrap(), "retryMaxTimes"), 16.0);
    let members = scene.ask(CONSUMER_CONNECTION, &by_group);
    let member = &members.get("connectionSet").unwrap().elements()[0];
    assert_eq!(text(member, "clientId"), id);
    assert_eq!(text(&members, "messageModel"), "CLUSTERING");
    let producers = [("producerGroup", "dash-producers")];
    let producers = scene.ask(PRODUCER_CONNECTION, &producers);
    assert_eq!(producers.get("connectionSet").unwrap().elements().len(), 1);
    // The client itself answers the next two, through the broker.
    let asked = ext(&[
        ("consumerGroup", &group),
        ("clientId", &id),
        ("jstackEnable", "false"),
    ]);
    let mut operator = scene.gantry.client();
    let opaque = operator.post(RUNNING_INFO, &asked, b"");
    operator.flush().unwrap();
    let question = scene.client.await_push(RUNNING_INFO);
    assert_eq!(question.ext["jstackEnable"], "false");
    let odd = b"{\"mqTable\":{{\"brokerName\":\"b\",\"queueId\":0,\"topic\":\"t\"}:{}}}";
    scene.client.answer(&question, 0, odd);
    let told = operator.reply_to(opaque).unwrap().expect(0);
    assert_eq!(told.body, odd, "Java's own dialect goes through as it is");
}

#[test]
fn the_message_page_finds_messages_and_sends_one_to_a_member_again() {
    let mut scene = scene();
    let (topic, group, id) = (scene.topic.clone(), scene.group.clone(), scene.id.clone());
    let found = until(5, "the key index has them", || {
        let query = ext(&[
            ("topic", &topic),
            ("key", "k"),
            ("maxNum", "64"),
            ("beginTimestamp", "0"),
            ("endTimestamp", "9999999999999"),
        ]);
        let found = scene.client.call(code::QUERY_MESSAGE, &query, b"");
        let all = common::records(&found.body);
        (all.len() == 20).then_some(found)
    });
    assert!(found.ext.contains_key("indexLastUpdateTimestamp"));
    let sent = scene.client.send(&topic, 0, b"again", &[]).expect(0);
    let view = ext(&[("offset", &offset_of(&sent.ext["msgId"]))]);
    scene.client.call(code::VIEW_MESSAGE, &view, b"").expect(0);
    let asked = ext(&[
        ("consumerGroup", &group),
        ("clientId", &id),
        ("msgId", &sent.ext["msgId"]),
        ("topic", &topic),
    ]);
    let mut operator = scene.gantry.client();
    let opaque = operator.post(CONSUME_DIRECTLY, &asked, b"");
    operator.flush().unwrap();
    let question = scene.client.await_push(CONSUME_DIRECTLY);
    assert_eq!(question.ext["topicSysFlag"], "0");
    assert_eq!(question.ext["groupSysFlag"], "0");
    assert!(!question.ext["brokerName"].is_empty());
    assert_eq!(common::records(&question.body)[0].body, b"again");
    let result = b"{\"consumeResult\":\"CR_SUCCESS\",\"spentTimeMills\":3}";
    scene.client.answer(&question, 0, result);
    let answer = operator.reply_to(opaque).unwrap().expect(0);
    assert_eq!(answer.body, result);
}

/// The physical offset in a message id of an IPv4 broker.
fn offset_of(id: &str) -> String {
    i64::from_str_radix(&id[16..], 16).unwrap().to_string()
}

#[test]
fn the_trend_is_drawn_from_counters() {
    let mut scene = scene();
    let (topic, group) = (scene.topic.clone(), scene.group.clone());
    let both = format!("{topic}@{group}");
    let wanted = [
        ("TOPIC_PUT_NUMS", &*topic, 20.0),
        ("GROUP_GET_NUMS", &*both, 20.0),
        ("BROKER_PUT_NUMS", "DashCluster", 20.0),
        ("BROKER_GET_NUMS", "DashCluster", 20.0),
    ];
    for (name, key, sum) in wanted {
        let fields = ext(&[("statsName", name), ("statsKey", key)]);
        let stats = until(5, "the counter shows all", || {
            let answer = scene.client.call(STATS_DATA, &fields, b"");
            let stats = (answer.code == 0).then(|| body(&answer))?;
            let day = number(stats.get("statsDay").unwrap(), "sum");
            ((day - sum).abs() < 0.01).then_some(stats)
        });
        for span in ["statsMinute", "statsHour", "statsDay"] {
            let item = stats.get(span).unwrap();
            is(number(item, "sum"), sum);
            assert!(number(item, "tps") > 0.0, "{name} {span}");
            number(item, "avgpt");
        }
    }
    let fields = [("statsName", "TOPIC_PUT_SIZE"), ("statsKey", &*topic)];
    let size = scene.ask(STATS_DATA, &fields);
    let bytes = number(size.get("statsMinute").unwrap(), "avgpt");
    assert!((90.0..400.0).contains(&bytes), "bytes of a record: {bytes}");
    let fields = ext(&[("statsName", "TOPIC_PUT_NUMS"), ("statsKey", "none")]);
    let none = scene.client.call(STATS_DATA, &fields, b"");
    assert_eq!(none.code, 1);
}
