//! Heartbeats, membership and what the group requests answer.

use gantry_protocol::body::{
    ConsumeFromWhere, ConsumeType, ConsumerConnection, ConsumerData, HeartbeatData, MessageModel,
    SubscriptionData, SubscriptionGroupConfig, SubscriptionGroupWrapper, parse_consumer_id_list,
};
use gantry_protocol::code::request as code;
use gantry_protocol::code::response;
use gantry_protocol::command::Command;
use gantry_protocol::fastjson::{IntegerKeys, Value, to_bytes};
use gantry_runtime::net::PeerRef;
use gantry_storage::units::{QueueKey, QueueOffset};

use super::rig::{Rig, frame_of, peer, request, settings};
use crate::seam::{CatalogChange, OffsetChange, Ticket, ToControl, ToData};

fn json(value: &Value) -> bytes::Bytes {
    to_bytes(value, IntegerKeys::Quoted)
}

fn beat(client: &str, group: &str, topics: &[&str]) -> HeartbeatData {
    HeartbeatData {
        client_id: client.into(),
        producer_groups: vec!["pg".into()],
        consumers: vec![ConsumerData {
            group: group.into(),
            consume_type: ConsumeType::Passively,
            message_model: MessageModel::Clustering,
            consume_from: ConsumeFromWhere::LastOffset,
            subscriptions: topics
                .iter()
                .map(|t| SubscriptionData::tag(*t, "*", 1))
                .collect(),
            unit_mode: false,
        }],
        fingerprint: 0,
        without_subscriptions: false,
    }
}

fn heartbeat(rig: &mut Rig, from: PeerRef, data: &HeartbeatData) -> Command {
    let reply = rig.ask(from, request(code::HEART_BEAT, &[], json(&data.to_value())));
    assert_eq!(reply.code, 0, "{reply:?}");
    reply
}

fn is_notified(rig: &Rig, who: PeerRef) -> usize {
    let pushed = rig.pushed(who);
    let told = |c: &&Command| c.code == code::NOTIFY_CONSUMER_IDS_CHANGED && c.is_oneway();
    pushed.iter().filter(told).count()
}

#[test]
fn trap_62_the_subscriptions_reach_the_cores_before_the_reply_the_client() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    let reply = heartbeat(&mut rig, peer(1), &beat("c1", "g", &["T"]));
    assert_eq!(reply.ext("IS_SUPPORT_HEART_BEAT_V2"), Some("true"));
    assert_eq!(reply.version, 513, "trap 14");
    let knows_t = |m: &ToData| match m {
        ToData::Catalog(CatalogChange::GroupPut(entry)) if &*entry.name == "g" => entry
            .live
            .as_ref()
            .is_some_and(|live| live.subscriptions.contains_key("T")),
        _ => false,
    };
    let live_at = rig.seen.iter().position(knows_t);
    let reply_at = rig
        .seen
        .iter()
        .rposition(|m| frame_of(m).is_some_and(|c| c.is_reply()));
    assert!(live_at.unwrap() < reply_at.unwrap());
    rig.stop();
}

#[test]
fn a_pull_consumer_is_passed_over_where_it_is_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let mut rejecting = settings();
    rejecting.reject_pull_consumer_enable = true;
    let mut rig = Rig::start(folder.path(), rejecting);
    let mut data = beat("c1", "puller", &["T"]);
    data.consumers[0].consume_type = ConsumeType::Actively;
    data.consumers.extend(beat("c1", "g", &["T"]).consumers);
    heartbeat(&mut rig, peer(1), &data);
    assert!(rig.group("puller").is_none());
    assert!(rig.group("g").unwrap().live.is_some());
    rig.stop();
}

#[test]
fn trap_28_the_retry_topic_is_made_by_the_first_heartbeat() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    heartbeat(&mut rig, peer(1), &beat("c1", "g", &["T"]));
    rig.until(
        |m| matches!(m, ToData::Catalog(CatalogChange::TopicPut(e)) if e.config.name == "%RETRY%g"),
    );
    let config = rig.topics()["%RETRY%g"].config.clone();
    assert_eq!((config.write_queue_nums, config.perm), (1, 6));
    rig.stop();
}

