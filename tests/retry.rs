//! Messages sent back (36) while the broker is killed: what was taken comes again, after its delay.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::client::send_ext;
use common::{Client, Dice, Gantry, code, ext, fresh, reply, until};

const SEND_BACK: i32 = 36;
const MESSAGES: usize = 6_000;
/// Sends, or messages sent back, that wait for their reply.
const IN_FLIGHT: usize = 64;
const KILLS: usize = 3;
/// A kill comes after so many requests at least, and up to so many more.
const ASKED_MIN: usize = 200;
const ASKED_MORE: u64 = 600;

/// Messages of a topic: body → physical offset.
fn produce(client: &mut Client, topic: &str) -> Vec<(String, i64)> {
    let mut sent = Vec::new();
    let mut waiting = HashMap::new();
    for n in 0..MESSAGES {
        let body = n.to_string();
        let fields = send_ext(topic, 0, &[], false);
        let opaque = client.post(code::SEND_V2, &fields, body.as_bytes());
        waiting.insert(opaque, body);
        while waiting.len() >= IN_FLIGHT || (n + 1 == MESSAGES && !waiting.is_empty()) {
            client.flush().unwrap();
            let got = client.next_reply().unwrap().expect(reply::SUCCESS);
            let physical = i64::from_str_radix(&got.ext["msgId"][16..], 16).unwrap();
            sent.push((waiting.remove(&got.opaque).unwrap(), physical));
        }
    }
    sent
}

/// Sends messages back until the broker dies; those that it took.
fn send_back_until_broken(
    addr: SocketAddr,
    group: &str,
    messages: &[(String, i64)],
    asked: &AtomicUsize,
) -> (usize, Vec<String>) {
    let mut client = Client::connect(addr);
    let (mut taken, mut waiting) = (Vec::new(), HashMap::new());
    for (n, (body, physical)) in messages.iter().enumerate() {
        let fields = ext(&[
            ("group", group),
            ("offset", &physical.to_string()),
            ("delayLevel", "1"),
            ("originTopic", "any"),
            ("unitMode", "false"),
        ]);
        waiting.insert(client.post(SEND_BACK, &fields, b""), body);
        asked.store(n + 1, Ordering::Relaxed);
        if client.flush().is_err() {
            return (n + 1, taken);
        }
        while waiting.len() >= IN_FLIGHT {
            let Ok(got) = client.next_reply() else {
                return (n + 1, taken);
            };
            let body = waiting.remove(&got.opaque).unwrap();
            if got.code != reply::SYSTEM_BUSY {
                got.expect(reply::SUCCESS);
                taken.push(body.clone());
            }
        }
    }
    panic!("the broker was not killed in time")
}

fn kill_with_retries_in_flight(flush: &str) {
    let mut gantry = Gantry::up(&[flush, "messageDelayLevel=1s 2s"]);
    let (topic, group) = (fresh("retries"), fresh("retry-group"));
    let again = format!("%RETRY%{group}");
    let mut client = gantry.client();
    client.create_topic(&topic, 1);
    let messages = produce(&mut client, &topic);
    let (mut from, mut taken) = (0, Vec::new());
    let mut dice = Dice(5);
    for _ in 0..KILLS {
        let (addr, name) = (gantry.broker(), group.clone());
        let rest = messages[from..].to_vec();
        let count = Arc::new(AtomicUsize::new(0));
        let asked = Arc::clone(&count);
        let consumer =
            std::thread::spawn(move || send_back_until_broken(addr, &name, &rest, &asked));
        // By their number, not by the clock: the broker may be fast.
        let enough = ASKED_MIN + usize::try_from(dice.roll() % ASKED_MORE).unwrap();
        while count.load(Ordering::Relaxed) < enough && !consumer.is_finished() {
            std::hint::spin_loop();
        }
        gantry.kill9();
        let (asked, answered) = consumer.join().unwrap();
        from += asked;
        taken.extend(answered);
        gantry.start();
        gantry.await_ready();
    }
    let asked: BTreeSet<&str> = messages[..from].iter().map(|one| &*one.0).collect();
    let mut client = gantry.client();
    let mut times: HashMap<String, usize> = HashMap::new();
    until(20, "every message that was taken back", || {
        times.clear();
        for record in client.drain(&again, 0, 0) {
            assert_eq!(record.reconsume_times, 1);
            let body = String::from_utf8(record.body).unwrap();
            assert!(asked.contains(&*body), "{body} was never sent back");
            *times.entry(body).or_default() += 1;
        }
        taken
            .iter()
            .all(|one| times.contains_key(one))
            .then_some(())
    });
    let most = times.values().max().copied().unwrap_or(0);
    assert!(most <= 1 + KILLS, "a message came {most} times");
    assert!(taken.len() > 100, "only {} were taken", taken.len());
    let repeated = times.values().filter(|count| **count > 1).count();
    println!(
        "{} taken over {KILLS} kills, {repeated} came more than once",
        taken.len()
    );
}

#[test]
fn kill_9_under_async_flush_loses_no_retry_in_flight() {
    kill_with_retries_in_flight("flushDiskType=ASYNC_FLUSH");
}

#[test]
fn kill_9_under_sync_flush_loses_no_retry_in_flight() {
    kill_with_retries_in_flight("flushDiskType=SYNC_FLUSH");
}

/// A consumer that sends a message back itself may do so before anybody has heard of its group.
#[test]
fn a_send_to_a_retry_topic_makes_its_group() {
    let gantry = Gantry::up(&[]);
    let mut client = gantry.client();
    let group = fresh("new");
    let topic = format!("%RETRY%{group}");
    client.send(&topic, 0, b"again", &[]).expect(reply::SUCCESS);
    let groups = client.call(code::ALL_GROUPS, &[], b"");
    let groups = groups.expect(reply::SUCCESS).text();
    assert!(groups.contains(&group), "{groups}");
    assert_eq!(client.drain(&topic, 0, 0).len(), 1);
    drop(client);

    let gantry = Gantry::up(&["autoCreateSubscriptionGroup=false"]);
    let mut client = gantry.client();
    let refused = client.send(&topic, 0, b"again", &[]);
    assert_eq!(refused.code, reply::SUBSCRIPTION_GROUP_NOT_EXIST);
}
