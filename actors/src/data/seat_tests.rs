//! Two unbound cores with real sockets, disk and mesh; the control plane is this thread.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::mpsc;

use gantry_protocol::command::Command;
use gantry_protocol::frame::take_frame;
use gantry_protocol::message_id::parse_offset_id;
use gantry_protocol::system_topic;
use gantry_runtime::mailbox::{MailSender, mailbox};
use gantry_runtime::mesh;
use gantry_runtime::shard::{CorePlan, DataCores};
use gantry_runtime::shutdown::Shutdown;
use gantry_runtime::topology::Placement;

use super::super::testing::{
    ext, group, pull_frame, pull_header, records, request_frame, send_frame, send_header, settings,
    topic,
};
use super::*;
use crate::data::transactions::ends_tests::{end_header, half_header, half_properties};
use crate::seam::{CatalogChange, OffsetRow};
use gantry_protocol::command::ExtValue;
use gantry_protocol::request::send::SendHeader;
use gantry_storage::units::{QueueKey, QueueOffset};

fn bytes_of(frame: &Frame) -> Vec<u8> {
    let header = u32::try_from(frame.header.len()).unwrap();
    let mut out = u32::try_from(frame.wire_bytes() - 4)
        .unwrap()
        .to_be_bytes()
        .to_vec();
    out.extend((header | u32::from(frame.encoding.type_byte()) << 24).to_be_bytes());
    out.extend_from_slice(&frame.header);
    out.extend_from_slice(&frame.body);
    out
}

fn replies(stream: &mut TcpStream, count: usize) -> Vec<Command> {
    let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
    let mut block = vec![0; 65_536];
    while found.len() < count {
        let n = stream.read(&mut block).unwrap();
        assert!(n > 0, "closed after {} replies", found.len());
        buffer.extend_from_slice(&block[..n]);
        while let Some(frame) = take_frame(&mut buffer).unwrap() {
            found.push(Command::from_frame(&frame).unwrap());
        }
    }
    found
}

type TestSeat = (
    CoreSeat,
    mpsc::Sender<SocketAddr>,
    MailReceiver<(SocketAddr, Claim)>,
);

async fn serve(
    context: CoreContext,
    (seat, news, go): TestSeat,
    settings: Arc<BrokerSettings>,
    identity: StoreIdentity,
) {
    let shutdown = context.shutdown.clone();
    let started = RunningCore::start(context, seat, settings, identity).await;
    let (core, _) = started.unwrap_or_else(|error| panic!("{error}"));
    let mut orders = Vec::new();
    go.recv_batch(&mut orders).await;
    let (addr, claim) = orders.remove(0);
    let any = "127.0.0.1:0".parse().unwrap();
    let (main, _) = core.listen(addr, any, claim).unwrap();
    news.send(main).unwrap();
    shutdown.wait().await;
    core.stop().await;
}

/// What the control plane says at start, the end of it late: a core waits for all of it.
fn tell(to_data: &MailSender<ToData>) {
    let put = |name, id, queues| {
        let put = CatalogChange::TopicPut(topic(name, id, queues));
        to_data.try_send(ToData::Catalog(put)).unwrap();
    };
    put("T", 1, 4);
    put(system_topic::TRANS_HALF_TOPIC, 10, 2);
    put(system_topic::TRANS_OP_HALF_TOPIC, 11, 2);
    put(system_topic::TRANS_CHECK_MAX_TIME_TOPIC, 12, 2);
    let late = to_data.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        let position = OffsetRow {
            group: "g".into(),
            queue: QueueKey::new(1, 0),
            offset: QueueOffset(7),
        };
        for word in [
            ToData::Catalog(CatalogChange::GroupPut(group("g"))),
            ToData::OffsetsLoaded(vec![position]),
            ToData::Loaded,
        ] {
            late.try_send(word).unwrap();
        }
    });
}

/// Runs `client` against a broker of two cores and two shards in `dir`.
fn with_broker(dir: &Path, client: impl FnOnce(SocketAddr)) {
    with_broker_of(settings(), dir, client);
}

