//! What was sent and what came back: the judge of loss, repeats, order and damage.
//!
//! **Owns** per queue and sending connection how many messages were issued and which of them were
//! not acknowledged; per consumer group, queue and sender what was received.
//! **Lives on** the generator's executor; handed on from one phase of a run to the next.
//! **Invariants** an acknowledged message that a group did not receive is lost, one that came twice
//! is a repeat, one that came after a later one of its sender is out of order. A message whose send
//! was not acknowledged may be there or not.
//! **Limits** [`HOLES_MAX`] remembered holes and unacknowledged messages; beyond it the verdict
//! says that it can't be given.
//! **Not here** reading records (`consumer`), what a stamp looks like (`wire::payload`).

use std::collections::{BTreeSet, HashMap};

use crate::wire::payload::Stamp;
use crate::wire::templates::Written;

/// Holes and unacknowledged messages remembered in all: some 100 MiB at the most.
const HOLES_MAX: usize = 1_000_000;

/// The counts of a verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Stamped messages received, over all groups.
    pub received: u64,
    /// Acknowledged and not received.
    pub lost: u64,
    /// Received again.
    pub repeated: u64,
    /// Received after a later message of the same sender and queue.
    pub reordered: u64,
    /// Checksum wrong.
    pub corrupt: u64,
    /// Queue offsets that did not follow on each other.
    pub offset_gaps: u64,
    /// Delayed messages received, or stamped by the broker, before they were due.
    pub early: u64,
    /// Messages with a due time behind one of their queue that was due later.
    pub out_of_due_order: u64,
    /// Messages of other programs or runs, left out.
    pub foreign: u64,
    /// More holes than can be remembered: `lost` is at least what it says.
    pub overflow: bool,
    /// The broker was killed meanwhile: it may repeat.
    pub may_repeat: bool,
}

/// Messages that were due before the run began.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overdue {
    /// How many came.
    pub count: u64,
    /// When the last of them came, ns since the start of the run.
    pub last_ns: u64,
}

impl Verdict {
    /// Whether what was received is what was sent. Order between the sends of one connection counts
    /// only if asked for: some brokers handle pipelined sends with several threads.
    pub fn is_good(&self, strict_order: bool) -> bool {
        self.lost == 0
            && (self.repeated == 0 || self.may_repeat)
            && self.corrupt == 0
            && self.offset_gaps == 0
            && self.early == 0
            && !self.overflow
            && (!strict_order || self.reordered == 0)
    }
}

/// Which streams a reader believes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Those of this run, whose issues are in the ledger.
    ThisRun(u32),
    /// Any: a backlog that another run left, from its first message on.
    Anything,
}

#[derive(Debug, Default)]
struct Seen {
    next: u64,
    holes: BTreeSet<u64>,
}

/// The ledger of a run.
#[derive(Debug)]
pub struct Ledger {
    expect: Expect,
    queues: usize,
    /// Per stream, per queue: issued.
    issued: Vec<Vec<u64>>,
    /// Per (stream, queue): issued, not acknowledged.
    open: HashMap<(u32, u32), BTreeSet<u64>>,
    /// Per group and queue: (run, stream) to what was seen.
    seen: Vec<HashMap<(u32, u32), Seen>>,
    /// Per group and queue: the latest due time received.
    latest_due_ns: Vec<u64>,
    remembered: usize,
    counts: Verdict,
    overdue: Overdue,
}

impl Ledger {
    /// For `groups` reading `queues` queues each.
    pub fn new(expect: Expect, groups: usize, queues: usize) -> Self {
        Self {
            expect,
            queues,
            issued: Vec::new(),
            open: HashMap::new(),
            seen: (0..groups * queues).map(|_| HashMap::new()).collect(),
            latest_due_ns: vec![0; groups * queues],
            remembered: 0,
            counts: Verdict::default(),
            overdue: Overdue::default(),
        }
    }

