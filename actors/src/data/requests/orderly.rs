//! Which groups hold queue locks, as every core hears it.
//!
//! **Owns** for each group the queues that were asked for and until when a lock of them may live.
//! **Lives on** each data core: a lock request goes to all cores, whichever holds the queue.
//! **Invariants** a group whose last lock is given back or has run out holds none. Only who holds a
//! lock gives it back. A lock that was refused counts as well, for then another member of the group
//! holds it.
//! **Limits** what has run out is forgotten when its group is heard of again, and all of it where
//! room is short. [`GROUPS_MAX`] groups beside those that exist, [`LOCKS_MAX`] queues of all
//! groups: locks beyond are not given.
//! **Not here** the locks themselves (`queue::order_lock`).

use std::sync::Arc;

use gantry_storage::units::QueueKey;
use hashbrown::HashMap;

use crate::data::queue::order_lock::LOCK_LIFE_MS;

/// Groups remembered before one that doesn't exist (yet: its first heartbeat may be on its way) is
/// refused.
pub const GROUPS_MAX: usize = 4096;
/// Queues remembered for all groups, about 32 MB: a thousand groups, each of a thousand ordered
/// queues.
pub const LOCKS_MAX: usize = 1 << 20;
/// Between two looks for what has run out, which cost some milliseconds where there is much.
const SWEEP_EVERY_MS: u64 = 1000;

/// Who holds a queue, as this core has heard it; the queue's own core decides.
#[derive(Debug)]
struct Holder {
    client: Arc<str>,
    until_ms: u64,
}

/// See the room's head. Times are ms of the core's monotonic clock, as those of the locks.
#[derive(Debug, Default)]
pub struct OrderlyGroups {
    groups: HashMap<Arc<str>, HashMap<QueueKey, Holder>>,
    /// Queues of all groups.
    count: usize,
    swept_ms: u64,
}

/// A lock request, as every core hears it.
#[derive(Debug, Clone, Copy)]
pub struct Heard<'r> {
    /// Whose.
    pub group: &'r Arc<str>,
    /// Which member asks.
    pub client: &'r Arc<str>,
    /// The group exists.
    pub is_known: bool,
    /// Which queues.
    pub queues: &'r [QueueKey],
    /// Taken, or given back.
    pub take: bool,
}

impl OrderlyGroups {
    /// A lock request was heard. False when there is no room to remember it: then it must not be
    /// granted.
    pub fn note(&mut self, heard: Heard<'_>, now_ms: u64) -> bool {
        if heard.take && !self.has_room(heard) {
            self.sweep(now_ms);
            if !self.has_room(heard) {
                return false;
            }
        }
        let locks = self.groups.entry(Arc::clone(heard.group)).or_default();
        self.count -= locks.len();
        locks.retain(|_, holder| holder.until_ms > now_ms);
        for queue in heard.queues {
            let holder = locks.get(queue);
            if holder.is_some_and(|holder| holder.client != *heard.client) {
                continue;
            }
            if heard.take {
                let holder = Holder {
                    client: Arc::clone(heard.client),
                    until_ms: now_ms + LOCK_LIFE_MS,
                };
                locks.insert(*queue, holder);
            } else {
                locks.remove(queue);
            }
        }
        self.count += locks.len();
        if locks.is_empty() {
            self.groups.remove(heard.group);
        }
        true
    }

    fn has_room(&self, heard: Heard<'_>) -> bool {
        let locks = self.groups.get(heard.group);
        let may_stand = heard.is_known || locks.is_some() || self.groups.len() < GROUPS_MAX;
        let is_new = |queue: &&QueueKey| locks.is_none_or(|locks| !locks.contains_key(*queue));
        may_stand && self.count + heard.queues.iter().filter(is_new).count() <= LOCKS_MAX
    }

    fn sweep(&mut self, now_ms: u64) {
        if now_ms < self.swept_ms.saturating_add(SWEEP_EVERY_MS) {
            return;
        }
        self.swept_ms = now_ms;
        self.groups.retain(|_, locks| {
            locks.retain(|_, holder| holder.until_ms > now_ms);
            !locks.is_empty()
        });
        self.count = self.groups.values().map(HashMap::len).sum();
    }

