//! Suspended pulls.
//!
//! **Owns** one shard's waiting pulls with their deadlines.
//! **Lives on** the data core of the shard.
//! **Invariants** a waiter is in all three indexes (queue, deadline, peer) or in none; it leaves
//! when it is woken, when its time is up and when its peer is gone. Waiters of one queue are woken
//! in the order they came. However many wait for one peer, one of them leaves in the same time.
//! **Limits** [`WAITERS_MAX`] a shard, [`QUEUE_WAITERS_MAX`] a queue: one more isn't parked, it is
//! refused. A waiter costs its own size and about 100 bytes of index.
//! **Not here** when a pull may suspend and what it is told (`pull`).

use std::collections::BTreeSet;
use std::hash::Hash;

use hashbrown::HashMap;
use smallvec::SmallVec;

/// Most suspended pulls of one shard.
pub const WAITERS_MAX: usize = 100_000;
/// Most suspended pulls of one queue: as many groups as a queue may have live, or members of one
/// that broadcasts. Waking them all takes 6 ms of several passes; those beyond ask every three
/// seconds.
pub const QUEUE_WAITERS_MAX: usize = 4096;

const _: () = assert!(QUEUE_WAITERS_MAX <= WAITERS_MAX);

/// Names a waiter while it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaiterId(u32);

#[derive(Debug)]
struct Slot<Q, P, W> {
    queue: Q,
    peer: P,
    deadline_ms: u64,
    /// Its place in its peer's list.
    at_peer: u32,
    waiter: W,
}

type Ids = SmallVec<[WaiterId; 2]>;

/// One shard's suspended pulls: `Q` names a queue, `P` a peer.
#[derive(Debug)]
pub struct Waiters<Q, P, W> {
    slots: Vec<Option<Slot<Q, P, W>>>,
    free: Vec<u32>,
    by_queue: HashMap<Q, Ids>,
    by_peer: HashMap<P, Ids>,
    by_deadline: BTreeSet<(u64, WaiterId)>,
}

impl<Q, P, W> Default for Waiters<Q, P, W> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_queue: HashMap::new(),
            by_peer: HashMap::new(),
            by_deadline: BTreeSet::new(),
        }
    }
}

