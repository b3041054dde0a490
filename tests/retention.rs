//! Old messages go: by age in their hour, when asked (329), held back by a topic's own time; and
//! what consumers, queries and searches are told then, before and after a restart.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::process::Command;
use std::time::Duration;

use common::client::{Pull, topic_ext};
use common::{Client, Frame, Gantry, code, ext, fresh, reply, until};

const BODY_BYTES: usize = 500_000;
/// Bodies that fill about five segments of 8 MiB.
const BODIES: usize = 80;
/// A checkpoint is taken after 5 s without news, and what lies before it may go.
const SECONDS: u64 = 40;
const ALL_DAY: &str = "deleteWhen=0;1;2;3;4;5;6;7;8;9;10;11;12;13;14;15;16;17;18;19;20;21;22;23";

/// One shard, looked after several times a second, in which nothing is young enough to stay.
fn eager(more: &[&str]) -> Gantry {
    let usual = [
        "shardCount=1",
        "cleanResourceInterval=200",
        "fileReservedTime=0",
    ];
    Gantry::up(&[&usual, more].concat())
}

fn fill(client: &mut Client, topic: &str, from: usize, count: usize) {
    for n in from..from + count {
        let mut body = format!("{n}/").into_bytes();
        body.resize(BODY_BYTES, b'.');
        let key = format!("key-{n}");
        until(30, "a send is taken", || {
            let got = client.send(topic, 0, &body, &[("KEYS", &key)]);
            (got.code != reply::SYSTEM_BUSY).then(|| got.expect(reply::SUCCESS))
        });
    }
}

fn min(client: &mut Client, topic: &str) -> i64 {
    client.offset(code::MIN_OFFSET, topic, 0, &[])
}

fn await_min_above(client: &mut Client, topic: &str, offset: i64) -> i64 {
    until(SECONDS, "old messages go", || {
        let min = min(client, topic);
        (min > offset).then_some(min)
    })
}

fn number_of(body: &[u8]) -> i64 {
    let text = std::str::from_utf8(&body[..8]).unwrap();
    text.split('/').next().unwrap().parse().unwrap()
}

fn query(client: &mut Client, topic: &str, key: &str) -> Frame {
    let fields = ext(&[
        ("topic", topic),
        ("key", key),
        ("maxNum", "8"),
        ("beginTimestamp", "0"),
        ("endTimestamp", "9223372036854775807"),
    ]);
    client.call(code::QUERY_MESSAGE, &fields, b"")
}

/// Everything that must be true of a queue that begins at a `min` above 0.
fn check(client: &mut Client, topic: &str, first_physical: i64) {
    let min = min(client, topic);
    let moved = client.pull(&Pull::new(topic, 0, 0));
    assert_eq!(moved.code, reply::PULL_OFFSET_MOVED, "{}", moved.remark);
    assert_eq!(moved.number("nextBeginOffset"), min);
    assert_eq!(moved.number("minOffset"), min);
    let max = client.offset(code::MAX_OFFSET, topic, 0, &[]);
    assert_eq!(moved.number("maxOffset"), max);
    let rest = client.drain(topic, 0, min);
    assert_eq!(i64::try_from(rest.len()).unwrap(), max - min);
    for (offset, record) in (min..).zip(&rest) {
        assert_eq!(
            (record.queue_offset, number_of(&record.body)),
            (offset, offset)
        );
    }
    let queue = [("topic", topic), ("queueId", "0")];
    let earliest = client.call(code::EARLIEST_STORE_TIME, &ext(&queue), b"");
    let earliest = earliest.expect(reply::SUCCESS).number("timestamp");
    assert_eq!(earliest, rest[0].store_timestamp);
    let at = |client: &mut Client, time: i64| {
        client.offset(
            code::SEARCH_OFFSET,
            topic,
            0,
            &[("timestamp", &time.to_string())],
        )
    };
    assert_eq!(at(client, 0), min);
    assert_eq!(at(client, earliest), min);
    let gone = query(client, topic, "key-0");
    assert_eq!(gone.code, reply::QUERY_NOT_FOUND, "{}", gone.remark);
    let kept = query(client, topic, &format!("key-{}", max - 1)).expect(reply::SUCCESS);
    assert_eq!(common::records(&kept.body)[0].queue_offset, max - 1);
    let id = ext(&[("offset", &first_physical.to_string())]);
    let gone = client.call(code::VIEW_MESSAGE, &id, b"");
    assert_eq!(gone.code, reply::SYSTEM_ERROR);
    let id = ext(&[("offset", &rest[0].physical_offset.to_string())]);
    client
        .call(code::VIEW_MESSAGE, &id, b"")
        .expect(reply::SUCCESS);
    // A group that stood before that is told the same.
    let group = fresh("behind");
    client.beat("behind", &group, topic).expect(reply::SUCCESS);
    let fields = ext(&[
        ("consumerGroup", &group),
        ("topic", topic),
        ("queueId", "0"),
        ("commitOffset", "1"),
    ]);
    client
        .call(code::UPDATE_CONSUMER_OFFSET, &fields, b"")
        .expect(reply::SUCCESS);
    let mut behind = Pull::new(topic, 0, 1);
    behind.group = &group;
    let told = client.pull(&behind);
    assert_eq!(
        (told.code, told.number("nextBeginOffset")),
        (reply::PULL_OFFSET_MOVED, min)
    );
}

