//! Every body against the text that the Java classes of 5.5.0 write, and the dialects of clients.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::fastjson::{self, IntegerKeys, Value, to_bytes};

/// Texts are broken into lines here; on the wire they have none.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect()
}

fn written(value: &Value, keys: IntegerKeys) -> String {
    String::from_utf8(to_bytes(value, keys).to_vec()).unwrap()
}

#[track_caller]
fn same(value: &Value, keys: IntegerKeys, text: &str) {
    assert_eq!(written(value, keys), text);
}

fn queue(topic: &str, queue_id: i32) -> MessageQueue {
    MessageQueue {
        topic: topic.to_owned(),
        broker_name: "b0".to_owned(),
        queue_id,
    }
}

const HEARTBEAT: &str = r#"
    {"clientID":"127.0.0.1@1#2","consumerDataSet":[{
    "consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","consumeType":"CONSUME_PASSIVELY",
    "groupName":"cg","messageModel":"CLUSTERING","subscriptionDataSet":[{
    "classFilterMode":false,"codeSet":[2598919,2598920],"expressionType":"TAG",
    "subString":"TagA || TagB","subVersion":1795375782540,"tagsSet":["TagA","TagB"],
    "topic":"T"}],"unitMode":false}],"heartbeatFingerprint":0,"producerDataSet":[{
    "groupName":"pg"}],"withoutSub":false}"#;

#[test]
fn heartbeat_of_java() {
    let read = HeartbeatData::parse(one_line(HEARTBEAT).as_bytes()).unwrap();
    assert_eq!(read.client_id, "127.0.0.1@1#2");
    assert_eq!(read.producer_groups, ["pg"]);
    assert_eq!(
        read.consumers[0].subscriptions[0].filter.codes(),
        [2_598_919, 2_598_920]
    );
    same(&read.to_value(), IntegerKeys::Quoted, &one_line(HEARTBEAT));
}

/// Traps 23, 24, 97 and 99: the C++ client's integers, texts and missing members.
#[test]
fn trap_23_24_97_99_heartbeat_of_cpp() {
    let body = br#"{"clientID":"c","consumerDataSet":[{"consumeFromWhere":4,"consumeType":0,
        "groupName":"g","messageModel":0,"subscriptionDataSet":[{"subString":"TagA","subVersion":
        "1795375782540","topic":"T"}]}],"producerDataSet":[]}
    "#;
    let read = HeartbeatData::parse(body).unwrap();
    let consumer = &read.consumers[0];
    assert_eq!(consumer.consume_type, ConsumeType::Actively);
    assert_eq!(consumer.message_model, MessageModel::Broadcasting);
    assert_eq!(consumer.consume_from, ConsumeFromWhere::FirstOffset);
    let subscription = &consumer.subscriptions[0];
    assert_eq!(subscription.sub_version, 1_795_375_782_540);
    assert_eq!(subscription.expression_type, "TAG");
    assert!(subscription.filter.matches(2_598_919));
    assert_eq!((read.fingerprint, read.without_subscriptions), (0, false));
}

