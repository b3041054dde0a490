//! Many queues: what an idle one costs, and how soon a store full of them takes messages again.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::thread;
use std::time::{Duration, Instant};

use common::client::{send_ext, topic_ext};
use common::{Client, Gantry, code, ext, fresh, reply, until};

/// From start to the first `SEND_OK`, with 100,000 queues and the optimised build.
const FIRST_SEND_OK: Duration = Duration::from_secs(2);
/// The last topic is known at the name server.
const REGISTERED: Duration = Duration::from_secs(5);
/// What an idle queue may cost, with its part of a topic of eight queues at the broker and at the
/// name server of the same process: in a broker that has filled it itself, and after a start.
const BYTES_MAX: u64 = 300;
/// The same in a run so small that what the heaps of five threads keep counts, up to 2 MiB each. It
/// can only add, so the smaller of two starts is taken: 297 to 345 were seen, 467 to 506 for the
/// larger.
const FURTHER_BYTES_MAX: u64 = 450;
/// A queue without a new record for so long goes to sleep, in runs of 100,000. Its actor has done
/// so by then: 1,024 do in a second.
const SLEEP_LARGE: Duration = Duration::from_mins(2);
/// The same in a short run.
const SLEEP_SMALL: Duration = Duration::from_secs(1);
const IN_FLIGHT: usize = 256;
/// Records of a queue.
const RECORDS: usize = 2;

/// Topics, and queues of each.
#[derive(Debug, Clone, Copy)]
struct Shape {
    topics: usize,
    queues: i32,
}

impl Shape {
    fn count(self) -> u64 {
        self.topics as u64 * u64::try_from(self.queues).unwrap()
    }
}

/// Makes many requests of one code, a window at a time; those refused as too much again.
fn pipeline(client: &mut Client, code: i32, mut wanted: Vec<Vec<(String, String)>>) {
    while !wanted.is_empty() {
        let mut again = Vec::new();
        for window in wanted.chunks(IN_FLIGHT) {
            let posted: Vec<i32> = window
                .iter()
                .map(|ext| client.post(code, ext, b"once"))
                .collect();
            client.flush().unwrap();
            for (ext, opaque) in window.iter().zip(posted) {
                let answer = client.reply_to(opaque).unwrap();
                if answer.code == reply::SYSTEM_BUSY {
                    again.push(ext.clone());
                } else {
                    answer.expect(reply::SUCCESS);
                }
            }
        }
        wanted = again;
    }
}

/// A server whose queues sleep early.
fn up(sleep: Duration) -> Gantry {
    let sleep = format!("queueSleepSeconds={}", sleep.as_secs());
    let gantry = Gantry::up(&["mappedFileSizeCommitLog=64M", &sleep]);
    thread::sleep(Duration::from_secs(1));
    gantry
}

/// Makes topics and puts a few records into each of their queues.
fn fill(gantry: &Gantry, topics: &[String], queues: i32) {
    let mut client = gantry.client();
    let made = topics.iter().map(|topic| topic_ext(topic, queues));
    pipeline(&mut client, code::CREATE_TOPIC, made.collect());
    for _ in 0..RECORDS {
        for queue in 0..queues {
            let sends = topics
                .iter()
                .map(|topic| send_ext(topic, queue, &[], false));
            pipeline(&mut client, code::SEND_V2, sends.collect());
        }
    }
}

/// What a start costs: until the first `SEND_OK`, and in memory.
fn restarted(gantry: &mut Gantry, last_topic: &str, how: &str) -> u64 {
    let took = gantry.start_to_send_ok(last_topic);
    let from = Instant::now();
    let mut name_server = gantry.namesrv_client();
    until(30, "the last topic is registered", || {
        let answer = name_server.call(code::ROUTE, &ext(&[("topic", last_topic)]), b"");
        (answer.code == reply::SUCCESS).then_some(())
    });
    let registered = took + from.elapsed();
    // What the start needed for itself has its time to go.
    thread::sleep(Duration::from_secs(1));
    println!("  after {how}: first SEND_OK {took:?}, registered {registered:?}");
    assert!(took < FIRST_SEND_OK, "first SEND_OK after {took:?}");
    assert!(registered < REGISTERED, "registered after {registered:?}");
    gantry.memory_bytes()
}

