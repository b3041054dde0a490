//! Awaiting several futures at once.
//!
//! **Owns** nothing; each caller's futures are its own.
//! **Lives on** both planes.
//! **Invariants** outcomes come in the order of the futures; each is polled only while it is
//! pending.
//! **Limits** the caller's: every wake-up looks at all that are pending, so a few dozen.
//! **Not here** how many may be under way (the callers).

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

use futures_lite::future;

/// Awaits all.
pub async fn join_all<T, F: Future<Output = T> + Unpin>(mut futures: Vec<F>) -> Vec<T> {
    let mut done: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    future::poll_fn(|cx| {
        let mut is_ready = true;
        for (future, place) in futures.iter_mut().zip(&mut done) {
            if place.is_none() {
                match Pin::new(future).poll(cx) {
                    Poll::Ready(value) => *place = Some(value),
                    Poll::Pending => is_ready = false,
                }
            }
        }
        if is_ready {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    done.into_iter().flatten().collect()
}
