//! The whole control plane, with the test as its data core.

mod admin;
mod delays;
mod durable;
mod group_changes;
mod groups;
mod lost_records;
mod offsets;
mod recalls;
mod registration;
mod retry_crashes;
pub(super) mod rig;
mod supervisors;
mod topics;

use rig::{Rig, peer, request, settings};

use gantry_protocol::code::request as code;
use gantry_protocol::code::response;

use crate::seam::{CatalogChange, OffsetChange, Ticket, ToControl, ToData};

#[test]
fn trap_26_the_built_in_topics_are_told_before_anything_else() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    rig.until(|m| matches!(m, ToData::Catalog(CatalogChange::GroupPut(_))));
    let topics = rig.topics();
    assert_eq!(topics["TBW102"].config.perm, 7);
    assert_eq!(topics["TBW102"].config.write_queue_nums, 8);
    assert_eq!(topics["BenchmarkTest"].config.read_queue_nums, 1024);
    assert_eq!(topics["SCHEDULE_TOPIC_XXXX"].config.write_queue_nums, 18);
    assert_eq!(topics["DefaultCluster_REPLY_TOPIC"].config.perm, 6);
    assert_eq!(topics["rmq_sys_SYNC_BROKER_MEMBER_b0"].config.perm, 1);
    assert!(!topics.contains_key("RMQ_SYS_TRACE_TOPIC"));
    rig.stop();
}

#[test]
fn a_send_makes_its_topic_and_a_restart_keeps_its_id() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    assert_eq!(rig.ensure_topic("T", "TBW102", 4), 0);
    let made = rig.topics()["T"].clone();
    assert_eq!((made.config.write_queue_nums, made.config.perm), (4, 6));
    let last = rig.seen.last().unwrap();
    assert!(
        matches!(last, ToData::Resolved { .. }),
        "the change came before the word"
    );
    assert_eq!(rig.ensure_topic("T", "TBW102", 16), 0, "it exists by now");
    assert_eq!(
        rig.ensure_topic("U", "SELF_TEST_TOPIC", 4),
        response::TOPIC_NOT_EXIST
    );
    assert_eq!(
        rig.ensure_topic("%RETRY%g", "nothing", 4),
        0,
        "falls back to one queue"
    );
    assert_eq!(rig.topics()["%RETRY%g"].config.write_queue_nums, 1);
    rig.stop();

    let mut rig = Rig::start(folder.path(), settings());
    assert_eq!(rig.ensure_topic("T", "TBW102", 4), 0);
    assert_eq!(rig.topics()["T"].id, made.id);
    assert_eq!(rig.ensure_topic("V", "TBW102", 4), 0);
    let newest = rig.topics()["V"].id;
    assert!(
        rig.topics()
            .iter()
            .all(|(name, entry)| name == "V" || entry.id != newest)
    );
    rig.stop();
}

#[test]
fn many_sends_to_one_new_topic_make_it_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    for n in 0..100 {
        rig.tell(ToControl::EnsureTopic {
            core: 0,
            ticket: Ticket(n),
            topic: "T".into(),
            default_topic: Some("TBW102".into()),
            default_topic_queue_nums: 4,
            unit_mode: false,
        });
    }
    assert_eq!(rig.resolved(Ticket(99)), 0);
    let is_put = |m: &&ToData| match m {
        ToData::Catalog(CatalogChange::TopicPut(entry)) => entry.config.name == "T",
        _ => false,
    };
    assert_eq!(rig.seen.iter().filter(is_put).count(), 1);
    rig.stop();
}

#[test]
fn trap_15_an_unbuilt_code_is_named_and_an_unknown_one_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    let reply = rig.ask(peer(1), request(code::POP_MESSAGE, &[], ""));
    assert_eq!(reply.code, response::REQUEST_CODE_NOT_SUPPORTED);
    assert!(reply.remark.unwrap().contains("POP_MESSAGE"));
    let reply = rig.ask(peer(1), request(7777, &[], ""));
    assert_eq!(reply.code, response::REQUEST_CODE_NOT_SUPPORTED);
    assert!(reply.remark.unwrap().contains("7777"));
    rig.stop();
}

