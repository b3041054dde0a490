//! Rows of what is owed, on their way from the data cores to a supervisor.
//!
//! **Owns** the rows until they are taken.
//! **Lives on** the control plane's thread.
//! **Invariants** rows keep the order in which a core sent them. What is dropped is said
//! ([`OwedInbox::take`]): the supervisor then scans the log instead.
//! **Limits** [`WAITING_MAX`] rows.
//! **Not here** what a supervisor does about a row.

use std::cell::{Cell, RefCell};

use tokio::sync::Notify;

use crate::seam::owed::OwedRow;

/// Rows that wait; 12 MiB. More than that is read from the log again.
const WAITING_MAX: usize = 256 * 1024;

/// Rows for one supervisor.
#[derive(Debug, Default)]
pub struct OwedInbox {
    rows: RefCell<Vec<OwedRow>>,
    is_lossy: Cell<bool>,
    news: Notify,
}

impl OwedInbox {
    /// Adds rows.
    pub fn push(&self, rows: impl IntoIterator<Item = OwedRow>) {
        let mut waiting = self.rows.borrow_mut();
        waiting.extend(rows);
        if waiting.len() > WAITING_MAX {
            waiting.clear();
            self.is_lossy.set(true);
        }
        self.news.notify_one();
    }

    /// Rows may have been lost on their way here.
    pub fn note_lost(&self) {
        self.is_lossy.set(true);
        self.news.notify_one();
    }

    /// Waits until there is something to take.
    pub async fn wait(&self) {
        while self.rows.borrow().is_empty() && !self.is_lossy.get() {
            self.news.notified().await;
        }
    }

    /// Takes what is there; true when rows were dropped before these: scan every queue from where
    /// it is known to.
    pub fn take(&self) -> (Vec<OwedRow>, bool) {
        (self.rows.take(), self.is_lossy.replace(false))
    }
}
