//! The shard's side of supervision: what became of a message, and rows of what is owed.
//!
//! **Owns** the one place that tells an asker its outcome; the rows that wait to be readable and
//! those that wait for the control plane.
//! **Lives on** the data core of the shard.
//! **Invariants** a row leaves once its record could be acknowledged, in the order of the log, many
//! in one message. A supervisor's record is never "late": it is answered when it is committed, or
//! when it never will be. So is the end of another shard's half, whose client hears that it is.
//! **Limits** `OWED_WAITING_MAX` rows (see `Shard::admit_owed`), `OWED_ROWS_MAX` a message.
//! **Not here** errands (`data::orders::errands`), what is done about a row (`control`).

use std::collections::VecDeque;

use gantry_protocol::code::response;
use gantry_runtime::metrics::Timing;
use gantry_storage::address;
use gantry_storage::shard_store::Appended;
use gantry_storage::units::{FilePosition, QueueKey};

use super::acks::LATE;
use super::timing::timing_of;
use super::{Inner, Shard};
use crate::data::host::Host;
use crate::data::queue::append::Ack;
use crate::data::queue::asker::Asker;
use crate::data::queue::store::QueueStore;
use crate::data::transactions::checks::nobody;
use crate::refusal::{BusyCause, Refusal};
use crate::seam::ToControl;
use crate::seam::errands::Placed;
use crate::seam::owed::{OWED_ROWS_MAX, OWED_WAITING_MAX, OwedRow};

/// Rows on their way.
#[derive(Debug, Default)]
pub struct OwedRows {
    /// Stored, with the end of their bytes in the log; not yet readable.
    unread: VecDeque<(FilePosition, OwedRow)>,
    /// For the control plane.
    ready: VecDeque<OwedRow>,
}

impl OwedRows {
    /// A record was stored.
    pub fn note(&mut self, key: QueueKey, appended: &Appended, time_ms: u64) {
        let start = address::locate(appended.physical).map_or(appended.end, |(_, at)| at);
        let row = OwedRow {
            queue: key,
            offset: appended.queue_offset,
            physical: appended.physical,
            bytes: u32::try_from(appended.end.since(start)).unwrap_or(u32::MAX),
            time_ms,
            store_ms: appended.store_timestamp.0,
        };
        self.unread.push_back((appended.end, row));
    }

    /// Whether some wait for room in the control plane's mailbox.
    pub fn are_waiting(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Since when the oldest of them waits, ms since 1970.
    fn oldest_ms(&self) -> Option<u64> {
        let unread = self.unread.front().map(|(_, row)| row);
        self.ready.front().or(unread).map(|row| row.store_ms)
    }

    /// Rows that are not yet with the control plane.
    pub fn count(&self) -> usize {
        self.unread.len() + self.ready.len()
    }
}

impl<S: QueueStore, H: Host> Shard<S, H> {
    /// Whether a message that something is owed for can be taken.
    pub(super) fn admit_owed(
        &self,
        inner: &Inner,
        key: QueueKey,
        topic: &str,
    ) -> Result<(), Refusal> {
        if inner.owed.count() < OWED_WAITING_MAX {
            return Ok(());
        }
        let now_ms = self.host.wall_ms();
        let since_ms = inner.owed.oldest_ms().unwrap_or(now_ms);
        let remark = format!(
            "shard {}, topic {topic} queue {}, {} delayed or half messages wait for the control \
             plane, the first for {} ms",
            self.id,
            key.queue,
            inner.owed.count(),
            now_ms.saturating_sub(since_ms)
        );
        Err(self.host.busy(BusyCause::Control, &remark))
    }

    /// Says that a message wasn't stored; `timing` if its sender is timed.
    pub(super) fn refuse_asker(
        &self,
        inner: &mut Inner,
        asker: &Asker,
        refusal: &Refusal,
        timing: Option<Timing>,
    ) {
        match asker {
            Asker::Client(to) => self.host.refuse_timed(*to, refusal, timing),
            Asker::Replier(to, pushed) => {
                let marks = &self.rules.marks;
                marks.refuse_pushed(&*self.host, *to, pushed, refusal);
            }
            Asker::Transaction(to, step) => {
                self.step_failed(inner, *step, refusal);
                self.host.refuse_timed(*to, refusal, timing);
            }
            Asker::Supervisor(slot) => slot.tell(Err(refusal.clone())),
        }
    }

    /// Says that a message is stored as the flush mode promises, since `now_us`.
    pub(super) fn acknowledge(&self, ack: &Ack, now_us: u64) {
        match &ack.asker {
            Asker::Client(to) => {
                let timing = timing_of(*to, ack, now_us);
                self.rules
                    .marks
                    .write(&*self.host, (*to, &timing), ack, response::SUCCESS, None);
            }
            Asker::Transaction(to, step) => {
                self.answer_step(ack, (*to, *step), response::SUCCESS, None, now_us);
            }
            Asker::Replier(to, pushed) => {
                let marks = &self.rules.marks;
                marks.write_pushed(&*self.host, *to, pushed, Some(ack));
            }
            Asker::Supervisor(slot) => slot.tell(Ok(Placed {
                offset: ack.offset,
                physical: ack.physical,
            })),
        }
    }

    /// Says that a flush took too long, or (`never`) that the shard takes nothing any more. Gives
    /// back the answer of whoever should go on waiting: a supervisor, another shard's half.
    pub(super) fn acknowledge_late(&self, mut ack: Ack, never: Option<&str>) -> Option<Ack> {
        let late = "the flush took longer than syncFlushTimeout; the message is stored";
        let remark = never.unwrap_or(late);
        let now_us = self.host.mono_us();
        match &ack.asker {
            Asker::Transaction(to, step) => {
                let step = *step;
                self.answer_step(&ack, (*to, step), LATE, Some(remark), now_us);
                let waits = never.is_none() && step.ends_elsewhere(self.id);
                waits.then(|| {
                    // The client has its answer.
                    ack.asker = Asker::Transaction(nobody(), step);
                    ack
                })
            }
            Asker::Client(to) => {
                let timing = timing_of(*to, &ack, now_us);
                self.rules
                    .marks
                    .write(&*self.host, (*to, &timing), &ack, LATE, Some(remark));
                None
            }
            Asker::Replier(to, pushed) => {
                let marks = &self.rules.marks;
                marks.write_pushed(&*self.host, *to, pushed, Some(&ack));
                None
            }
            Asker::Supervisor(slot) => {
                let Some(why) = never else { return Some(ack) };
                slot.tell(Err(Refusal::new(response::SERVICE_NOT_AVAILABLE, why)));
                None
            }
        }
    }

    /// Hands rows over that have become readable. What finds no room waits for the next tick.
    pub(super) fn hand_over_owed(&self, inner: &mut Inner) {
        if inner.owed.count() == 0 {
            return;
        }
        let readable = self.store.acknowledged();
        let owed = &mut inner.owed;
        while let Some((_, row)) = owed.unread.pop_front_if(|(end, _)| *end <= readable) {
            owed.ready.push_back(row);
        }
        while !owed.ready.is_empty() {
            let count = owed.ready.len().min(OWED_ROWS_MAX);
            let rows: Vec<OwedRow> = owed.ready.drain(..count).collect();
            let Err(back) = self.host.offer_control(ToControl::Owed(rows)) else {
                continue;
            };
            if let ToControl::Owed(rows) = *back {
                for row in rows.into_iter().rev() {
                    owed.ready.push_front(row);
                }
            }
            return;
        }
    }
}
