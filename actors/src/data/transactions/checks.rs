//! Check-backs: producers that have not said how their transaction ended are asked.
//!
//! **Owns** when a half is checked and when it is given up.
//! **Lives on** the core of the half's shard; whom to ask is decided by `control::transactions`.
//! **Invariants** a half that has ended, or whose end is under way, is not checked. A check counts
//! whether or not a producer is there, as in RocketMQ. What is given up is kept in
//! `TRANS_CHECK_MAX_TIME_TOPIC`.
//! **Limits** one round a shard, [`ROUND_HALVES_MAX`] halves and [`ROUND_BYTES_MAX`] bytes of
//! records at a time; due times are looked at once a second at least.
//! **Not here** the table (`halves`), ends (`ends`).

use std::rc::Rc;

use gantry_runtime::net::PeerRef;
use gantry_storage::units::{FilePosition, QueueOffset};

use super::halves::Due;
use crate::data::core::DataCore;
use crate::data::host::Host;
use crate::data::queue::store::QueueStore;
use crate::data::shard::Shard;
use crate::data::shard::transactions::TransactionQueues;
use crate::data::words::{Append, End, ReplyTo, TransactionStep, Verdict};
use crate::seam::{HalfCheck, ToControl};
use crate::transaction::Half;

/// Halves checked at a time.
pub const ROUND_HALVES_MAX: usize = 128;
/// Bytes of their records, after which no further one joins: what the control plane holds of them.
pub const ROUND_BYTES_MAX: usize = 1024 * 1024;
/// Halves moved forward by one call.
pub const MOVES_MAX: usize = 1024;

/// An end that nobody waits for.
fn nobody() -> ReplyTo {
    ReplyTo {
        peer: PeerRef {
            core: 0,
            slot: u32::MAX,
            generation: 0,
        },
        opaque: 0,
        encoding: gantry_protocol::frame::HeaderEncoding::Json,
        one_way: true,
    }
}

impl<S: QueueStore, H: Host> DataCore<S, H> {
    /// Begins to check what is due.
    pub fn check_halves(self: &Rc<Self>) {
        let now_ms = self.host.wall_ms();
        for shard in self.shards() {
            if shard.begin_checks(now_ms) {
                let here = Rc::clone(self);
                self.host.spawn(async move {
                    here.check_round(&shard).await;
                    shard.end_checks();
                });
            }
        }
    }

    async fn check_round(self: &Rc<Self>, shard: &Rc<Shard<S, H>>) {
        let Some(queues) = shard.transaction_queues() else {
            return;
        };
        // Due again only after the interval, so the round comes to its end.
        let now_ms = self.host.wall_ms();
        let again_ms = now_ms.saturating_add(self.settings.transaction_check_interval_ms);
        loop {
            let due = shard.take_due_halves(now_ms, again_ms, ROUND_HALVES_MAX);
            if due.is_empty() {
                return;
            }
            let mut batch = Vec::new();
            let mut bytes = 0;
            for one in due {
                let Some(check) = self.check_one(shard, &queues, one, again_ms).await else {
                    continue;
                };
                bytes += check.record.len();
                batch.push(check);
                if bytes > ROUND_BYTES_MAX {
                    let full = ToControl::CheckHalves(std::mem::take(&mut batch));
                    self.send_patiently(full).await;
                    bytes = 0;
                }
            }
            if !batch.is_empty() {
                self.send_patiently(ToControl::CheckHalves(batch)).await;
            }
        }
    }

    async fn check_one(
        self: &Rc<Self>,
        shard: &Rc<Shard<S, H>>,
        queues: &TransactionQueues,
        due: Due,
        again_ms: u64,
    ) -> Option<HalfCheck> {
        let record = match shard.half_record(queues.half, due.offset).await {
            Ok(Some(record)) => record,
            // Under SYNC_FLUSH a half may be due before the device has it: it is not readable yet.
            Ok(None) if due.offset >= shard.store().bounds(queues.half).min => return None,
            Ok(None) => {
                tracing::error!(half = %due.offset, "an open half message is gone from the log");
                shard.half_ended(due.offset);
                return None;
            }
            Err(error) => {
                tracing::warn!(half = %due.offset, %error, "a half message can't be checked now");
                return None;
            }
        };
        let Some(half) = Half::of(&record) else {
            tracing::error!(half = %due.offset, "no half message: it is not checked any more");
            shard.half_ended(due.offset);
            return None;
        };
        let settings = &self.settings;
        let is_old = half.age_ms(self.host.wall_ms()) > settings.transaction_age_ms_max;
        if due.checks >= settings.transaction_check_max || is_old {
            let end = End {
                group: None,
                half: half.id.offset,
                physical: None,
                verdict: Verdict::GiveUp,
                from_check: true,
                record: Some(Ok(record.clone())),
            };
            if let Err(refusal) = shard.post_end(nobody(), end) {
                tracing::debug!(why = refusal.remark, "giving a half up waits");
            }
            return None;
        }
        let checks = shard.half_checked(due.offset, again_ms)?;
        Some(HalfCheck { record, checks })
    }

