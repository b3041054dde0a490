use gantry_storage::units::{QueueId, QueueKey, TopicId};

use super::*;

fn timing(kind: Kind, read_us: u64, answered_us: u64) -> Timing {
    Timing {
        kind,
        refused: None,
        queue: QueueKey {
            topic: TopicId(7),
            queue: QueueId(1),
        },
        bytes: 100,
        read_us,
        answered_us,
        front: Front::default(),
        work_us: 0,
        device_us: 0,
        wait_us: 0,
    }
}

fn on(now_us: u64) -> Profile {
    let profile = Profile::off();
    profile.begin(now_us);
    profile
}

fn run(read_us: u64, answered_us: u64, count: u64) -> Run {
    Run {
        timing: timing(Kind::Send, read_us, answered_us),
        count,
    }
}

fn count_of(histories: &Histories, kind: Kind, stage: Stage) -> u64 {
    histories
        .figures(kind, stage)
        .map_or(0, |figures| figures.count)
}

#[test]
fn counts_add_up() {
    let (one, two) = (CoreMetrics::new(), CoreMetrics::new());
    one.count(|c| c.frames_in += 5);
    two.count(|c| c.frames_in += 7);
    let mut sum = one.counts();
    sum.add(&two.counts());
    assert_eq!(sum.frames_in, 12);
}

#[test]
fn switched_off_it_keeps_nothing() {
    let profile = Profile::off();
    profile.record(Kind::Send, Stage::Append, 5, 1);
    profile.ran("a room", 0, 5_000);
    for (stage, cause) in [("inbox", "memory"), ("tail", "late"), ("inbox", "memory")] {
        profile.refused(stage, cause);
    }
    profile.refused("inbox", "full");
    let counted = profile.refusals();
    let counted: Vec<_> = counted
        .iter()
        .map(|r| (r.stage, r.cause, r.count))
        .collect();
    let wanted = [
        ("inbox", "memory", 2),
        ("tail", "late", 1),
        ("inbox", "full", 1),
    ];
    assert_eq!(counted, wanted);
    profile.replied(&[run(0, 1, 1)], 2);
    assert!(profile.snapshot(10).is_none());
}

#[test]
fn the_stages_of_a_batch_add_up_to_its_total() {
    let profile = on(0);
    // Read at 100, decoded at 130, on the other core at 150; its pass 170 to 200; written at 260.
    profile.record(Kind::Send, Stage::Decode, 30, 4);
    profile.decoded(0, 100, 130, 150);
    let front = profile.taken(0, 100, 150, 170);
    for _ in 0..3 {
        assert_eq!(profile.taken(0, 100, 150, 170), front);
    }
    profile.stored(170, 200, 4);
    let wanted = Front {
        decode_us: 30,
        mesh_us: 20,
        mailbox_us: 20,
    };
    assert_eq!(front, wanted);
    profile.replied(&[run(100, 200, 4)], 260);
    let all = profile.snapshot(300).unwrap().since_start;
    let p50 = |stage| all.figures(Kind::Send, stage).unwrap().p50_us;
    let parts = [
        Stage::Decode,
        Stage::Mesh,
        Stage::Mailbox,
        Stage::Append,
        Stage::Reply,
    ];
    assert_eq!(parts.map(p50), [30, 20, 20, 30, 60]);
    assert_eq!(p50(Stage::Total), 160);
    for stage in parts {
        assert_eq!(count_of(&all, Kind::Send, stage), 4, "{}", stage.name());
    }
    // A second pass records only what it took.
    profile.stored(400, 410, 0);
    let again = profile.snapshot(500).unwrap().since_start;
    assert_eq!(count_of(&again, Kind::Send, Stage::Mailbox), 4);
}

#[test]
fn a_request_of_a_forgotten_batch_has_its_time_in_the_mailbox() {
    let profile = on(0);
    for n in 0..200 {
        profile.decoded(0, n, n + 1, n + 1);
    }
    let front = profile.taken(0, 3, 10, 1_010);
    assert_eq!((front.decode_us, front.mailbox_us), (7, 1_000));
    let known = profile.taken(0, 199, 10, 1_010);
    assert_eq!((known.decode_us, known.mailbox_us), (1, 810));
    profile.stored(1_010, 1_020, 2);
    let all = profile.snapshot(2_000).unwrap().since_start;
    assert_eq!(count_of(&all, Kind::Send, Stage::Mailbox), 2);
}

#[test]
fn the_window_forgets_and_the_sums_do_not() {
    let profile = on(0);
    profile.record(Kind::Pull, Stage::Lookup, 10, 5);
    let snapshot = profile.snapshot(SLICE_US - 1).unwrap();
    assert_eq!(count_of(&snapshot.window, Kind::Pull, Stage::Lookup), 5);
    assert_eq!(snapshot.window_us, SLICE_US - 1);
    let snapshot = profile.snapshot(3 * SLICE_US - 1).unwrap();
    assert_eq!(count_of(&snapshot.window, Kind::Pull, Stage::Lookup), 5);
    assert_eq!(snapshot.window_us, 3 * SLICE_US - 1);
    let snapshot = profile.snapshot(3 * SLICE_US).unwrap();
    assert_eq!(count_of(&snapshot.window, Kind::Pull, Stage::Lookup), 0);
    assert_eq!(snapshot.window_us, 2 * SLICE_US);
    assert_eq!(
        count_of(&snapshot.since_start, Kind::Pull, Stage::Lookup),
        5
    );
    // A long rest.
    profile.record(Kind::Pull, Stage::Lookup, 10, 1);
    let snapshot = profile.snapshot(1_000 * SLICE_US + 7).unwrap();
    assert_eq!(count_of(&snapshot.window, Kind::Pull, Stage::Lookup), 0);
    assert_eq!(
        count_of(&snapshot.since_start, Kind::Pull, Stage::Lookup),
        6
    );
    assert_eq!(snapshot.window_us, 2 * SLICE_US + 7);
}

