//! `gantry bench sink`: a server that answers sends, to weigh the generator and to test its judge.
//!
//! **Owns** the listener, the connections and the few requests that a run needs.
//! **Lives on** one glommio executor of its own process.
//! **Invariants** it is name server and broker at one address; everything else is refused with
//! "not supported" (3). It misbehaves only when told to.
//! **Limits** what is kept is kept in memory until `STORE_BYTES_MAX`, then sends are refused; a
//! pull that waits is answered by the next message only.
//! **Not here** what is stored and how it is spoilt (`store`).

mod quick;
mod store;

use std::cell::RefCell;
use std::io::Write as _;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use gantry_protocol::body::{BrokerData, ClusterInfo};
use gantry_protocol::code::{request as codes, response};
use gantry_protocol::command::{ExtValue, HeaderView, writer};
use gantry_protocol::fastjson::{self, IntegerKeys};
use gantry_protocol::frame::{Frame, HeaderEncoding, take_frame};
use gantry_protocol::message::BatchIter;
use gantry_protocol::request::pull::{FLAG_SUSPEND, PullHeader};
use gantry_protocol::request::send::SendHeader;
use glommio::net::TcpListener;

use crate::args::SinkArgs;
use crate::connection::{Inbox, Link};
use crate::error::BenchError;
use crate::route::resolve;
use crate::scenario::target::on_executor;
use quick::QuickScanner;
use store::{Message, Store};

/// Bytes of records of one reply.
const PULL_BYTES_MAX: usize = 256 * 1024;

/// A pull that waits for the next message of its queue.
struct Waiter {
    link: Rc<Link>,
    encoding: HeaderEncoding,
    opaque: i32,
    offset: i64,
    max: i32,
}

struct Sink {
    addr: SocketAddr,
    store: RefCell<Store>,
    waiters: RefCell<Vec<(String, i32, Waiter)>>,
}

/// Runs the sink until the process is ended.
///
/// # Errors
/// The address is taken.
pub fn run(args: &SinkArgs) -> Result<(), BenchError> {
    let addrs = resolve(&args.listen)?;
    let args = args.clone();
    on_executor(move || serve(addrs, args))
}

async fn serve(addrs: Vec<SocketAddr>, args: SinkArgs) -> Result<(), BenchError> {
    // A name stands for one address here: `resolve` gives one at least.
    let [addr, ..] = addrs.as_slice() else {
        return Err(BenchError::Address { value: args.listen });
    };
    let addr = *addr;
    let socket = |source: std::io::Error| BenchError::Socket {
        doing: "listening on",
        addr,
        source,
    };
    let listener = TcpListener::bind(addr).map_err(|e| socket(e.into()))?;
    let addr = listener.local_addr().map_err(|e| socket(e.into()))?;
    println!("ready: sink {addr}");
    // Whoever started it waits for the line; there is nothing to do if nobody reads it.
    let _ = std::io::stdout().flush();
    let sink = Rc::new(Sink {
        addr,
        store: RefCell::new(Store::new(addr, args)),
        waiters: RefCell::default(),
    });
    loop {
        let stream = listener.accept().await.map_err(|e| socket(e.into()))?;
        let sink = Rc::clone(&sink);
        glommio::spawn_local(async move {
            // A connection that ends, ends; its messages stay.
            let _ = sink.connection(Link::accepted(stream)).await;
        })
        .detach();
    }
}

impl Sink {
    async fn connection(&self, link: Result<Rc<Link>, BenchError>) -> Result<(), BenchError> {
        let link = link?;
        let read = async {
            let mut inbox = Inbox::default();
            let scanner = QuickScanner::default();
            loop {
                inbox.fill(&link).await?;
                self.answer_quickly(&link, &scanner, &mut inbox);
                let mut input = BytesMut::from(inbox.bytes());
                let mut out = BytesMut::new();
                while let Some(frame) = take_frame(&mut input).map_err(bad)? {
                    self.answer(&link, &frame, &mut out)?;
                }
                inbox.take(inbox.bytes().len() - input.len());
                if !out.is_empty() {
                    link.post(|posted| posted.extend_from_slice(&out));
                }
            }
        };
        futures_lite::future::or(read, link.write_posted()).await
    }

