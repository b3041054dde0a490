//! `gantry admin` against a running server: each noun's commands, as tables and as JSON.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use common::client::Pull;
use common::process::run;
use common::{Client, Gantry, code, ext, find, fresh, reply, until};
use serde_json::{Value, json};

/// A server with one topic of two queues, 20 messages, and a group with one member that has read 6
/// of each queue.
struct Scene {
    gantry: Gantry,
    client: Client,
    topic: String,
    group: String,
}

fn scene() -> Scene {
    let gantry = Gantry::up(&["brokerClusterName=OpCluster", "brokerName=op"]);
    let client = gantry.client();
    let (topic, group) = (fresh("adm"), fresh("admg"));
    Scene {
        gantry,
        client,
        topic,
        group,
    }
}

impl Scene {
    fn run(&self, line: &str) -> (bool, String, String) {
        let namesrv = self.gantry.namesrv().to_string();
        let line = line.replace("{t}", &self.topic).replace("{g}", &self.group);
        let mut args: Vec<&str> = vec!["admin"];
        args.extend(line.split_whitespace());
        args.extend(["-n", &namesrv]);
        run(&args, b"")
    }

    fn text(&self, line: &str) -> String {
        let (ok, out, err) = self.run(line);
        assert!(ok, "{line}: {out}{err}");
        out
    }

    fn json(&self, line: &str) -> Value {
        let out = self.text(&format!("{line} --json"));
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{line}: {error}: {out}"))
    }

    fn refused(&self, line: &str) -> String {
        let (ok, out, err) = self.run(line);
        assert!(!ok, "{line}: {out}");
        err
    }

    fn fill(&mut self) {
        let body = json!({"clientID": "one@1", "producerDataSet": [{"groupName": "adm-producers"}],
            "consumerDataSet": [{"groupName": self.group, "consumeType": "CONSUME_PASSIVELY",
                "messageModel": "CLUSTERING", "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET",
                "unitMode": false, "subscriptionDataSet": [{"topic": self.topic,
                    "subString": "*", "tagsSet": [], "codeSet": [], "classFilterMode": false,
                    "subVersion": 1_700_000_000_000_i64, "expressionType": "TAG"}]}]});
        let body = body.to_string();
        self.client
            .call(code::HEART_BEAT, &[], body.as_bytes())
            .expect(0);
        for n in 0..20 {
            let key = format!("k{n}");
            let unique = format!("U{n}");
            let marks = [("KEYS", &*key), ("UNIQ_KEY", &*unique), ("TAGS", "red")];
            let body = format!("body {n}");
            let sent = self
                .client
                .send(&self.topic, n % 2, body.as_bytes(), &marks);
            sent.expect(0);
        }
        for queue in 0..2 {
            let mut pull = Pull::new(&self.topic, queue, 0);
            (pull.group, pull.sys_flag) = (&self.group, 0);
            self.client.pull(&pull).expect(0);
            let commit = ext(&[
                ("consumerGroup", &self.group),
                ("topic", &self.topic),
                ("queueId", &queue.to_string()),
                ("commitOffset", "6"),
            ]);
            self.client
                .call(code::UPDATE_CONSUMER_OFFSET, &commit, b"")
                .expect(0);
        }
    }

    fn leave(&mut self) {
        let bye = ext(&[("clientID", "one@1"), ("consumerGroup", &self.group)]);
        self.client
            .call(code::UNREGISTER_CLIENT, &bye, b"")
            .expect(0);
    }
}

