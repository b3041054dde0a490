use gantry_protocol::body::{ConsumeFromWhere, ConsumeType, MessageModel, SubscriptionData};

use super::*;

fn peer(slot: u32) -> PeerRef {
    PeerRef {
        core: 0,
        slot,
        generation: 1,
    }
}

fn client(id: &str, at_ms: u64) -> Client {
    Client {
        id: Arc::from(id),
        addr: "127.0.0.1:5000".parse().unwrap(),
        language: gantry_protocol::Language::Java,
        version: 513,
        last_update_ms: i64::try_from(at_ms).unwrap(),
        heard: MonoMs(at_ms),
    }
}

fn subscription(topic: &str, version: i64) -> SubscriptionData {
    SubscriptionData::tag(topic, "*", version)
}

fn beat(group: &str, topics: &[(&str, i64)]) -> ConsumerBeat {
    ConsumerBeat {
        group: Arc::from(group),
        consume_type: ConsumeType::Passively,
        message_model: MessageModel::Clustering,
        consume_from_where: ConsumeFromWhere::LastOffset,
        subscriptions: Some(topics.iter().map(|(t, v)| subscription(t, *v)).collect()),
        fingerprint: 0,
    }
}

fn without_sub(group: &str, fingerprint: i32) -> ConsumerBeat {
    ConsumerBeat {
        subscriptions: None,
        fingerprint,
        ..beat(group, &[])
    }
}

#[test]
fn trap_70_everybody_is_told_of_a_new_member_the_new_one_too() {
    let mut members = Members::default();
    let first = members.beat_consumer(peer(1), &client("a", 0), &beat("g", &[("T", 1)]), true);
    assert_eq!(first.notify, [peer(1)]);
    assert!(first.live_changed);
    let second = members.beat_consumer(peer(2), &client("b", 0), &beat("g", &[("T", 1)]), true);
    assert_eq!(second.notify, [peer(1), peer(2)]);
    assert!(
        !second.live_changed,
        "the same subscriptions: the cores know them"
    );
    let again = members.beat_consumer(peer(2), &client("b", 5), &beat("g", &[("T", 1)]), true);
    assert_eq!(
        again,
        Outcome {
            wants_full: true,
            ..Outcome::default()
        }
    );
}

#[test]
fn a_new_topic_notifies_a_newer_version_of_one_does_not() {
    let mut members = Members::default();
    members.beat_consumer(peer(1), &client("a", 0), &beat("g", &[("T", 1)]), true);
    let newer = members.beat_consumer(peer(1), &client("a", 0), &beat("g", &[("T", 2)]), true);
    assert!(newer.notify.is_empty() && newer.live_changed);
    let added = members.beat_consumer(
        peer(1),
        &client("a", 0),
        &beat("g", &[("T", 2), ("U", 2)]),
        true,
    );
    assert_eq!(added.notify, [peer(1)]);
    let removed = members.beat_consumer(peer(1), &client("a", 0), &beat("g", &[("U", 2)]), true);
    assert_eq!(removed.notify, [peer(1)]);
    assert!(
        !members
            .consumers("g")
            .unwrap()
            .subscriptions
            .contains_key("T")
    );
    let older = members.beat_consumer(peer(1), &client("a", 0), &beat("g", &[("U", 1)]), true);
    assert!(!older.live_changed);
    assert_eq!(
        members.consumers("g").unwrap().subscriptions["U"].sub_version,
        2
    );
}

#[test]
fn trap_77_broadcasting_members_are_not_notified() {
    let mut members = Members::default();
    let mut word = beat("g", &[("T", 1)]);
    word.message_model = MessageModel::Broadcasting;
    assert!(
        members
            .beat_consumer(peer(1), &client("a", 0), &word, true)
            .notify
            .is_empty()
    );
    members.beat_consumer(peer(2), &client("b", 0), &word, true);
    let departures = members.closed(peer(2)).departures;
    assert_eq!(departures.len(), 1);
    assert!(departures[0].notify.is_empty());
}

#[test]
fn a_group_that_switches_notifications_off_gets_none() {
    let mut members = Members::default();
    let outcome = members.beat_consumer(peer(1), &client("a", 0), &beat("g", &[("T", 1)]), false);
    assert!(outcome.notify.is_empty() && outcome.live_changed);
}

#[test]
fn trap_71_and_76_a_close_removes_at_once_and_tells_the_rest() {
    let mut members = Members::default();
    members.beat_consumer(peer(1), &client("a", 0), &beat("g", &[("T", 1)]), true);
    members.beat_consumer(peer(2), &client("b", 0), &beat("g", &[("T", 1)]), true);
    members.beat_producer(peer(2), &client("b", 0), "pg");
    let departures = members.closed(peer(2)).departures;
    assert_eq!(departures.len(), 1);
    assert_eq!(departures[0].notify, [peer(1)]);
    assert!(!departures[0].is_last);
    assert!(members.producers("pg").is_none());
    assert!(
        members.closed(peer(2)).departures.is_empty(),
        "a second close is nothing"
    );
    let last = members.closed(peer(1)).departures;
    assert!(last[0].is_last);
    assert!(members.consumers("g").is_none());
    assert_eq!(members.peers_count(), 0);
}

