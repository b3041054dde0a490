//! The topic requests of tools.

use gantry_protocol::body::{TopicConfig, TopicConfigWrapper, TopicList, TopicStats};
use gantry_protocol::code::request as code;
use gantry_protocol::code::response;
use gantry_protocol::command::Command;
use gantry_protocol::fastjson::{self, IntegerKeys, Value, to_bytes};
use gantry_storage::units::QueueOffset;

use super::rig::{Rig, peer, request, settings};
use crate::seam::{Answer, CatalogChange, Question, QueueReport, ToData};

fn update(topic: &str, more: &[(&str, &str)]) -> Command {
    let usual = [
        ("topic", topic),
        ("defaultTopic", "TBW102"),
        ("readQueueNums", "4"),
        ("writeQueueNums", "4"),
        ("perm", "6"),
        ("topicFilterType", "SINGLE_TAG"),
        ("order", "false"),
    ];
    let kept = usual
        .iter()
        .filter(|(name, _)| !more.iter().any(|(other, _)| other == name));
    let fields: Vec<_> = kept.chain(more).copied().collect();
    request(code::UPDATE_AND_CREATE_TOPIC, &fields, "")
}

#[test]
fn a_topic_is_made_changed_and_deleted_by_request() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    assert_eq!(rig.ask(peer(1), update("T", &[])).code, 0);
    let first = rig.topics()["T"].clone();
    let more = [
        ("writeQueueNums", "8"),
        ("attributes", "+message.type=FIFO"),
    ];
    assert_eq!(rig.ask(peer(1), update("T", &more)).code, 0);
    let second = rig.topics()["T"].clone();
    assert_eq!((second.id, second.config.write_queue_nums), (first.id, 8));
    let reply = rig.ask(
        peer(1),
        request(code::GET_TOPIC_CONFIG, &[("topic", "T")], ""),
    );
    let config = TopicConfig::from_value(&fastjson::parse(&reply.body).unwrap());
    assert_eq!(config, second.config);

    let delete = || request(code::DELETE_TOPIC_IN_BROKER, &[("topic", "T")], "");
    assert_eq!(rig.ask(peer(1), delete()).code, 0);
    assert!(!rig.topics().contains_key("T"));
    let is_drop = |m: &ToData| match m {
        ToData::Ask {
            question: Question::DropTopic(id),
            ..
        } => *id == first.id,
        _ => false,
    };
    if !rig.seen.iter().any(is_drop) {
        rig.until(is_drop);
    }
    assert_eq!(rig.ask(peer(1), delete()).code, 0, "scripts repeat it");
    assert_eq!(rig.ask(peer(1), update("T", &[])).code, 0);
    assert_ne!(
        rig.topics()["T"].id,
        first.id,
        "made again, it starts empty"
    );
    let reply = rig.ask(
        peer(1),
        request(code::GET_TOPIC_CONFIG, &[("topic", "none")], ""),
    );
    assert_eq!(reply.code, response::TOPIC_NOT_EXIST);
    rig.stop();
}

#[test]
fn bad_names_system_topics_and_numbers_are_29_and_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    let refused = [
        update("", &[]),
        update("a b", &[]),
        update("TBW102", &[]),
        update("rmq_sys_x", &[]),
        update("T", &[("perm", "9")]),
        update("T", &[("readQueueNums", "-1")]),
        request(
            code::DELETE_TOPIC_IN_BROKER,
            &[("topic", "SCHEDULE_TOPIC_XXXX")],
            "",
        ),
    ];
    for command in refused {
        let reply = rig.ask(peer(1), command.clone());
        assert_eq!(
            reply.code,
            response::INVALID_PARAMETER,
            "{command:?} {:?}",
            reply.remark
        );
    }
    let reply = rig.ask(peer(1), update("T", &[("attributes", "+queue.type=Round")]));
    assert_eq!(reply.code, response::SYSTEM_ERROR);
    let reply = rig.ask(peer(1), update("T", &[("perm", "x")]));
    assert_eq!(reply.code, response::SYSTEM_ERROR);
    assert!(reply.remark.unwrap().contains("<perm>"));
    assert!(!rig.topics().contains_key("T"));
    rig.stop();
}

fn list(topics: impl Iterator<Item = TopicConfig>) -> Command {
    let topics = topics.map(|topic| topic.to_value());
    let body = Value::object([("topicConfigList", Value::List(topics.collect()))]);
    let body = to_bytes(&body, IntegerKeys::Quoted);
    request(code::UPDATE_AND_CREATE_TOPIC_LIST, &[], body)
}

