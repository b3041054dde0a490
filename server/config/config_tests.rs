//! The key table against the operator's files.

use std::collections::HashSet;
use std::io::Write as _;
use std::path::Path;

use gantry_actors::kept_settings::KeptSettings;
use gantry_actors::live::KeyVerdict;

use super::Origin;
use super::broker::{self, BrokerPlan};
use super::table::{self, Effect};
use super::values::{ConfigErrors, Values};
use super::{file, namesrv, table_more, table_namesrv};

const GIB: u64 = 1 << 30;

fn plan_of(pairs: &[(&str, &str)]) -> Result<BrokerPlan, ConfigErrors> {
    let mut values = broker::values();
    for (key, value) in pairs {
        values.give(key, value, Origin::Set);
    }
    broker::plan(&mut values, 8 * GIB)
}

fn complaint(pairs: &[(&str, &str)]) -> String {
    plan_of(pairs).unwrap_err().to_string()
}

fn from_file(text: &str) -> (Values, Result<BrokerPlan, ConfigErrors>) {
    let mut conf = tempfile::NamedTempFile::new().unwrap();
    conf.write_all(text.as_bytes()).unwrap();
    let mut values = broker::values();
    file::read(conf.path(), &mut values);
    let plan = broker::plan(&mut values, 8 * GIB);
    (values, plan)
}

#[test]
fn every_default_fits_its_own_kind_and_no_key_is_listed_twice() {
    for tables in [
        vec![
            table::BROKER,
            table::GANTRY,
            table_more::COMMON,
            table_more::FAR,
        ],
        vec![table_namesrv::NAMESRV],
    ] {
        let mut seen = HashSet::new();
        for key in tables.into_iter().flatten() {
            assert!(seen.insert(key.name), "{} twice", key.name);
            let fits = matches!(key.default, "auto" | "") || key.kind.accepts(key.default);
            assert!(fits, "{}={}", key.name, key.default);
        }
    }
}

#[test]
fn nothing_given_is_a_broker_with_rocketmqs_defaults() {
    let settings = plan_of(&[]).unwrap().settings;
    assert_eq!(settings.cluster_name, "DefaultCluster");
    assert_eq!(settings.listen.to_string(), "0.0.0.0:10911");
    assert_eq!(settings.listen_vip.port(), 10_909);
    assert_eq!(settings.ha_advertised.port(), 10_912);
    assert_eq!(settings.default_topic_queue_nums, 8);
    assert_eq!(settings.delay_levels_ms.len(), 18);
    assert_eq!(settings.delay_levels_ms[17], 7_200_000);
    assert_eq!(
        settings.memory_limit_bytes,
        2 * GIB,
        "a quarter of the machine"
    );
    assert!(!settings.broker_name.is_empty());
    assert!(!settings.advertised.ip().is_unspecified(), "trap 29");
}

/// As much as `docs/OPERATIONS.md` says, more with more shards.
#[test]
fn a_memory_limit_that_leaves_no_room_is_refused_with_what_is_needed() {
    let limit = |limit: &str, shards: &str| {
        plan_of(&[
            ("cores", "1"),
            ("memoryLimit", limit),
            ("shardCount", shards),
        ])
    };
    assert!(limit("132M", "1").is_ok());
    for (given, shards, needed) in [
        ("131M", "1", "at least 132M"),
        ("256M", "8", "at least 310M"),
    ] {
        let why = limit(given, shards).unwrap_err().to_string();
        let names = why.contains(&format!("memoryLimit={given}")) && why.contains(needed);
        assert!(names, "{why}");
    }
    let unset = [("cores", "1"), ("shardCount", "64"), ("tailBytes", "64M")];
    let settings = plan_of(&unset).unwrap().settings;
    assert!(
        settings.memory_limit_bytes > 4 * GIB,
        "as much as the shards need"
    );
}

