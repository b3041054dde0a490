//! What a run measures while it runs.
//!
//! **Owns** the clock of the run, its measured window, the histograms and counts of the interval
//! under way.
//! **Lives on** the generator's executor; finished intervals go to the observer's thread.
//! **Invariants** a latency belongs to the run if the *intended* time lies in the window, whenever
//! the answer comes, so that a stall at the end is not cut off; a rate counts what was answered
//! inside the window. One clock call a batch of replies, none a message.
//! **Limits** latencies up to [`LATENCY_NS_MAX`], longer ones as that; the interval's channel is
//! drained once a second.
//! **Not here** sums, percentiles, files (`observe`, `report`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Highest latency recorded: an hour, far more than any run waits for a single answer.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;
const LATENCY_NS_MIN: u64 = 100;
/// Significant digits of a latency.
const DIGITS: u8 = 3;
/// Length of an interval.
const INTERVAL: Duration = Duration::from_secs(1);

/// What a latency is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Latency {
    /// Intended send time to the reply; of a transaction to the reply of its commit.
    Send,
    /// Intended send time (plus the delay asked for) to receipt by a consumer.
    Deliver,
    /// Due time to receipt by a consumer, of messages with due times of their own.
    Late,
    /// Intended send time to the reply of the half message.
    Half,
    /// Pull request to its reply, where the broker has something to give.
    Pull,
    /// Start of a connection to the first reply on it.
    Connect,
}

impl Latency {
    /// All, in the order they are reported.
    pub const ALL: [Self; 6] = [
        Self::Send,
        Self::Deliver,
        Self::Late,
        Self::Half,
        Self::Pull,
        Self::Connect,
    ];

    /// Its name in reports and as a tag of the histogram log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Deliver => "deliver",
            Self::Late => "late",
            Self::Half => "half",
            Self::Pull => "pull",
            Self::Connect => "connect",
        }
    }
}

/// An empty histogram of the shape all have.
///
/// # Panics
/// Never: the library accepts these constant bounds.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(LATENCY_NS_MIN, LATENCY_NS_MAX, DIGITS)
        .expect("constant bounds that the library accepts")
}

/// Counts of an interval, or of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages put on the wire.
    pub sent: u64,
    /// Messages acknowledged.
    pub acknowledged: u64,
    /// Messages received by consumers.
    pub delivered: u64,
    /// Connections answered.
    pub connected: u64,
    /// Messages of the schedule that were due before the end and could not leave.
    pub overdue: u64,
    /// Refusals by response code; replies that never came under −1.
    pub errors: BTreeMap<i32, u64>,
}

impl Counts {
    /// Adds another interval.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.delivered += other.delivered;
        self.connected += other.connected;
        self.overdue += other.overdue;
        for (code, count) in &other.errors {
            *self.errors.entry(*code).or_default() += count;
        }
    }
}

/// What happened since the interval before.
#[derive(Debug)]
pub struct Interval {
    /// Start, since the start of the run.
    pub start: Duration,
    /// Length; zero for what came in after the window.
    pub length: Duration,
    /// Histograms with at least one entry.
    pub latencies: Vec<(Latency, Histogram<u64>)>,
    /// Counts inside the window.
    pub counts: Counts,
}

/// What the observer is told.
#[derive(Debug)]
pub enum Note {
    /// The warm-up is over: take the first readings.
    WindowOpens,
    /// An interval is over.
    Interval(Box<Interval>),
    /// The window is over: take the last readings.
    WindowCloses,
}

