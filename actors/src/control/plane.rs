//! What the parts of the control plane share.
//!
//! **Owns** the tables, the way out to the cores, the members, and the address of every part.
//! **Lives on** the control plane's thread, as one `Rc`.
//! **Invariants** a table is written by its own part only; the others borrow it to read, never
//! across an await. Members outlive the part that feeds them, so that its restart loses nobody.
//! **Limits** none of its own.
//! **Not here** what the parts do.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use gantry_protocol::code::response;
use gantry_runtime::clock::wall_now_ms;
use gantry_runtime::control::{RestartBudget, caught};
use gantry_runtime::shutdown::Shutdown;

use crate::refusal::Refusal;
use crate::seam::CORE_OPAQUE_BIT;
use crate::settings::BrokerSettings;

use super::admin::Admin;
use super::admin::config::ConfigBook;
use super::admin::stats::Stats;
use super::cleaning::Cleaning;
use super::cores::ask::Asker;
use super::cores::errands::Errands;
use super::cores::outbox::Outbox;
use super::cores::owed::OwedInbox;
use super::groups::Groups;
use super::groups::calls::Calls;
use super::groups::members::Members;
use super::groups::table::GroupTable;
use super::ledger::Ledger;
use super::offsets::Offsets;
use super::registration::Registration;
use super::reply::{Reply, ReplyTo};
use super::supervision::shell::Inbox;
use super::supervision::tree::Tree;
use super::supervisors::delay::Delay;
use super::supervisors::retry::Retry;
use super::supervisors::transactions::Transactions;
use super::topics::Topics;
use super::topics::table::TopicTable;

/// Where each part receives.
pub struct Book {
    /// Topics.
    pub topics: Inbox<Topics>,
    /// Groups, producers and consumers.
    pub groups: Inbox<Groups>,
    /// Consumer offsets.
    pub offsets: Inbox<Offsets>,
    /// Check-backs.
    pub transactions: Inbox<Transactions>,
    /// Runtime report and live settings.
    pub admin: Inbox<Admin>,
    /// The name servers.
    pub registration: Registration,
}

/// The shared state; see the room's head.
pub struct Plane {
    /// As configured at start.
    pub settings: Arc<BrokerSettings>,
    /// The embedded store.
    pub ledger: Ledger,
    /// To the cores.
    pub outbox: Rc<Outbox>,
    /// Open questions to the cores.
    pub asker: Asker,
    /// What the cores do for supervisors.
    pub errands: Errands,
    /// Rows of parked messages that the cores have stored.
    pub owed: OwedInbox,
    /// All topics.
    pub topics: RefCell<TopicTable>,
    /// All group configurations.
    pub groups: RefCell<GroupTable>,
    /// Live producers and consumers.
    pub members: RefCell<Members>,
    /// What was stored and delivered; the admin actor feeds it.
    pub stats: RefCell<Stats>,
    /// Open requests to clients.
    pub calls: Calls,
    /// The settings as they are now; the admin actor changes them.
    pub config: RefCell<ConfigBook>,
    /// Delayed messages.
    pub delay: Delay,
    /// Messages that consumers send back.
    pub retry: Retry,
    /// `brokerPermission`, which code 25 changes.
    pub permission: Cell<i32>,
    /// When this broker started, ms.
    pub boot_ms: i64,
    /// Retention and the watch over the disk.
    pub cleaning: Cleaning,
    /// Names, restarts.
    pub tree: Tree,
    /// Ends the process when a part can't go on.
    pub shutdown: Shutdown,
    book: OnceCell<Book>,
    next_opaque: Cell<i32>,
}

impl Plane {
    /// The shared state of a control plane whose parts haven't started.
    pub fn new(
        settings: Arc<BrokerSettings>,
        ledger: Ledger,
        outbox: Rc<Outbox>,
        shutdown: Shutdown,
    ) -> Rc<Self> {
        let boot_ms = i64::try_from(wall_now_ms()).unwrap_or(i64::MAX);
        let memory = settings.memory_plan(outbox.cores());
        Rc::new(Self {
            asker: Asker::new(Rc::clone(&outbox)),
            errands: Errands::new(Rc::clone(&outbox), &settings),
            owed: OwedInbox::default(),
            outbox,
            ledger,
            topics: RefCell::default(),
            groups: RefCell::default(),
            members: RefCell::new(Members::new(memory.subscribed_bytes)),
            delay: Delay::default(),
            retry: Retry::default(),
            permission: Cell::new(settings.broker_permission),
            cleaning: Cleaning::default(),
            stats: RefCell::new(Stats::new(&settings.cluster_name, boot_ms)),
            calls: Calls::default(),
            config: RefCell::new(ConfigBook::new(&settings)),
            boot_ms,
            tree: Tree::default(),
            shutdown,
            book: OnceCell::new(),
            next_opaque: Cell::new(0),
            settings,
        })
    }

    /// Enters the parts' addresses, once.
    pub fn open_book(&self, book: Book) {
        // A second book would be a bug of the start; the first one stays.
        let _ = self.book.set(book);
    }

    /// The parts' addresses.
    pub fn book(&self) -> &Book {
        self.book
            .get()
            .expect("`start` opens the book before any message flows")
    }

    /// Wall clock, ms.
    #[allow(
        clippy::unused_self,
        reason = "the plane is where a test's clock would go"
    )]
    pub fn now_ms(&self) -> i64 {
        i64::try_from(wall_now_ms()).unwrap_or(i64::MAX)
    }

    /// Numbers the broker's own requests to clients; their replies are matched per connection.
    pub fn take_opaque(&self) -> i32 {
        let opaque = self.next_opaque.get();
        self.next_opaque
            .set(opaque.wrapping_add(1) & (CORE_OPAQUE_BIT - 1));
        opaque
    }

    /// Answers a client.
    pub fn reply(&self, to: &ReplyTo, reply: Reply) {
        if let Some(frame) = to.frame(reply) {
            self.outbox.write(to.peer, frame);
        }
    }

    /// Refuses a client's request.
    pub fn refuse(&self, to: &ReplyTo, refusal: &Refusal) {
        self.reply(to, Reply::refused(refusal));
    }

    /// Answers a client once `work` is done. A panic in it answers code 1 and costs nobody else
    /// anything.
    pub fn reply_later(
        self: &Rc<Self>,
        to: ReplyTo,
        work: impl Future<Output = Result<Reply, Refusal>> + 'static,
    ) {
        let plane = Rc::clone(self);
        actix::spawn(async move {
            let reply = match caught(work).await {
                Ok(outcome) => Reply::from(outcome),
                Err(panic) => {
                    tracing::error!(panic, "an admin request panicked");
                    Reply::refused(&Refusal::new(
                        response::SYSTEM_ERROR,
                        format!("a fault in the broker while answering: {panic}"),
                    ))
                }
            };
            plane.reply(&to, reply);
        });
    }

    /// The budget of a part, which stands in the tree from now on; over it the process stops.
    pub fn budget(&self, name: &'static str) -> RestartBudget {
        let budget = RestartBudget::new(name, &self.shutdown);
        self.tree.enter(name, budget.clone());
        budget
    }

    /// Tells a part something after a pause.
    pub fn tell_later(self: &Rc<Self>, pause: Duration, tell: impl FnOnce(&Book) + 'static) {
        let plane = Rc::clone(self);
        actix::spawn(async move {
            actix::clock::sleep(pause).await;
            tell(plane.book());
        });
    }

    /// A part can't go on: the process ends, and recovery is fast.
    pub fn give_up(&self, part: &str, why: &str) {
        self.shutdown
            .fail(&format!("control plane, part {part}: {why}"));
    }
}
