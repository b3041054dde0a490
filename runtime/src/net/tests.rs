//! Real sockets on loopback.
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::*;
use crate::shard::{CorePlan, DataCores};
use crate::shutdown::Shutdown;
use crate::topology::unbound;

/// Answers each frame with its own bytes.
struct Echo {
    closed: flume::Sender<CloseReason>,
    peers: Rc<PeerTable>,
    last: Cell<Option<PeerRef>>,
    metrics: Rc<CoreMetrics>,
    gatherings: Arc<AtomicU64>,
}

/// A body that asks for 8 MiB of answers to one small frame.
const FLOOD: &[u8] = b"flood";
/// A body that isn't answered; a read with some of them is so much work.
const QUIET: &[u8] = b"quiet";
const QUIET_US: u128 = 2_000;
/// A body that holds up its core for a second.
const HOLD: &[u8] = b"hold";
/// A body that asks how many connections there are.
const COUNT: &[u8] = b"count";

impl FrameHandler for Echo {
    fn on_open(self: &Rc<Self>, session: &Rc<Session>) {
        let id = session.id();
        assert_eq!(self.peers.get(id).unwrap().peer_addr(), session.peer_addr());
        // The last tenant of the slot is gone; its name finds nobody.
        if let Some(last) = self.last.replace(Some(id)) {
            assert!(last.slot != id.slot || self.peers.get(last).is_none());
        }
    }

    fn on_frames(self: &Rc<Self>, session: &Rc<Session>, frames: &mut Vec<Frame>) {
        let (begin, mut quiet) = (Instant::now(), 0);
        for frame in frames.drain(..) {
            if frame.body.as_ref() == FLOOD {
                for _ in 0..128 {
                    session.send(&vec![0; 64 * 1024]);
                }
                continue;
            }
            if frame.body.as_ref() == QUIET {
                quiet += 1;
                continue;
            }
            if frame.body.as_ref() == HOLD {
                std::thread::sleep(Duration::from_secs(1));
                continue;
            }
            let count = self.peers.len().to_be_bytes();
            let body = if frame.body.as_ref() == COUNT {
                &count[..]
            } else {
                &frame.body
            };
            let bytes = super::tests::frame(body);
            session.out().extend_from_slice(&bytes);
        }
        while quiet > 0 && begin.elapsed().as_micros() < QUIET_US {}
        session.flush_soon();
        let gatherings = self.metrics.counts().gatherings;
        self.gatherings.store(gatherings, Ordering::Relaxed);
    }

    fn on_close(self: &Rc<Self>, session: &Rc<Session>) {
        assert!(!session.is_open() && self.peers.get(session.id()).is_none());
        let _ = self.closed.send(session.close_reason().unwrap());
    }
}

type Seat = (
    flume::Sender<SocketAddr>,
    flume::Sender<CloseReason>,
    NetOptions,
    Arc<AtomicU64>,
);

struct Server {
    addr: SocketAddr,
    closed: flume::Receiver<CloseReason>,
    gatherings: Arc<AtomicU64>,
    shutdown: Shutdown,
    cores: Option<DataCores>,
}

impl Server {
    fn start(options: NetOptions) -> Self {
        let shutdown = Shutdown::new();
        let (news, seen) = flume::bounded(1);
        let (closed, closed_seen) = flume::unbounded();
        let gatherings = Arc::default();
        let seat = (news, closed, options, Arc::clone(&gatherings));
        let plan = CorePlan::new(unbound(1));
        let cores = DataCores::start(
            &plan,
            &shutdown,
            vec![seat],
            |core, (news, closed, options, gatherings): Seat| async move {
                let peers = PeerTable::new(core.index);
                let echo = Echo {
                    closed,
                    peers: Rc::clone(&peers),
                    last: Cell::new(None),
                    metrics: Rc::clone(&core.metrics),
                    gatherings,
                };
                let net = Net::new(&core, options, Rc::new(echo), peers);
                let addr = net
                    .listen("127.0.0.1:0".parse().unwrap(), Claim::First)
                    .unwrap();
                news.send(addr).unwrap();
                core.shutdown.wait().await;
                net.close(Duration::from_millis(500)).await;
            },
        )
        .unwrap();
        Self {
            addr: seen.recv().unwrap(),
            closed: closed_seen,
            gatherings,
            shutdown,
            cores: Some(cores),
        }
    }

