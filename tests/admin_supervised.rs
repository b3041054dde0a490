//! `gantry admin supervisors|dlq|tx|delay` against a running server: what waits in the broker
//! itself, and an operator's hand on it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use common::process::run;
use common::{Gantry, fresh, until};
use serde_json::Value;

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

fn find<'a>(rows: &'a Value, member: &str, value: &str) -> &'a Value {
    let row = rows
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row[member] == value);
    row.unwrap_or_else(|| panic!("no {member} {value} in {rows:#}"))
}

#[test]
fn supervisors() {
    let gantry = Gantry::up(&["brokerName=sup"]);
    let mut client = gantry.client();
    let topic = fresh("sup");
    client.create_topic(&topic, 1);
    let later = [("TIMER_DELAY_MS", "60000"), ("UNIQ_KEY", "u")];
    client.send(&topic, 0, b"later", &later).expect(0);
    let half = [("TRAN_MSG", "true"), ("PGROUP", "p"), ("UNIQ_KEY", "h")];
    let mut fields = common::client::send_ext(&topic, 0, &half, false);
    fields.retain(|(name, _)| name != "f");
    fields.push(("f".to_owned(), "4".to_owned()));
    let sent = client.call(common::code::SEND_V2, &fields, b"half");
    sent.expect(0);
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
