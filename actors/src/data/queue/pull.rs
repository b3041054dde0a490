//! What a pull is told: the table of offsets, statuses and codes.
//!
//! **Owns** the decision before a read (`start`) and the verdict after it (`verdict`).
//! **Lives on** the queue's data core; pure.
//! **Invariants** only a pull that would get 19 may be suspended (`PullMessageProcessor` and
//! `DefaultMessageStore.getMessage`, 5.5); 21 is for offsets the queue can't serve (trap 52); a
//! reply without a match moves past what was examined (trap 54).
//! **Limits** [`examined_entries_max`] index entries a request.
//! **Not here** the read itself (storage), who waits (`waiters`), checks of names and rights
//! (`requests::pulls`).

use gantry_protocol::code::response;
use gantry_storage::units::{QueueBounds, QueueOffset};

/// Bytes of one index entry in RocketMQ's own queue files; its filter bound counts in them.
const INDEX_ENTRY_BYTES: usize = 20;
/// Bytes of index that RocketMQ examines for one pull, whatever it asks for.
const INDEX_BYTES_EXAMINED: usize = 16_000;

/// `maxMsgNums` in a request, as index entries that may be examined.
pub fn examined_entries_max(messages_wanted: usize) -> usize {
    let bytes = INDEX_BYTES_EXAMINED.max(messages_wanted.saturating_mul(INDEX_ENTRY_BYTES));
    bytes / INDEX_ENTRY_BYTES
}

/// The status in a pull reply's remark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullStatus {
    /// Records follow.
    Found,
    /// The queue was never written.
    NoMessageInQueue,
    /// Offset below the first stored record.
    OffsetTooSmall,
    /// Offset is the next one to be written.
    OffsetOverflowOne,
    /// Offset beyond that.
    OffsetOverflowBadly,
    /// Examined, nothing matched.
    NoMatchedMessage,
    /// The index entry points at deleted bytes.
    MessageWasRemoving,
    /// A reset is pending.
    OffsetReset,
}

impl PullStatus {
    /// The text clients and tools see.
    pub fn remark(self) -> &'static str {
        match self {
            Self::Found => "FOUND",
            Self::NoMessageInQueue => "NO_MESSAGE_IN_QUEUE",
            Self::OffsetTooSmall => "OFFSET_TOO_SMALL",
            Self::OffsetOverflowOne => "OFFSET_OVERFLOW_ONE",
            Self::OffsetOverflowBadly => "OFFSET_OVERFLOW_BADLY",
            Self::NoMatchedMessage => "NO_MATCHED_MESSAGE",
            Self::MessageWasRemoving => "MESSAGE_WAS_REMOVING",
            Self::OffsetReset => "OFFSET_RESET",
        }
    }
}

/// What a pull is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Goes into the remark.
    pub status: PullStatus,
    /// The response code.
    pub code: i32,
    /// Where the client pulls next.
    pub next: QueueOffset,
}

impl Verdict {
    /// Whether the pull may wait for a message instead of being told this.
    pub fn may_suspend(&self) -> bool {
        self.code == response::PULL_NOT_FOUND
    }
}

/// What to do with a pull at `wanted` (foreign, possibly negative), before anything is read.
///
/// # Errors
/// The verdict, when the offset alone decides.
pub fn start(
    bounds: QueueBounds,
    wanted: i64,
    reset: Option<QueueOffset>,
) -> Result<QueueOffset, Verdict> {
    let moved = |status, next| Verdict {
        status,
        code: response::PULL_OFFSET_MOVED,
        next,
    };
    if let Some(next) = reset {
        return Err(reset_to(next));
    }
    if bounds.max.0 == 0 {
        let status = PullStatus::NoMessageInQueue;
        let next = QueueOffset(0);
        let code = if wanted == 0 {
            response::PULL_NOT_FOUND
        } else {
            response::PULL_OFFSET_MOVED
        };
        return Err(Verdict { status, code, next });
    }
    let Ok(wanted) = u64::try_from(wanted).map(QueueOffset) else {
        return Err(moved(PullStatus::OffsetTooSmall, bounds.min));
    };
    if wanted < bounds.min {
        Err(moved(PullStatus::OffsetTooSmall, bounds.min))
    } else if wanted == bounds.max {
        let status = PullStatus::OffsetOverflowOne;
        Err(Verdict {
            status,
            code: response::PULL_NOT_FOUND,
            next: bounds.max,
        })
    } else if wanted > bounds.max {
        Err(moved(PullStatus::OffsetOverflowBadly, bounds.max))
    } else {
        Ok(wanted)
    }
}

