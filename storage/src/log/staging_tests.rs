use super::*;

const SEGMENT: u64 = 1 << 20;
const RING: u64 = 256 << 10;

fn staging() -> Staging {
    let memory = vec![0u8; 4096 + usize::try_from(RING).unwrap()];
    let tail = Tail::new(Box::new(memory)).unwrap();
    let mut staging = Staging::new(
        tail,
        StagingStart {
            store_id: 1,
            epoch: 1,
            sequence: 0,
            position: FilePosition(0),
            segment_bytes: SEGMENT,
        },
    );
    staging.begin_tail();
    staging
}

fn end(segments: u64) -> FilePosition {
    FilePosition(segments * SEGMENT)
}

fn add(staging: &mut Staging, bytes: u64, segments: u64) -> Result<FilePosition, NoRoom> {
    let position = staging.reserve(bytes, FilePosition(0), end(segments))?;
    staging.put(&vec![1; usize::try_from(bytes).unwrap()]);
    staging.entry_done();
    Ok(position)
}

#[test]
fn groups_start_on_blocks_and_follow_each_other() {
    let mut staging = staging();
    assert_eq!(add(&mut staging, 100, 1), Ok(FilePosition(64)));
    assert_eq!(add(&mut staging, 100, 1), Ok(FilePosition(164)));
    assert_eq!(staging.seal(FilePosition(0)), FilePosition(264));
    assert_eq!(add(&mut staging, 50, 1), Ok(FilePosition(264 + 64)));
    let group = staging.take_group(FilePosition(0)).unwrap();
    assert_eq!(
        group,
        Group {
            start: FilePosition(0),
            runs_end: FilePosition(378)
        }
    );
    assert_eq!(staging.take_group(FilePosition(0)), None);
    assert_eq!(add(&mut staging, 50, 1), Ok(FilePosition(4096 + 64)));
}

/// Adds sealed entries until the ring refuses; returns how many.
fn fill(staging: &mut Staging) -> u64 {
    let mut taken = 0;
    while add(staging, 10_000, 1).is_ok() {
        staging.seal(FilePosition(0));
        taken += 1;
    }
    taken
}

fn write_all(staging: &mut Staging) {
    while let Some(group) = staging.take_group(FilePosition(0)) {
        staging.written(group);
    }
}

#[test]
fn of_two_groups_at_the_device_the_first_ends_first() {
    let mut staging = staging();
    add(&mut staging, 100, 1).unwrap();
    let first = staging.take_group(FilePosition(0)).unwrap();
    add(&mut staging, 100, 1).unwrap();
    let second = staging.take_group(FilePosition(0)).unwrap();
    assert_eq!(staging.in_flight_count(), 2);
    assert!(staging.is_next_written(first) && !staging.is_next_written(second));
    staging.written(first);
    assert!(staging.is_next_written(second) && !staging.is_next_written(first));
    staging.written(second);
    assert_eq!(staging.in_flight_count(), 0);
    assert!(!staging.is_next_written(second), "once");
}

#[test]
fn a_full_ring_refuses_until_the_device_takes_something() {
    let mut staging = staging();
    fill(&mut staging);
    write_all(&mut staging);
    assert_eq!(fill(&mut staging), 26, "the whole ring");
    assert!(matches!(
        add(&mut staging, 10_000, 1),
        Err(NoRoom::Tail { .. })
    ));
    let start = staging.untaken();
    let group = staging.take_group(FilePosition(0)).unwrap();
    assert!(add(&mut staging, 10_000, 1).is_err());
    staging.written(group);
    assert!(add(&mut staging, 10_000, 1).is_ok());
    assert!(!staging.holds(start.plus(64), 10_000), "overwritten");
    assert!(staging.holds(start.plus(200_000), 10_000));
}

#[test]
fn the_ring_changes_its_size_only_when_the_device_has_all_of_it() {
    let mut staging = staging();
    assert_eq!(fill(&mut staging), 6, "the small ring");
    assert!(staging.is_draining());
    let group = staging.take_group(FilePosition(0)).unwrap();
    assert!(add(&mut staging, 10, 1).is_err());
    assert!(staging.holds(FilePosition(64), 10_000));
    staging.written(group);
    assert_eq!(add(&mut staging, 10, 1), Ok(group.end().plus(64)));
    assert!(!staging.is_draining());
    assert!(!staging.holds(FilePosition(64), 10_000), "laid out anew");
    staging.seal(FilePosition(0));
    // Nobody needs it any more after a while.
    let mut segments = 1;
    while !staging.is_draining() {
        write_all(&mut staging);
        segments += u64::from(add(&mut staging, 30_000, segments).is_err());
        assert!(segments < 10, "{:?}", staging.head());
    }
    assert_eq!(staging.tail.ring_bytes(), RING);
    assert!(matches!(
        add(&mut staging, 10, segments),
        Err(NoRoom::Tail { .. })
    ));
    write_all(&mut staging);
    assert!(add(&mut staging, 10, segments + 1).is_ok());
    assert_eq!(staging.tail.ring_bytes(), RING / 4);
    let long = RING / 2 - 8192;
    assert!(add(&mut staging, long, segments + 1).is_err());
    write_all(&mut staging);
    assert!(
        add(&mut staging, long, segments + 2).is_ok(),
        "longer than the small ring takes"
    );
}

#[test]
fn a_run_never_crosses_a_segment() {
    let mut staging = staging();
    let mut last = FilePosition(0);
    for _ in 0..200 {
        match add(&mut staging, 30_000, 2) {
            Ok(position) => {
                assert_eq!(position.0 / SEGMENT, (position.0 + 29_999) / SEGMENT);
                last = position;
            }
            Err(NoRoom::Tail { .. }) => {
                while let Some(group) = staging.take_group(FilePosition(0)) {
                    assert_eq!(group.start.0 / SEGMENT, (group.end().0 - 1) / SEGMENT);
                    staging.written(group);
                }
            }
            Err(NoRoom::Segment) => break,
        }
    }
    assert!(last.0 > SEGMENT + SEGMENT / 2);
    assert_eq!(add(&mut staging, 30_000, 2), Err(NoRoom::Segment));
    assert_eq!(
        add(&mut staging, 30_000, 3),
        Ok(FilePosition(2 * SEGMENT + 64))
    );
}

#[test]
fn a_segment_filled_to_its_last_byte_is_left() {
    let mut staging = staging();
    let mut at = 0;
    while at + 131_072 < SEGMENT {
        add(&mut staging, 131_072 - 64, 1).unwrap();
        staging.seal(FilePosition(0));
        let group = staging.take_group(FilePosition(0)).unwrap();
        staging.written(group);
        at += 131_072;
    }
    add(&mut staging, 131_072 - 64, 1).unwrap();
    staging.seal(FilePosition(0));
    assert_eq!(add(&mut staging, 10, 1), Err(NoRoom::Segment));
    assert_eq!(add(&mut staging, 10, 2), Ok(FilePosition(SEGMENT + 64)));
    let group = staging.take_group(FilePosition(0)).unwrap();
    assert_eq!(group.end(), FilePosition(SEGMENT));
    assert_eq!(
        staging.take_group(FilePosition(0)).unwrap().start,
        FilePosition(SEGMENT)
    );
}
