//! What a server costs that nobody uses: with 1,000 queues, 500 delayed messages and 500 open
//! halves, none of them due, under 1 % of a core and 64 MiB.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::client::send_ext;
use common::{Client, Gantry, code, fresh, reply};

const TOPICS: usize = 125;
const QUEUES: i32 = 8;
/// Delayed messages, and as many halves.
const OWED: usize = 500;
const RSS_BYTES_MAX: u64 = 64 << 20;
/// Of one core, while nothing happens.
const CPU_SHARE_MAX: f64 = 0.01;
const WATCH: Duration = Duration::from_secs(6);
/// Clock ticks of /proc per second, the same on every Linux that runs this.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds of processor time so far, user and system.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // Fields count from behind the name, which may hold anything.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}

/// Work for the supervisors, none of it due for an hour.
fn owe_for_later(client: &mut Client, topic: &str) {
    let delayed = [("TIMER_DELAY_SEC", "3600")];
    let half = [
        ("TRAN_MSG", "true"),
        ("PGROUP", "p"),
        ("CHECK_IMMUNITY_TIME_IN_SECONDS", "3600"),
    ];
    for marks in [&delayed[..], &half[..]] {
        for _ in 0..OWED {
            client
                .send(topic, 0, b"later", marks)
                .expect(reply::SUCCESS);
        }
    }
}

#[test]
fn a_thousand_queues_at_rest() {
    let gantry = Gantry::up(&[]);
    let mut client = gantry.client();
    let stem = fresh("idle");
    for n in 0..TOPICS {
        let topic = format!("{stem}-{n}");
        client.create_topic(&topic, QUEUES);
        // Each queue is used once: an actor that never lived would cost nothing.
        for queue in 0..QUEUES {
            client.post(code::SEND_V2, &send_ext(&topic, queue, &[], false), b"once");
        }
        client.flush().unwrap();
        for _ in 0..QUEUES {
            client.next_reply().unwrap().expect(reply::SUCCESS);
        }
    }
    owe_for_later(&mut client, &format!("{stem}-0"));
    // What follows use (flush, checkpoint) has its time; then nothing is left to do.
    std::thread::sleep(Duration::from_secs(8));
    let (from, before) = (Instant::now(), cpu_seconds(gantry.pid()));
    std::thread::sleep(WATCH);
    let used = cpu_seconds(gantry.pid()) - before;
    let share = used / from.elapsed().as_secs_f64();
    let rss = gantry.rss_bytes();
    println!(
        "{:.2} % of a core, {} MiB resident",
        share * 100.0,
        rss >> 20
    );
    assert!(share < CPU_SHARE_MAX, "{share:.4} of a core");
    assert!(rss < RSS_BYTES_MAX, "{} MiB", rss >> 20);
}