/// What a pull of a group that was reset is told.
pub fn reset_to(next: QueueOffset) -> Verdict {
    Verdict {
        status: PullStatus::OffsetReset,
        code: response::PULL_OFFSET_MOVED,
        next,
    }
}

/// The verdict on a read that began inside the bounds: how many records it gave and the first
/// offset it did not examine.
pub fn verdict(found: usize, from: QueueOffset, next: QueueOffset) -> Verdict {
    if found > 0 {
        Verdict {
            status: PullStatus::Found,
            code: response::SUCCESS,
            next,
        }
    } else if next > from {
        let status = PullStatus::NoMatchedMessage;
        Verdict {
            status,
            code: response::PULL_RETRY_IMMEDIATELY,
            next,
        }
    } else {
        // Nothing examined although the offset was inside: deleted under the reader's feet.
        let status = PullStatus::MessageWasRemoving;
        Verdict {
            status,
            code: response::PULL_RETRY_IMMEDIATELY,
            next: from.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(min: u64, max: u64) -> QueueBounds {
        QueueBounds {
            min: QueueOffset(min),
            max: QueueOffset(max),
        }
    }

    /// (min, max, wanted) → (status, next, code), behaviours §5.2 row by row.
    const ROWS: [(u64, u64, i64, PullStatus, u64, i32); 10] = [
        (0, 0, 0, PullStatus::NoMessageInQueue, 0, 19),
        (0, 0, 5, PullStatus::NoMessageInQueue, 0, 21),
        (0, 0, -1, PullStatus::NoMessageInQueue, 0, 21),
        (3, 9, 2, PullStatus::OffsetTooSmall, 3, 21),
        (3, 9, -1, PullStatus::OffsetTooSmall, 3, 21),
        (3, 9, i64::MIN, PullStatus::OffsetTooSmall, 3, 21),
        (3, 9, 9, PullStatus::OffsetOverflowOne, 9, 19),
        (9, 9, 9, PullStatus::OffsetOverflowOne, 9, 19),
        (3, 9, 10, PullStatus::OffsetOverflowBadly, 9, 21),
        (3, 9, i64::MAX, PullStatus::OffsetOverflowBadly, 9, 21),
    ];

    #[test]
    fn traps_52_53_every_row_decided_by_the_offset() {
        for (min, max, wanted, status, next, code) in ROWS {
            let found = start(bounds(min, max), wanted, None).unwrap_err();
            let expected = Verdict {
                status,
                code,
                next: QueueOffset(next),
            };
            assert_eq!(found, expected, "min {min} max {max} wanted {wanted}");
            assert_eq!(found.may_suspend(), code == 19);
        }
        assert_eq!(start(bounds(3, 9), 3, None), Ok(QueueOffset(3)));
        assert_eq!(start(bounds(3, 9), 8, None), Ok(QueueOffset(8)));
    }

    #[test]
    fn a_pending_reset_comes_before_all_else() {
        let told = start(bounds(3, 9), 8, Some(QueueOffset(4))).unwrap_err();
        assert_eq!((told.status, told.code), (PullStatus::OffsetReset, 21));
        assert_eq!(told.next, QueueOffset(4));
    }

    #[test]
    fn trap_54_next_moves_past_what_was_examined() {
        let matched = verdict(2, QueueOffset(3), QueueOffset(9));
        assert_eq!((matched.code, matched.next), (0, QueueOffset(9)));
        let unmatched = verdict(0, QueueOffset(3), QueueOffset(9));
        assert_eq!((unmatched.code, unmatched.next), (20, QueueOffset(9)));
        let removed = verdict(0, QueueOffset(3), QueueOffset(3));
        assert_eq!((removed.code, removed.next), (20, QueueOffset(4)));
    }

    #[test]
    fn eight_hundred_entries_are_examined_at_default() {
        assert_eq!(examined_entries_max(32), 800);
        assert_eq!(examined_entries_max(1024), 1024);
    }
}
