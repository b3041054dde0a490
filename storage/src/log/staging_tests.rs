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

#[test]
fn a_full_ring_refuses_until_the_device_takes_something() {
    let mut staging = staging();
    let mut taken = 0;
    while add(&mut staging, 10_000, 1).is_ok() {
        staging.seal(FilePosition(0));
        taken += 1;
    }
    assert_eq!(taken, 26);
    assert!(matches!(
        add(&mut staging, 10_000, 1),
        Err(NoRoom::Tail { .. })
    ));
    let group = staging.take_group(FilePosition(0)).unwrap();
    assert!(add(&mut staging, 10_000, 1).is_err());
    staging.written(group);
    assert!(add(&mut staging, 10_000, 1).is_ok());
    assert!(!staging.holds(FilePosition(64), 10_000), "overwritten");
    assert!(staging.holds(FilePosition(200_000), 10_000));
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