/// Records a run.
#[derive(Debug)]
pub struct Recorder {
    started: Instant,
    from_ns: u64,
    to_ns: Cell<u64>,
    interval_from_ns: Cell<u64>,
    latencies: RefCell<BTreeMap<Latency, Histogram<u64>>>,
    window: RefCell<Counts>,
    total: RefCell<Counts>,
    /// Taken at the end, which tells the observer that nothing more comes.
    notes: RefCell<Option<Sender<Note>>>,
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Recorder {
    /// A run whose window opens after `warm_up` and closes after `measure`, or by [`Self::close`].
    pub fn new(warm_up: Duration, measure: Option<Duration>, notes: Sender<Note>) -> Rc<Self> {
        let to_ns = measure.map_or(u64::MAX, |m| ns(warm_up + m));
        Rc::new(Self {
            started: Instant::now(),
            from_ns: ns(warm_up),
            to_ns: Cell::new(to_ns),
            interval_from_ns: Cell::new(ns(warm_up)),
            latencies: RefCell::default(),
            window: RefCell::default(),
            total: RefCell::default(),
            notes: RefCell::new(Some(notes)),
        })
    }

    /// Nanoseconds since the start of the run.
    pub fn now_ns(&self) -> u64 {
        ns(self.started.elapsed())
    }

    /// When the window closes.
    pub fn to_ns(&self) -> u64 {
        self.to_ns.get()
    }

    /// Records answers that came together at `now_ns`: `each` is given a function that takes the
    /// intended time of one of them.
    pub fn record(&self, of: Latency, now_ns: u64, each: impl FnOnce(&mut dyn FnMut(u64))) {
        self.record_due(of, now_ns, |one| each(&mut |at_ns| one(at_ns, at_ns)));
    }

    /// The same where a message is late only after another time than it was meant to be sent at:
    /// the function takes its intended time, which says whether it belongs to the window, and the
    /// time that its latency counts from.
    pub fn record_due(
        &self,
        of: Latency,
        now_ns: u64,
        each: impl FnOnce(&mut dyn FnMut(u64, u64)),
    ) {
        let window = self.from_ns..self.to_ns.get();
        let mut latencies = self.latencies.borrow_mut();
        let histogram = latencies.entry(of).or_insert_with(histogram);
        each(&mut |intended_ns, due_ns| {
            if window.contains(&intended_ns) {
                histogram.saturating_record(now_ns.saturating_sub(due_ns));
            }
        });
    }

    /// Records `count` that were meant for `intended_ns`, are late from `delay_ns` after it on and
    /// have waited at least until `now_ns`; those that are not late yet have no latency.
    pub fn record_waits(
        &self,
        of: Latency,
        now_ns: u64,
        (intended_ns, delay_ns): (u64, u64),
        count: u64,
    ) {
        let Some(wait_ns) = now_ns.checked_sub(intended_ns.saturating_add(delay_ns)) else {
            return;
        };
        if (self.from_ns..self.to_ns.get()).contains(&intended_ns) {
            let mut latencies = self.latencies.borrow_mut();
            let histogram = latencies.entry(of).or_insert_with(histogram);
            histogram.saturating_record_n(wait_ns, count);
        }
    }

    /// Counts what happened at `now_ns`: always in the totals, in the window if it is inside.
    pub fn count(&self, now_ns: u64, add: impl Fn(&mut Counts)) {
        add(&mut self.total.borrow_mut());
        if now_ns >= self.from_ns && now_ns < self.to_ns.get() {
            add(&mut self.window.borrow_mut());
        }
    }

    /// Counts of the whole run, warm-up and drain included.
    pub fn totals(&self) -> Counts {
        self.total.borrow().clone()
    }

    /// Opens the window in time, hands on an interval each second, closes the window in time.
    pub async fn tick(self: Rc<Self>) {
        self.sleep_until(self.from_ns).await;
        self.tell(Note::WindowOpens);
        self.interval_from_ns.set(self.now_ns());
        loop {
            let end_ns = self.to_ns.get();
            let next_ns = self.interval_from_ns.get() + ns(INTERVAL);
            self.sleep_until(next_ns.min(end_ns)).await;
            if self.now_ns() >= end_ns {
                break;
            }
            self.hand_on(self.now_ns());
        }
        self.hand_on(self.to_ns.get());
        self.tell(Note::WindowCloses);
    }

    async fn sleep_until(&self, at_ns: u64) {
        let wait = at_ns.saturating_sub(self.now_ns());
        if wait > 0 {
            glommio::timer::sleep(Duration::from_nanos(wait)).await;
        }
    }

    /// Closes a window that has no set end; [`Self::tick`] must have been stopped before.
    pub fn close(&self) {
        let now_ns = self.now_ns();
        self.to_ns.set(now_ns);
        self.hand_on(now_ns);
        self.tell(Note::WindowCloses);
    }

    /// Hands on what came in after the window, and ends the observer's part.
    pub fn finish(&self) {
        self.hand_on(self.interval_from_ns.get());
        self.notes.take();
    }

    fn tell(&self, note: Note) {
        if let Some(notes) = &*self.notes.borrow() {
            // Nobody listens any more only when the run is being given up.
            let _ = notes.send(note);
        }
    }

    fn hand_on(&self, now_ns: u64) {
        let start_ns = self.interval_from_ns.replace(now_ns);
        let taken = self.latencies.take().into_iter();
        let interval = Interval {
            start: Duration::from_nanos(start_ns),
            length: Duration::from_nanos(now_ns.saturating_sub(start_ns)),
            latencies: taken.filter(|(_, h)| !h.is_empty()).collect(),
            counts: self.window.take(),
        };
        self.tell(Note::Interval(Box::new(interval)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_answer_to_a_message_of_the_window_counts_and_one_of_the_warm_up_does_not() {
        let (notes, heard) = std::sync::mpsc::channel();
        let second = Duration::from_secs(1);
        let recorder = Recorder::new(second, Some(second), notes);
        recorder.record(Latency::Send, 5_000_000_000, |each| {
            each(999_999_999);
            each(1_500_000_000);
            each(2_000_000_000);
        });
        recorder.count(5_000_000_000, |c| c.acknowledged += 1);
        recorder.count(1_500_000_000, |c| c.acknowledged += 1);
        recorder.finish();
        let Ok(Note::Interval(interval)) = heard.try_recv() else {
            panic!("no interval")
        };
        let (of, histogram) = &interval.latencies[0];
        assert_eq!((*of, histogram.len()), (Latency::Send, 1));
        assert!(histogram.max() >= 3_500_000_000);
        assert_eq!(interval.counts.acknowledged, 1);
        assert_eq!(recorder.totals().acknowledged, 2);
    }

    fn only(heard: &std::sync::mpsc::Receiver<Note>, wanted: Latency) -> Histogram<u64> {
        let Ok(Note::Interval(interval)) = heard.try_recv() else {
            panic!("no interval")
        };
        let mut latencies = interval.latencies.into_iter();
        let (of, histogram) = latencies.next().unwrap();
        assert_eq!((of, latencies.count()), (wanted, 0));
        histogram
    }

    #[test]
    fn a_delayed_message_belongs_to_the_window_it_was_sent_in_and_counts_from_its_due_time() {
        let (notes, heard) = std::sync::mpsc::channel();
        let second = Duration::from_secs(1);
        let recorder = Recorder::new(second, Some(second), notes);
        let delay_ns = 10_000_000_000;
        recorder.record_due(Latency::Deliver, 11_600_000_000, |each| {
            each(500_000_000, 500_000_000 + delay_ns);
            each(1_500_000_000, 1_500_000_000 + delay_ns);
        });
        recorder.finish();
        let histogram = only(&heard, Latency::Deliver);
        assert_eq!(histogram.len(), 1);
        assert!(histogram.max().abs_diff(100_000_000) < 1_000_000);
    }

    #[test]
    fn a_latency_of_minutes_is_not_cut_off() {
        let (notes, heard) = std::sync::mpsc::channel();
        let recorder = Recorder::new(Duration::ZERO, None, notes);
        let minutes_ns = 20 * 60 * 1_000_000_000;
        recorder.record(Latency::Late, minutes_ns, |each| each(0));
        recorder.finish();
        assert!(only(&heard, Latency::Late).max() >= minutes_ns);
    }

    #[test]
    fn what_could_not_be_sent_counts_with_its_wait_until_the_end() {
        let (notes, heard) = std::sync::mpsc::channel();
        let second = Duration::from_secs(1);
        let recorder = Recorder::new(second, Some(second), notes);
        recorder.record_waits(Latency::Send, 2_000_000_000, (900_000_000, 0), 5);
        recorder.record_waits(Latency::Send, 2_000_000_000, (1_500_000_000, 0), 7);
        recorder.finish();
        let histogram = only(&heard, Latency::Send);
        assert_eq!(histogram.len(), 7);
        assert!(histogram.min().abs_diff(500_000_000) < 1_000_000);
    }

    #[test]
    fn what_could_not_be_sent_and_would_not_be_due_yet_is_not_late() {
        let (notes, heard) = std::sync::mpsc::channel();
        let recorder = Recorder::new(Duration::ZERO, None, notes);
        let of = Latency::Deliver;
        recorder.record_waits(of, 2_000_000_000, (1_500_000_000, 1_000_000_000), 5);
        recorder.record_waits(of, 2_000_000_000, (500_000_000, 1_000_000_000), 7);
        recorder.finish();
        let histogram = only(&heard, of);
        assert_eq!(histogram.len(), 7);
        assert!(histogram.max().abs_diff(500_000_000) < 1_000_000);
    }
}
