//! Starting and stopping the control plane.
//!
//! **Owns** the order of both, and the handle that the main thread holds.
//! **Lives on** the main thread (the handle) and the control plane's thread (`run`).
//! **Invariants** the cores' mailboxes hold the whole catalog and all offsets before `start`
//! returns; the broker is registered only on `register`, when its ports are open; it stops in the
//! order: leave the name servers, wait for the cores to hand over, commit.
//! **Limits** `START_MAX`, and the caller's limits.
//! **Not here** the cores and their listeners (`server/broker`).

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use gantry_runtime::control as thread;
use gantry_runtime::mailbox::{MailReceiver, MailSender, mailbox};
use gantry_runtime::shutdown::Shutdown;
use tokio::sync::{Notify, oneshot};

use crate::seam::{CatalogChange, CoreNumber, ToControl, ToData};
use crate::settings::BrokerSettings;

use super::cores::outbox::Outbox;
use super::ledger::Ledger;
use super::plane::{Book, Plane};
use super::registration::{LinkReport, Registration};
use super::supervision::shell;
use super::supervisors::{delay, retry};
use super::{cleaning, desk, groups, offsets};

/// Reading the tables takes about 1 s per million rows; beyond this something is wrong with the
/// disk.
const START_MAX: Duration = Duration::from_mins(2);
/// Orders that wait; the main thread gives one at a time.
const ORDERS_MAX: usize = 8;

/// What was read from the tables.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Topics, the built-in ones included.
    pub topics: usize,
    /// Consumer groups.
    pub groups: usize,
    /// Positions.
    pub offsets: usize,
}

/// Why the control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The thread or the actor system.
    #[error(transparent)]
    Thread(#[from] gantry_runtime::StartError),
    /// The tables.
    #[error("the tables in {path} can't be used: {why}")]
    Tables {
        /// Their folder.
        path: PathBuf,
        /// What is wrong with them.
        why: String,
    },
    /// It took too long.
    #[error("the control plane did not start within {} s", START_MAX.as_secs())]
    Late,
}

/// What the main thread asks of the running plane.
enum Order {
    Register(SyncSender<Vec<LinkReport>>),
    Unregister(SyncSender<()>),
    Finish {
        limit: Duration,
        done: SyncSender<Result<(), String>>,
    },
}

/// The running control plane; see the room's head.
#[derive(Debug)]
pub struct ControlPlane {
    thread: thread::ControlPlane,
    orders: MailSender<Order>,
    loaded: Loaded,
}

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Register(_) => "Register",
            Self::Unregister(_) => "Unregister",
            Self::Finish { .. } => "Finish",
        })
    }
}

/// What the thread is started with.
struct Seed {
    settings: Arc<BrokerSettings>,
    tables: PathBuf,
    mail: MailReceiver<ToControl>,
    cores: Vec<MailSender<ToData>>,
    orders: MailReceiver<Order>,
    started: SyncSender<Result<Loaded, String>>,
}

impl ControlPlane {
    /// Starts the thread, opens the tables in `tables`, and puts the catalog and the stored offsets
    /// into the cores' mailboxes (`cores`, by core number). Blocks until that is done.
    ///
    /// # Errors
    /// The tables can't be opened or read, or the thread can't be made.
    pub fn start(
        settings: Arc<BrokerSettings>,
        tables: &Path,
        mail: MailReceiver<ToControl>,
        cores: Vec<MailSender<ToData>>,
        shutdown: &Shutdown,
    ) -> Result<Self, StartError> {
        let (orders, orders_in) = mailbox(ORDERS_MAX);
        let (started, news) = sync_channel(1);
        let seed = Seed {
            settings,
            tables: tables.to_owned(),
            mail,
            cores,
            orders: orders_in,
            started,
        };
        let thread = thread::ControlPlane::start(shutdown, move |shutdown| run(seed, shutdown))?;
        match news.recv_timeout(START_MAX) {
            Ok(Ok(loaded)) => Ok(Self {
                thread,
                orders,
                loaded,
            }),
            Ok(Err(why)) => Err(StartError::Tables {
                path: tables.to_owned(),
                why,
            }),
            Err(_) => Err(StartError::Late),
        }
    }

    /// What was read from the tables.
    pub fn loaded(&self) -> Loaded {
        self.loaded
    }

    /// Registers at the name servers, now that the ports are open, and goes on doing so. Blocks
    /// until each was tried once (a few seconds at most when they are dead).
    pub fn register(&self) -> Vec<LinkReport> {
        let (done, report) = sync_channel(1);
        if self.orders.send_blocking(Order::Register(done)).is_err() {
            return Vec::new();
        }
        report.recv().unwrap_or_default()
    }

    /// Leaves the name servers, so that clients go elsewhere. Blocks until they have heard.
    pub fn unregister(&self) {
        let (done, heard) = sync_channel(1);
        if self.orders.send_blocking(Order::Unregister(done)).is_ok() {
            // No word means the plane is gone, and with it the registrations.
            let _ = heard.recv();
        }
    }

    /// Waits, at most `limit`, until every core has said `CoreStopped`, stores what they handed
    /// over, and ends the thread. Call it after the cores were told to stop.
    ///
    /// # Errors
    /// What couldn't be stored, or which cores were silent.
    pub fn finish(self, limit: Duration) -> Result<(), String> {
        let (done, outcome) = sync_channel(1);
        let Self { thread, orders, .. } = self;
        let order = Order::Finish { limit, done };
        let outcome = match orders.send_blocking(order) {
            Ok(()) => outcome
                .recv()
                .unwrap_or_else(|_| Err("it ended before its work".into())),
            Err(_) => Err("it had ended already".to_owned()),
        };
        let joined = thread.join();
        outcome.and(joined)
    }
}

