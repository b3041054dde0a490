use std::sync::Arc;

use gantry_protocol::code::response;
use gantry_protocol::sys_flag::{TRANSACTION_COMMIT, TRANSACTION_ROLLBACK};
use gantry_storage::retention::{Moment, Plan, Reason, SegmentAge, ShardAges, ShardDrop, Usage};
use gantry_storage::units::{FilePosition, ShardId, StoreTimestamp, TopicId};

use super::OWN_LOOKS;
use crate::data::testing::{TestBroker, send_frame, send_header};
use crate::data::transactions::ends_tests::{
    checks, delivered, end, end_header, end_with, send_half,
};
use crate::seam::{Answer, OwnTimes, Question, Ticket, ToControl, ToData};

fn ask(broker: &TestBroker, question: &Question) -> Vec<Answer> {
    broker.tell_all(|| ToData::Ask {
        ticket: Ticket(1),
        question: question.clone(),
    });
    // An answer's looks for what is done in the background.
    broker.world.naps.set(true);
    for _ in 0..=OWN_LOOKS {
        broker.settle();
    }
    let answers = broker.world.take_control().into_iter();
    let answers = answers.filter_map(|message| match message {
        ToControl::Answer { answer, .. } => Some(answer),
        _ => None,
    });
    answers.collect()
}

fn asked(broker: &TestBroker) -> Vec<Vec<String>> {
    let stores = broker.stores.iter();
    stores.map(|store| store.asked.take()).collect()
}

/// What the shards offer while three topics have times of their own.
fn ages_of(broker: &TestBroker) -> Vec<ShardAges> {
    for store in &broker.stores {
        store.lengthen(1000);
    }
    let own = OwnTimes {
        trim: vec![(TopicId(1), StoreTimestamp(5))],
        keep: vec![
            (TopicId(2), StoreTimestamp(9)),
            (TopicId(3), StoreTimestamp(8)),
        ],
    };
    let answers = ask(broker, &Question::Ages(Arc::new(own)));
    let mut ages: Vec<ShardAges> = answers
        .into_iter()
        .flat_map(|answer| match answer {
            Answer::Ages(ages) => ages,
            other => panic!("{other:?}"),
        })
        .collect();
    ages.sort_by_key(|ages| ages.shard);
    ages
}

#[test]
fn each_shard_applies_own_times_and_offers_what_it_has() {
    let broker = TestBroker::new(2, 2, |_| {});
    let ages = ages_of(&broker);
    assert_eq!(ages.len(), 2);
    assert_eq!((ages[0].shard, ages[1].shard), (ShardId(0), ShardId(1)));
    // The lowest of what two topics still want.
    assert!(
        ages.iter()
            .all(|ages| ages.reserved_from == Some(FilePosition(8)))
    );
    for asked in asked(&broker) {
        assert_eq!(asked, ["trim 1 to 5", "keep 2 since 9", "keep 3 since 8"]);
    }
}

#[test]
fn a_shard_with_a_damaged_index_page_still_offers_and_reserves_all() {
    let broker = TestBroker::new(1, 2, |_| {});
    broker.stores[1].is_index_damaged.set(true);
    let ages = ages_of(&broker);
    let reserved: Vec<_> = ages.iter().map(|ages| ages.reserved_from).collect();
    assert_eq!(reserved, [Some(FilePosition(8)), Some(FilePosition(0))]);
}

/// Each queue may take a read, and there may be 50,000 of them.
#[test]
fn force_takes_the_oldest_while_own_times_are_still_worked_on() {
    let broker = TestBroker::new(1, 1, |_| {});
    let store = &broker.stores[0];
    store.is_stuck.set(true);
    let oldest = SegmentAge {
        start: FilePosition(0),
        bytes: 100,
        newest: Some(StoreTimestamp(1)),
    };
    store.old_segments.replace(vec![oldest]);
    let rules = crate::data::testing::settings().retention.rules;
    let moment = Moment {
        now: StoreTimestamp(2),
        hour: 0,
        is_asked: false,
    };
    let full = Usage {
        used_bytes: 99,
        free_bytes: 1,
    };
    for run in 0..3 {
        let ages = ages_of(&broker);
        assert_eq!(ages[0].reserved_from, Some(FilePosition(0)));
        let plan = gantry_storage::retention::plan(&ages, &rules, full, moment);
        assert_eq!(plan.drops.len(), 1, "{plan:?}");
        assert_eq!(plan.drops[0].reason, Reason::Forced);
        let begun: usize = asked(&broker).iter().map(Vec::len).sum();
        assert_eq!(begun, if run == 0 { 3 } else { 0 }, "one at a time");
    }
}

