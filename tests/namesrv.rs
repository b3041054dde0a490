//! The name server: registration by hand, routes in both dialects, expiry, key-values, several at
//! once.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{Client, Frame, Gantry, code, ext, fresh, reply, until};
use serde_json::{Value, json};

/// A broker of these tests, as it registers.
struct Fake<'a> {
    name: &'a str,
    addr: &'a str,
    id: &'a str,
    timeout_ms: &'a str,
}

impl<'a> Fake<'a> {
    fn master(name: &'a str, addr: &'a str) -> Self {
        Self {
            name,
            addr,
            id: "0",
            timeout_ms: "120000",
        }
    }

    fn fields(&self) -> Vec<(String, String)> {
        ext(&[
            ("brokerName", self.name),
            ("brokerAddr", self.addr),
            ("clusterName", "FakeCluster"),
            ("haServerAddr", "192.0.2.1:10912"),
            ("brokerId", self.id),
            ("heartbeatTimeoutMillis", self.timeout_ms),
            ("enableActingMaster", "false"),
            ("compressed", "false"),
            ("bodyCrc32", "0"),
        ])
    }

    /// A full registration: these topics and one with the broker's own name, because a first one
    /// with a single topic is taken for an addition and refused.
    fn register(&self, client: &mut Client, topics: &[&str], counter: u32) -> Frame {
        let all: Vec<&str> = topics.iter().copied().chain([self.name]).collect();
        self.register_only(client, &all, counter)
    }

    fn register_only(&self, client: &mut Client, topics: &[&str], counter: u32) -> Frame {
        let table: serde_json::Map<String, Value> = topics
            .iter()
            .map(|t| ((*t).to_owned(), topic_config(t)))
            .collect();
        let version =
            json!({"counter": counter, "stateVersion": 0, "timestamp": 1_700_000_000_000_u64});
        let body = json!({"filterServerList": [], "topicConfigSerializeWrapper": {
            "dataVersion": version, "mappingDataVersion": version, "topicConfigTable": table,
            "topicQueueMappingDetailMap": {}, "topicQueueMappingInfoMap": {}}});
        client.call(
            code::REGISTER_BROKER,
            &self.fields(),
            body.to_string().as_bytes(),
        )
    }
}

fn topic_config(topic: &str) -> Value {
    json!({"attributes": {}, "order": false, "perm": 6, "readQueueNums": 4, "writeQueueNums": 3,
        "topicFilterType": "SINGLE_TAG", "topicName": topic, "topicSysFlag": 0})
}

fn route(client: &mut Client, topic: &str) -> Frame {
    client.call(code::ROUTE, &ext(&[("topic", topic)]), b"")
}

/// The route's JSON, when there is one.
fn route_json(client: &mut Client, topic: &str) -> Option<Value> {
    let answer = route(client, topic);
    (answer.code == reply::SUCCESS).then(|| serde_json::from_slice(&answer.body).unwrap())
}

/// A route request as a client of this version writes it; the body of the answer.
fn route_asked_by_version(client: &mut Client, topic: &str, version: i32, more: &str) -> String {
    let header = format!(
        concat!(
            r#"{{"code":105,"language":"JAVA","version":{version},"opaque":77,"flag":0,"#,
            r#""extFields":{{"topic":"{topic}"{more}}}}}"#
        ),
        version = version,
        topic = topic,
        more = more
    );
    let mut bytes = u32::try_from(4 + header.len())
        .unwrap()
        .to_be_bytes()
        .to_vec();
    bytes.extend(u32::try_from(header.len()).unwrap().to_be_bytes());
    bytes.extend(header.as_bytes());
    client.stream().write_all(&bytes).unwrap();
    client.next_reply().unwrap().expect(reply::SUCCESS).text()
}

