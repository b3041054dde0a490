use gantry_protocol::request::pull::PullHeader;
use gantry_protocol::request::send::SendHeader;
use gantry_storage::units::{QueueKey, QueueOffset};

use super::super::testing::{
    TestBroker, ext, long_pull, peer, pull_frame, pull_header, records, request_frame, send_frame,
    send_header,
};
use crate::data::host::Host as _;
use crate::seam::{OffsetRow, ToControl, ToData};
use crate::settings::FlushDiskType;

pub(super) fn send(broker: &TestBroker, opaque: i32, queue_id: i32, body: &[u8]) {
    broker.request(&send_frame(
        opaque,
        &SendHeader {
            queue_id,
            ..send_header("T")
        },
        body,
    ));
}

pub(super) fn sent(broker: &TestBroker, queue_id: i32, tag: &str, body: &[u8]) {
    let properties = format!("TAGS\u{1}{tag}\u{2}");
    let header = SendHeader {
        queue_id,
        properties: &properties,
        ..send_header("T")
    };
    broker.request(&send_frame(77, &header, body));
    assert_eq!(broker.reply().code, 0);
}

#[test]
fn a_message_is_sent_and_pulled() {
    let broker = TestBroker::new(1, 1, |_| {});
    let header = SendHeader {
        properties: "UNIQ_KEY\u{1}U1\u{2}",
        ..send_header("T")
    };
    broker.request(&send_frame(5, &header, b"hello"));
    let reply = broker.reply();
    assert_eq!((reply.code, reply.opaque), (0, 5));
    assert_eq!(ext(&reply, "msgId"), "7F00000100002A9F0000000000000000");
    assert_eq!(ext(&reply, "queueOffset"), "0");
    assert_eq!(ext(&reply, "queueId"), "0");
    assert_eq!(ext(&reply, "transactionId"), "U1");
    assert_eq!(ext(&reply, "TRACE_ON"), "true");
    broker.request(&pull_frame(6, &pull_header("T", 0, 0)));
    let reply = broker.reply();
    assert_eq!((reply.code, reply.remark.as_deref()), (0, Some("FOUND")));
    assert_eq!(records(&reply.body), [(0, "hello".to_owned())]);
    assert_eq!(ext(&reply, "nextBeginOffset"), "1");
    assert_eq!(ext(&reply, "maxOffset"), "1");
    assert_eq!(ext(&reply, "suggestWhichBrokerId"), "0");
}

#[test]
fn order_of_one_connection_and_one_seal_a_pass() {
    let broker = TestBroker::new(1, 1, |_| {});
    for n in 0..200 {
        send(&broker, n, n % 2, format!("m{n}").as_bytes());
    }
    let replies = broker.replies();
    assert_eq!(replies.len(), 200);
    assert!(broker.stores[0].seals.get() <= 2);
    for (queue, first) in [(0, 0), (1, 1)] {
        let mut seen = Vec::new();
        while seen.len() < 100 {
            let offset = i64::try_from(seen.len()).unwrap();
            broker.request(&pull_frame(1, &pull_header("T", queue, offset)));
            seen.extend(records(&broker.reply().body));
        }
        let expected: Vec<(i64, String)> = (0..100_i64)
            .map(|n| (n, format!("m{}", n * 2 + first)))
            .collect();
        assert_eq!(seen, expected);
    }
}

#[test]
fn two_cores_route_sends_pulls_and_replies() {
    let broker = TestBroker::new(2, 2, |_| {});
    for slot in 1..=2 {
        let core = u16::try_from(slot - 1).unwrap();
        for queue_id in 0..4 {
            for n in 0..10 {
                let header = SendHeader {
                    queue_id,
                    ..send_header("T")
                };
                let body = format!("{slot}-{n}");
                broker.request_at(core, slot, &send_frame(n, &header, body.as_bytes()));
            }
        }
    }
    broker.settle();
    for slot in 1..=2 {
        let core = u16::try_from(slot - 1).unwrap();
        let replies = broker.world.take_replies(peer(core, slot));
        assert_eq!(replies.len(), 40);
        assert!(replies.iter().all(|reply| reply.code == 0));
        for queue_id in 0..4 {
            broker.request_at(core, slot, &pull_frame(9, &pull_header("T", queue_id, 0)));
            broker.settle();
            let replies = broker.world.take_replies(peer(core, slot));
            let found = records(&replies[0].body);
            assert_eq!(found.len(), 20);
            for sender in 1..=2 {
                let prefix = format!("{sender}-");
                let of_one = found.iter().filter(|(_, body)| body.starts_with(&prefix));
                let bodies: Vec<String> = of_one.map(|(_, body)| body.clone()).collect();
                let expected: Vec<String> = (0..10).map(|n| format!("{prefix}{n}")).collect();
                assert_eq!(bodies, expected);
            }
        }
    }
}

