//! Rows of what is owed, on their way from the data cores to a supervisor.
//!
//! **Owns** one inbox for each kind.
//! **Lives on** the control plane's thread.
//! **Invariants** rows keep the order in which a core sent them. What is dropped is said
//! ([`OwedInbox::take`]): the supervisor then scans the log instead.
//! **Limits** [`WAITING_MAX`] rows an inbox.
//! **Not here** what a supervisor does about a row.

use std::cell::{Cell, RefCell};

use tokio::sync::Notify;

use crate::seam::owed::{OwedKind, OwedRow};

/// Rows that wait for one supervisor; 12 MiB. More than that is read from the log again.
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

/// The inboxes of the supervisors.
#[derive(Debug, Default)]
pub struct OwedInboxes {
    /// Delayed messages.
    pub deliveries: OwedInbox,
    /// Half messages.
    pub decisions: OwedInbox,
}

impl OwedInboxes {
    /// Sorts rows to their supervisors.
    pub fn push(&self, rows: Vec<OwedRow>) {
        // A message of a core mostly holds one kind.
        let (deliveries, decisions): (Vec<_>, Vec<_>) = rows
            .into_iter()
            .partition(|row| row.kind == OwedKind::Delivery);
        if !deliveries.is_empty() {
            self.deliveries.push(deliveries);
        }
        if !decisions.is_empty() {
            self.decisions.push(decisions);
        }
    }
}
