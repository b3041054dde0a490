//! Waiting for a condition on one thread.
//!
//! **Owns** the wakers of those who wait.
//! **Lives on** the shard's core.
//! **Invariants** the condition is looked at after every `notify`; no wake-up is lost, because
//! nothing else runs between looking and registering.
//! **Limits** as many waiters as tasks.
//! **Not here** what is waited for.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::disk::Disk;

/// Wakes everyone who waits on it.
#[derive(Debug, Default)]
pub struct Signal(RefCell<Vec<Waker>>);

impl Signal {
    /// Lets all waiters look again.
    pub fn notify(&self) {
        if self.0.borrow().is_empty() {
            return;
        }
        let wakers = std::mem::take(&mut *self.0.borrow_mut());
        for waker in wakers {
            waker.wake();
        }
    }

    fn register(&self, context: &Context<'_>) {
        let mut wakers = self.0.borrow_mut();
        if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            wakers.push(context.waker().clone());
        }
    }

    /// Waits until `condition` gives something.
    pub async fn wait<T>(&self, mut condition: impl FnMut() -> Option<T>) -> T {
        poll_fn(|context| {
            if let Some(value) = condition() {
                return Poll::Ready(value);
            }
            self.register(context);
            Poll::Pending
        })
        .await
    }

    /// Waits until `condition` holds, at most `ms` milliseconds.
    pub async fn wait_ms<D: Disk>(&self, disk: &D, ms: u64, mut condition: impl FnMut() -> bool) {
        if condition() {
            return;
        }
        let mut sleep = pin!(disk.sleep_ms(ms));
        poll_fn(|context| {
            if condition() || sleep.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            self.register(context);
            Poll::Pending
        })
        .await;
    }
}
