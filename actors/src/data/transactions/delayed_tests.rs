//! Halves with a delay: it begins with the commit.

use gantry_protocol::message::RecordView;
use gantry_protocol::properties;
use gantry_protocol::request::send::SendHeader;
use gantry_storage::units::QueueKey;

use super::ends_tests::{HALF, checks, delivered, end, half_header, half_properties, send_half};
use crate::data::host::Host;
use crate::data::testing::{TestBroker, send_frame, send_header, topic};

const LEVEL_2_MS: u64 = 5_000;

fn broker(cores: u16, shards: u8) -> TestBroker {
    let broker = TestBroker::new(cores, shards, |settings| {
        settings.delay_levels_ms = vec![1_000, LEVEL_2_MS];
        settings.timer_max_delay_sec = 100;
    });
    broker.with_transactions().with_parking()
}

fn parked(broker: &TestBroker, topic: u32) -> Vec<bytes::Bytes> {
    let stores = broker.stores.iter();
    stores.flat_map(|store| store.records_of(topic)).collect()
}

#[test]
fn a_level_begins_with_the_commit() {
    // The level's queue lies on the half's shard, and on another one.
    for (cores, shards) in [(1, 1), (2, 2)] {
        for queue in 0..2 {
            let broker = broker(cores, shards);
            let told = send_half(&broker, queue, "DELAY\u{1}2\u{2}TAGS\u{1}a\u{2}", b"hi");
            broker.settle();
            assert!(broker.owed().is_empty(), "a half waits for its end only");
            assert_eq!(parked(&broker, HALF).len(), 1);
            broker.pass_ms(3_000);
            let committed_ms = broker.cores[0].host.wall_ms_now();
            assert_eq!(end(&broker, told, 8), 0);
            broker.settle();
            assert!(delivered(&broker).is_empty(), "not yet");
            let rows = broker.owed();
            let [row] = &rows[..] else { panic!("{rows:?}") };
            assert_eq!(row.queue, QueueKey::new(20, 1));
            let waits_ms = row.time_ms - committed_ms;
            assert!(
                (LEVEL_2_MS..LEVEL_2_MS + 100).contains(&waits_ms),
                "{waits_ms}"
            );
            let record = &parked(&broker, 20)[0];
            let view = RecordView::parse(record).unwrap();
            assert_eq!(view.sys_flag & 0xC, 8, "what is delivered is committed");
            assert_eq!(view.prepared_transaction_offset, told.1);
            let property = |name| properties::get(view.properties, name).map(str::to_owned);
            assert_eq!(property("REAL_TOPIC").as_deref(), Some("T"));
            assert_eq!(property("REAL_QID"), Some(queue.to_string()));
            assert_eq!(property("DELAY").as_deref(), Some("2"));
            assert_eq!(property("TAGS").as_deref(), Some("a"));
            assert_eq!(broker.open_halves(), 0);
            assert_eq!(end(&broker, told, 8), 1, "a second commit parks nothing");
            broker.pass_ms(60_000);
            assert!(checks(&broker).is_empty());
            assert_eq!(parked(&broker, 20).len(), 1);
        }
    }
}

#[test]
fn timers_count_from_the_commit_and_fixed_times_do_not_move() {
    let broker = broker(1, 1);
    let at_ms = broker.cores[0].host.wall_ms_now() + 9_000;
    let fixed = send_half(
        &broker,
        0,
        &format!("TIMER_DELIVER_MS\u{1}{at_ms}\u{2}"),
        b"a",
    );
    let later = send_half(&broker, 0, "TIMER_DELAY_SEC\u{1}7\u{2}", b"b");
    let past = send_half(
        &broker,
        0,
        &format!("TIMER_DELIVER_MS\u{1}{at_ms}\u{2}"),
        b"c",
    );
    broker.pass_ms(3_000);
    let committed_ms = broker.cores[0].host.wall_ms_now();
    for told in [fixed, later] {
        assert_eq!(end(&broker, told, 8), 0);
    }
    let times: Vec<u64> = broker.owed().iter().map(|row| row.time_ms).collect();
    assert_eq!(times[0], at_ms);
    let waits_ms = times[1] - committed_ms;
    assert!((6_900..7_100).contains(&waits_ms), "{waits_ms}");
    assert_eq!(parked(&broker, 21).len(), 2);
    broker.pass_ms(7_000);
    assert_eq!(end(&broker, past, 8), 0);
    assert_eq!(delivered(&broker).len(), 1, "its time has passed");
    assert!(broker.owed().is_empty());
}

#[test]
fn a_rollback_parks_nothing_and_a_wrong_time_is_refused_at_once() {
    let broker = broker(1, 1);
    let told = send_half(&broker, 0, "DELAY\u{1}1\u{2}", b"no");
    assert_eq!(end(&broker, told, 12), 0);
    assert!(parked(&broker, 20).is_empty());
    let properties = half_properties("pg", "TIMER_DELAY_SEC\u{1}101\u{2}");
    broker.request(&send_frame(3, &half_header("T", 0, &properties), b"x"));
    assert_eq!(broker.reply().code, 13);
    assert_eq!(broker.open_halves(), 0);
}

#[test]
fn a_message_tried_again_is_no_half_whatever_it_once_was() {
    let broker = broker(1, 1);
    for (flags, opaque) in [(0, 1), (4, 2)] {
        let properties = half_properties("pg", "DELAY\u{1}1\u{2}");
        let again = SendHeader {
            sys_flag: flags,
            properties: &properties,
            reconsume_times: 1,
            ..send_header("%RETRY%g")
        };
        let retry = topic("%RETRY%g", 2, 1);
        broker.tell_all(|| {
            let put = crate::seam::CatalogChange::TopicPut(retry.clone());
            crate::seam::ToData::Catalog(put)
        });
        broker.request(&send_frame(opaque, &again, b"again"));
        assert_eq!(broker.reply().code, 0);
        broker.settle();
        assert_eq!(broker.owed().len(), 1);
        assert_eq!(broker.open_halves(), 0);
    }
    let view = parked(&broker, 20);
    for record in &view {
        let view = RecordView::parse(record).unwrap();
        assert_eq!(view.sys_flag & 0xC, 0, "a consumer sees it");
    }
}
