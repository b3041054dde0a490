//! Core to core: one batch per tick and target core.
//!
//! **Owns** the channels between the data cores and what waits to be sent on them.
//! **Lives on** each data core: a seat is made before the cores start and joined on its core.
//! **Invariants** messages from one core to another arrive in the order they were sent. A message
//! sent to the own core takes the same road, so callers need no special case. Sending never waits.
//! **Limits** [`WAITING_MESSAGES_MAX`] messages wait per target beyond the [`CHANNEL_BATCHES_MAX`]
//! batches under way; above that `send` gives the message back, which means busy. A batch is at
//! most [`WAITING_MESSAGES_MAX`] messages.
//! **Not here** the control plane's mailboxes (`mailbox`).

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use glommio::channels::shared_channel::{
    ConnectedReceiver, ConnectedSender, SharedReceiver, SharedSender, new_bounded,
};

use crate::metrics::CoreMetrics;
use crate::shard::{CoreContext, spawn_into};

/// Messages that may wait in a core for one other core.
pub const WAITING_MESSAGES_MAX: usize = 16 * 1024;
/// Batches under way from one core to another.
pub const CHANNEL_BATCHES_MAX: usize = 64;

type Batch<M> = Vec<M>;

/// What one core takes with it to join the mesh; `Send`.
pub struct MeshSeat<M: Send + 'static> {
    to: Vec<Option<SharedSender<Batch<M>>>>,
    from: Vec<Option<SharedReceiver<Batch<M>>>>,
}

/// Seats for `cores` cores, in the order of their numbers.
pub fn seats<M: Send + 'static>(cores: usize) -> Vec<MeshSeat<M>> {
    let mut all: Vec<MeshSeat<M>> = (0..cores)
        .map(|_| MeshSeat {
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
    metrics: Rc<CoreMetrics>,
}

struct Lane<M> {
    waiting: RefCell<Batch<M>>,
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
            waker: RefCell::default(),
        });
        let mesh = Rc::new(Self {
            lanes: lanes.collect(),
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
        let Some(lane) = self.lanes.get(usize::from(target)) else {
            return Err(message);
        };
        let mut waiting = lane.waiting.borrow_mut();
        if waiting.len() >= WAITING_MESSAGES_MAX {
            return Err(message);
        }
        waiting.push(message);
        drop(waiting);
        if let Some(waker) = lane.waker.borrow_mut().take() {
            waker.wake();
        }
        Ok(())
    }

    /// Messages waiting for `target`.
    pub fn waiting(&self, target: u16) -> usize {
        self.lanes
            .get(usize::from(target))
            .map_or(0, |lane| lane.waiting.borrow().len())
    }

    async fn next(&self, index: usize, batch: &mut Batch<M>) {
        poll_fn(|cx| {
            let Some(lane) = self.lanes.get(index) else {
                return Poll::Pending;
            };
            let mut waiting = lane.waiting.borrow_mut();
            if waiting.is_empty() {
                *lane.waker.borrow_mut() = Some(cx.waker().clone());
                return Poll::Pending;
            }
            std::mem::swap(&mut *waiting, batch);
            Poll::Ready(())
        })
        .await;
    }
}

async fn carry<M: Send + 'static>(mesh: Rc<Mesh<M>>, index: usize, sender: SharedSender<Batch<M>>) {
    let sender: ConnectedSender<Batch<M>> = sender.connect().await;
    loop {
        let mut batch = Vec::new();
        mesh.next(index, &mut batch).await;
        mesh.metrics.count(|counts| {
            counts.mesh_batches += 1;
            counts.mesh_messages += batch.len() as u64;
        });
        if sender.send(batch).await.is_err() {
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
        mesh.next(index, &mut batch).await;
        on_batch(number(index), &mut batch);
        batch.clear();
    }
}

async fn receive<M: Send + 'static, F: Fn(u16, &mut Vec<M>)>(
    core: CoreContext,
    from: u16,
    receiver: SharedReceiver<Batch<M>>,
    on_batch: Rc<F>,
) {
    let receiver: ConnectedReceiver<Batch<M>> = receiver.connect().await;
    while let Some(mut batch) = receiver.recv().await {
        core.clock.refresh();
        on_batch(from, &mut batch);
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
        let seats: Vec<_> = seats::<u32>(3)
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
}
