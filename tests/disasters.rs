//! The disasters that need whole processes; those of a failing device are in
//! `storage/src/disaster_tests.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Client, Gantry, code, fresh, reply};

const QUEUES: i32 = 6;
const MESSAGES: usize = 120;
const PER_QUEUE: usize = 20;

fn fill(client: &mut Client, topic: &str) {
    client.create_topic(topic, QUEUES);
    for n in 0..MESSAGES {
        let queue = i32::try_from(n).unwrap() % QUEUES;
        let body = format!("{n}");
        client
            .send(topic, queue, body.as_bytes(), &[])
            .expect(reply::SUCCESS);
    }
}

fn check(client: &mut Client, topic: &str) {
    for queue in 0..QUEUES {
        let records = client.drain(topic, queue, 0);
        assert_eq!(records.len(), PER_QUEUE, "queue {queue}");
        for (at, record) in (0_i32..).zip(&records) {
            let body = format!("{}", at * QUEUES + queue);
            assert_eq!(
                (record.queue_offset, &record.body[..]),
                (at.into(), body.as_bytes())
            );
        }
    }
}

#[test]
fn disaster_second_process_on_the_same_folder() {
    let gantry = Gantry::up(&[]);
    let topic = fresh("first");
    fill(&mut gantry.client(), &topic);
    let mut second = Gantry::prepared(&[]);
    second.use_data(&gantry.data());
    second.start();
    assert!(!second.ends_within(20).success());
    let log = second.log();
    let held = format!("is in use by process {}", gantry.pid());
    assert!(log.contains(&held), "{log}");
    check(&mut gantry.client(), &topic);
    gantry
        .client()
        .send(&topic, 0, b"on", &[])
        .expect(reply::SUCCESS);
}

/// The copy's tail is the one that the first broker acknowledges from.
#[test]
fn disaster_copy_of_a_running_brokers_folder_is_started() {
    let mut gantry = Gantry::up(&[]);
    let topic = fresh("copied");
    fill(&mut gantry.client(), &topic);
    let copy = gantry.dir().join("copy");
    let copied = Command::new("cp")
        .arg("-a")
        .args([&gantry.data(), &copy])
        .status();
    assert!(copied.unwrap().success());
    let mut second = Gantry::prepared(&[]);
    second.use_data(&copy);
    second.start();
    assert!(!second.ends_within(20).success());
    let log = second.log();
    let why = "in use by another process, perhaps with a copy of this data folder";
    assert!(log.contains(why), "{log}");
    let last = fresh("last");
    fill(&mut gantry.client(), &last);
    gantry.kill9();
    gantry.start();
    gantry.await_ready();
    for topic in [&topic, &last] {
        check(&mut gantry.client(), topic);
    }
}

#[test]
fn disaster_data_folder_moved() {
    let mut gantry = Gantry::up(&[]);
    let topic = fresh("moved");
    fill(&mut gantry.client(), &topic);
    // Once after an orderly stop, once after a kill: then the tail still lies where it was.
    for (n, name) in ["one", "two"].into_iter().enumerate() {
        if n == 0 {
            gantry.stop("TERM");
        } else {
            gantry.kill9();
        }
        let to = gantry.dir().join(name);
        fs::rename(gantry.data(), &to).unwrap();
        gantry.use_data(&to);
        gantry.start();
        gantry.await_ready();
        check(&mut gantry.client(), &topic);
        let last = fresh("last");
        gantry.client().create_topic(&last, 1);
        gantry
            .client()
            .send(&last, 0, b"x", &[])
            .expect(reply::SUCCESS);
    }
}

#[test]
fn disaster_shards_differ_from_cores() {
    let mut gantry = Gantry::up(&["shardCount=3", "cores=1"]);
    let topic = fresh("shards");
    fill(&mut gantry.client(), &topic);
    for (cores, shards) in [("2", "5"), ("1", "1"), ("2", "3")] {
        gantry.kill9();
        gantry.set(&[&format!("cores={cores}"), &format!("shardCount={shards}")]);
        gantry.start();
        gantry.await_ready();
        check(&mut gantry.client(), &topic);
        assert!(gantry.log().contains("3 shards"), "{}", gantry.log());
    }
    let made = fresh("made");
    fill(&mut gantry.client(), &made);
    check(&mut gantry.client(), &made);
}

