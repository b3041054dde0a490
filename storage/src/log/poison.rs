//! The first fault of a shard, kept until restart.
//!
//! **Owns** the reason for which a shard takes nothing any more.
//! **Lives on** the shard's core.
//! **Invariants** set once, never cleared: after a failed sync nothing un-synced may be trusted.
//! **Limits** none.
//! **Not here** telling those who wait (`shard_log`).

use std::cell::RefCell;
use std::fmt::Display;
use std::rc::Rc;

/// Empty, or the reason.
#[derive(Debug, Default)]
pub struct Poison(RefCell<Option<Rc<str>>>);

impl Poison {
    /// Keeps the first reason.
    pub fn set(&self, fault: &dyn Display) {
        let mut reason = self.0.borrow_mut();
        if reason.is_none() {
            tracing::error!(%fault, "the shard is poisoned and refuses writes until restart");
            *reason = Some(Rc::from(fault.to_string()));
        }
    }

    /// The reason, if there is one.
    pub fn reason(&self) -> Option<Rc<str>> {
        self.0.borrow().clone()
    }

    /// Whether there is a reason.
    pub fn is_set(&self) -> bool {
        self.0.borrow().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays() {
        let poison = Poison::default();
        assert!(!poison.is_set());
        poison.set(&"a");
        poison.set(&"b");
        assert_eq!(poison.reason().as_deref(), Some("a"));
    }
}
