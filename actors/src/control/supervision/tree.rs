//! The supervisor tree: every part of the control plane, and how it is doing.
//!
//! **Owns** the names, states and backlogs; restarts and causes are read from the parts' budgets.
//! **Lives on** the control plane's thread.
//! **Invariants** every part that runs is named here.
//! **Limits** none; the budgets are in `gantry_runtime::control`.
//! **Not here** catching panics (`shell`, `supervise`), printing (`gantry admin supervisors`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use gantry_runtime::control::RestartBudget;

/// What a part is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PartState {
    /// Reading its state from the tables or the log.
    Starting,
    /// At work or waiting for some.
    #[default]
    Running,
    /// It can't work now and tries again, such as after a full inbox.
    Waiting,
}

impl PartState {
    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Waiting => "waiting",
        }
    }
}

#[derive(Default)]
struct Entry {
    /// One for each of its tasks, such as one a name server.
    budgets: Vec<RestartBudget>,
    #[cfg(test)]
    is_to_panic: Cell<bool>,
    state: Cell<PartState>,
    backlog: Cell<u64>,
}

/// One part, as reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartReport {
    /// Its name.
    pub name: &'static str,
    /// What it is doing.
    pub state: PartState,
    /// Restarts since the process started.
    pub restarts: u64,
    /// The cause of the last one.
    pub last_failure: Option<String>,
    /// What it still has to do, by its own count.
    pub backlog: u64,
}

/// The parts by name; see the room's head.
#[derive(Default)]
pub struct Tree {
    parts: RefCell<BTreeMap<&'static str, Entry>>,
}

impl Tree {
    /// A part (or one more task of it) starts, with this budget of restarts.
    pub fn enter(&self, name: &'static str, budget: RestartBudget) {
        let mut parts = self.parts.borrow_mut();
        parts.entry(name).or_default().budgets.push(budget);
    }

    /// What a part is doing now.
    pub fn set_state(&self, name: &str, state: PartState) {
        if let Some(entry) = self.parts.borrow().get(name) {
            entry.state.set(state);
        }
    }

    /// What a part still has to do.
    pub fn set_backlog(&self, name: &str, backlog: u64) {
        if let Some(entry) = self.parts.borrow().get(name) {
            entry.backlog.set(backlog);
        }
    }

    /// The next turn of this part panics.
    #[cfg(test)]
    pub fn inject_panic(&self, name: &str) {
        if let Some(entry) = self.parts.borrow().get(name) {
            entry.is_to_panic.set(true);
        }
    }

    /// Where a part panics that a test wants to.
    #[cfg(test)]
    pub fn panic_if_wanted(&self, name: &str) {
        let wanted = |entry: &Entry| entry.is_to_panic.replace(false);
        assert!(
            !self.parts.borrow().get(name).is_some_and(wanted),
            "injected"
        );
    }

    /// Every part, by name.
    pub fn report(&self) -> Vec<PartReport> {
        let parts = self.parts.borrow();
        let one = |(name, entry): (&&'static str, &Entry)| PartReport {
            name,
            state: entry.state.get(),
            restarts: entry.budgets.iter().map(RestartBudget::restarts).sum(),
            last_failure: entry.budgets.iter().find_map(RestartBudget::last_failure),
            backlog: entry.backlog.get(),
        };
        parts.iter().map(one).collect()
    }
}