#[test]
fn traps_70_71_76_members_are_told_of_joining_leaving_and_closing() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    heartbeat(&mut rig, peer(1), &beat("c1", "g", &["T"]));
    assert_eq!(is_notified(&rig, peer(1)), 1, "the new member itself");
    heartbeat(&mut rig, peer(2), &beat("c2", "g", &["T"]));
    assert_eq!(
        (is_notified(&rig, peer(1)), is_notified(&rig, peer(2))),
        (2, 1)
    );
    heartbeat(&mut rig, peer(2), &beat("c2", "g", &["T"]));
    assert_eq!(is_notified(&rig, peer(1)), 2, "nothing changed");
    let ids = |rig: &mut Rig| {
        let ask = request(
            code::GET_CONSUMER_LIST_BY_GROUP,
            &[("consumerGroup", "g")],
            "",
        );
        let reply = rig.ask(peer(9), ask);
        if reply.code == 0 {
            parse_consumer_id_list(&reply.body).unwrap()
        } else {
            Vec::new()
        }
    };
    assert_eq!(ids(&mut rig), ["c1", "c2"]);

    rig.tell(ToControl::PeerClosed(peer(2)));
    assert_eq!(ids(&mut rig), ["c1"]);
    assert_eq!(is_notified(&rig, peer(1)), 3);

    let bye = [
        ("clientID", "c1"),
        ("consumerGroup", "g"),
        ("producerGroup", "pg"),
    ];
    assert_eq!(
        rig.ask(peer(1), request(code::UNREGISTER_CLIENT, &bye, ""))
            .code,
        0
    );
    assert!(
        rig.group("g").unwrap().live.is_none(),
        "nobody is left: pulls get 24"
    );
    let ask = request(
        code::GET_CONSUMER_LIST_BY_GROUP,
        &[("consumerGroup", "g")],
        "",
    );
    let reply = rig.ask(peer(9), ask);
    assert_eq!(
        reply.code,
        response::SYSTEM_ERROR,
        "trap 31: never an empty list"
    );
    assert!(
        reply
            .remark
            .unwrap()
            .starts_with("no consumer for this group")
    );
    rig.stop();
}

#[test]
fn members_outlive_a_panic_of_their_actor() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    heartbeat(&mut rig, peer(1), &beat("c1", "g", &["T"]));
    rig.tell(ToControl::Request(crate::seam::ControlRequest {
        peer: peer(1),
        peer_addr: "127.0.0.1:1".parse().unwrap(),
        command: request(
            crate::control::desk::INJECT_PANIC,
            &[("part", "groups")],
            "",
        ),
        held: None,
    }));
    let ask = request(
        code::GET_CONSUMER_LIST_BY_GROUP,
        &[("consumerGroup", "g")],
        "",
    );
    let reply = rig.ask(peer(9), ask);
    assert_eq!(parse_consumer_id_list(&reply.body).unwrap(), ["c1"]);
    rig.stop();
}

#[test]
fn a_group_that_may_not_be_made_is_skipped_and_the_reply_is_still_0() {
    let folder = tempfile::tempdir().unwrap();
    let mut strict = settings();
    strict.auto_create_subscription_group = false.into();
    let mut rig = Rig::start(folder.path(), strict);
    heartbeat(&mut rig, peer(1), &beat("c1", "g", &["T"]));
    assert!(rig.group("g").is_none());
    assert_eq!(is_notified(&rig, peer(1)), 0);
    rig.stop();
}

#[test]
fn who_is_connected_is_shown_and_a_group_that_is_not_is_206() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    heartbeat(&mut rig, peer(1), &beat("c1", "g", &["T"]));
    let ask = |group| {
        request(
            code::GET_CONSUMER_CONNECTION_LIST,
            &[("consumerGroup", group)],
            "",
        )
    };
    let reply = rig.ask(peer(9), ask("g"));
    let shown = ConsumerConnection::parse(&reply.body).unwrap();
    assert_eq!(shown.connections[0].client_id, "c1");
    assert!(shown.subscriptions.contains_key("T"));
    assert_eq!(
        rig.ask(peer(9), ask("none")).code,
        response::CONSUMER_NOT_ONLINE
    );
    let producers = |group| {
        request(
            code::GET_PRODUCER_CONNECTION_LIST,
            &[("producerGroup", group)],
            "",
        )
    };
    assert_eq!(rig.ask(peer(9), producers("pg")).code, 0);
    assert_eq!(
        rig.ask(peer(9), producers("none")).code,
        response::SYSTEM_ERROR
    );
    let all = rig.ask(peer(9), request(code::GET_ALL_PRODUCER_INFO, &[], ""));
    assert!(String::from_utf8_lossy(&all.body).contains("\"pg\":[{\"clientId\":\"c1\""));
    rig.stop();
}

