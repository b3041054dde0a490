//! Pulls: at once, suspended, from the device, without memory for their replies.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::BytesMut;
use gantry_protocol::body::{ConsumeType, MessageModel};
use gantry_protocol::code::request;
use gantry_protocol::command::{ExtValue, writer};
use gantry_protocol::frame::{Frame, HeaderEncoding, take_frame};
use gantry_protocol::request::pull::{self, PullHeader};
use gantry_protocol::request::send::SendHeader;

use super::super::testing::{
    TestBroker, ext, group, long_pull, peer, pull_frame, pull_header, records, request_frame,
    send_frame, send_header,
};
use super::tests::{send, sent};
use super::ticks::GIVE_UPS_MAX;
use crate::data::host::Host;
use crate::data::queue::waiters::QUEUE_WAITERS_MAX;
use crate::data::requests::pulls::SUSPEND_MS_MAX;
use crate::seam::{CatalogChange, GroupEntry, LiveGroup, ToData};

#[test]
fn pulls_that_wait_take_no_room_from_messages() {
    let broker = TestBroker::new(1, 1, |s| {
        s.send_queue_capacity = 2_u64.into();
        s.memory_limit_bytes = 64 << 20;
    });
    let most = broker.cores[0].settings.memory_plan(1).inbox_bytes / super::ASK_BYTES;
    let pulls = i32::try_from(most).unwrap() + 1;
    for n in 0..pulls {
        broker.request(&pull_frame(n, &pull_header("T", 0, 0)));
    }
    send(&broker, pulls, 0, b"x");
    let replies = broker.replies();
    let code = |opaque| replies.iter().find(|r| r.opaque == opaque).unwrap().code;
    assert_eq!((code(pulls), code(pulls - 1)), (0, 2));
    assert_ne!(code(0), 2);
    let counted = broker.cores[0].host.profile().refusals();
    assert_eq!(counted[0].stage, "inbox");
    assert_eq!(counted[0].cause, "too many pulls and questions");
}

#[test]
fn a_rejected_pull_consumer_is_24_until_its_group_is_pushed_to() {
    let broker = TestBroker::new(1, 1, |s| s.reject_pull_consumer_enable = true);
    sent(&broker, 0, "a", b"x");
    let code = |group| {
        let header = PullHeader {
            consumer_group: group,
            ..pull_header("T", 0, 0)
        };
        broker.request(&pull_frame(1, &header));
        broker.reply().code
    };
    assert_eq!(code("g"), 24);
    let put =
        |entry| broker.tell_all(|| ToData::Catalog(CatalogChange::GroupPut(Arc::clone(&entry))));
    put(group("__MONITOR_CONSUMER"));
    assert_eq!(code("__MONITOR_CONSUMER"), 0, "a tool");
    let mut live = GroupEntry::clone(&group("g"));
    live.live = Some(LiveGroup {
        message_model: MessageModel::Clustering,
        consume_type: ConsumeType::Passively,
        subscriptions: HashMap::new(),
    });
    put(Arc::new(live));
    assert_eq!(code("g"), 0);
}

#[test]
fn traps_56_58_a_suspended_pull_is_answered_with_the_message() {
    let broker = TestBroker::new(1, 1, |_| {});
    broker.request(&pull_frame(1, &long_pull("T", 0, 0)));
    assert!(broker.replies().is_empty());
    send(&broker, 2, 0, b"arrived");
    let replies = broker.replies();
    assert_eq!(replies.len(), 2);
    let pulled = replies.iter().find(|reply| reply.opaque == 1).unwrap();
    assert_eq!(pulled.code, 0);
    assert_eq!(records(&pulled.body), [(0, "arrived".to_owned())]);
}