/// The main task of the control plane's thread.
async fn run(seed: Seed, shutdown: Shutdown) {
    let Seed {
        settings,
        tables,
        mail,
        cores,
        orders,
        started,
    } = seed;
    let begun = begin(settings, &tables, cores, shutdown);
    let (plane, loaded) = match begun {
        Ok(begun) => begun,
        Err(why) => {
            // Nobody listens only when the main thread gave up waiting.
            let _ = started.send(Err(why));
            return;
        }
    };
    let _ = started.send(Ok(loaded));
    groups::scan_for_ever(&plane);
    actix::spawn(cleaning::run(Rc::clone(&plane)));
    delay::start(&plane);
    retry::start(&plane);
    let stopped = Rc::new(Stopped::default());
    let (serving, note) = (Rc::clone(&plane), Rc::clone(&stopped));
    actix::spawn(desk::serve(mail, serving, move |core, is_clean| {
        note.add(core, is_clean);
    }));
    obey(&orders, &plane, &stopped).await;
}

/// Opens the tables, starts the parts, fills the cores' mailboxes.
fn begin(
    settings: Arc<BrokerSettings>,
    tables: &Path,
    cores: Vec<MailSender<ToData>>,
    shutdown: Shutdown,
) -> Result<(Rc<Plane>, Loaded), String> {
    let ledger = Ledger::open(tables).map_err(|refusal| refusal.remark)?;
    let outbox = Rc::new(Outbox::new(cores));
    outbox.run();
    let registration = Registration::new(&settings.namesrv_addrs);
    let plane = Plane::new(settings, ledger, outbox, shutdown);
    let parts = || -> Result<(Book, usize), crate::refusal::Refusal> {
        let book = Book {
            topics: shell::start(&plane)?,
            groups: shell::start(&plane)?,
            offsets: shell::start(&plane)?,
            transactions: shell::start(&plane)?,
            admin: shell::start(&plane)?,
            registration,
        };
        publish(&plane);
        let rows = offsets::hand_out(&plane)?;
        Ok((book, rows))
    };
    let (book, offsets) = parts().map_err(|refusal| refusal.remark)?;
    plane.open_book(book);
    let loaded = Loaded {
        topics: plane.topics.borrow().count(),
        groups: plane.groups.borrow().iter().count(),
        offsets,
    };
    Ok((plane, loaded))
}

/// The whole catalog, as changes.
fn publish(plane: &Plane) {
    plane
        .outbox
        .change(CatalogChange::BrokerPermission(plane.permission.get()));
    let topics = plane.topics.borrow().iter().map(Arc::clone).collect();
    plane.outbox.change(CatalogChange::Topics(topics));
    groups::publish_all(plane);
}

/// Which cores have stopped, and whether with all their shards shut.
#[derive(Default)]
struct Stopped {
    cores: RefCell<HashMap<CoreNumber, bool>>,
    news: Notify,
}

impl Stopped {
    fn add(&self, core: CoreNumber, is_clean: bool) {
        self.cores.borrow_mut().insert(core, is_clean);
        self.news.notify_one();
    }

    fn are_clean(&self) -> bool {
        self.cores.borrow().values().all(|is_clean| *is_clean)
    }

    async fn all(&self, cores: CoreNumber) {
        while self.cores.borrow().len() < usize::from(cores) {
            self.news.notified().await;
        }
    }
}

/// Carries out the main thread's orders until the last one, or until the handle is gone.
async fn obey(orders: &MailReceiver<Order>, plane: &Rc<Plane>, stopped: &Stopped) {
    let mut batch = Vec::new();
    while orders.recv_batch(&mut batch).await {
        for order in batch.drain(..) {
            match order {
                Order::Register(done) => {
                    let registration = plane.book().registration.clone();
                    registration.run(plane);
                    let _ = done.send(registration.first_round().await);
                }
                Order::Unregister(done) => {
                    plane.book().registration.unregister(plane).await;
                    let _ = done.send(());
                }
                Order::Finish { limit, done } => {
                    let _ = done.send(finish(plane, stopped, limit).await);
                    return;
                }
            }
        }
    }
}

async fn finish(plane: &Rc<Plane>, stopped: &Stopped, limit: Duration) -> Result<(), String> {
    let cores = plane.outbox.cores();
    let waited = actix::clock::timeout(limit, stopped.all(cores)).await;
    let (done, stored) = oneshot::channel();
    let are_shut = waited.is_ok() && stopped.are_clean();
    if !are_shut {
        tracing::warn!("a shard was not shut: what was delivered last may be delivered again");
    }
    delay::close(plane, are_shut).await;
    plane.book().offsets.tell(offsets::Msg::Flush(done));
    let stored = actix::clock::timeout(limit, stored).await;
    match stored {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(refusal))) => return Err(format!("consumer offsets are not stored: {refusal}")),
        Ok(Err(_)) | Err(_) => return Err("consumer offsets may not be stored".to_owned()),
    }
    if waited.is_err() {
        let there = stopped.cores.borrow().len();
        return Err(format!("{there} of {cores} cores handed over in time"));
    }
    Ok(())
}
