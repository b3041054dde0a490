//! The table of what is compared: scenarios, figures, bars.
//!
//! **Owns** the cases and the bars of the project's promise; README's figures come from here.
//! **Lives on** the calling thread; constants only.
//! **Invariants** a bar is a ratio of Gantry to the peer in the same run, never an absolute figure.
//! Latencies are compared at fixed rates only: flat out they say how long a queue the generator
//! made.
//! **Limits** none.
//! **Not here** running them (`compare`), reading the figures (`results`).

use super::servers::Side;

/// What is read from a run's report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// Broker CPU seconds per million messages.
    Cpu,
    /// Messages a second.
    Rate,
    /// Median of the main latency, µs.
    P50,
    /// 99th percentile of it.
    P99,
    /// Its highest.
    Max,
    /// Seconds from the start of the process to the first `SEND_OK`, fresh store.
    Start,
    /// CPU seconds spent until then.
    StartCpu,
    /// Seconds to the first `SEND_OK` after kill -9.
    Restart,
    /// MiB of memory that no disk file backs, idle.
    Idle,
    /// The same after the messages of the case.
    After,
}

impl Figure {
    /// For tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "broker CPU-s per million",
            Self::Rate => "messages/s",
            Self::P50 => "p50 µs",
            Self::P99 => "p99 µs",
            Self::Max => "max µs",
            Self::Start => "start to first SEND_OK, s",
            Self::StartCpu => "CPU-s until then",
            Self::Restart => "after kill -9, s",
            Self::Idle => "memory without a file, idle, MiB",
            Self::After => "the same after the messages, MiB",
        }
    }
}

/// What the ratio Gantry / peer must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bar {
    /// At most one in so many.
    OneIn(f64),
    /// At least so many times.
    Times(f64),
    /// Reported only.
    None,
}

impl Bar {
    /// Whether a ratio holds it; `None` where there is no bar.
    pub fn holds(self, ratio: f64) -> Option<bool> {
        match self {
            Self::OneIn(n) => Some(ratio <= 1.0 / n),
            Self::Times(n) => Some(ratio >= n),
            Self::None => None,
        }
    }

    /// For tables.
    pub fn text(self) -> String {
        match self {
            Self::OneIn(n) => format!("≤ 1/{n:.0}"),
            Self::Times(n) => format!("≥ {n:.0} ×"),
            Self::None => String::new(),
        }
    }
}

/// How a case is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `gantry bench` with these words, and the words that warm the peer up for it.
    Load(&'static [&'static str], &'static [&'static str]),
    /// A backlog read at once.
    Warm,
    /// A backlog read after a restart, its files dropped from the page cache.
    Cold,
    /// Start to first `SEND_OK`.
    Start,
    /// Memory idle and after many messages.
    Memory,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is; [`MESSAGES`] stands for their number.
    pub what: &'static str,
    /// How it is run.
    pub kind: Kind,
    /// Synced before the answer.
    pub sync_flush: bool,
    /// What is read and what must hold.
    pub figures: &'static [(Figure, Bar)],
}

/// Stands in a case's text for how many messages it has, which is not the same in a quick run.
const MESSAGES: &str = "{messages}";

impl Case {
    /// What it is, with so many messages.
    pub fn what_of(&self, messages: u64) -> String {
        const MILLION: u64 = 1_000_000;
        let count = if messages > 0 && messages.is_multiple_of(MILLION) {
            format!("{} M", messages / MILLION)
        } else {
            messages.to_string()
        };
        self.what.replace(MESSAGES, &count)
    }
}

const PRODUCE: &[&str] = &["produce"];
const MIXED: &[&str] = &["mixed"];
const MANY: &[&str] = &["queues", "--topics", "125"];
const BATCH: &[&str] = &["produce", "--batch", "32"];
const BINARY: &[&str] = &["produce", "--encoding", "binary"];
const SMALL: &[&str] = &["produce", "--size", "128"];
/// At a fixed rate nothing is refused: what a stall delays piles up and is counted.
const RATE_10: &[&str] = &["produce", "--rate", "10000", "--in-flight", "4096"];
const RATE_20: &[&str] = &["produce", "--rate", "20000", "--in-flight", "4096"];
const E2E: &[&str] = &["e2e", "--rate", "5000", "--in-flight", "4096"];

