//! What the broker says of itself.

use std::cell::Cell;

use gantry_protocol::body::KvTable;
use gantry_protocol::code::request as code;
use gantry_protocol::code::response;

use super::rig::{Rig, peer, request, settings};
use super::supervisors::QUEUES;
use crate::live::StartCheck;
use crate::refusal::Refusal;
use crate::seam::{Answer, CatalogChange, Question, StoreReport, ToData, Totals};
use crate::seam::{Counted, GroupCount, ToControl, TopicCount};
use gantry_storage::retention::{SegmentAge, ShardAges};
use gantry_storage::units::{FilePosition, ShardId, StoreTimestamp};

/// Keys that clusterList, brokerStatus and the dashboard parse, with what they parse them as.
const TRIPLES: [&str; 5] = [
    "putTps",
    "getTransferredTps",
    "getFoundTps",
    "getMissTps",
    "getTotalTps",
];
const NUMBERS: [&str; 21] = [
    "msgPutTotalTodayMorning",
    "msgPutTotalYesterdayMorning",
    "msgPutTotalTodayNow",
    "msgGetTotalTodayMorning",
    "msgGetTotalYesterdayMorning",
    "msgGetTotalTodayNow",
    "sendThreadPoolQueueSize",
    "pullThreadPoolQueueSize",
    "ackThreadPoolQueueSize",
    "sendThreadPoolQueueHeadWaitTimeMills",
    "pullThreadPoolQueueHeadWaitTimeMills",
    "ackThreadPoolQueueHeadWaitTimeMills",
    "pageCacheLockTimeMills",
    "earliestMessageTimeStamp",
    "commitLogDiskRatio",
    "timerReadBehind",
    "timerOffsetBehind",
    "timerCongestNum",
    "timerEnqueueTps",
    "timerDequeueTps",
    "bootTimestamp",
];

#[test]
fn trap_94_every_key_the_tools_parse_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    rig.answer = Box::new(|question| match question {
        Question::StoreReport => Answer::Store(StoreReport {
            totals: Totals {
                put_count: 1000,
                ..Totals::default()
            },
            staged_bytes: 12,
            earliest_ms: 5,
            ..StoreReport::default()
        }),
        _ => Answer::Done,
    });
    let reply = rig.ask(peer(1), request(code::GET_BROKER_RUNTIME_INFO, &[], ""));
    let table = KvTable::parse(&reply.body).unwrap().table;
    for key in TRIPLES {
        let parts: Vec<f64> = table[key].split(' ').map(|n| n.parse().unwrap()).collect();
        assert_eq!(parts.len(), 3, "{key}");
    }
    for key in NUMBERS {
        assert!(table[key].parse::<f64>().is_ok(), "{key}={}", table[key]);
    }
    assert_eq!(table["putMessageTimesTotal"], "1000");
    assert_eq!(table["brokerVersionDesc"], "V5_5_0");
    assert!(table["runtime"].starts_with("[ 0 days"));
    assert!(table.contains_key("brokerActive"));
    rig.stop();
}

#[test]
fn trap_110_unknown_keys_change_nothing_and_are_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    let update = |body: &'static str| request(code::UPDATE_BROKER_CONFIG, &[], body);
    assert_eq!(
        rig.ask(peer(1), update("noSuchKey=1\n# a comment\n")).code,
        0
    );
    let reply = rig.ask(peer(1), update("configBlackList=x"));
    assert_eq!(reply.code, response::NO_PERMISSION);
    assert_eq!(
        rig.ask(peer(1), update("brokerPermission=5")).code,
        response::SYSTEM_ERROR
    );
    assert_eq!(rig.ask(peer(1), update("brokerPermission=4\n")).code, 0);
    let told = rig
        .seen
        .iter()
        .any(|m| matches!(m, ToData::Catalog(CatalogChange::BrokerPermission(4))));
    assert!(told, "the cores refuse sends from now on");
    let reply = rig.ask(peer(1), request(code::GET_BROKER_CONFIG, &[], ""));
    assert_eq!(&reply.body[..], b"brokerName=b0\nbrokerPermission=4\n");
    assert!(reply.ext("version").unwrap().contains("counter"));
    rig.stop();
}