    /// A sending connection has ended; `issued` counts its messages per queue.
    pub fn issued(&mut self, stream: u32, issued: &[u64]) {
        let at = stream as usize;
        if self.issued.len() <= at {
            self.issued.resize(at + 1, Vec::new());
        }
        if let Some(slot) = self.issued.get_mut(at) {
            *slot = issued.to_vec();
        }
    }

    /// A send was refused, or its reply never came.
    pub fn not_acknowledged(&mut self, stream: u32, written: &Written, messages: u64) {
        for sequence in written.first..written.first + messages {
            if self.remember() {
                let open = self.open.entry((stream, written.queue)).or_default();
                open.insert(sequence);
            }
        }
    }

    /// Messages that every group should receive.
    pub fn acknowledged(&self) -> u64 {
        let issued: u64 = self.issued.iter().flatten().sum();
        let open: usize = self.open.values().map(BTreeSet::len).sum();
        issued.saturating_sub(open as u64)
    }

    /// Whether all has come: `wanted` messages over all groups, and of those that were acknowledged
    /// each one. Messages that were refused and are there all the same stand for no others.
    pub fn is_all_here(&self, wanted: u64) -> bool {
        self.distinct_received() >= wanted && self.verdict().lost == 0
    }

    /// Stamped messages received so far over all groups, repeats left out.
    pub fn distinct_received(&self) -> u64 {
        self.counts.received - self.counts.repeated
    }

    /// Messages received so far, whoever sent them.
    pub fn heard(&self) -> u64 {
        self.counts.received + self.counts.foreign + self.counts.corrupt
    }

    /// A group received a message. `false`: it is not one to measure.
    pub fn received(&mut self, group: usize, queue: usize, stamp: &Stamp) -> bool {
        if let Expect::ThisRun(run) = self.expect
            && run != stamp.run
        {
            self.counts.foreign += 1;
            return false;
        }
        self.counts.received += 1;
        let Some(senders) = self.seen.get_mut(group * self.queues + queue) else {
            return false;
        };
        let seen = senders.entry((stamp.run, stamp.stream)).or_default();
        let sequence = stamp.sequence;
        if sequence == seen.next {
            seen.next += 1;
        } else if sequence > seen.next {
            let room = HOLES_MAX.saturating_sub(self.remembered) as u64;
            let new = sequence - seen.next;
            seen.holes
                .extend((seen.next..sequence).take(usize::try_from(new.min(room)).unwrap_or(0)));
            self.remembered += usize::try_from(new.min(room)).unwrap_or(0);
            self.counts.overflow |= new > room;
            seen.next = sequence + 1;
        } else if seen.holes.remove(&sequence) {
            self.remembered -= 1;
            self.counts.reordered += 1;
        } else {
            self.counts.repeated += 1;
        }
        true
    }

    /// A message whose checksum is wrong.
    pub fn corrupt(&mut self) {
        self.counts.corrupt += 1;
    }

    /// A message without a stamp.
    pub fn foreign(&mut self) {
        self.counts.foreign += 1;
    }

    /// A queue offset did not follow on the one before.
    pub fn offset_gap(&mut self) {
        self.counts.offset_gaps += 1;
    }

    /// A delayed message came before it was due.
    pub fn early(&mut self) {
        self.counts.early += 1;
    }

    /// A message that was due at `due_ns` came at `now_ns` by the same clock: before it was due, or
    /// stamped so by the broker? After those of its queue that were due before?
    pub fn due(
        &mut self,
        (group, queue, due_ns): (usize, usize, u64),
        now_ns: u64,
        is_stamped_early: bool,
    ) {
        self.counts.early += u64::from(due_ns > now_ns || is_stamped_early);
        if let Some(latest) = self.latest_due_ns.get_mut(group * self.queues + queue) {
            self.counts.out_of_due_order += u64::from(due_ns < *latest);
            *latest = due_ns.max(*latest);
        }
    }

    /// A message came at `now_ns` that was due before the run began.
    pub fn was_overdue(&mut self, now_ns: u64) {
        self.overdue.count += 1;
        self.overdue.last_ns = now_ns;
    }

