//! Retention at random: whole segments given up while everything else goes on.
//!
//! **Owns** the orders to give up segments, and how far each shard was ordered to.
//! **Lives on** a test's thread, inside the world's executor.
//! **Invariants** nothing at or behind the place ordered goes; a queue's first offset never stands
//! before a record that is gone, nor behind one that must stay, and never goes back in a life.
//! **Limits** one order at a time and shard, as in the broker.
//! **Not here** which segments are old enough (`control::cleaning`).

use std::rc::Rc;

use gantry_storage::disk::Disk;
use gantry_storage::shard_store::RetainError;
use gantry_storage::units::{FilePosition, QueueKey};

use super::oracle::{Oracle, position_of};
use super::world::{Store, TOPIC, World};

/// More than a world's log has segments.
const SEGMENTS_MAX: usize = 64;

impl World {
    /// Orders a shard to give up some of its oldest segments.
    pub async fn give_up_some(&self) {
        let shard = u8::try_from(self.drops.below(u64::from(self.mix.shards))).unwrap();
        let store = {
            let running = self.running.borrow();
            let stores = running.as_ref().map(|running| &running.stores);
            Rc::clone(&stores.expect("orders are for a living process")[usize::from(shard)])
        };
        let ages = store.oldest_segments(SEGMENTS_MAX).await;
        let nth = self.drops.below(ages.len() as u64 + 1);
        let Some(last) = usize::try_from(nth).ok().and_then(|nth| ages.get(nth)) else {
            return;
        };
        let before = last.start.plus(last.bytes);
        let is_recycling = self.drops.chance(60);
        {
            let mut ordered = self.ordered.borrow_mut();
            let ordered = ordered.entry(shard).or_default();
            *ordered = before.max(*ordered);
        }
        let given_up = Rc::clone(&self.given_up);
        let order = async move {
            match store.drop_before(before, is_recycling).await {
                Ok(done) => given_up.set(given_up.get() + done.segments),
                // The device fails now and then: a later order goes on.
                Err(RetainError::Busy | RetainError::Disk(_)) => {}
            }
        };
        if self.drops.chance(50) {
            order.await;
        } else {
            // Not awaited: it goes on while other things happen.
            self.disk.spawn(order);
        }
    }

    /// A queue's first offset, which must be right.
    pub fn min_of(&self, queue: u16, oracle: &Oracle) -> u64 {
        let shard = self.shard_of(queue);
        let min = {
            let running = self.running.borrow();
            let running = running.as_ref().expect("asked of a living process");
            let store: &Store = &running.stores[usize::from(shard)];
            store.bounds(QueueKey::new(TOPIC, queue)).min.0
        };
        let before = self.ordered_before(shard);
        let below = oracle.queues[usize::from(queue)].iter();
        let below = below.take(usize::try_from(min).unwrap()).flatten();
        for slot in below {
            let may_go = slot
                .physical
                .is_none_or(|physical| position_of(physical) < before);
            assert!(
                may_go,
                "queue {queue} begins at {min}, only what is before {before} may be gone: {slot:?}"
            );
        }
        let mut mins = self.mins.borrow_mut();
        let last = mins.entry(queue).or_default();
        assert!(min >= *last, "queue {queue} began at {last}, now at {min}");
        *last = min;
        min
    }

    /// Everything of a shard before it may be gone.
    fn ordered_before(&self, shard: u8) -> FilePosition {
        self.ordered
            .borrow()
            .get(&shard)
            .copied()
            .unwrap_or_default()
    }

    /// Whether a shard may have given up segments without knowing where its queues begin then: the
    /// page that says so could not be read for several orders.
    pub fn may_lack_mins(&self, shard: u8) -> bool {
        let rates = &self.mix.rates;
        let reads_fail = rates.read > 0 || rates.read_flip > 0;
        reads_fail && self.ordered_before(shard) > FilePosition(0)
    }

    /// Whether the record at an offset may be gone: its queue begins behind it, or its shard
    /// doesn't know that.
    pub fn may_be_gone(&self, queue: u16, offset: u64, oracle: &Oracle) -> bool {
        if offset < self.min_of(queue, oracle) {
            return true;
        }
        let shard = self.shard_of(queue);
        let before = self.ordered_before(shard);
        let slots = &oracle.queues[usize::from(queue)];
        let slot = slots.get(usize::try_from(offset).unwrap());
        let physical = slot.copied().flatten().and_then(|slot| slot.physical);
        self.may_lack_mins(shard) && physical.is_none_or(|physical| position_of(physical) < before)
    }

    /// Whether a queue may have lost its beginning.
    pub fn may_have_given_up(&self, queue: u16) -> bool {
        self.ordered_before(self.shard_of(queue)) > FilePosition(0)
    }
}
