//! What consumer groups have consumed of one queue.
//!
//! **Owns** the positions of all groups in one queue: committed, pulled, and a pending one-shot
//! reset.
//! **Lives on** the queue's data core, inside its actor; the control plane keeps a copy, written
//! behind.
//! **Invariants** positions may go back (trap 73); while a reset is pending, queries return it and
//! commits are swallowed; only a pull takes it, for who was suspended may own the queue no more; a
//! position is dirty until it was handed to the control plane, and so is one that was forgotten.
//! **Limits** [`GROUPS_MAX`] groups a queue; a commit of one more is refused.
//! **Not here** whether the group exists (`data::catalog`), how they persist (`control`).

use std::sync::Arc;

use gantry_storage::units::QueueOffset;

/// Most groups with a position in one queue.
pub const GROUPS_MAX: usize = 16 * 1024;

/// One group's position in one queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// What the group committed; none when it has only pulled, or was deleted a moment ago.
    pub committed: Option<QueueOffset>,
    /// Where the pull behind the last one begins, for display.
    pub pulled: QueueOffset,
    /// A reset that no pull has taken yet.
    pub reset: Option<QueueOffset>,
    /// Suspended pulls were told of it.
    is_reset_told: bool,
    dirty: bool,
}

/// A reset that a pull has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakenReset {
    /// Where to.
    pub to: QueueOffset,
    /// Suspended pulls have heard of it: whoever comes from there was one of them.
    pub was_told: bool,
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// Stored; the queue had nothing to hand over before.
    FirstDirty,
    /// Stored, or nothing changed.
    Stored,
    /// A reset is pending: ignored, answered as a success (`ConsumerManageProcessor`, 5.5).
    Swallowed,
    /// Too many groups.
    Refused,
}

/// A group whose position changed, and the position; none when it was forgotten.
pub type ChangedRow = (Arc<str>, Option<QueueOffset>);

/// The positions of all groups in one queue.
#[derive(Debug, Clone, Default)]
pub struct GroupOffsets {
    /// By name. Most queues have one or two groups; a tree's first node would be 700 bytes.
    rows: Vec<(Arc<str>, Position)>,
    dirty_count: usize,
}

impl GroupOffsets {
    /// What a query returns: a pending reset first, else the committed offset.
    pub fn query(&self, group: &str) -> Option<QueueOffset> {
        let row = self.get(group)?;
        row.reset.or(row.committed)
    }

    /// A client's commit.
    pub fn commit(&mut self, group: &Arc<str>, offset: QueueOffset) -> Commit {
        if self.get(group).is_some_and(|row| row.reset.is_some()) {
            return Commit::Swallowed;
        }
        self.set(group, offset)
    }

    /// Sets a position whatever is pending.
    pub fn set(&mut self, group: &Arc<str>, offset: QueueOffset) -> Commit {
        let Some(row) = row_of(&mut self.rows, group) else {
            return Commit::Refused;
        };
        if row.committed == Some(offset) {
            return Commit::Stored;
        }
        row.committed = Some(offset);
        mark_dirty(row, &mut self.dirty_count)
    }

    /// A position read from the tables at start: stored, not dirty.
    pub fn load(&mut self, group: &Arc<str>, offset: QueueOffset) {
        if let Some(row) = row_of(&mut self.rows, group) {
            row.committed = Some(offset);
        }
    }

    /// Remembers where a group's next pull begins.
    pub fn pulled(&mut self, group: &Arc<str>, offset: QueueOffset) {
        if let Some(row) = row_of(&mut self.rows, group) {
            row.pulled = offset;
        }
    }

    /// As [`Self::pulled`], of a pull that has waited: its group may have been forgotten meanwhile.
    pub fn pulled_on(&mut self, group: &str, offset: QueueOffset) {
        if let Some(row) = self.get_mut(group) {
            row.pulled = offset;
        }
    }