#[test]
fn a_group_keeps_the_attributes_that_a_change_does_not_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    let wish = |retries, attributes: &[(&str, &str)]| {
        let mut config = SubscriptionGroupConfig::new("g");
        config.retry_max_times = retries;
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        config.attributes = attributes.iter().map(owned).collect();
        config.to_value()
    };
    let one = |body: Value| {
        let code = code::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP;
        request(code, &[], json(&body))
    };
    let many = |all: Vec<Value>| {
        let code = code::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST;
        let body = Value::object([("groupConfigList", Value::List(all))]);
        request(code, &[], json(&body))
    };
    let factor = one(wish(1, &[("+priority.factor", "7")]));
    assert_eq!(rig.ask(peer(1), factor).code, 0);
    assert_eq!(rig.ask(peer(1), one(wish(2, &[]))).code, 0);
    assert_eq!(rig.ask(peer(1), many(vec![wish(3, &[])])).code, 0);
    let kept = rig.group("g").unwrap().config.clone();
    assert_eq!(kept.retry_max_times, 3);
    assert_eq!(kept.attributes["priority.factor"], "7");
    let refused = [("+reserve.time", "1"), ("priority.factor", "1")];
    for attribute in refused {
        let reply = rig.ask(peer(1), many(vec![wish(4, &[]), wish(5, &[attribute])]));
        assert_eq!(reply.code, response::SYSTEM_ERROR, "{attribute:?}");
        assert_eq!(rig.group("g").unwrap().config, kept);
    }
    rig.stop();
}

#[test]
fn groups_are_changed_listed_and_deleted_and_that_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    let mut config = SubscriptionGroupConfig::new("g");
    config.retry_max_times = 3;
    let put = request(
        code::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP,
        &[],
        json(&config.to_value()),
    );
    assert_eq!(rig.ask(peer(1), put).code, 0);
    assert_eq!(rig.group("g").unwrap().config.retry_max_times, 3);
    rig.stop();

    let mut rig = Rig::start(folder.path(), settings());
    let all = rig.ask(
        peer(1),
        request(code::GET_ALL_SUBSCRIPTIONGROUP_CONFIG, &[], ""),
    );
    let table = SubscriptionGroupWrapper::parse(&all.body).unwrap();
    assert_eq!(table.groups["g"].retry_max_times, 3);
    assert_eq!(
        all.ext("totalGroupNum"),
        Some(table.groups.len().to_string().as_str())
    );
    let page = [("groupSeq", "1"), ("maxGroupNum", "2")];
    let some = rig.ask(
        peer(1),
        request(code::GET_ALL_SUBSCRIPTIONGROUP_CONFIG, &page, ""),
    );
    assert_eq!(
        SubscriptionGroupWrapper::parse(&some.body)
            .unwrap()
            .groups
            .len(),
        2
    );

    let gone = [("groupName", "g"), ("cleanOffset", "true")];
    assert_eq!(
        rig.ask(peer(1), request(code::DELETE_SUBSCRIPTIONGROUP, &gone, ""))
            .code,
        0
    );
    assert_eq!(words_of_g(&rig, &["put"]), ["gone", "forget"]);
    rig.stop();
}

/// What the cores were told of group `g`, in order, without some.
fn words_of_g(rig: &Rig, without: &[&str]) -> Vec<&'static str> {
    let words = rig.seen.iter().filter_map(|word| match word {
        ToData::Catalog(CatalogChange::GroupPut(entry)) if &*entry.name == "g" => Some("put"),
        ToData::Catalog(CatalogChange::GroupGone(name)) if &**name == "g" => Some("gone"),
        ToData::ForgetGroup(name) if &**name == "g" => Some("forget"),
        _ => None,
    });
    words.filter(|word| !without.contains(word)).collect()
}

