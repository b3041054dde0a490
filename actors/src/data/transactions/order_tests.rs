//! In which order ends take effect, what one may say, and where its message goes.

use gantry_protocol::message::RecordView;
use gantry_protocol::message_id::parse_offset_id;
use gantry_protocol::request::transaction::EndTransaction;

use super::ends_tests::{
    delivered, end, end_header, end_with, half_header, half_properties, send_half,
};
use crate::data::testing::{TestBroker, ext, request_frame, send_frame, topic};
use crate::seam::{CatalogChange, ToData};

fn broker() -> TestBroker {
    TestBroker::new(1, 1, |_| {}).with_transactions()
}

/// What waits of an end is charged with a name of that length at most.
#[test]
fn a_producer_group_longer_than_clients_allow_ends_nothing() {
    let broker = broker();
    let names = ["g".repeat(255), "g".repeat(256)];
    for (name, code) in names.iter().zip([0, 1]) {
        let properties = half_properties(name, "");
        broker.request(&send_frame(1, &half_header("T", 0, &properties), b"hi"));
        let reply = broker.reply();
        let (_, physical) = parse_offset_id(ext(&reply, "msgId")).unwrap();
        let told = (ext(&reply, "queueOffset").parse().unwrap(), physical);
        let header = EndTransaction {
            producer_group: name,
            ..end_header(told, 8)
        };
        assert_eq!(end_with(&broker, &header).code, code, "{}", name.len());
    }
}

/// The second half is newer and still in memory; its commit must not pass the one that needs the
/// device.
#[test]
fn commits_of_one_connection_keep_their_order_when_one_half_is_cold() {
    let broker = broker();
    let first = send_half(&broker, 0, "", b"first");
    let second = send_half(&broker, 0, "", b"second");
    let third = send_half(&broker, 0, "", b"third");
    let store = &broker.stores[0];
    store.is_cold.set(true);
    store.is_stuck.set(true);
    let post = |told| {
        let header = end_header(told, 8);
        broker.request(&request_frame(37, 2, &header.to_ext(), b""));
        broker.settle();
    };
    post(first);
    store.is_cold.set(false);
    post(second);
    assert!(delivered(&broker).is_empty());
    store.is_stuck.set(false);
    broker.settle();
    post(third);
    let bodies: Vec<Vec<u8>> = delivered(&broker)
        .iter()
        .map(|record| RecordView::parse(record).unwrap().body.to_vec())
        .collect();
    assert_eq!(bodies, [&b"first"[..], b"second", b"third"]);
}

/// No consumer reads beyond a topic's queues. The new queue lies on the half's shard, or another.
#[test]
fn a_half_of_a_queue_that_its_topic_lost_goes_to_one_that_it_has() {
    for (queue, goes_to) in [(6, 0), (4, 1)] {
        let broker = TestBroker::new(2, 2, |_| {}).with_transactions();
        let put = |queues| ToData::Catalog(CatalogChange::TopicPut(topic("T", 1, queues)));
        broker.tell_all(|| put(8));
        let told = send_half(&broker, queue, "", b"hi");
        broker.tell_all(|| put(3));
        assert_eq!(end(&broker, told, 8), 0);
        broker.settle();
        let queues = delivered(&broker);
        let queues = queues
            .iter()
            .map(|record| RecordView::parse(record).unwrap().queue_id);
        assert_eq!(queues.collect::<Vec<_>>(), [goes_to], "from queue {queue}");
        assert_eq!(broker.open_halves(), 0);
    }
}
