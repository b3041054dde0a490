//! What was stored and delivered, by topic and by group, for the tools.
//!
//! **Owns** the counters behind codes 28, 202, 208, 315 and 317.
//! **Lives on** the control plane's thread, outside the actor that feeds it, so that its restart
//! forgets nothing; fed with batches of at most one a second and core.
//! **Invariants** names are RocketMQ's (`BrokerStatsManager`, 5.5.0): a topic's key is its name, a
//! group's is `topic@group`, the broker's is the cluster's name.
//! **Limits** [`KEYS_MAX`] topics and as many pairs of topic and group; a key that nothing was
//! counted under for a day is forgotten. Further ones aren't counted.
//! **Not here** counting (the queue actors), the table of 28 (`admin::runtime_report`).

pub mod rates;
pub mod windows;

use std::collections::HashMap;
use std::sync::Arc;

use gantry_protocol::fastjson::Value;
use gantry_protocol::system_topic;
use gantry_runtime::clock::local_day;
use gantry_storage::units::TopicId;

use crate::seam::Counted;

use rates::{Rates, Report, Traffic, per_second};
use windows::{Count, DAY, HOUR, MINUTE, Windows};

/// Most keys of one kind: with some 1.7 KiB each when they are busy all day, 56 MiB; one that was
/// used once takes 150 bytes.
pub const KEYS_MAX: usize = 32_768;
/// How often idle keys are looked for, ms.
const SWEEP_MS: i64 = 3_600_000;

type GroupKey = (Arc<str>, Arc<str>);

/// The counters; see the room's head.
#[derive(Debug)]
pub struct Stats {
    cluster: String,
    topics: HashMap<Box<str>, Windows>,
    groups: HashMap<GroupKey, Windows>,
    all: Windows,
    ordinary: Windows,
    rates: Rates,
    swept_ms: i64,
}

/// Which figure of a count a name stands for, and what it is divided by for the average.
type Pick = fn(&Count) -> (u64, u64);

/// Names of counters by topic.
fn topic_pick(name: &str) -> Option<Pick> {
    match name {
        "TOPIC_PUT_NUMS" => Some(|count| (count.messages, count.requests)),
        "TOPIC_PUT_SIZE" => Some(|count| (count.bytes, count.requests)),
        _ => None,
    }
}

/// Names of counters by topic and group.
fn group_pick(name: &str) -> Option<Pick> {
    match name {
        "GROUP_GET_NUMS" => Some(|count| (count.messages, count.requests)),
        "GROUP_GET_SIZE" => Some(|count| (count.bytes, count.requests)),
        "GROUP_GET_LATENCY" => Some(|count| (count.took_ms, count.requests)),
        _ => None,
    }
}

/// `put` in the messages of a count, `got` in its requests: the broker's own windows hold both.
fn broker_pick(name: &str) -> Option<Pick> {
    match name {
        "BROKER_PUT_NUMS" | "BROKER_PUT_NUMS_WITHOUT_SYSTEM_TOPIC" => {
            Some(|count| (count.messages, 0))
        }
        "BROKER_GET_NUMS" | "BROKER_GET_NUMS_WITHOUT_SYSTEM_TOPIC" => {
            Some(|count| (count.requests, 0))
        }
        _ => None,
    }
}

impl Stats {
    /// Nothing counted yet.
    pub fn new(cluster: &str, boot_ms: i64) -> Self {
        Self {
            cluster: cluster.to_owned(),
            topics: HashMap::new(),
            groups: HashMap::new(),
            all: Windows::new(boot_ms),
            ordinary: Windows::new(boot_ms),
            rates: Rates::new(boot_ms, local_day(boot_ms)),
            swept_ms: boot_ms,
        }
    }