/// A backlog.
pub const BACKLOG: &[&str] = &["consume"];
/// Scenarios that read back what they sent.
const READ_BACK: [&str; 3] = ["e2e", "mixed", "consume"];

/// A scenario's words for one side. Apache doesn't keep the order of pipelined sends, which is
/// counted and not held against it; Gantry promises it.
pub fn words_for<'w>(side: Side, words: &[&'w str]) -> Vec<&'w str> {
    let is_read = words.first().is_some_and(|name| READ_BACK.contains(name));
    let more: &[&str] = if side == Side::Peer && is_read {
        &["--allow-reorder"]
    } else {
        &[]
    };
    [words, more].concat()
}

/// All cases.
pub const CASES: &[Case] = &[
    Case {
        name: "produce",
        what: "1 KiB, 8 queues, 4 × 64 in flight, ASYNC_FLUSH",
        kind: Kind::Load(PRODUCE, PRODUCE),
        sync_flush: false,
        figures: &[
            (Figure::Cpu, Bar::OneIn(12.0)),
            (Figure::Rate, Bar::Times(4.0)),
        ],
    },
    Case {
        name: "binary",
        what: "the same with binary headers",
        kind: Kind::Load(BINARY, BINARY),
        sync_flush: false,
        figures: &[(Figure::Cpu, Bar::OneIn(12.0)), (Figure::Rate, Bar::None)],
    },
    Case {
        name: "small",
        what: "the same with 128 B",
        kind: Kind::Load(SMALL, SMALL),
        sync_flush: false,
        figures: &[(Figure::Cpu, Bar::OneIn(12.0)), (Figure::Rate, Bar::None)],
    },
    Case {
        name: "batch",
        what: "the same in batches of 32",
        kind: Kind::Load(BATCH, BATCH),
        sync_flush: false,
        figures: &[(Figure::Cpu, Bar::OneIn(8.0)), (Figure::Rate, Bar::None)],
    },
    Case {
        name: "queues",
        what: "1 KiB to 1,000 queues (125 topics × 8), 4 × 64",
        kind: Kind::Load(MANY, MANY),
        sync_flush: false,
        figures: &[
            (Figure::Cpu, Bar::OneIn(15.0)),
            (Figure::Rate, Bar::Times(5.0)),
        ],
    },
    Case {
        name: "sync",
        what: "1 KiB, 8 queues, 4 × 64, SYNC_FLUSH",
        kind: Kind::Load(PRODUCE, PRODUCE),
        sync_flush: true,
        figures: &[
            (Figure::Cpu, Bar::OneIn(12.0)),
            (Figure::Rate, Bar::Times(6.0)),
        ],
    },
    Case {
        name: "rate10k",
        what: "1 KiB at 10,000/s, latency from the intended time",
        kind: Kind::Load(RATE_10, PRODUCE),
        sync_flush: false,
        figures: &[
            (Figure::Cpu, Bar::OneIn(8.0)),
            (Figure::P50, Bar::None),
            (Figure::P99, Bar::OneIn(5.0)),
            (Figure::Max, Bar::OneIn(4.0)),
        ],
    },
    Case {
        name: "rate20k",
        what: "1 KiB at 20,000/s, latency from the intended time",
        kind: Kind::Load(RATE_20, PRODUCE),
        sync_flush: false,
        figures: &[
            (Figure::Cpu, Bar::OneIn(8.0)),
            (Figure::P50, Bar::None),
            (Figure::P99, Bar::OneIn(6.0)),
        ],
    },
    Case {
        name: "e2e",
        what: "1 KiB end to end at 5,000/s, long-polling consumers",
        kind: Kind::Load(E2E, MIXED),
        sync_flush: false,
        figures: &[
            (Figure::Cpu, Bar::OneIn(8.0)),
            (Figure::P50, Bar::OneIn(3.0)),
            (Figure::P99, Bar::OneIn(4.0)),
        ],
    },
    Case {
        name: "warm",
        what: "reading a backlog of {messages} × 1 KiB just written",
        kind: Kind::Warm,
        sync_flush: false,
        figures: &[(Figure::Cpu, Bar::OneIn(5.0)), (Figure::Rate, Bar::None)],
    },
    Case {
        name: "cold",
        what: "reading a backlog of {messages} × 1 KiB after a restart",
        kind: Kind::Cold,
        sync_flush: false,
        figures: &[(Figure::Cpu, Bar::OneIn(5.0)), (Figure::Rate, Bar::None)],
    },
    Case {
        name: "start",
        what: "start of the process, fresh and after {messages} messages and kill -9",
        kind: Kind::Start,
        sync_flush: false,
        figures: &[
            (Figure::Start, Bar::OneIn(50.0)),
            (Figure::StartCpu, Bar::None),
            (Figure::Restart, Bar::OneIn(50.0)),
        ],
    },
    Case {
        name: "memory",
        what: "memory that no disk file backs, idle and after {messages} messages",
        kind: Kind::Memory,
        sync_flush: false,
        figures: &[
            (Figure::Idle, Bar::OneIn(20.0)),
            (Figure::After, Bar::OneIn(20.0)),
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_every_case_has_figures() {
        let mut names: Vec<_> = CASES.iter().map(|case| case.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CASES.len());
        assert!(CASES.iter().all(|case| !case.figures.is_empty()));
    }

    #[test]
    fn texts_name_the_messages_of_this_run() {
        let what = |name: &str, messages| {
            let case = CASES.iter().find(|case| case.name == name).unwrap();
            case.what_of(messages)
        };
        assert!(what("cold", 1_000_000).contains("backlog of 1 M ×"));
        assert!(what("cold", 300_000).contains("backlog of 300000 ×"));
        assert!(what("memory", 10_000_000).ends_with("after 10 M messages"));
        assert!(CASES.iter().all(|case| !case.what_of(5).contains('{')));
    }

    /// What Gantry's messages are out of order by must fail its run.
    #[test]
    fn only_the_peer_may_reorder() {
        let loads = CASES.iter().filter_map(|case| match case.kind {
            Kind::Load(words, warm) => Some([words, warm]),
            _ => None,
        });
        let mut waived = Vec::new();
        for words in loads.flatten().chain([BACKLOG]) {
            assert_eq!(words_for(Side::Gantry, words), words);
            assert!(!words.contains(&"--allow-reorder"));
            if words_for(Side::Peer, words).contains(&"--allow-reorder") {
                waived.push(words.first().copied().unwrap());
            }
        }
        assert_eq!(waived, ["e2e", "mixed", "consume"]);
    }

    /// bench/README.md names the cases that are not warmed up with their own load.
    #[test]
    fn what_warms_the_peer_up_is_what_the_docs_say() {
        let docs = include_str!("../../README.md");
        let line = docs
            .lines()
            .find(|line| line.contains("warmed up with another load here"));
        let line = line.unwrap();
        for case in CASES {
            let is_same = matches!(case.kind, Kind::Load(words, warm) if words == warm);
            let is_named = line.contains(&format!("`{}`", case.name));
            // `produce` is named as what warms others up.
            assert!(
                is_named != is_same || case.name == "produce",
                "{}",
                case.name
            );
        }
    }

    #[test]
    fn bars_judge_ratios() {
        assert_eq!(Bar::OneIn(12.0).holds(0.08), Some(true));
        assert_eq!(Bar::OneIn(12.0).holds(0.09), Some(false));
        assert_eq!(Bar::Times(4.0).holds(3.9), Some(false));
        assert_eq!(Bar::None.holds(1.0), None);
    }
}
