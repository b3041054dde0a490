//! Whose pull gets the device next.
//!
//! **Owns** the pulls that wait for the device, by connection, and the order of their turns.
//! **Lives on** the data core of the shard.
//! **Invariants** connections take turns, a pull each, however many pulls each has waiting; those
//! that have read what they were sent come before those that have not; nobody waits for ever.
//! **Limits** `most` pulls in all. One more displaces a pull of a connection that has several, if
//! its own connection has none; else it is refused. [`LOOKS_MAX`] connections looked at a turn.
//! **Not here** reading the device (`data::shard::pulls`), what such a pull may hold
//! (`memory_plan`).

use std::collections::VecDeque;
use std::hash::Hash;

use hashbrown::HashMap;

/// One turn in so many belongs to those who have not read everything, whoever else waits.
const LAGGARDS_EVERY: u32 = 8;
/// Connections passed over in one turn at most: some µs.
const LOOKS_MAX: usize = 64;

/// Pulls `T` of connections `P`.
#[derive(Debug)]
pub struct ColdLane<P, T> {
    by_peer: HashMap<P, VecDeque<T>>,
    /// Connections whose turn comes, each once.
    ring: VecDeque<P>,
    /// Those that had something unread when their turn came.
    laggards: VecDeque<P>,
    count: usize,
    turns: u32,
}

impl<P, T> Default for ColdLane<P, T> {
    fn default() -> Self {
        Self {
            by_peer: HashMap::new(),
            ring: VecDeque::new(),
            laggards: VecDeque::new(),
            count: 0,
            turns: 0,
        }
    }
}

impl<P: Copy + Eq + Hash, T> ColdLane<P, T> {
    /// Pulls that wait.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Lets a pull wait. Gives one back that has to be refused: another one's, or this one.
    pub fn push(&mut self, peer: P, pull: T, most: usize) -> Option<T> {
        let mut displaced = None;
        if self.count >= most {
            if self.by_peer.contains_key(&peer) {
                return Some(pull);
            }
            displaced = self.displace();
            if displaced.is_none() {
                return Some(pull);
            }
        }
        let ring = &mut self.ring;
        let waiting = self.by_peer.entry(peer).or_insert_with(|| {
            ring.push_back(peer);
            VecDeque::new()
        });
        waiting.push_back(pull);
        self.count += 1;
        displaced
    }

    /// Forgets the pulls of a connection that is gone.
    pub fn drop_peer(&mut self, peer: P) {
        let Some(waiting) = self.by_peer.remove(&peer) else {
            return;
        };
        self.count -= waiting.len();
        self.ring.retain(|other| *other != peer);
        self.laggards.retain(|other| *other != peer);
    }

    /// The newest pull of somebody who has more than one, of those who don't read first.
    fn displace(&mut self) -> Option<T> {
        let looks = self.laggards.iter().rev().take(LOOKS_MAX);
        for peer in looks.chain(self.ring.iter().rev().take(LOOKS_MAX)) {
            if let Some(waiting) = self.by_peer.get_mut(peer).filter(|own| own.len() > 1) {
                self.count -= 1;
                return waiting.pop_back();
            }
        }
        None
    }

    /// The pull whose turn it is. `has_unread`: whether a connection has still to read some of what
    /// it was sent.
    pub fn take(&mut self, has_unread: impl Fn(P) -> bool) -> Option<T> {
        if let Some(peer) = self.laggards.pop_front() {
            let to = if has_unread(peer) {
                &mut self.laggards
            } else {
                &mut self.ring
            };
            to.push_back(peer);
        }
        self.turns = self.turns.wrapping_add(1);
        if !self.turns.is_multiple_of(LAGGARDS_EVERY) {
            for _ in 0..LOOKS_MAX {
                let Some(peer) = self.ring.pop_front() else {
                    break;
                };
                if !has_unread(peer) {
                    return self.take_of(peer);
                }
                self.laggards.push_back(peer);
            }
        }
        let peer = self.laggards.pop_front();
        let peer = peer.or_else(|| self.ring.pop_front())?;
        self.take_of(peer)
    }

    fn take_of(&mut self, peer: P) -> Option<T> {
        let waiting = self.by_peer.get_mut(&peer)?;
        let pull = waiting.pop_front();
        if waiting.is_empty() {
            self.by_peer.remove(&peer);
        } else {
            self.ring.push_back(peer);
        }
        self.count -= usize::from(pull.is_some());
        pull
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(pulls: &[(u32, u32)]) -> ColdLane<u32, (u32, u32)> {
        let mut lane = ColdLane::default();
        for pull in pulls {
            assert_eq!(lane.push(pull.0, *pull, 100), None);
        }
        lane
    }

    #[test]
    fn connections_take_turns_however_much_each_wants() {
        let mut lane = lane(&[(1, 0), (1, 1), (1, 2), (2, 0), (3, 0), (2, 1)]);
        let order: Vec<_> = std::iter::from_fn(|| lane.take(|_| false)).collect();
        assert_eq!(order, [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (1, 2)]);
        assert!(lane.is_empty() && lane.by_peer.is_empty());
    }

    #[test]
    fn who_reads_comes_first_and_who_does_not_comes_all_the_same() {
        let mut lane = lane(&[]);
        for n in 0..40 {
            for peer in [1, 2, 9] {
                lane.push(peer, (peer, n), 1000);
            }
        }
        let mut order = Vec::new();
        for _ in 0..32 {
            order.extend(lane.take(|peer| peer < 9).map(|pull| pull.0));
        }
        let readers = order.iter().filter(|peer| **peer == 9).count();
        assert_eq!(readers, 28, "{order:?}");
        // One that has caught up takes turns again.
        let mut order = Vec::new();
        for _ in 0..16 {
            order.extend(lane.take(|peer| peer == 1).map(|pull| pull.0));
        }
        assert!(order.iter().filter(|peer| **peer == 2).count() >= 6);
        let rest = std::iter::from_fn(|| lane.take(|_| true)).count();
        assert_eq!(rest, 120 - 48);
    }

    #[test]
    fn a_connection_that_is_gone_has_no_turn() {
        let mut lane = lane(&[(1, 0), (2, 0), (2, 1), (3, 0), (3, 1)]);
        // Connection 2 is passed over once, and waits with those who don't read.
        assert_eq!(lane.take(|peer| peer == 2), Some((1, 0)));
        assert_eq!(lane.take(|peer| peer == 2), Some((3, 0)));
        for gone in [2, 3, 4] {
            lane.drop_peer(gone);
        }
        assert!(lane.is_empty() && lane.ring.is_empty() && lane.laggards.is_empty());
        assert_eq!(lane.push(2, (2, 2), 1), None, "there is room again");
        assert_eq!(lane.take(|_| false), Some((2, 2)));
    }

    #[test]
    fn a_full_lane_makes_room_for_a_connection_that_has_none_waiting() {
        let mut lane = lane(&[(1, 0), (1, 1), (2, 0)]);
        assert_eq!(lane.push(1, (1, 2), 3), Some((1, 2)), "it has enough");
        assert_eq!(lane.push(3, (3, 0), 3), Some((1, 1)), "displaced");
        assert_eq!(lane.push(4, (4, 0), 3), Some((4, 0)), "all have one");
        assert_eq!(lane.len(), 3);
        let order: Vec<_> = std::iter::from_fn(|| lane.take(|_| false)).collect();
        assert_eq!(order, [(1, 0), (2, 0), (3, 0)]);
    }
}