#[test]
fn every_key_of_the_reference_section_1_works() {
    let plan = plan_of(&[
        ("brokerClusterName", "cl"),
        ("brokerName", "b-1"),
        ("brokerId", "0"),
        ("namesrvAddr", "10.0.0.1:9876;ns-2:9876"),
        ("brokerIP1", "10.1.2.3"),
        ("brokerIP2", "10.1.2.4"),
        ("listenPort", "20911"),
        ("brokerRole", "ASYNC_MASTER"),
        ("flushDiskType", "SYNC_FLUSH"),
        ("deleteWhen", "04;16"),
        ("fileReservedTime", "48"),
        ("storePathRootDir", "/data/rmq"),
        ("storePathCommitLog", "/data/rmq/commitlog"),
        ("autoCreateTopicEnable", "false"),
        ("autoCreateSubscriptionGroup", "FALSE"),
        ("defaultTopicQueueNums", "16"),
    ])
    .unwrap();
    let settings = plan.settings;
    assert_eq!(settings.cluster_name, "cl");
    assert_eq!(settings.broker_name, "b-1");
    assert_eq!(settings.namesrv_addrs, ["10.0.0.1:9876", "ns-2:9876"]);
    assert_eq!(settings.advertised.to_string(), "10.1.2.3:20911");
    assert_eq!(settings.ha_advertised.to_string(), "10.1.2.4:20912");
    assert_eq!(settings.listen_vip.port(), 20_909);
    assert_eq!(settings.data_dir, Path::new("/data/rmq"));
    assert!(!settings.auto_create_topic_enable.get());
    assert!(!settings.auto_create_subscription_group.get());
    assert_eq!(settings.default_topic_queue_nums, 16);
    assert_eq!(
        settings.flush_disk_type,
        gantry_actors::settings::FlushDiskType::Sync
    );
    assert_eq!(settings.retention.rules.delete_hours, [4, 16]);
    assert_eq!(settings.retention.rules.reserved_ms, 48 * 3_600_000);
    assert!(
        plan.notices
            .iter()
            .all(|notice| !notice.contains("no effect"))
    );
}

#[test]
fn what_cannot_be_kept_is_refused_with_a_reason() {
    for (pairs, why) in [
        (
            vec![("brokerRole", "SLAVE")],
            "replication is not built yet",
        ),
        (vec![("brokerId", "1")], "0 is a master"),
        (
            vec![("brokerRole", "SYNC_MASTER"), ("inSyncReplicas", "2")],
            "set 1",
        ),
        (
            vec![("storePathCommitLog", "/other/disk")],
            "storePathRootDir",
        ),
        (
            vec![("aclEnable", "true")],
            "starting open instead would be unsafe",
        ),
        (vec![("authenticationEnabled", "true")], "unsafe"),
        (vec![("enableControllerMode", "true")], "failover"),
        (
            vec![("brokerIP1", "0.0.0.0")],
            "clients cannot connect to it",
        ),
    ] {
        let complaint = complaint(&pairs);
        assert!(
            complaint.contains("refused") && complaint.contains(why),
            "{complaint}"
        );
    }
}

#[test]
fn a_promise_switched_off_is_fine() {
    plan_of(&[("aclEnable", "False"), ("enableDLegerCommitLog", "false")]).unwrap();
    let plan = plan_of(&[("brokerRole", "SYNC_MASTER")]).unwrap();
    assert!(plan.notices.join("\n").contains("waits for no slave"));
}

#[test]
fn malformed_values_name_key_value_and_what_is_allowed() {
    for (key, value, allowed) in [
        ("listenPort", "70000", "from 0 to 65535"),
        ("listenPort", "ten", "a whole number"),
        ("flushDiskType", "SYNC", "ASYNC_FLUSH, SYNC_FLUSH"),
        ("brokerRole", "MASTER", "ASYNC_MASTER, SYNC_MASTER, SLAVE"),
        ("autoCreateTopicEnable", "yes", "true or false"),
        ("deleteWhen", "24", "hours from 0 to 23"),
        ("fileReservedTime", "-1", "from 0"),
        ("namesrvAddr", "10.0.0.1", "host:port"),
        (
            "namesrvAddr",
            "10.0.0.1:9876,10.0.0.2:9876",
            "host:port with ;",
        ),
        ("brokerIP1", "10.0.0.300", "an IP address or a host name"),
        ("messageDelayLevel", "1s 5x", "s, m, h or d"),
        ("brokerName", "", "a name without spaces"),
        ("maxMessageSize", "99G", "bytes from 1"),
        ("maxMessageSize", "6M", "bytes from 1 to 4194304"),
        ("defaultTopicQueueNums", "0", "from 1"),
        ("bindAddress", "everywhere", "an IP address of this machine"),
    ] {
        let complaint = complaint(&[(key, value)]);
        let start = format!("--set: {key}={value}: not allowed");
        assert!(complaint.starts_with(&start), "{complaint}");
        assert!(complaint.contains(allowed), "{complaint}");
    }
}