    /// Resets a group; with `one_shot` the next pull is redirected.
    pub fn reset(&mut self, group: &Arc<str>, offset: QueueOffset, one_shot: bool) -> Commit {
        let outcome = self.set(group, offset);
        if one_shot && let Some(row) = self.get_mut(group) {
            row.reset = Some(offset);
            row.is_reset_told = false;
        }
        outcome
    }

    /// The pending reset, for the group's suspended pulls. It stays pending.
    pub fn tell_reset(&mut self, group: &str) -> Option<QueueOffset> {
        let row = self.get_mut(group)?;
        row.is_reset_told |= row.reset.is_some();
        row.reset
    }

    /// Takes a pending reset for the pull that asks.
    pub fn take_reset(&mut self, group: &str) -> Option<TakenReset> {
        let row = self.get_mut(group)?;
        let to = row.reset.take()?;
        let was_told = std::mem::take(&mut row.is_reset_told);
        Some(TakenReset { to, was_told })
    }

    /// Hands out up to `most` dirty rows and marks them clean; those without an offset were
    /// forgotten. True when none is left.
    pub fn take_dirty(&mut self, most: usize, out: &mut Vec<ChangedRow>) -> bool {
        let (mut taken, mut forgotten) = (0, false);
        for (group, row) in &mut self.rows {
            if self.dirty_count == 0 || taken == most {
                break;
            }
            if row.dirty {
                row.dirty = false;
                self.dirty_count -= 1;
                taken += 1;
                forgotten |= row.committed.is_none();
                out.push((Arc::clone(group), row.committed));
            }
        }
        if forgotten {
            self.rows.retain(|(_, row)| *row != Position::default());
        }
        self.dirty_count == 0
    }

    /// All groups with their positions.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Position)> {
        self.rows.iter().map(|(group, row)| (group, row))
    }

    /// One group's position.
    pub fn get(&self, group: &str) -> Option<&Position> {
        let at = place_of(&self.rows, group).ok()?;
        self.rows.get(at).map(|(_, row)| row)
    }

    fn get_mut(&mut self, group: &str) -> Option<&mut Position> {
        let at = place_of(&self.rows, group).ok()?;
        self.rows.get_mut(at).map(|(_, row)| row)
    }

    /// Forgets a group. What the control plane has heard of, or is about to, stays as a dirty row
    /// without an offset until that was handed over, too.
    pub fn drop_group(&mut self, group: &str) -> Commit {
        let Ok(at) = place_of(&self.rows, group) else {
            return Commit::Stored;
        };
        let Some((_, row)) = self.rows.get_mut(at) else {
            return Commit::Stored;
        };
        if row.committed.is_none() && !row.dirty {
            self.rows.remove(at);
            return Commit::Stored;
        }
        *row = Position {
            dirty: row.dirty,
            ..Position::default()
        };
        mark_dirty(row, &mut self.dirty_count)
    }

    /// Whether no group is known.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// A row that the control plane is to hear of.
fn mark_dirty(row: &mut Position, dirty_count: &mut usize) -> Commit {
    let is_first = *dirty_count == 0;
    if !std::mem::replace(&mut row.dirty, true) {
        *dirty_count += 1;
    }
    if is_first {
        Commit::FirstDirty
    } else {
        Commit::Stored
    }
}

fn place_of(rows: &[(Arc<str>, Position)], group: &str) -> Result<usize, usize> {
    rows.binary_search_by(|(name, _)| (**name).cmp(group))
}

