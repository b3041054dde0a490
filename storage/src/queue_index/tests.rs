//! The queue index against a model, and its sizes.
#![allow(clippy::cast_possible_truncation, reason = "test numbers are small")]

mod over_a_disk;

use std::cell::Cell;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::index_pages::NARROW_ENTRIES_MAX;
use crate::units::{Boundary, FilePosition, TopicId};

/// What the index should say, in the plainest way.
#[derive(Clone, Default)]
struct Model {
    min: u64,
    entries: Vec<IndexEntry>,
}

impl Model {
    fn append(&mut self, mut entry: IndexEntry) -> u64 {
        let last = self.entries.last().map_or(0, |entry| entry.store_time.0);
        entry.store_time.0 = entry.store_time.0.max(last);
        self.entries.push(entry);
        self.entries.len() as u64 - 1
    }

    fn next(&self) -> u64 {
        self.entries.len() as u64
    }

    fn kept(&self) -> impl DoubleEndedIterator<Item = (u64, IndexEntry)> + '_ {
        let with_offset = self
            .entries
            .iter()
            .enumerate()
            .map(|(at, entry)| (at as u64, *entry));
        with_offset.skip(self.min as usize)
    }

    fn by_time(&self, time: u64, boundary: Boundary) -> u64 {
        match boundary {
            Boundary::Lower => self
                .kept()
                .find(|(_, e)| e.store_time.0 >= time)
                .map_or(self.next(), |(o, _)| o),
            _ if self.kept().next().is_none() => self.next(),
            Boundary::Upper => self
                .kept()
                .rfind(|(_, e)| e.store_time.0 <= time)
                .map_or(self.min, |(o, _)| o),
        }
    }

    fn by_position(&self, position: u64) -> u64 {
        self.kept()
            .find(|(_, e)| e.position.0 >= position)
            .map_or(self.next(), |(o, _)| o)
    }
}

/// Pages written "to the device", as bytes.
#[derive(Default)]
struct Device(Vec<Vec<u8>>);

impl Device {
    fn write(&mut self, index: &mut QueueIndex) {
        let batch = index.unwritten_batch(usize::MAX);
        let written: Vec<_> = batch
            .iter()
            .map(|(id, page)| {
                let mut bytes = Vec::new();
                page.encode(id.key, &mut bytes);
                self.0.push(bytes);
                (*id, PagePlace(self.0.len() as u64 - 1))
            })
            .collect();
        index.pages_written(written);
    }

    fn read(&self, wanted: PageWanted) -> Page {
        let page = Page::decode(wanted.id.key, &self.0[wanted.place.unwrap().0 as usize]).unwrap();
        assert_eq!(page.first_offset(), wanted.id.first_offset);
        page
    }

    fn search(&self, index: &mut QueueIndex, ask: impl Fn(&QueueIndex) -> Search) -> u64 {
        loop {
            match ask(index) {
                Search::At(offset) => return offset.0,
                Search::NeedsPage(wanted) => index.page_loaded(wanted.id, self.read(wanted)),
            }
        }
    }

