//! What is judged: each figure of the log, its measure and its bar.
//!
//! **Owns** the names, the bars and what each row means.
//! **Lives on** the calling thread.
//! **Invariants** a judged figure is a ratio within one round, or a count the device gives.
//! **Limits** none.
//! **Not here** how they are measured (`judge`), the table (`table`).

use serde_json::Value;

use crate::compare::results::number;

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    /// The device by itself.
    Device,
    /// `SYNC_FLUSH` beside `ASYNC_FLUSH`.
    SyncOwn,
    /// One message in flight under `SYNC_FLUSH` beside the device's own synced block.
    SyncOne,
    /// A backlog from the device beside its raw reader.
    Cold,
    /// 10,000 queues beside 8.
    Queues,
    /// Bytes to the device for each of a record.
    Written,
    /// Writes a second at a fixed rate.
    Writes,
    /// Deliveries while a backlog is read beside those without.
    Beside,
    /// The start after `kill -9`.
    Recover,
    /// The start with 100,000 queues.
    Start,
}

/// What holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bar {
    /// At least so much.
    Least(f64),
    /// At most so much.
    Most(f64),
    /// Only told.
    None,
}

impl Bar {
    /// Whether a figure holds it; `None` without one.
    pub fn holds(self, value: f64) -> Option<bool> {
        match self {
            Self::Least(bar) => Some(value >= bar),
            Self::Most(bar) => Some(value <= bar),
            Self::None => None,
        }
    }

    /// For tables.
    pub fn text(self) -> String {
        match self {
            Self::Least(bar) => format!("≥ {bar}"),
            Self::Most(bar) => format!("≤ {bar}"),
            Self::None => String::new(),
        }
    }
}

/// All rows in the order of the table.
pub const ROWS: [Row; 10] = [
    Row::Device,
    Row::SyncOwn,
    Row::SyncOne,
    Row::Cold,
    Row::Queues,
    Row::Written,
    Row::Writes,
    Row::Beside,
    Row::Recover,
    Row::Start,
];

impl Row {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::SyncOwn => "sync-own",
            Self::SyncOne => "sync-one",
            Self::Cold => "cold-own",
            Self::Queues => "queues10k",
            Self::Written => "written",
            Self::Writes => "writes",
            Self::Beside => "beside",
            Self::Recover => "recover",
            Self::Start => "start100k",
        }
    }

    /// What its judged figure is.
    pub fn what(self) -> &'static str {
        match self {
            Self::Device => "the device: a 4 KiB direct write and its fdatasync, p50 µs",
            Self::SyncOwn => "msgs/s under SYNC_FLUSH as a share of ASYNC_FLUSH, 4 × 64, 8 queues",
            Self::SyncOne => {
                "SYNC_FLUSH, one message in flight: p50 as a multiple of the device's own"
            }
            Self::Cold => {
                "a backlog read after a restart, MiB/s as a share of the device's raw reader"
            }
            Self::Queues => "msgs/s to 10,000 queues in turn as a share of 8 queues",
            Self::Written => "bytes to the device for each byte of the records, at full load",
            Self::Writes => "writes of the device a second at 10,000 msgs/s, ASYNC_FLUSH",
            Self::Beside => {
                "p99 of deliveries at 5,000/s while a backlog is read, as a multiple of it without"
            }
            Self::Recover => "kill -9 to the first SEND_OK of the next start, s",
            Self::Start => "start with 100,000 queues to the first SEND_OK, s",
        }
    }

    /// Its bar.
    pub fn bar(self) -> Bar {
        match self {
            Self::Device => Bar::None,
            Self::SyncOwn | Self::Cold | Self::Queues => Bar::Least(0.8),
            Self::SyncOne => Bar::Most(1.5),
            Self::Written => Bar::Most(1.25),
            Self::Writes => Bar::Most(200.0),
            Self::Beside | Self::Start => Bar::Most(2.0),
            Self::Recover => Bar::Most(1.0),
        }
    }

    /// Whether it is held against the device's own figures.
    pub fn needs_device(self) -> bool {
        matches!(self, Self::Device | Self::SyncOne | Self::Cold)
    }
}

/// What one round found of a row.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The figure that is judged; none if a run lacks it.
    pub judged: Option<f64>,
    /// What it was made of.
    pub parts: Vec<(&'static str, f64)>,
    /// What failed.
    pub complaints: Vec<String>,
    /// Of each run, the share of the machine that went to others.
    pub noise: Vec<f64>,
}

impl Found {
    /// What a run's report says of itself.
    pub fn note(&mut self, report: &Value) {
        self.complain(report);
        self.noise.extend(number(report, "/machine/noise_share"));
    }

    /// Only whether it failed.
    pub fn complain(&mut self, report: &Value) {
        let complaint = report.get("complaint").and_then(Value::as_str);
        self.complaints.extend(complaint.map(str::to_owned));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_judge_in_their_direction() {
        assert_eq!(Bar::Least(0.8).holds(0.79), Some(false));
        assert_eq!(Bar::Least(0.8).holds(0.8), Some(true));
        assert_eq!(Bar::Most(2.0).holds(2.1), Some(false));
        assert_eq!(Bar::None.holds(1.0), None);
    }

    #[test]
    fn names_differ() {
        let mut names = ROWS.map(Row::name).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ROWS.len());
    }
}