/// Their messages went with the old topics: they are not those of new ones.
#[test]
fn disaster_tables_lost() {
    let mut gantry = Gantry::up(&["shardCount=2"]);
    fill(&mut gantry.client(), &fresh("old"));
    gantry.stop("TERM");
    fs::remove_dir_all(gantry.data().join("tables")).unwrap();
    gantry.start();
    gantry.await_ready();
    let made = fresh("made");
    let mut client = gantry.client();
    client.create_topic(&made, QUEUES);
    for queue in 0..QUEUES {
        let bound = client.offset(code::MAX_OFFSET, &made, queue, &[]);
        assert_eq!((bound, client.drain(&made, queue, 0).len()), (0, 0));
    }
    fill(&mut client, &made);
    check(&mut client, &made);
    gantry.kill9();
    gantry.start();
    gantry.await_ready();
    check(&mut gantry.client(), &made);
}

#[test]
fn disaster_newer_store() {
    let mut gantry = Gantry::up(&[]);
    let topic = fresh("newer");
    fill(&mut gantry.client(), &topic);
    gantry.stop("TERM");
    let path = gantry.data().join("gantry.store");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[2], 4).unwrap();
    let before = listing(&gantry.data());
    gantry.start();
    assert!(!gantry.ends_within(20).success());
    let log = gantry.log();
    assert!(
        log.contains("gantry.store has format 2, this program knows up to 1"),
        "{log}"
    );
    assert_eq!(listing(&gantry.data()), before, "nothing is touched");
    file.write_all_at(&[1], 4).unwrap();
    gantry.start();
    gantry.await_ready();
    check(&mut gantry.client(), &topic);
}

/// Names and lengths below a folder.
fn listing(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let data = entry.metadata().unwrap();
        if data.is_dir() {
            all.extend(listing(&entry.path()));
        } else {
            all.push((entry.path(), data.len()));
        }
    }
    all.sort();
    all
}

/// Bytes of one damaged record's body.
const LARGE: usize = 20_000;

/// A stopped broker with 40 large messages of one queue, the 11th damaged on disk; the topic.
fn damaged() -> (Gantry, String) {
    let mut gantry = Gantry::up(&["shardCount=1", "flushDiskType=SYNC_FLUSH"]);
    let topic = fresh("damaged");
    let mut client = gantry.client();
    client.create_topic(&topic, 1);
    for n in 0..40_u8 {
        client
            .send(&topic, 0, &vec![n; LARGE], &[])
            .expect(reply::SUCCESS);
    }
    let tenth = &client.drain(&topic, 0, 0)[10];
    let position = u64::try_from(tenth.physical_offset).unwrap() + 9000;
    gantry.stop("TERM");
    let path = gantry.data().join("shard-0/00000000000000000000.log");
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[99; 16], position).unwrap();
    (gantry, topic)
}

fn numbers(client: &mut Client, topic: &str) -> Vec<u8> {
    let records = client.drain(topic, 0, 0);
    records.iter().map(|record| record.body[0]).collect()
}

fn all_but_the_tenth() -> Vec<u8> {
    (0..40).filter(|n| *n != 10).collect()
}

#[test]
fn disaster_corrupt_run_before_the_checkpoint() {
    let (mut gantry, topic) = damaged();
    gantry.start();
    gantry.await_ready();
    let mut client = gantry.client();
    assert_eq!(numbers(&mut client, &topic), all_but_the_tenth());
    assert_eq!(client.offset(code::MAX_OFFSET, &topic, 0, &[]), 40);
    let log = gantry.log();
    let said = log
        .lines()
        .filter(|line| line.contains("a damaged record is passed over"));
    let said: Vec<&str> = said.collect();
    assert_eq!(said.len(), 1, "{log}");
    assert!(
        said[0].contains("shard-0/00000000000000000000.log"),
        "{said:?}"
    );
    client.send(&topic, 0, &[77; 3], &[]).expect(reply::SUCCESS);
    assert_eq!(numbers(&mut client, &topic).last(), Some(&77));
}

fn admin(args: &[&str], gantry: &Gantry) -> (bool, String, String) {
    let data = gantry.data().display().to_string();
    let all = [&["admin", "log"], args, &["--data", &data]].concat();
    common::process::run(&all, b"")
}

