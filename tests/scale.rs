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
/// What an idle queue may cost once it sleeps.
const ASLEEP_BYTES_MAX: u64 = 300;
/// The same with its part of a topic of eight queues, at the broker and at the name server of the
/// same process: 3 KB a topic, most of which the allocator keeps from reading the tables.
const WITH_TOPIC_BYTES_MAX: u64 = 700;
/// Before that, with the page it was filling, in a run so small that the noise of a start counts.
const AWAKE_BYTES_MAX: u64 = 1_000;
/// A queue without a new record for ten minutes goes to sleep within another one.
const UNTIL_ASLEEP: Duration = Duration::from_secs(680);
const IN_FLIGHT: usize = 256;

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

/// What one start cost.
fn restarted(gantry: &mut Gantry, last_topic: &str, how: &str) -> (Duration, u64) {
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
    assert!(registered < REGISTERED, "registered after {registered:?}");
    (took, gantry.memory_bytes())
}

/// `sleeps`: how long the queues are left alone. Then each may cost `bytes_max` after a start.
fn run(shape: Shape, sleeps: Option<Duration>, bytes_max: u64) {
    let mut gantry = Gantry::up(&["mappedFileSizeCommitLog=64M"]);
    thread::sleep(Duration::from_secs(1));
    let empty = gantry.memory_bytes();
    let each = |bytes: u64| bytes.saturating_sub(empty) / shape.count();
    let stem = fresh("scale");
    let topic = |n: usize| format!("{stem}-{n}");
    let mut client = gantry.client();
    let topics = (0..shape.topics).map(|n| topic_ext(&topic(n), shape.queues));
    pipeline(&mut client, code::CREATE_TOPIC, topics.collect());
    for queue in 0..shape.queues {
        let sends = (0..shape.topics).map(|n| send_ext(&topic(n), queue, &[], false));
        pipeline(&mut client, code::SEND_V2, sends.collect());
    }
    drop(client);
    println!("{} queues, {shape:?}", shape.count());
    thread::sleep(Duration::from_secs(1));
    println!("  written: {} bytes each", each(gantry.memory_bytes()));
    if let Some(sleeps) = sleeps {
        thread::sleep(sleeps);
        println!("  asleep: {} bytes each", each(gantry.memory_bytes()));
    }
    let last = topic(shape.topics - 1);
    let mut starts = Vec::new();
    assert!(gantry.stop("TERM").success());
    starts.push(restarted(&mut gantry, &last, "a stop"));
    gantry.kill9();
    starts.push(restarted(&mut gantry, &last, "kill -9"));
    for (took, memory) in starts {
        println!("  {} bytes each", each(memory));
        assert!(took < FIRST_SEND_OK, "first SEND_OK after {took:?}");
        assert!(each(memory) <= bytes_max, "{} bytes each", each(memory));
    }
    // Nothing is lost and nothing is there twice.
    let mut client = gantry.client();
    assert_eq!(client.drain(&topic(0), 1, 0).len(), 1);
    assert_eq!(client.drain(&last, 0, 0).len(), 3);
}

#[test]
fn ten_thousand_queues_cost_little_and_start_soon() {
    let shape = Shape {
        topics: 100,
        queues: 100,
    };
    run(shape, None, AWAKE_BYTES_MAX);
}

#[test]
#[ignore = "a quarter of an hour; docs/TESTING.md"]
fn a_hundred_thousand_queues_in_many_topics() {
    let shape = Shape {
        topics: 12_500,
        queues: 8,
    };
    run(shape, Some(UNTIL_ASLEEP), WITH_TOPIC_BYTES_MAX);
}

#[test]
#[ignore = "a quarter of an hour; docs/TESTING.md"]
fn a_hundred_thousand_queues_in_large_topics() {
    let shape = Shape {
        topics: 100,
        queues: 1_000,
    };
    run(shape, Some(UNTIL_ASLEEP), ASLEEP_BYTES_MAX);
}