#[test]
fn counters_come_from_what_the_cores_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    assert_eq!(rig.ensure_topic("T", "TBW102", 4), 0);
    let topic = rig.topics()["T"].id;
    let fields = [("statsName", "TOPIC_PUT_NUMS"), ("statsKey", "T")];
    let view = |fields: &[(&str, &str)]| request(code::VIEW_BROKER_STATS_DATA, fields, "");
    let reply = rig.ask(peer(1), view(&fields));
    assert_eq!(reply.code, response::SYSTEM_ERROR, "nothing was counted");
    let totals = Totals {
        put_count: 60,
        got_count: 30,
        found_count: 3,
        missed_count: 9,
        put_bytes: 6000,
    };
    let put = TopicCount {
        topic,
        count: 60,
        bytes: 6000,
        requests: 60,
    };
    let got = GroupCount {
        topic,
        group: "g".into(),
        count: 30,
        bytes: 3000,
        requests: 3,
        read_ms: 6,
    };
    rig.tell(ToControl::Counted(Box::new(Counted {
        core: 0,
        totals,
        topics: vec![put],
        groups: vec![got],
    })));
    let sum = |reply: &gantry_protocol::command::Command, name: &str| {
        let body = gantry_protocol::fastjson::parse(&reply.body).unwrap();
        let item = body.get("statsMinute").unwrap().get(name).unwrap();
        item.as_f64().unwrap()
    };
    let reply = rig.ask(peer(1), view(&fields));
    assert!((sum(&reply, "sum") - 60.0).abs() < 0.1, "{reply:?}");
    let fields = [("statsName", "GROUP_GET_LATENCY"), ("statsKey", "T@g")];
    let reply = rig.ask(peer(1), view(&fields));
    assert!((sum(&reply, "avgpt") - 2.0).abs() < 0.1, "{reply:?}");
    let reply = rig.ask(peer(1), request(code::GET_BROKER_RUNTIME_INFO, &[], ""));
    let table = KvTable::parse(&reply.body).unwrap().table;
    assert_eq!(table["msgPutTotalTodayNow"], "60");
    assert_eq!(table["msgGetTotalTodayNow"], "30");
    let first = |key: &str| {
        table[key]
            .split(' ')
            .next()
            .unwrap()
            .parse::<f64>()
            .unwrap()
    };
    assert!(first("putTps") > 0.0 && first("getMissTps") > first("getFoundTps"));
    let both = first("getMissTps") + first("getFoundTps");
    assert!((first("getTotalTps") - both).abs() < 0.1);
    rig.stop();
}

/// What a run asked for by code 329 drops of a shard of 100 old bytes, when the cores say this of
/// open halves.
fn dropped(
    open_halves: impl Fn(FilePosition) -> Result<Option<FilePosition>, Refusal> + 'static,
) -> Vec<(ShardId, FilePosition)> {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings();
    settings.data_dir = folder.path().into();
    // No hour of the day, and no run but the one asked for.
    settings.retention.rules.delete_hours = Vec::new();
    settings.retention.interval_ms = 3_600_000;
    let mut rig = Rig::start(folder.path(), settings);
    rig.answer = Box::new(move |question| match question {
        Question::Ages(_) => Answer::Ages(vec![ShardAges {
            shard: ShardId(3),
            segments: vec![SegmentAge {
                start: FilePosition(0),
                bytes: 100,
                newest: Some(StoreTimestamp(1)),
            }],
            reserved_from: None,
        }]),
        Question::OpenHalves { shard, move_below } => {
            assert_eq!(*shard, ShardId(3));
            Answer::OpenHalves(open_halves(*move_below))
        }
        _ => Answer::Done,
    });
    // Until the parked queues are read, nobody knows what is pending, and nothing goes.
    for _ in 0..QUEUES {
        rig.until(|message| matches!(message, ToData::Errand { .. }));
    }
    let asked = request(code::DELETE_EXPIRED_COMMITLOG, &[], "");
    assert_eq!(rig.ask(peer(1), asked).code, 0);
    let order = rig.until(|message| {
        matches!(
            message,
            ToData::Ask {
                question: Question::DropSegments(_),
                ..
            }
        )
    });
    let ToData::Ask {
        question: Question::DropSegments(plan),
        ..
    } = order
    else {
        unreachable!()
    };
    rig.stop();
    let drops = plan.drops.iter();
    drops.map(|drop| (drop.shard, drop.before)).collect()
}