#[test]
fn a_list_names_the_attributes_it_changes_and_the_others_stay() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    let wish = |queues, attributes: &[(&str, &str)]| {
        let mut config = TopicConfig::new("T", queues);
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        config.attributes = attributes.iter().map(owned).collect();
        list([config].into_iter())
    };
    let made = rig.ask(peer(1), wish(4, &[("+reserve.time", "24")]));
    assert_eq!(made.code, 0);
    assert_eq!(rig.ask(peer(1), wish(8, &[])).code, 0);
    let config = rig.topics()["T"].config.clone();
    assert_eq!(config.write_queue_nums, 8);
    assert_eq!(config.attributes["reserve.time"], "24");
    let refused = rig.ask(peer(1), wish(2, &[("reserve.time", "1")]));
    assert_eq!(refused.code, response::SYSTEM_ERROR);
    assert_eq!(rig.topics()["T"].config, config);
    assert_eq!(rig.ask(peer(1), wish(8, &[("-reserve.time", "")])).code, 0);
    assert!(rig.topics()["T"].config.attributes.is_empty());
    rig.stop();
}

#[test]
fn mixed_messages_need_their_switch() {
    let mixed = |topic| update(topic, &[("attributes", "+message.type=MIXED")]);
    let kinds = [(false, response::INVALID_PARAMETER), (true, 0)];
    for (is_enabled, code) in kinds {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings();
        settings.enable_mixed_message_type = is_enabled;
        let mut rig = Rig::start(folder.path(), settings);
        assert_eq!(rig.ask(peer(1), mixed("T")).code, code);
        assert_eq!(rig.topics().contains_key("T"), is_enabled);
        let priority = update("U", &[("attributes", "+message.type=PRIORITY")]);
        assert_eq!(rig.ask(peer(1), priority).code, 0);
        rig.stop();
    }
}

#[test]
fn a_list_of_topics_is_made_in_one_commit_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    let list = |names: &[&str]| list(names.iter().map(|name| TopicConfig::new(*name, 4)));
    assert_eq!(
        rig.ask(peer(1), list(&["A", "no way"])).code,
        response::INVALID_PARAMETER
    );
    assert!(!rig.topics().contains_key("A"));
    assert_eq!(rig.ask(peer(1), list(&["A", "B"])).code, 0);
    assert!(rig.topics().contains_key("B"));
    rig.stop();
}

#[test]
fn the_table_is_given_whole_or_by_pages() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    let whole = rig.ask(peer(1), request(code::GET_ALL_TOPIC_CONFIG, &[], ""));
    let table = TopicConfigWrapper::parse(&whole.body).unwrap();
    assert_eq!(table.topics["TBW102"].perm, 7);
    let total = table.topics.len();
    assert_eq!(whole.ext("totalTopicNum"), Some(total.to_string().as_str()));
    let mut seen = std::collections::BTreeSet::new();
    for from in (0..total).step_by(3) {
        let from = from.to_string();
        let page = [("topicSeq", from.as_str()), ("maxTopicNum", "3")];
        let some = rig.ask(peer(1), request(code::GET_ALL_TOPIC_CONFIG, &page, ""));
        seen.extend(
            TopicConfigWrapper::parse(&some.body)
                .unwrap()
                .topics
                .into_keys(),
        );
    }
    assert_eq!(seen.len(), total);
    let system = rig.ask(
        peer(1),
        request(code::GET_SYSTEM_TOPIC_LIST_FROM_BROKER, &[], ""),
    );
    let names = TopicList::parse(&system.body).unwrap().topics;
    assert!(names.contains(&"TBW102".to_owned()) && names.contains(&"b0".to_owned()));
    rig.stop();
}