/// What was found holds for the same topics later, until something else has been.
#[test]
fn what_topics_wanted_last_holds_meanwhile() {
    let broker = TestBroker::new(1, 1, |_| {});
    assert_eq!(ages_of(&broker)[0].reserved_from, Some(FilePosition(8)));
    broker.stores[0].is_stuck.set(true);
    assert_eq!(ages_of(&broker)[0].reserved_from, Some(FilePosition(8)));
    // Another topic, or a longer time, isn't known of yet.
    for keep in [(4, 20), (2, 8)] {
        let own = OwnTimes {
            trim: Vec::new(),
            keep: vec![(TopicId(keep.0), StoreTimestamp(keep.1))],
        };
        let answers = ask(&broker, &Question::Ages(Arc::new(own)));
        let [Answer::Ages(ages)] = answers.as_slice() else {
            panic!("{answers:?}")
        };
        assert_eq!(ages[0].reserved_from, Some(FilePosition(0)));
    }
}

#[test]
fn a_drop_reaches_its_shard_and_a_tight_disk_all_of_them() {
    let broker = TestBroker::new(1, 2, |_| {});
    let mut plan = Plan {
        drops: vec![ShardDrop {
            shard: ShardId(1),
            before: FilePosition(77),
            reason: Reason::Age,
        }],
        is_recycling: true,
    };
    ask(&broker, &Question::DropSegments(Arc::new(plan.clone())));
    assert_eq!(
        asked(&broker),
        [vec![], vec!["drop before 77, true".to_owned()]]
    );
    plan.is_recycling = false;
    ask(&broker, &Question::DropSegments(Arc::new(plan)));
    assert_eq!(
        asked(&broker),
        [["drop before 0, false"], ["drop before 77, false"]]
    );
}

#[test]
fn writes_are_refused_with_the_reason_until_they_are_not() {
    let broker = TestBroker::new(1, 1, |_| {});
    let send = || {
        broker.request(&send_frame(5, &send_header("T"), b"x"));
        broker.reply()
    };
    assert_eq!(send().code, 0);
    ask(
        &broker,
        &Question::RefuseWrites(Some(Arc::from("the disk is full"))),
    );
    let refused = send();
    assert_eq!(refused.code, response::SERVICE_NOT_AVAILABLE);
    assert_eq!(refused.remark.as_deref(), Some("the disk is full"));
    let told = ask(&broker, &Question::Profile);
    let [Answer::Profile(profile)] = &told[..] else {
        panic!("{told:?}");
    };
    let counted = profile.refused[0];
    assert_eq!((counted.cause, counted.count), ("disk full", 1));
    ask(&broker, &Question::RefuseWrites(None));
    assert_eq!(send().code, 0);
}

/// A commit stores a message: it is refused as a send is, and its half waits for the next try.
#[test]
fn a_commit_is_refused_as_a_send_is_and_a_rollback_is_taken() {
    let broker = TestBroker::new(1, 1, |_| {}).with_transactions();
    let told = [0, 1].map(|queue| send_half(&broker, queue, "", b"half"));
    let why = "the disk is full";
    ask(&broker, &Question::RefuseWrites(Some(Arc::from(why))));
    let refused = end_with(&broker, &end_header(told[0], TRANSACTION_COMMIT));
    assert_eq!(refused.code, response::SERVICE_NOT_AVAILABLE);
    assert_eq!(refused.remark.as_deref(), Some(why));
    assert!(delivered(&broker).is_empty());
    assert_eq!(broker.open_halves(), 2);
    assert_eq!(end(&broker, told[1], TRANSACTION_ROLLBACK), 0);
    broker.pass_ms(6_100);
    let asked = checks(&broker);
    assert_eq!(asked.len(), 1, "{asked:?}");
    let mut checked = end_header(told[0], TRANSACTION_COMMIT);
    checked.from_check = true;
    let refused = end_with(&broker, &checked);
    assert_eq!(refused.code, response::SERVICE_NOT_AVAILABLE);
    ask(&broker, &Question::RefuseWrites(None));
    assert_eq!(end_with(&broker, &checked).code, 0);
    assert_eq!((delivered(&broker).len(), broker.open_halves()), (1, 0));
}
