//! The desk, asked as brokers, clients and tools ask.

use std::path::{Path, PathBuf};

use bytes::BytesMut;
use gantry_protocol::body::{
    ClusterInfo, DataVersion, KvTable, RegisterBrokerBody, TopicConfig, TopicConfigWrapper,
    TopicList, TopicRouteData,
};
use gantry_protocol::code::{request, response};
use gantry_protocol::fastjson::{IntegerKeys, to_bytes};
use gantry_protocol::{Command, take_frame};
use gantry_runtime::clock::MonoMs;

use crate::live::{KeyVerdict, LiveValue};

use super::Desk;
use crate::namesrv::kv::KeyValues;
use crate::namesrv::liveness::ConnectionId;
use crate::namesrv::settings::NamesrvSettings;

const T0: MonoMs = MonoMs(1_000_000);
const PEER: ConnectionId = ConnectionId(7);

fn settings(folder: &Path) -> NamesrvSettings {
    NamesrvSettings {
        listen: "127.0.0.1:0".parse().unwrap(),
        kv_config_path: folder.join("kvConfig.json"),
        config_store_path: folder.join("namesrv.properties"),
        order_message_enable: false,
        return_order_topic_config_to_broker: true,
        enable_topic_list: true,
        enable_all_topic_list: true,
        support_acting_master: false,
        need_wait_for_service: false,
        wait_for_service_ms: 45_000,
        delete_topic_with_broker_registration: false,
        scan_interval_ms: 5_000,
        channel_idle_max_seconds: 120,
        config_lines: vec![("orderMessageEnable".into(), "false".into())],
        key_check: |key, value| match (key, value) {
            ("unknown", _) => KeyVerdict::Unknown,
            ("listenPort", _) => KeyVerdict::AtStart,
            (_, "true" | "false") => KeyVerdict::Live(LiveValue::Switch(value == "true")),
            _ => KeyVerdict::Malformed("true or false".into()),
        },
    }
}

struct World {
    desk: Desk,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut NamesrvSettings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(folder.path());
        change(&mut settings);
        Self {
            desk: Desk::new(settings, KeyValues::default(), T0),
            folder,
        }
    }

    fn ask(&mut self, command: &Command) -> Command {
        let reply = self.desk.answer(command, PEER, T0).unwrap();
        assert!(reply.is_reply(), "trap 4");
        assert_eq!(reply.opaque, command.opaque);
        reply
    }

    fn register(&mut self, topics: &[&str]) -> Command {
        self.ask(&registration(topics, false))
    }

    fn topics(&mut self, command: &Command) -> Vec<String> {
        TopicList::parse(&self.ask(command).body).unwrap().topics
    }
}

fn identified(code: i32) -> Command {
    Command::request(code, 42)
        .with_ext("brokerName", "b")
        .with_ext("brokerAddr", "10.0.0.1:10911")
        .with_ext("clusterName", "c")
        .with_ext("brokerId", 0)
}

fn registration(topics: &[&str], compressed: bool) -> Command {
    let configs = topics
        .iter()
        .map(|name| ((*name).to_owned(), TopicConfig::new(*name, 4)));
    let body = RegisterBrokerBody {
        topics: TopicConfigWrapper {
            data_version: DataVersion {
                counter: 1,
                ..DataVersion::default()
            },
            topics: configs.collect(),
            ..TopicConfigWrapper::default()
        },
        filter_servers: Vec::new(),
    };
    let (body, crc) = body.encode(compressed);
    identified(request::REGISTER_BROKER)
        .with_ext("haServerAddr", "10.0.0.1:10912")
        .with_ext("compressed", compressed)
        .with_ext("bodyCrc32", i64::from(crc))
        .with_body(body)
}

fn route_of(topic: &str) -> Command {
    Command::request(request::GET_ROUTEINFO_BY_TOPIC, 1).with_ext("topic", topic)
}

fn text(reply: &Command) -> String {
    String::from_utf8(reply.body.to_vec()).unwrap()
}

#[test]
fn a_registered_topic_has_a_route_in_both_forms_of_registration() {
    for compressed in [false, true] {
        let mut world = World::new();
        let reply = world.ask(&registration(&["T1", "T2"], compressed));
        assert_eq!(reply.code, response::SUCCESS, "{:?}", reply.remark);
        let route = TopicRouteData::parse(&world.ask(&route_of("T1")).body).unwrap();
        assert_eq!(route.queues[0].read_queue_nums, 4);
        assert_eq!(route.brokers[0].addresses[&0], "10.0.0.1:10911");
    }
}

