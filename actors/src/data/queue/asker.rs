//! Who hears what became of a message: a client, a supervisor of the control plane, a transaction,
//! the sender of a reply.
//!
//! **Owns** the four kinds, and a supervisor's batch while its records are being stored.
//! **Lives on** the queue's data core.
//! **Invariants** every record of a batch gets one outcome; the batch is answered once, when the
//! last one has its own.
//! **Limits** a batch is one errand (`seam::errands`).
//! **Not here** sending the answer (`data::orders::errands`).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use gantry_protocol::code::response;

use crate::data::shard::signal::Signal;
use crate::data::words::{Append, Pushed, ReplyTo, TransactionStep};
use crate::refusal::Refusal;
use crate::seam::errands::Placed;

/// Who waits.
#[derive(Debug, Clone)]
pub enum Asker {
    /// A client, for a reply.
    Client(ReplyTo),
    /// A supervisor, for its batch.
    Supervisor(SupplySlot),
    /// A transaction that goes on with this record, and perhaps its producer.
    Transaction(ReplyTo, TransactionStep),
    /// The sender of a reply that was pushed, or not: that outcome is what it is told.
    Replier(ReplyTo, Arc<Pushed>),
}

impl Asker {
    /// Who waits for a message that came from a core.
    pub fn of(reply: ReplyTo, append: &Append) -> Self {
        match (append.step(), append.pushed()) {
            (Some(step), _) => Self::Transaction(reply, step),
            (None, Some(pushed)) => Self::Replier(reply, Arc::clone(pushed)),
            (None, None) => Self::Client(reply),
        }
    }

    /// Whom the answer to a send goes to, if it was sent by a client.
    pub fn sender(&self) -> Option<ReplyTo> {
        match self {
            Self::Client(to) | Self::Transaction(to, TransactionStep::Half { .. }) => Some(*to),
            Self::Transaction(..) | Self::Supervisor(_) | Self::Replier(..) => None,
        }
    }
}

/// A record's place in its batch.
#[derive(Debug, Clone)]
pub struct SupplySlot {
    batch: Rc<SupplyBatch>,
    number: usize,
}

/// A batch being stored.
#[derive(Debug)]
pub struct SupplyBatch {
    outcomes: RefCell<Vec<Option<Result<Placed, Refusal>>>>,
    missing: Cell<usize>,
    complete: Signal,
}

impl SupplyBatch {
    /// A batch of so many records, at least one.
    pub fn new(count: usize) -> Rc<Self> {
        Rc::new(Self {
            outcomes: RefCell::new(vec![None; count]),
            missing: Cell::new(count),
            complete: Signal::default(),
        })
    }

    /// The place of its record `number`.
    pub fn slot(self: &Rc<Self>, number: usize) -> SupplySlot {
        SupplySlot {
            batch: Rc::clone(self),
            number,
        }
    }

    /// Waits until every record has its outcome.
    pub async fn outcomes(&self) -> Vec<Result<Placed, Refusal>> {
        if self.missing.get() > 0 {
            self.complete.wait().await;
        }
        let outcomes = self.outcomes.take().into_iter();
        outcomes
            .map(|outcome| {
                outcome.unwrap_or_else(|| {
                    let remark = "a record of a batch was forgotten";
                    Err(Refusal::new(response::SYSTEM_ERROR, remark))
                })
            })
            .collect()
    }
}

impl SupplySlot {
    /// Says what became of the record; a second word is ignored.
    pub fn tell(&self, outcome: Result<Placed, Refusal>) {
        let mut outcomes = self.batch.outcomes.borrow_mut();
        let Some(place) = outcomes.get_mut(self.number) else {
            return;
        };
        if place.is_some() {
            return;
        }
        *place = Some(outcome);
        drop(outcomes);
        let missing = self.batch.missing.get().saturating_sub(1);
        self.batch.missing.set(missing);
        if missing == 0 {
            self.batch.complete.set();
        }
    }
}
