//! Times each turn of a background task, so that one that keeps its core shows as a stall.
//!
//! **Owns** the wrapper around such a task.
//! **Lives on** each data core.
//! **Invariants** two readings of the clock a turn, none while the profile is off; a turn is what
//! the task does between two waits.
//! **Limits** as many rooms as name it.
//! **Not here** loops that time parts of themselves (the writer, those of the actors).

use std::future::{Future, poll_fn};
use std::rc::Rc;

use super::CoreMetrics;
use crate::clock::Clock;

/// Watches the tasks of one room on one core.
#[derive(Debug, Clone)]
pub struct StallWatch {
    room: &'static str,
    clock: Rc<Clock>,
    metrics: Rc<CoreMetrics>,
}

impl StallWatch {
    /// For the tasks of `room`.
    pub fn new(room: &'static str, clock: &Rc<Clock>, metrics: &Rc<CoreMetrics>) -> Self {
        Self {
            room,
            clock: Rc::clone(clock),
            metrics: Rc::clone(metrics),
        }
    }

    /// The same task, watched.
    pub fn over(
        &self,
        task: impl Future<Output = ()> + 'static,
    ) -> impl Future<Output = ()> + 'static {
        let watch = self.clone();
        async move {
            let mut task = std::pin::pin!(task);
            poll_fn(|cx| {
                let profile = watch.metrics.profile();
                if !profile.is_on() {
                    return task.as_mut().poll(cx);
                }
                let began_us = watch.clock.mono_us_now();
                let polled = task.as_mut().poll(cx);
                profile.ran(watch.room, began_us, watch.clock.mono_us_now());
                polled
            })
            .await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_turn_that_keeps_the_core_is_a_stall_of_its_room_and_a_wait_is_none() {
        let (clock, metrics) = (Clock::new(), CoreMetrics::new());
        let watch = StallWatch::new("a room", &clock, &metrics);
        let keeps = || std::thread::sleep(Duration::from_millis(3));
        let task = async move {
            futures_lite::future::yield_now().await;
            keeps();
            futures_lite::future::yield_now().await;
        };
        futures_lite::future::block_on(watch.over(async move { keeps() }));
        metrics.profile().begin(clock.mono_us_now());
        futures_lite::future::block_on(watch.over(task));
        let snapshot = metrics.profile().snapshot(clock.mono_us_now()).unwrap();
        let rooms = snapshot.stalls.rooms;
        assert_eq!(rooms.len(), 1, "{rooms:?}");
        assert_eq!((rooms[0].room, rooms[0].count), ("a room", 1));
        assert!(rooms[0].max_us >= 3_000, "{rooms:?}");
    }
}