/// Positions go with their group, in one commit; what the group commits when it was made again is
/// no business of that deletion.
#[test]
fn forgotten_positions_are_gone_and_those_of_a_group_made_again_stay() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    let put = || {
        let config = SubscriptionGroupConfig::new("g").to_value();
        let code = code::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP;
        request(code, &[], json(&config))
    };
    let change = |queue, offset: Option<u64>| OffsetChange {
        queue: QueueKey::new(1, queue),
        group: "g".into(),
        offset: offset.map(QueueOffset),
    };
    assert_eq!(rig.ask(peer(1), put()).code, 0);
    let rows = vec![change(0, Some(5)), change(1, Some(6))];
    rig.tell(ToControl::OffsetsChanged(rows));
    rig.stop();

    let mut rig = Rig::start(folder.path(), settings());
    let gone = [("groupName", "g"), ("cleanOffset", "true")];
    let gone = request(code::DELETE_SUBSCRIPTIONGROUP, &gone, "");
    assert_eq!(rig.ask(peer(1), gone).code, 0);
    assert_eq!(rig.ask(peer(1), put()).code, 0);
    assert_eq!(words_of_g(&rig, &[]), ["put", "gone", "forget", "put"]);
    // Queue 0: on its way before the core heard, then forgotten. Queue 1 went with the group. Queue
    // 2: committed since.
    let rows = [(0, Some(6)), (0, None), (2, None), (2, Some(1))];
    let rows = rows.map(|(queue, offset)| change(queue, offset));
    rig.tell(ToControl::OffsetsChanged(rows.to_vec()));
    rig.stop();

    let mut rig = Rig::start(folder.path(), settings());
    let is_told = |m: &ToData| matches!(m, ToData::OffsetsLoaded(_));
    let ToData::OffsetsLoaded(rows) = rig.until(is_told) else {
        unreachable!()
    };
    let rows: Vec<_> = rows.iter().map(|row| (row.queue, row.offset)).collect();
    assert_eq!(rows, [(QueueKey::new(1, 2), QueueOffset(1))]);
    rig.stop();
}

/// Whether the last word on group `g` is that it exists.
fn last_word(rig: &Rig) -> Option<bool> {
    rig.seen.iter().rev().find_map(|word| match word {
        ToData::Catalog(CatalogChange::GroupPut(entry)) if &*entry.name == "g" => Some(true),
        ToData::Catalog(CatalogChange::GroupGone(name)) if &**name == "g" => Some(false),
        _ => None,
    })
}

/// A core that asks for a group hears of it, also when the control plane has it already.
#[test]
fn a_core_that_does_not_know_a_group_is_told_before_its_pull_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    for n in 1..=2 {
        rig.seen.clear();
        rig.tell(ToControl::EnsureGroup {
            core: 0,
            ticket: Ticket(n),
            group: "g".into(),
        });
        assert_eq!(rig.resolved(Ticket(n)), 0);
        assert_eq!(last_word(&rig), Some(true), "time {n}");
    }
    rig.stop();
}

/// A group deleted and made again before the deletion is stored stays known to the cores.
#[test]
fn the_last_word_on_a_group_made_again_is_that_it_exists() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    let put = || {
        let config = SubscriptionGroupConfig::new("g").to_value();
        request(
            code::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP,
            &[],
            json(&config),
        )
    };
    let beat = || {
        let beat = beat("c1", "g", &["T"]).to_value();
        request(code::HEART_BEAT, &[], json(&beat))
    };
    let delete = |group| {
        let name = [("groupName", group)];
        request(code::DELETE_SUBSCRIPTIONGROUP, &name, "")
    };
    for make_again in [beat(), put()] {
        assert_eq!(rig.ask(peer(1), put()).code, 0);
        // While the first deletion is stored the others arrive, and are one batch.
        for command in [delete("g"), make_again].iter().cycle().take(20) {
            rig.request(peer(1), command.clone());
        }
        let stored_after_them = delete("another");
        assert_eq!(rig.ask(peer(1), stored_after_them).code, 0);
        assert_eq!(last_word(&rig), Some(true));
    }
    rig.stop();
}

