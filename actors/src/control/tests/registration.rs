//! The links, against small name servers on the loopback.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use gantry_protocol::body::{QueueData, RegisterBrokerBody, TopicConfig, TopicRouteData};
use gantry_protocol::code::request as code;
use gantry_protocol::code::response;
use gantry_protocol::command::Command;
use gantry_protocol::fastjson::{IntegerKeys, Value, to_bytes};
use gantry_protocol::frame::take_frame;

use super::rig::{Rig, peer, request, settings};
use super::supervisors::{cores, parked};
use crate::control::reply::encoded;
use crate::control::topics::table::TOPICS_MAX;
use crate::seam::{CatalogChange, Ticket, ToControl, ToData};

const WAIT: Duration = Duration::from_secs(10);

/// A name server that notes every request and answers what `answer` says.
struct NameServer {
    addr: SocketAddr,
    heard: Receiver<Command>,
    connections: Arc<AtomicUsize>,
}

fn name_server(answer: impl Fn(&Command) -> Command + Clone + Send + 'static) -> NameServer {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (tell, heard) = channel();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            count.fetch_add(1, Ordering::Relaxed);
            let (tell, answer) = (tell.clone(), answer.clone());
            std::thread::spawn(move || serve(stream, &tell, &answer));
        }
    });
    NameServer {
        addr,
        heard,
        connections,
    }
}

fn serve(mut stream: TcpStream, tell: &Sender<Command>, answer: &impl Fn(&Command) -> Command) {
    let mut buffer = BytesMut::new();
    let mut chunk = [0; 4096];
    while let Ok(bytes @ 1..) = stream.read(&mut chunk) {
        buffer.extend_from_slice(&chunk[..bytes]);
        while let Some(frame) = take_frame(&mut buffer).unwrap() {
            let command = Command::from_frame(&frame).unwrap();
            let reply = answer(&command);
            if tell.send(command).is_err() || stream.write_all(&encoded(&reply).unwrap()).is_err() {
                return;
            }
        }
    }
}

fn accept(command: &Command) -> Command {
    Command::reply_to(command, response::SUCCESS).with_ext_fields()
}

impl NameServer {
    fn next(&self) -> Command {
        self.heard.recv_timeout(WAIT).unwrap()
    }
}

fn body_of(command: &Command) -> RegisterBrokerBody {
    assert_eq!(command.code, code::REGISTER_BROKER);
    let is_compressed = command.ext("compressed") == Some("true");
    let crc = command.ext("bodyCrc32").unwrap().parse().unwrap();
    RegisterBrokerBody::parse(&command.body, is_compressed, Some(crc), command.version).unwrap()
}

fn rig(folder: &std::path::Path, servers: &[SocketAddr]) -> Rig {
    let mut settings = settings();
    settings.namesrv_addrs = servers.iter().map(ToString::to_string).collect();
    Rig::start(folder, settings)
}

#[test]
fn trap_27_a_new_topic_is_at_every_name_server_before_its_maker_hears() {
    let folder = tempfile::tempdir().unwrap();
    let servers = [name_server(accept), name_server(accept)];
    let mut rig = rig(folder.path(), &[servers[0].addr, servers[1].addr]);
    let report = rig.control.as_ref().unwrap().register();
    assert!(report.iter().all(|link| link.state.is_ok()), "{report:?}");
    for server in &servers {
        let full = server.next();
        assert_eq!(full.ext("brokerName"), Some("b0"));
        assert_eq!(full.ext("brokerId"), Some("0"));
        assert_eq!(full.ext("brokerAddr"), Some("127.0.0.1:10911"));
        assert_eq!(full.ext("clusterName"), Some("DefaultCluster"));
        let topics = body_of(&full).topics.topics;
        assert_eq!(topics["TBW102"].perm, 7, "trap 26");
    }
    assert_eq!(rig.ensure_topic("T", "TBW102", 4), 0);
    for server in &servers {
        let only = body_of(&server.heard.try_recv().expect("told before the maker"));
        assert_eq!(only.topics.topics.keys().collect::<Vec<_>>(), ["T"]);
    }
    rig.control.as_ref().unwrap().unregister();
    for server in &servers {
        assert_eq!(server.next().code, code::UNREGISTER_BROKER);
    }
    rig.stop();
}

#[test]
fn a_changed_topic_goes_by_itself_where_that_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let server = name_server(accept);
    let mut settings = settings();
    settings.namesrv_addrs = vec![server.addr.to_string()];
    settings.registration.is_single_topic = true;
    let mut rig = Rig::start(folder.path(), settings);
    rig.control.as_ref().unwrap().register();
    body_of(&server.next());
    assert_eq!(rig.ensure_topic("T", "TBW102", 4), 0);
    let told = server.heard.try_recv().expect("told before the maker");
    assert_eq!(told.code, code::REGISTER_TOPIC_IN_NAMESRV);
    assert_eq!(told.ext("topic"), Some("T"));
    let route = TopicRouteData::parse(&told.body).unwrap();
    let queues = QueueData {
        broker_name: "b0".into(),
        read_queue_nums: 4,
        write_queue_nums: 4,
        perm: 6,
        topic_sys_flag: 0,
    };
    assert_eq!(route.queues, [queues]);
    let gone = request(code::DELETE_TOPIC_IN_BROKER, &[("topic", "T")], "");
    assert_eq!(rig.ask(peer(1), gone).code, 0);
    let all = body_of(&server.next()).topics.topics;
    assert!(all.contains_key("TBW102") && !all.contains_key("T"));
    rig.stop();
}

