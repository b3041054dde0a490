use super::*;

fn alter(
    known: &[Attribute],
    current: Option<&Attributes>,
    line: &str,
) -> Result<Attributes, Refusal> {
    let change = parse_change(line)?;
    altered(known, current, &change)
}

fn made(line: &str) -> Attributes {
    alter(OF_TOPICS, None, line).unwrap()
}

#[test]
fn attributes_are_checked_and_two_are_fixed_at_creation() {
    let made = made("+message.type=FIFO,+queue.type=SimpleCQ");
    let changed = |line| alter(OF_TOPICS, Some(&made), line);
    assert_eq!(made["message.type"], "FIFO");
    assert_eq!(
        changed("+message.type=DELAY").unwrap()["message.type"],
        "DELAY"
    );
    assert_eq!(changed("-message.type").unwrap().len(), 1);
    assert_eq!(changed("+queue.type=SimpleCQ").unwrap(), made, "no change");
    assert_eq!(changed("").unwrap(), made);
    for bad in [
        "+queue.type=BatchCQ",
        "+cleanup.policy=DELETE",
        "-queue.type",
        "-reserve.time",
        "+x=1",
        "message.type=FIFO",
        "message.type",
        "+message.type",
        "+message.type=X",
        "+message.type=FIFO,+message.type=DELAY",
        "+message.type=FIFO,-message.type",
    ] {
        let refusal = changed(bad).unwrap_err();
        assert_eq!(refusal.code, response::SYSTEM_ERROR, "{bad}");
    }
    assert!(alter(OF_TOPICS, None, "-message.type").is_err());
}

#[test]
fn a_topics_own_time_is_a_number_of_hours_that_may_change() {
    let made = made("+reserve.time=24");
    let changed = |line| alter(OF_TOPICS, Some(&made), line);
    assert_eq!(made["reserve.time"], "24");
    assert_eq!(changed("+reserve.time=-1").unwrap()["reserve.time"], "-1");
    assert!(changed("-reserve.time").unwrap().is_empty());
    for bad in ["+reserve.time=-2", "+reserve.time=3d", "+reserve.time="] {
        assert!(changed(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_names_and_ranges_are_those_of_5_5_0() {
    for kind in MESSAGE_TYPES {
        assert_eq!(
            made(&format!("+message.type={kind}"))["message.type"],
            *kind
        );
    }
    for minutes in ["-1", "0", "43200"] {
        made(&format!("+lite.topic.expiration={minutes}"));
    }
    for minutes in ["-2", "43201", "1h"] {
        let line = format!("+lite.topic.expiration={minutes}");
        assert!(alter(OF_TOPICS, None, &line).is_err(), "{minutes}");
    }
}

#[test]
fn groups_have_attributes_of_their_own() {
    let line = "+priority.factor=100,+lite.bind.topic=T,+lite.sub.model=Exclusive,\
                +lite.sub.reset.offset.exclusive=TRUE,+lite.sub.client.quota=-1,\
                +lite.sub.client.max.event.cnt=10,+lite.sub.wildcard=*";
    assert_eq!(alter(OF_GROUPS, None, line).unwrap().len(), 7);
    for bad in [
        "+priority.factor=101",
        "+priority.factor=-1",
        "+lite.sub.model=shared",
        "+lite.sub.reset.offset.unsubscribe=yes",
        "+lite.sub.client.max.event.cnt=9",
        "+reserve.time=1",
    ] {
        assert!(alter(OF_GROUPS, None, bad).is_err(), "{bad}");
    }
    let long = format!("+lite.bind.topic={}", "x".repeat(TEXT_BYTES_MAX + 1));
    assert!(alter(OF_GROUPS, None, &long).is_err());
}

#[test]
fn a_second_wish_for_the_same_topic_builds_on_the_first() {
    let stored = made("+reserve.time=24");
    let mut wishes = [
        ("T", parse_change("+message.type=FIFO").unwrap()),
        ("U", parse_change("+message.type=DELAY").unwrap()),
        ("T", parse_change("-reserve.time").unwrap()),
    ];
    let by_name = wishes.iter_mut().map(|(name, wish)| (*name, wish));
    let known = |name: &str| (name == "T").then_some(&stored);
    alter_all(OF_TOPICS, known, by_name).unwrap();
    assert_eq!(wishes[0].1.len(), 2);
    assert_eq!(wishes[1].1, made("+message.type=DELAY"));
    assert_eq!(wishes[2].1, made("+message.type=FIFO"));
}
