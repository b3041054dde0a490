//! `gantry import`: config folders of Apache RocketMQ 5.5.0 and 4.9.8, as those write them, into a
//! running server.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::path::{Path, PathBuf};

use common::process::run;
use common::{Client, Gantry, code, ext, reply};
use serde_json::Value;

fn fixture(version: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.join("tests/import_fixtures").join(version)
}

fn import(gantry: &Gantry, from: &Path, more: &[&str]) -> (bool, Value, String) {
    let namesrv = gantry.namesrv().to_string();
    let from = from.display().to_string();
    let mut args = vec!["import", "--from", &from, "-n", &namesrv, "--json"];
    args.extend(more);
    let (ok, out, err) = run(&args, b"");
    (ok, serde_json::from_str(&out).unwrap_or(Value::Null), err)
}

/// Counts of one kind: taken, there, differing, of the system, failed.
fn counts(report: &Value, kind: &str) -> [i64; 5] {
    let mut rows = report["entries"].as_array().unwrap().iter();
    let row = rows.find(|row| row["kind"] == kind).unwrap();
    ["taken", "alreadyThere", "differs", "ofTheSystem", "failed"]
        .map(|column| row[column].as_i64().unwrap())
}

fn why(report: &Value, name: &str) -> String {
    let rows = report["notTaken"].as_array().unwrap().iter();
    let mut rows = rows.filter(|row| row["name"] == name);
    let row = rows.next().unwrap_or_else(|| panic!("{name}: {report:#}"));
    row["reason"].as_str().unwrap().to_owned()
}

fn position(client: &mut Client, topic: &str, group: &str, queue: &str) -> Option<i64> {
    let fields = ext(&[
        ("topic", topic),
        ("consumerGroup", group),
        ("queueId", queue),
        ("setZeroIfNotFound", "false"),
    ]);
    let answer = client.call(code::QUERY_CONSUMER_OFFSET, &fields, b"");
    (answer.code == reply::SUCCESS).then(|| answer.number("offset"))
}

fn queues(gantry: &Gantry, topic: &str) -> Option<(i64, i64)> {
    let fields = ext(&[("topic", topic)]);
    let answer = gantry.namesrv_client().call(code::ROUTE, &fields, b"");
    let route: Value = serde_json::from_slice(&answer.body).ok()?;
    let data = &route["queueDatas"][0];
    Some((data["readQueueNums"].as_i64()?, data["perm"].as_i64()?))
}