    /// Messages that were due before the run began.
    pub fn overdue(&self) -> Overdue {
        self.overdue
    }

    /// What came of it, once sending and receiving are over.
    pub fn verdict(&self) -> Verdict {
        let mut verdict = self.counts;
        verdict.lost = match self.expect {
            Expect::Anything => {
                let senders = self.seen.iter().flat_map(HashMap::values);
                senders.map(|seen| seen.holes.len() as u64).sum()
            }
            Expect::ThisRun(run) => self.lost_of(run),
        };
        verdict
    }

    fn lost_of(&self, run: u32) -> u64 {
        const NOTHING: &Seen = &Seen {
            next: 0,
            holes: BTreeSet::new(),
        };
        let mut lost = 0;
        for (at, senders) in self.seen.iter().enumerate() {
            let queue = at % self.queues.max(1);
            for (stream, issued) in (0_u32..).zip(&self.issued) {
                let issued = issued.get(queue).copied().unwrap_or(0);
                let seen = senders.get(&(run, stream)).unwrap_or(NOTHING);
                let key = (stream, u32::try_from(queue).unwrap_or(u32::MAX));
                let open = self.open.get(&key);
                let excused = |n: &u64| open.is_some_and(|open| open.contains(n));
                let holes = seen.holes.iter().filter(|n| !excused(n)).count() as u64;
                let tail_open = open.map_or(0, |open| open.range(seen.next..).count() as u64);
                let tail = issued.saturating_sub(seen.next).saturating_sub(tail_open);
                lost += holes + tail;
            }
        }
        lost
    }