fn with_broker_of(mut settings: BrokerSettings, dir: &Path, client: impl FnOnce(SocketAddr)) {
    settings.data_dir = dir.join("data");
    settings.tail_dir = Some(dir.join("tail"));
    settings.segment_bytes = 8 << 20;
    settings.tail_bytes = 4 << 20;
    settings.index.sleep_ms = 100;
    let settings = Arc::new(settings);
    let identity = read_identity(&settings.data_dir, 2).unwrap();
    assert_eq!(identity.shards_count, 2);
    let shutdown = Shutdown::new();
    let (news, started) = mpsc::channel();
    let mut seats = Vec::new();
    let mut mails = Vec::new();
    let mut gos = Vec::new();
    for seat in mesh::seats(2, 1 << 20) {
        let (to_control, mail) = mailbox(1024);
        let (to_data, from_control) = mailbox(1024);
        tell(&to_data);
        let (go, gone) = mailbox::<(SocketAddr, Claim)>(1);
        seats.push((
            CoreSeat {
                mesh: seat,
                to_control,
                from_control,
                replies: SharedBudget::new(usize::MAX),
            },
            news.clone(),
            gone,
        ));
        mails.push((mail, to_data));
        gos.push(go);
    }
    let plan = CorePlan::new(vec![Placement::Unbound, Placement::Unbound]);
    let main = move |context: CoreContext, seat: TestSeat| {
        serve(context, seat, Arc::clone(&settings), identity)
    };
    let cores = DataCores::start(&plan, &shutdown, seats, main).unwrap();
    gos[0]
        .try_send(("127.0.0.1:0".parse().unwrap(), Claim::First))
        .unwrap();
    let addr = started.recv().unwrap();
    gos[1].try_send((addr, Claim::Joined)).unwrap();
    started.recv().unwrap();
    client(addr);
    shutdown.ask("the test is over");
    assert_eq!(cores.join(), []);
    for (mail, _) in mails {
        let mut batch = Vec::new();
        while mail.try_batch(&mut batch) > 0 {}
        assert!(
            batch
                .iter()
                .any(|message| matches!(message, ToControl::CoreStopped { is_clean: true, .. }))
        );
    }
}

/// Messages of all queues of `T`.
fn count(stream: &mut TcpStream) -> usize {
    let mut count = 0;
    for queue in 0..4 {
        let mut next = 0;
        loop {
            stream
                .write_all(&bytes_of(&pull_frame(1, &pull_header("T", queue, next))))
                .unwrap();
            let reply = replies(stream, 1).remove(0);
            if reply.code != 0 {
                break;
            }
            let found = records(&reply.body);
            count += found.len();
            next = found.last().unwrap().0 + 1;
        }
    }
    count
}

#[test]
fn messages_cross_cores_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let send = |stream: &mut TcpStream, client: usize| {
        let mut wire = Vec::new();
        for n in 0..64 {
            let header = SendHeader {
                queue_id: n % 4,
                ..send_header("T")
            };
            wire.extend(bytes_of(&send_frame(
                n,
                &header,
                format!("{client}-{n}").as_bytes(),
            )));
        }
        stream.write_all(&wire).unwrap();
        let replies = replies(stream, 64);
        assert!(
            replies.iter().all(|reply| reply.code == 0),
            "{:?}",
            replies[0]
        );
        assert_eq!(ext(&replies[0], "TRACE_ON"), "true");
    };
    with_broker(dir.path(), |addr| {
        let mut clients: Vec<TcpStream> =
            (0..4).map(|_| TcpStream::connect(addr).unwrap()).collect();
        for (number, stream) in clients.iter_mut().enumerate() {
            send(stream, number);
        }
        assert_eq!(count(&mut clients[0]), 256);
    });
    with_broker(dir.path(), |addr| {
        let mut stream = TcpStream::connect(addr).unwrap();
        assert_eq!(count(&mut stream), 256);
        send(&mut stream, 9);
        assert_eq!(count(&mut stream), 320);
    });
}

/// Sends a half to each of two queues, which lie on two shards; how their ends name them.
fn send_halves(stream: &mut TcpStream) -> Vec<(i64, i64)> {
    let send = |queue| {
        let properties = half_properties("pg", "");
        let header = SendHeader {
            // An old one would not be waited for.
            born_timestamp: wall_now_ms().cast_signed(),
            ..half_header("T", queue, &properties)
        };
        let frame = send_frame(1, &header, b"half");
        stream.write_all(&bytes_of(&frame)).unwrap();
        let reply = replies(stream, 1).remove(0);
        assert_eq!(reply.code, 0, "{reply:?}");
        let (_, physical) = parse_offset_id(ext(&reply, "msgId")).unwrap();
        (ext(&reply, "queueOffset").parse().unwrap(), physical)
    };
    [0, 1].map(send).to_vec()
}

