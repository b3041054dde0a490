//! `memoryLimit` holds: many connections, consumers that ask for much and read
//! nothing, a producer flat out; and who reads is served all the while. What is measured is
//! anonymous and shared memory, from `/proc`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::client::{Pull, encode, send_ext};
use common::process::binary;
use common::{Client, Gantry, code, fresh, reply};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

/// Connections of the test.
const CONNECTIONS: usize = 10_000;
/// Of them, consumers that don't read.
const SLOW_PART: usize = 10;
/// Descriptors that the test and the server need for other things.
const OTHER_FILES: usize = 500;
/// Pulls that such a consumer asks for at a time; each is answered with about 256 KiB.
const PULLS: i32 = 40;
/// What it lets the kernel keep for it.
const RECEIVE_BYTES: usize = 16 << 10;
/// What a consumer that reads may have to wait for a send and a pull, refusals included.
const SERVED_WITHIN: Duration = Duration::from_secs(3);
/// So often it is served at least, by the optimised build: 90 to 200 times on two virtual CPUs that
/// it shares with the slow consumers and the producer.
const SERVED_MIN: u32 = 20;
/// The same of a build for debugging.
const SERVED_MIN_DEBUG: u32 = 3;
/// Messages of the producer that are acknowledged at least, else there was no flood.
const PRODUCED_MIN: u64 = 2_000;
/// What the flood takes at least, above what the idle connections have; else nobody was slow.
const FLOOD_BYTES_MIN: u64 = 32 << 20;
const QUEUES: i32 = 8;

/// How hard a run is.
struct Load {
    limit_mib: u64,
    lasts: Duration,
    /// Of the messages that the slow consumers ask for.
    body_bytes: usize,
    connections: usize,
}

/// What a run saw.
#[derive(Debug)]
struct Seen {
    /// With all connections, before anybody asks for anything.
    bytes_before: u64,
    bytes_max: u64,
    /// Messages of the producer that were acknowledged.
    produced: u64,
    /// Slow consumers whose connection was closed.
    closed: usize,
    served: u32,
    slowest: Duration,
}

fn open_files_max() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|l| l.starts_with("Max open files"));
    let soft = line.unwrap().split_whitespace().nth(3).unwrap();
    soft.parse().unwrap_or(1 << 20)
}

/// Runs this test again with as many open files as the hard limit allows, if that is more than now.
/// True in the process that runs it; the limit itself can't be raised without unsafe code.
fn with_files(test: &str) -> bool {
    if open_files_max() >= CONNECTIONS + OTHER_FILES || std::env::var_os("GANTRY_FILES").is_some() {
        return true;
    }
    let again = "ulimit -Sn $(ulimit -Hn) && exec \"$0\" \"$@\"";
    let me = std::env::current_exe().unwrap();
    let status = Command::new("sh")
        .args(["-c", again])
        .arg(me)
        .args([test, "--exact", "--include-ignored", "--nocapture"])
        .env("GANTRY_FILES", "raised")
        .status();
    assert!(status.unwrap().success(), "see the output above");
    false
}

/// A consumer that asks and doesn't read.
struct Slow {
    addr: SocketAddr,
    asks: Arc<Vec<u8>>,
    stream: TcpStream,
    /// Bytes of `asks` that have been written.
    written: usize,
}

impl Slow {
    fn connect(addr: SocketAddr, asks: &Arc<Vec<u8>>) -> Self {
        Self {
            addr,
            asks: Arc::clone(asks),
            stream: Self::socket(addr),
            written: 0,
        }
    }

    fn socket(addr: SocketAddr) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(RECEIVE_BYTES).unwrap();
        socket.connect(&addr.into()).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.into()
    }

    /// Asks, once a connection; comes back when the server has closed it. True if it had.
    fn ask(&mut self) -> bool {
        let is_asked = self.written == self.asks.len();
        let outcome = if is_asked {
            // Looks at what came without taking it.
            self.stream.peek(&mut [0])
        } else {
            self.stream.write(&self.asks[self.written..])
        };
        match outcome {
            Ok(count) if count > 0 && is_asked => false,
            Ok(count) if count > 0 => {
                self.written += count;
                false
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            _ => {
                self.stream = Self::socket(self.addr);
                self.written = 0;
                true
            }
        }
    }
}

/// The bytes of pulls of every queue's beginning.
fn asks(topic: &str) -> Arc<Vec<u8>> {
    let mut bytes = Vec::new();
    for n in 0..PULLS {
        let pull = Pull::new(topic, n % QUEUES, 0);
        bytes.extend(encode(code::PULL, n, 0, &pull.ext(), b""));
    }
    Arc::new(bytes)
}

/// Sends and pulls beside the flood until told to stop: how often, and what the slowest took.
fn be_served(addr: SocketAddr, stop: &AtomicBool) -> (u32, Duration) {
    let mut client = Client::connect(addr);
    let topic = fresh("served");
    client.create_topic(&topic, 1);
    let (mut served, mut slowest) = (0_u32, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let from = Instant::now();
        let offset = i64::from(served);
        patiently(&mut client, code::SEND_V2, &send_ext(&topic, 0, &[], false));
        let pull = Pull::new(&topic, 0, offset).at_most(1);
        patiently(&mut client, code::PULL, &pull.ext());
        slowest = slowest.max(from.elapsed());
        served += 1;
        thread::sleep(Duration::from_millis(20));
    }
    (served, slowest)
}

/// A request until it is not refused as too much.
fn patiently(client: &mut Client, code: i32, ext: &[(String, String)]) {
    let end = Instant::now() + SERVED_WITHIN;
    loop {
        let answer = client.call(code, ext, b"who reads is served");
        if answer.code != reply::SYSTEM_BUSY {
            answer.expect(reply::SUCCESS);
            return;
        }
        assert!(Instant::now() < end, "refused for long: {}", answer.remark);
        thread::sleep(Duration::from_millis(20));
    }
}

