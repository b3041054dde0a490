//! From start to the first `SEND_OK`, with 1 GiB in the log, or as many as `GANTRY_RESTART_GIB`
//! says. A suite of its own: nothing else runs beside it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::time::{Duration, Instant};

use common::client::send_ext;
use common::{Client, Gantry, code, fresh, reply};

/// What a restart of the optimised build may take; `tests/run` measures that one.
const FIRST_SEND_OK: Duration = Duration::from_millis(300);
/// What Cargo's own, unoptimised build may take, so that `cargo test` says something, too.
const FIRST_SEND_OK_UNOPTIMISED: Duration = Duration::from_millis(1_500);
/// Restarts of each kind; the best counts, the machine is shared.
const TRIES: u32 = 3;
const BODY_BYTES: usize = 64 << 10;
const IN_FLIGHT: u64 = 32;

/// Starts the process and sends until a send succeeds.
fn start_to_send_ok(gantry: &mut Gantry, topic: &str) -> Duration {
    let from = Instant::now();
    gantry.start();
    let mut last = "no connection".to_owned();
    loop {
        assert!(gantry.is_alive(), "it ended instead of starting");
        assert!(
            from.elapsed() < Duration::from_mins(3),
            "no SEND_OK within three minutes, at last: {last}"
        );
        if let Ok(mut client) = Client::try_connect(gantry.broker()) {
            let fields = send_ext(topic, 0, &[], false);
            let answer = client.try_call(code::SEND_V2, &fields, b"first");
            match answer {
                Ok(answer) if answer.code == reply::SUCCESS => return from.elapsed(),
                Ok(answer) => last = format!("code {}: {}", answer.code, answer.remark),
                Err(error) => last = error.to_string(),
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

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
        killed.push(start_to_send_ok(&mut gantry, &topic));
    }
    for _ in 0..TRIES {
        assert!(gantry.stop("TERM").success());
        stopped.push(start_to_send_ok(&mut gantry, &topic));
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
}
