//! A RocketMQ `broker.conf` taken as it is: what works, what is refused with a reason, what is
//! only remarked on.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::fs;
use std::path::Path;

use common::process::{Scratch, fresh_ip, run};
use common::{Gantry, code, ext, fresh, reply, until};
use serde_json::Value;

/// What a broker with this file says before it ends; it must end with a failure.
fn refused(conf: &str) -> String {
    let scratch = Scratch::new();
    let file = scratch.path().join("broker.conf");
    let data = scratch.path().join("data");
    fs::write(&file, conf).unwrap();
    let ip = fresh_ip().to_string();
    let args = [
        "broker",
        "-c",
        file.to_str().unwrap(),
        "--data",
        data.to_str().unwrap(),
    ];
    let (ok, out, err) = run(
        &[&args[..], &["--listen", &ip, "-n", "127.0.0.1:1"]].concat(),
        b"",
    );
    assert!(!ok, "accepted: {conf}\n{out}{err}");
    assert!(
        !data.exists() || fs::read_dir(&data).unwrap().next().is_none(),
        "data was touched"
    );
    format!("{out}{err}")
}

#[test]
fn a_malformed_value_is_named_with_its_line_and_what_is_allowed() {
    let cases = [
        (
            "listenPort=tenthousand",
            "listenPort",
            "tenthousand",
            "number",
        ),
        ("listenPort=70000", "listenPort", "70000", "65535"),
        (
            "flushDiskType=SOMETIMES_FLUSH",
            "flushDiskType",
            "SOMETIMES_FLUSH",
            "SYNC_FLUSH",
        ),
        (
            "autoCreateTopicEnable=yes",
            "autoCreateTopicEnable",
            "yes",
            "true or false",
        ),
        ("brokerRole=KING", "brokerRole", "KING", "ASYNC_MASTER"),
        ("deleteWhen=27", "deleteWhen", "27", "hours"),
        ("brokerIP1=10.0.0.300", "brokerIP1", "10.0.0.300", "address"),
        ("namesrvAddr=nowhere", "namesrvAddr", "nowhere", "host:port"),
        (
            "messageDelayLevel=1s 5x",
            "messageDelayLevel",
            "1s 5x",
            "delays",
        ),
    ];
    for (line, key, value, allowed) in cases {
        // The third line of the file, with a comment and an empty line before it.
        let said = refused(&format!("# a broker\n\n{line}\nfileReservedTime=48\n"));
        for part in [key, value, allowed, "broker.conf:3"] {
            assert!(said.contains(part), "'{line}': no '{part}' in: {said}");
        }
    }
}

#[test]
fn every_complaint_of_a_file_is_made_at_once() {
    let said = refused("listenPort=x\nbrokerName=fine\nautoCreateTopicEnable=maybe\n");
    assert!(
        said.contains("broker.conf:1") && said.contains("broker.conf:3"),
        "{said}"
    );
}

#[test]
fn what_is_not_built_is_refused_with_the_reason() {
    for (line, key) in [
        ("brokerRole=SLAVE", "brokerRole"),
        ("brokerId=1", "brokerId"),
    ] {
        let said = refused(&format!("{line}\n"));
        assert!(
            said.contains(key) && said.contains("replication"),
            "{line}: {said}"
        );
    }
}

/// A broker with this file at a name server of its own.
fn with_conf(conf: &str) -> (Gantry, Gantry) {
    let namesrv = Gantry::namesrv_alone(&[]);
    let mut broker = Gantry::command(&["broker", "-c", "{dir}/broker.conf"]);
    let text = conf
        .replace("{ip}", &broker.ip().to_string())
        .replace("{dir}", broker.dir().to_str().unwrap())
        .replace("{namesrv}", &namesrv.namesrv().to_string());
    fs::write(broker.dir().join("broker.conf"), text).unwrap();
    broker.start();
    broker.await_line("ready:");
    (namesrv, broker)
}

/// What production files look like.
const USUAL: &str = "
brokerClusterName = TestCluster
brokerName=broker-a
brokerId=0
namesrvAddr={namesrv}
brokerIP1={ip}
brokerIP2={ip}
bindAddress={ip}
listenPort=10911
deleteWhen=04
fileReservedTime=48
brokerRole=ASYNC_MASTER
flushDiskType=ASYNC_FLUSH
storePathRootDir={dir}/store
storePathCommitLog={dir}/store/commitlog
mappedFileSizeCommitLog=8388608
autoCreateTopicEnable=false
autoCreateSubscriptionGroup=true
defaultTopicQueueNums=6
maxMessageSize=65536
sendMessageThreadPoolNums=16
useReentrantLockWhenPutMessage=true
";