#[test]
fn a_dead_name_server_delays_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let alive = name_server(accept);
    // One that refuses connections, one that takes them and says nothing.
    let refusing = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = [refusing, silent.local_addr().unwrap(), alive.addr];
    let mut rig = rig(folder.path(), &addresses);
    let begun = Instant::now();
    let report = rig.control.as_ref().unwrap().register();
    assert!(begun.elapsed() < Duration::from_secs(6));
    assert_eq!(
        report.iter().filter(|link| link.state.is_ok()).count(),
        1,
        "{report:?}"
    );
    body_of(&alive.next());
    let begun = Instant::now();
    assert_eq!(rig.ensure_topic("T", "TBW102", 4), 0);
    assert!(
        begun.elapsed() < Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
    assert!(body_of(&alive.next()).topics.topics.contains_key("T"));
    rig.stop();
}

#[test]
fn a_name_server_that_does_not_know_us_gets_everything() {
    let folder = tempfile::tempdir().unwrap();
    let server = name_server(|command| {
        let is_partial = body_of(command).topics.topics.len() == 1;
        let code = if is_partial {
            response::SYSTEM_ERROR
        } else {
            response::SUCCESS
        };
        Command::reply_to(command, code)
    });
    let mut rig = rig(folder.path(), &[server.addr]);
    rig.control.as_ref().unwrap().register();
    assert_eq!(rig.ensure_topic("T", "TBW102", 4), 0);
    let counts: Vec<usize> = server
        .heard
        .try_iter()
        .map(|command| body_of(&command).topics.topics.len())
        .collect();
    assert_eq!(counts.len(), 3);
    assert_eq!(counts[1], 1);
    assert_eq!(counts[2], counts[0] + 1);
    rig.stop();
}

#[test]
fn trap_36_a_drained_broker_registers_its_topics_without_the_permission() {
    let folder = tempfile::tempdir().unwrap();
    let server = name_server(accept);
    let mut rig = rig(folder.path(), &[server.addr]);
    rig.control.as_ref().unwrap().register();
    let before = body_of(&server.next()).topics;
    assert_eq!(before.topics["BenchmarkTest"].perm, 6);
    let update = request(code::UPDATE_BROKER_CONFIG, &[], "brokerPermission=4");
    assert_eq!(rig.ask(peer(1), update).code, 0);
    let told = server.heard.try_recv().expect("told before the answer");
    let after = body_of(&told).topics;
    assert_ne!(
        after.data_version, before.data_version,
        "a name server ignores changes of a version it knows"
    );
    let topics = after.topics;
    assert_eq!(
        (topics["BenchmarkTest"].perm, topics["TBW102"].perm),
        (4, 4)
    );
    rig.stop();
}

#[test]
fn the_compressed_form_and_the_version_question_work() {
    let folder = tempfile::tempdir().unwrap();
    let server = name_server(|command| {
        if command.code == code::QUERY_DATA_VERSION {
            return accept(command).with_ext("changed", "false");
        }
        accept(command)
    });
    let mut settings = settings();
    settings.namesrv_addrs = vec![server.addr.to_string()];
    settings.registration.is_compressed = true.into();
    settings.registration.is_forced = false.into();
    settings.registration.period_ms = 50;
    let rig = Rig::start(folder.path(), settings);
    rig.control.as_ref().unwrap().register();
    let full = server.next();
    assert_eq!(full.ext("compressed"), Some("true"));
    assert_eq!(
        body_of(&full).topics.topics["BenchmarkTest"].read_queue_nums,
        1024
    );
    for _ in 0..3 {
        assert_eq!(
            server.next().code,
            code::QUERY_DATA_VERSION,
            "unchanged: no full body"
        );
    }
    rig.stop();
}

