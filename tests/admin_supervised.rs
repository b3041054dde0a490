//! `gantry admin supervisors|dlq|tx|delay` against a running server: what waits in the broker
//! itself, and an operator's hand on it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use common::client::send_ext;
use common::process::run;
use common::{Client, Gantry, code, ext, find, fresh, until};
use serde_json::{Value, json};

fn admin(gantry: &Gantry, line: &str) -> (bool, String, String) {
    let namesrv = gantry.namesrv().to_string();
    let mut args: Vec<&str> = vec!["admin"];
    args.extend(line.split_whitespace());
    args.extend(["-n", &namesrv]);
    run(&args, b"")
}

fn text(gantry: &Gantry, line: &str) -> String {
    let (ok, out, err) = admin(gantry, line);
    assert!(ok, "{line}: {out}{err}");
    out
}

fn json(gantry: &Gantry, line: &str) -> Value {
    let out = text(gantry, &format!("{line} --json"));
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{line}: {error}: {out}"))
}

/// Sends a half message.
fn half(client: &mut Client, topic: &str, unique: &str) {
    let marks = [("TRAN_MSG", "true"), ("PGROUP", "p"), ("UNIQ_KEY", unique)];
    let mut fields = send_ext(topic, 0, &marks, false);
    fields.retain(|(name, _)| name != "f");
    fields.push(("f".to_owned(), "4".to_owned()));
    let sent = client.call(code::SEND_V2, &fields, unique.as_bytes());
    sent.expect(0);
}

#[test]
fn supervisors() {
    let gantry = Gantry::up(&["brokerName=sup"]);
    let mut client = gantry.client();
    let topic = fresh("sup");
    client.create_topic(&topic, 1);
    let later = [("TIMER_DELAY_MS", "60000"), ("UNIQ_KEY", "u")];
    client.send(&topic, 0, b"later", &later).expect(0);
    half(&mut client, &topic, "h");
    until(5, "the delayed message among the backlog", || {
        let parts = json(&gantry, "supervisors");
        (find(&parts, "name", "delay")["backlog"] == 1).then_some(())
    });
    let parts = json(&gantry, "supervisors");
    let delay = find(&parts, "name", "delay");
    assert_eq!(delay["broker"], "sup");
    assert_eq!(delay["state"], "running");
    assert_eq!(delay["restarts"], 0);
    assert_eq!(delay["lastFailure"], Value::Null);
    assert_eq!(find(&parts, "name", "transaction")["backlog"], 1);
    find(&parts, "name", "retry");
    let table = text(&gantry, "supervisors");
    assert!(table.starts_with("broker  name"), "{table}");
    assert!(table.contains("lastFailure"), "{table}");
}

/// Three messages of a topic that end as dead letters of a group.
fn die(client: &mut Client, topic: &str, group: &str) {
    for (body, tag) in [("one", "red"), ("two", "blue"), ("three", "red")] {
        let marks = [
            ("KEYS", body),
            ("TAGS", tag),
            ("UNIQ_KEY", body),
            ("shop", "7"),
        ];
        let sent = client.send(topic, 0, body.as_bytes(), &marks).expect(0);
        let place = i64::from_str_radix(&sent.ext["msgId"][16..], 16).unwrap();
        let back = ext(&[
            ("group", group),
            ("offset", &place.to_string()),
            ("delayLevel", "-1"),
            ("originTopic", topic),
            ("unitMode", "false"),
        ]);
        client.call(36, &back, b"").expect(0);
    }
}

