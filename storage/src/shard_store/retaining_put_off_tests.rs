//! Drops where the index does not say what queues begin with.

use super::*;

/// Four segments whose queues sleep: where they begin is on the device alone, which does not give
/// it.
async fn filled_and_unreadable(disk: &SimDisk, tail: &SharedTail) -> Store {
    let store = filled(disk, tail, 4).await;
    disk.sleep_ms(800_000).await;
    assert!(!store.index.has_hot());
    disk.spoil(PAGES, (0, u64::MAX), DiskErrorKind::Io);
    store
}

#[test]
fn a_drop_waits_for_index_pages_that_can_be_read_again() {
    let disk = SimDisk::new(41);
    disk.block_on(async {
        let store = filled_and_unreadable(&disk, &SharedTail::new(4 << 20)).await;
        let to = FilePosition(3 * SEGMENT);
        for _ in 0..PUT_OFFS_MAX {
            let failed = store.drop_before(to, true).await;
            assert!(matches!(failed, Err(RetainError::Disk(_))), "{failed:?}");
        }
        assert_eq!(store.first(), FilePosition(0));
        assert!(!disk.file_names().contains(&FLOORS.to_owned()));
        assert!(store.poisoned().is_none());
        disk.clear_faults();
        assert_eq!(store.drop_before(to, true).await.unwrap().first, to);
        assert!(store.bounds(main_queue()).min.0 >= 3 * A_SEGMENT - 3);
        assert_eq!(store.bounds(quiet_queue()).min, QueueOffset(1));
        assert!(first_of(&store, main_queue()).await.is_some());
    });
}

/// A start after that would say that records are lost, which were to go.
#[test]
fn a_drop_waits_for_an_index_page_that_came_wrong_once() {
    let disk = SimDisk::new(43);
    disk.block_on(async {
        let store = filled_and_unreadable(&disk, &SharedTail::new(4 << 20)).await;
        let to = FilePosition(3 * SEGMENT);
        disk.clear_faults();
        let flip = disk.flip_bit(PAGES, 40, 3).unwrap();
        let failed = store.drop_before(to, true).await;
        assert!(matches!(failed, Err(RetainError::Disk(_))), "{failed:?}");
        assert_eq!(store.first(), FilePosition(0));
        assert!(disk.flip_back(&flip));
        assert_eq!(store.drop_before(to, true).await.unwrap().first, to);
        assert!(store.bounds(main_queue()).min.0 >= 3 * A_SEGMENT - 3);
    });
}

#[test]
fn index_pages_that_can_not_be_read_for_long_do_not_keep_segments() {
    let disk = SimDisk::new(42);
    disk.block_on(async {
        let store = filled_and_unreadable(&disk, &SharedTail::new(4 << 20)).await;
        for segments in 1..3 {
            let to = FilePosition(segments * SEGMENT);
            for _ in 0..PUT_OFFS_MAX {
                assert!(store.drop_before(to, true).await.is_err());
            }
            assert_eq!(store.drop_before(to, true).await.unwrap().first, to);
        }
        disk.clear_faults();
        // The first reader is told what is gone, and others where the queue begins.
        assert_eq!(store.bounds(main_queue()).min, QueueOffset(0));
        for queue in [main_queue(), quiet_queue()] {
            assert_eq!(first_of(&store, queue).await, None);
        }
        check_dropped(&store, QueueOffset(4 * A_SEGMENT)).await;
    });
}