    /// Takes in what a core has counted; `name_of` knows the topics that exist.
    pub fn take_in<'t>(
        &mut self,
        now_ms: i64,
        counted: &Counted,
        name_of: impl Fn(TopicId) -> Option<&'t str>,
    ) {
        self.rates.take_in(now_ms, counted.core, &counted.totals);
        let (mut all, mut ordinary) = (Traffic::default(), Traffic::default());
        for row in &counted.topics {
            let Some(name) = name_of(row.topic) else {
                continue;
            };
            all.put += row.count;
            if !system_topic::is_system_topic(name) {
                ordinary.put += row.count;
            }
            let count = Count {
                messages: row.count,
                bytes: row.bytes,
                requests: row.requests,
                took_ms: 0,
            };
            self.count_topic(now_ms, name, &count);
        }
        for row in &counted.groups {
            let Some(name) = name_of(row.topic) else {
                continue;
            };
            all.got += row.count;
            if !system_topic::is_system_topic(name) {
                ordinary.got += row.count;
            }
            let count = Count {
                messages: row.count,
                bytes: row.bytes,
                requests: row.requests,
                took_ms: row.read_ms,
            };
            self.count_group(now_ms, name, &row.group, &count);
        }
        self.rates.add_traffic(local_day(now_ms), ordinary);
        self.all.add(now_ms, &as_count(all));
        self.ordinary.add(now_ms, &as_count(ordinary));
        self.sweep(now_ms);
    }

    fn count_topic(&mut self, now_ms: i64, name: &str, count: &Count) {
        if let Some(windows) = self.topics.get_mut(name) {
            windows.add(now_ms, count);
        } else if self.topics.len() < KEYS_MAX {
            let mut windows = Windows::new(now_ms);
            windows.add(now_ms, count);
            self.topics.insert(Box::from(name), windows);
        }
    }

    fn count_group(&mut self, now_ms: i64, topic: &str, group: &Arc<str>, count: &Count) {
        let key = (Arc::from(topic), Arc::clone(group));
        let is_full = self.groups.len() >= KEYS_MAX;
        if is_full && !self.groups.contains_key(&key) {
            return;
        }
        let windows = self.groups.entry(key);
        windows
            .or_insert_with(|| Windows::new(now_ms))
            .add(now_ms, count);
    }

    fn sweep(&mut self, now_ms: i64) {
        if now_ms - self.swept_ms < SWEEP_MS {
            return;
        }
        self.swept_ms = now_ms;
        self.topics.retain(|_, windows| !windows.is_over(now_ms));
        self.groups.retain(|_, windows| !windows.is_over(now_ms));
    }

    /// A topic was deleted.
    pub fn forget_topic(&mut self, topic: &str) {
        self.topics.remove(topic);
        self.groups.retain(|(of, _), _| &**of != topic);
    }

    /// A group was deleted.
    pub fn forget_group(&mut self, group: &str) {
        self.groups.retain(|(_, of), _| &**of != group);
    }

    fn group(&self, topic: &str, group: &str) -> Option<&Windows> {
        self.groups.get(&(Arc::from(topic), Arc::from(group)))
    }

    /// Messages stored in a topic a second, over the last minute (202).
    pub fn put_tps(&self, now_ms: i64, topic: &str) -> f64 {
        messages_tps(now_ms, self.topics.get(topic))
    }

    /// Messages of a topic delivered to a group a second, over the last minute (208, 317).
    pub fn get_tps(&self, now_ms: i64, topic: &str, group: &str) -> f64 {
        messages_tps(now_ms, self.group(topic, group))
    }

    /// The body of a 315, `None` when nothing was counted under this name and key.
    pub fn view(&self, now_ms: i64, name: &str, key: &str) -> Option<Value> {
        let (windows, pick) = if let Some(pick) = topic_pick(name) {
            (self.topics.get(key)?, pick)
        } else if let Some(pick) = group_pick(name) {
            let (topic, group) = key.rsplit_once('@')?;
            (self.group(topic, group)?, pick)
        } else {
            let pick = broker_pick(name).filter(|_| key == self.cluster)?;
            let ordinary = name.ends_with("WITHOUT_SYSTEM_TOPIC");
            (if ordinary { &self.ordinary } else { &self.all }, pick)
        };
        let item = |span| {
            let sum = windows.sum(now_ms, span);
            let (value, times) = pick(&sum.count);
            let average = if times == 0 {
                0.0
            } else {
                // A mean is a rate in thousandths of its divisor.
                per_second(value, i64::try_from(times).unwrap_or(i64::MAX)) / 1000.0
            };
            Value::object([
                ("avgpt", average.into()),
                ("sum", i64::try_from(value).unwrap_or(i64::MAX).into()),
                ("tps", per_second(value, sum.elapsed_ms).into()),
            ])
        };
        Some(Value::object([
            ("statsDay", item(DAY)),
            ("statsHour", item(HOUR)),
            ("statsMinute", item(MINUTE)),
        ]))
    }

    /// The broker's rates (28).
    pub fn rates(&self, now_ms: i64) -> Report {
        self.rates.report(now_ms)
    }

    /// Totals now, this morning and yesterday morning (28).
    pub fn days(&mut self, now_ms: i64) -> [Traffic; 3] {
        self.rates.days(local_day(now_ms))
    }
}

