//! The observer: listens to the run from a thread of its own.
//!
//! **Owns** the run's sums, the readings at both ends of the window, the progress line and the
//! histogram log.
//! **Lives on** its own thread; the executor only hands intervals over.
//! **Invariants** readings are taken when the window opens and closes, not when the run does, so
//! neither warm-up nor drain is part of a cost. What disturbs the broker to read is read when the
//! run is over.
//! **Limits** none.
//! **Not here** how the course is kept (`course`), percentiles and tables (`report`).

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::course::{Course, CoursePoint};
use super::machine::{MachineReading, MachineSpent, cores};
use super::process::{ProcessReading, cpu_seconds, pss_bytes, read_process, unbacked_bytes};
use crate::recorder::{Counts, Interval, Latency, Note};
use crate::report::hlog::HistogramLog;

/// What was seen of a run.
#[derive(Debug, Default)]
pub struct Observed {
    /// Latencies by what they are of.
    pub latencies: BTreeMap<Latency, Histogram<u64>>,
    /// Counts inside the window.
    pub counts: Counts,
    /// Length of the window.
    pub window: Duration,
    /// The run's course.
    pub course: Course,
    /// The broker at both ends of the window, if its process is known.
    pub broker: Option<(ProcessReading, ProcessReading)>,
    /// Its proportional set after the run, bytes.
    pub broker_pss_bytes: Option<u64>,
    /// The generator's CPU seconds in the window.
    pub generator_cpu_seconds: f64,
    /// The machine in the window.
    pub machine: MachineSpent,
    /// Why the histogram log could not be written.
    pub log_failure: Option<String>,
}

/// What to watch and to say.
pub struct Watch {
    /// The broker's process.
    pub broker_pid: Option<u32>,
    /// Where intervals are logged.
    pub log: Option<HistogramLog>,
    /// Name of the scenario on the progress line; `None` = say nothing.
    pub progress: Option<String>,
    /// The latency that the course shows.
    pub main: Latency,
}

struct Ends {
    at: Instant,
    broker: Option<ProcessReading>,
    generator: f64,
    machine: MachineReading,
}

impl Watch {
    /// Listens until the run is over.
    pub fn listen(mut self, notes: &Receiver<Note>) -> Observed {
        let bar = self.progress_line();
        let mut observed = Observed::default();
        let mut opened: Option<Ends> = None;
        let mut last = Instant::now();
        for note in notes {
            match note {
                Note::WindowOpens => {
                    opened = Some(self.read());
                    last = Instant::now();
                }
                Note::Interval(interval) => {
                    let late = last.elapsed() > interval.length * 2;
                    last = Instant::now();
                    let point = self.add(&mut observed, &interval);
                    if let (Some(bar), false) = (&bar, late) {
                        bar.set_message(line(&point, observed.counts.errors.values().sum()));
                        bar.tick();
                    }
                }
                Note::WindowCloses => {
                    if let Some(opened) = opened.take() {
                        self.close(&mut observed, &opened);
                    }
                }
            }
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        observed.broker_pss_bytes = self.broker_pid.and_then(pss_bytes);
        observed.log_failure = self.log.and_then(HistogramLog::finish);
        observed
    }

    fn progress_line(&self) -> Option<ProgressBar> {
        let name = self.progress.clone()?;
        if !std::io::stderr().is_terminal() {
            return None;
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{prefix} {elapsed} {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(name);
        bar.set_message("warming up");
        bar.tick();
        Some(bar)
    }

    fn read(&self) -> Ends {
        Ends {
            at: Instant::now(),
            broker: self.broker_pid.and_then(read_process),
            generator: cpu_seconds(std::process::id()).unwrap_or(0.0),
            machine: MachineReading::now(),
        }
    }

    fn add(&mut self, observed: &mut Observed, interval: &Interval) -> CoursePoint {
        for (of, histogram) in &interval.latencies {
            let sum = observed.latencies.entry(*of);
            let sum = sum.or_insert_with(crate::recorder::histogram);
            // All are made with the same bounds.
            sum.add(histogram).unwrap_or_default();
            if let Some(log) = &mut self.log {
                log.write(*of, interval.start, interval.length, histogram);
            }
        }
        observed.counts.add(&interval.counts);
        observed.window += interval.length;
        let main = interval.latencies.iter().find(|(of, _)| *of == self.main);
        let quantile = |q: f64| main.map_or(0, |(_, h)| h.value_at_quantile(q));
        let counts = &interval.counts;
        let most = match self.main {
            Latency::Late => counts.delivered,
            _ => counts.acknowledged.max(counts.delivered),
        };
        let point = CoursePoint {
            at_seconds: observed.window.as_secs_f64(),
            length_seconds: interval.length.as_secs_f64(),
            count: most.max(counts.connected),
            p50_ns: quantile(0.5),
            p99_ns: quantile(0.99),
            max_ns: main.map_or(0, |(_, h)| h.max()),
            unbacked_bytes: self.broker_pid.and_then(unbacked_bytes),
        };
        if !interval.length.is_zero() {
            observed.course.add(point);
        }
        point
    }

    fn close(&self, observed: &mut Observed, opened: &Ends) {
        let closed = self.read();
        observed.broker = opened.broker.zip(closed.broker);
        observed.generator_cpu_seconds = closed.generator - opened.generator;
        let broker_seconds = observed.broker.map_or(0.0, |(before, after)| {
            after.cpu_seconds - before.cpu_seconds
        });
        let known: Vec<u32> = self
            .broker_pid
            .into_iter()
            .chain([std::process::id()])
            .collect();
        observed.machine = closed.machine.since(
            &opened.machine,
            (closed.at - opened.at).as_secs_f64(),
            cores(),
            &known,
            broker_seconds + observed.generator_cpu_seconds,
        );
    }
}

fn line(point: &CoursePoint, errors: u64) -> String {
    let ms = |ns: u64| Duration::from_nanos(ns).as_secs_f64() * 1e3;
    let rate = crate::report::per_second(point.count, point.length_seconds);
    format!(
        "{rate:.0}/s  p50 {:.2} ms  p99 {:.2} ms  max {:.2} ms  {errors} errors",
        ms(point.p50_ns),
        ms(point.p99_ns),
        ms(point.max_ns)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The walk through its page tables would disturb the broker while it is measured.
    #[test]
    fn the_proportional_set_is_read_when_the_run_is_over() {
        let watch = Watch {
            broker_pid: Some(std::process::id()),
            log: None,
            progress: None,
            main: Latency::Send,
        };
        let (notes, heard) = std::sync::mpsc::channel();
        let second = Duration::from_secs(1);
        notes.send(Note::WindowOpens).unwrap();
        let interval = Interval {
            start: Duration::ZERO,
            length: second,
            latencies: Vec::new(),
            counts: Counts::default(),
        };
        notes.send(Note::Interval(Box::new(interval))).unwrap();
        notes.send(Note::WindowCloses).unwrap();
        drop(notes);
        let observed = watch.listen(&heard);
        assert!(observed.course.unbacked_bytes().unwrap().0 > 0);
        assert!(observed.broker_pss_bytes.unwrap() > 0);
        assert!(observed.broker.is_some());
    }
}