#[test]
fn a_file_is_java_properties_and_complaints_name_file_and_line() {
    let (values, plan) = from_file(
        "# comment\n! another\nbrokerName = b0\n\nlistenPort:20911\n\
         messageDelayLevel=1s \\\n   2s\n",
    );
    let settings = plan.unwrap().settings;
    assert_eq!(settings.broker_name, "b0");
    assert_eq!(settings.delay_levels_ms, [1_000, 2_000]);
    assert!(values.origin("listenPort").to_string().ends_with(":5"));

    let (_, plan) = from_file("brokerName=b0\nlistenPort=x\nflushDiskType=NOW\nnoSuchKey=1\n");
    let complaint = plan.unwrap_err().to_string();
    assert_eq!(complaint.lines().count(), 2, "both at once: {complaint}");
    assert!(
        complaint.contains(":2: listenPort=x: not allowed"),
        "{complaint}"
    );
    assert!(
        complaint.contains(":3: flushDiskType=NOW: not allowed"),
        "{complaint}"
    );
}

#[test]
fn an_unknown_key_is_a_warning_with_file_and_line_and_an_error_in_set() {
    let (_, plan) = from_file("brokerName=b0\nnoSuchKey=1\n");
    let notices = plan.unwrap().notices.join("\n");
    assert!(
        notices.contains(":2: unknown key noSuchKey, ignored"),
        "{notices}"
    );
    assert!(complaint(&[("noSuchKey", "1")]).contains("--set noSuchKey: no such key"));
}

#[test]
fn a_missing_or_broken_file_is_one_clear_line() {
    let mut values = broker::values();
    file::read(Path::new("/no/such/broker.conf"), &mut values);
    let complaint = values.finish().unwrap_err().to_string();
    assert!(
        complaint.starts_with("/no/such/broker.conf: cannot be read"),
        "{complaint}"
    );
    let (_, plan) = from_file("ok=1\nbad=\\uZZZZ\n");
    assert!(plan.unwrap_err().to_string().contains(":2: cannot be read"));
}

#[test]
fn the_stronger_place_wins_whatever_the_order() {
    let mut values = broker::values();
    values.give("namesrvAddr", "flag:1", Origin::Flag("-n"));
    values.give("namesrvAddr", "file:1", Origin::File("f".into(), 1));
    values.give("namesrvAddr", "env:1", Origin::Env("NAMESRV_ADDR"));
    assert_eq!(values.text("namesrvAddr"), "flag:1");
    values.give("namesrvAddr", "set:1", Origin::Set);
    assert_eq!(values.text("namesrvAddr"), "set:1");
}

#[test]
fn a_single_listen_address_is_advertised_trap_29() {
    let settings = plan_of(&[("bindAddress", "127.0.0.1")]).unwrap().settings;
    assert_eq!(settings.advertised.to_string(), "127.0.0.1:10911");
    let both = plan_of(&[("bindAddress", "127.0.0.1"), ("brokerIP1", "10.9.8.7")]).unwrap();
    assert_eq!(both.settings.advertised.to_string(), "10.9.8.7:10911");
}

#[test]
fn cores_are_a_count_or_a_list() {
    assert_eq!(plan_of(&[("cores", "3")]).unwrap().placements.len(), 3);
    assert_eq!(plan_of(&[("cores", "3")]).unwrap().settings.shard_count, 3);
    assert_eq!(plan_of(&[("cores", "0,")]).unwrap().placements.len(), 1);
    for wrong in ["0", "x", "3-1", "0-99999"] {
        let complaint = complaint(&[("cores", wrong)]);
        assert!(
            complaint.starts_with(&format!("--set: cores={wrong}: refused")),
            "{complaint}"
        );
    }
}

#[test]
fn the_printed_table_names_every_key_and_reads_back() {
    let printed = broker::values().print();
    let (values, plan) = from_file(&printed);
    plan.unwrap();
    assert!(matches!(values.origin("listenPort"), Origin::File(..)));
    for key in table::BROKER.iter().chain(table::GANTRY) {
        assert!(
            printed.contains(&format!("\n{}=", key.name)),
            "{}",
            key.name
        );
    }
}

