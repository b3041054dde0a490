//! Progress of groups and resets.

use std::sync::{Arc, Mutex};

use gantry_protocol::body::{ConsumeStats, ConsumerOffsets, parse_queue_offsets};
use gantry_protocol::code::request as code;
use gantry_protocol::code::response;
use gantry_storage::units::{QueueId, QueueKey, QueueOffset, TopicId};

use super::rig::{Rig, peer, request, settings};
use crate::refusal::Refusal;
use crate::seam::{Answer, GroupReport, Question, QueueReport, ResetTo, Ticket, ToControl, ToData};

/// The group `g` has consumed so much of a queue.
fn at(topic: TopicId, queue: u16, offset: u16) -> GroupReport {
    let queue = QueueKey {
        topic,
        queue: QueueId(queue),
    };
    GroupReport {
        group: "g".into(),
        queue,
        consumer_offset: QueueOffset(offset.into()),
        pull_offset: QueueOffset(0),
        last_timestamp_ms: 0,
    }
}

fn bounds(queue: QueueKey) -> QueueReport {
    QueueReport {
        queue,
        min: QueueOffset(0),
        max: QueueOffset(10),
        last_update_ms: 7,
    }
}

/// One group `g` at 4 in queue 1 of `topic`, whose queues all hold 0..10.
fn progress(topic: TopicId) -> Box<dyn Fn(&Question) -> Answer> {
    let queue = QueueKey {
        topic,
        queue: QueueId(1),
    };
    Box::new(move |question| match question {
        Question::Bounds(keys) => Answer::Bounds(keys.iter().copied().map(bounds).collect()),
        Question::Offsets { .. } => Answer::Offsets(vec![GroupReport {
            group: "g".into(),
            queue,
            consumer_offset: QueueOffset(4),
            pull_offset: QueueOffset(6),
            last_timestamp_ms: 99,
        }]),
        _ => Answer::Done,
    })
}

#[test]
fn progress_is_shown_for_every_queue_of_the_group_s_topics() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    assert_eq!(rig.ensure_topic("T", "TBW102", 4), 0);
    rig.answer = progress(rig.topics()["T"].id);
    let stats = stats(&mut rig, &[]);
    assert_eq!(stats.queues.len(), 4);
    let behind: i64 = stats
        .queues
        .values()
        .map(|q| q.broker_offset - q.consumer_offset)
        .sum();
    assert_eq!(behind, 36);
    let (_, row) = stats
        .queues
        .iter()
        .find(|(queue, _)| queue.queue_id == 1)
        .unwrap();
    assert_eq!(
        (row.consumer_offset, row.pull_offset, row.last_timestamp_ms),
        (4, 6, 99)
    );

    let all = rig.ask(peer(1), request(code::GET_ALL_CONSUMER_OFFSET, &[], ""));
    let all = ConsumerOffsets::parse(&all.body).unwrap();
    assert_eq!(all.offsets["T@g"][&1], 4);
    assert_eq!(all.pull_offsets["T@g"][&1], 6);

    let by_who = rig.ask(
        peer(1),
        request(code::QUERY_TOPIC_CONSUME_BY_WHO, &[("topic", "T")], ""),
    );
    assert_eq!(&by_who.body[..], br#"{"groupList":["g"]}"#);
    let topics = rig.ask(
        peer(1),
        request(code::QUERY_TOPICS_BY_CONSUMER, &[("group", "g")], ""),
    );
    assert_eq!(
        &topics.body[..],
        br#"{"brokerAddr":"127.0.0.1:10911","topicList":["T"]}"#
    );
    rig.stop();
}

fn stats(rig: &mut Rig, more: &[(&str, &str)]) -> ConsumeStats {
    let mut fields = vec![("consumerGroup", "g")];
    fields.extend(more);
    let reply = rig.ask(peer(1), request(code::GET_CONSUME_STATS, &fields, ""));
    assert_eq!(reply.code, 0, "{reply:?}");
    ConsumeStats::parse(&reply.body).unwrap()
}

/// The group `g` subscribes this topic.
fn join(rig: &mut Rig, topic: &str) {
    let beat = format!(
        r#"{{"clientID":"c1","consumerDataSet":[{{"groupName":"g","messageModel":"CLUSTERING",
        "consumeType":"CONSUME_PASSIVELY",
        "subscriptionDataSet":[{{"topic":"{topic}","subString":"*"}}]}}]}}"#
    );
    assert_eq!(
        rig.ask(peer(5), request(code::HEART_BEAT, &[], beat)).code,
        0
    );
}

