//! What the suites share: a server as a process, a plain client, and the rules of the wire that
//! both need.
#![allow(
    dead_code,
    unused_imports,
    reason = "each suite compiles its own copy and uses a part of it"
)]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small test numbers"
)]

pub mod client;
pub mod process;
pub mod record;

pub use client::{Client, Frame, ext};
pub use process::Gantry;
pub use record::{Record, properties, records};

use std::time::{Duration, Instant};

/// Request codes, spelled here once more so that a slip in the product's own table is noticed.
pub mod code {
    pub const SEND: i32 = 10;
    pub const PULL: i32 = 11;
    pub const QUERY_MESSAGE: i32 = 12;
    pub const QUERY_CONSUMER_OFFSET: i32 = 14;
    pub const UPDATE_CONSUMER_OFFSET: i32 = 15;
    pub const CREATE_TOPIC: i32 = 17;
    pub const GET_ALL_TOPIC_CONFIG: i32 = 21;
    pub const GET_BROKER_CONFIG: i32 = 26;
    pub const GET_BROKER_RUNTIME: i32 = 28;
    pub const SEARCH_OFFSET: i32 = 29;
    pub const MAX_OFFSET: i32 = 30;
    pub const MIN_OFFSET: i32 = 31;
    pub const EARLIEST_STORE_TIME: i32 = 32;
    pub const VIEW_MESSAGE: i32 = 33;
    pub const HEART_BEAT: i32 = 34;
    pub const UNREGISTER_CLIENT: i32 = 35;
    pub const CONSUMER_LIST: i32 = 38;
    pub const NOTIFY_CONSUMER_IDS: i32 = 40;
    pub const CHECK_CLIENT_CONFIG: i32 = 46;
    pub const LOCK_BATCH: i32 = 41;
    pub const UNLOCK_BATCH: i32 = 42;
    pub const PUT_KV: i32 = 100;
    pub const GET_KV: i32 = 101;
    pub const DELETE_KV: i32 = 102;
    pub const REGISTER_BROKER: i32 = 103;
    pub const UNREGISTER_BROKER: i32 = 104;
    pub const ROUTE: i32 = 105;
    pub const CLUSTER: i32 = 106;
    pub const DELETE_EXPIRED_COMMITLOG: i32 = 329;
    pub const ALL_GROUPS: i32 = 201;
    pub const TOPIC_STATS: i32 = 202;
    pub const ALL_TOPICS: i32 = 206;
    pub const CONSUME_STATS: i32 = 208;
    pub const DELETE_TOPIC_IN_BROKER: i32 = 215;
    pub const DELETE_TOPIC_IN_NAMESRV: i32 = 216;
    pub const KV_LIST: i32 = 219;
    pub const RESET_OFFSET: i32 = 222;
    pub const SEND_V2: i32 = 310;
    pub const SEND_BATCH: i32 = 320;
    pub const LITE_PULL: i32 = 361;
}

/// Reply codes.
pub mod reply {
    pub const SUCCESS: i32 = 0;
    pub const SYSTEM_ERROR: i32 = 1;
    pub const SYSTEM_BUSY: i32 = 2;
    pub const NOT_SUPPORTED: i32 = 3;
    pub const MESSAGE_ILLEGAL: i32 = 13;
    pub const SERVICE_NOT_AVAILABLE: i32 = 14;
    pub const NO_PERMISSION: i32 = 16;
    pub const TOPIC_NOT_EXIST: i32 = 17;
    pub const PULL_NOT_FOUND: i32 = 19;
    pub const PULL_RETRY: i32 = 20;
    pub const PULL_OFFSET_MOVED: i32 = 21;
    pub const QUERY_NOT_FOUND: i32 = 22;
    pub const SUBSCRIPTION_NOT_EXIST: i32 = 24;
    pub const SUBSCRIPTION_GROUP_NOT_EXIST: i32 = 26;
    pub const INVALID_PARAMETER: i32 = 29;
}

/// Asks again every few milliseconds until the answer is there; fails with `what` after `seconds`.
pub fn until<T>(seconds: u64, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "not within {seconds} s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Set by `tests/run --quick`: fewer rounds, smaller data.
pub fn quick() -> bool {
    std::env::var("GANTRY_TEST_QUICK").is_ok_and(|v| !v.is_empty())
}

/// Says that the test of this thread could not be run here. `tests/run` names the file that it
/// reads at the end: to Cargo a test that returns has passed, and what it prints is not shown.
pub fn skipped(why: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {why}\n", thread.name().unwrap_or("a test"));
    eprint!("SKIPPED {line}");
    if let Some(file) = std::env::var_os("GANTRY_TEST_SKIPPED") {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(file);
        std::io::Write::write_all(&mut file.unwrap(), line.as_bytes()).unwrap();
    }
}

/// A small generator for test data, the same every run (`SplitMix64`).
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.roll() % n as u64) as usize
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.roll() as u8).collect()
    }
}

/// A topic or group name that no other test uses.
pub fn fresh(stem: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{stem}-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// The first of these rows whose `member` is `value`.
pub fn find<'a>(rows: &'a serde_json::Value, member: &str, value: &str) -> &'a serde_json::Value {
    let row = rows
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row[member] == value);
    row.unwrap_or_else(|| panic!("no {member} {value} in {rows:#}"))
}
