//! Transactions of a whole process: halves, ends, check-backs, and `kill -9` with halves open.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::client::{Pull, send_ext};
use common::{Client, Dice, Frame, Gantry, Record, code, ext, fresh, records, reply};

const GROUP: &str = "tx-producers";
const END: i32 = 37;
const CHECK: i32 = 39;
const RESUME: i32 = 323;
const COMMIT: &str = "8";
const ROLLBACK: &str = "12";

/// A half, as its producer knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Half {
    offset: String,
    physical: String,
}

impl Half {
    fn of_reply(reply: &Frame) -> Self {
        let id = &reply.ext["msgId"];
        let physical = i64::from_str_radix(&id[16..], 16).unwrap();
        Self {
            offset: reply.ext["queueOffset"].clone(),
            physical: physical.to_string(),
        }
    }

    fn of_check(check: &Frame) -> Self {
        Self {
            offset: check.ext["tranStateTableOffset"].clone(),
            physical: check.ext["commitLogOffset"].clone(),
        }
    }

    fn end(&self, verdict: &str, from_check: bool) -> Vec<(String, String)> {
        ext(&[
            ("producerGroup", GROUP),
            ("tranStateTableOffset", &self.offset),
            ("commitLogOffset", &self.physical),
            ("commitOrRollback", verdict),
            (
                "fromTransactionCheck",
                if from_check { "true" } else { "false" },
            ),
            ("msgId", "any"),
        ])
    }
}

fn half_ext(topic: &str, queue: i32, unique: &str) -> Vec<(String, String)> {
    half_ext_with(topic, queue, unique, &[])
}

fn half_ext_with(
    topic: &str,
    queue: i32,
    unique: &str,
    more: &[(&str, &str)],
) -> Vec<(String, String)> {
    let mut properties = vec![
        ("TRAN_MSG", "true"),
        ("PGROUP", GROUP),
        ("UNIQ_KEY", unique),
        ("KEYS", unique),
    ];
    properties.extend_from_slice(more);
    let mut fields = send_ext(topic, queue, &properties, false);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    for (name, value) in &mut fields {
        match name.as_str() {
            "f" => "4".clone_into(value),
            "g" => *value = now.as_millis().to_string(),
            _ => {}
        }
    }
    fields
}

fn send_half(client: &mut Client, topic: &str, queue: i32, body: &str) -> Half {
    let sent = client.call(
        code::SEND_V2,
        &half_ext(topic, queue, body),
        body.as_bytes(),
    );
    let sent = sent.expect(reply::SUCCESS);
    assert_eq!(sent.ext["queueId"], queue.to_string());
    assert_eq!(sent.ext["transactionId"], body);
    Half::of_reply(&sent)
}

