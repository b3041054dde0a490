//! The latency profile of a running broker, as `gantry profile` shows it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use common::client::{Pull, send_ext};
use common::process::{binary, run};
use common::{Gantry, code, fresh, reply, until};
use serde_json::Value;

fn profile(gantry: &Gantry, more: &[&str]) -> String {
    let broker = gantry.broker().to_string();
    let args = [&["profile"], more, &[&broker]].concat();
    let (succeeded, text, errors) = run(&args, b"");
    assert!(succeeded, "{errors}");
    text
}

fn json(gantry: &Gantry) -> Value {
    serde_json::from_str(&profile(gantry, &["--json"])).unwrap()
}

/// Requests that a stage was recorded for, and the longest, µs.
fn stage(report: &Value, span: &str, kind: &str, name: &str) -> (u64, u64) {
    let stages = report["merged"][span][kind].as_array().unwrap();
    let found = stages.iter().find(|stage| stage["stage"] == name);
    found.map_or((0, 0), |stage| {
        (
            stage["count"].as_u64().unwrap(),
            stage["maxUs"].as_u64().unwrap(),
        )
    })
}

#[test]
fn every_send_is_in_every_stage_it_passes() {
    const SENDS: u64 = 200;
    let gantry = Gantry::up(&[]);
    let mut client = gantry.client();
    let topic = fresh("profile");
    client.create_topic(&topic, 4);
    for n in 0..SENDS {
        let queue = i32::try_from(n % 4).unwrap();
        client.send(&topic, queue, b"measured", &[]).expect(0);
    }
    // Written within 10 ms, synced within 500.
    let report = until(5, "all sends are synced", || {
        let report = json(&gantry);
        let (synced, _) = stage(&report, "sinceStart", "send", "sync");
        (synced >= SENDS).then_some(report)
    });
    for span in ["sinceStart", "window"] {
        let names = [
            "read", "decode", "mailbox", "append", "write", "sync", "reply", "total",
        ];
        for name in names {
            let (count, _) = stage(&report, span, "send", name);
            assert_eq!(count, SENDS, "{span} {name}");
        }
    }
    assert_eq!(stage(&report, "window", "pull", "total").0, 0);
    let slowest = report["slowest"].as_array().unwrap();
    assert_eq!(
        slowest.len(),
        32,
        "one message in flight: each is a batch of its own"
    );
    let (_, longest) = stage(&report, "window", "send", "total");
    let first = slowest[0]["totalUs"].as_u64().unwrap();
    assert!(
        first <= longest && longest <= first + first / 50 + 1,
        "{first} {longest}"
    );
    for slow in slowest {
        assert_eq!(slow["topic"], topic.as_str());
        let parts = slow["stagesUs"].as_object().unwrap();
        let sum: u64 = parts.values().map(|us| us.as_u64().unwrap()).sum();
        assert_eq!(sum, slow["totalUs"].as_u64().unwrap(), "{slow}");
    }
    let shown = profile(&gantry, &[]);
    assert!(
        shown.contains("append") && shown.contains(&topic),
        "{shown}"
    );
}

#[test]
fn under_sync_flush_the_device_is_part_of_the_total() {
    const SENDS: u64 = 20;
    let gantry = Gantry::up(&["flushDiskType=SYNC_FLUSH"]);
    let mut client = gantry.client();
    let topic = fresh("profile-sync");
    client.create_topic(&topic, 1);
    for _ in 0..SENDS {
        client.send(&topic, 0, b"measured", &[]).expect(0);
    }
    let report = json(&gantry);
    assert_eq!(stage(&report, "window", "send", "sync").0, SENDS);
    assert_eq!(
        stage(&report, "window", "send", "write").0,
        0,
        "one operation"
    );
    let slow = &report["slowest"][0];
    let parts = slow["stagesUs"].as_object().unwrap();
    let sum: u64 = parts.values().map(|us| us.as_u64().unwrap()).sum();
    assert_eq!(sum, slow["totalUs"].as_u64().unwrap(), "{slow}");
    assert!(parts["sync"].as_u64().unwrap() > 0, "{slow}");
}

