//! What a queue actor remembers besides its records.
//!
//! **Owns** one queue's consumer offsets and order locks.
//! **Lives on** the queue's data core, inside its actor.
//! **Invariants** pure: the same calls give the same answers. It survives a panic of its actor's
//! turn, for every change of it is a single insert or remove.
//! **Limits** those of `offsets` and `order_lock`.
//! **Not here** records and bounds (storage), waiting pulls (`waiters`).

use std::sync::Arc;

use gantry_storage::units::{QueueBounds, QueueOffset};

use super::offsets::{Commit, GroupOffsets};
use super::order_lock::OrderLocks;

/// One queue's memory.
#[derive(Debug, Clone, Default)]
pub struct QueueState {
    /// Consumer offsets by group.
    pub offsets: GroupOffsets,
    /// Order locks by group.
    pub locks: OrderLocks,
}

/// Where a pull begins after the group's commit and a pending reset were applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PullOpening {
    /// A reset that this pull takes and has to be told of.
    pub reset: Option<QueueOffset>,
    /// What became of the commit it carried.
    pub commit: Option<Commit>,
}

impl QueueState {
    /// Opens a pull at `wanted`: a pending reset is taken and its commit ignored, else the commit
    /// is stored. Who was told while suspended and comes from there isn't told again: a client
    /// gives its queue up for some seconds each time.
    pub fn open_pull(&mut self, group: &Arc<str>, wanted: i64, commit: Option<i64>) -> PullOpening {
        let taken = self.offsets.take_reset(group);
        let is_there = |to: QueueOffset| u64::try_from(wanted) == Ok(to.0);
        let reset = taken
            .filter(|taken| !(taken.was_told && is_there(taken.to)))
            .map(|taken| taken.to);
        let commit = match (taken, commit.map(u64::try_from)) {
            (None, Some(Ok(offset))) => Some(self.offsets.commit(group, QueueOffset(offset))),
            _ => None,
        };
        PullOpening { reset, commit }
    }

    /// What a query of a group's offset is told, `None` for "not found", also for an empty queue. A
    /// queue that still has its first record near the log's end counts as young, and an unknown
    /// group then starts at 0 (`ConsumerManageProcessor`, 5.5; traps 67, 68).
    pub fn query_offset(
        &self,
        group: &str,
        bounds: QueueBounds,
        first_is_recent: bool,
        zero_if_young: bool,
    ) -> Option<QueueOffset> {
        let has_first = bounds.min.0 == 0 && bounds.max.0 > 0;
        let young = zero_if_young && has_first && first_is_recent;
        self.offsets
            .query(group)
            .or(young.then_some(QueueOffset(0)))
    }

    /// Whether nothing would be lost by forgetting it.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty() && self.locks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::super::order_lock::LOCK_LIFE_MS;
    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Commit(u8, u64),
        Reset(u8, u64),
        Pull(u8, Option<i64>),
        Lock(u8, u8),
        Unlock(u8, u8),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let group = 0..3_u8;
        prop_oneof![
            (group.clone(), 0..9_u64).prop_map(|(g, n)| Step::Commit(g, n)),
            (group.clone(), 0..9_u64).prop_map(|(g, n)| Step::Reset(g, n)),
            (group.clone(), proptest::option::of(-1..9_i64)).prop_map(|(g, n)| Step::Pull(g, n)),
            (group.clone(), 0..3_u8).prop_map(|(g, c)| Step::Lock(g, c)),
            (group, 0..3_u8).prop_map(|(g, c)| Step::Unlock(g, c)),
            (0..LOCK_LIFE_MS * 2).prop_map(Step::Pass),
        ]
    }

    /// The same rules with plain maps.
    #[derive(Default)]
    struct Model {
        committed: HashMap<u8, u64>,
        resets: HashMap<u8, u64>,
        locks: HashMap<u8, (u8, u64)>,
        now: u64,
    }

    impl Model {
        fn commit(&mut self, group: u8, offset: u64) {
            if !self.resets.contains_key(&group) {
                self.committed.insert(group, offset);
            }
        }

        fn lock(&mut self, group: u8, client: u8) -> bool {
            let free = self
                .locks
                .get(&group)
                .is_none_or(|(holder, at)| *holder == client || self.now - at > LOCK_LIFE_MS);
            if free {
                self.locks.insert(group, (client, self.now));
            }
            free
        }
    }

    fn name(n: u8) -> Arc<str> {
        Arc::from(format!("n{n}"))
    }

    fn check(steps: &[Step]) {
        let (mut state, mut model) = (QueueState::default(), Model::default());
        for step in steps {
            match *step {
                Step::Commit(g, n) => {
                    state.offsets.commit(&name(g), QueueOffset(n));
                    model.commit(g, n);
                }
                Step::Reset(g, n) => {
                    state.offsets.reset(&name(g), QueueOffset(n), true);
                    model.committed.insert(g, n);
                    model.resets.insert(g, n);
                }
                Step::Pull(g, commit) => {
                    let opening = state.open_pull(&name(g), 0, commit);
                    let reset = model.resets.remove(&g);
                    assert_eq!(opening.reset.map(|offset| offset.0), reset);
                    if let (None, Some(Ok(n))) = (reset, commit.map(u64::try_from)) {
                        model.commit(g, n);
                    }
                }
                Step::Lock(g, c) => {
                    let got = state.locks.lock(&name(g), &name(c), model.now);
                    assert_eq!(got, model.lock(g, c));
                }
                Step::Unlock(g, c) => {
                    state.locks.unlock(&name(g), &name(c));
                    if model.locks.get(&g).is_some_and(|(holder, _)| *holder == c) {
                        model.locks.remove(&g);
                    }
                }
                Step::Pass(ms) => model.now += ms,
            }
            for g in 0..3 {
                let bounds = QueueBounds {
                    min: QueueOffset(5),
                    max: QueueOffset(9),
                };
                let found = state.query_offset(&name(g), bounds, true, true);
                assert_eq!(
                    found.map(|offset| offset.0),
                    model.committed.get(&g).copied()
                );
            }
        }
        let mut rows = Vec::new();
        assert!(state.offsets.take_dirty(usize::MAX, &mut rows));
        assert_eq!(rows.len(), model.committed.len());
    }

    proptest! {
        #[test]
        fn agrees_with_the_model(steps in proptest::collection::vec(step(), 0..60)) {
            check(&steps);
        }
    }

    #[test]
    fn traps_67_68_only_a_young_queue_starts_at_zero() {
        let state = QueueState::default();
        let at = |min| QueueBounds {
            min: QueueOffset(min),
            max: QueueOffset(9),
        };
        assert_eq!(
            state.query_offset("g", at(0), true, true),
            Some(QueueOffset(0))
        );
        assert_eq!(state.query_offset("g", at(0), false, true), None);
        assert_eq!(state.query_offset("g", at(1), true, true), None);
        assert_eq!(state.query_offset("g", at(0), true, false), None);
        let empty = QueueBounds {
            min: QueueOffset(0),
            max: QueueOffset(0),
        };
        assert_eq!(state.query_offset("g", empty, true, true), None);
        assert!(state.is_empty());
    }
}
