//! Waking one task of a core.
//!
//! **Owns** a flag and the waker of the one task that waits for it.
//! **Lives on** one data core.
//! **Invariants** a set before the wait isn't lost; sets before one wake-up are one wake-up.
//! **Limits** one waiting task.
//! **Not here** wake-ups between cores (runtime).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// A flag that one task can wait for.
#[derive(Debug, Default)]
pub struct Signal {
    is_set: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Signal {
    /// Sets the flag and wakes the waiting task.
    pub fn set(&self) {
        if !self.is_set.replace(true)
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }

    /// Waits until the flag is set, and clears it.
    pub async fn wait(&self) {
        poll_fn(|cx| {
            if self.is_set.replace(false) {
                return Poll::Ready(());
            }
            self.waker.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}
