//! Finding messages by offset id, by unique key, by one of several KEYS, in a window of store
//! times, and offsets by time: on a fresh store, after every kind of restart, and after retention.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::time::Duration;

use common::client::Pull;
use common::{Client, Gantry, Record, code, ext, fresh, records, reply, until};

/// Seven of these fill a segment of 8 MiB; the last six lie in one that retention leaves.
const BODY_BYTES: usize = 1_100_000;
const MESSAGES: usize = 27;
/// Every third message carries this key, too.
const COMMON_KEY: &str = "third";

/// One search by key.
#[derive(Clone, Copy)]
struct Query<'a> {
    topic: &'a str,
    key: &'a str,
    unique: bool,
    times: (i64, i64),
}

impl Query<'_> {
    fn any_time<'a>(topic: &'a str, key: &'a str, unique: bool) -> Query<'a> {
        Query {
            topic,
            key,
            unique,
            times: (0, i64::MAX),
        }
    }

    /// Queue offsets of what was found, as they came; newest first.
    fn ask(&self, client: &mut Client) -> Vec<i64> {
        let (begin, end) = (self.times.0.to_string(), self.times.1.to_string());
        let mut fields = ext(&[
            ("topic", self.topic),
            ("key", self.key),
            ("maxNum", "64"),
            ("beginTimestamp", &begin),
            ("endTimestamp", &end),
        ]);
        if self.unique {
            fields.extend(ext(&[("_UNIQUE_KEY_QUERY", "true")]));
        }
        let answer = client.call(code::QUERY_MESSAGE, &fields, b"");
        if answer.code != reply::SUCCESS {
            assert_eq!(answer.code, reply::QUERY_NOT_FOUND, "{}", answer.remark);
            return Vec::new();
        }
        records(&answer.body)
            .iter()
            .map(|r| r.queue_offset)
            .collect()
    }
}

/// A message as its producer knows it, and as it came back right after it was sent.
struct Sent {
    unique: String,
    keys: String,
    small: Record,
}

/// Large ones in queue 0, so that segments fill; a small one with the same keys in queue 1.
fn fill(client: &mut Client, topic: &str) -> Vec<Sent> {
    let big = vec![b'b'; BODY_BYTES];
    let mut all: Vec<Sent> = Vec::new();
    for n in 0..MESSAGES {
        let unique = format!("{:0>24}{n:0>8}", std::process::id());
        let word = if n % 3 == 0 { COMMON_KEY } else { "other" };
        let keys = format!("k{n} {word} of-{}", n % 2);
        until(30, "a large send is taken", || {
            let got = client.send(topic, 0, &big, &[]);
            (got.code != reply::SYSTEM_BUSY).then(|| got.expect(reply::SUCCESS))
        });
        let props = [("KEYS", keys.as_str()), ("UNIQ_KEY", unique.as_str())];
        client.send(topic, 1, b"s", &props).expect(reply::SUCCESS);
        let pull = Pull::new(topic, 1, i64::try_from(n).unwrap()).at_most(1);
        let got = until(5, "the message is readable", || {
            let got = client.pull(&pull);
            (got.code == reply::SUCCESS).then_some(got)
        });
        let small = records(&got.body).remove(0);
        all.push(Sent {
            unique,
            keys,
            small,
        });
        // Store times that differ.
        std::thread::sleep(Duration::from_millis(3));
    }
    all
}

fn view(client: &mut Client, record: &Record) -> Option<Record> {
    let id = ext(&[("offset", &record.physical_offset.to_string())]);
    let answer = client.call(code::VIEW_MESSAGE, &id, b"");
    (answer.code == reply::SUCCESS).then(|| records(&answer.body).remove(0))
}

fn offset_at(client: &mut Client, topic: &str, time: i64, boundary: &str) -> i64 {
    let time = time.to_string();
    let more = [("timestamp", time.as_str()), ("boundaryType", boundary)];
    client.offset(code::SEARCH_OFFSET, topic, 1, &more)
}

