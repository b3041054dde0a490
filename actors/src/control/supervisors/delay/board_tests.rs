use gantry_storage::units::PhysicalOffset;

use super::*;

fn row(queue: u16, offset: u64, physical: u64, time_ms: u64) -> OwedRow {
    OwedRow {
        queue: QueueKey::new(3, queue),
        offset: QueueOffset(offset),
        physical: PhysicalOffset(physical),
        bytes: 100,
        time_ms,
        store_ms: 0,
    }
}

const ALL: (usize, u64) = (100, u64::MAX);

#[test]
fn rows_twice_and_gaps_are_seen() {
    let mut board = Board::default();
    assert!(board.learn(&row(0, 0, 10, 5)));
    assert!(board.learn(&row(0, 0, 10, 5)), "twice is no gap");
    assert_eq!(board.pending(), 1);
    assert!(!board.learn(&row(0, 2, 30, 5)), "row 1 is missing");
    board.learn_scanned(&row(0, 4, 50, 5));
    assert_eq!(
        (board.pending(), board.next_of(QueueKey::new(3, 0))),
        (2, QueueOffset(5))
    );
}

#[test]
fn the_done_mark_never_passes_what_is_open() {
    let mut board = Board::default();
    for (offset, due) in [5_000, 3_000_000, 4_000].into_iter().enumerate() {
        board.learn(&row(0, offset as u64, offset as u64, due));
    }
    let done = |board: &Board, now| board.marks(now).0.done_ms;
    assert!(done(&board, 10_000_000) < 4_000);
    let batch = board.take_due(4_500, ALL);
    assert_eq!(batch.len(), 1);
    assert_eq!(done(&board, 4_500), 3_999, "away is open");
    board.try_again(batch[0], 6_000);
    assert_eq!(done(&board, 4_500), 3_999, "to be tried again is open");
    assert_eq!(board.next_ms(), Some(5_000));
    let batch = board.take_due(6_000, ALL);
    assert_eq!(
        batch.iter().map(|one| one.due_ms).collect::<Vec<_>>(),
        [4_000, 5_000]
    );
    for entry in batch {
        board.finish(entry, Some(QueueOffset(entry.physical)));
    }
    let (marks, _) = board.marks(7_000);
    assert!((6_000..=7_000).contains(&marks.done_ms), "{marks:?}");
    assert_eq!(marks.queues[0].next, QueueOffset(3));
}

#[test]
fn recalled_messages_stay_away_and_are_forgotten_when_their_time_is_past() {
    let mut board = Board::default();
    board.learn(&row(0, 0, 7, 5_000));
    let entry = board.due.due_at(5_000)[0];
    assert!(board.take(entry) && !board.take(entry));
    let recalled = Recalled {
        due_ms: 5_000,
        at_ms: 10,
    };
    board.note_recalled(7, recalled);
    board.finish(entry, None);
    assert_eq!(board.pending(), 0);
    assert!(board.marks(4_000).1.is_empty());
    assert!(board.marks(64_000).1.is_empty());
    assert_eq!(board.marks(66_000).1, [7]);
    let stored = Stored {
        recalled: HashMap::from([(7, recalled)]),
        ..Stored::default()
    };
    board.begin(&stored, []);
    board.learn_scanned(&row(0, 0, 7, 5_000));
    assert_eq!(board.pending(), 0);
    // A power cut took the recalled record and left the row; another one lies in its place.
    board.begin(&stored, []);
    let mut later = row(0, 0, 7, 5_000);
    later.store_ms = 11;
    board.learn_scanned(&later);
    assert_eq!(board.pending(), 1);
}

#[test]
fn floors_are_per_shard() {
    let mut board = Board::default();
    let far = 1_u64 << 56;
    board.learn(&row(0, 0, 100 << 22, 5_000));
    board.learn(&row(1, 0, far | (7 << 22), 6_000));
    assert_eq!(board.floor(ShardId(0)), Some(FilePosition(100 << 22)));
    assert_eq!(board.floor(ShardId(1)), Some(FilePosition(7 << 22)));
    assert_eq!(board.floor(ShardId(2)), None);
    let below = FilePosition(8 << 22);
    assert_eq!(board.before(ShardId(1), below, 10).len(), 1);
    assert!(board.before(ShardId(0), below, 10).is_empty());
}

#[test]
fn an_unread_queue_holds_its_mark_and_what_is_done() {
    let mut board = Board::default();
    let marks = Marks {
        done_ms: 5_000,
        queues: Vec::new(),
    };
    let stored = Stored {
        marks,
        ..Stored::default()
    };
    let keys = [0, 1].map(|queue| QueueKey::new(3, queue));
    board.begin(&stored, keys);
    board.set_read(keys[0]);
    board.learn(&row(0, 0, 10, 4_000));
    let marks = board.marks(9_000).0;
    assert!(marks.done_ms < 4_000, "what came late counts");
    assert!(marks.queues.iter().all(|mark| mark.key == keys[0]));
    let batch = board.take_due(9_000, ALL);
    board.finish(batch[0], None);
    assert_eq!(board.marks(9_000).0.done_ms, 5_000);
    board.set_read(keys[1]);
    let marks = board.marks(9_000).0;
    assert_eq!((marks.done_ms, marks.queues.len()), (8_999, 2));
}