#[test]
fn old_messages_go_and_everyone_learns_where_the_queue_begins() {
    let mut gantry = eager(&[ALL_DAY]);
    let topic = fresh("old");
    let mut client = gantry.client();
    client.create_topic(&topic, 1);
    let quiet = fresh("quiet");
    client.create_topic(&quiet, 1);
    client.send(&quiet, 0, b"early", &[]).expect(reply::SUCCESS);
    fill(&mut client, &topic, 0, 1);
    let first = client.drain(&topic, 0, 0)[0].physical_offset;
    fill(&mut client, &topic, 1, BODIES - 1);
    await_min_above(&mut client, &topic, 30);
    // The last drop is over once the checkpoint at rest has been taken and used.
    std::thread::sleep(Duration::from_secs(7));
    check(&mut client, &topic, first);
    let max = client.offset(code::MAX_OFFSET, &quiet, 0, &[]);
    assert_eq!(
        (min(&mut client, &quiet), max),
        (1, 1),
        "an emptied queue keeps its place"
    );
    gantry.kill9();
    gantry.start();
    gantry.await_ready();
    check(&mut gantry.client(), &topic, first);
    gantry.stop("TERM");
    // The whole log is read again, from where it begins now.
    std::fs::remove_file(gantry.data().join("shard-0/checkpoint")).unwrap();
    gantry.start();
    gantry.await_ready();
    let mut client = gantry.client();
    check(&mut client, &topic, first);
    let late = client.send(&quiet, 0, b"late", &[]).expect(reply::SUCCESS);
    assert_eq!(late.number("queueOffset"), 1, "no offset twice");
}

/// `deleteWhen` with an hour that is far away.
fn another_hour() -> String {
    let out = Command::new("date").arg("+%H").output().unwrap();
    let hour: u32 = String::from_utf8(out.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    format!("deleteWhen={:02}", (hour + 12) % 24)
}

#[test]
fn nothing_goes_outside_its_hour_until_an_operator_asks() {
    // However full the disk is on which this runs: above 75 % every hour would be one to delete in.
    let roomy = ["diskMaxUsedSpaceRatio=95", "cleanFileForciblyEnable=false"];
    let gantry = eager(&[&another_hour(), roomy[0], roomy[1]]);
    let topic = fresh("hour");
    let mut client = gantry.client();
    client.create_topic(&topic, 1);
    fill(&mut client, &topic, 0, BODIES);
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(min(&mut client, &topic), 0);
    let asked = client.call(code::DELETE_EXPIRED_COMMITLOG, &[], b"");
    asked.expect(reply::SUCCESS);
    await_min_above(&mut client, &topic, 30);
}

fn set_own_time(client: &mut Client, topic: &str, hours: &str) {
    let mut fields = topic_ext(topic, 1);
    fields.push(("attributes".to_owned(), format!("+reserve.time={hours}")));
    client
        .call(code::CREATE_TOPIC, &fields, b"")
        .expect(reply::SUCCESS);
}

#[test]
fn a_topic_with_a_longer_time_of_its_own_keeps_its_messages() {
    let gantry = eager(&[ALL_DAY]);
    let (kept, usual) = (fresh("kept"), fresh("usual"));
    let mut client = gantry.client();
    set_own_time(&mut client, &kept, "1");
    client.create_topic(&usual, 1);
    fill(&mut client, &usual, 0, 20);
    client
        .send(&kept, 0, b"for an hour", &[])
        .expect(reply::SUCCESS);
    fill(&mut client, &usual, 20, BODIES - 20);
    // What lies before the kept message goes, its segment and those behind it stay.
    let first = await_min_above(&mut client, &usual, 5);
    std::thread::sleep(Duration::from_secs(7));
    let first = first.max(min(&mut client, &usual));
    assert!((5..=20).contains(&first), "{first}");
    assert_eq!(client.drain(&kept, 0, 0)[0].body, b"for an hour");
    // Without its own time it goes with the others.
    set_own_time(&mut client, &kept, "-1");
    await_min_above(&mut client, &usual, 30);
    assert_eq!(min(&mut client, &kept), 1);
}

#[test]
fn the_keys_say_what_they_do() {
    let settings = ["diskMaxUsedSpaceRatio=99", "fileReservedTime=48"];
    let args = [
        "broker",
        "--print-config",
        "--set",
        settings[0],
        "--set",
        settings[1],
    ];
    let (ok, out, err) = common::process::run(&args, b"");
    assert!(ok, "{err}");
    for key in [
        "deleteWhen",
        "fileReservedTime",
        "diskMaxUsedSpaceRatio",
        "diskSpaceCleanForciblyRatio",
        "diskSpaceWarningLevelRatio",
        "cleanFileForciblyEnable",
        "cleanResourceInterval",
    ] {
        let lines: Vec<&str> = out.lines().collect();
        let at = lines
            .iter()
            .position(|line| line.starts_with(&format!("{key}=")))
            .unwrap();
        assert!(lines[at - 1].contains("read at start"), "{}", lines[at - 1]);
    }
    assert!(
        err.contains("diskMaxUsedSpaceRatio=99: 95 is used"),
        "{err}"
    );
}