    fn client(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream
    }

    fn reason(&self) -> CloseReason {
        self.closed.recv_timeout(Duration::from_secs(10)).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.ask("test over");
        let ended = self.cores.take().map(DataCores::join);
        assert!(ended.is_none_or(|failed| failed.is_empty()));
    }
}

/// A frame with a 4-byte header word of zero header bytes and this body.
fn frame(body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len() + 4)
        .unwrap()
        .to_be_bytes()
        .to_vec();
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(body);
    bytes
}

#[test]
fn echoes_pipelined_and_torn_frames_in_order() {
    let server = Server::start(NetOptions::default());
    let mut client = server.client();
    let mut sent = Vec::new();
    for n in 0..300_usize {
        sent.extend_from_slice(&frame(&vec![u8::try_from(n % 251).unwrap(); n * 7 % 3000]));
    }
    sent.extend_from_slice(&frame(&vec![7; 3 * 1024 * 1024]));
    sent.extend_from_slice(&frame(b"last"));
    let mut reader = client.try_clone().unwrap();
    let writer = {
        let sent = sent.clone();
        std::thread::spawn(move || {
            for (index, piece) in sent.chunks(997).enumerate() {
                client.write_all(piece).unwrap();
                if index % 50 == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            client
        })
    };
    let mut got = vec![0; sent.len()];
    reader.read_exact(&mut got).unwrap();
    assert!(got == sent);
    drop((writer.join().unwrap(), reader));
    assert_eq!(server.reason(), CloseReason::Peer);
}

#[test]
fn a_bad_frame_costs_its_own_connection_only() {
    let server = Server::start(NetOptions::default());
    let mut good = server.client();
    for bad in [[0x80, 0, 0, 0], [0x7f, 0xff, 0xff, 0xff], [0, 0, 0, 0]] {
        let mut client = server.client();
        client.write_all(&bad).unwrap();
        assert_eq!(server.reason(), CloseReason::BadFrame);
        assert_eq!(client.read(&mut [0; 8]).unwrap_or(0), 0);
    }
    let ping = frame(b"still here");
    good.write_all(&ping).unwrap();
    let mut got = vec![0; ping.len()];
    good.read_exact(&mut got).unwrap();
    assert_eq!(got, ping);
}

#[test]
fn half_a_frame_then_silence_ends_by_the_idle_limit() {
    let server = Server::start(NetOptions {
        idle_ms: 1_000,
        ..NetOptions::default()
    });
    let mut client = server.client();
    let begin = Instant::now();
    client.write_all(&frame(&[1; 100])[..40]).unwrap();
    assert_eq!(client.read(&mut [0; 8]).unwrap_or(0), 0);
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(server.reason(), CloseReason::Idle);
}

/// Sockets that are read without the rings being asked go back to them when nothing comes; one that
/// has been silent is heard all the same, and so is an end.
#[test]
fn sockets_are_heard_while_requests_gather_and_afterwards() {
    let server = Server::start(NetOptions {
        coalesce_max_us: 1_000,
        ..NetOptions::default()
    });
    let mut clients: Vec<TcpStream> = (0..4).map(|_| server.client()).collect();
    let (ping, mut sent) = (frame(b"steady"), 0);
    let begin = Instant::now();
    // About one each 100 us to three of them, whatever is answered.
    while server.gatherings.load(Ordering::Relaxed) < 100 {
        assert!(begin.elapsed() < Duration::from_secs(20), "nothing gathers");
        for client in clients.iter_mut().take(3) {
            client.write_all(&ping).unwrap();
        }
        sent += 1;
        std::thread::sleep(Duration::from_micros(250));
    }
    let mut got = vec![0; ping.len()];
    let silent = clients.last_mut().unwrap();
    silent.write_all(&ping).unwrap();
    silent.read_exact(&mut got).unwrap();
    for client in clients.iter_mut().take(3) {
        client.read_exact(&mut vec![0; ping.len() * sent]).unwrap();
    }
    std::thread::sleep(Duration::from_millis(50));
    for client in &mut clients {
        client.write_all(&ping).unwrap();
        client.read_exact(&mut got).unwrap();
    }
    drop(clients.pop());
    assert_eq!(server.reason(), CloseReason::Peer);
}

#[test]
fn a_slow_reader_stops_being_read() {
    let server = Server::start(NetOptions::default());
    let mut client = server.client();
    client
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let piece = frame(&vec![9; 60_000]);
    let mut written = 0;
    // The broker's soft bound plus both socket buffers; far below what a deaf peer could send
    // otherwise.
    while client.write_all(&piece).is_ok() {
        written += piece.len();
        assert!(
            written < 64 * 1024 * 1024,
            "the broker reads for a peer that does not read"
        );
    }
    let mut other = server.client();
    let ping = frame(b"x");
    other.write_all(&ping).unwrap();
    let mut got = vec![0; ping.len()];
    other.read_exact(&mut got).unwrap();
    assert_eq!(got, ping);
}

#[test]
fn the_connection_limit_and_a_shared_port_are_refused() {
    let server = Server::start(NetOptions {
        connections_max: 1,
        ..NetOptions::default()
    });
    let mut first = server.client();
    let ping = frame(b"x");
    first.write_all(&ping).unwrap();
    first.read_exact(&mut vec![0; ping.len()]).unwrap();
    let mut second = server.client();
    assert_eq!(second.read(&mut [0; 8]).unwrap_or(0), 0);
}

#[test]
fn a_deaf_peer_that_is_owed_too_much_is_closed() {
    let options = NetOptions {
        out_bytes_max: 4 * 1024 * 1024,
        ..NetOptions::default()
    };
    let server = Server::start(options);
    let mut client = server.client();
    client.write_all(&frame(FLOOD)).unwrap();
    assert_eq!(server.reason(), CloseReason::SlowReader);
    drop(client);
    let mut next = server.client();
    let ping = frame(b"next tenant of the slot");
    next.write_all(&ping).unwrap();
    next.read_exact(&mut vec![0; ping.len()]).unwrap();
}

#[test]
fn what_is_owed_to_a_slow_reader_arrives_whole() {
    let server = Server::start(NetOptions::default());
    let mut client = server.client();
    client.write_all(&frame(FLOOD)).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    client.read_exact(&mut vec![0; 128 * 64 * 1024]).unwrap();
    let ping = frame(b"and on it goes");
    client.write_all(&ping).unwrap();
    let mut got = vec![0; ping.len()];
    client.read_exact(&mut got).unwrap();
    assert_eq!(got, ping);
}

#[test]
fn short_memory_for_replies_costs_those_who_do_not_read() {
    let replies = SharedBudget::new(8 * 1024 * 1024);
    let options = NetOptions {
        replies: Arc::clone(&replies),
        ..NetOptions::default()
    };
    let server = Server::start(options);
    // Each is owed 8 MiB, of which the sockets take a part.
    let mut slow: Vec<TcpStream> = (0..3).map(|_| server.client()).collect();
    for client in &mut slow {
        client.write_all(&frame(FLOOD)).unwrap();
    }
    let mut reader = server.client();
    let ping = frame(b"who reads is served");
    let end = Instant::now() + Duration::from_secs(10);
    while replies.is_pressed() {
        assert!(Instant::now() < end, "{} bytes are held", replies.used());
        reader.write_all(&ping).unwrap();
        reader.read_exact(&mut vec![0; ping.len()]).unwrap();
    }
    assert_eq!(server.reason(), CloseReason::SlowReader);
    drop(slow);
    reader.write_all(&ping).unwrap();
    reader.read_exact(&mut vec![0; ping.len()]).unwrap();
}

#[test]
fn incomplete_frames_draw_from_one_budget() {
    let options = NetOptions {
        assembly_bytes_max: 1024 * 1024,
        ..NetOptions::default()
    };
    let server = Server::start(options);
    let mut first = server.client();
    let large = frame(&vec![1; 900_000]);
    first.write_all(&large[..600_000]).unwrap();
    std::thread::sleep(Duration::from_millis(800));
    // The one that has not got on for longer goes, not the one that asks.
    let mut second = server.client();
    second.write_all(&large[..600_000]).unwrap();
    assert_eq!(server.reason(), CloseReason::NoMemory);
    assert_eq!(first.read(&mut [0; 8]).unwrap_or(0), 0);
    second.write_all(&large[600_000..]).unwrap();
    second.read_exact(&mut vec![0; large.len()]).unwrap();
}

#[test]
fn a_length_word_alone_costs_nobody_anything() {
    let options = NetOptions {
        assembly_bytes_max: 16 * 1024 * 1024,
        ..NetOptions::default()
    };
    let server = Server::start(options);
    let claims: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut client = server.client();
            let word = gantry_protocol::frame::FRAME_BYTES_MAX.to_be_bytes();
            client.write_all(&word).unwrap();
            client
        })
        .collect();
    std::thread::sleep(Duration::from_millis(100));
    let mut client = server.client();
    let large = frame(&vec![1; 300_000]);
    let (start, end) = large.split_at(100_000);
    client.write_all(start).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    client.write_all(end).unwrap();
    client.read_exact(&mut vec![0; large.len()]).unwrap();
    assert!(server.closed.is_empty());
    drop(claims);
}

