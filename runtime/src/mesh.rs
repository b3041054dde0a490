//! Core to core: one batch per tick and target core.
//!
//! **Owns** the channels between the data cores and what waits to be sent on them.
//! **Lives on** each data core: a seat is made before the cores start and joined on its core.
//! **Invariants** messages from one core to another arrive in the order they were sent. A message
//! sent to the own core takes the same road, so callers need no special case. Sending never waits.
//! **Limits** [`WAITING_MESSAGES_MAX`] messages wait per target beyond the [`CHANNEL_BATCHES_MAX`]
//! batches under way; above that `send` gives the message back, which means busy. A batch is at
//! most [`WAITING_MESSAGES_MAX`] messages. What holds memory is counted until its receiver has
//! handled it: as many bytes a core as its seat was made for, or a single larger message.
//! **Not here** the control plane's mailboxes (`mailbox`).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use glommio::channels::shared_channel::{
    ConnectedReceiver, ConnectedSender, SharedReceiver, SharedSender, new_bounded,
};

use crate::budget::shared::{Held, SharedBudget};
use crate::metrics::CoreMetrics;
use crate::shard::{CoreContext, spawn_into};

/// Messages that may wait in a core for one other core.
pub const WAITING_MESSAGES_MAX: usize = 16 * 1024;
/// Batches under way from one core to another.
pub const CHANNEL_BATCHES_MAX: usize = 64;

/// Messages that travel together.
struct Batch<M> {
    messages: Vec<M>,
    /// The memory of all of them.
    held: Option<Held>,
}

/// What one core takes with it to join the mesh; `Send`.
pub struct MeshSeat<M: Send + 'static> {
    bytes_max: usize,
    to: Vec<Option<SharedSender<Batch<M>>>>,
    from: Vec<Option<SharedReceiver<Batch<M>>>>,
}

/// Seats for `cores` cores, in the order of their numbers. What each has sent and is not handled
/// yet holds at most `bytes_max`, see [`Mesh::send_sized`].
pub fn seats<M: Send + 'static>(cores: usize, bytes_max: usize) -> Vec<MeshSeat<M>> {
    let mut all: Vec<MeshSeat<M>> = (0..cores)
        .map(|_| MeshSeat {
            bytes_max,
            to: Vec::new(),
            from: Vec::new(),
        })
        .collect();
    for target in 0..cores {
        let mut receivers = Vec::with_capacity(cores);
        for (source, seat) in all.iter_mut().enumerate() {
            if source == target {
                seat.to.push(None);
                receivers.push(None);
            } else {
                let (sender, receiver) = new_bounded(CHANNEL_BATCHES_MAX);
                seat.to.push(Some(sender));
                receivers.push(Some(receiver));
            }
        }
        if let Some(seat) = all.get_mut(target) {
            seat.from = receivers;
        }
    }
    all
}

/// The sending side of one core. Clone the `Rc`.
pub struct Mesh<M> {
    lanes: Vec<Lane<M>>,
    /// Bytes of messages that wait in all lanes.
    waiting_bytes: Cell<usize>,
    /// Bytes of batches that have left: the receivers count them off.
    under_way: Arc<SharedBudget>,
    metrics: Rc<CoreMetrics>,
}

struct Lane<M> {
    waiting: RefCell<Vec<M>>,
    bytes: Cell<usize>,
    waker: RefCell<Option<Waker>>,
}

