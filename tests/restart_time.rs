//! From start to the first `SEND_OK`, with 1 GiB in the log, or as many as `GANTRY_RESTART_GIB`
//! says. A suite of its own: nothing else runs beside it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::fs;
use std::time::Duration;

use common::client::send_ext;
use common::{Gantry, code, fresh, reply};

/// What a restart of the optimised build may take; `tests/run` measures that one.
const FIRST_SEND_OK: Duration = Duration::from_millis(300);
/// What Cargo's own, unoptimised build may take, so that `cargo test` says something, too.
const FIRST_SEND_OK_UNOPTIMISED: Duration = Duration::from_millis(1_500);
/// Restarts of each kind; the best counts, the machine is shared.
const TRIES: u32 = 3;
const BODY_BYTES: usize = 64 << 10;
const IN_FLIGHT: u64 = 32;

#[test]
fn a_gibibyte_in_the_log_does_not_delay_the_first_send() {
    let usual: u64 = if common::quick() { 128 << 20 } else { 1 << 30 };
    let asked = std::env::var("GANTRY_RESTART_GIB").ok();
    let total = asked.map_or(usual, |gib| gib.parse::<u64>().unwrap() << 30);
    // The default segment size: this is about the product as it is started.
    let mut gantry = Gantry::up(&["mappedFileSizeCommitLog=256M"]);
    let topic = fresh("big");
    let mut client = gantry.client();
    client.create_topic(&topic, 4);
    let count = total / BODY_BYTES as u64;
    let body = vec![b'g'; BODY_BYTES];
    let (mut sent, mut answered) = (0, 0);
    while answered < count {
        while sent < count && sent - answered < IN_FLIGHT {
            let queue = i32::try_from(sent % 4).unwrap();
            client.post(code::SEND_V2, &send_ext(&topic, queue, &[], false), &body);
            sent += 1;
        }
        client.flush().unwrap();
        match client.next_reply().unwrap() {
            busy if busy.code == reply::SYSTEM_BUSY => {
                // Flow control: not stored, so it is sent again a little later.
                std::thread::sleep(Duration::from_millis(20));
                sent -= 1;
            }
            answer => {
                answer.expect(reply::SUCCESS);
                answered += 1;
            }
        }
    }
    let mut killed = Vec::new();
    let mut stopped = Vec::new();
    for _ in 0..TRIES {
        gantry.kill9();
        killed.push(gantry.start_to_send_ok(&topic));
    }
    for _ in 0..TRIES {
        assert!(gantry.stop("TERM").success());
        stopped.push(gantry.start_to_send_ok(&topic));
    }
    println!("{count} messages of 64 KiB; after kill -9 {killed:?}; after a stop {stopped:?}");
    let mut client = gantry.client();
    let stored: i64 = (0..4)
        .map(|q| client.offset(code::MAX_OFFSET, &topic, q, &[]))
        .sum();
    assert_eq!(u64::try_from(stored).unwrap(), count + 2 * u64::from(TRIES));
    let unoptimised = std::env::var_os("GANTRY_BIN").is_none();
    let limit = if unoptimised {
        FIRST_SEND_OK_UNOPTIMISED
    } else {
        FIRST_SEND_OK
    };
    for (how, times) in [("kill -9", killed), ("a stop", stopped)] {
        let best = times.iter().min().unwrap();
        assert!(*best < limit, "{best:?} at best after {how}: {times:?}");
    }
    says_how_far_it_is(&mut gantry, &topic);
}

/// Without a checkpoint the whole log is read again, and a start that takes long says so.
fn says_how_far_it_is(gantry: &mut Gantry, topic: &str) {
    assert!(gantry.stop("TERM").success());
    for entry in fs::read_dir(gantry.data()).unwrap() {
        let checkpoint = entry.unwrap().path().join("checkpoint");
        if checkpoint.exists() {
            fs::remove_file(checkpoint).unwrap();
        }
    }
    let took = gantry.start_to_send_ok(topic);
    let told = gantry.log().matches("recovering the log").count();
    println!("without a checkpoint: {took:?}, progress told {told} times");
    // Opening the rest of a start takes a part of it.
    let due = took.saturating_sub(Duration::from_millis(700)).as_secs();
    assert!(told as u64 >= due.min(1), "{took:?} and not a word");
}