    /// Answers plain sends from the front of `inbox`, unless they are to be kept or refused.
    fn answer_quickly(&self, link: &Rc<Link>, scanner: &QuickScanner, inbox: &mut Inbox) {
        let mut store = self.store.borrow_mut();
        if !store.only_counts() {
            return;
        }
        let mut taken = 0;
        link.post(|out| {
            let input = inbox.bytes();
            while let Some(send) = scanner.take(input.get(taken..).unwrap_or_default()) {
                taken += send.frame_bytes;
                store.count_one(send.topic, send.queue_id);
                quick::answer(send.opaque, out);
            }
        });
        inbox.take(taken);
    }

    fn answer(&self, link: &Rc<Link>, frame: &Frame, out: &mut BytesMut) -> Result<(), BenchError> {
        let view = HeaderView::parse(frame.encoding, &frame.header).map_err(bad)?;
        match view.code {
            codes::SEND_MESSAGE | codes::SEND_MESSAGE_V2 | codes::SEND_BATCH_MESSAGE => {
                self.send(&view, frame, out)
            }
            codes::PULL_MESSAGE => self.pull(link, &view, out),
            codes::GET_MAX_OFFSET | codes::GET_MIN_OFFSET => self.offset(&view, out),
            codes::GET_BROKER_CLUSTER_INFO => {
                let body = self.cluster();
                reply(out, &view, response::SUCCESS, &[], &body)
            }
            // It keeps no topics: each may be made, with any number of queues.
            codes::GET_TOPIC_CONFIG => reply(out, &view, response::TOPIC_NOT_EXIST, &[], &[]),
            codes::UPDATE_AND_CREATE_TOPIC | codes::HEART_BEAT => {
                reply(out, &view, response::SUCCESS, &[], &[])
            }
            _ => reply(out, &view, response::REQUEST_CODE_NOT_SUPPORTED, &[], &[]),
        }
    }

    fn send(
        &self,
        view: &HeaderView<'_>,
        frame: &Frame,
        out: &mut BytesMut,
    ) -> Result<(), BenchError> {
        let header = SendHeader::parse(view).map_err(bad)?;
        let stored = {
            let mut store = self.store.borrow_mut();
            if store.refuses() {
                return reply(out, view, response::SYSTEM_BUSY, &[], &[]);
            }
            if header.batch {
                let mut first = None;
                for element in BatchIter::new(&frame.body).map_err(bad)? {
                    let element = element.map_err(bad)?;
                    let message = Message {
                        header: &header,
                        properties: element.properties,
                        body: element.body,
                    };
                    first.get_or_insert(store.append(&message).map_err(bad)?);
                }
                first.unwrap_or(0)
            } else {
                let message = Message {
                    header: &header,
                    properties: header.properties,
                    body: &frame.body,
                };
                store.append(&message).map_err(bad)?
            }
        };
        if !view.is_oneway() {
            let queue = i64::from(header.queue_id);
            let ext = [
                ("msgId", ExtValue::Str("7F000001000000000000000000000000")),
                ("queueId", ExtValue::Int(queue)),
                ("queueOffset", ExtValue::Int(stored)),
            ];
            reply(out, view, response::SUCCESS, &ext, &[])?;
        }
        self.wake(header.topic, header.queue_id)
    }

    fn pull(
        &self,
        link: &Rc<Link>,
        view: &HeaderView<'_>,
        out: &mut BytesMut,
    ) -> Result<(), BenchError> {
        let header = PullHeader::parse(view).map_err(bad)?;
        let waiter = Waiter {
            link: Rc::clone(link),
            encoding: view.encoding,
            opaque: view.opaque,
            offset: header.queue_offset,
            max: header.max_msg_nums,
        };
        if self.give(&waiter, header.topic, header.queue_id, out)? {
            return Ok(());
        }
        if header.has(FLAG_SUSPEND) {
            let place = (header.topic.to_owned(), header.queue_id, waiter);
            self.waiters.borrow_mut().push(place);
            return Ok(());
        }
        reply(out, view, response::PULL_NOT_FOUND, &[], &[])
    }