    /// Whether a lock of the group may live.
    pub fn holds(&self, group: &str, now_ms: u64) -> bool {
        let locks = self.groups.get(group);
        locks.is_some_and(|locks| locks.values().any(|holder| holder.until_ms > now_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_end_by_unlock_and_by_time() {
        let mut orderly = OrderlyGroups::default();
        let group: Arc<str> = Arc::from("g");
        let queues = [QueueKey::new(1, 0), QueueKey::new(1, 1)];
        let note = |orderly: &mut OrderlyGroups, queues, take, now_ms| {
            let heard = Heard {
                group: &group,
                client: &Arc::from("a"),
                is_known: true,
                queues,
                take,
            };
            assert!(orderly.note(heard, now_ms));
        };
        note(&mut orderly, &queues[..], true, 1000);
        assert!(orderly.holds("g", 1000 + LOCK_LIFE_MS - 1) && !orderly.holds("h", 1000));
        assert!(!orderly.holds("g", 1000 + LOCK_LIFE_MS));
        note(&mut orderly, &queues[..1], false, 2000);
        assert!(orderly.holds("g", 2000));
        note(&mut orderly, &queues[1..], false, 2000);
        assert!(!orderly.holds("g", 2000) && orderly.groups.is_empty());
        assert_eq!(orderly.count, 0);
    }

    #[test]
    fn only_who_holds_a_lock_gives_it_back() {
        let mut orderly = OrderlyGroups::default();
        let group: Arc<str> = Arc::from("g");
        let mut note = |client: &str, take, now_ms| {
            let heard = Heard {
                group: &group,
                client: &Arc::from(client),
                is_known: true,
                queues: &[QueueKey::new(1, 0)],
                take,
            };
            assert!(orderly.note(heard, now_ms));
            orderly.holds("g", now_ms)
        };
        assert!(note("a", true, 1000));
        assert!(note("b", false, 1001), "b holds none");
        assert!(note("b", true, 1002), "it is a's");
        assert!(note("b", false, 1003));
        assert!(!note("a", false, 1004));
        assert!(note("b", true, 1005));
        let after = 1005 + LOCK_LIFE_MS;
        assert!(note("a", true, after), "b's has run out");
        assert!(note("b", false, after));
        assert!(!note("a", false, after));
    }

    #[test]
    fn groups_that_do_not_exist_are_bounded_and_those_that_do_find_room() {
        let mut orderly = OrderlyGroups::default();
        let queues = [QueueKey::new(1, 0)];
        let mut note = |name: String, is_known, now_ms| {
            let heard = Heard {
                group: &Arc::from(name),
                client: &Arc::from("a"),
                is_known,
                queues: &queues,
                take: true,
            };
            orderly.note(heard, now_ms)
        };
        for n in 0..GROUPS_MAX {
            assert!(note(format!("g{n}"), false, 1000));
        }
        assert!(!note("one-more".to_owned(), false, 2000));
        assert!(note("g0".to_owned(), false, 2000), "a renewal");
        assert!(note("real".to_owned(), true, 2000));
        assert!(
            note("one-more".to_owned(), false, 1001 + LOCK_LIFE_MS),
            "the others ran out"
        );
    }

    #[test]
    fn queues_of_all_groups_are_bounded() {
        let mut orderly = OrderlyGroups {
            count: LOCKS_MAX - 1,
            ..OrderlyGroups::default()
        };
        orderly.swept_ms = 1000;
        let queues = [QueueKey::new(1, 0), QueueKey::new(1, 1)];
        let (group, client) = (Arc::from("g"), Arc::from("a"));
        let ask = |queues| Heard {
            group: &group,
            client: &client,
            is_known: true,
            queues,
            take: true,
        };
        assert!(!orderly.note(ask(&queues[..]), 1001));
        assert!(orderly.note(ask(&queues[..1]), 1001));
        assert!(orderly.note(ask(&queues[..1]), 1001), "a renewal");
        assert!(
            orderly.note(ask(&queues[..]), 3000),
            "a sweep found the truth"
        );
    }
}
