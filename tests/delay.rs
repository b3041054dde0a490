//! Delayed messages and messages sent back, of a whole process: due times, recall, dead letters,
//! orderly restarts, and `kill -9` with messages pending.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use common::{Client, Dice, Frame, Gantry, Record, code, ext, fresh, reply};

const SEND_BACK: i32 = 36;
const RECALL: i32 = 370;
const LEVELS: &str = "messageDelayLevel=1s 2s 3s";

fn body(record: &Record) -> String {
    String::from_utf8(record.body.clone()).unwrap()
}

fn physical(sent: &Frame) -> i64 {
    i64::from_str_radix(&sent.ext["msgId"][16..], 16).unwrap()
}

fn await_all(client: &mut Client, topic: &str, count: usize) -> Vec<Record> {
    common::until(20, "the delayed messages", || {
        let all = client.drain(topic, 0, 0);
        (all.len() >= count).then_some(all)
    })
}

#[test]
fn levels_and_timers_come_when_due_and_one_recalled_never() {
    let gantry = Gantry::up(&[LEVELS, "recallMessageEnable=true"]);
    let mut client = gantry.client();
    let topic = fresh("delay");
    client.create_topic(&topic, 1);
    let mut sent_ms = HashMap::new();
    let mut send = |text: &str, wanted: (&str, &str)| {
        sent_ms.insert(text.to_owned(), now_ms());
        let properties = [wanted, ("UNIQ_KEY", text), ("TAGS", "t")];
        let sent = client.send(&topic, 0, text.as_bytes(), &properties);
        sent.expect(reply::SUCCESS)
    };
    send("level 2", ("DELAY", "2"));
    send("level 9 is 3", ("DELAY", "9"));
    send("timer", ("TIMER_DELAY_MS", "1234"));
    let gone = send("gone", ("TIMER_DELAY_MS", "2500"));
    let handle = &gone.ext["recallHandle"];
    let recalled = client.call(
        RECALL,
        &ext(&[("topic", &topic), ("recallHandle", handle)]),
        b"",
    );
    assert_eq!(recalled.expect(reply::SUCCESS).ext["msgId"], "gone");
    assert!(client.drain(&topic, 0, 0).is_empty());
    common::until(1, "the backlog in the runtime report", || {
        let report = client.call(code::GET_BROKER_RUNTIME, &[], b"").text();
        report.contains("delay: running, 3 to do").then_some(())
    });
    let all = await_all(&mut client, &topic, 3);
    let order: Vec<String> = all.iter().map(body).collect();
    assert_eq!(order, ["timer", "level 2", "level 9 is 3"]);
    for (record, after_ms) in all.iter().zip([1234, 2000, 3000]) {
        let took = record.store_timestamp - sent_ms[&body(record)];
        // The record bears the time of the core's last tick, at most 10 ms back.
        let due = after_ms - 10..after_ms + 2000;
        assert!(due.contains(&took), "{} after {took} ms", body(record));
        assert_eq!(record.properties["TAGS"], "t");
        assert_eq!(record.properties["REAL_TOPIC"], topic);
    }
    assert_eq!(client.drain(&topic, 0, 0).len(), 3);
}

#[test]
fn an_orderly_restart_delivers_once() {
    let mut gantry = Gantry::up(&[LEVELS]);
    let topic = fresh("delay");
    let mut client = gantry.client();
    client.create_topic(&topic, 1);
    for n in 0..100 {
        let ms = (500 + 40 * n).to_string();
        let sent = client.send(&topic, 0, ms.as_bytes(), &[("TIMER_DELAY_MS", &ms)]);
        sent.expect(reply::SUCCESS);
    }
    std::thread::sleep(Duration::from_millis(1500));
    assert!(gantry.stop("TERM").success());
    gantry.start();
    gantry.await_ready();
    let mut client = gantry.client();
    await_all(&mut client, &topic, 100);
    std::thread::sleep(Duration::from_millis(500));
    let mut seen: Vec<String> = client.drain(&topic, 0, 0).iter().map(body).collect();
    assert_eq!(seen.len(), 100, "each once");
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 100);
}

#[test]
fn what_was_delivered_some_seconds_before_a_kill_is_not_repeated() {
    let mut gantry = Gantry::up(&[LEVELS]);
    let topic = fresh("delay");
    let mut client = gantry.client();
    client.create_topic(&topic, 1);
    for n in 0..100 {
        // A few stay pending and hold the marks of their queue low.
        let ms = if n % 10 == 0 { "60000" } else { "300" };
        let sent = client.send(&topic, 0, b"once", &[("TIMER_DELAY_MS", ms)]);
        sent.expect(reply::SUCCESS);
    }
    await_all(&mut client, &topic, 90);
    // Marks are taken, wait for the log's flush (1 s), and are stored.
    std::thread::sleep(Duration::from_secs(4));
    gantry.kill9();
    gantry.start();
    gantry.await_ready();
    let mut client = gantry.client();
    common::until(10, "the log read again", || {
        let report = client.call(code::GET_BROKER_RUNTIME, &[], b"").text();
        report.contains("delay: running, 10 to do").then_some(())
    });
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(client.drain(&topic, 0, 0).len(), 90);
}