    /// Answers a pull if there is something for it.
    fn give(
        &self,
        waiter: &Waiter,
        topic: &str,
        queue_id: i32,
        out: &mut BytesMut,
    ) -> Result<bool, BenchError> {
        let store = self.store.borrow();
        let max = usize::try_from(waiter.max).unwrap_or(0);
        let records: Vec<&[u8]> = store
            .records(topic, queue_id, waiter.offset, max, PULL_BYTES_MAX)
            .map(Bytes::as_ref)
            .collect();
        if records.is_empty() {
            return Ok(false);
        }
        let next = waiter.offset + i64::try_from(records.len()).unwrap_or(0);
        let ext = [
            ("nextBeginOffset", ExtValue::Int(next)),
            ("minOffset", ExtValue::Int(0)),
            ("maxOffset", ExtValue::Int(store.count(topic, queue_id))),
        ];
        let (encoding, opaque) = (waiter.encoding, waiter.opaque);
        let code = response::SUCCESS;
        writer::write_reply(out, encoding, opaque, code, None, Some(&ext), &records)
            .map_err(bad)?;
        Ok(true)
    }

    fn wake(&self, topic: &str, queue_id: i32) -> Result<(), BenchError> {
        let mut waiters = self.waiters.borrow_mut();
        if waiters.is_empty() {
            return Ok(());
        }
        let mut kept = Vec::with_capacity(waiters.len());
        for place in waiters.drain(..) {
            let mut out = BytesMut::new();
            let here = place.0 == topic && place.1 == queue_id;
            if here && self.give(&place.2, topic, queue_id, &mut out)? {
                place.2.link.post(|posted| posted.extend_from_slice(&out));
            } else {
                kept.push(place);
            }
        }
        *waiters = kept;
        Ok(())
    }

    fn offset(&self, view: &HeaderView<'_>, out: &mut BytesMut) -> Result<(), BenchError> {
        let topic = view.ext("topic").unwrap_or_default();
        let queue = view.ext("queueId").and_then(|id| id.parse().ok());
        let queue = queue.unwrap_or(-1);
        self.store.borrow_mut().release(topic, queue).map_err(bad)?;
        let count = self.store.borrow().count(topic, queue);
        let offset = if view.code == codes::GET_MAX_OFFSET {
            count
        } else {
            0
        };
        let ext = [("offset", ExtValue::Int(offset))];
        reply(out, view, response::SUCCESS, &ext, &[])
    }

    fn cluster(&self) -> Bytes {
        const NAME: &str = "sink";
        let broker = BrokerData {
            cluster: NAME.to_owned(),
            broker_name: NAME.to_owned(),
            addresses: [(0, self.addr.to_string())].into(),
            acting_master: false,
            zone: None,
        };
        let cluster = ClusterInfo {
            brokers: [(NAME.to_owned(), broker)].into(),
            clusters: [(NAME.to_owned(), vec![NAME.to_owned()])].into(),
        };
        fastjson::to_bytes(&cluster.to_value(), IntegerKeys::Bare)
    }
}

fn bad(what: impl std::fmt::Display) -> BenchError {
    BenchError::Answer {
        doing: "serving a request",
        what: what.to_string(),
    }
}

fn reply(
    out: &mut BytesMut,
    view: &HeaderView<'_>,
    code: i32,
    ext: &[(&str, ExtValue<'_>)],
    body: &[u8],
) -> Result<(), BenchError> {
    if view.is_oneway() {
        return Ok(());
    }
    let (encoding, opaque) = (view.encoding, view.opaque);
    writer::write_reply(out, encoding, opaque, code, None, Some(ext), &[body]).map_err(bad)?;
    Ok(())
}
