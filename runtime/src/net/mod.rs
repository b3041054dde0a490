//! The sockets of a data core, and the small client of the control plane.
//!
//! **Owns** what the network rooms share: the handler's trait, the limits, the core's network
//! state.
//! **Lives on** each data core, except `client`, which lives on tokio.
//! **Invariants** one connection lives and dies on the core that accepted it; its frames reach the
//! handler in the order of the wire; a bad frame costs its own connection only.
//! **Limits** [`NetOptions`], whose defaults are the constants of this room.
//! **Not here** what a frame means (`actors`), how it is cut (`gantry_protocol::frame`).

mod admission;
mod assembly;
pub mod client;
mod coalescing;
mod connection;
mod listener;
mod out_buffer;
mod peers;
mod session;
mod taken_port;
pub mod tcp_table;
mod watched;
mod writer;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use gantry_protocol::frame::Frame;

use crate::budget::Budget;
use crate::budget::shared::SharedBudget;
use crate::clock::Clock;
use crate::error::ListenError;
use crate::metrics::CoreMetrics;
use crate::shard::{CoreContext, TaskQueues};
use admission::Admission;
pub use admission::HANDLES_RESERVED;
pub use assembly::PARTIAL_MS;
use coalescing::Coalescing;
pub use coalescing::{COALESCE_US_MAX, Listening, WAITED_FOR_US};
pub use out_buffer::MOVED_FRAMES_BYTES_MIN;
pub use peers::{PeerRef, PeerTable};
pub use session::{CloseReason, Session};
use writer::WriteLane;

/// A connection on which nothing moves for this long, either way, is closed (netty's
/// `serverChannelMaxIdleTimeSeconds`, 120 s, 5.5.0; its `IdleStateHandler` counts all).
pub const IDLE_MS: u64 = 120_000;
/// How often the idle limit is looked at.
const SWEEP_MS: u64 = 1_000;
/// What a stall of the sweep is called in the profile.
const SWEEP: &str = "net/sweep";
/// How often the memory of replies is looked at.
const RELIEVE_MS: u64 = 100;
/// While that memory is short, a connection whose socket takes less than a share of what waits for
/// so long is closed: a reader across the ocean has taken that by then.
pub const STUCK_MS: u64 = 500;
/// Connections of one core.
pub const CONNECTIONS_MAX: usize = 20_000;
/// While more than this waits to be written to a connection, nothing more is read from it.
pub const OUT_BYTES_SOFT: usize = 1024 * 1024;
/// A connection with more than this waiting is closed: its peer does not read, and pushes and late
/// replies still arrive although nothing more is read from it.
pub const OUT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// One read: long enough for 4 x 64 pipelined messages of 1 KiB.
const READ_BYTES: usize = 256 * 1024;
/// Bytes of one core that frames hold whose end has not arrived yet.
pub const ASSEMBLY_BYTES_MAX: usize = 256 * 1024 * 1024;

const _: () = assert!(OUT_BYTES_SOFT < OUT_BYTES_MAX);
const _: () = assert!(READ_BYTES >= 64 * 1024);

/// The limits of a core's connections.
#[derive(Debug, Clone)]
pub struct NetOptions {
    /// Silence of both sides after which a connection is closed, in milliseconds.
    pub idle_ms: u64,
    /// Most connections of this core; further ones are closed at once, as are those beyond what
    /// the process's file handles allow.
    pub connections_max: usize,
    /// Waiting output above which a connection is not read.
    pub out_bytes_soft: usize,
    /// Waiting output above which a connection is closed.
    pub out_bytes_max: usize,
    /// Time after which a connection is closed whose incomplete frame does not get on, in
    /// milliseconds.
    pub partial_ms: u64,
    /// Bytes that incomplete frames hold; above it, the connections are closed whose frames have
    /// not got on for longest.
    pub assembly_bytes_max: usize,
    /// Memory of all replies that wait, of all cores.
    pub replies: Arc<SharedBudget>,
    /// Longest time that requests which come steadily may gather before they are read, in
    /// microseconds; 0: never. At most [`COALESCE_US_MAX`].
    pub coalesce_max_us: u64,
}