    /// Ends the half at `offset` of a shard by an operator's word.
    pub fn resolve_half(&self, shard: &Rc<Shard<S, H>>, half: QueueOffset, verdict: Verdict) {
        let end = End {
            group: None,
            half,
            physical: None,
            verdict,
            from_check: true,
            record: None,
        };
        if let Err(refusal) = shard.post_end(nobody(), end) {
            tracing::debug!(why = refusal.remark, "an operator's word was not taken");
        }
    }

    /// Where the first open half of a shard lies; none when none is open. Below it no segment is
    /// needed by transactions.
    ///
    /// # Errors
    /// Why that isn't known: the table isn't read yet, or the record can't be.
    pub async fn halves_floor(
        &self,
        shard: &Rc<Shard<S, H>>,
    ) -> Result<Option<FilePosition>, String> {
        let Some(queues) = shard.transaction_queues() else {
            return Err("the open half messages are not known yet".to_owned());
        };
        let first = shard.with_halves(|halves| halves.open_from(QueueOffset(0)).next());
        let Some((offset, ..)) = first else {
            return Ok(None);
        };
        let record = shard.half_record(queues.half, offset).await;
        let record = record.map_err(|error| error.to_string())?;
        let place = record.as_deref().and_then(position);
        let unread = || format!("the half at {offset} can't be read");
        place.map(Some).ok_or_else(unread)
    }

    /// Stores the open halves that lie below `below` again, at the log's end, under the names their
    /// producers know. True when none is left below; call again otherwise.
    pub async fn move_halves_forward(&self, shard: &Rc<Shard<S, H>>, below: FilePosition) -> bool {
        let Some(queues) = shard.transaction_queues() else {
            return true;
        };
        let first: Vec<_> = shard.with_halves(|halves| {
            let open = halves.open_from(QueueOffset(0));
            open.take(MOVES_MAX).collect()
        });
        let mut all = first.len() < MOVES_MAX;
        for (offset, checks, due_ms) in first {
            let Ok(Some(record)) = shard.half_record(queues.half, offset).await else {
                continue;
            };
            if position(&record).is_some_and(|at| at >= below) {
                return true;
            }
            let Some(half) = Half::of(&record) else {
                continue;
            };
            // One whose end is under way will be gone by the next call.
            if shard.undecided_half(half.id.offset).is_err() {
                all = false;
                continue;
            }
            let append = moved(&half, &record, &queues, checks, due_ms);
            shard.post_step(queues.half, nobody(), append);
        }
        all
    }
}

fn position(record: &[u8]) -> Option<FilePosition> {
    let view = gantry_protocol::message::RecordView::parse(record).ok()?;
    let physical = view.physical_offset.cast_unsigned();
    gantry_storage::address::locate(gantry_storage::units::PhysicalOffset(physical))
        .map(|(_, position)| position)
}

fn moved(
    half: &Half<'_>,
    record: &bytes::Bytes,
    queues: &TransactionQueues,
    checks: u32,
    due_ms: u64,
) -> Append {
    let step = TransactionStep::Moved {
        first: half.id.offset,
    };
    let mut append = super::ends::copied(half, record, &queues.half_topic, step);
    append.properties = half.properties_for_move(checks).into();
    append.marks = crate::data::words::Marks {
        // Negative: a rebuild reads the record to learn its first name.
        tags_code: -i64::try_from(due_ms).unwrap_or(i64::MAX),
        ..crate::data::words::Marks::default()
    };
    append
}
