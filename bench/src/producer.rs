//! The sending side: connections that keep a window of sends in flight.
//!
//! **Owns** the connections, their in-flight slots and the latency recorder.
//! **Lives on** one glommio executor on a thread of its own; one task a connection, plus one that
//! wakes paced connections.
//! **Invariants** a request's opaque number is `OPAQUE_BASE` + its slot, so a reply finds its send
//! time without a table look-up; a slot is reused only after its reply.
//! **Limits** `IN_FLIGHT_MAX` slots a connection; one read takes at most `READ_BYTES`.
//! **Not here** what a frame looks like (`templates`), when a message is due (`pace`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::TcpStream;
use hdrhistogram::Histogram;

use crate::error::BenchError;
use crate::pace::Pace;
use crate::templates::{OPAQUE_BASE, ReplyHead, SendTemplate, take_reply};

/// Most sends one connection may have in flight.
pub const IN_FLIGHT_MAX: usize = 65_536;
/// One read of a connection.
const READ_BYTES: usize = 64 * 1024;
/// Highest latency recorded: a minute.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// Longest wait of a paced connection before it looks at the clock again.
const PACED_NAP: Duration = Duration::from_micros(200);
/// How long after the end a missing reply is waited for.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// What one run measured.
#[derive(Debug)]
pub struct Measured {
    /// Latencies of the measured window, ns; paced runs count from the intended send time.
    pub latency_ns: Histogram<u64>,
    /// Messages acknowledged in the measured window.
    pub acknowledged: u64,
    /// Messages sent in all.
    pub sent: u64,
    /// Refusals by response code, and lost replies under code −1.
    pub errors: BTreeMap<i32, u64>,
    /// Length of the measured window.
    pub window: Duration,
}

/// How one connection is driven.
#[derive(Debug, Clone)]
pub struct Drive {
    /// The broker.
    pub addr: SocketAddr,
    /// Sends in flight.
    pub in_flight: usize,
    /// Messages a second for this connection, `None` = flat out.
    pub rate: Option<f64>,
    /// Not counted at the start.
    pub warm_up: Duration,
    /// Counted.
    pub measure: Duration,
}

struct Shared {
    started: Instant,
    latency_ns: RefCell<Histogram<u64>>,
    outcome: RefCell<Outcome>,
}

#[derive(Default)]
struct Outcome {
    acknowledged: u64,
    sent: u64,
    errors: BTreeMap<i32, u64>,
}

impl Shared {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Drives all connections to the end of the window. Must run inside a glommio executor.
///
/// # Errors
/// A connection that can't be made or breaks.
pub async fn produce(drives: Vec<(Drive, SendTemplate)>) -> Result<Measured, BenchError> {
    let histogram = Histogram::new_with_bounds(100, LATENCY_NS_MAX, 3)
        .map_err(|e| BenchError::Executor(e.to_string()))?;
    let shared = Rc::new(Shared {
        started: Instant::now(),
        latency_ns: RefCell::new(histogram),
        outcome: RefCell::default(),
    });
    let mut window = Duration::ZERO;
    let mut tasks = Vec::new();
    for (drive, template) in drives {
        window = window.max(drive.measure);
        let shared = Rc::clone(&shared);
        tasks.push(glommio::spawn_local(async move {
            Connection::open(drive, template, shared).await?.run().await
        }));
    }
    for task in tasks {
        task.await?;
    }
    let outcome = shared.outcome.take();
    Ok(Measured {
        latency_ns: shared.latency_ns.borrow().clone(),
        acknowledged: outcome.acknowledged,
        sent: outcome.sent,
        errors: outcome.errors,
        window,
    })
}

struct Connection {
    drive: Drive,
    template: SendTemplate,
    shared: Rc<Shared>,
    stream: TcpStream,
    pace: Pace,
    free: Vec<u32>,
    started_ns: Vec<u64>,
    out: Vec<u8>,
    input: Vec<u8>,
    input_len: usize,
}

impl Connection {
    async fn open(
        drive: Drive,
        template: SendTemplate,
        shared: Rc<Shared>,
    ) -> Result<Self, BenchError> {
        let addr = drive.addr;
        let socket = |source: std::io::Error| BenchError::Socket {
            doing: "connecting to",
            addr,
            source,
        };
        let stream = TcpStream::connect(addr)
            .await
            .map_err(|e| socket(e.into()))?;
        stream.set_nodelay(true).map_err(|e| socket(e.into()))?;
        let slots = u32::try_from(drive.in_flight).unwrap_or(u32::MAX);
        Ok(Self {
            pace: Pace::new(drive.rate),
            free: (0..slots).rev().collect(),
            started_ns: vec![0; drive.in_flight],
            out: Vec::with_capacity(READ_BYTES),
            input: vec![0; READ_BYTES * 2],
            input_len: 0,
            drive,
            template,
            shared,
            stream,
        })
    }

