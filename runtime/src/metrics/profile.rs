//! One core's latency profile.
//!
//! **Owns** the recorder behind it, and how a request's stamps become stages.
//! **Lives on** each data core; [`Snapshot`] is `Send`.
//! **Invariants** switched off, every call is a test of one flag. No lock; memory is taken for a
//! stage's first value only. The clock is the callers': they read it once for a batch.
//! **Limits** those of `windows`, `slowest`, `stalls`, `batches`.
//! **Not here** the clock, and who stamps what.

use std::cell::{Cell, RefCell};

use gantry_storage::units::QueueKey;

use super::batches::{Batch, Batches};
use super::slowest::{Slow, Slowest, slowest_of};
use super::stage::{Kind, Stage};
use super::stalls::{STALL_US, Stall, Stalls};
use super::windows::{Histories, Windows};

/// How a request came to its queue's turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Front {
    /// `Stage::Decode`, µs.
    pub decode_us: u32,
    /// `Stage::Mesh`, µs.
    pub mesh_us: u32,
    /// `Stage::Mailbox`, µs.
    pub mailbox_us: u32,
}

/// A request whose answer is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Which road it took.
    pub kind: Kind,
    /// The stage that it was refused in, if it was; it passed none behind that but `Stage::Reply`.
    pub refused: Option<Stage>,
    /// Its queue.
    pub queue: QueueKey,
    /// Bytes stored or delivered.
    pub bytes: u32,
    /// When the read that completed it was done, µs.
    pub read_us: u64,
    /// When its answer was decided, µs.
    pub answered_us: u64,
    /// Until its turn.
    pub front: Front,
    /// `Stage::Append` of a send, `Stage::Lookup` of a pull, µs.
    pub work_us: u32,
    /// What its answer waited for of the device: `Stage::Write` and `Stage::Sync` of a send under
    /// `SYNC_FLUSH`, `Stage::DiskRead` of a pull, µs.
    pub device_us: u32,
    /// `Stage::Wait` of a pull, µs.
    pub wait_us: u64,
}

/// Requests that were refused for one cause, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Where, as remarks call it.
    pub stage: &'static str,
    /// Why.
    pub cause: &'static str,
    /// How many.
    pub count: u64,
}

/// Answers that wait in a connection's out buffer and passed every stage together.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// The first of them.
    pub timing: Timing,
    /// How many.
    pub count: u64,
}

impl Run {
    /// Whether this one can be counted with the run.
    #[allow(
        clippy::needless_bitwise_bool,
        reason = "each answer comes by here: no branch for what is hardly ever so"
    )]
    pub fn takes(&self, other: &Timing) -> bool {
        let mine = &self.timing;
        mine.answered_us == other.answered_us
            && mine.read_us == other.read_us
            && (mine.kind == other.kind) & (mine.refused == other.refused)
            && mine.wait_us == other.wait_us
    }
}

#[derive(Debug)]
struct Recorder {
    windows: Windows,
    slowest: Slowest,
    stalls: Stalls,
    batches: Batches,
}

/// See the room's head.
#[derive(Debug)]
pub struct Profile {
    is_on: Cell<bool>,
    /// In the order of the first of each cause.
    refused: RefCell<Vec<Refused>>,
    recorder: RefCell<Option<Box<Recorder>>>,
}

impl Profile {
    /// One that records nothing.
    pub fn off() -> Self {
        Self {
            is_on: Cell::new(false),
            refused: RefCell::default(),
            recorder: RefCell::default(),
        }
    }

    /// Begins to record.
    pub fn begin(&self, now_us: u64) {
        *self.recorder.borrow_mut() = Some(Box::new(Recorder {
            windows: Windows::new(now_us),
            slowest: Slowest::default(),
            stalls: Stalls::default(),
            batches: Batches::default(),
        }));
        self.is_on.set(true);
    }

    /// Whether it records.
    pub fn is_on(&self) -> bool {
        self.is_on.get()
    }