#[test]
fn topics() {
    let mut scene = scene();
    scene.text("topic create {t} --queues 2 --attribute message.type=NORMAL");
    scene.fill();
    let topics = scene.json("topic list");
    let row = find(&topics, "topic", &scene.topic);
    assert_eq!(row["write"], 2);
    assert_eq!(
        (&row["perm"], &row["type"]),
        (&json!("rw"), &json!("NORMAL"))
    );
    assert!(!topics.to_string().contains("TBW102"));
    assert!(scene.text("topic list --all").contains("TBW102"));
    assert!(scene.text("topic list").starts_with("topic "));

    let page = scene.json("topic show {t}");
    assert_eq!(page["messages"], 20);
    assert_eq!(page["brokers"][0]["broker"], "op");
    assert_eq!(page["queues"][1]["max"], 10);
    assert!(page["queues"][1]["lastUpdate"].as_i64().unwrap() > 1_700_000_000_000);
    assert_eq!(page["groups"][0]["group"], scene.group);
    let text = scene.text("topic show {t}");
    assert!(
        text.contains("\nqueues:\nbroker  queue  min  max"),
        "{text}"
    );

    scene.text("topic create {t} --queues 4 --perm r --broker op");
    let row = scene.json("topic list");
    let row = find(&row, "topic", &scene.topic);
    assert_eq!((&row["read"], &row["perm"]), (&json!(4), &json!("r")));

    let dry = scene.json("topic delete {t} --dry-run");
    assert_eq!(dry[0]["messages"], 20);
    assert_eq!(dry[0]["result"], "would be deleted");
    assert_eq!(scene.json("topic show {t}")["messages"], 20);
    assert_eq!(scene.json("topic delete {t}")[0]["result"], "deleted");
    assert!(
        scene
            .refused("topic show {t}")
            .contains("no name server knows a topic")
    );
    assert!(
        scene
            .refused("topic list --broker none")
            .contains("knows: op")
    );
}

#[test]
fn a_topic_is_deleted_at_every_name_server_and_again() {
    let mut scene = scene();
    scene.text("topic create {t} --queues 2");
    let name = ext(&[("topic", &scene.topic)]);
    scene
        .client
        .call(code::DELETE_TOPIC_IN_BROKER, &name, b"")
        .expect(0);
    // The first name server is dead, the second knows nothing of the topic.
    let other = Gantry::namesrv_alone(&[]);
    let (alive, dead) = (scene.gantry.namesrv(), "127.0.0.1:1");
    let list = format!("{dead};{};{alive}", other.namesrv());
    let delete = ["admin", "topic", "delete", &scene.topic, "-n", &list];
    let (ok, out, err) = run(&delete, b"");
    assert!(!ok && err.contains(dead), "{out}{err}");
    assert!(out.contains("deleted"), "{out}{err}");
    let mut names = scene.gantry.namesrv_client();
    names
        .call(code::ROUTE, &name, b"")
        .expect(reply::TOPIC_NOT_EXIST);
}

#[test]
fn clusters_and_brokers() {
    let scene = scene();
    let clusters = scene.json("cluster list");
    assert_eq!(clusters[0]["cluster"], "OpCluster");
    assert_eq!(clusters[0]["id"], 0);
    let brokers = scene.json("broker list");
    assert_eq!(brokers[0]["version"], "V5_5_0");
    assert!(brokers[0]["inTps"].is_number(), "{brokers}");
    let shown = scene.json("broker show");
    assert_eq!(find(&shown, "key", "brokerVersionDesc")["value"], "V5_5_0");
    let before = scene.json("broker config get maxMessageSize");
    assert_eq!(before[0]["value"], "4194304");
    scene.text("broker config set maxMessageSize=1000 --dry-run");
    assert_eq!(scene.json("broker config get maxMessageSize"), before);
    let done = scene.json("broker config set maxMessageSize=1000 listenPort=10912");
    assert_eq!(done[0]["before"], "4194304");
    assert!(
        done[0]["result"]
            .as_str()
            .unwrap()
            .contains("restart: listenPort")
    );
    assert_eq!(
        scene.json("broker config get maxMessageSize")[0]["value"],
        "1000"
    );
    let refused = scene.refused("broker config set maxMessageSize=-1");
    assert!(refused.contains("UPDATE_BROKER_CONFIG"), "{refused}");
}

