//! Errands and owed rows on a core without sockets and disk.

use std::net::SocketAddr;

use bytes::Bytes;
use gantry_storage::units::{PhysicalOffset, QueueKey, QueueOffset};

use crate::data::testing::{TestBroker, long_pull, pull_frame, records, topic};
use crate::seam::errands::{Errand, ErrandDone, FetchFault, Placed, Scan, Scanned, SupplyRecord};
use crate::seam::owed::{OwedRow, OwedTime};
use crate::seam::{Ticket, ToControl, ToData};
use crate::settings::FlushDiskType;

fn supply(queue: u16, body: &str, owed: Option<OwedTime>) -> SupplyRecord {
    SupplyRecord {
        key: QueueKey::new(1, queue),
        topic: topic("T", 1, 4),
        flag: 0,
        sys_flag: 0,
        born_ms: 5,
        born_host: SocketAddr::from(([10, 0, 0, 9], 99)),
        reconsume_times: 3,
        prepared_offset: 0,
        body: Bytes::copy_from_slice(body.as_bytes()),
        properties: Bytes::from_static(b"TAGS\x01TagA\x02KEYS\x01k\x02"),
        owed,
    }
}

fn run(broker: &TestBroker, errand: Errand) -> Vec<ToControl> {
    let message = ToData::Errand {
        ticket: Ticket(9),
        errand,
    };
    broker.cores[0].on_control(&mut vec![message]);
    broker.settle();
    broker.world.take_control()
}

fn supplied(told: &[ToControl]) -> Vec<Result<Placed, i32>> {
    let done = told.iter().find_map(|one| match one {
        ToControl::ErrandDone {
            ticket: Ticket(9),
            done: ErrandDone::Supplied(outcomes),
        } => Some(outcomes.clone()),
        _ => None,
    });
    let outcomes = done.expect("the errand is answered").into_iter();
    outcomes
        .map(|one| one.map_err(|refusal| refusal.code))
        .collect()
}

fn rows(told: &[ToControl]) -> Vec<OwedRow> {
    let owed = told.iter().filter_map(|one| match one {
        ToControl::Owed(rows) => Some(rows.clone()),
        _ => None,
    });
    owed.flatten().collect()
}

#[test]
fn supplied_records_are_stored_in_order_read_back_and_wake_pulls() {
    let broker = TestBroker::new(1, 2, |_| {});
    broker.request(&pull_frame(1, &long_pull("T", 1, 0)));
    assert!(broker.replies().is_empty());
    let batch = vec![
        supply(1, "a", None),
        supply(0, "b", None),
        supply(1, "c", None),
    ];
    let told = run(&broker, Errand::Supply(batch));
    let places: Vec<Placed> = supplied(&told).into_iter().map(Result::unwrap).collect();
    let offsets: Vec<u64> = places.iter().map(|place| place.offset.0).collect();
    assert_eq!(offsets, [0, 0, 1]);
    let pulled = broker.reply();
    assert_eq!(
        records(&pulled.body),
        [(0, "a".to_owned()), (1, "c".to_owned())]
    );
    let gone = PhysicalOffset(77 << 56);
    let told = run(&broker, Errand::Fetch(vec![places[2].physical, gone]));
    let [
        ToControl::ErrandDone {
            done: ErrandDone::Fetched(read),
            ..
        },
    ] = &told[..]
    else {
        panic!("{told:?}")
    };
    let view = gantry_protocol::message::RecordView::parse(read[0].as_ref().unwrap()).unwrap();
    assert_eq!((view.body, view.reconsume_times), (&b"c"[..], 3));
    assert_eq!(read[1], Err(FetchFault::Gone));
}

