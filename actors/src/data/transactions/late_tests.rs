//! Ends whose message lies in another shard, whose device is slow.

use gantry_protocol::message_id::parse_offset_id;

use super::ends_tests::{checks, end_header, half_header, half_properties};
use crate::data::testing::{TestBroker, ext, request_frame, send_frame, topic};
use crate::seam::{CatalogChange, ToData};
use crate::settings::FlushDiskType;

fn commit_all(broker: &TestBroker) {
    broker.settle();
    broker.stores.iter().for_each(|store| store.commit());
    broker.settle();
}

/// A half of `T`, whose topic was then made anew: its queue lies on the other shard.
fn sent_half(broker: &TestBroker) -> (i64, i64) {
    let properties = half_properties("pg", "");
    broker.request(&send_frame(1, &half_header("T", 0, &properties), b"hi"));
    commit_all(broker);
    let reply = broker.reply();
    let (_, physical) = parse_offset_id(ext(&reply, "msgId")).unwrap();
    broker.tell_all(|| ToData::Catalog(CatalogChange::TopicPut(topic("T", 2, 4))));
    (ext(&reply, "queueOffset").parse().unwrap(), physical)
}

fn delivered_count(broker: &TestBroker) -> usize {
    let stores = broker.stores.iter();
    stores.map(|store| store.records_of(2).len()).sum()
}

#[test]
fn an_end_that_is_late_in_another_shard_is_answered_once_and_ends_its_half_all_the_same() {
    let sync = |settings: &mut crate::settings::BrokerSettings| {
        settings.flush_disk_type = FlushDiskType::Sync;
    };
    let broker = TestBroker::new(2, 2, sync).with_transactions();
    let told = sent_half(&broker);
    broker.request(&request_frame(37, 2, &end_header(told, 8).to_ext(), b""));
    broker.pass_ms(6_000);
    assert_eq!(broker.reply().code, 10, "the flush takes too long");
    broker.pass_ms(6_000);
    assert_eq!(broker.open_halves(), 1, "it waits for the device");
    commit_all(&broker);
    assert_eq!(broker.open_halves(), 0);
    assert_eq!(delivered_count(&broker), 1);
    commit_all(&broker);
    broker.pass_ms(60_000);
    assert!(checks(&broker).is_empty());
    assert!(broker.replies().is_empty(), "nobody is answered twice");
}
