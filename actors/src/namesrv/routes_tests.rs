//! The name server's rules, by trap number (docs: the compatibility traps of the remoting
//! protocol).

use gantry_runtime::clock::MonoMs;

use super::liveness::{BrokerPlace, ConnectionId, DataVersion};
use super::lookup::UnitFilter;
use super::routes::{MASTER_ID, Queues, RegisterError, Registered, Registration, Routes};

const T0: MonoMs = MonoMs(1_000_000);

fn after(ms: u64) -> MonoMs {
    MonoMs(T0.0 + ms)
}

fn queues(perm: i32) -> Queues {
    Queues {
        read: 4,
        write: 4,
        perm,
        sys_flag: 0,
    }
}

fn broker(name: &str, id: i64, address: &str, topics: &[&str]) -> Registration {
    Registration {
        cluster: "c".into(),
        broker_name: name.into(),
        address: address.into(),
        broker_id: id,
        ha_address: format!("{address}-ha"),
        zone: None,
        timeout_ms: None,
        acting_master: None,
        version: DataVersion {
            state_version: 0,
            timestamp: 1,
            counter: 1,
        },
        topics: topics
            .iter()
            .map(|topic| ((*topic).to_owned(), queues(6)))
            .collect(),
        connection: ConnectionId(1),
    }
}

fn place(address: &str) -> BrokerPlace {
    BrokerPlace {
        cluster: "c".into(),
        address: address.into(),
    }
}

fn with(registrations: Vec<Registration>) -> Routes {
    let mut routes = Routes::default();
    for registration in registrations {
        routes.register(&registration, T0, false).unwrap();
    }
    routes
}

#[test]
fn trap_26_tbw102_keeps_its_inherit_bit() {
    let mut registration = broker("b", 0, "a:1", &["X"]);
    registration.topics.push(("TBW102".into(), queues(7)));
    let routes = with(vec![registration]);
    assert_eq!(routes.route("TBW102", false).unwrap().queues[0].1.perm, 7);
}

#[test]
fn trap_27_a_new_topic_alone_extends_a_known_broker() {
    let mut routes = with(vec![broker("b", 0, "a:1", &["T1", "T2"])]);
    let mut one = broker("b", 0, "a:1", &["T3"]);
    one.version.counter = 2;
    routes.register(&one, T0, false).unwrap();
    assert_eq!(routes.topics(), ["T1", "T2", "T3"]);
}

#[test]
fn a_single_topic_of_an_unknown_broker_is_refused() {
    let mut routes = Routes::default();
    let refused = routes.register(&broker("b", 0, "a:1", &["T1"]), T0, false);
    assert_eq!(refused, Err(RegisterError::NotYetKnown));
    assert!(routes.brokers().is_empty());
}

#[test]
fn trap_33_a_body_without_a_topic_does_not_delete_it() {
    let mut routes = with(vec![broker("b", 0, "a:1", &["T1", "T2"])]);
    let mut partial = broker("b", 0, "a:1", &["T1"]);
    partial.version.counter = 2;
    routes.register(&partial, T0, false).unwrap();
    assert!(routes.route("T2", false).is_some());
    partial.version.counter = 3;
    routes.register(&partial, T0, true).unwrap();
    assert!(
        routes.route("T2", false).is_none(),
        "unless the operator asked for it"
    );
}

#[test]
fn trap_34_a_closed_connection_drops_its_routes_at_once() {
    let mut routes = with(vec![broker("b", 0, "a:1", &["T1", "T2"])]);
    assert!(routes.connection_closed(ConnectionId(2)).is_empty());
    assert!(routes.route("T1", false).is_some());
    assert_eq!(routes.connection_closed(ConnectionId(1)), [place("a:1")]);
    assert!(routes.route("T1", false).is_none());
    assert!(routes.brokers().is_empty());
}

#[test]
fn trap_34_the_close_of_an_older_connection_is_nobodys_death() {
    let mut routes = with(vec![broker("b", 0, "a:1", &["T1", "T2"])]);
    let mut again = broker("b", 0, "a:1", &["T1", "T2"]);
    again.connection = ConnectionId(2);
    routes.register(&again, T0, false).unwrap();
    assert!(routes.connection_closed(ConnectionId(1)).is_empty());
    assert!(routes.route("T1", false).is_some());
}