impl<M: Send + 'static> Mesh<M> {
    /// Joins the mesh: every core must do so. `on_batch(from, batch)` is called for each batch that
    /// arrives; what it leaves in the batch is dropped.
    pub fn join(
        core: &CoreContext,
        seat: MeshSeat<M>,
        on_batch: impl Fn(u16, &mut Vec<M>) + 'static,
    ) -> Rc<Self> {
        let on_batch = Rc::new(on_batch);
        let lanes = seat.to.iter().map(|_| Lane {
            waiting: RefCell::default(),
            bytes: Cell::new(0),
            waker: RefCell::default(),
        });
        let mesh = Rc::new(Self {
            lanes: lanes.collect(),
            waiting_bytes: Cell::new(0),
            under_way: SharedBudget::new(seat.bytes_max),
            metrics: Rc::clone(&core.metrics),
        });
        for (index, sender) in seat.to.into_iter().enumerate() {
            let mesh = Rc::clone(&mesh);
            if let Some(sender) = sender {
                spawn_into(core.queues.serve, carry(mesh, index, sender));
            } else {
                spawn_into(
                    core.queues.serve,
                    carry_home(mesh, index, Rc::clone(&on_batch)),
                );
            }
        }
        for (index, receiver) in seat.from.into_iter().enumerate() {
            if let Some(receiver) = receiver {
                let (core, on_batch) = (core.clone(), Rc::clone(&on_batch));
                let queue = core.queues.serve;
                spawn_into(queue, receive(core, number(index), receiver, on_batch));
            }
        }
        mesh
    }

    /// Queues a message for `target`; it leaves with this tick's batch.
    ///
    /// # Errors
    /// The message comes back when too many wait for that core, or there is no such core.
    pub fn send(&self, target: u16, message: M) -> Result<(), M> {
        self.send_sized(target, message, 0)
    }

    /// As [`Mesh::send`], of a message that holds so many bytes beside itself.
    ///
    /// # Errors
    /// As there; also when this core's messages would hold too much, unless they hold nothing.
    pub fn send_sized(&self, target: u16, message: M, bytes: usize) -> Result<(), M> {
        let Some(lane) = self.lanes.get(usize::from(target)) else {
            return Err(message);
        };
        let mut waiting = lane.waiting.borrow_mut();
        if waiting.len() >= WAITING_MESSAGES_MAX || !self.has_room(bytes) {
            return Err(message);
        }
        waiting.push(message);
        drop(waiting);
        lane.bytes.set(lane.bytes.get() + bytes);
        self.waiting_bytes.set(self.waiting_bytes.get() + bytes);
        if let Some(waker) = lane.waker.borrow_mut().take() {
            waker.wake();
        }
        Ok(())
    }

    #[inline]
    fn has_room(&self, bytes: usize) -> bool {
        let held = self.waiting_bytes.get() + self.under_way.used();
        bytes == 0 || held == 0 || held.saturating_add(bytes) <= self.under_way.limit()
    }

    /// Messages waiting for `target`.
    pub fn waiting(&self, target: u16) -> usize {
        self.lanes
            .get(usize::from(target))
            .map_or(0, |lane| lane.waiting.borrow().len())
    }

    /// The next batch, in `messages`; the memory it holds.
    async fn next(&self, index: usize, messages: &mut Vec<M>) -> Option<Held> {
        poll_fn(|cx| {
            let Some(lane) = self.lanes.get(index) else {
                return Poll::Pending;
            };
            let mut waiting = lane.waiting.borrow_mut();
            if waiting.is_empty() {
                *lane.waker.borrow_mut() = Some(cx.waker().clone());
                return Poll::Pending;
            }
            std::mem::swap(&mut *waiting, messages);
            let bytes = lane.bytes.take();
            let left = self.waiting_bytes.get().saturating_sub(bytes);
            self.waiting_bytes.set(left);
            Poll::Ready((bytes > 0).then(|| self.under_way.hold(bytes)))
        })
        .await
    }
}

async fn carry<M: Send + 'static>(mesh: Rc<Mesh<M>>, index: usize, sender: SharedSender<Batch<M>>) {
    let sender: ConnectedSender<Batch<M>> = sender.connect().await;
    loop {
        let mut messages = Vec::new();
        let held = mesh.next(index, &mut messages).await;
        mesh.metrics.count(|counts| {
            counts.mesh_batches += 1;
            counts.mesh_messages += messages.len() as u64;
        });
        if sender.send(Batch { messages, held }).await.is_err() {
            // The other core has ended; the process is stopping.
            return;
        }
    }
}

async fn carry_home<M: Send + 'static, F: Fn(u16, &mut Vec<M>)>(
    mesh: Rc<Mesh<M>>,
    index: usize,
    on_batch: Rc<F>,
) {
    let mut batch = Vec::new();
    loop {
        let held = mesh.next(index, &mut batch).await;
        on_batch(number(index), &mut batch);
        batch.clear();
        drop(held);
    }
}