#[test]
fn owed_rows_come_in_one_message_a_pass_and_the_index_says_the_same() {
    let broker = TestBroker::new(1, 1, |_| {});
    let now_ms = crate::data::host::Host::wall_ms(&*broker.world.host(0));
    let at = OwedTime::At(7);
    let batch = vec![
        supply(0, "a", Some(at)),
        supply(0, "b", Some(OwedTime::AfterStore(100))),
    ];
    let told = run(&broker, Errand::Supply(batch));
    let messages = told.iter().filter(|one| matches!(one, ToControl::Owed(_)));
    assert_eq!(messages.count(), 1);
    let rows = rows(&told);
    let times: Vec<u64> = rows.iter().map(|row| row.time_ms).collect();
    assert_eq!(times, [7, now_ms + 101]);
    let mut scan = Scan {
        queue: QueueKey::new(1, 0),
        from: QueueOffset(0),
        done_below: QueueOffset(0),
        done_ms: 0,
    };
    let scanned = |scan: Scan| -> Scanned {
        let told = run(&broker, Errand::Scan(scan));
        match told.into_iter().next() {
            Some(ToControl::ErrandDone {
                done: ErrandDone::Scanned(Ok(scanned)),
                ..
            }) => scanned,
            other => panic!("{other:?}"),
        }
    };
    let found = scanned(scan);
    assert_eq!((found.rows, found.next), (rows.clone(), QueueOffset(2)));
    (scan.done_below, scan.done_ms) = (QueueOffset(1), 7);
    assert_eq!(scanned(scan).rows, rows[1..]);
    scan.done_ms = 6;
    assert_eq!(scanned(scan).rows, rows);
}

#[test]
fn under_sync_flush_a_supervisor_waits_for_the_device_however_long() {
    let broker = TestBroker::new(1, 1, |s| s.flush_disk_type = FlushDiskType::Sync);
    let batch = vec![supply(0, "a", Some(OwedTime::At(7)))];
    assert!(run(&broker, Errand::Supply(batch)).is_empty());
    broker.pass_ms(6_000);
    assert!(broker.world.take_control().is_empty());
    broker.stores[0].commit();
    broker.settle();
    let told = broker.world.take_control();
    assert_eq!(rows(&told).len(), 1);
    assert!(supplied(&told)[0].is_ok());
}

#[test]
fn rows_wait_for_room_and_a_poisoned_shard_refuses() {
    let broker = TestBroker::new(1, 1, |_| {});
    broker.world.control_is_full.set(true);
    let batch = vec![supply(0, "a", Some(OwedTime::At(7)))];
    assert!(run(&broker, Errand::Supply(batch)).is_empty());
    broker.world.control_is_full.set(false);
    broker.pass_ms(10);
    assert_eq!(rows(&broker.world.take_control()).len(), 1);
    *broker.stores[0].poison.borrow_mut() = Some("broken".into());
    let told = run(&broker, Errand::Supply(vec![supply(0, "b", None)]));
    assert!(supplied(&told)[0].is_err());
}

#[test]
fn the_device_has_what_was_stored_once_every_shard_says_so_and_none_is_poisoned() {
    let broker = TestBroker::new(1, 2, |_| {});
    let durable = || {
        let told = run(&broker, Errand::Durable);
        told.into_iter().find_map(|one| match one {
            ToControl::ErrandDone {
                done: ErrandDone::Durable(outcome),
                ..
            } => Some(outcome),
            _ => None,
        })
    };
    assert_eq!(durable(), Some(Ok(())), "nothing is stored");
    let batch = (0..4).map(|queue| supply(queue, "a", None)).collect();
    supplied(&run(&broker, Errand::Supply(batch)));
    assert!(broker.stores.iter().all(|store| !store.ends().is_empty()));
    assert_eq!(durable(), None);
    broker.stores[0].commit();
    assert_eq!(durable(), None, "the other one has not");
    broker.stores[1].commit();
    assert_eq!(durable(), Some(Ok(())));
    *broker.stores[1].poison.borrow_mut() = Some("broken".into());
    let why = durable().unwrap().unwrap_err();
    assert!(why.contains("broken"), "{why}");
}

