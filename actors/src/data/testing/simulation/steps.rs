//! What happens next in a life.
//!
//! **Owns** the choice of requests and faults, and the checks that need quiet.
//! **Lives on** a test's thread, inside the world's executor.
//! **Invariants** all choices follow from the seed.
//! **Limits** `QUIET_MS` until everything that can be answered is.
//! **Not here** replies (`life`).

use std::rc::Rc;

use gantry_protocol::code::{request, response};
use gantry_protocol::request::offset::{
    QueryConsumerOffset, QueryMessage, SearchOffset, UpdateConsumerOffset, ViewMessage,
};
use gantry_storage::disk::Disk;
use gantry_storage::units::QueueKey;

use super::super::ext;
use super::damage::LOST_READS_MAX;
use super::life::{Asked, Manner, raw_records};
use super::oracle::{KEYS_COUNT, Outcome, TAGS_COUNT};
use super::world::{TOPIC, World};

/// Longer than any wait in the broker: a flush that is late, a full tail, a full device.
const QUIET_MS: u64 = 8_000;
/// Most messages sent at once.
const BURST_MAX: u64 = 30;

impl World {
    pub fn any_queue(&self) -> u16 {
        u16::try_from(self.choices.below(u64::from(self.mix.queues))).unwrap()
    }

    /// One life, until it ends by itself.
    pub async fn live(&self) {
        self.disk.set_rates(self.mix.rates);
        for _ in 0..=self.choices.below(2 * self.mix.steps_a_life) {
            self.step().await;
            if self.mix.retention && self.drops.chance(6) {
                self.give_up_some().await;
            }
            self.disk.sleep_us(self.choices.below(300)).await;
            self.drain();
            if self.poisoned() && self.choices.chance(20) {
                self.quiet().await;
                return;
            }
        }
        if self.choices.chance(30) {
            self.quiet().await;
        }
    }

    async fn step(&self) {
        match self.choices.below(100) {
            0..50 => self.burst(),
            50..66 => {
                let us = self
                    .choices
                    .one_of(&[500, 5_000, 20_000, 20_000, 700_000, 7_000_000]);
                self.disk.sleep_us(self.choices.below(us)).await;
            }
            66..82 => self.pull_some(),
            82..85 => self.search_by_time().await,
            85..88 => self.search_by_key().await,
            88..90 => self.view_one().await,
            90..92 => self.commit_one().await,
            92..94 => {
                let queue = self.any_queue();
                let visible = self.oracle.borrow().visible_count(queue);
                assert!(self.max_offset(queue).await >= visible);
            }
            94..96 => {
                // Not awaited: it goes on while other things happen.
                let running = self.running.borrow();
                let stores = running.iter().flat_map(|running| &running.stores);
                for store in stores.map(Rc::clone) {
                    self.disk
                        .spawn(async move { drop(store.checkpoint().await) });
                }
            }
            96..98 => self.disturb().await,
            98 => self.quiet().await,
            _ => self.disk.yield_now().await,
        }
    }

    fn burst(&self) {
        let focus = self.any_queue();
        for _ in 0..=self.choices.below(BURST_MAX) {
            let queue = if self.choices.chance(50) {
                focus
            } else {
                self.any_queue()
            };
            let manner = match self.choices.below(100) {
                0..85 => Manner::Waits,
                85..90 => Manner::NoWait,
                90..95 => Manner::OneWay,
                _ => Manner::Batch(1 + self.choices.below(40)),
            };
            self.produce(queue, manner);
        }
    }

    fn pull_some(&self) {
        for _ in 0..=self.choices.below(3) {
            let queue = self.any_queue();
            let visible = self.oracle.borrow().visible_count(queue);
            let from = match self.choices.below(10) {
                0..5 => self.choices.below(visible + 2),
                5..9 => visible.saturating_sub(self.choices.below(40)),
                _ => visible,
            };
            let tag = self
                .choices
                .chance(25)
                .then(|| self.choices.below(TAGS_COUNT));
            self.pull(queue, from, tag, self.choices.chance(40));
        }
    }

    async fn disturb(&self) {
        if self.mix.full {
            let free = self.disk.free_bytes().await.unwrap();
            let used = u64::MAX - free;
            let full = self.choices.chance(50);
            let room = used.saturating_add(self.choices.below(9 << 20));
            // A capacity set before is lifted first: `free` is only known then.
            self.disk.set_capacity(u64::MAX);
            if full && free > u64::MAX / 2 {
                self.disk.set_capacity(room);
            }
        }
        if self.mix.clock_jumps {
            let far = self.choices.one_of(&[100, 10_000, 10_000_000]);
            let ms = i64::try_from(self.choices.below(far)).unwrap();
            let ms = if self.choices.chance(50) { -ms } else { ms };
            self.disk.set_wall_offset_ms(ms);
        }
    }