/// What `coalescing` takes for consumers that follow their queue.
#[test]
fn pulls_that_come_to_the_end_are_counted_once() {
    let broker = TestBroker::new(1, 1, |_| {});
    let at_end = || -> u64 {
        broker.settle();
        broker.cores[0].shards().map(|s| s.pulls_at_end()).sum()
    };
    broker.request(&pull_frame(1, &long_pull("T", 0, 0)));
    assert_eq!(at_end(), 1);
    send(&broker, 2, 0, b"wakes it");
    assert_eq!((broker.replies().len(), at_end()), (2, 1));
    sent(&broker, 0, "a", b"more");
    let one = PullHeader {
        max_msg_nums: 1,
        ..pull_header("T", 0, 0)
    };
    broker.request(&pull_frame(3, &one));
    assert_eq!((broker.reply().code, at_end()), (0, 1), "a backlog");
    broker.request(&pull_frame(4, &pull_header("T", 0, 1)));
    assert_eq!((broker.reply().code, at_end()), (0, 2));
    broker.request(&pull_frame(5, &pull_header("T", 0, 2)));
    assert_eq!((broker.reply().code, at_end()), (19, 3));
}

#[test]
fn trap_57_what_does_not_match_wakes_nobody() {
    let broker = TestBroker::new(1, 1, |_| {});
    sent(&broker, 0, "TagB", b"old");
    let wanted = PullHeader {
        subscription: Some("TagA"),
        ..long_pull("T", 0, 1)
    };
    broker.request(&pull_frame(1, &wanted));
    sent(&broker, 0, "TagB", b"not this");
    assert!(broker.replies().is_empty());
    broker.pass_ms(14_999);
    assert!(broker.replies().is_empty());
    broker.pass_ms(1);
    let reply = broker.reply();
    assert_eq!((reply.opaque, reply.code), (1, 20));
    assert_eq!(ext(&reply, "nextBeginOffset"), "2");
    let again = PullHeader {
        subscription: Some("TagA"),
        ..long_pull("T", 0, 2)
    };
    broker.request(&pull_frame(2, &again));
    sent(&broker, 1, "TagA", b"another queue");
    let header = SendHeader {
        properties: "TAGS\u{1}TagA\u{2}",
        ..send_header("T")
    };
    broker.request(&send_frame(3, &header, b"this"));
    let pulled = broker
        .replies()
        .into_iter()
        .find(|reply| reply.opaque == 2)
        .unwrap();
    assert_eq!(records(&pulled.body), [(2, "this".to_owned())]);
}

#[test]
fn trap_55_without_the_flag_nothing_is_suspended() {
    let broker = TestBroker::new(1, 1, |_| {});
    broker.request(&pull_frame(1, &pull_header("T", 0, 0)));
    assert_eq!(broker.reply().code, 19);
    broker.request(&pull_frame(2, &long_pull("T", 0, 0)));
    broker.pass_ms(15_000);
    let reply = broker.reply();
    assert_eq!((reply.opaque, reply.code), (2, 19));
}

#[test]
fn a_closed_peer_leaves_no_waiter_on_any_core() {
    let broker = TestBroker::new(2, 2, |_| {});
    for queue_id in 0..4 {
        broker.request(&pull_frame(queue_id, &long_pull("T", queue_id, 0)));
    }
    broker.settle();
    let waiting = || -> usize {
        broker
            .cores
            .iter()
            .flat_map(|core| core.shards())
            .map(|s| s.waiters_count())
            .sum()
    };
    assert_eq!(waiting(), 4);
    broker.cores[0].peer_closed(peer(0, 1));
    broker.settle();
    assert_eq!(waiting(), 0);
}

#[test]
fn cold_records_are_read_in_the_background() {
    let broker = TestBroker::new(1, 1, |_| {});
    sent(&broker, 0, "a", b"cold");
    broker.stores[0].is_cold.set(true);
    broker.request(&pull_frame(1, &pull_header("T", 0, 0)));
    assert_eq!(records(&broker.reply().body), [(0, "cold".to_owned())]);
}

