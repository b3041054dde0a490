//! What a run says about itself.
//!
//! **Owns** the figures of a run and their two forms: a table for people, JSON for scripts.
//! **Lives on** the main thread, after the run.
//! **Invariants** every figure names its unit; a run with failed sends says so first.
//! **Limits** none.
//! **Not here** measuring (`producer`, `broker_process`).

use std::collections::BTreeMap;

use comfy_table::{Table, presets};
use serde_json::{Value, json};

use crate::broker_process::ProcessReading;
use crate::producer::Measured;

/// CPU and memory around the measured window.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// The broker before and after, if its process was found.
    pub broker: Option<(ProcessReading, ProcessReading)>,
    /// The generator's CPU seconds.
    pub generator_cpu_seconds: f64,
    /// CPU seconds of the whole machine.
    pub machine_cpu_seconds: f64,
}

/// One run's result.
#[derive(Debug)]
pub struct Report {
    /// What was run, as `key value` pairs.
    pub scenario: Vec<(&'static str, String)>,
    /// Bytes of one message's body.
    pub body_bytes: usize,
    /// What was measured.
    pub measured: Measured,
    /// What it cost.
    pub spent: Spent,
}

impl Report {
    /// Acknowledged messages a second.
    #[allow(clippy::cast_precision_loss)]
    pub fn messages_per_second(&self) -> f64 {
        self.measured.acknowledged as f64 / self.measured.window.as_secs_f64()
    }

    /// Broker CPU seconds per million messages sent over the whole run, warm-up included on both
    /// sides.
    #[allow(clippy::cast_precision_loss)]
    pub fn broker_cpu_seconds_per_million(&self) -> Option<f64> {
        let (before, after) = self.spent.broker?;
        (self.measured.sent > 0)
            .then(|| (after.cpu_seconds - before.cpu_seconds) * 1e6 / self.measured.sent as f64)
    }

    /// Refused and lost sends.
    pub fn failed(&self) -> u64 {
        self.measured.errors.values().sum()
    }

    /// `code × count` pairs.
    pub fn errors_by_code(&self) -> String {
        let errors: &BTreeMap<i32, u64> = &self.measured.errors;
        errors
            .iter()
            .map(|(code, count)| format!("{code} × {count}"))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// For scripts.
    pub fn to_json(&self) -> Value {
        let quantile = |q: f64| self.measured.latency_ns.value_at_quantile(q) / 1000;
        let scenario: serde_json::Map<String, Value> = self
            .scenario
            .iter()
            .map(|(k, v)| ((*k).to_owned(), json!(v)))
            .collect();
        json!({
            "scenario": scenario,
            "messages_per_second": self.messages_per_second(),
            "acknowledged": self.measured.acknowledged,
            "sent": self.measured.sent,
            "errors_by_code": self.measured.errors,
            "latency_us": {
                "p50": quantile(0.5), "p90": quantile(0.9), "p99": quantile(0.99),
                "p99.9": quantile(0.999), "p99.99": quantile(0.9999),
                "max": self.measured.latency_ns.max() / 1000,
            },
            "broker_cpu_seconds_per_million": self.broker_cpu_seconds_per_million(),
            "broker_rss_bytes": self.spent.broker.map(|(_, after)| after.rss_bytes),
            "broker_rss_anon_bytes": self.spent.broker.map(|(_, after)| after.rss_anon_bytes),
            "broker_written_bytes":
                self.spent.broker.map(|(before, after)| after.write_bytes - before.write_bytes),
            "generator_cpu_seconds": self.spent.generator_cpu_seconds,
            "machine_cpu_seconds": self.spent.machine_cpu_seconds,
        })
    }

    /// For people.
    #[allow(clippy::cast_precision_loss)]
    pub fn to_table(&self) -> String {
        const MIB: f64 = 1024.0 * 1024.0;
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        let mut row = |name: &str, value: String| {
            table.add_row([name.to_owned(), value]);
        };
        for (name, value) in &self.scenario {
            row(name, value.clone());
        }
        let rate = self.messages_per_second();
        row("messages/s", format!("{rate:.0}"));
        row(
            "MiB/s",
            format!("{:.1}", rate * self.body_bytes as f64 / MIB),
        );
        let us = |q: f64| self.measured.latency_ns.value_at_quantile(q) as f64 / 1000.0;
        row(
            "latency µs p50 / p90 / p99 / p99.9 / max",
            format!(
                "{:.0} / {:.0} / {:.0} / {:.0} / {:.0}",
                us(0.5),
                us(0.9),
                us(0.99),
                us(0.999),
                self.measured.latency_ns.max() as f64 / 1000.0
            ),
        );
        if let Some(cpu) = self.broker_cpu_seconds_per_million() {
            row("broker CPU-s per million messages", format!("{cpu:.2}"));
        }
        if let Some((before, after)) = self.spent.broker {
            row(
                "broker RSS / anonymous MiB",
                format!(
                    "{:.1} / {:.1}",
                    after.rss_bytes as f64 / MIB,
                    after.rss_anon_bytes as f64 / MIB
                ),
            );
            let written = after.write_bytes.saturating_sub(before.write_bytes);
            row(
                "broker wrote to the device, MiB",
                format!("{:.1}", written as f64 / MIB),
            );
        }
        row(
            "generator CPU-s",
            format!("{:.2}", self.spent.generator_cpu_seconds),
        );
        row(
            "machine CPU-s (all processes)",
            format!("{:.2}", self.spent.machine_cpu_seconds),
        );
        if self.failed() > 0 {
            row("FAILED sends by code", self.errors_by_code());
        }
        table.to_string()
    }
}
