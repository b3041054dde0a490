//! `gantry admin` where a name server knows brokers of two clusters, and one with many topics.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use common::process::run;
use common::{Gantry, code, ext, fresh, reply, until};
use serde_json::{Value, json};

/// A broker process of its own, registered at this name server.
fn broker_at(namesrv: &Gantry, cluster: &str, name: &str) -> Gantry {
    let namesrvs = namesrv.namesrv().to_string();
    let settings = [
        "mappedFileSizeCommitLog=8M".to_owned(),
        "brokerIP1={ip}".to_owned(),
        format!("brokerClusterName={cluster}"),
        format!("brokerName={name}"),
    ];
    let place = ["--data", "{dir}/data", "--listen", "{ip}", "-n", &namesrvs];
    let mut args = vec!["broker"];
    args.extend(place);
    for setting in &settings {
        args.extend(["--set", setting]);
    }
    let mut broker = Gantry::command(&args);
    broker.start();
    broker.await_line("ready:");
    let mut client = namesrv.namesrv_client();
    until(10, "the broker is registered", || {
        let fields = ext(&[("topic", name)]);
        let answer = client.call(code::ROUTE, &fields, b"");
        (answer.code == reply::SUCCESS).then_some(())
    });
    broker
}

/// A name server, two brokers of cluster A, one of B; `topic` is on all three.
struct Scene {
    namesrv: Gantry,
    a: [Gantry; 2],
    b: Gantry,
    topic: String,
}

fn scene() -> Scene {
    let namesrv = Gantry::namesrv_alone(&[]);
    let a = ["a-0", "a-1"].map(|name| broker_at(&namesrv, "A", name));
    let b = broker_at(&namesrv, "B", "b-0");
    let topic = fresh("both");
    for broker in [&a[0], &a[1], &b] {
        broker.client().create_topic(&topic, 1);
    }
    let scene = Scene {
        namesrv,
        a,
        b,
        topic,
    };
    for cluster in ["A", "B"] {
        let (ok, out, err) = scene.run(&format!("group create G --cluster {cluster}"));
        assert!(ok, "{out}{err}");
    }
    scene
}

impl Scene {
    fn run(&self, line: &str) -> (bool, String, String) {
        let namesrv = self.namesrv.namesrv().to_string();
        let line = line.replace("{t}", &self.topic);
        let mut args: Vec<&str> = vec!["admin"];
        args.extend(line.split_whitespace());
        args.extend(["-n", &namesrv]);
        run(&args, b"")
    }

    /// The brokers of the topic's route.
    fn routed(&self) -> Vec<String> {
        let fields = ext(&[("topic", &self.topic)]);
        let mut client = self.namesrv.namesrv_client();
        let answer = client.call(code::ROUTE, &fields, b"");
        let route: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        let brokers = route["brokerDatas"].as_array().cloned().unwrap_or_default();
        let name = |broker: &Value| broker["brokerName"].as_str().unwrap().to_owned();
        let mut names: Vec<String> = brokers.iter().map(name).collect();
        names.sort();
        names
    }
}

#[test]
fn a_change_that_would_reach_two_clusters_is_refused_until_one_is_named() {
    let scene = scene();
    // Something dead in both clusters, so that a resend would reach both.
    for broker in [&scene.a[0], &scene.b] {
        broker.client().create_topic("%DLQ%dead", 1);
    }
    let all = ["a-0", "a-1", "b-0"];
    for line in [
        "topic delete {t}",
        "topic delete {t} --dry-run",
        "offset reset -g G -t {t} --to first",
        "dlq resend dead --dry-run",
    ] {
        let (ok, out, err) = scene.run(line);
        assert!(
            !ok && err.contains("several clusters (A, B)"),
            "{line}: {out}{err}"
        );
        assert_eq!(scene.routed(), all, "{line}");
    }
    for line in [
        "offset reset -g G -t {t} --to first --cluster A",
        "dlq resend dead --dry-run --cluster B",
    ] {
        let (ok, out, err) = scene.run(line);
        assert!(ok, "{line}: {out}{err}");
    }
}

#[test]
fn a_deleted_topic_has_no_route_to_a_cluster_that_has_none_of_it() {
    let scene = scene();
    // One of two brokers: both stay routed, and that is said.
    let (ok, _, err) = scene.run("topic delete {t} --broker a-0");
    assert!(ok && err.contains("a-1 of cluster A has it still"), "{err}");
    assert_eq!(scene.routed(), ["a-0", "a-1", "b-0"]);
    // Both: the cluster is gone from the route, the other stays.
    let (ok, out, err) = scene.run("topic delete {t} --cluster A");
    assert!(ok, "{out}{err}");
    assert_eq!(scene.routed(), ["b-0"]);
    let (ok, out, err) = scene.run("topic delete {t}");
    assert!(ok, "{out}{err}");
    assert!(scene.routed().is_empty());
}

#[test]
fn a_change_that_fails_at_the_second_broker_says_what_the_first_did() {
    let scene = scene();
    let mut first = scene.a[0].client();
    for _ in 0..6 {
        first.send(&scene.topic, 0, b"x", &[]).expect(0);
    }
    let (ok, out, err) = scene.run("offset reset -g G -t {t} --to 5 --cluster A");
    assert!(
        !ok && err.contains("queue 0 of a-1 holds offsets 0 to 0, 5 is none"),
        "{out}{err}"
    );
    assert!(out.contains("a-0") && !out.contains("a-1"), "{out}{err}");
}

#[test]
fn more_topics_and_groups_than_fit_a_frame_are_read_page_by_page() {
    const TOPICS: usize = 70_000;
    let gantry = Gantry::up(&[]);
    let mut client = gantry.client();
    for begin in (0..TOPICS).step_by(10_000) {
        let topics: Vec<Value> = (begin..begin + 10_000)
            .map(|n| {
                json!({"topicName": format!("{n:0>100}"), "readQueueNums": 1, "writeQueueNums": 1,
                    "perm": 6, "topicFilterType": "SINGLE_TAG", "topicSysFlag": 0, "order": false,
                    "attributes": {}})
            })
            .collect();
        let body = json!({"topicConfigList": topics}).to_string();
        // 18, a list of topics; the answer may take longer than a client waits.
        client.call(18, &[], body.as_bytes()).expect(0);
    }
    let whole = client.call(code::GET_ALL_TOPIC_CONFIG, &[], b"");
    assert_eq!(whole.code, reply::SYSTEM_ERROR, "they don't fit");
    let namesrv = gantry.namesrv().to_string();
    let (ok, out, err) = run(&["admin", "topic", "list", "-n", &namesrv], b"");
    assert!(ok, "{err}");
    assert!(out.lines().count() > TOPICS, "{}", out.lines().count());
    let (ok, _, err) = run(&["admin", "dlq", "list", "-n", &namesrv], b"");
    assert!(ok, "{err}");
}
