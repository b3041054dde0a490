//! Peers that flood, read slowly, or send on while the broker stops.
use std::net::Shutdown;
use std::sync::atomic::AtomicBool;

use socket2::{Domain, Socket, Type};

use super::*;

/// A client with a small buffer.
fn small(server: &Server, receive_bytes: usize) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(receive_bytes).unwrap();
    socket.connect(&server.addr.into()).unwrap();
    let stream = TcpStream::from(socket);
    let limit = Some(Duration::from_secs(10));
    stream.set_read_timeout(limit).unwrap();
    stream.set_write_timeout(limit).unwrap();
    stream
}

/// Sends one-way frames until told to stop or the connection ends.
fn keep_sending(
    mut stream: TcpStream,
    frames: Vec<u8>,
    pause: Duration,
    is_over: &Arc<AtomicBool>,
) -> std::thread::JoinHandle<()> {
    let is_over = Arc::clone(is_over);
    std::thread::spawn(move || {
        while !is_over.load(Ordering::Relaxed) && stream.write_all(&frames).is_ok() {
            std::thread::sleep(pause);
        }
    })
}

/// Sockets are read past the rings while requests gather: one that always has something more must
/// not be read for ever.
#[test]
fn a_flood_while_requests_gather_holds_up_nobody() {
    let server = Server::start(NetOptions {
        coalesce_max_us: 1_000,
        ..NetOptions::default()
    });
    let is_over = Arc::new(AtomicBool::new(false));
    // About one each 100 us, all of them answered.
    let steady: Vec<_> = (0..3)
        .map(|_| {
            let stream = server.client();
            let mut answers = stream.try_clone().unwrap();
            std::thread::spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
            let pause = Duration::from_micros(250);
            keep_sending(stream, frame(b"steady"), pause, &is_over)
        })
        .collect();
    let mut other = server.client();
    let begin = Instant::now();
    while server.gatherings.load(Ordering::Relaxed) < 100 {
        assert!(begin.elapsed() < Duration::from_secs(20), "nothing gathers");
        std::thread::sleep(Duration::from_millis(1));
    }
    // Several come while those before them are handled, never as many as fill a read.
    let pause = Duration::from_micros(50);
    let flood = keep_sending(server.client(), frame(QUIET), pause, &is_over);
    let ping = frame(b"who waits is heard");
    let mut worst = Duration::ZERO;
    for _ in 0..100 {
        let asked = Instant::now();
        other.write_all(&ping).unwrap();
        other.read_exact(&mut vec![0; ping.len()]).unwrap();
        worst = worst.max(asked.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
    is_over.store(true, Ordering::Relaxed);
    flood.join().unwrap();
    for one in steady {
        one.join().unwrap();
    }
    // Some ms on a machine of its own.
    assert!(worst < Duration::from_secs(1), "{worst:?}");
}

/// Who reads what it is owed isn't idle, although it says nothing and isn't read.
#[test]
fn a_slow_reader_is_not_idle() {
    let server = Server::start(NetOptions {
        idle_ms: 1_500,
        ..NetOptions::default()
    });
    let mut client = small(&server, 64 * 1024);
    client.write_all(&frame(FLOOD).repeat(2)).unwrap();
    let mut piece = vec![0; 64 * 1024];
    for n in 0..2 * 128 {
        client.read_exact(&mut piece).unwrap();
        // Longer than the idle limit and a sweep; the rest is read at once.
        if n < 100 {
            std::thread::sleep(Duration::from_millis(40));
        }
    }
}

/// While memory for replies is short, a little now and then keeps none of it: who takes a real
/// share of what it is owed gets all, who does not is closed.
#[test]
fn short_memory_for_replies_costs_those_who_read_next_to_nothing() {
    let replies = SharedBudget::new(80 * 1024 * 1024);
    let server = Server::start(NetOptions {
        replies: Arc::clone(&replies),
        ..NetOptions::default()
    });
    let mut trickler = small(&server, 64 * 1024);
    // 56 MiB, of which it reads 5 MiB a second: its socket takes something four times a second.
    trickler.write_all(&frame(FLOOD).repeat(7)).unwrap();
    let begin = Instant::now();
    let trickle = std::thread::spawn(move || {
        let mut piece = vec![0; 64 * 1024];
        while trickler.read_exact(&mut piece).is_ok() {
            std::thread::sleep(Duration::from_millis(12));
        }
    });
    while !replies.is_pressed() {
        let waited = begin.elapsed();
        assert!(waited < Duration::from_secs(5), "memory is not short");
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut reader = server.client();
    let mut owed = vec![0; 8 * 1024 * 1024];
    let pings = frame(&[3; 4096]).repeat(64);
    while server.closed.is_empty() {
        let waited = begin.elapsed();
        assert!(waited < Duration::from_secs(10), "nobody is closed");
        reader.write_all(&frame(FLOOD)).unwrap();
        reader.read_exact(&mut owed).unwrap();
        reader.write_all(&pings).unwrap();
        reader.read_exact(&mut vec![0; pings.len()]).unwrap();
    }
    assert_eq!(server.reason(), CloseReason::SlowReader);
    trickle.join().unwrap();
    reader.write_all(&pings).unwrap();
    reader.read_exact(&mut vec![0; pings.len()]).unwrap();
}

/// A stop while a client is owed a large reply, has sent `begun` and goes on with `pieces`: it
/// reads all it is owed, then the end.
fn check_last_answers(server: &Server, begun: &[u8], pieces: Vec<u8>) {
    let mut client = small(server, 16 * 1024);
    let large = frame(&vec![1; 256 * 1024]);
    client.write_all(&large).unwrap();
    client.write_all(begun).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let is_over = Arc::new(AtomicBool::new(false));
    let sending = client.try_clone().unwrap();
    let sender = keep_sending(sending, pieces, Duration::from_millis(1), &is_over);
    server.shutdown.ask("the broker stops");
    std::thread::sleep(Duration::from_millis(100));
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    assert!(got == large, "{} bytes of {}", got.len(), large.len());
    is_over.store(true, Ordering::Relaxed);
    sender.join().unwrap();
    drop(client);
    assert_eq!(server.reason(), CloseReason::Handler);
}

/// Whoever still sends while the broker stops.
#[test]
fn last_answers_survive_what_comes_after_them() {
    let mut server = Server::start(NetOptions::default());
    check_last_answers(&server, &[], frame(QUIET));
    assert!(server.cores.take().unwrap().join().is_empty());
}

/// Whoever is in the middle of a frame while the broker stops.
#[test]
fn last_answers_survive_half_a_frame() {
    let server = Server::start(NetOptions::default());
    let begun = frame(&vec![2; 8 * 1024 * 1024]);
    let (head, rest) = begun.split_at(1024);
    // Never its end: a stop does not take that long.
    check_last_answers(&server, head, rest.get(..1024).unwrap().to_vec());
}

/// Whoever never ends its side is given up after some time.
#[test]
fn a_stop_does_not_wait_for_ever_for_the_other_side() {
    let server = Server::start(NetOptions::default());
    let mut client = server.client();
    let ping = frame(b"x");
    client.write_all(&ping).unwrap();
    client.read_exact(&mut vec![0; ping.len()]).unwrap();
    let begin = Instant::now();
    drop(server);
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    drop(client.shutdown(Shutdown::Both));
}

/// However many connections wait to be accepted, the core's sessions have their turn in between.
#[test]
fn many_connects_hold_up_nobody() {
    const CONNECTS: usize = 600;
    let server = Server::start(NetOptions::default());
    let mut client = server.client();
    let count = frame(COUNT);
    let mut answer = frame(&[0; 8]);
    client.write_all(&count).unwrap();
    client.read_exact(&mut answer).unwrap();
    client.write_all(&frame(HOLD)).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let begin = Instant::now();
    let waiting: Vec<TcpStream> = (0..CONNECTS).map(|_| server.client()).collect();
    client.write_all(&count).unwrap();
    assert!(
        begin.elapsed() < Duration::from_millis(900),
        "not held long enough"
    );
    client.read_exact(&mut answer).unwrap();
    let accepted = usize::from_be_bytes(*answer.last_chunk().unwrap());
    assert!(accepted < CONNECTS / 2, "{accepted} were accepted first");
    drop(waiting);
}
