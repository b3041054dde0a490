use std::collections::{BTreeMap, BTreeSet};

use gantry_protocol::body::TopicConfig;
use gantry_protocol::code::response;
use gantry_storage::retention::ShardDrop;
use gantry_storage::units::{FilePosition, ShardId, TopicId};

use super::owed::{Finding, Moving, OwedRecords};
use super::*;

/// Owes records at these positions; moves `movable` of them at a call.
struct Fake {
    owed: RefCell<BTreeSet<u64>>,
    movable: usize,
    calls: Cell<u32>,
    knows: bool,
}

impl Fake {
    fn new(owed: &[u64], movable: usize) -> Rc<Self> {
        Rc::new(Self {
            owed: RefCell::new(owed.iter().copied().collect()),
            movable,
            calls: Cell::new(0),
            knows: true,
        })
    }
}

impl OwedRecords for Fake {
    fn name(&self) -> &'static str {
        if self.knows {
            "fake"
        } else {
            "fake that does not know"
        }
    }

    fn floor(&self, shard: ShardId) -> Finding<'_> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            if !self.knows {
                return Err(Refusal::new(response::SYSTEM_ERROR, "no table"));
            }
            let owed = self.owed.borrow();
            Ok((shard.0 == 0)
                .then(|| owed.first().copied().map(FilePosition))
                .flatten())
        })
    }

    fn move_forward(&self, _shard: ShardId, below: FilePosition) -> Moving<'_> {
        self.calls.set(self.calls.get() + 1);
        Box::pin(async move {
            for _ in 0..self.movable {
                tokio::task::yield_now().await;
                let first = self.owed.borrow().first().copied();
                let Some(first) = first.filter(|first| *first < below.0) else {
                    return Ok(());
                };
                self.owed.borrow_mut().remove(&first);
                self.owed.borrow_mut().insert(first + 1_000_000);
            }
            Err(Refusal::new(response::SYSTEM_BUSY, "the tail is full"))
        })
    }
}

fn plan_before(before: u64) -> Plan {
    let drops = [0, 1].map(|shard| ShardDrop {
        shard: ShardId(shard),
        before: FilePosition(before),
        reason: Reason::Forced,
    });
    Plan {
        drops: drops.into(),
        is_recycling: false,
    }
}

fn befores(plan: &Plan) -> Vec<(u8, u64)> {
    plan.drops
        .iter()
        .map(|drop| (drop.shard.0, drop.before.0))
        .collect()
}

fn settled(sources: Vec<Rc<Fake>>, before: u64) -> Vec<(u8, u64)> {
    let owed = Owed::default();
    for source in sources {
        owed.register(source);
    }
    let system = actix::System::new();
    befores(&system.block_on(settle(&owed, plan_before(before))))
}

#[test]
fn owed_records_are_moved_before_their_segments_go() {
    let fake = Fake::new(&[10, 70, 500], 99);
    assert_eq!(settled(vec![Rc::clone(&fake)], 100), [(0, 100), (1, 100)]);
    let left: Vec<u64> = fake.owed.borrow().iter().copied().collect();
    assert_eq!(left, [500, 1_000_010, 1_000_070]);
    assert_eq!(fake.calls.get(), 1, "the other shard has nothing to move");
}

#[test]
fn a_drop_ends_at_the_lowest_owed_record_that_is_left() {
    let fake = Fake::new(&[10, 70], 1);
    assert_eq!(settled(vec![Rc::clone(&fake)], 100), [(0, 70), (1, 100)]);
    assert_eq!(
        settled(vec![fake], 100),
        [(0, 100), (1, 100)],
        "the next run goes on"
    );
    let stuck = Fake::new(&[1], 0);
    let fine = Fake::new(&[500], 0);
    assert_eq!(settled(vec![stuck], 100), [(0, 1), (1, 100)]);
    assert_eq!(settled(vec![Rc::clone(&fine)], 100), [(0, 100), (1, 100)]);
    assert_eq!(fine.calls.get(), 0, "nothing of it is in the way");
}

#[test]
fn who_does_not_know_what_it_owes_stops_every_drop() {
    let lost = Rc::new(Fake {
        owed: RefCell::default(),
        movable: 0,
        calls: Cell::new(0),
        knows: false,
    });
    assert_eq!(settled(vec![Fake::new(&[], 0), lost], 100), []);
}

#[test]
fn a_source_made_anew_takes_the_place_of_the_old_one() {
    let (old, new) = (Fake::new(&[1], 0), Fake::new(&[], 0));
    assert_eq!(settled(vec![old, new], 100), [(0, 100), (1, 100)]);
}

/// A run waits for cores that don't answer; the disk is looked at all the same.
#[test]
fn the_watch_over_the_disk_goes_on_while_a_run_waits() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = crate::control::tests::rig::settings();
    folder.path().clone_into(&mut settings.data_dir);
    settings.retention.interval_ms = 10;
    settings.retention.rules.warning_percent = 100;
    let outbox = Rc::new(crate::control::cores::outbox::Outbox::new(Vec::new()));
    let ledger = crate::control::ledger::Ledger::open(folder.path()).unwrap();
    let shutdown = gantry_runtime::shutdown::Shutdown::new();
    let plane = Plane::new(Arc::new(settings), ledger, outbox, shutdown);
    actix::System::new().block_on(async {
        actix::spawn(run(Rc::clone(&plane)));
        actix::clock::sleep(Duration::from_millis(100)).await;
        assert!(plane.cleaning.usage.take().is_some());
        actix::clock::sleep(Duration::from_millis(500)).await;
        assert!(plane.cleaning.usage().is_some(), "nobody has looked");
    });
}

fn topic(id: u32, reserve: Option<&str>) -> Arc<TopicEntry> {
    let mut config = TopicConfig::new("t", 4);
    let attributes: BTreeMap<String, String> = reserve
        .map(|hours| (RESERVE_TIME.to_owned(), hours.to_owned()))
        .into_iter()
        .collect();
    config.attributes = attributes;
    let id = TopicId(id);
    Arc::new(TopicEntry { id, config })
}

#[test]
fn topics_with_a_time_of_their_own_are_trimmed_or_kept() {
    let topics = [
        topic(1, None),
        topic(2, Some("-1")),
        topic(3, Some("1")),
        topic(4, Some("72")),
        topic(5, Some("100")),
        topic(6, Some("0")),
    ];
    let rules = Rules {
        delete_hours: vec![4],
        reserved_ms: 72 * HOUR_MS,
        max_used_percent: 75,
        forced_percent: 85,
        warning_percent: 90,
        is_forcing: true,
        segments_per_run: 10,
    };
    let own = own_times(topics.iter(), &rules, 200 * HOUR_MS);
    assert_eq!(own.trim, [(TopicId(3), StoreTimestamp(199 * HOUR_MS))]);
    assert_eq!(own.keep, [(TopicId(5), StoreTimestamp(100 * HOUR_MS))]);
}