#[test]
fn trap_66_check_client_config_says_what_is_no_expression() {
    let folder = tempfile::tempdir().unwrap();
    let check = |kind: &str, expression: &str| {
        let mut data = SubscriptionData::tag("T", expression, 1);
        data.expression_type = kind.into();
        let body = Value::object([
            ("clientId", "c".into()),
            ("group", "g".into()),
            ("subscriptionData", data.to_value()),
        ]);
        request(code::CHECK_CLIENT_CONFIG, &[], json(&body))
    };
    let mut rig = Rig::start(folder.path(), settings());
    assert_eq!(rig.ask(peer(1), check("TAG", "a > 1")).code, 0);
    let off = rig.ask(peer(1), check("SQL92", "a > 1"));
    assert_eq!(off.code, response::SYSTEM_ERROR);
    rig.stop();
    let mut with_filter = settings();
    with_filter.enable_property_filter = true.into();
    let mut rig = Rig::start(folder.path(), with_filter);
    assert_eq!(rig.ask(peer(1), check("SQL92", "a > 1")).code, 0);
    for (kind, expression) in [("SQL92", "a > > 1"), ("SQL92", ""), ("OTHER", "a > 1")] {
        let refused = rig.ask(peer(1), check(kind, expression));
        assert_eq!(refused.code, response::SUBSCRIPTION_PARSE_FAILED);
        assert!(refused.remark.is_some_and(|why| !why.is_empty()));
    }
    rig.stop();
}

/// Trap 89: the cores know where replies go before the heartbeat is answered, and forget it when
/// the client leaves.
#[test]
fn trap_89_the_cores_hear_who_may_be_pushed_to() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    let heard = |rig: &Rig| -> Vec<(String, Option<PeerRef>)> {
        let words = rig.seen.iter().filter_map(|word| match word {
            ToData::Catalog(CatalogChange::Requester(change)) => {
                Some((change.id.to_string(), change.peer))
            }
            _ => None,
        });
        words.collect()
    };
    heartbeat(&mut rig, peer(1), &beat("c1", "g", &["T"]));
    assert_eq!(heard(&rig), [("c1".to_owned(), Some(peer(1)))]);
    rig.tell(ToControl::PeerClosed(peer(1)));
    rig.until(|word| match word {
        ToData::Catalog(CatalogChange::Requester(change)) => change.peer.is_none(),
        _ => false,
    });
    assert_eq!(heard(&rig).last().unwrap(), &("c1".to_owned(), None));
    rig.stop();
}

/// What can't be stored would take everybody's changes back with it.
#[test]
fn names_that_cannot_be_are_refused_at_the_door() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    let long = "x".repeat(5000);
    for (group, topic) in [(long.as_str(), "T"), ("g", long.as_str()), ("a b", "T")] {
        let fields = [("group", group), ("topic", topic), ("readable", "false")];
        let forbid = request(code::UPDATE_AND_GET_GROUP_FORBIDDEN, &fields, "");
        assert_eq!(
            rig.ask(peer(1), forbid).code,
            response::INVALID_PARAMETER,
            "{group:.9} {topic:.9}"
        );
    }
    let mut whole = beat("c1", "g", &["T"]);
    whole.client_id = "c".repeat(1025);
    let beat = request(code::HEART_BEAT, &[], json(&whole.to_value()));
    let refused = rig.ask(peer(1), beat);
    assert_eq!(refused.code, response::INVALID_PARAMETER);
    let remark = refused.remark.unwrap();
    assert!(remark.contains("1025 bytes, 1024 are allowed"), "{remark}");
    rig.stop();
}

#[test]
fn subscriptions_without_a_version_are_as_of_now() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    for expression in ["A", "B"] {
        let mut data = beat("c1", "g", &["T"]);
        data.consumers[0].subscriptions = vec![SubscriptionData::tag("T", expression, 0)];
        heartbeat(&mut rig, peer(1), &data);
        let live = rig.group("g").unwrap().live.clone().unwrap();
        assert_eq!(live.subscriptions["T"].sub_string, expression);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    rig.stop();
}