#[test]
fn what_5_5_0_keeps_is_taken_once_and_nothing_is_overwritten() {
    let gantry = Gantry::up(&[]);
    let mut client = gantry.client();
    let from = fixture("5.5.0");
    let (ok, report, err) = import(&gantry, &from, &["--dry-run"]);
    assert!(!ok && err.contains("1 entries were not taken"), "{err}");
    assert_eq!(report["dryRun"], true);
    assert_eq!(counts(&report, "topic"), [3, 0, 0, 3, 0]);
    assert_eq!(counts(&report, "group"), [2, 0, 0, 1, 0]);
    assert_eq!(counts(&report, "forbidden"), [1, 0, 0, 0, 0]);
    assert_eq!(counts(&report, "offset"), [5, 0, 0, 0, 1]);
    assert_eq!(queues(&gantry, "orders"), None, "nothing is made");

    let (_, done, _) = import(&gantry, &from, &[]);
    assert_eq!(done["entries"], report["entries"], "as announced");
    // The messages stay behind, so positions are set to the starts of the empty queues.
    assert_eq!(
        (&done["setToTheStart"], &done["setToTheEnd"]),
        (&2.into(), &0.into())
    );
    assert!(why(&done, "gone@billing 0").contains("no such topic"));
    assert!(why(&done, "delayOffset.json").contains("delayed messages"));
    assert_eq!(queues(&gantry, "orders"), Some((4, 6)));
    assert_eq!(queues(&gantry, "ns%fifo"), Some((2, 4)));
    assert_eq!(queues(&gantry, "OldCluster"), None);
    assert_eq!(position(&mut client, "orders", "billing", "0"), Some(0));
    let config = ext(&[("group", "billing")]);
    let config = client.call(352, &config, b"").expect(0);
    let config: Value = serde_json::from_slice(&config.body).unwrap();
    assert_eq!(config["retryMaxTimes"], 5);
    assert_eq!(config["consumeBroadcastEnable"], false);
    let forbidden = ext(&[("group", "audit"), ("topic", "orders")]);
    let forbidden = client.call(353, &forbidden, b"").expect(0);
    assert!(forbidden.text().contains("\"readable\":false"));

    // A second run finds everything there.
    let (_, again, _) = import(&gantry, &from, &[]);
    assert_eq!(counts(&again, "topic"), [0, 3, 0, 3, 0]);
    assert_eq!(counts(&again, "group"), [0, 2, 0, 1, 0]);
    assert_eq!(counts(&again, "offset"), [0, 5, 0, 0, 1]);

    // What has changed since is kept, unless told otherwise.
    client.create_topic("orders", 8);
    for _ in 0..3 {
        client.send("orders", 0, b"x", &[]).expect(0);
    }
    let (_, kept, _) = import(&gantry, &from, &[]);
    assert_eq!(counts(&kept, "topic"), [0, 2, 1, 3, 0]);
    assert!(why(&kept, "orders").contains("--overwrite"));
    assert!(why(&kept, "orders@billing 0").contains("--overwrite"));
    assert_eq!(queues(&gantry, "orders"), Some((8, 6)));
    let (_, over, _) = import(&gantry, &from, &["--overwrite"]);
    assert_eq!(counts(&over, "topic"), [1, 2, 0, 3, 0]);
    assert_eq!(queues(&gantry, "orders"), Some((4, 6)));
    assert_eq!(position(&mut client, "orders", "billing", "0"), Some(3));
}

/// Producers may send as soon as a topic is there: its groups get what came before their positions.
#[test]
fn what_is_sent_between_two_imports_is_skipped_by_nobody() {
    let gantry = Gantry::up(&[]);
    let mut client = gantry.client();
    let topics_only = gantry.dir().join("topics-only");
    std::fs::create_dir(&topics_only).unwrap();
    let from = fixture("5.5.0");
    std::fs::copy(from.join("topics.json"), topics_only.join("topics.json")).unwrap();
    import(&gantry, &topics_only, &[]);
    for _ in 0..10 {
        client.send("orders", 0, b"x", &[]).expect(0);
    }
    let (_, dry, _) = import(&gantry, &from, &["--dry-run"]);
    let (_, done, _) = import(&gantry, &from, &[]);
    assert_eq!(done["entries"], dry["entries"]);
    assert_eq!(position(&mut client, "orders", "billing", "0"), Some(0));
}

#[test]
fn what_4_9_8_keeps_is_taken_too_a_damaged_file_from_its_backup() {
    let gantry = Gantry::up(&[]);
    let mut client = gantry.client();
    let (ok, done, err) = import(&gantry, &fixture("4.9.8"), &[]);
    assert!(ok, "{err} {done:#}");
    assert_eq!(counts(&done, "topic"), [1, 0, 0, 1, 0]);
    assert_eq!(counts(&done, "group"), [1, 0, 0, 1, 0]);
    assert_eq!(counts(&done, "offset"), [8, 0, 0, 0, 0]);
    assert!(why(&done, "subscriptionGroup.json").contains("its backup is taken instead"));
    assert_eq!(queues(&gantry, "trades"), Some((8, 6)));
    assert_eq!(position(&mut client, "trades", "settle", "7"), Some(0));
    let (_, again, _) = import(&gantry, &fixture("4.9.8"), &[]);
    assert_eq!(counts(&again, "group"), [0, 1, 0, 1, 0]);

    let (ok, _, err) = import(&gantry, gantry.dir(), &[]);
    assert!(!ok && err.contains("holds no topics.json"), "{err}");
}