fn as_count(traffic: Traffic) -> Count {
    Count {
        messages: traffic.put,
        requests: traffic.got,
        ..Count::default()
    }
}

fn messages_tps(now_ms: i64, windows: Option<&Windows>) -> f64 {
    windows.map_or(0.0, |windows| {
        let sum = windows.sum(now_ms, MINUTE);
        per_second(sum.count.messages, sum.elapsed_ms)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seam::{GroupCount, TopicCount};

    fn counted(count: u64) -> Counted {
        let row = |topic| TopicCount {
            topic: TopicId(topic),
            count,
            bytes: count * 100,
            requests: 2,
        };
        let group = GroupCount {
            topic: TopicId(1),
            group: Arc::from("g"),
            count: count / 2,
            bytes: count * 50,
            requests: 1,
            read_ms: 8,
        };
        Counted {
            topics: vec![row(1), row(2), row(9)],
            groups: vec![group],
            ..Counted::default()
        }
    }

    fn name_of(id: TopicId) -> Option<&'static str> {
        match id.0 {
            1 => Some("ns%T@x"),
            2 => Some("RMQ_SYS_TRANS_HALF_TOPIC"),
            _ => None,
        }
    }

    fn figure(value: &Value, span: &str, name: &str) -> f64 {
        value
            .get(span)
            .unwrap()
            .get(name)
            .unwrap()
            .as_f64()
            .unwrap()
    }

    #[test]
    fn names_and_keys_are_rocketmqs() {
        let mut stats = Stats::new("C", 0);
        stats.take_in(100_000, &counted(10), name_of);
        stats.take_in(101_000, &counted(20), name_of);
        let now = 102_000;
        let see = |name: &str, key: &str| stats.view(now, name, key);
        let sum = |name: &str, key: &str| figure(&see(name, key).unwrap(), "statsMinute", "sum");
        let wanted = [
            ("TOPIC_PUT_NUMS", "ns%T@x", 30.0),
            ("TOPIC_PUT_SIZE", "ns%T@x", 3000.0),
            ("GROUP_GET_NUMS", "ns%T@x@g", 15.0),
            ("GROUP_GET_SIZE", "ns%T@x@g", 1500.0),
            ("GROUP_GET_LATENCY", "ns%T@x@g", 16.0),
            ("BROKER_PUT_NUMS", "C", 60.0),
            ("BROKER_PUT_NUMS_WITHOUT_SYSTEM_TOPIC", "C", 30.0),
            ("BROKER_GET_NUMS", "C", 15.0),
        ];
        for (name, key, value) in wanted {
            assert!((sum(name, key) - value).abs() < 0.01, "{name} {key}");
        }
        let put = see("TOPIC_PUT_NUMS", "ns%T@x").unwrap();
        assert!((figure(&put, "statsDay", "sum") - 30.0).abs() < 0.01);
        assert!((figure(&put, "statsHour", "avgpt") - 7.5).abs() < 0.01);
        assert!((figure(&put, "statsMinute", "tps") - 3.0).abs() < 0.01);
        assert!((stats.put_tps(now, "ns%T@x") - 3.0).abs() < 0.01);
        assert!((stats.get_tps(now, "ns%T@x", "g") - 1.5).abs() < 0.01);
        for (name, key) in [
            ("TOPIC_PUT_NUMS", "U"),
            ("GROUP_GET_NUMS", "no at"),
            ("BROKER_PUT_NUMS", "other"),
            ("NO_SUCH", "C"),
        ] {
            assert!(see(name, key).is_none(), "{name} {key}");
        }
        assert_eq!(stats.days(now)[0], Traffic { put: 30, got: 15 });
    }

    #[test]
    fn what_is_deleted_or_old_is_forgotten() {
        let mut stats = Stats::new("C", 0);
        stats.take_in(1_000, &counted(10), name_of);
        stats.forget_group("g");
        assert!(stats.view(2_000, "GROUP_GET_NUMS", "ns%T@x@g").is_none());
        stats.forget_topic("ns%T@x");
        assert!(stats.view(2_000, "TOPIC_PUT_NUMS", "ns%T@x").is_none());
        stats.take_in(3_000, &counted(10), name_of);
        stats.take_in(3_000 + 27 * SWEEP_MS, &Counted::default(), name_of);
        assert!(stats.topics.is_empty() && stats.groups.is_empty());
    }
}