/// Everything that must be found when the small messages from `first` on are left.
fn check(client: &mut Client, topic: &str, all: &[Sent], first: usize, when: &str) {
    let offsets = |wanted: &dyn Fn(usize) -> bool| -> Vec<i64> {
        let left = (first..all.len()).rev().filter(|n| wanted(*n));
        left.map(|n| i64::try_from(n).unwrap()).collect()
    };
    for (n, sent) in all.iter().enumerate() {
        let alone = offsets(&|other| other == n);
        assert_eq!(
            view(client, &sent.small),
            (n >= first).then(|| sent.small.clone()),
            "{when}: id of {n}"
        );
        let by_id = Query::any_time(topic, &sent.unique, true);
        assert_eq!(by_id.ask(client), alone, "{when}: unique key of {n}");
        let own = sent.keys.split(' ').next().unwrap();
        let own = Query::any_time(topic, own, false);
        assert_eq!(own.ask(client), alone, "{when}: own key of {n}");
    }
    // The second and third of several keys, and the times between which they were stored.
    let time = |n: usize| all[n].small.store_timestamp;
    let middle = usize::midpoint(first, all.len());
    let windows = [
        (0, i64::MAX, first..all.len()),
        (time(middle), time(middle + 1), middle..middle + 2),
        (0, time(middle), first..middle + 1),
        (time(middle) + 1, i64::MAX, middle + 1..all.len()),
        (0, time(first) - 1, 0..0),
        (time(all.len() - 1) + 1, i64::MAX, 0..0),
    ];
    for (begin, end, inside) in windows {
        for (key, every, rest) in [(COMMON_KEY, 3, 0), ("of-1", 2, 1)] {
            let query = Query {
                times: (begin, end),
                ..Query::any_time(topic, key, false)
            };
            let wanted = offsets(&|n| inside.contains(&n) && n % every == rest);
            assert_eq!(query.ask(client), wanted, "{when}: {key} {begin}..={end}");
        }
    }
    let offset = |n: usize| i64::try_from(n).unwrap();
    let last = all.len() - 1;
    for (at, lower, upper) in [
        (time(middle), middle, middle),
        (time(middle) + 1, middle + 1, middle),
        (0, first, first),
        (time(last) + 1_000, all.len(), last),
    ] {
        let found = ["LOWER", "UPPER"].map(|boundary| offset_at(client, topic, at, boundary));
        assert_eq!(found, [offset(lower), offset(upper)], "{when}: time {at}");
    }
}

/// Starts it again without mercy for old segments; the first small message that is left.
fn let_old_ones_go(gantry: &mut Gantry, topic: &str) -> usize {
    let hours: Vec<String> = (0..24).map(|hour| hour.to_string()).collect();
    let hours = format!("deleteWhen={}", hours.join(";"));
    assert!(gantry.stop("TERM").success());
    gantry.set(&["fileReservedTime=0", "cleanResourceInterval=200", &hours]);
    gantry.start();
    gantry.await_ready();
    let mut client = gantry.client();
    let mut before = 0;
    until(30, "old messages go, and no more of them", || {
        let first = client.offset(code::MIN_OFFSET, topic, 1, &[]);
        let is_over = first > 14 && first == before;
        before = first;
        std::thread::sleep(Duration::from_millis(700));
        is_over.then(|| usize::try_from(first).unwrap())
    })
}

#[test]
fn messages_and_times_are_found_before_and_after_restart_and_retention() {
    let mut gantry = Gantry::up(&["shardCount=1"]);
    let topic = fresh("find");
    let mut client = gantry.client();
    client.create_topic(&topic, 2);
    let all = fill(&mut client, &topic);
    check(&mut client, &topic, &all, 0, "fresh");
    assert!(gantry.stop("TERM").success());
    gantry.start();
    gantry.await_ready();
    check(&mut gantry.client(), &topic, &all, 0, "after a stop");
    gantry.kill9();
    gantry.start();
    gantry.await_ready();
    check(&mut gantry.client(), &topic, &all, 0, "after a kill");
    let first = let_old_ones_go(&mut gantry, &topic);
    check(&mut gantry.client(), &topic, &all, first, "after retention");
    gantry.kill9();
    gantry.start();
    gantry.await_ready();
    let when = "after retention and a kill";
    check(&mut gantry.client(), &topic, &all, first, when);
}

/// `queryCq`: each row has its own message's place, size and tag.
#[test]
fn rows_of_a_queues_index_are_those_of_its_messages() {
    const QUERY_CONSUME_QUEUE: i32 = 321;
    // Java's hashes of the tags.
    const TAGS: [(&str, i64); 4] = [("a", 97), ("b", 98), ("ab", 3105), ("", 0)];
    let mut gantry = Gantry::up(&[]);
    let mut client = gantry.client();
    let topic = fresh("rows");
    client.create_topic(&topic, 1);
    for (n, (tag, _)) in TAGS.iter().enumerate() {
        let body = vec![b'x'; 1 + 20 * n];
        let props: &[_] = if tag.is_empty() {
            &[]
        } else {
            &[("TAGS", *tag)]
        };
        client.send(&topic, 0, &body, props).expect(0);
    }
    for _ in 0..2 {
        let mut client = gantry.client();
        let stored = client.drain(&topic, 0, 0);
        let fields = ext(&[("topic", &topic), ("queueId", "0"), ("index", "1")]);
        let answer = client.call(QUERY_CONSUME_QUEUE, &fields, b"").expect(0);
        let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        let rows = json["queueData"].as_array().unwrap();
        assert_eq!(rows.len(), TAGS.len() - 1, "{json}");
        let expected = stored.iter().zip(TAGS).skip(1);
        for (row, (record, (_, hash))) in rows.iter().zip(expected) {
            assert_eq!(row["tagsCode"], hash, "{json}");
            assert_eq!(row["physicOffset"], record.physical_offset, "{json}");
            assert_eq!(row["physicSize"], record.total, "{json}");
        }
        assert_eq!(json["maxQueueIndex"], 4);
        gantry.kill9();
        gantry.start();
        gantry.await_ready();
    }
}