    async fn run(mut self) -> Result<(), BenchError> {
        let end = self.drive.warm_up + self.drive.measure;
        let in_flight = self.drive.in_flight;
        while self.shared.started.elapsed() < end {
            self.fill();
            self.flush().await?;
            if self.free.len() == in_flight {
                glommio::timer::sleep(PACED_NAP).await;
            } else if self.pace.is_open_loop() && !self.free.is_empty() {
                // New messages fall due while replies are outstanding: don't sleep in the read.
                self.receive_or_nap().await?;
            } else {
                self.receive().await?;
            }
        }
        self.drain().await
    }

    /// Queues every message that is due and has a free slot.
    fn fill(&mut self) {
        let now_ns = self.shared.now_ns();
        let mut count = 0;
        while let Some(slot) = self.free.last().copied() {
            let due_ns = self.pace.due_ns(now_ns);
            if due_ns > now_ns {
                break;
            }
            self.free.pop();
            self.pace.issued();
            if let Some(started) = self.started_ns.get_mut(slot as usize) {
                *started = due_ns;
            }
            self.template.write(slot, &mut self.out);
            count += self.template.messages_count();
        }
        self.shared.outcome.borrow_mut().sent += count;
    }

    async fn flush(&mut self) -> Result<(), BenchError> {
        if self.out.is_empty() {
            return Ok(());
        }
        let addr = self.drive.addr;
        let written = self.stream.write_all(&self.out).await;
        self.out.clear();
        written.map_err(|source| BenchError::Socket {
            doing: "writing to",
            addr,
            source,
        })
    }

    async fn receive_or_nap(&mut self) -> Result<(), BenchError> {
        let nap = async {
            glommio::timer::sleep(PACED_NAP).await;
            Ok(())
        };
        futures_lite::future::or(self.receive(), nap).await
    }

    async fn receive(&mut self) -> Result<(), BenchError> {
        let addr = self.drive.addr;
        let socket = |source| BenchError::Socket {
            doing: "reading from",
            addr,
            source,
        };
        let Some(room) = self
            .input
            .get_mut(self.input_len..)
            .filter(|room| !room.is_empty())
        else {
            return Err(BenchError::Answer {
                doing: "reading a reply",
                what: format!("a frame of more than {} bytes", self.input.len()),
            });
        };
        let read = self.stream.read(room).await.map_err(socket)?;
        if read == 0 {
            return Err(BenchError::Answer {
                doing: "reading a reply",
                what: "the broker closed the connection".to_owned(),
            });
        }
        self.input_len += read;
        self.take_replies()
    }

    fn take_replies(&mut self) -> Result<(), BenchError> {
        let now_ns = self.shared.now_ns();
        let warm_up_ns = u64::try_from(self.drive.warm_up.as_nanos()).unwrap_or(u64::MAX);
        let messages = self.template.messages_count();
        let mut taken = 0;
        let mut latency_ns = self.shared.latency_ns.borrow_mut();
        let mut outcome = self.shared.outcome.borrow_mut();
        let filled = self.input.get(..self.input_len).unwrap_or_default();
        while let Some((reply, len)) = take_reply(filled.get(taken..).unwrap_or_default())? {
            taken += len;
            let ReplyHead { code, opaque } = reply;
            let slot = opaque.wrapping_sub(OPAQUE_BASE);
            let Some(started) = usize::try_from(slot)
                .ok()
                .and_then(|slot| self.started_ns.get(slot).copied())
            else {
                return Err(BenchError::Answer {
                    doing: "matching a reply",
                    what: format!("opaque {opaque} was never sent"),
                });
            };
            self.free.push(slot.unsigned_abs());
            if code != 0 {
                *outcome.errors.entry(code).or_default() += messages;
            } else if started >= warm_up_ns {
                outcome.acknowledged += messages;
                latency_ns.saturating_record(now_ns.saturating_sub(started));
            }
        }
        drop(latency_ns);
        drop(outcome);
        self.input.copy_within(taken..self.input_len, 0);
        self.input_len -= taken;
        Ok(())
    }

    /// Waits for what is still in flight; what never comes counts as lost.
    async fn drain(&mut self) -> Result<(), BenchError> {
        let limit = Instant::now() + DRAIN_LIMIT;
        while self.free.len() < self.drive.in_flight && Instant::now() < limit {
            self.receive_or_nap().await?;
        }
        let lost = self.drive.in_flight - self.free.len();
        if lost > 0 {
            let messages = self.template.messages_count() * lost as u64;
            *self
                .shared
                .outcome
                .borrow_mut()
                .errors
                .entry(-1)
                .or_default() += messages;
        }
        let _ = self.stream.shutdown(std::net::Shutdown::Both).await;
        Ok(())
    }
}