#[test]
fn sync_flush_answers_when_committed_and_wait_false_at_once() {
    let broker = TestBroker::new(1, 1, |s| s.flush_disk_type = FlushDiskType::Sync);
    send(&broker, 1, 0, b"waits");
    let hasty = SendHeader {
        properties: "WAIT\u{1}false\u{2}",
        ..send_header("T")
    };
    broker.request(&send_frame(2, &hasty, b"hasty"));
    let reply = broker.reply();
    assert_eq!((reply.opaque, reply.code), (2, 0));
    // Not committed: no consumer sees it.
    broker.request(&pull_frame(3, &pull_header("T", 0, 0)));
    assert_eq!(broker.reply().code, 19);
    broker.stores[0].commit();
    assert_eq!(broker.reply().opaque, 1);
    broker.request(&pull_frame(4, &pull_header("T", 0, 0)));
    assert_eq!(records(&broker.reply().body).len(), 2);
}

#[test]
fn trap_41_a_late_flush_says_10_with_all_fields() {
    let broker = TestBroker::new(1, 1, |s| s.flush_disk_type = FlushDiskType::Sync);
    send(&broker, 1, 0, b"x");
    broker.pass_ms(4_999);
    assert!(broker.replies().is_empty());
    broker.pass_ms(1);
    let reply = broker.reply();
    assert_eq!(reply.code, 10);
    assert_eq!(ext(&reply, "queueOffset"), "0");
    assert_eq!(ext(&reply, "msgId").len(), 32);
}

#[test]
fn trap_42_a_full_tail_stops_sends_not_pulls_and_ends_in_system_busy() {
    let broker = TestBroker::new(1, 1, |_| {});
    broker.stores[0].room.set(1);
    for n in 0..3 {
        send(&broker, n, 0, b"x");
    }
    assert_eq!(broker.reply().opaque, 0);
    broker.request(&pull_frame(9, &pull_header("T", 0, 0)));
    assert_eq!(broker.reply().opaque, 9);
    broker.stores[0].room.set(1);
    broker.stores[0].commit();
    assert_eq!(broker.reply().opaque, 1);
    broker.pass_ms(199);
    assert!(broker.replies().is_empty());
    broker.pass_ms(1);
    let reply = broker.reply();
    assert_eq!((reply.opaque, reply.code), (2, 2));
    let remark = reply.remark.unwrap();
    let begin = "[PCBUSY_CLEAN_QUEUE]broker busy, start flow control for a while: stage tail, ";
    assert!(remark.starts_with(begin), "{remark}");
    assert!(remark.contains("topic T queue 0"), "{remark}");
    assert!(remark.contains("waited 200 ms"), "{remark}");
    let counted = broker.cores[0].host.profile().refusals();
    let cause = "waited too long for the disk";
    assert_eq!((counted.len(), counted[0].stage), (1, "tail"));
    assert_eq!((counted[0].cause, counted[0].count), (cause, 1));
}

#[test]
fn trap_42_a_full_inbox_refuses_at_once_with_the_cause() {
    let broker = TestBroker::new(1, 1, |s| s.send_queue_capacity = 2_u64.into());
    broker.stores[0].room.set(0);
    for n in 0..3 {
        send(&broker, n, 0, b"x");
    }
    let reply = broker.reply();
    assert_eq!((reply.opaque, reply.code), (2, 2));
    let remark = reply.remark.unwrap();
    assert!(
        remark.starts_with("[OVERLOAD]") && remark.contains("stage inbox"),
        "{remark}"
    );
    assert!(remark.contains("topic T queue 0"), "{remark}");
    assert!(remark.contains("too much at once, for 0 ms"), "{remark}");
    let counted = broker.cores[0].host.profile().refusals();
    assert_eq!((counted.len(), counted[0].stage), (1, "inbox"));
    assert_eq!(
        (counted[0].cause, counted[0].count),
        ("too many messages", 1)
    );
}

