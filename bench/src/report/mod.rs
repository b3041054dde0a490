//! What a run says about itself.
//!
//! **Owns** the figures of a run; its forms are a table, JSON, a histogram log and a picture.
//! **Lives on** the main thread, after the run.
//! **Invariants** every figure names its unit; a run that lost, damaged or failed something says
//! so and is an error; CPU and rates are of the measured window only.
//! **Limits** none.
//! **Not here** measuring (`recorder`, `observe`).

pub mod hlog;
pub mod json;
pub mod plot;
pub mod table;

use hdrhistogram::Histogram;

use crate::error::BenchError;
use crate::ledger::Verdict;
use crate::observe::watch::Observed;
use crate::recorder::{Counts, Latency};

/// Percentiles reported, and their names.
pub const PERCENTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("p99.99", 0.9999),
];

/// Share of the messages of a schedule that may have been due and not sent. So few move no
/// percentile that is judged by; a stall just at the end of a run leaves some.
pub const OVERDUE_SHARE_MAX: f64 = 0.001;

/// One run's result.
#[derive(Debug)]
pub struct Report {
    /// What was run, as name and value.
    pub scenario: Vec<(&'static str, String)>,
    /// Bytes of one message's body.
    pub body_bytes: usize,
    /// Bytes of one message in the form of a record, without what a broker adds to it; `None` where
    /// nothing is sent.
    pub record_bytes: Option<usize>,
    /// The latency that matters most here.
    pub main: Latency,
    /// Sent without asking for answers: nothing says how long that took.
    pub unanswered: bool,
    /// What was measured.
    pub observed: Observed,
    /// Counts of the whole run.
    pub totals: Counts,
    /// Whether what came back is what was sent; `None` if nothing was read back.
    pub verdict: Option<Verdict>,
    /// Whether sends of one connection must come back in their order.
    pub strict_order: bool,
    /// Messages stored according to the broker's offsets, where that was asked.
    pub stored: Option<u64>,
    /// What it cost to have messages pending, where that was measured.
    pub pending: Option<Pending>,
    /// What ended the run before its time.
    pub broken: Option<String>,
}

/// The broker's memory that no file backs, around a backlog of delayed messages.
#[derive(Debug, Clone, Copy)]
pub struct Pending {
    /// Messages parked.
    pub count: u64,
    /// Before the first one was sent, bytes.
    pub before_bytes: u64,
    /// With all of them parked, none due yet.
    pub with_bytes: u64,
    /// How long parking them took, seconds.
    pub fill_seconds: f64,
}

/// What the messages of a window cost the disks.
#[derive(Debug, Clone, Copy)]
pub struct DeviceCost {
    /// Bytes written for each byte of the messages in the form of records.
    pub per_record_byte: f64,
    /// Bytes written for each byte of their bodies.
    pub per_body_byte: f64,
    /// Writes a second.
    pub writes_per_second: f64,
}

/// `count` in `seconds`, 0 for no time.
#[allow(clippy::cast_precision_loss, reason = "53 bits of a count are plenty")]
pub fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}

/// Bytes as MiB.
#[allow(clippy::cast_precision_loss, reason = "for people")]
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

#[allow(clippy::cast_precision_loss, reason = "53 bits of a count are plenty")]
fn per_million(seconds: f64, count: u64) -> Option<f64> {
    (count > 0).then(|| seconds * 1e6 / count as f64)
}

/// Nanoseconds as microseconds.
#[allow(clippy::cast_precision_loss, reason = "latencies are under 2^53 ns")]
pub fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

impl Report {
    /// Events of the window that the rate and the costs are of: messages sent where messages are
    /// sent, received where they are only received or where that is what is measured, connections
    /// answered else.
    pub fn events(&self) -> u64 {
        let counts = &self.observed.counts;
        if self.main == Latency::Late {
            // What is sent meanwhile is only there to disturb.
            return counts.delivered;
        }
        [counts.acknowledged, counts.delivered, counts.connected]
            .into_iter()
            .find(|count| *count > 0)
            .unwrap_or(0)
    }

    /// Events a second.
    pub fn rate(&self) -> f64 {
        per_second(self.events(), self.observed.window.as_secs_f64())
    }

    /// Messages received a second.
    pub fn delivered_rate(&self) -> f64 {
        let window = self.observed.window.as_secs_f64();
        per_second(self.observed.counts.delivered, window)
    }

    /// Broker CPU seconds per million events of the window.
    pub fn broker_cpu_per_million(&self) -> Option<f64> {
        let (before, after) = self.observed.broker?;
        per_million(after.cpu_seconds - before.cpu_seconds, self.events())
    }

    /// The generator's own.
    pub fn generator_cpu_per_million(&self) -> Option<f64> {
        per_million(self.observed.generator_cpu_seconds, self.events())
    }

    /// Of the kernel's own threads, whoever they worked for.
    pub fn kernel_cpu_per_million(&self) -> Option<f64> {
        per_million(self.observed.machine.kernel_seconds, self.events())
    }

    /// What all disks wrote in the window, for the messages accepted in it.
    pub fn device_cost(&self) -> Option<DeviceCost> {
        let count = self.observed.counts.acknowledged;
        let record_bytes = self.record_bytes.filter(|_| count > 0)? as u64;
        let machine = &self.observed.machine;
        let part = |bytes: u64| mib(machine.disk_written_bytes) / mib(bytes * count);
        let window = self.observed.window.as_secs_f64();
        Some(DeviceCost {
            per_record_byte: part(record_bytes),
            per_body_byte: part((self.body_bytes as u64).max(1)),
            writes_per_second: per_second(machine.disk_writes, window),
        })
    }