#[test]
fn trap_22_stats_name_every_queue_by_a_raw_object() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    assert_eq!(rig.ask(peer(1), update("T", &[])).code, 0);
    rig.answer = Box::new(|question| match question {
        Question::Bounds(keys) => Answer::Bounds(
            keys.iter()
                .map(|key| QueueReport {
                    queue: *key,
                    min: QueueOffset(1),
                    max: QueueOffset(10 + u64::from(key.queue.0)),
                    last_update_ms: 5,
                })
                .collect(),
        ),
        _ => Answer::Done,
    });
    let ask = |topic| request(code::GET_TOPIC_STATS_INFO, &[("topic", topic)], "");
    let reply = rig.ask(peer(1), ask("T"));
    assert!(
        reply
            .body
            .starts_with(b"{\"offsetTable\":{{\"brokerName\":\"b0\""),
        "{reply:?}"
    );
    let stats = TopicStats::parse(&reply.body).unwrap();
    assert_eq!(stats.queues.len(), 4);
    assert_eq!(stats.queues.values().map(|s| s.max_offset).max(), Some(13));
    assert_eq!(
        rig.ask(peer(1), ask("none")).code,
        response::TOPIC_NOT_EXIST
    );
    rig.stop();
}

#[test]
fn one_way_requests_are_carried_out_and_not_answered() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    rig.tell(crate::seam::ToControl::Request(
        crate::seam::ControlRequest {
            peer: peer(3),
            peer_addr: "127.0.0.1:1".parse().unwrap(),
            command: update("T", &[]).one_way(),
            held: None,
        },
    ));
    rig.until(|m| matches!(m, ToData::Catalog(CatalogChange::TopicPut(e)) if e.config.name == "T"));
    assert_eq!(rig.ask(peer(1), update("U", &[])).code, 0);
    let to_peer_3 = |m: &&ToData| matches!(m, ToData::Write { peer: to, .. } if *to == peer(3));
    assert_eq!(rig.seen.iter().filter(to_peer_3).count(), 0, "trap 5");
    rig.stop();
}

#[test]
fn a_topic_deleted_and_made_again_in_one_burst_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    assert_eq!(rig.ask(peer(1), update("T", &[])).code, 0);
    let first = rig.topics()["T"].id;
    for command in [
        request(code::DELETE_TOPIC_IN_BROKER, &[("topic", "T")], "").one_way(),
        update("T", &[]).one_way(),
    ] {
        rig.tell(crate::seam::ToControl::Request(
            crate::seam::ControlRequest {
                peer: peer(3),
                peer_addr: "127.0.0.1:1".parse().unwrap(),
                command,
                held: None,
            },
        ));
    }
    assert_eq!(rig.ask(peer(1), update("U", &[])).code, 0);
    assert_ne!(rig.topics()["T"].id, first);
    rig.stop();
    let mut rig = Rig::start(folder.path(), settings());
    assert_eq!(rig.ensure_topic("T", "TBW102", 4), 0);
    assert_ne!(rig.topics()["T"].id, first);
    rig.stop();
}

/// A deletion that isn't stored may be taken back: 316 leaves its queues alone until it is.
#[test]
fn a_topic_on_its_way_out_is_no_unknown_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    let mut is_known = false;
    for n in 0..20 {
        let topic = format!("T{n}");
        assert_eq!(rig.ensure_topic(&topic, "TBW102", 4), 0);
        let id = rig.topics()[&topic].id;
        rig.seen.clear();
        // While the first change is stored the others arrive, and are one batch.
        let name = [("topic", topic.as_str())];
        for command in [
            update(&format!("another-{n}"), &[]),
            request(code::DELETE_TOPIC_IN_BROKER, &name, ""),
            request(code::CLEAN_UNUSED_TOPIC, &[], ""),
        ] {
            rig.request(peer(1), command);
        }
        let asked = rig.until(|word| {
            let is_drop =
                |question: &Question| matches!(question, Question::DropUnknownTopics { .. });
            matches!(word, ToData::Ask { question, .. } if is_drop(question))
        });
        let ToData::Ask {
            question: Question::DropUnknownTopics { known, .. },
            ..
        } = asked
        else {
            unreachable!()
        };
        is_known |= known.contains(&id);
    }
    // Where the deletion was stored before the request came it may well be unknown.
    assert!(is_known);
    rig.stop();
}

#[test]
fn a_topic_of_dead_letters_is_made_for_a_core_and_for_no_send_of_a_client() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings();
    settings.auto_create_topic_enable = false.into();
    let mut rig = Rig::start(folder.path(), settings);
    // What a send says that names no default topic.
    assert_eq!(rig.ensure_topic("%DLQ%g", "", 4), 17);
    assert_eq!(rig.ensure_topic("%DLQ%g", "TBW102", 4), 17);
    assert_eq!(rig.ensure_topic_from("%DLQ%g", None, 1), 0);
    rig.stop();
}