#[test]
fn pulls_are_told_apart_from_their_waits() {
    const SUSPEND_MS: u64 = 400;
    let gantry = Gantry::up(&[]);
    let mut client = gantry.client();
    let topic = fresh("profile-pull");
    client.create_topic(&topic, 1);
    client.send(&topic, 0, b"there", &[]).expect(0);
    for _ in 0..10 {
        client.pull(&Pull::new(&topic, 0, 0)).expect(0);
    }
    client.pull(&Pull::new(&topic, 0, 1).waiting(SUSPEND_MS));
    let report = json(&gantry);
    for name in ["decode", "mailbox", "lookup", "reply", "total"] {
        let (count, _) = stage(&report, "window", "pull", name);
        assert!(count >= 11, "{name}: {report}");
    }
    let (waited, longest) = stage(&report, "window", "pull", "wait");
    assert_eq!(waited, 1, "{report}");
    assert!(longest >= SUSPEND_MS * 1000, "{longest}");
    let total = stage(&report, "window", "pull", "total").1;
    assert!(total < SUSPEND_MS * 1000, "{total}");
    assert_eq!(stage(&report, "window", "pull", "disk-read").0, 0);
}

#[test]
fn switched_off_nothing_is_recorded() {
    let gantry = Gantry::up(&["latencyProfileEnable=false"]);
    let mut client = gantry.client();
    let topic = fresh("profile-off");
    client.create_topic(&topic, 1);
    client.send(&topic, 0, b"unseen", &[]).expect(0);
    assert_eq!(client.pull(&Pull::new(&topic, 0, 0)).code, 0);
    let report = json(&gantry);
    assert_eq!(report["enabled"], false);
    assert!(report.get("merged").is_none(), "{report}");
    assert!(profile(&gantry, &[]).contains("latencyProfileEnable"));
}

/// Ends it, whatever becomes of the test.
struct Watching(std::process::Child);

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn watching_shows_it_again_until_nobody_reads() {
    let gantry = Gantry::up(&[]);
    let mut client = gantry.client();
    let topic = fresh("profile-watch");
    client.create_topic(&topic, 1);
    let broker = gantry.broker().to_string();
    let mut watching = Command::new(binary());
    watching.args(["profile", "--watch", "--json", &broker]);
    let mut watching = Watching(watching.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(watching.0.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(stage(&next(), "window", "send", "total").0, 0);
    for _ in 0..3 {
        client.send(&topic, 0, b"seen", &[]).expect(0);
    }
    assert_eq!(stage(&next(), "window", "send", "total").0, 3);
    drop(lines);
    let status = until(10, "the one that watches has ended", || {
        watching.0.try_wait().unwrap()
    });
    assert!(status.success(), "{status}");
}

#[test]
fn a_send_refused_after_a_wait_is_shown_with_the_stage_it_was_refused_in() {
    let gantry = Gantry::up(&[]);
    let mut client = gantry.client();
    let mut fields = send_ext(&fresh("profile-refused"), 0, &[], false);
    // The topic it would be made after: the control plane is asked, and says no.
    for (name, value) in &mut fields {
        if name == "c" {
            *value = fresh("profile-none");
        }
    }
    let refused = client.call(code::SEND_V2, &fields, b"unwanted");
    assert_eq!(refused.code, reply::TOPIC_NOT_EXIST);
    let report = json(&gantry);
    for name in ["decode", "reply", "total"] {
        assert_eq!(stage(&report, "window", "send", name).0, 1, "{name}");
    }
    let slow = &report["slowest"][0];
    assert_eq!(slow["refusedAt"], "decode", "{slow}");
    let parts = slow["stagesUs"].as_object().unwrap();
    let sum: u64 = parts.values().map(|us| us.as_u64().unwrap()).sum();
    assert_eq!(sum, slow["totalUs"].as_u64().unwrap(), "{slow}");
    assert!(profile(&gantry, &[]).contains("refused at decode"));
}