    /// Lets everything come to an end, and checks that it does.
    pub async fn quiet(&self) {
        self.disk.clear_faults();
        self.disk.set_capacity(u64::MAX);
        self.drain();
        let lost_reads = self.disk.lost_reads();
        self.disk.sleep_ms(QUIET_MS).await;
        let lost_reads = self.disk.lost_reads() - lost_reads;
        assert!(
            lost_reads <= LOST_READS_MAX,
            "{lost_reads} reads of lost sectors in {QUIET_MS} ms without requests"
        );
        self.drain();
        self.check_nothing_waits();
        let failed = self.disk.log_failures() > self.log_failures_before.get();
        let poisoned = self.poisoned();
        assert!(
            poisoned || !failed,
            "a failed write or sync poisons the shard"
        );
        for queue in 0..u16::from(self.mix.shards).min(self.mix.queues) {
            self.probe(queue).await;
        }
        self.disk.set_rates(self.mix.rates);
    }

    /// Only pulls of what nobody has sent may wait for ever.
    fn check_nothing_waits(&self) {
        let oracle = self.oracle.borrow();
        for (opaque, asked) in &*self.asked.borrow() {
            let waits = match asked {
                Asked::Pull {
                    queue,
                    from,
                    may_wait,
                    tag,
                    ..
                } => *may_wait && (*from >= oracle.visible_count(*queue) || tag.is_some()),
                _ => false,
            };
            assert!(
                waits,
                "no answer to request {opaque} in {QUIET_MS} ms: {asked:?}"
            );
        }
    }

    /// A healthy shard takes a message now, a poisoned one refuses it.
    async fn probe(&self, queue: u16) {
        let shard = usize::from(self.shard_of(queue));
        let poisoned = {
            let running = self.running.borrow();
            let stores = running.as_ref().map(|running| &running.stores[shard]);
            stores.is_some_and(|store| store.poisoned().is_some())
        };
        let (acked, refused) = self.answers();
        self.produce(queue, Manner::Waits);
        self.disk.sleep_ms(QUIET_MS).await;
        self.drain();
        let (acked, refused) = {
            let now = self.answers();
            (now.0 - acked, now.1 - refused)
        };
        let wanted = if poisoned { (0, 1) } else { (1, 0) };
        assert_eq!(
            (acked, refused),
            wanted,
            "a send in quiet, poisoned: {poisoned}"
        );
    }

    fn answers(&self) -> (u64, u64) {
        let totals = self.totals.borrow();
        (totals.acked, totals.refused)
    }

    /// Store times of a queue as the index has them; none while some are unknown.
    async fn times_of(&self, queue: u16) -> Option<Vec<u64>> {
        let unread =
            |slot: &Option<super::oracle::Slot>| slot.is_none_or(|slot| slot.read.is_none());
        let end = self.max_offset(queue).await;
        let first = {
            let oracle = self.oracle.borrow();
            oracle.queues[usize::from(queue)].iter().position(unread)
        };
        let known = self.oracle.borrow().queues[usize::from(queue)].len() as u64;
        let first = first.map_or(known, |first| first as u64);
        self.read_queue(queue, first.min(end), end).await;
        let oracle = self.oracle.borrow();
        let slots = &oracle.queues[usize::from(queue)];
        let mut latest = 0;
        let mut times = Vec::new();
        for slot in slots.iter().take(usize::try_from(end).unwrap()) {
            latest = slot.as_ref()?.read?.1.max(latest);
            times.push(latest);
        }
        (times.len() as u64 == end).then_some(times)
    }

    async fn search_by_time(&self) {
        let queue = self.any_queue();
        // What is gone has no time any more.
        if self.may_have_given_up(queue) {
            return;
        }
        let Some(times) = self.times_of(queue).await else {
            return;
        };
        let upper = self.choices.chance(50);
        let Some(time) =
            times.get(usize::try_from(self.choices.below(times.len() as u64)).unwrap())
        else {
            return;
        };
        let time = (time + self.choices.below(3)).saturating_sub(1);
        let header = SearchOffset {
            topic: "T",
            queue_id: i32::from(queue),
            timestamp_ms: time.cast_signed(),
            boundary: Some(if upper { "UPPER" } else { "lower" }),
        };
        let reply = self
            .ask(request::SEARCH_OFFSET_BY_TIMESTAMP, &header.to_ext())
            .await;
        if reply.code != response::SUCCESS {
            assert!(self.index_may_fail(), "{reply:?}");
            return;
        }
        let found: u64 = ext(&reply, "offset").parse().unwrap();
        let wanted = if upper {
            times
                .partition_point(|stored| *stored <= time)
                .saturating_sub(1)
        } else {
            times.partition_point(|stored| *stored < time)
        };
        // What came meanwhile may be what is found.
        let newest = wanted + usize::from(upper) >= times.len();
        let right = found == wanted as u64 || newest && found > wanted as u64;
        assert!(
            right,
            "queue {queue}, time {time}, upper {upper}: {found}, not {wanted}"
        );
    }