/// Sends delayed messages until the broker dies; body → the least time of its delivery, ms.
fn produce_until_broken(addr: SocketAddr, topic: &str, round: u64) -> HashMap<String, i64> {
    let mut client = Client::connect(addr);
    let mut dice = Dice(round);
    let mut acked = HashMap::new();
    for n in 0_u32.. {
        let ms = 100 + dice.roll() % 2_400;
        let (text, wanted) = (format!("{round}/{n}"), ms.to_string());
        let (wanted, least) = match n % 3 {
            0 => (("DELAY", "1"), 1000),
            _ => (("TIMER_DELAY_MS", &*wanted), i64::try_from(ms).unwrap()),
        };
        let fields = common::client::send_ext(topic, 0, &[wanted], false);
        let before = now_ms();
        match client.try_call(code::SEND_V2, &fields, text.as_bytes()) {
            Ok(sent) => {
                sent.expect(reply::SUCCESS);
                acked.insert(text, before + least);
            }
            Err(_) => return acked,
        }
    }
    acked
}

fn now_ms() -> i64 {
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

fn kill_with_pending(flush: &str) {
    let mut gantry = Gantry::up(&[flush, LEVELS]);
    let topic = fresh("delay-crash");
    gantry.client().create_topic(&topic, 1);
    let rounds = if common::quick() { 2 } else { 5 };
    let mut dice = Dice(11);
    let mut acked = HashMap::new();
    for round in 0..rounds {
        let (addr, name) = (gantry.broker(), topic.clone());
        let producer = std::thread::spawn(move || produce_until_broken(addr, &name, round));
        std::thread::sleep(Duration::from_millis(500 + dice.roll() % 1500));
        gantry.kill9();
        acked.extend(producer.join().unwrap());
        gantry.start();
        gantry.await_ready();
    }
    let mut client = gantry.client();
    let mut times: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    common::until(30, "every acknowledged delayed message", || {
        times.clear();
        for record in client.drain(&topic, 0, 0) {
            let of_body = times.entry(body(&record)).or_default();
            of_body.push(record.store_timestamp);
        }
        acked
            .keys()
            .all(|one| times.contains_key(one))
            .then_some(())
    });
    for (text, least) in &acked {
        let first = times[text][0];
        // The record bears the time of the core's last tick, at most 10 ms back.
        assert!(
            first + 10 >= *least,
            "{text} came {} ms early",
            least - first
        );
    }
    let twice = times.values().filter(|seen| seen.len() > 1).count();
    assert!(acked.len() > 20, "only {} messages", acked.len());
    println!(
        "{} messages over {rounds} kills, {twice} delivered more than once",
        acked.len()
    );
}

#[test]
fn kill_9_under_async_flush_loses_no_pending_message() {
    kill_with_pending("flushDiskType=ASYNC_FLUSH");
}

#[test]
fn kill_9_under_sync_flush_loses_no_pending_message() {
    kill_with_pending("flushDiskType=SYNC_FLUSH");
}

fn send_back(client: &mut Client, group: &str, at: i64, level: &str) -> Frame {
    let fields = ext(&[
        ("group", group),
        ("offset", &at.to_string()),
        ("delayLevel", level),
        ("originMsgId", "any"),
        ("originTopic", "any"),
        ("unitMode", "false"),
        ("maxReconsumeTimes", "2"),
    ]);
    client.call(SEND_BACK, &fields, b"")
}

#[test]
fn a_message_sent_back_comes_again_over_a_kill_and_ends_as_a_dead_letter() {
    let mut gantry = Gantry::up(&[LEVELS]);
    let (topic, group) = (fresh("retry"), fresh("retry-group"));
    let (again, dead) = (format!("%RETRY%{group}"), format!("%DLQ%{group}"));
    let mut client = gantry.client();
    client.create_topic(&topic, 1);
    let sent = client.send(&topic, 0, b"try me", &[("KEYS", "k")]);
    let first = physical(&sent.expect(reply::SUCCESS));
    send_back(&mut client, &group, first, "2").expect(reply::SUCCESS);
    assert!(client.drain(&again, 0, 0).is_empty());
    gantry.kill9();
    gantry.start();
    gantry.await_ready();
    let mut client = gantry.client();
    let tries = await_all(&mut client, &again, 1);
    let record = &tries[0];
    assert_eq!((body(record), record.reconsume_times), ("try me".into(), 1));
    assert_eq!(record.properties["RETRY_TOPIC"], topic);
    assert_eq!(record.properties["KEYS"], "k");
    // The second try, then none is left.
    send_back(&mut client, &group, record.physical_offset, "1").expect(reply::SUCCESS);
    let tries = await_all(&mut client, &again, 2);
    let last = tries.last().unwrap();
    assert_eq!(last.reconsume_times, 2);
    send_back(&mut client, &group, last.physical_offset, "0").expect(reply::SUCCESS);
    assert_eq!(client.offset(code::MAX_OFFSET, &dead, 0, &[]), 1);
    send_back(&mut client, &group, 1 << 40, "0").expect(reply::SYSTEM_ERROR);
}