#[test]
fn readers_of_a_backlog_take_turns_with_new_messages() {
    let broker = TestBroker::new(1, 1, |_| {});
    sent(&broker, 0, "a", b"cold");
    broker.stores[0].is_cold.set(true);
    let breaths_of_three = || {
        broker.world.breaths.set(0);
        for opaque in 0..3 {
            broker.request(&pull_frame(opaque, &pull_header("T", 0, 0)));
        }
        assert_eq!(broker.replies().len(), 3);
        broker.world.breaths.get()
    };
    assert_eq!(breaths_of_three(), 3, "a message came just now");
    let later_us = broker.world.now_us.get() + 1_000_000;
    broker.world.now_us.set(later_us);
    assert_eq!(breaths_of_three(), 0, "nothing came for a second");
}

#[test]
fn without_memory_for_replies_pulls_are_refused_and_sends_go_on() {
    let broker = TestBroker::new(1, 1, |_| {});
    sent(&broker, 0, "a", b"first");
    broker.request(&pull_frame(1, &long_pull("T", 1, 0)));
    broker.world.has_reply_room.set(false);
    broker.request(&pull_frame(2, &pull_header("T", 0, 0)));
    let reply = broker.reply();
    let remark = reply.remark.unwrap_or_default();
    assert_eq!((reply.code, reply.opaque), (2, 2), "{remark}");
    assert!(remark.contains("stage replies"), "{remark}");
    // A suspended pull that would now find something is told as well.
    send(&broker, 3, 1, b"second");
    let codes: Vec<_> = broker
        .replies()
        .iter()
        .map(|r| (r.opaque, r.code))
        .collect();
    assert_eq!(codes.len(), 2, "{codes:?}");
    assert!(
        codes.contains(&(3, 0)) && codes.contains(&(1, 2)),
        "{codes:?}"
    );
    broker.world.has_reply_room.set(true);
    broker.request(&pull_frame(4, &pull_header("T", 1, 0)));
    assert_eq!(broker.reply().code, 0);
}

#[test]
fn large_answers_of_one_queue_keep_no_other_queue_waiting() {
    let broker = TestBroker::new(1, 1, |_| {});
    let large = vec![b'm'; 64 << 10];
    for _ in 0..5 {
        sent(&broker, 0, "a", &large);
    }
    sent(&broker, 1, "a", b"small");
    for opaque in 0..20 {
        broker.request(&pull_frame(opaque, &pull_header("T", 0, 0)));
    }
    broker.request(&pull_frame(20, &pull_header("T", 1, 0)));
    let mut passes = Vec::new();
    while broker.cores[0].pass() {
        let replies = broker.world.take_replies(peer(0, 1));
        passes.push(replies.iter().map(|r| r.opaque).collect::<Vec<_>>());
    }
    assert!(passes[0].contains(&20), "{passes:?}");
    assert!(passes[0].len() <= 3 && passes.len() >= 9, "{passes:?}");
    assert!(broker.world.take_replies(peer(0, 1)).len() <= 2);
}

/// One message for a group that broadcasts is much to write, and may be a great many answers.
#[test]
fn pulls_that_one_message_wakes_are_answered_over_several_passes() {
    for (body_bytes, waiting, passes_min) in [(64 << 10, 320, 9), (1, 1300, 3)] {
        let broker = TestBroker::new(1, 1, |_| {});
        for opaque in 0..waiting {
            broker.request(&pull_frame(opaque, &long_pull("T", 0, 0)));
        }
        assert!(broker.replies().is_empty());
        let body = vec![b'm'; body_bytes];
        broker.request(&send_frame(5000, &send_header("T"), &body));
        let other = SendHeader {
            queue_id: 1,
            ..send_header("T")
        };
        let mut passes = Vec::new();
        let mut more = true;
        while more {
            more = broker.cores[0].pass();
            let replies = broker.world.take_replies(peer(0, 1));
            passes.push(replies.iter().map(|r| r.opaque).collect::<Vec<_>>());
            if passes.len() == 1 {
                broker.request(&send_frame(5001, &other, b"x"));
            }
        }
        assert!(passes[0].contains(&5000) && passes[1].contains(&5001));
        assert!(passes.len() >= passes_min, "{}", passes.len());
        let pulls = passes.concat().into_iter().filter(|opaque| *opaque < 5000);
        assert!(pulls.eq(0..waiting), "in the order they came");
    }
}

