//! What the read at work has brought, for the latency profile.
//!
//! **Owns** the count of a read's sends and pulls, and the cores they went to.
//! **Lives on** the session's data core.
//! **Invariants** counted while the read's frames are handled, told once behind them: one look at
//! the clock a read. Requests that wait for a topic or group to be made are told when they go on.
//! **Limits** none.
//! **Not here** the recorder (`gantry_runtime::metrics`).

use std::cell::Cell;

use gantry_runtime::metrics::{Front, Kind, Stage, Timing};
use gantry_storage::units::{QueueId, QueueKey, TopicId};

use crate::data::core::DataCore;
use crate::data::host::Host;
use crate::data::queue::store::QueueStore;
use crate::data::requests::dispatch::kind_of;
use crate::data::router::CoreWord;
use crate::seam::CoreNumber;

/// This room's name in the profile: what a stall of it is called.
const FRAMES: &str = "requests (frames of one read)";

/// In place of the queue of a request whose topic isn't there: no topic has this number.
const NO_QUEUE: QueueKey = QueueKey {
    topic: TopicId(0),
    queue: QueueId(0),
};

/// See the module. Each count by itself: they change with each frame.
#[derive(Debug, Default)]
pub struct Reading {
    frames: Cell<u64>,
    sends: Cell<u64>,
    pulls: Cell<u64>,
    /// What the first frame was: the only one that may have come in pieces.
    first: Cell<Option<Kind>>,
    /// What the last frame was.
    last: Cell<Option<Kind>>,
    /// Bit by bit, the other cores that got some of it.
    cores: Cell<u64>,
}

impl Reading {
    fn of(&self, kind: Kind) -> &Cell<u64> {
        match kind {
            Kind::Send => &self.sends,
            Kind::Pull => &self.pulls,
        }
    }

    /// A frame is being handled; `kind` if it is of one that is timed. Not while the profile is
    /// off.
    #[inline]
    pub fn note(&self, kind: Option<Kind>) {
        let before = self.frames.get();
        self.frames.set(before + 1);
        self.last.set(kind);
        if before == 0 {
            self.first.set(kind);
        }
        if let Some(kind) = kind {
            let count = self.of(kind);
            count.set(count.get() + 1);
        }
    }

    /// The frame being handled waits: its time comes later.
    pub fn put_off(&self) {
        if let Some(kind) = self.last.take() {
            let count = self.of(kind);
            count.set(count.get().saturating_sub(1));
        }
    }

    /// Some of it went to another core.
    pub fn went_to(&self, core: CoreNumber) {
        let bit = 1_u64.checked_shl(u32::from(core)).unwrap_or(0);
        self.cores.set(self.cores.get() | bit);
    }

    /// What the read brought; the next one begins.
    fn take(&self) -> Self {
        Self {
            frames: Cell::new(self.frames.take()),
            sends: Cell::new(self.sends.take()),
            pulls: Cell::new(self.pulls.take()),
            first: Cell::new(self.first.take()),
            last: Cell::new(self.last.take()),
            cores: Cell::new(self.cores.take()),
        }
    }
}

impl<S: QueueStore, H: Host> DataCore<S, H> {
    /// All frames of a read are handled. `first_us`: when the first byte of the first one came.
    pub fn frames_done(&self, first_us: u64, read_us: u64, now_us: u64) {
        let profile = self.host.profile();
        profile.ran(FRAMES, read_us, now_us);
        let brought = self.reading.take();
        if brought.sends.get() + brought.pulls.get() == 0 {
            return;
        }
        for kind in [Kind::Send, Kind::Pull] {
            let count = brought.of(kind).get();
            profile.record(kind, Stage::Decode, now_us.saturating_sub(read_us), count);
            let in_pieces = u64::from(count > 0 && brought.first.get() == Some(kind));
            let took_us = read_us.saturating_sub(first_us);
            profile.record(kind, Stage::Read, took_us, in_pieces);
            profile.record(kind, Stage::Read, 0, count - in_pieces);
        }
        profile.decoded(self.number, read_us, now_us, now_us);
        for core in (0..self.cores).filter(|core| brought.cores.get() >> core & 1 == 1) {
            let word = CoreWord::Decoded {
                core: self.number,
                read_us,
                decoded_us: now_us,
            };
            // A full road: the other core counts this batch's way as waiting.
            drop(self.host.send_core(core, word));
        }
    }

    /// A request that had to wait for its topic or group goes on.
    pub(in crate::data) fn resumed(&self, read_us: u64) {
        let brought = self.reading.take();
        let took_us = self.host.mono_us().saturating_sub(read_us);
        for kind in [Kind::Send, Kind::Pull] {
            let count = brought.of(kind).get();
            let profile = self.host.profile();
            profile.record(kind, Stage::Decode, took_us, count);
        }
    }
}