    /// A request was refused at `stage`. Counted even while nothing is recorded.
    pub fn refused(&self, stage: &'static str, cause: &'static str) {
        let mut refused = self.refused.borrow_mut();
        let is_it = |known: &&mut Refused| (known.stage, known.cause) == (stage, cause);
        match refused.iter_mut().find(is_it) {
            Some(known) => known.count += 1,
            None => refused.push(Refused {
                stage,
                cause,
                count: 1,
            }),
        }
    }

    /// Refused requests by cause, since the start.
    pub fn refusals(&self) -> Vec<Refused> {
        self.refused.borrow().clone()
    }

    fn with(&self, work: impl FnOnce(&mut Recorder)) {
        if self.is_on.get()
            && let Some(recorder) = self.recorder.borrow_mut().as_deref_mut()
        {
            work(recorder);
        }
    }

    /// A stage took `us` for each of `times` requests.
    pub fn record(&self, kind: Kind, stage: Stage, us: u64, times: u64) {
        if times > 0 {
            self.with(|to| to.windows.record(kind, stage, us, times));
        }
    }

    /// A task of `room` ran from `began_us` to `ended_us`.
    pub fn ran(&self, room: &'static str, began_us: u64, ended_us: u64) {
        let took_us = ended_us.saturating_sub(began_us);
        if took_us > STALL_US {
            let stall = Stall {
                room,
                took_us,
                ended_us,
            };
            self.with(|to| to.stalls.note(stall));
        }
    }

    /// A batch that core `core` read at `read_us` was decoded; here since `arrived_us`.
    pub fn decoded(&self, core: u16, read_us: u64, decoded_us: u64, arrived_us: u64) {
        self.with(|to| {
            to.turn_to(arrived_us);
            to.batches.add(Batch {
                core,
                read_us,
                decoded_us,
                arrived_us,
                taken: 0,
            });
        });
    }

    /// How a request of that batch came to its turn at `turn_us`. `posted_us`: when it came to its
    /// inbox, for one whose batch isn't known.
    pub fn front(&self, core: u16, read_us: u64, posted_us: u64, turn_us: u64) -> Front {
        let mut front = Front::default();
        self.with(|to| {
            let batch = to.batches.find(core, read_us);
            front = front_of(batch.copied(), read_us, posted_us, turn_us);
        });
        front
    }

    /// A pull's answer is decided. `was_parked`: it has waited for something to read.
    pub fn pulled(&self, timing: &Timing, was_parked: bool) {
        self.with(|to| {
            let mut record = |stage, us| to.windows.record(Kind::Pull, stage, us, 1);
            if timing.front.mesh_us > 0 {
                record(Stage::Mesh, u64::from(timing.front.mesh_us));
            }
            record(Stage::Mailbox, u64::from(timing.front.mailbox_us));
            if was_parked {
                record(Stage::Wait, timing.wait_us);
            }
            record(Stage::Lookup, u64::from(timing.work_us));
            if timing.device_us > 0 {
                record(Stage::DiskRead, u64::from(timing.device_us));
            }
        });
    }

    /// A send is refused while it waits to be stored.
    pub fn not_stored(&self, front: Front) {
        self.with(|to| {
            let mut record = |stage, us| to.windows.record(Kind::Send, stage, u64::from(us), 1);
            if front.mesh_us > 0 {
                record(Stage::Mesh, front.mesh_us);
            }
            record(Stage::Mailbox, front.mailbox_us);
        });
    }

    /// As [`Profile::front`] for a send that the pass at work stores; it is recorded with the pass.
    pub fn taken(&self, core: u16, read_us: u64, posted_us: u64, turn_us: u64) -> Front {
        let mut front = Front::default();
        self.with(|to| {
            let batch = to.batches.find(core, read_us);
            if let Some(batch) = batch {
                batch.taken += 1;
                front = front_of(Some(*batch), read_us, posted_us, turn_us);
                return;
            }
            front = front_of(None, read_us, posted_us, turn_us);
            let mailbox_us = u64::from(front.mailbox_us);
            to.windows.record(Kind::Send, Stage::Mailbox, mailbox_us, 1);
        });
        front
    }