#[test]
fn offsets_handed_over_are_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    assert_eq!(rig.ensure_topic("T", "TBW102", 4), 0);
    let id = rig.topics()["T"].id;
    let queue = gantry_storage::units::QueueKey {
        topic: id,
        queue: gantry_storage::units::QueueId(2),
    };
    let row = |offset| OffsetChange {
        queue,
        group: "g".into(),
        offset: Some(gantry_storage::units::QueueOffset(offset)),
    };
    rig.tell(ToControl::OffsetsChanged(vec![row(5)]));
    rig.tell(ToControl::OffsetsChanged(vec![row(9), row(7)]));
    rig.stop();

    let mut rig = Rig::start(folder.path(), settings());
    let loaded = rig.until(|m| matches!(m, ToData::OffsetsLoaded(_)));
    let ToData::OffsetsLoaded(rows) = loaded else {
        unreachable!()
    };
    let rows: Vec<_> = rows
        .into_iter()
        .map(|row| (row.queue, row.group, Some(row.offset)))
        .collect();
    let last = row(7);
    assert_eq!(
        rows,
        [(last.queue, last.group, last.offset)],
        "the last word counts, also when it is smaller (trap 73)"
    );
    assert_eq!(rig.control.as_ref().unwrap().loaded().offsets, 1);
    rig.stop();
}

#[test]
fn a_group_is_made_on_demand_unless_switched_off() {
    let folder = tempfile::tempdir().unwrap();
    let mut strict = settings();
    strict.auto_create_subscription_group = false.into();
    let mut rig = Rig::start(folder.path(), strict);
    let ensure = |ticket| ToControl::EnsureGroup {
        core: 0,
        ticket,
        group: "g".into(),
    };
    rig.tell(ensure(Ticket(1)));
    assert_eq!(
        rig.resolved(Ticket(1)),
        response::SUBSCRIPTION_GROUP_NOT_EXIST
    );
    rig.stop();
    let mut rig = Rig::start(folder.path(), settings());
    rig.tell(ensure(Ticket(2)));
    assert_eq!(rig.resolved(Ticket(2)), 0);
    assert!(rig.group("g").unwrap().live.is_none());
    rig.stop();
}

#[test]
fn a_part_that_panics_is_restarted_and_answers_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    assert_eq!(rig.ensure_topic("T", "TBW102", 4), 0);
    for part in ["topics", "groups", "offsets", "admin"] {
        rig.tell(ToControl::Request(crate::seam::ControlRequest {
            peer: peer(1),
            peer_addr: "127.0.0.1:1".parse().unwrap(),
            command: request(super::desk::INJECT_PANIC, &[("part", part)], ""),
            held: None,
        }));
    }
    assert_eq!(rig.ensure_topic("T", "TBW102", 4), 0);
    assert_eq!(rig.ensure_topic("U", "TBW102", 4), 0);
    assert_ne!(rig.topics()["T"].id, rig.topics()["U"].id);
    rig.tell(ToControl::EnsureGroup {
        core: 0,
        ticket: Ticket(3),
        group: "g".into(),
    });
    assert_eq!(rig.resolved(Ticket(3)), 0);
    assert!(!rig.shutdown.is_triggered());
    rig.stop();
}

#[test]
fn a_part_that_panics_again_and_again_ends_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::start(folder.path(), settings());
    for _ in 0..=gantry_runtime::control::RESTARTS_MAX {
        rig.tell(ToControl::Request(crate::seam::ControlRequest {
            peer: peer(1),
            peer_addr: "127.0.0.1:1".parse().unwrap(),
            command: request(super::desk::INJECT_PANIC, &[("part", "groups")], ""),
            held: None,
        }));
    }
    assert!(
        rig.shutdown
            .wait_blocking_for(std::time::Duration::from_secs(10))
    );
    assert!(
        rig.shutdown
            .reason()
            .unwrap()
            .to_string()
            .contains("groups")
    );
}
