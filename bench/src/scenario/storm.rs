//! A storm of connections: how fast a broker takes new clients, and what each costs it.
//!
//! **Owns** making many connections, each answered once by a heartbeat, and keeping them open.
//! **Lives on** the calling thread, and one glommio executor for all connections.
//! **Invariants** a connection counts when its first request is answered, not when the kernel has
//! queued it; one that fails counts as an error and the storm goes on.
//! **Limits** `CONNECTIONS_MAX` connections, `ANSWER_LIMIT` for an answer.
//! **Not here** messages (`flow`).

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use bytes::BytesMut;
use gantry_protocol::code::request as codes;
use gantry_protocol::command::writer;
use gantry_protocol::frame::HeaderEncoding;

use super::target;
use crate::args::{CONNECTIONS_MAX, ConnectArgs};
use crate::connection::{Inbox, Link};
use crate::error::BenchError;
use crate::producer::NO_REPLY;
use crate::recorder::{Counts, Latency, Note, Recorder};
use crate::report::Report;
use crate::wire::reply::ReplyScanner;
use crate::wire::templates::PRODUCER_GROUP;

/// Longest wait for a connection and its first answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Between the first reading and the first connection.
const READING_PAUSE: Duration = Duration::from_millis(10);

struct Storm {
    addr: SocketAddr,
    encoding: HeaderEncoding,
    left: Cell<usize>,
    open: RefCell<Vec<Rc<Link>>>,
    recorder: Rc<Recorder>,
}

/// Runs `connect`.
///
/// # Errors
/// No broker, or connections that were not answered.
pub fn run(args: &ConnectArgs) -> Result<(), BenchError> {
    for (name, value) in [
        ("--connections", args.connections),
        ("--at-once", args.at_once),
    ] {
        if value == 0 || value > CONNECTIONS_MAX {
            return Err(BenchError::Argument {
                name,
                value: value.to_string(),
                allowed: "1 to 28000",
            });
        }
    }
    let broker = target::find(&args.target, &args.output)?;
    let (notes, watching) = target::observe(&broker, "connect", Latency::Connect, &args.output)?;
    let encoding = args.target.encoding.into();
    let (addr, count, at_once) = (broker.addr, args.connections, args.at_once);
    let ran = target::on_executor(move || storm(addr, encoding, count, at_once, notes));
    let observed = target::observed(watching)?;
    let report = Report {
        scenario: vec![
            ("scenario", "connect".to_owned()),
            ("connections", args.connections.to_string()),
            ("at once", args.at_once.to_string()),
        ],
        body_bytes: 0,
        record_bytes: None,
        main: Latency::Connect,
        unanswered: false,
        observed,
        totals: ran?,
        verdict: None,
        strict_order: true,
        stored: None,
        pending: None,
        broken: None,
    };
    target::conclude(&report, &args.output)
}

async fn storm(
    addr: SocketAddr,
    encoding: HeaderEncoding,
    count: usize,
    at_once: usize,
    notes: Sender<Note>,
) -> Result<Counts, BenchError> {
    let recorder = Recorder::new(Duration::ZERO, None, notes);
    let ticker = glommio::spawn_local(Rc::clone(&recorder).tick());
    glommio::timer::sleep(READING_PAUSE).await;
    let storm = Rc::new(Storm {
        addr,
        encoding,
        left: Cell::new(count),
        open: RefCell::new(Vec::with_capacity(count)),
        recorder: Rc::clone(&recorder),
    });
    let workers: Vec<_> = (0..at_once.min(count))
        .map(|_| glommio::spawn_local(Rc::clone(&storm).work()))
        .collect();
    for worker in workers {
        worker.await;
    }
    ticker.cancel().await;
    // The readings that close the window are taken while all connections are open.
    recorder.close();
    recorder.finish();
    glommio::timer::sleep(READING_PAUSE * 10).await;
    Ok(recorder.totals())
}

impl Storm {
    /// Makes connections, one after the other, until all are made.
    async fn work(self: Rc<Self>) {
        let mut inbox = Inbox::default();
        loop {
            let left = self.left.get();
            if left == 0 {
                return;
            }
            self.left.set(left - 1);
            let started_ns = self.recorder.now_ns();
            let answer = async { self.connect(left, &mut inbox).await };
            let limit = async {
                glommio::timer::sleep(ANSWER_LIMIT).await;
                NO_REPLY
            };
            let code = futures_lite::future::or(answer, limit).await;
            let now_ns = self.recorder.now_ns();
            if code == 0 {
                self.recorder
                    .record(Latency::Connect, now_ns, |each| each(started_ns));
                self.recorder.count(now_ns, |c| c.connected += 1);
            } else {
                self.recorder
                    .count(now_ns, |c| *c.errors.entry(code).or_default() += 1);
                inbox = Inbox::default();
            }
        }
    }

    /// The code of the first answer on a new connection.
    async fn connect(&self, number: usize, inbox: &mut Inbox) -> i32 {
        match self.first_answer(number, inbox).await {
            Ok((code, link)) => {
                self.open.borrow_mut().push(link);
                code
            }
            Err(_) => NO_REPLY,
        }
    }

    async fn first_answer(
        &self,
        number: usize,
        inbox: &mut Inbox,
    ) -> Result<(i32, Rc<Link>), BenchError> {
        let link = Link::open(self.addr).await?;
        let body = format!(
            "{{\"clientID\":\"bench@{number}\",\"consumerDataSet\":[],\
             \"producerDataSet\":[{{\"groupName\":\"{PRODUCER_GROUP}\"}}]}}"
        );
        let mut frame = BytesMut::new();
        let code = codes::HEART_BEAT;
        writer::write_request(
            &mut frame,
            self.encoding,
            1,
            code,
            false,
            None,
            &[body.as_bytes()],
        )
        .map_err(|e| BenchError::Answer {
            doing: "writing a heartbeat",
            what: e.to_string(),
        })?;
        link.write_all(&frame).await?;
        let scanner = ReplyScanner::default();
        loop {
            inbox.fill(&link).await?;
            if let Some((reply, len)) = scanner.take(inbox.bytes())? {
                inbox.take(len);
                return Ok((reply.code, link));
            }
        }
    }
}
