//! What the copy of a tail pull costs: records copied from the tail into one buffer and sent,
//! against one gathering send of the same records where they lie in it.
//!
//! `cargo run --release -p gantry-runtime --example gather -- RECORDS PULLS LAG-MIB` prints the
//! sender's CPU time a message: RECORDS a pull, PULLS a tick, read LAG-MIB behind the writer.

use std::io::{IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use gantry_runtime::glommio_disk::SharedTail;
use gantry_storage::tail::Tail;
use gantry_storage::units::FilePosition;
use rustix::time::{ClockId, clock_gettime};
use socket2::SockRef;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const TAIL_BYTES: u64 = (16 << 20) + 4096;
/// An entry of the log with a record of 1 KiB, and the record in it.
const ENTRY: u64 = 1148;
const HEAD: u64 = 24;
const RECORD: u64 = ENTRY - HEAD;
const REPLY_HEADER: [u8; 300] = [b' '; 300];
const MESSAGES: usize = 400_000;
const ROUNDS: usize = 5;
/// A session's out buffer that is larger is given back.
const KEEP_BYTES: usize = 64 << 10;

fn main() -> Outcome<()> {
    let numbers: Vec<usize> = std::env::args()
        .skip(1)
        .flat_map(|arg| arg.parse())
        .collect();
    let [records, pulls, lag_mib] = numbers[..] else {
        return Err("see the head of this file".into());
    };
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let socket = TcpStream::connect(listener.local_addr()?)?;
    socket.set_nodelay(true)?;
    let mut reader = listener.accept()?.0;
    std::thread::spawn(move || {
        let mut buffer = vec![0; 512 << 10];
        while reader.read(&mut buffer).is_ok_and(|read| read > 0) {}
    });
    let path = format!("/dev/shm/gather-{}", std::process::id());
    let memory = SharedTail::open(Path::new(&path), TAIL_BYTES)?;
    let mut tail = Tail::new(Box::new(memory)).ok_or("a tail of this size")?;
    tail.begin(1, 1, tail.ring_bytes_max());
    std::fs::remove_file(path)?;
    let mut sender = Sender {
        socket,
        tail,
        head: FilePosition(32 << 20),
        records,
        pulls,
        lag: (lag_mib as u64) << 20,
        out: Vec::new(),
    };
    for round in 0..=ROUNDS {
        for gathers in [false, true] {
            let cpu_us = sender.run(gathers)?;
            if round > 0 {
                let way = if gathers { "gather" } else { "copy" };
                println!("{way:<6} {cpu_us:.3} µs a message");
            }
        }
    }
    Ok(())
}

struct Sender {
    socket: TcpStream,
    tail: Tail,
    head: FilePosition,
    records: usize,
    pulls: usize,
    lag: u64,
    out: Vec<u8>,
}

impl Sender {
    /// CPU µs a message, without what it costs to put them into the tail.
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    fn run(&mut self, gathers: bool) -> Outcome<f64> {
        let (mut sent, mut spent_ns) = (0, 0);
        let entry = vec![b'e'; usize::try_from(ENTRY)?];
        while sent < MESSAGES {
            let from = FilePosition(self.head.0 - self.lag);
            for _ in 0..self.records * self.pulls {
                self.tail.put(self.head, &entry);
                self.head = self.head.plus(ENTRY);
            }
            let begun = thread_ns();
            if gathers {
                self.gather(from)?;
            } else {
                self.copy(from)?;
            }
            spent_ns += thread_ns() - begun;
            sent += self.records * self.pulls;
        }
        Ok(spent_ns as f64 / 1000.0 / sent as f64)
    }

    fn copy(&mut self, mut at: FilePosition) -> Outcome<()> {
        for _ in 0..self.pulls {
            self.out
                .reserve(REPLY_HEADER.len() + self.records * usize::try_from(RECORD)?);
            self.out.extend_from_slice(&REPLY_HEADER);
            for _ in 0..self.records {
                for piece in self.tail.pieces(at.plus(HEAD), RECORD) {
                    self.out.extend_from_slice(piece);
                }
                at = at.plus(ENTRY);
            }
        }
        self.socket.write_all(&self.out)?;
        self.out.clear();
        if self.out.capacity() > KEEP_BYTES {
            self.out = Vec::new();
        }
        Ok(())
    }

    fn gather(&self, mut at: FilePosition) -> Outcome<()> {
        let mut slices = Vec::with_capacity(self.pulls * (self.records + 1) + 1);
        let mut bytes = 0;
        for _ in 0..self.pulls {
            slices.push(IoSlice::new(&REPLY_HEADER));
            for _ in 0..self.records {
                let pieces = self.tail.pieces(at.plus(HEAD), RECORD);
                let filled = pieces.into_iter().filter(|piece| !piece.is_empty());
                slices.extend(filled.map(IoSlice::new));
                at = at.plus(ENTRY);
            }
            bytes += REPLY_HEADER.len() + self.records * usize::try_from(RECORD)?;
        }
        let sent = SockRef::from(&self.socket).send_vectored(&slices)?;
        if sent == bytes {
            Ok(())
        } else {
            Err("a blocking send took only a part".into())
        }
    }
}

fn thread_ns() -> i64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}