#[test]
fn a_usual_file_works_and_its_keys_have_their_effect() {
    let (namesrv, broker) = with_conf(USUAL);
    let mut names = namesrv.namesrv_client();
    let cluster = until(10, "the broker is registered", || {
        let text = names.call(code::CLUSTER, &[], b"").text();
        text.contains("broker-a").then_some(text)
    });
    assert!(cluster.contains("TestCluster"), "{cluster}");
    assert!(cluster.contains(&broker.broker().to_string()), "{cluster}");
    // No topic is made by a send, and bodies are bounded.
    let mut client = broker.client();
    let topic = fresh("t");
    let answer = client.send(&topic, 0, b"x", &[]);
    assert_eq!(answer.code, reply::TOPIC_NOT_EXIST, "{}", answer.remark);
    client.create_topic(&topic, 1);
    client
        .send(&topic, 0, &vec![b'x'; 65_536], &[])
        .expect(reply::SUCCESS);
    assert_eq!(
        client.send(&topic, 0, &vec![b'x'; 65_537], &[]).code,
        reply::MESSAGE_ILLEGAL
    );
    assert!(broker.dir().join("store").is_dir());
}

#[test]
fn an_unknown_key_is_a_remark_with_file_and_line() {
    let (_namesrv, broker) = with_conf(&format!("{USUAL}noSuchKeyAtAll=1\n"));
    let line = USUAL.lines().count() + 1;
    let log = broker.log();
    assert!(log.contains("noSuchKeyAtAll"), "{log}");
    assert!(log.contains(&format!("broker.conf:{line}")), "{log}");
}

#[test]
fn the_advertised_address_is_what_clients_get() {
    // Advertised is another address than the one it listens on, as behind a port mapping.
    let conf = USUAL.replace("brokerIP1={ip}", "brokerIP1=192.0.2.77");
    let (namesrv, broker) = with_conf(&conf.replace("autoCreateTopicEnable=false", ""));
    let mut names = namesrv.namesrv_client();
    let route: Value = until(10, "the broker is registered", || {
        let answer = names.call(code::ROUTE, &ext(&[("topic", "TBW102")]), b"");
        (answer.code == reply::SUCCESS).then(|| serde_json::from_slice(&answer.body).unwrap())
    });
    assert_eq!(
        route["brokerDatas"][0]["brokerAddrs"]["0"],
        "192.0.2.77:10911"
    );
    assert_eq!(route["queueDatas"][0]["writeQueueNums"], 6);
    assert!(
        broker.log().contains("192.0.2.77:10911"),
        "the start says which address clients get"
    );
    let sent = broker
        .client()
        .send(&fresh("t"), 0, b"x", &[])
        .expect(reply::SUCCESS);
    assert_eq!(sent.ext["msgId"][..16], *"C000024D00002A9F");
}

/// Of brokers that are killed, as the suites do it, too: the memory of the machine is not theirs.
#[test]
fn a_broker_of_the_suites_leaves_no_tail_behind() {
    let (_namesrv, broker) = with_conf(USUAL);
    let store = broker.dir().join("store");
    let tail = store.join(fs::read_to_string(store.join("tail-0.path")).unwrap());
    assert!(tail.is_file());
    drop(broker);
    assert!(!tail.exists(), "{} is still there", tail.display());
}

#[test]
fn the_command_line_wins_over_the_file() {
    let scratch = Scratch::new();
    let file = scratch.path().join("broker.conf");
    fs::write(&file, "brokerName=from-file\nmaxMessageSize=1000\n").unwrap();
    let args = [
        "broker",
        "-c",
        file.to_str().unwrap(),
        "--set",
        "maxMessageSize=2000",
        "-p",
    ];
    let (ok, out, err) = run(&args, b"");
    assert!(ok, "{err}");
    assert!(out.contains("brokerName=from-file"), "{out}");
    assert!(out.contains("maxMessageSize=2000"), "{out}");
}

/// Five starts within ten seconds are systemd's last word by default, and its limit of open files
/// is far above any that a file of ours could set.
#[test]
fn units_try_for_ever_and_no_limit_of_the_host_is_lowered() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    for unit in ["gantry-broker.service", "gantry-namesrv.service"] {
        let text = fs::read_to_string(root.join(unit)).unwrap();
        let (head, _) = text.split_once("[Service]").unwrap();
        assert!(head.contains("\nStartLimitIntervalSec=0\n"), "{text}");
    }
    let kernel = fs::read_to_string(root.join("99-gantry.conf")).unwrap();
    assert!(!kernel.contains("fs.file-max"), "{kernel}");
}
