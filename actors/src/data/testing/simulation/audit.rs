//! Reading everything back, as consumers do.
//!
//! **Owns** questions that wait for their answer, reading a queue from end to end, what a start
//! must have left.
//! **Lives on** a test's thread, inside the world's executor.
//! **Invariants** a queue read from end to end has one record at every offset, but for those that
//! were told damaged.
//! **Limits** `ANSWER_MS` for an answer.
//! **Not here** requests that don't wait (`life`).

use std::collections::BTreeMap;
use std::ops::Range;

use gantry_protocol::code::{request, response};
use gantry_protocol::command::Command;
use gantry_protocol::request::offset::QueueHeader;
use gantry_storage::disk::Disk;

use super::super::{ext, pull_frame, pull_header, request_frame};
use super::life::{Asked, raw_records};
use super::world::World;

/// Longest wait for an answer, on the simulated clock.
const ANSWER_MS: u64 = 20_000;
/// Offsets read again although they were known before a death.
const AGAIN: u64 = 20;

impl World {
    /// Sends a question and waits for the answer.
    pub async fn ask(
        &self,
        code: i32,
        ext: &[(&str, gantry_protocol::command::ExtValue<'_>)],
    ) -> Command {
        let opaque = self.next_opaque();
        self.asked.borrow_mut().insert(opaque, Asked::Answer(None));
        self.send(&request_frame(code, opaque, ext, b""));
        self.answer(opaque).await
    }

    async fn answer(&self, opaque: i32) -> Command {
        let until = self.disk.now_mono_us() + ANSWER_MS * 1000;
        loop {
            self.drain();
            if let Some(Asked::Answer(Some(_))) = self.asked.borrow().get(&opaque) {
                break;
            }
            assert!(
                self.disk.now_mono_us() < until,
                "no answer in {ANSWER_MS} ms"
            );
            self.disk.sleep_us(100).await;
        }
        match self.asked.borrow_mut().remove(&opaque) {
            Some(Asked::Answer(Some(reply))) => reply,
            _ => unreachable!("looked at just now"),
        }
    }

    /// A queue's next offset.
    pub async fn max_offset(&self, queue: u16) -> u64 {
        let header = QueueHeader {
            topic: "T",
            queue_id: i32::from(queue),
            committed: None,
        };
        let reply = self.ask(request::GET_MAX_OFFSET, &header.to_ext()).await;
        assert_eq!(reply.code, response::SUCCESS, "{reply:?}");
        ext(&reply, "offset").parse().unwrap()
    }

    /// Reads `from..to` of a queue; offsets the device can't give are passed
    /// over if they may be.
    pub async fn read_queue(&self, queue: u16, from: u64, to: u64) -> Option<u64> {
        let (mut at, mut greatest) = (from, None);
        let mut errors = 0;
        while at < to {
            let mut header = pull_header("T", i32::from(queue), at.cast_signed());
            header.max_msg_nums = 500;
            let opaque = self.next_opaque();
            self.asked.borrow_mut().insert(opaque, Asked::Answer(None));
            self.send(&pull_frame(opaque, &header));
            let reply = self.answer(opaque).await;
            if reply.code == response::PULL_OFFSET_MOVED {
                let next: u64 = ext(&reply, "nextBeginOffset").parse().unwrap();
                let min = self.min_of(queue, &self.oracle.borrow());
                assert!(
                    next > at && next <= min,
                    "queue {queue} offset {at}: {reply:?}"
                );
                at = next;
                continue;
            }
            let is_read = [response::SUCCESS, response::PULL_RETRY_IMMEDIATELY];
            if !is_read.contains(&reply.code) {
                let error = reply.code == response::SYSTEM_ERROR && self.index_may_fail();
                assert!(error, "queue {queue} offset {at} of {to}: {reply:?}");
                self.totals.borrow_mut().read_errors += 1;
                errors += 1;
                // Read errors pass; damage stays.
                if errors % 3 == 0 {
                    at += 1;
                }
                assert!(
                    errors < 100_000,
                    "queue {queue} offset {at}: errors without end"
                );
                continue;
            }
            let next: u64 = ext(&reply, "nextBeginOffset").parse().unwrap();
            assert!(next > at, "queue {queue} offset {at}: {reply:?}");
            for raw in raw_records(&reply.body) {
                let offset = raw.get(20..28).and_then(|bytes| bytes.first_chunk::<8>());
                let offset = u64::from_be_bytes(*offset.unwrap());
                assert!(offset >= at && offset < next, "queue {queue}: {offset}");
                self.pass_over(queue, at..offset);
                let mut oracle = self.oracle.borrow_mut();
                let slot = oracle.check_record(queue, offset, raw);
                greatest = greatest.max(slot.physical);
                at = offset + 1;
            }
            self.pass_over(queue, at..next);
            at = next;
        }
        greatest
    }

    /// Offsets that a read left out: they must have been told damaged.
    fn pass_over(&self, queue: u16, offsets: Range<u64>) {
        for offset in offsets {
            let slot = {
                let oracle = self.oracle.borrow();
                let slots = &oracle.queues[usize::from(queue)];
                let slot = slots.get(usize::try_from(offset).unwrap());
                slot.copied().flatten()
            };
            let oracle = &mut *self.oracle.borrow_mut();
            if self.may_be_gone(queue, offset, oracle) {
                continue;
            }
            let excused = self.is_passed_over(queue, slot.as_ref(), oracle);
            assert!(
                excused,
                "queue {queue} offset {offset}, {slot:?}, is left out, told damaged: {:?}",
                self.told_damaged(queue)
            );
            self.totals.borrow_mut().read_errors += 1;
        }
    }

    /// Reads all queues from end to end, as far as the device lets it.
    pub async fn read_everything(&self) {
        for queue in 0..self.mix.queues {
            let end = self.max_offset(queue).await;
            self.read_queue(queue, 0, end).await;
        }
    }

    /// After a start: compares what is left with what must be, reads at least what is new.
    pub async fn audit(&self, whole: bool) {
        let mut survived = BTreeMap::new();
        let mut ends = Vec::new();
        for queue in 0..self.mix.queues {
            let end = self.max_offset(queue).await;
            ends.push(end);
            let known = self.oracle.borrow().queues[usize::from(queue)]
                .iter()
                .position(|slot| !slot.is_some_and(|slot| slot.power_safe))
                .map_or(end, |at| at as u64);
            let from = if whole {
                0
            } else {
                known.saturating_sub(AGAIN)
            };
            if let Some(physical) = self.read_queue(queue, from.min(end), end).await {
                let most = survived.entry(self.shard_of(queue)).or_insert(physical);
                *most = physical.max(*most);
            }
        }
        self.settle_death(&ends, &mut survived);
        self.settle_recovery();
    }
}
