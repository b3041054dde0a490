use super::*;

fn table() -> GroupTable {
    GroupTable::new([], DataVersion::default(), Forbidden::new())
}

#[test]
fn built_in_groups_exist_and_stay() {
    let mut table = table();
    assert_eq!(table.iter().count(), SYSTEM_GROUPS.len());
    assert!(table.get("TOOLS_CONSUMER").is_some());
    assert!(table.remove("TOOLS_CONSUMER", 1).is_none());
    assert!(table.get("TOOLS_CONSUMER").is_some());
}

#[test]
fn a_stored_group_wins_over_the_built_in_one() {
    let mut stored = SubscriptionGroupConfig::new("TOOLS_CONSUMER");
    stored.retry_max_times = 3;
    let table = GroupTable::new([stored], DataVersion::default(), Forbidden::new());
    assert_eq!(table.get("TOOLS_CONSUMER").unwrap().retry_max_times, 3);
}

#[test]
fn auto_creation_follows_the_switch_system_groups_always_work() {
    let mut table = table();
    let refused = table.ensure("g", false, 1).unwrap_err();
    assert_eq!(refused.code, response::SUBSCRIPTION_GROUP_NOT_EXIST);
    assert!(table.ensure("CID_RMQ_SYS_X", false, 1).unwrap().1);
    assert!(table.ensure("g", true, 2).unwrap().1);
    assert!(
        !table.ensure("g", true, 3).unwrap().1,
        "the second time it is known"
    );
    assert!(table.ensure("no blanks", true, 4).is_err());
    assert!(table.ensure(&"g".repeat(121), true, 4).is_err());
}

#[test]
fn each_change_moves_the_version() {
    let mut table = table();
    let before = *table.version();
    table.ensure("g", true, 7).unwrap();
    let after = *table.version();
    assert_ne!(before, after);
    assert_eq!(after.counter, before.counter + 1);
    table.remove("g", 8).unwrap();
    assert_eq!(table.version().counter, before.counter + 2);
    assert!(table.remove("g", 9).is_none());
    assert_eq!(table.version().counter, before.counter + 2);
}

/// What is in the table is stored with every later change: it must fit.
#[test]
fn a_row_too_long_to_be_stored_is_refused_alone() {
    let mut table = GroupTable::default();
    let mut config = SubscriptionGroupConfig::new("g");
    config.retry_policy = "x".repeat(ROW_BYTES_MAX).as_str().into();
    let refusal = table.put(config, 1).unwrap_err();
    assert_eq!(refusal.code, response::INVALID_PARAMETER);
    assert!(refusal.remark.contains("4194304 are allowed"), "{refusal}");
    assert!(table.get("g").is_none());

    let long = "t".repeat(2 << 20);
    table.forbid("g", &long, true, 1).unwrap();
    let refusal = table.forbid("h", &long, true, 1).unwrap_err();
    assert_eq!(refusal.code, response::INVALID_PARAMETER);
    assert!(table.forbidden("h").is_empty() && table.forbidden("g").len() == 1);
    table.forbid("g", &long, false, 1).unwrap();
    assert!(table.all_forbidden().is_empty());
}