async fn receive<M: Send + 'static, F: Fn(u16, &mut Vec<M>)>(
    core: CoreContext,
    from: u16,
    receiver: SharedReceiver<Batch<M>>,
    on_batch: Rc<F>,
) {
    let receiver: ConnectedReceiver<Batch<M>> = receiver.connect().await;
    while let Some(Batch { mut messages, held }) = receiver.recv().await {
        core.clock.refresh();
        on_batch(from, &mut messages);
        drop(held);
    }
}

fn number(index: usize) -> u16 {
    u16::try_from(index).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::{CorePlan, DataCores};
    use crate::shutdown::Shutdown;
    use crate::topology::unbound;

    /// Every core sends numbered messages to every core; all arrive once, in order per pair.
    #[test]
    fn three_cores_full_mesh_keeps_order() {
        const EACH: u32 = 5_000;
        let shutdown = Shutdown::new();
        let (news, seen) = flume::unbounded::<(u16, u16, Vec<u32>)>();
        let seats: Vec<_> = seats::<u32>(3, usize::MAX)
            .into_iter()
            .map(|seat| (seat, news.clone()))
            .collect();
        let plan = CorePlan::new(unbound(3));
        let cores = DataCores::start(&plan, &shutdown, seats, |core, (seat, news)| async move {
            let me = core.index;
            let mesh = Mesh::join(&core, seat, move |from, batch: &mut Vec<u32>| {
                news.send((from, me, std::mem::take(batch))).unwrap();
            });
            for n in 0..EACH {
                for target in 0..core.count {
                    let mut message = n;
                    while let Err(back) = mesh.send(target, message) {
                        message = back;
                        glommio::executor().yield_now().await;
                    }
                }
                if n % 100 == 0 {
                    glommio::executor().yield_now().await;
                }
            }
            assert_eq!(mesh.send(9, 1), Err(1));
            core.shutdown.wait().await;
        })
        .unwrap();
        let mut next = [[0_u32; 3]; 3];
        let mut batches = 0;
        while next.iter().flatten().any(|n| *n < EACH) {
            let (from, to, batch) = seen
                .recv_timeout(std::time::Duration::from_secs(20))
                .unwrap();
            batches += 1;
            for n in batch {
                assert_eq!(n, next[usize::from(from)][usize::from(to)]);
                next[usize::from(from)][usize::from(to)] += 1;
            }
        }
        assert!(batches < 9 * EACH, "messages travel in batches");
        shutdown.ask("done");
        assert!(cores.join().is_empty());
    }
    /// A core's messages are held back by their bytes, and flow again once they are handled.
    #[test]
    fn bytes_on_their_way_are_bounded_until_they_are_handled() {
        let shutdown = Shutdown::new();
        let (go, gone) = flume::bounded::<()>(1);
        let seats: Vec<_> = seats::<u32>(2, 1_000)
            .into_iter()
            .map(|seat| (seat, go.clone(), gone.clone()))
            .collect();
        let plan = CorePlan::new(unbound(2));
        let cores = DataCores::start(
            &plan,
            &shutdown,
            seats,
            |core, (seat, go, gone)| async move {
                if core.index == 1 {
                    gone.recv_async().await.unwrap();
                    let _mesh = Mesh::join(&core, seat, |_, _: &mut Vec<u32>| {});
                    core.shutdown.wait().await;
                    return;
                }
                let mesh = Mesh::join(&core, seat, |_, _: &mut Vec<u32>| {});
                let single = mesh.send_sized(1, 1, 5_000);
                let further = mesh.send_sized(1, 2, 1);
                let empty = mesh.send(1, 3);
                go.send_async(()).await.unwrap();
                // It may be large, further ones may hold nothing.
                assert_eq!((single, further, empty), (Ok(()), Err(2), Ok(())));
                let mut tries = 0;
                while mesh.send_sized(1, 4, 600).is_err() {
                    crate::shard::breathe().await;
                    tries += 1;
                    assert!(tries < 1_000_000, "the receiver counts nothing off");
                }
                core.shutdown.ask("done");
            },
        )
        .unwrap();
        assert!(cores.join().is_empty());
    }
}