    async fn search_by_key(&self) {
        let key = self.choices.below(KEYS_COUNT);
        let word = format!("k{key}");
        let header = QueryMessage {
            topic: "T",
            key: &word,
            max_num: 64,
            begin_timestamp_ms: 0,
            end_timestamp_ms: i64::MAX,
            by_unique_key: false,
            index_type: None,
        };
        let mut wanted = Vec::new();
        {
            let mut oracle = self.oracle.borrow_mut();
            for queue in 0..self.mix.queues {
                let slots = oracle.queues[usize::from(queue)].clone();
                for (offset, slot) in (0..).zip(slots) {
                    if let Some(slot) = slot.filter(|slot| slot.visible)
                        && oracle.message(slot.id).keys.contains(&key)
                    {
                        wanted.push((queue, offset, slot.id));
                    }
                }
            }
        }
        let reply = self.ask(request::QUERY_MESSAGE, &header.to_ext()).await;
        let mut found = Vec::new();
        if reply.code == response::SUCCESS {
            for raw in raw_records(&reply.body) {
                let mut oracle = self.oracle.borrow_mut();
                let id = check_found(&mut oracle, raw);
                assert!(
                    oracle.message(id).keys.contains(&key),
                    "message {id} lacks {word}"
                );
                assert!(!found.contains(&id), "message {id} was found twice");
                found.push(id);
            }
        }
        {
            let oracle = self.oracle.borrow();
            wanted.retain(|(queue, offset, _)| !self.may_be_gone(*queue, *offset, &oracle));
        }
        let mut ids = wanted.iter().map(|(.., id)| id);
        let complete = ids.all(|id| found.contains(id)) || found.len() == 64;
        let may_lack = self.keys_may_lack() || self.keys_were_skipped();
        assert!(
            complete || may_lack,
            "{word}: found {found:?} of {wanted:?}"
        );
    }

    pub fn keys_were_skipped(&self) -> bool {
        let running = self.running.borrow();
        let stores = running.iter().flat_map(|running| &running.stores);
        let skipped = stores.map(|store| store.keys_skipped()).sum::<u64>() > 0;
        if skipped {
            self.skipped.set(true);
        }
        self.skipped.get()
    }

    async fn view_one(&self) {
        let queue = self.any_queue();
        let (nth, slot) = {
            let oracle = self.oracle.borrow();
            let slots = &oracle.queues[usize::from(queue)];
            let nth = self.choices.below(slots.len() as u64);
            let slot = slots.get(usize::try_from(nth).unwrap());
            (nth, slot.copied().flatten())
        };
        let Some((slot, physical)) = slot.and_then(|slot| Some((slot, slot.physical?))) else {
            return;
        };
        let header = ViewMessage {
            physical_offset: physical.cast_signed(),
            topic: Some("T"),
        };
        let reply = self
            .ask(request::VIEW_MESSAGE_BY_ID, &header.to_ext())
            .await;
        if reply.code == response::SUCCESS {
            let id = check_found(&mut self.oracle.borrow_mut(), &reply.body);
            assert_eq!(id, slot.id, "another message under this id");
        } else {
            let body_bytes = self.oracle.borrow_mut().message(slot.id).body_bytes;
            let is_gone = self.may_be_gone(queue, nth, &self.oracle.borrow());
            let excused = is_gone || self.may_be_damaged(queue, Some(physical), body_bytes);
            assert!(!slot.visible || excused, "{slot:?}: {reply:?}");
        }
    }

    async fn commit_one(&self) {
        let queue = self.any_queue();
        let queue_id = i32::from(queue);
        let query = QueryConsumerOffset {
            consumer_group: "g",
            topic: "T",
            queue_id,
            set_zero_if_not_found: Some(false),
        };
        let reply = self
            .ask(request::QUERY_CONSUMER_OFFSET, &query.to_ext())
            .await;
        let committed = self.committed.borrow().get(&queue).copied();
        let key = (QueueKey::new(TOPIC, queue), "g".into());
        let wanted = committed.or(self.persisted.borrow().get(&key).copied());
        let found =
            (reply.code == response::SUCCESS).then(|| ext(&reply, "offset").parse().unwrap());
        assert_eq!(found, wanted, "the committed offset of queue {queue}");
        let offset = self.choices.below(1000);
        let commit = UpdateConsumerOffset {
            consumer_group: "g",
            topic: "T",
            queue_id,
            commit_offset: offset.cast_signed(),
        };
        let reply = self
            .ask(request::UPDATE_CONSUMER_OFFSET, &commit.to_ext())
            .await;
        assert_eq!(reply.code, response::SUCCESS);
        self.committed.borrow_mut().insert(queue, offset);
    }
}

/// Checks a record found by other means than its queue's offset.
fn check_found(oracle: &mut super::oracle::Oracle, raw: &[u8]) -> u64 {
    let queue = u32::from_be_bytes(*raw[12..].first_chunk::<4>().unwrap());
    let offset = u64::from_be_bytes(*raw[20..].first_chunk::<8>().unwrap());
    let queue = u16::try_from(queue).expect("a queue of the topic");
    assert!(usize::from(queue) < oracle.queues.len(), "queue {queue}");
    assert!(
        offset < oracle.messages.len() as u64,
        "queue {queue} offset {offset}"
    );
    let slot = oracle.check_record(queue, offset, raw);
    let id = slot.id;
    assert!(matches!(oracle.message(id).outcome, Outcome::Stored(_)));
    id
}