/// One byte now and then keeps an incomplete frame open for its time only; whoever gets on goes on,
/// and so does who has sent whole frames.
#[test]
fn a_frame_that_does_not_get_on_is_given_up() {
    let server = Server::start(NetOptions {
        partial_ms: 2_000,
        ..NetOptions::default()
    });
    let (mut slow, mut steady, mut quiet) = (server.client(), server.client(), server.client());
    let large = frame(&vec![1; 600_000]);
    let ping = frame(b"x");
    quiet.write_all(&ping).unwrap();
    slow.write_all(&large[..20]).unwrap();
    let begin = Instant::now();
    for (nth, piece) in large.chunks(20_000).enumerate() {
        steady.write_all(piece).unwrap();
        // It fails once the connection is closed.
        let _ = slow.write_all(&large[20 + nth..21 + nth]);
        std::thread::sleep(Duration::from_millis(150));
    }
    assert!(begin.elapsed() > Duration::from_secs(4));
    assert_eq!(server.reason(), CloseReason::SlowSender);
    steady.read_exact(&mut vec![0; large.len()]).unwrap();
    quiet.write_all(&ping).unwrap();
    quiet.read_exact(&mut vec![0; 2 * ping.len()]).unwrap();
    assert!(server.closed.is_empty());
}

/// A kill leaves connections behind; the next process must be able to bind exclusively at once.
#[test]
fn lingering_connections_do_not_hold_the_port() {
    let server = Server::start(NetOptions::default());
    let addr = server.addr;
    let mut client = server.client();
    let ping = frame(b"x");
    client.write_all(&ping).unwrap();
    client.read_exact(&mut vec![0; ping.len()]).unwrap();
    drop(server);
    // std sets SO_REUSEADDR and not SO_REUSEPORT. The client's end is still open: FIN_WAIT2.
    bind_soon(addr);
    drop(client);
    bind_soon(addr);
}

/// The kernel takes a ring apart in the background: its pending accept holds the listening socket
/// for some milliseconds after the executor, or the process, has ended.
fn bind_soon(addr: SocketAddr) {
    let begin = Instant::now();
    while let Err(error) = std::net::TcpListener::bind(addr) {
        assert!(begin.elapsed() < Duration::from_secs(2), "{error}");
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("bound after {} us", begin.elapsed().as_micros());
}

#[test]
fn stale_peer_refs_miss() {
    let table = PeerTable::new(3);
    assert!(
        table
            .get(PeerRef {
                core: 3,
                slot: 0,
                generation: 1
            })
            .is_none()
    );
    assert!(table.is_empty());
}

#[path = "hard_peers_tests.rs"]
mod hard_peers;
