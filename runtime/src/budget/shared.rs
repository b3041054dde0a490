//! A bound in bytes that every core of the process draws from.
//!
//! **Owns** the count of bytes held against one bound.
//! **Lives on** all data cores at once: one relaxed counter, touched when a buffer grows or goes,
//! not per message; no lock.
//! **Invariants** what was counted is given back on drop. The count never refuses: whoever adds
//! looks at [`SharedBudget::has_room`] first, so it may pass the limit by one addition a core.
//! **Limits** the bound given at construction.
//! **Not here** what to do without room: the caller answers busy or closes a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A bound in bytes of all cores together. Clone the `Arc`.
#[derive(Debug)]
pub struct SharedBudget {
    limit: usize,
    used: AtomicUsize,
}

/// Bytes counted against a [`SharedBudget`]; given back on drop.
#[derive(Debug)]
pub struct Held {
    budget: Arc<SharedBudget>,
    bytes: usize,
}

impl SharedBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
        })
    }

    /// The bound in bytes.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes held now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether more may be added.
    pub fn has_room(&self) -> bool {
        self.used() < self.limit
    }

    /// Whether more than half is used: time to be strict with whoever holds much.
    pub fn is_pressed(&self) -> bool {
        self.used() > self.limit / 2
    }

    /// Counts bytes for as long as the value lives.
    pub fn hold(self: &Arc<Self>, bytes: usize) -> Held {
        let mut held = Held {
            budget: Arc::clone(self),
            bytes: 0,
        };
        held.resize(bytes);
        held
    }
}

impl Held {
    /// Bytes counted.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The budget they are counted against.
    pub fn budget(&self) -> &SharedBudget {
        &self.budget
    }

    /// Counts `bytes` from now on, instead of what was counted so far.
    pub fn resize(&mut self, bytes: usize) {
        let used = &self.budget.used;
        if bytes > self.bytes {
            used.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else if bytes < self.bytes {
            used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_counted_until_it_is_dropped() {
        let budget = SharedBudget::new(100);
        let mut first = budget.hold(40);
        let second = budget.hold(30);
        assert!(budget.has_room() && budget.is_pressed());
        first.resize(70);
        assert_eq!((budget.used(), budget.has_room()), (100, false));
        drop(second);
        first.resize(10);
        assert_eq!((budget.used(), first.bytes()), (10, 10));
        drop(first);
        assert_eq!(budget.used(), 0);
        assert!(!budget.is_pressed());
    }
}