    fn remember(&mut self) -> bool {
        let fits = self.remembered < HOLES_MAX;
        self.counts.overflow |= !fits;
        self.remembered += usize::from(fits);
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: u32 = 9;

    fn ledger(issued: u64) -> Ledger {
        let mut ledger = Ledger::new(Expect::ThisRun(RUN), 1, 1);
        ledger.issued(0, &[issued]);
        ledger
    }

    fn receive(ledger: &mut Ledger, sequences: &[u64]) {
        for sequence in sequences {
            let stamp = Stamp {
                run: RUN,
                stream: 0,
                sequence: *sequence,
                intended_ns: 0,
            };
            ledger.received(0, 0, &stamp);
        }
    }

    fn judge(issued: u64, sequences: &[u64]) -> Verdict {
        let mut ledger = ledger(issued);
        receive(&mut ledger, sequences);
        ledger.verdict()
    }

    #[test]
    fn all_in_order_is_good() {
        let verdict = judge(4, &[0, 1, 2, 3]);
        assert!(verdict.is_good(true));
        assert_eq!(verdict.received, 4);
    }

    #[test]
    fn loss_is_found_in_the_middle_at_the_end_and_of_everything() {
        assert_eq!(judge(4, &[0, 2, 3]).lost, 1);
        assert_eq!(judge(4, &[0, 1]).lost, 2);
        assert_eq!(judge(4, &[]).lost, 4);
    }

    #[test]
    fn order_and_repeats_are_told_apart() {
        let verdict = judge(4, &[0, 2, 1, 3, 3]);
        assert_eq!(
            (verdict.lost, verdict.reordered, verdict.repeated),
            (0, 1, 1)
        );
        let swapped = judge(3, &[0, 2, 1]);
        assert!(swapped.is_good(false));
        assert!(!swapped.is_good(true));
    }

    #[test]
    fn a_refused_message_may_be_there_or_not() {
        for got in [&[0, 2, 3][..], &[0, 1, 2, 3], &[0, 2]] {
            let mut ledger = ledger(4);
            let written = |first| Written {
                queue: 0,
                first,
                counter: 0,
            };
            ledger.not_acknowledged(0, &written(1), 1);
            ledger.not_acknowledged(0, &written(3), 1);
            assert_eq!(ledger.acknowledged(), 2);
            receive(&mut ledger, got);
            assert_eq!(ledger.verdict().lost, 0, "{got:?}");
        }
    }

    /// As a broker does it that answers `FLUSH_DISK_TIMEOUT`: what it refused comes first.
    #[test]
    fn refused_messages_that_come_do_not_stand_for_acknowledged_ones() {
        let mut ledger = ledger(60);
        let written = Written {
            queue: 0,
            first: 0,
            counter: 0,
        };
        ledger.not_acknowledged(0, &written, 10);
        let wanted = ledger.acknowledged();
        assert_eq!(wanted, 50);
        receive(&mut ledger, &(0..50).collect::<Vec<u64>>());
        assert_eq!(ledger.distinct_received(), wanted);
        assert!(!ledger.is_all_here(wanted), "ten are on their way");
        receive(&mut ledger, &(50..60).collect::<Vec<u64>>());
        assert!(ledger.is_all_here(wanted));
    }

    #[test]
    fn all_is_here_once_every_group_has_it() {
        let mut ledger = Ledger::new(Expect::ThisRun(RUN), 2, 1);
        ledger.issued(0, &[2]);
        for (group, sequence, is_all) in [
            (0, 0, false),
            (0, 1, false),
            (0, 1, false),
            (1, 0, false),
            (1, 1, true),
        ] {
            let stamp = Stamp {
                run: RUN,
                stream: 0,
                sequence,
                intended_ns: 0,
            };
            ledger.received(group, 0, &stamp);
            assert_eq!(ledger.is_all_here(2 * ledger.acknowledged()), is_all);
        }
    }

    #[test]
    fn what_comes_before_its_time_or_is_stamped_so_is_early() {
        let mut ledger = ledger(4);
        let at = |due_ns| (0, 0, due_ns);
        ledger.due(at(10), 10, false);
        ledger.due(at(11), 20, false);
        assert_eq!(
            ledger.verdict(),
            Verdict {
                lost: 4,
                ..Verdict::default()
            }
        );
        ledger.due(at(21), 20, false);
        ledger.due(at(22), 30, true);
        ledger.early();
        receive(&mut ledger, &[0, 1, 2, 3]);
        let verdict = ledger.verdict();
        assert_eq!((verdict.early, verdict.out_of_due_order), (3, 0));
        assert!(!verdict.is_good(false));
    }

    #[test]
    fn due_order_is_that_of_a_group_s_queue() {
        let mut ledger = Ledger::new(Expect::ThisRun(RUN), 2, 2);
        for (group, queue, due_ns) in [
            (0, 0, 20),
            (0, 1, 10),
            (1, 0, 10),
            (0, 0, 20),
            (0, 0, 30),
            // Behind 30 both, though not behind each other.
            (0, 0, 15),
            (0, 0, 16),
        ] {
            ledger.due((group, queue, due_ns), 100, false);
        }
        let verdict = ledger.verdict();
        assert_eq!((verdict.early, verdict.out_of_due_order), (0, 2));
        // The order of what falls due is told, not judged.
        assert!(verdict.is_good(true));
    }

    #[test]
    fn a_wrong_queue_offset_is_not_good() {
        let mut ledger = ledger(1);
        receive(&mut ledger, &[0]);
        assert!(ledger.verdict().is_good(true));
        ledger.offset_gap();
        assert_eq!(ledger.verdict().offset_gaps, 1);
        assert!(!ledger.verdict().is_good(false));
    }

    #[test]
    fn other_runs_do_not_count() {
        let mut ledger = ledger(0);
        let stamp = Stamp {
            run: RUN + 1,
            stream: 0,
            sequence: 5,
            intended_ns: 0,
        };
        assert!(!ledger.received(0, 0, &stamp));
        assert_eq!(ledger.verdict().foreign, 1);
        assert!(ledger.verdict().is_good(true));
    }

    #[test]
    fn a_foreign_backlog_is_checked_from_its_start() {
        let mut ledger = Ledger::new(Expect::Anything, 1, 1);
        receive(&mut ledger, &[0, 1, 3]);
        assert_eq!(ledger.verdict().lost, 1);
    }
}