/// Fills the files of index pages with zeros; how many there are.
fn wipe_pages(dir: &Path) -> usize {
    let mut wiped = 0;
    for shard in ["shard-0", "shard-1"] {
        for page_file in std::fs::read_dir(dir.join("data").join(shard).join("index")).unwrap() {
            let path = page_file.unwrap().path();
            let len = usize::try_from(path.metadata().unwrap().len()).unwrap();
            std::fs::write(path, vec![0; len]).unwrap();
            wiped += 1;
        }
    }
    wiped
}

#[test]
fn halves_whose_index_is_damaged_are_open_after_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut told = Vec::new();
    with_broker(dir.path(), |addr| {
        let mut stream = TcpStream::connect(addr).unwrap();
        // What the group has consumed.
        for opaque in 0..7 {
            let frame = send_frame(opaque, &send_header("T"), b"consumed");
            stream.write_all(&bytes_of(&frame)).unwrap();
            assert_eq!(replies(&mut stream, 1)[0].code, 0);
        }
        told = send_halves(&mut stream);
        // Their queues go to sleep, and their pages to the device.
        std::thread::sleep(Duration::from_secs(1));
    });
    assert_eq!(wipe_pages(dir.path()), 2);
    with_broker(dir.path(), |addr| {
        let mut stream = TcpStream::connect(addr).unwrap();
        assert_eq!(count(&mut stream), 7);
        // What groups had consumed is still known, although the shards were opened twice.
        let asked = [("consumerGroup", "g"), ("topic", "T"), ("queueId", "0")];
        let asked = asked.map(|(name, value)| (name, ExtValue::Str(value)));
        stream
            .write_all(&bytes_of(&request_frame(14, 3, &asked, b"")))
            .unwrap();
        assert_eq!(ext(&replies(&mut stream, 1)[0], "offset"), "7");
        for half in told {
            let end = request_frame(37, 2, &end_header(half, 8).to_ext(), b"");
            stream.write_all(&bytes_of(&end)).unwrap();
            let reply = replies(&mut stream, 1).remove(0);
            assert_eq!(reply.code, 0, "{reply:?}");
        }
        assert_eq!(count(&mut stream), 9);
    });
}

/// Keeps some sends to every queue under way until the broker goes; how many it said it stored.
fn send_until_it_stops(addr: SocketAddr) -> usize {
    let mut stream = TcpStream::connect(addr).unwrap();
    let limit = Some(Duration::from_secs(20));
    stream.set_read_timeout(limit).unwrap();
    let send = |stream: &mut TcpStream, count: i32| {
        let mut wire = Vec::new();
        for n in 0..count {
            let header = SendHeader {
                queue_id: n % 4,
                ..send_header("T")
            };
            wire.extend(bytes_of(&send_frame(n, &header, &[7; 256])));
        }
        // It may be gone.
        let _ = stream.write_all(&wire);
    };
    send(&mut stream, 64);
    let (mut buffer, mut stored, mut is_refused) = (BytesMut::new(), 0, false);
    let mut block = vec![0; 65_536];
    loop {
        let n = match stream.read(&mut block) {
            Ok(0) | Err(_) => return stored,
            Ok(n) => n,
        };
        buffer.extend_from_slice(&block[..n]);
        let mut heard = 0;
        while let Some(frame) = take_frame(&mut buffer).unwrap() {
            let reply = Command::from_frame(&frame).unwrap();
            // SEND_OK, or stored and not synced in time.
            let is_stored = reply.code == 0 || reply.code == 10;
            assert!(is_stored || reply.code == 14, "{reply:?}");
            stored += usize::from(is_stored);
            is_refused |= !is_stored;
            heard += 1;
        }
        if !is_refused {
            send(&mut stream, heard);
        }
    }
}

#[test]
fn every_message_that_an_orderly_stop_leaves_stored_was_answered() {
    let sync = || BrokerSettings {
        flush_disk_type: FlushDiskType::Sync,
        ..settings()
    };
    let dir = tempfile::tempdir().unwrap();
    let mut answered = 0;
    for _ in 0..3 {
        let mut clients = Vec::new();
        with_broker_of(sync(), dir.path(), |addr| {
            clients = (0..8)
                .map(|_| std::thread::spawn(move || send_until_it_stops(addr)))
                .collect();
            std::thread::sleep(Duration::from_millis(300));
        });
        answered += clients
            .into_iter()
            .map(|one| one.join().unwrap())
            .sum::<usize>();
    }
    with_broker_of(sync(), dir.path(), |addr| {
        let mut stream = TcpStream::connect(addr).unwrap();
        assert_eq!(count(&mut stream), answered);
    });
}