/// Queues of a broker that filled them, asleep; and after starts.
fn run(shape: Shape) {
    let mut gantry = up(SLEEP_LARGE);
    let empty = gantry.memory_bytes();
    let each = |bytes: u64| bytes.saturating_sub(empty) / shape.count();
    let stem = fresh("scale");
    let topics: Vec<String> = (0..shape.topics).map(|n| format!("{stem}-{n}")).collect();
    println!("{} queues, {shape:?}", shape.count());
    fill(&gantry, &topics, shape.queues);
    thread::sleep(Duration::from_secs(1));
    println!("  written: {} bytes each", each(gantry.memory_bytes()));
    // Looked for ten times in that while.
    thread::sleep(SLEEP_LARGE + SLEEP_LARGE / 5 + Duration::from_secs(5));
    let asleep = each(gantry.memory_bytes());
    println!("  asleep: {asleep} bytes each");
    assert!(asleep <= BYTES_MAX, "{asleep} bytes each, asleep");
    let last = &topics[shape.topics - 1];
    for how in ["a stop", "kill -9"] {
        end(&mut gantry, how);
        let bytes = each(restarted(&mut gantry, last, how));
        println!("  {bytes} bytes each");
        assert!(bytes <= BYTES_MAX, "{bytes} bytes each, after {how}");
    }
    is_whole(&gantry, &topics);
}

fn end(gantry: &mut Gantry, how: &str) {
    if how == "kill -9" {
        gantry.kill9();
    } else {
        assert!(gantry.stop("TERM").success());
    }
}

/// Nothing is lost and nothing is there twice; each start sent one more to the last topic.
fn is_whole(gantry: &Gantry, topics: &[String]) {
    let mut client = gantry.client();
    assert_eq!(client.drain(&topics[0], 1, 0).len(), RECORDS);
    let last = client.drain(&topics[topics.len() - 1], 0, 0).len();
    assert_eq!(last, RECORDS + 2);
}

/// What further queues cost, so that the noise of a small broker doesn't count.
#[test]
fn ten_thousand_further_queues_cost_little_and_start_soon() {
    let (few, further) = (250, 1_250);
    let further_queues = further as u64 * 8;
    let stem = fresh("scale");
    let topics: Vec<String> = (0..few + further).map(|n| format!("{stem}-{n}")).collect();
    let mut gantry = up(SLEEP_SMALL);
    fill(&gantry, &topics[..few], 8);
    thread::sleep(2 * SLEEP_SMALL);
    end(&mut gantry, "a stop");
    let base = restarted(&mut gantry, &topics[0], "a stop, 2,000 queues");
    fill(&gantry, &topics[few..], 8);
    thread::sleep(2 * SLEEP_SMALL);
    let start = |how| {
        end(&mut gantry, how);
        let bytes = restarted(&mut gantry, &topics[few + further - 1], how);
        let each = bytes.saturating_sub(base) / further_queues;
        println!("  {each} bytes each");
        each
    };
    let each = ["a stop", "kill -9"].map(start).into_iter().min().unwrap();
    assert!(each <= FURTHER_BYTES_MAX, "{each} bytes each");
    is_whole(&gantry, &topics[1..]);
}

#[test]
#[ignore = "three minutes; docs/TESTING.md"]
fn a_hundred_thousand_queues_in_many_topics() {
    run(Shape {
        topics: 12_500,
        queues: 8,
    });
}

#[test]
#[ignore = "three minutes; docs/TESTING.md"]
fn a_hundred_thousand_queues_in_large_topics() {
    run(Shape {
        topics: 100,
        queues: 1_000,
    });
}