    fn lookup(
        &self,
        index: &mut QueueIndex,
        key: QueueKey,
        from: u64,
        max: usize,
    ) -> Vec<IndexEntry> {
        let mut out = Vec::new();
        loop {
            match index.lookup_hot(key, QueueOffset(from), max, &mut out) {
                Lookup::Entries(_) => return out,
                Lookup::NeedsPages(pages) => {
                    assert!(!pages.is_empty());
                    for wanted in pages {
                        index.page_loaded(wanted.id, self.read(wanted));
                    }
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append {
        queue: u16,
        count: u16,
        wide: bool,
        time: u64,
    },
    Write,
    Sleep,
    SetMin {
        queue: u16,
        part: u8,
    },
    Restart,
    Drop {
        topic: u32,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..4u16, 1..500u16, prop::bool::weighted(0.1), 0..2000u64).prop_map(
            |(queue, count, wide, time)| Step::Append { queue, count, wide, time }
        ),
        2 => Just(Step::Write),
        1 => Just(Step::Sleep),
        1 => (0..4u16, 0..=10u8).prop_map(|(queue, part)| Step::SetMin { queue, part }),
        1 => Just(Step::Restart),
        1 => Just(Step::Drop { topic: 9 }),
    ];
    prop::collection::vec(step, 1..40)
}

fn check(index: &mut QueueIndex, device: &Device, models: &[Model; 4], probe: u64) {
    for (queue, model) in (0u16..).zip(models) {
        let key = QueueKey::new(1, queue);
        let bounds = index.bounds(key).unwrap_or_default();
        assert_eq!((bounds.min.0, bounds.max.0), (model.min, model.next()));
        let from = model.min + probe % (model.next() - model.min + 1);
        let mut read = Vec::new();
        while from + (read.len() as u64) < model.next() {
            let part = device.lookup(index, key, from + read.len() as u64, 300);
            assert!(!part.is_empty() && part.len() <= 300);
            read.extend(part);
        }
        assert_eq!(read, &model.entries[from as usize..]);
        assert!(device.lookup(index, key, model.next(), 10).is_empty());
        let times = model.kept().map(|(_, e)| e.store_time.0);
        let times: Vec<u64> = times.step_by(97).chain([0, 500, u64::MAX >> 20]).collect();
        for time in times
            .iter()
            .flat_map(|time| [time.saturating_sub(1), *time, time + 1])
        {
            for boundary in [Boundary::Lower, Boundary::Upper] {
                let ask =
                    |index: &QueueIndex| index.search_by_time(key, StoreTimestamp(time), boundary);
                let found = device.search(index, ask);
                assert_eq!(found, model.by_time(time, boundary), "{boundary:?} {time}");
            }
        }
        let position = model
            .entries
            .get(from as usize)
            .map_or(probe, |entry| entry.position.0);
        for position in [position, position + 1] {
            let ask = |index: &QueueIndex| index.search_by_position(key, FilePosition(position));
            assert_eq!(device.search(index, ask), model.by_position(position));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn the_index_agrees_with_the_model(steps in steps(), probe in any::<u32>()) {
        let limits = IndexLimits { resident_bytes_max: 0, hot_bytes_max: 0 };
        let mut index = QueueIndex::new(limits);
        let (mut device, mut models) = (Device::default(), <[Model; 4]>::default());
        let mut position = 0;
        for step in steps {
            match step {
                Step::Append { queue, count, wide, time } => {
                    for i in 0..u64::from(count) {
                        let base = if wide { i64::MAX } else { 0 };
                        let tags_code = base - i.cast_signed();
                        let store_time = StoreTimestamp(time + i / 3);
                        let position_now = FilePosition(position);
                        let entry =
                            IndexEntry { position: position_now, length: 9, tags_code, store_time };
                        position += 100;
                        let offset = QueueOffset(models[queue as usize].append(entry));
                        let added = index.append(QueueKey::new(1, queue), offset, entry);
                        prop_assert_eq!(added, Ok(Added::Yes));
                    }
                }
                Step::Write => device.write(&mut index),
                Step::Sleep => sleep_all(&mut index),
                Step::SetMin { queue, part } => {
                    let model = &mut models[queue as usize];
                    model.min += (model.next() - model.min) * u64::from(part) / 10;
                    index.set_min(QueueKey::new(1, queue), QueueOffset(model.min));
                }
                Step::Restart => index = QueueIndex::restore(&index.snapshot(), limits).unwrap(),
                Step::Drop { topic } => {
                    let entry = IndexEntry::default();
                    let key = QueueKey::new(topic, 0);
                    index.append(key, index.next_offset(key), entry).unwrap();
                    index.drop_topic(TopicId(topic));
                    prop_assert_eq!(index.bounds(key), None);
                }
            }
        }
        prop_assert_eq!(index.hot_bytes, hot_bytes(&index));
        check(&mut index, &device, &models, u64::from(probe));
    }
}

pub(super) fn sleep_all(index: &mut QueueIndex) {
    let keys = index.tired(StoreTimestamp(u64::MAX));
    index.complete_pages(&keys, StoreTimestamp(0));
}

/// What the hot pages really hold.
pub(super) fn hot_bytes(index: &QueueIndex) -> usize {
    index.queues.values().map(Queue::hot_bytes).sum()
}

thread_local! {
    /// Store times that searches by time have compared.
    pub(super) static LOOKED_AT: Cell<u32> = const { Cell::new(0) };
}

#[test]
fn a_search_by_time_reads_one_page_and_halves_however_long_the_queue() {
    let limits = IndexLimits {
        resident_bytes_max: 0,
        ..IndexLimits::default()
    };
    let (mut index, mut device) = (QueueIndex::new(limits), Device::default());
    let key = QueueKey::new(1, 0);
    let entries = 300 * NARROW_ENTRIES_MAX as u64;
    for i in 0..entries {
        // Five records a millisecond.
        let mut entry = entry(i);
        entry.store_time = StoreTimestamp(1000 + i / 5);
        index.append(key, QueueOffset(i), entry).unwrap();
        if i % 10_000 == 0 {
            device.write(&mut index);
        }
    }
    sleep_all(&mut index);
    device.write(&mut index);
    for step in (0..entries / 5).step_by(997) {
        let time = StoreTimestamp(1000 + step);
        for (boundary, wanted) in [(Boundary::Lower, 0), (Boundary::Upper, 4)] {
            let pages = Cell::new(0);
            LOOKED_AT.set(0);
            let found = device.search(&mut index, |index| {
                let answer = index.search_by_time(key, time, boundary);
                let needs = matches!(answer, Search::NeedsPage(_));
                pages.set(pages.get() + u32::from(needs));
                answer
            });
            assert_eq!(found, step * 5 + wanted, "{boundary:?} {step}");
            assert!(pages.get() <= 1, "{} pages read", pages.get());
            // The directory twice (before and after the page was read), then the page.
            let halvings = 2 * (300_u32.ilog2() + 2) + NARROW_ENTRIES_MAX.ilog2() + 2;
            assert!(LOOKED_AT.get() <= halvings, "{} times", LOOKED_AT.get());
        }
    }
}

pub(super) fn entry(i: u64) -> IndexEntry {
    let position = FilePosition(i * 1200);
    IndexEntry {
        position,
        length: 1100,
        tags_code: 7,
        store_time: StoreTimestamp(1000 + i),
    }
}

#[test]
fn replay_is_idempotent_and_gaps_are_named() {
    let (mut index, key) = (QueueIndex::default(), QueueKey::new(3, 1));
    for i in 0..5 {
        assert_eq!(index.append(key, QueueOffset(i), entry(i)), Ok(Added::Yes));
    }
    assert_eq!(
        index.append(key, QueueOffset(4), entry(99)),
        Ok(Added::Known)
    );
    assert_eq!(index.entry_hot(key, QueueOffset(4)), Some(entry(4)));
    let gap = index.append(key, QueueOffset(6), entry(6)).unwrap_err();
    let (next, found) = (QueueOffset(5), QueueOffset(6));
    assert_eq!(gap, IndexAppendError::Gap { key, next, found });
    assert_eq!(
        gap.to_string(),
        "queue 3/1 is at offset 5, entry 6 would leave a gap"
    );
}

#[test]
fn a_queue_can_begin_above_zero() {
    let (mut index, key) = (QueueIndex::default(), QueueKey::new(3, 1));
    index.begin_at(key, QueueOffset(1000));
    assert_eq!(
        index.append(key, QueueOffset(1000), entry(0)),
        Ok(Added::Yes)
    );
    let bounds = index.bounds(key).unwrap();
    assert_eq!((bounds.min.0, bounds.max.0), (1000, 1001));
    index.begin_at(key, QueueOffset(0));
    assert_eq!(index.bounds(key).unwrap().max.0, 1001);
}

#[test]
fn ten_thousand_idle_queues_cost_less_than_300_bytes_each() {
    let mut index = QueueIndex::default();
    for i in 0..10_000u32 {
        let key = QueueKey::new(i / 8, (i % 8) as u16);
        index.append(key, QueueOffset(0), entry(0)).unwrap();
    }
    assert_eq!(index.tired(StoreTimestamp(u64::MAX)).len(), 10_000);
    sleep_all(&mut index);
    assert_eq!(index.hot_bytes, 0);
    let written: Vec<_> = index
        .unwritten_batch(usize::MAX)
        .into_iter()
        .map(|(id, _)| id)
        .collect();
    index.pages_written(written.into_iter().map(|id| (id, PagePlace(1))));
    assert_eq!(index.unwritten_bytes(), 0);
    let row = size_of::<QueueKey>() + size_of::<Queue>() + 1;
    // One line in its own allocation, with what an allocator adds.
    let directory = size_of::<page_ref::PageRef>() + 16;
    let table = index.queues.allocation_size() + index.queues.len() * directory;
    assert!(
        table / 10_000 <= 300,
        "{} bytes a queue, {row} a row",
        table / 10_000
    );
}

#[test]
fn a_damaged_snapshot_is_refused() {
    let (mut index, key) = (QueueIndex::default(), QueueKey::new(3, 1));
    for i in 0..500 {
        index.append(key, QueueOffset(i), entry(i)).unwrap();
    }
    let bytes = index.snapshot();
    for at in (0..bytes.len()).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert!(
            QueueIndex::restore(&damaged, IndexLimits::default()).is_err(),
            "byte {at}"
        );
        assert!(QueueIndex::restore(&bytes[..at], IndexLimits::default()).is_err());
    }
}

#[test]
fn full_pages_are_bounded_and_short_ones_reload() {
    let limits = IndexLimits {
        resident_bytes_max: 64 << 10,
        ..IndexLimits::default()
    };
    let (mut index, key) = (QueueIndex::new(limits), QueueKey::new(3, 1));
    let mut device = Device::default();
    for i in 0..100_000 {
        index.append(key, QueueOffset(i), entry(i)).unwrap();
        if index.unwritten_bytes() >= UNWRITTEN_BYTES_FLUSH {
            device.write(&mut index);
        }
    }
    assert!(index.resident_bytes() <= 80 << 10);
    assert_eq!(device.lookup(&mut index, key, 17, 800).len(), 800);
    assert!(device.0.len() >= 100_000 / NARROW_ENTRIES_MAX - 64);
}

/// `cargo test --release -p gantry-storage queue_index_speed -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, meant for the release profile"]
fn queue_index_speed() {
    for queues in [1u16, 8, 1000, 10_000] {
        let mut index = QueueIndex::default();
        let keys: Vec<_> = (0..queues)
            .map(|at| QueueKey::new(u32::from(at / 8), at % 8))
            .collect();
        let rounds = 8_000_000 / u64::from(queues);
        // The clock is read once per thousand appends or more, not to measure the clock.
        let rounds_timed = (1000 / u64::from(queues)).max(1);
        let mut spent = std::time::Duration::ZERO;
        for block in (0..rounds).step_by(rounds_timed as usize) {
            let begun = std::time::Instant::now();
            for round in block..(block + rounds_timed).min(rounds) {
                for key in &keys {
                    index
                        .append(*key, QueueOffset(round), entry(round))
                        .unwrap();
                }
            }
            spent += begun.elapsed();
            if index.unwritten_bytes() >= UNWRITTEN_BYTES_FLUSH {
                let batch = index.unwritten_batch(UNWRITTEN_BYTES_FLUSH);
                let places: Vec<_> = batch.iter().map(|(id, _)| (*id, PagePlace(1))).collect();
                drop::<Vec<(PageId, Rc<Page>)>>(batch);
                index.pages_written(places);
            }
        }
        let ns = spent.as_nanos() / u128::from(rounds * u64::from(queues));
        println!("{queues} queues: {ns} ns per append");
        let begun = std::time::Instant::now();
        let bytes = index.snapshot();
        let (taken, begun) = (begun.elapsed(), std::time::Instant::now());
        QueueIndex::restore(&bytes, IndexLimits::default()).unwrap();
        println!(
            "  snapshot of {} bytes {taken:?}, restored {:?}",
            bytes.len(),
            begun.elapsed()
        );
    }
}