#[test]
fn groups_and_their_offsets() {
    let mut scene = scene();
    scene.text("topic create {t} --queues 2");
    scene.text("group create {g} --retry-max 3 --broadcast false");
    scene.fill();
    let groups = scene.json("group list");
    let row = find(&groups, "group", &scene.group);
    assert_eq!(
        (&row["retryMax"], &row["broadcast"]),
        (&json!(3), &json!(false))
    );
    scene.text("group create {g} --orderly true");
    let row = scene.json("group list");
    let row = find(&row, "group", &scene.group);
    assert_eq!(
        (&row["retryMax"], &row["orderly"]),
        (&json!(3), &json!(true))
    );
    let page = scene.json("group show {g}");
    assert_eq!(page["lag"], 8);
    assert_eq!(page["messageModel"], "CLUSTERING");
    assert_eq!(page["members"][0]["client"], "one@1");
    let expression = find(&page["subscriptions"], "topic", &scene.topic);
    assert_eq!(expression["expression"], "*");

    // Of a group that is there, and of one that has left.
    offsets(&mut scene);
    scene.leave();
    offsets(&mut scene);

    let dry = scene.json("group delete {g} --dry-run");
    assert_eq!(dry[0]["result"], "would be deleted");
    assert_eq!(scene.json("group delete {g}")[0]["result"], "deleted");
    assert!(
        scene
            .refused("group show {g}")
            .contains("no broker knows a group")
    );
}

#[test]
fn connections_messages_and_counters() {
    let mut scene = scene();
    scene.text("topic create {t} --queues 2");
    scene.fill();
    let of_group = scene.json("connection list -g {g}");
    assert_eq!(of_group[0]["client"], "one@1");
    assert_eq!(of_group[0]["language"], "JAVA");
    assert_eq!(
        scene.json("connection list --producer-group adm-producers")[0]["version"],
        513
    );
    let all = scene.json("connection list");
    assert_eq!(find(&all, "group", "adm-producers")["client"], "one@1");
    assert_eq!(scene.json("connection list -g nobody"), json!([]));

    let found = scene.json("message query -t {t} --key k7");
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_eq!(found[0]["body"], "body 7");
    let unique = scene.json("message query -t {t} --unique-key U7");
    assert_eq!(unique[0]["queueOffset"], found[0]["queueOffset"]);
    let id = found[0]["offsetMsgId"].as_str().unwrap();
    assert_eq!(scene.json(&format!("message show --id {id}"))["keys"], "k7");
    let text = scene.text(&format!("message show --id {id}"));
    assert!(text.contains("body            body 7\n"), "{text}");
    assert_eq!(scene.json("message query -t {t} --key none"), json!([]));
    let refused = scene.refused("message show --id U7");
    assert!(refused.contains("--unique-key"), "{refused}");

    until(5, "the minute's counters", || {
        let stats = scene.json("stats show -t {t}");
        let put = find(&stats, "counter", "TOPIC_PUT_NUMS").clone();
        (put["key"] == *scene.topic && put["day"].is_number()).then_some(())
    });
    assert!(scene.text("stats show").contains("BROKER_PUT_NUMS"));
    scene.text("stats show -t {t} -g {g}");
}

/// The group's offsets in the scene's topic.
fn at(scene: &Scene) -> Vec<i64> {
    let shown = scene.json("offset show -g {g} -t {t}");
    let rows = shown["queues"].as_array().unwrap().iter();
    let rows = rows.filter(|row| row["topic"] == *scene.topic);
    rows.map(|row| row["consumerOffset"].as_i64().unwrap())
        .collect()
}

fn offsets(scene: &mut Scene) {
    let before = at(scene);
    let dry = scene.json("offset reset -g {g} -t {t} --to first --dry-run");
    assert_eq!(dry[1]["to"], 0);
    assert_eq!(dry[1]["result"], "would be moved");
    assert_eq!(at(scene), before);
    scene.text("offset reset -g {g} -t {t} --to first");
    assert_eq!(at(scene), [0, 0]);
    let moved = scene.json("offset reset -g {g} -t {t} --to 7 --queue 1");
    assert_eq!((&moved[0]["from"], &moved[0]["to"]), (&json!(0), &json!(7)));
    assert_eq!(at(scene), [0, 7]);
    scene.text("offset reset -g {g} -t {t} --to last");
    assert_eq!(at(scene), [10, 10]);
    scene.text("offset reset -g {g} -t {t} --to 2020-01-01");
    assert_eq!(at(scene), [0, 0]);
    let beyond = scene.refused("offset reset -g {g} -t {t} --to 11");
    assert!(beyond.contains("holds offsets 0 to 10"), "{beyond}");
    scene.text("offset reset -g {g} -t {t} --to 6");
    assert_eq!(at(scene), [6, 6]);
}
