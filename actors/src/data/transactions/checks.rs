//! Check-backs: producers that have not said how their transaction ended are asked.
//!
//! **Owns** when a half is checked and when it is given up.
//! **Lives on** the core of the half's shard; whom to ask is decided by `control::supervisors`.
//! **Invariants** a half that has ended, or whose end is under way, is not checked. A check counts
//! whether or not a producer is there, as in RocketMQ. What is given up is kept in
//! `TRANS_CHECK_MAX_TIME_TOPIC`.
//! **Limits** one round a shard, [`ROUND_HALVES_MAX`] halves and [`ROUND_BYTES_MAX`] bytes of
//! records at a time; due times are looked at once a second at least.
//! **Not here** the table (`halves`), ends (`ends`), moving halves forward (`moves`).

use std::rc::Rc;

use gantry_runtime::net::PeerRef;

use super::halves::Due;
use crate::data::core::DataCore;
use crate::data::host::Host;
use crate::data::queue::store::QueueStore;
use crate::data::shard::Shard;
use crate::data::shard::transactions::TransactionQueues;
use crate::data::words::{End, ReplyTo, Verdict};
use crate::seam::{HalfCheck, ToControl};
use crate::transaction::Half;

/// Halves checked at a time.
pub const ROUND_HALVES_MAX: usize = 128;
/// Bytes of their records, after which no further one joins: what the control plane holds of them.
pub const ROUND_BYTES_MAX: usize = 1024 * 1024;
/// Where an answer goes that nobody waits for.
pub(in crate::data) fn nobody() -> ReplyTo {
    ReplyTo {
        peer: PeerRef {
            core: 0,
            slot: u32::MAX,
            generation: 0,
        },
        opaque: 0,
        encoding: gantry_protocol::frame::HeaderEncoding::Json,
        one_way: true,
        read_us: 0,
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
        let record = match shard.open_half(queues.half, due.offset).await {
            Ok(Some(record)) => record,
            // Under SYNC_FLUSH a half may be due before the device has it.
            Ok(None) => return None,
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
}