#[test]
fn order_topics_of_the_reply_set_the_flag() {
    let folder = tempfile::tempdir().unwrap();
    let server = name_server(|command| accept(command).with_body(r#"{"table":{"T":"b0:4;b1:4"}}"#));
    let mut rig = rig(folder.path(), &[server.addr]);
    assert_eq!(rig.ensure_topic("T", "TBW102", 4), 0);
    rig.control.as_ref().unwrap().register();
    rig.until(|m| {
        matches!(m, crate::seam::ToData::Catalog(crate::seam::CatalogChange::TopicPut(e))
            if e.config.name == "T" && e.config.order)
    });
    rig.stop();
}

/// A listener that can be taken away with all its connections, and put back.
#[test]
fn a_name_server_that_comes_back_is_told_everything_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (tell, heard) = channel();
    let once = std::thread::spawn(move || {
        // Serves one registration, then the connection is cut as by a restart.
        for n in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = BytesMut::new();
            let mut chunk = [0; 4096];
            let frame = loop {
                let bytes = stream.read(&mut chunk).unwrap();
                buffer.extend_from_slice(&chunk[..bytes]);
                if let Some(frame) = take_frame(&mut buffer).unwrap() {
                    break frame;
                }
            };
            let command = Command::from_frame(&frame).unwrap();
            stream
                .write_all(&encoded(&accept(&command)).unwrap())
                .unwrap();
            tell.send((n, command)).unwrap();
        }
    });
    let rig = rig(folder.path(), &[addr]);
    assert!(rig.control.as_ref().unwrap().register()[0].state.is_ok());
    let begun = Instant::now();
    for n in 0..2 {
        let (number, command) = heard.recv_timeout(WAIT).unwrap();
        assert_eq!(number, n);
        assert!(body_of(&command).topics.topics.len() > 10, "everything");
    }
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "not only after the period"
    );
    once.join().unwrap();
    rig.stop();
}

/// A topic by itself (217) is no sign of life: while topics are made all the time the server still
/// hears everything once a period.
#[test]
fn topics_made_all_the_time_do_not_keep_the_registration_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let server = name_server(accept);
    let mut settings = settings();
    settings.namesrv_addrs = vec![server.addr.to_string()];
    settings.registration.is_single_topic = true;
    settings.registration.period_ms = 300;
    let mut rig = Rig::start(folder.path(), settings);
    rig.control.as_ref().unwrap().register();
    body_of(&server.next());
    let begun = Instant::now();
    for n in 0.. {
        assert_eq!(rig.ensure_topic(&format!("T{n}"), "TBW102", 1), 0);
        let mut heard = server.heard.try_iter();
        if heard.any(|command| command.code == code::REGISTER_BROKER) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(3), "{n} topics");
        std::thread::sleep(Duration::from_millis(20));
    }
    rig.stop();
}

/// As text they would be some 27 MB, where a frame holds 16 MiB.
#[test]
fn all_topics_that_a_broker_may_have_are_registered_on_one_connection() {
    const PER_REQUEST: usize = 10_000;
    let folder = tempfile::tempdir().unwrap();
    let server = name_server(accept);
    let mut rig = rig(folder.path(), &[server.addr]);
    let report = rig.control.as_ref().unwrap().register();
    assert!(report.iter().all(|link| link.state.is_ok()), "{report:?}");
    let first = body_of(&server.next()).topics.topics.len();
    let wanted = (TOPICS_MAX - first) / PER_REQUEST * PER_REQUEST + first;
    for begin in (first..wanted).step_by(PER_REQUEST) {
        let names = (begin..begin + PER_REQUEST).map(|n| format!("{n:0>60}"));
        let topics = names.map(|name| TopicConfig::new(name, 8).to_value());
        let body = Value::object([("topicConfigList", Value::List(topics.collect()))]);
        let body = to_bytes(&body, IntegerKeys::Quoted);
        let made = rig.ask(
            peer(1),
            request(code::UPDATE_AND_CREATE_TOPIC_LIST, &[], body),
        );
        assert_eq!(made.code, 0, "{:?}", made.remark);
    }
    let told = server
        .heard
        .try_iter()
        .last()
        .expect("told before the answer");
    assert_eq!(body_of(&told).topics.topics.len(), wanted);
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
    rig.stop();
}

#[test]
fn a_message_sent_back_waits_for_no_name_server() {
    let folder = tempfile::tempdir().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    // It hangs once the broker is registered.
    let server = name_server(move |command| {
        if calls.fetch_add(1, Ordering::Relaxed) > 0 {
            std::thread::sleep(WAIT);
        }
        accept(command)
    });
    let mut rig = rig(folder.path(), &[server.addr]);
    rig.errand = Box::new(cores(HashMap::from([(77, parked(b"back"))])));
    rig.control.as_ref().unwrap().register();
    let ticket = Ticket(7);
    rig.tell(ToControl::EnsureTopic {
        core: 0,
        ticket,
        topic: "T".into(),
        default_topic: Some("TBW102".into()),
        default_topic_queue_nums: 4,
        unit_mode: false,
    });
    rig.until(|message| matches!(message, ToData::Catalog(CatalogChange::TopicPut(_))));
    let fields = [("group", "g"), ("offset", "77"), ("delayLevel", "0")];
    let back = request(code::CONSUMER_SEND_MSG_BACK, &fields, "");
    assert_eq!(rig.ask(peer(1), back).code, 0);
    let is_answer = |message: &ToData| matches!(message, ToData::Resolved { .. });
    assert!(
        !rig.seen.iter().any(is_answer),
        "the send for T waits still"
    );
    assert_eq!(rig.resolved(ticket), 0);
    rig.stop();
}
