//! What kind of world a seed gets: each fault and each habit on or off, swarm by swarm.
//!
//! **Owns** the draw from seed to mix.
//! **Lives on** a test's thread.
//! **Invariants** everything follows from the seed; about half of all faults are off in a world, so
//! that one kind doesn't hide another.
//! **Limits** none.
//! **Not here** when a fault strikes (`life`, `gantry_storage::sim_disk`).

use gantry_storage::shard_store::{FlushMode, StoreOptions};
use gantry_storage::sim_disk::{FaultRates, Random};
use gantry_storage::units::ShardId;

/// Segments are as small as a store allows.
const SEGMENT_BYTES: u64 = 8 << 20;

/// A world's kind.
#[derive(Clone, Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each fault and habit is on or off by itself"
)]
pub struct Mix {
    pub flush: FlushMode,
    pub shards: u8,
    pub queues: u16,
    pub ring_bytes: usize,
    pub flush_interval_ms: u64,
    pub checkpoint_bytes: u64,
    pub index_flush_bytes: usize,
    pub key_entries: usize,
    /// µs of the slowest device operation.
    pub latency_us: u64,
    pub body_bytes_max: u64,
    pub steps_a_life: u64,
    /// Most lives are hardly more than a start and a death.
    pub short_lives: bool,
    pub tail_in_folder: bool,
    pub names_in_order: bool,
    /// Rates while the process lives, at `gantry_storage::sim_disk::RATE_SCALE`.
    pub rates: FaultRates,
    /// The device fails while the process recovers, too.
    pub rates_in_recovery: bool,
    /// Deaths at any await, in any store to the tail, in the middle of recovery.
    pub die_at_await: bool,
    pub die_in_tail: bool,
    pub die_in_recovery: bool,
    pub power_cuts: bool,
    /// The device is full for a while.
    pub full: bool,
    /// Bits of cold files flip.
    pub rot: bool,
    /// The device loses sectors of cold files.
    pub lost_sectors: bool,
    /// The wall clock jumps.
    pub clock_jumps: bool,
    /// Old segments are given up, where files are not damaged: a damaged one may be used again.
    pub retention: bool,
}

impl Mix {
    /// The mix of a seed.
    pub fn of(seed: u64) -> Self {
        let random = Random::new(seed ^ 0x0001_D1CE);
        let on = || random.chance(50);
        let flush = if on() {
            FlushMode::Sync
        } else {
            FlushMode::Async
        };
        let shards = u8::try_from(random.one_of(&[1, 1, 2])).unwrap();
        let failing = on();
        let some = |rates: &[u64]| {
            if failing && on() {
                random.one_of(rates)
            } else {
                0
            }
        };
        let mut rates = FaultRates {
            read: some(&[100, 2000]),
            read_flip: some(&[2_000, 20_000]),
            write: some(&[50, 500]),
            short_write: some(&[50, 500]),
            sync: some(&[500, 5_000]),
            names: some(&[500, 5000]),
            no_space: some(&[3000]),
            ..FaultRates::default()
        };
        if random.chance(15) {
            rates.untold_short_write = random.one_of(&[0, 200]);
            rates.misdirected_write = random.one_of(&[0, 200, 200]);
        }
        let mut mix = Self {
            flush,
            shards,
            queues: u16::try_from(random.one_of(&[1, 3, 8, 40])).unwrap(),
            ring_bytes: 1 << random.one_of(&[17, 18, 20]),
            flush_interval_ms: random.one_of(&[20, 500, 500]),
            checkpoint_bytes: random.one_of(&[64 << 10, 1 << 20, 32 << 20]),
            index_flush_bytes: usize::try_from(random.one_of(&[8 << 10, 256 << 10])).unwrap(),
            key_entries: usize::try_from(random.one_of(&[500, 2000, 2000])).unwrap(),
            latency_us: random.one_of(&[300, 300, 5_000, 40_000]),
            body_bytes_max: random.one_of(&[100, 1_000, 1_000, 1_000, 20_000]),
            steps_a_life: random.one_of(&[10, 40, 40, 150]),
            short_lives: Random::new(seed ^ 0x5407_11FE).chance(12),
            tail_in_folder: random.chance(25),
            names_in_order: on(),
            rates,
            rates_in_recovery: on(),
            die_at_await: on(),
            die_in_tail: random.chance(30),
            die_in_recovery: on(),
            power_cuts: random.chance(80),
            full: random.chance(25),
            rot: random.chance(20),
            lost_sectors: Random::new(seed ^ 0x0BAD_5EC7).chance(25),
            clock_jumps: random.chance(25),
            retention: false,
        };
        let untold = mix.rates.untold_short_write + mix.rates.misdirected_write;
        let is_damaged = mix.rot || mix.lost_sectors || untold > 0;
        mix.retention = !is_damaged && Random::new(seed ^ 0x0D20_91B5).chance(50);
        mix
    }

    /// No fault at all and small parts: for histories that crash at each await in turn.
    pub fn plain(flush: FlushMode) -> Self {
        Self {
            flush,
            shards: 1,
            queues: 2,
            ring_bytes: 64 << 10,
            flush_interval_ms: 20,
            checkpoint_bytes: 32 << 10,
            index_flush_bytes: 1,
            key_entries: 20,
            latency_us: 300,
            body_bytes_max: 300,
            steps_a_life: 1,
            short_lives: false,
            tail_in_folder: false,
            names_in_order: false,
            rates: FaultRates::default(),
            rates_in_recovery: false,
            die_at_await: false,
            die_in_tail: false,
            die_in_recovery: false,
            power_cuts: true,
            full: false,
            rot: false,
            lost_sectors: false,
            clock_jumps: false,
            retention: false,
        }
    }

    /// How a shard is run.
    pub fn options(&self, shard: u8) -> StoreOptions {
        StoreOptions {
            shard: ShardId(shard),
            flush_mode: self.flush,
            flush_interval_ms: self.flush_interval_ms,
            segment_bytes: SEGMENT_BYTES,
            checkpoint_bytes: self.checkpoint_bytes,
            read_cache_bytes: 1 << 20,
            index_cache_bytes: 64 << 10,
            index_flush_bytes: self.index_flush_bytes,
            key_entries_max: self.key_entries,
            ..StoreOptions::default()
        }
    }

    /// What `FlushMode::Async` promises: older acknowledgements survive a power cut. The delay of a
    /// write, the interval, and what the device takes for both and for a sync under way.
    pub fn sync_bound_us(&self) -> u64 {
        (self.flush_interval_ms + 10) * 1000 + 20 * self.latency_us + 50_000
    }
}
