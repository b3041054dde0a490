//! Peers that flood or come all at once.
use std::sync::atomic::AtomicBool;

use super::*;

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