/// Joins the producer group.
fn join(client: &mut Client, id: &str) {
    let groups = format!(r#"[{{"groupName":"{GROUP}"}}]"#);
    let beat = format!(r#"{{"clientID":"{id}","consumerDataSet":[],"producerDataSet":{groups}}}"#);
    client
        .call(code::HEART_BEAT, &[], beat.as_bytes())
        .expect(reply::SUCCESS);
}

fn bodies(stored: &[Record]) -> Vec<String> {
    let text = |record: &Record| String::from_utf8(record.body.clone()).unwrap();
    stored.iter().map(text).collect()
}

#[test]
fn commit_rollback_and_check_back() {
    let gantry = Gantry::up(&["transactionTimeOut=1500", "transactionCheckInterval=1000"]);
    let mut client = gantry.client();
    let topic = fresh("tx");
    client.create_topic(&topic, 2);
    join(&mut client, "a");
    let committed = send_half(&mut client, &topic, 1, "commit");
    let dropped = send_half(&mut client, &topic, 1, "rollback");
    let open = send_half(&mut client, &topic, 1, "open");
    assert_eq!(client.offset(code::MAX_OFFSET, &topic, 1, &[]), 0);

    // A waiting pull is woken by the commit.
    let mut consumer = gantry.client();
    let pull = Pull::new(&topic, 1, 0).waiting(10_000);
    let opaque = consumer.post(code::PULL, &pull.ext(), b"");
    consumer.flush().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    client
        .call(END, &committed.end(COMMIT, false), b"")
        .expect(reply::SUCCESS);
    let pulled = consumer.reply_to(opaque).unwrap().expect(reply::SUCCESS);
    let got = records(&pulled.body);
    assert_eq!(bodies(&got), ["commit"]);
    assert_eq!(got[0].sys_flag & 0xC, 8);
    assert_eq!(got[0].prepared_offset.to_string(), committed.physical);
    assert_eq!(got[0].properties["REAL_TOPIC"], topic);
    assert_eq!(got[0].properties["__transactionId__"], "commit");
    client
        .call(END, &dropped.end(ROLLBACK, false), b"")
        .expect(reply::SUCCESS);
    client
        .call(END, &dropped.end(COMMIT, false), b"")
        .expect(reply::SYSTEM_ERROR);

    let begun = Instant::now();
    let check = client.await_push(CHECK);
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(Half::of_check(&check), open);
    assert_eq!(check.ext["topic"], "RMQ_SYS_TRANS_HALF_TOPIC");
    assert_eq!(check.ext["transactionId"], "open");
    let asked = records(&check.body);
    assert_eq!(asked[0].topic, topic);
    assert_eq!(asked[0].queue_id, 1);
    assert_eq!(asked[0].properties["TRANSACTION_CHECK_TIMES"], "1");
    assert_eq!(asked[0].properties["PGROUP"], GROUP);
    client.post_oneway(END, &open.end(COMMIT, true), b"");
    client.flush().unwrap();
    common::until(5, "the answered check's message", || {
        (client.offset(code::MAX_OFFSET, &topic, 1, &[]) == 2).then_some(())
    });
    assert_eq!(bodies(&client.drain(&topic, 1, 0)), ["commit", "open"]);
}

#[test]
fn another_member_of_the_group_is_asked_when_the_sender_is_gone() {
    let gantry = Gantry::up(&["transactionTimeOut=1000", "transactionCheckInterval=500"]);
    let topic = fresh("tx");
    let mut sender = gantry.client();
    sender.create_topic(&topic, 1);
    join(&mut sender, "a");
    let half = send_half(&mut sender, &topic, 0, "orphan");
    drop(sender);
    let mut other = gantry.client();
    join(&mut other, "b");
    assert_eq!(Half::of_check(&other.await_push(CHECK)), half);
    other
        .call(END, &half.end(COMMIT, true), b"")
        .expect(reply::SUCCESS);
    assert_eq!(bodies(&other.drain(&topic, 0, 0)), ["orphan"]);
}

#[test]
fn what_nobody_knows_is_given_up_and_kept() {
    let gantry = Gantry::up(&[
        "transactionTimeOut=200",
        "transactionCheckInterval=200",
        "transactionCheckMax=2",
    ]);
    let mut client = gantry.client();
    let topic = fresh("tx");
    client.create_topic(&topic, 1);
    let half = send_half(&mut client, &topic, 0, "who knows");
    let kept = "TRANS_CHECK_MAX_TIME_TOPIC";
    common::until(20, "the half given up", || {
        let all = client.drain(kept, 0, 0);
        (bodies(&all) == ["who knows"]).then_some(())
    });
    client
        .call(END, &half.end(COMMIT, false), b"")
        .expect(reply::SYSTEM_ERROR);
    assert_eq!(client.offset(code::MAX_OFFSET, &topic, 0, &[]), 0);

    // 323 opens it again, under a new name.
    let SocketAddr::V4(broker) = gantry.broker() else {
        panic!("an IPv6 address")
    };
    let place = client.drain(kept, 0, 0)[0].physical_offset;
    let ip = u32::from(*broker.ip());
    let id = format!("{ip:08X}{:08X}{place:016X}", broker.port());
    let asked = ext(&[("topic", &topic), ("msgId", &id)]);
    let resumed = client.call(RESUME, &asked, b"").expect(reply::SUCCESS);
    let half = Half::of_reply(&resumed);
    client
        .call(END, &half.end(COMMIT, true), b"")
        .expect(reply::SUCCESS);
    assert_eq!(bodies(&client.drain(&topic, 0, 0)), ["who knows"]);
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

#[test]
fn a_half_with_a_delay_waits_from_its_commit_on_also_over_a_kill() {
    let mut gantry = Gantry::up(&["messageDelayLevel=2s"]);
    let mut client = gantry.client();
    let topic = fresh("tx-later");
    client.create_topic(&topic, 2);
    let fields = half_ext_with(&topic, 1, "later", &[("DELAY", "1")]);
    let sent = client.call(code::SEND_V2, &fields, b"later");
    let half = Half::of_reply(&sent.expect(reply::SUCCESS));
    std::thread::sleep(Duration::from_millis(700));
    let committed_ms = now_ms();
    client
        .call(END, &half.end(COMMIT, false), b"")
        .expect(reply::SUCCESS);
    assert!(client.drain(&topic, 1, 0).is_empty());
    gantry.kill9();
    gantry.start();
    gantry.await_ready();
    let mut client = gantry.client();
    let all = common::until(10, "the delayed message", || {
        let all = client.drain(&topic, 1, 0);
        (!all.is_empty()).then_some(all)
    });
    assert_eq!(bodies(&all), ["later"]);
    assert_eq!(all[0].sys_flag & 0xC, 8, "committed");
    // The record bears the time of the core's last tick, at most 10 ms back.
    let waited_ms = all[0].store_timestamp - committed_ms;
    assert!(waited_ms >= 2_000 - 10, "{waited_ms}");
}

/// What a producer of one round knows.
#[derive(Default)]
struct Round {
    /// Body → half, acknowledged.
    acked: HashMap<String, Half>,
}

/// Bodies starting with `c` are committed, with `r` rolled back, with `o` left open.
fn produce_until_broken(addr: SocketAddr, topic: &str, round: u32) -> Round {
    let mut client = Client::connect(addr);
    let mut known = Round::default();
    for n in 0_u32.. {
        let kind = ["c", "r", "o"][(n % 3) as usize];
        let body = format!("{kind}/{round}/{n}");
        let queue = i32::try_from(n % 2).unwrap();
        let sent = client.try_call(
            code::SEND_V2,
            &half_ext(topic, queue, &body),
            body.as_bytes(),
        );
        let Ok(sent) = sent else { return known };
        let half = Half::of_reply(&sent.expect(reply::SUCCESS));
        let verdict = match kind {
            "c" => Some(COMMIT),
            "r" => Some(ROLLBACK),
            _ => None,
        };
        if let Some(verdict) = verdict {
            client.post_oneway(END, &half.end(verdict, false), b"");
        }
        known.acked.insert(body, half);
        if client.flush().is_err() {
            return known;
        }
    }
    known
}

/// Answers checks by what the body says, until none comes for a while.
fn answer_checks(client: &mut Client, known: &HashMap<String, Half>) {
    client
        .stream()
        .set_read_timeout(Some(Duration::from_secs(4)))
        .unwrap();
    while let Ok(frame) = client.next_frame() {
        if frame.code != CHECK {
            continue;
        }
        let body = bodies(&records(&frame.body)).remove(0);
        let half = Half::of_check(&frame);
        if let Some(told) = known.get(&body) {
            assert_eq!(*told, half, "{body}");
        }
        let verdict = if body.starts_with('r') {
            ROLLBACK
        } else {
            COMMIT
        };
        client.post_oneway(END, &half.end(verdict, true), b"");
        client.flush().unwrap();
    }
}

fn kill_with_open_halves(flush: &str) {
    let mut gantry = Gantry::up(&[
        flush,
        "transactionTimeOut=1000",
        "transactionCheckInterval=1000",
    ]);
    let topic = fresh("tx-crash");
    gantry.client().create_topic(&topic, 2);
    let rounds = if common::quick() { 2 } else { 5 };
    let mut known: HashMap<String, Half> = HashMap::new();
    let mut dice = Dice(7);
    for round in 0..rounds {
        let (addr, name) = (gantry.broker(), topic.clone());
        let producer = std::thread::spawn(move || produce_until_broken(addr, &name, round));
        std::thread::sleep(Duration::from_millis(100 + dice.roll() % 200));
        gantry.kill9();
        known.extend(producer.join().unwrap().acked);
        gantry.start();
        gantry.await_ready();
    }
    let mut producer = gantry.client();
    join(&mut producer, "survivor");
    answer_checks(&mut producer, &known);
    let mut times: HashMap<String, u32> = HashMap::new();
    for queue in 0..2 {
        for body in bodies(&gantry.client().drain(&topic, queue, 0)) {
            *times.entry(body).or_default() += 1;
        }
    }
    for body in known.keys() {
        let seen = times.get(body).copied().unwrap_or(0);
        if body.starts_with('r') {
            assert_eq!(seen, 0, "{body} was rolled back");
        } else {
            // Message and op record are one run: a kill leaves both or neither.
            assert_eq!(seen, 1, "{body} was committed");
        }
    }
    let rolled_back = times.keys().any(|body| body.starts_with('r'));
    assert!(
        !rolled_back,
        "an unacknowledged half was delivered against its producer's word"
    );
    assert!(
        known.len() > 20 * rounds as usize,
        "only {} halves",
        known.len()
    );
    println!("{} halves over {rounds} kills", known.len());
}

#[test]
fn kill_9_under_async_flush_keeps_open_halves_and_their_ends() {
    kill_with_open_halves("flushDiskType=ASYNC_FLUSH");
}

#[test]
fn kill_9_under_sync_flush_keeps_open_halves_and_their_ends() {
    kill_with_open_halves("flushDiskType=SYNC_FLUSH");
}