/// A producer flat out, whose report goes to `out`.
fn produce(addr: SocketAddr, topic: &str, lasts: Duration, out: &Path) -> Child {
    let seconds = lasts.as_secs().to_string();
    let addr = addr.to_string();
    Command::new(binary())
        .args(["bench", "produce", "--broker", &addr, "--topic", topic])
        .args(["--warm-up", "0", "--seconds", &seconds, "--out"])
        .arg(out)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Messages that the producer's report calls acknowledged; it may have been refused others.
fn produced(report: &Path) -> u64 {
    let text = fs::read_to_string(report).expect("the producer left no report");
    let report: Value = serde_json::from_str(&text).unwrap();
    report["acknowledged"].as_u64().unwrap()
}

fn fill(client: &mut Client, topic: &str, body_bytes: usize) {
    client.create_topic(topic, QUEUES);
    let body = vec![b'm'; body_bytes];
    for queue in 0..QUEUES {
        for _ in 0..=(256 << 10) / body_bytes {
            loop {
                let sent = client.send(topic, queue, &body, &[]);
                if sent.code != reply::SYSTEM_BUSY {
                    sent.expect(reply::SUCCESS);
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn connections(wanted: usize) -> usize {
    let fit = wanted.min(open_files_max().saturating_sub(OTHER_FILES));
    if fit < wanted {
        println!("open files are limited: {fit} connections instead of {wanted}");
    }
    assert!(fit >= 200, "too few open files for this test");
    fit
}

fn run(load: &Load) -> Seen {
    let limit = format!("memoryLimit={}M", load.limit_mib);
    // On a machine with many cores, the smallest of these limits would be refused.
    let mut gantry = Gantry::up(&[&limit, "mappedFileSizeCommitLog=64M", "cores=1"]);
    let addr = gantry.broker();
    let topic = fresh("flood");
    fill(&mut gantry.client(), &topic, load.body_bytes);
    let count = connections(load.connections);
    let asks = asks(&topic);
    let slow_count = count / SLOW_PART;
    let mut idle: Vec<TcpStream> = (slow_count..count)
        .map(|_| TcpStream::connect(addr).unwrap())
        .collect();
    let mut slow: Vec<Slow> = (0..slow_count)
        .map(|_| Slow::connect(addr, &asks))
        .collect();
    let bytes_before = gantry.memory_bytes();
    let stop = Arc::new(AtomicBool::new(false));
    let watched = Arc::clone(&stop);
    let served = thread::spawn(move || be_served(addr, &watched));
    let report = gantry.dir().join("produced.json");
    let mut producer = produce(addr, &topic, load.lasts, &report);
    let end = Instant::now() + load.lasts;
    let (mut bytes_max, mut closed) = (0, 0);
    while Instant::now() < end {
        for one in &mut slow {
            closed += usize::from(one.ask());
        }
        bytes_max = bytes_max.max(gantry.memory_bytes());
        assert!(gantry.is_alive());
        thread::sleep(Duration::from_millis(20));
    }
    stop.store(true, Ordering::Relaxed);
    let (served, slowest) = served.join().unwrap();
    producer.wait().unwrap();
    // Who did nothing wrong still has its connection.
    for at in [0, idle.len() / 2, idle.len() - 1] {
        let one = &mut idle[at];
        one.write_all(&encode(31_337, 1, 0, &[], b"")).unwrap();
        one.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert!(one.read(&mut [0; 64]).unwrap() > 0, "connection {at}");
    }
    Seen {
        bytes_before,
        bytes_max,
        produced: produced(&report),
        closed,
        served,
        slowest,
    }
}

fn judge(load: &Load, seen: &Seen) {
    let limit = load.limit_mib << 20;
    println!(
        "limit {} MiB: {} MiB at most, {seen:?}",
        load.limit_mib,
        seen.bytes_max >> 20
    );
    assert!(
        seen.bytes_max < limit,
        "{} of {limit} bytes",
        seen.bytes_max
    );
    let flood = seen.bytes_max.saturating_sub(seen.bytes_before);
    let closed = seen.closed;
    assert!(flood >= FLOOD_BYTES_MIN, "{flood} bytes, {closed} closed");
    assert!(seen.produced >= PRODUCED_MIN, "{} sent only", seen.produced);
    let is_debug = cfg!(debug_assertions) && std::env::var_os("GANTRY_BIN").is_none();
    let wanted = if is_debug {
        SERVED_MIN_DEBUG
    } else {
        SERVED_MIN
    };
    assert!(seen.served >= wanted, "served {} times only", seen.served);
    assert!(seen.slowest < SERVED_WITHIN, "{:?} for one", seen.slowest);
}

#[test]
fn memory_stays_below_its_limit() {
    if !with_files("memory_stays_below_its_limit") {
        return;
    }
    let load = Load {
        limit_mib: 256,
        lasts: Duration::from_secs(5),
        body_bytes: 32 << 10,
        connections: if common::quick() { 2_000 } else { CONNECTIONS },
    };
    judge(&load, &run(&load));
}

#[test]
#[ignore = "three minutes; docs/TESTING.md"]
fn memory_stays_below_its_limit_for_long() {
    if !with_files("memory_stays_below_its_limit_for_long") {
        return;
    }
    for (limit_mib, body_bytes) in [(256, 32 << 10), (256, 1 << 10), (1024, 1 << 20)] {
        let load = Load {
            limit_mib,
            lasts: Duration::from_mins(1),
            body_bytes,
            connections: CONNECTIONS,
        };
        judge(&load, &run(&load));
    }
}