fn row_of<'a>(
    rows: &'a mut Vec<(Arc<str>, Position)>,
    group: &Arc<str>,
) -> Option<&'a mut Position> {
    let at = match place_of(rows, group) {
        Ok(at) => at,
        Err(_) if rows.len() >= GROUPS_MAX => return None,
        Err(at) => {
            if rows.is_empty() {
                rows.reserve_exact(1);
            }
            rows.insert(at, (Arc::clone(group), Position::default()));
            at
        }
    };
    rows.get_mut(at).map(|(_, row)| row)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Arc<str> {
        Arc::from(text)
    }

    #[test]
    fn trap_73_offsets_go_back() {
        let group = name("g");
        let mut offsets = GroupOffsets::default();
        assert_eq!(offsets.commit(&group, QueueOffset(9)), Commit::FirstDirty);
        assert_eq!(offsets.commit(&group, QueueOffset(3)), Commit::Stored);
        assert_eq!(offsets.query("g"), Some(QueueOffset(3)));
        assert_eq!(offsets.query("h"), None);
    }

    #[test]
    fn a_reset_is_returned_swallows_commits_and_is_taken_once() {
        let group = name("g");
        let mut offsets = GroupOffsets::default();
        offsets.commit(&group, QueueOffset(9));
        offsets.reset(&group, QueueOffset(2), true);
        assert_eq!(offsets.commit(&group, QueueOffset(10)), Commit::Swallowed);
        assert_eq!(offsets.query("g"), Some(QueueOffset(2)));
        let taken = |was_told| {
            let to = QueueOffset(2);
            Some(TakenReset { to, was_told })
        };
        assert_eq!(offsets.take_reset("g"), taken(false));
        assert_eq!(offsets.take_reset("g"), None);
        assert_eq!(offsets.tell_reset("g"), None);
        assert_eq!(offsets.commit(&group, QueueOffset(10)), Commit::Stored);
        offsets.reset(&group, QueueOffset(2), true);
        assert_eq!(offsets.tell_reset("g"), Some(QueueOffset(2)));
        assert_eq!(offsets.commit(&group, QueueOffset(10)), Commit::Swallowed);
        assert_eq!(offsets.take_reset("g"), taken(true));
        offsets.reset(&group, QueueOffset(2), true);
        assert_eq!(offsets.tell_reset("g"), Some(QueueOffset(2)));
        offsets.reset(&group, QueueOffset(2), true);
        assert_eq!(offsets.take_reset("g"), taken(false), "another reset");
    }

    #[test]
    fn dirty_rows_are_handed_out_once_and_in_parts() {
        let mut offsets = GroupOffsets::default();
        for n in 0..5_u64 {
            offsets.commit(&name(&format!("g{n}")), QueueOffset(n));
        }
        offsets.load(&name("old"), QueueOffset(1));
        let mut rows = Vec::new();
        assert!(!offsets.take_dirty(3, &mut rows));
        assert!(offsets.take_dirty(3, &mut rows));
        assert_eq!(rows.len(), 5);
        assert!(offsets.take_dirty(3, &mut rows));
        assert_eq!(rows.len(), 5);
        assert_eq!(
            offsets.commit(&name("g1"), QueueOffset(8)),
            Commit::FirstDirty
        );
    }

    #[test]
    fn a_forgotten_group_is_handed_over_as_such_and_one_made_again_stays() {
        let group = name("g");
        let mut offsets = GroupOffsets::default();
        offsets.load(&group, QueueOffset(9));
        offsets.load(&name("h"), QueueOffset(1));
        assert_eq!(offsets.drop_group("g"), Commit::FirstDirty);
        assert_eq!(offsets.query("g"), None);
        let mut rows = Vec::new();
        assert!(offsets.take_dirty(9, &mut rows));
        assert_eq!(rows, [(name("g"), None)]);
        assert_eq!(offsets.rows.len(), 1, "nothing is left of it");

        offsets.commit(&group, QueueOffset(3));
        offsets.drop_group("g");
        offsets.commit(&group, QueueOffset(4));
        rows.clear();
        assert!(offsets.take_dirty(9, &mut rows));
        assert_eq!(rows, [(name("g"), Some(QueueOffset(4)))]);

        offsets.pulled(&name("i"), QueueOffset(4));
        assert_eq!(offsets.drop_group("i"), Commit::Stored);
        assert!(offsets.take_dirty(9, &mut rows) && offsets.get("i").is_none());
    }

    #[test]
    fn a_pull_alone_gives_no_offset() {
        let mut offsets = GroupOffsets::default();
        offsets.pulled(&name("g"), QueueOffset(4));
        assert_eq!(offsets.query("g"), None);
        assert!(!offsets.is_empty());
    }
}