impl<Q: Copy + Eq + Hash, P: Copy + Eq + Hash, W> Waiters<Q, P, W> {
    /// Parks a pull until `deadline_ms`. It comes back when a bound is reached.
    ///
    /// # Errors
    /// The waiter itself, when there is no room.
    pub fn park(&mut self, queue: Q, peer: P, deadline_ms: u64, waiter: W) -> Result<WaiterId, W> {
        let of_queue = self.by_queue.get(&queue).map_or(0, SmallVec::len);
        if self.len() >= WAITERS_MAX || of_queue >= QUEUE_WAITERS_MAX {
            return Err(waiter);
        }
        let of_peer = self.by_peer.entry(peer).or_default();
        let slot = Slot {
            queue,
            peer,
            deadline_ms,
            at_peer: u32::try_from(of_peer.len()).unwrap_or(u32::MAX),
            waiter,
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(place) = self.slots.get_mut(index as usize) {
            *place = Some(slot);
        }
        let id = WaiterId(index);
        of_peer.push(id);
        self.by_queue.entry(queue).or_default().push(id);
        self.by_deadline.insert((deadline_ms, id));
        Ok(id)
    }

    /// Whether any pull waits on this queue.
    pub fn has(&self, queue: Q) -> bool {
        self.by_queue.contains_key(&queue)
    }

    /// The waiters of a queue, oldest first.
    pub fn of_queue(&self, queue: Q) -> Ids {
        self.by_queue.get(&queue).cloned().unwrap_or_default()
    }

    /// A waiter, to be looked at or moved on.
    pub fn get_mut(&mut self, id: WaiterId) -> Option<&mut W> {
        let slot = self.slots.get_mut(id.0 as usize)?.as_mut()?;
        Some(&mut slot.waiter)
    }

    /// Takes a waiter out.
    pub fn take(&mut self, id: WaiterId) -> Option<W> {
        let slot = self.slots.get_mut(id.0 as usize)?.take()?;
        self.free.push(id.0);
        self.by_deadline.remove(&(slot.deadline_ms, id));
        self.forget_in_queue(slot.queue, id);
        self.forget_in_peer(slot.peer, slot.at_peer);
        Some(slot.waiter)
    }

    /// Keeps the order of the others. Most leave from the front, and there are
    /// [`QUEUE_WAITERS_MAX`].
    fn forget_in_queue(&mut self, queue: Q, id: WaiterId) {
        let Some(ids) = self.by_queue.get_mut(&queue) else {
            return;
        };
        if let Some(at) = ids.iter().position(|other| *other == id) {
            ids.remove(at);
        }
        if ids.is_empty() {
            self.by_queue.remove(&queue);
        }
    }

    /// The last one of the peer's list takes its place.
    fn forget_in_peer(&mut self, peer: P, at: u32) {
        let Some(ids) = self.by_peer.get_mut(&peer) else {
            return;
        };
        if (at as usize) < ids.len() {
            ids.swap_remove(at as usize);
        }
        let moved = ids.get(at as usize).copied();
        if ids.is_empty() {
            self.by_peer.remove(&peer);
        }
        let slot = moved.and_then(|id| self.slots.get_mut(id.0 as usize));
        if let Some(slot) = slot.and_then(Option::as_mut) {
            slot.at_peer = at;
        }
    }

    /// Takes one waiter whose deadline has passed.
    pub fn take_due(&mut self, now_ms: u64) -> Option<W> {
        let &(deadline_ms, id) = self.by_deadline.first()?;
        if deadline_ms > now_ms {
            return None;
        }
        self.take(id)
    }

    /// Drops the waiters of a closed connection; returns how many there were.
    pub fn drop_peer(&mut self, peer: P) -> usize {
        // Its list goes first: nothing needs to be found in it then.
        let ids = self.by_peer.remove(&peer).unwrap_or_default();
        ids.iter().filter(|id| self.take(**id).is_some()).count()
    }

    /// Takes out those that fit, oldest deadline first.
    pub fn take_if(&mut self, fits: impl Fn(&W) -> bool) -> Vec<W> {
        let of = |id: WaiterId| self.slots.get(id.0 as usize)?.as_ref();
        let fitting = |id: &WaiterId| of(*id).is_some_and(|slot| fits(&slot.waiter));
        let ids = self.by_deadline.iter().map(|&(_, id)| id);
        let ids: Vec<WaiterId> = ids.filter(fitting).collect();
        ids.into_iter().filter_map(|id| self.take(id)).collect()
    }

    /// Takes everything out, oldest deadline first.
    pub fn take_all(&mut self) -> Vec<W> {
        self.take_if(|_| true)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.by_deadline.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.by_deadline.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Plain = Waiters<u32, u32, &'static str>;

    #[test]
    fn deadlines_come_in_order_and_not_early() {
        let mut waiters = Plain::default();
        waiters.park(1, 1, 300, "late").unwrap();
        waiters.park(1, 2, 100, "early").unwrap();
        assert_eq!(waiters.take_due(99), None);
        assert_eq!(waiters.take_due(300), Some("early"));
        assert_eq!(waiters.take_due(300), Some("late"));
        assert!(waiters.is_empty());
        assert!(!waiters.has(1));
    }

    #[test]
    fn a_closed_peer_leaves_nothing_behind() {
        let mut waiters = Plain::default();
        for queue in 0..10 {
            waiters.park(queue, 7, 100, "gone").unwrap();
        }
        let kept = waiters.park(3, 8, 100, "kept").unwrap();
        assert_eq!(waiters.drop_peer(7), 10);
        assert_eq!(waiters.drop_peer(7), 0);
        assert_eq!(waiters.len(), 1);
        assert_eq!(waiters.of_queue(3).as_slice(), [kept]);
        assert_eq!(waiters.take(kept), Some("kept"));
        assert_eq!(waiters.take(kept), None);
        assert!(waiters.by_queue.is_empty() && waiters.by_peer.is_empty());
    }

    #[test]
    fn slots_are_used_again_and_the_bound_holds() {
        let mut waiters = Plain::default();
        for _ in 0..3 {
            for n in 0..QUEUE_WAITERS_MAX {
                assert!(waiters.park(1, 1, n as u64, "w").is_ok());
            }
            assert_eq!(waiters.park(1, 1, 5, "over"), Err("over"));
            assert_eq!(waiters.take_all().len(), QUEUE_WAITERS_MAX);
        }
        assert_eq!(waiters.slots.len(), QUEUE_WAITERS_MAX);
    }
    /// A hundred thousand take a tenth of a second; each looked for among all, half a minute.
    #[test]
    fn as_many_as_may_wait_for_one_peer_leave_soon_in_any_order() {
        let began = std::time::Instant::now();
        let mut waiters = Waiters::<u32, u32, u32>::default();
        let park = |waiters: &mut Waiters<u32, u32, u32>, n: u32| {
            waiters.park(n % 64, 1, u64::from(n), n).unwrap()
        };
        let count = u32::try_from(WAITERS_MAX).unwrap();
        for n in 0..count {
            park(&mut waiters, n);
        }
        assert_eq!(waiters.drop_peer(1), WAITERS_MAX);
        let ids: Vec<WaiterId> = (0..count).map(|n| park(&mut waiters, n)).collect();
        // Neither the first nor the last of what is left.
        for n in (0..count).step_by(3).chain((0..count).rev().step_by(2)) {
            waiters.take(ids[n as usize]);
        }
        for (at, id) in waiters.by_peer.get(&1).unwrap().iter().enumerate() {
            let slot = waiters.slots[id.0 as usize].as_ref().unwrap();
            assert_eq!(slot.at_peer as usize, at);
        }
        let left = waiters.len();
        assert_eq!(waiters.take_all().len(), left);
        assert!(waiters.by_queue.is_empty() && waiters.by_peer.is_empty());
        assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
    }
}
