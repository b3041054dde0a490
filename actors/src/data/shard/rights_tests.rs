//! Suspended pulls whose rights are taken away meanwhile.

use std::sync::Arc;

use super::super::testing::{TestBroker, ext, group, long_pull, pull_frame, topic};
use crate::seam::{CatalogChange, GroupEntry, ToData, TopicEntry};

/// A pull waits on queue 3 and the catalog changes: its client is sent to ask again, from where it
/// was, and is then told this code.
fn told_again(change: impl Fn() -> CatalogChange) -> i32 {
    let broker = TestBroker::new(1, 1, |s| s.auto_create_subscription_group = false.into());
    broker.request(&pull_frame(1, &long_pull("T", 3, 0)));
    assert!(broker.replies().is_empty());
    broker.tell_all(|| ToData::Catalog(change()));
    let reply = broker.reply();
    assert_eq!((reply.opaque, reply.code), (1, 19));
    assert_eq!(ext(&reply, "nextBeginOffset"), "0");
    broker.request(&pull_frame(2, &long_pull("T", 3, 0)));
    broker.reply().code
}

fn topic_put(change: impl Fn(&mut TopicEntry)) -> CatalogChange {
    let mut entry = TopicEntry::clone(&topic("T", 1, 4));
    change(&mut entry);
    CatalogChange::TopicPut(Arc::new(entry))
}

fn group_put(change: impl Fn(&mut GroupEntry)) -> CatalogChange {
    let mut entry = GroupEntry::clone(&group("g"));
    change(&mut entry);
    CatalogChange::GroupPut(Arc::new(entry))
}

#[test]
fn a_suspended_pull_does_not_outlive_its_rights() {
    assert_eq!(told_again(|| topic_put(|entry| entry.config.perm = 2)), 16);
    assert_eq!(
        told_again(|| topic_put(|entry| entry.config.read_queue_nums = 3)),
        29
    );
    assert_eq!(
        told_again(|| group_put(|entry| entry.config.consume_enable = false)),
        16
    );
    assert_eq!(told_again(|| CatalogChange::GroupGone("g".into())), 26);
    assert_eq!(told_again(|| CatalogChange::BrokerPermission(2)), 16);
}

#[test]
fn those_that_may_still_read_go_on_waiting() {
    let broker = TestBroker::new(1, 1, |_| {});
    broker.request(&pull_frame(1, &long_pull("T", 2, 0)));
    broker.settle();
    for change in [
        || topic_put(|entry| entry.config.read_queue_nums = 3),
        || topic_put(|entry| entry.config.perm = 4),
        || group_put(|entry| entry.config.retry_max_times = 1),
        || CatalogChange::GroupGone("other".into()),
        || CatalogChange::BrokerPermission(4),
    ] {
        broker.tell_all(|| ToData::Catalog(change()));
        assert!(broker.replies().is_empty());
    }
}