#[test]
fn a_poisoned_shard_refuses_with_the_reason() {
    let broker = TestBroker::new(1, 1, |_| {});
    *broker.stores[0].poison.borrow_mut() = Some("sync failed: EIO".into());
    send(&broker, 1, 0, b"x");
    let reply = broker.reply();
    assert_eq!(reply.code, 14);
    assert!(reply.remark.unwrap().contains("EIO"));
}

#[test]
fn a_panicking_turn_costs_its_callers_an_error_and_nobody_else() {
    let broker = TestBroker::new(1, 1, |_| {});
    let core = &broker.cores[0];
    let shard = core.shards().next().unwrap();
    // A request whose ranges lie: the actor trips over it outside the store.
    send(&broker, 1, 0, b"before");
    send(&broker, 2, 1, b"neighbour");
    assert_eq!(broker.replies().len(), 2);
    shard.inject_panic(QueueKey::new(1, 0));
    send(&broker, 3, 0, b"lost");
    send(&broker, 4, 1, b"neighbour");
    let replies = broker.replies();
    let code_of = |opaque| {
        replies
            .iter()
            .find(|reply| reply.opaque == opaque)
            .unwrap()
            .code
    };
    assert_eq!((code_of(3), code_of(4)), (1, 0));
    assert_eq!(shard.waiting().0, 0, "what the panic took is still counted");
    send(&broker, 5, 0, b"after");
    assert_eq!(ext(&broker.reply(), "queueOffset"), "1");
}

