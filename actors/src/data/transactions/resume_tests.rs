//! Halves that were given up and are resumed (323).

use gantry_protocol::command::Command;
use gantry_protocol::message::RecordView;
use gantry_protocol::message_id::{offset_id, parse_offset_id};
use gantry_protocol::request::transaction::ResumeCheckHalf;

use super::ends_tests::{GIVEN_UP, checks, delivered, end, send_half};
use crate::data::testing::{TestBroker, ext, request_frame, send_frame, send_header};
use crate::transaction::Half;

fn resume(broker: &TestBroker, id: &str) -> Command {
    let header = ResumeCheckHalf {
        topic: Some("T"),
        msg_id: id,
    };
    broker.request(&request_frame(323, 7, &header.to_ext(), b""));
    broker.reply()
}

/// A broker of two cores that has given one half up; the record's offset id.
fn given_up(change: impl FnOnce(&mut crate::settings::BrokerSettings)) -> (TestBroker, String) {
    let broker = TestBroker::new(2, 2, |settings| {
        settings.transaction_check_max = 1;
        change(settings);
    });
    let broker = broker.with_transactions();
    let told = send_half(&broker, 1, "TAGS\u{1}a\u{2}", b"hi");
    broker.pass_ms(6_100);
    assert_eq!(checks(&broker).len(), 1);
    broker.pass_ms(31_000);
    assert!(checks(&broker).is_empty());
    broker.settle();
    assert_eq!(end(&broker, told, 8), 1, "it was given up");
    let records: Vec<_> = broker
        .stores
        .iter()
        .flat_map(|store| store.records_of(GIVEN_UP))
        .collect();
    assert_eq!(records.len(), 1);
    let view = RecordView::parse(&records[0]).unwrap();
    let id = offset_id(view.store_host, view.physical_offset);
    (broker, id.as_str().to_owned())
}

#[test]
fn what_was_given_up_is_open_again_and_asked_about() {
    let (broker, id) = given_up(|_| {});
    let reply = resume(&broker, &id);
    assert_eq!(reply.code, 0, "{reply:?}");
    let (_, physical) = parse_offset_id(ext(&reply, "msgId")).unwrap();
    let told = (ext(&reply, "queueOffset").parse().unwrap(), physical);
    broker.pass_ms(1_000);
    let asked = checks(&broker);
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].checks, 1, "counted anew");
    let half = Half::of(&asked[0].record).unwrap();
    assert_eq!((half.topic, half.queue), ("T", 1));
    assert_eq!(half.id.physical.0.cast_signed(), physical, "its new name");
    assert_eq!(end(&broker, told, 8), 0);
    assert_eq!(end(&broker, told, 8), 1);
    assert_eq!(delivered(&broker).len(), 1);
    let message = &delivered(&broker)[0];
    assert_eq!(RecordView::parse(message).unwrap().body, b"hi");
}

#[test]
fn nothing_but_a_half_that_was_given_up_is_resumed() {
    let (broker, id) = given_up(|_| {});
    broker.request(&send_frame(1, &send_header("T"), b"plain"));
    let plain = broker.reply();
    let plain = resume(&broker, ext(&plain, "msgId"));
    assert_eq!(plain.code, 1);
    let remark = plain.remark.unwrap();
    assert!(remark.contains("TRANS_CHECK_MAX_TIME_TOPIC"), "{remark}");
    assert_eq!(resume(&broker, "nonsense").code, 1);
    let nowhere = offset_id("127.0.0.1:1".parse().unwrap(), 1 << 40);
    assert_eq!(resume(&broker, nowhere.as_str()).code, 1);
    assert_eq!(broker.open_halves(), 0);
    assert_eq!(resume(&broker, &id).code, 0);
}

#[test]
fn one_that_is_too_old_to_be_asked_about_is_refused() {
    let (broker, id) = given_up(|settings| settings.transaction_age_ms_max = 60_000);
    broker.pass_ms(60_000);
    let refused = resume(&broker, &id);
    assert_eq!(refused.code, 1);
    assert!(refused.remark.unwrap().contains("fileReservedTime"));
}

#[test]
fn without_memory_for_the_record_nothing_is_read() {
    let (broker, id) = given_up(|_| {});
    let before = broker.record_reads();
    broker.world.has_reply_room.set(false);
    assert_eq!(resume(&broker, &id).code, 2);
    broker.world.has_reply_room.set(true);
    let searches = &broker.cores[0].searches;
    let held = searches.hold(searches.limit());
    assert_eq!(resume(&broker, &id).code, 2);
    assert_eq!(broker.record_reads(), before);
    drop(held);
    assert_eq!(resume(&broker, &id).code, 0);
    assert_eq!(searches.used(), 0, "given back");
}