    /// A latency's histogram.
    pub fn latency(&self, of: Latency) -> Option<&Histogram<u64>> {
        self.observed.latencies.get(&of)
    }

    /// Refused requests and missing replies.
    pub fn failed(&self) -> u64 {
        self.totals.errors.values().sum()
    }

    /// `code × count` pairs, with the codes' names.
    pub fn errors_by_code(&self) -> String {
        let name = |code: i32| match code {
            crate::producer::NO_REPLY => "no reply",
            code => gantry_protocol::code::response_name(code).unwrap_or("?"),
        };
        let errors = self.totals.errors.iter();
        errors
            .map(|(code, count)| format!("{code} {} × {count}", name(*code)))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Whether the figures may be believed.
    ///
    /// # Errors
    /// Something was refused, lost, damaged, repeated or out of order, a schedule was not kept, or
    /// nothing was measured.
    pub fn believable(&self) -> Result<(), BenchError> {
        if let Some(broken) = &self.broken {
            return Err(BenchError::Broken(broken.clone()));
        }
        if let Some(verdict) = self.verdict
            && !verdict.is_good(self.strict_order)
        {
            return Err(BenchError::Wrong {
                what: wrongs(&verdict, self.strict_order),
            });
        }
        if let Some(stored) = self.stored
            && stored < self.totals.acknowledged
        {
            return Err(BenchError::Wrong {
                what: format!(
                    "{} acknowledged, but the queues grew by {stored} only",
                    self.totals.acknowledged
                ),
            });
        }
        if self.failed() > 0 {
            return Err(BenchError::Failed {
                failed: self.failed(),
                sent: self.totals.sent,
                by_code: self.errors_by_code(),
            });
        }
        if self.overdue_share() > OVERDUE_SHARE_MAX {
            return Err(BenchError::Overdue {
                overdue: self.totals.overdue,
                due: self.totals.sent + self.totals.overdue,
            });
        }
        let is_empty = self.latency(self.main).is_none_or(Histogram::is_empty);
        if is_empty && !self.unanswered {
            return Err(BenchError::Empty(self.main.name()));
        }
        Ok(())
    }

    /// Share of the messages of a schedule that were due and not sent.
    pub fn overdue_share(&self) -> f64 {
        let due = self.totals.sent + self.totals.overdue;
        mib(self.totals.overdue) / mib(due.max(1))
    }
}

/// What a verdict complains of.
fn wrongs(verdict: &Verdict, strict_order: bool) -> String {
    let reordered = if strict_order { verdict.reordered } else { 0 };
    let mut wrongs: Vec<String> = [
        (verdict.lost, "lost"),
        (verdict.repeated, "repeated"),
        (reordered, "out of order"),
        (verdict.corrupt, "damaged"),
        (verdict.offset_gaps, "with a wrong queue offset"),
        (verdict.early, "before they were due"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect();
    if verdict.overflow {
        wrongs.push("more unacknowledged or missing than can be told apart".to_owned());
    }
    wrongs.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::course::CoursePoint;

    /// A run of one second in which this was counted, one message of it late by a millisecond.
    fn report(main: Latency, counts: Counts) -> Report {
        let mut histogram = crate::recorder::histogram();
        histogram.saturating_record(1_000_000);
        Report {
            scenario: Vec::new(),
            body_bytes: 1024,
            record_bytes: None,
            main,
            unanswered: false,
            observed: Observed {
                latencies: [(main, histogram)].into(),
                counts: counts.clone(),
                window: std::time::Duration::from_secs(1),
                ..Observed::default()
            },
            totals: counts,
            verdict: None,
            strict_order: true,
            stored: None,
            pending: None,
            broken: None,
        }
    }

    #[test]
    fn what_is_sent_while_pending_messages_fall_due_is_not_what_the_figures_are_of() {
        let counts = Counts {
            acknowledged: 100,
            delivered: 10_000,
            ..Counts::default()
        };
        assert_eq!(report(Latency::Late, counts.clone()).events(), 10_000);
        assert_eq!(report(Latency::Deliver, counts).events(), 100);
    }

    #[test]
    fn a_schedule_that_was_not_kept_is_not_believed() {
        let counts = |overdue| Counts {
            sent: 10_000,
            overdue,
            ..Counts::default()
        };
        assert!(report(Latency::Send, counts(5)).believable().is_ok());
        let complaint = report(Latency::Send, counts(1000))
            .believable()
            .unwrap_err();
        let text = complaint.to_string();
        assert!(
            text.starts_with("1000 of 11000 messages were due but"),
            "{text}"
        );
    }

    #[test]
    fn what_was_not_measured_is_null() {
        let mut report = report(Latency::Send, Counts::default());
        let second = CoursePoint {
            length_seconds: 1.0,
            ..CoursePoint::default()
        };
        report.observed.course.add(second);
        report.observed.course.add(CoursePoint {
            max_ns: 1000,
            unbacked_bytes: Some(7),
            ..second
        });
        let json = json::render(&report);
        let points = [0, 1].map(|at| {
            let point = &json["course"][at];
            ["max_us", "unbacked_bytes"].map(|name| point[name].as_f64())
        });
        assert_eq!(points, [[None, None], [Some(1.0), Some(7.0)]]);
        assert!(json["broker"].is_null() && json["read_back"].is_null());
    }

    #[test]
    fn a_run_that_measured_nothing_is_not_believed() {
        let mut empty = report(Latency::Deliver, Counts::default());
        empty.observed.latencies.clear();
        let text = empty.believable().unwrap_err().to_string();
        assert!(text.contains("no deliver latency"), "{text}");
        empty.unanswered = true;
        assert!(empty.believable().is_ok());
    }
}