#[test]
fn topics_without_a_position_or_a_subscription_show_no_lag() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    assert_eq!(rig.ensure_topic("T", "TBW102", 4), 0);
    assert_eq!(rig.ensure_topic("U", "TBW102", 2), 0);
    rig.answer = progress(rig.topics()["T"].id);
    join(&mut rig, "U");
    // T was given up, of U there is no position yet.
    assert!(stats(&mut rig, &[]).queues.is_empty());
    assert!(stats(&mut rig, &[("topic", "T")]).queues.is_empty());
    let named = stats(&mut rig, &[("topic", "U")]);
    assert_eq!(named.queues.len(), 2);
    assert!(named.queues.values().all(|row| row.consumer_offset == 0));
    let listed = stats(&mut rig, &[("topicList", "T;none;"), ("topic", "U")]);
    assert_eq!(listed.queues.len(), 4, "whoever lists topics knows why");
    assert!(stats(&mut rig, &[("topic", "none")]).queues.is_empty());
    rig.stop();
}

#[test]
fn no_pull_is_behind_what_was_consumed_and_only_queues_that_are_read_count() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    assert_eq!(rig.ensure_topic("T", "TBW102", 4), 0);
    let fields = [
        ("topic", "T"),
        ("readQueueNums", "2"),
        ("writeQueueNums", "4"),
        ("perm", "6"),
    ];
    let narrow = request(code::UPDATE_AND_CREATE_TOPIC, &fields, "");
    assert_eq!(rig.ask(peer(1), narrow).code, 0);
    let known = progress(rig.topics()["T"].id);
    rig.answer = Box::new(move |question| {
        let mut answer = known(question);
        if let Answer::Offsets(rows) = &mut answer {
            // As after a restart.
            rows[0].pull_offset = QueueOffset(0);
        }
        answer
    });
    let queues = stats(&mut rig, &[]).queues;
    assert_eq!(queues.len(), 2);
    let row = queues
        .iter()
        .find(|(queue, _)| queue.queue_id == 1)
        .unwrap();
    assert_eq!((row.1.consumer_offset, row.1.pull_offset), (4, 4));
    rig.stop();
}

fn reset(more: &[(&str, &str)]) -> gantry_protocol::Command {
    let mut fields = vec![
        ("topic", "T"),
        ("group", "g"),
        ("timestamp", "-1"),
        ("isForce", "true"),
    ];
    fields.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
    fields.extend(more);
    request(code::INVOKE_BROKER_TO_RESET_OFFSET, &fields, "")
}

/// Every reset goes to 3.
fn at_3(question: &Question) -> Answer {
    let Question::FindOffsets(rows) = question else {
        return Answer::Done;
    };
    let rows = rows.iter().map(|(key, _)| (*key, QueueOffset(3)));
    Answer::FoundOffsets(Ok(rows.collect()))
}

/// How many queues the cores were told to move.
fn moved(rig: &Rig) -> usize {
    let rows = rig.seen.iter().map(|message| match message {
        ToData::Ask {
            question: Question::ResetOffsets(rows),
            ..
        } => rows.len(),
        _ => 0,
    });
    rows.sum()
}

#[test]
fn a_reset_that_is_not_to_be_had_everywhere_moves_no_queue() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    assert_eq!(rig.ensure_topic("T", "TBW102", 4), 0);
    join(&mut rig, "T");
    rig.answer = Box::new(|question| match question {
        Question::FindOffsets(_) => {
            Answer::FoundOffsets(Err(Refusal::new(response::SYSTEM_ERROR, "read failed")))
        }
        _ => Answer::Done,
    });
    let reply = rig.ask(peer(1), reset(&[("timestamp", "1234")]));
    assert_eq!(reply.code, response::SYSTEM_ERROR);
    assert_eq!(reply.remark.as_deref(), Some("read failed"));
    assert_eq!(moved(&rig), 0);
    rig.stop();
}