#[test]
fn trap_17_integer_keys_are_quoted_for_new_clients_and_plain_for_old_ones() {
    let mut world = World::new();
    world.register(&["T1", "T2"]);
    let mut ask = route_of("T1");
    assert!(text(&world.ask(&ask)).contains(r#"{"0":"10.0.0.1:10911"}"#));
    ask.version = 400;
    assert!(text(&world.ask(&ask)).contains(r#"{0:"10.0.0.1:10911"}"#));
    let ask = ask.with_ext("acceptStandardJsonOnly", true);
    assert!(text(&world.ask(&ask)).contains(r#"{"0":"10.0.0.1:10911"}"#));
}

#[test]
fn trap_19_a_route_has_no_whitespace_and_alphabetical_members() {
    let mut world = World::new();
    world.register(&["T1", "T2"]);
    assert_eq!(
        text(&world.ask(&route_of("T1"))),
        "{\"brokerDatas\":[{\"brokerAddrs\":{\"0\":\"10.0.0.1:10911\"},\"brokerName\":\"b\",\
         \"cluster\":\"c\",\"enableActingMaster\":false}],\"filterServerTable\":{},\
         \"queueDatas\":[{\"brokerName\":\"b\",\"perm\":6,\"readQueueNums\":4,\
         \"topicSysFlag\":0,\"writeQueueNums\":4}]}"
    );
}

#[test]
fn trap_20_addresses_that_go_cannot_split_are_refused() {
    let mut world = World::new();
    for bad in ["a:1,b:2", "a\":1", "a 1", "{}"] {
        let mut command = registration(&["T1", "T2"], false);
        for (name, value) in command.ext.as_mut().unwrap() {
            if name == "brokerAddr" {
                *value = bad.to_owned();
            }
        }
        assert_eq!(world.ask(&command).code, response::SYSTEM_ERROR, "{bad}");
    }
}

#[test]
fn an_unknown_topic_is_17_and_names_it() {
    let reply = World::new().ask(&route_of("nope"));
    assert_eq!(reply.code, response::TOPIC_NOT_EXIST);
    assert!(reply.remark.unwrap().ends_with("for the topic: nope"));
}

#[test]
fn trap_15_an_unknown_code_is_3_with_its_name() {
    let mut world = World::new();
    let reply = world.ask(&Command::request(request::SEND_MESSAGE, 5));
    assert_eq!(reply.code, response::REQUEST_CODE_NOT_SUPPORTED);
    assert!(
        reply
            .remark
            .unwrap()
            .contains("10 (SEND_MESSAGE) not supported")
    );
    assert_eq!(world.ask(&Command::request(99_999, 5)).code, 3);
}

#[test]
fn trap_5_one_way_requests_and_stray_replies_get_nothing() {
    let mut world = World::new();
    let beat = identified(request::BROKER_HEARTBEAT).one_way();
    assert!(world.desk.answer(&beat, PEER, T0).is_none());
    let stray = Command::reply_to(&route_of("T"), 0);
    assert!(world.desk.answer(&stray, PEER, T0).is_none());
}

#[test]
fn a_wrong_checksum_is_refused_in_rocketmqs_words() {
    let mut command = registration(&["T1", "T2"], false);
    let mut body = BytesMut::from(&command.body[..]);
    body[10] ^= 1;
    command.body = body.freeze();
    let reply = World::new().ask(&command);
    assert_eq!(reply.code, response::SYSTEM_ERROR);
    assert!(reply.remark.unwrap().contains("crc32 not match"));
}

#[test]
fn trap_32_a_missing_value_is_22() {
    let mut world = World::new();
    let named = |code| {
        Command::request(code, 1)
            .with_ext("namespace", "ORDER_TOPIC_CONFIG")
            .with_ext("key", "T1")
    };
    assert_eq!(
        world.ask(&named(request::GET_KV_CONFIG)).code,
        response::QUERY_NOT_FOUND
    );
    assert_eq!(
        world.ask(&named(request::GET_KVLIST_BY_NAMESPACE)).code,
        response::QUERY_NOT_FOUND
    );
    let put = named(request::PUT_KV_CONFIG).with_ext("value", "b:4");
    assert_eq!(world.ask(&put).code, response::SUCCESS);
    let reply = world.ask(&named(request::GET_KV_CONFIG));
    assert_eq!(reply.ext("value"), Some("b:4"));
    let reply = world.ask(&named(request::GET_KVLIST_BY_NAMESPACE));
    assert_eq!(text(&reply), r#"{"table":{"T1":"b:4"}}"#);
    let kept = KeyValues::load(&world.folder.path().join("kvConfig.json")).unwrap();
    assert_eq!(kept.get("ORDER_TOPIC_CONFIG", "T1"), Some("b:4"));
    assert_eq!(
        world.ask(&named(request::DELETE_KV_CONFIG)).code,
        response::SUCCESS
    );
    assert_eq!(
        world.ask(&named(request::GET_KV_CONFIG)).code,
        response::QUERY_NOT_FOUND
    );
}

#[test]
fn order_configuration_goes_to_brokers_and_if_enabled_into_routes() {
    let mut world = World::with(|settings| settings.order_message_enable = true);
    let put = Command::request(request::PUT_KV_CONFIG, 1)
        .with_ext("namespace", "ORDER_TOPIC_CONFIG")
        .with_ext("key", "T1")
        .with_ext("value", "b:4");
    world.ask(&put);
    let reply = world.register(&["T1", "T2"]);
    assert_eq!(KvTable::parse(&reply.body).unwrap().table["T1"], "b:4");
    let route = TopicRouteData::parse(&world.ask(&route_of("T1")).body).unwrap();
    assert_eq!(route.order_topic_conf.as_deref(), Some("b:4"));
    let route = TopicRouteData::parse(&world.ask(&route_of("T2")).body).unwrap();
    assert_eq!(route.order_topic_conf, None);
}

/// Whatever stands in the table, brokers are registered: an answer that fits no frame is none.
#[test]
fn a_table_of_ordered_topics_too_large_for_a_frame_costs_no_registration() {
    let mut world = World::new();
    let put = |key: &str, value: &str| {
        Command::request(request::PUT_KV_CONFIG, 1)
            .with_ext("namespace", "ORDER_TOPIC_CONFIG")
            .with_ext("key", key)
            .with_ext("value", value)
    };
    assert_eq!(world.ask(&put("T1", &"\u{1}".repeat(7 << 20))).code, 0);
    let reply = world.register(&["T1", "T2"]);
    let found = (reply.code, reply.body.len());
    assert_eq!(found, (response::SUCCESS, 0), "{:?}", reply.remark);
    assert!(reply.encode(&mut BytesMut::new()).is_ok());
    let refused = world.ask(&put("T2", &"x".repeat(2 << 20)));
    assert_eq!(refused.code, response::SYSTEM_ERROR);
    assert!(refused.remark.unwrap().contains("8388608"));
}

#[test]
fn query_data_version_compares_and_answers_with_ours() {
    let mut world = World::new();
    let version = |counter| {
        let version = DataVersion {
            counter,
            ..DataVersion::default()
        };
        identified(request::QUERY_DATA_VERSION)
            .with_body(to_bytes(&version.to_value(), IntegerKeys::Quoted))
    };
    let reply = world.ask(&version(1));
    assert_eq!(reply.ext("changed"), Some("true"));
    assert!(reply.body.is_empty());
    world.register(&["T1", "T2"]);
    let reply = world.ask(&version(1));
    assert_eq!(reply.ext("changed"), Some("false"));
    assert!(text(&reply).contains("\"counter\":1"));
    assert_eq!(world.ask(&version(2)).ext("changed"), Some("true"));
}

#[test]
fn trap_111_cluster_and_member_bodies_have_plain_integer_keys() {
    let mut world = World::new();
    world.register(&["T1", "T2"]);
    let reply = world.ask(&Command::request(request::GET_BROKER_CLUSTER_INFO, 1));
    assert!(text(&reply).contains(r#"{0:"10.0.0.1:10911"}"#));
    assert_eq!(
        ClusterInfo::parse(&reply.body).unwrap().clusters["c"],
        ["b"]
    );
    let reply = world.ask(&identified(request::GET_BROKER_MEMBER_GROUP));
    assert_eq!(
        text(&reply),
        "{\"brokerMemberGroup\":{\"brokerAddrs\":{0:\"10.0.0.1:10911\"},\
         \"brokerName\":\"b\",\"cluster\":\"c\"}}"
    );
}

#[test]
fn lists_of_topics() {
    let mut world = World::new();
    world.register(&["T1", "T2"]);
    let list = |code| Command::request(code, 1);
    assert_eq!(
        world.topics(&list(request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER)),
        ["T1", "T2"]
    );
    let of_cluster = list(request::GET_TOPICS_BY_CLUSTER).with_ext("cluster", "c");
    assert_eq!(world.topics(&of_cluster), ["T1", "T2"]);
    let reply = world.ask(&list(request::GET_SYSTEM_TOPIC_LIST_FROM_NS));
    let listed = TopicList::parse(&reply.body).unwrap();
    assert_eq!(listed.topics, ["c", "b"]);
    assert_eq!(listed.broker_addr.as_deref(), Some("10.0.0.1:10911"));
    assert!(world.topics(&list(request::GET_UNIT_TOPIC_LIST)).is_empty());
}

#[test]
fn lists_can_be_switched_off_while_running() {
    let mut world = World::new();
    let update = Command::request(request::UPDATE_NAMESRV_CONFIG, 1)
        .with_body("enableTopicList=false\nunknown=1\norderMessageEnable=true\nlistenPort=1\n");
    let reply = world.ask(&update);
    assert_eq!(reply.code, response::SUCCESS);
    let remark = reply.remark.unwrap();
    assert!(remark.contains("ignored: unknown") && remark.contains("restart: listenPort"));
    let list = Command::request(request::GET_UNIT_TOPIC_LIST, 1);
    assert_eq!(world.ask(&list).remark.as_deref(), Some("disable"));
    let reply = world.ask(&Command::request(request::GET_NAMESRV_CONFIG, 1));
    assert_eq!(text(&reply), "orderMessageEnable=true\n");
    let kept: PathBuf = world.folder.path().join("namesrv.properties");
    assert_eq!(
        std::fs::read_to_string(kept).unwrap(),
        "orderMessageEnable=true\n"
    );
    let fixed = Command::request(request::UPDATE_NAMESRV_CONFIG, 1).with_body("kvConfigPath=/x\n");
    assert_eq!(world.ask(&fixed).code, response::NO_PERMISSION);
    let bad =
        Command::request(request::UPDATE_NAMESRV_CONFIG, 1).with_body("enableTopicList=maybe\n");
    assert!(
        world
            .ask(&bad)
            .remark
            .unwrap()
            .contains("it takes true or false")
    );
}

#[test]
fn write_permission_counts_come_in_their_own_fields() {
    let mut world = World::new();
    world.register(&["T1", "T2"]);
    let reply = world.ask(&identified(request::WIPE_WRITE_PERM_OF_BROKER));
    assert_eq!(reply.ext("wipeTopicCount"), Some("2"));
    let reply = world.ask(&identified(request::ADD_WRITE_PERM_OF_BROKER));
    assert_eq!(reply.ext("addTopicCount"), Some("2"));
}

#[test]
fn a_name_server_may_wait_before_it_answers_routes() {
    let mut world = World::with(|settings| settings.need_wait_for_service = true);
    world.register(&["T1", "T2"]);
    let reply = world.ask(&route_of("T1"));
    assert_eq!(reply.remark.as_deref(), Some("name server not ready"));
    let later = world
        .desk
        .answer(&route_of("T1"), PEER, MonoMs(T0.0 + 45_000))
        .unwrap();
    assert_eq!(later.code, response::SUCCESS);
}

#[test]
fn unregister_and_delete_topic_take_routes_away() {
    let mut world = World::new();
    world.register(&["T1", "T2"]);
    let delete = Command::request(request::DELETE_TOPIC_IN_NAMESRV, 1).with_ext("topic", "T1");
    world.ask(&delete);
    assert_eq!(world.ask(&route_of("T1")).code, response::TOPIC_NOT_EXIST);
    assert_eq!(world.ask(&route_of("T2")).code, response::SUCCESS);
    world.ask(&identified(request::UNREGISTER_BROKER));
    assert_eq!(world.ask(&route_of("T2")).code, response::TOPIC_NOT_EXIST);
    let forgotten = world.desk.expire(MonoMs(u64::MAX)).is_empty();
    assert!(forgotten, "none is waited for");
}

#[test]
fn a_missing_field_is_1_and_names_it() {
    let reply = World::new().ask(&Command::request(request::GET_ROUTEINFO_BY_TOPIC, 1));
    assert_eq!(reply.code, response::SYSTEM_ERROR);
    assert!(reply.remark.unwrap().contains("topic"));
}

#[test]
fn a_real_brokers_registration_is_taken() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden/apache-broker-5.5.0/request-103.frame");
    let mut bytes = BytesMut::from(&std::fs::read(golden).unwrap()[..]);
    let frame = take_frame(&mut bytes).unwrap().unwrap();
    let command = Command::from_frame(&frame).unwrap();
    let mut world = World::new();
    let reply = world.ask(&command);
    assert_eq!(reply.code, response::SUCCESS, "{:?}", reply.remark);
    let route = TopicRouteData::parse(&world.ask(&route_of("TBW102")).body).unwrap();
    assert_eq!(route.queues[0].perm, 7, "trap 26");
    assert_eq!(route.queues[0].read_queue_nums, 8);
}

#[test]
fn a_new_groups_retry_topic_has_a_route_before_its_heartbeat() {
    let mut world = World::new();
    let topics = registration(&["T", "%RETRY%old"], false);
    world.desk.answer(&topics, ConnectionId(9), T0).unwrap();
    let new = route_of("%RETRY%new");
    // A tool asks for nothing else.
    assert_eq!(world.ask(&new).code, response::TOPIC_NOT_EXIST);
    // A consumer of T: its heartbeat will go to the broker of T.
    assert_eq!(world.ask(&route_of("T")).code, response::SUCCESS);
    let reply = world.ask(&new);
    assert_eq!(reply.code, response::SUCCESS, "{:?}", reply.remark);
    let route = TopicRouteData::parse(&reply.body).unwrap();
    assert_eq!(route.brokers[0].broker_name, "b");
    let queues = &route.queues[0];
    assert_eq!((queues.read_queue_nums, queues.perm), (1, 6));
    for other in ["%RETRY%", "%RETRY%no good", "%DLQ%new", "U"] {
        assert_eq!(
            world.ask(&route_of(other)).code,
            response::TOPIC_NOT_EXIST,
            "{other}"
        );
    }
    // It is in no list of topics, and what is registered has its own route.
    let all = world.topics(&Command::request(
        request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER,
        1,
    ));
    assert_eq!(all, ["%RETRY%old", "T"]);
    let old = TopicRouteData::parse(&world.ask(&route_of("%RETRY%old")).body).unwrap();
    assert_eq!(old.queues[0].read_queue_nums, 4);
    // Another connection, and this one once it is closed.
    let elsewhere = world.desk.answer(&new, ConnectionId(8), T0).unwrap();
    assert_eq!(elsewhere.code, response::TOPIC_NOT_EXIST);
    world.desk.connection_closed(PEER);
    assert_eq!(world.ask(&new).code, response::TOPIC_NOT_EXIST);
}

/// A broker's own name, which Apache's register as a topic, may have a dot.
#[test]
fn topics_with_names_that_none_has_are_left_out() {
    let long = "x".repeat(513);
    for compressed in [false, true] {
        let mut world = World::new();
        let reply = world.ask(&registration(
            &[&long, "a\u{1}b", "b.example.com", "T"],
            compressed,
        ));
        assert_eq!(reply.code, response::SUCCESS, "{:?}", reply.remark);
        let mut all = world.topics(&Command::request(
            request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER,
            1,
        ));
        all.sort();
        assert_eq!(all, ["T", "b.example.com"]);
        let by_hand =
            Command::request(request::REGISTER_TOPIC_IN_NAMESRV, 1).with_ext("topic", &*long);
        let reply = world.ask(&by_hand);
        assert!(reply.remark.unwrap().contains("no topic has the name"));
    }
}

/// The form of a broker with more topics than fit a frame as text.
#[test]
fn as_many_topics_as_a_broker_may_have_register_at_once() {
    let names: Vec<String> = (0..100_000).map(|n| format!("{n:0>60}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut world = World::new();
    let reply = world.ask(&registration(&names, true));
    assert_eq!(reply.code, response::SUCCESS, "{:?}", reply.remark);
    for name in [names[0], names[99_999]] {
        assert_eq!(world.ask(&route_of(name)).code, response::SUCCESS);
    }
}