#[test]
fn unregistering_leaves_one_group_only() {
    let mut members = Members::default();
    members.beat_consumer(peer(1), &client("a", 0), &beat("g", &[("T", 1)]), true);
    members.beat_consumer(peer(1), &client("a", 0), &beat("h", &[("T", 1)]), true);
    members.beat_consumer(peer(2), &client("b", 0), &beat("g", &[("T", 1)]), true);
    let departure = members.leave_consumer(peer(1), "g").unwrap();
    assert_eq!(departure.notify, [peer(2)]);
    assert!(members.consumers("h").is_some());
    assert!(members.leave_consumer(peer(1), "g").is_none());
    assert!(members.leave_consumer(peer(1), "unknown").is_none());
}

/// Go's push consumer ends without a word (2.1.2); the process goes on with its other groups.
#[test]
fn a_group_that_is_not_named_any_more_is_left_and_the_connection_stays() {
    let mut members = Members::default();
    for at_ms in [1_000, 90_000] {
        let mine = client("a", at_ms);
        if at_ms == 1_000 {
            members.beat_consumer(peer(1), &mine, &beat("g", &[("T", 1)]), true);
        }
        members.beat_consumer(peer(1), &mine, &beat("h", &[("T", 1)]), true);
        members.beat_producer(peer(1), &mine, "pg");
        members.beat_consumer(peer(2), &client("b", at_ms), &beat("g", &[("T", 1)]), true);
    }
    members.beat_producer(peer(3), &client("c", 1_000), "pg");
    let none = members.expire(MonoMs(121_000), 120_000);
    assert!(none.departures.is_empty() && none.silent.is_empty());
    let expired = members.expire(MonoMs(125_000), 120_000);
    assert_eq!(expired.departures.len(), 1);
    assert_eq!(&*expired.departures[0].group, "g");
    assert_eq!(expired.departures[0].notify, [peer(2)]);
    assert_eq!(expired.silent, [peer(3)]);
    assert_eq!(members.consumers("g").unwrap().client_ids(), ["b".into()]);
    assert!(members.consumers("h").is_some());
    assert_eq!(members.producers("pg").unwrap().len(), 1);
    let rest = members.expire(MonoMs(400_000), 120_000);
    assert_eq!(rest.silent, [peer(1), peer(2)]);
    assert_eq!(members.peers_count(), 0);
}

#[test]
fn a_host_whose_time_is_set_makes_nobody_silent() {
    let mut members = Members::default();
    let (day_ms, beat_at) = (86_400_000, MonoMs(5_000));
    for (slot, last_update_ms) in [(1, -day_ms), (2, day_ms)] {
        let mine = Client {
            last_update_ms,
            heard: beat_at,
            ..client("a", 0)
        };
        members.beat_consumer(peer(slot), &mine, &beat("g", &[("T", 1)]), true);
        members.beat_producer(peer(slot), &mine, "pg");
    }
    let expired = members.expire(MonoMs(125_000), 120_000);
    assert!(expired.departures.is_empty() && expired.silent.is_empty());
    let expired = members.expire(MonoMs(125_001), 120_000);
    assert_eq!(expired.silent, [peer(1), peer(2)]);
}

#[test]
fn heartbeat_v2_asks_for_the_whole_when_it_knows_nothing_or_members_differ() {
    let mut members = Members::default();
    // Without subscriptions in a group we know none of (we were restarted).
    let blind = members.beat_consumer(peer(1), &client("a", 0), &without_sub("g", 7), true);
    assert!(blind.wants_full && !blind.live_changed);
    let full = ConsumerBeat {
        fingerprint: 7,
        ..beat("g", &[("T", 1)])
    };
    let known = members.beat_consumer(peer(1), &client("a", 0), &full, true);
    assert!(!known.wants_full && known.live_changed);
    let touch = members.beat_consumer(peer(1), &client("a", 9), &without_sub("g", 7), true);
    assert_eq!(touch, Outcome::default());
    assert!(
        members
            .consumers("g")
            .unwrap()
            .subscriptions
            .contains_key("T")
    );
    let other = members.beat_consumer(peer(2), &client("b", 0), &without_sub("g", 8), true);
    assert!(other.wants_full);
    assert_eq!(
        other.notify,
        [peer(1), peer(2)],
        "its channel is new all the same"
    );
}

#[test]
fn a_v1_heartbeat_that_takes_a_subscription_away_makes_a_v2_client_send_its_own_again() {
    let mut members = Members::default();
    let full = ConsumerBeat {
        fingerprint: 7,
        ..beat("g", &[("T1", 1), ("T2", 1)])
    };
    members.beat_consumer(peer(1), &client("a", 0), &full, true);
    members.beat_consumer(peer(2), &client("b", 0), &beat("g", &[("T1", 1)]), true);
    let has_second = |members: &Members| {
        let group = members.consumers("g").unwrap();
        group.subscriptions.contains_key("T2")
    };
    assert!(!has_second(&members));
    let touch = members.beat_consumer(peer(1), &client("a", 9), &without_sub("g", 7), true);
    assert!(touch.wants_full);
    let again = members.beat_consumer(peer(1), &client("a", 9), &full, true);
    assert!(again.live_changed && !again.wants_full);
    assert!(has_second(&members));
}

