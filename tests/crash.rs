//! `kill -9` in the middle of many sends on the way, again and again on the same data: every
//! acknowledged message is there once, at its acknowledged offset, in the order sent.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use common::client::send_ext;
use common::{Client, Dice, Gantry, Record, code, fresh, reply};

const CONNECTIONS: i32 = 4;
/// Sends of one connection that wait for their reply.
const IN_FLIGHT: usize = 64;
/// Two connections share each queue.
const QUEUES: i32 = 2;

fn rounds() -> u32 {
    if common::quick() { 4 } else { 20 }
}

/// An acknowledged message.
struct Acked {
    queue: i32,
    offset: i64,
    body: Vec<u8>,
}

/// Keeps a window of sends on the way until the connection breaks; what was acknowledged by then.
fn send_until_broken(addr: SocketAddr, topic: &str, who: i32, round: u32) -> Vec<Acked> {
    let queue = who % QUEUES;
    let mut client = Client::connect(addr);
    let mut waiting: HashMap<i32, Vec<u8>> = HashMap::new();
    let mut acked = Vec::new();
    let mut dice = Dice(u64::from(round * 10 + who.unsigned_abs()));
    for n in 0_u64.. {
        // Mostly small, sometimes several blocks, so that runs end anywhere in a block.
        let len = if dice.below(50) == 0 {
            20_000
        } else {
            dice.below(900)
        };
        let mut body = format!("{round}/{who}/{n}/").into_bytes();
        body.resize(body.len() + len, b'.');
        let opaque = client.post(code::SEND_V2, &send_ext(topic, queue, &[], false), &body);
        waiting.insert(opaque, body);
        if client.flush().is_err() {
            return acked;
        }
        while waiting.len() >= IN_FLIGHT {
            let Ok(got) = client.next_reply() else {
                return acked;
            };
            let body = waiting.remove(&got.opaque).unwrap();
            // A refusal under load is no promise; anything else but success is a failure.
            if got.code == reply::SYSTEM_BUSY {
                continue;
            }
            let got = got.expect(reply::SUCCESS);
            acked.push(Acked {
                queue,
                offset: got.number("queueOffset"),
                body,
            });
        }
    }
    acked
}

/// `(round, who, n)` of a body.
fn origin(body: &[u8]) -> (u32, i32, u64) {
    let text = std::str::from_utf8(body).unwrap();
    let mut parts = text.split('/');
    let mut next = || parts.next().unwrap();
    (
        next().parse().unwrap(),
        next().parse().unwrap(),
        next().parse().unwrap(),
    )
}

/// Everything of a queue from `from` on: no gap, no message twice, each sender's order kept.
fn check_queue(records: &[Record], from: i64) {
    let mut last: HashMap<(u32, i32), u64> = HashMap::new();
    for (at, record) in records.iter().enumerate() {
        assert_eq!(
            record.queue_offset,
            from + i64::try_from(at).unwrap(),
            "a gap"
        );
        assert_eq!(
            record.body_crc,
            common::record::crc31(&record.body),
            "a damaged body"
        );
        let (round, who, n) = origin(&record.body);
        if let Some(before) = last.insert((round, who), n) {
            assert!(before < n, "{round}/{who}: {n} comes after {before}");
        }
    }
}

fn kill_and_look(settings: &[&str]) {
    let mut gantry = Gantry::up(settings);
    let topic = fresh("crash");
    gantry.client().create_topic(&topic, QUEUES);
    let mut checked = vec![0_i64; usize::try_from(QUEUES).unwrap()];
    let mut dice = Dice(99);
    let mut total = 0;
    for round in 0..rounds() {
        let senders: Vec<JoinHandle<Vec<Acked>>> = (0..CONNECTIONS)
            .map(|who| {
                let (addr, topic) = (gantry.broker(), topic.clone());
                std::thread::spawn(move || send_until_broken(addr, &topic, who, round))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(60 + dice.roll() % 240));
        gantry.kill9();
        let acked: Vec<Acked> = senders
            .into_iter()
            .flat_map(|s| s.join().unwrap())
            .collect();
        total += acked.len();
        gantry.start();
        gantry.await_ready();
        let mut client = gantry.client();
        for queue in 0..QUEUES {
            let from = checked[usize::try_from(queue).unwrap()];
            let records = client.drain(&topic, queue, from);
            check_queue(&records, from);
            for message in acked.iter().filter(|a| a.queue == queue) {
                let at = usize::try_from(message.offset - from).unwrap();
                let record = records.get(at).unwrap_or_else(|| {
                    panic!(
                        "round {round}: acknowledged offset {} is lost",
                        message.offset
                    )
                });
                assert!(
                    record.body == message.body,
                    "round {round}: offset {}",
                    message.offset
                );
            }
            checked[usize::try_from(queue).unwrap()] += i64::try_from(records.len()).unwrap();
        }
    }
    // The whole of it once more, after all those restarts.
    let mut client = gantry.client();
    for queue in 0..QUEUES {
        let records = client.drain(&topic, queue, 0);
        assert_eq!(
            i64::try_from(records.len()).unwrap(),
            checked[usize::try_from(queue).unwrap()]
        );
        check_queue(&records, 0);
    }
    assert!(
        total > 20 * rounds() as usize,
        "only {total} messages were acknowledged"
    );
    println!("{total} acknowledged messages over {} kills", rounds());
}

#[test]
fn kill_9_under_async_flush_loses_nothing_acknowledged() {
    kill_and_look(&["flushDiskType=ASYNC_FLUSH"]);
}

#[test]
fn kill_9_under_sync_flush_loses_nothing_acknowledged() {
    kill_and_look(&["flushDiskType=SYNC_FLUSH"]);
}

#[test]
fn kill_9_right_after_a_topic_was_made_keeps_the_topic() {
    let mut gantry = Gantry::up(&[]);
    for round in 0..5 {
        let topic = fresh("made");
        let sent = gantry
            .client()
            .send(&topic, 0, b"auto", &[])
            .expect(reply::SUCCESS);
        gantry.kill9();
        gantry.start();
        gantry.await_ready();
        let got = gantry.client().drain(&topic, 0, 0);
        assert_eq!(got.len(), 1, "round {round}");
        assert_eq!(got[0].queue_offset, sent.number("queueOffset"));
        assert_eq!(got[0].body, b"auto");
    }
}
