use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::message_id::UniqueIdMaker;

fn broker() -> BrokerProperties {
    BrokerProperties::new("DefaultRegion", true, "c0")
}

fn made() -> UniqueId {
    UniqueIdMaker::new([127, 0, 0, 1].into(), 1, 1).next(1)
}

fn rewritten(properties: &str) -> (BTreeMap<String, String>, SendProperties<'_>) {
    let mut out = Vec::new();
    let found = rewrite_for_send(properties, &broker(), made, &mut out);
    let text = String::from_utf8(out).unwrap();
    let map = items(&text)
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    (map, found)
}

fn text(pairs: &[(&str, &str)]) -> String {
    let mut out = Vec::new();
    for (name, value) in pairs {
        append(&mut out, name, value);
    }
    String::from_utf8(out).unwrap()
}

/// Trap 45: empty values vanish, nothing fails.
#[test]
fn trap_45_items_java_would_drop() {
    let string = "a\u{1}1\u{2}b\u{1}\u{2}\u{1}x\u{2}\u{2}novalue\u{2}c\u{1}x\u{1}y\u{2}z\u{1}last";
    let read: Vec<_> = items(string).collect();
    assert_eq!(read, [("a", "1"), ("c", "x\u{1}y"), ("z", "last")]);
    assert_eq!(
        get(string, "z"),
        Some("last"),
        "the last separator may be missing"
    );
    assert_eq!(get("a\u{1}1\u{2}a\u{1}2\u{2}", "a"), Some("2"));
    assert_eq!(get("", "a"), None);
    let (map, _) = rewritten(string);
    assert!(!map.contains_key("b") && map["c"] == "x\u{1}y");
}

/// Trap 47: a message without a unique key gets one.
#[test]
fn trap_47_unique_key() {
    let (map, found) = rewritten("");
    assert_eq!(map["UNIQ_KEY"], made().as_str());
    assert_eq!(found.unique_key(), Some(made().as_str()));
    let sent = text(&[("UNIQ_KEY", "theirs")]);
    let (map, found) = rewritten(&sent);
    assert_eq!(
        (map["UNIQ_KEY"].as_str(), found.unique_key()),
        ("theirs", Some("theirs"))
    );
    assert_eq!(found.made_unique_key, None);
}

/// Trap 48: a receipt of a pop is not passed on.
#[test]
fn trap_48_pop_ck_is_removed() {
    let sent = text(&[("POP_CK", "1 2 3"), ("k", "v")]);
    let (map, _) = rewritten(&sent);
    assert!(!map.contains_key("POP_CK") && map["k"] == "v");
}

/// Trap 49: region and trace switch are always there, and are the broker's.
#[test]
fn trap_49_what_the_broker_sets() {
    let sent = text(&[
        ("MSG_REGION", "mine"),
        ("TRACE_ON", "false"),
        ("CLUSTER", "mine"),
    ]);
    let (map, _) = rewritten(&sent);
    assert_eq!(
        (map["MSG_REGION"].as_str(), map["TRACE_ON"].as_str()),
        ("DefaultRegion", "true")
    );
    assert_eq!(map["CLUSTER"], "c0");
}

#[test]
fn what_one_pass_finds() {
    let sent = text(&[
        ("TAGS", "A"),
        ("KEYS", "k1  k2"),
        ("WAIT", "false"),
        ("DELAY", "3"),
        ("TRAN_MSG", "true"),
        ("PGROUP", "pg"),
        ("TIMER_DELIVER_MS", "99"),
        ("RETRY_TOPIC", "T"),
        ("MSG_TYPE", "reply"),
        ("__SHARDINGKEY", "s"),
    ]);
    let (_, found) = rewritten(&sent);
    assert_eq!(
        SendProperties {
            made_unique_key: None,
            is_kept: false,
            ..found
        },
        SendProperties::scan(&sent)
    );
    assert_eq!((found.tags, found.delay_level), (Some("A"), Some("3")));
    assert!(found.no_wait && found.transaction_prepared && found.is_timer());
    assert_eq!(
        (found.producer_group, found.retry_topic),
        (Some("pg"), Some("T"))
    );
    assert_eq!(
        (found.message_type, found.sharding_key),
        (Some("reply"), Some("s"))
    );
    assert_eq!(
        split_keys(found.keys.unwrap()).collect::<Vec<_>>(),
        ["k1", "k2"]
    );
}

proptest! {
    #[test]
    fn appended_properties_are_read_back(
        pairs in prop::collection::vec(("[a-zA-Z_]{1,12}", "[^\u{1}\u{2}]{0,20}"), 0..12),
    ) {
        let mut out = Vec::new();
        for (name, value) in &pairs {
            append(&mut out, name, value);
        }
        let string = String::from_utf8(out).unwrap();
        let kept: Vec<_> = pairs.iter().filter(|(_, value)| !value.is_empty()).collect();
        let read: Vec<_> = items(&string).collect();
        prop_assert_eq!(read.len(), kept.len());
        for ((name, value), (n, v)) in read.iter().zip(kept) {
            prop_assert_eq!((*name, *value), (n.as_str(), v.as_str()));
        }
    }

    #[test]
    fn any_text_is_rewritten(string in "([ab\u{1}\u{2}é]|CLUSTER\u{1}){0,40}") {
        let mut out = Vec::new();
        let found = rewrite_for_send(&string, &broker(), made, &mut out);
        // One property after the other, as Java does it.
        let mut slowly = Vec::new();
        for (name, value) in items(&string).filter(|(name, _)| !is_ours(name)) {
            append(&mut slowly, name, value);
        }
        let is_kept = slowly.starts_with(string.as_bytes());
        prop_assert_eq!(found.is_kept, is_kept);
        slowly.extend_from_slice(&broker().stored);
        append(&mut slowly, name::UNIQ_KEY, made().as_str());
        prop_assert_eq!(out, slowly);
    }
}
