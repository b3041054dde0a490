//! What an asker hears of its message.
//!
//! **Owns** the one place that tells an asker its outcome.
//! **Lives on** the data core of the shard.
//! **Invariants** a step of a transaction that was not stored gives its half back to the checks.
//! **Limits** none of its own.
//! **Not here** when an answer may leave (`turns`, `ticks`), its bytes (`acks`).

use super::{Inner, Shard};
use crate::data::host::Host;
use crate::data::queue::append::Ack;
use crate::data::queue::asker::Asker;
use crate::data::queue::store::QueueStore;
use crate::refusal::Refusal;

impl<S: QueueStore, H: Host> Shard<S, H> {
    /// Says that a message wasn't stored.
    pub(super) fn refuse_asker(&self, inner: &mut Inner, asker: Asker, refusal: &Refusal) {
        match asker {
            Asker::Client(to) => self.host.refuse(to, refusal),
            Asker::Transaction(to, step) => {
                self.step_failed(inner, step);
                self.host.refuse(to, refusal);
            }
        }
    }

    /// Says that a message is stored: as the flush mode promises, or as `code` and `remark` say.
    pub(super) fn acknowledge(&self, ack: &Ack, code: i32, remark: Option<&str>) {
        match ack.asker {
            Asker::Client(to) => self.rules.marks.write(&*self.host, to, ack, code, remark),
            Asker::Transaction(to, step) => self.answer_step(ack, (to, step), code, remark),
        }
    }
}
