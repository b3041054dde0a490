//! Who may consume a queue in order.
//!
//! **Owns** one queue's order locks, one a consumer group.
//! **Lives on** the queue's data core, inside its actor.
//! **Invariants** at most one live holder a group; a lock lives [`LOCK_LIFE_MS`] after its last
//! renewal (`RebalanceLockManager`, 5.5), whether or not the holder's connection is still there
//! (trap 74).
//! **Limits** [`LOCKS_MAX`] groups a queue; dead locks make room first.
//! **Not here** the request's body and the gathering over cores (`data::requests::locks`).

use std::collections::BTreeMap;
use std::sync::Arc;

/// How long a lock lives after its last renewal.
pub const LOCK_LIFE_MS: u64 = 60_000;
/// Most groups that hold a lock on one queue.
pub const LOCKS_MAX: usize = 1024;

/// One queue's locks. Times are ms of the core's monotonic clock.
#[derive(Debug, Clone, Default)]
pub struct OrderLocks {
    held: BTreeMap<Arc<str>, Holder>,
}

#[derive(Debug, Clone)]
struct Holder {
    client: Arc<str>,
    renewed_ms: u64,
}

impl Holder {
    fn is_live(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.renewed_ms) <= LOCK_LIFE_MS
    }
}

impl OrderLocks {
    /// Takes or renews the lock of `group` for `client`; true when it is theirs now.
    pub fn lock(&mut self, group: &Arc<str>, client: &Arc<str>, now_ms: u64) -> bool {
        if let Some(holder) = self.held.get_mut(group) {
            if *holder.client != **client && holder.is_live(now_ms) {
                return false;
            }
            *holder = Holder {
                client: Arc::clone(client),
                renewed_ms: now_ms,
            };
            return true;
        }
        if self.held.len() >= LOCKS_MAX {
            self.forget_dead(now_ms);
        }
        if self.held.len() >= LOCKS_MAX {
            return false;
        }
        let holder = Holder {
            client: Arc::clone(client),
            renewed_ms: now_ms,
        };
        self.held.insert(Arc::clone(group), holder);
        true
    }

    /// Gives the lock back; only its holder can.
    pub fn unlock(&mut self, group: &str, client: &str) {
        if self
            .held
            .get(group)
            .is_some_and(|holder| &*holder.client == client)
        {
            self.held.remove(group);
        }
    }

    /// Forgets a group's lock.
    pub fn drop_group(&mut self, group: &str) {
        self.held.remove(group);
    }

    /// Drops what has outlived its time.
    pub fn forget_dead(&mut self, now_ms: u64) {
        self.held.retain(|_, holder| holder.is_live(now_ms));
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Arc<str> {
        Arc::from(text)
    }

    #[test]
    fn trap_74_a_lock_lives_sixty_seconds_after_its_renewal() {
        let (group, a, b) = (name("g"), name("a"), name("b"));
        let mut locks = OrderLocks::default();
        assert!(locks.lock(&group, &a, 0));
        assert!(!locks.lock(&group, &b, 59_000));
        assert!(locks.lock(&group, &a, 59_000));
        assert!(!locks.lock(&group, &b, 119_000));
        assert!(locks.lock(&group, &b, 119_001));
        assert!(!locks.lock(&group, &a, 119_002));
    }

    #[test]
    fn only_the_holder_unlocks_and_groups_do_not_meet() {
        let (group, other, a, b) = (name("g"), name("h"), name("a"), name("b"));
        let mut locks = OrderLocks::default();
        assert!(locks.lock(&group, &a, 0));
        assert!(locks.lock(&other, &b, 0));
        locks.unlock("g", "b");
        assert!(!locks.lock(&group, &b, 1));
        locks.unlock("g", "a");
        assert!(locks.lock(&group, &b, 1));
        assert!(!locks.lock(&other, &a, 1));
    }

    #[test]
    fn dead_locks_make_room_for_new_ones() {
        let a = name("a");
        let mut locks = OrderLocks::default();
        for n in 0..LOCKS_MAX {
            assert!(locks.lock(&name(&format!("g{n}")), &a, 0));
        }
        assert!(!locks.lock(&name("late"), &a, 1));
        assert!(locks.lock(&name("late"), &a, LOCK_LIFE_MS + 1));
        assert!(!locks.is_empty());
    }
}
