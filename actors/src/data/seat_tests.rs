//! Two unbound cores with real sockets, disk and mesh; the control plane is this thread.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;

use gantry_protocol::command::Command;
use gantry_protocol::frame::take_frame;
use gantry_runtime::mailbox::mailbox;
use gantry_runtime::mesh;

use super::super::testing::{
    ext, group, pull_frame, pull_header, records, send_frame, send_header, settings, topic,
};
use super::*;
use crate::seam::CatalogChange;
use gantry_protocol::request::send::SendHeader;

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

/// Runs `client` against a broker of two cores and two shards in `dir`.
fn with_broker(dir: &Path, client: impl FnOnce(SocketAddr)) {
    let mut settings = settings();
    settings.data_dir = dir.join("data");
    settings.tail_dir = Some(dir.join("tail"));
    settings.segment_bytes = 8 << 20;
    settings.tail_bytes = 4 << 20;
    let settings = Arc::new(settings);
    let identity = read_identity(&settings.data_dir, 2).unwrap();
    assert_eq!(identity.shards_count, 2);
    let shutdown = Shutdown::new();
    let (news, started) = mpsc::channel();
    let mut seats = Vec::new();
    let mut mails = Vec::new();
    let mut gos = Vec::new();
    for seat in mesh::seats(2) {
        let (to_control, mail) = mailbox(1024);
        let (to_data, from_control) = mailbox(1024);
        to_data
            .try_send(ToData::Catalog(CatalogChange::TopicPut(topic("T", 1, 4))))
            .unwrap();
        // A core waits for the last of the catalog, however late that comes.
        let late = to_data.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            late.try_send(ToData::Catalog(CatalogChange::GroupPut(group("g"))))
                .unwrap();
            late.try_send(ToData::Loaded).unwrap();
        });
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
                .any(|message| matches!(message, ToControl::CoreStopped(_)))
        );
    }
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
    let count = |stream: &mut TcpStream| -> usize {
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