#[test]
fn dead_letters() {
    let gantry = Gantry::up(&["brokerName=dead"]);
    let mut client = gantry.client();
    let (topic, other, group) = (fresh("dlq"), fresh("dlqo"), fresh("dlqg"));
    client.create_topic(&topic, 1);
    client.create_topic(&other, 1);
    die(&mut client, &topic, &group);
    // Its route comes with the next registration.
    let resend = format!("dlq resend {group}");
    let dry = until(10, "a route to the dead letters", || {
        let (ok, ..) = admin(&gantry, &format!("{resend} --dry-run"));
        ok.then(|| json(&gantry, &format!("{resend} --filter red --dry-run")))
    });
    assert_eq!(
        (&dry[0]["messages"], &dry[0]["leftOut"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(dry[0]["result"], "would be sent");
    assert_eq!(client.drain(&topic, 0, 0).len(), 3);
    let listed = json(&gantry, "dlq list");
    let row = find(&listed, "group", &group);
    assert_eq!((&row["messages"], &row["left"]), (&json!(3), &json!(3)));
    let shown = json(&gantry, &format!("dlq show {group} --filter KEYS=two"));
    assert_eq!(shown[0]["body"], "two");
    assert_eq!(shown[0]["originTopic"], topic);
    assert_eq!(shown[0]["resent"], false);
    assert_eq!(shown.as_array().unwrap().len(), 1);

    let done = json(&gantry, &format!("{resend} --max 2"));
    assert_eq!(
        (&done[0]["messages"], &done[0]["to"]),
        (&json!(2), &json!(2))
    );
    let done = json(&gantry, &resend);
    assert_eq!(
        (&done[0]["topic"], &done[0]["messages"]),
        (&json!(topic), &json!(1))
    );
    assert_eq!(json(&gantry, &resend), json!([]), "nothing a second time");
    let all = client.drain(&topic, 0, 3);
    let bodies: Vec<_> = all.iter().map(|one| one.body.clone()).collect();
    assert_eq!(bodies, [&b"one"[..], &b"two"[..], &b"three"[..]]);
    for (name, value) in [
        ("KEYS", "one"),
        ("TAGS", "red"),
        ("UNIQ_KEY", "one"),
        ("shop", "7"),
    ] {
        assert_eq!(all[0].properties[name], value);
    }
    assert!(!all[0].properties.contains_key("RETRY_TOPIC"));
    assert_eq!(all[0].reconsume_times, 0);

    let line = format!("{resend} --again --to-topic {other} --filter shop=7 --filter blue");
    // A topic that isn't there moves nothing, and a dry run says so, too.
    for dry in ["", "--dry-run"] {
        let wrong = format!("{resend} --again --to-topic no-such-topic --filter blue {dry}");
        let (ok, out, why) = admin(&gantry, &wrong);
        assert!(!ok && why.contains("no-such-topic"), "{out}{why}");
    }
    assert_eq!(json(&gantry, &line)[0]["messages"], 1);
    assert_eq!(client.drain(&other, 0, 0).len(), 1);
    let listed = json(&gantry, "dlq list");
    let row = find(&listed, "group", &group);
    assert_eq!((&row["messages"], &row["left"]), (&json!(3), &json!(0)));
    let (ok, _, why) = admin(&gantry, "dlq resend nobody");
    assert!(!ok && why.contains("has no dead letters"), "{why}");
}

#[test]
fn open_halves() {
    let gantry = Gantry::up(&["brokerName=tx"]);
    let mut client = gantry.client();
    let topic = fresh("tx");
    client.create_topic(&topic, 1);
    // More than a page of the broker.
    for n in 0..130 {
        half(&mut client, &topic, &format!("h{n}"));
    }
    let open = json(&gantry, "tx list --max 1000");
    assert_eq!(open.as_array().unwrap().len(), 130);
    let row = find(&open, "uniqueKey", "h129");
    assert_eq!(
        (&row["topic"], &row["producerGroup"]),
        (&json!(topic), &json!("p"))
    );
    assert_eq!(
        (&row["checks"], &row["result"]),
        (&json!(0), &json!("open"))
    );
    assert!(row["nextCheck"].as_i64().unwrap() > 1_700_000_000_000);
    assert_eq!(json(&gantry, "tx list -g nobody"), json!([]));
    let ours = json(&gantry, &format!("tx list -t {topic} --max 3"));
    assert_eq!(ours.as_array().unwrap().len(), 3);

    let (commit, drop) = (row["id"].as_str().unwrap(), open[0]["id"].as_str().unwrap());
    let page = json(&gantry, &format!("tx show {commit}"));
    assert_eq!(
        (&page["bodyBytes"], &page["broker"]),
        (&json!(4), &json!("tx"))
    );
    assert_eq!(
        find(&page["properties"], "name", "UNIQ_KEY")["value"],
        "h129"
    );
    let dry = json(&gantry, &format!("tx resolve commit {commit} --dry-run"));
    assert_eq!(dry[0]["result"], "would be committed");
    assert!(client.drain(&topic, 0, 0).is_empty());
    let done = json(&gantry, &format!("tx resolve commit {commit}"));
    assert_eq!(done[0]["result"], "committed");
    let done = json(&gantry, &format!("tx resolve rollback {drop}"));
    assert_eq!(done[0]["result"], "rolled back");
    let delivered = client.drain(&topic, 0, 0);
    assert_eq!(delivered.len(), 1);
    assert_eq!(delivered[0].body, b"h129");
    for gone in [commit, drop] {
        let (ok, _, why) = admin(&gantry, &format!("tx resolve commit {gone}"));
        assert!(!ok && why.contains("has ended"), "{why}");
    }
    let open = json(&gantry, "tx list --max 1000");
    assert_eq!(open.as_array().unwrap().len(), 128);
}

#[test]
fn delayed_messages() {
    let gantry = Gantry::up(&["brokerName=later", "recallMessageEnable=true"]);
    let mut client = gantry.client();
    let topic = fresh("later");
    client.create_topic(&topic, 1);
    // More than a page of the broker, the last one due first.
    for n in 0..130 {
        let (unique, delay_ms) = (format!("u{n}"), (600_000 - n).to_string());
        let marks = [("TIMER_DELAY_MS", &*delay_ms), ("UNIQ_KEY", &*unique)];
        client.send(&topic, 0, b"later", &marks).expect(0);
    }
    let level = [("DELAY", "18"), ("UNIQ_KEY", "level"), ("TAGS", "red")];
    client.send(&topic, 0, b"level", &level).expect(0);
    let all = until(5, "the pending messages", || {
        let all = json(&gantry, "delay list --max 1000");
        (all.as_array().unwrap().len() == 131).then_some(all)
    });
    let due: Vec<_> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["due"].as_i64())
        .collect();
    assert!(due.is_sorted() && due[0].is_some(), "{due:?}");
    assert_eq!(
        (&all[130]["uniqueKey"], &all[130]["level"]),
        (&json!("level"), &json!("18"))
    );
    assert_eq!(json(&gantry, "delay list -t nothing"), json!([]));
    assert_eq!(
        json(&gantry, "delay list --max 2")
            .as_array()
            .unwrap()
            .len(),
        2
    );

    let row = find(&all, "uniqueKey", "u77");
    assert_eq!(
        (&row["topic"], &row["broker"]),
        (&json!(topic), &json!("later"))
    );
    let handle = row["handle"].as_str().unwrap();
    let page = json(&gantry, &format!("delay show {handle}"));
    assert_eq!((&page["due"], &page["bodyBytes"]), (&row["due"], &json!(5)));
    let dry = json(&gantry, &format!("delay cancel {handle} --dry-run"));
    assert_eq!(dry[0]["result"], "would be recalled");
    let done = json(&gantry, &format!("delay cancel {handle}"));
    assert_eq!(
        (&done[0]["result"], &done[0]["uniqueKey"]),
        (&json!("recalled"), &json!("u77"))
    );
    let (ok, _, why) = admin(&gantry, &format!("delay cancel {handle}"));
    assert!(!ok && why.contains("u77 is not pending"), "{why}");
    let all = json(&gantry, "delay list --max 1000");
    assert_eq!(all.as_array().unwrap().len(), 130);
}
