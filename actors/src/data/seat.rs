//! A data core joined to the runtime: executor, disk, sockets, mesh, mailboxes.
//!
//! **Owns** the glommio side of the data plane: the host of [`DataCore`], the handler of frames,
//! start and stop of one core.
//! **Lives on** each data core; a [`CoreSeat`] is made on the main thread and travels there.
//! **Invariants** at the start: shards recovered, then the catalog and offsets that the control
//! plane has sent taken in, then (by the caller) the ports opened. At the end: see
//! [`RunningCore::stop`].
//! **Limits** [`STOP_MS`] for connections to take their last bytes; [`OTHERS_MS`] for other cores.
//! **Not here** the rules (`data::core` and below), the order between cores and planes (`server`).

mod stores;

use std::cell::{Cell, OnceCell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gantry_protocol::frame::Frame;
use gantry_runtime::budget::shared::{Held, SharedBudget};
use gantry_runtime::clock::wall_now_ms;
use gantry_runtime::error::ListenError;
use gantry_runtime::glommio_disk::{DiskSetupError, GlommioDisk, TailError};
use gantry_runtime::mailbox::{MailReceiver, MailSender, SendError};
use gantry_runtime::mesh::{Mesh, MeshSeat};
use gantry_runtime::metrics::{Counts, Profile, Timing};
use gantry_runtime::net::{
    Claim, CloseReason, FrameHandler, Listening, MOVED_FRAMES_BYTES_MIN, Net, NetOptions, PeerRef,
    PeerTable, Session,
};
use gantry_runtime::shard::{CoreContext, breathe};
use gantry_storage::error::{ReadError, RecoverError};
use gantry_storage::identity::StoreIdentity;
use gantry_storage::shard_store::{RecoveryReport, ShardStore};
use gantry_storage::units::ShardId;

pub use stores::read_identity;

use stores::{Stores, Tails, add_shards, open_again, open_shards};

use super::core::{CorePlace, DataCore, OTHERS_MS};
use super::host::Host;
use super::requests::parked::Caller;
use super::router::CoreWord;
use crate::seam::{CoreNumber, ToControl, ToData};
use crate::settings::{BrokerSettings, FlushDiskType};

/// Longest wait for connections to take their last bytes.
pub const STOP_MS: u64 = 2_000;
/// Longest wait for the other cores' last answers when the process ends because a part failed.
const FAILED_OTHERS_MS: u64 = 1_000;

/// What stalls of these tasks are called in the profile.
const WORDS: &str = "router (words of other cores)";
/// As [`WORDS`]: cold pulls, searches, questions of the control plane and errands for it.
const BACKGROUND: &str = "background (reads, questions, errands)";
/// As [`WORDS`].
const HOUSEKEEPING: &str = "housekeeping (retention)";
/// As [`WORDS`].
const CONTROL: &str = "orders (words of the control plane)";

type Store = ShardStore<GlommioDisk>;
type Core = DataCore<Store, GlommioHost>;

/// What a core takes with it; `Send`.
pub struct CoreSeat {
    /// Its place in the mesh.
    pub mesh: MeshSeat<CoreWord>,
    /// To the control plane.
    pub to_control: MailSender<ToControl>,
    /// From the control plane.
    pub from_control: MailReceiver<ToData>,
    /// Memory of replies that wait, shared by all cores.
    pub replies: Arc<SharedBudget>,
}

/// Why a core could not start.
#[derive(Debug, thiserror::Error)]
pub enum CoreStartError {
    /// The data folder can't be used.
    #[error(transparent)]
    Disk(#[from] DiskSetupError),
    /// The tail can't be mapped.
    #[error(transparent)]
    Tail(#[from] TailError),
    /// A shard could not be recovered.
    #[error("shard {shard}: {cause}")]
    Recover {
        /// Which.
        shard: ShardId,
        /// Why.
        cause: RecoverError,
    },
    /// The half and op queues can't be read.
    #[error("open half messages: {0}")]
    Transactions(ReadError),
    /// No executor could be made.
    #[error("{0}")]
    Executor(String),
}

/// The executor, as the rules see it.
pub struct GlommioHost {
    context: CoreContext,
    peers: Rc<PeerTable>,
    mesh: OnceCell<Rc<Mesh<CoreWord>>>,
    to_control: MailSender<ToControl>,
    scratch: RefCell<BytesMut>,
    replies: Arc<SharedBudget>,
    /// Replies that wait for a full road.
    late_replies: Rc<Cell<usize>>,
}

impl GlommioHost {
    fn send_frames(&self, peer: PeerRef, write: impl FnOnce(&mut BytesMut) -> Option<Timing>) {
        let (frames, timing) = {
            let mut scratch = self.scratch.borrow_mut();
            let timing = write(&mut scratch);
            // A long one keeps its memory to itself, so that it can become the out buffer there.
            let frames = if scratch.len() >= MOVED_FRAMES_BYTES_MIN {
                std::mem::take(&mut *scratch)
            } else {
                scratch.split()
            };
            (frames.freeze(), timing)
        };
        self.send_made(peer, frames, timing);
    }

    fn send_made(&self, peer: PeerRef, frames: Bytes, timing: Option<Timing>) {
        if frames.is_empty() {
            return;
        }
        let held = self.replies.hold(frames.len());
        let word = CoreWord::Frames(peer, frames, timing, Some(held));
        let Err(mut word) = self.send_core(peer.core, word) else {
            return;
        };
        let Some(mesh) = self.mesh.get().cloned() else {
            return;
        };
        let late = Rc::clone(&self.late_replies);
        late.set(late.get() + 1);
        // The road is full: this reply waits by itself rather than be lost.
        self.spawn(async move {
            while let Err(back) = mesh.send(peer.core, *word) {
                *word = back;
                glommio::timer::sleep(Duration::from_millis(1)).await;
            }
            late.set(late.get() - 1);
        });
    }

    /// Something was appended for `session`.
    fn written(&self, session: &Rc<Session>, timing: Option<Timing>) {
        if let Some(timing) = timing.filter(|_| self.profile().is_on()) {
            session.note_answer(&timing);
        }
        session.flush_soon();
    }
}

impl Host for GlommioHost {
    fn write_timed(&self, peer: PeerRef, write: impl FnOnce(&mut BytesMut) -> Option<Timing>) {
        if peer.core != self.context.index {
            return self.send_frames(peer, write);
        }
        let Some(session) = self.peers.get(peer) else {
            return;
        };
        let (grown, timing) = {
            let mut out = session.out();
            let before = out.len();
            let timing = write(&mut out);
            (out.len() > before, timing)
        };
        if grown {
            self.written(&session, timing);
        }
    }

    fn write_made(&self, peer: PeerRef, frames: Bytes, timing: Option<Timing>) {
        if peer.core != self.context.index {
            return self.send_made(peer, frames, timing);
        }
        if let Some(session) = self.peers.get(peer) {
            session.push_out(frames);
            self.written(&session, timing);
        }
    }

    fn mono_us_now(&self) -> u64 {
        self.context.clock.mono_us_now()
    }

    fn profile(&self) -> &Profile {
        self.context.metrics.profile()
    }

    fn counts(&self) -> Counts {
        self.context.metrics.counts()
    }

    fn wall_ms(&self) -> u64 {
        self.context.clock.wall_ms()
    }

    fn wall_ms_now(&self) -> u64 {
        wall_now_ms()
    }

    fn mono_us(&self) -> u64 {
        self.context.clock.mono_us()
    }

    fn send_core(&self, core: CoreNumber, word: CoreWord) -> Result<(), Box<CoreWord>> {
        match self.mesh.get() {
            Some(mesh) => {
                let bytes = word.held_bytes();
                mesh.send_sized(core, word, bytes).map_err(Box::new)
            }
            None => Err(Box::new(word)),
        }
    }

    fn has_late_replies(&self) -> bool {
        self.late_replies.get() > 0
    }

    fn offer_control(&self, message: ToControl) -> Result<(), Box<ToControl>> {
        match self.to_control.try_send(message) {
            Ok(()) => Ok(()),
            Err(SendError::Full(message)) => Err(Box::new(message)),
            Err(SendError::Closed(_)) => {
                tracing::debug!("the control plane is gone");
                Ok(())
            }
        }
    }

    fn has_reply_room(&self, peer: PeerRef) -> bool {
        // A peer of another core is known there; what is under way to it is counted.
        let Some(session) = self.peers.get(peer) else {
            return self.replies.has_room();
        };
        match session.out_bytes() {
            0 => self.replies.has_room(),
            // Who reads finds room even while those who don't fill what they may have.
            _ => !self.replies.is_pressed() && session.takes_more(),
        }
    }

    fn has_unread(&self, peer: PeerRef) -> bool {
        let here = self.peers.get(peer);
        here.is_some_and(|session| session.out_bytes() > 0)
    }

    fn hold_reply(&self, bytes: usize) -> Option<Held> {
        Some(self.replies.hold(bytes))
    }

    fn close_peer(&self, peer: PeerRef) {
        if let Some(session) = self.peers.get(peer) {
            session.close(CloseReason::Handler);
        }
    }

    fn sleep_ms(&self, ms: u64) -> impl Future<Output = ()> + 'static {
        let clock = Rc::clone(&self.context.clock);
        async move {
            glommio::timer::sleep(Duration::from_millis(ms)).await;
            clock.refresh();
        }
    }

    fn breathe(&self) -> impl Future<Output = ()> + 'static {
        breathe()
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let watch = self.context.watch(BACKGROUND);
        self.context.spawn_serve(watch.over(task));
    }

    fn spawn_clean(&self, task: impl Future<Output = ()> + 'static) {
        let watch = self.context.watch(HOUSEKEEPING);
        self.context.spawn_clean(watch.over(task));
    }
}

/// The handler behind both ports.
struct Front {
    core: Rc<Core>,
    host: Rc<GlommioHost>,
}

impl FrameHandler for Front {
    fn on_frames(self: &Rc<Self>, session: &Rc<Session>, frames: &mut Vec<Frame>) {
        let caller = Caller {
            peer: session.id(),
            addr: session.peer_addr(),
        };
        for frame in frames.drain(..) {
            if let Err(error) = self.core.handle(caller, &frame) {
                tracing::debug!(peer = %caller.addr, %error, "a header that is none");
                session.close(CloseReason::BadFrame);
                return;
            }
        }
    }

    fn on_frames_done(self: &Rc<Self>, first_us: u64, read_us: u64, now_us: u64) {
        self.core.frames_done(first_us, read_us, now_us);
    }

    fn listening(&self) -> Listening {
        let mut all = Listening::default();
        for shard in self.core.shards() {
            all.pulls += shard.pulls_at_end();
            all.waits |= shard.waiters_count() > 0;
            all.reads_device |= shard.reads_device();
        }
        all
    }

    fn on_close(self: &Rc<Self>, session: &Rc<Session>) {
        let peer = session.id();
        self.core.peer_closed(peer);
        // Membership depends on it (trap 76): it may wait, but it isn't lost.
        if let Err(message) = self.host.offer_control(ToControl::PeerClosed(peer)) {
            let core = Rc::clone(&self.core);
            self.host
                .spawn(async move { core.send_patiently(*message).await });
        }
    }
}

/// One running data core.
pub struct RunningCore {
    core: Rc<Core>,
    host: Rc<GlommioHost>,
    net: Rc<Net<Front>>,
    stores: Stores,
    settings: Arc<BrokerSettings>,
    tails: Tails,
    has_listened: Cell<bool>,
}

impl RunningCore {
    /// Recovers this core's shards, joins mesh and mailboxes, and takes in what the control plane
    /// has sent so far. No port is open yet: see [`RunningCore::listen`].
    ///
    /// # Errors
    /// The data folder can't be used or a shard can't be recovered.
    pub async fn start(
        context: CoreContext,
        seat: CoreSeat,
        settings: Arc<BrokerSettings>,
        identity: StoreIdentity,
    ) -> Result<(Self, Vec<(ShardId, RecoveryReport)>), CoreStartError> {
        begin_profile(&context, &settings);
        let mut tails = Tails::default();
        let opened = open_shards(&context, &settings, identity, &mut tails).await;
        let (mut stores, mut reports) = opened?;
        let peers = PeerTable::new(context.index);
        let host = Rc::new(GlommioHost {
            context: context.clone(),
            peers: Rc::clone(&peers),
            mesh: OnceCell::new(),
            to_control: seat.to_control,
            scratch: RefCell::default(),
            replies: Arc::clone(&seat.replies),
            late_replies: Rc::default(),
        });
        let place = place_of(&context, &identity);
        let shutdown = context.shutdown.clone();
        let on_bug = Rc::new(move |line: &str| {
            tracing::error!(line, "a bug ends this process; recovery is fast");
            shutdown.fail(line);
        });
        let core = DataCore::new(place, Arc::clone(&settings), Rc::clone(&host), on_bug);
        add_shards(&core, &stores);
        let mesh = join_mesh(&context, seat.mesh, &core);
        drop(host.mesh.set(mesh));
        let mut positions = take_in(&core, &seat.from_control).await;
        if let Err(cause) = core.rebuild_transactions().await {
            let held = (identity, stores);
            (stores, reports) = open_again(&context, &settings, held, &mut tails, cause).await?;
            add_shards(&core, &stores);
            let rebuilt = core.rebuild_transactions().await;
            rebuilt.map_err(CoreStartError::Transactions)?;
        }
        core.on_control(&mut positions);
        let front = Rc::new(Front {
            core: Rc::clone(&core),
            host: Rc::clone(&host),
        });
        let options = net_options(&settings, context.count, seat.replies);
        let net = Net::new(&context, options, front, peers);
        context.spawn_serve(Rc::clone(&core).run_passes());
        context.spawn_serve(Rc::clone(&core).run_deadlines());
        context.spawn_serve(Rc::clone(&core).run_offsets());
        let (control, clock) = (Rc::clone(&core), Rc::clone(&context.clock));
        let mail = seat.from_control;
        context.spawn_serve(mail.serve(move |batch| {
            clock.refresh();
            control.watched(CONTROL, || control.on_control(batch));
        }));
        Ok((
            Self {
                core,
                host,
                net,
                stores,
                settings,
                tails,
                has_listened: Cell::new(false),
            },
            reports,
        ))
    }

    /// Opens the main port and the VIP port; returns their addresses. The first core claims them.
    ///
    /// # Errors
    /// An address is in use or refused.
    pub fn listen(
        &self,
        main: SocketAddr,
        vip: SocketAddr,
        claim: Claim,
    ) -> Result<(SocketAddr, SocketAddr), ListenError> {
        self.has_listened.set(true);
        Ok((self.net.listen(main, claim)?, self.net.listen(vip, claim)?))
    }

    /// The sockets of this core.
    pub fn connections(&self) -> usize {
        self.net.peers().len()
    }

    /// Stops in order: requests in the inboxes are done and answered, suspended pulls answered, the
    /// other cores waited for until they have got as far, offsets handed over, connections closed,
    /// stores synced, checkpointed and shut; then `CoreStopped`.
    pub async fn stop(self) {
        self.core.stop(self.others_ms()).await;
        self.net.close(Duration::from_millis(STOP_MS)).await;
        // What came while the last bytes left.
        self.core.hand_over_offsets().await;
        let mut is_clean = true;
        for (id, store) in &self.stores {
            match store.shutdown().await {
                Ok(()) => self.tails.forget(*id),
                Err(error) => {
                    is_clean = false;
                    tracing::error!(shard = %id, %error, "a shard could not be shut cleanly");
                }
            }
        }
        let core = self.host.context.index;
        let stopped = ToControl::CoreStopped { core, is_clean };
        self.core.send_patiently(stopped).await;
        tracing::debug!(core = self.host.context.index, dir = ?self.settings.data_dir, "stopped");
    }

    /// How long to wait for the other cores. Their answers are for clients, so not at all without
    /// any; a core that failed never gets there.
    fn others_ms(&self) -> u64 {
        let reason = self.host.context.shutdown.reason();
        if !self.has_listened.get() {
            0
        } else if reason.is_some_and(|reason| reason.is_failure()) {
            FAILED_OTHERS_MS
        } else {
            OTHERS_MS
        }
    }
}

fn net_options(
    settings: &BrokerSettings,
    cores: CoreNumber,
    replies: Arc<SharedBudget>,
) -> NetOptions {
    let memory = settings.memory_plan(cores);
    NetOptions {
        idle_ms: settings.channel_idle_max_seconds.saturating_mul(1000),
        out_bytes_soft: memory.out_bytes_soft,
        out_bytes_max: memory.out_bytes_max,
        assembly_bytes_max: memory.assembly_bytes,
        replies,
        coalesce_max_us: coalesce_max_us(settings, cores),
        ..NetOptions::default()
    }
}

/// How long requests may gather on one core. With several, a request may find up to three of them
/// gathering on its way: its own core, the queue's, and its own again for the answer. Under
/// `SYNC_FLUSH` the device gathers: what comes during a write makes the next one.
fn coalesce_max_us(settings: &BrokerSettings, cores: CoreNumber) -> u64 {
    if settings.flush_disk_type == FlushDiskType::Sync {
        return 0;
    }
    let hops = if cores > 1 { 3 } else { 1 };
    settings.coalesce_max_us / hops
}

fn begin_profile(context: &CoreContext, settings: &BrokerSettings) {
    if settings.latency_profile_enable {
        let now_us = context.clock.mono_us_now();
        context.metrics.profile().begin(now_us);
    }
}

fn join_mesh(
    context: &CoreContext,
    seat: MeshSeat<CoreWord>,
    core: &Rc<Core>,
) -> Rc<Mesh<CoreWord>> {
    let core = Rc::clone(core);
    Mesh::join(context, seat, move |_, batch| {
        core.watched(WORDS, || core.on_words(batch));
    })
}

fn place_of(context: &CoreContext, identity: &StoreIdentity) -> CorePlace {
    CorePlace {
        number: context.index,
        cores: context.count,
        shards_count: identity.shards_count,
        seed: identity.id ^ context.clock.wall_ms() ^ (u64::from(context.index) << 20),
    }
}

/// Takes in what the control plane has for a core that starts, until it says that this was all.
/// Consumer offsets are given back: they are for shards that are known to stay.
async fn take_in(core: &Rc<Core>, mail: &MailReceiver<ToData>) -> Vec<ToData> {
    let (mut batch, mut positions, mut is_loaded) = (Vec::new(), Vec::new(), false);
    while !is_loaded && mail.recv_batch(&mut batch).await {
        is_loaded = batch.iter().any(|word| matches!(word, ToData::Loaded));
        let is_position = |word: &mut ToData| matches!(word, ToData::OffsetsLoaded(_));
        positions.extend(batch.extract_if(.., is_position));
        core.on_control(&mut batch);
    }
    positions
}

#[cfg(test)]
#[path = "seat_tests.rs"]
mod tests;
