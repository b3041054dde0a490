//! The way out: from the control plane to every data core.
//!
//! **Owns** the sending ends of the cores' mailboxes and what waits while one is full.
//! **Lives on** the control plane's thread.
//! **Invariants** what is sent to one core arrives in the order sent, so a reply never overtakes
//! the catalog change it depends on; a catalog change is never dropped.
//! **Limits** `WAITING_MAX` messages per full mailbox; beyond it frames to clients are dropped (the
//! client times out and asks again) and counted.
//! **Not here** what a message means (`seam`).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use gantry_runtime::mailbox::{MailSender, SendError};
use gantry_runtime::net::PeerRef;
use tokio::sync::Notify;

use crate::seam::{CatalogChange, CoreNumber, ToData};

/// Messages that wait here for one core before frames to its clients are dropped. A mailbox holds
/// 16 Ki; a core that far behind has been stuck for seconds.
const WAITING_MAX: usize = 64 * 1024;

struct Lane {
    sender: MailSender<ToData>,
    waiting: RefCell<VecDeque<ToData>>,
    wake: Notify,
    dropped: Cell<u64>,
}

impl Lane {
    fn push(&self, message: ToData) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            match self.sender.try_send(message) {
                Ok(()) | Err(SendError::Closed(_)) => return,
                Err(SendError::Full(message)) => waiting.push_back(message),
            }
        } else if waiting.len() >= WAITING_MAX && matches!(message, ToData::Write { .. }) {
            let dropped = self.dropped.get() + 1;
            self.dropped.set(dropped);
            if dropped.is_power_of_two() {
                tracing::warn!(
                    dropped,
                    "a data core is stuck: replies to its clients are dropped"
                );
            }
            return;
        } else {
            waiting.push_back(message);
        }
        self.wake.notify_one();
    }

    async fn pump(self: Rc<Self>) {
        loop {
            let next = self.waiting.borrow().front().cloned();
            match next {
                None => self.wake.notified().await,
                // The message leaves the queue only once sent, so that `push` keeps queueing behind
                // it.
                Some(message) => {
                    let sent = self.sender.send(message).await;
                    self.waiting.borrow_mut().pop_front();
                    if sent.is_err() {
                        self.waiting.borrow_mut().clear();
                        return;
                    }
                }
            }
        }
    }
}

/// The sending ends of all cores' mailboxes; see the room's head.
pub struct Outbox {
    lanes: Vec<Rc<Lane>>,
}

impl Outbox {
    /// An outbox to these cores, by core number. Call [`Outbox::run`] once a reactor runs.
    pub fn new(senders: Vec<MailSender<ToData>>) -> Self {
        let lanes = senders
            .into_iter()
            .map(|sender| {
                Rc::new(Lane {
                    sender,
                    waiting: RefCell::default(),
                    wake: Notify::new(),
                    dropped: Cell::new(0),
                })
            })
            .collect();
        Self { lanes }
    }

    /// Starts the tasks that empty what waits; on the control plane's own thread.
    pub fn run(&self) {
        for lane in &self.lanes {
            actix::spawn(Rc::clone(lane).pump());
        }
    }

    /// How many data cores there are.
    pub fn cores(&self) -> CoreNumber {
        CoreNumber::try_from(self.lanes.len()).unwrap_or(CoreNumber::MAX)
    }

    /// Sends to one core; a core that doesn't exist or has stopped gets nothing.
    pub fn send(&self, core: CoreNumber, message: ToData) {
        if let Some(lane) = self.lanes.get(usize::from(core)) {
            lane.push(message);
        }
    }

    /// Sends to every core.
    pub fn send_all(&self, message: &ToData) {
        for lane in &self.lanes {
            lane.push(message.clone());
        }
    }

    /// Tells every core of a catalog change.
    pub fn change(&self, change: CatalogChange) {
        self.send_all(&ToData::Catalog(change));
    }

    /// Writes a frame to a client.
    pub fn write(&self, peer: PeerRef, frame: bytes::Bytes) {
        self.send(peer.core, ToData::Write { peer, frame });
    }
}