fn fetched(broker: &TestBroker, places: Vec<PhysicalOffset>) -> Vec<Result<Bytes, FetchFault>> {
    let told = run(broker, Errand::Fetch(places));
    match told.into_iter().next() {
        Some(ToControl::ErrandDone {
            done: ErrandDone::Fetched(read),
            ..
        }) => read,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_damaged_record_is_lost_and_one_that_was_misread_is_not() {
    let broker = TestBroker::new(1, 1, |_| {});
    let batch = vec![supply(0, "a", None), supply(0, "b", None)];
    let told = run(&broker, Errand::Supply(batch));
    let places = supplied(&told).into_iter().map(|one| one.unwrap().physical);
    let places: Vec<PhysicalOffset> = places.collect();
    let store = &broker.stores[0];
    store.misread.set(Some(places[0]));
    assert!(fetched(&broker, places.clone()).iter().all(Result::is_ok));
    assert_eq!(store.misread.get(), None, "it was read twice");
    store.damaged.borrow_mut().insert(places[0]);
    let read = fetched(&broker, places);
    let Err(FetchFault::Lost(why)) = &read[0] else {
        panic!("{read:?}")
    };
    assert!(why.contains("position"), "{why}");
    assert!(read[1].is_ok());
}

#[test]
fn a_scan_leaves_out_entries_without_a_record() {
    let broker = TestBroker::new(1, 1, |_| {});
    let owed = |body, ms| supply(0, body, Some(OwedTime::At(ms)));
    let batch = vec![owed("a", 7), owed("b", 8), owed("c", 9)];
    let told = run(&broker, Errand::Supply(batch));
    let rows = rows(&told);
    let mut lost = broker.stores[0].lost.borrow_mut();
    lost.insert(rows[1].physical);
    drop(lost);
    let scan = Scan {
        queue: QueueKey::new(1, 0),
        from: QueueOffset(0),
        done_below: QueueOffset(0),
        done_ms: 0,
    };
    let told = run(&broker, Errand::Scan(scan));
    let [
        ToControl::ErrandDone {
            done: ErrandDone::Scanned(Ok(scanned)),
            ..
        },
    ] = &told[..]
    else {
        panic!("{told:?}")
    };
    // The lost one's entry has the place of the next record, and no time: it is no row.
    assert_eq!(scanned.rows, [rows[0], rows[2]]);
    assert_eq!(scanned.next, QueueOffset(3));
}

#[test]
fn an_inner_batch_stored_once_comes_out_as_an_ordinary_message() {
    let broker = TestBroker::new(1, 1, |_| {});
    let mut record = supply(0, "a", None);
    record.sys_flag = 0xC1;
    let told = run(&broker, Errand::Supply(vec![record]));
    let place = supplied(&told)[0].unwrap().physical;
    let read = fetched(&broker, vec![place]).remove(0).unwrap();
    let view = gantry_protocol::message::RecordView::parse(&read).unwrap();
    assert_eq!(view.sys_flag, 1, "its compression stays");
}

#[test]
fn a_scan_from_beyond_the_end_goes_on_at_the_end_and_only_on_the_queues_core() {
    let broker = TestBroker::new(2, 2, |_| {});
    let key = |queue| QueueKey::new(1, queue);
    let batch = (0..7).map(|_| supply(1, "a", Some(OwedTime::At(7))));
    let told = run(&broker, Errand::Supply(batch.collect()));
    assert!(supplied(&told).iter().all(Result::is_ok));
    let scan = |queue| {
        let scan = Scan {
            queue: key(queue),
            from: QueueOffset(10),
            done_below: QueueOffset(10),
            done_ms: 9,
        };
        match run(&broker, Errand::Scan(scan)).into_iter().next() {
            Some(ToControl::ErrandDone {
                done: ErrandDone::Scanned(scanned),
                ..
            }) => scanned,
            other => panic!("{other:?}"),
        }
    };
    let scanned = scan(1).unwrap();
    assert_eq!(
        (scanned.next, scanned.bounds.max),
        (QueueOffset(7), QueueOffset(7))
    );
    assert!(scanned.rows.is_empty());
    // An empty answer would say that the queue has lost all its rows.
    assert!(scan(0).unwrap_err().contains("does not hold"));
}
