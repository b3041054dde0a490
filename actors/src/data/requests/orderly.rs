//! Which groups hold queue locks, as every core hears it.
//!
//! **Owns** for each group the queues that were asked for and until when a lock of them may live.
//! **Lives on** each data core: a lock request goes to all cores, whichever holds the queue.
//! **Invariants** a group whose last lock is given back or has run out holds none. A lock that was
//! refused counts as well, for then another member of the group holds it.
//! **Limits** what has run out is forgotten when its group is heard of again, and all of it at
//! [`GROUPS_MAX`] groups.
//! **Not here** the locks themselves (`queue::order_lock`).

use std::sync::Arc;

use gantry_storage::units::QueueKey;
use hashbrown::HashMap;

use crate::data::queue::order_lock::LOCK_LIFE_MS;

/// Groups remembered before those without a live lock are swept out.
pub const GROUPS_MAX: usize = 4096;

/// See the room's head.
#[derive(Debug, Default)]
pub struct OrderlyGroups {
    groups: HashMap<Arc<str>, HashMap<QueueKey, u64>>,
}

impl OrderlyGroups {
    /// A lock request was heard.
    pub fn note(&mut self, group: &Arc<str>, queues: &[QueueKey], take: bool, now_ms: u64) {
        if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(group) {
            self.groups
                .retain(|_, locks| locks.values().any(|until| *until > now_ms));
        }
        let locks = self.groups.entry(Arc::clone(group)).or_default();
        locks.retain(|_, until| *until > now_ms);
        for queue in queues {
            if take {
                locks.insert(*queue, now_ms + LOCK_LIFE_MS);
            } else {
                locks.remove(queue);
            }
        }
        if locks.is_empty() {
            self.groups.remove(group);
        }
    }

    /// Whether a lock of the group may live.
    pub fn holds(&self, group: &str, now_ms: u64) -> bool {
        let locks = self.groups.get(group);
        locks.is_some_and(|locks| locks.values().any(|until| *until > now_ms))
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
        orderly.note(&group, &queues, true, 1000);
        assert!(orderly.holds("g", 1000 + LOCK_LIFE_MS - 1) && !orderly.holds("h", 1000));
        assert!(!orderly.holds("g", 1000 + LOCK_LIFE_MS));
        orderly.note(&group, &queues[..1], false, 2000);
        assert!(orderly.holds("g", 2000));
        orderly.note(&group, &queues[1..], false, 2000);
        assert!(!orderly.holds("g", 2000) && orderly.groups.is_empty());
    }
}