impl Default for NetOptions {
    fn default() -> Self {
        Self {
            idle_ms: IDLE_MS,
            connections_max: CONNECTIONS_MAX,
            out_bytes_soft: OUT_BYTES_SOFT,
            out_bytes_max: OUT_BYTES_MAX,
            partial_ms: PARTIAL_MS,
            assembly_bytes_max: ASSEMBLY_BYTES_MAX,
            replies: SharedBudget::new(usize::MAX),
            coalesce_max_us: 0,
        }
    }
}

/// What a data core does with frames. Called on the core, never across an await.
pub trait FrameHandler: 'static {
    /// A connection was accepted.
    fn on_open(self: &Rc<Self>, session: &Rc<Session>) {
        let _ = session;
    }

    /// All complete frames of one read, in the order of the wire. The handler drains `frames`; what
    /// it leaves is dropped.
    fn on_frames(self: &Rc<Self>, session: &Rc<Session>, frames: &mut Vec<Frame>);

    /// All frames of a read are handled, at `now_us`. `first_us`: when the first byte of the first
    /// one of them came.
    fn on_frames_done(self: &Rc<Self>, first_us: u64, read_us: u64, now_us: u64) {
        let _ = (first_us, read_us, now_us);
    }

    /// The consumers that wait on this core for a message to come: requests then gather for at most
    /// [`WAITED_FOR_US`].
    fn listening(&self) -> Listening {
        Listening::default()
    }

    /// The connection is gone; called once. [`PeerTable::get`] no longer finds it.
    fn on_close(self: &Rc<Self>, session: &Rc<Session>);
}

/// The network of one core. Clone the `Rc`.
pub struct Net<H> {
    queues: TaskQueues,
    clock: Rc<Clock>,
    metrics: Rc<CoreMetrics>,
    options: NetOptions,
    handler: Rc<H>,
    peers: Rc<PeerTable>,
    lane: Rc<WriteLane>,
    admission: Admission,
    assembly: Rc<Budget>,
    /// Every read of the core goes through this, so that an idle connection needs no buffer.
    scratch: RefCell<Box<[u8]>>,
    /// The vector handed to the handler, kept for its capacity.
    frames: Cell<Vec<Frame>>,
    closing: Cell<bool>,
    /// The accept loops, waiting for `closing`.
    acceptors: RefCell<Vec<Waker>>,
}

impl<H: FrameHandler> Net<H> {
    /// The network of `core`, with `handler` behind every port.
    pub fn new(
        core: &CoreContext,
        options: NetOptions,
        handler: Rc<H>,
        peers: Rc<PeerTable>,
    ) -> Rc<Self> {
        let assembly = Budget::new("frame assembly", options.assembly_bytes_max);
        let coalescing = Coalescing::new(
            options.coalesce_max_us,
            Rc::clone(&core.clock),
            Rc::clone(&core.metrics),
        );
        let front = Rc::downgrade(&handler);
        let listening = move || {
            let front = front.upgrade();
            front.map_or_else(Listening::default, |front| front.listening())
        };
        let looks_per_ring = if core.count > 1 {
            1
        } else {
            writer::LOOKS_PER_RING
        };
        let net = Rc::new(Self {
            queues: core.queues,
            clock: Rc::clone(&core.clock),
            metrics: Rc::clone(&core.metrics),
            lane: WriteLane::new(
                core.queues.serve,
                Rc::clone(&core.clock),
                Rc::clone(&core.metrics),
            ),
            admission: Admission::new(options.connections_max),
            options,
            handler,
            peers,
            assembly,
            scratch: RefCell::new(vec![0; READ_BYTES].into_boxed_slice()),
            frames: Cell::new(Vec::new()),
            closing: Cell::new(false),
            acceptors: RefCell::default(),
        });
        let lane = Rc::downgrade(&net.lane);
        core.spawn_serve(writer::run(lane, coalescing, looks_per_ring, listening));
        let swept = sweep(Rc::downgrade(&net));
        core.spawn_clean(core.watch(SWEEP).over(swept));
        net
    }

