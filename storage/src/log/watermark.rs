//! How far the log is staged, stable and committed.
//!
//! **Owns** the three watermarks and their order.
//! **Lives on** the shard's core.
//! **Invariants** committed ≤ stable ≤ staged, none goes back; checked at every change.
//! **Limits** none.
//! **Not here** who waits for them (`shard_log`).

use std::cell::Cell;

use crate::units::FilePosition;

/// Complete in the tail up to here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Staged(pub FilePosition);
/// Written to the device up to here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stable(pub FilePosition);
/// Synced to the device up to here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Committed(pub FilePosition);

/// The three of them.
#[derive(Debug, Default)]
pub struct Watermarks {
    staged: Cell<Staged>,
    stable: Cell<Stable>,
    committed: Cell<Committed>,
}

impl Watermarks {
    /// All three at `position`.
    pub fn at(position: FilePosition) -> Self {
        Self {
            staged: Cell::new(Staged(position)),
            stable: Cell::new(Stable(position)),
            committed: Cell::new(Committed(position)),
        }
    }

    /// Where staging is.
    pub fn staged(&self) -> Staged {
        self.staged.get()
    }

    /// Where writing is.
    pub fn stable(&self) -> Stable {
        self.stable.get()
    }

    /// Where syncing is.
    pub fn committed(&self) -> Committed {
        self.committed.get()
    }

    /// Moves staged on.
    pub fn stage(&self, staged: Staged) {
        self.staged.set(self.staged.get().max(staged));
    }

    /// Moves stable on.
    ///
    /// # Panics
    /// When it would pass staged: a bug that must not be answered with an acknowledgement.
    pub fn stabilize(&self, stable: Stable) {
        assert!(stable.0 <= self.staged.get().0, "stable would pass staged");
        self.stable.set(self.stable.get().max(stable));
    }

    /// Moves committed on.
    ///
    /// # Panics
    /// When it would pass stable: a bug that must not be answered with an acknowledgement.
    pub fn commit(&self, committed: Committed) {
        assert!(
            committed.0 <= self.stable.get().0,
            "committed would pass stable"
        );
        self.committed.set(self.committed.get().max(committed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_only_go_on() {
        let marks = Watermarks::at(FilePosition(10));
        marks.stage(Staged(FilePosition(30)));
        marks.stabilize(Stable(FilePosition(20)));
        marks.commit(Committed(FilePosition(20)));
        marks.commit(Committed(FilePosition(15)));
        assert_eq!(marks.committed(), Committed(FilePosition(20)));
    }

    #[test]
    #[should_panic(expected = "committed would pass stable")]
    fn their_order_is_checked() {
        Watermarks::at(FilePosition(10)).commit(Committed(FilePosition(11)));
    }
}