#[test]
fn trap_36_permissions_travel_as_registered_and_change_with_the_version() {
    let mut routes = with(vec![broker("b", 0, "a:1", &["T1", "T2"])]);
    let mut drained = broker("b", 0, "a:1", &["T1", "T2"]);
    for (_, queues) in &mut drained.topics {
        queues.perm = 4;
    }
    routes.register(&drained, T0, false).unwrap();
    let perm = |routes: &Routes| routes.route("T1", false).unwrap().queues[0].1.perm;
    assert_eq!(perm(&routes), 6, "same version: nothing changed");
    drained.version.counter = 2;
    routes.register(&drained, T0, false).unwrap();
    assert_eq!(perm(&routes), 4);
}

#[test]
fn trap_35_names_with_percent_and_bar_are_topics() {
    let routes = with(vec![broker("b", 0, "a:1", &["%RETRY%g", "ns%T|x"])]);
    assert!(routes.route("%RETRY%g", false).is_some());
    assert!(routes.route("ns%T|x", false).is_some());
}

#[test]
fn trap_37_fewer_read_than_write_queues_is_legal() {
    let mut registration = broker("b", 0, "a:1", &["T1", "T2"]);
    registration.topics[0].1.read = 2;
    let routes = with(vec![registration]);
    let queues = routes.route("T1", false).unwrap().queues[0].1;
    assert_eq!((queues.read, queues.write), (2, 4));
}

#[test]
fn expiry_by_the_brokers_own_timeout_or_two_minutes() {
    let mut quick = broker("quick", 0, "a:1", &["T1", "T2"]);
    quick.timeout_ms = Some(10_000);
    let mut routes = with(vec![quick, broker("slow", 0, "a:2", &["T1", "T2"])]);
    assert!(routes.expire(after(10_000)).is_empty());
    assert_eq!(routes.expire(after(10_001)), [place("a:1")]);
    assert_eq!(routes.route("T1", false).unwrap().brokers.len(), 1);
    routes.touch(&place("a:2"), after(100_000));
    assert!(routes.expire(after(120_001)).is_empty());
    assert_eq!(routes.expire(after(220_001)), [place("a:2")]);
    assert!(routes.route("T1", false).is_none());
}

#[test]
fn a_slave_is_told_its_master_and_adds_no_topics() {
    let mut routes = with(vec![broker("b", 0, "m:1", &["T1", "T2"])]);
    let told = routes
        .register(&broker("b", 1, "s:1", &["T1", "T9"]), T0, false)
        .unwrap();
    let master = Registered {
        master_address: Some("m:1".into()),
        ha_address: Some("m:1-ha".into()),
    };
    assert_eq!(told, master);
    assert!(routes.route("T9", false).is_none());
    let route = routes.route("T1", false).unwrap();
    assert_eq!(route.brokers[0].1.addresses.len(), 2);
}

#[test]
fn a_lower_state_version_does_not_take_over_an_address() {
    let mut master = broker("b", 0, "new:1", &["T1", "T2"]);
    master.version.state_version = 5;
    let mut routes = with(vec![master]);
    routes
        .register(&broker("b", 0, "old:1", &["T1", "T2"]), T0, false)
        .unwrap();
    let held = &routes.route("T1", false).unwrap().brokers[0].1.addresses;
    assert_eq!(held[&MASTER_ID], "new:1");
    assert_eq!(routes.version_of(&place("old:1")), None);
}

#[test]
fn a_slave_that_becomes_master_has_one_number() {
    let mut routes = with(vec![broker("b", 1, "s:1", &["T1", "T2"])]);
    routes
        .register(&broker("b", 0, "s:1", &["T1", "T2"]), T0, false)
        .unwrap();
    let held = &routes.route("T1", false).unwrap().brokers[0].1.addresses;
    assert_eq!(held.len(), 1);
}

#[test]
fn an_acting_master_is_shown_as_number_0_and_read_only() {
    let mut slave = broker("b", 2, "s:2", &["T1", "T2"]);
    slave.acting_master = Some(true);
    let mut master = broker("b", 0, "m:1", &["T1", "T2"]);
    master.acting_master = Some(true);
    let mut routes = with(vec![master, slave]);
    routes.unregister(&place("m:1"), "b", 0);
    let shown = routes.route("T1", true).unwrap();
    assert_eq!(shown.queues[0].1.perm, 4);
    assert_eq!(shown.brokers[0].1.addresses[&MASTER_ID], "s:2");
    assert!(
        !routes.route("T1", false).unwrap().brokers[0]
            .1
            .addresses
            .contains_key(&MASTER_ID)
    );
}