#[test]
fn namesrv_keys_fill_its_settings() {
    let mut values = namesrv::values();
    values.give("listenPort", "0", Origin::Set);
    values.give("orderMessageEnable", "true", Origin::Set);
    values.give("kvConfigPath", "/tmp/kv.json", Origin::Set);
    values.give("defaultThreadPoolNums", "32", Origin::Set);
    let plan = namesrv::plan(&mut values).unwrap();
    assert!(plan.settings.order_message_enable);
    assert_eq!(plan.settings.kv_config_path, Path::new("/tmp/kv.json"));
    assert!(plan.notices[0].contains("defaultThreadPoolNums has no effect"));
    let mut live = plan.settings.clone();
    for key in table_namesrv::NAMESRV
        .iter()
        .filter(|key| matches!(key.effect, Effect::Live(_)))
    {
        assert!(
            live.switch_mut(key.name).is_some(),
            "{} is said to change live",
            key.name
        );
    }
}

#[test]
fn an_apache_store_in_the_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(broker::apache_store_notice(folder.path()), None);
    std::fs::create_dir(folder.path().join("commitlog")).unwrap();
    assert!(
        broker::apache_store_notice(folder.path())
            .unwrap()
            .contains("neither reads nor")
    );
}

#[test]
fn every_live_key_has_its_cell_and_no_other_key_has() {
    let plan = broker::plan(&mut broker::values(), 1 << 30).unwrap();
    let tables = [
        table::BROKER,
        table::GANTRY,
        table_more::COMMON,
        table_more::FAR,
    ];
    for key in tables.into_iter().flatten() {
        let verdict = broker::verdict(key.name, key.default);
        let cell = plan.settings.live_cell(key.name);
        match verdict {
            _ if key.name == "brokerPermission" => assert!(cell.is_none(), "{}", key.name),
            KeyVerdict::Live(value) => {
                assert!(cell.is_some_and(|cell| cell.set(value)), "{}", key.name);
            }
            _ => assert!(cell.is_none(), "{} is no live key: {verdict:?}", key.name),
        }
    }
}

#[test]
fn what_was_changed_wins_over_the_file_until_the_file_changes() {
    let folder = tempfile::tempdir().unwrap();
    let conf = folder.path().join("broker.conf");
    let mut kept = KeptSettings::default();
    kept.keep("maxMessageSize", "200", "100");
    kept.keep("defaultQueryMaxNum", "7", "32");
    kept.save(folder.path()).unwrap();
    let start = |said: &str, set: Option<&str>| {
        let path = folder.path().display();
        std::fs::write(&conf, format!("{said}\nstorePathRootDir={path}\n")).unwrap();
        let mut values = broker::values();
        file::read(&conf, &mut values);
        let lines = values.lines();
        if let Some(value) = set {
            values.give("maxMessageSize", value, Origin::Set);
        }
        let plan = broker::plan_with_kept(&mut values, lines, 1 << 30).unwrap();
        let settings = plan.settings;
        let kept = &settings.kept;
        let named = plan
            .notices
            .iter()
            .any(|line| line.contains("maxMessageSize"));
        let query = settings.default_query_max_num.get();
        assert_eq!(query, 7, "the file never spoke of it");
        assert_eq!(named, kept.iter().count() == 1, "{:?}", plan.notices);
        settings.message_bytes_max.get()
    };
    assert_eq!(start("maxMessageSize=100", None), 200);
    assert_eq!(start("maxMessageSize=100", Some("400")), 400);
    assert_eq!(
        start("maxMessageSize=300", None),
        300,
        "the newest word wins"
    );
}

/// What code 25 says of these changes to a broker with this file, which keeps these already.
fn next_start(conf: &str, kept: &[(&str, &str)], asked: &[(&str, &str)]) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broker.conf");
    let root = folder.path().join("store").display().to_string();
    std::fs::write(&path, conf.replace("{root}", &root)).unwrap();
    let mut values = broker::values();
    file::read(&path, &mut values);
    let lines = values.lines();
    let plan = broker::plan_with_kept(&mut values, lines, GIB).unwrap();
    let mut book = KeptSettings::default();
    for (key, value) in kept {
        assert!(book.keep(key, value, ""));
    }
    let asked: Vec<_> = asked
        .iter()
        .map(|(key, value)| (*key, value.replace("{root}", &root)))
        .collect();
    let asked: Vec<_> = asked.iter().map(|(k, v)| (*k, v.as_str())).collect();
    plan.settings.start_check.ask(&book, &asked)
}

