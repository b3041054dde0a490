use super::*;
use crate::control::topics::built_in::topic;

fn table() -> TopicTable {
    TopicTable::new([], DataVersion::default(), 1)
}

#[test]
fn ids_are_never_given_twice() {
    let mut table = table();
    let first = table.put(topic("A", 4, 6)).unwrap().unwrap().id;
    table.remove("A").unwrap();
    let second = table.put(topic("A", 4, 6)).unwrap().unwrap().id;
    assert_ne!(first, second);
    assert_eq!(table.name_of(second), Some("A"));
    assert_eq!(table.name_of(first), None);
    // Neither after a restart, even if the counter's own row were lost.
    let rows = [TopicEntry {
        id: TopicId(41),
        config: topic("B", 1, 6),
    }];
    let mut table = TopicTable::new(rows, DataVersion::default(), 7);
    assert_eq!(
        table.put(topic("C", 1, 6)).unwrap().unwrap().id,
        TopicId(42)
    );
}

#[test]
fn a_change_keeps_the_id_and_an_equal_put_changes_nothing() {
    let mut table = table();
    let id = table.put(topic("A", 4, 6)).unwrap().unwrap().id;
    assert!(table.put(topic("A", 4, 6)).unwrap().is_none());
    let changed = table.put(topic("A", 8, 6)).unwrap().unwrap();
    assert_eq!(changed.id, id);
    assert_eq!(table.count(), 1);
}

#[test]
fn the_version_moves_once_per_commit() {
    let mut table = table();
    table.put(topic("A", 4, 6)).unwrap();
    table.put(topic("B", 4, 6)).unwrap();
    let before = *table.version();
    table.advance(7);
    assert_eq!(table.version().counter, before.counter + 1);
    assert_eq!(table.version().timestamp, 7);
}

#[test]
fn order_topics_are_set_and_never_cleared() {
    let mut table = table();
    table.put(topic("A", 4, 6)).unwrap();
    table.put(topic("B", 4, 6)).unwrap();
    assert_eq!(table.apply_order_topics(["A", "unknown"]).len(), 1);
    assert!(table.get("A").unwrap().config.order);
    assert!(table.apply_order_topics(["B"]).len() == 1);
    assert!(
        table.get("A").unwrap().config.order,
        "missing in the list is no word on it"
    );
    assert!(table.apply_order_topics(["A", "B"]).is_empty());
}
