//! What a change of a group may say, and what is kept of it.

use gantry_protocol::body::{SubscriptionGroupConfig, SubscriptionGroupWrapper};
use gantry_protocol::code::request as code;
use gantry_protocol::code::response;
use gantry_protocol::command::Command;
use gantry_protocol::fastjson::{self, IntegerKeys, Value, to_bytes};

use super::rig::{Rig, peer, request, settings};

fn change(config: &SubscriptionGroupConfig) -> Command {
    let body = to_bytes(&config.to_value(), IntegerKeys::Quoted);
    request(code::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &[], body)
}

fn change_all(configs: &[SubscriptionGroupConfig]) -> Command {
    let configs = configs.iter().map(SubscriptionGroupConfig::to_value);
    let body = Value::object([("groupConfigList", Value::List(configs.collect()))]);
    let body = to_bytes(&body, IntegerKeys::Quoted);
    request(code::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST, &[], body)
}

fn with_queues(group: &str, retry_queue_nums: i32) -> SubscriptionGroupConfig {
    SubscriptionGroupConfig {
        retry_queue_nums,
        ..SubscriptionGroupConfig::new(group)
    }
}

/// The body of 352.
fn shown(rig: &mut Rig, group: &str) -> Value {
    let ask = request(code::GET_SUBSCRIPTIONGROUP_CONFIG, &[("group", group)], "");
    fastjson::parse(&rig.ask(peer(1), ask).body).unwrap()
}

fn names(rig: &mut Rig) -> Vec<String> {
    let ask = request(code::GET_ALL_SUBSCRIPTIONGROUP_CONFIG, &[], "");
    let body = rig.ask(peer(1), ask).body;
    let table = SubscriptionGroupWrapper::parse(&body).unwrap();
    table.groups.into_keys().collect()
}

#[test]
fn a_retry_topic_has_no_more_queues_than_a_topic_may() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    assert_eq!(rig.ask(peer(1), change(&with_queues("g", 3))).code, 0);
    let before = shown(&mut rig, "g");
    for queues in [65_536, -1, i32::MAX] {
        let bad = with_queues("g", queues);
        let alone = rig.ask(peer(1), change(&bad));
        assert_eq!(alone.code, response::INVALID_PARAMETER, "{queues}");
        let remark = alone.remark.unwrap();
        assert!(
            remark.contains(&format!("retryQueueNums {queues}")),
            "{remark}"
        );
        let listed = rig.ask(peer(1), change_all(&[with_queues("h", 1), bad]));
        assert_eq!(listed.code, response::INVALID_PARAMETER, "{queues}");
        assert_eq!(shown(&mut rig, "g"), before);
        assert!(!names(&mut rig).contains(&"h".to_owned()));
    }
    for queues in [0, 65_535] {
        assert_eq!(rig.ask(peer(1), change(&with_queues("g", queues))).code, 0);
    }
    rig.stop();
}

#[test]
fn what_a_tool_notes_of_subscriptions_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    let noted = br#"[{"expression":"*","expressionType":"TAG","topic":"T","version":1}]"#;
    let mut config = SubscriptionGroupConfig::new("g");
    config.subscription_data_set = fastjson::parse(noted).unwrap();
    assert_eq!(rig.ask(peer(1), change(&config)).code, 0);
    rig.stop();
    let mut rig = Rig::start(folder.path(), settings());
    let kept = shown(&mut rig, "g");
    let kept = kept.get("subscriptionDataSet").cloned();
    assert_eq!(kept, Some(config.subscription_data_set));
    rig.stop();
}

#[test]
fn a_topic_is_readable_again_however_true_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    let mut readable = |word: &str| {
        let fields = [("group", "g"), ("topic", "T"), ("readable", word)];
        let ask = request(code::UPDATE_AND_GET_GROUP_FORBIDDEN, &fields, "");
        let reply = rig.ask(peer(1), ask);
        assert_eq!(reply.code, 0);
        let body = fastjson::parse(&reply.body).unwrap();
        body.get("readable").cloned()
    };
    for word in ["true", "True", "TRUE"] {
        assert_eq!(readable("false"), Some(Value::Bool(false)));
        assert_eq!(readable(word), Some(Value::Bool(true)), "{word}");
    }
    rig.stop();
}