/// Traps 98 and 100: Go's texts as codes, and its hash over other bytes.
#[test]
fn trap_98_100_heartbeat_of_go() {
    let body = r#"{"clientID":"c","producerDataSet":null,"consumerDataSet":[{"groupName":"g",
        "consumeType":"CONSUME_PASSIVELY","messageModel":"Clustering","consumeFromWhere":"UNKNOWN",
        "subscriptionDataSet":[{"topic":"T","subString":"订单","codeSet":["12345"],
        "tagsSet":["订单"],"expressionType":"TAG","subVersion":1}],"unitMode":false}]}"#;
    let read = HeartbeatData::parse(body.as_bytes()).unwrap();
    let consumer = &read.consumers[0];
    assert_eq!(consumer.consume_from, ConsumeFromWhere::LastOffset);
    assert_eq!(consumer.message_model, MessageModel::Clustering);
    assert_eq!(
        consumer.subscriptions[0].filter.codes(),
        [0x8BA2 * 31 + 0x5355]
    );
    assert!(HeartbeatData::parse(br#"{"clientID":""}"#).is_err());
}

#[test]
fn a_subscription_by_sql_matches_every_hash() {
    let body = br#"{"topic":"T","subString":"a > 5 || b","expressionType":"SQL92"}"#;
    let read = SubscriptionData::from_value(&fastjson::parse(body).unwrap());
    assert!(read.filter.matches(0) && read.tags.is_empty());
    let broken = SubscriptionData::tag("T", "||", 1);
    assert!(!broken.filter.matches(0) && !broken.filter.matches(1));
}

fn route() -> TopicRouteData {
    TopicRouteData {
        order_topic_conf: None,
        brokers: vec![BrokerData {
            cluster: "c".to_owned(),
            broker_name: "b".to_owned(),
            addresses: BTreeMap::from([(0, "ip:10911".to_owned())]),
            acting_master: false,
            zone: None,
        }],
        queues: vec![QueueData {
            broker_name: "b".to_owned(),
            read_queue_nums: 4,
            write_queue_nums: 4,
            perm: 6,
            topic_sys_flag: 0,
        }],
        filter_servers: BTreeMap::new(),
    }
}

/// Traps 17 to 19.
#[test]
fn trap_17_19_route_in_both_dialects() {
    let quoted = &one_line(
        r#"
        {"brokerDatas":[{"brokerAddrs":{"0":"ip:10911"},"brokerName":"b","cluster":"c",
        "enableActingMaster":false}],"filterServerTable":{},"queueDatas":[{"brokerName":"b",
        "perm":6,"readQueueNums":4,"topicSysFlag":0,"writeQueueNums":4}]}"#,
    );
    let bare = quoted.replace("\"0\"", "0");
    same(&route().to_value(), IntegerKeys::Quoted, quoted);
    same(&route().to_value(), IntegerKeys::Bare, &bare);
    for text in [quoted, &bare] {
        assert_eq!(TopicRouteData::parse(text.as_bytes()).unwrap(), route());
    }
    let ordered = TopicRouteData {
        order_topic_conf: Some("b:4".to_owned()),
        ..route()
    };
    let bytes = to_bytes(&ordered.to_value(), IntegerKeys::Quoted);
    assert_eq!(TopicRouteData::parse(&bytes).unwrap(), ordered);
}

#[test]
fn cluster_info() {
    let text = &one_line(
        r#"
        {"brokerAddrTable":{"b0":{"brokerAddrs":{0:"ip:port"},"brokerName":"b0",
        "cluster":"c0","enableActingMaster":false}},"clusterAddrTable":{"c0":["b0"]}}"#,
    );
    let read = ClusterInfo::parse(text.as_bytes()).unwrap();
    assert_eq!(read.brokers["b0"].addresses[&0], "ip:port");
    same(&read.to_value(), IntegerKeys::Bare, text);
}

/// Trap 111: the members' answer has bare keys.
#[test]
fn trap_111_member_group() {
    let text =
        r#"{"brokerMemberGroup":{"brokerAddrs":{0:"a:1",1:"b:2"},"brokerName":"b","cluster":"c"}}"#;
    let read = BrokerMemberGroup::parse(text.as_bytes()).unwrap();
    assert_eq!(read.addresses[&1], "b:2");
    same(&read.to_value(), IntegerKeys::Bare, text);
}

/// Trap 22: queues as raw objects in every table.
#[test]
fn trap_22_stats() {
    let text = &one_line(
        r#"
        {"consumeTps":0.0,"offsetTable":{{"brokerName":"b0","queueId":0,"topic":"T"}:{
        "brokerOffset":10,"consumerOffset":5,"lastTimestamp":1,"pullOffset":7}}}"#,
    );
    let read = ConsumeStats::parse(text.as_bytes()).unwrap();
    assert_eq!(read.queues[&queue("T", 0)].consumer_offset, 5);
    same(&read.to_value(), IntegerKeys::Quoted, text);
    let text = &one_line(
        r#"
        {"offsetTable":{{"brokerName":"b0","queueId":0,"topic":"T"}:{"lastUpdateTimestamp":0,
        "maxOffset":9,"minOffset":0}},"topicPutTps":0.0}"#,
    );
    let read = TopicStats::parse(text.as_bytes()).unwrap();
    assert_eq!(read.queues[&queue("T", 0)].max_offset, 9);
    same(&read.to_value(), IntegerKeys::Quoted, text);
    let text = r#"{"offsetTable":{{"brokerName":"b0","queueId":0,"topic":"T"}:5}}"#;
    let offsets = parse_queue_offsets(text.as_bytes(), "offsetTable").unwrap();
    same(
        &reset_offset_body(&offsets, false),
        IntegerKeys::Quoted,
        text,
    );
    let cpp = r#"{"offsetTable":[{"brokerName":"b0","offset":5,"queueId":0,"topic":"T"}]}"#;
    same(&reset_offset_body(&offsets, true), IntegerKeys::Quoted, cpp);
}

#[test]
fn offset_tables() {
    let text = &one_line(
        r#"
        {"dataVersion":{"counter":1,"stateVersion":0,"timestamp":2},"groupTopicMap":{"cg":[
        "T"]},"offsetTable":{"T@cg":{0:1}},"pullOffsetTable":{"T@cg":{0:4}}}"#,
    );
    let read = ConsumerOffsets::parse(text.as_bytes()).unwrap();
    assert_eq!(
        (read.offsets["T@cg"][&0], read.data_version.counter),
        (1, 1)
    );
    same(&read.to_value(), IntegerKeys::Bare, text);
    let text =
        r#"{"dataVersion":{"counter":0,"stateVersion":0,"timestamp":0},"offsetTable":{1:1}}"#;
    let read = DelayOffsets::parse(text.as_bytes()).unwrap();
    same(&read.to_value(), IntegerKeys::Bare, text);
}

#[test]
fn groups() {
    let text = &one_line(
        r#"
        {"attributes":{},"brokerId":0,"consumeBroadcastEnable":true,"consumeEnable":true,
        "consumeFromMinEnable":true,"consumeMessageOrderly":false,"consumeTimeoutMinute":15,
        "groupName":"cg","groupRetryPolicy":{"type":"CUSTOMIZED"},"groupSysFlag":0,
        "notifyConsumerIdsChangedEnable":true,"retryMaxTimes":16,"retryQueueNums":1,
        "whichBrokerWhenConsumeSlowly":1}"#,
    );
    let usual = SubscriptionGroupConfig::new("cg");
    same(&usual.to_value(), IntegerKeys::Quoted, text);
    assert_eq!(
        SubscriptionGroupConfig::parse(text.as_bytes()).unwrap(),
        usual
    );
    assert_eq!(
        SubscriptionGroupConfig::parse(br#"{"groupName":"cg"}"#).unwrap(),
        usual
    );
    let noted = text.replace(
        r#""whichBroker"#,
        r#""subscriptionDataSet":[{"expression":"*","expressionType":"TAG","topic":"T","version":1}],"whichBroker"#,
    );
    let read = SubscriptionGroupConfig::parse(noted.as_bytes()).unwrap();
    same(&read.to_value(), IntegerKeys::Quoted, &noted);
    assert!(SubscriptionGroupConfig::parse(b"{}").is_err());
    let wrapper = SubscriptionGroupWrapper {
        groups: BTreeMap::from([("cg".to_owned(), usual)]),
        ..SubscriptionGroupWrapper::default()
    };
    let bytes = to_bytes(&wrapper.to_value(), IntegerKeys::Quoted);
    let read = SubscriptionGroupWrapper::parse(&bytes).unwrap();
    assert_eq!(read.groups, wrapper.groups);
}

#[test]
fn connections() {
    let text = &one_line(
        r#"
        {"connectionSet":[{"clientAddr":"ip:port","clientId":"cid","language":"JAVA",
        "version":513}],"consumeFromWhere":"CONSUME_FROM_LAST_OFFSET",
        "consumeType":"CONSUME_PASSIVELY","messageModel":"CLUSTERING","subscriptionTable":{
        "T":{"classFilterMode":false,"codeSet":[],"expressionType":"TAG","subString":"*",
        "subVersion":1,"tagsSet":[],"topic":"T"}}}"#,
    );
    let read = ConsumerConnection::parse(text.as_bytes()).unwrap();
    same(&read.to_value(), IntegerKeys::Quoted, text);
    let producers = ProducerConnection {
        connections: read.connections,
    };
    let bytes = to_bytes(&producers.to_value(), IntegerKeys::Quoted);
    assert_eq!(ProducerConnection::parse(&bytes).unwrap(), producers);
}

/// The C++ client leaves out `onlyThisBroker`.
#[test]
fn locks() {
    let body = br#"
        {"clientId":"c","consumerGroup":"g","mqSet":[{"brokerName":"b0","queueId":1,
        "topic":"T"}]}"#;
    let read = LockRequest::parse(body).unwrap();
    assert_eq!(
        (read.queues.as_slice(), read.only_this_broker),
        (&[queue("T", 1)][..], false)
    );
    let text = r#"{"lockOKMQSet":[{"brokerName":"b0","queueId":1,"topic":"T"}]}"#;
    same(&lock_reply(&read.queues), IntegerKeys::Quoted, text);
    assert_eq!(parse_lock_reply(text.as_bytes()).unwrap(), read.queues);
    let bytes = to_bytes(&read.to_value(), IntegerKeys::Quoted);
    assert_eq!(LockRequest::parse(&bytes).unwrap(), read);
    assert!(LockRequest::parse(b"{}").is_err());
}

#[test]
fn lists() {
    same(
        &consumer_id_list(["a", "b"]),
        IntegerKeys::Quoted,
        r#"{"consumerIdList":["a","b"]}"#,
    );
    assert_eq!(
        parse_consumer_id_list(br#"{"consumerIdList":["a"]}"#).unwrap(),
        ["a"]
    );
    let topics = TopicList {
        broker_addr: None,
        topics: vec!["T".to_owned()],
    };
    same(
        &topics.to_value(),
        IntegerKeys::Quoted,
        r#"{"topicList":["T"]}"#,
    );
    assert_eq!(TopicList::parse(br#"{"topicList":["T"]}"#).unwrap(), topics);
    let table = KvTable::parse(br#"{"table":{"k":"v"}}"#).unwrap();
    same(
        &table.to_value(),
        IntegerKeys::Quoted,
        r#"{"table":{"k":"v"}}"#,
    );
    let groups = GroupList {
        groups: vec!["g".to_owned()],
    };
    same(
        &groups.to_value(),
        IntegerKeys::Quoted,
        r#"{"groupList":["g"]}"#,
    );
}

const REGISTRATION: &str = r#"
    {"filterServerList":[],"topicConfigSerializeWrapper":{"dataVersion":{"counter":0,
    "stateVersion":0,"timestamp":7},"mappingDataVersion":{"counter":0,"stateVersion":0,
    "timestamp":8},"topicConfigTable":{"T":{"attributes":{},"order":false,"perm":6,
    "readQueueNums":4,"topicFilterType":"SINGLE_TAG","topicName":"T","topicSysFlag":0,
    "writeQueueNums":4}},"topicQueueMappingDetailMap":{},"topicQueueMappingInfoMap":{}}}"#;

#[test]
fn registration_in_json() {
    let read =
        RegisterBrokerBody::parse(one_line(REGISTRATION).as_bytes(), false, None, 513).unwrap();
    assert_eq!(read.topics.topics["T"], TopicConfig::new("T", 4));
    same(
        &read.to_value(),
        IntegerKeys::Quoted,
        &one_line(REGISTRATION),
    );
    let (bytes, crc) = read.encode(false);
    let crc = i64::from(crc);
    assert!(RegisterBrokerBody::parse(&bytes, false, Some(crc), 513).is_ok());
    assert!(RegisterBrokerBody::parse(&bytes, false, Some(0), 513).is_ok());
    let wrong = RegisterBrokerBody::parse(&bytes, false, Some(crc ^ 1), 513).unwrap_err();
    assert!(wrong.to_string().starts_with("crc32 not match"));
}

#[test]
fn damaged_compressed_registrations_are_refused() {
    let mut body =
        RegisterBrokerBody::parse(one_line(REGISTRATION).as_bytes(), false, None, 513).unwrap();
    body.topics
        .topics
        .insert("U".to_owned(), TopicConfig::new("U", 8));
    let (bytes, _) = body.encode(true);
    for cut in 0..bytes.len() - 4 {
        assert!(
            RegisterBrokerBody::parse(&bytes[..cut], true, None, 513).is_err(),
            "{cut}"
        );
    }
}

proptest! {
    #[test]
    fn compressed_registrations_are_read_as_written(
        topics in prop::collection::btree_map(
            "[a-zA-Z%_-]{1,30}",
            (
                0_i32..99,
                0_i32..99,
                0_i32..8,
                prop::collection::btree_map("[a-z.]{1,9}", "[A-Z ]{0,9}", 0..3),
            ),
            0..12,
        ),
        version in any::<(i64, i64, i64)>(),
        servers in prop::collection::vec("[a-z:0-9]{0,12}", 0..3),
    ) {
        let mut body = RegisterBrokerBody { filter_servers: servers, ..Default::default() };
        let (state_version, timestamp, counter) = version;
        body.topics.data_version = DataVersion { state_version, timestamp, counter };
        for (name, (read, write, perm, attributes)) in topics {
            let mut config = TopicConfig::new(name.clone(), read);
            config.write_queue_nums = write;
            config.perm = perm;
            config.attributes = attributes;
            body.topics.topics.insert(name, config);
        }
        let as_tree = to_bytes(&body.to_value(), IntegerKeys::Quoted);
        prop_assert_eq!(body.encode(false).0, as_tree);
        for compressed in [false, true] {
            let (bytes, crc) = body.encode(compressed);
            let crc = Some(i64::from(crc));
            let read = RegisterBrokerBody::parse(&bytes, compressed, crc, 513).unwrap();
            prop_assert_eq!(&read.topics.topics, &body.topics.topics);
            prop_assert_eq!(read.topics.data_version, body.topics.data_version);
            prop_assert_eq!(&read.filter_servers, &body.filter_servers);
        }
    }
}

/// An expression that is refused isn't taken apart either.
#[test]
fn too_many_tags_make_no_tags() {
    let expression = "t||".repeat(crate::subscription::TAGS_MAX + 1);
    let data = SubscriptionData::tag("T", &expression, 1);
    assert!(data.tags.is_empty() && data.tags.capacity() == 0);
    assert!(data.filter.codes().is_empty() && !data.filter.matches(0));
}