#[test]
fn code_329_orders_a_run_of_retention_at_once() {
    assert_eq!(dropped(|_| Ok(None)), [(ShardId(3), FilePosition(100))]);
}

#[test]
fn open_halves_are_moved_before_their_segments_go() {
    let moves = Cell::new(0);
    let drops = dropped(move |move_below| {
        if move_below == FilePosition(100) {
            moves.set(moves.get() + 1);
        }
        // The second look at the move finds it done.
        let lowest = if moves.get() < 2 { 40 } else { 1_040 };
        Ok(Some(FilePosition(lowest)))
    });
    assert_eq!(drops, [(ShardId(3), FilePosition(100))]);
}

#[test]
fn open_halves_that_stay_hold_their_segments() {
    let drops = dropped(|move_below| match move_below {
        FilePosition(0) => Ok(Some(FilePosition(40))),
        _ => Err(Refusal::new(response::SYSTEM_ERROR, "a bad sector")),
    });
    assert_eq!(drops, [(ShardId(3), FilePosition(40))]);
}

#[test]
fn a_request_that_the_next_start_would_refuse_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings();
    settings.start_check = StartCheck::new(|kept, changes| {
        let all: Vec<_> = kept.iter().chain(changes.iter().copied()).collect();
        let wanted = [
            ("listenPort", "7"),
            ("maxMessageSize", "50"),
            ("listenPort", "8"),
        ];
        if all == wanted {
            return Err("broker.conf:3: that port is taken".into());
        }
        Ok(())
    });
    let mut rig = Rig::start(folder.path(), settings);
    let update = |body: &'static str| request(code::UPDATE_BROKER_CONFIG, &[], body);
    assert_eq!(rig.ask(peer(1), update("listenPort=7")).code, 0);
    let path = folder.path().join(crate::kept_settings::FILE_NAME);
    let before = std::fs::read(&path).unwrap();
    let reply = rig.ask(peer(1), update("maxMessageSize=50\nlistenPort=8"));
    assert_eq!(reply.code, response::SYSTEM_ERROR);
    assert!(reply.remark.unwrap().contains("broker.conf:3: that port"));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    let shown = rig.ask(peer(1), request(code::GET_BROKER_CONFIG, &[], ""));
    assert_eq!(&shown.body[..], b"brokerName=b0\nlistenPort=7\n");
    rig.stop();
}

#[test]
fn settings_change_live_or_at_the_next_start_and_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    let update = |body: &'static str| request(code::UPDATE_BROKER_CONFIG, &[], body);
    let mixed = "maxMessageSize=100\nlistenPort=7\nnoSuch=1\nwarmMapedFileEnable=true\n";
    let reply = rig.ask(peer(1), update(mixed));
    assert_eq!(reply.code, 0);
    let remark = reply.remark.unwrap();
    for word in [
        "restart: listenPort",
        "ignored: noSuch",
        "warmMapedFileEnable has no effect",
    ] {
        assert!(remark.contains(word), "{remark}");
    }
    for refused in [
        "maxMessageSize=50\nbrokerId=1",
        "maxMessageSize=x",
        "storePathRootDir=/x\nmaxMessageSize=50",
    ] {
        let reply = rig.ask(peer(1), update(refused));
        assert_eq!(reply.code, response::SYSTEM_ERROR, "{refused}");
    }
    let shown = rig
        .ask(peer(1), request(code::GET_BROKER_CONFIG, &[], ""))
        .body;
    let shown = String::from_utf8(shown.to_vec()).unwrap();
    let wanted = "brokerName=b0\nlistenPort=7\nmaxMessageSize=100\nwarmMapedFileEnable=true\n";
    assert_eq!(shown, wanted, "a refused request changes nothing");
    rig.stop();
    let kept = crate::kept_settings::KeptSettings::load(folder.path()).unwrap();
    let kept: Vec<_> = kept.iter().collect();
    let wanted = [
        ("listenPort", "7"),
        ("maxMessageSize", "100"),
        ("warmMapedFileEnable", "true"),
    ];
    assert_eq!(kept, wanted);
}
