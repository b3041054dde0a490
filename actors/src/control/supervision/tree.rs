//! The parts of the control plane and how often each was restarted.
//!
//! **Owns** the names and the restart counts.
//! **Lives on** the control plane's thread.
//! **Invariants** every part that runs is named here.
//! **Limits** none; the budgets are in `gantry_runtime::control`.
//! **Not here** catching panics (`shell`).

use std::cell::RefCell;
use std::collections::BTreeMap;

/// The parts by name; see the room's head.
#[derive(Debug, Default)]
pub struct Tree {
    restarts: RefCell<BTreeMap<&'static str, u64>>,
}

impl Tree {
    /// A part starts.
    pub fn enter(&self, name: &'static str) {
        self.restarts.borrow_mut().entry(name).or_default();
    }

    /// A part was rebuilt after a panic.
    pub fn restarted(&self, name: &'static str) {
        *self.restarts.borrow_mut().entry(name).or_default() += 1;
    }

    /// Each part with its restarts, by name.
    pub fn report(&self) -> Vec<(&'static str, u64)> {
        self.restarts
            .borrow()
            .iter()
            .map(|(name, count)| (*name, *count))
            .collect()
    }
}