#[test]
fn a_change_is_judged_together_with_the_whole_configuration() {
    let replicas = [("inSyncReplicas", "2")];
    let said = next_start("brokerRole=SYNC_MASTER\n", &[], &replicas).unwrap_err();
    assert!(said.starts_with("this request: inSyncReplicas=2"), "{said}");
    next_start("", &[], &replicas).unwrap();
    next_start(
        "brokerRole=SYNC_MASTER\n",
        &[("brokerRole", "ASYNC_MASTER")],
        &replicas,
    )
    .unwrap();
    let kept = [("brokerRole", "SYNC_MASTER")];
    assert!(
        next_start("", &kept, &replicas).is_err(),
        "what is kept counts"
    );
    // The culprit may be the line that was there before.
    let sync = [("brokerRole", "SYNC_MASTER")];
    let said = next_start("inSyncReplicas=2\n", &[], &sync).unwrap_err();
    assert!(said.contains("broker.conf:1: inSyncReplicas=2"), "{said}");
    // All pairs count, whatever their order.
    let both = [("brokerRole", "SYNC_MASTER"), ("inSyncReplicas", "1")];
    next_start("inSyncReplicas=2\n", &[], &both).unwrap();

    let path = [("storePathCommitLog", "{root}/commitlog")];
    next_start("storePathRootDir={root}\n", &[], &path).unwrap();
    let path = [("storePathCommitLog", "/elsewhere/commitlog")];
    assert!(next_start("storePathRootDir={root}\n", &[], &path).is_err());
}

#[test]
fn a_change_has_to_be_right_without_the_command_line() {
    let mut values = broker::values();
    values.give("brokerRole", "ASYNC_MASTER", Origin::Set);
    let lines = broker::values().lines();
    let plan = broker::plan_with_kept(&mut values, lines, GIB).unwrap();
    let check = plan.settings.start_check;
    let kept = KeptSettings::default();
    assert!(check.ask(&kept, &[("brokerRole", "SLAVE")]).is_err());
    check.ask(&kept, &[("brokerRole", "SYNC_MASTER")]).unwrap();
}

#[test]
fn a_name_is_resolved_for_the_request_that_gives_it_only() {
    let mut values = broker::values();
    values.give("brokerIP1", "localhost", Origin::Set);
    let lines = broker::values().lines();
    let plan = broker::plan_with_kept(&mut values, lines, GIB).unwrap();
    assert_eq!(plan.settings.told_address(), "localhost:10911");
    assert!(plan.settings.advertised.ip().is_loopback());
    let check = plan.settings.start_check;
    let mut kept = KeptSettings::default();
    assert!(kept.keep("brokerIP2", "no-such-host.invalid", "auto"));
    check.ask(&kept, &[("listenPort", "20911")]).unwrap();
    let asked = [("brokerIP2", "no-such-host.invalid")];
    assert!(check.ask(&kept, &asked).is_err());
}

#[test]
fn a_stronger_place_takes_back_what_would_be_refused() {
    let text = "aclEnable=true\nbrokerId=1\n";
    let (_, plan) = from_file(text);
    let said = plan.unwrap_err().to_string();
    assert_eq!(said.lines().count(), 2, "both at once: {said}");
    for part in [":1: aclEnable=true: refused", ":2: brokerId=1: refused"] {
        assert!(said.contains(part), "{said}");
    }
    let mut conf = tempfile::NamedTempFile::new().unwrap();
    conf.write_all(text.as_bytes()).unwrap();
    let mut values = broker::values();
    file::read(conf.path(), &mut values);
    values.give("aclEnable", "false", Origin::Set);
    values.give("brokerId", "0", Origin::Set);
    let plan = broker::plan(&mut values, GIB).unwrap();
    assert_eq!(plan.settings.broker_id, 0);
    let (_, plan) = from_file("aclEnable=true\naclEnable=false\n");
    plan.unwrap();
}

#[test]
fn comments_hold_anything_and_the_last_line_counts() {
    let (values, plan) =
        from_file("# C:\\users\\upload\n \t# \\uD83D\\uDE00 \\\nbrokerName=b0\nlistenPort=20911\\");
    let settings = plan.unwrap().settings;
    assert_eq!(settings.broker_name, "b0");
    assert_eq!(settings.listen.port(), 20_911);
    assert!(values.origin("listenPort").to_string().ends_with(":4"));

    // A continued line is no comment, wherever the lines end.
    let text = "!\\upload\r\nbrokerName=a\\\r\n #b\rlistenPort=20911\r\n\\\r\n";
    let (values, plan) = from_file(text);
    assert_eq!(plan.unwrap().settings.broker_name, "a#b");
    assert!(values.origin("listenPort").to_string().ends_with(":4"));

    let (_, plan) = from_file("# \\upload\nbad=\\uZZZZ\n");
    let said = plan.unwrap_err().to_string();
    assert!(said.contains(":2: cannot be read"), "{said}");
}
