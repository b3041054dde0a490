use std::collections::HashMap;
use std::sync::Arc;

use gantry_protocol::body::{ConsumeType, MessageModel, SubscriptionData};
use gantry_protocol::request::pull::PullHeader;
use gantry_protocol::request::send::SendHeader;

use super::super::testing::{
    TestBroker, ext, group, long_pull, pull_frame, pull_header, records, send_frame, send_header,
};
use crate::seam::{CatalogChange, GroupEntry, LiveGroup, ToData};
use crate::settings::FlushDiskType;
use crate::sql92::SCAN_BYTES_MAX;

fn broker() -> TestBroker {
    TestBroker::new(1, 1, |settings| {
        settings.enable_property_filter = true.into();
    })
}

fn sent(broker: &TestBroker, a: &str, body: &[u8]) {
    let properties = format!("a\u{1}{a}\u{2}");
    let header = SendHeader {
        properties: &properties,
        ..send_header("T")
    };
    broker.request(&send_frame(77, &header, body));
}

fn by_sql<'a>(pull: PullHeader<'a>, expression: &'a str) -> PullHeader<'a> {
    PullHeader {
        expression_type: Some("SQL92"),
        subscription: Some(expression),
        ..pull
    }
}

#[test]
fn a_pull_gives_what_the_expression_wants_from_memory_and_from_the_device() {
    let broker = broker();
    for a in ["1", "5", "x", "7"] {
        sent(&broker, a, a.as_bytes());
        assert_eq!(broker.reply().code, 0);
    }
    for is_cold in [false, true] {
        broker.stores[0].is_cold.set(is_cold);
        broker.request(&pull_frame(1, &by_sql(pull_header("T", 0, 0), "a >= 5")));
        let pulled = broker.reply();
        assert_eq!(pulled.code, 0);
        let wanted = [(1, "5".to_owned()), (3, "7".to_owned())];
        assert_eq!(records(&pulled.body), wanted);
        assert_eq!(ext(&pulled, "nextBeginOffset"), "4");
    }
    broker.stores[0].is_cold.set(false);
    broker.request(&pull_frame(
        2,
        &by_sql(pull_header("T", 0, 0), "missing = 'x'"),
    ));
    let nothing = broker.reply();
    assert_eq!((nothing.code, nothing.body.len()), (20, 0));
    assert_eq!(ext(&nothing, "nextBeginOffset"), "4", "trap 54");
}

#[test]
fn trap_66_what_is_no_expression_gives_no_message() {
    let broker = broker();
    sent(&broker, "1", b"x");
    assert_eq!(broker.reply().code, 0);
    broker.request(&pull_frame(1, &by_sql(pull_header("T", 0, 0), "a > > 3")));
    let refused = broker.reply();
    assert_eq!((refused.code, refused.body.len()), (23, 0));
    assert!(refused.remark.unwrap().contains("at byte 4"));
    let classes = PullHeader {
        sys_flag: 4 | 8,
        ..pull_header("T", 0, 0)
    };
    broker.request(&pull_frame(2, &classes));
    assert_eq!(broker.reply().code, 23);
}

#[test]
fn what_nothing_wants_is_passed_over_in_bounded_steps() {
    let broker = broker();
    let body = vec![b'x'; 100 * 1024];
    let (count, mut asked) = (25, 0);
    for _ in 0..count {
        sent(&broker, "1", &body);
        assert_eq!(broker.reply().code, 0);
    }
    let mut offset = 0;
    while offset < count {
        broker.request(&pull_frame(
            1,
            &by_sql(pull_header("T", 0, offset), "a > 1"),
        ));
        let passed = broker.reply();
        assert_eq!(passed.code, 20);
        let next: i64 = ext(&passed, "nextBeginOffset").parse().unwrap();
        let bytes = u64::try_from(next - offset - 1).unwrap() * body.len() as u64;
        assert!(
            next > offset && bytes < SCAN_BYTES_MAX,
            "{offset} to {next}"
        );
        (offset, asked) = (next, asked + 1);
    }
    assert!(asked > 1, "one step took all");
}

#[test]
fn trap_57_a_suspended_pull_wakes_for_what_it_wants() {
    let broker = broker();
    broker.request(&pull_frame(1, &by_sql(long_pull("T", 0, 0), "a = 2")));
    sent(&broker, "1", b"not this");
    sent(&broker, "2", b"this");
    let replies = broker.replies();
    let pulled = replies.iter().find(|reply| reply.opaque == 1).unwrap();
    assert_eq!(records(&pulled.body), [(1, "this".to_owned())]);
}

#[test]
fn a_suspended_pull_does_not_sleep_beside_what_it_wants_behind_its_scan() {
    let broker = TestBroker::new(1, 1, |settings| {
        settings.enable_property_filter = true.into();
        settings.flush_disk_type = FlushDiskType::Sync;
    });
    broker.request(&pull_frame(1, &by_sql(long_pull("T", 0, 0), "a = 2")));
    // More becomes readable at once than one scan looks at; nothing comes after it.
    let body = vec![b'x'; 100 * 1024];
    for _ in 0..15 {
        sent(&broker, "1", &body);
    }
    sent(&broker, "2", b"behind");
    assert!(broker.replies().is_empty());
    broker.stores[0].commit();
    broker.settle();
    let replies = broker.replies();
    let told = replies.iter().find(|reply| reply.opaque == 1);
    let told = told.expect("the pull sleeps");
    assert_eq!(told.code, 20);
    let next: i64 = ext(told, "nextBeginOffset").parse().unwrap();
    assert!((1..16).contains(&next), "{next}");
    broker.request(&pull_frame(2, &by_sql(long_pull("T", 0, next), "a = 2")));
    let pulled = broker.reply();
    assert_eq!(records(&pulled.body), [(15, "behind".to_owned())]);
}

fn put_group(broker: &TestBroker, expression: &str) {
    let mut data = SubscriptionData::tag("T", expression, 1);
    data.expression_type = "SQL92".to_owned();
    let mut entry = GroupEntry::clone(&group("g"));
    entry.live = Some(LiveGroup {
        message_model: MessageModel::Clustering,
        consume_type: ConsumeType::Passively,
        subscriptions: HashMap::from([("T".to_owned(), Arc::new(data))]),
    });
    let entry = Arc::new(entry);
    broker.tell_all(|| ToData::Catalog(CatalogChange::GroupPut(Arc::clone(&entry))));
}

#[test]
fn a_suspended_pull_passes_nothing_over_that_its_group_wants_by_now() {
    let broker = broker();
    put_group(&broker, "a = 1");
    let subscribed = PullHeader {
        sys_flag: 2,
        ..long_pull("T", 0, 0)
    };
    broker.request(&pull_frame(1, &subscribed));
    broker.request(&pull_frame(2, &by_sql(long_pull("T", 0, 0), "a = 3")));
    sent(&broker, "2", b"for whom?");
    assert_eq!(broker.reply().opaque, 77, "nobody wants it");
    put_group(&broker, "a = 1");
    assert!(broker.replies().is_empty(), "nothing changed");
    put_group(&broker, "a = 2");
    let told = broker.reply();
    assert_eq!((told.opaque, told.code), (1, 19));
    assert_eq!(ext(&told, "nextBeginOffset"), "0");
    broker.request(&pull_frame(3, &subscribed));
    let pulled = broker.reply();
    assert_eq!(records(&pulled.body), [(0, "for whom?".to_owned())]);
    // One with a subscription of its own still waits.
    broker.pass_ms(15_000);
    let told = broker.reply();
    assert_eq!((told.opaque, ext(&told, "nextBeginOffset")), (2, "1"));
}
