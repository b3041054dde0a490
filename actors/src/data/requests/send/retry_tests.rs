//! Sends to retry topics: as consumers do that send a message back themselves.

use gantry_protocol::message::RecordIter;
use gantry_protocol::properties;
use gantry_protocol::request::send::SendHeader;

use crate::data::testing::{
    TestBroker, ext, group, pull_frame, pull_header, records, request_frame, send_frame,
    send_header, topic,
};
use crate::seam::{CatalogChange, ToControl, ToData};

#[test]
fn trap_78_a_retry_topic_is_an_ordinary_topic_up_to_its_limit_then_comes_the_dead_letter() {
    let broker = TestBroker::new(1, 1, |_| {});
    broker.tell_all(|| ToData::Catalog(CatalogChange::TopicPut(topic("%RETRY%g", 2, 1))));
    broker.tell_all(|| ToData::Catalog(CatalogChange::GroupPut(group("g"))));
    let header = send_header("%RETRY%g");
    broker.request(&send_frame(1, &header, b"x"));
    assert_eq!(broker.reply().code, 0);
    let worn = SendHeader {
        reconsume_times: 17,
        properties: "DELAY\u{1}5\u{2}UNIQ_KEY\u{1}u\u{2}TIMER_DELAY_SEC\u{1}9\u{2}k\u{1}v\u{2}",
        ..header
    };
    broker.request(&send_frame(2, &worn, b"dead"));
    assert!(broker.replies().is_empty(), "its topic must be made first");
    let asked = broker.world.take_control();
    let wanted = asked.iter().find_map(|told| match told {
        ToControl::EnsureTopic { ticket, topic, .. } => Some((*ticket, topic.clone())),
        _ => None,
    });
    let (ticket, name) = wanted.expect("the dead-letter topic is asked for");
    assert_eq!(name, "%DLQ%g");
    broker.tell_all(|| ToData::Catalog(CatalogChange::TopicPut(topic("%DLQ%g", 4, 1))));
    broker.tell_all(|| ToData::Resolved {
        ticket,
        outcome: Ok(()),
    });
    broker.settle();
    assert_eq!(broker.reply().code, 0);
    broker.request(&pull_frame(5, &pull_header("%DLQ%g", 0, 0)));
    let pulled = broker.reply().body;
    assert_eq!(records(&pulled), [(0, "dead".to_owned())]);
    let dead = RecordIter::new(&pulled).next().unwrap().unwrap();
    for name in ["DELAY", "TIMER_DELAY_SEC"] {
        assert_eq!(properties::get(dead.properties, name), None, "{name}");
    }
    assert_eq!(properties::get(dead.properties, "UNIQ_KEY"), Some("u"));
    assert_eq!(properties::get(dead.properties, "k"), Some("v"));
}

#[test]
fn trap_80_a_group_is_orderly_until_who_holds_its_lock_gives_it_back() {
    let broker = TestBroker::new(1, 1, |_| {});
    for (name, id) in [("%RETRY%g", 2), ("%DLQ%g", 3)] {
        broker.tell_all(|| ToData::Catalog(CatalogChange::TopicPut(topic(name, id, 1))));
    }
    let locks = |code, client: &str| {
        let body = format!(
            r#"{{"clientId":"{client}","consumerGroup":"g",
                "mqSet":[{{"brokerName":"b","queueId":0,"topic":"T"}}]}}"#
        );
        broker.request(&request_frame(code, 1, &[], body.as_bytes()));
        assert_eq!(broker.reply().code, 0);
    };
    let dead = || {
        broker.request(&send_frame(1, &send_header("%RETRY%g"), b"x"));
        assert_eq!(broker.reply().code, 0);
        broker.request(&pull_frame(5, &pull_header("%DLQ%g", 0, 0)));
        records(&broker.reply().body).len()
    };
    assert_eq!(dead(), 0);
    locks(41, "a");
    assert_eq!(dead(), 1);
    locks(42, "b");
    assert_eq!(dead(), 2);
    broker.world.wall_step_ms.set(3_600_000);
    assert_eq!(dead(), 3, "a lock's time is not the wall clock's");
    locks(42, "a");
    assert_eq!(dead(), 3);
}

/// A retry topic's topic and group are made one after the other, as a send to it allows.
#[test]
fn a_send_to_a_retry_topic_makes_its_topic_and_then_its_group() {
    let broker = TestBroker::new(1, 1, |_| {});
    for n in 1..=2 {
        broker.request(&send_frame(n, &send_header("%RETRY%new"), b"x"));
    }
    let asked = broker.world.take_control();
    let [ToControl::EnsureTopic { ticket, .. }] = asked[..] else {
        panic!("{asked:?}");
    };
    broker.tell_all(|| ToData::Catalog(CatalogChange::TopicPut(topic("%RETRY%new", 2, 1))));
    let resolved = |ticket| ToData::Resolved {
        ticket,
        outcome: Ok(()),
    };
    broker.tell_all(|| resolved(ticket));
    assert!(broker.replies().is_empty());
    let asked = broker.world.take_control();
    let [
        ToControl::EnsureGroup {
            ticket,
            group: name,
            ..
        },
    ] = &asked[..]
    else {
        panic!("{asked:?}");
    };
    assert_eq!(name, "new");
    broker.tell_all(|| ToData::Catalog(CatalogChange::GroupPut(group("new"))));
    broker.tell_all(|| resolved(*ticket));
    let stored: Vec<_> = broker
        .replies()
        .iter()
        .map(|reply| {
            (
                reply.opaque,
                reply.code,
                ext(reply, "queueOffset").to_owned(),
            )
        })
        .collect();
    assert_eq!(stored, [(1, 0, "0".to_owned()), (2, 0, "1".to_owned())]);
}

#[test]
fn a_send_to_a_retry_topic_gets_26_where_groups_are_not_made_but_for_the_systems_own() {
    let broker = TestBroker::new(1, 1, |settings| {
        settings.auto_create_subscription_group = false.into();
    });
    for (name, id) in [("%RETRY%h", 2), ("%RETRY%CID_RMQ_SYS_h", 3)] {
        broker.tell_all(|| ToData::Catalog(CatalogChange::TopicPut(topic(name, id, 1))));
    }
    broker.request(&send_frame(1, &send_header("%RETRY%h"), b"x"));
    let refused = broker.reply();
    assert_eq!(refused.code, 26);
    let remark = refused.remark.unwrap();
    assert!(
        remark.starts_with("subscription group not exist"),
        "{remark}"
    );
    broker.request(&send_frame(2, &send_header("%RETRY%CID_RMQ_SYS_h"), b"x"));
    assert!(broker.replies().is_empty());
    let asked = broker.world.take_control();
    assert!(matches!(asked[..], [ToControl::EnsureGroup { .. }]));
}