#[test]
fn a_route_in_both_json_dialects() {
    let gantry = Gantry::namesrv_alone(&[]);
    let (topic, name) = (fresh("dialect"), fresh("b"));
    let mut broker = gantry.namesrv_client();
    Fake::master(&name, "192.0.2.1:10911")
        .register(&mut broker, &[&topic], 1)
        .expect(0);
    let mut client = gantry.namesrv_client();
    let expected = format!(
        concat!(
            r#"{{"brokerDatas":[{{"brokerAddrs":{{KEY:"192.0.2.1:10911"}},"brokerName":"{name}","#,
            r#""cluster":"FakeCluster","enableActingMaster":false}}],"filterServerTable":{{}},"#,
            r#""queueDatas":[{{"brokerName":"{name}","perm":6,"readQueueNums":4,"#,
            r#""topicSysFlag":0,"writeQueueNums":3}}]}}"#
        ),
        name = name
    );
    // Keys are quoted from 4.9.4 (ordinal 401) on, or when asked for: 513 is 5.5.0, 399 4.9.3.
    let new = route_asked_by_version(&mut client, &topic, 513, "");
    assert_eq!(new, expected.replace("KEY", "\"0\""));
    let old = route_asked_by_version(&mut client, &topic, 399, "");
    assert_eq!(old, expected.replace("KEY", "0"));
    let asked = route_asked_by_version(
        &mut client,
        &topic,
        399,
        r#","acceptStandardJsonOnly":"true""#,
    );
    assert_eq!(asked, new);
    assert_eq!(
        route(&mut client, "no-such-topic").code,
        reply::TOPIC_NOT_EXIST
    );
}

#[test]
fn a_registration_adds_up_and_ends_with_its_connection() {
    let gantry = Gantry::namesrv_alone(&[]);
    let (one, two, added) = (fresh("one"), fresh("two"), fresh("added"));
    let (name_a, name_b) = (fresh("a"), fresh("b"));
    let mut a = gantry.namesrv_client();
    let mut b = gantry.namesrv_client();
    let unknown = fresh("unknown");
    let early = Fake::master(&unknown, "192.0.2.12:10911").register_only(&mut a, &[&one], 1);
    assert_eq!(early.code, reply::SYSTEM_ERROR, "an addition to nothing");
    let fake_a = Fake::master(&name_a, "192.0.2.10:10911");
    let fake_b = Fake::master(&name_b, "192.0.2.11:10911");
    fake_a.register(&mut a, &[&one, &two], 1).expect(0);
    fake_b.register(&mut b, &[&one], 1).expect(0);
    let mut client = gantry.namesrv_client();
    let both = route_json(&mut client, &one).unwrap();
    assert_eq!(both["brokerDatas"].as_array().unwrap().len(), 2);
    assert_eq!(both["queueDatas"].as_array().unwrap().len(), 2);
    // A registration with one topic more is an addition: the others stay.
    fake_a.register_only(&mut a, &[&added], 2).expect(0);
    for topic in [&one, &two, &added] {
        assert!(route_json(&mut client, topic).is_some(), "{topic}");
    }
    let cluster: Value =
        serde_json::from_str(&quoted(&client.call(code::CLUSTER, &[], b"").text())).unwrap();
    assert_eq!(
        cluster["brokerAddrTable"][&name_a]["brokerAddrs"]["0"],
        "192.0.2.10:10911"
    );
    let names = cluster["clusterAddrTable"]["FakeCluster"]
        .as_array()
        .unwrap();
    assert!(
        names.contains(&json!(name_a)) && names.contains(&json!(name_b)),
        "{names:?}"
    );
    let topics = client.call(code::ALL_TOPICS, &[], b"").expect(0).text();
    assert!(topics.contains(&format!("\"{two}\"")), "{topics}");
    // The connection that registered it ends, and so do its routes, at once.
    drop(a);
    until(3, "routes of a closed connection are gone", || {
        let left = route_json(&mut client, &one)?;
        (left["brokerDatas"].as_array()?.len() == 1).then_some(())
    });
    assert_eq!(route(&mut client, &two).code, reply::TOPIC_NOT_EXIST);
    // The other one says goodbye in words.
    let goodbye = b.call(code::UNREGISTER_BROKER, &fake_b.fields(), b"");
    goodbye.expect(0);
    until(5, "an unregistered broker is gone", || {
        (route(&mut client, &one).code == reply::TOPIC_NOT_EXIST).then_some(())
    });
}

/// `{0:` as `{"0":`: code 106 may be answered in the old dialect.
fn quoted(text: &str) -> String {
    text.replace("{0:", "{\"0\":")
}