#[test]
fn disaster_corrupt_run_that_a_start_would_replay() {
    let (mut gantry, topic) = damaged();
    fs::remove_file(gantry.data().join("shard-0/checkpoint")).unwrap();
    gantry.start();
    assert!(!gantry.ends_within(20).success());
    let log = gantry.log();
    assert!(
        log.contains("00000000000000000000.log: the log is damaged at position"),
        "{log}"
    );
    assert!(log.contains("gantry admin log repair"), "{log}");

    let (ok, out, err) = admin(&["verify"], &gantry);
    assert!(!ok && err.contains("1 damaged places"), "{out}{err}");
    let place = "shard-0/00000000000000000000.log: damaged from position ";
    assert!(out.contains(place) && out.contains("(1 runs)"), "{out}");

    let (ok, told, _) = admin(&["repair", "--dry-run"], &gantry);
    assert!(
        ok && told.contains("would give up") && told.contains(place),
        "{told}"
    );
    assert!(!admin(&["verify"], &gantry).0, "a dry run changes nothing");

    let (ok, told, err) = admin(&["repair"], &gantry);
    assert!(
        ok && told.contains("gave up") && told.contains(place),
        "{told}{err}"
    );
    let (ok, out, _) = admin(&["verify"], &gantry);
    assert!(ok && out.contains("0 damaged places"), "{out}");
    assert!(out.contains("given up by earlier repairs"), "{out}");
    assert!(admin(&["repair"], &gantry).1.contains("nothing to repair"));

    gantry.start();
    gantry.await_ready();
    let mut client = gantry.client();
    assert_eq!(numbers(&mut client, &topic), all_but_the_tenth());
    client.send(&topic, 0, &[77; 3], &[]).expect(reply::SUCCESS);
    assert_eq!(numbers(&mut client, &topic).last(), Some(&77));
    assert!(
        gantry
            .log()
            .contains("the records at offsets 10 to 10 are lost")
    );
}

#[test]
fn admin_log_prints_records_and_leaves_a_running_store_alone() {
    let mut gantry = Gantry::up(&["shardCount=2"]);
    let topic = fresh("dumped");
    let mut client = gantry.client();
    client.create_topic(&topic, QUEUES);
    let mut sent = Vec::new();
    for n in 0..12_i32 {
        let key = format!("k{n} other");
        let got = client.send(&topic, n % QUEUES, b"body", &[("KEYS", &key)]);
        got.clone().expect(reply::SUCCESS);
        sent.push((
            i64::from(n % QUEUES),
            got.number("queueOffset"),
            format!("k{n}"),
        ));
    }
    for command in ["verify", "dump", "repair"] {
        let (ok, _, err) = admin(&[command], &gantry);
        assert!(
            !ok && err.contains("is in use by process"),
            "{command}: {err}"
        );
    }
    gantry.stop("TERM");
    let (ok, out, err) = admin(&["dump", "--json", "--topic", &topic], &gantry);
    assert!(ok, "{err}");
    let rows: Vec<serde_json::Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut found: Vec<(i64, i64, String)> = rows
        .iter()
        .map(|row| {
            assert_eq!(row["topic"], topic.as_str());
            assert_eq!(row["keys"][1], "other");
            assert!(row["bytes"].as_u64().unwrap() > 90 && row["storeTimestamp"].is_u64());
            let number = |name: &str| row[name].as_i64().unwrap();
            let key = row["keys"][0].as_str().unwrap().to_owned();
            (number("queueId"), number("queueOffset"), key)
        })
        .collect();
    found.sort();
    sent.sort();
    assert_eq!(found, sent);
    let (ok, out, _) = admin(&["dump"], &gantry);
    assert!(ok && out.lines().count() == 12, "{out}");
    let (ok, out, _) = admin(&["verify"], &gantry);
    assert!(
        ok && out.contains("shard 0:") && out.contains("shard 1:"),
        "{out}"
    );
    assert_eq!(out.matches(" 0 damaged places").count(), 2, "{out}");
    let (ok, _, err) = common::process::run(&["admin", "log", "verify", "--data", "/nowhere"], b"");
    assert!(!ok && err.contains("/nowhere holds no store"), "{err}");
    refuses_a_shard_that_is_not_there(&gantry);
    ends_with_its_reader(&gantry);
}

fn refuses_a_shard_that_is_not_there(gantry: &Gantry) {
    for command in ["verify", "dump", "repair"] {
        let (ok, out, err) = admin(&[command, "--shard", "2"], gantry);
        assert!(
            !ok && err.contains("no such shard; it has 0 to 1"),
            "{command}: {out}{err}"
        );
    }
}

/// As `dump | head`: whoever reads has enough.
fn ends_with_its_reader(gantry: &Gantry) {
    let data = gantry.data().display().to_string();
    let mut child = std::process::Command::new(common::process::binary())
        .args(["admin", "log", "dump", "--data", &data])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success() && err.is_empty(), "{err}");
}
