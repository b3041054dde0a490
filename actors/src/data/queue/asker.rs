//! Who hears what became of a message: a client, or a transaction.
//!
//! **Owns** the two kinds.
//! **Lives on** the queue's data core.
//! **Invariants** every message has one asker, and is answered once.
//! **Limits** none of its own; as many as there are messages in the inboxes.
//! **Not here** the answer (`shard::answers`).

use crate::data::words::{Append, ReplyTo, TransactionStep};

/// Who waits.
#[derive(Debug, Clone, Copy)]
pub enum Asker {
    /// A client, for a reply.
    Client(ReplyTo),
    /// A transaction that goes on with this record, and perhaps its producer.
    Transaction(ReplyTo, TransactionStep),
}

impl Asker {
    /// Who waits for this message.
    pub fn of(reply: ReplyTo, append: &Append) -> Self {
        match append.step {
            None => Self::Client(reply),
            Some(step) => Self::Transaction(reply, step),
        }
    }
}