#[test]
fn an_unregister_of_a_taken_over_number_changes_nothing() {
    let mut routes = with(vec![broker("b", 0, "old:1", &["T1", "T2"])]);
    routes
        .register(&broker("b", 0, "new:1", &["T1", "T2"]), T0, false)
        .unwrap();
    routes.unregister(&place("old:1"), "b", 0);
    assert!(routes.route("T1", false).is_some());
}

#[test]
fn wipe_and_add_write_permission_count_topics() {
    let mut routes = with(vec![broker("b", 0, "a:1", &["T1", "T2"])]);
    assert_eq!(routes.set_write("b", false), 2);
    assert_eq!(routes.route("T1", false).unwrap().queues[0].1.perm, 4);
    assert_eq!(routes.set_write("b", true), 2);
    assert_eq!(routes.route("T1", false).unwrap().queues[0].1.perm, 6);
    assert_eq!(routes.set_write("unknown", true), 0);
}

#[test]
fn topics_are_deleted_by_cluster_or_everywhere() {
    let mut other = broker("o", 0, "a:2", &["T1", "T2"]);
    other.cluster = "d".into();
    let mut routes = with(vec![broker("b", 0, "a:1", &["T1", "T2"]), other]);
    routes.delete_topic("T1", Some("d"));
    assert_eq!(routes.route("T1", false).unwrap().queues.len(), 1);
    assert_eq!(routes.topics_of_cluster("d"), ["T2"]);
    routes.delete_topic("T1", None);
    assert!(routes.route("T1", false).is_none());
}

#[test]
fn trap_38_unit_flags_are_kept_and_listed() {
    let mut registration = broker("b", 0, "a:1", &["unit", "sub", "both"]);
    for (at, flag) in [1, 2, 3].into_iter().enumerate() {
        registration.topics[at].1.sys_flag = flag;
    }
    let routes = with(vec![registration]);
    assert_eq!(routes.unit_topics(UnitFilter::Unit), ["both", "unit"]);
    assert_eq!(routes.unit_topics(UnitFilter::UnitSub), ["both", "sub"]);
    assert_eq!(routes.unit_topics(UnitFilter::UnitSubNotUnit), ["sub"]);
}

#[test]
fn a_topic_put_by_hand_names_known_brokers_only() {
    let mut routes = with(vec![broker("b", 0, "a:1", &["T1", "T2"])]);
    let by_hand = vec![("b".into(), queues(6)), ("ghost".into(), queues(6))];
    routes.put_topic("hand", by_hand).unwrap();
    assert_eq!(routes.route("hand", false).unwrap().queues.len(), 1);
    let of_a_ghost = vec![("ghost".into(), queues(6))];
    routes.put_topic("nobody", of_a_ghost).unwrap();
    assert!(routes.route("nobody", false).is_none());
}

#[test]
fn only_new_topics_need_room() {
    let routes = with(vec![broker("a", 0, "a:1", &["T1", "T2", "T3"])]);
    let known = broker("b", 0, "b:1", &["T1", "T2", "T3"]);
    assert_eq!(routes.check_room(&known, 3), Ok(()));
    let more = broker("b", 0, "b:1", &["T1", "T2", "T4"]);
    assert_eq!(routes.check_room(&more, 4), Ok(()));
    assert_eq!(routes.check_room(&more, 3), Err(RegisterError::Full));
}

#[test]
fn a_full_table_takes_changes_by_hand_and_refuses_what_is_new() {
    let mut routes = with(vec![broker("a", 0, "a:1", &["T1", "T2"])]);
    let by_hand = |perm| vec![("a".into(), queues(perm))];
    assert_eq!(routes.put_topic_within("T1", by_hand(4), 2), Ok(()));
    assert_eq!(routes.route("T1", false).unwrap().queues[0].1.perm, 4);
    let refused = routes.put_topic_within("T3", by_hand(6), 2);
    assert_eq!(refused, Err(RegisterError::Full));
    assert!(routes.route("T3", false).is_none());
}