    /// Listens on `addr` and accepts from then on. With port 0 the system chooses; the chosen
    /// address comes back, for the other cores to listen on as well. The first core of a process
    /// passes `Claim::First`, which refuses an address that another process listens on.
    ///
    /// # Errors
    /// The address is in use or the system refuses.
    pub fn listen(
        self: &Rc<Self>,
        addr: SocketAddr,
        claim: Claim,
    ) -> Result<SocketAddr, ListenError> {
        listener::listen(self, addr, claim)
    }

    /// The connections of this core.
    pub fn peers(&self) -> &Rc<PeerTable> {
        &self.peers
    }

    fn poll_closing(&self, cx: &Context<'_>) -> Poll<()> {
        if self.closing.get() {
            return Poll::Ready(());
        }
        let mut acceptors = self.acceptors.borrow_mut();
        if !acceptors.iter().any(|waker| waker.will_wake(cx.waker())) {
            acceptors.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Stops accepting, ends every connection once its output is written, waits for that and for
    /// their peers to end theirs at most `limit`.
    pub async fn close(&self, limit: Duration) {
        self.closing.set(true);
        for acceptor in self.acceptors.take() {
            acceptor.wake();
        }
        for session in self.peers.all() {
            session.close_after_flush();
        }
        let deadline = self.clock.mono_us_now() + u64::try_from(limit.as_micros()).unwrap_or(0);
        while !self.peers.is_empty() && self.clock.mono_us_now() < deadline {
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
        for session in self.peers.all() {
            session.close(CloseReason::Stopping);
        }
    }
}

/// Whether a listener is the first of its process on an address, see [`Net::listen`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Nobody else may listen there yet.
    First,
    /// Another core of this process already listens there.
    Joined,
}

/// Closes what has been silent too long, and takes back memory that a quiet connection still holds.
async fn sweep<H: FrameHandler>(net: std::rc::Weak<Net<H>>) {
    let mut swept_ms = 0;
    loop {
        glommio::timer::sleep(Duration::from_millis(RELIEVE_MS)).await;
        let Some(net) = net.upgrade() else { return };
        net.clock.refresh();
        let now = net.clock.mono_ms();
        relieve(&net, now);
        if now.saturating_sub(swept_ms) < SWEEP_MS && !net.closing.get() {
            continue;
        }
        swept_ms = now;
        for session in net.peers.all() {
            let silent_ms = now.saturating_sub(session.last_moved_ms());
            if silent_ms >= net.options.idle_ms || session.is_overdue(now) {
                session.close(CloseReason::Idle);
            } else if session.is_slow_sender(now, net.options.partial_ms) {
                session.close(CloseReason::SlowSender);
            } else if silent_ms >= SWEEP_MS {
                session.release_idle_memory();
            }
        }
    }
}

/// While replies hold more than half of their memory: closes those who do not read theirs, who has
/// been waited for longest first, until it is less. Whoever reads goes on being served.
fn relieve<H: FrameHandler>(net: &Net<H>, now_ms: u64) {
    let replies = &net.options.replies;
    if !replies.is_pressed() {
        return;
    }
    let stuck = |session: Rc<Session>| {
        let since_ms = session.stuck_since_ms()?;
        (now_ms.saturating_sub(since_ms) >= STUCK_MS).then_some((since_ms, session))
    };
    let mut stuck: Vec<_> = net.peers.all().into_iter().filter_map(stuck).collect();
    stuck.sort_unstable_by_key(|(since_ms, _)| *since_ms);
    let held_bytes = replies.used();
    let mut closed = 0;
    for (_, session) in stuck {
        if !replies.is_pressed() {
            break;
        }
        session.close(CloseReason::SlowReader);
        closed += 1;
    }
    if closed > 0 {
        tracing::warn!(
            closed,
            held_bytes,
            limit_bytes = replies.limit(),
            "connections that do not read their replies were closed: memory for replies was short"
        );
    }
}

#[cfg(test)]
mod stall_tests;
#[cfg(test)]
mod tests;
