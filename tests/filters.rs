//! SQL92 filters, of a heartbeat and of a pull, also after a restart; what is no expression gives
//! no message.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use common::client::Pull;
use common::{Client, Frame, Gantry, code, fresh, records, reply};
use serde_json::{Value, json};

const PARSE_FAILED: i32 = 23;

fn subscription(topic: &str, kind: &str, expression: &str) -> Value {
    json!({"topic": topic, "subString": expression, "tagsSet": [], "codeSet": [],
        "subVersion": 1_700_000_000_000_i64, "expressionType": kind, "classFilterMode": false})
}

fn check(client: &mut Client, topic: &str, kind: &str, expression: &str) -> Frame {
    let body = json!({"clientId": "filters", "group": "filters", "namespace": "",
        "subscriptionData": subscription(topic, kind, expression)});
    client.call(code::CHECK_CLIENT_CONFIG, &[], body.to_string().as_bytes())
}

/// What a pull with an expression of its own gives.
fn pulled(client: &mut Client, code: i32, topic: &str, offset: i64, expression: &str) -> Frame {
    let mut fields = Pull::new(topic, 0, offset).tagged(expression).ext();
    for (name, value) in &mut fields {
        if name == "expressionType" {
            "SQL92".clone_into(value);
        }
    }
    client.call(code, &fields, b"")
}

fn bodies(frame: &Frame) -> Vec<String> {
    let all = records(&frame.body).into_iter();
    all.map(|record| String::from_utf8(record.body).unwrap())
        .collect()
}

fn remark(frame: &Frame) -> &str {
    frame.header["remark"].as_str().unwrap()
}

fn filled(client: &mut Client, topic: &str) {
    client.create_topic(topic, 1);
    for n in 0..10 {
        let (a, color) = (n.to_string(), ["red", "it's"][n % 2]);
        let mut of = vec![("a", a.as_str()), ("color", color)];
        if n % 5 == 0 {
            of.push(("TAGS", "T"));
        }
        client
            .send(topic, 0, a.as_bytes(), &of)
            .expect(reply::SUCCESS);
    }
}

#[test]
fn a_pull_with_an_expression_gives_what_it_wants() {
    let mut gantry = Gantry::up(&["enablePropertyFilter=true"]);
    let mut client = gantry.client();
    let topic = fresh("sql");
    filled(&mut client, &topic);
    let all = [
        ("a > 6", vec!["7", "8", "9"]),
        ("a BETWEEN 2 AND 3 OR TAGS = 'T'", vec!["0", "2", "3", "5"]),
        ("color = 'it''s' AND NOT (a < 5)", vec!["5", "7", "9"]),
        (
            "TAGS IS NULL AND color IN ('red', 'blue')",
            vec!["2", "4", "6", "8"],
        ),
        ("missing <> 'x'", vec![]),
    ];
    for round in 0..2 {
        for code in [code::PULL, code::LITE_PULL] {
            for (expression, wanted) in &all {
                let got = pulled(&mut client, code, &topic, 0, expression);
                let expected = if wanted.is_empty() {
                    reply::PULL_RETRY
                } else {
                    reply::SUCCESS
                };
                let got = got.expect(expected);
                assert_eq!(&bodies(&got), wanted, "{expression}");
                assert_eq!(got.number("nextBeginOffset"), 10, "{expression}");
            }
        }
        if round == 0 {
            gantry.stop("TERM");
            gantry.start();
            gantry.await_ready();
            client = gantry.client();
        }
    }
}

#[test]
fn a_consumers_heartbeat_says_what_its_pulls_want() {
    let gantry = Gantry::up(&["enablePropertyFilter=true"]);
    let mut client = gantry.client();
    let (topic, group) = (fresh("sql-group"), fresh("sql-consumers"));
    filled(&mut client, &topic);
    let beat = |client: &mut Client, expression: &str, version: i64| {
        let mut data = subscription(&topic, "SQL92", expression);
        data["subVersion"] = version.into();
        let body = json!({"clientID": "sql", "producerDataSet": [], "consumerDataSet": [{
            "groupName": group, "consumeType": "CONSUME_PASSIVELY", "unitMode": false,
            "messageModel": "CLUSTERING", "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET",
            "subscriptionDataSet": [data]}]});
        let body = body.to_string();
        client
            .call(code::HEART_BEAT, &[], body.as_bytes())
            .expect(reply::SUCCESS);
        let mut pull = Pull::new(&topic, 0, 0);
        (pull.group, pull.sys_flag) = (&group, 0);
        client.call(code::PULL, &pull.ext(), b"")
    };
    let got = beat(&mut client, "a >= 8", 1).expect(reply::SUCCESS);
    assert_eq!(bodies(&got), ["8", "9"]);
    let got = beat(&mut client, "a = 3", 2).expect(reply::SUCCESS);
    assert_eq!(bodies(&got), ["3"]);
    // Never unfiltered data.
    let got = beat(&mut client, "a = = 3", 3).expect(PARSE_FAILED);
    assert!(got.body.is_empty());
}

#[test]
fn trap_66_what_is_no_expression_is_told_and_gives_nothing() {
    let gantry = Gantry::up(&["enablePropertyFilter=true"]);
    let mut client = gantry.client();
    let topic = fresh("sql-bad");
    filled(&mut client, &topic);
    check(&mut client, &topic, "SQL92", "a > 3").expect(reply::SUCCESS);
    let deep = format!("{}a = 1{}", "(".repeat(5_000), ")".repeat(5_000));
    for bad in [
        "a > > 3",
        "",
        "a LIKE 'x'",
        "a = 'x",
        &deep,
        &"x".repeat(20_000),
    ] {
        let told = check(&mut client, &topic, "SQL92", bad).expect(PARSE_FAILED);
        assert!(
            remark(&told).contains("not an SQL92 expression"),
            "{}",
            remark(&told)
        );
        let got = pulled(&mut client, code::PULL, &topic, 0, bad).expect(PARSE_FAILED);
        assert!(got.body.is_empty());
    }
}

#[test]
fn without_the_switch_nothing_filters_by_properties() {
    let gantry = Gantry::up(&[]);
    let mut client = gantry.client();
    let topic = fresh("sql-off");
    filled(&mut client, &topic);
    let told = check(&mut client, &topic, "SQL92", "a > 3").expect(reply::SYSTEM_ERROR);
    assert!(remark(&told).contains("does not support consumer to filter message by SQL92"));
    check(&mut client, &topic, "TAG", "a > 3").expect(reply::SUCCESS);
    let got = pulled(&mut client, code::PULL, &topic, 0, "a > 3").expect(reply::SYSTEM_ERROR);
    assert!(got.body.is_empty());
}
