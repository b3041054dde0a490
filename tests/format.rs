//! Stores of format 1, as earlier builds left them, are opened and read; one of a newer format is
//! refused.
//!
//! A fixture is a data folder with the zeros at the ends of its files cut off; `lengths.tsv` says
//! how long each was. `cargo test --test format -- --ignored` makes `format-1` anew, which is only
//! to be done for a format of another number, in a folder of its own.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::fmt::Write;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use common::{Client, Gantry, code, ext, reply};

const TOPIC: &str = "fixture";
const GROUP: &str = "fixture-readers";
const QUEUES: i32 = 4;
const MESSAGES: i32 = 20;
const SETTINGS: [&str; 2] = ["shardCount=2", "tailBytes=1M"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/format_fixtures")
}

fn files(folder: &Path, below: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder.join(below)).unwrap() {
        let entry = entry.unwrap();
        let path = below.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            files(folder, &path, out);
        } else {
            out.push(path);
        }
    }
}

/// Keeps the data folder `from` as the fixture `name`.
fn keep(from: &Path, name: &str) {
    let to = fixtures().join(name);
    let mut all = Vec::new();
    files(from, Path::new(""), &mut all);
    // Where this machine had the tail, and who held the folder, belong to no format.
    all.retain(|path| {
        path.extension().is_none_or(|end| end != "path") && path != Path::new("lock")
    });
    all.sort();
    let mut lengths = String::new();
    for path in all {
        let mut bytes = fs::read(from.join(&path)).unwrap();
        writeln!(lengths, "{}\t{}", path.display(), bytes.len()).unwrap();
        let used = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |at| at + 1);
        bytes.truncate(used);
        fs::create_dir_all(to.join(&path).parent().unwrap()).unwrap();
        fs::write(to.join(&path), bytes).unwrap();
    }
    fs::write(to.join("lengths.tsv"), lengths).unwrap();
}

/// Makes a data folder of the fixture `name` again.
fn restore(name: &str, to: &Path) {
    let from = fixtures().join(name);
    let lengths = fs::read_to_string(from.join("lengths.tsv")).unwrap();
    for line in lengths.lines() {
        let (path, bytes) = line.split_once('\t').unwrap();
        let into = to.join(path);
        fs::create_dir_all(into.parent().unwrap()).unwrap();
        fs::copy(from.join(path), &into).unwrap();
        let file = File::options().write(true).open(&into).unwrap();
        file.set_len(bytes.parse().unwrap()).unwrap();
    }
}

fn body(n: i32) -> String {
    format!(
        "message {n} {}",
        "x".repeat(usize::try_from(n * 37).unwrap())
    )
}

fn fill(client: &mut Client) {
    client.create_topic(TOPIC, QUEUES);
    for n in 0..MESSAGES {
        let props = [("TAGS", "tag"), ("KEYS", &format!("key-{n} all")[..])];
        client
            .send(TOPIC, n % QUEUES, body(n).as_bytes(), &props)
            .expect(reply::SUCCESS);
    }
    client
        .beat("fixture-reader", GROUP, TOPIC)
        .expect(reply::SUCCESS);
    let fields = ext(&[
        ("consumerGroup", GROUP),
        ("topic", TOPIC),
        ("queueId", "1"),
        ("commitOffset", "3"),
    ]);
    client
        .call(code::UPDATE_CONSUMER_OFFSET, &fields, b"")
        .expect(reply::SUCCESS);
}

fn check(client: &mut Client) {
    for queue in 0..QUEUES {
        let records = client.drain(TOPIC, queue, 0);
        assert_eq!(records.len(), usize::try_from(MESSAGES / QUEUES).unwrap());
        for (at, record) in (0..).zip(&records) {
            let n = at * QUEUES + queue;
            assert_eq!(record.body, body(n).as_bytes());
            assert_eq!(record.queue_offset, i64::from(at));
            assert_eq!(record.properties["KEYS"], format!("key-{n} all"));
        }
    }
    let asked = [("consumerGroup", GROUP)];
    assert_eq!(
        client.offset(code::QUERY_CONSUMER_OFFSET, TOPIC, 1, &asked),
        3
    );
    let fields = ext(&[
        ("topic", TOPIC),
        ("key", "key-7"),
        ("maxNum", "8"),
        ("beginTimestamp", "0"),
        ("endTimestamp", "9223372036854775807"),
    ]);
    let found = client
        .call(code::QUERY_MESSAGE, &fields, b"")
        .expect(reply::SUCCESS);
    assert_eq!(common::records(&found.body)[0].body, body(7).as_bytes());
}

fn open(name: &str) {
    let mut gantry = Gantry::prepared(&SETTINGS);
    restore(name, &gantry.data());
    let tails = format!("tailDir={}", gantry.data().display());
    gantry.set(&[&tails]);
    gantry.start();
    gantry.await_ready();
    let mut client = gantry.client();
    check(&mut client);
    client
        .send(TOPIC, 0, b"goes on", &[])
        .expect(reply::SUCCESS);
    drop(client);
    gantry.kill9();
    gantry.start();
    gantry.await_ready();
    let last = gantry
        .client()
        .drain(TOPIC, 0, i64::from(MESSAGES / QUEUES));
    assert_eq!(last[0].body, b"goes on");
}

#[test]
fn a_stopped_store_of_format_1_is_opened_and_read() {
    open("format-1-stopped");
}

#[test]
fn a_killed_store_of_format_1_is_opened_and_read_with_its_tail() {
    open("format-1-killed");
}

#[test]
fn a_store_of_a_newer_format_is_refused_untouched() {
    let mut gantry = Gantry::prepared(&SETTINGS);
    restore("newer", &gantry.data());
    gantry.start();
    assert!(!gantry.ends_within(20).success());
    let log = gantry.log();
    let wanted = "gantry.store has format 1000, this program knows up to 1: use a newer program";
    assert!(log.contains(wanted), "{log}");
    assert!(!gantry.data().join("shard-0").exists());
}

#[test]
#[ignore = "makes the fixtures; see the file's head"]
fn make_the_fixtures() {
    let mut gantry = Gantry::prepared(&SETTINGS);
    let tails = format!("tailDir={}", gantry.data().display());
    gantry.set(&[&tails]);
    gantry.start();
    gantry.await_ready();
    fill(&mut gantry.client());
    // Positions are stored a moment later.
    std::thread::sleep(std::time::Duration::from_secs(2));
    gantry.kill9();
    keep(&gantry.data(), "format-1-killed");
    // As if nothing had come to the device yet: only the tail has it.
    for shard in ["shard-0", "shard-1"] {
        let log = format!("format-1-killed/{shard}/{:020}.log", 0);
        fs::write(fixtures().join(log), b"").unwrap();
    }
    gantry.start();
    gantry.await_ready();
    gantry.stop("TERM");
    keep(&gantry.data(), "format-1-stopped");
    let newer = fixtures().join("newer");
    fs::create_dir_all(&newer).unwrap();
    let mut store = fs::read(gantry.data().join("gantry.store")).unwrap();
    store[4..8].copy_from_slice(&1000_u32.to_le_bytes());
    fs::write(newer.join("gantry.store"), &store[..40]).unwrap();
    fs::write(newer.join("lengths.tsv"), "gantry.store\t4096\n").unwrap();
}