/// A broker whose device answers nothing, with one old message in queue 0; and how many reads it
/// has under way at most.
fn stuck_broker() -> (TestBroker, usize) {
    let broker = TestBroker::new(1, 1, |s| s.memory_limit_bytes = 64 << 20);
    sent(&broker, 0, "a", b"cold");
    broker.stores[0].is_cold.set(true);
    broker.stores[0].is_stuck.set(true);
    let reads_max = broker.cores[0].settings.memory_plan(1).cold_reads;
    (broker, reads_max)
}

#[test]
fn cold_pulls_that_waited_too_long_are_refused_and_the_next_is_served() {
    let (broker, reads_max) = stuck_broker();
    let under_way = i32::try_from(reads_max).unwrap();
    for opaque in 0..under_way + 100 {
        broker.request(&pull_frame(opaque, &pull_header("T", 0, 0)));
    }
    broker.pass_ms(6_000);
    broker.request_at(0, 2, &pull_frame(1000, &pull_header("T", 0, 0)));
    broker.settle();
    assert_eq!(broker.stores[0].reads.get(), reads_max);
    broker.stores[0].is_stuck.set(false);
    let replies = broker.replies();
    assert_eq!(replies.len(), reads_max + 100);
    for reply in replies {
        let remark = reply.remark.unwrap_or_default();
        if reply.opaque < under_way {
            assert_eq!(reply.code, 0, "{remark}");
        } else {
            assert_eq!(reply.code, 2, "{remark}");
            assert!(remark.contains("stage device read"), "{remark}");
            assert!(remark.contains("waited 6000 ms"), "{remark}");
        }
    }
    let served = broker.world.take_replies(peer(0, 2));
    assert_eq!((served.len(), served[0].code), (1, 0));
    assert_eq!(broker.stores[0].reads.get(), reads_max + 1);
}

#[test]
fn the_device_is_not_read_for_a_connection_that_is_gone() {
    let (broker, reads_max) = stuck_broker();
    for opaque in 0..i32::try_from(reads_max).unwrap() {
        broker.request_at(0, 2, &pull_frame(opaque, &pull_header("T", 0, 0)));
    }
    broker.settle();
    for opaque in 0..3 {
        broker.request(&pull_frame(opaque, &pull_header("T", 0, 0)));
    }
    broker.settle();
    broker.cores[0].peer_closed(peer(0, 1));
    broker.stores[0].is_stuck.set(false);
    assert!(broker.replies().is_empty());
    assert_eq!(broker.world.take_replies(peer(0, 2)).len(), reads_max);
    assert_eq!(broker.stores[0].reads.get(), reads_max);
}

#[test]
fn pulls_that_end_at_once_are_answered_some_at_a_time() {
    let broker = TestBroker::new(1, 1, |_| {});
    let count = GIVE_UPS_MAX + 10;
    for n in 0..count {
        let header = long_pull("T", i32::try_from(n % 4).unwrap(), 0);
        broker.request(&pull_frame(i32::try_from(n).unwrap(), &header));
    }
    assert!(broker.replies().is_empty());
    broker.pass_ms(SUSPEND_MS_MAX);
    assert_eq!(broker.replies().len(), GIVE_UPS_MAX);
    broker.pass_ms(10);
    assert_eq!(broker.replies().len(), 10, "the others with the next tick");
}