    /// Records what was taken, in a pass that began at `turn_us` and has stored it at `stored_us`.
    pub fn stored(&self, turn_us: u64, stored_us: u64, sends: u64) {
        self.with(|to| {
            for batch in to.batches.taken() {
                let front = front_of(Some(*batch), batch.read_us, 0, turn_us);
                let times = std::mem::take(&mut batch.taken);
                let mut record = |stage, us: u32| {
                    to.windows.record(Kind::Send, stage, u64::from(us), times);
                };
                if batch.arrived_us > batch.decoded_us {
                    record(Stage::Mesh, front.mesh_us);
                }
                record(Stage::Mailbox, front.mailbox_us);
            }
            if sends > 0 {
                let append_us = stored_us.saturating_sub(turn_us);
                to.windows
                    .record(Kind::Send, Stage::Append, append_us, sends);
            }
        });
    }

    /// The answers of these runs were given to the socket.
    pub fn replied(&self, runs: &[Run], now_us: u64) {
        self.with(|to| {
            to.turn_to(now_us);
            for Run { timing, count } in runs {
                let reply_us = now_us.saturating_sub(timing.answered_us);
                let total_us = now_us
                    .saturating_sub(timing.read_us)
                    .saturating_sub(timing.wait_us);
                let mut record = |stage, us| to.windows.record(timing.kind, stage, us, *count);
                record(Stage::Reply, reply_us);
                record(Stage::Total, total_us);
                to.slowest.offer(Slow {
                    total_us,
                    reply_us,
                    timing: *timing,
                    alike: *count,
                });
            }
        });
    }

    /// A copy that can leave this core; none when nothing is recorded.
    pub fn snapshot(&self, now_us: u64) -> Option<Snapshot> {
        let mut recorder = self.recorder.borrow_mut();
        let recorder = recorder.as_deref_mut()?;
        recorder.turn_to(now_us);
        let (since_start, since_start_us) = recorder.windows.since_start(now_us);
        let (window, window_us) = recorder.windows.window(now_us);
        Some(Snapshot {
            since_start,
            since_start_us,
            window,
            window_us,
            slowest: recorder.slowest.window(),
            stalls: recorder.stalls.clone(),
        })
    }
}

impl Recorder {
    fn turn_to(&mut self, now_us: u64) {
        for _ in 0..self.windows.turn_to(now_us) {
            self.slowest.turn();
        }
    }
}

fn front_of(batch: Option<Batch>, read_us: u64, posted_us: u64, turn_us: u64) -> Front {
    let (decoded_us, arrived_us) =
        batch.map_or((posted_us, posted_us), |b| (b.decoded_us, b.arrived_us));
    Front {
        decode_us: short(decoded_us.saturating_sub(read_us)),
        mesh_us: short(arrived_us.saturating_sub(decoded_us)),
        mailbox_us: short(turn_us.saturating_sub(arrived_us)),
    }
}

/// More than an hour is an hour.
fn short(us: u64) -> u32 {
    u32::try_from(us).unwrap_or(u32::MAX)
}

/// A copy of one core's profile, or of several cores' together.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// All since the start.
    pub since_start: Histories,
    /// How long that is.
    pub since_start_us: u64,
    /// The last 10 to 15 s.
    pub window: Histories,
    /// How long that is.
    pub window_us: u64,
    /// The slowest requests of the window, slowest first.
    pub slowest: Vec<Slow>,
    /// Tasks that ran too long, since the start.
    pub stalls: Stalls,
}

impl Snapshot {
    /// Adds another core's.
    pub fn merge(&mut self, other: &Self) {
        self.since_start.add(&other.since_start);
        self.since_start_us = self.since_start_us.max(other.since_start_us);
        self.window.add(&other.window);
        self.window_us = self.window_us.max(other.window_us);
        self.slowest.extend(&other.slowest);
        self.slowest = slowest_of(std::mem::take(&mut self.slowest));
        self.stalls.merge(&other.stalls);
    }
}