fn offset_request(
    code: i32,
    more: &[(&str, gantry_protocol::command::ExtValue<'_>)],
) -> (i32, String) {
    let broker = TestBroker::new(1, 1, |_| {});
    for _ in 0..3 {
        sent(&broker, 0, "a", b"x");
    }
    let mut fields = vec![("topic", "T".into()), ("queueId", 0.into())];
    fields.extend_from_slice(more);
    broker.request(&request_frame(code, 1, &fields, b""));
    let reply = broker.reply();
    let name = if code == 32 { "timestamp" } else { "offset" };
    let found = reply.ext.iter().flatten().find(|(key, _)| key == name);
    (
        reply.code,
        found.map(|(_, value)| value.clone()).unwrap_or_default(),
    )
}

#[test]
fn bounds_times_and_unknown_topics() {
    assert_eq!(offset_request(30, &[]), (0, "3".to_owned()));
    assert_eq!(offset_request(31, &[]), (0, "0".to_owned()));
    assert_eq!(
        offset_request(29, &[("timestamp", 0.into())]),
        (0, "0".to_owned())
    );
    assert_eq!(
        offset_request(29, &[("timestamp", i64::MAX.into())]),
        (0, "3".to_owned())
    );
    assert!(offset_request(32, &[]).1.parse::<u64>().unwrap() > 1_700_000_000_000);
    assert_eq!(
        offset_request(30, &[("topic", "unknown".into())]),
        (0, "0".to_owned())
    );
}

#[test]
fn traps_67_68_69_offsets_of_young_and_old_queues() {
    let group = ("consumerGroup", "g".into());
    assert_eq!(offset_request(14, &[group]), (0, "0".to_owned()));
    let never = ("setZeroIfNotFound", "false".into());
    assert_eq!(offset_request(14, &[group, never]).0, 22);
    let broker = TestBroker::new(1, 1, |_| {});
    let fields = [group, ("topic", "T".into()), ("queueId", 0.into())];
    broker.request(&request_frame(14, 1, &fields, b""));
    assert_eq!(broker.reply().code, 22, "an empty queue");
    sent(&broker, 0, "a", b"x");
    broker.stores[0].trim(QueueKey::new(1, 0), 1);
    broker.request(&request_frame(14, 1, &fields, b""));
    assert_eq!(broker.reply().code, 22);
}

#[test]
fn commits_are_stored_handed_over_and_reset_once() {
    let broker = TestBroker::new(1, 1, |_| {});
    sent(&broker, 0, "a", b"x");
    let base = [
        ("consumerGroup", "g".into()),
        ("topic", "T".into()),
        ("queueId", 0.into()),
    ];
    let commit = |n: i32| {
        let mut fields = base.to_vec();
        fields.push(("commitOffset", n.into()));
        broker.request(&request_frame(15, 1, &fields, b""));
        assert_eq!(broker.reply().code, 0);
    };
    let query = || {
        broker.request(&request_frame(14, 2, &base, b""));
        ext(&broker.reply(), "offset").to_owned()
    };
    commit(1);
    assert_eq!(query(), "1");
    let lacking = [
        base[0],
        base[1],
        ("queueId", 9.into()),
        ("commitOffset", 1.into()),
    ];
    broker.request(&request_frame(15, 1, &lacking, b""));
    assert_eq!(
        broker.reply().code,
        gantry_protocol::code::response::INVALID_PARAMETER
    );
    let mut rows = Vec::new();
    let shard = broker.cores[0].shards().next().unwrap();
    assert!(shard.take_changed_offsets(10, &mut rows));
    assert_eq!(rows.len(), 1);
    let found = (rows[0].offset, &*rows[0].group);
    assert_eq!(found, (Some(QueueOffset(1)), "g"));
    let ask = crate::seam::Question::ResetOffsets(vec![OffsetRow {
        queue: QueueKey::new(1, 0),
        group: "g".into(),
        offset: QueueOffset(0),
    }]);
    let ticket = crate::seam::Ticket(1);
    broker.request(&pull_frame(8, &long_pull("T", 0, 1)));
    assert!(broker.replies().is_empty());
    broker.tell_all(|| ToData::Ask {
        ticket,
        question: ask.clone(),
    });
    // The waiting pull learns it at once.
    let told = broker.reply();
    assert_eq!(
        (told.code, told.remark.as_deref()),
        (21, Some("OFFSET_RESET"))
    );
    assert_eq!(ext(&told, "nextBeginOffset"), "0");
    assert!(matches!(
        broker.world.take_control()[..],
        [ToControl::Answer { .. }]
    ));
    assert_eq!(query(), "0");
    commit(1);
    assert_eq!(query(), "0", "until the group pulls again");
    broker.request(&pull_frame(9, &pull_header("T", 0, 0)));
    assert_eq!(broker.reply().code, 0);
    commit(1);
    assert_eq!(query(), "1");
}

#[test]
fn trap_75_locks_list_exactly_what_is_owned() {
    let broker = TestBroker::new(2, 2, |_| {});
    let body = |client: &str, queues: &[i32]| {
        let list: Vec<String> = queues
            .iter()
            .map(|id| format!("{{\"brokerName\":\"b\",\"queueId\":{id},\"topic\":\"T\"}}"))
            .collect();
        format!(
            "{{\"clientId\":\"{client}\",\"consumerGroup\":\"g\",\"mqSet\":[{}]}}",
            list.join(",")
        )
    };
    let owned = |client: &str, queues: &[i32]| -> Vec<i32> {
        broker.request(&request_frame(41, 1, &[], body(client, queues).as_bytes()));
        let reply = broker.reply();
        assert_eq!(reply.code, 0);
        let owned = gantry_protocol::body::parse_lock_reply(&reply.body).unwrap();
        owned.iter().map(|queue| queue.queue_id).collect()
    };
    assert_eq!(owned("a", &[0, 1]), [0, 1]);
    assert_eq!(owned("b", &[0, 1, 2, 99]), [2]);
    broker.request(&request_frame(42, 1, &[], body("a", &[0]).as_bytes()));
    assert_eq!(broker.reply().code, 0);
    assert_eq!(owned("b", &[0, 1]), [0]);
}

#[test]
fn messages_are_found_by_key_and_by_offset_on_any_core() {
    let broker = TestBroker::new(2, 2, |_| {});
    for queue_id in 0..4 {
        let header = SendHeader {
            queue_id,
            properties: "KEYS\u{1}order-7 x\u{2}",
            ..send_header("T")
        };
        broker.request(&send_frame(1, &header, format!("m{queue_id}").as_bytes()));
    }
    let ids: Vec<String> = broker
        .replies()
        .iter()
        .map(|reply| ext(reply, "msgId").to_owned())
        .collect();
    let fields = [
        ("topic", "T".into()),
        ("key", "order-7".into()),
        ("maxNum", 64.into()),
        ("beginTimestamp", 0.into()),
        ("endTimestamp", i64::MAX.into()),
    ];
    broker.request(&request_frame(12, 1, &fields, b""));
    let reply = broker.reply();
    assert_eq!(reply.code, 0);
    assert_eq!(records(&reply.body).len(), 4);
    for id in ids {
        let (_, offset) = gantry_protocol::message_id::parse_offset_id(&id).unwrap();
        broker.request(&request_frame(33, 1, &[("offset", offset.into())], b""));
        assert_eq!(records(&broker.reply().body).len(), 1);
    }
    broker.request(&request_frame(33, 1, &[("offset", 12345.into())], b""));
    assert_eq!(broker.reply().code, 1);
    let mut nothing = fields.to_vec();
    nothing[1] = ("key", "nobody".into());
    broker.request(&request_frame(12, 1, &nothing, b""));
    assert_eq!(broker.reply().code, 22);
}

#[test]
fn pulls_are_checked_in_order() {
    let broker = TestBroker::new(1, 1, |_| {});
    let code = |header: PullHeader<'_>| {
        broker.request(&pull_frame(1, &header));
        broker.reply().code
    };
    assert_eq!(code(pull_header("nowhere", 0, 0)), 17);
    assert_eq!(code(pull_header("T", 4, 0)), 29);
    assert_eq!(code(pull_header("T", -1, 0)), 29);
    assert_eq!(
        code(PullHeader {
            subscription: Some("||"),
            ..pull_header("T", 0, 0)
        }),
        23
    );
    assert_eq!(
        code(PullHeader {
            sys_flag: 0,
            ..pull_header("T", 0, 0)
        }),
        24
    );
    let sql = PullHeader {
        expression_type: Some("SQL92"),
        ..pull_header("T", 0, 0)
    };
    assert_eq!(code(sql), 1);
    let stranger = PullHeader {
        consumer_group: "new",
        ..pull_header("T", 0, 0)
    };
    broker.request(&pull_frame(1, &stranger));
    assert!(broker.replies().is_empty());
    let asked = broker.world.take_control();
    assert!(matches!(asked[..], [ToControl::EnsureGroup { .. }]));
}

#[test]
fn unknown_codes_go_to_the_control_plane_and_a_full_mailbox_is_told() {
    let broker = TestBroker::new(1, 1, |_| {});
    broker.request(&request_frame(34, 1, &[], b"{}"));
    broker.request(&request_frame(99_999, 2, &[], b""));
    assert!(broker.replies().is_empty());
    assert_eq!(broker.world.take_control().len(), 2);
    broker.world.control_is_full.set(true);
    broker.request(&request_frame(34, 3, &[], b"{}"));
    let reply = broker.reply();
    assert_eq!(reply.code, 2);
    assert!(reply.remark.unwrap().starts_with("[OVERLOAD]"));
}

#[test]
fn before_a_full_tail_every_queue_has_its_turn() {
    let broker = TestBroker::new(1, 1, |_| {});
    let store = &broker.stores[0];
    store.room.set(0);
    for n in 0..20 {
        send(&broker, n, 0, b"busy");
    }
    send(&broker, 101, 1, b"x");
    send(&broker, 102, 2, b"x");
    send(&broker, 103, 2, b"x");
    broker.settle();
    let mut order = Vec::new();
    for _ in 0..4 {
        store.room.set(2);
        store.commit();
        order.extend(broker.replies().iter().map(|reply| reply.opaque));
    }
    assert_eq!(order, [0, 1, 101, 102, 2, 3, 103, 4]);
    store.room.set(u64::MAX);
    store.commit();
    let rest: Vec<i32> = broker.replies().iter().map(|reply| reply.opaque).collect();
    assert_eq!(rest, (5..20).collect::<Vec<i32>>(), "in the queue's order");
}
