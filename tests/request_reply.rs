//! Request and reply of a whole process: 324 and 325 from whoever replies, 326 to whoever asked.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use common::client::{Pull, send_ext};
use common::{Client, Frame, Gantry, code, ext, fresh, properties, records, reply, until};
use serde_json::Value;

const REPLY: i32 = 324;
const REPLY_V2: i32 = 325;
const PUSH: i32 = 326;
const REPLY_TOPIC: &str = "RpcCluster_REPLY_TOPIC";

fn up(settings: &[&str]) -> Gantry {
    let all: Vec<&str> = ["brokerClusterName=RpcCluster"]
        .into_iter()
        .chain(settings.iter().copied())
        .collect();
    Gantry::up(&all)
}

/// A client that may be pushed to.
fn requester(gantry: &Gantry, id: &str) -> Client {
    let mut client = gantry.client();
    let groups = r#"[{"groupName":"askers"}]"#;
    let beat = format!(r#"{{"clientID":"{id}","consumerDataSet":[],"producerDataSet":{groups}}}"#);
    let beat = client.call(code::HEART_BEAT, &[], beat.as_bytes());
    beat.expect(reply::SUCCESS);
    client
}

fn answer_ext(to: &str) -> Vec<(String, String)> {
    let marks = [
        ("MSG_TYPE", "reply"),
        ("CORRELATION_ID", "c-1"),
        ("REPLY_TO_CLIENT", to),
        ("UNIQ_KEY", "U1"),
    ];
    send_ext(REPLY_TOPIC, 0, &marks, false)
}

fn stored(client: &mut Client) -> usize {
    let max = client.offset(code::MAX_OFFSET, REPLY_TOPIC, 0, &[]);
    usize::try_from(max).unwrap()
}

/// A replier's own view of a reply that did not arrive.
fn expect_failed(answer: &Frame, remark: &str) {
    assert_eq!(answer.code, reply::SYSTEM_ERROR, "{answer:?}");
    assert_eq!(answer.remark, remark);
    assert_eq!(answer.ext["MSG_REGION"], "DefaultRegion");
}

#[test]
fn a_reply_arrives_and_is_stored() {
    let gantry = up(&[]);
    let route = ext(&[("topic", REPLY_TOPIC)]);
    let route = gantry.namesrv_client().call(code::ROUTE, &route, b"");
    let route: Value = serde_json::from_slice(&route.expect(0).body).unwrap();
    assert_eq!(route["queueDatas"][0]["writeQueueNums"], 1);
    let mut replier = gantry.client();
    // Several connections: they lie on different cores.
    for n in 0..4 {
        let id = format!("127.0.0.1@{n}");
        let mut asker = requester(&gantry, &id);
        let opaque = replier.post(REPLY_V2, &answer_ext(&id), b"the answer");
        replier.flush().unwrap();
        let push = asker.await_push(PUSH);
        assert_eq!(push.flag, 0, "it is a question that wants an answer");
        assert_eq!(push.body, b"the answer");
        assert_eq!(push.ext["topic"], REPLY_TOPIC);
        assert_eq!(push.ext["producerGroup"], "test-producers");
        assert_eq!(push.ext["flag"], "7");
        assert!(push.ext["properties"].contains("CORRELATION_ID\u{1}c-1\u{2}"));
        assert!(push.ext["properties"].contains("PUSH_REPLY_TIME\u{1}"));
        assert_eq!(push.ext["storeHost"], gantry.broker().to_string());
        assert!(push.number("storeTimestamp") > 1_700_000_000_000);
        asker.answer(&push, reply::SUCCESS, b"");
        let answer = replier.reply_to(opaque).unwrap().expect(reply::SUCCESS);
        assert_eq!(answer.number("queueOffset"), n);
        assert_eq!(answer.ext["msgId"].len(), 32);
        assert!(!answer.ext.contains_key("transactionId"));
    }
    let kept = replier.pull(&Pull::new(REPLY_TOPIC, 0, 0)).expect(0);
    let kept = records(&kept.body);
    assert_eq!(kept.len(), 4);
    assert_eq!(kept[0].body, b"the answer");
    assert_eq!(kept[0].properties["REPLY_TO_CLIENT"], "127.0.0.1@0");
    assert_eq!(kept[0].properties["MSG_REGION"], "DefaultRegion");
    assert!(!kept[0].properties.contains_key("PUSH_REPLY_TIME"));
}

#[test]
fn trap_89_a_requester_that_is_unknown_or_gone_is_code_1_and_the_reply_is_kept() {
    let gantry = up(&[]);
    let mut replier = gantry.client();
    let not_found = |id: &str| format!("push reply message fail, channel of <{id}> not found.");
    let answer = replier.call(REPLY_V2, &answer_ext("nobody@1"), b"x");
    expect_failed(&answer, &not_found("nobody@1"));
    assert_eq!(answer.number("queueOffset"), 0);
    // A consumer alone can't be pushed to either, and a message may lack the property.
    let mut nowhere = answer_ext("nobody@1");
    nowhere.retain(|(name, _)| name != "i");
    nowhere.push(("i".to_owned(), properties(&[("CORRELATION_ID", "c-1")])));
    let answer = replier.call(REPLY_V2, &nowhere, b"x");
    expect_failed(&answer, "reply message properties[REPLY_TO_CLIENT] is null");

    // Gone before, gone while asked, and one that refuses.
    let asker = requester(&gantry, "asker@1");
    drop(asker);
    until(5, "the closed requester is forgotten", || {
        let answer = replier.call(REPLY_V2, &answer_ext("asker@1"), b"x");
        (answer.remark == not_found("asker@1")).then_some(())
    });
    let mut asker = requester(&gantry, "asker@1");
    let opaque = replier.post(REPLY_V2, &answer_ext("asker@1"), b"x");
    replier.flush().unwrap();
    asker.await_push(PUSH);
    drop(asker);
    let answer = replier.reply_to(opaque).unwrap();
    expect_failed(&answer, "push reply message to asker@1fail.");
    let mut asker = requester(&gantry, "asker@1");
    let before = stored(&mut replier);
    let opaque = replier.post(REPLY_V2, &answer_ext("asker@1"), b"x");
    replier.flush().unwrap();
    let push = asker.await_push(PUSH);
    asker.answer(&push, reply::SYSTEM_ERROR, b"");
    let answer = replier.reply_to(opaque).unwrap();
    expect_failed(&answer, "push reply message to asker@1fail.");
    assert_eq!(stored(&mut replier), before + 1);
    // Leaving the producer group has the same effect as closing.
    let bye = ext(&[("clientID", "asker@1"), ("producerGroup", "askers")]);
    asker.call(code::UNREGISTER_CLIENT, &bye, b"").expect(0);
    let answer = replier.call(REPLY_V2, &answer_ext("asker@1"), b"x");
    expect_failed(&answer, &not_found("asker@1"));
}

#[test]
fn one_way_replies_long_names_and_replies_that_are_not_stored() {
    let gantry = up(&["storeReplyMessageEnable=false"]);
    let mut replier = gantry.client();
    let mut asker = requester(&gantry, "asker@2");
    replier.post_oneway(REPLY_V2, &answer_ext("asker@2"), b"one way");
    replier.flush().unwrap();
    let push = asker.await_push(PUSH);
    assert_eq!(push.body, b"one way");
    asker.answer(&push, reply::SUCCESS, b"");

    // As the Go client sends it.
    let long = [
        ("a", "producerGroup"),
        ("b", "topic"),
        ("c", "defaultTopic"),
        ("d", "defaultTopicQueueNums"),
        ("e", "queueId"),
        ("f", "sysFlag"),
        ("g", "bornTimestamp"),
        ("h", "flag"),
        ("i", "properties"),
        ("j", "reconsumeTimes"),
        ("k", "unitMode"),
        ("m", "batch"),
    ];
    let mut fields = answer_ext("asker@2");
    for (name, _) in &mut fields {
        let (_, long) = long.iter().find(|(short, _)| short == name).unwrap();
        (*long).clone_into(name);
    }
    let opaque = replier.post(REPLY, &fields, b"from Go");
    replier.flush().unwrap();
    let push = asker.await_push(PUSH);
    assert_eq!(push.body, b"from Go");
    asker.answer(&push, reply::SUCCESS, b"");
    let answer = replier.next_reply().unwrap();
    assert_eq!(answer.opaque, opaque, "the one-way reply has no answer");
    let answer = answer.expect(reply::SUCCESS);
    assert_eq!(answer.ext["msgId"], "0");
    assert_eq!(answer.number("queueOffset"), 0);
    assert_eq!(stored(&mut replier), 0);

    // What a send may not, a reply may not either.
    let missing = fresh("none");
    let mut fields = answer_ext("asker@2");
    fields[1].1.clone_from(&missing);
    fields[4].1 = "77".to_owned();
    let refused = replier.call(REPLY_V2, &fields, b"x");
    refused.expect(reply::INVALID_PARAMETER);
    let empty = replier.call(REPLY_V2, &answer_ext("asker@2"), b"");
    assert_eq!(empty.code, reply::SYSTEM_ERROR, "trap 104: {empty:?}");
}