#[test]
fn the_slowest_of_the_window_are_kept() {
    let profile = on(0);
    for n in 1..=200 {
        profile.replied(&[run(1_000, 1_010, n)], 1_000 + n);
    }
    let slowest = profile.snapshot(2_000).unwrap().slowest;
    assert_eq!(slowest.len(), SLOWEST_MAX);
    let totals: Vec<u64> = slowest.iter().map(|slow| slow.total_us).collect();
    assert_eq!(totals, (169..=200).rev().collect::<Vec<u64>>());
    assert_eq!(slowest[0].alike, 200);
    assert!(profile.snapshot(4 * SLICE_US).unwrap().slowest.is_empty());
}

#[test]
fn a_refused_request_is_no_part_of_its_batch() {
    let run = run(1_000, 1_010, 1);
    assert!(run.takes(&run.timing));
    let mut refused = run.timing;
    refused.refused = Some(Stage::Mailbox);
    assert!(!run.takes(&refused));
}

#[test]
fn a_pulls_wait_is_not_part_of_its_total() {
    let profile = on(0);
    let mut timing = timing(Kind::Pull, 1_000, 9_000_500);
    timing.wait_us = 9_000_000;
    profile.replied(&[Run { timing, count: 1 }], 9_002_000);
    let window = profile.snapshot(9_002_000).unwrap().window;
    let total = window.figures(Kind::Pull, Stage::Total).unwrap();
    assert_eq!(total.count, 1);
    // Two significant digits.
    assert!((1_000..=1_010).contains(&total.max_us), "{total:?}");
}

#[test]
fn stalls_are_counted_by_room() {
    let (one, two) = (on(0), on(0));
    one.ran("a room", 0, STALL_US);
    one.ran("a room", 0, STALL_US + 1);
    two.ran("a room", 0, 9_000);
    two.ran("another", 0, 4_000);
    let mut both = one.snapshot(10_000).unwrap();
    both.merge(&two.snapshot(10_000).unwrap());
    let of = |name| both.stalls.rooms.iter().find(|room| room.room == name);
    let room = of("a room").unwrap();
    assert_eq!((room.count, room.max_us, room.sum_us), (2, 9_000, 10_001));
    assert_eq!(of("another").unwrap().count, 1);
    let ends: Vec<u64> = both
        .stalls
        .recent
        .iter()
        .map(|stall| stall.ended_us)
        .collect();
    assert_eq!(ends, [1_001, 4_000, 9_000]);
}

#[test]
fn the_profiles_of_two_cores_add_up() {
    let (one, two) = (on(0), on(2_000_000));
    one.record(Kind::Send, Stage::Append, 10, 3);
    two.record(Kind::Send, Stage::Append, 50, 1);
    two.record(Kind::Pull, Stage::Lookup, 7, 2);
    one.replied(&[run(1_000, 1_010, 1)], 1_020);
    two.replied(&[run(1_000, 1_010, 1)], 1_090);
    // Of the first core's in the sums only.
    one.record(Kind::Send, Stage::Write, 5, 1);
    let now_us = 3 * SLICE_US;
    drop(one.snapshot(now_us));
    one.record(Kind::Send, Stage::Append, 30, 1);
    two.record(Kind::Send, Stage::Write, 9, 1);
    let mut both = one.snapshot(now_us).unwrap();
    both.merge(&two.snapshot(now_us).unwrap());
    let all = &both.since_start;
    let append = all.figures(Kind::Send, Stage::Append).unwrap();
    assert_eq!((append.count, append.p50_us, append.max_us), (5, 10, 50));
    assert_eq!(count_of(all, Kind::Pull, Stage::Lookup), 2);
    assert_eq!(count_of(all, Kind::Send, Stage::Write), 2);
    let window = &both.window;
    let append = window.figures(Kind::Send, Stage::Append).unwrap();
    assert_eq!((append.count, append.p50_us, append.max_us), (2, 30, 50));
    assert_eq!(count_of(window, Kind::Send, Stage::Write), 1);
    assert_eq!(both.since_start_us, now_us);
    assert_eq!(both.window_us, 3 * SLICE_US - 2_000_000);
    let totals: Vec<u64> = both.slowest.iter().map(|slow| slow.total_us).collect();
    assert_eq!(totals, [90], "the first core's is forgotten");
}

#[test]
fn figures_stay_within_their_bounds() {
    let profile = on(0);
    profile.record(Kind::Send, Stage::Append, u64::MAX, 1);
    profile.record(Kind::Send, Stage::Write, 0, 1);
    let all = profile.snapshot(1).unwrap().since_start;
    let append = all.figures(Kind::Send, Stage::Append).unwrap();
    assert_eq!(append.max_us, 60_000_000);
    assert_eq!(append.p50_us, append.max_us);
    let write = all.figures(Kind::Send, Stage::Write).unwrap();
    assert_eq!((write.p50_us, write.max_us), (0, 0));
    assert!(all.figures(Kind::Send, Stage::Sync).is_none());
}