#[test]
fn a_reset_goes_to_the_queues_and_comes_back_with_their_offsets() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    assert_eq!(rig.ensure_topic("T", "TBW102", 4), 0);
    assert_eq!(
        rig.ask(peer(1), reset(&[])).code,
        response::SUBSCRIPTION_GROUP_NOT_EXIST
    );
    rig.tell(ToControl::EnsureGroup {
        core: 0,
        ticket: Ticket(1),
        group: "g".into(),
    });
    assert_eq!(rig.resolved(Ticket(1)), 0);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&asked);
    rig.answer = Box::new(move |question| {
        if let Question::FindOffsets(rows) = question {
            heard.lock().unwrap().push(rows.clone());
        }
        at_3(question)
    });
    let reply = rig.ask(peer(1), reset(&[]));
    let table = parse_queue_offsets(&reply.body, "offsetTable").unwrap();
    assert_eq!(table.len(), 4);
    assert!(table.values().all(|offset| *offset == 3));
    assert_eq!(moved(&rig), 4);
    assert_eq!(asked.lock().unwrap()[0][0].1, ResetTo::Max);

    let below = reset(&[("timestamp", "1234"), ("offset", "-2"), ("queueId", "1")]);
    let refused = rig.ask(peer(1), below);
    assert_eq!(refused.code, response::SYSTEM_ERROR);
    let remark = refused.remark.unwrap();
    assert_eq!(remark, "Target offset -2 not in consume queue range");
    assert_eq!(moved(&rig), 4, "nothing was moved");

    let seven = ("offset", "7");
    rig.ask(peer(1), reset(&[("timestamp", "1234"), seven]));
    assert_eq!(asked.lock().unwrap()[1][0].1, ResetTo::Timestamp(1234));
    rig.ask(peer(1), reset(&[("timestamp", "-2")]));
    assert_eq!(asked.lock().unwrap()[2][0].1, ResetTo::Max);
    rig.ask(peer(1), reset(&[("queueId", "2"), seven]));
    let last = asked.lock().unwrap()[3].clone();
    assert_eq!(last.len(), 1);
    assert_eq!(
        (last[0].0.queue, last[0].1),
        (QueueId(2), ResetTo::Offset(QueueOffset(7)))
    );
    assert_eq!(
        rig.ask(peer(1), reset(&[("queueId", "99")])).code,
        response::SYSTEM_ERROR
    );
    assert_eq!(
        rig.ask(peer(1), reset(&[("topic", "X")])).code,
        response::TOPIC_NOT_EXIST
    );
    rig.stop();
}

#[test]
fn without_server_side_reset_a_group_that_is_offline_is_206() {
    let folder = tempfile::tempdir().unwrap();
    let mut pushing = settings();
    pushing.use_server_side_reset_offset = false.into();
    let mut rig = Rig::start(folder.path(), pushing);
    assert_eq!(rig.ensure_topic("T", "TBW102", 4), 0);
    assert_eq!(
        rig.ask(peer(1), reset(&[])).code,
        response::CONSUMER_NOT_ONLINE
    );
    join(&mut rig, "T");
    rig.answer = Box::new(at_3);
    let reply = rig.ask(peer(1), reset(&[]));
    assert_eq!(reply.code, response::SYSTEM_ERROR, "no position to go from");
    let topic = rig.topics()["T"].id;
    rig.answer = Box::new(move |question| match question {
        Question::Offsets { .. } => Answer::Offsets((0..4).map(|n| at(topic, n, n)).collect()),
        _ => at_3(question),
    });
    // The queues stand at 0 to 3, and forward is by force only.
    for (force, expected) in [("true", [3, 3, 3, 3]), ("false", [0, 1, 2, 3])] {
        let reply = rig.ask(peer(1), reset(&[("isForce", force)]));
        assert_eq!(reply.code, 0);
        let pushed = rig.pushed(peer(5));
        let told = pushed.iter().rev();
        let mut told = told.filter(|told| told.code == code::RESET_CONSUMER_CLIENT_OFFSET);
        let told = told.next().unwrap();
        let fields = (told.ext("topic"), told.ext("group"));
        assert_eq!(fields, (Some("T"), Some("g")));
        let table = parse_queue_offsets(&told.body, "offsetTable").unwrap();
        let mut rows: Vec<_> = table.iter().map(|(q, at)| (q.queue_id, *at)).collect();
        rows.sort_unstable();
        let offsets: Vec<i64> = rows.iter().map(|(_, at)| *at).collect();
        assert_eq!(offsets, expected);
    }
    assert_eq!(moved(&rig), 0, "the members move themselves");
    rig.stop();
}

/// A name that no group can have would be stored with every later position, and fail them all.
#[test]
fn positions_are_not_copied_to_a_group_that_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    for name in ["a b".to_owned(), "g".repeat(5000)] {
        let fields = [("srcGroup", "g"), ("destGroup", name.as_str())];
        let reply = rig.ask(peer(1), request(code::CLONE_GROUP_OFFSET, &fields, ""));
        assert_eq!(reply.code, response::INVALID_PARAMETER);
    }
    rig.stop();
}