#[test]
fn client_ids_are_listed_once_in_the_order_of_joining() {
    let mut members = Members::default();
    members.beat_consumer(peer(5), &client("b", 0), &beat("g", &[("T", 1)]), true);
    members.beat_consumer(peer(3), &client("a", 0), &beat("g", &[("T", 1)]), true);
    members.beat_consumer(peer(4), &client("b", 0), &beat("g", &[("T", 1)]), true);
    let ids = members.consumers("g").unwrap().client_ids();
    assert_eq!(ids.iter().map(|id| &**id).collect::<Vec<_>>(), ["b", "a"]);
    let newest = |id| members.consumers("g").unwrap().newest(id);
    assert_eq!(newest("b").unwrap().0, peer(4), "the older one may be dead");
    assert_eq!(newest("a").unwrap().0, peer(3));
    assert!(newest("c").is_none());
}

#[test]
fn one_connection_joins_a_bounded_number_of_groups() {
    let mut members = Members::default();
    for n in 0..GROUPS_PER_PEER_MAX + 10 {
        members.beat_producer(peer(1), &client("a", 0), &format!("pg{n}"));
    }
    assert_eq!(members.producer_groups().count(), GROUPS_PER_PEER_MAX);
    let outcome = members.beat_consumer(peer(1), &client("a", 0), &beat("g", &[("T", 1)]), true);
    assert_eq!(outcome, Outcome::default());
    // Those it has joined still count as alive.
    members.beat_producer(peer(1), &client("a", 77), "pg0");
    assert_eq!(
        members.producers("pg0").unwrap()[&peer(1)].last_update_ms,
        77
    );
}

#[test]
fn groups_of_a_topic_are_those_that_subscribe_it_now() {
    let mut members = Members::default();
    members.beat_consumer(peer(1), &client("a", 0), &beat("g", &[("T", 1)]), true);
    members.beat_consumer(peer(2), &client("b", 0), &beat("h", &[("U", 1)]), true);
    assert_eq!(members.groups_of_topic("T"), [Arc::from("g")]);
}

#[test]
fn subscriptions_are_bounded_in_bytes_and_what_is_beyond_is_left_out() {
    let mut members = Members::default();
    let expression = |tags: usize| "0123456789ab||".repeat(tags);
    let mut word = beat("g", &[("T", 1)]);
    let mut more = vec![
        SubscriptionData::tag("t".repeat(256), "*", 1),
        SubscriptionData::tag("long", &"x".repeat(EXPRESSION_BYTES_MAX), 1),
    ];
    let heavy = SubscriptionData::tag("heavy-0", &expression(4000), 1);
    let fitting = SUBSCRIBED_BYTES_PER_GROUP_MAX / weight(&heavy);
    for n in 0..fitting + 2 {
        let topic = format!("heavy-{n}");
        more.push(SubscriptionData {
            topic,
            ..heavy.clone()
        });
    }
    word.subscriptions.as_mut().unwrap().extend(more);
    let outcome = members.beat_consumer(peer(1), &client("a", 0), &word, true);
    assert!(outcome.left_out_count >= 4, "{outcome:?}");
    let subscribed = &members.consumers("g").unwrap().subscriptions;
    assert!(subscribed.contains_key("T") && subscribed.contains_key("heavy-0"));
    assert!(!subscribed.contains_key("long") && subscribed.len() <= fitting + 1);
    let bytes: usize = subscribed.values().map(|data| weight(data)).sum();
    assert!(bytes <= SUBSCRIBED_BYTES_PER_GROUP_MAX);
    assert_eq!(members.subscribed_bytes, bytes);

    members.beat_consumer(peer(1), &client("a", 0), &beat("g", &[("T", 2)]), true);
    assert_eq!(members.subscribed_bytes, weight(&subscription("T", 2)));
    members.closed(peer(1));
    assert_eq!(members.subscribed_bytes, 0);
}

#[test]
fn all_groups_together_are_bounded_too() {
    let mut members = Members {
        subscribed_bytes: SUBSCRIBED_BYTES_MAX - weight(&subscription("T", 1)),
        ..Members::default()
    };
    let word = beat("g", &[("T", 1), ("U", 1)]);
    let outcome = members.beat_consumer(peer(1), &client("a", 0), &word, true);
    assert_eq!(outcome.left_out_count, 1);
    assert_eq!(members.subscribed_bytes, SUBSCRIBED_BYTES_MAX);
    assert!(
        members
            .beat_producer(peer(1), &client("a", 0), &"p".repeat(256))
            .is_empty()
    );
    assert_eq!(members.producer_groups().count(), 0);
}