#[test]
fn a_broker_that_falls_silent_expires() {
    let gantry = Gantry::namesrv_alone(&["scanNotActiveBrokerInterval=300"]);
    let (topic, silent, name) = (fresh("kept"), fresh("silent"), fresh("b"));
    let other = fresh("c");
    let mut a = gantry.namesrv_client();
    let mut b = gantry.namesrv_client();
    let mut fake = Fake::master(&name, "192.0.2.20:10911");
    fake.timeout_ms = "1500";
    fake.register(&mut a, &[&silent], 1).expect(0);
    let mut lively = Fake::master(&other, "192.0.2.21:10911");
    lively.timeout_ms = "1500";
    let mut client = gantry.namesrv_client();
    let from = Instant::now();
    // One keeps registering, the other only keeps its connection.
    let mut counter = 0;
    while from.elapsed() < Duration::from_secs(4) {
        counter += 1;
        lively.register(&mut b, &[&topic], counter).expect(0);
        if from.elapsed() < Duration::from_secs(1) {
            assert!(
                route_json(&mut client, &silent).is_some(),
                "expired too early"
            );
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    // Apache RocketMQ looks every 5 s.
    until(8, "the silent broker has expired", || {
        lively.register(&mut b, &[&topic], 99).expect(0);
        (route(&mut client, &silent).code == reply::TOPIC_NOT_EXIST).then_some(())
    });
    assert!(
        route_json(&mut client, &topic).is_some(),
        "the lively one is gone, too"
    );
}

#[test]
fn key_values_are_put_listed_deleted_and_kept() {
    let mut gantry = Gantry::namesrv_alone(&[]);
    let mut client = gantry.namesrv_client();
    let space = fresh("SPACE");
    let at = |key: &str| ext(&[("namespace", &space), ("key", key)]);
    client
        .call(code::GET_KV, &at("k"), b"")
        .expect(reply::QUERY_NOT_FOUND);
    for (key, value) in [("k", "v1"), ("k", "a \"b\" ü"), ("other", "1")] {
        let mut fields = at(key);
        fields.extend(ext(&[("value", value)]));
        client.call(code::PUT_KV, &fields, b"").expect(0);
    }
    let got = client.call(code::GET_KV, &at("k"), b"").expect(0);
    assert_eq!(got.ext["value"], "a \"b\" ü");
    let list = client
        .call(code::KV_LIST, &ext(&[("namespace", &space)]), b"")
        .expect(0);
    let list: Value = serde_json::from_slice(&list.body).unwrap();
    assert_eq!(list["table"], json!({"k": "a \"b\" ü", "other": "1"}));
    client.call(code::DELETE_KV, &at("other"), b"").expect(0);
    client
        .call(code::GET_KV, &at("other"), b"")
        .expect(reply::QUERY_NOT_FOUND);
    if std::env::var("GANTRY_TEST_AGAINST").is_err() {
        assert!(gantry.stop("TERM").success());
        gantry.start();
        gantry.await_line("ready:");
        let mut client = gantry.namesrv_client();
        let got = client.call(code::GET_KV, &at("k"), b"").expect(0);
        assert_eq!(got.ext["value"], "a \"b\" ü");
        client
            .call(code::GET_KV, &at("other"), b"")
            .expect(reply::QUERY_NOT_FOUND);
    }
}

#[test]
fn broken_registrations_do_no_harm() {
    let mut gantry = Gantry::namesrv_alone(&[]);
    let (topic, name) = (fresh("sound"), fresh("b"));
    let mut broker = gantry.namesrv_client();
    Fake::master(&name, "192.0.2.30:10911")
        .register(&mut broker, &[&topic], 1)
        .expect(0);
    let other = fresh("x");
    let fake = Fake::master(&other, "192.0.2.31:10911");
    for body in [
        &b"{"[..],
        b"[]",
        b"null",
        b"{\"topicConfigSerializeWrapper\":7}",
        &[0xFF; 100],
    ] {
        let mut client = gantry.namesrv_client();
        // Refused or read as empty, but answered.
        client.call(code::REGISTER_BROKER, &fake.fields(), body);
    }
    let mut wrong_crc = fake.fields();
    wrong_crc
        .iter_mut()
        .find(|(k, _)| k == "bodyCrc32")
        .unwrap()
        .1 = "12345".to_owned();
    let mut client = gantry.namesrv_client();
    client
        .call(code::REGISTER_BROKER, &wrong_crc, b"{}")
        .expect(reply::SYSTEM_ERROR);
    assert!(route_json(&mut client, &topic).is_some());
    assert!(gantry.is_alive());
}

/// A broker process of its own, registered at these name servers.
fn broker_at(namesrvs: &str, more: &[&str]) -> Gantry {
    let mut args = vec![
        "broker",
        "--data",
        "{dir}/data",
        "--listen",
        "{ip}",
        "-n",
        namesrvs,
    ];
    for setting in ["mappedFileSizeCommitLog=8M", "brokerIP1={ip}"]
        .iter()
        .chain(more)
    {
        args.extend(["--set", setting]);
    }
    let mut broker = Gantry::command(&args);
    broker.start();
    broker.await_line("ready:");
    broker
}

/// A pipe holds 64 KiB, here some 500 lines; then whoever writes waits until somebody reads.
#[test]
fn a_log_that_nobody_reads_stops_nobody() {
    let mut gantry = Gantry::command(&["namesrv", "--listen", "{ip}", "--port", "9876"]);
    gantry.start_held();
    gantry.await_line("ready:");
    for _ in 0..2_000 {
        let mut stream = TcpStream::connect(gantry.namesrv()).unwrap();
        // A frame of 8 bytes with a header of 4 that is no JSON: a line of the log.
        stream.write_all(b"\0\0\0\x08\0\0\0\x04none").unwrap();
    }
    let answer = route(&mut gantry.namesrv_client(), "any");
    assert_eq!(answer.code, reply::TOPIC_NOT_EXIST);
    assert!(gantry.stop("TERM").success());
}

/// Clients resolve it, each where it is; records have the address that it means here.
#[test]
fn a_broker_whose_address_is_a_name_registers_the_name() {
    let namesrv = Gantry::namesrv_alone(&[]);
    let list = namesrv.namesrv().to_string();
    let broker = broker_at(&list, &["brokerIP1=localhost", "brokerName=b-name"]);
    let mut client = namesrv.namesrv_client();
    let route = until(10, "the broker is registered", || {
        route_json(&mut client, "TBW102")
    });
    assert_eq!(
        route["brokerDatas"][0]["brokerAddrs"]["0"],
        "localhost:10911"
    );
    let sent = broker.client().send(&fresh("named"), 0, b"x", &[]);
    let id = &sent.expect(reply::SUCCESS).ext["msgId"];
    assert!(id.starts_with("7F000001"), "{id}");
}

#[test]
fn a_broker_registers_with_every_name_server_and_comes_back() {
    let mut first = Gantry::namesrv_alone(&[]);
    let second = Gantry::namesrv_alone(&[]);
    let both = format!("{};{}", first.namesrv(), second.namesrv());
    let mut broker = broker_at(
        &both,
        &["registerNameServerPeriod=10000", "brokerName=b-two"],
    );
    for namesrv in [&first, &second] {
        let mut client = namesrv.namesrv_client();
        until(10, "the broker is registered", || {
            route_json(&mut client, "TBW102")
        });
    }
    // A topic made by a send is known to both when the send is answered.
    let topic = fresh("both");
    broker
        .client()
        .send(&topic, 0, b"x", &[])
        .expect(reply::SUCCESS);
    for namesrv in [&first, &second] {
        let route = route_json(&mut namesrv.namesrv_client(), &topic).expect("a route at once");
        assert_eq!(route["brokerDatas"][0]["brokerName"], "b-two");
    }
    // One name server is away: nothing else notices, and it learns everything when it is back.
    first.kill9();
    let other = fresh("meanwhile");
    broker
        .client()
        .send(&other, 0, b"y", &[])
        .expect(reply::SUCCESS);
    assert!(route_json(&mut second.namesrv_client(), &other).is_some());
    first.start();
    first.await_line("ready:");
    let mut client = first.namesrv_client();
    until(
        25,
        "registered again after a restart of the name server",
        || route_json(&mut client, &other),
    );
    // An ordered stop takes the routes back.
    assert!(broker.stop("TERM").success());
    for namesrv in [&first, &second] {
        let answer = route(&mut namesrv.namesrv_client(), &topic);
        assert_eq!(answer.code, reply::TOPIC_NOT_EXIST);
    }
}