/// New groups begin while an old one reads its backlog as fast as the device lets it.
#[test]
fn readers_of_a_backlog_take_no_room_from_questions() {
    let (broker, reads_max) = stuck_broker();
    for opaque in 0..i32::try_from(reads_max).unwrap() + 100 {
        broker.request(&pull_frame(opaque, &pull_header("T", 0, 0)));
    }
    broker.settle();
    let ask = |code, more: &[(&str, ExtValue<'_>)]| {
        let queue = [
            ("topic", ExtValue::Str("T")),
            ("queueId", ExtValue::Int(0)),
            ("consumerGroup", ExtValue::Str("new")),
        ];
        let ext: Vec<_> = queue.iter().chain(more).copied().collect();
        broker.request(&request_frame(code, 9, &ext, b""));
        let reply = broker.reply();
        assert_eq!(reply.code, 0, "{code}: {reply:?}");
        ext_of(&reply)
    };
    broker.tell_all(|| ToData::Catalog(CatalogChange::GroupPut(group("new"))));
    let young = ("setZeroIfNotFound", ExtValue::Str("true"));
    assert_eq!(ask(request::QUERY_CONSUMER_OFFSET, &[young]), "0");
    let since = ("timestamp", ExtValue::Int(0));
    assert_eq!(ask(request::SEARCH_OFFSET_BY_TIMESTAMP, &[since]), "0");
}

fn ext_of(reply: &gantry_protocol::command::Command) -> String {
    ext(reply, "offset").to_owned()
}

#[test]
fn one_suspended_pull_too_many_is_busy_and_no_retry_at_once() {
    let broker = TestBroker::new(1, 1, |_| {});
    let most = i32::try_from(QUEUE_WAITERS_MAX).unwrap();
    for n in 0..=most {
        broker.request(&pull_frame(n, &long_pull("T", 0, 0)));
    }
    let reply = broker.reply();
    let remark = reply.remark.unwrap_or_default();
    assert_eq!((reply.code, reply.opaque), (2, most), "{remark}");
    assert!(remark.contains("stage suspended"), "{remark}");
    broker.request(&pull_frame(0, &long_pull("T", 1, 0)));
    assert!(broker.replies().is_empty(), "another queue has room");
}

#[test]
fn a_one_way_pull_commits_and_is_not_answered() {
    let broker = TestBroker::new(1, 1, |_| {});
    sent(&broker, 0, "a", b"there");
    let header = PullHeader {
        sys_flag: pull::FLAG_SUBSCRIPTION | pull::FLAG_COMMIT_OFFSET | pull::FLAG_SUSPEND,
        commit_offset: 1,
        suspend_timeout_ms: 15_000,
        ..pull_header("T", 0, 0)
    };
    for (offset, is_cold) in [(0, false), (1, false), (0, true)] {
        broker.stores[0].is_cold.set(is_cold);
        let header = PullHeader {
            queue_offset: offset,
            ..header
        };
        broker.request(&one_way(&header));
        assert!(broker.replies().is_empty());
    }
    broker.pass_ms(SUSPEND_MS_MAX);
    assert!(broker.replies().is_empty(), "none was suspended");
    let ext = [
        ("topic", ExtValue::Str("T")),
        ("queueId", ExtValue::Int(0)),
        ("consumerGroup", ExtValue::Str(header.consumer_group)),
    ];
    let query = request_frame(request::QUERY_CONSUMER_OFFSET, 9, &ext, b"");
    broker.request(&query);
    assert_eq!(ext_of(&broker.reply()), "1");
}

fn one_way(header: &PullHeader<'_>) -> Frame {
    let (mut out, ext) = (BytesMut::new(), header.to_ext());
    let encoding = HeaderEncoding::Json;
    writer::write_request(&mut out, encoding, 1, 11, true, Some(&ext), &[]).unwrap();
    take_frame(&mut out).unwrap().unwrap()
}