impl<S: QueueStore, H: Host> DataCore<S, H> {
    /// A request is refused that was read at `read_us` and waited for its topic or group.
    pub(super) fn time_refused(&self, code: i32, read_us: u64) -> Option<Timing> {
        let profile = self.host.profile();
        let kind = kind_of(code).filter(|_| profile.is_on())?;
        let now_us = self.host.mono_us();
        let took_us = now_us.saturating_sub(read_us);
        profile.record(kind, Stage::Decode, took_us, 1);
        Some(Timing {
            kind,
            refused: Some(Stage::Decode),
            queue: NO_QUEUE,
            bytes: 0,
            read_us,
            answered_us: now_us,
            front: Front {
                decode_us: u32::try_from(took_us).unwrap_or(u32::MAX),
                ..Front::default()
            },
            work_us: 0,
            device_us: 0,
            wait_us: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use gantry_runtime::metrics::Figures;

    use super::*;
    use crate::data::testing::{TestBroker, TestCore, send_frame, send_header};
    use crate::seam::{ToControl, ToData};

    fn figures(core: &TestCore, stage: Stage) -> Figures {
        let snapshot = core.host.profile().snapshot(2_000_000).unwrap();
        let figures = snapshot.since_start.figures(Kind::Send, stage);
        figures.unwrap_or_default()
    }

    /// Two sends of one read to a queue of the other core.
    #[test]
    fn the_way_to_another_core_and_back_is_timed() {
        let broker = TestBroker::new(2, 2, |_| {});
        let (here, there) = (&broker.cores[0], &broker.cores[1]);
        for core in &broker.cores {
            core.host.profile().begin(0);
        }
        let far = (0..4).find(|queue| {
            let (topic, queue) = (TopicId(1), QueueId(*queue));
            here.core_of(QueueKey { topic, queue }) == 1
        });
        let mut header = send_header("T");
        header.queue_id = i32::from(far.unwrap());
        let read_us = broker.world.now_us.get();
        let pass_us = |us| broker.world.now_us.set(broker.world.now_us.get() + us);
        broker.request(&send_frame(1, &header, b"one"));
        broker.request(&send_frame(2, &header, b"two"));
        pass_us(30);
        here.frames_done(read_us - 7, read_us, read_us + 30);
        pass_us(20);
        there.on_words(&mut broker.world.take_words(1));
        pass_us(40);
        there.pass();
        let told = |core, stage| {
            let figures = figures(core, stage);
            (figures.count, figures.max_us)
        };
        assert_eq!(told(here, Stage::Read), (2, 7));
        assert_eq!(told(here, Stage::Decode), (2, 30));
        assert_eq!(told(there, Stage::Mesh), (2, 20));
        assert_eq!(told(there, Stage::Mailbox), (2, 40));
        assert_eq!(told(there, Stage::Append), (2, 0));
        let words = broker.world.take_words(0);
        let back = words.iter().filter_map(|word| match word {
            CoreWord::Frames(_, _, Some(timing), _) => Some(timing),
            _ => None,
        });
        let front = Front {
            decode_us: 30,
            mesh_us: 20,
            mailbox_us: 40,
        };
        let back: Vec<_> = back.collect();
        assert_eq!(back.len(), 2, "{words:?}");
        for timing in back {
            assert_eq!((timing.front, timing.read_us), (front, read_us));
            assert_eq!(timing.answered_us, read_us + 90);
        }
    }

    /// What waits for its topic is decoded when it goes on, and counted once.
    #[test]
    fn a_parked_send_is_counted_when_it_goes_on() {
        let broker = TestBroker::new(1, 1, |_| {});
        let core = &broker.cores[0];
        core.host.profile().begin(0);
        let read_us = broker.world.now_us.get();
        broker.request(&send_frame(1, &send_header("unknown"), b"x"));
        core.frames_done(read_us, read_us, read_us + 5);
        assert_eq!(figures(core, Stage::Decode).count, 0);
    }

    /// Two waits are one time, from the read on.
    #[test]
    fn a_send_that_waits_twice_is_timed_from_its_read() {
        let broker = TestBroker::new(1, 1, |_| {});
        let core = &broker.cores[0];
        core.host.profile().begin(0);
        broker.request(&send_frame(1, &send_header("Never"), b"x"));
        broker.pass_ms(1_000);
        let asked = broker.world.take_control();
        let [ToControl::EnsureTopic { ticket, .. }] = asked[..] else {
            panic!("{asked:?}")
        };
        broker.tell_all(|| ToData::Resolved {
            ticket,
            outcome: Ok(()),
        });
        broker.pass_ms(3_000);
        let remark = broker.reply().remark.unwrap();
        assert!(remark.contains("waited 4000 ms"), "{remark}");
        let decode = figures(core, Stage::Decode);
        assert_eq!(decode.count, 1);
        assert!(decode.max_us > 3_900_000, "{decode:?}");
    }

    /// It came no further than this.
    #[test]
    fn a_send_that_its_read_sees_refused_is_in_read_and_decode() {
        let broker = TestBroker::new(1, 1, |_| {});
        let core = &broker.cores[0];
        core.host.profile().begin(0);
        core.desk.refuse_writes(Some("full".into()));
        let read_us = broker.world.now_us.get();
        broker.request(&send_frame(1, &send_header("T"), b"x"));
        core.frames_done(read_us - 7, read_us, read_us + 5);
        assert_eq!(broker.reply().code, 14);
        for (stage, us) in [(Stage::Read, 7), (Stage::Decode, 5)] {
            let told = figures(core, stage);
            assert_eq!((told.count, told.max_us), (1, us), "{stage:?}");
        }
    }
}
